#!/usr/bin/env python3
"""Writes the golden vectors of the session codec.

A second implementation of docs/PROTOCOL.md, sections "Session frames", "Hello
and accept" and "Control stream", in the Python 3 standard library only. It
shares no line with the Go code, and reads none of its output. Run it in this
directory:

    python3 gen.py           # rewrites *.txt
    python3 gen.py --check   # says whether *.txt are what it would write

The files hold one vector a paragraph: lines "key value", "#" comments. Values
of bytes are tokens of hexadecimal digits, or HH*N for the byte HH N times.
A vector has either the fields of what "hex" means, or "error", which is
truncated, not-minimal, version or malformed.
"""

import ipaddress
import itertools
import os
import struct
import sys

MAX = 2**62 - 1
# Values on both sides of every change of the length of a varint.
EDGES = [0, 1, 63, 64, 16383, 16384, 2**30 - 1, 2**30, 2**32 - 1, MAX]
FRAME = 16377  # the longest frame


def varint(v):
    for exp, (bits, fmt) in enumerate([(6, ">B"), (14, ">H"), (30, ">I"), (62, ">Q")]):
        if v < 1 << bits:
            return struct.pack(fmt, v | exp << (8 * struct.calcsize(fmt) - 2))
    raise ValueError(v)


def long_varint(v, size):
    """v in size bytes, although it may fit in fewer."""
    return (v | {1: 0, 2: 1, 4: 2, 8: 3}[size] << (8 * size - 2)).to_bytes(size, "big")


def data(b):
    return varint(len(b)) + b


def addr(host, port):
    try:
        ip = ipaddress.ip_address(host)
        b = bytes([1 if ip.version == 4 else 4]) + ip.packed
    except ValueError:
        b = bytes([3, len(host)]) + host.encode()
    return b + struct.pack(">H", port)


def show(b):
    """Bytes as the files write them."""
    out, plain = [], ""
    for value, run in itertools.groupby(b):
        n = len(list(run))
        if n >= 16:
            if plain:
                out.append(plain)
            out.append("%02x*%d" % (value, n))
            plain = ""
        else:
            plain += "%02x" % value * n
    if plain:
        out.append(plain)
    return " ".join(out)


class File:
    def __init__(self, name, title):
        self.name = name
        self.text = "# %s\n# Written by gen.py. Do not edit.\n" % title

    def add(self, kind, encoded, **fields):
        self.text += "\nkind %s\n" % kind
        for key, value in fields.items():
            if isinstance(value, bytes):
                value = show(value)
            self.text += ("%s %s" % (key, value)).rstrip() + "\n"
        self.text += ("hex %s" % show(encoded)).rstrip() + "\n"

    def finish(self, check):
        path = os.path.join(os.path.dirname(os.path.abspath(__file__)), self.name)
        if check:
            with open(path) as f:
                if f.read() != self.text:
                    sys.exit("gen.py: %s is not what gen.py writes" % self.name)
            return
        with open(path, "w") as f:
            f.write(self.text)


def text(n):
    """n bytes of data that are no run of one byte when short."""
    return bytes(range(1, 16))[:n] if n < 16 else b"\x61" * n


