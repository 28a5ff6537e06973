// Package rotate keeps a session on living carriers: it notices when one is
// wanted, races the routes to the relay politely, keeps a warm spare on an unlike
// transport, moves when a carrier dies or becomes slow, learns what this network
// does to which way of travelling, and tells a block from an outage.
//
// It knows neither frames nor bytes, only which carriers live and how they and the
// dials went. A session that wants no carrier is left alone, so that an idle client
// is silent.
//
// All decisions are made in [Keeper.step], from what the session shows ([View]),
// what is known of each way ([Path]) and the time. What happens is in
//
//   - plan.go: how many carriers there should be, and what for;
//   - race.go: which way is dialled next, and when;
//   - path.go: what is known of a way, and when it rests;
//   - pace.go: how many TLS connections a censor may see, which keepers share;
//   - trial.go: whether a second carrier carries more, and which one is throttled;
//   - budget.go: networks that freeze each flow after a few packets;
//   - horizon.go: outages, which all keepers share.
package rotate

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"busel/internal/flow"
	"busel/internal/wire"
	"busel/transport"
)

// Offer is one hello that waits for a carrier. An adapter around *session.Offer is
// one.
type Offer interface {
	Carrier() uint32 // its number in the session
	Hello() *wire.Hello
	// Attach blocks until the carrier is done and says why.
	Attach(ctx context.Context, c transport.Carrier, a *wire.Accept) error
	// Attached is closed once the session counts the carrier, or Attach returned.
	Attached() <-chan struct{}
	Withdraw()
}

// Session is what the keeper serves. An adapter around *session.Client is one.
type Session interface {
	// View returns what the session looks like, and a channel that is closed when
	// anything of it but rates and sums has changed.
	View() (View, <-chan struct{})
	// Offer reserves a carrier: active, or a spare. A budget other than 0 bounds
	// how many bytes travel on it.
	Offer(state wire.CarrierState, budget uint64) Offer
	// Set makes a live carrier active or a spare.
	Set(n uint32, state wire.CarrierState)
	// Drop gives a carrier up; what it carried moves to others.
	Drop(n uint32, err error)
	// Doubt asks each carrier for a sign of life.
	Doubt()
	// Fail ends all streams: the relay refuses the invite.
	Fail(cause error)
}

// View is a session as the keeper sees it.
type View struct {
	Wanted   bool // streams or flows exist, or something is queued
	Moving   bool // something moved of late, or waits to
	Carriers []Carrier
}

// Carrier is one that lives.
type Carrier struct {
	N        uint32
	State    wire.CarrierState // active or spare
	Suspect  bool              // silent although it owes an answer
	Spent    bool              // its budget is used up
	Busy     bool              // a stream's data moved on it of late, or waits for an answer
	Late     bool              // others wait for what it has
	Rate     float64           // bytes/s, both ways, over about a second
	Up, Down uint64            // bytes of frames
}

func (c *Carrier) healthy() bool {
	return c.State == wire.CarrierActive && !c.Suspect && !c.Spent
}

// Kind is what is to be known of a transport.
type Kind struct {
	Name string // in sentences for the user: "TLS"
	// Counted: its dials are TLS connections that look like a browser's, and a
	// censor may count them (row R2).
	Counted bool
}

// Config of a [Keeper].
type Config struct {
	// Routes all lead to one relay; the preferred one first. Fallbacks are such
	// with an oddity (a ClientHello in pieces), each tried when a route over the
	// same transport to the same address failed in its TLS hello.
	Routes, Fallbacks []transport.Route
	Dialer            func(r transport.Route) transport.Dialer
	Kinds             map[string]Kind // by Route.Transport
	Policy            Policy          // the zero value is [Auto]
	Session           Session
	Horizon           *Horizon // shared by all keepers; nil is one of its own
	Paces             *Paces   // shared by all keepers; nil is one of its own
	Shown             string   // the name that counted dials show to a censor; the keepers of one name share a pace
	Memory            Memory   // nil forgets
	// Passable reports whether some other relay can be gone through now, for the
	// routes that are detours; nil is never. It must take no keeper's lock:
	// [Keeper.Passable] takes none.
	Passable func() bool
	// Events, if not nil, is told what happens. It is called with the keeper's lock
	// held: it must not block, nor call the keeper.
	Events func(Event)
	Logger *slog.Logger // nil discards
}

