package scenario

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"time"
)

// Row is an experiment of the second table: what rotation is to reach when the
// censor hits what is in use. It is tried several times, each time with a new
// client in a network of its own, and judged by the whole of the trials.
type Row struct {
	Name string
	Rows []string // of THREATS.md
	What string   // the censor does, or else happens, in one sentence

	play play
	// first are rules that hold from the client's start until its transfers run, to
	// lead it onto a transport; over is that transport, as the censor sees it.
	first []string
	over  string // "tcp", "udp", or empty: any
	// then are the rules that hold from then on, and rules those that are added when
	// the censor acts.
	then, rules []string

	Cover  string
	Path   Path
	Relays int
	Policy string // of client.toml; empty: what the client does by itself
	// policies are those whose rates are measured, one after another.
	policies []string
	// blame are the failures that the page's history may give for what the rules do.
	blame []string
	// once: all that was asked for is in one trial.
	once bool
	// Long: it belongs to the long form only; Short: to what every test run includes.
	Long, Short bool
	// apart is how many trials may go on for each that goes on elsewhere, since most
	// of their time is waiting; 0 is one.
	apart int

	Want Limits
}

// play is how a trial goes.
type play string

const (
	playHit      play = "hit"       // transfers run, the rules take effect, a page is asked for
	playAddress  play = "address"   // instead of the rules the client's address changes
	playStop     play = "stop"      // instead of the rules the client is stopped for a time
	playBlackout play = "blackout"  // nothing passes for a time
	playCold     play = "cold"      // the rules hold, the client starts, a page is asked for
	playSlow     play = "slow"      // transfers run, and when they are fast again is measured
	playSlowCold play = "slow-cold" // the same for a client that starts under the rules
	playSmall    play = "small"     // the rules hold, 1 MB is fetched, and a page
	playBrowse   play = "browse"    // pages again and again, while connections die
	playRates    play = "rates"     // a download alone, for its rate, under several policies, and without a proxy
	playDeaths   play = "deaths"    // connections die under transfers, again and again
	playIdle     play = "idle"      // nothing is asked for
	playHeld     play = "held"      // the same with an open stream
	playPatience play = "patience"  // a blackout, and what it costs the client
	playSight    play = "sight"     // as hit, with the resident's page open
)

// Ways to end the connection in use: names of rules. The first is for TCP only.
const (
	resets    = "s1-rst-busiest"
	drops     = "s2-drop-busiest"
	dropsDown = "s2-drop-busiest-down"
)

// Limits are what a row wants; zero values are not judged.
type Limits struct {
	Stall, Page time.Duration // p95
	Over        string        // the transport that must be in use at the end
	Figures     []Bound
}

// Bound is the limit of a figure: of what may be at most so much, p95 counts; of
// what must be at least so much, p5.
type Bound struct {
	Name  string
	Least bool
	Limit float64
}

// Trial is what one trial came to.
type Trial struct {
	Down, Up Transfer // since the censor acted
	// Page is how long after that a new page was there; Never. 0: none was asked for.
	Page    time.Duration
	Over    string // transports in use at the end, by the client's own account
	Figures []Figure
	// Moot is why the trial proves nothing: the censor did not get to act.
	Moot string
	Note string // what to look into
}

// Figure is a number of a trial.
type Figure struct {
	Name, Unit string
	Value      float64
}

// Survived reports whether all transfers did.
func (t Trial) Survived() bool {
	good := func(f Fate) bool { return f == None || f == Survived }
	return good(t.Down.Fate) && good(t.Up.Fate)
}

// Spread is the distribution of a value over trials.
type Spread struct {
	N             int
	P50, P95, Max float64
	P5            float64
}

// spread sorts. A percentile is the nearest rank: the least of the values that at
// least so many percent of them are not above. What is NaN is left out.
func spread(values []float64) Spread {
	v := slices.DeleteFunc(slices.Clone(values), math.IsNaN)
	if len(v) == 0 {
		return Spread{}
	}
	slices.Sort(v)
	rank := func(percent int) float64 { return v[max(1, (len(v)*percent+99)/100)-1] }
	return Spread{len(v), rank(50), rank(95), v[len(v)-1], rank(5)}
}

// seconds makes what never came the greatest of all.
func seconds(d time.Duration) float64 {
	if d == Never {
		return math.Inf(1)
	}
	return d.Seconds()
}

// Tally is a row's trials together.
type Tally struct {
	Row     Row
	Trials  []Trial
	Verdict Verdict
	Why     []string
}

// Stall, UpStall and Page are distributions over those trials that have them, in
// seconds.
func (t Tally) Stall() Spread {
	return t.of(func(x Trial) float64 { return stallOf(x.Down) })
}

// UpStall is as Stall, of uploads.
func (t Tally) UpStall() Spread { return t.of(func(x Trial) float64 { return stallOf(x.Up) }) }

