package sample

import (
	"math/rand/v2"
	"testing"
)

// flows draws n flows as of a browser: an ECH payload of one of four lengths, what is
// always the same, and an answer whose length varies.
func flows(r *rand.Rand, n int, change func(Row)) (rows []Row) {
	for range n {
		row := Row{1923 + 32*r.IntN(4), -122, -1, -36, -900, 1, 53, 87, 466, -300 - r.IntN(800)}
		if change != nil {
			change(row)
		}
		rows = append(rows, row)
	}
	return rows
}

// TestLevel: samples of one distribution are told apart about as often as they may be.
func TestLevel(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	found := 0
	const tries = 100
	for range tries {
		if _, _, p := Apart(flows(r, 50, nil), flows(r, 50, nil), 199, r); p < 0.05 {
			found++
		}
	}
	if found > 14 { // 5 are expected; 15 or more come once in 10,000 runs
		t.Errorf("%d of %d", found, tries)
	}
}

// TestPower: what a wrong client does is found.
func TestPower(t *testing.T) {
	for _, tt := range []struct {
		name   string
		place  int
		change func(r *rand.Rand, row Row)
	}{
		{"a hello that is a byte longer", 0, func(_ *rand.Rand, row Row) { row[0]++ }},
		{"ECH payloads of one length", 0, func(_ *rand.Rand, row Row) { row[0] = 1923 }},
		{"requests of any length", 8, func(r *rand.Rand, row Row) { row[8] += r.IntN(24) }},
		{"half of the requests are longer", 8, func(r *rand.Rand, row Row) { row[8] += 20 * r.IntN(2) }},
		{"answers of one length", 9, func(_ *rand.Rand, row Row) { row[9] = -700 }},
		{"two records in another order", -1, func(_ *rand.Rand, row Row) { row[4], row[5] = row[5], row[4] }},
		{"a record less", -1, func(_ *rand.Rand, row Row) { copy(row[6:], row[7:]); row[9] = 0 }},
	} {
		r := rand.New(rand.NewPCG(3, 4))
		for range 5 {
			d, place, p := Apart(flows(r, 50, nil), flows(r, 50, func(row Row) { tt.change(r, row) }), 399, r)
			if p >= 0.01 || tt.place >= 0 && place != tt.place {
				t.Errorf("%s: %.2f apart at %d, p %.4f", tt.name, d, place, p)
			}
		}
	}
}

func TestNothing(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 1))
	if _, _, p := Apart(nil, flows(r, 3, nil), 199, r); p != 1 {
		t.Errorf("p is %f of no sample", p)
	}
	if d, _, p := Apart([]Row{{1, 2}, {1}}, []Row{{1, 0}, {1, 2, 0}}, 99, r); d != 0 || p != 1 {
		t.Errorf("%f apart, p %f: rows that are filled up with zeros", d, p)
	}
}
