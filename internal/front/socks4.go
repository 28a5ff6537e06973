package front

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"net/netip"
	"slices"
	"time"

	"busel/internal/flow"
)

// Values of the SOCKS4 protocol (Ying-Da Lee, "SOCKS: A protocol for TCP proxy
// across firewalls") and of its extension 4a ("SOCKS 4A: A Simple Extension to
// SOCKS 4 Protocol").
const (
	socksVersion4  = 4
	socks4Connect  = 1
	socks4Granted  = 0x5a
	socks4Rejected = 0x5b // "request rejected or failed"
	// maxSOCKS4Text is the longest user id and host name, each, in bytes. The
	// protocol sets no limit; a SOCKS5 name and user have this one.
	maxSOCKS4Text = 255
	// maxSOCKS4 is the longest request behind the version byte.
	maxSOCKS4 = 7 + 2*(maxSOCKS4Text+1)
)

// Errors of [parseSOCKS4].
var (
	errShortSOCKS4 = errors.New("SOCKS4 request is cut short")
	errBadSOCKS4   = errors.New("SOCKS4 request is malformed")
)

// socks4Request is a SOCKS4 or 4a request as it is on the wire:
//
//	version 4 | command | port (2) | IPv4 address (4) | user id | 0 [ | host name | 0 ]
//
// The host name is there if the address is 0.0.0.x with x other than 0.
type socks4Request struct {
	command byte
	port    uint16
	ip      [4]byte
	user    string
	name    string
}

// parseSOCKS4 reads a request without its version byte from the start of b, and
// returns its length. The error is errShortSOCKS4 if more bytes are needed, and
// errBadSOCKS4 if no more bytes could help. What is parsed has one form.
func parseSOCKS4(b []byte) (req socks4Request, n int, err error) {
	if len(b) < 7 {
		return socks4Request{}, 0, errShortSOCKS4
	}
	req.command = b[0]
	req.port = binary.BigEndian.Uint16(b[1:])
	req.ip = [4]byte(b[3:7])
	n = 7
	if req.user, n, err = socks4Text(b, n); err != nil {
		return socks4Request{}, 0, err
	}
	if req.named() {
		if req.name, n, err = socks4Text(b, n); err != nil {
			return socks4Request{}, 0, err
		}
	}
	return req, n, nil
}

// socks4Text reads a text that ends with a zero byte at b[from:].
func socks4Text(b []byte, from int) (text string, next int, err error) {
	end := bytes.IndexByte(b[from:], 0)
	switch {
	case end > maxSOCKS4Text, end < 0 && len(b)-from > maxSOCKS4Text:
		return "", 0, errBadSOCKS4
	case end < 0:
		return "", 0, errShortSOCKS4
	}
	return string(b[from : from+end]), from + end + 1, nil
}

// named reports whether the address is the mark of version 4a.
func (r socks4Request) named() bool {
	return r.ip[0] == 0 && r.ip[1] == 0 && r.ip[2] == 0 && r.ip[3] != 0
}

func (r socks4Request) destination() (flow.Addr, error) {
	if r.named() {
		return flow.MakeAddr(r.name, r.port)
	}
	return flow.AddrFrom(netip.AddrPortFrom(netip.AddrFrom4(r.ip), r.port)), nil
}

// serveSOCKS4 reads a request and serves it. The version byte has been read; the
// request's time limit is set on c. The user id is ignored: whoever is on this
// machine may use the proxy. If a password is set every request is rejected,
// since the protocol has none.
func (f *Front) serveSOCKS4(ctx context.Context, c *conn) {
	buf := make([]byte, maxSOCKS4)
	var req socks4Request
	for n, length := 0, 0; length == 0; {
		m, err := c.TCPConn.Read(buf[n:])
		n += m
		var bad error
		req, length, bad = parseSOCKS4(buf[:n])
		switch {
		case errors.Is(bad, errBadSOCKS4):
			f.refuseSOCKS4(c, "its request is malformed")
			return
		case bad != nil && err != nil:
			return
		case bad == nil:
			c.first = slices.Clone(buf[length:n]) // early data
		}
	}
	f.asked(c)
	dst, err := req.destination()
	switch {
	case f.password.Load() != nil:
		f.refuseSOCKS4(c, "SOCKS4 has no password; it must use SOCKS5 or HTTP")
		return
	case req.command != socks4Connect:
		f.refuseSOCKS4(c, "it asks for something else than a connection")
		return
	case err != nil:
		f.refuseSOCKS4(c, "its destination is malformed")
		return
	}
	if c.SetDeadline(time.Time{}) != nil {
		return
	}
	f.tunnel(ctx, c, dst, func(err error) error {
		code := byte(socks4Granted)
		if err != nil {
			code = socks4Rejected
		}
		return replySOCKS4(c, code)
	})
}

// refuseSOCKS4 rejects a request. SOCKS4 cannot tell the program why.
func (f *Front) refuseSOCKS4(c *conn, why string) {
	c.lingering.Store(true)
	f.log.Debug("a program's SOCKS4 request is rejected", "why", why)
	_ = replySOCKS4(c, socks4Rejected) // the connection ends either way
}

// replySOCKS4 answers a request. Port and address mean nothing for CONNECT.
func replySOCKS4(c *conn, code byte) error {
	_, err := c.Write([]byte{0, code, 0, 0, 0, 0, 0, 0})
	return err
}
