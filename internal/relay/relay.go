// Package relay is what a relay does between its listeners and its exit: it
// judges a client's hello, finds or makes the session, attaches the carrier to
// it, and answers each stream and flow through the exit.
//
// A session belongs to an invite and a secret that its client drew. Knowing
// another invite, or everything that was on the wire, gives no access to it:
// sessions are looked up by (invite id, SHA-256(secret)) and by nothing else
// (docs/PROTOCOL.md, "Attach").
//
// The relay keeps no record of who asked for what: a destination lives in
// memory as long as its stream.
package relay

import (
	"context"
	"crypto/sha256"
	"errors"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"busel/internal/flow"
	"busel/internal/quota"
	"busel/internal/session"
	"busel/internal/wire"
	"busel/transport"
)

// Defaults of [Config].
const (
	// DefaultSessionLife is how long a session waits for a carrier: longer than
	// a train ride through tunnels, shorter than a night (DESIGN "Limits").
	DefaultSessionLife = time.Hour
	// DefaultMaxSessions bounds memory: a session without a carrier keeps at
	// most 1 MiB unread data.
	DefaultMaxSessions = 1024
	// DefaultMaxPerInvite is enough for one person's devices and their restarts. A
	// device has one session, which is lost to it when its client is restarted.
	DefaultMaxPerInvite = 16
	// maxCarriers of one session at a time: with DefaultMaxPerInvite no invite takes
	// more than half of what a quic listener serves. A client has one or some, and
	// its hello names those that died.
	maxCarriers = 32
)

// Gate judges the token of a hello. It is called for every hello of everyone
// who holds the relay's public key, and must be quick and constant-time.
type Gate interface {
	// Judge reports whether this relay issued the token, and if so whether it
	// may be used: [wire.StatusOK], [wire.StatusRevoked], [wire.StatusExpired]
	// or [wire.StatusQuota].
	Judge(t wire.Token) (genuine bool, status wire.Status)
}

// Config of a [Relay].
type Config struct {
	Listeners    []transport.Listener // at least one; the relay does not close them
	Gate         Gate
	Exit         flow.Opener
	SessionLife  time.Duration // 0 is [DefaultSessionLife]
	MaxSessions  int           // 0 is [DefaultMaxSessions]
	MaxPerInvite int           // 0 is [DefaultMaxPerInvite]; an account may say otherwise
	Book         *quota.Book   // counts what is moved, and limits it; nil does not
	Logger       *slog.Logger  // nil discards
	Elder        Elder         // nil if there is none
}

// Elder is a relay that drains: this one has taken its place, and sessions that
// this one does not know may be its.
type Elder interface {
	// Offer asks whether the session of a hello is the elder's. If so, Offer
	// answers p and stays with the carrier until it ends; if not, taken is false
	// and p unanswered. An error with taken false means that the elder cannot say.
	Offer(ctx context.Context, p transport.Pending) (taken bool, err error)
}

// Stats are counts since the start, and how many there are now. No address and
// no name is among them.
type Stats struct {
	Sessions int   `json:"sessions"` // now
	Carriers int64 `json:"carriers"` // now
	Streams  int64 `json:"streams"`  // now
	Flows    int64 `json:"flows"`    // now
	Draining bool  `json:"draining"` // another relay has taken the place of this one

	Hellos        int64 `json:"hellos_total"`
	Refused       int64 `json:"refused_total"` // hellos answered with a refusal, or not at all
	CarriersTotal int64 `json:"carriers_total"`
	StreamsTotal  int64 `json:"streams_total"`
	StreamsFailed int64 `json:"streams_failed_total"` // the destination was not reached
	FlowsTotal    int64 `json:"flows_total"`
	BytesUp       int64 `json:"bytes_up_total"`   // client to internet, in streams that ended
	BytesDown     int64 `json:"bytes_down_total"` // internet to client, in streams that ended
	// BytesAgain are bytes of streams that were sent or came another time, in vain.
	BytesAgain int64 `json:"bytes_again_total"`
	// Handed are the carriers that were passed on to an elder.
	Handed int64 `json:"handed_total"`
	// LastHello is how long ago a client was accepted last, in seconds; -1 is never.
	LastHello int64 `json:"last_hello_s"`
}

// Relay serves clients. Create it with [New], then Run it.
type Relay struct {
	cfg Config
	log *slog.Logger
	wg  sync.WaitGroup

	drains  chan transport.Listener // of 1
	started time.Time

	mu       sync.Mutex
	sessions map[key]*entry
	draining bool

	handed, lastHello                                    atomic.Int64 // lastHello in nanoseconds since started, 0 never
	carriers, streams, flows                             atomic.Int64
	hellos, refused, carriersTotal, streamsTotal, failed atomic.Int64
	flowsTotal, up, down, twice                          atomic.Int64
}

