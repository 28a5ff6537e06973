package quic

import (
	"context"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/flynn/noise"
	quicgo "github.com/quic-go/quic-go"

	"busel/internal/wire"
	"busel/transport"
)

// ListenerConfig configures a relay's listener.
type ListenerConfig struct {
	Listen   func(context.Context) (net.PacketConn, error) // opens the UDP port
	Key      *ecdh.PrivateKey                              // s, on X25519
	Memory   *Memory                                       // shared by all listeners of the key; nil means its own
	Logger   *slog.Logger                                  // nil discards
	MaxConns int                                           // connections at a time; 0 means 1024
}

const (
	defaultMaxConns = 1024
	// maxEarly bounds the connections that are not carriers, or not yet, each of
	// which may hold 256 KiB of streams, and 128 datagrams. Half of that many, and
	// whoever comes has to prove that his address is his own first (RFC 9000,
	// section 8.1.2).
	maxEarly = 128
	// maxEarlyFrom bounds those from one address, or IPv6 network of 64 bits: many
	// homes may share one, and nobody takes all places with a single one. Only who
	// knows S can measure it.
	maxEarlyFrom = 32
	earlyWindow  = 256 << 10
	// maxWide bounds by how much the receive windows of all connections together
	// are wider than that, in bytes: a client can fill a window that only a missing
	// packet keeps from being read. Eight clients can upload at the full rate at a
	// time, others at 20 Mbit/s with a round trip of 0.1 s.
	maxWide = 64 << 20
	// helloTimeout is from the first datagram to a hello.
	helloTimeout = 10 * time.Second
	// leaveTimeout is how long a client that was refused may take to go.
	leaveTimeout = 5 * time.Second
)

// Stats are counts since the start, but for the gauge.
type Stats struct {
	Strange   uint64 // datagrams of somebody without S; none was answered
	Replayed  uint64 // datagrams that came before; none was answered
	Carriers  uint64 // hellos that were answered with a carrier
	Conns     int64  // gauge: connections open now
	NoHello   uint64 // connections that never said a hello for this relay
	DataBytes uint64 // bytes of QUIC packets in both directions, of connections that ended
}

// Listener is the relay's side. Its life is [Listener.Run].
type Listener struct {
	cfg     ListenerConfig
	log     *slog.Logger
	cert    tls.Certificate
	pending chan *pending
	closing sync.Once
	closed  chan struct{}

	conns, early                 atomic.Int64
	wide                         atomic.Uint64 // bytes, see maxWide
	mu                           sync.Mutex
	earlyFrom                    map[netip.Prefix]int
	carriers, noHello, dataBytes atomic.Uint64
	scrambler                    atomic.Pointer[scrambler] // while it runs
}

var _ transport.Listener = (*Listener)(nil)

// NewListener checks cfg and starts nothing.
func NewListener(cfg ListenerConfig) (*Listener, error) {
	switch {
	case cfg.Listen == nil:
		return nil, errors.New("quic listener: Listen is missing")
	case cfg.Key == nil || cfg.Key.Curve() != ecdh.X25519():
		return nil, errors.New("quic listener: Key must be an X25519 key")
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Memory == nil {
		cfg.Memory = NewMemory()
	}
	if cfg.MaxConns <= 0 {
		cfg.MaxConns = defaultMaxConns
	}
	cert, err := anyCertificate()
	if err != nil {
		return nil, fmt.Errorf("quic listener: %w", err)
	}
	return &Listener{
		cfg: cfg, log: cfg.Logger, cert: cert,
		pending: make(chan *pending), closed: make(chan struct{}), earlyFrom: map[netip.Prefix]int{},
	}, nil
}

// anyCertificate makes one that says nothing. Only who knows S sees it, and
// nobody checks it.
func anyCertificate() (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	c := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Unix(1<<32, 0)}
	der, err := x509.CreateCertificate(rand.Reader, c, c, key.Public(), key)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, err
}

// place is what a connection holds of the relay's bounds.
type place struct {
	l     *Listener
	from  netip.Prefix
	early sync.Once

	mu   sync.Mutex
	wide uint64 // of the listener's wide
	left bool
}

type placeKey struct{}