def frames():
    f = File("frames.txt", "Session frames (docs/PROTOCOL.md, \"Session frames\")")

    def padding(n):
        f.add("PADDING", varint(0) + data(bytes(n)), data=bytes(n))

    def stream(id, offset, fin, d):
        f.add("STREAM", varint(1) + varint(id) + varint(offset) + varint(fin) + data(d),
              id=id, offset=offset, fin=fin, data=d)

    def datagram(id, host, port, d):
        f.add("DATAGRAM", varint(5) + varint(id) + addr(host, port) + data(d),
              id=id, host=host, port=port, data=d)

    def bye(code, d):
        f.add("BYE", varint(9) + varint(code) + data(d), code=code, data=d)

    for n in [0, 1, 15, 63, 64, 1000, FRAME - 3]:
        padding(n)
    for n in [0, 1, 15, 63, 64, 1350, FRAME - 6]:
        for fin in 0, 1:
            stream(4, 0, fin, text(n))
    for v in EDGES:
        stream(v, 0, 0, b"")
    for v in EDGES[:-1] + [MAX - 1]:  # one offset is left for FIN or RESET
        stream(0, v, 1, b"")
    stream(4, MAX - 2, 0, b"z")
    for v in EDGES:
        f.add("ACK", varint(2) + varint(v) + varint(0) + varint(0), id=v, offset=0, limit=0)
        f.add("ACK", varint(2) + varint(4) + varint(v) + varint(7), id=4, offset=v, limit=7)
        f.add("ACK", varint(2) + varint(4) + varint(0) + varint(v), id=4, offset=0, limit=v)
        f.add("WINDOW", varint(3) + varint(v), limit=v)
        f.add("RESET", varint(4) + varint(v) + varint(1) + varint(0), id=v, code=1, offset=0)
        f.add("RESET", varint(4) + varint(4) + varint(v) + varint(0), id=4, code=v, offset=0)
        f.add("STOP", varint(10) + varint(v) + varint(2), id=v, code=2)
        f.add("STOP", varint(10) + varint(4) + varint(v), id=4, code=v)
    for v in EDGES[:-1]:
        f.add("SEEN", varint(11) + varint(v) + varint(1) + varint(2), id=v, offset=1, limit=2)
        f.add("SEEN", varint(11) + varint(4) + varint(v) + varint(v + 1), id=4, offset=v, limit=v + 1)
    for v in EDGES[:-1] + [MAX - 1]:
        f.add("RESET", varint(4) + varint(4) + varint(1) + varint(v), id=4, code=1, offset=v)
    for v in EDGES:
        datagram(v, "192.0.2.1", 53, b"\x01")
    for host in ["0.0.0.0", "255.255.255.255", "::", "::1", "2001:db8::53",
                 "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "a", "example.org", "n" * 63, "n" * 64, "n" * 255,
                 "192.0.2.1.", "xn--e1afmkfd.example"]:
        for port in 0, 1, 443, 65535:
            datagram(3, host, port, text(2))
    for n in [0, 1, 63, 64, 1200, FRAME - 2 - 7 - 2]:
        datagram(3, "192.0.2.1", 443, text(n))
    for n in 1, 2:
        datagram(3, "n" * 255, 443, text(FRAME - 2 - 259 - 2)[: -n])
    for v in EDGES[:-1]:
        for state in 0, 1, 2, 4:
            f.add("CARRIER", varint(6) + varint(v) + varint(state), id=v, state=state)
    for v in EDGES:
        f.add("CARRIER", varint(6) + varint(7) + varint(3) + varint(v), id=7, state=3, limit=v)
    for b in [bytes(8), bytes(range(8)), b"\xff" * 8]:
        f.add("PING", varint(7) + b, ping=b)
        f.add("PONG", varint(8) + b, ping=b)
    for v in EDGES:
        bye(v, b"")
    for d in [b"x", "до свидания".encode(), b"t" * 63, b"t" * 64, b"t" * (FRAME - 4)]:
        bye(0, d)

    def bad(error, encoded):
        f.add("FRAME", encoded, error=error)

    whole = [varint(1) + varint(70) + varint(16384) + varint(1) + data(b"abc"),
             varint(2) + varint(70) + varint(16384) + varint(2**30),
             varint(3) + varint(2**30), varint(4) + varint(70) + varint(5) + varint(70),
             varint(5) + varint(70) + addr("example.org", 53) + data(b"ab"),
             varint(5) + varint(70) + addr("::1", 53) + data(b""),
             varint(6) + varint(70) + varint(2), varint(6) + varint(70) + varint(3) + varint(12000), varint(7) + bytes(8), varint(8) + bytes(8),
             varint(9) + varint(70) + data(b"bye"), varint(10) + varint(70) + varint(70),
             varint(11) + varint(70) + varint(70) + varint(16384), varint(0) + data(bytes(3))]
    bad("truncated", b"")
    for w in whole:
        for n in range(1, len(w)):
            bad("truncated", w[:n])
    for size in 2, 4, 8:
        bad("not-minimal", long_varint(7, size) + bytes(8))             # the type
        bad("not-minimal", varint(1) + long_varint(4, size) + varint(0) + varint(0) + data(b""))
        bad("not-minimal", varint(1) + varint(4) + varint(0) + long_varint(1, size) + data(b""))
        bad("not-minimal", varint(1) + varint(4) + varint(0) + varint(0) + long_varint(1, size) + b"a")
        bad("not-minimal", varint(3) + long_varint({2: 63, 4: 16383, 8: 2**30 - 1}[size], size))
    bad("malformed", varint(1) + varint(4) + varint(0) + varint(2) + data(b""))      # fin is 2
    bad("malformed", varint(1) + varint(4) + varint(MAX) + varint(0) + data(b""))    # no offset left for FIN
    bad("malformed", varint(1) + varint(4) + varint(MAX - 1) + varint(0) + data(b"a"))
    bad("malformed", varint(4) + varint(4) + varint(0) + varint(MAX))
    bad("malformed", varint(6) + varint(2**32) + varint(0))
    bad("malformed", varint(6) + varint(1) + varint(5))
    bad("malformed", varint(11) + varint(4) + varint(70) + varint(70))               # nothing
    bad("malformed", varint(11) + varint(4) + varint(70) + varint(3))
    for t in [12, 13, 63, 64, MAX]:
        bad("malformed", varint(t) + bytes(16))
    bad("malformed", varint(5) + varint(1) + bytes([0]) + bytes(16))                 # address type
    bad("malformed", varint(5) + varint(1) + bytes([2]) + bytes(16))
    bad("malformed", varint(5) + varint(1) + bytes([3, 0]) + bytes(16))              # empty name
    for c in b"\x00\n \x7f":
        bad("malformed", varint(5) + varint(1) + bytes([3, 2, 0x61, c]) + bytes(16))
    bad("malformed", varint(5) + varint(1) + bytes([4]) + bytes(10) + b"\xff\xff" + bytes(9))  # ::ffff:0.0.0.0
    bad("malformed", varint(0) + data(bytes(FRAME - 2)))                             # one byte too long
    bad("malformed", varint(1) + varint(4) + varint(0) + varint(0) + data(bytes(FRAME - 5)))
    bad("malformed", varint(9) + varint(0) + data(bytes(FRAME - 3)))
    return f