// key names a session: nobody learns a client's secret from the relay's memory
// layout of keys, and no secret is compared byte by byte.
type key struct {
	invite [8]byte
	secret [sha256.Size]byte
}

type entry struct {
	*session.Server
	token    wire.Token
	stop     context.CancelFunc
	attached int       // carriers now, answers that are under way included
	left     time.Time // when attached became 0
}

// New returns a relay that does nothing until Run.
func New(cfg Config) *Relay {
	if cfg.SessionLife == 0 {
		cfg.SessionLife = DefaultSessionLife
	}
	if cfg.MaxSessions == 0 {
		cfg.MaxSessions = DefaultMaxSessions
	}
	if cfg.MaxPerInvite == 0 {
		cfg.MaxPerInvite = DefaultMaxPerInvite
	}
	r := &Relay{
		cfg: cfg, log: cfg.Logger, sessions: make(map[key]*entry),
		drains: make(chan transport.Listener, 1), started: time.Now(),
	}
	if r.log == nil {
		r.log = slog.New(slog.DiscardHandler)
	}
	return r
}

// Run accepts clients on every listener until ctx ends, then ends all sessions,
// and returns the cause. A listener that fails for good ends it too. After
// [Relay.Drain] it returns nil when the last session has ended.
func (r *Relay) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer r.wg.Wait()
	defer cancel(nil)
	r.wg.Go(func() { r.reviews(ctx) })
	accept := func(l transport.Listener) {
		r.wg.Go(func() {
			if err := r.accept(ctx, l); !r.isDraining() {
				cancel(err)
			}
		})
	}
	for _, l := range r.cfg.Listeners {
		accept(l)
	}
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case l := <-r.drains:
		if l != nil {
			accept(l)
		}
	}
	tick := time.NewTicker(drainTick)
	defer tick.Stop()
	for r.endIdle() > 0 {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-tick.C:
		}
	}
	return nil
}

const (
	// drainTick is how often a relay that drains looks for sessions that are over.
	drainTick = 250 * time.Millisecond
	// drainRest is how long it keeps one without carriers, streams and flows: what
	// the client said may have died with a carrier, and it says it again when it has
	// another, mostly within seconds.
	drainRest = 2 * time.Minute
)

// Drain makes the relay keep the sessions that it has and take no others: hellos of
// unknown ones are answered "draining", which makes clients try again. It holds when
// Drain returns. Sessions end that have no streams and flows, and no carrier for two
// minutes; the others go on, with new streams and carriers, also those that l brings,
// if it is not nil. Listeners may be closed from then on. It is called once at most.
func (r *Relay) Drain(l transport.Listener) {
	r.mu.Lock()
	r.draining = true
	r.mu.Unlock()
	r.drains <- l
}

func (r *Relay) isDraining() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.draining
}

// endIdle ends sessions that have nothing, and returns how many are left.
func (r *Relay) endIdle() (left int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for k, e := range r.sessions {
		if e.attached > 0 || time.Since(e.left) < drainRest {
			continue
		}
		if st := e.Stats(); st.Streams+st.Flows == 0 {
			e.stop()
			delete(r.sessions, k)
		}
	}
	return len(r.sessions)
}

func (r *Relay) accept(ctx context.Context, l transport.Listener) error {
	for {
		p, err := l.Accept(ctx)
		if err != nil {
			return err
		}
		r.wg.Go(func() {
			if err := r.serve(ctx, p); err != nil {
				r.log.Debug("carrier ended", "err", err)
			}
		})
	}
}

var (
	errNotOurs  = errors.New("hello carries a token that this relay did not issue")
	errBusy     = errors.New("too many sessions")
	errDevices  = errors.New("too many sessions of one invite")
	errCrowded  = errors.New("too many carriers of one session")
	errDraining = errors.New("the relay drains")
	errElder    = errors.New("the relay that drains does not answer")
)

