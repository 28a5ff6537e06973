package rotate

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"busel/internal/wire"
	"busel/transport"
)

// run is a test in a bubble over all that a first version of it needs: routes over
// two transports.
func run(t *testing.T, change func(s *sim, cfg *Config), routes []transport.Route, f func(t *testing.T, s *sim)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		s := newSim(t, change, routes...)
		f(t, s)
		s.stop()
		synctest.Wait()
		if s.beside > 1 && s.Keeper.cfg.Policy != Budget && s.budget.bytes == 0 {
			t.Errorf("%d dials over one transport to one address at once", s.beside)
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.attached+s.withdrawn != int(s.nextN) {
			t.Errorf("%d offers: %d attached, %d withdrawn", s.nextN, s.attached, s.withdrawn)
		}
		if n := len(s.live); n > 0 {
			t.Errorf("%d carriers live after Run", n)
		}
	})
}

var both = []transport.Route{tlsA, udpA}

func TestIdleSessionIsLeftAlone(t *testing.T) {
	run(t, func(s *sim, _ *Config) { s.wanted = false }, both, func(t *testing.T, s *sim) {
		s.let(time.Hour)
		if len(s.dials) != 0 || len(s.doubts) != 0 {
			t.Fatalf("%d dials and %d doubts while idle", len(s.dials), len(s.doubts))
		}
		s.change(func() { s.wanted = true })
		s.let(usualTook)
		synctest.Wait()
		s.is("tls active")
	})
}

// A visit that is over soon needs no spare.
func TestSpareComesWithTraffic(t *testing.T) {
	run(t, nil, both, func(t *testing.T, s *sim) {
		s.let(10 * time.Second)
		s.is("tls active")
		s.change(func() { s.moving = true })
		s.let(spareAfter + usualTook + time.Millisecond)
		s.is("tls active", "udp spare")
		s.let(time.Minute)
		if n := len(s.dials); n != 2 {
			t.Errorf("%d dials, want 2", n)
		}
	})
}

// The heart of it: a spare takes over without a dial, and is replaced.
func TestSpareTakesOver(t *testing.T) {
	for _, how := range []string{"reset", "silence"} {
		t.Run(how, func(t *testing.T) {
			run(t, func(s *sim, _ *Config) { s.moving = true }, both, func(t *testing.T, s *sim) {
				s.let(5 * time.Second)
				dials := len(s.dials)
				if how == "reset" {
					s.reset()
				} else {
					s.each(func(c *simCarrier) { c.suspect = c.route == tlsA })
				}
				synctest.Wait()
				if got := s.states(); got[len(got)-1] != "udp active" {
					t.Fatalf("there are %q", got)
				}
				if len(s.dials) != dials {
					t.Error("something was dialled beside the promotion")
				}
				s.let(moveRest / 2)
				s.is("udp active")
				s.let(3 * moveRest)
				s.is("tls spare", "udp active")
				if l := s.log.String(); !strings.Contains(l, "moved to QUIC in ") || !strings.Contains(l, "r1:443 over TLS") {
					t.Errorf("the log does not tell:\n%s", l)
				}
			})
		})
	}
}

// A suspect carrier that recovers was only late: the spare is a spare again.
func TestRecoveredCarrierGoesOn(t *testing.T) {
	run(t, func(s *sim, _ *Config) { s.moving = true }, both, func(t *testing.T, s *sim) {
		s.let(5 * time.Second)
		s.each(func(c *simCarrier) { c.suspect = c.route == tlsA })
		s.let(trip / 2)
		s.each(func(c *simCarrier) { c.suspect = false })
		s.let(time.Second)
		s.is("tls active", "udp spare")
		if len(s.dials) != 2 {
			t.Errorf("%d dials, want 2", len(s.dials))
		}
	})
}

func TestFirstRouteAnswersAroundTheStagger(t *testing.T) {
	least, most := usualDial+headStart*3/4, usualDial+headStart*5/4
	for _, c := range []struct {
		name  string
		took  time.Duration
		dials int
	}{{"quickly", trip + 1, 1}, {"just before", least - 1, 1}, {"just after", most + 1, 2}} {
		t.Run(c.name, func(t *testing.T) {
			run(t, func(s *sim, _ *Config) {
				// Not the reach, but all of it, takes long: else the reach tells.
				s.net = func(r transport.Route) way {
					if r == tlsA && c.took > least {
						return way{silent: true}
					}
					return way{took: c.took}
				}
			}, both, func(t *testing.T, s *sim) {
				s.let(most + 10*trip)
				if len(s.dials) != c.dials {
					t.Fatalf("%d dials, want %d", len(s.dials), c.dials)
				}
				if c.dials == 2 && (s.dials[1].at < least || s.dials[1].at > most) {
					t.Errorf("the second began after %v", s.dials[1].at)
				}
			})
		})
	}
}

// A route that is silent is overtaken and goes second from then on.
func TestSilentRouteGoesSecond(t *testing.T) {
	run(t, func(s *sim, _ *Config) {
		s.net = func(r transport.Route) way { return way{silent: r == tlsA} }
	}, both, func(t *testing.T, s *sim) {
		s.let(2 * time.Second)
		s.is("udp active")
		if p := s.path(tlsA); !p.slow || p.Failures != 0 || p.State != Untried {
			t.Errorf("the silent path is %+v", p)
		}
		s.reset()
		s.let(usualTook + trip + endWithin)
		s.is("udp active")
		if d := s.dials[len(s.dials)-1]; d.route != udpA {
			t.Errorf("the last dial went over %v", d.route)
		}
	})
}

