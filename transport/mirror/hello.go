package mirror

import (
	"encoding/binary"

	"busel/obfs/vectors"
)

// IANA numbers of TLS (RFC 8446; draft-ietf-tls-ecdhe-mlkem for the hybrid).
const (
	recordChangeCipherSpec = 20
	recordAlert            = 21
	recordHandshake        = 22
	recordData             = 23

	typeClientHello = 1
	typeServerHello = 2

	extPreSharedKey      = 41
	extSupportedVersions = 43
	extKeyShare          = 51

	groupX25519         = 0x001d
	groupX25519MLKEM768 = 0x11ec
	// hybridShareLen is ML-KEM-768's encapsulation key and an x25519 share.
	hybridShareLen = 1184 + 32

	versionTLS13 = 0x0304
)

// maxHello is the longest handshake message that is parsed, both hellos.
const maxHello = 16 << 10

// retryRandom is the random of a HelloRetryRequest (RFC 8446, section 4.1.3).
var retryRandom = [32]byte{
	0xcf, 0x21, 0xad, 0x74, 0xe5, 0x9a, 0x61, 0x11, 0xbe, 0x1d, 0x8c, 0x02, 0x1e, 0x65, 0xb8, 0x91,
	0xc2, 0xa2, 0x11, 0x16, 0x7a, 0xbb, 0x8c, 0x5e, 0x07, 0x9e, 0x09, 0xe2, 0xc8, 0xa8, 0x33, 0x9c,
}

// clientHello is what recognition needs of a ClientHello.
type clientHello struct {
	random    [32]byte
	sessionID [32]byte
	share     [32]byte // E
	end       int      // of what the session id binds: the binders of a PSK follow
}

// Where the session id lies in a ClientHello with its header.
const sidStart, sidEnd = 4 + 2 + 32 + 1, 4 + 2 + 32 + 1 + 32

// bound are the parts of the ClientHello msg that its session id binds: all of
// it with zeros for the session id, without a PSK's binders, which are computed
// later and over the session id (RFC 8446, section 4.2.11.2).
func (h *clientHello) bound(msg []byte) [][]byte {
	return [][]byte{msg[:sidStart], make([]byte, sidEnd-sidStart), msg[sidEnd:h.end]}
}

// serverHello is what the key schedule and a cover's check need of a ServerHello.
type serverHello struct {
	random [32]byte
	tls13  bool
	retry  bool   // a HelloRetryRequest
	group  uint16 // of the key share; 0 without one
}

// messages collects handshake messages from a copy of a byte stream of
// plaintext TLS records, across record boundaries, at most [maxHello] bytes.
type messages struct {
	buf  []byte // of the message
	hdr  [headerLen]byte
	nHdr int
	left int  // of the current record's body
	typ  byte // of the current record
}

// outcome of feeding bytes.
type outcome int

const (
	needMore outcome = iota
	gotMessage
	notTLS // no continuation makes it what is looked for
)

// feed consumes bytes of b up to the end of the first handshake message of type
// want, which is then in m.buf, and returns how many. A change_cipher_spec
// record is skipped, as it may follow a HelloRetryRequest. Anything else is
// notTLS.
func (m *messages) feed(b []byte, want byte) (n int, o outcome) {
	for n < len(b) {
		if m.nHdr < headerLen {
			m.hdr[m.nHdr] = b[n]
			m.nHdr++
			n++
			if m.nHdr == headerLen {
				m.typ, m.left = m.hdr[0], int(binary.BigEndian.Uint16(m.hdr[3:]))
				if m.hdr[1] != 3 || m.left == 0 || m.left > maxRecord ||
					m.typ != recordHandshake && (m.typ != recordChangeCipherSpec || len(m.buf) > 0 || m.left != 1) {
					return n, notTLS
				}
			}
			continue
		}
		take := min(m.left, len(b)-n)
		if m.typ == recordHandshake {
			if size := m.size(); size >= 0 {
				take = min(take, size-len(m.buf))
			} else {
				take = min(take, 4-len(m.buf))
			}
			m.buf = append(m.buf, b[n:n+take]...)
			if m.buf[0] != want || m.size() > maxHello {
				return n + take, notTLS
			}
		}
		n += take
		m.left -= take
		if m.left == 0 {
			m.nHdr = 0
		}
		if m.size() >= 0 && len(m.buf) == m.size() {
			return n, gotMessage
		}
	}
	return n, needMore
}

