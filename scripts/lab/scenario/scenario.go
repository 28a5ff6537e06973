// Package scenario holds the experiments of the censor lab: every row of
// docs/THREATS.md and of the project's larger list that a simulator exists for, as
// something that is run and judged.
//
// A [Scenario] is data: what the censor does (rule files), what must then hold for
// Busel, and who must fail if the simulator works. An experiment lets a subject
// (Busel, a plain tunnel, nothing at all, or another tool) carry a running
// download, a running upload and new pages while the rules take effect, and notes an
// [Outcome]. [Judge] compares the two.
//
// A row that Busel cannot meet yet says so: Until names what is missing, and Now
// what happens meanwhile. Such a row is green as long as that happens. It turns red
// if it is met unexpectedly, or missed for another reason.
package scenario

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Never is a time that does not come.
const Never time.Duration = -1

// notGenuine is what is said of a page that somebody else wrote.
const notGenuine = "the page is not the origin's"

// Fate is what becomes of a running transfer.
type Fate string

// Fates.
const (
	Survived Fate = "survived" // it arrived whole, with the right SHA-256
	Broken   Fate = "broken"   // it ended early, and the program was told
	Silent   Fate = "silent"   // nothing more came before the experiment ended
	Slow     Fate = "slow"     // it was still coming when the experiment ended
	Spoiled  Fate = "spoiled"  // it ended as if whole, with other bytes
	None     Fate = ""         // there was none
)

// Transfer is one running download or upload.
type Transfer struct {
	Fate  Fate
	Stall time.Duration // the longest silence after the first byte
	Bytes int64
}

// Outcome is what a subject met.
type Outcome struct {
	Subject string
	Down    Transfer
	Up      Transfer
	// Page is how long after the rules took effect a new page was there; Never if
	// it was not.
	Page time.Duration
	// PageError is what curl said of the first try at a page that did not come.
	PageError string
	// Says are the failures that the subject names to its user, sorted.
	Says []string
	// Moves is how often the subject replaced its connection.
	Moves int
	// Hits is how many packets the rules acted on.
	Hits uint64
}

// Want is what must be seen. The zero value wants nothing.
type Want struct {
	// Page is the most that a new page may take. Never: it must not come. 0: not
	// judged.
	Page time.Duration
	// NoPageBefore is the least that a new page must take. 0: not judged.
	NoPageBefore time.Duration
	// Running is what must become of running transfers. Dead stands for Broken or
	// Silent. Empty: not judged.
	Running Fate
	// Stall is the longest silence that a surviving transfer may have. 0: not
	// judged.
	Stall time.Duration
	// Says must be among the failures that the subject names.
	Says string
	// PageError must be a part of what curl says of the page that does not come.
	PageError string
	// Unseen: the rules must not act on a single packet. Otherwise who is found out is
	// not told from who is not, as long as it moves on in time.
	Unseen bool
}

// Dead, in a [Want], is either Broken or Silent.
const Dead Fate = "dead"

// Misses lists what of the outcome is not as wanted; nothing is none.
func (w Want) Misses(o Outcome) (misses []string) {
	miss := func(format string, args ...any) { misses = append(misses, fmt.Sprintf(format, args...)) }
	switch {
	case w.Page == Never && o.Page != Never:
		miss("a new page came after %s and should not have come", show(o.Page))
	case w.Page > 0 && o.Page == Never:
		miss("no new page came (%s), wanted within %s", o.PageError, show(w.Page))
	case w.Page > 0 && o.Page > w.Page:
		miss("a new page took %s, wanted within %s", show(o.Page), show(w.Page))
	}
	if o.Page != Never && o.Page < w.NoPageBefore {
		miss("a new page came after %s, wanted none before %s", show(o.Page), show(w.NoPageBefore))
	}
	if w.PageError != "" && !strings.Contains(o.PageError, w.PageError) {
		miss("the page failed with %q, wanted %q", o.PageError, w.PageError)
	}
	for _, t := range []struct {
		name string
		Transfer
	}{{"download", o.Down}, {"upload", o.Up}} {
		switch {
		case w.Running == "":
		case w.Running == Dead && (t.Fate == Broken || t.Fate == Silent):
		case w.Running != t.Fate:
			miss("the running %s %s, wanted it %s", t.name, t.Fate, w.Running)
		case w.Stall > 0 && t.Stall > w.Stall:
			miss("the running %s was silent for %s, wanted at most %s", t.name, show(t.Stall), show(w.Stall))
		}
	}
	if w.Says != "" && !slices.Contains(o.Says, w.Says) {
		miss("it says %q, wanted %q", strings.Join(o.Says, " "), w.Says)
	}
	if w.Unseen && o.Hits > 0 {
		miss("the rules acted on %d packets, wanted that it is not seen", o.Hits)
	}
	return misses
}

