package quic

import (
	"context"
	"crypto/ecdh"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	quicgo "github.com/quic-go/quic-go"

	"busel/internal/wire"
	"busel/transport"
)

// Kind is the transport's name in configuration, invites and status.
const Kind = "quic"

const (
	// handshakeTimeout is for silence while dialling: the first datagram is sent
	// again after 0.2, 0.6 and 1.4 s, so that 3 s are enough for a round trip of a
	// second and three losses; more would keep other routes waiting.
	handshakeTimeout = 3 * time.Second
	// replyTimeout is for the relay's reply to a hello.
	replyTimeout = 5 * time.Second
	// idleTimeout ends a carrier on which nothing moves: a mapping of UDP in a
	// home router is often forgotten after that time (RFC 4787 asks for 120 s, many
	// do less), and a session that has something to say dials anew.
	idleTimeout = 60 * time.Second
	// packetSize passes every path with scrambling: 1232 bytes are what IPv6's least
	// MTU leaves. QUIC finds out by itself how much more passes.
	packetSize = 1200

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
	PublicKey [32]byte          // S, the relay's X25519 key
	Network   transport.Network // nil means transport.System
	Logger    *slog.Logger      // nil discards
}

// Dialer makes carriers to one relay. It is safe for concurrent use.
type Dialer struct {
	cfg DialerConfig
	log *slog.Logger
	ctx context.Context // ends with the dialer
	end context.CancelFunc

	mu sync.Mutex
	wg sync.WaitGroup // of all connections' goroutines; Add under mu
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
	d.ctx, d.end = context.WithCancel(context.Background())
	return d, nil
}

// CheckOptions reports whether this version can use a route with such options.
// It knows one, "port=N": the UDP port, if it is not that of the address.
func CheckOptions(options string) error {
	_, err := portOf(options)
	return err
}

// portOf returns the port that the options name, "" if they name none.
func portOf(options string) (string, error) {
	if options == "" {
		return "", nil
	}
	port, ok := strings.CutPrefix(options, "port=")
	if n, err := strconv.ParseUint(port, 10, 16); !ok || err != nil || n == 0 {
		return "", fmt.Errorf("options %q are not known; get a newer Busel", options)
	}
	return port, nil
}

// Dial implements [transport.Dialer].
func (d *Dialer) Dial(ctx context.Context, r transport.Route, hello *wire.Hello) (transport.Carrier, *wire.Accept, error) {
	fail := func(s transport.Stage, f transport.Failure, err error) (transport.Carrier, *wire.Accept, error) {
		if ctx.Err() != nil { // not evidence of anything
			f, err = "", context.Cause(ctx)
		}
		return nil, nil, &transport.DialError{Route: r, Stage: s, Failure: f, Err: bare(err)}
	}
	v, err := d.open(ctx, r)
	if err != nil {
		return fail(transport.StageConnect, classify(err), err)
	}
	transport.Reached(ctx)
	control, accept, err := v.sayHello(ctx, d.cfg.PublicKey, hello)
	if err != nil {
		v.close()
		return fail(transport.StageHello, classifyHello(err), err)
	}
	if status := accept.Status; status.Refused() {
		v.close()
		var f transport.Failure
		if status == wire.StatusRevoked || status == wire.StatusExpired {
			f = transport.Revoked
		}
		return fail(transport.StageHello, f, &wire.StatusError{Status: status})
	}
	c := newCarrier(v.conn, control)
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
}

func (v *visit) close() {
	if v.conn != nil {
		_ = v.conn.CloseWithError(0, "")
	}
	_ = v.transport.Close()
	_ = v.socket.Close()
}

func (d *Dialer) open(ctx context.Context, r transport.Route) (*visit, error) {
	addr, err := d.resolve(ctx, r)
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
	v := &visit{socket: socket, transport: &quicgo.Transport{Conn: newSocket(socket, clientScrambler(d.cfg.PublicKey))}}
	// Who answers is found out by Noise: any certificate will do.
	tlsConfig := &tls.Config{MinVersion: tls.VersionTLS13, NextProtos: []string{alpn}, InsecureSkipVerify: true}
	if v.conn, err = v.transport.Dial(ctx, net.UDPAddrFromAddrPort(addr), tlsConfig, quicConfig()); err != nil {
		v.close()
		return nil, err
	}
	return v, nil
}

// resolve returns where to send to. A name is looked up by connecting a socket,
// which sends nothing to the relay.
func (d *Dialer) resolve(ctx context.Context, r transport.Route) (netip.AddrPort, error) {
	host, port, err := net.SplitHostPort(r.Address)
	if err != nil {
		return netip.AddrPort{}, err
	}
	if other, err := portOf(r.Options); err != nil {
		return netip.AddrPort{}, err
	} else if other != "" {
		port = other
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

// errNoReply means that QUIC works and nobody answers a hello as the relay does.
var errNoReply = errors.New("somebody speaks QUIC, the relay does not answer")

// sayHello speaks Noise on the first stream.
func (v *visit) sayHello(ctx context.Context, relay [32]byte, hello *wire.Hello) (*quicgo.Stream, *wire.Accept, error) {
	stop := context.AfterFunc(ctx, func() { _ = v.conn.CloseWithError(0, "") })
	defer stop()
	binding, err := exporter(v.conn)
	if err != nil {
		return nil, nil, err
	}
	hs, err := initiator(binding, relay)
	if err != nil {
		return nil, nil, err
	}
	s, err := v.conn.OpenStream()
	if err != nil {
		return nil, nil, err
	}
	before := v.conn.ConnectionStats().PacketsReceived
	// Encoded not before now: early data that came meanwhile is in it.
	if err := writeMessage(s, hs, hello.Append(nil)); err != nil {
		return nil, nil, err
	}
	_ = s.SetReadDeadline(time.Now().Add(replyTimeout))
	payload, err := readMessage(s, hs)
	if errors.Is(err, os.ErrDeadlineExceeded) && v.conn.ConnectionStats().PacketsReceived == before {
		return nil, nil, err // the path has gone silent
	}
	if err != nil {
		return nil, nil, fmt.Errorf("%w: %w", errNoReply, err)
	}
	_ = s.SetReadDeadline(time.Time{})
	accept, err := wire.ParseAccept(payload)
	if err != nil {
		return nil, nil, fmt.Errorf("%w: %w", errNoReply, err)
	}
	return s, accept, nil
}

// classifyHello says what a hello that failed means.
func classifyHello(err error) transport.Failure {
	if errors.Is(err, errNoReply) {
		return transport.Hijacked
	}
	return classify(err)
}