// Pace of the keeper.
const (
	// settled is how long a carrier must have lived for its end to say nothing of
	// its path: longer than a censor takes that ends each carrier as soon as it
	// sees one.
	settled = 250 * time.Millisecond
	// refusedPause is the wait after the relay itself refused the invite.
	refusedPause = time.Minute
	// forgive is how long a relay that could not be reached is passed over when
	// another one is held.
	forgive = time.Minute
	// beatMin and beatMax bound the time between signs of life on a session that is
	// quiet but has open streams, so that what comes for them finds its way: less
	// than home routers remember a mapping of UDP (RFC 4787 asks for 120 s, many do
	// 60) and than a web server keeps a connection (nginx: 75 s).
	beatMin = 35 * time.Second
	beatMax = 50 * time.Second
	// warmth is for how long Warm asks for a carrier: a dial, and another one if that fails.
	warmth = 5 * time.Second
	// glance is how often a spare that took over from a silent carrier is looked at
	// until something came over it.
	glance = 50 * time.Millisecond
)

// Keeper keeps one session attached. Create it with [New], then Run it.
type Keeper struct {
	cfg    Config
	log    *slog.Logger
	wg     sync.WaitGroup // of dials and carriers
	kicked chan struct{}

	mu        sync.Mutex
	paths     []*Path
	paces     map[string]*pace // by transport, some shared; ways through other relays have none
	attempts  []*attempt       // dials under way
	held      map[uint32]*held // carriers
	need      *need            // while no carrier is healthy and one is wanted
	trial     trial
	budget    budget
	after     []func()    // to do without the lock
	passage   atomic.Bool // see Passable
	warm      time.Time   // until when a carrier is wanted though nothing is to be sent
	wanted    bool
	healthy   bool      // now
	down      uint64    // received on the carriers that live
	moving    time.Time // since when; zero if it is not
	quiet     time.Time // since when; zero if it is not
	useAfter  time.Time // no dial that is only of use before it
	useFails  int       // in a row
	beatAt    time.Time
	told      *move             // a need that is over, and not told yet
	connected bool              // once, since a carrier is wanted
	lost      string            // how the last carrier was lost, in words
	failed    time.Time         // when every route had failed in a row; zero after a success
	refused   time.Time         // when the relay refused the invite; zero after a success
	refusal   *wire.StatusError // why
	hold      time.Time         // no dial in a need before it
	flaps     int               // carriers in a row that did not live long
	roamed    bool              // recall what is known: the network may be another one
	unproven  time.Time         // when a spare took over from a silent carrier; zero once something came
	outage    bool              // there is one, as far as we have heard
	back      time.Time         // when an outage ended
	shaken    time.Time         // when an outage ended, or the link changed: what was silent then says nothing of its path
	silence   time.Time         // when a dial last met silence that may be the network's
	answered  time.Time         // the last question of the horizon that was passed on
}

// held is a carrier of ours.
type held struct {
	path     *Path
	born     time.Time
	moved    uint64    // bytes, when last seen
	down     uint64    // of them received
	heard    time.Time // when more was received, or it was born
	promoted time.Time // when it last took over as a spare
	budget   uint64
	spent    bool
	usable   bool      // when last seen
	used     bool      // it was once
	was      uint64    // moved at the last sample
	flows    []float64 // of the last samples, bytes/s
	peak     float64   // the most that it carried of late, bytes/s
	left     bool      // we have given it up, or made it a spare
	suspect  bool      // when last seen
	seen     bool      // in the session's view
	gone     time.Time // from there
}

// endWithin is how long the judgement of a carrier's end is waited for: a session
// shows that one is gone a moment before it says why.
const endWithin = 50 * time.Millisecond