// serve answers one hello and stays with its carrier until it ends.
func (r *Relay) serve(ctx context.Context, p transport.Pending) error {
	r.hellos.Add(1)
	h := p.Hello()
	genuine, status := r.cfg.Gate.Judge(h.Token)
	if !genuine {
		// Nothing is answered: only a thief of the relay's key comes here, and
		// he sees the cover's site.
		r.refused.Add(1)
		return errors.Join(errNotOurs, p.Close())
	}
	if status.Refused() {
		return r.refuse(p, status)
	}
	if r.cfg.Elder != nil && !r.knows(h) {
		switch taken, err := r.cfg.Elder.Offer(ctx, &handed{p, r}); {
		case taken:
			return err
		case err != nil: // a session made here could be one too many
			return errors.Join(errElder, err, r.refuse(p, wire.StatusBusy))
		}
	}
	e, known, err := r.join(ctx, h)
	switch {
	case errors.Is(err, errDevices):
		return errors.Join(err, r.refuse(p, wire.StatusDevices))
	case errors.Is(err, errDraining):
		return r.refuse(p, wire.StatusDraining)
	case err != nil:
		return errors.Join(err, r.refuse(p, wire.StatusBusy))
	}
	defer r.leave(e)
	accept, admission := e.Admit(h, known)
	if accept.Status.Refused() {
		return r.refuse(p, accept.Status)
	}
	c, err := p.Answer(accept)
	if err != nil {
		admission.Withdraw()
		return err
	}
	r.heard()
	r.carriers.Add(1)
	r.carriersTotal.Add(1)
	defer r.carriers.Add(-1)
	return admission.Attach(ctx, c)
}

// handed counts a hello that an elder accepts.
type handed struct {
	transport.Pending
	r *Relay
}

// Answer implements [transport.Pending].
func (h *handed) Answer(a *wire.Accept) (transport.Carrier, error) {
	c, err := h.Pending.Answer(a)
	if c != nil && err == nil {
		h.r.handed.Add(1)
		h.r.heard()
	}
	return c, err
}

// heard notes that a client was accepted.
func (r *Relay) heard() { r.lastHello.Store(max(1, int64(time.Since(r.started)))) }

// nameOf is the key of a hello's session.
func nameOf(h *wire.Hello) key { return key{h.Token.InviteID(), sha256.Sum256(h.Secret[:])} }

func (r *Relay) knows(h *wire.Hello) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	_, known := r.sessions[nameOf(h)]
	return known
}

func (r *Relay) refuse(p transport.Pending, s wire.Status) error {
	r.refused.Add(1)
	_, err := p.Answer(&wire.Accept{Status: s})
	return errors.Join(&wire.StatusError{Status: s}, err)
}

// join finds or makes the session of a hello and counts the hello as attached.
func (r *Relay) join(ctx context.Context, h *wire.Hello) (e *entry, known bool, err error) {
	k := nameOf(h)
	r.mu.Lock()
	defer r.mu.Unlock()
	e, known = r.sessions[k]
	if !known && r.draining {
		return nil, false, errDraining
	}
	if !known {
		if err := r.makeRoom(k.invite); err != nil {
			return nil, false, err
		}
		e = r.start(ctx, k, h.Token)
	}
	if e.attached >= maxCarriers {
		return nil, false, errCrowded
	}
	e.attached++
	return e, known, nil
}

func (r *Relay) leave(e *entry) {
	r.mu.Lock()
	defer r.mu.Unlock()
	e.attached--
	e.left = time.Now()
}

// makeRoom ends the session that has been without a carrier for the longest,
// of the same invite if that has too many, else of all. A session with a carrier is
// never ended for another one: who is there first stays.
func (r *Relay) makeRoom(invite [8]byte) error {
	most := r.cfg.MaxPerInvite
	if a := r.account(invite); a != nil && a.Devices() > 0 {
		most = a.Devices()
	}
	var mine, all int
	var myOldest, oldest *entry
	older := func(a, b *entry) *entry {
		if b.attached > 0 || a != nil && a.left.Before(b.left) {
			return a
		}
		return b
	}
	for k, e := range r.sessions {
		all++
		oldest = older(oldest, e)
		if k.invite == invite {
			mine++
			myOldest = older(myOldest, e)
		}
	}
	var victim *entry
	switch {
	case mine >= most:
		if victim = myOldest; victim == nil {
			return errDevices
		}
	case all >= r.cfg.MaxSessions:
		victim = oldest
	default:
		return nil
	}
	if victim == nil {
		return errBusy
	}
	victim.stop()
	for k, e := range r.sessions {
		if e == victim {
			delete(r.sessions, k)
		}
	}
	return nil
}

