package rotate

import (
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"busel/transport"
)

// A relay that takes each carrier and ends it politely at once is not dialled
// without end either.
func TestPoliteFlappingBacksOff(t *testing.T) {
	run(t, nil, []transport.Route{udpA}, func(t *testing.T, s *sim) {
		stop := time.Now().Add(time.Minute)
		for time.Now().Before(stop) {
			s.let(10 * time.Millisecond)
			s.each(func(c *simCarrier) { c.finish(&transport.CarrierError{Err: io.EOF}) })
		}
		if n := len(s.dials); n > 40 {
			t.Errorf("%d dials in a minute", n)
		}
	})
}

// Dials that were under way when the link changed will not succeed, and say nothing
// of the network after it.
func TestRoamOvertakesDials(t *testing.T) {
	run(t, func(s *sim, _ *Config) {
		s.net = func(transport.Route) way { return way{silent: true, stage: transport.StageTLS} }
	}, []transport.Route{udpA}, func(t *testing.T, s *sim) {
		s.let(time.Second)
		s.change(func() { s.net = func(transport.Route) way { return way{} } })
		s.Roam()
		s.let(usualTook + loose)
		synctest.Wait()
		s.is("udp active")
		if p := s.path(udpA); p.Failures != 0 {
			t.Errorf("path is %+v", p)
		}
	})
}

// Carriers that fall silent because the link changed are no sign of a network that
// freezes flows, and are not held against the paths of the new one.
func TestRoamIsNoFreeze(t *testing.T) {
	run(t, func(s *sim, _ *Config) {
		s.moving = true
		s.rate = func(*simCarrier, int) float64 { return 1 << 10 }
	}, both, func(t *testing.T, s *sim) {
		s.let(5 * time.Second)
		s.is("tls active", "udp spare")
		s.change(func() { s.rate = nil })
		s.Roam()
		s.let(doubt)
		s.each(func(c *simCarrier) { c.suspect = true })
		s.let(usualTook + 3*trip)
		if s.budget.bytes != 0 {
			t.Error("a budget was learned")
		}
		for _, p := range s.Paths() {
			if p.Failures != 0 || p.Failure != "" {
				t.Errorf("path is %+v", p)
			}
		}
	})
}

// A short blackout is no such sign either.
func TestShortBlackoutIsNoFreeze(t *testing.T) {
	run(t, func(s *sim, _ *Config) {
		s.moving = true
		s.rate = func(*simCarrier, int) float64 { return 1 << 10 }
	}, both, func(t *testing.T, s *sim) {
		for range 3 {
			s.let(20 * time.Second)
			s.blackout(5 * time.Second)
		}
		s.let(5 * time.Second)
		if s.budget.bytes != 0 {
			t.Errorf("a budget was learned\n%s", s.log.String())
		}
	})
}

// What one network does is not told of the next.
func TestRoamForgetsBudget(t *testing.T) {
	m := memory{}
	run(t, func(s *sim, cfg *Config) {
		cfg.Memory = m
		m[tlsA] = Remembered{Budget: 4 << 10, Seen: time.Now(), Successes: 1}
	}, []transport.Route{tlsA}, func(t *testing.T, s *sim) {
		s.let(time.Second)
		if s.budget.bytes != 4<<10 {
			t.Fatalf("budget is %d", s.budget.bytes)
		}
		s.mu.Lock()
		delete(m, tlsA) // another network
		s.mu.Unlock()
		s.Roam()
		s.let(time.Second)
		if s.budget.bytes != 0 {
			t.Errorf("budget is %d", s.budget.bytes)
		}
		s.reset()
		s.let(10 * time.Second)
		synctest.Wait()
		if b := m[tlsA].Budget; b != 0 {
			t.Errorf("the new network is said to have a budget of %d", b)
		}
	})
}

// A session that nobody wants keeps no spare.
func TestIdleKeepsNoSpare(t *testing.T) {
	run(t, func(s *sim, _ *Config) { s.moving = true }, both, func(t *testing.T, s *sim) {
		s.let(5 * time.Second)
		s.is("tls active", "udp spare")
		s.change(func() { s.wanted, s.moving = false, false })
		s.let(spareRest + time.Second)
		s.is("tls active")
	})
}

