// Package tunnel holds the plainest tunnels of the kinds that censors recognise.
//
// The lab puts them in Busel's place to prove that a simulated censor bites: what
// these two do is what a row of THREATS.md says is blocked. They are honest
// tunnels, and nothing is done to hide them.
//
//   - [TLS] opens a TLS 1.3 connection of Go's crypto/tls for each stream, to the
//     relay's name in the clear: a Trojan without its password.
//   - [Browser] is the same with the ClientHello of a browser, as REALITY and Trojan
//     have it by the same library: uTLS's newest Chrome, which is an old one.
//   - [Random] looks random from its first byte on, as Shadowsocks, VMess and obfs4
//     do: a random nonce, then the stream under AES-CTR (row C1).
//
// Inside either is the same, and the least: the destination in SOCKS5 address form,
// in front of the stream's first bytes. [Client] is a [flow.Opener], so
// internal/front makes a local proxy of it; [Serve] joins what arrives to another
// opener, such as internal/exit.
package tunnel

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"sync"
	"time"

	utls "github.com/refraction-networking/utls"

	"busel/internal/flow"
)

// Kind is what a tunnel looks like.
type Kind string

// Kinds of tunnels.
const (
	TLS     Kind = "tls"
	Browser Kind = "browser"
	Random  Kind = "random"
)

// handshakeTime bounds the opening of a stream at the server.
const handshakeTime = 20 * time.Second

// Client opens streams through a server. It has no UDP.
type Client struct {
	Kind   Kind
	Server string // host:port
	Name   string // server name in the ClientHello
	Dial   func(ctx context.Context, network, address string) (net.Conn, error)
}

var _ flow.Opener = (*Client)(nil)

// OpenPackets fails: there is no UDP.
func (c *Client) OpenPackets(context.Context) (flow.Packets, error) {
	return nil, &flow.OpenError{Code: flow.CommandNotSupported}
}

// OpenStream connects to the server. The destination travels with the first bytes
// that are written, and there is no answer: if it cannot be reached, the stream
// ends.
func (c *Client) OpenStream(ctx context.Context, dst flow.Addr) (flow.Stream, error) {
	conn, err := c.Dial(ctx, "tcp", c.Server)
	if err != nil {
		return nil, &flow.OpenError{Code: flow.GeneralFailure, Err: err}
	}
	s, err := c.Kind.wrap(conn, &tls.Config{ServerName: c.Name, InsecureSkipVerify: true, NextProtos: protocols}, true)
	if handshake, ok := s.(interface{ HandshakeContext(context.Context) error }); ok && err == nil {
		err = handshake.HandshakeContext(ctx)
	}
	if err != nil {
		conn.Close()
		return nil, &flow.OpenError{Code: flow.GeneralFailure, Err: err}
	}
	return &stream{halfConn: s, head: dst.Append(nil)}, nil
}

// protocols are what both ends say that they speak, as a web site would.
var protocols = []string{"h2", "http/1.1"}

// halfConn is a connection whose sending half can be closed.
type halfConn interface {
	net.Conn
	CloseWrite() error
}

// stream sends its destination in front of the first bytes.
type stream struct {
	halfConn
	head []byte // not sent yet
}

// Connected knows nothing, and says nothing else.
func (s *stream) Connected(context.Context) error { return nil }

func (s *stream) Write(b []byte) (int, error) {
	if s.head == nil {
		return s.halfConn.Write(b)
	}
	first := append(s.head, b...)
	s.head = nil
	if _, err := s.halfConn.Write(first); err != nil {
		return 0, err
	}
	return len(b), nil
}

func (s *stream) CloseWrite() error {
	if _, err := s.Write(nil); err != nil {
		return err
	}
	return s.halfConn.CloseWrite()
}

// wrap makes the tunnel's connection of a bare one.
func (k Kind) wrap(conn net.Conn, cfg *tls.Config, client bool) (halfConn, error) {
	switch {
	case k == Random:
		return newMasked(conn)
	case k != TLS && k != Browser:
		return nil, fmt.Errorf("tunnel of unknown kind %q: want %q, %q or %q", k, TLS, Browser, Random)
	case client && k == Browser:
		c := utls.UClient(conn, &utls.Config{ServerName: cfg.ServerName, InsecureSkipVerify: true}, utls.HelloChrome_Auto)
		return c, nil
	case client:
		return tls.Client(conn, cfg), nil
	}
	return tls.Server(conn, cfg), nil
}

