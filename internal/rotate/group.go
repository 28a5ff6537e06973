package rotate

import (
	"context"
	"errors"

	"busel/internal/flow"
)

// Member is one relay that the client holds: its keeper and its session.
type Member struct {
	Keeper *Keeper
	Opener flow.Opener
}

// Group opens streams and flows through the best of several relays: the first
// that is attached, else the first that did not fail lately, else the first.
// What is open stays with its relay.
type Group []Member

// ErrNoRelay means that the client holds no invite.
var ErrNoRelay = errors.New("no invite yet: add one with `client add`")

var _ flow.Opener = Group(nil)

// OpenStream opens a stream through the best relay.
func (g Group) OpenStream(ctx context.Context, dst flow.Addr) (flow.Stream, error) {
	o, err := g.best()
	if err != nil {
		return nil, err
	}
	return o.OpenStream(ctx, dst)
}

// OpenPackets opens a UDP association through the best relay.
func (g Group) OpenPackets(ctx context.Context) (flow.Packets, error) {
	o, err := g.best()
	if err != nil {
		return nil, err
	}
	return o.OpenPackets(ctx)
}

func (g Group) best() (flow.Opener, error) {
	if len(g) == 0 {
		return nil, &flow.OpenError{Code: flow.GeneralFailure, Err: ErrNoRelay}
	}
	for _, m := range g {
		if m.Keeper.Attached() {
			return m.Opener, nil
		}
	}
	for _, m := range g {
		if !m.Keeper.Failing() {
			return m.Opener, nil
		}
	}
	return g[0].Opener, nil
}