// After an outage in which a relay failed, others may go through it again.
func TestOutageIsNotHeldAgainstPassage(t *testing.T) {
	run(t, func(s *sim, _ *Config) {
		s.net = func(transport.Route) way { return way{silent: true} }
	}, both, func(t *testing.T, s *sim) {
		h := s.cfg.Horizon
		s.let(20 * time.Second)
		if since, _ := h.Outage(); since.IsZero() || s.Passable() {
			t.Fatalf("outage since %v, passable %v", since, s.Passable())
		}
		s.change(func() { s.wanted = false })
		synctest.Wait()
		h.alive(time.Now())
		s.let(time.Second)
		if !s.Passable() {
			t.Error("not passable after the outage")
		}
		s.change(func() { s.wanted = true; s.net = func(transport.Route) way { return way{} } })
		s.let(time.Second)
	})
}

// Of two carriers that stand still the one is left that the other waits for, not the
// one that had carried more.
func TestLateIsToBlame(t *testing.T) {
	var policed bool
	run(t, func(s *sim, _ *Config) {
		s.moving = true
		s.rate = func(c *simCarrier, n int) float64 {
			tls := c.route == tlsA
			switch c.late = policed && tls; {
			case policed && n > 1:
				return 10e3 // each stream waits for what the one has
			case policed && tls:
				return 14e3
			case tls:
				return 1e6
			}
			return 3e6
		}
	}, both, func(t *testing.T, s *sim) {
		s.let(12500 * time.Millisecond) // before the next one is tried
		if got := strings.Join(s.states(), ", "); got != "tls active, udp active" {
			t.Fatalf("there are %q", got)
		}
		s.change(func() { policed = true })
		s.let(4 * time.Second)
		if got := strings.Join(s.states(), ", "); strings.Contains(got, "tls active") || !strings.Contains(got, "udp active") {
			t.Errorf("there are %q\n%s", got, s.log.String())
		}
	})
}

// A detour that says nothing is given up when a straight way would be: its stream is
// there at once, whatever the other relay meets.
func TestSilentDetour(t *testing.T) {
	run(t, func(s *sim, cfg *Config) {
		cfg.Passable = func() bool { return true }
		s.net = func(r transport.Route) way { return way{silent: true, stage: transport.StageTLS} }
	}, []transport.Route{viaB}, func(t *testing.T, s *sim) {
		s.let(2*knock + time.Second)
		s.mu.Lock()
		defer s.mu.Unlock()
		if d := s.dials[0].over - s.dials[0].at; d == 0 || d > 2*knock {
			t.Errorf("it lasted %v, want %v", d, 2*knock)
		}
	})
}

// A trial during which all comes to a stand is not lost: the carrier on trial may be the
// one that is well, and the other is left.
func TestCollapseDuringTrial(t *testing.T) {
	for _, at := range []time.Duration{9500, 10000, 10500} { // ms; it ends at 11500
		var policed bool
		run(t, func(s *sim, _ *Config) {
			s.moving = true
			s.rate = func(c *simCarrier, n int) float64 {
				tls := c.route == tlsA
				switch c.late = policed && tls; {
				case policed && (n > 1 || tls):
					return 10e3
				case n > 1:
					return 1e6
				}
				return 2e6
			}
		}, both, func(t *testing.T, s *sim) {
			s.let(at * time.Millisecond)
			if got := strings.Join(s.states(), ", "); got != "tls active, udp active" {
				t.Fatalf("there are %q", got)
			}
			s.change(func() { policed = true })
			s.let(4 * time.Second)
			if strings.Contains(s.log.String(), "stays=false") {
				t.Errorf("policed at %d ms, the trial was lost:\n%s", at, s.log.String())
			}
			if got := strings.Join(s.states(), ", "); !strings.Contains(got, "udp active") {
				t.Errorf("there are %q", got)
			}
		})
	}
}

// TCP that lost its first packets seems to collapse, from next to nothing to less; the
// only fast way there may be is not left for that.
func TestPoorStart(t *testing.T) {
	run(t, func(s *sim, _ *Config) {
		s.moving = true
		s.rate = func(c *simCarrier, n int) float64 {
			switch at := time.Since(s.begin); {
			case c.route != tlsA:
				return 100e3
			case at >= 10*time.Second && at < 11500*time.Millisecond:
				return 40e3
			case at >= 10*time.Second && at < 14*time.Second:
				return 4e3
			}
			return 5e6
		}
	}, both, func(t *testing.T, s *sim) {
		s.let(7 * time.Second)
		s.change(func() { s.moving = false })
		s.let(3 * time.Second)
		s.is("tls active", "udp spare")
		s.change(func() { s.moving = true })
		s.let(20 * time.Second)
		if got := strings.Join(s.states(), ", "); !strings.HasPrefix(got, "tls active") || strings.Contains(s.log.String(), "throttled") {
			t.Errorf("there are %q\n%s", got, s.log.String())
		}
	})
}
