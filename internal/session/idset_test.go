package session

import (
	"math/rand/v2"
	"testing"
)

func TestIDSet(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 1))
	for range 200 {
		var s idSet
		want := make(map[uint64]bool)
		for range 300 {
			n := uint64(rng.IntN(100))
			if s.has(n) != want[n] || s.add(n) == want[n] {
				t.Fatalf("%d: set and map differ: %v", n, s.ranges)
			}
			want[n] = true
			for i, r := range s.ranges {
				if r[0] >= r[1] || i > 0 && s.ranges[i-1][1] >= r[0] {
					t.Fatalf("ranges %v", s.ranges)
				}
			}
		}
	}
}

// Gaps are bounded: the oldest close, as if their ids had been used.
func TestIDSetGaps(t *testing.T) {
	var s idSet
	for n := uint64(1); n < 10000; n += 2 {
		if !s.add(n) {
			t.Fatalf("%d was there", n)
		}
	}
	if len(s.ranges) > maxRanges {
		t.Errorf("%d ranges", len(s.ranges))
	}
	if !s.has(2) || s.has(9998) {
		t.Error("the wrong gaps were closed")
	}
	if s.has(1<<32 - 1) {
		t.Error("a number that never came")
	}
}
