package packet

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"slices"
)

var (
	errNotInitial = errors.New("not a QUIC Initial packet of a client")
	errSealed     = errors.New("QUIC Initial packet does not decrypt")
)

// Versions of QUIC whose Initial packets are understood.
const (
	QUIC1 = 0x00000001
	QUIC2 = 0x6b3343cf
)

// quicVersion is what distinguishes the Initial packets of a version.
type quicVersion struct {
	salt        string
	key, iv, hp string // labels
	initial     byte   // the long packet type, bits 5 and 4
}

var (
	// RFC 9001, section 5.2.
	quic1 = quicVersion{
		salt: "\x38\x76\x2c\xf7\xf5\x59\x34\xb3\x4d\x17\x9a\xe6\xa4\xc8\x0c\xad\xcc\xbb\x7f\x0a",
		key:  "quic key", iv: "quic iv", hp: "quic hp", initial: 0,
	}
	// RFC 9369, section 3.
	quic2 = quicVersion{
		salt: "\x0d\xed\xe3\xde\xf7\x00\xa6\xdb\x81\x93\x81\xbe\x6e\x26\x9d\xcb\xf9\xbd\x2e\xd9",
		key:  "quicv2 key", iv: "quicv2 iv", hp: "quicv2 hp", initial: 1,
	}
)

// initialKeys protect what a client sends before it has other keys.
type initialKeys struct {
	aead cipher.AEAD
	iv   []byte
	hp   cipher.Block
}

func newInitialKeys(v *quicVersion, dcid []byte) (*initialKeys, error) {
	initial, err := hkdf.Extract(sha256.New, dcid, []byte(v.salt))
	if err != nil {
		return nil, err
	}
	client, err := expand(initial, "client in", sha256.Size)
	if err != nil {
		return nil, err
	}
	key, err := expand(client, v.key, 16)
	if err != nil {
		return nil, err
	}
	iv, err := expand(client, v.iv, 12)
	if err != nil {
		return nil, err
	}
	hp, err := expand(client, v.hp, 16)
	if err != nil {
		return nil, err
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		return nil, err
	}
	mask, err := aes.NewCipher(hp)
	if err != nil {
		return nil, err
	}
	return &initialKeys{aead, iv, mask}, nil
}

// expand is HKDF-Expand-Label of RFC 8446 with an empty context.
func expand(secret []byte, label string, length int) ([]byte, error) {
	label = "tls13 " + label
	info := string([]byte{0, byte(length), byte(len(label))}) + label + "\x00"
	return hkdf.Expand(sha256.New, secret, info, length)
}

// longHeader is the start of an Initial packet up to its packet number.
type longHeader struct {
	version *quicVersion
	dcid    []byte
	number  int // where the protected packet number begins
	end     int // of the packet in its datagram
}

// maxCID is the longest connection id of versions 1 and 2 (RFC 9000, 17.2).
const maxCID = 20

func parseLongHeader(b []byte) (longHeader, error) {
	r := reader{b: b}
	first := r.uint8()
	var h longHeader
	switch number := r.take(4); {
	case r.short:
		return h, errNotInitial
	case binary.BigEndian.Uint32(number) == QUIC1:
		h.version = &quic1
	case binary.BigEndian.Uint32(number) == QUIC2:
		h.version = &quic2
	default:
		return h, errNotInitial
	}
	if first&0xc0 != 0xc0 || byte(first>>4&3) != h.version.initial {
		return h, errNotInitial
	}
	h.dcid = r.take(r.uint8())
	scid := r.take(r.uint8())
	r.take(r.varint()) // token
	length := r.varint()
	h.number = len(b) - len(r.b)
	r.take(length)
	h.end = len(b) - len(r.b)
	if r.short || len(h.dcid) > maxCID || len(scid) > maxCID {
		return h, errNotInitial
	}
	return h, nil
}

// varint reads a number of variable length (RFC 9000, section 16). One that no
// packet could hold makes the reader short.
func (r *reader) varint() int {
	first := r.uint8()
	n := uint64(first & 0x3f)
	for _, c := range r.take(1<<(first>>6) - 1) {
		n = n<<8 | uint64(c)
	}
	const most = 1 << 30
	if n > most {
		r.short, r.b = true, nil
		return 0
	}
	return int(n)
}

// sampleAt is where the sample for header protection begins, counted from the
// packet number (RFC 9001, section 5.4.2).
const sampleAt = 4

// open decrypts one packet and returns its frames.
func (k *initialKeys) open(h longHeader, datagram []byte) ([]byte, error) {
	b := slices.Clone(datagram[:h.end])
	if len(b) < h.number+sampleAt+aes.BlockSize {
		return nil, errSealed
	}
	var mask [aes.BlockSize]byte
	k.hp.Encrypt(mask[:], b[h.number+sampleAt:][:aes.BlockSize])
	b[0] ^= mask[0] & 0x0f
	size := int(b[0]&3) + 1
	nonce := slices.Clone(k.iv)
	for i := range size {
		b[h.number+i] ^= mask[1+i]
		// The first packets have small numbers: what was sent is all of it.
		nonce[len(nonce)-size+i] ^= b[h.number+i]
	}
	at := h.number + size
	frames, err := k.aead.Open(b[at:at], nonce, b[at:], b[:at])
	if err != nil {
		return nil, errSealed
	}
	return frames, nil
}

