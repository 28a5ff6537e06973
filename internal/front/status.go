package front

import (
	"encoding/json"
	"slices"
	"time"
)

// Status is what the client knows of itself. Its JSON form is a contract: it is
// what `client status -json` prints and what the resident's page shows. Lists are
// never null.
type Status struct {
	Listen    string    `json:"listen"`     // host:port of the local proxy
	Network   string    `json:"network"`    // opaque, salted name of the network we are on
	Online    bool      `json:"online"`     // at least one carrier lives
	Streams   int       `json:"streams"`    // open now
	Flows     int       `json:"flows"`      // UDP associations open now
	Moves     int       `json:"moves"`      // replacements of an active carrier since the start
	BytesUp   uint64    `json:"bytes_up"`   // since the start, from applications
	BytesDown uint64    `json:"bytes_down"` // since the start, to applications
	Carriers  []Carrier `json:"carriers"`   // living now
	Paths     []Path    `json:"paths"`      // every way to every relay that is known
	// Locked: the passphrase has to be given first; nothing is known of relays until then.
	Locked bool `json:"locked,omitempty"`
}

// Carrier is one live connection to a relay.
type Carrier struct {
	Relay     string `json:"relay"`     // the relay's short name
	Transport string `json:"transport"` // "mirror"
	State     State  `json:"state"`
	RTT       int64  `json:"rtt_ms"` // smoothed round trip, milliseconds
	BytesUp   uint64 `json:"bytes_up"`
	BytesDown uint64 `json:"bytes_down"`
	Age       int64  `json:"age_s"`            // seconds since it was made
	Detour    bool   `json:"detour,omitempty"` // it leads through another relay
}

// Path is one way to a relay and what became of it.
type Path struct {
	Relay     string    `json:"relay"`
	Transport string    `json:"transport"`
	State     State     `json:"state"`
	Failure   string    `json:"failure"`        // a transport.Failure, or empty
	Since     time.Time `json:"since,omitzero"` // of the state
	Retry     int64     `json:"retry_s"`        // seconds until it is tried again; 0 if no retry is planned
	Successes int       `json:"successes"`
	Failures  int       `json:"failures"`
	Detour    bool      `json:"detour,omitempty"` // it leads through another relay
}

// State is what a carrier or path is good for now.
type State string

// States of carriers and paths.
const (
	Active  State = "active"  // carries traffic
	Spare   State = "spare"   // alive and waiting to take over
	Suspect State = "suspect" // alive, but something is wrong
	Resting State = "resting" // failed, and is left alone for a while
	Known   State = "known"   // worked before, not in use
	Untried State = "untried"
)

// AtRest reports whether nothing is wrong with a client that is not connected: it
// has a relay, which does not refuse it, and some way there has not failed of late. It
// connects when a program asks.
func (s Status) AtRest() bool {
	return !s.Online && s.Refused() == "" && slices.ContainsFunc(s.Paths, func(p Path) bool { return p.State != Resting })
}

// RefusalText is a sentence, in lower case, about a failure by which a relay refuses
// the invite, and what to do; empty if the failure is another.
func RefusalText(failure string) string {
	switch failure {
	case "revoked":
		return "the invite was revoked: ask for a new one"
	case "expired":
		return "the invite has expired: ask for a new one"
	case "quota":
		return "this month's quota of the invite, or of its relay, is used up: use another relay, ask for more, or wait for the next month"
	case "devices":
		return "as many devices use the invite as may: stop Busel on another one"
	}
	return ""
}

// Refused is such a sentence if every relay refuses its invite at the moment, else
// empty.
func (s Status) Refused() (text string) {
	refused := map[string]bool{}
	for _, p := range s.Paths {
		why := RefusalText(p.Failure)
		no := why != "" && p.State == Resting
		refused[p.Relay] = refused[p.Relay] || no
		if no && text == "" {
			text = why
		}
	}
	for _, no := range refused {
		if s.Online || !no {
			return ""
		}
	}
	return text
}

// MarshalJSON writes the form of the contract.
func (s Status) MarshalJSON() ([]byte, error) {
	type plain Status // without this method
	if s.Carriers == nil {
		s.Carriers = []Carrier{}
	}
	if s.Paths == nil {
		s.Paths = []Path{}
	}
	return json.Marshal(plain(s))
}