func TestFailureStartsTheNextAtOnce(t *testing.T) {
	run(t, func(s *sim, _ *Config) {
		s.net = func(r transport.Route) way {
			if r == tlsB {
				return way{}
			}
			return way{failure: transport.Reset, stage: transport.StageTLS, took: 2 * trip}
		}
	}, []transport.Route{tlsA, tlsB, udpA}, func(t *testing.T, s *sim) {
		s.let(5 * time.Second)
		s.is("tls active")
		var order []transport.Route
		for _, d := range s.dials {
			order = append(order, d.route)
		}
		if fmt.Sprint(order) != fmt.Sprint([]transport.Route{tlsA, udpA, tlsB}) {
			t.Errorf("dialled %v", order)
		}
		if s.dials[1].at != 2*trip {
			t.Errorf("the second began after %v, want at once", s.dials[1].at)
		}
		for _, r := range []transport.Route{tlsA, udpA} {
			p := s.path(r)
			if p.State != Resting || p.Failure != transport.Reset || time.Until(p.Retry) < minRest-5*time.Second || time.Until(p.Retry) > maxRest {
				t.Errorf("path is %+v", p)
			}
		}
	})
}

// A blocked path is left alone, unless nothing else is left; and it is tried again
// when it has rested, as the spare.
func TestBlockedPathRests(t *testing.T) {
	run(t, func(s *sim, _ *Config) {
		s.moving = true
		s.net = func(r transport.Route) way {
			if r == tlsA && time.Since(s.begin) < 100*time.Second {
				return way{failure: transport.Reset, stage: transport.StageTLS}
			}
			return way{}
		}
	}, both, func(t *testing.T, s *sim) {
		s.let(100 * time.Second)
		s.is("udp active")
		if n := len(s.dialsOver(over(tlsA))); n != 1 {
			t.Fatalf("the blocked path was dialled %d times", n)
		}
		s.let(maxRest - 100*time.Second + moveRest)
		s.is("tls spare", "udp active")
		if n := len(s.dialsOver(over(tlsA))); n != 2 {
			t.Errorf("the path was dialled %d times", n)
		}
	})
	run(t, func(s *sim, _ *Config) {
		s.net = func(r transport.Route) way {
			if r == tlsA && time.Since(s.begin) < 20*time.Second {
				return way{failure: transport.Reset, stage: transport.StageTLS}
			}
			return way{}
		}
	}, both, func(t *testing.T, s *sim) {
		s.let(30 * time.Second)
		s.mu.Lock()
		s.net = func(r transport.Route) way { return way{silent: r == udpA} }
		s.mu.Unlock()
		s.reset()
		s.let(maxStagger + usualTook + trip)
		s.is("tls active") // in need it is dialled
	})
}

// Each rest is twice as long as the one before, up to an hour.
func TestRestsGrow(t *testing.T) {
	now := time.Now()
	p := &Path{State: Untried}
	e := &transport.DialError{Stage: transport.StageTLS, Failure: transport.Reset}
	for i := range 10 {
		p.failed(e, true, now)
		d := p.Retry.Sub(now)
		least, most := min(minRest<<i, topRest*3/4), min(maxRest<<i, topRest*5/4)
		if p.State != Resting || d < least || d > most {
			t.Fatalf("rest %d is %v, want %v..%v", i+1, d, least, most)
		}
		again := p.Retry
		if p.failed(e, true, now.Add(time.Second)); p.Retry != again {
			t.Fatal("a try in need made the rest longer")
		}
		now = p.Retry
		p.wake(now)
	}
	p.joined(time.Second, now)
	p.left("", time.Hour, now)
	if p.failed(e, true, now); p.Retry.Sub(now) > maxRest {
		t.Error("a success does not end the growth")
	}
}

// What TLS connections a censor sees (row R2), whatever happens: never more than
// three in 60 s, but one at a time every 5 s in need; never closer than 400 ms; and
// those that are only of use leave one in reserve.
func TestPaceOfTLS(t *testing.T) {
	for seed := range uint64(40) {
		synctest.Test(t, func(t *testing.T) {
			rng := rand.New(rand.NewPCG(seed, 1))
			var drawing sync.Mutex
			routes := []transport.Route{tlsA, tlsB}
			if seed%2 == 0 {
				routes = append(routes, udpA)
			}
			s := newSim(t, func(s *sim, _ *Config) {
				s.moving = true
				s.rate = func(*simCarrier, int) float64 { return 1e6 }
				s.net = func(r transport.Route) way {
					drawing.Lock()
					defer drawing.Unlock()
					return way{took: time.Duration(200+rng.IntN(800)) * time.Millisecond}
				}
			}, routes...)
			for range 30 {
				drawing.Lock()
				d := time.Duration(1000+rng.IntN(8000)) * time.Millisecond
				drawing.Unlock()
				s.let(d)
				s.reset()
			}
			at := s.hellos()
			for i := range at {
				if i > 0 && at[i]-at[i-1] < paceSpacing {
					t.Errorf("seed %d: two TLS dials within %v", seed, at[i]-at[i-1])
				}
				if i >= paceMost && at[i]-at[i-paceMost] < paceWindow && at[i]-at[i-1] < paceNeed {
					t.Errorf("seed %d: more than %d TLS dials in %v, and the last two within %v", seed, paceMost, at[i]-at[i-paceMost], at[i]-at[i-1])
				}
				if seed%2 == 0 && i >= paceMost && at[i]-at[i-paceMost] < paceWindow {
					t.Errorf("seed %d: more than three in 60 s although there is another way", seed)
				}
			}
			s.stop()
		})
	}
}

