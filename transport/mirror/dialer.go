package mirror

import (
	"context"
	"crypto/ecdh"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"sync"
	"time"

	utls "github.com/refraction-networking/utls"

	"busel/internal/wire"
	"busel/obfs/fragment"
	"busel/obfs/look"
	"busel/transport"
)

// DialerConfig is one relay as an invite describes it.
type DialerConfig struct {
	PublicKey [32]byte // S, the relay's X25519 key
	CoverName string   // SNI, and the name in the cover's certificate
	// CertHash is the SHA-256 of the DER of a self-signed cover's leaf
	// certificate; nil verifies the chain and CoverName against Roots.
	CertHash *[32]byte
	// Roots are what the cover's chain must lead to; nil means the Mozilla roots
	// built into the program, never the system's: a censor's may be in it.
	// Validity dates are ignored: a resident's clock may be wrong.
	Roots *x509.CertPool
	// Proof says that the cover is borrowed: a genuine request goes first, and
	// nothing covert is sent before the relay has shown itself.
	Proof   bool
	Network transport.Network // nil means transport.System with the look's keepalive
	// Look is asked for each carrier what browser it looks like, and must not block. nil
	// means the first of [look.Shipped].
	Look func() *look.Look
	// Refused, if not nil, is told of a look whose fresh hello the cover's TLS ended with
	// an alert, and must not block. With the other look that it returns, if any, the dial
	// is made once more; accepted is called if the cover's TLS takes that one.
	Refused func(l *look.Look) (other *look.Look, accepted func())
	// Place names the network that the client is on, and must not block: what a cover
	// gave to resume TLS with on one is not used on another one. nil: all networks with
	// the same local address are one.
	Place  func() string
	Logger *slog.Logger // nil discards
}

// Dialer makes carriers to one relay. It is safe for concurrent use.
type Dialer struct {
	cfg      DialerConfig
	log      *slog.Logger
	relay    *ecdh.PublicKey
	verifier verifier
	tickets  tickets
	pages    pages
	patience time.Duration // for the reply; replyTimeout but in tests

	mu     sync.Mutex
	closed bool
	open   map[*client]struct{}
	wg     sync.WaitGroup // of all clients' goroutines; Add under mu
}

var _ transport.Dialer = (*Dialer)(nil)

// maxHelloPayload is the longest hello in bytes: a record less its marker, tag
// and length.
const maxHelloPayload = maxPlain - 2

