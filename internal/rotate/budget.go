package rotate

import (
	"time"

	"busel/transport"
)

// Networks that freeze each flow after about 25 packets (row R1): after what TCP
// and TLS need 6..15 kB remain, counted both ways.
const (
	// frozenYoung is the most that a carrier may have moved for its silence to
	// speak of such a limit, and frozenAge the longest it may have lived.
	frozenYoung = 64 << 10
	frozenAge   = time.Minute
	// frozenRow is how many in a row tell: on a slow and lossy path two may, by chance.
	frozenRow = 3
	// A budget begins with usualBudget, shrinks when carriers freeze within it, and
	// grows by growBudget when cleanRow in a row did not.
	usualBudget = 8 << 10
	minBudget   = 2 << 10
	maxBudget   = 32 << 10
	growBudget  = 1 << 10
	cleanRow    = 12
	// budgetMost carriers with a budget share the work, of which budgetTogether are
	// dialled at a time.
	budgetMost     = 6
	budgetTogether = 4
	// It is tried again without after budgetTerm, twice as long each time that one
	// without froze at once, up to maxBudgetTerm.
	budgetTerm    = 15 * time.Second
	maxBudgetTerm = 10 * time.Minute
	// sureBudget is how often that must have happened for the budget to be remembered.
	sureBudget = 2
)

// budget learns whether flows freeze after so many bytes.
type budget struct {
	never  bool   // another policy was asked for
	always bool   // the user asked for it
	bytes  uint64 // 0: there is no limit
	last   uint64 // before it was tried without
	young  int    // carriers in a row that froze young
	clean  int    // in a row that were spent before they froze
	until  time.Time
	terms  int       // in a row
	seen   time.Time // when the limit, or that there is none, was last seen; zero if never
}

func (b *budget) init(cfg Config) {
	b.never = cfg.Policy == Single || cfg.Policy == Bond
	b.always = cfg.Policy == Budget
	if b.always {
		b.bytes = usualBudget
	}
}

// forget makes the network one of which nothing is known.
func (b *budget) forget() {
	if !b.always {
		*b = budget{never: b.never}
	}
}

// recall takes what memory says of one route: the newest that it says of any holds. A
// limit that was last seen longer ago than the client goes without a try, had it run
// on, is tried without at once: networks change, and one that freezes says so again
// with one carrier.
func (b *budget) recall(m Remembered, now time.Time) {
	kept, seen := b.learned()
	if b.always || m.Seen.Before(seen) || m.Seen.Equal(seen) && m.Budget <= kept {
		return
	}
	*b = budget{never: b.never, seen: m.Seen}
	if m.Budget == 0 {
		return
	}
	b.bytes = min(max(m.Budget, minBudget), maxBudget)
	b.terms = sureBudget
	b.until = earlier(m.Seen.Add(maxBudgetTerm), now.Add(b.term()))
	if b.never { // it is kept for other policies
		b.last, b.bytes = b.bytes, 0
	}
}

// term is how long the budget holds until it is tried without.
func (b *budget) term() time.Duration { return min(budgetTerm<<min(b.terms, 6), maxBudgetTerm) }

// learned is what is worth remembering, and when it was seen.
func (b *budget) learned() (bytes uint64, seen time.Time) {
	if b.always || b.terms < sureBudget {
		return 0, b.seen
	}
	return max(b.bytes, b.last), b.seen // last: it is tried without
}

// now is the budget of new carriers, 0 for none.
func (b *budget) now(now time.Time) uint64 {
	if b.never {
		return 0
	}
	if !b.always && b.bytes > 0 && !b.until.IsZero() && now.After(b.until) {
		b.last, b.bytes, b.young, b.clean, b.until = b.bytes, 0, frozenRow-1, 0, time.Time{} // one more tells
	}
	return b.bytes
}

// ended learns from a carrier's end, and reports whether it has just found out that
// flows freeze. h may be nil: it was never seen.
func (b *budget) ended(h *held, failure transport.Failure, lived time.Duration, now time.Time) (news bool) {
	if h == nil || b.never {
		return false
	}
	// A collapse that was noticed before the silence is one, too. A spare that did
	// nothing says nothing.
	froze := (failure == transport.Frozen || failure == transport.Throttled) && lived < frozenAge &&
		h.used && h.moved < frozenYoung
	switch {
	case h.moved >= frozenYoung && h.budget == 0:
		b.young, b.terms, b.seen = 0, 0, now
		if !b.always {
			b.bytes, b.last = 0, 0
		}
	case froze && h.budget == 0:
		if b.young++; b.young >= frozenRow && b.bytes == 0 {
			b.bytes, b.clean = usualBudget, 0
			if b.last > 0 {
				b.bytes = b.last
			}
			news = b.last == 0
			b.terms++
			b.until = now.Add(b.term())
			b.last, b.seen = 0, now
		}
	case froze && h.budget > 0 && !h.spent:
		b.clean, b.seen = 0, now
		b.bytes = max(minBudget, min(b.bytes, h.budget*7/10))
	case h.budget > 0 && h.spent:
		if b.clean++; b.clean >= cleanRow {
			b.clean = 0
			b.bytes = min(b.bytes+growBudget, maxBudget)
		}
	}
	return news
}