// Relays that show the same name are one to a censor (row R2): what holds for the TLS
// connections of one keeper holds for all of theirs together, both in need and with
// spares. Those of another name are not held up.
func TestSharedPace(t *testing.T) {
	for seed := range uint64(20) {
		synctest.Test(t, func(t *testing.T) {
			rng := rand.New(rand.NewPCG(seed, 2))
			var drawing sync.Mutex
			paces := NewPaces()
			keeper := func(name string, routes ...transport.Route) *sim {
				return newSim(t, func(s *sim, cfg *Config) {
					cfg.Paces, cfg.Shown = paces, name
					s.moving = true
					s.rate = func(*simCarrier, int) float64 { return 1e6 }
					s.net = func(r transport.Route) way {
						drawing.Lock()
						defer drawing.Unlock()
						return way{took: time.Duration(200+rng.IntN(800)) * time.Millisecond}
					}
				}, routes...)
			}
			same := []*sim{keeper("news.example.org", tlsA), keeper("news.example.org", tlsB), keeper("news.example.org", tlsA, udpA)}
			other := keeper("other.example.org", tlsA)
			for range 30 {
				drawing.Lock()
				d := time.Duration(1000+rng.IntN(8000)) * time.Millisecond
				which := same[rng.IntN(len(same))]
				drawing.Unlock()
				other.let(d)
				which.reset()
			}
			var at []time.Duration
			for _, s := range same {
				mine := s.hellos()
				if len(mine) == 0 {
					t.Errorf("seed %d: a keeper has never dialled over TLS", seed)
				}
				at = append(at, mine...)
			}
			slices.Sort(at)
			for i := range at {
				if i > 0 && at[i]-at[i-1] < paceSpacing {
					t.Errorf("seed %d: two TLS dials within %v", seed, at[i]-at[i-1])
				}
				if i >= paceMost && at[i]-at[i-paceMost] < paceWindow && at[i]-at[i-1] < paceNeed {
					t.Errorf("seed %d: more than %d TLS dials in %v, and the last two within %v", seed, paceMost, at[i]-at[i-paceMost], at[i]-at[i-1])
				}
			}
			if mine := other.hellos(); len(mine) == 0 || mine[0] > 2*trip {
				t.Errorf("seed %d: another name was held up: %v", seed, mine)
			}
			for _, s := range append(same, other) {
				s.stop()
			}
		})
	}
}

// However many keepers ask at once, one of them may dial.
func TestPaceIsTakenOnce(t *testing.T) {
	now := time.Now()
	for i := range paceMost + 1 {
		p := NewPaces().of("news.example.org")
		for n := range i {
			if !p.start(true, now.Add(time.Duration(n-i)*time.Second)) {
				t.Fatalf("dial %d was refused", n)
			}
		}
		var got atomic.Int64
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				if p.start(true, now) {
					got.Add(1)
				}
			})
		}
		wg.Wait()
		if want := min(1, int64(paceMost-i)); got.Load() != want {
			t.Errorf("after %d dials %d of 8 were let, want %d", i, got.Load(), want)
		}
		if i < paceMost {
			p.undo(now)
			if !p.start(true, now) || p.start(true, now) {
				t.Error("what reached nobody was not taken back, or more than that")
			}
		}
	}
}

// Outages of every length: the first dial that can reach somebody begins within a
// second of the end, nothing is blamed for them, and one line is said.
func TestOutages(t *testing.T) {
	for _, routes := range [][]transport.Route{{tlsA}, {tlsA, udpA}, {tlsA, tlsB, udpA, udpB}} {
		for _, length := range []time.Duration{5 * time.Second, 11 * time.Second, 17300 * time.Millisecond, time.Minute, 10 * time.Minute} {
			t.Run(fmt.Sprintf("%d routes %v", len(routes), length), func(t *testing.T) {
				run(t, func(s *sim, _ *Config) { s.moving = true }, routes, func(t *testing.T, s *sim) {
					s.let(20 * time.Second)
					before := len(s.dials)
					s.blackout(length)
					s.mu.Lock()
					said := len(s.dials) - before
					s.mu.Unlock()
					if most := int(length/time.Second)*3/2 + 6; said > most {
						t.Errorf("%d dials during the outage, want at most %d", said, most)
					}
					s.let(1500*time.Millisecond + usualTook)
					if !s.Healthy() {
						t.Fatalf("not back 1.9 s after the end\n%s", s.log.String())
					}
					for _, p := range s.Paths() {
						if p.State == Resting {
							t.Errorf("the outage is held against %+v", p)
						}
					}
					if n := strings.Count(s.log.String(), "no internet"); length > 10*time.Second && n != 1 {
						t.Errorf("an outage was said %d times\n%s", n, s.log.String())
					}
				})
			})
		}
	}
}

