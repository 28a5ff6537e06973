package front

import (
	"context"
	"errors"
	"io"
	"slices"
	"time"

	"github.com/armon/go-socks5"

	"busel/internal/flow"
)

// Values of RFC 1928 and of the SOCKS4 protocol that go-socks5 does not export.
const (
	socksVersion4  = 4
	socksVersion5  = 5
	noAcceptable   = 0xff // RFC 1928, section 3
	socks4Rejected = 0x5b // "request rejected or failed"
)

var errNoMethod = errors.New("the program offers no authentication method that the proxy knows")

// serveSOCKS5 negotiates, reads the request and serves it. The version byte has
// been read; the request's time limit is set on c.
func (f *Front) serveSOCKS5(ctx context.Context, c *conn) {
	if err := f.authenticate(c); err != nil {
		f.log.Debug("SOCKS negotiation ended", "cause", cause(err))
		return
	}
	head := &headReader{r: c}
	req, err := socks5.NewRequest(head)
	if err != nil {
		// go-socks5 does not say what is wrong; the head does.
		if v, atyp, ok := head.seen(); ok && v == socksVersion5 && !slices.Contains([]byte{1, 3, 4}, atyp) {
			f.refuseSOCKS5(c, flow.AddressNotSupported)
		} else if ok && v != socksVersion5 {
			f.refuseSOCKS5(c, flow.GeneralFailure)
		}
		return
	}
	f.asked(c)
	dst, err := destination(req.DestAddr)
	switch {
	case req.Command != socks5.ConnectCommand:
		f.refuseSOCKS5(c, flow.CommandNotSupported)
		return
	case err != nil:
		f.refuseSOCKS5(c, flow.AddressNotSupported)
		return
	}
	if c.SetDeadline(time.Time{}) != nil {
		return
	}
	f.tunnel(ctx, c, dst, func(err error) error {
		return replySOCKS5(c, socksCode(err))
	})
}

// authenticate agrees on a method (RFC 1928, section 3) and carries it out.
func (f *Front) authenticate(c *conn) error {
	var n [1]byte
	if _, err := io.ReadFull(c, n[:]); err != nil {
		return err
	}
	methods := make([]byte, n[0])
	if _, err := io.ReadFull(c, methods); err != nil {
		return err
	}
	for _, a := range f.auth {
		if slices.Contains(methods, a.GetCode()) {
			_, err := a.Authenticate(c, c)
			return err
		}
	}
	c.lingering.Store(true)
	_, err := c.Write([]byte{socksVersion5, noAcceptable})
	return errors.Join(errNoMethod, err)
}

// destination turns go-socks5's address into ours. Names stay names.
func destination(a *socks5.AddrSpec) (flow.Addr, error) {
	host := a.FQDN
	if len(a.IP) > 0 {
		host = a.IP.String()
	}
	return flow.MakeAddr(host, uint16(a.Port))
}

func (f *Front) refuseSOCKS5(c *conn, code flow.Code) {
	c.lingering.Store(true)
	_ = replySOCKS5(c, code) // the connection ends either way
}

// replySOCKS5 answers a request. The bound address is left empty: it is the
// relay's, and no application needs it for CONNECT.
func replySOCKS5(c *conn, code flow.Code) error {
	_, err := c.Write(flow.Addr{}.Append([]byte{socksVersion5, byte(code), 0}))
	return err
}

// refuseSOCKS4 answers a SOCKS4 or 4a request: rejected.
func (f *Front) refuseSOCKS4(c *conn) {
	c.lingering.Store(true)
	f.log.Debug("a program speaks SOCKS4 to the proxy; it must use SOCKS5")
	_, _ = c.Write([]byte{0, socks4Rejected, 0, 0, 0, 0, 0, 0}) // the connection ends either way
}

// socksCode is the reply code for how an opening ended.
func socksCode(err error) flow.Code {
	if err == nil {
		return flow.Succeeded
	}
	if open, ok := errors.AsType[*flow.OpenError](err); ok {
		if open.Code == flow.Succeeded || open.Code > flow.AddressNotSupported {
			return flow.GeneralFailure
		}
		return open.Code
	}
	switch {
	case errors.Is(err, errOwnAddress):
		return flow.NotAllowed
	case errors.Is(err, context.DeadlineExceeded):
		return flow.TTLExpired
	}
	return flow.GeneralFailure
}

// headReader remembers the first four bytes of a request: version, command,
// reserved, address type (RFC 1928, section 4).
type headReader struct {
	r    io.Reader
	head [4]byte
	n    int
}

func (h *headReader) Read(b []byte) (int, error) {
	n, err := h.r.Read(b)
	h.n += copy(h.head[h.n:], b[:n])
	return n, err
}

func (h *headReader) seen() (version, atyp byte, ok bool) {
	// A wrong version ends the reading before the address type.
	return h.head[0], h.head[3], h.n == 4 || h.n > 0 && h.head[0] != socksVersion5
}
