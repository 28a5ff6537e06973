package rotate

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"busel/internal/wire"
	"busel/transport"
)

// Routes of two transports, of which neither knows what it is. Dials over "tls" are
// counted.
var (
	tlsA = transport.Route{Relay: "r1", Transport: "tls", Address: "a:443"}
	tlsB = transport.Route{Relay: "r1", Transport: "tls", Address: "b:443"}
	udpA = transport.Route{Relay: "r1", Transport: "udp", Address: "a:443"}
	udpB = transport.Route{Relay: "r1", Transport: "udp", Address: "b:443"}
	cutA = transport.Route{Relay: "r1", Transport: "tls", Address: "a:443", Options: "cut"}
	viaB = transport.Route{Relay: "r1", Transport: "tls", Address: "a:443", Detour: true}
)

const (
	// trip is a round trip of the simulated network.
	trip = 100 * time.Millisecond
	// usual is a dial over it: reach after one, reply after four.
	usualTook = 4 * trip
	// doubt is how long after its last sign a carrier is suspect.
	doubt = 600 * time.Millisecond
)

// way is what the network does to a dial.
type way struct {
	silent  bool              // no answer
	failure transport.Failure // what comes in place of a carrier, after one trip
	stage   transport.Stage
	refusal wire.Status // the relay's own
	took    time.Duration
}

// sim is a session over a network that a test rules. All in the bubble.
type sim struct {
	t       *testing.T
	mu      sync.Mutex
	changed chan struct{}
	wanted  bool
	moving  bool
	nextN   uint32
	live    map[uint32]*simCarrier
	net     func(r transport.Route) way
	rate    func(c *simCarrier, active int) float64 // bytes/s of a carrier that is in use

	dials     []simDial
	under     map[transport.Route][]context.Context // dials that nobody gave up
	beside    int                                   // the most dials to one place at once
	attached  int
	withdrawn int
	closed    int
	moves     int
	doubts    []time.Duration
	steps     int // looks at the session
	drops     []error
	failed    int
	begin     time.Time
	log       syncBuffer
	*Keeper
	stop func()
}

type simDial struct {
	at      time.Duration
	route   transport.Route
	over    time.Duration
	err     error
	reached bool
}

type simCarrier struct {
	transport.Carrier
	s       *sim
	n       uint32
	route   transport.Route
	state   wire.CarrierState
	budget  uint64
	suspect bool
	spent   bool
	late    bool
	dead    bool
	rate    float64
	moved   float64
	said    uint64 // bytes that left, whether or not they came
	end     chan error
}

func (c *simCarrier) Close() error {
	c.s.mu.Lock()
	defer c.s.mu.Unlock()
	c.s.closed++
	return nil
}

type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *syncBuffer) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(b)
}

func (l *syncBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// newSim starts a keeper over a network that lets everything through; a test may
// change cfg first.
func newSim(t *testing.T, change func(s *sim, cfg *Config), routes ...transport.Route) *sim {
	t.Helper()
	s := &sim{t: t, changed: make(chan struct{}), wanted: true, live: map[uint32]*simCarrier{}, begin: time.Now(),
		net: func(transport.Route) way { return way{} }, under: map[transport.Route][]context.Context{}}
	cfg := Config{
		Routes: routes, Session: s, Kinds: map[string]Kind{"tls": {Name: "TLS", Counted: true}, "udp": {Name: "QUIC"}},
		Dialer: func(transport.Route) transport.Dialer { return s },
		Logger: slog.New(slog.NewTextHandler(&s.log, &slog.HandlerOptions{Level: slog.LevelDebug})),
	}
	if change != nil {
		change(s, &cfg)
	}
	s.Keeper = New(cfg)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Keeper.Run(ctx) }()
	go s.flow(ctx)
	s.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("Run returned %v, want the context's cause", err)
		}
	})
	t.Cleanup(s.stop)
	return s
}

func (s *sim) tell() {
	close(s.changed)
	s.changed = make(chan struct{})
}

// change changes the world.
func (s *sim) change(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f()
	s.tell()
}

// flow moves data.
func (s *sim) flow(ctx context.Context) {
	const every = 50 * time.Millisecond
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		s.mu.Lock()
		active := 0
		for _, c := range s.live {
			if c.state == wire.CarrierActive && !c.suspect && !c.spent {
				active++
			}
		}
		for _, c := range s.live {
			c.rate = 0
			if s.moving && s.rate != nil && c.state == wire.CarrierActive && !c.suspect && !c.spent {
				c.rate = s.rate(c, active)
				c.moved += c.rate * every.Seconds()
				if c.budget > 0 && c.moved >= float64(c.budget) {
					c.spent = true
					s.tell()
				}
			}
		}
		s.mu.Unlock()
	}
}

