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

// Values of RFC 1928 that go-socks5 does not export.
const (
	socksVersion5 = 5
	noAcceptable  = 0xff // section 3
)

// Why a negotiation ended.
var (
	errNoMethod      = errors.New("the program does not offer the authentication method that the proxy wants")
	errWrongPassword = errors.New("the program says a wrong user or password")
)

// serveSOCKS5 negotiates, reads the request and serves it. The version byte has
// been read; the request's time limit is set on c.
func (f *Front) serveSOCKS5(ctx context.Context, c *conn) {
	if err := f.authenticate(ctx, c); err != nil {
		f.log.Debug("SOCKS negotiation ended", "cause", negotiationCause(err))
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
	case req.Command == socks5.AssociateCommand:
		f.serveAssociate(ctx, c, dst) // its address is a hint, and may be none
		return
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

// authenticate agrees on a method (RFC 1928, section 3) and carries it out. If a
// password is set no other method will do.
func (f *Front) authenticate(ctx context.Context, c *conn) error {
	var n [1]byte
	if _, err := io.ReadFull(c, n[:]); err != nil {
		return err
	}
	methods := make([]byte, n[0])
	if _, err := io.ReadFull(c, methods); err != nil {
		return err
	}
	var method socks5.Authenticator = socks5.NoAuthAuthenticator{}
	if password := f.password.Load(); password != nil {
		method = socks5.UserPassAuthenticator{Credentials: login{ctx, password}}
	}
	if slices.Contains(methods, method.GetCode()) {
		_, err := method.Authenticate(c, c)
		if errors.Is(err, socks5.UserAuthFailed) {
			c.lingering.Store(true) // the program must hear it
			return errWrongPassword
		}
		return err
	}
	c.lingering.Store(true)
	_, err := c.Write([]byte{socksVersion5, noAcceptable})
	return errors.Join(errNoMethod, err)
}

// negotiationCause keeps our own words and the system's.
func negotiationCause(err error) error {
	for _, own := range []error{errNoMethod, errWrongPassword} {
		if errors.Is(err, own) {
			return own
		}
	}
	return cause(err)
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
	return replyBoundSOCKS5(c, code, flow.Addr{})
}

func replyBoundSOCKS5(c *conn, code flow.Code, bound flow.Addr) error {
	_, err := c.Write(bound.Append([]byte{socksVersion5, byte(code), 0}))
	return err
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
