package initial

import (
	"bytes"
	"cmp"
	"compress/flate"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/binary"
	"io"
	"math/rand/v2"
	"slices"

	"busel/obfs/vectors"
)

// Labels of the two keys, which are HKDF-Expand(HKDF-Extract("", S), label, 16).
const (
	markLabel = "busel initial 1 mark"
	sealLabel = "busel initial 1 seal"
)

// maxRest bounds what is left of a ClientHello without keys and name, in bytes; quic-go's has
// about 170.
const maxRest = 1024

// Disguise is what [Client] puts a ClientHello into one of Chromium's with, and [Relay] takes it out
// again, so that an observer reads a browser's, and the TLS libraries of both ends theirs. Its keys
// are made of the relay's public key S: who knows that can tell. It is safe for
// concurrent use.
type Disguise struct{ mark, seal cipher.AEAD }

// NewDisguise returns that of the relay with the X25519 key S.
func NewDisguise(s [32]byte) *Disguise {
	key := func(label string) cipher.AEAD {
		k, err := hkdf.Key(sha256.New, s[:], nil, label, 16)
		if err != nil {
			panic(err) // not for SHA-256 and 16 bytes
		}
		block, err := aes.NewCipher(k)
		if err != nil {
			panic(err) // the key has the right length
		}
		aead, err := cipher.NewGCM(block)
		if err != nil {
			panic(err) // AES has the right block
		}
		return aead
	}
	return &Disguise{key(markLabel), key(sealLabel)}
}

// draws are how a client chooses where chance decides in a packet: draws(n) is one of 0..n-1. id
// is the one that the keys of the packet are made of.
func (d *Disguise) draws(id []byte, number uint64) func(n int) int {
	var nonce [12]byte
	copy(nonce[:8], id)
	binary.BigEndian.PutUint32(nonce[8:], uint32(number))
	stream := make([]byte, 4*maxDraws, 4*maxDraws+tagLen)
	d.mark.Seal(stream[:0], nonce[:], stream, nil)
	return func(n int) int {
		v := binary.BigEndian.Uint32(stream)
		if len(stream) > 4 {
			stream = stream[4:]
		}
		return int(uint64(v) * uint64(n) >> 32)
	}
}

// marks reports whether the frames of a packet are laid out as draws says: then it has a
// part of a ClientHello in disguise. What leaves little to chance is never marked, so that nobody
// finds a packet with the mark by trying.
func (d *Disguise) marks(id []byte, number uint64, frames []Frame) bool {
	for len(frames) > 0 && (frames[0].Type == Ack || frames[0].Type == AckECN || frames[0].Type == Close) {
		frames = frames[1:]
	}
	var crypto []piece
	size, data := 0, 0
	for _, f := range frames {
		size += len(f.Raw)
		if f.Type == Crypto {
			crypto = append(crypto, piece{int(min(f.Offset, maxHello)), f.Data})
			data += len(f.Data)
		}
	}
	slices.SortFunc(crypto, func(a, b piece) int { return a.offset - b.offset })
	blank := make([]byte, data) // what is in frames does not matter
	joined := crypto[:0]
	for _, p := range crypto {
		if last := len(joined) - 1; last >= 0 && joined[last].offset+len(joined[last].data) == p.offset {
			joined[last].data = blank[:len(joined[last].data)+len(p.data)]
		} else {
			joined = append(joined, p)
		}
	}
	if data < leastData || size-piecesLen(joined) < leastRoom {
		return false
	}
	return slices.EqualFunc(frames, layout(d.draws(id, number), joined, size), func(f Frame, s slot) bool {
		return f.Type == s.kind && len(f.Raw) == s.size() && f.Offset == uint64(s.offset)
	})
}

// Groups and extensions of TLS (IANA).
const (
	groupHybrid  = 0x11ec // X25519MLKEM768
	groupX25519  = 0x001d
	extName      = 0x0000
	extShares    = 0x0033
	extECH       = 0xfe0d
	hybridLen    = 1184 + 32
	keyLen       = 32
	randomAt     = 4 + 2 // of a ClientHello, with its header
	randomLen    = 32
	sealedNonce  = 12 // of the random
	sealedAtLeft = 6  // bytes in front of what is compressed
	none         = 0xffff
)

// part is bytes start..end-1 of a ClientHello.
type part struct{ start, end int }

func (p part) len() int               { return p.end - p.start }
func (p part) of(hello []byte) []byte { return hello[p.start:p.end] }

// fields are what both ClientHellos have in common, and where the second hides the first.
type fields struct{ name, hybrid, x25519, payload part }

// parse finds them. ok is false if msg is no ClientHello with a header; what it does not
// have is empty.
func parse(msg []byte) (f fields, ok bool) {
	if len(msg) < randomAt+randomLen || msg[0] != 1 || len(msg) != helloLen(msg) {
		return f, false
	}
	c := vectors.Of(msg[randomAt+randomLen:])
	c.Vector(1)
	c.Vector(2)
	c.Vector(1)
	exts := c.Vector(2)
	if !c.Whole() {
		return f, false
	}
	for exts.OK && len(exts.B) > 0 {
		id, in := exts.Uint(2), exts.Vector(2)
		end := len(msg) - len(exts.B)
		field := func() part { // the vector that in has next
			v := in.Vector(2)
			e := end - len(in.B)
			return part{e - len(v.B), e}
		}
		switch id {
		case extName:
			in.Take(2 + 1) // the list has one
			f.name = field()
		case extShares:
			for in.Take(2); in.OK && len(in.B) > 0; {
				switch group, key := in.Uint(2), field(); {
				case group == groupHybrid && key.len() == hybridLen:
					f.hybrid = key
				case group == groupX25519 && key.len() == keyLen:
					f.x25519 = key
				}
			}
		case extECH:
			in.Take(1 + 4 + 1)
			in.Vector(2)
			f.payload = field()
		}
		if !in.OK {
			return f, false
		}
	}
	return f, exts.OK
}