// usable reports whether a carrier of ours is in use and well.
func (k *Keeper) usable(c *Carrier) bool {
	h := k.held[c.N]
	return c.healthy() && h != nil && !h.left
}

// New returns a keeper that does nothing until Run.
func New(cfg Config) *Keeper {
	k := &Keeper{cfg: cfg, log: cfg.Logger, kicked: make(chan struct{}, 1), paces: map[string]*pace{}, held: map[uint32]*held{}}
	if k.log == nil {
		k.log = slog.New(slog.DiscardHandler)
	}
	if k.cfg.Horizon == nil {
		k.cfg.Horizon = NewHorizon()
	}
	if k.cfg.Paces == nil {
		k.cfg.Paces = NewPaces()
	}
	for i, r := range slices.Concat(cfg.Routes, cfg.Fallbacks) {
		k.paths = append(k.paths, &Path{Route: r, State: Untried, fallback: i >= len(cfg.Routes), took: usualDial})
		if k.paces[r.Transport] = new(pace); cfg.Kinds[r.Transport].Counted {
			k.paces[r.Transport] = k.cfg.Paces.of(cfg.Shown)
		}
	}
	k.budget.init(cfg)
	k.passage.Store(true)
	k.recall(time.Now())
	return k
}

// recall takes from memory what is known of the routes on this network.
func (k *Keeper) recall(now time.Time) {
	if k.cfg.Memory == nil {
		return
	}
	k.budget.forget()
	for _, p := range k.paths {
		m := k.cfg.Memory.Recall(p.Route)
		p.recall(m, now)
		k.budget.recall(m, now)
	}
}

// note writes to memory what is known of a path.
func (k *Keeper) note(p *Path) {
	if k.cfg.Memory != nil {
		m := p.remember(k.budget.learned())
		k.after = append(k.after, func() { k.cfg.Memory.Note(p.Route, m) })
	}
}

// Run keeps the session attached until ctx ends, and returns its cause. It has
// closed every carrier it made by then.
func (k *Keeper) Run(ctx context.Context) error {
	defer k.wg.Wait()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		k.mu.Lock()
		// After the lock, so that a carrier whose dial is no longer under way is in it.
		view, viewed := k.cfg.Session.View()
		outage, horizon := k.cfg.Horizon.Outage()
		now := time.Now()
		wake := k.step(ctx, view, outage, now)
		after := k.after
		k.after = nil
		k.mu.Unlock()
		for _, f := range after {
			f()
		}
		var fire <-chan time.Time
		if !wake.IsZero() {
			timer.Reset(time.Until(wake))
			fire = timer.C
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-viewed:
		case <-horizon:
		case <-k.kicked:
		case <-fire:
		}
	}
}

func (k *Keeper) kick() {
	select {
	case k.kicked <- struct{}{}:
	default:
	}
}

// Roam tells the keeper that the link has changed, or that the machine has slept:
// carriers are asked for a sign of life, what is known of this network is recalled,
// and nothing waits any longer.
func (k *Keeper) Roam() {
	k.mu.Lock()
	k.roamed = true
	k.mu.Unlock()
	k.kick()
}

// Warm asks for a carrier for a few seconds, although nothing is to be sent yet.
func (k *Keeper) Warm() {
	k.mu.Lock()
	k.warm = time.Now().Add(warmth)
	k.mu.Unlock()
	k.kick()
}

