// Package sample asks whether two samples of flows may be of one distribution.
//
// # Concept
//
// A flow is a [Row]: the sizes of its first records, upward ones positive, downward
// ones negative. For each place the Kolmogorov-Smirnov statistic says how far the two
// samples' distributions are apart, from 0 to 1: of the sizes, and of the sizes modulo
// 16, which show what is a little longer or shorter than the other's few sizes. The largest over all places is
// compared with what comes out when the flows are dealt to two samples at random
// (a permutation test), so the level holds whatever the distributions are, for the few
// sizes that a browser draws from, too, and for as many places as there are. Of two
// samples of 50 it finds, at 1 %, what differs in about two flows of five at one place;
// a size that is always the same may differ by a byte.
package sample

import (
	"math/rand/v2"
	"slices"
)

// Row is one flow. Rows that are too short are filled up with zeros.
type Row []int

// Apart returns how far the samples are apart at the place where they are most, which
// place that is, and how probable that much is if they are of one distribution: of so
// many random deals, which bound it from below. It returns 0, -1 and 1 if a sample is
// empty. The same r gives the same p.
func Apart(a, b []Row, deals int, r *rand.Rand) (distance float64, place int, p float64) {
	if len(a) == 0 || len(b) == 0 {
		return 0, -1, 1
	}
	all := slices.Concat(a, b)
	width := 0
	for _, row := range all {
		width = max(width, len(row))
	}
	places := make([]column, 0, 2*width)
	for i := range width {
		places = append(places, newColumn(all, i, func(n int) int { return n }), newColumn(all, i, func(n int) int { return n & 15 }))
	}
	first := make([]bool, len(all)) // of sample a
	for i := range a {
		first[i] = true
	}
	largest := func() (d float64, place int) {
		place = -1
		for i, c := range places {
			if x := c.apart(first, len(a)); place < 0 || x > d {
				d, place = x, i
			}
		}
		return d, place
	}
	distance, place = largest()
	place /= 2
	extreme := 1
	for range deals {
		r.Shuffle(len(first), func(i, j int) { first[i], first[j] = first[j], first[i] })
		if d, _ := largest(); d >= distance-1e-9 {
			extreme++
		}
	}
	return distance, place, float64(extreme) / float64(deals+1)
}

// column is one place of all rows: which rows come in the order of their sizes, and
// where a size's last one is.
type column struct {
	order []int
	last  []bool
}

func newColumn(rows []Row, place int, of func(int) int) column {
	at := func(i int) int {
		if place < len(rows[i]) {
			return of(rows[i][place])
		}
		return 0
	}
	c := column{make([]int, len(rows)), make([]bool, len(rows))}
	for i := range rows {
		c.order[i] = i
	}
	slices.SortFunc(c.order, func(i, j int) int { return at(i) - at(j) })
	for k := range c.order {
		c.last[k] = k+1 == len(rows) || at(c.order[k]) != at(c.order[k+1])
	}
	return c
}

// apart is the Kolmogorov-Smirnov statistic, with n rows in the first sample.
func (c column) apart(first []bool, n int) (d float64) {
	in, out := 0, 0
	for k, i := range c.order {
		if first[i] {
			in++
		} else {
			out++
		}
		if c.last[k] {
			x := float64(in)/float64(n) - float64(out)/float64(len(first)-n)
			d = max(d, x, -x)
		}
	}
	return d
}
