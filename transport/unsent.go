package transport

import (
	"net"
	"syscall"
	"time"
)

const (
	// unsentTime is how much of what a connection sends the kernel may hold unsent.
	unsentTime = 25 * time.Millisecond
	// minUnsent keeps a slow path busy while its writer wakes: the kernel wakes it
	// when half is left.
	minUnsent = 8 << 10
	// firstUnsent is for a connection whose rate is not known.
	firstUnsent = 16 << 10
	// unsentEvery is how often the rate is asked for.
	unsentEvery = 50 * time.Millisecond
)

// Unsent keeps small what the kernel holds unsent of a TCP connection: about what
// it sends in 100 ms, 8..128 kB. What was written cannot be overtaken, so on a slow
// path an urgent frame would else wait for seconds behind a transfer's. It does
// nothing where the system cannot tell the rate. One goroutine uses it at a time.
type Unsent struct {
	raw   syscall.RawConn // nil if it does nothing
	limit int
	next  time.Time
}

// NewUnsent returns the Unsent of a connection, which may be of any kind.
func NewUnsent(conn net.Conn) *Unsent {
	u := new(Unsent)
	if sc, ok := conn.(syscall.Conn); ok {
		if raw, err := sc.SyscallConn(); err == nil {
			u.raw = raw
			u.set(firstUnsent)
		}
	}
	return u
}

// Adapt follows the connection's rate. It is called before or after each write.
func (u *Unsent) Adapt() {
	if u.raw == nil {
		return
	}
	now := time.Now()
	if now.Before(u.next) {
		return
	}
	u.next = now.Add(unsentEvery)
	rate, idle := deliveryRate(u.raw)
	limit := min(max(int(rate*unsentTime.Seconds()), minUnsent), notSentLowat)
	if idle { // too little was written to tell how much would pass
		limit = max(limit, u.limit)
	}
	if limit < u.limit-u.limit/4 || limit > u.limit+u.limit/4 {
		u.set(limit)
	}
}

func (u *Unsent) set(limit int) {
	u.limit = limit
	setUnsent(u.raw, limit)
}
