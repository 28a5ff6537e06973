package rotate

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"busel/transport"
)

// The events are the story that a user is told.
func TestEvents(t *testing.T) {
	for _, c := range []struct {
		name string
		does func(s *sim)
		want []string
	}{
		{"a cut while something moves", func(s *sim) {
			s.let(5 * time.Second)
			s.reset()
			s.let(5 * time.Second)
		}, []string{"connected tls", "seeking", "moved udp", "cut tls reset"}},
		{"a cut after a rest", func(s *sim) {
			s.let(5 * time.Second)
			for _, busy := range []bool{false, true} {
				s.change(func() { s.wanted, s.moving = busy, busy })
				s.let(5 * time.Second)
			}
			s.reset()
			s.let(5 * time.Second)
		}, []string{"connected tls", "seeking", "moved udp", "cut tls reset"}},
		{"silence", func(s *sim) {
			s.let(time.Second) // before there is a spare
			s.each(func(c *simCarrier) { c.suspect = true })
			s.let(5 * time.Second)
		}, []string{"connected tls", "seeking", "moved udp", "cut tls frozen"}},
		{"a way is blocked from the start", func(s *sim) {
			s.let(5 * time.Second)
		}, []string{"blocked tls reset", "connected udp"}},
		{"an outage", func(s *sim) {
			s.let(5 * time.Second)
			s.blackout(20 * time.Second)
			s.let(10 * time.Second)
		}, []string{"connected tls", "seeking", "outage", "back"}},
		{"nobody wants it any more", func(s *sim) {
			s.let(time.Second)
			s.change(func() { s.net = func(transport.Route) way { return way{silent: true} } })
			s.each(func(c *simCarrier) { c.suspect = true })
			s.let(time.Second)
			s.change(func() { s.wanted, s.moving = false, false })
			s.let(time.Second)
		}, []string{"connected tls", "seeking", "ceased"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			var mu sync.Mutex
			var got []string
			run(t, func(s *sim, cfg *Config) {
				s.moving = true
				if c.want[0] == "blocked tls reset" {
					s.net = func(r transport.Route) way {
						if r == tlsA {
							return way{failure: "reset", stage: "in the TLS hello"}
						}
						return way{}
					}
				}
				cfg.Events = func(e Event) {
					mu.Lock()
					defer mu.Unlock()
					text := string(e.Kind)
					if e.Route != (transport.Route{}) {
						text += " " + e.Route.Transport
					}
					if e.Failure != "" {
						text += " " + string(e.Failure)
					}
					if e.Relay != "r1" {
						text += " at relay " + e.Relay
					}
					if (e.Kind == Moved || e.Kind == Connected || e.Kind == Back) && (e.Took < 0 || e.Took > time.Minute) {
						text += fmt.Sprint(" took ", e.Took)
					}
					got = append(got, text)
				}
			}, both, func(t *testing.T, s *sim) {
				c.does(s)
				mu.Lock()
				defer mu.Unlock()
				if c.name == "an outage" { // what else is met in it is another test's
					got = slices.DeleteFunc(got, func(e string) bool { return !slices.Contains(c.want, e) })
					got = got[:min(len(got), len(c.want))]
				}
				// The session may tell first that the carrier is gone, or the carrier how it ended.
				if i := slices.IndexFunc(got, func(e string) bool { return strings.HasPrefix(e, "cut ") }); i >= 0 {
					got = append(slices.Delete(slices.Clone(got), i, i+1), got[i])
				}
				if !slices.Equal(got, c.want) {
					t.Errorf("got %q, want %q", got, c.want)
				}
			})
		})
	}
}

// Seeking is what the page shows while nothing has been found.
func TestSeeking(t *testing.T) {
	run(t, func(s *sim, _ *Config) {
		s.moving = true
		s.net = func(transport.Route) way { return way{silent: true} }
	}, both, func(t *testing.T, s *sim) {
		s.let(3 * time.Second)
		if since := s.Seeking(); since.IsZero() || time.Since(since) < 3*time.Second {
			t.Errorf("seeking since %v, want 3 s", time.Since(since))
		}
		s.change(func() { s.net = func(transport.Route) way { return way{} } })
		s.let(time.Minute)
		if since := s.Seeking(); !since.IsZero() {
			t.Errorf("seeking since %v though connected", time.Since(since))
		}
	})
}

// An idle session that is warmed connects once, and is silent afterwards.
func TestWarmed(t *testing.T) {
	run(t, func(s *sim, _ *Config) { s.wanted = false }, both, func(t *testing.T, s *sim) {
		s.let(10 * time.Second)
		if len(s.dials) != 0 {
			t.Fatal("it dials by itself")
		}
		s.Warm()
		s.let(time.Minute)
		s.is("tls active")
		if len(s.dials) != 1 || !s.Passable() {
			t.Errorf("%d dials, passable: %t", len(s.dials), s.Passable())
		}
	})
	run(t, func(s *sim, _ *Config) {
		s.wanted = false
		s.net = func(transport.Route) way { return way{silent: true} }
	}, both, func(t *testing.T, s *sim) {
		s.Warm()
		s.let(time.Minute)
		before := len(s.dials)
		s.let(10 * time.Minute)
		if len(s.dials) != before || !s.Seeking().IsZero() {
			t.Errorf("it goes on: %d dials, then %d; seeking since %v", before, len(s.dials), s.Seeking())
		}
	})
}
