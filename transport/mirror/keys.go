package mirror

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdh"
	"crypto/hkdf"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/flynn/noise"
	"golang.org/x/crypto/chacha20poly1305"

	"busel/internal/wire"
)

// Labels of the key schedule (docs/PROTOCOL.md, "Recognition" and "Covert records").
const (
	labelSessionID = "busel mirror 1 sid"
	labelMarker    = "busel mirror 1 marker"
	labelMask      = "busel mirror 1 mask"
	labelProof     = "busel mirror 1 proof"
	prologue       = "busel mirror 1"
)

// Directions in a marker.
const (
	dirClient = 0 // client to relay
	dirRelay  = 1 // relay to client
	dirProof  = 2 // the relay's proof before a borrowed cover's first covert record
)

// Lengths of a covert record in bytes (docs/PROTOCOL.md, section 3.2).
const (
	headerLen  = 5
	markerLen  = 8
	prefixLen  = headerLen + markerLen
	tagLen     = 16
	keyLen     = 32
	minRecord  = 26    // header's length field
	maxRecord  = 16401 // TLS 1.3's longest ciphertext that servers send: 2^14 + 1 + 16
	maxPlain   = maxRecord - markerLen - tagLen
	maxRecords = 1 << 24 // of one carrier and direction; far below AES-GCM's limit (RFC 8446, section 5.5)
)

var errTooMany = errors.New("carrier carried 2^24 records")

// expand is HKDF-Expand of RFC 5869. Its error means a length beyond 255
// hashes, which no label here asks for.
func expand(prk []byte, label string, n int) []byte {
	out, err := hkdf.Expand(sha256.New, prk, label, n)
	if err != nil {
		panic(err)
	}
	return out
}

// extract is HKDF-Extract. Go takes the RFC's two arguments in the other order.
func extract(salt, ikm []byte) []byte {
	prk, err := hkdf.Extract(sha256.New, ikm, salt)
	if err != nil {
		panic(err)
	}
	return prk
}

// sessionID is what a client that knows S puts into its ClientHello. bound are
// the parts of that message which must not change: if they could, whoever saw it
// could put a share of his own beside E and finish the handshake as a candidate.
func sessionID(clientRandom [32]byte, es []byte, bound ...[]byte) []byte {
	h := sha256.New()
	for _, b := range bound {
		h.Write(b)
	}
	return expand(extract(clientRandom[:], es), labelSessionID+string(h.Sum(nil)), 32)
}

// secrets are what a candidate connection derives once the ServerHello is known.
type secrets struct {
	k      []byte
	salt   []byte // client_random || server_random
	marker cipher.Block
}

func newSecrets(clientRandom, serverRandom [32]byte, es []byte) *secrets {
	salt := append(clientRandom[:], serverRandom[:]...)
	k := extract(salt, es)
	block, err := aes.NewCipher(expand(k, labelMarker, 16))
	if err != nil {
		panic(err) // the key has 16 bytes
	}
	return &secrets{k: k, salt: salt, marker: block}
}

// mark is the marker of record n in direction dir.
func (s *secrets) mark(dir byte, n uint64) [markerLen]byte {
	var b [aes.BlockSize]byte
	b[0] = dir
	binary.BigEndian.PutUint64(b[8:], n)
	s.marker.Encrypt(b[:], b[:])
	return [markerLen]byte(b[:])
}

// maskE masks or unmasks the relay's ephemeral key in the reply: the public key
// of a curve is not uniformly random, a record's body is.
func (s *secrets) maskE(e []byte) {
	subtle.XORBytes(e, e[:32], expand(s.k, labelMask, 32))
}

// proofAEAD seals the relay's proof.
func (s *secrets) proofAEAD() cipher.AEAD { return newGCM(expand(s.k, labelProof, keyLen)) }

func newGCM(key []byte) cipher.AEAD {
	block, err := aes.NewCipher(key)
	if err != nil {
		panic(err)
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		panic(err)
	}
	return aead
}

func newAEAD(c wire.Cipher, key [keyLen]byte) (cipher.AEAD, error) {
	switch c {
	case wire.AES256GCM:
		return newGCM(key[:]), nil
	case wire.ChaCha20Poly1305:
		return chacha20poly1305.New(key[:])
	}
	return nil, fmt.Errorf("unknown cipher %d", c)
}

