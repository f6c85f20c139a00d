#!/usr/bin/env python3
"""Judges what a peer received (standard input). Usage: check.py windows|numbers COUNT.

windows: lines of timbersnake_server.py. numbers: events as `spoolbeat receive` prints them.
In both, the events that have a `number` must be 0, 1, .. COUNT-1, each once and in order.
"""

import json
import sys


def main():
    """Exits with what is wrong, if anything."""
    kind, count = sys.argv[1], int(sys.argv[2])
    events = []
    previous = 0
    for line in sys.stdin:
        if line.startswith("port "):
            continue
        record = json.loads(line)
        if kind == "windows":
            seq, record = record["seq"], record["event"]
            if seq not in (1, previous + 1):
                sys.exit("sequence number %d after %d" % (seq, previous))
            previous = seq
            if not record["event"]["id"] or not record["@timestamp"].endswith("Z"):
                sys.exit("no event.id or no UTC @timestamp: %s" % line)
        events.append(record)
    numbers = [event["number"] for event in events if "number" in event]
    if numbers != list(range(count)):
        wrong = next((i for i, n in enumerate(numbers) if n != i), len(numbers))
        sys.exit("%d numbered events of %d; wrong from position %d" % (len(numbers), count, wrong))


main()
