package session_test

import (
	"math/rand/v2"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"busel/internal/flow"
	"busel/internal/session"
	"busel/internal/wire"
	tt "busel/transport/transporttest"
)

// Whatever falls silent and comes back while carriers are promoted, dialled and given
// up: once the network is well, each carrier that the client uses is used by the relay.
func TestFlicker(t *testing.T) {
	for range 3 {
		seed := rand.Uint64()
		synctest.Test(t, func(t *testing.T) { flicker(t, seed) })
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
}

func flicker(t *testing.T, seed uint64) {
	rng := rand.New(rand.NewPCG(seed, 0))
	w := newWorld(t, patterned)
	defer w.stop()
	w.delay = 50 * time.Millisecond
	cfg := tt.LinkConfig{Rate: 1 << 20, Capacity: 80 << 10}
	dial := func(state wire.CarrierState) {
		if _, _, err := w.dialFor(session.CarrierOptions{State: state}, cfg); err != nil {
			t.Error(err)
		}
	}
	dial(wire.CarrierActive)
	dial(wire.CarrierActive)
	dial(wire.CarrierSpare)
	s := w.open(flow.Addr{Name: "endless", Port: endless})
	defer s.Close()
	var at atomic.Int64
	go drain(t, s, func(n int) { at.Add(int64(n)) })
	time.Sleep(2 * time.Second)
	for range 10 + rng.IntN(30) {
		w.mu.Lock()
		links := append([]*tt.Link(nil), w.links...)
		w.mu.Unlock()
		v, _ := w.client.View()
		switch {
		case len(links) == 0 || len(v.Carriers) == 0:
			dial(wire.CarrierActive)
		case rng.IntN(8) == 0:
			state := wire.CarrierState(rng.IntN(2))
			w.wg.Go(func() { dial(state) })
		case rng.IntN(6) == 0: // the relay gets a hello whose dial was given up
			late := time.Duration(rng.IntN(300)) * time.Millisecond
			w.wg.Go(func() {
				o := w.client.Offer(session.CarrierOptions{})
				h, err := wire.ParseHello(o.Hello().Append(nil))
				if err != nil {
					t.Error(err)
				}
				time.Sleep(late)
				srv, known := w.lookup(h)
				if _, ad := srv.Admit(h, known); ad != nil {
					time.AfterFunc(20*time.Millisecond, ad.Withdraw)
				}
				time.Sleep(20 * time.Millisecond)
				o.Withdraw()
			})
		case rng.IntN(3) == 0:
			w.client.Set(v.Carriers[rng.IntN(len(v.Carriers))].N, wire.CarrierState(rng.IntN(2)))
		default:
			l := links[rng.IntN(len(links))]
			side := tt.Side(rng.IntN(2))
			if rng.IntN(2) == 0 {
				l.Freeze(side)
				if rng.IntN(2) == 0 {
					l.Freeze(1 - side)
				}
			} else {
				l.Thaw(tt.Client)
				l.Thaw(tt.Relay)
			}
		}
		time.Sleep(time.Duration(rng.IntN(900)) * time.Millisecond)
	}
	w.mu.Lock()
	links := append([]*tt.Link(nil), w.links...)
	w.mu.Unlock()
	for _, l := range links {
		l.Thaw(tt.Client)
		l.Thaw(tt.Relay)
	}
	time.Sleep(20 * time.Second)
	v, _ := w.client.View()
	usable := 0
	for _, c := range v.Carriers {
		if c.State == wire.CarrierActive && !c.Suspect {
			usable++
		}
	}
	if usable == 0 {
		dial(wire.CarrierActive)
		usable = 1
		time.Sleep(3 * time.Second)
	}
	from := at.Load()
	down := map[uint32]uint64{}
	v, _ = w.client.View()
	for _, c := range v.Carriers {
		down[c.N] = c.Down
	}
	time.Sleep(4 * time.Second)
	synctest.Wait()
	if at.Load() == from {
		t.Errorf("nothing comes with %d usable carriers\nclient %s\nrelay %s", usable, w.client.Dump(), w.server().Dump())
	}
	v, _ = w.client.View()
	for _, c := range v.Carriers {
		if c.State == wire.CarrierActive && !c.Suspect && c.Down-down[c.N] < 64<<10 {
			t.Errorf("the relay does not use carrier %d\nclient %s\nrelay %s", c.N, w.client.Dump(), w.server().Dump())
		}
	}
}
