// Package bridge shows a session to rotation, which do not know each other.
package bridge

import (
	"busel/internal/rotate"
	"busel/internal/session"
	"busel/internal/wire"
)

// Session is a client's session as a [rotate.Keeper] serves it.
type Session struct{ *session.Client }

var _ rotate.Session = Session{}

// Offer implements [rotate.Session].
func (s Session) Offer(state wire.CarrierState, budget uint64) rotate.Offer {
	return s.Client.Offer(session.CarrierOptions{State: state, Budget: budget})
}

// View implements [rotate.Session].
func (s Session) View() (rotate.View, <-chan struct{}) {
	v, changed := s.Client.View()
	view := rotate.View{Wanted: v.Wanted, Moving: v.Moving, Carriers: make([]rotate.Carrier, len(v.Carriers))}
	for i, c := range v.Carriers {
		view.Carriers[i] = rotate.Carrier{
			N: c.N, State: c.State, Suspect: c.Suspect, Spent: c.Spent, Busy: c.Busy, Late: c.Late, Rate: c.Rate, Up: c.Up, Down: c.Down,
		}
	}
	return view, changed
}
