package mirror

import (
	"math/rand/v2"
	"sync"

	"busel/obfs/bursts"
)

const (
	// guiseBudget is how many bytes of padding a client may spend on a connection from the start:
	// a handshake takes 3 KB. Who watches for them watches a connection's beginning (nDPI:
	// 25 packets), and by then everything that is said on it is one.
	guiseBudget = 24 << 10
	// guiseShare is which part of what passes it may spend beyond that.
	guiseShare = 32
	// guiseInside is by how much, at most, a record is longer that another one follows as filling.
	guiseInside = 250
)

// guise lengthens the client's bursts that may be those of a TLS handshake (rule 12).
type guise struct {
	mu    sync.Mutex
	burst int   // bytes since the relay's end was heard
	heard int   // bytes that it said since the burst before
	spare int64 // what may be spent, in bytes times guiseShare
}

func newGuise() *guise { return &guise{spare: guiseBudget * guiseShare} }

// hears notes that bytes came: what the client says next is another burst.
func (g *guise) hears(n int) {
	if n <= 0 {
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.burst > 0 {
		g.burst, g.heard = 0, 0
	}
	g.heard += n
	g.spare += int64(n)
}

// says notes that bytes are about to be sent.
func (g *guise) says(n int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.burst += n
	g.spare += int64(n)
}

// fill says how much longer the last record of a write is to be, or how long one behind
// it, if with it the write has n bytes.
func (g *guise) fill(n int) (inside, after int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	more := bursts.Fill(g.heard, g.burst+n, rand.IntN)
	switch {
	case more == 0 || g.spare < int64(more)*guiseShare:
		return 0, 0
	case more <= bursts.Small:
		inside = more
	default: // the first one is not as long as what is in it either
		inside = 2 + rand.IntN(guiseInside)
		after = more - inside
	}
	g.spare -= int64(more) * guiseShare
	return inside, after
}
