package rotate

import (
	"errors"
	"slices"
	"time"

	"busel/internal/wire"
	"busel/transport"
)

// Whether a second carrier carries more is found out by trying, while something
// large moves.
const (
	// sampleEvery is how often what moved is looked at.
	sampleEvery = 500 * time.Millisecond
	// In a large transfer something comes in all but one of bulkSamples in a row, and
	// at least bulkLeast a second: what a policer leaves comes in bursts.
	bulkSamples = 4
	bulkLeast   = 4 << 10 // bytes
	// A transfer that falls below a collapse-th of what it had been, twice throttled at
	// least, is throttled, if another way shows that more is possible.
	collapse = 4
	// ebb is how many samples show what a carrier carries now.
	ebb = 3
	// calmFor is how long after a carrier was left for that it shows whether another
	// one does better. A carrier's best rate fades by peakDecay with each sample.
	calmFor   = 3 * time.Second
	peakDecay = 0.98
	// A transfer must have lasted for trialAfter, and for poorAfter if next to nothing
	// moves: while carriers share the work everything else is slower, and TCP that lost
	// its first packets only seems throttled.
	trialAfter = 8 * time.Second
	poorAfter  = 4 * time.Second
	// A trial has trialReach to get its carrier, which then has trialWarm to get up
	// to speed before samples are taken.
	trialReach = 6 * time.Second
	trialWarm  = time.Second
	// With plainGain over soonSamples the carrier stays, and with less than before it
	// goes. Else it stays if gain is left over trialSamples: at 5 % loss single seconds
	// differ by a fifth, and a second connection adds as much.
	soonSamples  = 4
	plainGain    = 1.25 // of what moved before
	trialSamples = 8
	gain         = 1.08
	// After a trial with gain the next one waits trialNext, and so it does after the
	// first without, which is followed by one of the other kind. From the second on
	// it waits trialAgain, four times as long each time up to maxTrialAgain.
	trialNext     = 2 * time.Second
	trialAgain    = 20 * time.Second
	maxTrialAgain = 10 * time.Minute
	// A carrier that moves less than a slowShare-th of all, for slowSamples, holds up
	// more than it helps. If it moves less than throttled (the policers of row R5
	// leave 130..150 kbit/s) and did so before the others came, its path is taken for
	// throttled; else it only loses against the others.
	slowShare   = 8
	slowSamples = 4
	throttled   = 40 << 10 // bytes/s
)

var errThrottled = errors.New("another way is many times as fast")

// trial is the search for the number of carriers that carry most.
type trial struct {
	moved   uint64    // bytes on all carriers, ever
	seen    uint64    // of them at the last sample
	sampled time.Time // when
	rates   []float64 // of the last samples, bytes/s, the newest last
	best    float64   // over bulkSamples/2, in this transfer
	still   int       // samples in a row with nothing

	extra  int // carriers beyond the first that proved of use
	after  time.Time
	again  time.Duration
	lost   int  // trials without gain
	alike  bool // the next trial is of a carrier like the one in use
	begun  time.Time
	base   float64         // before the trial
	before map[uint32]bool // active carriers then
	n      uint32          // the carrier on trial
	least  uint32          // the one to do without first
	joined time.Time       // when it was active
	slow   map[uint32]int  // samples in a row in which a carrier was slow

	blamed  *Path     // for a collapse; nil if none is
	cleared *Path     // it was not to blame, in this transfer
	worth   float64   // what moved then, bytes/s
	calm    time.Time // when it shows whether that was right, and no other is blamed before
}

// mean of the last n samples.
func (t *trial) mean(n int) (sum float64) {
	n = min(n, len(t.rates))
	if n == 0 {
		return 0
	}
	for _, r := range t.rates[len(t.rates)-n:] {
		sum += r
	}
	return sum / float64(n)
}

// lower is the lower of the last two samples.
func (t *trial) lower() float64 {
	n := len(t.rates)
	return min(t.rates[n-1], t.rates[max(n-2, 0)])
}