// step makes all decisions of a moment and returns when the next are due.
func (k *Keeper) step(ctx context.Context, v View, outage, now time.Time) (wake time.Time) {
	if k.outage && outage.IsZero() {
		k.pardon(now)
	}
	k.outage = !outage.IsZero()
	warm := now.Before(k.warm) && !v.Wanted
	if warm {
		v.Wanted = true
		defer func() { wake = earlier(wake, k.warm) }()
	}
	k.observe(v, now)
	if warm && k.failed.IsZero() {
		k.passage.Store(true) // as if nobody wanted it
	}
	if k.roamed {
		k.roamed, k.shaken = false, now
		k.cancel(func(*attempt) bool { return true }) // they began on another link
		k.recall(now)
		k.useAfter, k.useFails, k.beatAt = time.Time{}, 0, time.Time{}
		if k.need != nil {
			k.need.again(now)
			k.need.cycle = 0
		}
		k.after = append(k.after, k.cfg.Session.Doubt)
	}
	if at := k.cfg.Horizon.question(); at.After(k.answered) {
		k.answered = at
		k.after = append(k.after, k.cfg.Session.Doubt)
	}
	for _, p := range k.paths {
		p.wake(now)
	}
	if !v.Wanted {
		k.cancel(func(*attempt) bool { return true })
		k.need, k.beatAt = nil, time.Time{}
		return k.rest(v, now)
	}
	w, wake := k.plan(v, now)
	k.arrange(v, &w, outage, now)
	if judged := k.ending(now); !judged.IsZero() {
		wake = earlier(wake, judged)
	} else {
		wake = earlier(wake, k.dialNeeded(ctx, w, outage, now))
		wake = earlier(wake, k.dialUseful(ctx, v, w, outage, now))
		wake = earlier(wake, k.dialAround(ctx, w, outage, now))
	}
	wake = earlier(wake, k.tell(now))
	return earlier(wake, k.beat(v, now))
}

// observe notes what the session shows.
func (k *Keeper) observe(v View, now time.Time) {
	k.wanted = v.Wanted
	k.healthy = false
	direct, proven, unheard := false, false, false
	var down uint64
	for i := range v.Carriers {
		c := &v.Carriers[i]
		down += c.Down
		h := k.held[c.N]
		if h == nil {
			continue
		}
		h.seen = true
		h.left = h.left && c.State == wire.CarrierActive
		if sum := c.Up + c.Down; sum > h.moved {
			k.trial.moved += sum - h.moved
			h.moved = sum
		}
		if c.Down > h.down {
			h.down, h.heard = c.Down, now
		}
		h.spent = h.spent || c.Spent
		if h.suspect && !c.Suspect {
			h.path.stained = time.Time{} // it was only late
		}
		if h.suspect = c.Suspect; h.suspect {
			h.path.stained = now
			k.lost = k.words(h.path.Route) + " fell silent"
		}
		if h.usable = k.usable(c); h.usable {
			h.used = true
			k.healthy = true
			direct = direct || !h.path.Route.Detour
			if h.promoted.Equal(k.unproven) && !h.heard.After(k.unproven) {
				unheard = true
			} else {
				proven = proven || !h.path.Route.Detour
			}
		}
		h.path.goodput = max(h.path.goodput, c.Rate)
	}
	switch {
	case k.unproven.IsZero():
	case proven:
		k.unproven = time.Time{}
		k.cancel(func(a *attempt) bool { return a.path.Route.Detour && !a.need })
	case k.healthy && !unheard: // the way around is in use
		k.unproven = time.Time{}
	}
	k.passage.Store(direct || !v.Wanted && k.failed.IsZero())
	for n, h := range k.held {
		if h.seen && h.gone.IsZero() && !slices.ContainsFunc(v.Carriers, func(c Carrier) bool { return c.N == n }) {
			h.gone = now
		}
	}
	if down > k.down {
		k.living(now)
	}
	k.down = down
	switch {
	case v.Moving && k.moving.IsZero():
		k.moving, k.quiet = now, time.Time{}
	case !v.Moving && k.quiet.IsZero():
		k.moving, k.quiet = time.Time{}, now
	}
	switch {
	case !v.Wanted:
		k.unwanted()
	case k.healthy && k.need != nil:
		if k.connected {
			k.afterMove(now)
		}
		k.moved(v, now)
		k.cancel(func(a *attempt) bool { return a.need && a.budget == 0 })
		k.need = nil
	case k.healthy:
		// It was there when it was wanted again: what follows is a move.
		k.connected = true
	case k.need == nil:
		k.need = newNeed(now)
		if k.connected && k.budget.bytes == 0 {
			k.report(Event{Kind: Seeking})
		}
	}
}

