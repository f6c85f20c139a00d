#!/bin/sh
# Any executable file will do. Each line on standard output becomes an event; an exit code
# other than 0 is a failed run.
echo "hello from an executable"
