#!/usr/bin/env python3
"""A peer for the interop suite: timbersnake's server, which inflates and decodes our windows.

Prints `port N`, then one JSON object per event: its sequence number and the event. timbersnake
itself only writes events to its debug log, so the frame method is extended to print them.
It acknowledges each compressed frame with the number of the last event in it, and crashes on
events that are not compressed; the spool that talks to it must compress.
"""

import asyncio
import contextlib
import json
import sys

from timbersnake.server import Server


class Recorder(Server):
    """The server as published, except that it shows what it decoded."""

    def json_frame_str(self, s, pos=0):
        end, seq = super().json_frame_str(s, pos)
        event = json.loads(s[pos + 8 : end])
        print(json.dumps({"seq": seq, "event": event}), flush=True)
        return end, seq


async def main():
    """Serves on a free port of the loopback address until it is killed."""
    with contextlib.redirect_stdout(sys.stderr):  # its constructor prints
        recorder = Recorder("127.0.0.1", 0)
    server = await asyncio.start_server(
        recorder.handle_client_callback, recorder.endpoint, recorder.port
    )
    print("port %d" % server.sockets[0].getsockname()[1], flush=True)
    async with server:
        await server.serve_forever()


asyncio.run(main())
