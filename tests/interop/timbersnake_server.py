#!/usr/bin/env python3
"""A peer for the interop suite: timbersnake's server, which inflates and decodes our windows.

Prints `port N`, then each event's bytes, one a line. timbersnake itself only writes events to its
debug log, so the frame method is extended to print them; a number that is neither 1 nor the next one
ends the connection. It acknowledges each compressed frame with the number of the last event in it, and
crashes on events that are not compressed; the spool that talks to it must compress.
"""

import asyncio
import contextlib
import sys

from timbersnake.server import Server


class Recorder(Server):
    """The server as published, except that it shows what it decoded."""

    previous = 0

    def json_frame_str(self, s, pos=0):
        end, seq = super().json_frame_str(s, pos)
        if seq not in (1, self.previous + 1):
            raise ValueError("number %d after %d" % (seq, self.previous))
        self.previous = seq
        sys.stdout.buffer.write(s[pos + 8 : end] + b"\n")
        sys.stdout.buffer.flush()
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
