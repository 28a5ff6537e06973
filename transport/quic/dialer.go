package quic

import (
	"cmp"
	"context"
	"crypto/ecdh"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	quicgo "github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"

	"busel/internal/certs"
	"busel/internal/wire"
	"busel/transport"
)

// Kind is the transport's name in configuration, invites and status.
const Kind = "quic"

const (
	// handshakeTimeout is for silence while dialling: the first datagram is sent
	// again after 0.2, 0.6, 1.4 and 3 s, so that 4 s are enough for a round trip of a
	// second and four losses, and for a network that returns within the first two
	// thirds of it; more would keep other routes waiting.
	handshakeTimeout = 4 * time.Second
	// replyTimeout is for the relay's reply to a hello.
	replyTimeout = 5 * time.Second
	// idleTimeout ends a carrier on which nothing moves: a mapping of UDP in a
	// home router is often forgotten after that time (RFC 4787 asks for 120 s, many
	// do less), and a session that has something to say dials anew.
	idleTimeout = 60 * time.Second
	// packetSize passes every path with scrambling: 1232 bytes are what IPv6's least
	// MTU leaves. QUIC finds out by itself how much more passes.
	packetSize = 1200

	// sitePacketSize is that of Chromium's first packets (HTTP/3 form).
	sitePacketSize = 1250
	// siteStreams is how many unidirectional streams an HTTP/3 server has beside
	// lanes: control, and two of QPACK.
	siteStreams = 3

	alpn = "busel"
)

// quicConfig is both ends'.
func quicConfig() *quicgo.Config {
	return &quicgo.Config{
		Versions:             []quicgo.Version{quicgo.Version1},
		HandshakeIdleTimeout: handshakeTimeout,
		MaxIdleTimeout:       idleTimeout,
		InitialPacketSize:    packetSize,
		EnableDatagrams:      true,
		// 100 Mbit/s at a round trip of 0.6 s, on one stream or many.
		MaxStreamReceiveWindow:     8 << 20,
		MaxConnectionReceiveWindow: 8 << 20,
		MaxIncomingUniStreams:      laneStreams,
		MaxIncomingStreams:         -1,
	}
}

// DialerConfig is one relay as an invite describes it.
type DialerConfig struct {
	PublicKey [32]byte // S, the relay's X25519 key
	// CoverName is the name, or IP literal, of the site that routes of the HTTP/3
	// form visit; its certificate has to be one for that name, by Roots, or has the
	// hash CertHash. Without a name there are no such routes.
	CoverName string
	CertHash  *[32]byte         // SHA-256 of the DER form; nil if Roots decide
	Roots     *x509.CertPool    // nil means those built into the program
	Network   transport.Network // nil means transport.System
	Logger    *slog.Logger      // nil discards
}

// Dialer makes carriers to one relay. It is safe for concurrent use.
type Dialer struct {
	cfg   DialerConfig
	log   *slog.Logger
	ctx   context.Context                 // ends with the dialer
	judge func() (*certs.Verifier, error) // of the site's certificate
	end   context.CancelFunc

	mu   sync.Mutex
	wg   sync.WaitGroup // of all connections' goroutines; Add under mu
	last uint16         // port of a range that was taken last; guarded by mu
}

var _ transport.Dialer = (*Dialer)(nil)

// NewDialer checks cfg and starts nothing.
func NewDialer(cfg DialerConfig) (*Dialer, error) {
	if _, err := ecdh.X25519().NewPublicKey(cfg.PublicKey[:]); err != nil {
		return nil, fmt.Errorf("quic dialer: relay's key: %w", err)
	}
	if cfg.Network == nil {
		cfg.Network = transport.System{}
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	d := &Dialer{cfg: cfg, log: cfg.Logger}
	d.judge = sync.OnceValues(func() (*certs.Verifier, error) {
		if cfg.CoverName == "" {
			return nil, errNoCover
		}
		return certs.New(cfg.CoverName, cfg.CertHash, cfg.Roots)
	})
	d.ctx, d.end = context.WithCancel(context.Background())
	return d, nil
}

// Dial implements [transport.Dialer].
func (d *Dialer) Dial(ctx context.Context, r transport.Route, hello *wire.Hello) (transport.Carrier, *wire.Accept, error) {
	fail := func(s transport.Stage, f transport.Failure, err error) (transport.Carrier, *wire.Accept, error) {
		if ctx.Err() != nil { // not evidence of anything
			f, err = "", context.Cause(ctx)
		}
		return nil, nil, &transport.DialError{Route: r, Stage: s, Failure: f, Err: bare(err)}
	}
	o, err := parseOptions(r.Options)
	if err != nil {
		return fail(transport.StageConnect, "", err)
	}
	v, err := d.open(ctx, r, o)
	if errors.Is(err, certs.ErrRefused) {
		return fail(transport.StageTLS, transport.Hijacked, err)
	}
	if errors.Is(err, errShown) {
		return fail(transport.StageHello, transport.Hijacked, err)
	}
	if err != nil {
		return fail(transport.StageConnect, classify(err), err)
	}
	transport.Reached(ctx)
	say := v.sayHello
	if o.site {
		say = func(ctx context.Context, relay [32]byte, hello *wire.Hello) (ways, *wire.Accept, error) {
			return v.sayHelloAsVisitor(ctx, relay, d.cfg.CoverName, hello)
		}
	}
	lanes, accept, err := say(ctx, d.cfg.PublicKey, hello)
	if err != nil {
		v.close()
		return fail(transport.StageHello, classifyHello(err), err)
	}
	if status := accept.Status; status.Refused() {
		v.close()
		return fail(transport.StageHello, transport.Refusal(status), &wire.StatusError{Status: status})
	}
	c := newCarrier(lanes)
	if !d.keep(c, v) {
		v.close()
		return fail(transport.StageHello, "", net.ErrClosed)
	}
	d.log.Debug("carrier is live", "relay", r.Relay)
	return c, accept, nil
}

// keep runs a carrier, unless the dialer is closed.
func (d *Dialer) keep(c *carrier, v *visit) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.ctx.Err() != nil {
		return false
	}
	stop := context.AfterFunc(d.ctx, func() { c.end(net.ErrClosed) })
	d.wg.Go(func() {
		defer stop()
		c.run()
		v.close()
	})
	return true
}