// QUICVersion returns the version field of a datagram, whatever the packet.
func QUICVersion(datagram []byte) (uint32, bool) {
	if len(datagram) < 5 {
		return 0, false
	}
	return binary.BigEndian.Uint32(datagram[1:]), true
}

// LooksLikeQUIC reports whether a datagram begins with a long header and a
// version: RFC 8999 promises no more.
func LooksLikeQUIC(datagram []byte) bool {
	version, ok := QUICVersion(datagram)
	return ok && datagram[0]&0xc0 == 0xc0 && version != 0
}

// Initials puts the ClientHello of one QUIC connection together from what the
// client sends first. The zero value is ready.
type Initials struct {
	keys    *initialKeys
	version *quicVersion
	crypto  *Stream
	plain   []byte // the CRYPTO frame of the first packet, if it was alone
	tried   int
}

// maxInitials bounds the datagrams of a flow that are decrypted.
const maxInitials = 8

// Add takes a datagram of the client. It returns the ClientHello message as
// far as it is known, with [ErrMore] if that is not all of it.
func (q *Initials) Add(datagram []byte) ([]byte, error) {
	if q.tried++; q.tried > maxInitials {
		return nil, errNotInitial
	}
	for rest := datagram; len(rest) > 0; {
		h, err := parseLongHeader(rest)
		if err != nil {
			break // padding, or a packet of another kind
		}
		if err := q.packet(h, rest); err != nil {
			return nil, err
		}
		rest = rest[h.end:]
	}
	if q.crypto == nil {
		return nil, errNotInitial
	}
	return q.message(q.crypto.Bytes())
}

// Plain returns the ClientHello if the first packet of the first datagram held
// it all in one CRYPTO frame with at most padding behind it: what an observer
// sees who puts nothing together.
func (q *Initials) Plain() ([]byte, error) { return q.message(q.plain) }

func (q *Initials) message(b []byte) ([]byte, error) {
	whole, err := messageLen(b)
	if err != nil {
		return nil, err
	}
	if whole == 0 || len(b) < whole {
		return b, ErrMore
	}
	return b[:whole], nil
}

func (q *Initials) packet(h longHeader, b []byte) error {
	first := q.keys == nil
	if first {
		keys, err := newInitialKeys(h.version, h.dcid)
		if err != nil {
			return err
		}
		q.keys, q.version = keys, h.version
	}
	if h.version != q.version {
		return nil // not of this connection
	}
	frames, err := q.keys.open(h, b)
	if err != nil {
		if first {
			q.keys = nil
			return err
		}
		return nil // not of this connection
	}
	if q.crypto == nil {
		q.crypto = NewStream(0, MaxHello)
	}
	return q.frames(frames, first)
}

// Types of frames that an Initial packet may hold (RFC 9000, section 12.4).
const (
	framePadding = 0
	framePing    = 1
	frameACK     = 2
	frameACKECN  = 3
	frameCrypto  = 6
)

// frames takes the CRYPTO frames of one packet.
func (q *Initials) frames(b []byte, first bool) error {
	r := reader{b: b}
	var plain []byte
	pieces, other := 0, false
	for len(r.b) > 0 && !r.short {
		switch r.varint() {
		case framePadding:
			other = other || pieces == 0
		case frameCrypto:
			offset, data := r.varint(), r.take(r.varint())
			if len(data) == 0 {
				continue
			}
			if offset == 0 {
				plain = data
			}
			pieces++
			q.crypto.Add(uint32(offset), data)
		case framePing:
			other = true
		case frameACK, frameACKECN: // no client acknowledges in its first packet
			return nil
		default:
			return errNotInitial
		}
	}
	if r.short {
		return errNotInitial
	}
	if first && pieces == 1 && !other {
		q.plain = plain
	}
	return nil
}

// SealInitial builds the first datagram of a client in version 1, with packet
// number 0, around these frames, padded to size bytes.
func SealInitial(dcid, frames []byte, size int) ([]byte, error) {
	keys, err := newInitialKeys(&quic1, dcid)
	if err != nil {
		return nil, err
	}
	const numberLen = 2
	b := append([]byte{0xc0 | numberLen - 1, 0, 0, 0, QUIC1, byte(len(dcid))}, dcid...)
	b = append(b, 0, 0) // no source id, no token
	at := len(b) + 2 + numberLen
	plain := append(slices.Clone(frames), make([]byte, max(0, size-at-len(frames)-keys.aead.Overhead()))...)
	b = binary.BigEndian.AppendUint16(b, 0x4000|uint16(numberLen+len(plain)+keys.aead.Overhead()))
	b = append(b, 0, 0)
	b = keys.aead.Seal(b, keys.iv, plain, b)
	var mask [aes.BlockSize]byte
	number := at - numberLen
	keys.hp.Encrypt(mask[:], b[number+sampleAt:][:aes.BlockSize])
	b[0] ^= mask[0] & 0x0f
	for i := range numberLen {
		b[number+i] ^= mask[1+i]
	}
	return b, nil
}
