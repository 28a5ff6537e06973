package scenario

import (
	"context"
	"io"
	"math"
	"net"
	"net/http"
	"testing"
	"testing/synctest"
	"time"
)

func TestParseUsage(t *testing.T) {
	// From proc_pid_stat(5): utime and stime are the 14th and 15th field.
	const stat = "4242 (a) b (c) S 1 2 3 4 5 6 7 8 9 10 250 50 0 0 20 0 7 0 100 1000000 500 18446744073709551615"
	u, err := parseUsage(stat, "3000 500 100 1 0 400 0\n")
	if err != nil || u.busy != 3*time.Second || u.memory%400 != 0 || u.memory < 400*4096 {
		t.Errorf("%+v, %v", u, err)
	}
	for _, bad := range [][2]string{{"4242 (x) S 1 2", "1 2"}, {stat, "1"}, {"", ""}, {stat, "1 x 2"}, {stat, "1 2"}, {stat, "1 2 x"}} {
		if _, err := parseUsage(bad[0], bad[1]); err == nil {
			t.Errorf("no error for %q", bad)
		}
	}
}

func TestDarkness(t *testing.T) {
	for _, tt := range []struct {
		row       Row
		index, of int
		want      time.Duration
	}{
		{Row{}, 0, 1, 20 * time.Second},
		{Row{}, 0, 20, 5 * time.Second}, {Row{}, 19, 20, time.Minute}, {Row{}, 1, 3, 32500 * time.Millisecond},
		{Row{Long: true}, 0, 1, 10 * time.Minute},
	} {
		if got := (&Bout{Row: tt.row, Index: tt.index, Of: tt.of}).darkness(); got != tt.want {
			t.Errorf("%d of %d: %v, want %v", tt.index, tt.of, got, tt.want)
		}
	}
}

// feed writes to a gauge at some bytes each 10 ms until ctx ends.
func feed(ctx context.Context, g *Gauge, bytes func(age time.Duration) int) {
	begin := time.Now()
	for pause(ctx, 10*time.Millisecond) == nil {
		g.Write(make([]byte, bytes(time.Since(begin))))
	}
}

func TestRecovers(t *testing.T) {
	for _, tt := range []struct {
		name  string
		bytes func(time.Duration) int // of 10 ms; 10,000 are 8 Mbit/s
		whole float64
		// The window that is fast enough for the first time ends then.
		least, most float64
	}{
		{"never slow", func(time.Duration) int { return 10_000 }, 8, 1, 1.2},
		{"slow for 5 s", func(age time.Duration) int {
			if age < 5*time.Second {
				return 100
			}
			return 10_000
		}, 8, 5.4, 5.7},
		{"half at once", func(time.Duration) int { return 5_200 }, 8, 1, 1.2},
		{"less than half", func(time.Duration) int { return 4_500 }, 8, math.Inf(1), math.Inf(1)},
	} {
		synctest.Test(t, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			g := NewGauge(time.Now)
			go feed(ctx, g, tt.bytes)
			if got := recovers(ctx, g, time.Now(), tt.whole); got < tt.least || got > tt.most {
				t.Errorf("%s: after %.2f s, want %.1f to %.1f", tt.name, got, tt.least, tt.most)
			}
			cancel()
		})
	}
}

func TestRateOf(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		g := NewGauge(time.Now)
		go feed(ctx, g, func(age time.Duration) int {
			if age < 5*time.Second {
				return 0 // the beginning is not measured
			}
			return 10_000
		})
		got, err := rateOf(ctx, g, 13*time.Second, 8*time.Second)
		if err != nil || got < 7.9 || got > 8.1 {
			t.Errorf("%.2f Mbit/s, %v; want 8", got, err)
		}
		cancel()
	})
}

func TestSpring(t *testing.T) {
	s := newSpring()
	g := NewGauge(time.Now)
	if _, err := io.CopyN(g, s, 100_000); err != nil {
		t.Fatal(err)
	}
	s.end()
	n, err := io.Copy(g, s)
	given := s.given.Load()
	if n != 0 || err != nil || given != 100_000 || g.Sum() != sumOf(given) {
		t.Errorf("after the end %d bytes, %v; given %d, arrived %d", n, err, given, g.Bytes())
	}
}

// A download from a spring ends when the spring does, with all that it gave.
func TestOriginSpring(t *testing.T) {
	var listeners [2]net.Listener
	for i := range listeners {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		listeners[i] = l
	}
	o, err := NewOrigin(listeners[0], listeners[1])
	if err != nil {
		t.Fatal(err)
	}
	defer o.Close()
	r, err := http.Get("http://" + listeners[0].Addr().String() + "/spring/one")
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	g := NewGauge(time.Now)
	if _, err := io.CopyN(g, r.Body, 1_000_000); err != nil {
		t.Fatal(err)
	}
	s := o.spring("one")
	s.end()
	if _, err := io.Copy(g, r.Body); err != nil {
		t.Fatal(err)
	}
	if given := s.given.Load(); g.Bytes() != given || given < 1_000_000 || g.Sum() != sumOf(given) {
		t.Errorf("given %d bytes, arrived %d", given, g.Bytes())
	}
	if o.spring("two") == s {
		t.Error("two names, one spring")
	}
}
