package rotate

import (
	"slices"
	"time"
)

// How many TLS connections to one relay a censor may see. More than three within
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

// pace counts dials over one transport to one relay. The zero value counts
// nothing; its spacing is loose unless counted.
type pace struct {
	counted bool
	starts  []time.Time // of dials that reached somebody, or are still under way
}

// at is when the next dial may start: in need, or for use.
func (p *pace) at(need bool, now time.Time) time.Time {
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
	n := 0
	for _, t := range p.starts {
		if now.Sub(t) < paceWindow {
			n++
		}
	}
	return p.counted && n >= paceMost
}

func (p *pace) start(t time.Time) {
	if !p.counted {
		p.starts = p.starts[:0] // only the last one matters
	}
	p.starts = append(p.starts, t)
}

// undo takes back a dial that reached nobody: no TLS was seen.
func (p *pace) undo(t time.Time) {
	if i := slices.Index(p.starts, t); i >= 0 && p.counted {
		p.starts = slices.Delete(p.starts, i, i+1)
	}
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}