// noiseConfig is Noise_NK_25519_AESGCM_SHA256 bound to this TLS connection.
func (s *secrets) noiseConfig() noise.Config {
	return noise.Config{
		CipherSuite: noise.NewCipherSuite(noise.DH25519, noise.CipherAESGCM, noise.HashSHA256),
		Pattern:     noise.HandshakeNK,
		Prologue:    append([]byte(prologue), s.salt...),
	}
}

// initiator is the client's Noise state; e is the private half of the TLS share.
func (s *secrets) initiator(e *ecdh.PrivateKey, relay [32]byte) (*noise.HandshakeState, error) {
	cfg := s.noiseConfig()
	cfg.Initiator = true
	cfg.PeerStatic = relay[:]
	cfg.Random = bytes.NewReader(e.Bytes())
	return noise.NewHandshakeState(cfg)
}

// responder is the relay's Noise state.
func (s *secrets) responder(key *ecdh.PrivateKey) (*noise.HandshakeState, error) {
	cfg := s.noiseConfig()
	cfg.StaticKeypair = noise.DHKey{Private: key.Bytes(), Public: key.PublicKey().Bytes()}
	return noise.NewHandshakeState(cfg)
}

// pack puts a Noise payload into size bytes: length u16, payload, zero bytes.
// A size that is too small is raised.
func pack(payload []byte, size int) []byte {
	b := make([]byte, max(size, 2+len(payload)))
	binary.BigEndian.PutUint16(b, uint16(len(payload)))
	copy(b[2:], payload)
	return b
}

func unpack(b []byte) ([]byte, error) {
	if len(b) < 2 || int(binary.BigEndian.Uint16(b)) > len(b)-2 {
		return nil, fmt.Errorf("%w: length of a Noise payload", wire.ErrMalformed)
	}
	n := int(binary.BigEndian.Uint16(b))
	return b[2 : 2+n], nil
}

// appendHeader appends a record header and marker for a body of n bytes behind
// the marker.
func appendPrefix(b []byte, mark [markerLen]byte, n int) []byte {
	b = append(b, 0x17, 3, 3)
	b = binary.BigEndian.AppendUint16(b, uint16(markerLen+n))
	return append(b, mark[:]...)
}

// lane seals or opens the records of one direction. It is used by one goroutine
// at a time.
type lane struct {
	s    *secrets
	dir  byte
	n    uint64 // of the next record; record 0 is a Noise message
	aead cipher.AEAD

	// Scratch, so that nothing is allocated for a record.
	iv     [12]byte
	block  [aes.BlockSize]byte
	marked uint64 // block holds the marker of record marked-1
}

// nonce is record n's: 4 zero bytes || n-1.
func (l *lane) nonce() []byte {
	binary.BigEndian.PutUint64(l.iv[4:], l.n-1)
	return l.iv[:]
}

// mark is the marker of the next record.
func (l *lane) mark() [markerLen]byte {
	if l.marked != l.n+1 {
		clear(l.block[:])
		l.block[0] = l.dir
		binary.BigEndian.PutUint64(l.block[8:], l.n)
		l.s.marker.Encrypt(l.block[:], l.block[:])
		l.marked = l.n + 1
	}
	return [markerLen]byte(l.block[:])
}

// seal appends a record around plain, which lies elsewhere, or exactly where
// the plaintext of the record will be.
func (l *lane) seal(b, plain []byte) ([]byte, error) {
	if l.n >= maxRecords {
		return b, errTooMany
	}
	start := len(b)
	b = appendPrefix(b, l.mark(), len(plain)+tagLen)
	b = l.aead.Seal(b, l.nonce(), plain, b[start:start+prefixLen])
	l.n++
	return b, nil
}

// open decrypts rec into dst, which must not overlap it and have room for
// len(rec)-29 bytes, and returns the plaintext's length. rec stays intact when
// opening fails (Go zeroes only the destination), so that it can be passed on.
func (l *lane) open(dst, rec []byte) (int, error) {
	if l.n >= maxRecords {
		return 0, errTooMany
	}
	plain, err := l.aead.Open(dst[:0], l.nonce(), rec[prefixLen:], rec[:prefixLen])
	if err != nil {
		return 0, err
	}
	l.n++
	return len(plain), nil
}