// Close ends all carriers and waits until nothing of the dialer runs, a second
// at most for relays that do not answer.
func (d *Dialer) Close() error {
	d.mu.Lock()
	d.end()
	d.mu.Unlock()
	d.wg.Wait()
	return nil
}

// visit is a QUIC connection on a socket of its own, whose port is new: what a
// censor remembers of another one does not hold for it.
type visit struct {
	socket    net.PacketConn
	transport *quicgo.Transport
	conn      *quicgo.Conn
	bye       quicgo.ApplicationErrorCode
	wg        sync.WaitGroup // what ends with the connection
}

func (v *visit) close() {
	if v.conn != nil {
		_ = v.conn.CloseWithError(v.bye, "")
	}
	_ = v.transport.Close()
	_ = v.socket.Close()
	v.wg.Wait()
}

func (d *Dialer) open(ctx context.Context, r transport.Route, o options) (*visit, error) {
	addr, err := d.resolve(ctx, r, o)
	if err != nil {
		return nil, err
	}
	network, local := "udp6", "[::]:0"
	if addr.Addr().Is4() {
		network, local = "udp4", "0.0.0.0:0"
	}
	socket, err := d.cfg.Network.ListenPacket(ctx, network, local)
	if err != nil {
		return nil, err
	}
	v, cfg := &visit{socket: socket, transport: new(quicgo.Transport)}, quicConfig()
	// Who answers is found out by Noise: any certificate will do.
	tlsConfig := &tls.Config{MinVersion: tls.VersionTLS13, NextProtos: []string{alpn}, InsecureSkipVerify: true}
	var heard atomic.Bool
	var refused error   // the certificate
	var first *initials // of the HTTP/3 form
	if o.site {
		judge, err := d.judge()
		if err == nil {
			first, err = newInitials(o.disguise(d.cfg.PublicKey))
		}
		if err != nil {
			_ = socket.Close()
			return nil, err
		}
		v.transport.Conn, v.transport.ConnectionIDGenerator, v.bye = newBrowserSocket(socket, first, &heard), noID{}, noError
		tlsConfig.NextProtos, tlsConfig.ServerName = []string{http3.NextProtoH3}, d.cfg.CoverName
		tlsConfig.VerifyConnection = func(s tls.ConnectionState) error {
			refused = judge.Chain(s.PeerCertificates)
			return refused
		}
		tlsConfig.CurvePreferences = []tls.CurveID{tls.X25519MLKEM768, tls.X25519, tls.CurveP256, tls.CurveP384}
		cfg.InitialPacketSize, cfg.DisablePathMTUDiscovery = sitePacketSize, true
		cfg.MaxIncomingUniStreams += siteStreams
		first.choose(tlsConfig, cfg)
	} else {
		v.transport.Conn = newSocket(socket, clientScrambler(d.cfg.PublicKey))
	}
	for again := true; again; again = err != nil && first != nil && first.refused.Swap(false) && ctx.Err() == nil {
		v.conn, err = v.transport.Dial(ctx, net.UDPAddrFromAddrPort(addr), tlsConfig, cfg)
	}
	if err != nil {
		v.close()
		if o.disguised && refused == nil && first.misread() {
			err = fmt.Errorf("%w: %w", errShown, err)
		}
		return nil, cmp.Or(refused, err)
	}
	heard.Store(true)
	return v, nil
}