// NewDialer checks cfg and starts nothing.
func NewDialer(cfg DialerConfig) (*Dialer, error) {
	relay, err := ecdh.X25519().NewPublicKey(cfg.PublicKey[:])
	if err != nil {
		return nil, fmt.Errorf("mirror dialer: relay's key: %w", err)
	}
	if cfg.CoverName == "" {
		return nil, errors.New("mirror dialer: the cover's name is missing")
	}
	v, err := newVerifier(cfg.CoverName, cfg.CertHash, cfg.Roots)
	if err != nil {
		return nil, fmt.Errorf("mirror dialer: %w", err)
	}
	if cfg.Look == nil {
		l, err := shipped()
		if err != nil {
			return nil, fmt.Errorf("mirror dialer: %w", err)
		}
		cfg.Look = func() *look.Look { return l }
	}
	if cfg.Place == nil {
		cfg.Place = func() string { return "" }
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	return &Dialer{
		cfg: cfg, log: cfg.Logger, relay: relay, verifier: v,
		patience: replyTimeout,
		open:     map[*client]struct{}{},
	}, nil
}

// shipped is the look of the largest crowd.
func shipped() (*look.Look, error) {
	all, err := look.Shipped()
	if err != nil {
		return nil, err
	}
	return all[0], nil
}

// CheckOptions reports whether this version can use a route with such options.
// It knows one, "fragment=M" with M one of records, segments and both: how the
// ClientHello is cut (package [fragment]).
func CheckOptions(options string) error {
	_, err := cutOf(options)
	return err
}

// cutOf returns how the options want the ClientHello cut.
func cutOf(options string) (fragment.Mode, error) {
	if options == "" {
		return fragment.Off, nil
	}
	name, ok := strings.CutPrefix(options, "fragment=")
	mode, err := fragment.ParseMode(name)
	switch {
	case !ok:
		return fragment.Off, fmt.Errorf("options %q are not known; get a newer Busel", options)
	case err != nil:
		return fragment.Off, fmt.Errorf("options %q: %q is %w; get a newer Busel", options, name, err)
	}
	return mode, nil
}

// Dial implements [transport.Dialer]. The encoded hello must be at most 16375
// bytes long; it is encoded when it is said, so that frames which came during
// the handshake travel in it.
func (d *Dialer) Dial(ctx context.Context, r transport.Route, hello *wire.Hello) (transport.Carrier, *wire.Accept, error) {
	l := d.cfg.Look()
	carrier, accept, err := d.dial(ctx, r, l, hello)
	if d.cfg.Refused == nil || ctx.Err() != nil || !errors.Is(err, errHelloRefused) {
		return carrier, accept, err
	}
	other, accepted := d.cfg.Refused(l)
	if other == nil {
		return carrier, accept, err
	}
	carrier, accept, err = d.dial(ctx, r, other, hello)
	if e, ok := errors.AsType[*transport.DialError](err); err == nil || ok && e.Stage == transport.StageHello {
		accepted()
	}
	return carrier, accept, err
}

// dial is Dial with a look.
func (d *Dialer) dial(ctx context.Context, r transport.Route, l *look.Look, hello *wire.Hello) (transport.Carrier, *wire.Accept, error) {
	fail := func(s transport.Stage, f transport.Failure, err error) (transport.Carrier, *wire.Accept, error) {
		if ctx.Err() != nil { // not evidence of anything
			f, err = "", context.Cause(ctx)
		}
		return nil, nil, &transport.DialError{Route: r, Stage: s, Failure: f, Err: err}
	}
	cut, err := cutOf(r.Options)
	if err != nil {
		return fail(transport.StageConnect, "", err)
	}
	conn, err := d.connect(ctx, l, r.Address)
	if err != nil {
		return fail(transport.StageConnect, classify(err), bare(err))
	}
	transport.Reached(ctx)
	var res *resumption
	o, ok := from(conn, l, d.cfg.Place(), r.Address)
	if ok {
		res = &resumption{d.tickets.take(o), func(s *utls.ClientSessionState) { d.tickets.put(o, s) }}
	}
	c, err := newClient(d, l, conn, authority(d.cfg.CoverName, r.Address), cut, res, hello)
	if err != nil {
		_ = conn.Close()
		return fail(transport.StageTLS, "", err)
	}
	if !d.start(c) {
		_ = conn.Close()
		return fail(transport.StageConnect, "", net.ErrClosed)
	}
	if err := c.await(ctx); err != nil {
		stage := *c.stage.Load()
		if c.offered && stage == transport.StageTLS {
			// Somebody may not let such hellos pass: the next one is a fresh one. The TLS
			// stack cannot answer a HelloRetryRequest to one at all; nothing is to be
			// concluded from that.
			d.tickets.drop(o)
			if d.tickets.off() && ctx.Err() == nil {
				return d.dial(ctx, r, l, hello)
			}
		}
		if e, ok := errors.AsType[*transport.CarrierError](err); ok {
			if !c.offered && stage == transport.StageTLS && e.Failure == transport.UnfitCover {
				e.Err = fmt.Errorf("%w: %w", errHelloRefused, e.Err) // of a resumed one the ticket may be at fault
			}
			return fail(stage, e.Failure, e.Err)
		}
		return fail(stage, "", bare(err))
	}
	if status := c.accept.Status; status.Refused() {
		c.leave(net.ErrClosed)
		return fail(transport.StageHello, transport.Refusal(status), &wire.StatusError{Status: status})
	}
	d.log.Debug("carrier is live", "relay", r.Relay)
	return &clientCarrier{c}, c.accept, nil
}

func (d *Dialer) connect(ctx context.Context, l *look.Look, addr string) (halfCloser, error) {
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	network := d.cfg.Network
	if network == nil {
		network = transport.System{KeepAlive: time.Duration(l.KeepAlive) * time.Second}
	}
	conn, err := network.DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	c, ok := conn.(halfCloser)
	if !ok {
		_ = conn.Close()
		return nil, errors.New("network gives connections that cannot be half-closed")
	}
	return c, nil
}

// authority is the host in requests: with the port if it is not the usual one.
func authority(name, addr string) string {
	_, port, err := net.SplitHostPort(addr)
	if err != nil || port == "443" {
		return name
	}
	return net.JoinHostPort(name, port)
}

// start runs a client's goroutines, unless the dialer is closed.
func (d *Dialer) start(c *client) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return false
	}
	d.open[c] = struct{}{}
	d.wg.Go(c.browse)
	d.wg.Go(func() {
		c.pump()
		d.mu.Lock()
		delete(d.open, c)
		d.mu.Unlock()
	})
	for _, part := range []func(){c.keep, c.knock} {
		d.wg.Go(func() {
			select {
			case <-c.live:
				if !c.accept.Status.Refused() {
					part()
				}
			case <-c.dead:
			}
		})
	}
	return true
}

// Forget drops what covers gave to resume TLS with: the client may have moved.
func (d *Dialer) Forget() { d.tickets.forget() }

// Close ends all carriers and waits until nothing of the dialer runs. Carriers
// that were closed before may still wait up to a second for the cover's end.
func (d *Dialer) Close() error {
	d.mu.Lock()
	d.closed = true
	var open []*client
	for c := range d.open {
		open = append(open, c)
	}
	d.mu.Unlock()
	for _, c := range open {
		c.leave(net.ErrClosed)
	}
	d.wg.Wait()
	return nil
}
