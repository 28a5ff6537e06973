package session_test

import (
	"context"
	"errors"
	"io"
	"testing"
	"testing/synctest"
	"time"

	"busel/internal/flow"
	"busel/internal/session"
	"busel/internal/wire"
	"busel/transport"
	tt "busel/transport/transporttest"
)

var spare = session.CarrierOptions{State: wire.CarrierSpare}

// until waits for a view.
func (w *world) until(what string, is func(session.View) bool) session.View {
	w.t.Helper()
	for give := time.After(time.Minute); ; {
		v, changed := w.client.View()
		if is(v) {
			return v
		}
		select {
		case <-changed:
		case <-give:
			w.t.Fatalf("no %s in %+v", what, v)
		}
	}
}

// wantQuiet fails if the view changes now.
func (w *world) wantQuiet(changed <-chan struct{}) {
	w.t.Helper()
	synctest.Wait()
	select {
	case <-changed:
		v, _ := w.client.View()
		w.t.Errorf("a change: %+v", v)
	default:
	}
}

// steady sends for ever, 4 kB every 10 ms.
func steady(ctx context.Context, s *session.Stream, _ flow.Addr) {
	defer s.Close()
	for {
		if _, err := s.Write(make([]byte, 4<<10)); err != nil {
			return
		}
		select {
		case <-time.After(10 * time.Millisecond):
		case <-ctx.Done():
			return
		}
	}
}

func TestView(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, echo)
		defer w.stop()
		w.delay = 50 * time.Millisecond
		v, changed := w.client.View()
		if v.Wanted || v.Moving || len(v.Carriers) != 0 {
			t.Errorf("a new session: %+v", v)
		}
		s := w.open(origin)
		<-changed
		if v, _ = w.client.View(); !v.Wanted || !v.Moving || v.Streams != 1 {
			t.Errorf("a request waits: %+v", v)
		}
		if _, _, err := w.dial(plain()); err != nil {
			t.Fatal(err)
		}
		v = w.until("carrier", func(v session.View) bool { return len(v.Carriers) == 1 && v.Carriers[0].RTT > 0 })
		if a := v.Carriers[0]; a.N != 1 || a.Kind != "memory" || a.State != wire.CarrierActive || a.Suspect || a.Spent || a.RTT != 100*time.Millisecond {
			t.Errorf("carrier is %+v", a)
		}
		s.Write(make([]byte, 100000))
		if _, err := io.ReadFull(s, make([]byte, 100000)); err != nil {
			t.Fatal(err)
		}
		v, _ = w.client.View()
		if a := v.Carriers[0]; !v.Moving || !a.Busy || a.Rate < 50000 || a.Up < 100000 || a.Down < 100000 || v.Up < 100000 || v.Down < 100000 {
			t.Errorf("it moves: %+v", v)
		}
		start := time.Now()
		v = w.until("pause of the carrier", func(v session.View) bool { return !v.Carriers[0].Busy })
		if d := time.Since(start); d > 600*time.Millisecond || !v.Moving {
			t.Errorf("after %v: %+v", d, v)
		}
		v = w.until("pause", func(v session.View) bool { return !v.Moving })
		if d := time.Since(start); d < 1900*time.Millisecond || d > 2300*time.Millisecond || !v.Wanted {
			t.Errorf("after %v: %+v", d, v)
		}
		time.Sleep(10 * time.Second)
		v, changed = w.client.View()
		if r := v.Carriers[0].Rate; r > 1000 {
			t.Errorf("rate is %.0f after a long pause", r)
		}
		w.wantQuiet(changed)
		s.CloseWrite()
		io.Copy(io.Discard, s)
		s.Close()
		w.until("rest", func(v session.View) bool { return !v.Wanted && !v.Moving })
		w.link().Close()
		w.until("end of the carrier", func(v session.View) bool { return len(v.Carriers) == 0 })
	})
}