// unwanted forgets the need of a session that nobody wants to use.
func (k *Keeper) unwanted() {
	if k.need != nil && k.connected && k.budget.bytes == 0 {
		k.report(Event{Kind: Ceased})
	}
	k.lost, k.need, k.told, k.connected, k.unproven = "", nil, nil, false, time.Time{}
}

// ending is until when the end of a carrier may still be judged; zero if there is
// no such.
func (k *Keeper) ending(now time.Time) (at time.Time) {
	for _, h := range k.held {
		if until := h.gone.Add(endWithin); !h.gone.IsZero() && now.Before(until) {
			at = later(at, until)
		}
	}
	return at
}

// arrange promotes spares, demotes carriers that are too many, and drops what is
// of no use.
func (k *Keeper) arrange(v View, w *wish, outage, now time.Time) {
	healthy, spares := 0, []Carrier(nil)
	for _, c := range v.Carriers {
		switch {
		case k.usable(&c):
			healthy++
		case c.State == wire.CarrierSpare && !c.Suspect && !c.Spent && k.held[c.N] != nil:
			spares = append(spares, c)
		}
	}
	set := func(n uint32, s wire.CarrierState) {
		k.after = append(k.after, func() { k.cfg.Session.Set(n, s) })
	}
	// The one that travels unlike the active ones, on the way with the least trouble.
	slices.SortFunc(spares, func(a, b Carrier) int {
		p, q := k.held[a.N].path, k.held[b.N].path
		switch x, y := k.alike(p, v), k.alike(q, v); {
		case x && !y:
			return 1
		case y && !x:
			return -1
		}
		if by := p.stained.Compare(q.stained); by != 0 {
			return by
		}
		return int(b.N) - int(a.N)
	})
	if len(spares) > 0 && healthy == 0 && outage.IsZero() &&
		slices.ContainsFunc(v.Carriers, func(c Carrier) bool { return c.Suspect && k.held[c.N] != nil }) {
		k.unproven = now // the spare may be as silent
	}
	for len(spares) > 0 && (healthy == 0 || healthy < w.active && !w.fresh) {
		set(spares[0].N, wire.CarrierActive)
		k.held[spares[0].N].promoted = now
		w.promoted = true
		spares = spares[1:]
		healthy++
	}
	for excess := healthy - w.active; w.budget == 0 && k.unproven.IsZero() && excess > 0; excess-- {
		if n := k.worst(v, w); n != 0 {
			set(n, wire.CarrierSpare)
			return // another look when that is done
		}
	}
	most := maxSpares
	if !k.quiet.IsZero() && now.Sub(k.quiet) >= spareRest {
		most = 0
	}
	for len(spares) > most {
		n := spares[len(spares)-1].N
		spares = spares[:len(spares)-1]
		k.after = append(k.after, func() { k.cfg.Session.Drop(n, errSuperfluous) })
	}
}

const (
	// maxSpares bounds the carriers that do nothing.
	maxSpares = 1
	// spareRest is how long a session must have been quiet for its spare to go: to
	// keep it would show.
	spareRest = 15 * time.Second
)

// rest drops the spare of a session that nobody wants, and returns when.
func (k *Keeper) rest(v View, now time.Time) time.Time {
	at := k.quiet.Add(spareRest)
	for _, c := range v.Carriers {
		switch {
		case c.State != wire.CarrierSpare:
		case k.quiet.IsZero() || now.Before(at):
			return at
		default:
			k.after = append(k.after, func() { k.cfg.Session.Drop(c.N, errSuperfluous) })
		}
	}
	return time.Time{}
}

// alike reports whether an active carrier travels like the path.
func (k *Keeper) alike(p *Path, v View) bool {
	return slices.ContainsFunc(v.Carriers, func(c Carrier) bool {
		h := k.held[c.N]
		return c.State == wire.CarrierActive && h != nil && h.path.Route.Transport == p.Route.Transport
	})
}

var errSuperfluous = errors.New("there are enough carriers")

