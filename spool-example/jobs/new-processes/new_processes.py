#!/usr/bin/env python3
"""Prints what runs now, then each process that starts, until it is told to end.

Looks at /proc once a second: a process that lives shorter than that may be missed, and one
of another user is missed where /proc hides it (hidepid).
"""

import collections
import json
import os
import signal
import sys
import time

PERIOD_S = 1.0
COMMAND_LINE_CHARS_MAX = 1000


def emit(event):
    """One object a line, flushed: a kept-running script must not sit on its output."""
    sys.stdout.write(json.dumps(event) + "\n")
    sys.stdout.flush()


def look(pid):
    """(start time in clock ticks, parent, name) of a process; None when it has just ended."""
    try:
        with open("/proc/%d/stat" % pid, "rb") as stat:
            text = stat.read().decode("utf-8", "replace")
    except OSError:
        return None
    # The name stands in parentheses and may itself hold blanks and parentheses.
    name = text[text.index("(") + 1 : text.rindex(")")]
    fields = text[text.rindex(")") + 2 :].split()
    return int(fields[19]), int(fields[1]), name


def command_line(pid, name):
    """The command line, or [name] where there is none (kernel threads)."""
    try:
        with open("/proc/%d/cmdline" % pid, "rb") as cmdline:
            raw = cmdline.read(4 * COMMAND_LINE_CHARS_MAX)
    except OSError:
        raw = b""
    text = raw.replace(b"\0", b" ").decode("utf-8", "replace").strip()
    return text[:COMMAND_LINE_CHARS_MAX] or "[%s]" % name


def scan():
    """All processes: (pid, start time) -> (parent, name). A number that is used again is a new key."""
    found = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            seen = look(int(entry))
            if seen is not None:
                found[int(entry), seen[0]] = seen[1:]
    return found


def main():
    """Runs until TERM."""
    # Leaving main by an exception flushes and ends with exit code 0.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    known = scan()
    names = collections.Counter(name for _, name in known.values())
    emit({
        "message": "%d processes run now" % len(known),
        "event": {"kind": "state"},
        "processes": {
            "total": len(known),
            "most": [{"name": name, "count": count} for name, count in names.most_common(5)],
        },
    })
    while True:
        time.sleep(PERIOD_S)
        now = scan()
        for pid, started in sorted(set(now) - set(known)):
            parent, name = now[pid, started]
            command = command_line(pid, name)
            emit({
                "message": "started: " + command,
                "event": {"category": ["process"], "type": ["start"]},
                "process": {
                    "pid": pid,
                    "name": name,
                    "command_line": command,
                    "parent": {"pid": parent},
                },
            })
        known = now


if __name__ == "__main__":
    main()