// flow is what a carrier carried in the last samples, bytes/s.
func (h *held) flow() (sum float64) {
	for _, r := range h.flows {
		sum += r / float64(len(h.flows))
	}
	return sum
}

// bulk reports whether a large transfer is under way.
func (t *trial) bulk() bool {
	if len(t.rates) < bulkSamples {
		return false
	}
	none := 0
	for _, r := range t.rates[len(t.rates)-bulkSamples:] {
		if r == 0 {
			none++
		}
	}
	return none <= 1 && t.mean(bulkSamples) >= bulkLeast
}

// steady reports whether the transfer does not gather speed by itself.
func (t *trial) steady() bool {
	now, n := t.mean(2), len(t.rates)
	return n >= 4 && (now <= 1.15*(t.rates[n-3]+t.rates[n-4])/2 || t.mean(n) < throttled)
}

// sample takes one if it is due, and reports whether it was.
func (k *Keeper) sample(now time.Time) bool {
	t := &k.trial
	d := now.Sub(t.sampled)
	switch {
	case t.sampled.IsZero() || d > 4*sampleEvery: // nobody looked for a while
		t.sampled, t.seen, t.rates = now, t.moved, nil
		for _, h := range k.held {
			h.was, h.flows = h.moved, nil
		}
		return false
	case d < sampleEvery:
		return false
	}
	for _, h := range k.held {
		h.flows = append(h.flows, float64(h.moved-h.was)/d.Seconds())
		h.flows, h.was = h.flows[max(0, len(h.flows)-ebb):], h.moved
	}
	t.rates = append(t.rates, float64(t.moved-t.seen)/d.Seconds())
	if len(t.rates) > 4*bulkSamples {
		t.rates = t.rates[1:]
	}
	if t.moved == t.seen {
		t.still++
	} else {
		t.still = 0
	}
	t.sampled, t.seen = now, t.moved
	return true
}

// end forgets the transfer.
func (t *trial) end() {
	*t = trial{moved: t.moved, after: t.after, again: t.again, lost: t.lost, alike: t.alike}
}

// try looks at what moves and decides how many carriers should share it, and which
// is the least of them.
func (k *Keeper) try(v View, now time.Time) (active int, least uint32, wake time.Time) {
	t := &k.trial
	if !v.Moving {
		t.end()
		return 1, 0, time.Time{}
	}
	if !k.sample(now) {
		return k.tryActive(), t.least, t.sampled.Add(sampleEvery)
	}
	wake = now.Add(sampleEvery)
	if t.still > bulkSamples {
		t.end()
		return 1, 0, wake
	}
	k.dropSlow(v, now)
	half := t.mean(bulkSamples / 2)
	fell := k.leaveCollapsed(v, now)
	after, base := trialAfter, t.mean(trialSamples)
	if half < throttled {
		after, base = poorAfter, half
	}
	switch {
	case fell && t.begun.IsZero():
		t.alike = false
		t.begin(v, t.lower(), now)
	case !t.begun.IsZero() && t.alike && t.mean(2) < t.base/collapse:
		// Something else happens meanwhile: both are alike in that, too.
		best := t.base
		t.over(false, now)
		t.best, t.alike = best, false
		t.begin(v, t.lower(), now)
	case !t.begun.IsZero():
		k.judge(v, now)
	case !k.healthy:
	case t.bulk() && t.steady() && !now.Before(t.after) && 1+t.extra < bondMost && now.Sub(k.moving) >= after:
		t.begin(v, base, now)
	}
	if len(t.rates) >= bulkSamples/2 && t.begun.IsZero() {
		t.best = max(t.best*0.98, half)
	}
	return k.tryActive(), t.least, wake
}

func (k *Keeper) tryActive() int {
	n := 1 + k.trial.extra
	if !k.trial.begun.IsZero() {
		n++
	}
	return n
}