// In a long outage the questions become rare.
func TestLongOutageIsCheap(t *testing.T) {
	run(t, nil, both, func(t *testing.T, s *sim) {
		s.let(10 * time.Second)
		s.blackout(2 * time.Hour)
		before := len(s.dials)
		s.mu.Lock()
		s.net = func(transport.Route) way { return way{silent: true} }
		s.mu.Unlock()
		s.let(10 * time.Minute)
		if n := len(s.dials) - before; n > 130 || n < 60 {
			t.Errorf("%d dials in 10 minutes after two hours", n)
		}
	})
}

// A TLS hello is cut only after a whole one was reset or lost.
func TestFallback(t *testing.T) {
	cut := func(s *sim, cfg *Config) { cfg.Fallbacks = []transport.Route{cutA} }
	run(t, func(s *sim, cfg *Config) {
		cut(s, cfg)
		s.net = func(r transport.Route) way {
			if r == tlsA {
				return way{failure: transport.Reset, stage: transport.StageTLS}
			}
			return way{}
		}
	}, []transport.Route{tlsA}, func(t *testing.T, s *sim) {
		if len(s.Paths()) != 1 {
			t.Error("an oddity that nobody needed is shown")
		}
		s.let(2 * time.Second)
		s.is("tls active")
		if r, _ := s.Route(2); r != cutA {
			t.Errorf("the carrier is over %v", r)
		}
	})
	run(t, func(s *sim, cfg *Config) {
		cut(s, cfg)
		s.net = func(transport.Route) way { return way{failure: transport.Refused} }
	}, []transport.Route{tlsA}, func(t *testing.T, s *sim) {
		s.let(time.Minute)
		if n := len(s.dialsOver(over(cutA))); n != 0 {
			t.Errorf("cut %d hellos where nobody listens", n)
		}
	})
}

// Through another relay only if the straight ways fail, and only if it can be
// passed.
func TestDetour(t *testing.T) {
	for _, passable := range []bool{true, false} {
		run(t, func(s *sim, cfg *Config) {
			s.moving = true
			cfg.Passable = func() bool { return passable }
		}, []transport.Route{tlsA, udpA, viaB}, func(t *testing.T, s *sim) {
			s.let(20 * time.Second)
			if n := len(s.dialsOver(over(viaB))); n != 0 {
				t.Errorf("took a detour %d times without need", n)
			}
			s.mu.Lock()
			s.net = func(r transport.Route) way { return way{silent: r != viaB} }
			s.mu.Unlock()
			s.let(doubt)
			s.each(func(c *simCarrier) { c.suspect = true })
			s.let(1500 * time.Millisecond)
			got := s.Healthy()
			if got != passable {
				t.Errorf("passable %v: healthy %v\n%s", passable, got, s.log.String())
			}
		})
	}
}

// A second carrier stays if more moves with it.
func TestTrials(t *testing.T) {
	const most = 8e6 // bytes/s
	for _, c := range []struct {
		name string
		rate func(c *simCarrier, active int) float64
		by   time.Duration
		want string // carriers then
	}{
		{"the path is full", func(_ *simCarrier, n int) float64 { return most / float64(n) }, 7 * time.Second, "tls active, udp spare"},
		{"each has a limit", func(_ *simCarrier, n int) float64 { return most / 8 }, 28 * time.Second, "tls active, tls active, udp active"},
		{"one is policed", func(c *simCarrier, n int) float64 {
			if c.route == tlsA {
				return 14e3
			}
			return most / float64(n)
		}, 7 * time.Second, "udp active"},
		{"the other one is bad", func(c *simCarrier, n int) float64 {
			if c.route == udpA {
				return 60e3
			}
			return most / float64(n)
		}, 24 * time.Second, "tls active, udp spare"},
	} {
		t.Run(c.name, func(t *testing.T) {
			run(t, func(s *sim, _ *Config) { s.moving, s.rate = true, c.rate }, both, func(t *testing.T, s *sim) {
				s.let(c.by)
				if got := strings.Join(s.states(), ", "); got != c.want {
					t.Errorf("after %v there are %q, want %q\n%s", c.by, got, c.want, s.log.String())
				}
			})
		})
	}
}

// Under the policy single the better of two stays alone.
func TestSwap(t *testing.T) {
	run(t, func(s *sim, cfg *Config) {
		cfg.Policy, s.moving = Single, true
		s.rate = func(c *simCarrier, n int) float64 {
			if c.route == tlsA {
				return 100e3
			}
			return 2e6
		}
	}, both, func(t *testing.T, s *sim) {
		for range 600 {
			s.let(100 * time.Millisecond)
			if n := len(s.states()); n > 3 {
				t.Fatalf("%d carriers", n)
			}
		}
		if l := strings.Join(s.states(), ", "); !strings.Contains(l, "udp active") { // a trial may be on
			t.Errorf("there are %q", l)
		}
	})
}

// A second connection like the first is tried too, and not more than R2 allows.
func TestTrialAlike(t *testing.T) {
	run(t, func(s *sim, _ *Config) {
		s.moving = true
		s.rate = func(c *simCarrier, n int) float64 {
			if c.route == udpA {
				return 100e3
			}
			return 6e6
		}
	}, both, func(t *testing.T, s *sim) {
		s.let(40 * time.Second)
		got := strings.Join(s.states(), ", ")
		if !strings.HasPrefix(got, "tls active, tls active") {
			t.Errorf("there are %q", got)
		}
	})
}

