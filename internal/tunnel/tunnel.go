// Package tunnel is the client's end of all relays that it holds: one session and one
// keeper of carriers for each, and one [flow.Opener] in front of them. The client
// gives it to the local proxy; a relay whose volunteer lets another relay be its exit
// gives it to that.
package tunnel

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/cpu"

	"busel/config"
	"busel/internal/bridge"
	"busel/internal/flow"
	"busel/internal/rotate"
	"busel/internal/session"
	"busel/internal/state"
	"busel/internal/wire"
	"busel/obfs/look"
	"busel/transport"
	"busel/transport/mirror"
	"busel/transport/quic"
)

// Config of [Relays].
type Config struct {
	Policy rotate.Policy // the zero value is rotate.Auto
	// Memory is what is known of the routes to the relay of that key; nil is nothing.
	Memory func(relay [32]byte) rotate.Memory
	// Look is what browser the next carrier over TLS looks like; nil: the default.
	Look func() *look.Look
	// Refused is told of a look that a cover refused, as in mirror.DialerConfig; nil: all
	// are kept.
	Refused func(l *look.Look) (other *look.Look, accepted func())
	// Place names the network that the client is on, as in mirror.DialerConfig; nil: it
	// is told by the local address alone.
	Place func() string
	// Events, if not nil, is told what happens; see rotate.Config for what it may do.
	Events func(rotate.Event)
	Logger *slog.Logger // nil discards
}

// Relays are the relays in use. It is a [flow.Opener]. Create it with [New], give it
// invites with Sync, and wait for its end.
type Relays struct {
	cfg     Config
	ctx     context.Context // ends every link
	log     *slog.Logger
	horizon *rotate.Horizon
	paces   *rotate.Paces
	wg      sync.WaitGroup

	mu    sync.Mutex
	links []*Link
	all   atomic.Pointer[[]*Link] // links, for those who must not wait
}

var _ flow.Opener = (*Relays)(nil)

// New returns relays that are used until ctx ends: none yet.
func New(ctx context.Context, cfg Config) *Relays {
	r := &Relays{cfg: cfg, ctx: ctx, log: cfg.Logger, horizon: rotate.NewHorizon(), paces: rotate.NewPaces()}
	if r.log == nil {
		r.log = slog.New(slog.DiscardHandler)
	}
	return r
}

// Wait returns when all that Sync started has ended, after the context of New has.
func (r *Relays) Wait() { r.wg.Wait() }

// Link is one relay in use.
type Link struct {
	label   string
	bundle  *config.Bundle // that it was made from
	session *session.Client
	keeper  *rotate.Keeper
	ways    *ways
	stop    context.CancelFunc
}

// Sync makes the links those of the invites that are held: new ones start,
// removed and replaced ones end, the others go on undisturbed.
// A relay that this version cannot use is left out, and the log says why.
func (r *Relays) Sync(held []state.Invite) {
	r.mu.Lock()
	defer r.mu.Unlock()
	var links []*Link
	for _, v := range held {
		for i := range v.Bundle.Relays {
			label := v.RelayLabel(i)
			at := slices.IndexFunc(r.links, func(l *Link) bool { return l.label == label && l.bundle.Equal(v.Bundle) })
			if at >= 0 {
				links = append(links, r.links[at])
				continue
			}
			l, err := r.start(label, v.Bundle, &v.Bundle.Relays[i])
			if err != nil {
				r.log.Warn("a relay cannot be used", "relay", label, "err", err)
				continue
			}
			links = append(links, l)
		}
	}
	for _, l := range r.links {
		if !slices.Contains(links, l) {
			l.stop()
		}
	}
	r.links = links
	r.all.Store(&links)
}

// start begins to use a relay.
func (r *Relays) start(label string, b *config.Bundle, e *config.RelayEntry) (*Link, error) {
	w, err := r.waysTo(label, e)
	if err != nil {
		return nil, err
	}
	l := &Link{label: label, bundle: b, ways: w}
	l.session = session.NewClient(session.ClientConfig{
		Token: e.Token, Cipher: preferredCipher(), Logger: r.log,
		OnNotice: func(code uint64, text string) {
			r.log.Info("the relay says", "relay", label, "code", code, "text", text)
		},
	})
	var known rotate.Memory
	if r.cfg.Memory != nil {
		known = r.cfg.Memory(e.Key)
	}
	l.keeper = rotate.New(rotate.Config{
		Routes: w.routes, Fallbacks: w.fallbacks, Dialer: w.dialer, Kinds: kinds,
		Policy: r.cfg.Policy, Session: bridge.Session{Client: l.session}, Memory: known, Horizon: r.horizon, Events: r.cfg.Events, Logger: r.log,
		Paces: r.paces, Shown: e.CoverName,
		Passable: func() bool { return r.passable(label) },
	})
	ctx, stop := context.WithCancel(r.ctx)
	l.stop = stop
	for _, part := range []func(context.Context) error{l.session.Run, l.keeper.Run} {
		r.wg.Go(func() {
			defer stop()
			if err := part(ctx); ctx.Err() == nil {
				r.log.Error("relay is no longer used", "relay", label, "err", err)
			}
		})
	}
	r.wg.Go(func() {
		<-ctx.Done()
		if err := w.close(); err != nil {
			r.log.Debug("carriers did not end well", "relay", label, "err", err)
		}
	})
	return l, nil
}

