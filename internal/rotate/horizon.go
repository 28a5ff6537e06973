package rotate

import (
	"sync"
	"time"
)

// When silence is an outage.
const (
	// outageAfter is how long nothing must have come from anywhere.
	outageAfter = 2500 * time.Millisecond
	// outageDials is how many dials must have met silence since.
	outageDials = 2
	// outageAsk is how long carriers that should be well have to answer before
	// that: a session that rests says nothing by itself.
	outageAsk = time.Second
)

// Horizon is what the keepers of a client share: whether there is a network at
// all. In an outage every path fails in the same way, and none of them is blocked
// for that; so paths rest only for failures that somebody beyond the first hop has
// a part in, or that others do not share. It is safe for concurrent use.
type Horizon struct {
	mu      sync.Mutex
	heard   time.Time // when anything came from outside last
	silent  int       // dials since then that met silence
	asked   time.Time // when carriers were asked for a sign of life last
	since   time.Time // of the outage; zero if there is none
	changed chan struct{}
}

// NewHorizon returns one that believes in a network.
func NewHorizon() *Horizon {
	return &Horizon{heard: time.Now(), changed: make(chan struct{})}
}

// alive notes that something came from outside after t.
func (h *Horizon) alive(t time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !t.After(h.heard) {
		return
	}
	h.heard, h.silent = t, 0
	if !h.since.IsZero() {
		h.since = time.Time{}
		h.tell()
	}
}

// quiet notes a dial that met silence, or an error of our own system. It reports
// whether that begins an outage.
func (h *Horizon) quiet(now time.Time) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.silent++
	switch {
	case h.silent < outageDials || now.Sub(h.heard) < outageAfter || !h.since.IsZero():
		return false
	case h.asked.Before(h.heard):
		h.asked = now
		h.tell()
		return false
	case now.Sub(h.asked) < outageAsk:
		return false
	}
	h.since = now
	h.tell()
	return true
}

func (h *Horizon) tell() {
	close(h.changed)
	h.changed = make(chan struct{})
}

// heardSince reports whether anything came from outside after t.
func (h *Horizon) heardSince(t time.Time) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.heard.After(t)
}

// question is when a sign of life was asked for last.
func (h *Horizon) question() time.Time {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.asked
}

// Outage reports since when there has been no network; zero means that there is
// one. The channel is closed when that changes, and when carriers are to be asked
// for a sign of life.
func (h *Horizon) Outage() (since time.Time, changed <-chan struct{}) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.since, h.changed
}