// At 5 % loss half seconds differ by a third, and a second connection adds a fifth: it
// stays. One that hardly moves does not, though the transfer gathers speed meanwhile.
func TestTrialInNoise(t *testing.T) {
	kept := 0
	for seed := range uint64(20) {
		run(t, func(s *sim, _ *Config) {
			s.moving = true
			s.rate = func(c *simCarrier, n int) float64 {
				half := uint64(time.Since(s.begin) / sampleEvery)
				rate := 8.2e6 * (0.7 + 0.6*rand.New(rand.NewPCG(seed, half)).Float64())
				like := 0 // carriers
				for _, o := range s.live {
					if o.route == tlsA && o.state == wire.CarrierActive {
						like++
					}
				}
				switch {
				case c.route == udpA:
					return 200e3
				case time.Since(s.begin) < 12*time.Second:
					return rate * time.Since(s.begin).Seconds() / 12
				case like > 1:
					return rate * 1.2 / float64(like)
				}
				return rate
			}
		}, both, func(t *testing.T, s *sim) {
			s.let(13 * time.Second)
			if strings.Contains(s.log.String(), "stays=true") {
				t.Errorf("%d: a carrier that hardly moves stays\n%s", seed, s.log.String())
			}
			s.let(9 * time.Second)
			if got := strings.Join(s.states(), ", "); strings.HasPrefix(got, "tls active, tls active") {
				kept++
			}
		})
	}
	if kept < 14 {
		t.Errorf("the second connection was kept in %d of 20 runs", kept)
	}
}

// A carrier that is policed in the middle of a transfer is left within 10 s.
func TestThrottledMidway(t *testing.T) {
	var policed bool
	run(t, func(s *sim, _ *Config) {
		s.moving = true
		s.rate = func(c *simCarrier, n int) float64 {
			if policed && c.route == tlsA {
				return 14e3
			}
			return 2e6 / float64(n)
		}
	}, both, func(t *testing.T, s *sim) {
		s.let(time.Minute)
		s.change(func() { policed = true })
		s.let(6 * time.Second)
		l := strings.Join(s.states(), ", ")
		if strings.Contains(l, "tls active") || !strings.Contains(l, "udp active") {
			t.Errorf("there are %q\n%s", l, s.log.String())
		}
		if p := s.path(tlsA); !strings.Contains(l, "tls spare") && (p.Failure != transport.Throttled || p.State != Resting) {
			t.Errorf("the path is %+v", p)
		}
	})
}

// Bond: several at once while something moves, one otherwise.
func TestBond(t *testing.T) {
	run(t, func(s *sim, cfg *Config) { cfg.Policy = Bond }, both, func(t *testing.T, s *sim) {
		s.let(10 * time.Second)
		s.is("tls active")
		s.change(func() { s.moving = true })
		s.let(5 * time.Second)
		s.is("tls active", "tls active", "udp active")
		s.reset()
		s.let(10 * time.Second)
		if !s.Healthy() { // the TLS connections of this minute are spent
			t.Errorf("there are %q", s.states())
		}
	})
}

// A network that freezes flows after some bytes is found out, and left in time.
func TestBudgetIsLearned(t *testing.T) {
	const limit = 13e3
	run(t, func(s *sim, _ *Config) {
		s.moving = true
		s.rate = func(c *simCarrier, n int) float64 {
			if c.moved > limit {
				time.AfterFunc(doubt, func() { s.each(func(o *simCarrier) { o.suspect = o.suspect || o == c }) })
				return 0
			}
			return 100e3
		}
	}, both, func(t *testing.T, s *sim) {
		s.let(time.Minute)
		s.mu.Lock()
		budgets, tls := 0, 0
		for _, c := range s.dials {
			if counted(c.route) {
				tls++
			}
		}
		for _, c := range s.live {
			if c.budget > 0 && c.budget < limit {
				budgets++
			}
		}
		s.mu.Unlock()
		if budgets < 2 || s.Keeper.budget.bytes == 0 {
			t.Errorf("%d carriers with a budget\n%s", budgets, s.log.String())
		}
		if tls > 5 {
			t.Errorf("%d TLS connections although the others are not counted", tls)
		}
	})
}

