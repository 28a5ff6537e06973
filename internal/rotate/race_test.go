package rotate

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"busel/internal/wire"
	"busel/transport"
)

// Routes of two transports, of which neither knows what it is.
var (
	tlsA = transport.Route{Relay: "r1", Transport: "tls", Address: "a:443"}
	tlsB = transport.Route{Relay: "r1", Transport: "tls", Address: "b:443"}
	udpA = transport.Route{Relay: "r1", Transport: "udp", Address: "a:443"}
	udpB = transport.Route{Relay: "r1", Transport: "udp", Address: "b:443"}
)

// silence is longer than any dial lasts.
const silence = time.Hour

// reply is how one dial goes.
type reply struct {
	after time.Duration
	err   error
	deaf  bool // to its context: the answer comes though nobody waits any more
	life  time.Duration
}

// racer dials by a script, one list of replies for each route; the last repeats.
type racer struct {
	script func(r transport.Route, nth int) reply

	mu       sync.Mutex
	dials    []dial
	busy     map[transport.Route]int
	beside   int // the most dials over one transport to one address at once
	carriers int // made
	closed   int
	gone     int // dials that have returned
}

func plan(replies map[transport.Route][]reply) *racer {
	return &racer{script: func(r transport.Route, nth int) reply {
		of := replies[r]
		return of[min(nth, len(of)-1)]
	}}
}

// racedCarrier counts how it ends.
type racedCarrier struct {
	transport.Carrier
	d *racer
}

func (c racedCarrier) Close() error {
	c.d.mu.Lock()
	defer c.d.mu.Unlock()
	c.d.closed++
	return nil
}

func (d *racer) Dial(ctx context.Context, r transport.Route, h *wire.Hello) (transport.Carrier, *wire.Accept, error) {
	d.mu.Lock()
	nth := 0
	for _, x := range d.dials {
		if x.route == r {
			nth++
		}
	}
	d.dials = append(d.dials, dial{time.Since(epoch), r})
	if d.busy == nil {
		d.busy = make(map[transport.Route]int)
	}
	place := transport.Route{Transport: r.Transport, Address: r.Address}
	d.busy[place]++
	d.beside = max(d.beside, d.busy[place])
	a := d.script(r, nth)
	d.mu.Unlock()

	done := ctx.Done()
	if a.deaf {
		done = nil
	}
	err := a.err
	select {
	case <-time.After(a.after):
	case <-done:
		err = context.Cause(ctx)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.busy[place]--
	d.gone++
	if err != nil {
		de := &transport.DialError{Route: r, Stage: transport.StageConnect, Failure: transport.Refused, Err: err}
		if ctx.Err() != nil {
			de.Failure = ""
		}
		return nil, nil, de
	}
	d.carriers++
	c := &fakeCarrier{Carrier: racedCarrier{d: d}, died: make(chan struct{})}
	if a.life > 0 {
		time.AfterFunc(a.life, func() { close(c.died) })
	}
	return c, new(wire.Accept), nil
}

// lines is what a keeper logged.
type lines struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(b)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// raced is a keeper that runs in the bubble until the test or stop ends it.
type raced struct {
	*Keeper
	session *fakeSession
	log     lines
	stop    func()
}

func startRace(t *testing.T, d *racer, routes ...transport.Route) *raced {
	t.Helper()
	r := &raced{session: newFakeSession(true)}
	r.Keeper = New(Config{
		Routes: routes, Session: r.session, Dialers: map[string]transport.Dialer{"tls": d, "udp": d},
		Logger: slog.New(slog.NewTextHandler(&r.log, nil)),
	})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	r.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("Run returned %v, want the context's cause", err)
		}
	})
	t.Cleanup(r.stop)
	return r
}

// offers is how many offers came to a carrier, and how many did not.
func (r *raced) offers() (attached, withdrawn int) {
	for _, p := range r.Paths() {
		attached += p.Successes
	}
	r.session.mu.Lock()
	defer r.session.mu.Unlock()
	return attached, r.session.withdrawn
}

func TestFirstRouteAnswersAroundTheStagger(t *testing.T) {
	least, most := usualDial+headStart*3/4, usualDial+headStart*5/4
	for _, c := range []struct {
		name  string
		after time.Duration
		dials int
	}{
		{"at once", 0, 1},
		{"just before", least - 1, 1},
		{"just after", most + 1, 2},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d := plan(map[transport.Route][]reply{tlsA: {{after: c.after}}, udpA: {{after: time.Second}}})
				k := startRace(t, d, tlsA, udpA)
				time.Sleep(time.Minute)
				synctest.Wait()
				if len(d.dials) != c.dials || d.gone != c.dials {
					t.Fatalf("%d dials, %d over, want %d", len(d.dials), d.gone, c.dials)
				}
				if c.dials == 2 && (d.dials[1].at < least || d.dials[1].at > most) {
					t.Errorf("the second began after %v", d.dials[1].at)
				}
				p := k.Paths()
				if p[0].State != Active || p[0].Successes != 1 || p[1].State != Untried || p[1].Failures != 0 || p[1].slow {
					t.Errorf("paths are %+v", p)
				}
				if attached, withdrawn := k.offers(); attached != 1 || withdrawn != c.dials-1 {
					t.Errorf("%d offers attached, %d withdrawn", attached, withdrawn)
				}
				if strings.Contains(k.log.String(), "moved") {
					t.Errorf("nothing moved, and the log says\n%s", &k.log)
				}
			})
		})
	}
}

