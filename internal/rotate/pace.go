package rotate

import (
	"slices"
	"sync"
	"time"
)

// How many TLS connections to one name a censor may see. More than three within
// 60 s, less than 350..400 ms apart, draw a freeze of 120 s on some networks (row
// R2), replacements included.
const (
	paceWindow = 60 * time.Second
	paceMost   = 3
	// paceReserve of them are kept for need: carriers that are only of use, such as
	// a spare, leave them.
	paceReserve = 1
	// paceSpacing is the least time between two.
	paceSpacing = 400 * time.Millisecond
	// paceNeed is the time between two when the three are spent, no carrier lives
	// and there is no other way: never parallel, which is what the freeze is for.
	paceNeed = 5 * time.Second
	// loose is the least time between two dials of a transport that nobody counts.
	loose = 100 * time.Millisecond
)

// Paces are what the keepers of a client share for relays that look the same: a
// censor counts the connections to a name, whichever relay they lead to (row R2). It
// is safe for concurrent use.
type Paces struct {
	mu     sync.Mutex
	byName map[string]*pace
}

// NewPaces returns one that has counted nothing.
func NewPaces() *Paces { return &Paces{byName: map[string]*pace{}} }

// of is the pace of counted dials that show the name. There is one for each name of
// an invite that was held since the start.
func (p *Paces) of(name string) *pace {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.byName[name] == nil {
		p.byName[name] = &pace{counted: true}
	}
	return p.byName[name]
}

// pace counts dials: over one transport to one relay, or if they are counted all that
// show one name. The zero value counts nothing; its spacing is loose unless counted.
// It is safe for concurrent use.
type pace struct {
	counted bool

	mu     sync.Mutex
	starts []time.Time // of dials that reached somebody, or are still under way; in order
}

// at is when the next dial may start: in need, or for use.
func (p *pace) at(need bool, now time.Time) time.Time {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.next(need, now)
}

// next is at, under p.mu.
func (p *pace) next(need bool, now time.Time) time.Time {
	if len(p.starts) == 0 {
		return time.Time{}
	}
	last := p.starts[len(p.starts)-1]
	if !p.counted {
		return last.Add(loose)
	}
	p.starts = slices.DeleteFunc(p.starts, func(t time.Time) bool { return now.Sub(t) >= paceWindow })
	at := last.Add(paceSpacing)
	most := paceMost
	if !need {
		most -= paceReserve
	}
	if n := len(p.starts); n >= most {
		free := p.starts[n-most].Add(paceWindow)
		if need && n >= paceMost {
			free = earlier(free, last.Add(paceNeed))
		}
		at = later(at, free)
	}
	return at
}

// spent reports whether a dial beyond the three would be made in need.
func (p *pace) spent(now time.Time) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := 0
	for _, t := range p.starts {
		if now.Sub(t) < paceWindow {
			n++
		}
	}
	return p.counted && n >= paceMost
}

// start counts a dial that starts now, unless it may not: another keeper has just
// started one.
func (p *pace) start(need bool, now time.Time) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if now.Before(p.next(need, now)) {
		return false
	}
	if !p.counted {
		p.starts = p.starts[:0] // only the last one matters
	}
	p.starts = append(p.starts, now) // in order, as next is later than all of them
	return true
}

// undo takes back a dial that reached nobody: no TLS was seen.
func (p *pace) undo(t time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if i := slices.IndexFunc(p.starts, t.Equal); i >= 0 && p.counted {
		p.starts = slices.Delete(p.starts, i, i+1)
	}
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}
