package transport

import (
	"sync/atomic"
	"time"
)

// Heard remembers when bytes came last, for carriers that can tell: a record or
// chunk that is not whole yet shows that the path lives. The zero value has heard
// nothing. It is safe for concurrent use.
type Heard struct{ at atomic.Int64 } // nanoseconds since 1970

// Note notes that n bytes came now; 0 is nothing.
func (h *Heard) Note(n int) {
	if n > 0 {
		h.at.Store(time.Now().UnixNano())
	}
}

// Last is when that was; zero if never.
func (h *Heard) Last() time.Time {
	if at := h.at.Load(); at != 0 {
		return time.Unix(0, at)
	}
	return time.Time{}
}