// start makes a session and runs it until it ends. r.mu is held.
func (r *Relay) start(ctx context.Context, k key, token wire.Token) *entry {
	ctx, stop := context.WithCancel(ctx)
	account := r.account(k.invite)
	e := &entry{
		Server: session.NewServer(session.ServerConfig{
			OnStream:    func(ctx context.Context, s *session.Stream, dst flow.Addr) { r.stream(ctx, account, s, dst) },
			OnPackets:   func(ctx context.Context, p flow.Packets) { r.packets(ctx, account, p) },
			OnAgain:     func(received bool, n int) time.Duration { return r.again(account, received, n) },
			SessionLife: r.cfg.SessionLife, Logger: r.log,
		}),
		token: token,
		stop:  stop,
		left:  time.Now(),
	}
	r.sessions[k] = e
	r.wg.Go(func() {
		defer stop()
		err := e.Run(ctx)
		r.log.Debug("session ended", "err", err)
		r.mu.Lock()
		defer r.mu.Unlock()
		if r.sessions[k] == e {
			delete(r.sessions, k)
		}
	})
	return e
}

// stream answers one stream: it opens the destination, says how that went, and
// copies until both directions have ended.
func (r *Relay) stream(ctx context.Context, account *quota.Account, s *session.Stream, dst flow.Addr) {
	r.streams.Add(1)
	r.streamsTotal.Add(1)
	defer r.streams.Add(-1)
	out, err := r.open(ctx, account, dst)
	if err != nil {
		r.failed.Add(1)
		code, detail := flow.GeneralFailure, flow.DetailNone
		if oe, ok := errors.AsType[*flow.OpenError](err); ok {
			code, detail = oe.Code, oe.Detail
		}
		err = s.Reply(code, detail)
		r.log.Debug("stream refused", "err", errors.Join(err, s.Close()))
		return
	}
	if err := s.Reply(flow.Succeeded, flow.DetailNone); err != nil {
		out.Close()
		s.Close()
		return
	}
	up, down, err := flow.Join(ctx, r.meter(ctx, account, s), out)
	r.up.Add(up)
	r.down.Add(down)
	r.log.Debug("stream ended", "err", err)
}

// open opens a stream of the exit and waits until the destination was reached.
func (r *Relay) open(ctx context.Context, account *quota.Account, dst flow.Addr) (flow.Stream, error) {
	if account != nil && account.UsedUp() { // a moment ago
		return nil, &flow.OpenError{Code: flow.NotAllowed, Detail: flow.DetailQuota}
	}
	out, err := r.cfg.Exit.OpenStream(ctx, dst)
	if err != nil {
		return nil, err
	}
	if err := out.Connected(ctx); err != nil {
		return nil, errors.Join(err, out.Close())
	}
	return out, nil
}

// packets answers one flow.
func (r *Relay) packets(ctx context.Context, account *quota.Account, in flow.Packets) {
	r.flows.Add(1)
	r.flowsTotal.Add(1)
	defer r.flows.Add(-1)
	defer in.Close()
	out, err := r.cfg.Exit.OpenPackets(ctx)
	if err != nil {
		r.log.Debug("no UDP association", "err", err)
		return
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	pass := func(dst, src flow.Packets, d quota.Direction) {
		defer stop() // whoever waits for the other direction
		relayPackets(dst, src, func(n int) error {
			if account == nil {
				return nil
			}
			return r.take(ctx, account, d, n)
		})
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		defer in.Close()
		pass(in, out, quota.Down)
	})
	pass(out, in, quota.Up)
	out.Close()
	wg.Wait()
}

// relayPackets passes datagrams on until src ends, dst is closed or take fails, which
// is asked for each. What dst refuses, such as a denied address, is dropped, as a
// firewall would.
func relayPackets(dst, src flow.Packets, take func(n int) error) {
	buf := make([]byte, 64<<10)
	for {
		n, addr, err := src.ReadFrom(buf)
		if err != nil {
			return
		}
		if take(n) != nil {
			return
		}
		if err := dst.WriteTo(buf[:n], addr); errors.Is(err, net.ErrClosed) {
			return
		}
	}
}

// Stats returns the counts.
func (r *Relay) Stats() Stats {
	r.mu.Lock()
	n, draining := len(r.sessions), r.draining
	r.mu.Unlock()
	last := int64(-1)
	if at := r.lastHello.Load(); at > 0 {
		last = int64((time.Since(r.started) - time.Duration(at)) / time.Second)
	}
	return Stats{
		Draining: draining, Handed: r.handed.Load(), LastHello: last,
		Sessions: n, Carriers: r.carriers.Load(), Streams: r.streams.Load(), Flows: r.flows.Load(),
		Hellos: r.hellos.Load(), Refused: r.refused.Load(), CarriersTotal: r.carriersTotal.Load(),
		StreamsTotal: r.streamsTotal.Load(), StreamsFailed: r.failed.Load(), FlowsTotal: r.flowsTotal.Load(),
		BytesUp: r.up.Load(), BytesDown: r.down.Load(), BytesAgain: r.twice.Load(),
	}
}
