package main

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
)

// hop is a process that bench runs itself as. It prints its address and ends
// with its standard input.
func hop(kind string, args []string) error {
	var lc net.ListenConfig
	lc.SetMultipathTCP(false) // as Busel; it also keeps the kernel from splicing
	l, err := lc.Listen(context.Background(), "tcp4", "127.0.0.1:0")
	if err != nil {
		return err
	}
	next := ""
	if len(args) > 0 {
		next = args[0]
	}
	serve := map[string]func(*net.TCPConn) error{
		"origin":        origin,
		"plain-client":  func(c *net.TCPConn) error { return plainClient(c, next) },
		"plain-relay":   func(c *net.TCPConn) error { return relay(c, c) },
		"sealed-client": func(c *net.TCPConn) error { return sealedClient(c, next) },
		"sealed-relay":  func(c *net.TCPConn) error { return relay(c, newSealed(c, 1)) },
	}[kind]
	if serve == nil {
		return fmt.Errorf("unknown hop %q", kind)
	}
	fmt.Println(l.Addr())
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		_ = l.Close()
		os.Exit(0)
	}()
	for {
		c, err := l.Accept()
		if err != nil {
			return err
		}
		go func() {
			defer c.Close()
			_ = serve(c.(*net.TCPConn)) // the measuring side notices
		}()
	}
}

// origin sends, takes or holds, as the request says: what u8, n u64.
func origin(c *net.TCPConn) error {
	request := make([]byte, 9)
	if _, err := io.ReadFull(c, request); err != nil {
		return err
	}
	left := int64(binary.BigEndian.Uint64(request[1:]))
	buf := make([]byte, 256<<10)
	switch request[0] {
	case 'u':
		if _, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{io.LimitReader(c, left)}, buf); err != nil {
			return err
		}
		_, err := c.Write([]byte{1})
		return err
	case 'd', 'i':
		for left > 0 {
			n, err := c.Write(buf[:min(left, int64(len(buf)))])
			if err != nil {
				return err
			}
			left -= int64(n)
		}
		if request[0] == 'd' {
			return nil
		}
		_, err := io.ReadFull(c, request) // until the client leaves
		return err
	}
	return errors.New("unknown request")
}

func dialTCP(address string) (*net.TCPConn, error) {
	c, err := net.Dial("tcp4", address)
	if err != nil {
		return nil, err
	}
	return c.(*net.TCPConn), nil
}

// duplex is a connection whose sending half can be closed.
type duplex interface {
	io.ReadWriter
	CloseWrite() error
}

// one copies a direction. Between two TCP connections io.Copy splices.
func one(to, from duplex) func() error {
	return func() error {
		_, err := io.Copy(to, from)
		return errors.Join(err, to.CloseWrite())
	}
}

func plainClient(c *net.TCPConn, next string) error {
	up, err := dialTCP(next)
	if err != nil {
		return err
	}
	defer up.Close()
	join(one(c, up), one(up, c))
	return nil
}

func sealedClient(c *net.TCPConn, next string) error {
	up, err := dialTCP(next)
	if err != nil {
		return err
	}
	defer up.Close()
	s := newSealed(up, 0)
	join(one(c, s), one(s, c))
	return nil
}

// relay is the far hop: SOCKS5 (RFC 1928) with no authentication, CONNECT to an
// IPv4 address, no more than bench itself asks for.
func relay(c *net.TCPConn, d duplex) error {
	greeting := make([]byte, 3)
	if _, err := io.ReadFull(d, greeting); err != nil {
		return err
	}
	if _, err := d.Write([]byte{5, 0}); err != nil {
		return err
	}
	request := make([]byte, 10)
	if _, err := io.ReadFull(d, request); err != nil {
		return err
	}
	if greeting[0] != 5 || request[1] != 1 || request[3] != 1 {
		return errors.New("not a request of bench")
	}
	out, err := dialTCP(fmt.Sprintf("%s:%d", net.IP(request[4:8]), binary.BigEndian.Uint16(request[8:])))
	if err != nil {
		return err
	}
	defer out.Close()
	if _, err := d.Write([]byte{5, 0, 0, 1, 0, 0, 0, 0, 0, 0}); err != nil {
		return err
	}
	join(one(d, out), one(out, d))
	return nil
}

const (
	recordMax = 16 << 10 // plaintext bytes of a record, as in TLS
	recordTag = 16
	together  = 4 // records a write
)

// sealed is the least that any encrypting forwarder does: length u16 and
// AES-256-GCM, both directions under one known key with counters as nonces. It
// protects nothing; it costs what protection costs.
type sealed struct {
	c             *net.TCPConn
	aead          cipher.AEAD
	in, out       [12]byte // nonces: direction, then the count in the last eight bytes
	raw           []byte   // received and not yet opened
	start, end    int
	plain, sendTo []byte
}

func newSealed(c *net.TCPConn, side byte) *sealed {
	block, err := aes.NewCipher(make([]byte, 32))
	if err != nil {
		panic(err) // the length is right
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		panic(err)
	}
	s := &sealed{c: c, aead: aead, raw: make([]byte, together*(2+recordMax+recordTag))}
	s.out[0], s.in[0] = side, 1-side
	return s
}

func count(nonce *[12]byte) []byte {
	binary.BigEndian.PutUint64(nonce[4:], binary.BigEndian.Uint64(nonce[4:])+1)
	return nonce[:]
}

func (s *sealed) Write(b []byte) (written int, err error) {
	for len(b) > 0 {
		s.sendTo = s.sendTo[:0]
		taken := 0
		for range together {
			n := min(len(b)-taken, recordMax)
			if n == 0 {
				break
			}
			s.sendTo = binary.BigEndian.AppendUint16(s.sendTo, uint16(n+recordTag))
			s.sendTo = s.aead.Seal(s.sendTo, count(&s.out), b[taken:taken+n], nil)
			taken += n
		}
		if _, err := s.c.Write(s.sendTo); err != nil {
			return written, err
		}
		written += taken
		b = b[taken:]
	}
	return written, nil
}

func (s *sealed) Read(b []byte) (int, error) {
	for len(s.plain) == 0 {
		have := s.raw[s.start:s.end]
		if len(have) >= 2 {
			if n := 2 + int(binary.BigEndian.Uint16(have)); len(have) >= n {
				plain, err := s.aead.Open(have[2:2], count(&s.in), have[2:n], nil)
				if err != nil {
					return 0, err
				}
				s.plain = plain
				s.start += n
				continue
			}
		}
		s.end = copy(s.raw, have)
		s.start = 0
		n, err := s.c.Read(s.raw[s.end:])
		s.end += n
		if n == 0 && err != nil {
			return 0, err
		}
	}
	n := copy(b, s.plain)
	s.plain = s.plain[n:]
	return n, nil
}

// ReadFrom gives Write what four records hold at a time.
func (s *sealed) ReadFrom(from io.Reader) (int64, error) {
	return io.CopyBuffer(struct{ io.Writer }{s}, struct{ io.Reader }{from}, make([]byte, together*recordMax))
}

// WriteTo hands on each record as it was opened.
func (s *sealed) WriteTo(to io.Writer) (int64, error) {
	return io.CopyBuffer(struct{ io.Writer }{to}, struct{ io.Reader }{s}, make([]byte, together*recordMax))
}

func (s *sealed) CloseWrite() error { return s.c.CloseWrite() }