// admit gives a connection its place, or refuses it. It is asked for the first
// datagram of each, which nobody sent before.
func (l *Listener) admit(ctx context.Context, client *quicgo.ClientInfo) (context.Context, error) {
	if l.conns.Add(1) > int64(l.cfg.MaxConns) {
		l.conns.Add(-1)
		return nil, errBusy
	}
	if l.early.Add(1) > maxEarly {
		l.early.Add(-1)
		l.conns.Add(-1)
		return nil, errBusy
	}
	p := &place{l: l, from: network(client.RemoteAddr)}
	if !l.come(p.from) {
		l.early.Add(-1)
		l.conns.Add(-1)
		return nil, errBusy
	}
	context.AfterFunc(ctx, p.leave)
	return context.WithValue(ctx, placeKey{}, p), nil
}

var errBusy = errors.New("too many connections")

// network is whose bound maxEarlyFrom is.
func network(addr net.Addr) netip.Prefix {
	udp, ok := addr.(*net.UDPAddr)
	if !ok {
		return netip.Prefix{}
	}
	ip := udp.AddrPort().Addr().Unmap()
	bits := ip.BitLen()
	if ip.Is6() {
		bits = 64
	}
	p, _ := ip.WithZone("").Prefix(bits)
	return p
}

// come counts one more from a network, if it may have one.
func (l *Listener) come(from netip.Prefix) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.earlyFrom[from] >= maxEarlyFrom {
		return false
	}
	l.earlyFrom[from]++
	return true
}

// settle notes that the connection is a carrier, or over.
func (p *place) settle() {
	p.early.Do(func() {
		p.l.early.Add(-1)
		p.l.mu.Lock()
		defer p.l.mu.Unlock()
		if p.l.earlyFrom[p.from]--; p.l.earlyFrom[p.from] <= 0 {
			delete(p.l.earlyFrom, p.from)
		}
	})
}

// widen asks for a receive window that is wider by so many bytes.
func (p *place) widen(delta uint64) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.left {
		return false
	}
	if p.l.wide.Add(delta) > maxWide {
		p.l.wide.Add(-delta)
		return false
	}
	p.wide += delta
	return true
}

// leave gives everything back.
func (p *place) leave() {
	p.settle()
	p.mu.Lock()
	p.left = true
	p.l.wide.Add(-p.wide)
	p.mu.Unlock()
	p.l.conns.Add(-1)
}

