package session

import (
	"context"
	"math/rand/v2"
	"testing"
	"time"

	"busel/internal/flow"
	"busel/internal/wire"
)

// Whatever the pieces in which a stream's bytes come, and however often, the relay
// hears of just those that had come before.
func TestAgain(t *testing.T) {
	seed := rand.Uint64()
	rng := rand.New(rand.NewPCG(seed, 0))
	for range 100 {
		heard := 0
		server := NewServer(ServerConfig{
			OnStream: func(context.Context, *Stream, flow.Addr) {},
			OnAgain: func(received bool, n int) time.Duration {
				if !received {
					t.Errorf("seed %d: %d bytes are said to be sent", seed, n)
				}
				heard += n
				return 0
			},
		})
		c := server.c
		c.mu.Lock()
		a := c.newAttachment(1)
		c.unlock()
		all := flow.Addr{Name: "site", Port: 80}.Append(nil)
		all = append(all, make([]byte, 1+rng.IntN(100_000))...)
		had, want := make([]bool, len(all)), 0
		for range 400 {
			from := rng.IntN(len(all))
			if rng.IntN(4) == 0 { // what is missing first
				for from = 0; from < len(all)-1 && had[from]; from++ {
				}
			}
			n := min(1+rng.IntN(1<<rng.IntN(14)), len(all)-from)
			for i := from; i < from+n; i++ {
				if had[i] {
					want++
				} else {
					had[i] = true
				}
			}
			f := wire.Frame{Type: wire.Stream, ID: 2, Offset: uint64(from), Data: all[from : from+n]}
			buf := new(buffer)
			buf.refs = 1
			b := buf.b[:copy(buf.b[:], f.Append(nil))]
			c.mu.Lock()
			if err := c.handle(a, b, buf); err != nil {
				t.Fatalf("seed %d: %v", seed, err)
			}
			c.unlock()
			if heard != want {
				t.Fatalf("seed %d: %d of %d bytes, %d came before, the relay heard of %d", seed, from, n, want, heard)
			}
		}
		// A frame of a stream that is over is in vain.
		c.mu.Lock()
		for s := range c.all {
			s.kill(ErrEnded)
		}
		f := wire.Frame{Type: wire.Stream, ID: 2, Data: all[:10]}
		if err := c.handle(a, f.Append(nil), nil); err != nil {
			t.Fatal(err)
		}
		c.unlock()
		if heard != want+10 {
			t.Errorf("of 10 bytes for a stream that is over the relay heard of %d", heard-want)
		}
		server.end()
		server.wg.Wait()
	}
}
