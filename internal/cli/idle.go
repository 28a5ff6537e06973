package cli

import (
	"context"
	"runtime"
	"runtime/debug"
	"time"
)

const (
	// idleCheck is how often traffic is looked at; memory goes back to the system
	// after one to two of it without any.
	idleCheck = 3 * time.Second
	// idleRelease is how often it does while none comes: looking for a way through a
	// blackout allocates, too, 1.2 MB a minute, which the collector lets grow to twice
	// what is in use. It costs a few milliseconds.
	idleRelease = time.Minute
)

// ReleaseWhenIdle gives memory that traffic needed back to the operating system
// once the count that moved tells has stood still for a few seconds, and every minute
// from then on. Go's collector alone keeps it until something new is allocated, which
// an idle program on a small device does not do. It returns when ctx ends.
func ReleaseWhenIdle(ctx context.Context, moved func() uint64) error {
	tick := time.NewTicker(idleCheck)
	defer tick.Stop()
	var last uint64
	var released time.Time // zero if something moved since
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		now := moved()
		switch {
		case now != last:
			released = time.Time{}
		case time.Since(released) >= idleRelease:
			runtime.GC() // what lies in a sync.Pool survives one collection
			debug.FreeOSMemory()
			released = time.Now()
		}
		last = now
	}
}
