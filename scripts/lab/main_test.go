package main

import (
	"slices"
	"strings"
	"testing"
	"time"

	"busel/scripts/lab/rules"
	"busel/scripts/lab/scenario"
)

// known reports whether there is a rule file of that name.
func known(name string) bool {
	_, err := rules.Files.Open(name + ".toml")
	return err == nil
}

func TestTable(t *testing.T) {
	var names []string
	short := 0
	for _, s := range scenario.Table() {
		if slices.Contains(names, s.Name) {
			t.Errorf("two scenarios are called %s", s.Name)
		}
		names = append(names, s.Name)
		for _, r := range s.Rules {
			if !known(r) {
				t.Errorf("%s: no rules %q", s.Name, r)
			}
		}
		if len(s.Rows) == 0 || s.What == "" || s.Want == (scenario.Want{}) {
			t.Errorf("%s: rows, what and want must be said", s.Name)
		}
		if len(s.Rules) > 0 && s.Bites.Subject == "" {
			t.Errorf("%s: nobody proves that its rules bite", s.Name)
		}
		if (s.Until == "") != (s.Now == scenario.Want{}) {
			t.Errorf("%s: Until and Now belong together", s.Name)
		}
		if s.Cold && !s.Transfers && (s.Want.Running != "" || s.Bites.Want.Running != "" || s.Now.Running != "") {
			t.Errorf("%s: a cold scenario has no transfers to judge", s.Name)
		}
		if s.Short {
			short++
		}
	}
	for _, r := range scenario.Rotation() {
		if r.Short {
			short++
		}
		if r.Short && (r.Long || r.Loose().Want.Stall <= r.Want.Stall) {
			t.Errorf("%s is short and not made for it", r.Name)
		}
	}
	if short == 0 || short > 17 {
		t.Errorf("%d scenarios and rows are short: the selection must fit into two minutes", short)
	}
}

func TestRotation(t *testing.T) {
	var names []string
	for _, r := range scenario.Rotation() {
		if slices.Contains(names, r.Name) {
			t.Errorf("two rows are called %s", r.Name)
		}
		names = append(names, r.Name)
		for _, f := range r.Files() {
			if !known(f) {
				t.Errorf("%s: no rules %q", r.Name, f)
			}
		}
		if len(r.Rows) == 0 || r.What == "" {
			t.Errorf("%s: rows and what must be said", r.Name)
		}
		if c := r.Cost(); c < 1 || c > scenario.FullCost {
			t.Errorf("%s costs %d of %d", r.Name, c, scenario.FullCost)
		}
	}
	for _, tt := range []struct {
		o    options
		want []string // some that must be there, and none with "-"
	}{
		{options{}, []string{"rst-active", "deaths-bond", "-blackout-10m"}},
		{options{long: true}, []string{"rst-active", "blackout-10m"}},
		{options{short: true}, []string{"rst-active", "drop-active-udp", "-drop-active-tcp", "-blackout-10m"}},
		{options{rows: "idle,blackout-10m"}, []string{"idle", "blackout-10m", "-rst-active"}},
	} {
		rows, err := tt.o.chosenRows()
		for _, w := range tt.want {
			name, no := strings.CutPrefix(w, "-")
			if err != nil || slices.ContainsFunc(rows, func(r scenario.Row) bool { return r.Name == name }) == no {
				t.Errorf("%+v: chosen %d, %v; want %s", tt.o, len(rows), err, w)
			}
		}
	}
	if _, err := (&options{rows: "idle,nonsense"}).chosenRows(); err == nil {
		t.Error("a row that is not there is taken for one")
	}
}

// TestEveryRuleFileIsPlayed: a simulator that no scenario uses proves nothing.
func TestEveryRuleFileIsPlayed(t *testing.T) {
	var used []string
	for _, s := range scenario.Table() {
		used = append(used, s.Rules...)
	}
	for _, r := range scenario.Rotation() {
		used = append(used, r.Files()...)
	}
	for _, story := range scenario.Stories() {
		for _, stage := range story.Stages {
			used = append(used, stage.Rules...)
		}
	}
	files, err := rules.Files.ReadDir(".")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		name := f.Name()[:len(f.Name())-len(".toml")]
		if !slices.Contains(used, name) {
			t.Errorf("no scenario plays %s", name)
		}
	}
}

func TestStories(t *testing.T) {
	for _, s := range scenario.Stories() {
		for _, stage := range s.Stages {
			for _, r := range stage.Rules {
				if !known(r) {
					t.Errorf("%s: %s: no rules %q", s.Name, stage.Title, r)
				}
			}
		}
		if s.Length() < 9*time.Minute || s.Length() > 11*time.Minute {
			t.Errorf("%s takes %v, not ten minutes", s.Name, s.Length())
		}
	}
}
