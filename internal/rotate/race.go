package rotate

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"busel/internal/wire"
	"busel/transport"
)

// Pace of a race.
const (
	// headStart is what a dial gets on top of the time that its route needed last
	// (DESIGN section 7: one more every 300 ms or so).
	headStart = 300 * time.Millisecond
	// usualDial is taken for a route that never gave a carrier: four round trips of
	// 100 ms for TCP, TLS and a hello with its reply, and what the ends compute.
	usualDial = 500 * time.Millisecond
	// maxStagger bounds the wait beside a dial without an answer, and is the wait of
	// a route that failed lately: it most likely fails again, and a try may make a
	// block last longer (row I3).
	maxStagger = 3 * time.Second
)

// race is one round of dials: the best route starts, and the next one beside it
// when it takes long, or at once when it fails. The first carrier wins.
type race struct {
	k        *Keeper
	left     []Path     // not started, best first
	attempts []*attempt // started, the newest last
	running  int        // of them have no outcome
	hurry    bool       // one failed, and none was started since
	outcomes chan outcome
}

// attempt is one dial.
type attempt struct {
	path  Path
	offer Offer
	start time.Time
	over  time.Time // when the next may start beside it
	err   error     // nil while it runs
}

// outcome of an attempt: a carrier, or why there is none.
type outcome struct {
	*attempt
	carrier transport.Carrier
	accept  *wire.Accept
	err     error
}

// round races the routes until one gives a carrier, and returns nil then, and
// else why the last dial failed. A refusal by the relay itself holds for all
// routes. Those that have not answered by then are cancelled, which counts for
// nothing.
func (k *Keeper) round(ctx context.Context) error {
	dials, cancel := context.WithCancel(ctx)
	defer cancel()
	r := &race{k: k, left: k.order(), outcomes: make(chan outcome)}
	o := r.run(dials)
	switch {
	case ctx.Err() != nil && o.carrier == nil:
		return context.Cause(ctx)
	case o.err != nil:
		k.mu.Lock()
		defer k.mu.Unlock()
		k.failed = time.Now()
		return o.err
	}
	k.noteJoin(o.path.Route, time.Since(o.start))
	r.noteMove(o.attempt)
	k.wg.Go(func() {
		born := time.Now()
		err := o.offer.Attach(ctx, o.carrier, o.accept)
		k.noteEnd(o.path.Route, time.Since(born), err)
	})
	<-o.offer.Attached() // before the others are withdrawn, so that it tells the relay of them
	return nil
}

// run returns the outcome that decides the race. It is empty if ctx ends first.
func (r *race) run(ctx context.Context) (last outcome) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		var start <-chan time.Time
		i := r.next()
		switch {
		case i >= 0:
			timer.Reset(time.Until(r.startAt(r.left[i])))
			start = timer.C
		case r.running == 0:
			return last
		}
		select {
		case <-ctx.Done():
			return outcome{}
		case <-start:
			r.start(ctx, i)
		case last = <-r.outcomes:
			if last.err == nil {
				return last
			}
			r.running--
			r.hurry = true
			last.attempt.err = last.err
			if ctx.Err() == nil {
				r.k.noteFailure(last.path.Route, last.err)
			}
			if isRefusal(last.err) {
				return last
			}
		}
	}
}

// next is the index in left of the route to start next, -1 if there is none: of
// the best ones the first that travels unlike the newest. No two dials over one
// transport to one address are under way together.
func (r *race) next() int {
	best := -1
	for i, p := range r.left {
		switch {
		case slices.ContainsFunc(r.attempts, func(a *attempt) bool {
			return a.err == nil && a.path.Route.Transport == p.Route.Transport && a.path.Route.Address == p.Route.Address
		}):
			continue
		case best >= 0 && rank(p) != rank(r.left[best]):
			return best
		case len(r.attempts) == 0 || r.newest().path.Route.Transport != p.Route.Transport:
			return i
		case best < 0:
			best = i
		}
	}
	return best
}

func (r *race) newest() *attempt { return r.attempts[len(r.attempts)-1] }

// startAt is when a route may start: dials over one transport keep their
// spacing, whatever happens.
func (r *race) startAt(p Path) time.Time {
	spaced := r.k.started[p.Route.Transport].Add(spacing)
	if r.running == 0 || r.hurry {
		return spaced
	}
	newest := r.newest()
	at := newest.over
	if p.State == Resting && newest.path.State != Resting {
		at = newest.start.Add(maxStagger)
	}
	if at.Before(spaced) {
		return spaced
	}
	return at
}

// start dials the route at index i of left. What comes of it after the race is
// closed again.
func (r *race) start(ctx context.Context, i int) {
	now := time.Now()
	a := &attempt{path: r.left[i], offer: r.k.cfg.Session.Offer(), start: now}
	a.over = now.Add(min(a.path.took+jitter(headStart), maxStagger))
	r.left = slices.Delete(r.left, i, i+1)
	r.attempts = append(r.attempts, a)
	r.running++
	r.hurry = false
	route := a.path.Route
	r.k.started[route.Transport] = now
	r.k.wg.Go(func() {
		dial, cancel := context.WithTimeoutCause(ctx, dialTimeout, errDialTimeout)
		defer cancel()
		carrier, accept, err := r.k.cfg.Dialers[route.Transport].Dial(dial, route, a.offer.Hello())
		if err != nil {
			a.offer.Withdraw()
		}
		select {
		case r.outcomes <- outcome{a, carrier, accept, err}:
		case <-ctx.Done():
			if err == nil {
				a.offer.Withdraw()
				_ = carrier.Close() // it was never used
			}
		}
	})
}

// noteMove says so if the winner is not the way that was tried first, and notes
// which ways were too slow: they are not blocked, but others go first.
func (r *race) noteMove(winner *attempt) {
	var before []string
	for _, a := range r.attempts {
		if a == winner {
			break
		}
		name := a.path.Route.Transport
		if a.err != nil {
			before = append(before, fmt.Sprintf("%s failed: %s", name, reason(a.err)))
			continue
		}
		before = append(before, name+" did not answer")
		r.k.update(a.path.Route, func(p *Path) { p.slow = true })
	}
	if len(before) == 0 {
		return
	}
	to := winner.path.Route.Transport
	if to == r.attempts[0].path.Route.Transport {
		to += " at another address"
	}
	r.k.log.Info("moved to "+to+"; "+strings.Join(before, ", "), "relay", winner.path.Route.Relay)
}

// reason is a failed dial's in a few words, of which none come from the network.
func reason(err error) string {
	de, ok := errors.AsType[*transport.DialError](err)
	if !ok || de.Failure == "" {
		return string(transport.Timeout)
	}
	return fmt.Sprintf("%s while %s", de.Failure, de.Stage)
}
