#!/usr/bin/env bash
# Talks Lumberjack with implementations that we did not write, both ways, and compares what arrives at
# the other end with what was sent: how many events, in which order, byte for byte.
#
# Usage: tests/interop/run.sh BINARY. Prints one line per case: PASS, FAIL or SKIP. Exits with 1 if any failed.
#
# go-lumber              the library of Beats, Go         golumber/, pinned by go.sum
# timbersnake, pylogbeat clients of PyPI, Python          pinned by the hashes in requirements.txt
# lumberjack-client,     clients of npm, node             pinned by package-lock.json
#  lumberjack-protocol
#
# A peer whose toolchain or registry is not there is skipped with the reason; one that is not what was
# pinned fails. Nothing is installed outside of this folder and the caches of go and npm.

set -u
exec </dev/null

here=$(cd "$(dirname "$0")" && pwd)
binary=$(realpath "$1")
work=$(mktemp -d)
children=()
failed=0
case=0

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
skip() { echo "SKIP interop: $1"; }
# fail NAME FILE...: the ends of the files show why.
fail() {
    echo "FAIL interop: $1"
    failed=1
    shift
    tail -n 15 "$@" 2>/dev/null
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
has_lines() { (($(wc -l <"$2") >= $1)); }
last() { tail -n 1 "$1" | tr -d '\n'; }

# ---- the peers -----------------------------------------------------------------------------------

python_peers() {
    local venv=$here/.venv log=$work/python.log
    python=$venv/bin/python
    "$python" -c 'import timbersnake, pylogbeat' 2>/dev/null && return
    if python3 -m venv --clear "$venv" >"$log" 2>&1 &&
        timeout 180 "$venv/bin/pip" install --quiet --disable-pip-version-check --require-hashes \
            --requirement "$here/requirements.txt" >>"$log" 2>&1; then
        return
    fi
    python=
    if grep -q 'DO NOT MATCH THE HASHES' "$log"; then
        fail "timbersnake or pylogbeat is not what it was" "$log"
    else
        skip "no timbersnake and pylogbeat: $(last "$log")"
    fi
}

go_peer() {
    local log=$work/go.log
    golumber=$work/golumber
    (cd "$here/golumber" && timeout 300 go build -mod=readonly -o "$golumber" .) >"$log" 2>&1 && return
    golumber=
    if grep -q 'SECURITY ERROR\|checksum mismatch' "$log"; then
        fail "go-lumber is not what it was" "$log"
    else
        skip "no go-lumber: $(last "$log")"
    fi
}

node_peers() {
    local log=$work/npm.log
    node=node
    (cd "$here" && node --version && timeout 180 npm ci --ignore-scripts --no-audit --no-fund) >"$log" 2>&1 && return
    node=
    if grep -q EINTEGRITY "$log"; then
        fail "lumberjack-client or lumberjack-protocol is not what it was" "$log"
    else
        skip "no lumberjack-client and lumberjack-protocol: $(last "$log")"
    fi
}

# An authority, a server's certificate for localhost and 127.0.0.1, a client's certificate.
certificates() {
    local log=$work/openssl.log
    pki=$work/pki
    mkdir "$pki"
    (
        cd "$pki" || exit
        key=(-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes)
        openssl req -x509 "${key[@]}" -keyout ca.key -out ca.pem -days 2 -subj /CN=interop \
            -addext basicConstraints=critical,CA:TRUE -addext keyUsage=critical,keyCertSign || exit
        for name in server client; do
            openssl req "${key[@]}" -keyout $name.key -out $name.csr -subj /CN=$name || exit
            openssl x509 -req -in $name.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -out $name.pem \
                -extfile <(echo 'subjectAltName=DNS:localhost,IP:127.0.0.1') || exit
        done
    ) >"$log" 2>&1 && return
    pki=
    skip "no TLS: openssl says: $(last "$log")"
}

# ---- ours to theirs ------------------------------------------------------------------------------

readonly LINES_SENT=5000

# we_send NAME HOW KEYS SERVER...: lines of a job go through an output with these keys to a peer's server.
# HOW is `bytes`, or what check.py compares.
we_send() {
    local name=$1 how=$2 keys=$3 root=$work/$((++case)) server daemon port
    shift 3
    local got=$root/got
    mkdir -p "$root/jobs/count"
    "$@" >"$root/server.out" 2>"$root/server.err" &
    server=$!
    children+=("$server")
    if ! until_true 10 has_line '^port ' "$root/server.out"; then
        fail "$name: its server did not start" "$root/server.err"
        return
    fi
    read -r _ port <"$root/server.out"
    printf '[output.lumberjack]\nhosts = ["localhost:%d"]\n%b' "$port" "$keys" >"$root/spoolbeat.toml"
    cat >"$root/jobs/count/job.toml" <<'JOB'
[script]
run = "count.sh"
[schedule]
once = true
[capture.stdout]
format = "json"
JOB
    cat >"$root/jobs/count/count.sh" <<JOB
for number in \$(seq 1 $LINES_SENT); do
    echo "{\"message\":\"line \$number\",\"number\":\$number,\"text\":\"\\u00e9 \\\\\" \\\\\\\\ \"}"
done
JOB
    "$binary" run "$root" >"$root/daemon.out" 2>"$root/daemon.err" &
    daemon=$!
    children+=("$daemon")
    # Its start and its end are events too; the first line of the server is its port.
    if until_true 30 has_lines $((LINES_SENT + 3)) "$root/server.out" && kill -TERM "$daemon" && wait "$daemon" &&
        tail -n +2 "$root/server.out" >"$got" && "$binary" queue cat "$root" >"$root/sent" && compare "$how" "$root/sent" "$got"; then
        pass "$name"
    else
        fail "$name" "$root/daemon.err" "$root/server.err"
    fi
    kill -KILL "$server" "$daemon" 2>/dev/null
    wait "$server" 2>/dev/null
}

compare() {
    case $1 in
        bytes) cmp "$2" "$3" ;;
        *) "${python:-python3}" "$here/check.py" "$1" "$2" "$3" ;;
    esac
}