// Bite is who must fail while the rules hold, which proves that they do something.
type Bite struct {
	Subject string // "direct", "tls tunnel", "random tunnel", "quic"
	Want    Want
}

// Scenario is one row, or several that are the same to us.
type Scenario struct {
	Name  string
	Rows  []string // of THREATS.md
	What  string   // the censor does, in one sentence
	Rules []string // names of files below scripts/lab/rules, without ".toml"
	// Cover is the name of the web site before which relays stand; empty is one
	// that no rule mentions.
	Cover string
	// Builtin: relays have the site that they bring along instead, with HTTP/3.
	Builtin bool
	// Path is the path's properties; the zero value is the standard path. After is
	// what becomes of them when the censor acts, if it is not zero.
	Path, After Path
	// NoTimestamps: the client's TCP has no timestamps, as Windows'.
	NoTimestamps bool

	// Cold: the rules hold before the subject's first connection. There are no
	// running transfers, unless Transfers.
	Cold, Transfers bool
	// HTTP: pages come over plain HTTP.
	HTTP bool
	// Pages is how many new pages are asked for, one after another or Together; 0
	// is one. All must come; the slowest counts.
	Pages    int
	Together bool
	// Limit is how long after the rules took effect the experiment goes on at
	// most; 0 is the standard limit.
	Limit time.Duration
	// Relays is how many relays the subject may use; 0 is one.
	Relays int
	// TunnelPort is where the server of a plain tunnel listens; 0 is 443.
	TunnelPort uint16

	Want  Want
	Bites Bite
	// Until is what is missing that Want can be met, and Now what is seen until
	// then. Both or neither.
	Until string
	Now   Want
	// Short: it belongs to the selection that every test run includes.
	Short bool
}

// CoverName is the name of the web site before which relays stand.
func (s Scenario) CoverName() string { return cmp.Or(s.Cover, neutralCover) }

// Path is a stretch of network. Zero fields are the standard: 50 ms each way, 20
// Mbit/s each way, nothing lost.
type Path struct {
	Delay  time.Duration // one way
	Jitter time.Duration
	Loss   float64 // share of packets, each way
	Rate   float64 // bit/s, each way
}

// Standard fills in what is zero.
func (p Path) Standard() Path {
	p.Delay = cmp.Or(p.Delay, StandardDelay)
	p.Rate = cmp.Or(p.Rate, StandardRate)
	return p
}

// Standard values of [Path] and [Scenario].
const (
	StandardDelay = 50 * time.Millisecond
	StandardRate  = 20e6
	StandardLimit = 20 * time.Second
)

// Verdict is what is to be said of a scenario's run.
type Verdict string

// Verdicts.
const (
	Met        Verdict = "met"
	Known      Verdict = "known"      // missed as expected until something is built
	Missed     Verdict = "MISSED"     // Busel did worse than wanted
	Unexpected Verdict = "UNEXPECTED" // met although something is said to be missing
	Toothless  Verdict = "TOOTHLESS"  // the simulator did not bite
)

// Bad reports whether a run with this verdict fails.
func (v Verdict) Bad() bool { return v != Met && v != Known }

// Judge compares what Busel and the bitten subject met with what the scenario
// wants, and gives the reasons of a bad verdict, and of a known one.
func Judge(s Scenario, busel, bitten Outcome) (Verdict, []string) {
	if s.Bites.Subject != "" {
		misses := s.Bites.Want.Misses(bitten)
		if bitten.Hits == 0 {
			misses = append(misses, "no packet was touched")
		}
		if len(misses) > 0 {
			return Toothless, prefixed(s.Bites.Subject+": ", misses)
		}
	}
	misses := s.Want.Misses(busel)
	switch {
	case s.Until == "" && len(misses) == 0:
		return Met, nil
	case s.Until == "":
		return Missed, misses
	case len(misses) == 0:
		return Unexpected, []string{"everything wanted was met: take Until and Now away"}
	}
	if wrong := s.Now.Misses(busel); len(wrong) > 0 {
		return Missed, prefixed("missed for another reason than known: ", wrong)
	}
	return Known, misses
}

func prefixed(prefix string, all []string) []string {
	out := make([]string, len(all))
	for i, s := range all {
		out[i] = prefix + s
	}
	return out
}