// What memory says of budgets: the newest that it says of any route holds, for as long
// as the client would have gone without a try had it run on.
func TestBudgetIsRecalled(t *testing.T) {
	now := time.Now()
	ago := func(d time.Duration) time.Time { return now.Add(-d) }
	for _, c := range []struct {
		name string
		said []Remembered
		want uint64        // from now on
		term time.Duration // until it is tried without
	}{
		{"nothing", nil, 0, 0},
		{"fresh", []Remembered{{Budget: 4 << 10, Seen: ago(time.Second)}}, 4 << 10, budgetTerm << sureBudget},
		{"nearly old", []Remembered{{Budget: 4 << 10, Seen: ago(maxBudgetTerm - time.Second)}}, 4 << 10, time.Second},
		{"old", []Remembered{{Budget: 4 << 10, Seen: ago(maxBudgetTerm + time.Second)}}, 0, 0},
		{"of a version that did not say when", []Remembered{{Budget: 4 << 10}}, 0, 0},
		{"of a clock that was ahead", []Remembered{{Budget: 4 << 10, Seen: now.Add(time.Hour)}}, 4 << 10, budgetTerm << sureBudget},
		{"too much", []Remembered{{Budget: 1 << 50, Seen: now}}, maxBudget, budgetTerm << sureBudget},
		{"newer of another route", []Remembered{{Budget: 4 << 10, Seen: ago(time.Hour)}, {Budget: 5 << 10, Seen: now}}, 5 << 10, budgetTerm << sureBudget},
		{"older of another route", []Remembered{{Budget: 5 << 10, Seen: now}, {Budget: 4 << 10, Seen: ago(time.Hour)}}, 5 << 10, budgetTerm << sureBudget},
		{"no limit since", []Remembered{{Budget: 4 << 10, Seen: ago(2 * time.Second)}, {Seen: ago(time.Second)}}, 0, 0},
		{"no limit, seen first", []Remembered{{Seen: ago(time.Second)}, {Budget: 4 << 10, Seen: ago(2 * time.Second)}}, 0, 0},
		{"a limit since", []Remembered{{Seen: ago(2 * time.Second)}, {Budget: 4 << 10, Seen: ago(time.Second)}}, 4 << 10, budgetTerm << sureBudget},
		{"a route that was never used", []Remembered{{Budget: 4 << 10, Seen: now}, {}}, 4 << 10, budgetTerm << sureBudget},
	} {
		var b budget
		for _, m := range c.said {
			b.recall(m, now)
		}
		kept, since := b.learned()
		if got := b.now(now); got != c.want {
			t.Errorf("%s: the budget is %d, want %d", c.name, got, c.want)
		}
		if got, seen := b.learned(); got != kept || !seen.Equal(since) {
			t.Errorf("%s: a try made of the %d bytes of %v that are kept %d of %v", c.name, kept, since, got, seen)
		}
		if c.want > 0 && (b.now(now.Add(c.term)) != c.want || b.now(now.Add(c.term+1)) != 0) {
			t.Errorf("%s: it is not tried without after %v", c.name, c.term)
		}
		// On a network that does freeze, one carrier tells.
		if b.last > 0 {
			b.ended(&held{used: true, moved: 9 << 10}, transport.Frozen, time.Second, now)
			if got := b.now(now); got != max(c.want, min(kept, maxBudget)) {
				t.Errorf("%s: after a carrier that froze the budget is %d", c.name, got)
			}
			if got, seen := b.learned(); got == 0 || !seen.Equal(now) {
				t.Errorf("%s: what is kept is %d, seen %v", c.name, got, seen)
			}
		}
	}
}

// A policy without budgets leaves what is remembered of them alone.
func TestBudgetIsKept(t *testing.T) {
	m := memory{}
	var seen time.Time
	run(t, func(s *sim, cfg *Config) {
		seen = time.Now().Add(-time.Minute)
		cfg.Memory, cfg.Policy = m, Single
		m[tlsA] = Remembered{Budget: 4 << 10, Seen: seen}
	}, both, func(t *testing.T, s *sim) {
		s.let(time.Second)
		s.reset()
		s.let(5 * time.Second)
		s.mu.Lock()
		defer s.mu.Unlock()
		for _, c := range s.live {
			if c.budget > 0 {
				t.Error("a carrier has a budget")
			}
		}
	})
	if x := m[tlsA]; x.Budget != 4<<10 || !x.Seen.Equal(seen) || x.Successes == 0 {
		t.Errorf("memory is %+v", x)
	}
}

// A network froze flows once and does so no longer. The client finds out with what it
// has to move, and does not believe it again after the next start, whichever route
// memory asks of.
func TestBudgetIsForgotten(t *testing.T) {
	m := memory{}
	var began time.Time
	start := func(s *sim, cfg *Config) {
		cfg.Memory = m
		s.moving = true
		s.rate = func(*simCarrier, int) float64 { return 100e3 }
		if began.IsZero() {
			began = time.Now()
			for _, r := range []transport.Route{tlsA, udpA} {
				m[r] = Remembered{Budget: 4 << 10, Seen: began.Add(-24 * time.Hour), Successes: 1}
			}
		}
	}
	with := func(s *sim) (n int) {
		s.mu.Lock()
		defer s.mu.Unlock()
		for _, c := range s.live {
			if c.budget > 0 {
				n++
			}
		}
		return n
	}
	run(t, start, both, func(t *testing.T, s *sim) {
		s.let(10 * time.Second)
		if n := with(s); n > 0 {
			t.Errorf("%d carriers have a budget of yesterday's", n)
		}
		s.reset() // the one that carried; the spare stays
		s.let(time.Second)
	})
	said := 0
	for _, r := range []transport.Route{tlsA, udpA} {
		if m[r].Budget == 0 && m[r].Seen.After(began) {
			said++
		}
	}
	if said == 0 {
		t.Fatalf("memory is %+v", m)
	}
	// Whatever the other route says.
	m[udpB] = Remembered{Budget: 4 << 10, Seen: began.Add(-time.Minute), Successes: 1}
	run(t, start, []transport.Route{tlsA, udpA, udpB}, func(t *testing.T, s *sim) {
		s.let(10 * time.Second)
		if n := with(s); n > 0 {
			t.Errorf("%d carriers have a budget that was forgotten", n)
		}
	})
}

