package rotate

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"busel/internal/wire"
	"busel/transport"
)

// Pace of a race.
const (
	// dialTimeout bounds one dial, from the connect to the relay's reply. A
	// handshake at 1 s round trip, the slowest link worth waiting for, takes
	// four; a lossy one needs two retransmissions (1 s, 3 s) on top.
	dialTimeout = 10 * time.Second
	// knock bounds the time until anybody answers at all: TCP sends its SYN again
	// after 1 s, QUIC its Initial after 0.2, 0.6 and 1.4 s. A new dial begins with
	// short intervals again, which a network that comes back is noticed by.
	knock = 2500 * time.Millisecond
	// knockOutage is that in an outage: a SYN leaves every second.
	knockOutage = 2 * time.Second
	// headStart is what a dial gets on top of the time that its route needed last
	// (DESIGN section 7: one more every 300 ms or so).
	headStart = 300 * time.Millisecond
	// maxStagger bounds the wait beside a dial without an answer, and is the wait of
	// a route that failed lately: it most likely fails again, and a try may make a
	// block last longer (row I3).
	maxStagger = 3 * time.Second
	// Pauses after all routes failed in a row double from firstPause: to maxPause
	// if somebody is in the way, to idlePause if nobody was there.
	firstPause = 400 * time.Millisecond
	idlePause  = 5 * time.Second
	maxPause   = 30 * time.Second
	// maxFlapPause bounds the wait after carriers that came but did not live: each
	// of them may have moved something.
	maxFlapPause = 2 * time.Second
	// An outage is asked about every knockOutage, and less often the longer it
	// lasts.
	longOutage     = 15 * time.Minute
	longPause      = 2 * time.Second // more
	veryLongOutage = time.Hour
	veryLongPause  = 8 * time.Second // more
)

var (
	errDialTimeout = errors.New("no answer in time")
	errOvertaken   = errors.New("another way was quicker")
)

// attempt is one dial. Its fields are guarded by Keeper.mu.
type attempt struct {
	path    *Path
	offer   Offer
	need    bool      // for a need, and not only of use
	start   time.Time // also its mark in the pace
	over    time.Time // when the next may start beside it
	budget  uint64
	reached bool // somebody answered
	landing bool // it gave a carrier, which the session does not count yet
	gaveUp  bool // its end counts for nothing
	cancel  context.CancelCauseFunc
}

// need is a stretch of time in which a carrier is wanted and none is healthy. It
// goes through the routes in cycles until one gives a carrier.
type need struct {
	since  time.Time
	cycle  int
	begun  time.Time // of the cycle
	next   time.Time // when the next cycle may begin; zero while this one lasts
	tried  map[*Path]bool
	newest *attempt
	hurry  bool     // one failed, and none was started since
	silent bool     // all failures of this cycle were silence
	absent bool     // all were silence, or nobody listening
	before []string // what failed, in words, in the first cycle
}

func newNeed(now time.Time) *need {
	n := &need{since: now}
	n.again(now)
	n.cycle = 0
	return n
}

// again begins another cycle.
func (n *need) again(now time.Time) {
	n.cycle++
	n.begun, n.next, n.tried = now, time.Time{}, map[*Path]bool{}
	n.newest, n.hurry, n.silent, n.absent = nil, false, true, true
}

// dialNeeded starts what is due of a need's dials, and returns when to look again.
func (k *Keeper) dialNeeded(ctx context.Context, w wish, outage, now time.Time) time.Time {
	n := k.need
	if n == nil || k.landing() || w.promoted {
		return time.Time{}
	}
	if now.Before(k.hold) {
		return k.hold
	}
	for {
		p := k.candidate(n, now)
		switch {
		case p != nil:
		case k.running() > 0:
			return time.Time{}
		case n.next.IsZero():
			k.failed = now
			n.next = now.Add(k.pause(n, outage, now))
			return n.next
		case now.Before(n.next):
			return n.next
		default:
			n.again(now)
			continue
		}
		if at := k.startAt(p, n, now); now.Before(at) {
			return at
		}
		a := k.dial(ctx, p, true, wire.CarrierActive, w.budget, outage, now)
		if a == nil {
			return k.startAt(p, n, now)
		}
		n.tried[p], n.newest, n.hurry = true, a, false
	}
}

