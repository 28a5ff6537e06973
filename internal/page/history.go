package page

import (
	"slices"
	"sync"
	"time"
)

// Kind is what an [Entry] tells. The page has a text for each of [Kinds].
type Kind string

// Kinds of entries.
const (
	Started     Kind = "start"
	Added       Kind = "added"      // Relay is held from now on
	Removed     Kind = "removed"    // and no longer
	Connected   Kind = "connected"  // To, Took
	Moved       Kind = "moved"      // Way was lost by Failure; it went on over To after Took
	Lost        Kind = "lost"       // a connection over Way ended by Failure while others went on
	Blocked     Kind = "blocked"    // Way does not get through: Failure
	Outage      Kind = "outage"     // no internet
	Refused     Kind = "refused"    // the relay refuses the invite: Failure
	Freezing    Kind = "freezing"   // the network freezes each connection after a few packets
	Unread      Kind = "unreadable" // the file of the invite Relay cannot be read
	NewNetwork  Kind = "network"    // the device is on another network
	NearbyBegan Kind = "nearby"     // sharing over Wi-Fi
)

// Kinds is every kind.
var Kinds = []Kind{Started, Added, Removed, Connected, Moved, Lost, Blocked, Outage, Refused, Freezing, Unread, NewNetwork, NearbyBegan}

// Entry is one thing that happened. It names no destination, ever.
type Entry struct {
	ID      int       `json:"id"` // ascending
	At      time.Time `json:"at"`
	Kind    Kind      `json:"kind"`
	Relay   string    `json:"relay,omitempty"` // its label
	Way     string    `json:"way,omitempty"`   // "mirror"
	Failure string    `json:"failure,omitempty"`
	To      string    `json:"to,omitempty"`      // a way, too
	Detour  bool      `json:"detour,omitempty"`  // To leads through another relay
	Took    int64     `json:"took_ms,omitempty"` // milliseconds
	Open    bool      `json:"open,omitempty"`    // it is not over yet
	Until   time.Time `json:"until,omitzero"`    // when it was over
	GaveUp  bool      `json:"gave_up,omitempty"` // it was over because nobody asked any more
	Times   int       `json:"times,omitempty"`   // how often the same happened, if more than once
	Last    time.Time `json:"last,omitzero"`     // the last of them
}

const (
	// maxEntries bounds the history.
	maxEntries = 100
	// sameStory is how long after a move the end of what was moved away from is a part of
	// its story: a silent connection is given up after some seconds.
	sameStory = 30 * time.Second
	// together is how far apart the end of a connection and what it means may be told.
	together = time.Second
	// repeats is how soon the same failure of the same way is not worth another entry.
	repeats = 10 * time.Minute
)

// History is what happened since the start, in memory only and bounded. The zero value
// is empty. It is safe for concurrent use.
type History struct {
	mu      sync.Mutex
	last    int
	entries []Entry // the oldest first
}

// Note adds an entry, whose ID and, if it is zero, time are set here.
func (h *History) Note(e Entry) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.note(e)
}

// Unreadable notes the invites of these labels, of each once.
func (h *History) Unreadable(labels []string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, label := range labels {
		if h.find(func(e *Entry) bool { return e.Kind == Unread && e.Relay == label }) == nil {
			h.note(Entry{Kind: Unread, Relay: label})
		}
	}
}

func (h *History) note(e Entry) *Entry {
	if e.At.IsZero() {
		e.At = time.Now()
	}
	h.last++
	e.ID = h.last
	if extra := len(h.entries) + 1 - maxEntries; extra > 0 {
		h.entries = slices.Delete(h.entries, 0, extra)
	}
	h.entries = append(h.entries, e)
	return &h.entries[len(h.entries)-1]
}

// find is the newest entry that fits; nil if there is none.
func (h *History) find(fits func(*Entry) bool) *Entry {
	for i := len(h.entries) - 1; i >= 0; i-- {
		if fits(&h.entries[i]) {
			return &h.entries[i]
		}
	}
	return nil
}

// Seek begins a move of a relay's session. A connection that has just ended is why: it
// tells so itself, before or after the session does.
func (h *History) Seek(relay string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.open(relay) != nil {
		return
	}
	e := Entry{Kind: Moved, Relay: relay, Open: true}
	lost := h.find(func(e *Entry) bool { return e.Kind == Lost && e.Relay == relay })
	switch {
	case lost == nil || time.Since(later(lost.At, lost.Last)) > together:
	case lost.Times > 1: // it tells of others, too
		e.Way, e.Failure = lost.Way, lost.Failure
	default:
		lost.Kind, lost.Open = Moved, true
		return
	}
	h.note(e)
}

func (h *History) open(relay string) *Entry {
	return h.find(func(e *Entry) bool { return e.Kind == Moved && e.Relay == relay && e.Open })
}

// Cease ends the move of a session that nobody wants any more.
func (h *History) Cease(relay string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if e := h.open(relay); e != nil {
		e.Open, e.GaveUp, e.Until = false, true, time.Now()
	}
}

// Move ends a move.
func (h *History) Move(relay, to string, detour bool, took time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	e := h.open(relay)
	if e == nil {
		e = h.note(Entry{Kind: Moved, Relay: relay})
	}
	e.To, e.Detour, e.Took, e.Open, e.Until = to, detour, took.Milliseconds(), false, time.Now()
}

// Lose notes that a connection ended by a failure. It is told with the move that it
// made necessary, if there was one.
func (h *History) Lose(relay, way, failure string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	now := time.Now()
	e := h.find(func(e *Entry) bool {
		return e.Kind == Moved && e.Relay == relay && e.Way == "" && (e.Open || now.Sub(e.Until) < sameStory)
	})
	if e != nil {
		e.Way, e.Failure = way, failure
		return
	}
	h.again(Entry{Kind: Lost, Relay: relay, Way: way, Failure: failure})
}

// Block notes that a way does not get through.
func (h *History) Block(relay, way string, detour bool, failure string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.again(Entry{Kind: Blocked, Relay: relay, Way: way, Detour: detour, Failure: failure})
}

// again notes e, or counts it with the last of its like.
func (h *History) again(e Entry) {
	now := time.Now()
	like := h.find(func(o *Entry) bool {
		return o.Kind == e.Kind && o.Relay == e.Relay && o.Way == e.Way && o.Detour == e.Detour && o.Failure == e.Failure
	})
	if like == nil || now.Sub(later(like.At, like.Last)) > repeats {
		h.note(e)
		return
	}
	like.Times, like.Last = max(like.Times, 1)+1, now
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

// Out begins an outage, and Back ends it.
func (h *History) Out() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.find(func(e *Entry) bool { return e.Kind == Outage && e.Open }) == nil {
		h.note(Entry{Kind: Outage, Open: true})
	}
}

// Back ends an outage.
func (h *History) Back() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if e := h.find(func(e *Entry) bool { return e.Kind == Outage && e.Open }); e != nil {
		e.Open, e.Until = false, time.Now()
		e.Took = e.Until.Sub(e.At).Milliseconds()
	}
}

// Entries are those that there are, the newest first.
func (h *History) Entries() []Entry {
	h.mu.Lock()
	defer h.mu.Unlock()
	list := slices.Clone(h.entries)
	slices.Reverse(list)
	return list
}

// Clear forgets everything.
func (h *History) Clear() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.entries = nil
}
