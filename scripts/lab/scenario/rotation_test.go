package scenario

import (
	"bytes"
	"encoding/json"
	"math"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestSpread(t *testing.T) {
	count := func(n int) (v []float64) {
		for i := range n {
			v = append(v, float64(n-i)) // not sorted
		}
		return v
	}
	never := math.Inf(1)
	for _, tt := range []struct {
		name   string
		values []float64
		want   Spread
	}{
		{"none", nil, Spread{}},
		{"only gaps", []float64{math.NaN()}, Spread{}},
		{"one", []float64{3}, Spread{1, 3, 3, 3, 3}},
		{"two", []float64{2, 1}, Spread{2, 1, 2, 2, 1}},
		{"19", count(19), Spread{19, 10, 19, 19, 1}},
		{"20: one may be worse than p95", count(20), Spread{20, 10, 19, 20, 1}},
		{"21", count(21), Spread{21, 11, 20, 21, 2}},
		{"100", count(100), Spread{100, 50, 95, 100, 5}},
		{"a gap is no value", []float64{1, math.NaN(), 2}, Spread{2, 1, 2, 2, 1}},
		{"never is the worst", []float64{never, 1, 2}, Spread{3, 2, never, never, 1}},
	} {
		if got := spread(tt.values); got != tt.want {
			t.Errorf("%s: %+v, want %+v", tt.name, got, tt.want)
		}
	}
	v := []float64{2, 1}
	if spread(v); v[0] != 2 {
		t.Error("the caller's values were sorted")
	}
}

// good is a trial in which all goes well, within a second.
func good() Trial {
	return Trial{
		Down: Transfer{Fate: Survived, Stall: time.Second}, Up: Transfer{Fate: Survived, Stall: 2 * time.Second},
		Page: time.Second, Over: "quic", Figures: []Figure{{"rate", "Mbit/s", 20}, {"after", "s", 3}},
	}
}

func TestJudgeRow(t *testing.T) {
	// with are n good trials, the last bad of which are changed.
	with := func(n, bad int, change func(*Trial)) []Trial {
		all := make([]Trial, n)
		for i := range all {
			if all[i] = good(); i >= n-bad {
				change(&all[i])
			}
		}
		return all
	}
	fine := func(*Trial) {}
	stall := func(t *Trial) { t.Down.Stall = 3 * time.Second }
	rate := func(t *Trial) { t.Figures[0].Value = 10 }
	all := Limits{
		Stall: time.Second, Page: time.Second, Over: "quic",
		Figures: []Bound{{"rate", true, 17}, {"after", false, 10}},
	}
	for _, tt := range []struct {
		name   string
		want   Limits
		trials []Trial
		expect Verdict
		why    string
	}{
		{"met", all, with(20, 0, fine), Met, ""},
		{"one of twenty stalls", all, with(20, 1, stall), Met, ""},
		{"two of twenty stall", all, with(20, 2, stall), Missed, "stall of the download: p95 3.00 s"},
		{"one of ten stalls", all, with(10, 1, stall), Missed, "stall of the download"},
		{"a stall that nobody judges", Limits{}, with(3, 3, stall), Met, ""},
		{"one of twenty is broken", all, with(20, 1, func(t *Trial) { t.Up.Fate = Broken }), Missed, "19 of 20 survived"},
		{"spoiled", Limits{}, with(3, 1, func(t *Trial) { t.Down.Fate = Spoiled }), Missed, "2 of 3 survived"},
		{"slow", Limits{}, with(3, 1, func(t *Trial) { t.Down.Fate = Slow }), Missed, "2 of 3 survived"},
		{"no page once", all, with(20, 1, func(t *Trial) { t.Page = Never }), Met, ""},
		{"no page twice", all, with(20, 2, func(t *Trial) { t.Page = Never }), Missed, "new page: p95 never"},
		{"no page asked for", all, with(2, 2, func(t *Trial) { t.Page = 0 }), Missed, "new page"},
		{"no transfers", all, with(2, 2, func(t *Trial) { t.Down, t.Up = Transfer{}, Transfer{} }), Missed, "stall"},
		{"over another transport", all, with(20, 1, func(t *Trial) { t.Over = "mirror" }), Missed, "mirror, wanted quic"},
		{"over two", all, with(2, 2, func(t *Trial) { t.Over = "mirror+quic" }), Met, ""},
		{"one of twenty is slow", all, with(20, 1, rate), Missed, "rate: p5 10 Mbit/s, wanted at least 17 Mbit/s"},
		{"one of twenty is late", all, with(20, 1, func(t *Trial) { t.Figures[1].Value = 30 }), Met, ""},
		{"all are late", all, with(2, 2, func(t *Trial) { t.Figures[1].Value = math.Inf(1) }), Missed, "after: p95 never"},
		{"not measured", all, with(2, 1, func(t *Trial) { t.Figures = nil }), Missed, "rate: measured 1 times in 2 trials"},
		{"moot", all, with(20, 1, func(t *Trial) { t.Moot = "no packet was touched"; t.Down.Fate = Broken }), Toothless, "trial 20: no packet"},
	} {
		got := JudgeRow(Row{Want: tt.want}, tt.trials)
		why := strings.Join(got.Why, "; ")
		if got.Verdict != tt.expect || !strings.Contains(why, tt.why) || (got.Verdict == Met) != (why == "") {
			t.Errorf("%s: %s because of %q, want %s because of %q", tt.name, got.Verdict, why, tt.expect, tt.why)
		}
	}
}

// What misses is bold in the table, and what never came is null for programs.
func TestWriteRotation(t *testing.T) {
	late := good()
	late.Down.Stall, late.Page, late.Figures[0].Value, late.Over = 12*time.Second, Never, math.Inf(1), ""
	row := Row{
		Name: "row", Rows: []string{"R1"}, What: "it rains",
		Want: Limits{Stall: 2 * time.Second, Page: 2 * time.Second, Figures: []Bound{{"after", false, 10}}},
	}
	var b bytes.Buffer
	if err := WriteRotation(&b, []Tally{JudgeRow(row, []Trial{good(), late}), JudgeRow(Row{Name: "other"}, []Trial{{Page: 0}})}); err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{
		"| row | it rains | 2 | 2 of 2 | 1.00 s, **12.0 s**, 12.0 s (<= 2s) | 2.00 s, 2.00 s, 2.00 s | 1.00 s, **never**, never (<= 2s) | rate 20 Mbit/s (20 .. +Inf); after 3.00 s (3 .. 3) (<= 10) | quic 1, nothing 1 | **MISSED** |\n",
		"| other |  | 1 | - | - | - | - | - | nothing | met |\n",
		"* row (R1), MISSED: stall of the download: p95 12.0 s, wanted 2s\n",
	} {
		if !strings.Contains(b.String(), line) {
			t.Errorf("not in the table: %s", line)
		}
	}
	if t.Failed() {
		t.Log(b.String())
	}
	b.Reset()
	if err := WriteRotationJSON(&b, []Tally{JudgeRow(row, []Trial{good(), late})}); err != nil {
		t.Fatal(err)
	}
	var rows []struct {
		Name    string
		Verdict Verdict
		Trials  []struct {
			Asked   bool                `json:"page_asked"`
			Page    *int64              `json:"page_ms"`
			Down    struct{ Fate Fate } `json:"download"`
			Figures map[string]*float64
		}
	}
	if err := json.Unmarshal(b.Bytes(), &rows); err != nil {
		t.Fatal(err)
	}
	first, second := rows[0].Trials[0], rows[0].Trials[1]
	if rows[0].Name != "row" || rows[0].Verdict != Missed || *first.Page != 1000 || *first.Figures["rate"] != 20 || first.Down.Fate != Survived {
		t.Errorf("%s", b.String())
	}
	if !second.Asked || second.Page != nil || second.Figures["rate"] != nil || *second.Figures["after"] != 3 {
		t.Errorf("what never came: %s", b.String())
	}
}

func TestMark(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := NewGauge(time.Now)
		pause := func(d time.Duration) { <-time.After(d) }
		g.Mark() // before the first byte nothing is silent
		pause(time.Minute)
		if g.Longest() != 0 || !g.Last().IsZero() {
			t.Error("silent before the first byte")
		}
		g.Write([]byte("a"))
		pause(5 * time.Second)
		g.Mark()
		pause(2 * time.Second)
		if got := g.Longest(); got != 2*time.Second {
			t.Errorf("silent for %v since the mark, want 2s", got)
		}
		g.Write([]byte("b"))
		pause(time.Second)
		if got := g.Longest(); got != 2*time.Second || time.Since(g.Last()) != time.Second {
			t.Errorf("longest %v, last %v ago", got, time.Since(g.Last()))
		}
	})
}