// helloLen is how long a handshake message says that it is, with its header of 4 bytes.
func helloLen(msg []byte) int { return 4 + int(msg[1])<<16 + int(msg[2])<<8 + int(msg[3]) }

// put returns a ClientHello of Chromium's that has another one in it, nil if that does not
// fit: without a share of X25519MLKEM768, or with much that is not known.
func (d *Disguise) put(hello []byte, r *rand.Rand) []byte {
	f, ok := parse(hello)
	if !ok || f.hybrid.len() == 0 {
		return nil
	}
	name := f.name.of(hello)
	if len(name) == 0 { // the site is an address
		f.name = part{none, none}
	}
	if hybrid := f.hybrid.of(hello); !bytes.Equal(f.x25519.of(hello), hybrid[hybridLen-keyLen:]) {
		f.x25519 = part{none, none}
	}
	plain := make([]byte, 0, 256)
	for _, p := range []part{f.name, f.hybrid, f.x25519} {
		plain = binary.BigEndian.AppendUint16(plain, uint16(p.start))
	}
	plain = pack(plain, without(hello, f))
	shown, at := chromium(hello[randomAt:randomAt+randomLen], name, f.hybrid.of(hello), len(plain)+tagLen, r)
	if at.len() == 0 {
		return nil
	}
	plain = append(plain, make([]byte, at.len()-tagLen-len(plain))...)
	d.seal.Seal(at.of(shown)[:0], shown[randomAt:randomAt+sealedNonce], plain, around(shown, at))
	return shown
}

// take returns the ClientHello that is in another one.
func (d *Disguise) take(shown []byte) (hello []byte, ok bool) {
	f, ok := parse(shown)
	if !ok || f.payload.len() < sealedAtLeft+tagLen || f.hybrid.len() == 0 {
		return nil, false
	}
	plain, err := d.seal.Open(nil, shown[randomAt:randomAt+sealedNonce], f.payload.of(shown), around(shown, f.payload))
	if err != nil {
		return nil, false
	}
	rest, ok := unpack(plain[sealedAtLeft:])
	if !ok {
		return nil, false
	}
	at := func(i int) int { return int(binary.BigEndian.Uint16(plain[2*i:])) }
	type hole struct {
		at   int
		data []byte
	}
	hybrid := f.hybrid.of(shown)
	holes := []hole{{randomAt, shown[randomAt : randomAt+randomLen]}, {at(0), f.name.of(shown)}, {at(1), hybrid}, {at(2), hybrid[hybridLen-keyLen:]}}
	holes = slices.DeleteFunc(holes, func(h hole) bool { return h.at == none })
	slices.SortFunc(holes, func(a, b hole) int { return cmp.Compare(a.at, b.at) })
	for _, h := range holes {
		n := h.at - len(hello)
		if n < 0 || n > len(rest) {
			return nil, false
		}
		hello, rest = append(append(hello, rest[:n]...), h.data...), rest[n:]
	}
	return append(hello, rest...), true
}

// without is a ClientHello less its random and f.
func without(hello []byte, f fields) (rest []byte) {
	holes := []part{{randomAt, randomAt + randomLen}, f.name, f.hybrid, f.x25519}
	slices.SortFunc(holes, func(a, b part) int { return cmp.Compare(a.start, b.start) })
	at := 0
	for _, p := range holes {
		if p.start != none {
			rest = append(rest, hello[at:p.start]...)
			at = p.end
		}
	}
	return append(rest, hello[at:]...)
}

// around is all of b but p.
func around(b []byte, p part) []byte { return slices.Concat(b[:p.start], b[p.end:]) }

// dictionary is what Go 1.26 and quic-go 0.65 say in a ClientHello, without random, name and keys.
// Another version's is packed with it as well, only not so short.
const dictionary = "" +
	"010005de0303000006130113021303010005af00000010000e00000b000b00020100ff0100010000" +
	"170000001200000039003d0504800800000604800800000704800800000404800c00000801000901" +
	"2301048000ea60030245ac0b011a0e01040f0020027fff000500050100000000000a000a000811ec" +
	"001d00170018000d0010000e08040403080708050806050306030032001a00180804040308070805" +
	"08060401050106010503060302010203001000050003026833002b0003020304003304ea04e811ec" +
	"04c0001d0020"

// pack appends b in the DEFLATE format (RFC 1951), with a ClientHello of Go's as the dictionary.
func pack(dst, b []byte) []byte {
	out := bytes.NewBuffer(dst)
	w, err := flate.NewWriterDict(out, flate.BestCompression, constant(dictionary))
	if err == nil {
		_, err = w.Write(b)
	}
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		panic(err) // a buffer takes everything
	}
	return out.Bytes()
}

// unpack undoes that. What follows is ignored.
func unpack(b []byte) ([]byte, bool) {
	out, err := io.ReadAll(io.LimitReader(flate.NewReaderDict(bytes.NewReader(b), constant(dictionary)), maxRest+1))
	return out, err == nil && len(out) <= maxRest
}
