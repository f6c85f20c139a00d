#!/usr/bin/env python3
"""Compares events where bytes cannot agree. Usage: check.py objects|pairs EXPECTED GOT; files of one object a line.

objects: the same objects, whatever the order of their keys.
pairs: GOT holds EXPECTED as version 1 carries it: for each top-level key a text, which is a string's
text or another value's JSON; `message` is called `line`.
"""

import json
import sys


def text(value):
    """A value as version 1 carries it."""
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def same(kind, expected, got):
    """Whether one event came as it should."""
    if kind == "objects":
        return expected == got
    expected = {"line" if key == "message" else key: value for key, value in expected.items()}
    if expected.keys() != got.keys():
        return False
    return all(
        got[key] == text(value) or (not isinstance(value, str) and json.loads(got[key]) == value)
        for key, value in expected.items()
    )


def main():
    """Exits with what is wrong, if anything."""
    kind = sys.argv[1]
    expected, got = (
        [json.loads(line) for line in open(name, encoding="utf-8")] for name in sys.argv[2:4]
    )
    if len(expected) != len(got):
        sys.exit("%d events came of %d" % (len(got), len(expected)))
    for number, (ours, theirs) in enumerate(zip(expected, got)):
        if not same(kind, ours, theirs):
            sys.exit("event %d came as %s, was %s" % (number, theirs, ours))


main()
