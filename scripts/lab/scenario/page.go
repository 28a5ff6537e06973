package scenario

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// Figures of what a resident sees.
const (
	pageSays     = "the page says so after" // s
	historyRight = "history right"          // %
)

// sight is what the page is told: the phase that its sentence is for, and the history.
type sight struct {
	Phase   string  `json:"phase"`
	Failure string  `json:"failure"`
	History []entry `json:"history"` // the newest first
	Status  struct {
		Carriers []struct {
			Transport string `json:"transport"`
			State     string `json:"state"`
		} `json:"carriers"`
	} `json:"status"`
}

// entry is one of the page's history, of which docs/ARCHITECTURE.md's page has a text each.
type entry struct {
	At      time.Time `json:"at"`
	Kind    string    `json:"kind"`
	Way     string    `json:"way"`
	Failure string    `json:"failure"`
	To      string    `json:"to"`
	Took    int64     `json:"took_ms"`
	Open    bool      `json:"open"`
}

// String is the entry in a line.
func (e entry) String() string {
	return strings.Join(strings.Fields(fmt.Sprintf("%s %s %s %s %t", e.Kind, e.Way, e.Failure, e.To, e.Open)), " ")
}

// tells is what the page's sentence says of what happened since a time, by page.js: that
// ways are blocked and others are tried, that the client has moved, or that a connection
// ended or went silent beside others; empty: nothing.
func (s sight) tells(since time.Time) string {
	switch s.Phase {
	case "blocked":
		return "blocked: " + s.Failure
	case "connected":
		for _, e := range s.History {
			if !e.At.Before(since) && (e.Kind == "moved" && !e.Open && e.To != "" || e.Kind == "lost") {
				return e.String()
			}
		}
		for _, c := range s.Status.Carriers {
			if c.State == "suspect" {
				return "silent: " + c.Transport
			}
		}
	}
	return ""
}

// wrong is what the history has wrong after the connection in use that carries most, over
// one of the ways in from, was hit at a time, by what is a failure of a kind among blame;
// empty if it tells just that: by a move that is over, or, if there were several, by the
// end of one.
func (s sight) wrong(since time.Time, from []string, blame []string) string {
	if s.Phase != "connected" {
		return "the page says " + s.Phase
	}
	counts := map[string]int{}
	for _, e := range s.History {
		counts[e.Kind]++
		if e.At.Before(since) {
			continue
		}
		counts["told"]++
		switch e.Kind {
		case "moved", "lost":
			if e.Kind == "moved" && (e.Open || e.To == "") || !slices.Contains(from, e.Way) || !slices.Contains(blame, e.Failure) {
				return e.String()
			}
		case "blocked": // its way, or one that was tried meanwhile
			counts["told"]--
			if !slices.Contains(blame, e.Failure) {
				return e.String()
			}
		default:
			return e.String()
		}
	}
	if counts["start"] != 1 || counts["connected"] != 1 || counts["told"] != 1 {
		return fmt.Sprint(s.History)
	}
	return ""
}
