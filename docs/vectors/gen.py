#!/usr/bin/env python3
"""Writes the test vectors of docs/PROTOCOL.md beside this file.

A second implementation of the cryptography of Busel in the Python 3 standard
library only: X25519, Ed25519, AES, GCM, ChaCha20-Poly1305 and Noise NK are
written from their specifications, and checked against the specifications' own
vectors before anything is written. It is for vectors: slow, and not constant in
time.

    python3 gen.py           # rewrites *.txt
    python3 gen.py --check   # says whether *.txt are what it would write

The files hold one vector a paragraph: lines "key value", "#" comments. Values
of bytes are hexadecimal.
"""

import base64
import hashlib
import hmac
import ipaddress
import os
import struct
import sys

# --- HKDF (RFC 5869) --------------------------------------------------------


def extract(salt, ikm):
    return hmac.new(salt, ikm, hashlib.sha256).digest()


def expand(prk, info, n):
    out, block = b"", b""
    while len(out) < n:
        block = hmac.new(prk, block + info + bytes([len(out) // 32 + 1]), hashlib.sha256).digest()
        out += block
    return out[:n]


# --- X25519 (RFC 7748) ------------------------------------------------------

P = 2**255 - 19


def x25519(k, u):
    k = int.from_bytes(k, "little") & ~7 & (2**254 - 1) | 2**254
    x1 = int.from_bytes(u, "little") % 2**255
    x2, z2, x3, z3, swap = 1, 0, x1, 1, 0
    for t in reversed(range(255)):
        bit = k >> t & 1
        if swap ^ bit:
            x2, z2, x3, z3 = x3, z3, x2, z2
        swap = bit
        a, b, c, d = x2 + z2, x2 - z2, x3 + z3, x3 - z3
        da, cb, aa, bb = d * a % P, c * b % P, a * a % P, b * b % P
        e = aa - bb
        x3, z3 = (da + cb) ** 2 % P, x1 * (da - cb) ** 2 % P
        x2, z2 = aa * bb % P, e * (aa + 121665 * e) % P
    if swap:
        x2, z2 = x3, z3
    return (x2 * pow(z2, P - 2, P) % P).to_bytes(32, "little")


def public(k):
    return x25519(k, (9).to_bytes(32, "little"))


# --- Ed25519 (RFC 8032, affine coordinates) ---------------------------------

D = -121665 * pow(121666, P - 2, P) % P
L = 2**252 + 27742317777372353535851937790883648493


def ed_add(p, q):
    t = D * p[0] * q[0] * p[1] * q[1] % P
    return ((p[0] * q[1] + q[0] * p[1]) * pow(1 + t, P - 2, P) % P,
            (p[1] * q[1] + p[0] * q[0]) * pow(1 - t, P - 2, P) % P)


def ed_mul(n, p):
    out = (0, 1)
    while n:
        if n & 1:
            out = ed_add(out, p)
        p, n = ed_add(p, p), n >> 1
    return out


def ed_base():
    y = 4 * pow(5, P - 2, P) % P
    xx = (y * y - 1) * pow(D * y * y + 1, P - 2, P) % P
    x = pow(xx, (P + 3) // 8, P)
    if (x * x - xx) % P:
        x = x * pow(2, (P - 1) // 4, P) % P
    return (x if x % 2 == 0 else P - x, y)


def ed_bytes(p):
    return (p[1] | (p[0] & 1) << 255).to_bytes(32, "little")


def ed_keys(seed):
    h = hashlib.sha512(seed).digest()
    a = int.from_bytes(h[:32], "little") & ~7 & (2**254 - 1) | 2**254
    return a, h[32:], ed_bytes(ed_mul(a, ed_base()))


def ed_sign(seed, message):
    a, prefix, pub = ed_keys(seed)
    r = int.from_bytes(hashlib.sha512(prefix + message).digest(), "little") % L
    big_r = ed_bytes(ed_mul(r, ed_base()))
    k = int.from_bytes(hashlib.sha512(big_r + pub + message).digest(), "little") % L
    return big_r + ((r + k * a) % L).to_bytes(32, "little")


# --- AES (FIPS 197) and GCM (NIST SP 800-38D) -------------------------------


def xtime(b):
    return (b << 1 ^ (0x11B if b & 0x80 else 0)) & 0xFF


def make_sbox():
    box, p, q = [0] * 256, 1, 1
    while True:
        p ^= xtime(p)  # times 3
        for shift in 1, 2, 4:  # divided by 3
            q ^= q << shift & 0xFF
        if q & 0x80:
            q ^= 0x09
        x = q
        for shift in 1, 2, 3, 4:
            x ^= (q << shift | q >> 8 - shift) & 0xFF
        box[p] = x ^ 0x63
        if p == 1:
            break
    box[0] = 0x63
    return box


SBOX = make_sbox()


class AES:
    def __init__(self, key):
        n = len(key) // 4
        words = [list(key[4 * i:4 * i + 4]) for i in range(n)]
        rcon = 1
        for i in range(n, 4 * (n + 7)):
            w = list(words[-1])
            if i % n == 0:
                w = [SBOX[b] for b in w[1:] + w[:1]]
                w[0] ^= rcon
                rcon = xtime(rcon)
            elif n == 8 and i % n == 4:
                w = [SBOX[b] for b in w]
            words.append([a ^ b for a, b in zip(w, words[-n])])
        self.keys = [sum(words[i:i + 4], []) for i in range(0, len(words), 4)]

    def encrypt(self, block):
        s = [a ^ b for a, b in zip(block, self.keys[0])]
        for r in range(1, len(self.keys)):
            s = [SBOX[s[(i + 4 * (i % 4)) % 16]] for i in range(16)]  # bytes, then rows
            if r < len(self.keys) - 1:
                t = []
                for c in range(0, 16, 4):
                    col = s[c:c + 4]
                    for i in range(4):
                        a, b = col[i], col[(i + 1) % 4]
                        t.append(xtime(a ^ b) ^ b ^ col[(i + 2) % 4] ^ col[(i + 3) % 4])
                s = t
            s = [a ^ b for a, b in zip(s, self.keys[r])]
        return bytes(s)


def pad16(b):
    return b + bytes(-len(b) % 16)


def gcm_seal(key, nonce, plain, aad):
    aes = AES(key)
    h = int.from_bytes(aes.encrypt(bytes(16)), "big")

    def mul(x, y):
        z = 0
        for i in range(127, -1, -1):
            if y >> i & 1:
                z ^= x
            x = x >> 1 ^ (0xE1 << 120 if x & 1 else 0)
        return z

    out = b""
    for i in range(0, len(plain), 16):
        stream = aes.encrypt(nonce + struct.pack(">I", 2 + i // 16))
        out += bytes(a ^ b for a, b in zip(plain[i:i + 16], stream))
    y, hashed = 0, pad16(aad) + pad16(out) + struct.pack(">QQ", 8 * len(aad), 8 * len(out))
    for i in range(0, len(hashed), 16):
        y = mul(y ^ int.from_bytes(hashed[i:i + 16], "big"), h)
    tag = y ^ int.from_bytes(aes.encrypt(nonce + struct.pack(">I", 1)), "big")
    return out + tag.to_bytes(16, "big")


# --- ChaCha20-Poly1305 (RFC 8439) -------------------------------------------


def chacha_block(key, counter, nonce):
    start = list(struct.unpack("<16I", b"expand 32-byte k" + key + struct.pack("<I", counter) + nonce))
    s = list(start)

    def quarter(a, b, c, d):
        for x, y, z, n in (a, b, d, 16), (c, d, b, 12), (a, b, d, 8), (c, d, b, 7):
            s[x] = s[x] + s[y] & 0xFFFFFFFF
            v = s[z] ^ s[x]
            s[z] = (v << n | v >> 32 - n) & 0xFFFFFFFF

    for _ in range(10):
        for i in range(4):
            quarter(i, 4 + i, 8 + i, 12 + i)
        for i in range(4):
            quarter(i, 4 + (i + 1) % 4, 8 + (i + 2) % 4, 12 + (i + 3) % 4)
    return struct.pack("<16I", *(a + b & 0xFFFFFFFF for a, b in zip(s, start)))


def chacha_seal(key, nonce, plain, aad):
    out = b""
    for i in range(0, len(plain), 64):
        out += bytes(a ^ b for a, b in zip(plain[i:i + 64], chacha_block(key, 1 + i // 64, nonce)))
    one = chacha_block(key, 0, nonce)
    r = int.from_bytes(one[:16], "little") & 0x0FFFFFFC0FFFFFFC0FFFFFFC0FFFFFFF
    hashed, acc = pad16(aad) + pad16(out) + struct.pack("<QQ", len(aad), len(out)), 0
    for i in range(0, len(hashed), 16):
        acc = (acc + int.from_bytes(hashed[i:i + 16] + b"\x01", "little")) * r % (2**130 - 5)
    return out + ((acc + int.from_bytes(one[16:32], "little")) % 2**128).to_bytes(16, "little")


# --- Noise_NK_25519_AESGCM_SHA256 (noiseprotocol.org, revision 34) ----------


class Noise:
    def __init__(self, prologue, relay_public):
        name = b"Noise_NK_25519_AESGCM_SHA256"
        self.h = self.ck = name + bytes(32 - len(name))
        self.mix_hash(prologue)
        self.mix_hash(relay_public)

    def mix_hash(self, b):
        self.h = hashlib.sha256(self.h + b).digest()

    def mix_key(self, secret):
        out = expand(extract(self.ck, secret), b"", 64)
        self.ck, self.k, self.n = out[:32], out[32:], 0

    def encrypt(self, plain):
        out = gcm_seal(self.k, bytes(4) + struct.pack(">Q", self.n), plain, self.h)
        self.n += 1
        self.mix_hash(out)
        return out

    def split(self):
        out = expand(extract(self.ck, b""), b"", 64)
        return out[:32], out[32:]


# --- Checks against the specifications --------------------------------------


def check_primitives():
    un = bytes.fromhex
    # RFC 5869, appendix A.1
    prk = extract(bytes(range(13)), b"\x0b" * 22)
    assert expand(prk, bytes(range(0xF0, 0xFA)), 42).hex() == (
        "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865")
    # RFC 7748, sections 5.2 and 6.1
    assert x25519(un("a546e36bf0527c9d3b16154b82465edd62144c0ac1fc5a18506a2244ba449ac4"),
                  un("e6db6867583030db3594c1a424b15f7c726624ec26b3353b10a903a6d0ab1c4c")).hex() == (
        "c3da55379de9c6908e94ea4df28d084f32eccf03491c71f754b4075577a28552")
    assert x25519((9).to_bytes(32, "little"), (9).to_bytes(32, "little")).hex() == (
        "422c8e7a6227d7bca1350b3e2bb7279f7897b87bb6854b783c60e80311ae3079")
    # RFC 8032, section 7.1, test 2
    seed = un("4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb")
    assert ed_keys(seed)[2].hex() == "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c"
    assert ed_sign(seed, b"\x72").hex() == (
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da"
        "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00")
    # FIPS 197, appendix C
    block = un("00112233445566778899aabbccddeeff")
    assert AES(bytes(range(16))).encrypt(block).hex() == "69c4e0d86a7b0430d8cdb78070b4c55a"
    assert AES(bytes(range(32))).encrypt(block).hex() == "8ea2b7ca516745bfeafc49904b496089"
    # The Galois/Counter Mode of Operation (McGrew, Viega), test case 16
    assert gcm_seal(un("feffe9928665731c6d6a8f9467308308" * 2), un("cafebabefacedbaddecaf888"),
                    un("d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a72"
                       "1c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b39"),
                    un("feedfacedeadbeeffeedfacedeadbeefabaddad2")).hex() == (
        "522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598a2bd2555d1aa"
        "8cb08e48590dbb3da7b08b1056828838c5f61e6393ba7a0abcc9f662"
        "76fc6ece0f4e1768cddf8853bb2d551b")
    # RFC 8439, section 2.8.2
    assert chacha_seal(bytes(range(0x80, 0xA0)), un("070000004041424344454647"),
                       b"Ladies and Gentlemen of the class of '99: If I could offer you only one tip for the "
                       b"future, sunscreen would be it.", un("50515253c0c1c2c3c4c5c6c7"))[-16:].hex() == (
        "1ae10b594f09e26a7e902ecbd0600691")


# --- Busel ------------------------------------------------------------------


def drawn(name, n=32):
    """Bytes that anybody can draw again."""
    return expand(extract(b"busel test vectors", name.encode()), b"", n)


def marker(key, direction, n):
    return AES(key).encrypt(bytes([direction]) + bytes(7) + struct.pack(">Q", n))[:8]


def record(mark, body):
    return b"\x17\x03\x03" + struct.pack(">H", 8 + len(body)) + mark + body


def client_hello(random, session_id, share, psk):
    """A small ClientHello message and how many of its bytes precede the binders."""
    def vector(n, b):
        return struct.pack(">I", len(b))[4 - n:] + b

    def extension(kind, b):
        return struct.pack(">H", kind) + vector(2, b)
    extensions = (extension(0, vector(2, b"\0" + vector(2, b"news.example.org"))) + extension(10, vector(2, b"\0\x1d"))
                  + extension(43, b"\2\3\4") + extension(51, vector(2, b"\0\x1d" + vector(2, share))))
    binders = b""
    if psk:
        binders = vector(2, vector(1, drawn("binder")))
        extensions += extension(45, b"\1\1") + extension(41, vector(2, vector(2, drawn("ticket")) + bytes(4)) + binders)
    message = b"\1" + vector(3, b"\3\3" + random + vector(1, session_id) + vector(2, b"\x13\1") + b"\1\0"
                            + vector(2, extensions))
    return message, len(message) - len(binders)


def packed(payload, size):
    b = struct.pack(">H", len(payload)) + payload
    return b + bytes(max(0, size - len(b)))


def addr(host, port):
    try:
        ip = ipaddress.ip_address(host)
        b = bytes([1 if ip.version == 4 else 4]) + ip.packed
    except ValueError:
        b = bytes([3, len(host)]) + host.encode()
    return b + struct.pack(">H", port)


def token(key, id, expiry):
    b = id + struct.pack(">H", expiry)
    return b + hmac.new(key, b"busel token 1" + b, hashlib.sha256).digest()[:16]


def hello(cipher, tok, mode, secret, n, dropped=(), rest=b""):
    return (bytes([1, cipher]) + tok + bytes([mode]) + secret + struct.pack(">IB", n, len(dropped))
            + b"".join(struct.pack(">I", d) for d in dropped) + rest)


class File:
    def __init__(self, name, title):
        self.name = name
        self.text = "# %s\n# Written by gen.py. Do not edit.\n" % title

    def add(self, kind, fields):
        self.text += "\nkind %s\n" % kind
        for key, value in fields:
            if isinstance(value, bytes):
                value = value.hex()
            self.text += ("%s %s" % (key, value)).rstrip() + "\n"

    def finish(self, check):
        path = os.path.join(os.path.dirname(os.path.abspath(__file__)), self.name)
        if check:
            with open(path) as f:
                if f.read() != self.text:
                    sys.exit("gen.py: %s is not what gen.py writes" % self.name)
            return
        with open(path, "w") as f:
            f.write(self.text)


def mirror():
    f = File("mirror.txt", "One mirror carrier each (docs/PROTOCOL.md, \"Transport mirror\")")
    for i, (cipher, hello_size, accept_size) in enumerate([(0, 0, 0), (1, 420, 300)]):
        s, e, back = drawn("s%d" % i), drawn("e%d" % i), drawn("relay ephemeral %d" % i)
        big_s, big_e, big_back = public(s), public(e), public(back)
        client_random, server_random = drawn("client random %d" % i), drawn("server random %d" % i)
        es = x25519(e, big_s)
        assert es == x25519(s, big_e)
        blank, bound = client_hello(client_random, bytes(32), big_e, i > 0)
        session_id = expand(extract(client_random, es), b"busel mirror 1 sid" + hashlib.sha256(blank[:bound]).digest(), 32)
        said = client_hello(client_random, session_id, big_e, i > 0)[0]
        salt = client_random + server_random
        k = extract(salt, es)
        marker_key = expand(k, b"busel mirror 1 marker", 16)
        mask = expand(k, b"busel mirror 1 mask", 32)
        proof_key = expand(k, b"busel mirror 1 proof", 32)
        fields = [("relay_private", s), ("relay_public", big_s), ("client_private", e), ("client_public", big_e),
                  ("relay_ephemeral", back), ("client_random", client_random), ("server_random", server_random),
                  ("es", es), ("client_hello", said), ("session_id", session_id), ("k", k), ("marker_key", marker_key), ("mask", mask),
                  ("proof_key", proof_key)]
        for direction in 0, 1, 2:
            for n in 0, 1, 255, 2**24 - 1:
                fields.append(("marker_%d_%d" % (direction, n), marker(marker_key, direction, n)))

        # The proof: one PADDING frame.
        plain = b"\x00\x3d" + bytes(61)
        head = record(marker(marker_key, 2, 0), bytes(len(plain) + 16))[:13]
        fields += [("proof_plain", plain), ("proof", head + gcm_seal(proof_key, bytes(12), plain, head))]

        # Noise: <- s; -> e, es; <- e, ee
        noise = Noise(b"busel mirror 1" + salt, big_s)
        noise.mix_hash(big_e)
        noise.mix_key(es)
        said = hello(cipher, token(drawn("token key"), drawn("id", 8), 0), 0, drawn("session secret %d" % i), i)
        first = noise.encrypt(packed(said, hello_size))
        noise.mix_hash(big_back)
        noise.mix_key(x25519(back, big_e))
        answer = struct.pack(">BIHI", 0, 3600, 75, 0)
        second = noise.encrypt(packed(answer, accept_size))
        up, down = noise.split()
        masked = bytes(a ^ b for a, b in zip(big_back, mask))
        fields += [("hello", said), ("hello_size", hello_size), ("client_record_0", record(marker(marker_key, 0, 0), first)),
                   ("accept", answer), ("accept_size", accept_size),
                   ("relay_record_0", record(marker(marker_key, 1, 0), masked + second)),
                   ("key_client_to_relay", up), ("key_relay_to_client", down), ("cipher", cipher)]
        seal = chacha_seal if cipher else gcm_seal
        for name, direction, key in ("client", 0, up), ("relay", 1, down):
            for n, plain in (1, b"\x07ping1234"), (2, b"\x00\x00"), (3, b"\x01\x04\x00\x00\x40\x64" + bytes(100)):
                head = record(marker(marker_key, direction, n), bytes(len(plain) + 16))[:13]
                fields += [("%s_plain_%d" % (name, n), plain),
                           ("%s_record_%d" % (name, n), head + seal(key, bytes(4) + struct.pack(">Q", n - 1), plain, head))]
        f.add("CARRIER", fields)
    return f


def scrambled():
    f = File("scramble.txt", "Scrambled datagrams (docs/PROTOCOL.md, \"Scrambled datagrams\")")
    relay = public(drawn("s0"))
    for i, (direction, head, size, filler, stamp) in enumerate([
            ("up", 0xC0, 1200, 4, 29999999), ("up", 0xE3, 40, 255, 0), ("up", 0x40, 1, 0, 0),
            ("down", 0x7F, 33, 47, 0), ("down", 0x80, 1200, 101, 0), ("down", 0x55, 1447, 0, 0)]):
        packet = bytes([head]) + drawn("packet %d" % i, size - 1)
        assert filler >= 4 or head < 0x80
        padding = (struct.pack(">I", stamp) + bytes(filler - 4)) if head & 0x80 else bytes(filler)
        key = expand(extract(b"", relay), b"busel scramble 1 " + direction.encode(), 16)
        nonce = drawn("scramble nonce %d" % i, 12)
        sealed = gcm_seal(key, nonce, packet + padding + bytes([filler]), b"")[:-4]  # a tag of 12 bytes
        f.add("DATAGRAM", [("relay_public", relay), ("direction", direction), ("key", key), ("nonce", nonce), ("filler", filler),
                           ("stamp", stamp), ("packet", packet), ("datagram", sealed + nonce)])
    return f


def quic():
    f = File("quic.txt", "The hello of QUIC carriers (docs/PROTOCOL.md, \"Transport quic\")")
    for i, (mode, rest) in enumerate([(0, b""), (1, drawn("sealed frames", 90))]):
        s, e, back, exporter = drawn("s%d" % i), drawn("e%d" % i), drawn("relay ephemeral %d" % i), drawn("exporter %d" % i)
        # Noise: <- s; -> e, es; <- e, ee
        noise = Noise(b"busel quic 1" + exporter, public(s))
        noise.mix_hash(public(e))
        noise.mix_key(x25519(e, public(s)))
        said = hello(i, token(drawn("token key"), drawn("id", 8), 0), mode, drawn("session secret %d" % i), i + 1, rest=rest)
        first = public(e) + noise.encrypt(said)
        noise.mix_hash(public(back))
        noise.mix_key(x25519(back, public(e)))
        answer = struct.pack(">BIHI", 0, 3600, 60, 0)
        second = public(back) + noise.encrypt(answer)
        first, second = struct.pack(">H", len(first)) + first, struct.pack(">H", len(second)) + second
        mark = base64.urlsafe_b64encode(expand(extract(exporter, public(s)), b"busel quic 1 mark", 24)).decode()
        # Of the HTTP/3 form: what is in the DATA frames of request and response.
        up, down = 319 * i, 1000 + i
        f.add("HELLO", [("relay_private", s), ("relay_public", public(s)), ("client_ephemeral", e), ("relay_ephemeral", back),
                        ("exporter", exporter), ("hello", said), ("message_1", first), ("accept", answer), ("message_2", second),
                        ("mark", mark), ("cookie", "id=" + mark), ("request_filler", up), ("request", first + struct.pack(">H", up) + bytes(up)),
                        ("response_filler", down), ("response", second + struct.pack(">H", down) + bytes(down))])
    return f


def resumes():
    f = File("resume.txt", "Hellos with sealed frames (docs/PROTOCOL.md, \"Resumption keys and sealed frames\")")
    said = b"\x01\x02\x00\x00\x19" + addr("news.example.org", 443) + b"hello"
    for i, (cipher, n, dropped, frames) in enumerate([
            (0, 2, (), b""),
            (0, 7, (6,), said),
            (1, 2**32 - 1, (1, 2, 500), said + b"\x02\x00\x20\x80\x04\x00\x00"),
    ]):
        key, number = drawn("resumption key %d" % i), 3 * i + 1
        n_varint = bytes([n]) if n < 64 else struct.pack(">Q", n | 3 << 62)
        frames = b"\x06" + n_varint + b"\x00" + frames  # CARRIER(n, active)
        header = hello(cipher, token(drawn("token key"), drawn("id", 8), 0), 1, drawn("session secret %d" % i), n, dropped)
        sealed = gcm_seal(key, bytes(8) + struct.pack(">I", n), frames, header)
        f.add("RESUME", [("key", key), ("number", number), ("carrier", n), ("frames", frames), ("header", header),
                         ("hello", header + struct.pack(">I", number) + sealed)])
    return f


def tokens():
    f = File("token.txt", "Tokens (docs/PROTOCOL.md, \"Tokens\")")
    for i, expiry in enumerate([0, 1, 325, 65535]):
        key, id = drawn("token key %d" % i), drawn("invite id %d" % i, 8)
        f.add("TOKEN", [("key", key), ("id", id), ("expiry", expiry), ("token", token(key, id, expiry))])
    return f


def bundles():
    f = File("bundle.txt", "Invites (docs/PROTOCOL.md, \"Invites\")")

    def base32(b):
        return base64.b32encode(b).decode().rstrip("=")

    def text(s):
        return bytes([len(s.encode())]) + s.encode()

    def relay(i, flags, name, addresses, cover, transports):
        b = bytes([flags]) + text(name) + bytes([len(addresses)])
        for host, port in addresses:
            b += addr(host, port)
        b += public(drawn("relay key %d" % i)) + token(drawn("token key"), drawn("id %d" % i, 8), 0) + text(cover)
        if flags & 2:
            b += drawn("certificate %d" % i)
        b += bytes([len(transports)])
        for name, options in transports:
            b += text(name) + text(options)
        return b

    def bundle(seed, sequence, relays):
        signed = b"\x01" + ed_keys(seed)[2] + struct.pack(">I", sequence) + bytes([len(relays)]) + b"".join(relays)
        b = signed + ed_sign(seed, b"busel bundle 1" + signed)
        fields = [("issuer_seed", seed), ("sequence", sequence), ("relays", len(relays)), ("bundle", b),
                  ("text", "busel:" + base32(b + hashlib.sha256(b).digest()[:4]))]
        count = min(-(-len(b) // 300), 16)
        size = -(-len(b) // count)
        for i in range(count if count > 1 else 0):
            frame = struct.pack(">H", len(b)) + hashlib.sha256(b).digest()[:4] + b[i * size:(i + 1) * size]
            check = hashlib.sha256(b"busel frame 1" + bytes([i + 1, count]) + frame).digest()[:4]
            fields.append(("frame_%d" % (i + 1), "busel/%d/%d:%s" % (i + 1, count, base32(frame + check))))
        f.add("BUNDLE", fields)

    mirror_only = [("mirror", "")]
    bundle(drawn("issuer 0"), 1, [relay(0, 0, "", [("198.51.100.7", 443)], "news.example.org", mirror_only)])
    bundle(drawn("issuer 1"), 2**32 - 1, [
        relay(1, 2, "\u0410\u043d\u043d\u0430", [("2001:db8::7", 443), ("relay.example.net", 8443)], "192.0.2.9", mirror_only),
        relay(2, 3, "r2", [("198.51.100.8", 1)], "a", [("mirror", ""), ("mirror", "fragment=tls"), ("x-1", "~ !")]),
        relay(3, 1, "n" * 48, [("198.51.100.9", 65535)], "cover.example", mirror_only)])
    return f


if __name__ == "__main__":
    check_primitives()
    for file in mirror(), scrambled(), quic(), resumes(), tokens(), bundles():
        file.finish("--check" in sys.argv[1:])
