package rule

import (
	"net/netip"
	"slices"
	"time"
)

// holdBy says which traffic a rule that fired holds.
type holdBy uint8

const (
	byNothing holdBy = iota // only the packet that matched
	byFlow
	by4Tuple
	by3Tuple
	byAddress
	byClient
	byKey
)

// holdNames are the words for holdBy, in its order.
var holdNames = []string{"", "flow", "4-tuple", "3-tuple", "address", "client", "key"}

func holdByName(name string) holdBy { return holdBy(slices.Index(holdNames, name)) }

// holdKey is the traffic of a hold. What the kind of hold does not look at is
// zero.
type holdKey struct {
	client, world netip.AddrPort
	protocol      uint8
	key           string
}

func (b holdBy) key(t *track, f *flow) holdKey {
	switch b {
	case by4Tuple:
		return holdKey{client: f.key.client, world: f.key.world, protocol: f.key.protocol}
	case by3Tuple:
		return holdKey{client: netip.AddrPortFrom(f.key.client.Addr(), 0), world: f.key.world, protocol: f.key.protocol}
	case byAddress:
		return holdKey{client: netip.AddrPortFrom(f.key.client.Addr(), 0), world: netip.AddrPortFrom(f.key.world.Addr(), 0)}
	case byClient:
		return holdKey{client: netip.AddrPortFrom(f.key.client.Addr(), 0)}
	case byKey:
		return holdKey{key: t.key}
	}
	return holdKey{}
}

// A span is from when until when a hold is in force; no until is for good.
type span struct{ from, until time.Time }

func (s span) over(now time.Time) bool { return !s.until.IsZero() && !now.Before(s.until) }

// held finds the hold that a packet of a flow is under, if any; it may begin
// later.
func (r *live) held(t *track, f *flow, now time.Time) (span, bool) {
	if r.holdBy == byNothing {
		return span{}, false
	}
	if r.holdBy == byFlow {
		return t.held, !t.held.from.IsZero() && !t.held.over(now)
	}
	if len(r.holds) == 0 || r.holdBy == byKey && t.key == "" {
		return span{}, false
	}
	k := r.holdBy.key(t, f)
	h, ok := r.holds[k]
	if ok && h.over(now) {
		delete(r.holds, k)
		ok = false
	}
	return h, ok
}

// hold begins or renews a hold.
func (r *live) hold(t *track, f *flow, h span) {
	if r.holdBy == byFlow {
		t.held = h
		return
	}
	k := r.holdBy.key(t, f)
	if _, ok := r.holds[k]; !ok && len(r.holds) >= maxHolds {
		return
	}
	r.holds[k] = h
}

// sweep forgets what is over.
func (r *live) sweep(now time.Time) {
	for k, h := range r.holds {
		if h.over(now) {
			delete(r.holds, k)
		}
	}
	if m := r.spec.Match.Rate; m != nil {
		for k, times := range r.rates {
			if len(times) == 0 || now.Sub(times[len(times)-1]) > time.Duration(m.Within) {
				delete(r.rates, k)
			}
		}
	}
	if len(r.buckets) >= maxKeys {
		clear(r.buckets)
	}
}
