package front

import (
	"sync"
	"time"

	"busel/internal/flow"
)

// Bounds of the memory of destinations (docs/adr/0002-optimistic-replies.md).
const (
	reachedTime = 10 * time.Minute
	maxReached  = 1024
)

// reached remembers in memory, and only there, which destinations were reached
// lately and how long ago. It is never listed or logged.
type reached struct {
	mu sync.Mutex
	at map[flow.Addr]time.Time
}

func newReached() *reached { return &reached{at: map[flow.Addr]time.Time{}} }

func (r *reached) lately(dst flow.Addr) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	at, ok := r.at[dst]
	return ok && time.Since(at) < reachedTime
}

func (r *reached) add(dst flow.Addr) {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := time.Now()
	if _, known := r.at[dst]; !known && len(r.at) >= maxReached {
		oldest, oldestAt := flow.Addr{}, now
		for d, at := range r.at {
			if now.Sub(at) >= reachedTime {
				delete(r.at, d)
			} else if !at.After(oldestAt) {
				oldest, oldestAt = d, at
			}
		}
		if len(r.at) >= maxReached {
			delete(r.at, oldest)
		}
	}
	r.at[dst] = now
}

func (r *reached) forget(dst flow.Addr) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.at, dst)
}
