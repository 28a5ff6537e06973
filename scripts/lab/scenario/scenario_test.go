package scenario

import (
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestGauge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := NewGauge(time.Now)
		pause := func(d time.Duration) { <-time.After(d) }
		pause(time.Minute) // before the first byte nothing is silent
		g.Write([]byte("ab"))
		pause(2 * time.Second)
		g.Write([]byte("c"))
		pause(time.Second)
		if got := g.Longest(); got != 2*time.Second {
			t.Errorf("longest silence %v, want 2s", got)
		}
		pause(2 * time.Second)
		if got := g.Longest(); got != 3*time.Second {
			t.Errorf("longest silence %v while it lasts, want 3s", got)
		}
		g.End()
		pause(time.Hour)
		if got := g.Longest(); got != 3*time.Second {
			t.Errorf("longest silence %v after the end, want 3s", got)
		}
		if g.Bytes() != 3 || g.Sum() != "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad" {
			t.Errorf("%d bytes, SHA-256 %s", g.Bytes(), g.Sum())
		}
	})
}

func TestJudge(t *testing.T) {
	good := Outcome{
		Page: time.Second, Says: []string{"reset"},
		Down: Transfer{Fate: Survived, Stall: time.Second}, Up: Transfer{Fate: Survived},
	}
	dead := Outcome{Page: Never, PageError: "curl: (28) timed out", Hits: 7, Down: Transfer{Fate: Silent}, Up: Transfer{Fate: Broken}}
	want := Want{Page: 2 * time.Second, Running: Survived, Stall: 2 * time.Second}
	bites := Bite{"direct", Want{Page: Never, Running: Dead}}
	with := func(change func(*Outcome)) Outcome {
		o := good
		change(&o)
		return o
	}
	for _, tt := range []struct {
		name   string
		s      Scenario
		busel  Outcome
		bitten Outcome
		want   Verdict
	}{
		{"met", Scenario{Want: want, Bites: bites}, good, dead, Met},
		{"slow page", Scenario{Want: want}, with(func(o *Outcome) { o.Page = 3 * time.Second }), dead, Missed},
		{"no page", Scenario{Want: want}, with(func(o *Outcome) { o.Page = Never }), dead, Missed},
		{"long stall", Scenario{Want: want}, with(func(o *Outcome) { o.Up.Stall = 3 * time.Second }), dead, Missed},
		{"broken", Scenario{Want: want}, with(func(o *Outcome) { o.Down.Fate = Broken }), dead, Missed},
		{"spoiled is not dead", Scenario{Want: Want{Running: Dead}}, with(func(o *Outcome) { o.Down.Fate = Spoiled }), dead, Missed},
		{"says nothing", Scenario{Want: Want{Says: "frozen"}}, good, dead, Missed},
		{"says it", Scenario{Want: Want{Says: "reset"}}, good, dead, Met},
		{"page where none may be", Scenario{Want: Want{Page: Never}}, good, dead, Missed},
		{"does not bite", Scenario{Want: want, Bites: bites}, good, good, Toothless},
		{"nothing touched", Scenario{Want: want, Bites: bites}, good, func() Outcome { o := dead; o.Hits = 0; return o }(), Toothless},
		{"bites for another reason", Scenario{Bites: Bite{"direct", Want{PageError: "reset"}}}, good, dead, Toothless},
		{"known", Scenario{Want: want, Until: "quic", Now: Want{Page: Never, Running: Dead}}, dead, dead, Known},
		{"unexpected", Scenario{Want: want, Until: "quic", Now: Want{Page: Never}}, good, dead, Unexpected},
		{"another reason", Scenario{Want: want, Until: "quic", Now: Want{Page: Never, Says: "reset"}}, dead, dead, Missed},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, why := Judge(tt.s, tt.busel, tt.bitten)
			if got != tt.want {
				t.Errorf("%s, want %s: %q", got, tt.want, why)
			}
			if (got == Met) != (len(why) == 0) {
				t.Errorf("%s with the reasons %q", got, why)
			}
		})
	}
	if !slices.Equal([]bool{Met.Bad(), Known.Bad(), Missed.Bad(), Unexpected.Bad(), Toothless.Bad()}, []bool{false, false, true, true, true}) {
		t.Error("Bad is wrong")
	}
}

func TestFailures(t *testing.T) {
	day := func(first time.Duration) Day { return Day{First: first} }
	failures := Failures([]Chapter{
		{Stage: Stage{Title: "shut"}, Subject: day(Never)},
		{Stage: Stage{Title: "good", Passable: true}, Subject: day(time.Second)},
		{Stage: Stage{Title: "late", Passable: true}, Subject: day(3 * time.Second)},
		{Stage: Stage{Title: "none", Passable: true}, Subject: day(Never)},
	}, 2*time.Second)
	if len(failures) != 2 || !strings.HasPrefix(failures[0], "late: ") || !strings.HasPrefix(failures[1], "none: ") {
		t.Errorf("%q", failures)
	}
}

func TestMinutes(t *testing.T) {
	const s = time.Second
	story := Story{Stages: []Stage{
		{Title: "open", For: 50 * s, Passable: true},
		{Title: "shut", For: 40 * s},
		{Title: "slow", For: 40 * s, Passable: true},
		{Title: "open again", For: 20 * s, Passable: true},
		{Title: "shut again", For: 70 * s},
		{Title: "the end", For: 7 * s, Passable: true},
	}}
	told := Told{Subject: []time.Duration{2 * s, 59 * s, 125 * s, 228 * s}, Direct: []time.Duration{3 * s}}
	got := story.Minutes(told, 5*s)
	want := []Served{
		{45 * s, 2, 1},
		{25 * s, 0, 0}, // from 95 s on
		{30 * s, 1, 0},
		{2 * s, 1, 0}, // from 225 s on; the last minute ends at 227 s
	}
	if !slices.Equal(got, want) {
		t.Errorf("%+v, want %+v", got, want)
	}
	if failures := Barren(got); len(failures) != 1 || !strings.HasPrefix(failures[0], "minute 2: ") {
		t.Errorf("%q", failures)
	}
	got[2].Subject, got[3].Subject = 0, 0
	if failures := Barren(got); len(failures) != 2 { // two seconds demand nothing
		t.Errorf("%q", failures)
	}
}
