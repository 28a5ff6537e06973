package censor

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"time"
)

// Link is one direction of the way between censor and world. The zero value is
// a perfect one.
type Link struct {
	Delay time.Duration
	// Jitter lets the delay wander by up to so much in both directions, never
	// so fast that a packet overtakes another.
	Jitter time.Duration
	// Loss is the part of the packets that get lost behind the queue, 0 to 1.
	Loss float64
	// Reorder is the part of the packets that stay behind and are overtaken, by
	// those of a tenth of Delay, at least 1 ms.
	Reorder float64
	// Rate in bit/s of whole IP packets; 0 is unlimited.
	Rate int64
	// Queue is how many bytes wait for Rate, the packet on the wire included;
	// what finds it full is dropped. 0 means 100 ms, and 16 packets at least.
	Queue int
}

// Check reports values out of range.
func (l Link) Check() error {
	var all []error
	if l.Delay < 0 || l.Jitter < 0 {
		all = append(all, errors.New("delay and jitter must not be negative"))
	}
	for _, part := range []struct {
		name  string
		value float64
	}{{"loss", l.Loss}, {"reorder", l.Reorder}} {
		if !(part.value >= 0 && part.value <= 1) {
			all = append(all, fmt.Errorf("%s %g is not between 0 and 1", part.name, part.value))
		}
	}
	if l.Rate < 0 || l.Queue < 0 {
		all = append(all, errors.New("rate and queue must not be negative"))
	}
	return errors.Join(all...)
}

// defaultMTU is Ethernet's, in bytes.
const defaultMTU = 1500

const (
	defaultQueueTime  = 100 * time.Millisecond
	defaultQueueBytes = 16 * defaultMTU
)

// queue is the size that is meant.
func (l Link) queue() int {
	if l.Queue > 0 {
		return l.Queue
	}
	return max(defaultQueueBytes, int(float64(l.Rate)/8*defaultQueueTime.Seconds()))
}

// fate is what a link does to a packet.
type fate uint8

const (
	arrives   fate = iota
	lost           // on the way
	overflows      // the queue was full
)

// line is a link at work. Times are those of the censor's clock.
type line struct {
	Link
	random *rand.Rand
	wander wander
	free   time.Duration // when all that was queued has been sent
	last   time.Duration // the latest arrival that was promised
}

// admit says when a packet of so many bytes arrives, if it does.
func (l *line) admit(now time.Duration, size int) (due time.Duration, f fate) {
	due = now
	if l.Rate > 0 {
		start := max(l.free, now)
		waiting := (start - now).Seconds() * float64(l.Rate) / 8
		if int(waiting)+size > l.queue() {
			return 0, overflows
		}
		l.free = start + time.Duration(float64(size)*8/float64(l.Rate)*float64(time.Second))
		due = l.free
	}
	if l.Loss > 0 && l.random.Float64() < l.Loss {
		return 0, lost
	}
	due += l.Delay
	if l.Jitter > 0 {
		due = max(now, due+l.wander.at(now, l.Jitter, l.random))
	}
	if l.Reorder > 0 && l.random.Float64() < l.Reorder {
		return max(due, l.last) + max(time.Millisecond, l.Delay/10), arrives
	}
	l.last = max(l.last, due) // a shorter link does not overtake the longer one it was
	return l.last, arrives
}

// inject says when a packet that is sent from here after so long arrives: like
// one that the line was free for.
func (l *line) inject(now, after time.Duration) time.Duration {
	return max(l.last, now+l.Delay) + after
}

// wander is a delay that goes from one random point to the next. Points within
// ±j that are 2j apart in time make no slope steeper than 1, so that a packet
// may catch up with the one before it, but never passes.
type wander struct {
	from, to   time.Duration
	begin, end time.Duration
}

func (w *wander) at(now, j time.Duration, random *rand.Rand) time.Duration {
	point := func() time.Duration { return time.Duration(random.Int64N(int64(2*j)+1)) - j }
	switch {
	case now >= w.end+2*j: // the first, or nothing passed for long
		*w = wander{from: point(), to: point(), begin: now, end: now + 2*j}
	case now >= w.end:
		*w = wander{from: w.to, to: point(), begin: w.end, end: w.end + 2*j}
	}
	part := float64(now-w.begin) / float64(w.end-w.begin)
	return w.from + time.Duration(part*float64(w.to-w.from))
}