// Page is the distribution of how long pages took.
func (t Tally) Page() Spread {
	return t.of(func(x Trial) float64 {
		if x.Page == 0 {
			return math.NaN()
		}
		return seconds(x.Page)
	})
}

// stallOf is a transfer's longest silence: without end if it did not survive.
func stallOf(t Transfer) float64 {
	switch t.Fate {
	case None:
		return math.NaN()
	case Survived:
		return seconds(t.Stall)
	}
	return math.Inf(1)
}

func (t Tally) of(value func(Trial) float64) Spread {
	var all []float64
	for _, x := range t.Trials {
		all = append(all, value(x))
	}
	return spread(all)
}

// figure is the distribution of a figure, and its unit.
func (t Tally) figure(name string) (Spread, string) {
	unit := ""
	s := t.of(func(x Trial) float64 {
		for _, f := range x.Figures {
			if f.Name == name {
				unit = f.Unit
				return f.Value
			}
		}
		return math.NaN()
	})
	return s, unit
}

// names are the figures' names in their order.
func (t Tally) names() (all []string) {
	for _, x := range t.Trials {
		for _, f := range x.Figures {
			if !slices.Contains(all, f.Name) {
				all = append(all, f.Name)
			}
		}
	}
	return all
}

// survived is how many trials' transfers all survived, of those that had any.
func (t Tally) survived() (n, of int) {
	for _, x := range t.Trials {
		if x.Down.Fate == None && x.Up.Fate == None {
			continue
		}
		of++
		if x.Survived() {
			n++
		}
	}
	return n, of
}

// JudgeRow judges the trials of a row, of which there must be one.
func JudgeRow(r Row, trials []Trial) Tally {
	t := Tally{Row: r, Trials: trials, Verdict: Met}
	miss := func(format string, args ...any) {
		t.Verdict = Missed
		t.Why = append(t.Why, fmt.Sprintf(format, args...))
	}
	for i, x := range trials {
		if x.Moot != "" {
			t.Verdict = Toothless
			t.Why = append(t.Why, fmt.Sprintf("trial %d: %s", i+1, x.Moot))
		}
	}
	if t.Verdict == Toothless {
		return t
	}
	if n, of := t.survived(); n < of {
		miss("%d of %d survived", n, of)
	}
	if s := t.Stall(); r.Want.Stall > 0 && !(s.N > 0 && s.P95 <= r.Want.Stall.Seconds()) {
		miss("stall of the download: p95 %s, wanted %s", span(s.P95), show(r.Want.Stall))
	}
	if s := t.Page(); r.Want.Page > 0 && !(s.N > 0 && s.P95 <= r.Want.Page.Seconds()) {
		miss("new page: p95 %s, wanted %s", span(s.P95), show(r.Want.Page))
	}
	if r.Want.Over != "" {
		for _, x := range trials {
			if !strings.Contains(x.Over, r.Want.Over) {
				miss("in use at the end: %s, wanted %s", cmp.Or(x.Over, "nothing"), r.Want.Over)
				break
			}
		}
	}
	for _, b := range r.Want.Figures {
		s, unit := t.figure(b.Name)
		switch {
		case s.N < len(trials):
			miss("%s: measured %d times in %d trials", b.Name, s.N, len(trials))
		case b.Least && s.P5 < b.Limit:
			miss("%s: p5 %s, wanted at least %s", b.Name, amount(s.P5, unit), amount(b.Limit, unit))
		case !b.Least && s.P95 > b.Limit:
			miss("%s: p95 %s, wanted at most %s", b.Name, amount(s.P95, unit), amount(b.Limit, unit))
		}
	}
	for i, x := range trials {
		if x.Note != "" && t.Verdict != Met {
			t.Why = append(t.Why, fmt.Sprintf("trial %d: %s", i+1, x.Note))
		}
	}
	return t
}

// String is the tally in a line: medians, and what trials have to say.
func (t Tally) String() string {
	parts := []string{string(t.Verdict)}
	for _, s := range []struct {
		name string
		Spread
	}{{"stall", t.Stall()}, {"upload's", t.UpStall()}, {"page", t.Page()}} {
		if s.N > 0 {
			parts = append(parts, s.name+" "+span(s.P50))
		}
	}
	if f := t.figures(); f != "-" {
		parts = append(parts, f)
	}
	parts = append(parts, "over "+t.used())
	for _, x := range t.Trials {
		for _, note := range []string{x.Moot, x.Note} {
			if note != "" {
				parts = append(parts, note)
			}
		}
	}
	return strings.ReplaceAll(strings.Join(parts, "; "), "**", "")
}

// span writes seconds.
func span(s float64) string {
	switch {
	case math.IsInf(s, 1):
		return "never"
	case s < 10:
		return fmt.Sprintf("%.2f s", s)
	}
	return fmt.Sprintf("%.1f s", s)
}

func amount(v float64, unit string) string {
	if unit == "s" {
		return span(v)
	}
	return strings.TrimSpace(fmt.Sprintf("%.4g %s", v, unit))
}