// hop draws one of the ports low..high, another one than the last time: what
// befell that one, or still goes on there, is not met again.
func (d *Dialer) hop(low, high uint16) uint16 {
	d.mu.Lock()
	defer d.mu.Unlock()
	n := int(high-low) + 1
	if d.last < low || d.last > high || n == 1 {
		d.last = low + uint16(rand.N(n))
		return d.last
	}
	d.last = low + uint16((int(d.last-low)+1+rand.N(n-1))%n)
	return d.last
}

// resolve returns where to send to. A name is looked up by connecting a socket,
// which sends nothing to the relay.
func (d *Dialer) resolve(ctx context.Context, r transport.Route, o options) (netip.AddrPort, error) {
	host, port, err := net.SplitHostPort(r.Address)
	if err != nil {
		return netip.AddrPort{}, err
	}
	if o.high > 0 {
		port = strconv.Itoa(int(d.hop(o.low, o.high)))
	}
	address := net.JoinHostPort(host, port)
	if a, err := netip.ParseAddrPort(address); err == nil {
		return netip.AddrPortFrom(a.Addr().Unmap(), a.Port()), nil
	}
	conn, err := d.cfg.Network.DialContext(ctx, "udp", address)
	if err != nil {
		return netip.AddrPort{}, err
	}
	defer conn.Close()
	a, err := netip.ParseAddrPort(conn.RemoteAddr().String())
	return netip.AddrPortFrom(a.Addr().Unmap(), a.Port()), err
}

var errNoCover = errors.New("the site's name is missing")

// errNoReply means that QUIC works and nobody answers a hello as the relay does.
var errNoReply = errors.New("somebody speaks QUIC, the relay does not answer")

// sayHello speaks Noise on the first stream.
func (v *visit) sayHello(ctx context.Context, relay [32]byte, hello *wire.Hello) (ways, *wire.Accept, error) {
	fail := func(err error) (ways, *wire.Accept, error) { return ways{}, nil, err }
	stop := context.AfterFunc(ctx, func() { _ = v.conn.CloseWithError(0, "") })
	defer stop()
	binding, err := exporter(v.conn)
	if err != nil {
		return fail(err)
	}
	hs, err := initiator(binding, relay)
	if err != nil {
		return fail(err)
	}
	s, err := v.conn.OpenStream()
	if err != nil {
		return fail(err)
	}
	w := v.wait()
	defer w.stop()
	// Encoded not before now: early data that came meanwhile is in it.
	if err := writeMessage(s, hs, hello.Append(nil)); err != nil {
		return fail(w.reason(err))
	}
	_ = s.SetReadDeadline(time.Now().Add(replyTimeout))
	payload, err := readMessage(s, hs)
	if err != nil {
		return fail(w.reason(err))
	}
	w.proven = true
	_ = s.SetReadDeadline(time.Time{})
	accept, err := wire.ParseAccept(payload)
	if err != nil {
		return fail(w.reason(err))
	}
	return scrambledWays(v.conn, s), accept, nil
}

// waiting is the time from a hello to its reply.
type waiting struct {
	conn    *quicgo.Conn
	before  quicgo.ConnectionStats                 // when the hello was about to be sent
	quarter atomic.Pointer[quicgo.ConnectionStats] // after a quarter of replyTimeout
	timer   *time.Timer
	proven  bool // the relay's message was opened
}

func (v *visit) wait() *waiting {
	w := &waiting{conn: v.conn, before: v.conn.ConnectionStats()}
	w.timer = time.AfterFunc(replyTimeout/4, func() {
		st := w.conn.ConnectionStats()
		w.quarter.Store(&st)
	})
	return w
}

func (w *waiting) stop() { w.timer.Stop() }

// reason is why there is no reply: what ended the connection or the path, or else
// errNoReply.
func (w *waiting) reason(err error) error {
	_, app := errors.AsType[*quicgo.ApplicationError](err)
	_, broken := errors.AsType[*quicgo.TransportError](err)
	_, idle := errors.AsType[*quicgo.IdleTimeoutError](err)
	_, reset := errors.AsType[*quicgo.StatelessResetError](err)
	if w.proven || app || broken || idle || reset || errors.Is(err, os.ErrDeadlineExceeded) && w.silent() {
		return err
	}
	return fmt.Errorf("%w: %w", errNoReply, err)
}

// silent reports whether the path ended before the hello arrived: nothing came since,
// or but for what was under way then, while QUIC sent the hello again and again, as it
// does until it is acknowledged (RFC 9002, section 6.2.1: each probe waits twice as
// long as the last, so that one is in the last three quarters of any time).
func (w *waiting) silent() bool {
	now, quarter := w.conn.ConnectionStats(), w.quarter.Load()
	return now.PacketsReceived == w.before.PacketsReceived ||
		quarter != nil && now.PacketsReceived == quarter.PacketsReceived && now.PacketsSent > quarter.PacketsSent
}