// dialAround starts a dial through another relay once a spare took over from a silent
// carrier, and gives it up when something comes over that: if it is the relay's address
// that is blocked the spare is as silent, which would take as long again to notice. To a
// censor it is a visit to the other relay's site.
func (k *Keeper) dialAround(ctx context.Context, w wish, outage, now time.Time) time.Time {
	if k.unproven.IsZero() || k.need != nil || !outage.IsZero() {
		return time.Time{}
	}
	for _, p := range k.order(now) {
		if p.Route.Detour && !p.fallback && p.State != Resting && k.passable(p) && !k.underWay(p) && !k.carried(p) {
			k.dial(ctx, p, false, wire.CarrierActive, w.budget, outage, now)
			break
		}
	}
	return now.Add(glance)
}

// carried reports whether a carrier over the path lives.
func (k *Keeper) carried(p *Path) bool {
	for _, h := range k.held {
		if h.path == p {
			return true
		}
	}
	return false
}

func (k *Keeper) landing() bool {
	return slices.ContainsFunc(k.attempts, func(a *attempt) bool { return a.landing })
}

func (k *Keeper) running() (n int) {
	for _, a := range k.attempts {
		if !a.gaveUp {
			n++
		}
	}
	return n
}

// candidate is the path to dial next in a need, nil if there is none: of the best
// that were not tried in this cycle the first that travels unlike the newest dial.
// No two dials over one transport to one address are under way together.
func (k *Keeper) candidate(n *need, now time.Time) *Path {
	var best *Path
	for _, p := range k.order(now) {
		switch {
		case n.tried[p] || !k.passable(p) || k.underWay(p) && !k.many(p):
			continue
		case best != nil && k.rank(p, now) != k.rank(best, now):
			return best
		case n.newest == nil || n.newest.path.Route.Transport != p.Route.Transport:
			return p
		case best == nil:
			best = p
		}
	}
	return best
}

// passable reports whether a path can be dialled at all now.
func (k *Keeper) passable(p *Path) bool {
	if p.Route.Detour && (k.cfg.Passable == nil || !k.cfg.Passable()) {
		return false
	}
	if !p.fallback {
		return true
	}
	return slices.ContainsFunc(k.paths, func(base *Path) bool {
		return !base.fallback && base.hello && base.Route.Transport == p.Route.Transport && base.Route.Address == p.Route.Address && base.Route.Detour == p.Route.Detour
	})
}

// many reports whether dials over a path may be under way together: where carriers
// are short there must be many, and nobody counts these.
func (k *Keeper) many(p *Path) bool {
	return k.budget.bytes > 0 && !k.paces[p.Route.Transport].counted
}

func (k *Keeper) underWay(p *Path) bool {
	return slices.ContainsFunc(k.attempts, func(a *attempt) bool {
		r := a.path.Route
		return !a.gaveUp && r.Transport == p.Route.Transport && r.Address == p.Route.Address && r.Detour == p.Route.Detour
	})
}

// order returns the paths, best first; the resting ones by the age of the failure.
func (k *Keeper) order(now time.Time) []*Path {
	paths := slices.Clone(k.paths)
	slices.SortStableFunc(paths, func(a, b *Path) int {
		if by := k.rank(a, now) - k.rank(b, now); by != 0 {
			return by
		}
		if a.State == Resting && b.State == Resting {
			return a.Since.Compare(b.Since)
		}
		return 0
	})
	return paths
}

// rank is the path's, and more if its dials are spent for now.
func (k *Keeper) rank(p *Path, now time.Time) int {
	r := p.rank(now)
	if pace := k.paces[p.Route.Transport]; !p.Route.Detour && pace.counted {
		switch {
		case pace.spent(now):
			r += 11 // even a blocked way goes first
		case k.budget.bytes > 0:
			r += 3 // many short ones, rather of those that nobody counts
		}
	}
	return r
}

// startAt is when a path may be dialled in a need: beside the newest dial once
// that has taken long, at once when it has failed, and never faster than its pace.
func (k *Keeper) startAt(p *Path, n *need, now time.Time) time.Time {
	var paced time.Time
	if !p.Route.Detour {
		pace := k.paces[p.Route.Transport]
		paced = pace.at(true, now)
		if pace.spent(now) && k.running() > 0 { // the last resort, while another way may still answer
			paced = later(paced, k.attempts[len(k.attempts)-1].start.Add(maxStagger))
		}
	}
	if n.hurry || n.newest == nil || k.running() == 0 {
		return paced
	}
	at := n.newest.over
	if p.State == Resting && n.newest.path.State != Resting {
		at = n.newest.start.Add(maxStagger)
	}
	return later(at, paced)
}

