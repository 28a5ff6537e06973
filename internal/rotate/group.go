package rotate

import "busel/internal/flow"

// Member is one relay that the client holds: its keeper and its session.
type Member struct {
	Keeper *Keeper
	Opener flow.Opener
}

// Group is the relays that a client holds, the preferred one first.
type Group []Member

// Best is where to open the next stream or flow: the first that is attached,
// else the first that did not fail lately, else the first. The group must not
// be empty. What is open stays with its relay.
func (g Group) Best() Member {
	for _, m := range g {
		if m.Keeper.Attached() {
			return m
		}
	}
	for _, m := range g {
		if !m.Keeper.Failing() {
			return m
		}
	}
	return g[0]
}
