package rotate

import (
	"testing"
	"time"

	"busel/transport"
)

// When a relay's address is blocked and a way around it was found, nothing is looked for
// any more: the keeper sleeps, however long the session lasts.
func TestAroundComesToRest(t *testing.T) {
	run(t, func(s *sim, cfg *Config) {
		s.moving = true
		cfg.Passable = func() bool { return true }
		s.rate = func(c *simCarrier, _ int) float64 {
			if c.route == viaB {
				return 1e6
			}
			return 0
		}
	}, []transport.Route{tlsA, udpA, viaB}, func(t *testing.T, s *sim) {
		s.let(6 * time.Second)
		s.is("tls active", "udp spare")
		s.change(func() {
			s.net = func(r transport.Route) way { return way{silent: !r.Detour} }
		})
		s.each(func(c *simCarrier) { c.suspect = c.route == tlsA })
		s.let(usualTook + 10*time.Millisecond)
		s.each(func(c *simCarrier) { c.suspect = c.route != viaB })
		s.let(5 * time.Second)
		s.is("tls active")
		before := s.steps
		s.let(10 * time.Second)
		if n := s.steps - before; n > 50 { // samples of what moves are two a second
			t.Errorf("the keeper looked %d times in 10 s", n)
		}
	})
}
