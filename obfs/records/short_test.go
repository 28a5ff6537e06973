package records

import (
	"math/rand/v2"
	"slices"
	"testing"
)

// TestShort: no record is of a length that HTTP/2 does not have, and PADDING can fill what is
// missing.
func TestShort(t *testing.T) {
	for n := 26; n < 400; n++ {
		for range 50 {
			up, down := Request(n, rand.IntN), Answer(n, rand.IntN)
			if up < leastRequest && !slices.Contains([]int{26, 30, 34}, up) {
				t.Fatalf("a client's record of %d bytes becomes one of %d", n, up)
			}
			if down < leastAnswer {
				t.Fatalf("a relay's record of %d bytes becomes one of %d", n, down)
			}
			for _, m := range []int{up, down} {
				if m < n || m == n+1 || m > n && n >= leastAnswer || m >= leastAnswer+spreadAnswer && m != n {
					t.Fatalf("a record of %d bytes becomes one of %d", n, m)
				}
			}
		}
	}
	if got := Request(26+3, rand.IntN); got != 34 {
		t.Errorf("29 bytes become %d: PADDING of one byte there is none", got)
	}
}
