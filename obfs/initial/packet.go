package initial

import (
	"cmp"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/binary"
	"errors"
)

const (
	version1  = 1
	tagLen    = 16
	maxID     = 20 // of a connection, RFC 9000, section 17.2
	sampleLen = 16
)

// salt is that of version 1 (RFC 9001, section 5.2).
var salt = []byte{
	0x38, 0x76, 0x2c, 0xf7, 0xf5, 0x59, 0x34, 0xb3, 0x4d, 0x17,
	0x9a, 0xe6, 0xa4, 0xc8, 0x0c, 0xad, 0xcc, 0xbb, 0x7f, 0x0a,
}

// Keys protect the Initial packets of one direction. They are no secret: who sees the
// client's first packet has them.
type Keys struct {
	aead cipher.AEAD
	iv   [12]byte
	head cipher.Block
}

// KeysOf returns the keys of a connection, by the destination connection id of the
// client's first packet, or of its first one after a Retry.
func KeysOf(id []byte) (client, server *Keys) {
	secret := initialSecret(id)
	return newKeys(expand(secret, "client in", 32)), newKeys(expand(secret, "server in", 32))
}

// clientKeys returns the first of them alone.
func clientKeys(id []byte) *Keys {
	return newKeys(expand(initialSecret(id), "client in", 32))
}

func initialSecret(id []byte) []byte {
	secret, err := hkdf.Extract(sha256.New, id, salt)
	if err != nil {
		panic(err) // not for SHA-256
	}
	return secret
}

func newKeys(secret []byte) *Keys {
	k := new(Keys)
	block, err := aes.NewCipher(expand(secret, "quic key", 16))
	if err == nil {
		k.aead, err = cipher.NewGCM(block)
	}
	if err == nil {
		k.head, err = aes.NewCipher(expand(secret, "quic hp", 16))
	}
	if err != nil {
		panic(err) // keys have the right length
	}
	copy(k.iv[:], expand(secret, "quic iv", len(k.iv)))
	return k
}

// expand is HKDF-Expand-Label without a context (RFC 8446, section 7.1).
func expand(secret []byte, label string, n int) []byte {
	label = "tls13 " + label
	info := string([]byte{byte(n >> 8), byte(n), byte(len(label))}) + label + "\x00"
	b, err := hkdf.Expand(sha256.New, secret, info, n)
	if err != nil {
		panic(err) // n is small
	}
	return b
}

func (k *Keys) nonce(number uint64) []byte {
	n := k.iv
	for i := range 8 {
		n[len(n)-1-i] ^= byte(number >> (8 * i))
	}
	return n[:]
}

// mask is what hides the first byte and the number of a packet, by a sample of its
// ciphertext.
func (k *Keys) mask(sample []byte) (m [aes.BlockSize]byte) {
	k.head.Encrypt(m[:], sample)
	return m
}

// Packet is an Initial packet (RFC 9000, section 17.2.2).
type Packet struct {
	To, From  []byte // connection ids, 0..20 bytes
	Token     []byte
	Number    uint64
	NumberLen int // of the number on the wire, 1..4 bytes
	Frames    []byte

	lengthLen int // of the field Length, 0 for 2 bytes
}

var (
	// ErrNotInitial says that a datagram begins with something else than a whole
	// Initial packet of version 1.
	ErrNotInitial = errors.New("not an Initial packet")
	// ErrSealed says that it was sealed with other keys, or that bytes changed.
	ErrSealed = errors.New("an Initial packet does not open")
)

// Is reports whether a datagram seems to begin with an Initial packet of version 1.
func Is(datagram []byte) bool {
	return len(datagram) >= 7 && datagram[0]&0xf0 == 0xc0 && binary.BigEndian.Uint32(datagram[1:]) == version1
}

// head is what stands in front of a packet's number.
type head struct {
	to, from, token []byte
	size            int // of what stands in front of the number, in bytes
	lengthLen       int
	body            int // of number, frames and tag, in bytes; at least 20
}

func parseHead(b []byte) (h head, ok bool) {
	if !Is(b) {
		return h, false
	}
	c := cursor{b[5:], true}
	h.to = c.take(uint64(c.byte()))
	h.from = c.take(uint64(c.byte()))
	h.token = c.take(c.varint())
	length := c.b
	body := c.varint()
	if !c.ok || len(h.to) > maxID || len(h.from) > maxID || body > uint64(len(c.b)) || body < 4+sampleLen {
		return h, false
	}
	h.size, h.body, h.lengthLen = len(b)-len(c.b), int(body), len(length)-len(c.b)
	return h, true
}

// To is the connection id to which a datagram goes that begins with an Initial packet.
func To(datagram []byte) (id []byte, ok bool) {
	h, ok := parseHead(datagram)
	return h.to, ok
}

