package scenario

import (
	"encoding/json"
	"testing"
	"time"
)

// TestSight has histories that are right after a connection was hit, and others.
func TestSight(t *testing.T) {
	at := time.Now()
	before := []entry{{At: at.Add(-time.Minute), Kind: "start"}, {At: at.Add(-50 * time.Second), Kind: "connected", To: "mirror"},
		{At: at.Add(-40 * time.Second), Kind: "moved", To: "quic"}}
	later := at.Add(time.Second)
	moved := entry{At: later, Kind: "moved", Way: "mirror", Failure: "reset", To: "quic", Took: 300}
	lost := entry{At: later, Kind: "lost", Way: "mirror", Failure: "reset"}
	with := func(e entry, change func(*entry)) entry {
		change(&e)
		return e
	}
	for _, tt := range []struct {
		name  string
		phase string
		after []entry
		right bool
		told  bool
	}{
		{"a move", "connected", []entry{moved}, true, true},
		{"others went on", "connected", []entry{lost}, true, true},
		{"its way is left alone", "connected", []entry{moved, {At: later, Kind: "blocked", Way: "mirror", Failure: "reset"}}, true, true},
		{"nothing", "connected", nil, false, false},
		{"still looking", "blocked", []entry{with(moved, func(e *entry) { e.Open, e.To = true, "" })}, false, true},
		{"not over", "connected", []entry{with(moved, func(e *entry) { e.Open, e.To = true, "" })}, false, false},
		{"silent", "connected", []entry{with(moved, func(e *entry) { e.Way, e.Failure = "", "" })}, false, true},
		{"another way", "connected", []entry{with(moved, func(e *entry) { e.Way = "quic" })}, false, true},
		{"another reason", "connected", []entry{with(moved, func(e *entry) { e.Failure = "hijacked" })}, false, true},
		{"blocked by another reason", "connected", []entry{moved, {At: later, Kind: "blocked", Way: "mirror", Failure: "refused"}}, false, true},
		{"told twice", "connected", []entry{moved, lost}, false, true},
		{"an outage", "connected", []entry{moved, {At: later, Kind: "outage"}}, false, true},
		{"an outage, they say", "outage", []entry{moved}, false, false},
		{"a second start", "connected", []entry{moved, {At: later, Kind: "start"}}, false, true},
	} {
		s := sight{Phase: tt.phase, History: append(append([]entry{}, before...), tt.after...)}
		if got := s.wrong(at, []string{"mirror"}, []string{"reset"}); (got == "") != tt.right {
			t.Errorf("%s: wrong is %q", tt.name, got)
		}
		if got := s.tells(at); (got != "") != tt.told {
			t.Errorf("%s: told %q", tt.name, got)
		}
	}
	var s sight
	if err := json.Unmarshal([]byte(`{"phase": "connected", "status": {"carriers": [{"transport": "quic", "state": "active"}, {"transport": "mirror", "state": "suspect"}]}}`), &s); err != nil || s.tells(at) != "silent: mirror" {
		t.Errorf("of a silent connection it tells %q, %v", s.tells(at), err)
	}
}
