// Package rotate keeps a session on a living carrier: it notices that one is
// wanted, races the routes to the relay politely, attaches what answers first,
// and dials again the moment a carrier dies.
//
// It knows neither frames nor bytes, only which carriers live and how dialling
// went. A session that wants no carrier (no open stream, nothing queued) is left
// alone, so that an idle client is silent. A cancelled dial is never counted as
// a failure of its route.
package rotate

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"busel/internal/wire"
	"busel/transport"
)

// Pace of dialling.
const (
	// dialTimeout bounds one dial, from the connect to the relay's reply. A
	// handshake at 1 s round trip, the slowest link worth waiting for, takes
	// four; a lossy one needs two retransmissions (1 s, 3 s) on top.
	dialTimeout = 10 * time.Second
	// spacing is the least time between the starts of two rounds of dials, and of
	// two dials over one transport: TLS connections closer than 400 ms draw a
	// freeze on some networks (row R2).
	spacing = 400 * time.Millisecond
	// firstPause and maxPause bound the wait after all routes failed in a row.
	firstPause = spacing
	maxPause   = 5 * time.Second
	// maxShortPause bounds the wait after carriers that came but did not live:
	// each of them may have moved something.
	maxShortPause = 2 * time.Second
	// refusedPause is the wait after the relay itself refused the invite.
	refusedPause = time.Minute
	// forgive is how long a relay that could not be reached is passed over when
	// another one is held.
	forgive = time.Minute
	// settled is how long a carrier must have lived for its end to be answered
	// by dialling at once: longer than a censor takes that ends each carrier as
	// soon as it sees one.
	settled = 250 * time.Millisecond
)

// Offer is one hello that waits for a carrier. *session.Offer is one.
type Offer interface {
	Hello() *wire.Hello
	// Attach blocks until the carrier is done and says why.
	Attach(ctx context.Context, c transport.Carrier, a *wire.Accept) error
	// Attached is closed once the session counts the carrier, or Attach returned.
	Attached() <-chan struct{}
	Withdraw()
}

// Session is what the keeper serves. An adapter around *session.Client is one.
type Session interface {
	// WaitNeeded blocks until the session wants a carrier and none that it has
	// is in good health, or until ctx ends, which is the only error.
	WaitNeeded(ctx context.Context) error
	Offer() Offer
	// Fail ends all streams: the relay refuses the invite.
	Fail(cause error)
}

// State is the state of a path in `client status -json`.
type State string

// States of a path.
const (
	Active  State = "active"  // a carrier on it is in use
	Resting State = "resting" // failed lately
	Known   State = "known"   // worked before, not in use
	Untried State = "untried"
)

// Path is what is known of one route.
type Path struct {
	Route               transport.Route
	State               State
	Failure             transport.Failure // the last, empty after a success
	Since               time.Time         // of the state
	Retry               time.Time         // no dial before it, zero if none is due
	Successes, Failures int

	carriers int           // now
	took     time.Duration // the last dial that gave a carrier, or the usual time
	slow     bool          // another route won though this one had started before it
}

// Config of a [Keeper].
type Config struct {
	Routes  []transport.Route           // at least one; all lead to the same relay
	Dialers map[string]transport.Dialer // by Route.Transport
	Session Session
	Logger  *slog.Logger // nil discards
}

// Keeper keeps one session attached. Create it with [New], then Run it.
type Keeper struct {
	cfg     Config
	log     *slog.Logger
	wg      sync.WaitGroup       // of dials and carriers
	started map[string]time.Time // the newest dial over a transport; Run's own

	mu       sync.Mutex
	paths    []Path
	attached int
	failed   time.Time // when every route had failed in a row; zero after a success
	refused  time.Time // when the relay said that the invite is void; zero after a success
}

// New returns a keeper that does nothing until Run.
func New(cfg Config) *Keeper {
	k := &Keeper{cfg: cfg, log: cfg.Logger, started: make(map[string]time.Time)}
	if k.log == nil {
		k.log = slog.New(slog.DiscardHandler)
	}
	for _, r := range cfg.Routes {
		k.paths = append(k.paths, Path{Route: r, State: Untried, took: usualDial})
	}
	return k
}

// Run keeps the session attached until ctx ends, and returns its cause. It has
// closed every carrier it made by then.
func (k *Keeper) Run(ctx context.Context) error {
	defer k.wg.Wait()
	var (
		born  time.Time     // of the newest carrier; zero once it was judged
		pause time.Duration // after the last disappointment; 0 after a success
		next  time.Time     // no dial before it
	)
	disappointed := func(most time.Duration) {
		pause = min(max(firstPause, pause*2), most)
		next = time.Now().Add(jitter(pause))
	}
	for {
		if err := k.cfg.Session.WaitNeeded(ctx); err != nil {
			return err
		}
		// That a carrier is needed means that the newest has died, or is suspect.
		switch lived := time.Since(born); {
		case born.IsZero():
		case lived >= settled:
			pause, born = 0, time.Time{}
		default:
			born = time.Time{}
			disappointed(maxShortPause)
		}
		if d := time.Until(next); d > 0 {
			if err := sleep(ctx, d); err != nil {
				return err
			}
			continue // it may not be needed any more
		}
		next = time.Now().Add(spacing)
		err := k.round(ctx)
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case err == nil:
			born = time.Now()
		case isRefusal(err):
			next = time.Now().Add(jitter(refusedPause))
			if isVoid(err) {
				k.mu.Lock()
				k.refused = time.Now()
				k.mu.Unlock()
				k.cfg.Session.Fail(err)
			}
		default:
			disappointed(maxPause)
		}
	}
}