// pause is the wait after a cycle in which all routes failed.
func (k *Keeper) pause(n *need, outage, now time.Time) time.Duration {
	if n.silent {
		d := min(firstPause<<min(n.cycle, 4), knockOutage) - now.Sub(n.begun)
		d = max(d, 0)
		switch {
		case outage.IsZero():
		case now.Sub(outage) > veryLongOutage:
			d += veryLongPause
		case now.Sub(outage) > longOutage:
			d += longPause
		}
		return max(jitter(d), 50*time.Millisecond)
	}
	most := maxPause
	if n.absent {
		most = idlePause
	}
	return jitter(min(firstPause<<min(n.cycle, 10), most))
}

// dial starts a dial. It is nil if another keeper has just started one that looks
// the same.
func (k *Keeper) dial(ctx context.Context, p *Path, need bool, state wire.CarrierState, budget uint64, outage, now time.Time) *attempt {
	if !p.Route.Detour && !k.paces[p.Route.Transport].start(need, now) {
		return nil
	}
	dial, cancel := context.WithCancelCause(ctx)
	a := &attempt{path: p, need: need, start: now, budget: budget, cancel: cancel}
	patience := max(knock, 2*p.took)
	if p.Route.Detour { // the other relay may have to be reached first
		patience = 2 * knock
	}
	a.over = now.Add(min(p.took+jitter(headStart), maxStagger))
	if !outage.IsZero() {
		patience = max(knockOutage, p.took)
		a.over = now.Add(knockOutage / 2)
	}
	a.offer = k.cfg.Session.Offer(state, budget)
	k.attempts = append(k.attempts, a)
	k.wg.Go(func() { k.run(ctx, dial, a, min(patience, dialTimeout)) })
	return a
}

// run is a dial's goroutine, and then the carrier's.
func (k *Keeper) run(ctx, dial context.Context, a *attempt, patience time.Duration) {
	defer a.cancel(nil)
	late := time.AfterFunc(patience, func() { a.cancel(errDialTimeout) })
	defer late.Stop()
	route := a.path.Route
	limit := dialTimeout
	if route.Detour { // its stream is there at once, and says nothing
		limit = patience
	}
	whole := time.AfterFunc(limit, func() { a.cancel(errDialTimeout) })
	defer whole.Stop()
	carrier, accept, err := k.cfg.Dialer(route).Dial(transport.OnReached(dial, func() {
		late.Stop()
		k.noteReached(a)
	}), route, a.offer.Hello())
	if err != nil {
		a.offer.Withdraw()
		k.noteFailed(ctx, dial, a, err)
		return
	}
	late.Stop()
	whole.Stop()
	if !k.noteCarrier(ctx, a) {
		a.offer.Withdraw()
		_ = carrier.Close() // it was never used
		return
	}
	born := time.Now()
	k.wg.Go(func() {
		err := a.offer.Attach(ctx, carrier, accept)
		k.noteEnd(a, time.Since(born), err)
	})
	<-a.offer.Attached()
	k.mu.Lock()
	k.forget(a)
	k.mu.Unlock()
	k.kick()
}

func (k *Keeper) forget(a *attempt) {
	k.attempts = slices.DeleteFunc(k.attempts, func(b *attempt) bool { return a == b })
}

// cancel gives up dials, which counts for nothing.
func (k *Keeper) cancel(which func(*attempt) bool) {
	for _, a := range k.attempts {
		if !a.gaveUp && !a.landing && which(a) {
			a.gaveUp = true
			a.cancel(errOvertaken)
			if a.need && !a.reached && k.healthy {
				a.path.slow = true // it did not fail, but others go first
			}
			if !a.reached && !a.path.Route.Detour {
				k.paces[a.path.Route.Transport].undo(a.start)
			}
		}
	}
}

// noteReached notes that somebody answers.
func (k *Keeper) noteReached(a *attempt) {
	k.mu.Lock()
	defer k.mu.Unlock()
	now := time.Now()
	a.reached = true
	a.over = later(a.over, now.Add(min(a.path.took+jitter(headStart), maxStagger)))
	k.living(now)
	k.kick()
}

// living notes a sign of life from outside: if there was an outage, it and not a
// censor made the paths silent.
func (k *Keeper) living(now time.Time) {
	since, _ := k.cfg.Horizon.Outage()
	k.cfg.Horizon.alive(now)
	if !since.IsZero() {
		k.log.Info("the network is back", "relay", k.relay(), "away", now.Sub(since).Round(time.Second))
		k.report(Event{Kind: Back, Took: now.Sub(since)})
		k.pardon(now)
	}
}

func (k *Keeper) relay() string { return k.paths[0].Route.Relay }

// pardon forgets what an outage made of the paths and of the relay, and what moved
// before it: the network may be another one.
func (k *Keeper) pardon(now time.Time) {
	k.outage = false
	k.shaken, k.failed = now, time.Time{}
	k.trial.end()
	k.trial.after = later(k.trial.after, now.Add(backRest))
	k.back = now
	for _, p := range k.paths {
		p.silent = time.Time{}
	}
}

