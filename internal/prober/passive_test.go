//go:build linux

package prober

import (
	"fmt"
	"testing"
	"time"
)

// recorded makes a recording of records: negative sizes are the client's.
func recorded(end string, sizes ...int) *Recording {
	r := &Recording{ServerEnd: end}
	for _, n := range sizes {
		up := n < 0
		n = max(n, -n)
		r.Pass(up, append([]byte{recordData, 3, 3, byte(n >> 8), byte(n)}, make([]byte, n)...), 0)
	}
	return r
}

func TestPassive(t *testing.T) {
	closing := func(a, b *Recording) []Difference { return Closing(a, b, 50*time.Millisecond) }
	late := recorded("FIN", 500, 39, 24)
	late.ServerEndAt = 2 * time.Second
	cycle := func(n int, sizes ...int) (out []int) {
		for range n {
			out = append(out, sizes...)
		}
		return out
	}
	for _, tt := range []struct {
		compare       func(a, b *Recording) []Difference
		genuine, live *Recording
		want          string
	}{
		{Opening, recorded("", 900, -53, 266, 282, 57, 3000), recorded("", 900, -53, 282, 266, 57, 1000), "[]"},
		{Opening, recorded("", 900, -53, 266, 266, 57), recorded("", 900, -53, 700, 266, 266, 57), "[after the client's Finished: 2 of 266 bytes | 1 of 700 bytes]"},
		{Opening, recorded("", 900, -53, 266, 266, 57), recorded("", 900, -53, 266, 700, 266), "[after the client's Finished: 2 of 266 bytes | 1 of 266 bytes]"},
		{Opening, recorded("", 900, -53, 266, 266, 57), recorded("", 900, -53, 57), "[after the client's Finished: 2 of 266 bytes | 1 of 57 bytes]"},
		{Opening, recorded("", 900, -53, 266), recorded("", 900), "[after the client's Finished: 1 of 266 bytes | the client did not finish]"},
		{Bulk, recorded("", cycle(40, 16401, 16401, 53)...), recorded("", cycle(100, 16401, 16401, 53)...), "[]"},
		{Bulk, recorded("", cycle(40, 16401, 16401, 53)...), recorded("", append([]int{100, 900, 40}, cycle(90, 16401, 53, 16401)...)...), "[]"},
		{Bulk, recorded("", cycle(40, 16401, 16401, 53)...), recorded("", cycle(100, 16401)...),
			"[bulk records: 16401-16401-53 33%, 16401-53-16401 33%, 53-16401-16401 33% | 16401-16401-16401 100%]"},
		{Bulk, recorded("", cycle(40, 16401, 16401, 53)...), recorded("", cycle(40, 16401, 16401, 53, 53)...),
			"[bulk records: 16401-16401-53 33%, 16401-53-16401 33%, 53-16401-16401 33% | 16401-16401-53 25%, 16401-53-53 25%, 53-16401-16401 25%, 53-53-16401 25%]"},
		{Bulk, recorded("", cycle(40, 16401, 16401, 53)...), recorded("", cycle(5, 16401)...), "[bulk records: 120 | 5, too few to compare]"},
		{closing, recorded("FIN", 500, 39, 24), recorded("FIN", 700, 700, 39, 24), "[]"},
		{closing, recorded("FIN", 500, 39, 24), recorded("RST", 500, 39, 24), "[the server's end: [39 24], then FIN after 0s | [39 24], then RST after 0s]"},
		{closing, recorded("FIN", 500, 39, 24), recorded("", 500, 39, 24), "[the server's end: [39 24], then FIN after 0s | [39 24], then open after 0s]"},
		{closing, recorded("FIN", 500, 39, 24), recorded("FIN", 24), "[the server's end: [39 24], then FIN after 0s | [24], then FIN after 0s]"},
		{closing, recorded("FIN", 500, 39, 24), late, "[the server's end: [39 24], then FIN after 0s | [39 24], then FIN after 2s]"},
	} {
		if got := fmt.Sprint(tt.compare(tt.genuine, tt.live)); got != tt.want {
			t.Errorf("got  %s\nwant %s", got, tt.want)
		}
	}
	for _, tt := range []struct {
		live Answer
		want int
	}{
		{Answer{"23:0303:19", "EOF", 40 * time.Millisecond}, 0},
		{Answer{"23:0303:19", "EOF", time.Second}, 1},
		{Answer{"23:0303:19", "connection reset by peer", 0}, 1},
		{Answer{"", "EOF", 0}, 1},
	} {
		if got := Flipped(Answer{"23:0303:19", "EOF", 0}, tt.live, 50*time.Millisecond); len(got) != tt.want {
			t.Errorf("%v: %d differences, want %d", tt.live, len(got), tt.want)
		}
	}
}

// A recording is the same however its bytes were cut on the way.
func TestRecordingPieces(t *testing.T) {
	whole := append(append([]byte{22, 3, 1, 0, 3, 1, 2, 3}, 20, 3, 3, 0, 1, 1), 23, 3, 3, 0, 0, 23, 3, 3, 0, 2, 9)
	for n := 1; n <= len(whole); n++ {
		var r Recording
		for i := 0; i < len(whole); i += n {
			r.Pass(true, whole[i:min(i+n, len(whole))], 0)
		}
		if got, want := fmt.Sprint(r.Records), "[{true 22 3 0s} {true 20 1 0s} {true 23 0 0s} {true 23 2 0s}]"; got != want {
			t.Errorf("in pieces of %d: %s, want %s", n, got, want)
		}
		if got := fmt.Sprint(r.Flight()); got != "[22 3 1 0 3 1 2 3]" {
			t.Errorf("in pieces of %d: the flight is %s", n, got)
		}
	}
}