def hellos():
    f = File("hello.txt", "Hello and accept payloads (docs/PROTOCOL.md, \"Hello and accept\")")
    token = bytes(range(8)) + struct.pack(">H", 325) + bytes(range(0xa0, 0xb0))
    secret = bytes(range(0x40, 0x60))

    def hello(cipher, mode, n, dropped, rest, version=1):
        return (bytes([version, cipher]) + token + bytes([mode]) + secret + struct.pack(">IB", n, len(dropped))
                + b"".join(struct.pack(">I", d) for d in dropped) + rest)

    def good(cipher, mode, n, dropped, rest):
        f.add("HELLO", hello(cipher, mode, n, dropped, rest), cipher=cipher, token=token, mode=mode, secret=secret,
              carrier=n, dropped=",".join(map(str, dropped)), rest=rest)

    for cipher in 0, 1:
        for n in 0, 1, 2**32 - 1:
            good(cipher, 0, n, [], b"")
            good(cipher, 1, n, [], b"")
    for count in 1, 2, 255:
        good(0, 0, 300, list(range(count)), b"")
        good(0, 1, 300, list(range(count)), b"\x00\x00\x00\x07" + b"\x5a" * 40)
    good(1, 1, 9, [2**32 - 1, 0], b"r")
    good(1, 1, 9, [], b"\x5a" * 12000)
    whole = hello(0, 0, 7, [1, 2], b"")
    for n in range(len(whole)):
        f.add("HELLO", whole[:n], error="truncated")
    for v in 0, 2, 255:
        f.add("HELLO", hello(0, 0, 7, [], b"", version=v), error="version")
        f.add("HELLO", bytes([v, 77]), error="version")
    f.add("HELLO", hello(2, 0, 7, [], b""), error="malformed")
    f.add("HELLO", hello(0, 2, 7, [], b""), error="malformed")
    f.add("HELLO", hello(0, 0, 7, [], b"r"), error="malformed")

    def accept(status, life, idle, lifetime, rest):
        return struct.pack(">BIHI", status, life, idle, lifetime) + rest

    for status in list(range(9)) + [255]:
        f.add("ACCEPT", accept(status, 3600, 75, 0, b""), status=status, life=3600, idle=75, lifetime=0, rest=b"")
    for life, idle, lifetime in [(0, 0, 0), (2**32 - 1, 2**16 - 1, 2**32 - 1), (1, 60, 3600)]:
        f.add("ACCEPT", accept(0, life, idle, lifetime, b"\x02\x00\x00\x40\x40"), status=0, life=life, idle=idle,
              lifetime=lifetime, rest=b"\x02\x00\x00\x40\x40")
    whole = accept(0, 1, 2, 3, b"")
    for n in range(len(whole)):
        f.add("ACCEPT", whole[:n], error="truncated")
    return f