// order returns the routes, best first: those that neither failed nor were too
// slow lately, the slow ones, and the others by the age of the failure.
func (k *Keeper) order() []Path {
	paths := k.Paths()
	slices.SortStableFunc(paths, func(a, b Path) int {
		if by := cmp.Compare(rank(a), rank(b)); by != 0 {
			return by
		}
		if a.State == Resting {
			return a.Since.Compare(b.Since)
		}
		return 0
	})
	return paths
}

func rank(p Path) int {
	switch {
	case p.State == Resting:
		return 2
	case p.slow:
		return 1
	}
	return 0
}

var errDialTimeout = errors.New("no answer in time")

func (k *Keeper) noteFailure(r transport.Route, err error) {
	failure := transport.Timeout
	if de, ok := errors.AsType[*transport.DialError](err); ok && de.Failure != "" {
		failure = de.Failure
	}
	level := slog.LevelWarn
	k.update(r, func(p *Path) {
		if p.State == Resting && p.Failure == failure {
			level = slog.LevelDebug // said before; it would be said every few seconds
		}
		p.Failure = failure
		p.Failures++
		if p.carriers == 0 {
			p.State, p.Since = Resting, time.Now()
		}
	})
	k.log.Log(context.Background(), level, "could not reach the relay", "relay", r.Relay, "transport", r.Transport, "failure", string(failure), "stage", stage(err))
}

func stage(err error) string {
	if de, ok := errors.AsType[*transport.DialError](err); ok {
		return string(de.Stage)
	}
	return "unknown"
}

func (k *Keeper) noteJoin(r transport.Route, took time.Duration) {
	k.update(r, func(p *Path) {
		p.State, p.Failure, p.Since = Active, "", time.Now()
		p.took, p.slow = took, false
		p.Successes++
		p.carriers++
		k.attached++
		k.failed, k.refused = time.Time{}, time.Time{}
	})
	k.log.Info("connected to the relay", "relay", r.Relay, "transport", r.Transport, "took", took.Round(time.Millisecond))
}

func (k *Keeper) noteEnd(r transport.Route, lived time.Duration, err error) {
	var failure transport.Failure
	if ce, ok := errors.AsType[*transport.CarrierError](err); ok {
		failure = ce.Failure
	}
	k.update(r, func(p *Path) {
		p.carriers--
		k.attached--
		if failure != "" {
			p.Failures++
			p.Failure = failure
		}
		if p.carriers > 0 {
			return // a newer one is on the same way
		}
		p.State, p.Since = Known, time.Now()
		if failure != "" && lived < settled {
			p.State = Resting
		}
	})
	level, said := slog.LevelInfo, "connection to the relay was cut"
	if failure == "" { // the cover's idle limit, or ours
		level, said = slog.LevelDebug, "connection to the relay ended"
	}
	k.log.Log(context.Background(), level, said, "relay", r.Relay, "transport", r.Transport, "failure", string(failure), "lived", lived.Round(time.Millisecond))
}

func (k *Keeper) update(r transport.Route, change func(*Path)) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if i := slices.IndexFunc(k.paths, func(p Path) bool { return p.Route == r }); i >= 0 {
		change(&k.paths[i])
	}
}

// Paths returns what is known of each route, in the order of the configuration.
func (k *Keeper) Paths() []Path {
	k.mu.Lock()
	defer k.mu.Unlock()
	return slices.Clone(k.paths)
}

// Attached reports whether a carrier is in use now.
func (k *Keeper) Attached() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.attached > 0
}

// Failing reports whether every route failed when last tried, less than
// [forgive] ago.
func (k *Keeper) Failing() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return !k.failed.IsZero() && time.Since(k.failed) < forgive
}

// Void reports whether the relay said, less than refusedPause ago, that the
// invite was revoked or has expired: until that is over nothing is dialled.
func (k *Keeper) Void() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return !k.refused.IsZero() && time.Since(k.refused) < refusedPause
}

func isRefusal(err error) bool {
	_, ok := errors.AsType[*wire.StatusError](err)
	return ok
}

// isVoid reports whether the invite will never be good again.
func isVoid(err error) bool {
	e, ok := errors.AsType[*wire.StatusError](err)
	return ok && (e.Status == wire.StatusRevoked || e.Status == wire.StatusExpired)
}

// jitter spreads d over 0.75..1.25 of itself, so that clients that lost the
// same relay do not come back in step.
func jitter(d time.Duration) time.Duration {
	return d*3/4 + rand.N(d/2+1)
}

func sleep(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return ctx.Err()
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
