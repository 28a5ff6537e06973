//go:build linux

package prober

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// The functions of this file compare what was recorded of a live connection,
// under suspicion to be a carrier, with a genuine visit to the same site. They
// see what shows to nobody who connects himself.

// recordData is the type of an encrypted record in TLS 1.3.
const recordData = 23

// Opening compares with what a server of TLS 1.3 begins after the client's
// Finished: with its tickets or settings, before it answers anything (THREATS.md,
// row P4). What is inserted before or between them, or is missing, shows.
func Opening(genuine, live *Recording) []Difference {
	a, b := genuine.opening(), live.opening()
	if a == b {
		return nil
	}
	return []Difference{{"after the client's Finished", a, b}}
}

// opening describes the first record after the client's Finished and how often
// it is repeated. That is all that does not depend on when the client asks.
func (r *Recording) opening() string {
	finished := slices.IndexFunc(r.Records, func(x Record) bool { return x.Up && x.Type == recordData })
	if finished < 0 {
		return "the client did not finish"
	}
	first, n := 0, 0
	for _, x := range r.Records[finished:] {
		switch size := ticket(x.Size); {
		case x.Up || x.Type != recordData:
		case n == 0:
			first, n = size, 1
		case size == first:
			n++
		default:
			return fmt.Sprintf("%d of %d bytes", n, first)
		}
	}
	return fmt.Sprintf("%d of %d bytes", n, first)
}

// bulkLeast is how many records make a cycle visible.
const bulkLeast = 60

// Bulk compares the cycle of record lengths in which a large response comes
// (nginx over h2: 16401 16401 53). How often each length follows which two others
// may differ by a tenth of all: some of the records are not of the bulk.
func Bulk(genuine, live *Recording) []Difference {
	a, b := genuine.cycle(), live.cycle()
	if a == nil || b == nil {
		return []Difference{{"bulk records", fmt.Sprintf("%d", genuine.count()), fmt.Sprintf("%d, too few to compare", live.count())}}
	}
	apart := 0.0
	for k := range a {
		apart += max(0, a[k]-b[k])
	}
	if apart <= 0.1 {
		return nil
	}
	return []Difference{{"bulk records", usual(a), usual(b)}}
}

// count is the number of the server's encrypted records.
func (r *Recording) count() int { return len(r.sizes()) }

func (r *Recording) sizes() (sizes []int) {
	for _, x := range r.Records {
		if !x.Up && x.Type == recordData {
			sizes = append(sizes, x.Size)
		}
	}
	return sizes
}

// cycle is the share of each three lengths in a row, from the first record of
// full length to the last; nil if there are too few.
func (r *Recording) cycle() map[[3]int]float64 {
	full := func(n int) bool { return n > 16000 }
	sizes := r.sizes()
	first := slices.IndexFunc(sizes, full)
	if first < 0 {
		return nil
	}
	last := len(sizes) - 1
	for !full(sizes[last]) {
		last--
	}
	sizes = sizes[first : last+1]
	if len(sizes) < bulkLeast {
		return nil
	}
	shares := map[[3]int]float64{}
	for i := range sizes[2:] {
		shares[[3]int(sizes[i:i+3])] += 1 / float64(len(sizes)-2)
	}
	return shares
}

// usual names the triples that make up most of the records.
func usual(shares map[[3]int]float64) string {
	var out []string
	for k, share := range shares {
		if share > 0.05 {
			out = append(out, fmt.Sprintf("%d-%d-%d %.0f%%", k[0], k[1], k[2], 100*share))
		}
	}
	slices.Sort(out)
	return strings.Join(out, ", ")
}

// Closing compares how a server ends a connection that it is tired of: its last
// two records (over h2 GOAWAY and close_notify), FIN or RST, and how long after
// the records.
func Closing(genuine, live *Recording, tolerance time.Duration) []Difference {
	a, late := genuine.closing()
	b, later := live.closing()
	if a == b && (late-later).Abs() <= tolerance {
		return nil
	}
	at := func(s string, d time.Duration) string {
		return fmt.Sprintf("%s after %v", s, d.Round(time.Millisecond))
	}
	return []Difference{{"the server's end", at(a, late), at(b, later)}}
}

func (r *Recording) closing() (what string, late time.Duration) {
	sizes := r.sizes()
	what = fmt.Sprint(sizes[max(0, len(sizes)-2):])
	if r.ServerEnd == "" {
		return what + ", then open", 0
	}
	for _, x := range r.Records {
		if !x.Up {
			late = r.ServerEndAt - x.At
		}
	}
	return what + ", then " + r.ServerEnd, late
}

// Flipped compares the answers to a flipped bit in a record of the client (row
// P3: an alert of a bad record must come, and the end with it).
func Flipped(genuine, live Answer, tolerance time.Duration) []Difference {
	d := Difference{"a flipped bit", genuine.String(), live.String()}
	if genuine.Records == live.Records && genuine.End == live.End && (genuine.After-live.After).Abs() <= tolerance {
		return nil
	}
	return []Difference{d}
}

func (a Answer) String() string {
	return fmt.Sprintf("%s, then %s after %v", a.Records, a.End, a.After.Round(time.Millisecond))
}
