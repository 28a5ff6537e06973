package look

import (
	"bytes"
	"encoding/binary"
	"errors"
	"slices"

	"busel/obfs/vectors"
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

// codes reads a body that is one vector of code points, with a length of n bytes.
func codes(body []byte, n int) (Codes, bool) {
	c := vectors.Of(body)
	v := c.Vector(n)
	if !c.Whole() {
		return nil, false
	}
	return rawCodes(v.B)
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
	c := vectors.Of(body)
	list := c.Vector(2)
	for list.OK && len(list.B) > 0 {
		name := list.Vector(1)
		if len(name.B) == 0 || len(out) == 8 {
			return nil, false
		}
		out = append(out, string(name.B))
	}
	return out, c.Whole() && list.OK && len(out) > 0
}

// shareLen are the lengths of shares by group.
var shareLen = map[uint16]int{GREASE: 1, GroupHybrid: 1216, GroupX25519: 32, GroupP256: 65, GroupP384: 97, GroupP521: 133}

// ParseHello reads a ClientHello message with its 4-byte header. It takes a subset of
// what TLS allows, that of browsers: a session id of 32 bytes, no compression, every
// known extension well-formed and in its usual form. What passes still is the word of
// whoever sent it: see [Look.Check].
func ParseHello(msg []byte) (*Hello, error) {
	c := vectors.Of(msg)
	typ, body := c.Uint(1), c.Vector(3)
	if !c.Whole() || typ != 1 {
		return nil, errHello
	}
	c = body
	version := c.Uint(2)
	c.Take(32) // random
	sid := c.Vector(1)
	ciphers := c.Vector(2)
	compression := c.Vector(1)
	exts := c.Vector(2)
	h := new(Hello)
	t := &h.TLS
	var ok bool
	if t.Ciphers, ok = rawCodes(ciphers.B); !ok || !c.Whole() || version != 0x0303 || len(sid.B) != 32 || !bytes.Equal(compression.B, []byte{0}) {
		return nil, errHello
	}
	t.Fixed = Bodies{}
	seen := map[uint16]bool{}
	for exts.OK && len(exts.B) > 0 {
		id := uint16(exts.Uint(2))
		body := exts.Vector(2)
		if !body.OK || h.Resumed || len(t.Extensions) == maxCodes { // nothing follows the pre-shared key
			return nil, errHello
		}
		if isGREASE(id) {
			// The first is empty, the last has one byte, and both differ.
			last := len(exts.B) == 0 || len(exts.B) > 4 && binary.BigEndian.Uint16(exts.B) == ExtPreSharedKey
			if seen[id] || len(t.Extensions) == 0 && len(body.B) != 0 ||
				len(t.Extensions) > 0 && (!last || !bytes.Equal(body.B, []byte{0})) {
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
		if !h.extension(id, body.B) {
			return nil, errHello
		}
		if !h.Resumed {
			t.Extensions = append(t.Extensions, id)
		}
	}
	if !exts.OK || !seen[ExtKeyShare] || !seen[ExtSupportedVersions] || !seen[ExtServerName] {
		return nil, errHello
	}
	return h, nil
}

// extension reads one body.
func (h *Hello) extension(id uint16, body []byte) (ok bool) {
	t := &h.TLS
	switch id {
	case ExtServerName:
		c := vectors.Of(body)
		list := c.Vector(2)
		typ, name := list.Uint(1), list.Vector(2)
		h.Name = string(name.B)
		return c.Whole() && list.Whole() && typ == 0 && len(name.B) > 0 && len(name.B) < 256
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
		c := vectors.Of(body)
		outer, kdf, aead := c.Uint(1), c.Uint(2), c.Uint(2)
		c.Take(1)
		key, payload := c.Vector(2), c.Vector(2)
		t.ECH = &ECH{KDF: uint16(kdf), AEADs: Codes{uint16(aead)}, Payloads: []int{len(payload.B)}}
		return c.Whole() && outer == 0 && len(key.B) == 32
	case ExtPreSharedKey:
		c := vectors.Of(body)
		ids, binders := c.Vector(2), c.Vector(2)
		h.Resumed, h.PSK = true, len(body)
		return c.Whole() && len(ids.B) > 0 && len(binders.B) > 0
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
	c := vectors.Of(body)
	list := c.Vector(2)
	var plain, hybrid []byte
	for list.OK && len(list.B) > 0 {
		group, key := uint16(list.Uint(2)), list.Vector(2)
		if isGREASE(group) {
			group = GREASE
		}
		if !key.OK || len(key.B) != shareLen[group] || slices.Contains(t.Shares, group) {
			return false
		}
		t.Shares = append(t.Shares, group)
		switch group {
		case GroupX25519:
			plain = key.B
		case GroupHybrid:
			hybrid = key.B[len(key.B)-32:]
		}
	}
	t.Reuse = plain != nil && bytes.Equal(plain, hybrid)
	return c.Whole() && list.OK && len(t.Shares) > 0
}
