package cli

import (
	"context"
	"errors"
	"runtime"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

func TestReleaseWhenIdle(t *testing.T) {
	var forced uint32
	count := func() (n uint32) { // collections that were asked for since the last count
		synctest.Wait()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		n, forced = m.NumForcedGC-forced, m.NumForcedGC
		return n
	}
	synctest.Test(t, func(t *testing.T) {
		var moved atomic.Uint64
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- ReleaseWhenIdle(ctx, moved.Load) }()
		count()
		for range 60 {
			moved.Add(1)
			time.Sleep(time.Second)
		}
		if n := count(); n != 0 {
			t.Errorf("memory was released %d times beside traffic", n)
		}
		const once = 2 // collections
		for _, d := range []time.Duration{6 * time.Second, time.Minute, time.Minute} {
			time.Sleep(d)
			if n := count(); n != once {
				t.Errorf("%d collections in %v without traffic, want %d", n, d, once)
			}
		}
		moved.Add(1)
		time.Sleep(3 * idleCheck)
		if n := count(); n != once {
			t.Errorf("%d collections after some more traffic, want %d", n, once)
		}
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("it returned %v", err)
		}
	})
}
