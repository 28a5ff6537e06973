package page

import (
	"time"

	"busel/internal/front"
)

// Phase is how things are. The page has a sentence for each of [Phases].
type Phase string

// Phases.
const (
	Locked       Phase = "locked"     // a passphrase is wanted
	Empty        Phase = "empty"      // there is no invite
	IsConnected  Phase = "connected"  // all is well
	Connecting   Phase = "connecting" // the first way is tried
	IsBlocked    Phase = "blocked"    // ways fail, others are tried
	NoInternet   Phase = "outage"     // nothing answers, whatever way
	Ready        Phase = "ready"      // nobody has asked for anything
	NoRelayWants Phase = "refused"    // every relay refuses its invite
)

// Phases is every phase.
var Phases = []Phase{Locked, Empty, IsConnected, Connecting, IsBlocked, NoInternet, Ready, NoRelayWants}

// slowDial is how long a dial that met no failure may take before it is worth a word:
// the slowest that was measured over a good path took less (internal/rotate, usualDial).
const slowDial = 2 * time.Second

// phaseOf judges the facts at a moment, and says why: a failure, and the way that met it,
// or empty ones.
func phaseOf(f *Facts, now time.Time) (phase Phase, failure, way string) {
	switch {
	case f.Locked:
		return Locked, "", ""
	case len(f.Held) == 0:
		return Empty, "", ""
	case f.Healthy:
		return IsConnected, "", ""
	case !f.Outage.IsZero():
		return NoInternet, "", ""
	case f.Refused() != "":
		for _, p := range f.Paths {
			if front.RefusalText(p.Failure) != "" {
				return NoRelayWants, p.Failure, p.Transport
			}
		}
	}
	// The last that failed and is not mended.
	var last *front.Path
	resting := len(f.Paths) > 0
	for i, p := range f.Paths {
		resting = resting && p.State == front.Resting
		if p.Failure != "" && (last == nil || p.Since.After(last.Since)) {
			last = &f.Paths[i]
		}
	}
	if last != nil {
		failure, way = last.Failure, last.Transport
	}
	suspect := false
	for _, c := range f.Carriers {
		if suspect = suspect || c.State == front.Suspect; c.State == front.Suspect && last == nil {
			failure, way = "frozen", c.Transport
		}
	}
	switch {
	case f.Seeking.IsZero() && f.Online:
		return IsConnected, "", "" // idle, with a carrier
	case f.Seeking.IsZero() && resting:
		return IsBlocked, failure, way
	case f.Seeking.IsZero():
		return Ready, "", ""
	case suspect || last != nil || now.Sub(f.Seeking) > slowDial:
		return IsBlocked, failure, way
	}
	return Connecting, "", ""
}
