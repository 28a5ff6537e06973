package rotate

import (
	"context"
	"math/rand/v2"
	"time"

	"busel/internal/wire"
)

// Policy is how many carriers a session has and what for (DESIGN section 6).
type Policy string

// Policies.
const (
	Auto   Policy = "auto"   // whatever this network does best with
	Single Policy = "single" // one, and a warm spare on an unlike transport
	Bond   Policy = "bond"   // several at once
	Budget Policy = "budget" // several short ones, each ended after so many bytes
)

const (
	// spareAfter is how long something must have been moving for a spare to be
	// made: the quickest visits need none, and a start shows one connection.
	spareAfter = 1500 * time.Millisecond
	// For backRest after an outage no spare is made as long as next to nothing moves, and
	// no second carrier tried: what a dial takes is missing to pages that wait, 8 kB are
	// a quarter of a second at 256 kbit/s.
	backRest = 10 * time.Second
	// bondMost is how many carriers share the work: two TLS connections, which
	// leaves one in reserve (row R2), and one over QUIC.
	bondMost = 3
	// After a move no spare is made for moveRest..2 moveRest: a censor that has
	// just cut a connection looks closely.
	moveRest = time.Second
	// useBackoff is the wait after a dial failed that was only of use. It doubles
	// up to maxUseBackoff.
	useBackoff    = 10 * time.Second
	maxUseBackoff = 5 * time.Minute
)

// wish is how many carriers there should be.
type wish struct {
	active, spare int
	fresh         bool   // the active ones beyond the first are dialled, like the first
	together      int    // dials of use that may be under way at once
	budget        uint64 // of new carriers; 0 is none
	least         uint32 // the active carrier to do without first
	promoted      bool   // a spare is about to be active
}

// plan decides how many carriers there should be, and when to think again.
func (k *Keeper) plan(v View, now time.Time) (w wish, wake time.Time) {
	w = wish{active: 1, together: 1}
	long := !k.moving.IsZero() && now.Sub(k.moving) >= spareAfter
	if !k.moving.IsZero() && !long {
		wake = k.moving.Add(spareAfter)
	}
	switch bytes := k.budget.now(now); {
	case bytes > 0:
		w.budget = bytes
		if v.Moving {
			w.active, w.together = budgetMost, budgetTogether
		}
	case k.cfg.Policy == Bond:
		if long {
			w.active = bondMost
		}
	default:
		if long && (now.Sub(k.back) >= backRest || rateOf(v) >= throttled) {
			w.spare = 1
		}
		var at time.Time
		w.active, w.least, at = k.try(v, now)
		w.fresh = k.trial.alike
		if w.active > 1 && !w.fresh {
			w.spare = 0
		}
		wake = earlier(wake, at)
	}
	return w, wake
}

// rateOf is what all carriers move, in bytes a second.
func rateOf(v View) (sum float64) {
	for _, c := range v.Carriers {
		sum += c.Rate
	}
	return sum
}

// dialUseful starts a dial for a carrier that is of use but not needed, and returns
// when to look again.
func (k *Keeper) dialUseful(ctx context.Context, v View, w wish, outage, now time.Time) time.Time {
	switch {
	case w.budget == 0 && (k.need != nil || !k.healthy) || w.promoted:
		return time.Time{}
	case now.Before(k.hold):
		return k.hold
	}
	active, spare, under := 0, 0, 0
	for _, c := range v.Carriers {
		switch {
		case k.usable(&c):
			active++
		case c.State == wire.CarrierSpare && !c.Suspect && !c.Spent:
			spare++
		}
	}
	for _, a := range k.attempts {
		if !a.gaveUp {
			under++
		}
	}
	if under >= w.together || active+spare+under >= w.active+w.spare {
		return time.Time{}
	}
	if now.Before(k.useAfter) {
		return k.useAfter
	}
	p := k.useful(v, w, now)
	if p == nil {
		return k.nextWake()
	}
	if at := k.paces[p.Route.Transport].at(false, now); now.Before(at) {
		return at
	}
	state := wire.CarrierActive
	if active >= w.active {
		state = wire.CarrierSpare
	}
	if k.dial(ctx, p, false, state, w.budget, outage, now) == nil {
		return k.paces[p.Route.Transport].at(false, now)
	}
	if under+1 < w.together {
		return now.Add(loose)
	}
	return time.Time{}
}

// useful is the path for one more carrier, nil if there is none: it travels unlike
// those that are there, by transport, else by address; if carriers are to share the
// work, it may also be like them. Nothing odd, and nothing in trouble.
func (k *Keeper) useful(v View, w wish, now time.Time) *Path {
	carriers := func(same func(p *Path) bool) (n int) {
		for _, c := range v.Carriers {
			if h := k.held[c.N]; h != nil && !c.Suspect && same(h.path) {
				n++
			}
		}
		return n
	}
	var best *Path
	least := 0
	for _, p := range k.order(now) {
		if p.fallback || p.Route.Detour || p.State == Resting || p == k.trial.blamed || now.Sub(p.silent) < stain {
			continue
		}
		alike := carriers(func(q *Path) bool { return q == p })
		kind := carriers(func(q *Path) bool { return q.Route.Transport == p.Route.Transport })
		cost := 4*kind + alike
		if w.fresh && w.active > 1 {
			cost = -4*kind + alike
		}
		if w.budget > 0 && k.paces[p.Route.Transport].counted {
			cost += 1000 // as a last resort: TLS connections are few
		}
		if w.active <= 1 && alike > 0 { // a spare like the active one would fall with it
			continue
		}
		if best == nil || cost < least {
			best, least = p, cost
		}
	}
	return best
}

// nextWake is when the first path has rested.
func (k *Keeper) nextWake() (at time.Time) {
	for _, p := range k.paths {
		if p.State == Resting {
			at = earlier(at, p.Retry)
		}
	}
	return at
}

// afterMove puts off spares after a move.
func (k *Keeper) afterMove(now time.Time) {
	k.useAfter = later(k.useAfter, now.Add(moveRest+rand.N(moveRest)))
}
