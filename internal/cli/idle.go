package cli

import (
	"context"
	"runtime"
	"runtime/debug"
	"time"
)

// idleCheck is how often traffic is looked at; memory goes back to the system
// after one to two of it without any.
const idleCheck = 3 * time.Second

// ReleaseWhenIdle gives memory that traffic needed back to the operating system
// once the count that moved tells has stood still for a few seconds. Go's
// collector alone keeps it until something new is allocated, which an idle
// program on a small device does not do. It returns when ctx ends.
func ReleaseWhenIdle(ctx context.Context, moved func() uint64) error {
	tick := time.NewTicker(idleCheck)
	defer tick.Stop()
	var last, released uint64
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		now := moved()
		if now == last && now != released {
			runtime.GC() // what lies in a sync.Pool survives one collection
			debug.FreeOSMemory()
			released = now
		}
		last = now
	}
}