# ---- theirs to ours ------------------------------------------------------------------------------

# receiver FLAGS...: starts our receiver; sets $port, and $root, where it writes.
receiver() {
    root=$work/$((++case))
    mkdir -p "$root"
    "$binary" receive --listen 127.0.0.1:0 "$@" >"$root/received" 2>"$root/receiver.err" &
    children+=($!)
    until_true 10 has_line '^listening on ' "$root/receiver.err" || return
    port=$(sed -n 's/^listening on .*://p' "$root/receiver.err")
}

# we_receive NAME HOW FLAGS CLIENT...: a peer's client sends to our receiver with these flags. In the client's
# words PORT is where it listens, and SENT the file where the client notes what it sends.
# HOW is `bytes`, or what check.py compares.
we_receive() {
    local name=$1 how=$2 flags=$3 port root
    shift 3
    # shellcheck disable=SC2086 # these are several words
    if ! receiver $flags; then
        fail "$name: our receiver did not start" "$root/receiver.err"
        return
    fi
    local words=("$@") client
    words=("${words[@]//PORT/$port}")
    words=("${words[@]//SENT/$root/sent}")
    timeout 60 "${words[@]}" >"$root/client" 2>&1 &
    client=$!
    children+=("$client")
    arrived() { [[ -s $root/sent ]] && has_lines "$(wc -l <"$root/sent")" "$root/received"; }
    if until_true 20 arrived && ended_well "$client" && compare "$how" "$root/sent" "$root/received"; then
        pass "$name"
    else
        fail "$name" "$root/client" "$root/receiver.err"
    fi
    kill -KILL "$client" 2>/dev/null
    wait "$client" 2>/dev/null
}

# A client that goes on, as those of npm do, is well; one that has ended or ends soon must have succeeded.
ended_well() {
    local words
    words=$({ tr '\0' ' ' <"/proc/$1/cmdline"; } 2>/dev/null)
    [[ $words == *npm_send* ]] || wait "$1"
}

# we_refuse NAME REASON EVENTS FLAGS CLIENT...: our receiver with these flags takes so many events of what the
# client sends, then closes and says why.
we_refuse() {
    local name=$1 reason=$2 events=$3 flags=$4 port root
    shift 4
    # shellcheck disable=SC2086 # these are several words
    if ! receiver $flags; then
        fail "$name: our receiver did not start" "$root/receiver.err"
        return
    fi
    local words=("$@")
    words=("${words[@]//PORT/$port}")
    words=("${words[@]//SENT/$root/sent}")
    timeout 20 "${words[@]}" >"$root/client" 2>&1 &
    children+=($!)
    if until_true 15 has_line "$reason" "$root/receiver.err" &&
        until_true 5 has_lines "$events" "$root/received" &&
        head -n "$events" "$root/sent" >"$root/taken" && compare objects "$root/taken" "$root/received"; then
        pass "$name"
    else
        fail "$name" "$root/client" "$root/receiver.err"
    fi
}

# ---- the cases -----------------------------------------------------------------------------------

# go_lumber_sends WHAT FLAGS ADDRESS CLIENT_FLAGS...: both of its clients to our receiver with these flags.
go_lumber_sends() {
    local what=$1 flags=$2 address=$3 client
    shift 3
    for client in "sync 0" "async 4"; do
        we_receive "go-lumber sends, ${client% *}, $what" bytes "$flags" \
            "$golumber" send "$address:PORT" -async "${client#* }" -count 5000 -sent SENT "$@"
    done
}