// Run serves until ctx ends, then closes every connection, waits for them, and
// returns nil; any other end is an error. It is called once. After
// [Listener.Close] it goes on until the last connection has ended.
func (l *Listener) Run(ctx context.Context) error {
	socket, err := l.cfg.Listen(ctx)
	if err != nil {
		return fmt.Errorf("quic listener: %w", err)
	}
	defer socket.Close()
	s := relayScrambler([32]byte(l.cfg.Key.PublicKey().Bytes()), l.cfg.Memory)
	l.scrambler.Store(s)
	tr := &quicgo.Transport{
		Conn:        newSocket(socket, s),
		ConnContext: l.admit,
		// Nothing may answer a datagram of a connection that is not there: neither a
		// stateless reset, for which there is no key, nor Version Negotiation.
		DisableVersionNegotiationPackets: true,
		VerifySourceAddress:              func(net.Addr) bool { return l.early.Load() > maxEarly/2 },
	}
	defer tr.Close()
	cfg := quicConfig()
	cfg.MaxIncomingStreams = 1
	cfg.InitialStreamReceiveWindow, cfg.InitialConnectionReceiveWindow = earlyWindow, earlyWindow
	cfg.AllowConnectionWindowIncrease = func(conn *quicgo.Conn, delta uint64) bool {
		p, ok := conn.Context().Value(placeKey{}).(*place)
		return ok && p.widen(delta)
	}
	ln, err := tr.Listen(&tls.Config{
		MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{l.cert}, NextProtos: []string{alpn}, SessionTicketsDisabled: true,
	}, cfg)
	if err != nil {
		return fmt.Errorf("quic listener: %w", err)
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	stop := context.AfterFunc(ctx, func() { _ = l.Close() })
	defer stop()
	wg.Go(func() {
		<-l.closed
		_ = ln.Close()
	})
	for {
		conn, err := ln.Accept(ctx)
		if err != nil {
			early := !l.isClosed() && ctx.Err() == nil
			_ = l.Close()
			if early {
				return fmt.Errorf("quic listener: %w", bare(err))
			}
			return nil
		}
		wg.Go(func() { l.serve(ctx, conn) })
	}
}

func (l *Listener) isClosed() bool {
	select {
	case <-l.closed:
		return true
	default:
		return false
	}
}

// serve stays with a connection for its life.
func (l *Listener) serve(ctx context.Context, conn *quicgo.Conn) {
	stop := context.AfterFunc(ctx, func() { _ = conn.CloseWithError(0, "") })
	defer stop()
	defer func() {
		_ = conn.CloseWithError(0, "")
		st := conn.ConnectionStats()
		l.dataBytes.Add(st.BytesReceived + st.BytesSent)
	}()
	p, err := l.hear(conn)
	if err != nil {
		l.noHello.Add(1)
		l.log.Debug("connection without a hello", "err", bare(err))
		return
	}
	if p.hello == nil { // of another version
		if _, err := p.Answer(&wire.Accept{Status: wire.StatusVersion}); err != nil {
			l.log.Debug("hello of another version was not answered", "err", bare(err))
		}
	} else {
		select {
		case l.pending <- p:
		case <-conn.Context().Done():
			return
		case <-l.closed:
			return
		}
	}
	select {
	case c := <-p.answered:
		if c != nil {
			c.run()
			return
		}
	case <-conn.Context().Done():
		return
	}
	t := time.NewTimer(leaveTimeout)
	defer t.Stop()
	select {
	case <-t.C:
	case <-conn.Context().Done():
	}
}

// hear waits for the hello and opens it.
func (l *Listener) hear(conn *quicgo.Conn) (*pending, error) {
	late := time.AfterFunc(helloTimeout, func() { _ = conn.CloseWithError(0, "") })
	defer late.Stop()
	binding, err := exporter(conn)
	if err != nil {
		return nil, err
	}
	hs, err := responder(binding, l.cfg.Key)
	if err != nil {
		return nil, err
	}
	s, err := conn.AcceptStream(conn.Context())
	if err != nil {
		return nil, err
	}
	payload, err := readMessage(s, hs)
	if err != nil {
		return nil, err
	}
	p := &pending{l: l, conn: conn, control: s, noise: hs, answered: make(chan *carrier, 1)}
	p.hello, err = wire.ParseHello(payload)
	if errors.Is(err, wire.ErrVersion) {
		err = nil
	}
	return p, err
}

// Accept implements [transport.Listener].
func (l *Listener) Accept(ctx context.Context) (transport.Pending, error) {
	select {
	case p := <-l.pending:
		return p, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	case <-l.closed:
		return nil, fmt.Errorf("quic listener: %w", net.ErrClosed)
	}
}

// Close implements [transport.Listener].
func (l *Listener) Close() error {
	l.closing.Do(func() { close(l.closed) })
	return nil
}

// Stats returns the counts so far.
func (l *Listener) Stats() Stats {
	st := Stats{
		Carriers: l.carriers.Load(), Conns: l.conns.Load(), NoHello: l.noHello.Load(), DataBytes: l.dataBytes.Load(),
	}
	if s := l.scrambler.Load(); s != nil {
		st.Strange, st.Replayed = s.strange.Load(), s.replayed.Load()
	}
	return st
}

// pending implements [transport.Pending].
type pending struct {
	l        *Listener
	conn     *quicgo.Conn
	control  *quicgo.Stream
	noise    *noise.HandshakeState
	hello    *wire.Hello // nil if it is of another version
	once     sync.Once
	answered chan *carrier // nil for a refusal
}

// Hello implements [transport.Pending].
func (p *pending) Hello() *wire.Hello { return p.hello }

// Close implements [transport.Pending]: the client sees that nobody is there
// who knows it.
func (p *pending) Close() error {
	p.once.Do(func() {
		_ = p.conn.CloseWithError(0, "")
		p.answered <- nil
	})
	return nil
}

var errAnswered = errors.New("hello was answered already")

// Answer implements [transport.Pending]. The accept payload must be at most
// 16375 bytes long.
func (p *pending) Answer(a *wire.Accept) (c transport.Carrier, err error) {
	err = errAnswered
	p.once.Do(func() {
		var k *carrier
		if k, err = p.answer(a); k != nil {
			c = k
		}
		p.answered <- k
	})
	return c, err
}

func (p *pending) answer(a *wire.Accept) (*carrier, error) {
	full := *a
	full.CoverIdle, full.CoverLifetime = idleTimeout, 0
	if err := writeMessage(p.control, p.noise, full.Append(nil)); err != nil {
		return nil, judge(err)
	}
	if full.Status.Refused() {
		return nil, nil
	}
	if place, ok := p.conn.Context().Value(placeKey{}).(*place); ok {
		place.settle()
	}
	p.l.carriers.Add(1)
	return newCarrier(p.conn, p.control), nil
}
