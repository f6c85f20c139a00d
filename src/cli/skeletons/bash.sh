#!/usr/bin/env bash
# Each line on standard output becomes an event; an exit code other than 0 is a failed run.
set -euo pipefail

echo "hello from bash"
echo "last success: ${SPOOLBEAT_LAST_SUCCESS_AT:-never}" >&2