func (t *trial) begin(v View, base float64, now time.Time) {
	t.begun, t.base, t.n, t.least, t.joined = now, base, 0, 0, time.Time{}
	t.before = map[uint32]bool{}
	for _, c := range v.Carriers {
		if c.State == wire.CarrierActive {
			t.before[c.N] = true
		}
	}
}

// judge ends a trial when its time has come.
func (k *Keeper) judge(v View, now time.Time) {
	t := &k.trial
	var on *Carrier
	for i := range v.Carriers {
		if c := &v.Carriers[i]; k.usable(c) && !t.before[c.N] {
			on = c
		}
	}
	switch {
	case on == nil && t.n == 0 && now.Sub(t.begun) < trialReach:
		return
	case on == nil: // there is none, or it died
		t.n, t.least = 0, 0
		t.over(false, now)
		return
	case t.n != on.N:
		t.n, t.least, t.joined = on.N, on.N, now
	}
	if t.base < throttled && now.Sub(t.joined) >= trialWarm && k.leaveLittle(v, now) {
		return
	}
	long := now.Sub(t.joined) - trialWarm
	if long < soonSamples*sampleEvery {
		return
	}
	if t.mean(2) < t.base/collapse && long < 3*soonSamples*sampleEvery {
		return // something else happens meanwhile: see leaveCollapsed
	}
	single := k.cfg.Policy == Single // the better one stays alone
	moved := t.mean(min(int(long/sampleEvery), trialSamples))
	if single {
		moved = on.Rate
	}
	more := moved / t.base
	helps := k.held[on.N].flow()*slowShare >= t.mean(ebb) // else what grew grew by itself
	if long < trialSamples*sampleEvery && helps && more >= 1 && more < plainGain {
		return
	}
	won := helps && more >= gain
	k.log.Debug("one more carrier was tried", "relay", k.relay(), "before", int(t.base), "now", int(moved), "stays", won)
	if single && won {
		t.least = 0
		for n := range t.before {
			t.least = max(t.least, n)
		}
	}
	t.over(won && !single, now)
	t.rates = nil // those of the trial say nothing of what moves without it
}

// over ends a trial.
func (t *trial) over(won bool, now time.Time) {
	t.begun = time.Time{}
	if won {
		t.extra++
		t.n, t.least = 0, 0
		t.best = max(t.best, t.mean(soonSamples))
		t.again, t.after = 0, now.Add(trialNext)
		return
	}
	t.best = min(t.best, t.base) // less is all there is
	t.alike = !t.alike
	if t.lost++; t.lost%2 == 1 {
		t.after = now.Add(trialNext)
		return
	}
	t.again = min(max(trialAgain, 4*t.again), maxTrialAgain)
	t.after = now.Add(jitter(t.again))
}

// leaveCollapsed looks for a transfer that falls to a small part of what it had
// been, and reports whether it found one and another carrier must come first. Else it
// gives up the carrier that had carried most and hardly carries anything now: what it
// has on the way would hold up the rest for as long as the policer that lost it likes.
func (k *Keeper) leaveCollapsed(v View, now time.Time) (fell bool) {
	t := &k.trial
	if t.blamed != nil && !now.Before(t.calm) {
		if t.mean(2) >= collapse*max(t.worth, 1) { // it was right
			t.blamed.Failure = transport.Throttled
			t.blamed.rest(now)
			k.note(t.blamed)
		} else {
			t.cleared = t.blamed
		}
		t.blamed = nil
	}
	var (
		worst  *Carrier
		low    []*Carrier
		others int
	)
	for i := range v.Carriers {
		c := &v.Carriers[i]
		h := k.held[c.N]
		if h == nil || h.left || c.Suspect || c.Spent {
			continue
		}
		flow := h.flow()
		h.peak = max(h.peak*peakDecay, flow)
		others++
		switch {
		case c.State != wire.CarrierActive || !c.Busy || flow >= throttled || flow*slowShare >= h.peak:
		default:
			low = append(low, c)
			if worst == nil || k.blame(c, worst) {
				worst = c
			}
		}
	}
	if t.best < 2*throttled || t.mean(2) >= t.best/collapse || t.mean(bulkSamples) == 0 || worst == nil || now.Before(t.calm) {
		return false // silence is the session's to judge
	}
	path := k.held[worst.N].path
	low = slices.DeleteFunc(low, func(c *Carrier) bool { return k.held[c.N].path != path })
	if others <= len(low) {
		return true
	}
	for _, c := range low { // the path is what is throttled
		k.leave(c.N, k.held[c.N], max(t.rates[len(t.rates)-1], throttled/collapse), now)
		t.extra = max(t.extra-1, 0)
	}
	return false
}