// Serve joins what arrives on ln to opener until ctx ends, and closes ln.
func Serve(ctx context.Context, ln net.Listener, kind Kind, name string, opener flow.Opener) error {
	cfg, err := SelfSigned(name)
	if err != nil {
		return err
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	defer context.AfterFunc(ctx, func() { ln.Close() })()
	for {
		conn, err := ln.Accept()
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err != nil {
			return err
		}
		wg.Go(func() {
			defer conn.Close()
			_ = serve(ctx, conn, kind, cfg, opener) // the other end notices
		})
	}
}

func serve(ctx context.Context, conn net.Conn, kind Kind, cfg *tls.Config, opener flow.Opener) error {
	if err := conn.SetDeadline(time.Now().Add(handshakeTime)); err != nil {
		return err
	}
	s, err := kind.wrap(conn, cfg, false)
	if err != nil {
		return err
	}
	dst, err := readAddr(s)
	if err != nil {
		return err
	}
	if err := conn.SetDeadline(time.Time{}); err != nil {
		return err
	}
	out, err := opener.OpenStream(ctx, dst)
	if err == nil {
		err = out.Connected(ctx)
	}
	if err != nil {
		return err
	}
	_, _, err = flow.Join(ctx, s, out)
	return err
}

// readAddr reads an address in SOCKS5 form, byte by byte, since what follows it is
// the stream's.
func readAddr(r io.Reader) (flow.Addr, error) {
	var form []byte
	for {
		form = append(form, 0)
		if _, err := io.ReadFull(r, form[len(form)-1:]); err != nil {
			return flow.Addr{}, err
		}
		dst, _, err := flow.ParseAddr(form)
		if err == nil || len(form) > 1+1+255+2 {
			return dst, err
		}
	}
}

// SelfSigned is a server's configuration with a certificate that nobody vouches
// for: this tunnel's, or that of a man in the middle.
func SelfSigned(names ...string) (*tls.Config, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	leaf := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: names[0]}, DNSNames: names,
		IsCA: true, BasicConstraintsValid: true, // so that curl can be told to trust it
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, leaf, leaf, &key.PublicKey, key)
	if err != nil {
		return nil, err
	}
	return &tls.Config{
		Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}},
		NextProtos:   []string{"h2", "http/1.1"},
	}, nil
}

// masked is a connection under AES-CTR with a key that everybody knows: it hides
// nothing from who looks for it, and looks as random as what does.
type masked struct {
	net.Conn
	half  interface{ CloseWrite() error }
	block cipher.Block
	in    *cipher.StreamReader // nil before the first read
	out   *cipher.StreamWriter
	nonce []byte // to be sent in front of the first bytes
}

func newMasked(conn net.Conn) (*masked, error) {
	half, ok := conn.(interface{ CloseWrite() error })
	if !ok {
		return nil, errors.New("the connection has no halves")
	}
	key := sha256.Sum256([]byte("busel lab tunnel"))
	block, err := aes.NewCipher(key[:])
	if err != nil {
		return nil, err
	}
	nonce := make([]byte, aes.BlockSize)
	if _, err := rand.Read(nonce); err != nil {
		return nil, err
	}
	return &masked{
		Conn: conn, half: half, block: block, nonce: nonce,
		out: &cipher.StreamWriter{S: cipher.NewCTR(block, nonce), W: conn},
	}, nil
}

func (m *masked) Read(b []byte) (int, error) {
	if m.in == nil {
		nonce := make([]byte, aes.BlockSize)
		if _, err := io.ReadFull(m.Conn, nonce); err != nil {
			return 0, err
		}
		m.in = &cipher.StreamReader{S: cipher.NewCTR(m.block, nonce), R: m.Conn}
	}
	return m.in.Read(b)
}

// Write sends the nonce and the first bytes as one segment, as real ones do.
func (m *masked) Write(b []byte) (int, error) {
	if m.nonce == nil {
		return m.out.Write(b)
	}
	first := append(m.nonce, make([]byte, len(b))...)
	m.out.S.XORKeyStream(first[len(m.nonce):], b)
	m.nonce = nil
	if _, err := m.Conn.Write(first); err != nil {
		return 0, err
	}
	return len(b), nil
}

func (m *masked) CloseWrite() error { return m.half.CloseWrite() }
