package censor

import (
	"math/rand/v2"
	"testing"
	"time"
)

const ms = time.Millisecond

func newLine(l Link) *line {
	return &line{Link: l, random: rand.New(rand.NewPCG(1, 2))}
}

func TestCheck(t *testing.T) {
	for _, tt := range []struct {
		link Link
		ok   bool
	}{
		{Link{}, true},
		{Link{Delay: ms, Jitter: ms, Loss: 1, Reorder: 1, Rate: 1, Queue: 1}, true},
		{Link{Delay: -1}, false},
		{Link{Jitter: -1}, false},
		{Link{Loss: 1.01}, false},
		{Link{Loss: -0.1}, false},
		{Link{Reorder: 2}, false},
		{Link{Rate: -1}, false},
		{Link{Queue: -1}, false},
	} {
		if err := tt.link.Check(); (err == nil) != tt.ok {
			t.Errorf("%+v: %v, want ok %v", tt.link, err, tt.ok)
		}
	}
}

// A rate gives each packet its time on the wire, after those before it, and
// the queue takes what fits: 1000 bytes at 8 Mbit/s are 1 ms.
func TestRateAndQueue(t *testing.T) {
	l := newLine(Link{Delay: 50 * ms, Rate: 8_000_000, Queue: 3000})
	for i, want := range []struct {
		now, due time.Duration
		fate     fate
	}{
		{0, 51 * ms, arrives},
		{0, 52 * ms, arrives},
		{0, 53 * ms, arrives},
		{0, 0, overflows},
		{ms / 2, 0, overflows}, // half of the first is still here
		{ms, 54 * ms, arrives},
		{100 * ms, 151 * ms, arrives},
	} {
		due, f := l.admit(want.now, 1000)
		if due != want.due || f != want.fate {
			t.Errorf("packet %d: due %v, fate %d; want %v, %d", i, due, f, want.due, want.fate)
		}
	}
}

func TestDefaultQueue(t *testing.T) {
	for rate, want := range map[int64]int{64_000: 24_000, 10_000_000: 125_000} {
		if got := (Link{Rate: rate}).queue(); got != want {
			t.Errorf("%d bit/s: %d bytes, want %d", rate, got, want)
		}
	}
}

// However jitter and the delay change, nothing overtakes, and jitter spreads
// over its whole range.
func TestJitterKeepsOrder(t *testing.T) {
	const delay, jitter = 50 * ms, 10 * ms
	l := newLine(Link{Delay: delay, Jitter: jitter})
	var before, least, most time.Duration = 0, time.Hour, 0
	for i := range 100_000 {
		now := time.Duration(i) * 100 * time.Microsecond
		due, _ := l.admit(now, 100)
		if due < before {
			t.Fatalf("packet %d arrives at %v, the one before at %v", i, due, before)
		}
		before, least, most = due, min(least, due-now), max(most, due-now)
	}
	if least < delay-jitter || least > delay-jitter*8/10 || most > delay+jitter || most < delay+jitter*8/10 {
		t.Errorf("delays from %v to %v, want nearly 40 ms to 60 ms", least, most)
	}
	at := 10 * time.Second
	l.Link = Link{}
	if due, _ := l.admit(at, 100); due < before {
		t.Errorf("a shorter link overtakes: %v after %v", due, before)
	}
}

func TestLossAndReorder(t *testing.T) {
	l := newLine(Link{Delay: 50 * ms, Loss: 0.05, Reorder: 0.02})
	const packets = 100_000
	var gone, overtaken int
	for i := range packets {
		now := time.Duration(i) * 100 * time.Microsecond
		due, f := l.admit(now, 100)
		switch {
		case f == lost:
			gone++
		case due-now == 55*ms:
			overtaken++
		case due-now != 50*ms:
			t.Fatalf("packet %d takes %v", i, due-now)
		}
	}
	// Five standard deviations of the binomial distribution.
	if gone < 4655 || gone > 5345 {
		t.Errorf("%d of %d lost, want 5 %%", gone, packets)
	}
	if overtaken < 1684 || overtaken > 2116 {
		t.Errorf("%d of %d overtaken, want 2 %% of 95 %%", overtaken, packets)
	}
}

func TestFlight(t *testing.T) {
	f := flight{mtu: 100}
	random := rand.New(rand.NewPCG(3, 4))
	for range 1000 {
		f.push(f.get(), time.Duration(random.IntN(50)))
	}
	batch := make([]*packet, 0, 7)
	var last packet
	landed := 0
	for {
		due, any := f.next()
		if !any {
			break
		}
		if got := f.land(batch[:0], due-1); len(got) != 0 {
			t.Fatalf("%d landed early", len(got))
		}
		for _, p := range f.land(batch[:0], due) {
			if p.due < last.due || p.due == last.due && p.serial < last.serial {
				t.Fatalf("%v/%d after %v/%d", p.due, p.serial, last.due, last.serial)
			}
			last = *p
			f.put(p)
			landed++
		}
	}
	if landed != 1000 || len(f.idle) != 1000 {
		t.Errorf("%d landed, %d buffers came back, want 1000", landed, len(f.idle))
	}
}