// size is the length of the message with its header, -1 while unknown.
func (m *messages) size() int {
	if len(m.buf) < 4 {
		return -1
	}
	return 4 + int(m.buf[1])<<16 + int(m.buf[2])<<8 + int(m.buf[3])
}

// atBoundary reports whether the message ended with its record.
func (m *messages) atBoundary() bool { return m.nHdr == 0 }

// next forgets the message, to look for another one.
func (m *messages) next() { m.buf = m.buf[:0] }

// parseClientHello reads a whole ClientHello message with its 4-byte header.
// ok is false if it is malformed, has no 32-byte session id or no x25519 share.
// The share is that of group x25519, else the tail of the hybrid one.
func parseClientHello(msg []byte) (h clientHello, ok bool) {
	c := vectors.Of(msg)
	c.Take(4 + 2)
	copy(h.random[:], c.Take(32))
	sid := c.Vector(1)
	c.Vector(2)
	c.Vector(1)
	exts := c.Vector(2)
	if !c.OK || len(c.B) != 0 || len(sid.B) != 32 {
		return h, false
	}
	copy(h.sessionID[:], sid.B)
	h.end = len(msg)
	plain, hybrid := false, false
	for exts.OK && len(exts.B) > 0 {
		typ := exts.Uint(2)
		body := exts.Vector(2)
		if typ == extPreSharedKey {
			if len(exts.B) > 0 { // it must be the last (RFC 8446, section 4.2.11)
				return h, false
			}
			body.Vector(2)
			h.end = len(msg) - len(body.B)
		}
		if typ != extKeyShare {
			continue
		}
		shares := body.Vector(2)
		for shares.OK && len(shares.B) > 0 {
			group := shares.Uint(2)
			key := shares.Vector(2).B
			switch {
			case group == groupX25519 && len(key) == 32 && !plain:
				plain = true
				copy(h.share[:], key)
			case group == groupX25519MLKEM768 && len(key) == hybridShareLen && !plain && !hybrid:
				hybrid = true
				copy(h.share[:], key[hybridShareLen-32:])
			}
		}
		if !shares.OK || !body.OK {
			return h, false
		}
	}
	return h, exts.OK && (plain || hybrid)
}

// parseServerHello reads a whole ServerHello message with its 4-byte header.
func parseServerHello(msg []byte) (h serverHello, ok bool) {
	c := vectors.Of(msg)
	c.Take(4 + 2)
	copy(h.random[:], c.Take(32))
	c.Vector(1)
	c.Take(2 + 1)
	h.retry = h.random == retryRandom
	if !c.OK {
		return h, false
	}
	if len(c.B) == 0 { // no extensions: TLS 1.2
		return h, true
	}
	exts := c.Vector(2)
	for exts.OK && len(exts.B) > 0 {
		typ := exts.Uint(2)
		body := exts.Vector(2)
		switch typ {
		case extSupportedVersions:
			h.tls13 = body.Uint(2) == versionTLS13
		case extKeyShare:
			h.group = uint16(body.Uint(2))
		}
	}
	return h, c.OK && exts.OK
}

// helloWatch follows the cover's plaintext until the ServerHello that decides.
type helloWatch struct {
	msgs    messages
	retried bool
	hello   serverHello
}

// feed consumes bytes up to the end of the deciding ServerHello. With
// gotMessage, hello is a TLS 1.3 ServerHello that ended its record, as it must
// before the keys change (RFC 8446, section 5.1); with notTLS nothing covert is
// possible on the connection.
func (w *helloWatch) feed(b []byte) (n int, o outcome) {
	for n < len(b) {
		m, o := w.msgs.feed(b[n:], typeServerHello)
		n += m
		if o != gotMessage {
			return n, o
		}
		h, ok := parseServerHello(w.msgs.buf)
		if !ok || !w.msgs.atBoundary() {
			return n, notTLS
		}
		w.hello = h
		if !h.tls13 {
			return n, notTLS
		}
		if !h.retry {
			return n, gotMessage
		}
		if w.retried {
			return n, notTLS
		}
		w.retried = true
		w.msgs.next()
	}
	return n, needMore
}