def controls():
    f = File("control.txt", "Control stream messages (docs/PROTOCOL.md, \"Control stream\")")
    for t in list(range(5)) + EDGES[3:]:
        for body in [b"", b"\x01", b"b" * 63, b"b" * 64]:
            f.add("CONTROL", varint(t) + data(body), type=t, body=body)
    f.add("CONTROL", varint(2) + data(b"b" * 16384), type=2, body=b"b" * 16384)
    key = struct.pack(">I", 5) + bytes(range(32))
    f.add("CONTROL", varint(1) + data(key), type=1, body=key)
    f.add("CONTROL", varint(2) + data(b"b" * 16385), error="malformed")
    f.add("CONTROL", varint(2) + varint(MAX), error="malformed")
    whole = varint(70) + data(b"abc")
    for n in range(len(whole)):
        f.add("CONTROL", whole[:n], error="truncated")
    for size in 2, 4, 8:
        f.add("CONTROL", long_varint(3, size) + data(b""), error="not-minimal")
        f.add("CONTROL", varint(3) + long_varint(0, size), error="not-minimal")

    def settings(*pairs):
        return b"".join(varint(k) + varint(v) for k, v in pairs)

    def good(stream, session, streams):
        said = [(k, v) for k, v in enumerate([stream, session, streams]) if v]
        f.add("SETTINGS", settings(*said), stream=stream, session=session, streams=streams)

    good(0, 0, 0)
    for v in EDGES[1:]:
        good(v, 0, 0)
        good(0, v, 0)
        good(0, 0, v)
        good(v, v, v)
    f.add("SETTINGS", settings((0, 5), (0, 6)), error="malformed")
    f.add("SETTINGS", settings((1, 5), (0, 6)), error="malformed")
    f.add("SETTINGS", settings((9, 5), (9, 6)), error="malformed")
    f.add("SETTINGS", settings((1, 70))[:2], error="truncated")
    f.add("SETTINGS", varint(1), error="truncated")
    f.add("SETTINGS", varint(1) + long_varint(1, 2), error="not-minimal")
    return f


if __name__ == "__main__":
    for file in frames(), hellos(), controls():
        file.finish("--check" in sys.argv[1:])