// noteFailed judges a dial that led to no carrier.
func (k *Keeper) noteFailed(ctx, dial context.Context, a *attempt, err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	defer k.kick()
	k.forget(a)
	if a.gaveUp || ctx.Err() != nil {
		return
	}
	now := time.Now()
	if !a.reached && !a.path.Route.Detour {
		k.paces[a.path.Route.Transport].undo(a.start)
	}
	if isRefusal(err) {
		k.noteRefusal(a, err, now)
		return
	}
	e := &transport.DialError{Stage: transport.StageConnect, Failure: transport.Timeout}
	if de, ok := errors.AsType[*transport.DialError](err); ok {
		e.Stage = de.Stage
		if de.Failure != "" {
			e.Failure = de.Failure
		}
	}
	shown := a.reached || e.Failure != transport.Timeout
	if a.path.Route.Detour {
		shown = true // whatever the other relay met says nothing of our network
	} else if shown {
		k.living(now)
	} else if k.cfg.Horizon.quiet(now) {
		k.log.Warn("no internet: nothing answers, whatever way; waiting for the network to come back", "relay", k.relay())
		k.report(Event{Kind: Outage})
	}
	alive := shown || k.cfg.Horizon.heardSince(a.start)
	if !alive {
		k.silence = now
	}
	level := slog.LevelDebug
	if a.path.failed(e, alive, now) {
		level = slog.LevelWarn // said once for each rest
	}
	if outage, _ := k.cfg.Horizon.Outage(); !outage.IsZero() {
		level = slog.LevelDebug
	}
	if level == slog.LevelWarn {
		k.report(Event{Kind: Blocked, Route: a.path.Route, Failure: e.Failure})
	}
	k.log.Log(context.Background(), level, "could not reach the relay", "relay", a.path.Route.Relay, "way", k.words(a.path.Route),
		"failure", string(e.Failure), "stage", string(e.Stage))
	k.note(a.path)
	if !a.need {
		k.useLater(now)
	}
	if n := k.need; n != nil {
		n.hurry = true
		n.silent = n.silent && !shown
		n.absent = n.absent && (!shown || e.Failure == transport.Refused)
		if len(n.before) < maxBefore {
			n.before = append(n.before, fmt.Sprintf("%s while %s to %s", e.Failure, stageTo(e.Stage), k.words(a.path.Route)))
		}
	}
}

// maxBefore bounds what a log line tells of failures.
const maxBefore = 4

// stageTo is a stage that "to" may follow.
func stageTo(s transport.Stage) string {
	switch s {
	case transport.StageTLS, transport.StageHello:
		return "saying hello"
	case "":
		return string(transport.StageConnect)
	}
	return string(s)
}

// noteRefusal heeds the relay's own word: all routes lead to it.
func (k *Keeper) noteRefusal(a *attempt, err error, now time.Time) {
	k.living(now)
	k.hold = now.Add(jitter(refusedPause))
	k.failed = now
	a.path.Failures++
	if de, ok := errors.AsType[*transport.DialError](err); ok && de.Failure != "" {
		a.path.Failure = de.Failure
		a.path.State, a.path.Since, a.path.Retry = Resting, now, k.hold
	}
	k.log.Warn("the relay refuses", "relay", a.path.Route.Relay, "err", err)
	refusing := Event{Kind: Refusing, Route: a.path.Route}
	if refusalOf(err) != nil {
		refusing.Failure = a.path.Failure
	}
	k.report(refusing)
	k.cancel(func(*attempt) bool { return true })
	if refusal := refusalOf(err); refusal != nil {
		k.refused, k.refusal = now, refusal
		k.after = append(k.after, func() { k.cfg.Session.Fail(err) })
	}
}

// useLater puts off dials that are only of use, the longer the more of them failed.
func (k *Keeper) useLater(now time.Time) {
	k.useAfter = later(k.useAfter, now.Add(jitter(min(useBackoff<<min(k.useFails, 5), maxUseBackoff))))
	k.useFails++
}

// noteCarrier takes a dial's carrier, unless nobody waits for it any more.
func (k *Keeper) noteCarrier(ctx context.Context, a *attempt) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	if a.gaveUp || ctx.Err() != nil {
		k.forget(a)
		return false
	}
	now := time.Now()
	a.reached, a.landing = true, true
	k.living(now)
	a.path.joined(now.Sub(a.start), now)
	k.held[a.offer.Carrier()] = &held{path: a.path, born: now, heard: now, budget: a.budget}
	k.failed, k.refused = time.Time{}, time.Time{}
	if !a.need {
		k.useFails = 0
	}
	if k.need != nil { // should this one not last, begin anew
		k.need.again(now)
	}
	k.note(a.path)
	return true
}