// Open opens the packet at the beginning of a datagram, which stays as it is, and
// returns what follows it. The packet's ids and token alias the datagram; its frames do
// not. largest is the largest number of the packets opened before, -1 for none.
func (k *Keys) Open(datagram []byte, largest int64) (p Packet, rest []byte, err error) {
	h, ok := parseHead(datagram)
	if !ok {
		return p, nil, ErrNotInitial
	}
	end := h.size + h.body
	mask := k.mask(datagram[h.size+4 : h.size+4+sampleLen])
	first := datagram[0] ^ mask[0]&0x0f
	p = Packet{To: h.to, From: h.from, Token: h.token, NumberLen: int(first&3) + 1, lengthLen: h.lengthLen}
	ad := make([]byte, h.size+p.NumberLen)
	copy(ad, datagram)
	ad[0] = first
	truncated := uint64(0)
	for i := range p.NumberLen {
		ad[h.size+i] ^= mask[1+i]
		truncated = truncated<<8 | uint64(ad[h.size+i])
	}
	p.Number = wholeNumber(truncated, p.NumberLen, largest)
	p.Frames, err = k.aead.Open(nil, k.nonce(p.Number), datagram[len(ad):end], ad)
	if err != nil || first&0x0c != 0 {
		return Packet{}, nil, ErrSealed
	}
	return p, datagram[end:], nil
}

// wholeNumber is the number nearest to the one expected next that ends as told (RFC
// 9000, appendix A.3).
func wholeNumber(truncated uint64, n int, largest int64) uint64 {
	expected := uint64(largest + 1)
	window := uint64(1) << (8 * n)
	v := expected&^(window-1) | truncated
	switch {
	case v+window/2 <= expected && v < 1<<62-window:
		return v + window
	case v > expected+window/2 && v >= window:
		return v - window
	}
	return v
}

// Overhead is what a packet has beside its frames, in bytes.
func (p *Packet) Overhead() int {
	return 7 + len(p.To) + len(p.From) + varintLen(uint64(len(p.Token))) + len(p.Token) + cmp.Or(p.lengthLen, 2) + p.NumberLen + tagLen
}

// Seal appends the packet's protected form to dst. Its frames have at most 16,000 bytes, and
// with the number at least 4.
func (k *Keys) Seal(dst []byte, p *Packet) []byte {
	start := len(dst)
	dst = append(dst, 0xc0|byte(p.NumberLen-1))
	dst = binary.BigEndian.AppendUint32(dst, version1)
	dst = append(append(dst, byte(len(p.To))), p.To...)
	dst = append(append(dst, byte(len(p.From))), p.From...)
	dst = append(appendVarint(dst, uint64(len(p.Token))), p.Token...)
	dst = appendVarintOf(dst, uint64(p.NumberLen+len(p.Frames)+tagLen), cmp.Or(p.lengthLen, 2))
	number := len(dst)
	for i := range p.NumberLen {
		dst = append(dst, byte(p.Number>>(8*(p.NumberLen-1-i))))
	}
	dst = k.aead.Seal(dst, k.nonce(p.Number), p.Frames, dst[start:])
	mask := k.mask(dst[number+4 : number+4+sampleLen])
	dst[start] ^= mask[0] & 0x0f
	for i := range p.NumberLen {
		dst[number+i] ^= mask[1+i]
	}
	return dst
}

// cursor takes fields off the front of b. ok goes false, for good, when b is too short.
type cursor struct {
	b  []byte
	ok bool
}

func (c *cursor) take(n uint64) []byte {
	if !c.ok || uint64(len(c.b)) < n {
		c.ok = false
		return nil
	}
	b := c.b[:n:n]
	c.b = c.b[n:]
	return b
}

func (c *cursor) byte() byte {
	if b := c.take(1); b != nil {
		return b[0]
	}
	return 0
}

// varint takes an integer (RFC 9000, section 16).
func (c *cursor) varint() uint64 {
	first := c.byte()
	v := uint64(first & 0x3f)
	for range 1<<(first>>6) - 1 {
		v = v<<8 | uint64(c.byte())
	}
	return v
}

func varintLen(v uint64) int {
	switch {
	case v < 1<<6:
		return 1
	case v < 1<<14:
		return 2
	case v < 1<<30:
		return 4
	}
	return 8
}

func appendVarint(b []byte, v uint64) []byte { return appendVarintOf(b, v, varintLen(v)) }

// appendVarintOf appends an integer in n bytes, 1, 2, 4 or 8.
func appendVarintOf(b []byte, v uint64, n int) []byte {
	switch n {
	case 1:
		return append(b, byte(v))
	case 2:
		return binary.BigEndian.AppendUint16(b, 0x4000|uint16(v))
	case 4:
		return binary.BigEndian.AppendUint32(b, 0x8000_0000|uint32(v))
	}
	return binary.BigEndian.AppendUint64(b, 0xc000_0000_0000_0000|v)
}
