#!/usr/bin/env python3
"""A peer for the interop suite: pylogbeat's client, which sends to our receiver.

Usage: pylogbeat_send.py PORT SENDS EVENTS SENT [CA [CERTIFICATE KEY]]. All sends go over one connection,
which is the hard part: pylogbeat does not restart its numbers in each window and waits for the number
of the last event that it sent, so a receiver that acknowledges counts would leave it waiting.
SENT is the file for what is sent, one object a line.
"""

import json
import sys

from pylogbeat import PyLogBeatClient


def event(number):
    """A numbered event as Logstash's clients write it."""
    return {
        "@timestamp": "2026-11-21T08:08:08.123Z",
        "@metadata": {"beat": "interop", "version": "2.1.0"},
        "message": "line \u00e9 %d" % number,
        "number": number,
    }


def main():
    """Sends; raises when a send is not acknowledged in time."""
    port, sends, events = (int(argument) for argument in sys.argv[1:4])
    tls = dict(zip(("ca_certs", "certfile", "keyfile"), sys.argv[5:]))
    with open(sys.argv[4], "w", encoding="utf-8") as lines:
        lines.writelines(json.dumps(event(number)) + "\n" for number in range(sends * events))
    with PyLogBeatClient("127.0.0.1", port, timeout=10, ssl_enable=bool(tls), **tls) as client:
        for send in range(sends):
            first = send * events
            client.send([event(number) for number in range(first, first + events)])


main()
