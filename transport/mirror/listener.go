package mirror

import (
	"context"
	"crypto/ecdh"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"busel/internal/wire"
	"busel/obfs/records"
	"busel/transport"
)

// Kind is the transport's name in configuration, invites and status.
const Kind = "mirror"

// Cover is the one web site that a relay forwards to.
type Cover struct {
	Address        string        // host:port to dial
	Name           string        // SNI that clients use
	Borrowed       bool          // another host's site: the relay proves itself first
	Idle, Lifetime time.Duration // how long it keeps a connection without a request, and at all; 0 unknown or for ever
}

// ListenerConfig configures a relay's listener.
type ListenerConfig struct {
	// Listen opens the port. It is called again after the cover was down, when
	// the port was closed as the cover's would be (rule 11).
	Listen  func(context.Context) (net.Listener, error)
	Key     *ecdh.PrivateKey // s, on X25519
	Cover   Cover
	Network transport.Network // dials the cover; nil means transport.System
	Logger  *slog.Logger      // nil discards
	// MaxConns is how many connections there are at a time, strangers' included; 0
	// means 4096. Beyond it the visits of strangers who have been silent longest make
	// room, and if there are none, a connection that comes is closed at once: what
	// nginx does when it runs out of worker_connections (docs/adr/0021).
	MaxConns int
	// Returned, if not nil, is called when the cover answers again after it was
	// down: it may have become another. It must not block.
	Returned func()
	// Slots bounds the clients at a time to its capacity: each one's visit holds
	// an element, beyond it hellos are answered with [wire.StatusBusy]. Listeners
	// of one cover may share it. nil is no bound. Strangers are not counted:
	// whoever could fill a relay with them could see that it is one.
	Slots chan struct{}

	finWait time.Duration // 0 means the constant
}

// finWait is how long a visitor who does not close is kept after the cover's
// FIN: with the second that his socket is then left to the kernel, as long as
// Linux keeps one that a web server has closed (tcp_fin_timeout, 60 s). Servers
// that read on behind their FIN do so for less (nginx: lingering_time, 30 s).
const finWait = 59 * time.Second

const (
	defaultMaxConns  = 4096
	coverDialTimeout = 10 * time.Second // far above any cover's; a stranger waits as long as the cover lets him
	coverRetry       = time.Second      // between looks at a cover that is down
	// maxDials is how many connections wait for the cover to accept them. Beyond it
	// nothing is accepted here either: new ones wait in the kernel then, as they would
	// in the cover's (nginx: listen backlog, 511).
	maxDials = 256
)

// Stats are counts since the start, but for the gauge.
type Stats struct {
	Strangers   uint64 // connections that were plain visits
	Candidates  uint64 // connections whose ClientHello knew the relay's key
	Carriers    uint64 // hellos that were answered with a carrier
	Conns       int64  // gauge: connections open now
	CovertIn    uint64 // bytes of covert records read
	CovertOut   uint64 // bytes of covert records written
	CoverFailed uint64 // failed dials to the cover
	Open        bool   // the port is open now; it is closed while the cover is down
}

// Listener is the relay's side. Its life is [Listener.Run].
type Listener struct {
	cfg     ListenerConfig
	log     *slog.Logger
	pending chan *pending
	slots   chan struct{} // one for each connection
	dials   chan struct{} // one for each connection that waits for the cover
	dialled atomic.Int64  // when the cover accepted one last, in Unix nanoseconds
	idle    idle
	buffers buffers
	stats   struct {
		strangers, candidates, carriers, covertIn, covertOut, coverFailed atomic.Uint64
		conns                                                             atomic.Int64
	}
	limits  atomic.Pointer[limits]
	cycle   atomic.Pointer[records.Cycle]
	first   atomic.Pointer[Answer]
	closing sync.Once
	closed  chan struct{}

	mu   sync.Mutex
	port net.Listener // nil while the cover is down
}

var _ transport.Listener = (*Listener)(nil)

// limits are how long the cover keeps a connection.
type limits struct{ idle, lifetime time.Duration }

