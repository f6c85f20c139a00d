#!/bin/sh
# Each line on standard output becomes an event; an exit code other than 0 is a failed run.
set -eu

echo "hello from sh"
echo "last success: ${SPOOLBEAT_LAST_SUCCESS_AT:-never}" >&2