// The link changed: carriers are asked, and nothing waits.
func TestRoam(t *testing.T) {
	run(t, nil, []transport.Route{tlsA}, func(t *testing.T, s *sim) {
		s.let(time.Second)
		s.Roam()
		synctest.Wait()
		if len(s.doubts) != 1 {
			t.Errorf("%d doubts", len(s.doubts))
		}
		s.mu.Lock()
		s.net = func(transport.Route) way { return way{failure: transport.Reset, stage: transport.StageTLS} }
		s.mu.Unlock()
		s.reset()
		s.let(3 * time.Minute) // pauses have grown
		s.mu.Lock()
		s.net = func(transport.Route) way { return way{} }
		s.mu.Unlock()
		s.Roam()
		s.let(paceNeed + usualTook)
		s.is("tls active")
	})
}

// A quiet session with an open stream gives a sign of life now and then.
func TestBeat(t *testing.T) {
	run(t, nil, []transport.Route{tlsA}, func(t *testing.T, s *sim) {
		s.let(10 * time.Minute)
		if n := len(s.doubts); n < int(10*time.Minute/beatMax)-1 || n > int(10*time.Minute/beatMin) {
			t.Errorf("%d signs of life in 10 minutes", n)
		}
	})
}

// Pauses between dials that fail grow, and are bounded.
func TestPauses(t *testing.T) {
	for _, c := range []struct {
		failure transport.Failure
		most    time.Duration
	}{{transport.Refused, idlePause}, {transport.Reset, maxPause}} {
		run(t, func(s *sim, _ *Config) {
			s.net = func(transport.Route) way { return way{failure: c.failure, stage: transport.StageConnect} }
		}, []transport.Route{udpA}, func(t *testing.T, s *sim) {
			s.let(10 * time.Minute)
			at := s.dialsOver(over(udpA))
			for i := 1; i < len(at); i++ {
				if gap := at[i] - at[i-1]; gap > c.most*5/4+trip {
					t.Errorf("%s: %v between two dials", c.failure, gap)
				}
			}
			if last := at[len(at)-1] - at[len(at)-2]; last < c.most*3/4 {
				t.Errorf("%s: the last pause is %v only", c.failure, last)
			}
		})
	}
}

// A carrier that never lives long is not dialled without end.
func TestFlappingCarrierBacksOff(t *testing.T) {
	run(t, func(s *sim, _ *Config) {}, []transport.Route{udpA}, func(t *testing.T, s *sim) {
		stop := time.Now().Add(time.Minute)
		for time.Now().Before(stop) {
			s.let(10 * time.Millisecond)
			s.reset()
		}
		if n := len(s.dials); n > 40 {
			t.Errorf("%d dials in a minute", n)
		}
	})
}

func TestVoidInvite(t *testing.T) {
	for _, c := range []struct {
		status wire.Status
		void   bool
	}{{wire.StatusRevoked, true}, {wire.StatusExpired, true}, {wire.StatusQuota, true}, {wire.StatusDevices, true}, {wire.StatusBusy, false}, {wire.StatusDraining, false}} {
		t.Run(c.status.String(), func(t *testing.T) {
			run(t, func(s *sim, _ *Config) {
				s.net = func(transport.Route) way { return way{refusal: c.status} }
			}, both, func(t *testing.T, s *sim) {
				s.let(refusedPause / 2)
				refusal := s.Refusal()
				if (refusal != nil && refusal.Status == c.status) != c.void || (s.failed == 1) != c.void {
					t.Errorf("refusal is %v, sessions failed: %d", refusal, s.failed)
				}
				if len(s.dials) != 1 {
					t.Errorf("%d dials although the relay refuses", len(s.dials))
				}
				s.mu.Lock()
				s.net = func(transport.Route) way { return way{} }
				s.mu.Unlock()
				s.let(refusedPause)
				if !s.Healthy() {
					t.Errorf("not connected, though the relay takes us again")
				}
			})
		})
	}
}

// memory keeps in a map.
type memory map[transport.Route]Remembered

func (m memory) Recall(r transport.Route) Remembered  { return m[r] }
func (m memory) Note(r transport.Route, x Remembered) { m[r] = x }

// What worked on this network is tried first after a start.
func TestMemory(t *testing.T) {
	m := memory{}
	with := func(s *sim, cfg *Config) { cfg.Memory = m }
	run(t, func(s *sim, cfg *Config) {
		with(s, cfg)
		s.net = func(r transport.Route) way {
			if r == tlsA {
				return way{failure: transport.Reset, stage: transport.StageTLS}
			}
			return way{}
		}
	}, both, func(t *testing.T, s *sim) { s.let(5 * time.Second) })
	if m[tlsA].Failure != transport.Reset || m[udpA].Successes != 1 {
		t.Fatalf("memory is %+v", m)
	}
	run(t, with, both, func(t *testing.T, s *sim) {
		s.let(usualTook + trip)
		s.is("udp active")
		if len(s.dials) != 1 {
			t.Errorf("%d dials, want 1", len(s.dials))
		}
	})
	m[udpA] = Remembered{Rest: time.Now().Add(1000 * time.Hour), Budget: 1} // a clock that jumped
	run(t, with, both, func(t *testing.T, s *sim) {
		s.let(usualTook + trip)
		if p := s.path(udpA); time.Until(p.Retry) > 2*topRest {
			t.Errorf("it rests for %v", time.Until(p.Retry))
		}
	})
}

