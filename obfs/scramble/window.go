package scramble

import "time"

// How many datagrams a [Window] remembers at least. A handshake has about six
// that may open a connection; the others need to be remembered only as long as
// an end that has closed a connection still answers on it, some round trips.
const (
	rememberOpening = 1 << 17
	rememberOther   = 1 << 15
	// slowClock is how far a client's clock may be behind the relay's.
	slowClock = 2 // minutes
)

// Window tells a datagram that came before from a fresh one, in bounded memory
// (some MB). It knows nothing of what came before its start, so it turns away
// what was stamped earlier: that may have been recorded. It is not safe for
// concurrent use.
type Window struct {
	start          Stamp
	opening, other generations
}

// NewWindow returns a window that starts now.
func NewWindow(now time.Time) *Window {
	return &Window{
		start:   StampOf(now),
		opening: generations{most: rememberOpening},
		other:   generations{most: rememberOther},
	}
}

// Fresh reports whether the datagram is new, and remembers it.
func (w *Window) Fresh(id Identity) bool {
	if !id.opens {
		return w.other.add(id.nonce)
	}
	if id.stamp != NoClock && id.stamp+slowClock < w.start {
		return false
	}
	return w.opening.add(id.nonce)
}

// generations is a set that forgets its older half when it is full.
type generations struct {
	most     int
	now, old map[uint64]struct{}
}

// add reports whether n was not in the set.
func (g *generations) add(n uint64) bool {
	if _, ok := g.now[n]; ok {
		return false
	}
	if _, ok := g.old[n]; ok {
		return false
	}
	if len(g.now) >= g.most {
		g.now, g.old = g.old, g.now
		clear(g.now)
	}
	if g.now == nil {
		g.now = map[uint64]struct{}{}
	}
	g.now[n] = struct{}{}
	return true
}