go_lumber_cases() {
    local level
    for level in 0 3; do
        we_send "we send to go-lumber at level $level" bytes "compression_level = $level\n" "$golumber" serve
        we_send "we send version 1 to go-lumber at level $level" pairs "version = 1\ncompression_level = $level\n" \
            "$golumber" serve -v1
        go_lumber_sends "level $level" "" 127.0.0.1 -level "$level"
    done
    we_send "we send small windows to go-lumber, eight in flight" bytes "bulk_max_size = 7\npipelining = 8\n" \
        "$golumber" serve
    [[ -n $pki ]] || return
    local theirs=(-cert "$pki/server.pem" -key "$pki/server.key")
    local ours="[output.lumberjack.ssl]\ncertificate_authorities = [\"$pki/ca.pem\"]\n"
    local mine="certificate = \"$pki/client.pem\"\nkey = \"$pki/client.key\"\n"
    we_send "we send to go-lumber over TLS" bytes "$ours" "$golumber" serve "${theirs[@]}"
    we_send "we send to go-lumber over TLS with our certificate" bytes "$ours$mine" \
        "$golumber" serve "${theirs[@]}" -ca "$pki/ca.pem"
    we_send "we send version 1 to go-lumber over TLS" pairs "version = 1\n$ours" "$golumber" serve -v1 "${theirs[@]}"
    we_send "we send version 1 to go-lumber over TLS with our certificate" pairs "version = 1\n$ours$mine" \
        "$golumber" serve -v1 "${theirs[@]}" -ca "$pki/ca.pem"
    go_lumber_sends "over TLS" "$tls" localhost -ca "$pki/ca.pem"
    go_lumber_sends "over TLS with its certificate" "$mtls" localhost -ca "$pki/ca.pem" \
        -cert "$pki/client.pem" -key "$pki/client.key"
    we_refuse "go-lumber sends over TLS without the certificate that we want" "showed no certificate" 0 "$mtls" \
        "$golumber" send localhost:PORT -ca "$pki/ca.pem" -sent SENT
}

python_cases() {
    local timbersnake=("$python" "$here/timbersnake_send.py" PORT) pylogbeat=("$python" "$here/pylogbeat_send.py" PORT 3 50 SENT)
    we_send "we send to timbersnake" bytes "" "$python" "$here/timbersnake_server.py"
    we_receive "timbersnake sends one plain window" bytes "" "${timbersnake[@]}" 0 SENT
    we_refuse "timbersnake sends a window's head in a compressed frame" "outside of a window" 0 "" "${timbersnake[@]}" 6 SENT
    we_receive "pylogbeat sends three times on one connection" bytes "" "${pylogbeat[@]}"
    [[ -n $pki ]] || return
    we_receive "timbersnake sends one plain window over TLS" bytes "$tls" "${timbersnake[@]}" 0 SENT "$pki/ca.pem"
    we_receive "pylogbeat sends three times over TLS" bytes "$tls" "${pylogbeat[@]}" "$pki/ca.pem"
    we_receive "pylogbeat sends three times over TLS with its certificate" bytes "$mtls" \
        "${pylogbeat[@]}" "$pki/ca.pem" "$pki/client.pem" "$pki/client.key"
}

node_cases() {
    local send=("$node" "$here/npm_send.js")
    we_receive "lumberjack-client sends and never reads an ACK" bytes "" "${send[@]}" client PORT 200 SENT
    [[ -n $pki ]] || return
    we_receive "lumberjack-client sends over TLS" bytes "$tls" "${send[@]}" client PORT 200 SENT "$pki/ca.pem"
    we_receive "lumberjack-protocol sends version 1 over TLS" objects "$tls" "${send[@]}" protocol PORT 200 SENT "$pki/ca.pem" 200
    if has_line '^ack 200$' "$work/$case/client"; then
        pass "lumberjack-protocol hears that its window is acknowledged"
    else
        fail "lumberjack-protocol hears that its window is acknowledged" "$work/$case/client"
    fi
    we_refuse "lumberjack-protocol sends beyond the one window that it announced" "outside of a window" 200 "$tls" \
        "${send[@]}" protocol PORT 205 SENT "$pki/ca.pem" 200
}

go_peer
python_peers
node_peers
certificates
readonly tls="--tls-cert $pki/server.pem --tls-key $pki/server.key"
readonly mtls="$tls --client-ca $pki/ca.pem"
[[ -z $golumber ]] || go_lumber_cases
[[ -z $python ]] || python_cases
[[ -z $node ]] || node_cases
exit "$failed"
