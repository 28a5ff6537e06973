package rotate

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"busel/internal/flow"
	"busel/internal/wire"
	"busel/transport"
)

// fakeSession needs a carrier while wanted is true and none is healthy. Its
// offers attach until the carrier's life ends.
type fakeSession struct {
	mu        sync.Mutex
	wanted    bool
	healthy   int
	changed   chan struct{}
	withdrawn int
	failed    int
}

func newFakeSession(wanted bool) *fakeSession {
	return &fakeSession{wanted: wanted, changed: make(chan struct{})}
}

func (s *fakeSession) WaitNeeded(ctx context.Context) error {
	for {
		s.mu.Lock()
		needed, changed := s.wanted && s.healthy == 0, s.changed
		s.mu.Unlock()
		if needed {
			return ctx.Err()
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

func (s *fakeSession) change(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f()
	close(s.changed)
	s.changed = make(chan struct{})
}

func (s *fakeSession) Fail(error) { s.change(func() { s.failed++ }) }

func (s *fakeSession) want(v bool) { s.change(func() { s.wanted = v }) }

func (s *fakeSession) Offer() Offer { return &fakeOffer{s, make(chan struct{})} }

type fakeOffer struct {
	s        *fakeSession
	attached chan struct{}
}

func (o *fakeOffer) Attached() <-chan struct{} { return o.attached }

func (o *fakeOffer) Hello() *wire.Hello { return new(wire.Hello) }

func (o *fakeOffer) Withdraw() {
	o.s.mu.Lock()
	defer o.s.mu.Unlock()
	o.s.withdrawn++
}

func (o *fakeOffer) Attach(ctx context.Context, c transport.Carrier, _ *wire.Accept) error {
	fc := c.(*fakeCarrier)
	o.s.change(func() { o.s.healthy++ })
	close(o.attached)
	suspect := fc.suspect
	for {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-suspect:
			suspect = nil
			o.s.change(func() { o.s.healthy-- })
		case <-fc.died:
			if suspect != nil || fc.suspect == nil {
				o.s.change(func() { o.s.healthy-- })
			}
			return &transport.CarrierError{Failure: transport.Reset, Err: errors.New("dead")}
		}
	}
}

type fakeCarrier struct {
	transport.Carrier
	died    chan struct{}
	suspect chan struct{} // nil: never
}

// fakeDialer answers with what plan says for each dial, in order; the last
// answer repeats.
type fakeDialer struct {
	mu    sync.Mutex
	plan  []answer
	dials []dial
}

type answer struct {
	err     error
	life    time.Duration // of the carrier; 0 is for ever
	suspect time.Duration // when it falls silent; 0 is never
}

type dial struct {
	at    time.Duration
	route transport.Route
}

var epoch = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC) // where synctest's clock starts

func (d *fakeDialer) Dial(_ context.Context, r transport.Route, _ *wire.Hello) (transport.Carrier, *wire.Accept, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	a := d.plan[min(len(d.dials), len(d.plan)-1)]
	d.dials = append(d.dials, dial{time.Since(epoch), r})
	if a.err != nil {
		return nil, nil, &transport.DialError{Route: r, Stage: transport.StageConnect, Failure: transport.Refused, Err: a.err}
	}
	c := &fakeCarrier{died: make(chan struct{})}
	if a.life > 0 {
		time.AfterFunc(a.life, func() { close(c.died) })
	}
	if a.suspect > 0 {
		c.suspect = make(chan struct{})
		time.AfterFunc(a.suspect, func() { close(c.suspect) })
	}
	return c, new(wire.Accept), nil
}

func (d *fakeDialer) times() (at []time.Duration) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, x := range d.dials {
		at = append(at, x.at)
	}
	return at
}

// start runs a keeper in the bubble until the test ends.
func start(t *testing.T, s Session, d transport.Dialer, routes ...string) *Keeper {
	t.Helper()
	cfg := Config{Session: s, Dialers: map[string]transport.Dialer{"fake": d}}
	for _, r := range routes {
		cfg.Routes = append(cfg.Routes, transport.Route{Relay: "r1", Transport: "fake", Address: r})
	}
	k := New(cfg)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- k.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("Run returned %v, want the context's cause", err)
		}
	})
	return k
}

func TestIdleSessionIsLeftAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &fakeDialer{plan: []answer{{}}}
		s := newFakeSession(false)
		k := start(t, s, d, "a")
		time.Sleep(time.Hour)
		synctest.Wait()
		if n := len(d.times()); n != 0 {
			t.Fatalf("dialled %d times without demand", n)
		}
		s.want(true)
		synctest.Wait()
		if n := len(d.times()); n != 1 || !k.Attached() {
			t.Fatalf("after demand: %d dials, attached %t", n, k.Attached())
		}
	})
}

func TestDialsAgainAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &fakeDialer{plan: []answer{{life: 10 * time.Second}, {life: 300 * time.Millisecond}, {life: 20 * time.Second}, {}}}
		start(t, newFakeSession(true), d, "a")
		time.Sleep(time.Minute)
		synctest.Wait()
		// The third waits for the least time between two.
		want := []time.Duration{0, 10 * time.Second, 10*time.Second + spacing, 30*time.Second + spacing}
		if got := d.times(); !slices.Equal(got, want) {
			t.Errorf("dialled at %v, want %v", got, want)
		}
	})
}

// TestSuspectIsReplacedBeforeItsEnd has a carrier that falls silent after 10 s
// and ends at 40 s: the next one comes at 10 s.
func TestSuspectIsReplacedBeforeItsEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &fakeDialer{plan: []answer{{suspect: 10 * time.Second, life: 40 * time.Second}, {}}}
		k := start(t, newFakeSession(true), d, "a")
		time.Sleep(20 * time.Second)
		synctest.Wait()
		if got, want := d.times(), []time.Duration{0, 10 * time.Second}; !slices.Equal(got, want) {
			t.Errorf("dialled at %v, want %v", got, want)
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		if p := k.Paths()[0]; p.State != Active || p.Successes != 2 || !k.Attached() {
			t.Errorf("after the first one's end the path is %+v", p)
		}
	})
}

func TestPausesGrowAndStayBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &fakeDialer{plan: []answer{{err: errors.New("refused")}}}
		s := newFakeSession(true)
		k := start(t, s, d, "a")
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		at := d.times()
		for i := 1; i < len(at); i++ {
			gap := at[i] - at[i-1]
			if gap < 300*time.Millisecond || gap > maxPause*5/4+time.Millisecond {
				t.Errorf("gap %d is %v", i, gap)
			}
		}
		if len(at) < 20 {
			t.Errorf("only %d dials in two minutes", len(at))
		}
		if !k.Failing() || s.withdrawn != len(at) {
			t.Errorf("failing %t, %d of %d offers withdrawn", k.Failing(), s.withdrawn, len(at))
		}
		if p := k.Paths()[0]; p.State != Resting || p.Failure != transport.Refused || p.Failures != len(at) {
			t.Errorf("path is %+v", p)
		}
	})
}

func TestFlappingCarrierBacksOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &fakeDialer{plan: []answer{{life: time.Millisecond}}}
		start(t, newFakeSession(true), d, "a")
		time.Sleep(time.Minute)
		synctest.Wait()
		if n := len(d.times()); n > 45 {
			t.Errorf("%d dials in a minute to a relay that drops us at once", n)
		}
	})
}

func TestVoidInvite(t *testing.T) {
	for _, c := range []struct {
		status wire.Status
		void   bool
	}{{wire.StatusRevoked, true}, {wire.StatusExpired, true}, {wire.StatusBusy, false}} {
		synctest.Test(t, func(t *testing.T) {
			d := &fakeDialer{plan: []answer{{err: &wire.StatusError{Status: c.status}}}}
			s := newFakeSession(true)
			k := start(t, s, d, "a")
			synctest.Wait()
			s.mu.Lock()
			failed := s.failed
			s.mu.Unlock()
			if k.Void() != c.void || (failed > 0) != c.void {
				t.Errorf("%v: void %t, streams failed %d times", c.status, k.Void(), failed)
			}
			time.Sleep(5 * time.Minute)
			synctest.Wait()
			if n := len(d.times()); n < 4 || n > 8 {
				t.Errorf("%v: %d dials in five minutes, want about five", c.status, n)
			}
		})
	}
}

func TestFailedRouteGoesLast(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &fakeDialer{plan: []answer{{err: errors.New("refused")}, {life: 5 * time.Second}, {}}}
		start(t, newFakeSession(true), d, "a", "b")
		time.Sleep(time.Minute)
		synctest.Wait()
		var routes []string
		for _, x := range d.dials {
			routes = append(routes, x.route.Address)
		}
		if want := []string{"a", "b", "b"}; !slices.Equal(routes, want) {
			t.Errorf("dialled %v, want %v", routes, want)
		}
	})
}

type namedOpener struct {
	flow.Opener
	name string
}

func TestGroupPassesOverFailingRelays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		bad := start(t, newFakeSession(true), &fakeDialer{plan: []answer{{err: errors.New("refused")}}}, "a")
		idle := start(t, newFakeSession(false), &fakeDialer{plan: []answer{{}}}, "b")
		good := newFakeSession(false)
		live := start(t, good, &fakeDialer{plan: []answer{{}}}, "c")
		synctest.Wait()
		g := Group{{bad, namedOpener{name: "bad"}}, {idle, namedOpener{name: "idle"}}, {live, namedOpener{name: "live"}}}
		pick := func() string { return g.Best().Opener.(namedOpener).name }
		if got := pick(); got != "idle" {
			t.Errorf("picked %s, want the first that did not fail", got)
		}
		good.want(true)
		synctest.Wait()
		if got := pick(); got != "live" {
			t.Errorf("picked %s, want the attached one", got)
		}
	})
}
