package checkup

import (
	"bytes"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/tls"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"hash"
	"io"
	"net"
	"time"

	"golang.org/x/crypto/chacha20poly1305"
	"golang.org/x/crypto/cryptobyte"
)

// ticket is what a server says of a later visit (RFC 8446, section 4.6.1).
type ticket struct {
	earlyData uint32 // bytes that it takes at once; 0 is none
}

// maxHeard bounds what is kept of a server's first words, in bytes: a flight with
// long certificates, tickets and a small answer.
const maxHeard = 128 << 10

// recorder keeps the first bytes that a server sends.
type recorder struct {
	net.Conn
	heard []byte
}

func (r *recorder) Read(b []byte) (int, error) {
	n, err := r.Conn.Read(b)
	if room := maxHeard - len(r.heard); room > 0 {
		r.heard = append(r.heard, b[:min(n, room)]...)
	}
	return n, err
}

// hearTickets asks for the first page over HTTP/1.1 and reads the tickets that the
// server sent until its answer came. The standard library does not tell what they
// allow over TCP, so the records are opened here. It closes conn.
func hearTickets(ctx context.Context, conn net.Conn, cfg *tls.Config) (all []ticket, answer []byte, err error) {
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	var keys bytes.Buffer
	heard := &recorder{Conn: conn}
	cfg = cfg.Clone()
	cfg.KeyLogWriter = &keys
	cfg.NextProtos = []string{"http/1.1"}
	cfg.ClientSessionCache = tls.NewLRUClientSessionCache(1) // else it asks for no tickets
	c := tls.Client(heard, cfg)
	if err := c.HandshakeContext(ctx); err != nil {
		return nil, nil, err
	}
	if _, err := fmt.Fprintf(c, "GET / HTTP/1.1\r\nHost: %s\r\nUser-Agent: Mozilla/5.0\r\nAccept: */*\r\nConnection: close\r\n\r\n", hostOf(cfg.ServerName)); err != nil {
		return nil, nil, err
	}
	answer, err = io.ReadAll(io.LimitReader(c, maxHeard))
	if len(answer) == 0 && err != nil {
		return nil, nil, err
	}
	s := c.ConnectionState()
	if s.Version != tls.VersionTLS13 {
		return nil, answer, nil
	}
	secret, err := trafficSecret(keys.Bytes())
	if err != nil {
		return nil, answer, err
	}
	all, err = openTickets(heard.heard, s.CipherSuite, secret)
	return all, answer, err
}

// trafficSecret finds SERVER_TRAFFIC_SECRET_0 in a key log (the format of NSS).
func trafficSecret(log []byte) ([]byte, error) {
	for line := range bytes.Lines(log) {
		f := bytes.Fields(line)
		if len(f) == 3 && string(f[0]) == "SERVER_TRAFFIC_SECRET_0" {
			return hex.DecodeString(string(f[2]))
		}
	}
	return nil, fmt.Errorf("no traffic secret of TLS 1.3")
}

// openTickets reads the tickets in a server's records. Records before the first that
// opens are of the handshake; a message may go over several records.
func openTickets(heard []byte, suite uint16, secret []byte) ([]ticket, error) {
	aead, iv, err := recordKeys(suite, secret)
	if err != nil {
		return nil, err
	}
	var all []ticket
	var messages []byte
	seq := uint64(0)
	for len(heard) >= 5 {
		n := 5 + int(binary.BigEndian.Uint16(heard[3:]))
		if len(heard) < n {
			break // cut by the bound
		}
		record := heard[:n]
		heard = heard[n:]
		if record[0] != 23 { // application_data
			continue
		}
		nonce := bytes.Clone(iv)
		for i := range 8 {
			nonce[len(nonce)-1-i] ^= byte(seq >> (8 * i))
		}
		plain, err := aead.Open(nil, nonce, record[5:], record[:5])
		if err != nil {
			if seq == 0 {
				continue
			}
			return all, nil // a key update; tickets come before
		}
		seq++
		plain = bytes.TrimRight(plain, "\x00")
		if len(plain) == 0 || plain[len(plain)-1] != 22 { // handshake
			continue
		}
		messages = append(messages, plain[:len(plain)-1]...)
		for len(messages) >= 4 {
			size := 4 + int(messages[1])<<16 + int(messages[2])<<8 + int(messages[3])
			if len(messages) < size {
				break
			}
			if messages[0] == 4 { // new_session_ticket
				t, ok := parseTicket(messages[4:size])
				if !ok {
					return all, fmt.Errorf("a NewSessionTicket that cannot be parsed")
				}
				all = append(all, t)
			}
			messages = messages[size:]
		}
	}
	return all, nil
}

func parseTicket(b []byte) (ticket, bool) {
	s := cryptobyte.String(b)
	var t ticket
	var nonce, label, extensions cryptobyte.String
	if !s.Skip(8) || !s.ReadUint8LengthPrefixed(&nonce) || !s.ReadUint16LengthPrefixed(&label) ||
		!s.ReadUint16LengthPrefixed(&extensions) || !s.Empty() {
		return t, false
	}
	for !extensions.Empty() {
		var kind uint16
		var body cryptobyte.String
		if !extensions.ReadUint16(&kind) || !extensions.ReadUint16LengthPrefixed(&body) {
			return t, false
		}
		if kind == 42 && !body.ReadUint32(&t.earlyData) { // early_data
			return t, false
		}
	}
	return t, true
}

// recordKeys are a direction's key and iv (RFC 8446, section 7.3).
func recordKeys(suite uint16, secret []byte) (cipher.AEAD, []byte, error) {
	size, h := 32, func() hash.Hash { return sha256.New() }
	switch suite {
	case tls.TLS_AES_128_GCM_SHA256:
		size = 16
	case tls.TLS_AES_256_GCM_SHA384:
		h = func() hash.Hash { return sha512.New384() }
	case tls.TLS_CHACHA20_POLY1305_SHA256:
	default:
		return nil, nil, fmt.Errorf("cipher suite %#x is not of TLS 1.3", suite)
	}
	key, err := expandLabel(h, secret, "key", size)
	if err != nil {
		return nil, nil, err
	}
	iv, err := expandLabel(h, secret, "iv", 12)
	if err != nil {
		return nil, nil, err
	}
	if suite == tls.TLS_CHACHA20_POLY1305_SHA256 {
		aead, err := chacha20poly1305.New(key)
		return aead, iv, err
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, nil, err
	}
	aead, err := cipher.NewGCM(block)
	return aead, iv, err
}

func expandLabel(h func() hash.Hash, secret []byte, label string, n int) ([]byte, error) {
	var b cryptobyte.Builder
	b.AddUint16(uint16(n))
	b.AddUint8LengthPrefixed(func(b *cryptobyte.Builder) { b.AddBytes([]byte("tls13 " + label)) })
	b.AddUint8(0)
	return hkdf.Expand(h, secret, string(b.BytesOrPanic()), n)
}
