package main

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
	"busel/internal/front"
	"busel/internal/rotate"
	"busel/internal/session"
	"busel/internal/state"
	"busel/internal/wire"
	"busel/transport"
	"busel/transport/mirror"
	"busel/transport/quic"
)

// relays are the relays that the running client uses: one session and one
// keeper each. It is the [flow.Opener] of the local proxy.
type relays struct {
	ctx     context.Context // of the run; ends every link
	log     *slog.Logger
	policy  rotate.Policy
	horizon *rotate.Horizon
	paces   *rotate.Paces
	wg      sync.WaitGroup
	*surroundings

	mu    sync.Mutex
	links []*link
	all   atomic.Pointer[[]*link] // links, for those who must not wait
}

// link is one relay in use.
type link struct {
	label   string
	bundle  *config.Bundle // that it was made from
	session *session.Client
	keeper  *rotate.Keeper
	ways    *ways
	stop    context.CancelFunc
}

// sync makes the links those of the invites that are held: new ones start,
// removed and replaced ones end, the others go on undisturbed.
// A relay that this version cannot use is left out, and the log says why.
func (r *relays) sync(held []state.Invite) {
	r.mu.Lock()
	defer r.mu.Unlock()
	var links []*link
	for _, v := range held {
		for i := range v.Bundle.Relays {
			label := v.RelayLabel(i)
			at := slices.IndexFunc(r.links, func(l *link) bool { return l.label == label && l.bundle.Equal(v.Bundle) })
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
func (r *relays) start(label string, b *config.Bundle, e *config.RelayEntry) (*link, error) {
	w, err := r.waysTo(label, e)
	if err != nil {
		return nil, err
	}
	l := &link{label: label, bundle: b, ways: w}
	l.session = session.NewClient(session.ClientConfig{
		Token: e.Token, Cipher: preferredCipher(), Logger: r.log,
		OnNotice: func(code uint64, text string) {
			r.log.Info("the relay says", "relay", label, "code", code, "text", text)
		},
	})
	l.keeper = rotate.New(rotate.Config{
		Routes: w.routes, Fallbacks: w.fallbacks, Dialer: w.dialer, Kinds: kinds,
		Policy: r.policy, Session: bridge.Session{Client: l.session}, Memory: r.of(e.Key), Horizon: r.horizon, Logger: r.log,
		Paces: r.paces, Shown: e.CoverName,
		Passable: func() bool { return r.passable(label) },
		Prepare: func() {
			if other := r.around(label); other != nil {
				other.keeper.Warm()
			}
		},
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
func (r *relays) around(label string) (other *link) {
	for _, l := range *r.all.Load() {
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
func (r *relays) passable(label string) bool {
	all := r.all.Load()
	return all != nil && slices.ContainsFunc(*all, func(l *link) bool { return l.label != label && l.keeper.Passable() })
}

// roam tells all keepers that the link has changed.
func (r *relays) roam() {
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

func (r *relays) group() rotate.Group {
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
	return front.ErrNoRelay
}

// OpenStream implements [flow.Opener].
func (r *relays) OpenStream(ctx context.Context, dst flow.Addr) (flow.Stream, error) {
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
func (r *relays) OpenPackets(ctx context.Context) (flow.Packets, error) {
	m, err := r.best()
	if err != nil {
		return nil, err
	}
	return m.Opener.OpenPackets(ctx)
}

func (r *relays) best() (rotate.Member, error) {
	g := r.group()
	if len(g) == 0 {
		return rotate.Member{}, front.ErrNoInvite
	}
	m := g.Best()
	if refusal := m.Keeper.Refusal(); refusal != nil {
		return rotate.Member{}, &flow.OpenError{Code: flow.NotAllowed, Detail: refusal.Status.Detail(), Err: refusal}
	}
	return m, nil
}

// moved grows with every byte and stream.
func (r *relays) moved() (n uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, l := range r.links {
		s := l.session.Stats()
		n += s.Up + s.Down + uint64(s.Streams)
	}
	return n
}

// status gathers what the sessions and keepers know.
func (r *relays) status() front.Status {
	r.mu.Lock()
	links := slices.Clone(r.links)
	r.mu.Unlock()
	var s front.Status
	for _, l := range links {
		st := l.session.Stats()
		s.Streams += st.Streams
		s.Flows += st.Flows
		s.Moves += st.Moves
		s.BytesUp += st.Up
		s.BytesDown += st.Down
		for _, c := range st.Carriers {
			s.Online = true
			route, _ := l.keeper.Route(c.N)
			s.Carriers = append(s.Carriers, front.Carrier{
				Relay: l.label, Transport: c.Kind, Detour: route.Detour, State: carrierState(c), RTT: c.RTT.Milliseconds(),
				BytesUp: c.Up, BytesDown: c.Down, Age: int64(c.Age / time.Second),
			})
		}
		for _, p := range l.keeper.Paths() {
			s.Paths = append(s.Paths, front.Path{
				Relay: l.label, Transport: p.Route.Transport, Detour: p.Route.Detour, State: front.State(p.State), Failure: string(p.Failure),
				Since: p.Since, Successes: p.Successes, Failures: p.Failures,
				Retry: int64(max(0, time.Until(p.Retry)) / time.Second),
			})
		}
	}
	return s
}

// carrierState is a carrier's state in `client status -json`.
func carrierState(c session.CarrierStats) front.State {
	switch {
	case c.Suspect:
		return front.Suspect
	case c.State == wire.CarrierSpare:
		return front.Spare
	}
	return front.Active
}