// A way through another relay is dialled when a spare takes over from a silent carrier,
// before that spare is silent, too, and not when one is reset: then the address is not
// blocked. It is given up when something comes over the spare.
func TestAround(t *testing.T) {
	for name, c := range map[string]struct {
		reset bool
		rate  float64  // of the spare
		then  []string // carriers when the dial would be over
		dials int
		ends  error
	}{
		"the spare is silent, too": {false, 0, []string{"tls active", "udp active"}, 1, nil},
		"the spare is well":        {false, 1e6, []string{"udp active"}, 1, errOvertaken},
		"a reset":                  {true, 1e6, []string{"udp active"}, 0, nil},
	} {
		var spare float64
		run(t, func(s *sim, cfg *Config) {
			s.moving = true
			cfg.Passable = func() bool { return true }
			s.rate = func(c *simCarrier, _ int) float64 {
				if c.route == udpA {
					return spare
				}
				return 0
			}
		}, []transport.Route{tlsA, udpA, viaB}, func(t *testing.T, s *sim) {
			s.let(6 * time.Second)
			s.is("tls active", "udp spare")
			s.change(func() { spare = c.rate })
			if c.reset {
				s.reset()
			} else {
				s.each(func(c *simCarrier) { c.suspect = c.route == tlsA })
			}
			s.let(usualTook + 10*time.Millisecond)
			s.is(c.then...)
			at := s.dialsOver(over(viaB))
			if len(at) != c.dials || c.dials > 0 && at[0] > 6010*time.Millisecond {
				t.Fatalf("%s: dials through the other relay at %v, want %d at 6 s", name, at, c.dials)
			}
			s.each(func(c *simCarrier) { c.suspect = c.suspect || c.route == udpA && spare == 0 })
			s.let(10 * time.Millisecond)
			if !s.Healthy() {
				t.Errorf("%s: nothing works: %q", name, s.states())
			}
			s.mu.Lock()
			defer s.mu.Unlock()
			for _, d := range s.dials {
				if d.route == viaB && !errors.Is(d.err, c.ends) {
					t.Errorf("%s: the dial ended with %v, want %v", name, d.err, c.ends)
				}
			}
		})
	}
}

// A network that is slow after an outage is not taken for one that throttles what was
// fast before, and its pages do not wait for spares.
func TestSlowAfterOutage(t *testing.T) {
	for name, c := range map[string]struct {
		before, after float64 // bytes/s
		outage        time.Duration
		survive       bool // the carriers come back, the spare too
	}{
		"new carriers":              {2e6, 20e3, 40 * time.Second, false},
		"the same carriers":         {2e6, 20e3, 12 * time.Second, true},
		"slow and slower":           {40e3, 4500, 40 * time.Second, false},
		"slow and slower, the same": {40e3, 4500, 12 * time.Second, true},
	} {
		t.Run(name, func(t *testing.T) {
			slow := false
			run(t, func(s *sim, _ *Config) {
				s.moving = true
				s.rate = func(_ *simCarrier, n int) float64 {
					if slow {
						return c.after / float64(n)
					}
					return c.before / float64(n)
				}
			}, both, func(t *testing.T, s *sim) {
				s.let(3 * time.Second)
				s.is("tls active", "udp spare")
				over := make(chan bool)
				go func() { // applications ask again and again
					for tick := time.Tick(700 * time.Millisecond); ; {
						select {
						case <-tick:
							s.each(func(c *simCarrier) { c.said += 500 })
						case <-over:
							return
						}
					}
				}()
				s.blackout(c.outage)
				close(over)
				s.change(func() { slow = true })
				want := 1
				if c.survive {
					s.each(func(c *simCarrier) { c.suspect = false })
					want = 2
				}
				s.let(3 * time.Second)
				for range 60 {
					s.let(100 * time.Millisecond)
					if got := s.states(); len(got) != want || c.survive && !slices.Equal(got, []string{"tls active", "udp spare"}) {
						t.Fatalf("after %v there are %q, want %d\n%s", time.Since(s.begin), got, want, s.log.String())
					}
				}
				if strings.Contains(s.log.String(), "throttled") {
					t.Errorf("taken for throttled:\n%s", s.log.String())
				}
				before, moves := len(s.dials), s.moves
				s.let(15 * time.Second)
				if len(s.dials) == before && s.moves == moves {
					t.Error("no other carrier was tried later")
				}
			})
		})
	}
}

// After an outage that leaves a fast network a spare is made soon, and a second carrier
// is tried later: what moved says little yet.
func TestSpareAfterOutage(t *testing.T) {
	run(t, func(s *sim, _ *Config) {
		s.moving = true
		s.rate = func(_ *simCarrier, n int) float64 { return 2e6 / float64(n) }
	}, both, func(t *testing.T, s *sim) {
		s.let(6 * time.Second)
		s.blackout(40 * time.Second)
		kinds := func() (active, spare int) {
			for _, c := range s.states() {
				if strings.HasSuffix(c, "active") {
					active++
				} else {
					spare++
				}
			}
			return active, spare
		}
		s.let(4 * time.Second)
		for range 60 { // until backRest is over
			if active, spare := kinds(); active != 1 || spare != 1 {
				t.Fatalf("after %v there are %q\n%s", time.Since(s.begin), s.states(), s.log.String())
			}
			s.let(100 * time.Millisecond)
		}
		for range 50 {
			s.let(100 * time.Millisecond)
			if active, _ := kinds(); active == 2 {
				return
			}
		}
		t.Errorf("no second carrier was tried, there are %q", s.states())
	})
}
