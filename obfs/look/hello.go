package look

import (
	"bytes"
	"encoding/binary"
	"errors"
	"slices"
)

// Hello is what is kept of one ClientHello: its form, and what one connection shows
// of what is drawn.
type Hello struct {
	// TLS is the form. Extensions has the order of this hello, Resumed is empty, and
	// ECH has one AEAD and one length.
	TLS     TLS
	Resumed bool
	PSK     int // bytes of the pre-shared key extension's body
	// Name is the server's name. It is not part of the form; it is for counting
	// different ones, and to be forgotten.
	Name string
}

// errHello is every malformed hello: what is wrong with one is of no interest.
var errHello = errors.New("look: not a ClientHello of TLS 1.3 in a browser's form")

// cursor takes fields off the front of b; ok goes false when b is too short.
type cursor struct {
	b  []byte
	ok bool
}

func (c *cursor) take(n int) []byte {
	if !c.ok || len(c.b) < n {
		c.ok = false
		return nil
	}
	b := c.b[:n]
	c.b = c.b[n:]
	return b
}

func (c *cursor) uint(n int) int {
	v := 0
	for _, x := range c.take(n) {
		v = v<<8 | int(x)
	}
	return v
}

// vector takes a vector with a length of n bytes.
func (c *cursor) vector(n int) cursor { b := c.take(c.uint(n)); return cursor{b, c.ok} }

// whole reports that all was taken and nothing was missing.
func (c *cursor) whole() bool { return c.ok && len(c.b) == 0 }

// codes reads a body that is one vector of code points, with a length of n bytes.
func codes(body []byte, n int) (Codes, bool) {
	c := cursor{body, true}
	v := c.vector(n)
	if !c.whole() {
		return nil, false
	}
	return rawCodes(v.b)
}

func rawCodes(b []byte) (Codes, bool) {
	if len(b) == 0 || len(b)%2 != 0 || len(b) > 2*maxCodes {
		return nil, false
	}
	var out Codes
	for ; len(b) > 0; b = b[2:] {
		v := binary.BigEndian.Uint16(b)
		if isGREASE(v) {
			v = GREASE
		}
		out = append(out, v)
	}
	return out, true
}

// names reads a ProtocolNameList (RFC 7301).
func names(body []byte) (out []string, ok bool) {
	c := cursor{body, true}
	list := c.vector(2)
	for list.ok && len(list.b) > 0 {
		name := list.vector(1)
		if len(name.b) == 0 || len(out) == 8 {
			return nil, false
		}
		out = append(out, string(name.b))
	}
	return out, c.whole() && list.ok && len(out) > 0
}

// shareLen are the lengths of shares by group.
var shareLen = map[uint16]int{GREASE: 1, GroupHybrid: 1216, GroupX25519: 32, GroupP256: 65, GroupP384: 97, GroupP521: 133}

// ParseHello reads a ClientHello message with its 4-byte header. It takes a subset of
// what TLS allows, that of browsers: a session id of 32 bytes, no compression, every
// known extension well-formed and in its usual form. What passes still is the word of
// whoever sent it: see [Look.Check].
func ParseHello(msg []byte) (*Hello, error) {
	c := cursor{msg, true}
	typ, body := c.uint(1), c.vector(3)
	if !c.whole() || typ != 1 {
		return nil, errHello
	}
	c = body
	version := c.uint(2)
	c.take(32) // random
	sid := c.vector(1)
	ciphers := c.vector(2)
	compression := c.vector(1)
	exts := c.vector(2)
	h := new(Hello)
	t := &h.TLS
	var ok bool
	if t.Ciphers, ok = rawCodes(ciphers.b); !ok || !c.whole() || version != 0x0303 || len(sid.b) != 32 || !bytes.Equal(compression.b, []byte{0}) {
		return nil, errHello
	}
	t.Fixed = Bodies{}
	seen := map[uint16]bool{}
	for exts.ok && len(exts.b) > 0 {
		id := uint16(exts.uint(2))
		body := exts.vector(2)
		if !body.ok || h.Resumed || len(t.Extensions) == maxCodes { // nothing follows the pre-shared key
			return nil, errHello
		}
		if isGREASE(id) {
			// The first is empty, the last has one byte, and both differ.
			last := len(exts.b) == 0 || len(exts.b) > 4 && binary.BigEndian.Uint16(exts.b) == ExtPreSharedKey
			if seen[id] || len(t.Extensions) == 0 && len(body.b) != 0 ||
				len(t.Extensions) > 0 && (!last || !bytes.Equal(body.b, []byte{0})) {
				return nil, errHello
			}
			seen[id] = true
			t.Extensions = append(t.Extensions, GREASE)
			continue
		}
		if seen[id] {
			return nil, errHello
		}
		seen[id] = true
		if !h.extension(id, body.b) {
			return nil, errHello
		}
		if !h.Resumed {
			t.Extensions = append(t.Extensions, id)
		}
	}
	if !exts.ok || !seen[ExtKeyShare] || !seen[ExtSupportedVersions] || !seen[ExtServerName] {
		return nil, errHello
	}
	return h, nil
}

// extension reads one body.
func (h *Hello) extension(id uint16, body []byte) (ok bool) {
	t := &h.TLS
	switch id {
	case ExtServerName:
		c := cursor{body, true}
		list := c.vector(2)
		typ, name := list.uint(1), list.vector(2)
		h.Name = string(name.b)
		return c.whole() && list.whole() && typ == 0 && len(name.b) > 0 && len(name.b) < 256
	case ExtSupportedGroups:
		t.Groups, ok = codes(body, 2)
	case ExtSignatureAlgorithms:
		t.Signatures, ok = codes(body, 2)
	case ExtSupportedVersions:
		t.Versions, ok = codes(body, 1)
	case ExtCompressCertificate:
		t.CertComp, ok = codes(body, 1)
	case ExtALPN:
		t.ALPN, ok = names(body)
	case ExtKeyShare:
		return t.shares(body)
	case ExtECH:
		c := cursor{body, true}
		outer, kdf, aead := c.uint(1), c.uint(2), c.uint(2)
		c.take(1)
		key, payload := c.vector(2), c.vector(2)
		t.ECH = &ECH{KDF: uint16(kdf), AEADs: Codes{uint16(aead)}, Payloads: []int{len(payload.b)}}
		return c.whole() && outer == 0 && len(key.b) == 32
	case ExtPreSharedKey:
		c := cursor{body, true}
		ids, binders := c.vector(2), c.vector(2)
		h.Resumed, h.PSK = true, len(body)
		return c.whole() && len(ids.b) > 0 && len(binders.b) > 0
	default:
		if len(body) > maxFixed {
			return false
		}
		t.Fixed[id] = bytes.Clone(body)
		return true
	}
	return ok
}

// shares reads a key_share's body.
func (t *TLS) shares(body []byte) bool {
	c := cursor{body, true}
	list := c.vector(2)
	var plain, hybrid []byte
	for list.ok && len(list.b) > 0 {
		group, key := uint16(list.uint(2)), list.vector(2)
		if isGREASE(group) {
			group = GREASE
		}
		if !key.ok || len(key.b) != shareLen[group] || slices.Contains(t.Shares, group) {
			return false
		}
		t.Shares = append(t.Shares, group)
		switch group {
		case GroupX25519:
			plain = key.b
		case GroupHybrid:
			hybrid = key.b[len(key.b)-32:]
		}
	}
	t.Reuse = plain != nil && bytes.Equal(plain, hybrid)
	return c.whole() && list.ok && len(t.Shares) > 0
}
