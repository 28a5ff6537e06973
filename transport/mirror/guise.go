package mirror

import (
	"math/rand/v2"
	"sync/atomic"

	"busel/obfs/bursts"
)

const (
	// guiseBudget is how many bytes of padding a client may spend on a connection from the start:
	// a handshake takes 3 KB. Who watches for them watches a connection's beginning (nDPI:
	// 25 packets), and by then everything that is said on it is one.
	guiseBudget = 24 << 10
	// guiseShare is which part of what passes it may spend beyond that.
	guiseShare = 32
)

// guise lengthens the client's bursts that may be those of a TLS handshake (rule 12).
type guise struct {
	burst atomic.Int64 // bytes since the relay's end was heard
	spare atomic.Int64 // what may be spent, in bytes times guiseShare
}

func newGuise() *guise {
	g := new(guise)
	g.spare.Store(guiseBudget * guiseShare)
	return g
}

// hears notes that bytes came: what the client says next is another burst.
func (g *guise) hears(n int) {
	if n > 0 {
		g.burst.Store(0)
		g.spare.Add(int64(n))
	}
}

// says notes that bytes are about to be sent.
func (g *guise) says(n int) {
	g.burst.Add(int64(n))
	g.spare.Add(int64(n))
}

// fill says how much longer the last record of a write is to be, or how long one behind
// it, if with it the write has n bytes.
func (g *guise) fill(n int) (inside, after int) {
	more := bursts.Fill(int(g.burst.Load())+n, rand.IntN)
	switch {
	case more == 0 || g.spare.Load() < int64(more)*guiseShare:
		return 0, 0
	case more <= bursts.Small:
		inside = more
	default:
		after = more
	}
	g.spare.Add(-int64(more) * guiseShare)
	return inside, after
}
