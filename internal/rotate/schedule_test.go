package rotate

import (
	"fmt"
	"io"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"busel/internal/wire"
	"busel/transport"
)

// Whatever happened before, a client on an open network has a healthy carrier soon,
// never shows more TLS connections than row R2 lets pass, does nothing while nobody
// wants anything, and never spins.
func TestSchedules(t *testing.T) {
	const schedules = 300
	for seed := range uint64(schedules) {
		routes := [][]transport.Route{both, {tlsA, tlsB, udpA, viaB}, {tlsA}, {udpA, udpB}}[seed%4]
		policy := []Policy{Auto, Single, Bond, Budget}[seed/4%4]
		if !t.Run(fmt.Sprint(seed), func(t *testing.T) { schedule(t, seed, policy, routes) }) {
			return
		}
	}
}

func schedule(t *testing.T, seed uint64, policy Policy, routes []transport.Route) {
	run(t, func(s *sim, cfg *Config) {
		cfg.Policy = policy
		cfg.Fallbacks = []transport.Route{cutA}
		cfg.Passable = func() bool { return true }
		s.rate = func(*simCarrier, int) float64 { return 100 << 10 }
	}, routes, func(t *testing.T, s *sim) {
		rng := rand.New(rand.NewPCG(seed, 0))
		var story []string
		open := func(transport.Route) way { return way{} }
		end := func(share int, f transport.Failure) {
			s.each(func(c *simCarrier) {
				if rng.IntN(share) == 0 {
					c.finish(&transport.CarrierError{Failure: f, Err: io.EOF})
				}
			})
		}
		for range 1 + rng.IntN(8) {
			word := ""
			switch what := rng.IntN(11); what {
			case 0, 1: // a block of some routes, in some way
				blocked := map[transport.Route]way{}
				for _, r := range append(routes, cutA) {
					switch rng.IntN(5) {
					case 0:
						blocked[r] = way{silent: true}
					case 1:
						blocked[r] = way{failure: transport.Reset, stage: transport.StageTLS}
					case 2:
						blocked[r] = way{failure: transport.Refused}
					case 3:
						blocked[r] = way{silent: true, stage: transport.StageTLS}
					}
				}
				word = fmt.Sprintf("block %v", blocked)
				s.change(func() { s.net = func(r transport.Route) way { return blocked[r] } })
			case 2:
				word = "blackout"
				s.change(func() { s.net = func(transport.Route) way { return way{silent: true} } })
				s.each(func(c *simCarrier) { c.suspect = true })
			case 3:
				word = "refusal"
				status := []wire.Status{wire.StatusRevoked, wire.StatusBusy, wire.StatusDraining}[rng.IntN(3)]
				s.change(func() { s.net = func(transport.Route) way { return way{refusal: status} } })
			case 4:
				word = "open"
				s.change(func() { s.net = open })
			case 5:
				word = "resets"
				end(2, transport.Reset)
			case 6:
				word = "clean ends"
				end(2, "")
			case 7:
				word = "roam"
				s.Roam()
			case 8:
				word = "silence"
				s.each(func(c *simCarrier) { c.suspect = rng.IntN(2) == 0 })
			case 9:
				word = "moving or not"
				s.change(func() { s.moving = !s.moving })
			case 10:
				word = "wanted or not"
				s.change(func() { s.wanted = !s.wanted; s.moving = s.moving && s.wanted })
			}
			d := time.Duration(rng.Int64N(int64([]time.Duration{time.Second, 20 * time.Second, 5 * time.Minute}[rng.IntN(3)])))
			story = append(story, fmt.Sprintf("%v %s for %v", time.Since(s.begin), word, d))
			s.mu.Lock()
			before := s.steps
			s.mu.Unlock()
			s.let(d)
			synctest.Wait()
			s.mu.Lock()
			steps := s.steps - before
			s.mu.Unlock()
			if most := 40*int(d/time.Second) + 200; steps > most {
				t.Fatalf("%d steps, want at most %d\n%q\n%s", steps, most, story, s.log.String())
			}
		}
		// Nobody wants anything.
		s.change(func() { s.wanted, s.moving = false, false })
		s.let(time.Second)
		synctest.Wait()
		s.mu.Lock()
		dials, steps, doubts := len(s.dials), s.steps, len(s.doubts)
		s.mu.Unlock()
		s.let(2 * time.Minute)
		synctest.Wait()
		s.mu.Lock()
		if len(s.dials) != dials || s.steps > steps+10 || len(s.doubts) != doubts {
			t.Errorf("idle: %d dials, %d steps, %d doubts\n%q\n%s", len(s.dials)-dials, s.steps-steps, len(s.doubts)-doubts, story, s.log.String())
		}
		s.mu.Unlock()
		// The network is open, and the relay takes us.
		s.each(func(c *simCarrier) { c.suspect = false })
		s.change(func() { s.net, s.wanted, s.moving = open, true, rng.IntN(2) == 0 })
		for range 80 {
			if s.Healthy() { // a budget is soon spent
				break
			}
			s.let(trip)
			synctest.Wait()
		}
		if !s.Healthy() {
			t.Errorf("no healthy carrier\n%q\n%s", story, s.log.String())
		}
		// Rule R2: the fourth within a minute only one in five seconds, in need.
		at := s.hellos()
		for i := range at {
			if i >= 1 && at[i]-at[i-1] < paceSpacing {
				t.Errorf("TLS after %v and %v\n%q", at[i-1], at[i], story)
			}
			if i >= paceMost && at[i]-at[i-paceMost] < paceWindow && at[i]-at[i-1] < paceNeed {
				t.Errorf("TLS after %v\n%q", at[i-paceMost:i+1], story)
			}
		}
	})
}
