package rotate

import (
	"time"

	"busel/transport"
)

// EventKind is what happened.
type EventKind string

// Kinds of [Event].
const (
	Seeking   EventKind = "seeking"   // the carrier in use was lost or fell silent; another is looked for
	Connected EventKind = "connected" // the first carrier of a session that was wanted; Route, Took
	Moved     EventKind = "moved"     // the end of Seeking; Route is the new way, Took how long it was
	Ceased    EventKind = "ceased"    // the end of Seeking, because nobody wants a carrier any more
	Cut       EventKind = "cut"       // a carrier ended by a failure; Route, Failure, Took is how long it lived
	Blocked   EventKind = "blocked"   // a way failed and is left alone for a while; Route, Failure
	Refusing  EventKind = "refusing"  // the relay refuses the invite; Route, Failure if it says why
	Outage    EventKind = "outage"    // nothing answers, whatever way; all keepers of a horizon share it
	Back      EventKind = "back"      // the end of Outage; Took is how long it was
	Freezing  EventKind = "freezing"  // this network freezes each flow after a few packets, and is lived with
)

// Event is something that happened to a session and that its user may want to know.
// It names no destination.
type Event struct {
	Kind    EventKind
	Relay   string // its label
	Route   transport.Route
	Failure transport.Failure
	Took    time.Duration
}

// report passes an event on.
func (k *Keeper) report(e Event) {
	if k.cfg.Events != nil {
		e.Relay = k.relay()
		k.cfg.Events(e)
	}
}

// Seeking is since when a carrier is wanted and none is healthy; zero if that is not
// so.
func (k *Keeper) Seeking() (since time.Time) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.need != nil {
		since = k.need.since
	}
	return since
}
