package quic

import (
	"bytes"
	"crypto/ecdh"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/flynn/noise"
	quicgo "github.com/quic-go/quic-go"

	"busel/internal/wire"
)

const (
	prologue      = "busel quic 1"
	exporterLabel = "EXPORTER-busel quic 1"
	exporterLen   = 32
	// noiseOverhead is an ephemeral key and a tag.
	noiseOverhead = 32 + 16
	// maxPayload is the longest hello or accept, as on mirror.
	maxPayload = 16375
)

var errNoise = errors.New("a Noise message has no acceptable length")

// exporter is what binds the hello to this connection.
func exporter(conn *quicgo.Conn) ([]byte, error) {
	state := conn.ConnectionState().TLS
	return state.ExportKeyingMaterial(exporterLabel, nil, exporterLen)
}

func noiseConfig(exporter []byte) noise.Config {
	return noise.Config{
		CipherSuite: noise.NewCipherSuite(noise.DH25519, noise.CipherAESGCM, noise.HashSHA256),
		Pattern:     noise.HandshakeNK,
		Prologue:    append([]byte(prologue), exporter...),
	}
}

// initiator is the client's Noise state.
func initiator(exporter []byte, relay [32]byte) (*noise.HandshakeState, error) {
	cfg := noiseConfig(exporter)
	cfg.Initiator = true
	cfg.PeerStatic = relay[:]
	return noise.NewHandshakeState(cfg)
}

// responder is the relay's Noise state.
func responder(exporter []byte, key *ecdh.PrivateKey) (*noise.HandshakeState, error) {
	cfg := noiseConfig(exporter)
	cfg.StaticKeypair = noise.DHKey{Private: key.Bytes(), Public: key.PublicKey().Bytes()}
	return noise.NewHandshakeState(cfg)
}

// writeMessage seals a payload into the next Noise message and sends it.
func writeMessage(w io.Writer, hs *noise.HandshakeState, payload []byte) error {
	if len(payload) > maxPayload {
		return fmt.Errorf("%w: a payload of %d bytes", errNoise, len(payload))
	}
	msg, _, _, err := hs.WriteMessage(make([]byte, 2, 2+noiseOverhead+len(payload)), payload)
	if err != nil {
		return err
	}
	binary.BigEndian.PutUint16(msg, uint16(len(msg)-2))
	_, err = w.Write(msg)
	return err
}

// readMessage receives a Noise message and opens it.
func readMessage(r io.Reader, hs *noise.HandshakeState) ([]byte, error) {
	var head [2]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, err
	}
	n := int(binary.BigEndian.Uint16(head[:]))
	if n < noiseOverhead || n > noiseOverhead+maxPayload {
		return nil, errNoise
	}
	msg := make([]byte, n)
	if _, err := io.ReadFull(r, msg); err != nil {
		return nil, err
	}
	payload, _, _, err := hs.ReadMessage(nil, msg)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", wire.ErrMalformed, err)
	}
	return payload, nil
}

// maxFiller is the longest filler of a request or reply, in bytes.
const maxFiller = 1 << 14

// readFiller takes off a filler: length u16 | zeros, of which only the length
// is looked at.
func readFiller(r io.Reader) error {
	var head [2]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return err
	}
	n := int64(binary.BigEndian.Uint16(head[:]))
	if n > maxFiller {
		return errNoise
	}
	_, err := io.CopyN(io.Discard, r, n)
	return err
}

// filler returns a filler of n bytes behind its length.
func filler(n int) []byte {
	b := make([]byte, 2+n)
	binary.BigEndian.PutUint16(b, uint16(n))
	return b
}

// writeFilled sends the next Noise message and a filler of n bytes at once.
func writeFilled(w io.Writer, hs *noise.HandshakeState, payload []byte, n int) error {
	var b bytes.Buffer
	if err := writeMessage(&b, hs, payload); err != nil {
		return err
	}
	b.Write(filler(n))
	_, err := w.Write(b.Bytes())
	return err
}

// markLen is the length of a mark in characters.
const markLen = 32

// mark is what a request of a client carries in its head, so that the relay
// reads a body for nobody else: a site answers some requests before their body
// has come, and a relay that waited for it would be seen. It shows S to nobody
// who does not know it, and is worth nothing on another connection.
func mark(exporter []byte, relay [32]byte) (string, error) {
	prk, err := hkdf.Extract(sha256.New, relay[:], exporter)
	if err != nil {
		return "", err
	}
	m, err := hkdf.Expand(sha256.New, prk, "busel quic 1 mark", markLen*3/4)
	return base64.RawURLEncoding.EncodeToString(m), err
}
