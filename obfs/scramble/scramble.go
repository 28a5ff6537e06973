// Package scramble makes the datagrams of a packet protocol look like nothing:
// uniformly random bytes of varied length.
//
// # Wire
//
// Keys come from the relay's public key S, which travels only in invites, so
// that a stranger can neither read a datagram nor make one. HKDF is RFC 5869
// with SHA-256 and no salt; there is a key for each direction, so that a
// datagram cannot be sent back to where it came from.
//
//	key      = HKDF(S, "busel scramble 1 up" or "busel scramble 1 down", 16)
//	datagram = AES-128-GCM(key, nonce, packet | filler | length of filler u8) | tag(12) | nonce(12)
//
// The nonce is random; of 2^32 datagrams, which is 5 TB, two have the same one
// with a probability of 2^-33. The tag is as long as is needed to keep strangers
// out, as what is inside has its own: 2^-96 a try. The first byte is ciphertext.
//
// A packet that may open a connection, which in QUIC is one with a long header
// (RFC 9000, section 17.2), has a filler that begins with the sender's clock:
//
//	filler   = minutes since 1970 u32, big-endian, 0 for not known | zero bytes
//
// [Window] tells from it, and from what it remembers, whether a datagram came
// before. Every other filler is zero bytes.
package scramble

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/binary"
	"time"
)

// Lengths in bytes.
const (
	NonceLen = 12
	tagLen   = 12 // the least that Go's GCM takes; QUIC's own tags are behind it
	keyLen   = 16
	stampLen = 4
	// Overhead is what every datagram adds to its packet.
	Overhead = 1 + tagLen + NonceLen
	// MaxFiller is the longest filler.
	MaxFiller = 255
)

const (
	labelUp   = "busel scramble 1 up"
	labelDown = "busel scramble 1 down"
)

// Codec seals and opens the datagrams of one direction. It is safe for
// concurrent use.
type Codec struct{ aead cipher.AEAD }

// Codecs returns those of a relay with public key S: up is from client to relay.
func Codecs(relay [32]byte) (up, down *Codec) {
	return newCodec(relay, labelUp), newCodec(relay, labelDown)
}

// newCodec cannot fail: errors mean a length that no label here asks for.
func newCodec(relay [32]byte, label string) *Codec {
	key, err := hkdf.Key(sha256.New, relay[:], nil, label, keyLen)
	if err != nil {
		panic(err)
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		panic(err)
	}
	aead, err := cipher.NewGCMWithTagSize(block, tagLen)
	if err != nil {
		panic(err)
	}
	return &Codec{aead}
}

// Seal appends the datagram of a packet to dst, which must not overlap it. The
// nonce has [NonceLen] random bytes and is never used twice; the filler has at most [MaxFiller] bytes
// and is written by Seal, the stamp first if the packet may open a connection.
func (c *Codec) Seal(dst, packet []byte, nonce []byte, filler int, stamp Stamp) []byte {
	start := len(dst)
	dst = append(dst, packet...)
	if Opens(packet) {
		filler = min(max(filler, stampLen), MaxFiller)
		dst = binary.BigEndian.AppendUint32(dst, uint32(stamp))
		dst = append(dst, zeros[:filler-stampLen]...)
	} else {
		filler = min(filler, MaxFiller)
		dst = append(dst, zeros[:filler]...)
	}
	dst = append(dst, byte(filler))
	dst = c.aead.Seal(dst[:start], nonce, dst[start:], nil)
	return append(dst, nonce...)
}

var zeros [MaxFiller]byte

// Open decrypts a datagram where it lies and returns the packet, which aliases
// it. ok is false if nobody who knows S made the datagram, or not for this
// direction; its bytes are lost then.
func (c *Codec) Open(datagram []byte) (packet []byte, id Identity, ok bool) {
	if len(datagram) <= Overhead {
		return nil, id, false
	}
	body := len(datagram) - NonceLen
	nonce := datagram[body:]
	plain, err := c.aead.Open(datagram[:0], nonce, datagram[:body], nil)
	if err != nil {
		return nil, id, false
	}
	last := len(plain) - 1
	n := last - int(plain[last])
	if n < 1 {
		return nil, id, false
	}
	id.nonce = binary.BigEndian.Uint64(nonce)
	if id.opens = Opens(plain[:n]); id.opens {
		if last-n < stampLen {
			return nil, id, false
		}
		id.stamp = Stamp(binary.BigEndian.Uint32(plain[n:]))
	}
	return plain[:n], id, true
}

// Opens reports whether a packet may open a connection: QUIC's long header.
func Opens(packet []byte) bool { return len(packet) > 0 && packet[0]&0x80 != 0 }

// Stamp is a clock in minutes since 1970.
type Stamp uint32

// NoClock is the stamp of a sender that does not trust its clock.
const NoClock Stamp = 0

// StampOf is the stamp at t.
func StampOf(t time.Time) Stamp { return Stamp(max(t.Unix(), 0) / 60) }

// Identity is what tells one datagram from all others.
type Identity struct {
	nonce uint64 // its first 8 bytes
	opens bool
	stamp Stamp
}

// Sizes of datagrams with a packet that may open a connection, whose own size
// (1200 bytes in QUIC) would be a print.
const (
	// safeDatagram passes every path of IPv6's least MTU: 1280 - 40 - 8.
	safeDatagram = 1232
	// wideDatagram passes the mobile networks that are usual: 1358 - 20 - 8.
	wideDatagram = 1330
	// smallPacket is the longest that is filled otherwise: what is longer is part
	// of bulk, and of one size in every protocol.
	smallPacket = 1000
	smallFiller = 48
)

// Filler draws the length of a packet's filler from a random number. Three of
// four datagrams that may open a connection pass any path: a handshake needs
// about five of them, and with half a dial in eleven failed where nothing else
// passes.
func Filler(packet []byte, random uint32) int {
	if !Opens(packet) {
		if len(packet) > smallPacket {
			return 0
		}
		return int(random % smallFiller)
	}
	most := safeDatagram
	if random&3 == 3 {
		most = wideDatagram
	}
	room := min(max(most-len(packet)-Overhead, stampLen), MaxFiller)
	return stampLen + int(random>>2)%(room-stampLen+1)
}
