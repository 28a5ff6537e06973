package scenario

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"time"
)

// Result is one line of the lab's table.
type Result struct {
	Scenario Scenario
	Subject  Outcome // Busel's, or that of what stands in its place
	Bitten   Outcome // of Scenario.Bites, if there is one
	Verdict  Verdict
	Why      []string
}

// WriteTable writes the results as a Markdown table, and the reasons of what is not
// as wanted below it.
func WriteTable(w io.Writer, results []Result) error {
	var b strings.Builder
	b.WriteString("| rows | the censor | verdict | new page | download | upload | longest silence | it says | moves | bites |\n")
	b.WriteString("|---|---|---|---|---|---|---|---|---|---|\n")
	for _, r := range results {
		fmt.Fprintf(&b, "| %s | %s | %s | %s | %s | %s | %s | %s | %d | %s |\n",
			strings.Join(r.Scenario.Rows, " "), r.Scenario.What, r.Verdict, show(r.Subject.Page),
			fate(r.Subject.Down), fate(r.Subject.Up), silence(r.Subject), words(r.Subject.Says), r.Subject.Moves, bite(r))
	}
	first := true
	for _, r := range results {
		for _, why := range r.Why {
			if first {
				b.WriteString("\n")
				first = false
			}
			fmt.Fprintf(&b, "* %s (%s), %s: %s", r.Scenario.Name, strings.Join(r.Scenario.Rows, " "), r.Verdict, why)
			if r.Verdict == Known {
				fmt.Fprintf(&b, " (until %s)", r.Scenario.Until)
			}
			b.WriteString("\n")
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func fate(t Transfer) string {
	if t.Fate == None {
		return "-"
	}
	return string(t.Fate)
}

func silence(o Outcome) string {
	if o.Down.Fate == None {
		return "-"
	}
	return show(max(o.Down.Stall, o.Up.Stall))
}

func words(all []string) string {
	if len(all) == 0 {
		return "-"
	}
	return strings.Join(all, " ")
}

// bite is who failed under the same rules, and how.
func bite(r Result) string {
	subject := r.Scenario.Bites.Subject
	switch {
	case subject == "":
		return "-"
	case r.Bitten.Page == Never:
		return subject + ": no page"
	case r.Bitten.Down.Fate != None && r.Bitten.Down.Fate != Survived:
		return subject + ": download " + string(r.Bitten.Down.Fate)
	}
	return fmt.Sprintf("%s: page after %s", subject, show(r.Bitten.Page))
}

// outcomeJSON is an outcome as the JSON form has it: times in milliseconds, null
// for what never came.
type outcomeJSON struct {
	Page      *int64        `json:"page_ms"`
	PageError string        `json:"page_error,omitempty"`
	Down      *transferJSON `json:"download,omitempty"`
	Up        *transferJSON `json:"upload,omitempty"`
	Says      []string      `json:"says,omitempty"`
	Moves     int           `json:"moves"`
	Hits      uint64        `json:"packets_hit"`
}

type transferJSON struct {
	Fate  Fate  `json:"fate"`
	Stall int64 `json:"stall_ms"`
	Bytes int64 `json:"bytes"`
}

func (o Outcome) json() *outcomeJSON {
	j := &outcomeJSON{PageError: o.PageError, Down: o.Down.json(), Up: o.Up.json(), Says: o.Says, Moves: o.Moves, Hits: o.Hits}
	if o.Page != Never {
		ms := o.Page.Milliseconds()
		j.Page = &ms
	}
	return j
}

func (t Transfer) json() *transferJSON {
	if t.Fate == None {
		return nil
	}
	return &transferJSON{t.Fate, t.Stall.Milliseconds(), t.Bytes}
}

// WriteJSON writes the results for programs: a list in the table's order.
func WriteJSON(w io.Writer, results []Result) error {
	type row struct {
		Name    string       `json:"name"`
		Rows    []string     `json:"rows"`
		What    string       `json:"what"`
		Rules   []string     `json:"rules"`
		Verdict Verdict      `json:"verdict"`
		Why     []string     `json:"why,omitempty"`
		Until   string       `json:"until,omitempty"`
		Subject *outcomeJSON `json:"subject"`
		Bites   string       `json:"bites,omitempty"`
		Bitten  *outcomeJSON `json:"bitten,omitempty"`
	}
	list := []row{}
	for _, r := range results {
		s := r.Scenario
		line := row{Name: s.Name, Rows: s.Rows, What: s.What, Rules: s.Rules, Verdict: r.Verdict, Why: r.Why, Until: s.Until, Subject: r.Subject.json()}
		if s.Bites.Subject != "" {
			line.Bites, line.Bitten = s.Bites.Subject, r.Bitten.json()
		}
		list = append(list, line)
	}
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(list)
}

func show(d time.Duration) string {
	if d == Never {
		return "never"
	}
	return d.Round(10 * time.Millisecond).String()
}