// blame reports whether carrier c is more likely to be the throttled one than d.
func (k *Keeper) blame(c, d *Carrier) bool {
	a, b := k.held[c.N], k.held[d.N]
	if x, y := a.path == k.trial.cleared, b.path == k.trial.cleared; x != y {
		return y
	}
	if c.Late != d.Late {
		return c.Late
	}
	return a.peak > b.peak
}

// leaveLittle gives up the carriers beside which one is on trial when next to nothing
// moves on them: there is little to lose, and what they have on the way would hold up
// the one on trial.
func (k *Keeper) leaveLittle(v View, now time.Time) (left bool) {
	t := &k.trial
	base := t.base
	for i := range v.Carriers {
		if c := &v.Carriers[i]; k.usable(c) && t.before[c.N] && c.Rate < throttled {
			k.leave(c.N, k.held[c.N], base, now)
			left = true
		}
	}
	return left
}

// leave gives a carrier up, and blames its path if more moves then than did before.
func (k *Keeper) leave(n uint32, h *held, worth float64, now time.Time) {
	t := &k.trial
	h.left = true
	t.blamed, t.worth, t.calm = h.path, worth, now.Add(calmFor)
	t.begun, t.n, t.least = time.Time{}, 0, 0
	t.after = later(t.after, t.calm)
	k.after = append(k.after, func() {
		k.cfg.Session.Drop(n, &transport.CarrierError{Failure: transport.Throttled, Err: errThrottled})
	})
}

// dropSlow gives up carriers that hold up more than they help.
func (k *Keeper) dropSlow(v View, now time.Time) {
	t := &k.trial
	var total float64
	healthy := 0
	for i := range v.Carriers {
		if c := &v.Carriers[i]; k.usable(c) {
			total += c.Rate
			healthy++
		}
	}
	slow := map[uint32]int{}
	for i := range v.Carriers {
		c := &v.Carriers[i]
		h := k.held[c.N]
		if !k.usable(c) || healthy < 2 || !c.Busy || c.Rate*slowShare >= total || now.Sub(h.born) < trialWarm {
			continue
		}
		if slow[c.N] = t.slow[c.N] + 1; slow[c.N] < slowSamples {
			continue
		}
		delete(slow, c.N)
		n := c.N
		switch {
		case c.Rate < throttled && t.before[n] && t.base < throttled && c.Rate*slowShare < total:
			h.left = true
			h.path.Failure = transport.Throttled
			h.path.rest(now)
			k.after = append(k.after, func() {
				k.cfg.Session.Drop(n, &transport.CarrierError{Failure: transport.Throttled, Err: errThrottled})
			})
		case n != t.n:
			h.left = true
			k.after = append(k.after, func() { k.cfg.Session.Set(n, wire.CarrierSpare) })
		default:
			continue // its trial goes on
		}
		switch {
		case t.n != 0 && t.n != n && !t.begun.IsZero(): // the one on trial takes its place
			t.n, t.least, t.begun = 0, 0, time.Time{}
			t.best = 0
			t.again, t.after = 0, now.Add(trialAgain)
		case t.extra > 0:
			t.extra--
		}
		healthy--
	}
	t.slow = slow
}
