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
	"io"
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
	"busel/obfs/initial"
	"busel/transport"
)

// ListenerConfig configures a relay's listener.
type ListenerConfig struct {
	Listen   func(context.Context) ([]net.PacketConn, error) // opens the UDP ports, at least one
	Key      *ecdh.PrivateKey                                // s, on X25519
	Site     *Site                                           // what answers everyone (HTTP/3 form); nil means the scrambled form
	Memory   *Memory                                         // shared by all listeners of the key; nil means its own
	Logger   *slog.Logger                                    // nil discards
	MaxConns int                                             // connections at a time; 0 means 1024
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
	// maxVisitors is maxEarly of the HTTP/3 form, in which everyone is a visitor of
	// the site. One address may have them all: a bound for one could be measured. Who
	// comes beyond them takes the place of another (visitors.go).
	maxVisitors = 256
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
	visitors                     []*visitor // that have no carrier, the longest there first; guarded by mu
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
	live bool   // a carrier
	wide uint64 // of the listener's wide
	left bool

	visitor *visitor // of the HTTP/3 form; guarded by l.mu
}

type placeKey struct{}

// admit gives a connection its place, or refuses it. It is asked for the first
// datagram of each, which nobody sent before.
func (l *Listener) admit(ctx context.Context, client *quicgo.ClientInfo) (context.Context, error) {
	if l.conns.Add(1) > int64(l.cfg.MaxConns) {
		l.conns.Add(-1)
		return nil, errBusy
	}
	if l.early.Add(1) > l.maxEarly() && !l.makeRoom() {
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

func (l *Listener) maxEarly() int64 {
	if l.cfg.Site != nil {
		return maxVisitors
	}
	return maxEarly
}

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
	if l.cfg.Site == nil && l.earlyFrom[from] >= maxEarlyFrom {
		return false
	}
	l.earlyFrom[from]++
	return true
}

// settle notes that the connection is a carrier, or over.
func (p *place) settle() {
	p.mu.Lock()
	p.live = true
	p.mu.Unlock()
	p.early.Do(func() {
		p.l.early.Add(-1)
		p.l.mu.Lock()
		defer p.l.mu.Unlock()
		if p.l.earlyFrom[p.from]--; p.l.earlyFrom[p.from] <= 0 {
			delete(p.l.earlyFrom, p.from)
		}
		p.l.forget(p.visitor)
	})
}

// widen asks for a receive window that is wider by so many bytes. Only carriers
// have one: what others send is read at once, or refused.
func (p *place) widen(delta uint64) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.left || !p.live {
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
	sockets, err := l.cfg.Listen(ctx)
	if err != nil {
		return fmt.Errorf("quic listener: %w", err)
	}
	if l.cfg.Site == nil {
		l.scrambler.Store(relayScrambler([32]byte(l.cfg.Key.PublicKey().Bytes()), l.cfg.Memory))
	}
	errs := make([]error, len(sockets))
	var wg sync.WaitGroup
	for i, s := range sockets {
		wg.Go(func() {
			defer s.Close()
			if errs[i] = l.runOn(ctx, s); errs[i] != nil {
				_ = l.Close() // the others end, too
			}
		})
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("quic listener: %w", err)
	}
	return nil
}

// acceptor is a quicgo listener.
type acceptor interface {
	Accept(context.Context) (*quicgo.Conn, error)
	Close() error
}

// listenOn makes QUIC of a socket.
func (l *Listener) listenOn(socket net.PacketConn) (*quicgo.Transport, acceptor, error) {
	tr := &quicgo.Transport{
		ConnContext:         l.admit,
		VerifySourceAddress: func(net.Addr) bool { return l.early.Load() > l.maxEarly()/2 },
	}
	cfg := quicConfig()
	cfg.InitialStreamReceiveWindow, cfg.InitialConnectionReceiveWindow = earlyWindow, earlyWindow
	cfg.AllowConnectionWindowIncrease = func(conn *quicgo.Conn, delta uint64) bool {
		p, ok := conn.Context().Value(placeKey{}).(*place)
		return ok && p.widen(delta)
	}
	if l.cfg.Site != nil {
		tr.Conn = newSiteSocket(socket, initial.NewDisguise([32]byte(l.cfg.Key.PublicKey().Bytes())))
		// As many streams as HTTP/3 servers allow (RFC 9114, section 6.1), and every
		// version that quic-go has.
		cfg.MaxIncomingStreams, cfg.MaxIncomingUniStreams, cfg.Versions = 0, 0, nil
		ln, err := tr.ListenEarly(l.cfg.Site.siteTLS(), cfg)
		return tr, ln, err
	}
	tr.Conn = newSocket(socket, l.scrambler.Load())
	// Nothing may answer a datagram of a connection that is not there: neither a
	// stateless reset, for which there is no key, nor Version Negotiation.
	tr.DisableVersionNegotiationPackets = true
	cfg.MaxIncomingStreams = 1
	ln, err := tr.Listen(&tls.Config{
		MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{l.cert}, NextProtos: []string{alpn}, SessionTicketsDisabled: true,
	}, cfg)
	return tr, ln, err
}

// runOn serves one port.
func (l *Listener) runOn(ctx context.Context, socket net.PacketConn) error {
	tr, ln, err := l.listenOn(socket)
	if err != nil {
		_ = tr.Close()
		return err
	}
	defer tr.Close()
	var wg sync.WaitGroup
	defer wg.Wait()
	stop := context.AfterFunc(ctx, func() { _ = l.Close() })
	defer stop()
	wg.Go(func() {
		<-l.closed
		_ = ln.Close()
	})
	serve := l.serve
	if l.cfg.Site != nil {
		serve = l.visit
	}
	for {
		conn, err := ln.Accept(ctx)
		if err != nil {
			early := !l.isClosed() && ctx.Err() == nil
			_ = l.Close()
			if early {
				return bare(err)
			}
			return nil
		}
		wg.Go(func() { serve(ctx, conn) })
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
	p, err := l.hearScrambled(conn)
	if err != nil {
		l.log.Debug("connection without a hello", "err", bare(err))
		return
	}
	c, answered := l.present(p)
	if c != nil {
		c.run()
		return
	}
	if !answered { // as if nobody were here who knows him
		p.control.CancelRead(0)
		p.control.CancelWrite(0)
	}
	p.leave(0)
}

// present hands a hello to who accepts, and waits for the carrier. It is nil if
// the client was refused, or, without an answer, if the token is none of this
// relay's or nobody accepts any more.
func (l *Listener) present(p *pending) (c *carrier, answered bool) {
	if p.hello == nil { // of another version
		if _, err := p.Answer(&wire.Accept{Status: wire.StatusVersion}); err != nil {
			l.log.Debug("hello of another version was not answered", "err", bare(err))
		}
	} else {
		select {
		case l.pending <- p:
		case <-p.conn.Context().Done():
			return nil, false
		case <-l.closed:
			return nil, false
		}
	}
	select {
	case r := <-p.answered:
		return r.carrier, r.said
	case <-p.conn.Context().Done():
		return nil, false
	}
}

// leave waits for a client that was refused to go.
func (p *pending) leave(code quicgo.ApplicationErrorCode) {
	t := time.NewTimer(leaveTimeout)
	defer t.Stop()
	select {
	case <-t.C:
	case <-p.conn.Context().Done():
	}
	_ = p.conn.CloseWithError(code, "")
}

// hearScrambled waits for the hello on a connection's first stream.
func (l *Listener) hearScrambled(conn *quicgo.Conn) (*pending, error) {
	late := time.AfterFunc(helloTimeout, func() { _ = conn.CloseWithError(0, "") })
	defer late.Stop()
	s, err := conn.AcceptStream(conn.Context())
	if err != nil {
		l.noHello.Add(1)
		return nil, err
	}
	binding, err := exporter(conn)
	if err != nil {
		l.noHello.Add(1)
		return nil, err
	}
	p, err := l.hear(conn, binding, s)
	if err != nil {
		// Not an end of the connection, which would be one of a relay that stops: the
		// client shall know that nobody here opens its hello.
		l.noHello.Add(1)
		s.CancelRead(0)
		s.CancelWrite(0)
		(&pending{conn: conn}).leave(0)
		return nil, err
	}
	p.control = s
	p.reply = func(payload []byte) (controlStream, error) { return s, writeMessage(s, p.noise, payload) }
	p.ways = func(controlStream) ways { return scrambledWays(conn, s) }
	return p, nil
}

// hear opens the hello that is read from a stream of conn, whose exporter is
// binding.
func (l *Listener) hear(conn *quicgo.Conn, binding []byte, from io.Reader) (*pending, error) {
	hs, err := responder(binding, l.cfg.Key)
	if err != nil {
		return nil, err
	}
	payload, err := readMessage(from, hs)
	if err != nil {
		return nil, err
	}
	p := &pending{l: l, conn: conn, noise: hs, answered: make(chan answer, 1)}
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
	control  *quicgo.Stream // of the scrambled form
	noise    *noise.HandshakeState
	hello    *wire.Hello // nil if it is of another version
	reply    func(payload []byte) (controlStream, error)
	ways     func(controlStream) ways
	once     sync.Once
	answered chan answer
}

// answer is what became of a hello.
type answer struct {
	carrier *carrier // nil for a refusal
	said    bool     // something was said to the client
}

// Hello implements [transport.Pending].
func (p *pending) Hello() *wire.Hello { return p.hello }

// Close implements [transport.Pending]: the client sees that nobody is there
// who knows it.
func (p *pending) Close() error {
	p.once.Do(func() { p.answered <- answer{} })
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
		p.answered <- answer{k, true}
	})
	return c, err
}

func (p *pending) answer(a *wire.Accept) (*carrier, error) {
	full := *a
	full.CoverIdle, full.CoverLifetime = idleTimeout, 0
	control, err := p.reply(full.Append(nil))
	if err != nil {
		return nil, judge(err)
	}
	if full.Status.Refused() {
		return nil, nil
	}
	if place, ok := p.conn.Context().Value(placeKey{}).(*place); ok {
		place.settle()
	}
	p.l.carriers.Add(1)
	return newCarrier(p.ways(control)), nil
}