func (s *sim) View() (View, <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.steps++
	v := View{Wanted: s.wanted, Moving: s.moving}
	for _, c := range s.live {
		v.Carriers = append(v.Carriers, Carrier{N: c.n, State: c.state, Suspect: c.suspect, Spent: c.spent, Busy: c.rate > 0, Late: c.late, Rate: c.rate, Up: c.said, Down: uint64(c.moved)})
	}
	slices.SortFunc(v.Carriers, func(a, b Carrier) int { return int(a.N) - int(b.N) })
	return v, s.changed
}

func (s *sim) Set(n uint32, state wire.CarrierState) {
	s.change(func() {
		if c := s.live[n]; c != nil {
			if state == wire.CarrierActive && c.state != state {
				s.moves++
			}
			c.state = state
			s.supersede(c)
		}
	})
}

// supersede ends suspect carriers a trip after another one has come.
func (s *sim) supersede(by *simCarrier) {
	time.AfterFunc(trip, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if by.dead || by.suspect || by.state != wire.CarrierActive {
			return
		}
		for _, c := range s.live {
			if c.suspect && c != by {
				c.finish(&transport.CarrierError{Failure: transport.Frozen, Err: errors.New("silent")})
			}
		}
	})
}

func (s *sim) Drop(n uint32, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c := s.live[n]; c != nil {
		s.drops = append(s.drops, err)
		c.finish(err)
	}
}

func (s *sim) Doubt() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.doubts = append(s.doubts, time.Since(s.begin))
}

func (s *sim) Fail(error) { s.change(func() { s.failed++ }) }

func (s *sim) Offer(state wire.CarrierState, budget uint64) Offer {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.nextN++
	return &simOffer{s: s, n: s.nextN, state: state, budget: budget, attached: make(chan struct{})}
}

// finish ends a carrier. s.mu is held.
func (c *simCarrier) finish(err error) {
	if c.dead {
		return
	}
	c.dead = true
	delete(c.s.live, c.n)
	c.end <- err
	c.s.tell()
}

type simOffer struct {
	s        *sim
	n        uint32
	state    wire.CarrierState
	budget   uint64
	attached chan struct{}
}

func (o *simOffer) Carrier() uint32           { return o.n }
func (o *simOffer) Hello() *wire.Hello        { return &wire.Hello{Carrier: o.n} }
func (o *simOffer) Attached() <-chan struct{} { return o.attached }
func (o *simOffer) Withdraw() {
	o.s.mu.Lock()
	defer o.s.mu.Unlock()
	o.s.withdrawn++
}

func (o *simOffer) Attach(ctx context.Context, carrier transport.Carrier, _ *wire.Accept) error {
	c := carrier.(*simCarrier)
	o.s.change(func() {
		c.state, c.budget, c.n = o.state, o.budget, o.n
		o.s.live[o.n] = c
		o.s.attached++
		o.s.supersede(c)
	})
	close(o.attached)
	select {
	case err := <-c.end:
		return err
	case <-ctx.Done():
		o.s.mu.Lock()
		defer o.s.mu.Unlock()
		c.dead = true
		delete(o.s.live, o.n)
		return context.Cause(ctx)
	}
}

