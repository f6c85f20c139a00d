#!/usr/bin/env python3
"""A peer for the interop suite: timbersnake's client, which sends to our receiver.

Usage: timbersnake_send.py PORT LEVEL SENT [CA]. It announces a window of three whatever it sends, so
it sends three; with a LEVEL other than 0 it puts the window's head into the compressed frame.
SENT is the file for what is sent, one object a line.
"""

import asyncio
import json
import ssl
import sys

from timbersnake.client import Client

EVENTS = [{"message": "line \u00e9 %d" % number, "number": number} for number in range(3)]


def main():
    """Sends; raises when the connection ends without an ACK."""
    port, level, sent = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    context = None
    if len(sys.argv) > 4:
        context = ssl.create_default_context(cafile=sys.argv[4])
    with open(sent, "w", encoding="utf-8") as lines:
        lines.writelines(json.dumps(event) + "\n" for event in EVENTS)
    client = Client("localhost", port, compression_level=level, ssl=context)
    asyncio.run(client.send(EVENTS))


main()