// TestSilentRouteLosesAndGoesSecond has a route that nobody answers: the other
// one wins, nothing counts as a failure, and the next round begins with the winner.
func TestSilentRouteLosesAndGoesSecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := plan(map[transport.Route][]reply{tlsA: {{after: silence}}, udpA: {{after: 200 * time.Millisecond, life: 30 * time.Second}}})
		k := startRace(t, d, tlsA, udpA)
		time.Sleep(1100 * time.Millisecond)
		synctest.Wait()
		if !k.Attached() {
			t.Fatalf("not attached after 1.1 s; dialled %v", d.dials)
		}
		if !strings.Contains(k.log.String(), `"moved to udp; tls did not answer"`) || strings.Contains(k.log.String(), "a:443") {
			t.Errorf("the log says\n%s", &k.log)
		}
		time.Sleep(70 * time.Second)
		synctest.Wait()
		var over []string
		for _, x := range d.dials {
			over = append(over, x.route.Transport)
		}
		if want := []string{"tls", "udp", "udp", "udp"}; !slices.Equal(over, want) {
			t.Errorf("dialled %v, want %v", over, want)
		}
		if p := k.Paths()[0]; p.State != Untried || p.Failures != 0 || p.Failure != "" {
			t.Errorf("the silent path is %+v", p)
		}
		if n := strings.Count(k.log.String(), "moved to"); n != 1 {
			t.Errorf("the log speaks of %d moves", n)
		}
	})
}

func TestFailureStartsTheNextAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		refused := reply{after: 50 * time.Millisecond, err: errors.New("refused")}
		d := plan(map[transport.Route][]reply{tlsA: {refused}, tlsB: {{}}, udpA: {refused}, udpB: {refused}})
		k := startRace(t, d, tlsA, tlsB, udpA, udpB)
		time.Sleep(time.Minute)
		synctest.Wait()
		// Unlike transports in turn, and each at its own pace.
		want := []dial{{0, tlsA}, {50 * time.Millisecond, udpA}, {spacing, tlsB}}
		if !slices.Equal(d.dials, want) {
			t.Errorf("dialled %v, want %v", d.dials, want)
		}
		if s := "moved to tls at another address; tls failed: refused while connecting, udp failed: refused while connecting"; !strings.Contains(k.log.String(), s) {
			t.Errorf("the log says\n%s", &k.log)
		}
	})
}

// TestLateLoserIsClosed has a dial that gives a carrier, or fails, when another
// has won long ago.
func TestLateLoserIsClosed(t *testing.T) {
	for name, late := range map[string]reply{
		"carrier": {after: 5 * time.Second, deaf: true},
		"failure": {after: 5 * time.Second, deaf: true, err: errors.New("reset")},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d := plan(map[transport.Route][]reply{tlsA: {late}, udpA: {{}}})
				k := startRace(t, d, tlsA, udpA)
				time.Sleep(time.Minute)
				synctest.Wait()
				if d.gone != 2 || d.closed != d.carriers-1 {
					t.Errorf("%d dials over, %d of %d carriers closed", d.gone, d.closed, d.carriers)
				}
				if attached, withdrawn := k.offers(); attached != 1 || withdrawn != 1 {
					t.Errorf("%d offers attached, %d withdrawn", attached, withdrawn)
				}
				if p := k.Paths()[0]; p.State != Untried || p.Failures != 0 || p.Successes != 0 {
					t.Errorf("the late path is %+v", p)
				}
			})
		})
	}
}