// worst is the active carrier to do without: the one on trial, else one on a path
// that was in trouble, else the newest.
func (k *Keeper) worst(v View, w *wish) uint32 {
	var worst uint32
	for _, c := range v.Carriers {
		if !k.usable(&c) {
			continue
		}
		if c.N == w.least {
			return c.N
		}
		if worst == 0 {
			worst = c.N
			continue
		}
		if by := k.held[c.N].path.stained.Compare(k.held[worst].path.stained); by > 0 || by == 0 && c.N > worst {
			worst = c.N
		}
	}
	return worst
}

// beat asks quiet carriers for a sign of life now and then.
func (k *Keeper) beat(v View, now time.Time) time.Time {
	switch {
	case v.Moving || len(v.Carriers) == 0:
		k.beatAt = time.Time{}
	case now.Sub(k.quiet) < spareRest: // until then the spare is there, too
		return k.quiet.Add(spareRest)
	case k.beatAt.IsZero():
		k.beatAt = now.Add(beatMin + rand.N(beatMax-beatMin))
	case !now.Before(k.beatAt):
		k.beatAt = now.Add(beatMin + rand.N(beatMax-beatMin))
		k.after = append(k.after, k.cfg.Session.Doubt)
	}
	return k.beatAt
}

// words name a route to a user: "r1:443 over TLS".
func (k *Keeper) words(r transport.Route) string {
	s := r.Relay
	if _, port, err := net.SplitHostPort(r.Address); err == nil {
		s += ":" + port
	}
	s += " over " + k.name(r)
	if r.Detour {
		s += " through another relay"
	}
	return s
}

func (k *Keeper) name(r transport.Route) string {
	if n := k.cfg.Kinds[r.Transport].Name; n != "" {
		return n
	}
	return r.Transport
}

// Paths returns what is known of each route, in the order of the configuration.
func (k *Keeper) Paths() []Path {
	k.mu.Lock()
	defer k.mu.Unlock()
	var paths []Path
	for _, p := range k.paths {
		if (p.fallback || p.Route.Detour) && p.State == Untried && p.Failures == 0 {
			continue // an oddity or a detour that nobody needed
		}
		paths = append(paths, *p)
	}
	return paths
}

// Route returns the route of a carrier that lives.
func (k *Keeper) Route(n uint32) (transport.Route, bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if h := k.held[n]; h != nil {
		return h.path.Route, true
	}
	return transport.Route{}, false
}

// Healthy reports whether a carrier is in use that is not suspect.
func (k *Keeper) Healthy() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.healthy
}

// Attached reports whether a carrier lives, suspect or not.
func (k *Keeper) Attached() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return len(k.held) > 0
}

// Passable reports whether others may go through this relay: a healthy carrier
// leads straight to it, or nobody wants one and the last time it did not fail. It
// takes no lock, so that keepers may ask each other.
func (k *Keeper) Passable() bool { return k.passage.Load() }

// Failing reports whether every route failed when last tried, less than
// [forgive] ago.
func (k *Keeper) Failing() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return !k.failed.IsZero() && time.Since(k.failed) < forgive
}

// Refusal is why the relay refused the invite less than refusedPause ago: revoked,
// expired, its quota used up, or too many devices. Until that is over nothing is
// dialled. It is nil if the relay did not.
func (k *Keeper) Refusal() *wire.StatusError {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.refused.IsZero() || time.Since(k.refused) >= refusedPause {
		return nil
	}
	return k.refusal
}

func isRefusal(err error) bool {
	_, ok := errors.AsType[*wire.StatusError](err)
	return ok
}

// refusalOf is the relay's word on the invite; nil if it is on something else.
func refusalOf(err error) *wire.StatusError {
	if e, ok := errors.AsType[*wire.StatusError](err); ok && e.Status.Detail() != flow.DetailNone {
		return e
	}
	return nil
}

// jitter spreads d over 0.75..1.25 of itself, so that clients that lost the
// same relay do not come back in step.
func jitter(d time.Duration) time.Duration {
	return d*3/4 + rand.N(d/2+1)
}
