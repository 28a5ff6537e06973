package mirror

import (
	"context"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"busel/internal/nginxtest"
	"busel/transport"
)

// TestEndAnywhere ends dials, carriers and visits at random moments, by the
// client's hand, by the relay's and by the context, and checks that nothing stays.
func TestEndAnywhere(t *testing.T) {
	for name, s := range map[string]*site{"go": goSite(t, nil), "nginx": nginxSite(t, nginxtest.Config{})} {
		t.Run(name, func(t *testing.T) {
			r := startRelay(t, s, func(c *ListenerConfig) { c.Cover.Borrowed = name == "nginx" })
			ctx, stop := context.WithCancel(context.Background())
			var serving sync.WaitGroup
			serving.Go(func() {
				for {
					p, err := r.Accept(ctx)
					if err != nil {
						return
					}
					serving.Go(func() {
						c, err := p.Answer(okAccept())
						if err != nil {
							return
						}
						defer c.Close()
						buf := make([]byte, 64<<10)
						for {
							if _, err := c.ReadFrames(buf); err != nil || rand.N(8) == 0 {
								return
							}
						}
					})
				}
			})
			d := r.dialer(t, func(c *DialerConfig) { c.Proof = name == "nginx" })
			var wg sync.WaitGroup
			for range 12 {
				wg.Go(func() {
					for range 8 {
						most := 40 * time.Millisecond
						if name == "nginx" {
							most *= 4
						}
						ctx, cancel := context.WithTimeout(ctx, rand.N(most))
						c, _, err := d.Dial(ctx, r.route(), testHello())
						if err == nil {
							for range rand.N(20) {
								if send := c.WriteFrames([]transport.Frame{{Data: pingFrame(3)}}); send != nil {
									break
								}
							}
							c.Close()
							ends(t, c)
						}
						cancel()
					}
				})
			}
			wg.Wait()
			begin := time.Now()
			d.Close()
			if took := time.Since(begin); took > linger+time.Second {
				t.Errorf("the dialer took %v to end", took)
			}
			stop()
			serving.Wait()
			for deadline := time.Now().Add(patience); r.Stats().Conns > 0; {
				if time.Now().After(deadline) {
					t.Fatalf("%d connections stay", r.Stats().Conns)
				}
			}
		})
	}
}