// A spare carries nothing until it is told to; then all moves to it within a
// round trip.
func TestPromote(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, steady)
		defer w.stop()
		w.delay = 50 * time.Millisecond
		first, _, err := w.dial(plain())
		if err != nil {
			t.Fatal(err)
		}
		second, _, err := w.dialFor(spare, plain())
		if err != nil {
			t.Fatal(err)
		}
		down := w.open(origin)
		defer down.Close()
		buf := make([]byte, 64<<10)
		read := func() {
			t.Helper()
			if _, err := down.Read(buf); err != nil {
				t.Fatal(err)
			}
		}
		for range 100 {
			read()
		}
		v, _ := w.client.View()
		if a := v.Carriers[1]; a.State != wire.CarrierSpare || a.Up > 100 || a.Down > 100 || a.RTT == 0 {
			t.Errorf("the spare is %+v", a)
		}
		if n := second.Passed(tt.Client); n > 100 {
			t.Errorf("%d bytes on the spare", n)
		}
		first.Kill()
		synctest.Wait()
		start := time.Now()
		w.until("loss", func(v session.View) bool { return len(v.Carriers) == 1 })
		w.client.Set(2, wire.CarrierActive)
		read()
		if d := time.Since(start); d > 100*time.Millisecond {
			t.Errorf("the next byte came after %v", d)
		}
		if st := w.client.Stats(); st.Moves != 1 {
			t.Errorf("%d moves", st.Moves)
		}
		// A spare of a session whose hello cannot say so is one, too.
		w.restartRelay()
		if _, _, err := w.dialFor(spare, plain()); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		v = w.until("spare", func(v session.View) bool { return len(v.Carriers) == 1 })
		if st := w.server().Stats(); len(st.Carriers) != 1 || st.Carriers[0].State != wire.CarrierSpare || v.Carriers[0].State != wire.CarrierSpare {
			t.Errorf("relay sees %+v, client %+v", st.Carriers, v.Carriers)
		}
	})
}

var errPolicy = &transport.CarrierError{Failure: transport.Throttled, Err: errors.New("slow")}

func TestDrop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, steady)
		defer w.stop()
		w.delay = 50 * time.Millisecond
		_, wait, err := w.dial(plain())
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := w.dial(plain()); err != nil {
			t.Fatal(err)
		}
		s := w.open(origin)
		defer s.Close()
		read := func() {
			t.Helper()
			if _, err := io.ReadFull(s, make([]byte, 100<<10)); err != nil {
				t.Fatal(err)
			}
		}
		read()
		w.client.Drop(1, errPolicy)
		if err := wait(); err != error(errPolicy) {
			t.Errorf("carrier ended with %v", err)
		}
		read()
		w.client.Drop(7, nil) // there is none
		v := w.until("one carrier", func(v session.View) bool { return len(v.Carriers) == 1 })
		if v.Carriers[0].N != 2 {
			t.Errorf("carrier %d is left", v.Carriers[0].N)
		}
	})
}

// After a sleep or a change of the link every carrier has to speak.
func TestDoubt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, echo)
		defer w.stop()
		w.delay = 50 * time.Millisecond
		s := w.open(origin)
		defer s.Close()
		dead, _, err := w.dial(plain())
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := w.dialFor(spare, plain()); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		w.until("rest", func(v session.View) bool { return !v.Moving })
		w.client.Doubt()
		time.Sleep(time.Second)
		if v, _ := w.client.View(); v.Carriers[0].Suspect || v.Carriers[1].Suspect {
			t.Errorf("they answered: %+v", v.Carriers)
		}
		dead.Freeze(tt.Relay)
		w.client.Doubt()
		start := time.Now()
		v := w.until("suspicion", func(v session.View) bool { return v.Carriers[0].Suspect })
		if d := time.Since(start); d != 400*time.Millisecond || v.Carriers[1].Suspect {
			t.Errorf("after %v: %+v", d, v.Carriers)
		}
		w.client.Set(2, wire.CarrierActive)
		start = time.Now()
		v = w.until("end", func(v session.View) bool { return len(v.Carriers) == 1 })
		if d := time.Since(start); v.Carriers[0].N != 2 || d != 500*time.Millisecond { // as long again, and a round trip
			t.Errorf("carrier %d is left after %v", v.Carriers[0].N, d)
		}
	})
}