// noteEnd notes the end of a carrier.
func (k *Keeper) noteEnd(a *attempt, lived time.Duration, err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	defer k.kick()
	now := time.Now()
	var failure transport.Failure
	if ce, ok := errors.AsType[*transport.CarrierError](err); ok {
		failure = ce.Failure
	}
	n := a.offer.Carrier()
	h := k.held[n]
	delete(k.held, n)
	outage, _ := k.cfg.Horizon.Outage()
	if failure == transport.Frozen && (!outage.IsZero() || h != nil && !h.heard.After(k.shaken)) {
		failure = "" // the network's doing
	}
	a.path.left(failure, lived, now)
	switch {
	case failure == "" && (a.budget > 0 || errors.Is(err, errSuperfluous)): // our doing
	case lived >= settled:
		k.flaps = 0
	default:
		if k.flaps > 0 {
			k.hold = later(k.hold, now.Add(jitter(min(firstPause<<min(k.flaps, 4), maxFlapPause))))
		}
		k.flaps++
	}
	froze := failure
	if h != nil && !h.heard.After(k.silence) {
		froze = "" // new carriers met silence, too
	}
	if k.budget.ended(h, froze, lived, now) {
		k.log.Info("this network freezes each connection after a few packets; going on with many short ones", "relay", k.relay(), "bytes", k.budget.bytes)
		k.report(Event{Kind: Freezing})
	}
	k.note(a.path)
	way := k.words(a.path.Route)
	lost := fmt.Sprintf("%s: %s after %s", way, failure, lived.Round(time.Millisecond))
	level, said := slog.LevelDebug, "connection to the relay ended" // the cover's idle limit, or ours
	switch {
	case failure == "":
	case k.need == nil && k.told == nil && k.others():
		level, said = slog.LevelInfo, lost+"; others go on"
	default: // a move, which is told when it is done
		said, k.lost = "connection to the relay was cut", lost
	}
	if h != nil && h.budget > 0 {
		level = slog.LevelDebug
	}
	if failure != "" && (h == nil || h.budget == 0) {
		k.report(Event{Kind: Cut, Route: a.path.Route, Failure: failure, Took: lived})
	}
	k.log.Log(context.Background(), level, said, "relay", a.path.Route.Relay, "way", way, "failure", string(failure), "lived", lived.Round(time.Millisecond))
}

// others reports whether a carrier was in use and well when last seen.
func (k *Keeper) others() bool {
	for _, h := range k.held {
		if h.usable {
			return true
		}
	}
	return false
}

// move is a need that is over, and not told yet.
type move struct {
	need *need
	to   transport.Route
	at   time.Time
	news bool // there was no carrier before
}

// moved notes how a need ended.
func (k *Keeper) moved(v View, now time.Time) {
	k.told = &move{need: k.need, at: now, news: !k.connected}
	var newest uint32
	for i := range v.Carriers {
		if c := &v.Carriers[i]; k.usable(c) && c.N >= newest {
			k.told.to, newest = k.held[c.N].path.Route, c.N
		}
	}
	switch took := now.Sub(k.need.since); {
	case !k.connected:
		k.report(Event{Kind: Connected, Route: k.told.to, Took: took})
	case k.budget.bytes == 0:
		k.report(Event{Kind: Moved, Route: k.told.to, Took: took})
	}
	k.connected = true
}

// tell says how a need ended, and returns when to try again.
func (k *Keeper) tell(now time.Time) time.Time {
	m := k.told
	if m == nil {
		return time.Time{}
	}
	if at := m.at.Add(endWithin); !m.news && k.lost == "" && now.Before(at) {
		return at
	}
	k.told = nil
	before := m.need.before
	if !m.news && k.lost != "" {
		before = append([]string{k.lost}, before...)
	}
	k.lost = ""
	took := m.at.Sub(m.need.since).Round(time.Millisecond)
	said := fmt.Sprintf("connected over %s in %s", k.name(m.to), took)
	if len(before) > 0 {
		said = fmt.Sprintf("%s; moved to %s in %s", strings.Join(before, ", "), k.name(m.to), took)
	}
	level := slog.LevelInfo
	if k.budget.bytes > 0 {
		level = slog.LevelDebug // every second
	}
	k.log.Log(context.Background(), level, said, "relay", m.to.Relay, "way", k.words(m.to))
	return time.Time{}
}
