package rotate

import (
	"math/rand/v2"
	"time"

	"busel/transport"
)

// State is the state of a path in `client status -json`.
type State string

// States of a path.
const (
	Active  State = "active"  // a carrier on it is in use
	Resting State = "resting" // blocked: nothing is dialled until Retry, but in need
	Known   State = "known"   // worked before, not in use
	Untried State = "untried"
)

// How long a blocked path rests (DESIGN section 7; residual blocks of rows C1, C3,
// C4, I3 last 60..360 s, and on some networks each try makes them last longer).
const (
	minRest = 180 * time.Second
	maxRest = 360 * time.Second // of the first rest; each following one is twice as long
	topRest = time.Hour
	// shortRest is that of an address where nobody listens: a relay that restarts.
	shortRest = 10 * time.Second
	// stain is how long a path whose carrier was cut or fell silent goes last:
	// the next one would likely meet the same.
	stain = 30 * time.Second
)

// usualDial is taken for a route that never gave a carrier: four round trips of
// 100 ms for TCP, TLS and a hello with its reply, and what the ends compute.
const usualDial = 500 * time.Millisecond

// Path is what is known of one route.
type Path struct {
	Route               transport.Route
	State               State
	Failure             transport.Failure // the last, empty after a success
	Since               time.Time         // of the state
	Retry               time.Time         // no dial before it but in need; zero if it does not rest
	Successes, Failures int

	fallback bool          // see [Config]
	carriers int           // now
	took     time.Duration // the last dial that gave a carrier, or the usual time
	rests    int           // in a row
	slow     bool          // another route won though this one had started before it
	stained  time.Time     // when a carrier on it was cut or fell silent
	silent   time.Time     // when a dial met silence, which may be the network's
	hello    bool          // the last failure was in the TLS hello: cutting it may help
	goodput  float64       // the best a carrier gave, bytes/s
}

// Remembered is what outlives the program, for one route on one network.
type Remembered struct {
	Successes, Failures int
	Failure             transport.Failure
	Took                time.Duration // of the last dial that gave a carrier; 0 if none did
	Rest                time.Time     // until when it rests; zero if it does not
	Rests               int           // in a row
	Goodput             float64       // the best that a carrier gave, bytes/s
	Budget              uint64        // bytes after which flows freeze here; 0 if they do not
	Seen                time.Time     // when one or the other of Budget was last seen; zero if never
}

// Memory keeps what was learned of routes on the network that the client is on
// now. It is safe for concurrent use.
type Memory interface {
	Recall(r transport.Route) Remembered
	Note(r transport.Route, m Remembered)
}

// recall makes the path what memory says of it.
func (p *Path) recall(m Remembered, now time.Time) {
	*p = Path{Route: p.Route, fallback: p.fallback, State: Untried, Successes: m.Successes, Failures: m.Failures, Failure: m.Failure,
		carriers: p.carriers, took: m.Took, rests: m.Rests, goodput: m.Goodput}
	if p.took <= 0 {
		p.took = usualDial
	}
	switch {
	case p.carriers > 0:
		p.State, p.Since = Active, now
	case m.Rest.After(now):
		p.State, p.Since, p.Retry = Resting, now, earlier(m.Rest, now.Add(topRest*5/4))
	case m.Successes > 0:
		p.State = Known
	}
}

func (p *Path) remember(budget uint64, seen time.Time) Remembered {
	return Remembered{Successes: p.Successes, Failures: p.Failures, Failure: p.Failure, Took: p.took,
		Rest: p.Retry, Rests: p.rests, Goodput: p.goodput, Budget: budget, Seen: seen}
}

// wake ends a rest that is over.
func (p *Path) wake(now time.Time) {
	if p.State == Resting && !now.Before(p.Retry) {
		p.State, p.Since, p.Retry = Known, now, time.Time{}
		if p.Successes == 0 {
			p.State = Untried
		}
	}
}

// rest leaves the path alone for a while: it is blocked.
func (p *Path) rest(now time.Time) {
	p.silent = time.Time{}
	if p.State == Resting {
		return // a try in need does not prolong it
	}
	d := minRest + rand.N(maxRest-minRest)
	if p.Failure == transport.Refused || p.Route.Detour { // or at the other relay
		d = jitter(shortRest)
	}
	d = min(d<<min(p.rests, 6), jitter(topRest))
	p.rests++
	p.Retry = now.Add(d)
	if p.carriers == 0 {
		p.State, p.Since = Resting, now
	}
}

// failed notes that a dial failed. alive reports whether there is a network: the
// failure itself shows it, or something else does. It reports whether the failure
// is news.
func (p *Path) failed(e *transport.DialError, alive bool, now time.Time) (news bool) {
	news = p.Failure != e.Failure || p.State != Resting
	p.Failure = e.Failure
	p.Failures++
	p.hello = e.Stage == transport.StageTLS && (e.Failure == transport.Reset || e.Failure == transport.Timeout)
	if alive {
		p.rest(now)
	} else {
		p.silent = now
	}
	return news
}

// joined notes a carrier.
func (p *Path) joined(took time.Duration, now time.Time) {
	p.State, p.Failure, p.Since, p.Retry = Active, "", now, time.Time{}
	p.took, p.slow, p.rests, p.stained, p.silent, p.hello = took, false, 0, time.Time{}, time.Time{}, false
	p.Successes++
	p.carriers++
}

// left notes the end of a carrier.
func (p *Path) left(failure transport.Failure, lived time.Duration, now time.Time) {
	p.carriers--
	if failure != "" {
		p.Failures++
		p.Failure = failure
		p.stained = now
	}
	if p.carriers > 0 {
		return // a newer one is on the same way
	}
	p.State, p.Since = Known, now
	switch {
	case failure != "" && lived < settled:
		p.rest(now)
	case p.Retry.After(now):
		p.State = Resting
	}
}

// rank orders paths for a dial: lower ones first.
func (p *Path) rank(now time.Time) int {
	r := 0
	switch {
	case p.State == Resting:
		r = 9
	case !p.silent.IsZero():
		r = 5
	case p.slow:
		r = 3
	case now.Sub(p.stained) < stain && !p.stained.IsZero():
		r = 2
	}
	if p.Route.Detour || p.fallback {
		r++ // a detour, or an oddity: not while the straight way does
	}
	return r
}

func earlier(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}
