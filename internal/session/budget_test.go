package session_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	mrand "math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"busel/internal/flow"
	"busel/internal/session"
	tt "busel/transport/transporttest"
)

// curtain is row R1: each link freezes after so many bytes, and the client
// believes that it does after budget times as many.
type curtain struct {
	least, most int64
	trust       float64
}

// through keeps n carriers that streams can use, or less if the session wants none.
func (w *world) through(n int, c curtain, rng *mrand.Rand) {
	var mu sync.Mutex
	w.wg.Go(func() {
		var dials sync.WaitGroup
		defer dials.Wait()
		under := 0
		for w.ctx.Err() == nil {
			v, changed := w.client.View()
			mu.Lock()
			missing := n - under
			for _, a := range v.Carriers {
				if !a.Spent && !a.Suspect {
					missing--
				}
			}
			for ; v.Wanted && missing > 0; missing-- {
				passes := c.least + rng.Int64N(c.most-c.least+1)
				under++
				dials.Go(func() {
					_, wait, err := w.dialFor(session.CarrierOptions{Budget: uint64(float64(passes) * c.trust)}, tt.LinkConfig{FreezeAfter: passes})
					mu.Lock()
					under--
					mu.Unlock()
					if err != nil {
						return
					}
					if err := wait(); !errors.Is(err, session.ErrSpent) && !errors.Is(err, session.ErrEnded) {
						wantEnd(w.t, err)
					}
				})
			}
			mu.Unlock()
			select {
			case <-w.ctx.Done():
			case <-changed:
			case <-time.After(100 * time.Millisecond):
			}
		}
	})
}

// A megabyte passes a censor that freezes each carrier after a few kilobytes.
func TestBudget(t *testing.T) {
	data := make([]byte, 1<<20)
	mrand.NewChaCha8([32]byte{1}).Read(data)
	for _, tc := range []struct {
		name    string
		curtain curtain
		within  time.Duration
	}{
		{"learned", curtain{4000, 15000, 1}, 40 * time.Second},
		{"cautious", curtain{8000, 15000, 0.7}, 40 * time.Second},
		{"too large", curtain{4000, 15000, 1.5}, 3 * time.Minute},
	} {
		for _, up := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, up %t", tc.name, up), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					got := make(chan []byte, 1)
					w := newWorld(t, func(ctx context.Context, s *session.Stream, dst flow.Addr) {
						defer s.Close()
						s.Reply(flow.Succeeded, flow.DetailNone)
						b, err := io.ReadAll(s)
						if err != nil {
							t.Errorf("relay: %v", err)
						}
						if up {
							got <- b
							s.CloseWrite()
							return
						}
						s.Write(data)
						s.CloseWrite()
					})
					defer w.stop()
					w.delay = 50 * time.Millisecond
					w.through(6, tc.curtain, mrand.New(mrand.NewPCG(7, 7)))
					start := time.Now()
					s := w.open(origin)
					defer s.Close()
					if up {
						s.Write(data)
					}
					s.CloseWrite()
					b, err := io.ReadAll(s)
					if up {
						b = <-got
					}
					if d := time.Since(start); err != nil || !bytes.Equal(b, data) || d > tc.within {
						t.Errorf("%d of %d bytes, equal %t, after %v: %v", len(b), len(data), bytes.Equal(b, data), d, err)
					}
					w.mu.Lock()
					defer w.mu.Unlock()
					t.Logf("%v and %d carriers", time.Since(start), w.dials)
				})
			})
		}
	}
}
