package rotate

import "busel/internal/flow"

// Member is one relay that the client holds: its keeper and its session.
type Member struct {
	Keeper *Keeper
	Opener flow.Opener
}

// Group is the relays that a client holds, the preferred one first.
type Group []Member

// Best is where to open the next stream or flow: the first that is well, else the
// first with a carrier at all, which is looking for a better one, else the first
// that did not fail lately, else the first. The group must not be empty. What is
// open stays with its relay.
func (g Group) Best() Member {
	for _, fit := range []func(*Keeper) bool{
		(*Keeper).Healthy, (*Keeper).Attached,
		func(k *Keeper) bool { return !k.Failing() },
	} {
		for _, m := range g {
			if fit(m.Keeper) {
				return m
			}
		}
	}
	return g[0]
}