// WriteRotation writes the tallies as a Markdown table, in bold what misses, and the
// reasons below it.
func WriteRotation(w io.Writer, tallies []Tally) error {
	var b strings.Builder
	b.WriteString("| row | what happens | n | survived | stall of a download: p50, p95, max | of an upload | new page | else | in use then | verdict |\n")
	b.WriteString("|---|---|---|---|---|---|---|---|---|---|\n")
	for _, t := range tallies {
		want := t.Row.Want
		n, of := t.survived()
		survived := "-"
		if of > 0 {
			survived = strong(fmt.Sprintf("%d of %d", n, of), n < of)
		}
		fmt.Fprintf(&b, "| %s | %s | %d | %s | %s | %s | %s | %s | %s | %s |\n", t.Row.Name, t.Row.What, len(t.Trials), survived,
			times(t.Stall(), want.Stall), times(t.UpStall(), 0), times(t.Page(), want.Page), t.figures(), t.used(), strong(string(t.Verdict), t.Verdict.Bad()))
	}
	first := true
	for _, t := range tallies {
		for _, why := range t.Why {
			if first {
				b.WriteString("\n")
				first = false
			}
			fmt.Fprintf(&b, "* %s (%s), %s: %s\n", t.Row.Name, strings.Join(t.Row.Rows, " "), t.Verdict, why)
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func strong(text string, is bool) string {
	if is {
		return "**" + text + "**"
	}
	return text
}

// times are the three numbers of a distribution, and what was wanted.
func times(s Spread, want time.Duration) string {
	if s.N == 0 {
		return "-"
	}
	p95, most := span(s.P95), ""
	if want > 0 {
		p95 = strong(p95, s.P95 > want.Seconds())
		most = fmt.Sprintf(" (<= %s)", want)
	}
	return fmt.Sprintf("%s, %s, %s%s", span(s.P50), p95, span(s.Max), most)
}

// figures are all of a row's, each with its limit.
func (t Tally) figures() string {
	var all []string
	for _, name := range t.names() {
		s, unit := t.figure(name)
		text := fmt.Sprintf("%s %s", name, amount(s.P50, unit))
		if s.N > 1 {
			text += fmt.Sprintf(" (%s .. %s)", amount(s.P5, ""), amount(s.Max, ""))
		}
		for _, b := range t.Row.Want.Figures {
			if b.Name != name {
				continue
			}
			sign, bad := "<=", s.P95 > b.Limit
			if b.Least {
				sign, bad = ">=", s.P5 < b.Limit
			}
			text = strong(text, bad) + fmt.Sprintf(" (%s %.4g)", sign, b.Limit)
		}
		all = append(all, text)
	}
	if len(all) == 0 {
		return "-"
	}
	return strings.Join(all, "; ")
}

// used counts the transports that were in use at the end.
func (t Tally) used() string {
	counts := map[string]int{}
	var names []string
	for _, x := range t.Trials {
		name := cmp.Or(x.Over, "nothing")
		if counts[name] == 0 {
			names = append(names, name)
		}
		counts[name]++
	}
	slices.SortStableFunc(names, func(a, b string) int { return counts[b] - counts[a] })
	for i, name := range names {
		if len(t.Trials) > 1 {
			names[i] = fmt.Sprintf("%s %d", name, counts[name])
		}
	}
	return strings.Join(names, ", ")
}

// WriteRotationJSON writes the tallies for programs, each trial with its numbers:
// times in milliseconds, null for what never came.
func WriteRotationJSON(w io.Writer, tallies []Tally) error {
	type trial struct {
		Down    *transferJSON       `json:"download,omitempty"`
		Up      *transferJSON       `json:"upload,omitempty"`
		Asked   bool                `json:"page_asked"`
		Page    *int64              `json:"page_ms"`
		Over    string              `json:"over,omitempty"`
		Figures map[string]*float64 `json:"figures,omitempty"`
		Moot    string              `json:"moot,omitempty"`
		Note    string              `json:"note,omitempty"`
	}
	type row struct {
		Name    string   `json:"name"`
		Verdict Verdict  `json:"verdict"`
		Why     []string `json:"why,omitempty"`
		Trials  []trial  `json:"trials"`
	}
	list := []row{}
	for _, t := range tallies {
		line := row{Name: t.Row.Name, Verdict: t.Verdict, Why: t.Why}
		for _, x := range t.Trials {
			one := trial{Down: x.Down.json(), Up: x.Up.json(), Asked: x.Page != 0, Over: x.Over, Moot: x.Moot, Note: x.Note}
			if x.Page > 0 {
				ms := x.Page.Milliseconds()
				one.Page = &ms
			}
			for _, f := range x.Figures {
				if one.Figures == nil {
					one.Figures = map[string]*float64{}
				}
				if one.Figures[f.Name] = nil; !math.IsInf(f.Value, 1) {
					one.Figures[f.Name] = &f.Value
				}
			}
			line.Trials = append(line.Trials, one)
		}
		list = append(list, line)
	}
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(list)
}