// around returns the link of another relay that carriers to this one may lead
// through now, the best first; nil if there is none.
func (r *Relays) around(label string) (other *Link) {
	all := r.all.Load()
	if all == nil {
		return nil
	}
	for _, l := range *all {
		switch {
		case l.label == label || !l.keeper.Passable():
		case l.keeper.Healthy():
			return l
		case other == nil:
			other = l
		}
	}
	return other
}

// passable reports whether there is such a link.
func (r *Relays) passable(label string) bool {
	all := r.all.Load()
	return all != nil && slices.ContainsFunc(*all, func(l *Link) bool { return l.label != label && l.keeper.Passable() })
}

// Roam tells all keepers that the link has changed.
func (r *Relays) Roam() {
	for _, l := range r.Links() {
		l.ways.forget()
	}
	for _, m := range r.group() {
		m.Keeper.Roam()
	}
}

// routesTo are the ways to a relay in its invite's order, but for those that
// this version lacks.
func routesTo(label string, e *config.RelayEntry) (routes []transport.Route) {
	for _, t := range e.Transports {
		if (t.Name != mirror.Kind || mirror.CheckOptions(t.Options) != nil) &&
			(t.Name != quic.Kind || quic.CheckOptions(t.Options) != nil) {
			continue
		}
		for _, a := range e.Addresses {
			routes = append(routes, transport.Route{Relay: label, Transport: t.Name, Address: a.String(), Options: t.Options})
		}
	}
	return routes
}

// preferredCipher is AES-256-GCM where the processor has instructions for it,
// and ChaCha20-Poly1305, which is faster in plain code, elsewhere.
func preferredCipher() wire.Cipher {
	if cpu.X86.HasAES && cpu.X86.HasPCLMULQDQ || cpu.ARM64.HasAES && cpu.ARM64.HasPMULL {
		return wire.AES256GCM
	}
	return wire.ChaCha20Poly1305
}

func (r *Relays) group() rotate.Group {
	r.mu.Lock()
	defer r.mu.Unlock()
	g := make(rotate.Group, len(r.links))
	for i, l := range r.links {
		g[i] = rotate.Member{Keeper: l.keeper, Opener: l.session}
	}
	return g
}

// patience is how long an application waits for the first carrier to a relay:
// about one dial. The relay is tried on as long as anybody asks.
const patience = 10 * time.Second

// early is a stream that was opened while its relay was not connected.
type early struct {
	*session.Stream
	keeper *rotate.Keeper
}

// Connected implements [flow.Stream]: it gives up early if no carrier comes.
func (s early) Connected(ctx context.Context) error {
	first, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	err := s.Stream.Connected(first)
	switch {
	case first.Err() == nil || ctx.Err() != nil:
		return err
	case s.keeper.Attached():
		return s.Stream.Connected(ctx) // it is the destination that is slow
	}
	return flow.ErrNoRelay
}

// OpenStream implements [flow.Opener].
func (r *Relays) OpenStream(ctx context.Context, dst flow.Addr) (flow.Stream, error) {
	m, err := r.best()
	if err != nil {
		return nil, err
	}
	attached := m.Keeper.Attached()
	s, err := m.Opener.OpenStream(ctx, dst)
	if own, ok := s.(*session.Stream); ok && !attached && err == nil {
		return early{own, m.Keeper}, nil
	}
	return s, err
}

// OpenPackets implements [flow.Opener].
func (r *Relays) OpenPackets(ctx context.Context) (flow.Packets, error) {
	m, err := r.best()
	if err != nil {
		return nil, err
	}
	return m.Opener.OpenPackets(ctx)
}

func (r *Relays) best() (rotate.Member, error) {
	g := r.group()
	if len(g) == 0 {
		return rotate.Member{}, flow.ErrNoInvite
	}
	m := g.Best()
	if refusal := m.Keeper.Refusal(); refusal != nil {
		return rotate.Member{}, &flow.OpenError{Code: flow.NotAllowed, Detail: refusal.Status.Detail(), Err: refusal}
	}
	return m, nil
}

// Moved grows with every byte and stream.
func (r *Relays) Moved() (n uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, l := range r.links {
		s := l.session.Stats()
		n += s.Up + s.Down + uint64(s.Streams)
	}
	return n
}

// Links are the relays in use now.
func (r *Relays) Links() []*Link {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.links)
}

// Outage is since when nothing has answered, whatever way; zero if something does.
func (r *Relays) Outage() (since time.Time) {
	since, _ = r.horizon.Outage()
	return since
}

// Warm asks for a carrier for a few seconds, although nothing is to be sent yet.
func (l *Link) Warm() { l.keeper.Warm() }

// Seeking is since when a carrier is wanted and none is healthy; zero if that is not so.
func (l *Link) Seeking() time.Time { return l.keeper.Seeking() }

// Healthy reports whether a carrier is in use that is not suspect.
func (l *Link) Healthy() bool { return l.keeper.Healthy() }

// Label is what status and logs call the relay.
func (l *Link) Label() string { return l.label }

// Stats are the session's.
func (l *Link) Stats() session.Stats { return l.session.Stats() }

// Route is the route of a carrier that lives.
func (l *Link) Route(carrier uint32) (transport.Route, bool) { return l.keeper.Route(carrier) }

// Paths are the ways to the relay and how they did.
func (l *Link) Paths() []rotate.Path { return l.keeper.Paths() }