func (s *sim) Dial(ctx context.Context, r transport.Route, h *wire.Hello) (transport.Carrier, *wire.Accept, error) {
	s.mu.Lock()
	at := len(s.dials)
	s.dials = append(s.dials, simDial{at: time.Since(s.begin), route: r})
	place := transport.Route{Transport: r.Transport, Address: r.Address, Detour: r.Detour}
	gone := func(c context.Context) bool { return c == ctx || c.Err() != nil }
	s.under[place] = append(slices.DeleteFunc(s.under[place], gone), ctx)
	s.beside = max(s.beside, len(s.under[place]))
	s.mu.Unlock()
	net := func(r transport.Route) way {
		s.mu.Lock()
		net := s.net
		s.mu.Unlock()
		return net(r)
	}
	fail := func(stage transport.Stage, f transport.Failure, err error) error {
		if ctx.Err() != nil {
			f, err = "", context.Cause(ctx)
		}
		return &transport.DialError{Route: r, Stage: stage, Failure: f, Err: err}
	}
	wait := func(d time.Duration) bool {
		select {
		case <-time.After(d):
			return true
		case <-ctx.Done():
			return false
		}
	}
	err := func() error {
		// A SYN after 0, 1, 3, 7 s: the first that the network lets through counts.
		for _, d := range []time.Duration{0, time.Second, 2 * time.Second, 4 * time.Second, time.Hour} {
			if d > 0 && !wait(d) {
				return fail(transport.StageConnect, "", nil)
			}
			if !net(r).silent || net(r).stage != "" {
				break
			}
		}
		w := net(r)
		if !wait(trip) {
			return fail(transport.StageConnect, "", nil)
		}
		if w.failure != "" && (w.stage == "" || w.stage == transport.StageConnect) {
			return fail(transport.StageConnect, w.failure, errors.New("no"))
		}
		s.mu.Lock()
		s.dials[at].reached = true
		s.mu.Unlock()
		transport.Reached(ctx)
		if w.silent { // from the TLS hello on
			wait(time.Hour)
			return fail(w.stage, "", nil)
		}
		if w.took == 0 {
			w.took = usualTook
		}
		if !wait(w.took - trip) {
			return fail(transport.StageTLS, "", nil)
		}
		if w.failure != "" {
			return fail(w.stage, w.failure, errors.New("no"))
		}
		if w.refusal != 0 {
			return fail(transport.StageHello, transport.Revoked, &wire.StatusError{Status: w.refusal})
		}
		return nil
	}()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.under[place] = slices.DeleteFunc(s.under[place], gone)
	s.dials[at].over, s.dials[at].err = time.Since(s.begin), err
	if err != nil {
		return nil, nil, err
	}
	return &simCarrier{s: s, route: r, end: make(chan error, 1)}, new(wire.Accept), nil
}

// let runs the world for so long. What a test read before comes before what happens
// then, and that before what it reads after.
func (s *sim) let(d time.Duration) {
	s.sync()
	time.Sleep(d)
	synctest.Wait()
	s.sync()
}

func (s *sim) sync() {
	s.mu.Lock()
	defer s.mu.Unlock()
}

// each calls f for the carriers that live, oldest first.
func (s *sim) each(f func(c *simCarrier)) {
	s.change(func() {
		var all []*simCarrier
		for _, c := range s.live {
			all = append(all, c)
		}
		slices.SortFunc(all, func(a, b *simCarrier) int { return int(a.n) - int(b.n) })
		for _, c := range all {
			f(c)
		}
	})
}

// reset cuts the active carriers.
func (s *sim) reset() {
	s.each(func(c *simCarrier) {
		if c.state == wire.CarrierActive {
			c.finish(&transport.CarrierError{Failure: transport.Reset, Err: errors.New("reset")})
		}
	})
}

// blackout makes everything silent, carriers too, for so long.
func (s *sim) blackout(d time.Duration) {
	s.mu.Lock()
	before := s.net
	s.net = func(transport.Route) way { return way{silent: true} }
	s.mu.Unlock()
	s.let(doubt)
	s.each(func(c *simCarrier) { c.suspect = true })
	time.AfterFunc(15*time.Second, func() {
		s.each(func(c *simCarrier) {
			if c.suspect {
				c.finish(&transport.CarrierError{Failure: transport.Frozen, Err: errors.New("silent")})
			}
		})
	})
	s.let(d - doubt)
	s.mu.Lock()
	s.net = before
	s.mu.Unlock()
}

// states lists the living carriers as "tls active, udp spare".
func (s *sim) states() (list []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.live {
		word := map[wire.CarrierState]string{wire.CarrierActive: "active", wire.CarrierSpare: "spare"}[c.state]
		if c.suspect {
			word = "suspect"
		}
		list = append(list, c.route.Transport+" "+word)
	}
	slices.Sort(list)
	return list
}

func (s *sim) is(want ...string) {
	s.t.Helper()
	if got := s.states(); !slices.Equal(got, want) {
		s.t.Fatalf("after %v there are %q, want %q\n%s", time.Since(s.begin), got, want, s.log.String())
	}
}

func (s *sim) path(r transport.Route) Path {
	for _, p := range s.Paths() {
		if p.Route == r {
			return p
		}
	}
	s.t.Helper()
	s.t.Fatalf("no path over %v", r)
	return Path{}
}

// dialsOver are the times of the dials over a route.
func (s *sim) dialsOver(fit func(transport.Route) bool) (at []time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, d := range s.dials {
		if fit(d.route) {
			at = append(at, d.at)
		}
	}
	return at
}

func over(r transport.Route) func(transport.Route) bool {
	return func(o transport.Route) bool { return o == r }
}

// hellos are the times of the dials that a censor counts: TLS that reached somebody.
func (s *sim) hellos() (at []time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, d := range s.dials {
		if counted(d.route) && d.reached {
			at = append(at, d.at)
		}
	}
	return at
}

func counted(r transport.Route) bool { return r.Transport == "tls" && !r.Detour }
