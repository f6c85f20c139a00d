#!/usr/bin/env bash
# Talks Lumberjack with implementations that we did not write: timbersnake receives from
# `spoolbeat run`, pylogbeat sends to `spoolbeat receive`.
#
# Usage: tests/interop/run.sh BINARY. Prints one line per check: PASS, FAIL or SKIP. Exits with 1 if any failed.

set -u
exec </dev/null

here=$(cd "$(dirname "$0")" && pwd)
binary=$(realpath "$1")
work=$(mktemp -d)
children=()
failed=0

clean() {
    local pid
    for pid in "${children[@]}"; do
        kill -KILL "$pid" 2>/dev/null && wait "$pid" 2>/dev/null
    done
    rm -rf "$work"
}
trap clean EXIT
trap 'exit 1' INT TERM

pass() { echo "PASS interop: $1"; }
fail() {
    echo "FAIL interop: $1"
    failed=1
}

# until_true SECONDS COMMAND...: repeats the command until it succeeds.
until_true() {
    local end=$((SECONDS + $1))
    shift
    until "$@"; do
        ((SECONDS < end)) || return 1
        sleep 0.1
    done
}

has_line() { grep -q "$1" "$2" 2>/dev/null; }

peers() {
    local venv=$here/.venv
    if ! "$venv/bin/python" -c 'import timbersnake, pylogbeat' 2>/dev/null; then
        python3 -m venv --clear "$venv" >"$work/venv.log" 2>&1 || return 1
        timeout 180 "$venv/bin/pip" install --quiet --disable-pip-version-check --require-hashes \
            --requirement "$here/requirements.txt" >>"$work/venv.log" 2>&1 || return 1
    fi
    python=$venv/bin/python
}

# Our output against timbersnake's server: every line arrives once, in order, numbered from 1 in each window.
we_send() {
    local name="timbersnake decodes what we send" port root=$work/root
    "$python" "$here/timbersnake_server.py" >"$work/server.out" 2>"$work/server.err" &
    children+=($!)
    if ! until_true 10 has_line '^port ' "$work/server.out"; then
        fail "$name: its server did not start"
        cat "$work/server.err"
        return
    fi
    read -r _ port <"$work/server.out"

    mkdir -p "$root/jobs/count"
    printf '[output.lumberjack]\nhosts = ["127.0.0.1:%d"]\n' "$port" >"$root/spoolbeat.toml"
    cat >"$root/jobs/count/job.toml" <<'JOB'
[script]
run = "count.sh"
[schedule]
once = true
[capture.stdout]
format = "json"
JOB
    cat >"$root/jobs/count/count.sh" <<'JOB'
for number in $(seq 0 4999); do
    echo "{\"message\":\"line $number\",\"number\":$number,\"text\":\"\\u00e9 \\\" \\\\ \"}"
done
JOB
    "$binary" run "$root" >"$work/daemon.out" 2>"$work/daemon.err" &
    local daemon=$!
    children+=("$daemon")
    if until_true 30 has_line '"number": 4999' "$work/server.out" &&
        "$python" "$here/check.py" windows 5000 <"$work/server.out"; then
        pass "$name"
    else
        fail "$name"
        tail -n 20 "$work/daemon.err" "$work/server.err"
    fi

    if ! kill -TERM "$daemon" 2>/dev/null; then
        fail "the daemon ended before it was told to"
    elif wait "$daemon"; then
        pass "we stop cleanly with timbersnake at the other end"
    else
        fail "stopped with exit code $? with timbersnake at the other end"
    fi
}

# pylogbeat's client against our receiver: three sends on one connection.
we_receive() {
    local name="pylogbeat sends three times on one connection" port
    port=$("$python" -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
    "$binary" receive --listen "127.0.0.1:$port" >"$work/received" 2>"$work/receive.err" &
    children+=($!)
    listens() { (: <>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; }
    if until_true 10 listens &&
        timeout 60 "$python" "$here/pylogbeat_send.py" "$port" 3 50 >"$work/client" 2>&1 &&
        until_true 10 has_line '"number": *149[^0-9]' "$work/received" &&
        "$python" "$here/check.py" numbers 150 <"$work/received"; then
        pass "$name"
    else
        fail "$name"
        tail -n 20 "$work/client" "$work/receive.err"
    fi
}

if ! peers; then
    if grep -q 'DO NOT MATCH THE HASHES' "$work/venv.log"; then
        fail "timbersnake or pylogbeat is not what it was: $(tail -n 1 "$work/venv.log")"
        exit 1
    fi
    echo "SKIP interop: no timbersnake and pylogbeat: $(tail -n 1 "$work/venv.log" | tr -d '\n')"
    exit 0
fi
we_send
we_receive
exit "$failed"