// NewListener checks cfg and starts nothing.
func NewListener(cfg ListenerConfig) (*Listener, error) {
	switch {
	case cfg.Listen == nil:
		return nil, errors.New("mirror listener: Listen is missing")
	case cfg.Key == nil || cfg.Key.Curve() != ecdh.X25519():
		return nil, errors.New("mirror listener: Key must be an X25519 key")
	case cfg.Cover.Address == "":
		return nil, errors.New("mirror listener: the cover's address is missing")
	}
	if cfg.Network == nil {
		cfg.Network = transport.System{}
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.MaxConns <= 0 {
		cfg.MaxConns = defaultMaxConns
	}
	if cfg.finWait == 0 {
		cfg.finWait = finWait
	}
	l := &Listener{
		cfg:     cfg,
		log:     cfg.Logger,
		pending: make(chan *pending),
		slots:   make(chan struct{}, cfg.MaxConns),
		dials:   make(chan struct{}, maxDials),
		closed:  make(chan struct{}),
	}
	l.SetCoverLimits(cfg.Cover.Idle, cfg.Cover.Lifetime)
	l.SetCoverCycle(records.NginxHTTP2())
	l.SetCoverAnswer(Answer{})
	return l, nil
}

// SetCoverLimits says anew what [Cover] says of Idle and Lifetime. Hellos that
// are answered from now on tell it. It may be called at any time.
func (l *Listener) SetCoverLimits(idle, lifetime time.Duration) {
	l.limits.Store(&limits{idle, lifetime})
}

// SetCoverCycle says how the cover cuts large responses ([LearnCycle]); until then
// nginx's way is taken. Connections that come from now on are cut so. It may be
// called at any time.
func (l *Listener) SetCoverCycle(c records.Cycle) { l.cycle.Store(&c) }

// SetCoverAnswer says how long the cover's answer to a first request is, once that is
// learned. Replies are as long from then on.
func (l *Listener) SetCoverAnswer(a Answer) { l.first.Store(&a) }

// Run accepts and forwards until ctx ends, then closes every connection, waits
// for them, and returns nil; any other end is an error. It is called once.
// After [Listener.Close] it goes on until the last connection has ended.
func (l *Listener) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	conns, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { _ = l.Close() })
	defer stop()
	for first := true; ; first = false {
		port, err := l.cfg.Listen(ctx)
		switch {
		case ctx.Err() != nil || l.isClosed():
			if err == nil {
				_ = port.Close()
			}
		case err != nil && first:
			cancel()
			return fmt.Errorf("mirror listener: %w", err)
		case err != nil:
			// The port was ours before: whoever has it now may leave.
			l.log.Warn("port cannot be opened again, trying on", "err", bare(err))
			if l.pause(ctx) {
				continue
			}
		default:
			l.accept(conns, port, &wg)
			if !l.isClosed() && l.awaitCover(ctx) {
				continue
			}
		}
		if ctx.Err() != nil {
			cancel()
		} else {
			wg.Wait()
		}
		return nil
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

// accept serves the port until it is closed.
func (l *Listener) accept(ctx context.Context, port net.Listener, wg *sync.WaitGroup) {
	l.mu.Lock()
	l.port = port
	l.mu.Unlock()
	defer l.shutPort()
	if l.isClosed() {
		return
	}
	for {
		select {
		case l.dials <- struct{}{}:
		case <-l.closed:
			return
		}
		c, err := port.Accept()
		if err != nil {
			<-l.dials
			if errors.Is(err, net.ErrClosed) {
				return
			}
			// Out of files or memory: what is open must end first.
			l.log.Warn("connection was not accepted", "err", bare(err))
			if !l.pause(ctx) {
				return
			}
			continue
		}
		if !l.room() {
			<-l.dials
			_ = c.Close() // unread, so with a RST if something has come
			continue
		}
		wg.Go(func() {
			defer func() { <-l.slots }()
			l.stats.conns.Add(1)
			defer l.stats.conns.Add(-1)
			l.serve(ctx, c)
		})
	}
}

// room takes a slot for one more connection, and reports whether it could.
func (l *Listener) room() bool {
	select {
	case l.slots <- struct{}{}:
		return true
	default:
	}
	t := time.NewTimer(closeTime + time.Second) // covers end a visit in less
	defer t.Stop()
	for {
		var look <-chan time.Time
		if !l.idle.reuse() {
			if len(l.dials) < 2 { // beside this one
				return false
			}
			look = time.After(10 * time.Millisecond) // who waits for the cover is idle soon
		}
		select {
		case l.slots <- struct{}{}:
			return true
		case <-look:
		case <-t.C:
			return false
		case <-l.closed:
			return false
		}
	}
}

// shutPort closes the port, if it is open.
func (l *Listener) shutPort() {
	l.mu.Lock()
	port := l.port
	l.port = nil
	l.mu.Unlock()
	if port != nil {
		_ = port.Close()
	}
}

// serve forwards one connection.
func (l *Listener) serve(ctx context.Context, c net.Conn) {
	client, ok := c.(halfCloser)
	if !ok {
		<-l.dials
		_ = c.Close()
		l.log.Error("port gives connections that cannot be half-closed")
		return
	}
	if t, ok := c.(*net.TCPConn); ok {
		_ = t.SetNoDelay(true)
	}
	cover, err := l.dialCover(ctx)
	for l.passing(err) && l.pause(ctx) {
		cover, err = l.dialCover(ctx)
	}
	<-l.dials
	if err != nil {
		reset(c)
		if ctx.Err() == nil && !l.passing(err) {
			l.stats.coverFailed.Add(1)
			l.log.Warn("cover does not answer, the port is closed until it does", "err", bare(err))
			l.shutPort()
		}
		return
	}
	newLink(l, client, cover).run(ctx)
}

// passing reports whether a dial failed for what passes: want of something here, or a
// cover that accepts others and is only behind.
func (l *Listener) passing(err error) bool {
	return wanting(err) || classify(err) == transport.Timeout && time.Since(time.Unix(0, l.dialled.Load())) < coverDialTimeout
}

func (l *Listener) dialCover(ctx context.Context) (halfCloser, error) {
	ctx, cancel := context.WithTimeout(ctx, coverDialTimeout)
	defer cancel()
	c, err := l.cfg.Network.DialContext(ctx, "tcp", l.cfg.Cover.Address)
	if err != nil {
		return nil, err
	}
	l.dialled.Store(time.Now().UnixNano())
	cover, ok := c.(halfCloser)
	if !ok {
		_ = c.Close()
		return nil, errors.New("network gives connections that cannot be half-closed")
	}
	return cover, nil
}

// awaitCover blocks until the cover answers again.
func (l *Listener) awaitCover(ctx context.Context) bool {
	for {
		if c, err := l.dialCover(ctx); err == nil {
			_ = c.Close()
			if l.cfg.Returned != nil {
				l.cfg.Returned()
			}
			return true
		}
		if !l.pause(ctx) {
			return false
		}
	}
}

// pause waits about a second; false means that the listener ends.
func (l *Listener) pause(ctx context.Context) bool {
	t := time.NewTimer(coverRetry/2 + rand.N(coverRetry))
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
	case <-l.closed:
	}
	return false
}

