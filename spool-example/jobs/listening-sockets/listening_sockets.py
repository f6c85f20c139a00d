#!/usr/bin/env python3
"""Prints one JSON object for each listening TCP and UDP socket, and one that counts them.

Reads /proc/net, so it sees the sockets of its own network namespace and needs no rights.
"""

import json
import pwd
import socket
import struct
import sys

# Kernel, include/net/tcp_states.h: a UDP socket without a peer is shown in the state TCP_CLOSE.
TABLES = [
    ("tcp", "ipv4", "/proc/net/tcp", "0A"),
    ("tcp", "ipv6", "/proc/net/tcp6", "0A"),
    ("udp", "ipv4", "/proc/net/udp", "07"),
    ("udp", "ipv6", "/proc/net/udp6", "07"),
]


def address(text):
    """`0100007F:13B4` as (ip, port): the kernel prints each 32-bit word in the machine's order."""
    ip, port = text.split(":")
    words = [int(ip[i : i + 8], 16) for i in range(0, len(ip), 8)]
    packed = b"".join(struct.pack("=I", word) for word in words)
    family = socket.AF_INET if len(packed) == 4 else socket.AF_INET6
    return socket.inet_ntop(family, packed), int(port, 16)


def owner(uid):
    """The user's number, and the name where the machine knows one."""
    user = {"id": str(uid)}
    try:
        user["name"] = pwd.getpwuid(uid).pw_name
    except KeyError:
        pass
    return user


def listening(path, state):
    """Yields (ip, port, uid) of one table."""
    with open(path) as table:
        next(table)
        for line in table:
            columns = line.split()
            if columns[3] == state:
                ip, port = address(columns[1])
                yield ip, port, int(columns[7])


def main():
    """Prints what listens; fails only when no table could be read."""
    counts = {}
    problems = []
    for transport, kind, path, state in TABLES:
        try:
            sockets = sorted(set(listening(path, state)))
        except OSError as error:  # no IPv6, or a sandbox without /proc/net
            problems.append(str(error))
            continue
        counts[transport] = counts.get(transport, 0) + len(sockets)
        for ip, port, uid in sockets:
            shown = "[%s]" % ip if kind == "ipv6" else ip
            print(json.dumps({
                "message": "%s %s:%d listens" % (transport, shown, port),
                "network": {"transport": transport, "type": kind},
                "server": {"ip": ip, "port": port},
                "user": owner(uid),
            }))
    if not counts:
        sys.exit("no socket table could be read: " + "; ".join(problems))
    total = sum(counts.values())
    print(json.dumps({
        "message": "listening sockets: %d" % total,
        "event": {"kind": "metric"},
        "listening": dict(counts, total=total),
    }))


if __name__ == "__main__":
    main()
