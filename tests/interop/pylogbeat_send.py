#!/usr/bin/env python3
"""A peer for the interop suite: pylogbeat's client, which sends to our receiver.

Usage: pylogbeat_send.py PORT SENDS EVENTS. All sends go over one connection, which is the hard
part: pylogbeat does not restart its numbers in each window and waits for the number of the last
event that it sent, so a receiver that acknowledges counts would leave it waiting.
"""

import sys

from pylogbeat import PyLogBeatClient


def main():
    """Sends; raises when a send is not acknowledged in time."""
    port, sends, events = (int(argument) for argument in sys.argv[1:4])
    with PyLogBeatClient("127.0.0.1", port, timeout=10) as client:
        for send in range(sends):
            first = send * events
            client.send([
                {
                    "@timestamp": "2026-11-21T08:08:08.123Z",
                    "@metadata": {"beat": "interop", "version": "2.1.0"},
                    "message": "line \u00e9 %d" % (first + n),
                    "number": first + n,
                }
                for n in range(events)
            ])
            print("send %d acknowledged" % (send + 1), flush=True)


main()
