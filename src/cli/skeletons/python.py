#!/usr/bin/env python3
"""Each line on standard output becomes an event; an exit code other than 0 is a failed run."""
import os
import sys


def main() -> int:
    print("hello from python")
    print("last success:", os.environ.get("SPOOLBEAT_LAST_SUCCESS_AT", "never"), file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