// offer hands a hello to Accept, as long as its connection lives.
func (l *Listener) offer(p *pending) {
	if !p.k.takeSlot() {
		if _, err := p.Answer(&wire.Accept{Status: wire.StatusBusy}); err != nil {
			l.log.Debug("hello beyond the bound was not answered", "err", bare(err))
		}
		return
	}
	select {
	case l.pending <- p:
	case <-p.k.dead:
	case <-l.closed:
		_ = p.Close()
	}
}

// Accept implements [transport.Listener].
func (l *Listener) Accept(ctx context.Context) (transport.Pending, error) {
	select {
	case p := <-l.pending:
		return p, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	case <-l.closed:
		return nil, fmt.Errorf("mirror listener: %w", net.ErrClosed)
	}
}

// Close implements [transport.Listener].
func (l *Listener) Close() error {
	l.closing.Do(func() { close(l.closed) })
	l.shutPort()
	return nil
}

// Stats returns the counts so far.
func (l *Listener) Stats() Stats {
	l.mu.Lock()
	open := l.port != nil
	l.mu.Unlock()
	return Stats{
		Open:        open,
		Strangers:   l.stats.strangers.Load(),
		Candidates:  l.stats.candidates.Load(),
		Carriers:    l.stats.carriers.Load(),
		Conns:       l.stats.conns.Load(),
		CovertIn:    l.stats.covertIn.Load(),
		CovertOut:   l.stats.covertOut.Load(),
		CoverFailed: l.stats.coverFailed.Load(),
	}
}
