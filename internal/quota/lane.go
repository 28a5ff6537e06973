package quota

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"busel/config"
)

// lane is one direction of an account.
type lane struct {
	bucket
	turn chan struct{} // has room for the one that waits
}

// wait takes n bytes from this lane and from the relay's, and waits until both have
// let them pass.
func (l *lane) wait(ctx context.Context, all *lane, n int) error {
	if !l.limits() && !all.limits() {
		return nil
	}
	select {
	case l.turn <- struct{}{}:
		defer func() { <-l.turn }()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	now := time.Now()
	delay := max(l.take(n, now), all.take(n, now))
	if delay <= 0 {
		return nil
	}
	timer := time.NewTimer(delay)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		// Else who opens streams and breaks them off would make all others wait.
		all.giveBack(n)
		return context.Cause(ctx)
	}
}

// bucket lets so many bytes a second pass (the generic cell rate algorithm: one
// moment is all its state).
type bucket struct {
	rate atomic.Uint64 // bit/s; 0 is no limit

	mu   sync.Mutex
	free time.Time // when all that was taken has passed
}

func (b *bucket) set(r config.Rate) { b.rate.Store(uint64(r)) }

func (b *bucket) limits() bool { return b.rate.Load() > 0 }

// take takes n bytes and returns how long they have to wait. Bytes of an invite whose
// wait is broken off stay taken of its own lane: their stream has ended.
func (b *bucket) take(n int, now time.Time) time.Duration {
	rate := config.Rate(b.rate.Load())
	if rate == 0 {
		return 0
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if earliest := now.Add(-burst); b.free.Before(earliest) {
		b.free = earliest
	}
	b.free = b.free.Add(time.Duration(float64(n) / rate.Bytes() * float64(time.Second)))
	return b.free.Sub(now)
}

// giveBack gives back n bytes that were taken and did not pass.
func (b *bucket) giveBack(n int) {
	rate := config.Rate(b.rate.Load())
	if rate == 0 {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.free = b.free.Add(-time.Duration(float64(n) / rate.Bytes() * float64(time.Second)))
}