// TestRaceEndsWithItsContext ends Run while dials are under way, some of which
// do not hear it: all offers are withdrawn, what still comes is closed, nothing
// counts, and the bubble proves that no goroutine stays.
func TestRaceEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := plan(map[transport.Route][]reply{
			tlsA: {{after: silence}}, udpA: {{after: 5 * time.Second, deaf: true}},
			tlsB: {{after: 6 * time.Second, deaf: true, err: errors.New("reset")}}, udpB: {{after: silence}},
		})
		k := startRace(t, d, tlsA, udpA, tlsB, udpB)
		time.Sleep(4 * time.Second)
		k.stop()
		if d.gone != 4 || d.carriers != 1 || d.closed != 1 {
			t.Errorf("%d dials over, %d of %d carriers closed", d.gone, d.closed, d.carriers)
		}
		if attached, withdrawn := k.offers(); attached != 0 || withdrawn != 4 {
			t.Errorf("%d offers attached, %d withdrawn", attached, withdrawn)
		}
		for _, p := range k.Paths() {
			if p.State != Untried || p.Failures != 0 {
				t.Errorf("path is %+v", p)
			}
		}
	})
}

// TestStaggerKnowsTheRoute has a slow path: a second dial is started once, for
// want of better knowledge.
func TestStaggerKnowsTheRoute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := plan(map[transport.Route][]reply{tlsA: {{after: 2 * time.Second, life: 10 * time.Second}}, udpA: {{after: silence}}})
		startRace(t, d, tlsA, udpA)
		time.Sleep(time.Minute)
		synctest.Wait()
		n := map[string]int{}
		for _, x := range d.dials {
			n[x.route.Transport]++
		}
		if n["tls"] < 5 || n["udp"] != 1 {
			t.Errorf("%d dials over TLS and %d beside them", n["tls"], n["udp"])
		}
	})
}

// TestRestingRouteWaitsLonger has a route that failed: when the other one is
// slow once, it is left alone for longer than one of which nothing bad is known.
func TestRestingRouteWaitsLonger(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := plan(map[transport.Route][]reply{
			tlsA: {{err: errors.New("reset")}, {}},
			udpA: {{life: 10 * time.Second}, {after: silence}},
		})
		startRace(t, d, tlsA, udpA)
		time.Sleep(time.Minute)
		synctest.Wait()
		want := []dial{{0, tlsA}, {0, udpA}, {10 * time.Second, udpA}, {10*time.Second + maxStagger, tlsA}}
		if !slices.Equal(d.dials, want) {
			t.Errorf("dialled %v, want %v", d.dials, want)
		}
	})
}

// TestRefusalEndsTheRace has one way silent while the relay says over another
// one that the invite is void.
func TestRefusalEndsTheRace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := plan(map[transport.Route][]reply{tlsA: {{after: silence}}, udpA: {{err: &wire.StatusError{Status: wire.StatusRevoked}}}, tlsB: {{}}})
		k := startRace(t, d, tlsA, udpA, tlsB)
		time.Sleep(time.Second)
		synctest.Wait()
		if !k.Void() || !k.Failing() || len(d.dials) != 2 || d.gone != 2 {
			t.Errorf("void %t, failing %t, dialled %v, %d over", k.Void(), k.Failing(), d.dials, d.gone)
		}
	})
}

// TestRacesKeepTheirDistance races over random schedules of silence, failures
// and short lives. Dials over one transport keep 400 ms, no two of them to one
// address are under way together, and each offer and each carrier comes to exactly
// one end.
func TestRacesKeepTheirDistance(t *testing.T) {
	tlsOption := tlsA
	tlsOption.Options = "other"
	for seed := range uint64(60) {
		synctest.Test(t, func(t *testing.T) {
			rng := rand.New(rand.NewPCG(seed, 0))
			d := &racer{script: func(transport.Route, int) reply {
				r := reply{after: time.Duration(rng.ExpFloat64() * float64(500*time.Millisecond))}
				switch rng.IntN(8) {
				case 0, 1, 2:
					r.err = errors.New("refused")
				case 3:
					r.err, r.after = errors.New("refused"), 0
				case 4:
					r.after = silence
				default:
					r.life = time.Duration(rng.ExpFloat64() * float64(2*time.Second))
				}
				return r
			}}
			k := startRace(t, d, tlsA, tlsOption, tlsB, udpA, udpB)
			time.Sleep(10 * time.Minute)
			k.stop()
			last := map[string]time.Duration{}
			for _, x := range d.dials {
				before, ok := last[x.route.Transport]
				if gap := x.at - before; ok && gap < spacing {
					t.Errorf("seed %d: two dials over %s are %v apart", seed, x.route.Transport, gap)
				}
				last[x.route.Transport] = x.at
			}
			if d.beside != 1 {
				t.Errorf("seed %d: %d dials to one address at once", seed, d.beside)
			}
			attached, withdrawn := k.offers()
			if len(d.dials) < 200 || attached+withdrawn != len(d.dials) || d.gone != len(d.dials) || d.carriers != attached+d.closed {
				t.Errorf("seed %d: %d dials, %d over, %d offers attached, %d withdrawn, %d carriers, %d closed",
					seed, len(d.dials), d.gone, attached, withdrawn, d.carriers, d.closed)
			}
		})
	}
}
