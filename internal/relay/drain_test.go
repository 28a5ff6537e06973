package relay

import (
	"context"
	"errors"
	"io"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"busel/internal/flow"
	"busel/internal/session"
	"busel/internal/wire"
	"busel/transport"
)

// elder offers hellos to the relay behind another door.
type elder struct {
	door *door
	err  error
}

func (e *elder) Offer(ctx context.Context, p transport.Pending) (bool, error) {
	if e.err != nil {
		return false, e.err
	}
	k := &knock{hello: p.Hello(), carrier: p.(*handed).Pending.(*knock).carrier, answer: make(chan *wire.Accept, 1)}
	select {
	case e.door.knocks <- k:
	case <-ctx.Done():
		return false, context.Cause(ctx)
	}
	a := <-k.answer
	if a == nil || a.Status == wire.StatusDraining {
		return false, nil
	}
	_, err := p.Answer(a)
	return true, err
}

// run runs a relay until the test ends; ended is closed when Run returns.
func run(t *testing.T, cfg Config) (r *Relay, ended chan error) {
	t.Helper()
	cfg.Gate, cfg.Exit = rules{}, echo{}
	r = New(cfg)
	ctx, cancel := context.WithCancel(t.Context())
	ended = make(chan error, 1)
	var wg sync.WaitGroup
	wg.Go(func() { ended <- r.Run(ctx) })
	t.Cleanup(func() {
		cancel()
		wg.Wait()
	})
	return r, ended
}

// attach dials a carrier for a session and keeps it until stop.
func attach(t *testing.T, c *session.Client, d *door) (stop func(), status wire.Status) {
	t.Helper()
	o := c.Offer(session.CarrierOptions{})
	carrier, a, err := d.Dial(t.Context(), transport.Route{}, o.Hello())
	if se, ok := errors.AsType[*wire.StatusError](err); ok {
		o.Withdraw()
		return func() {}, se.Status
	}
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		o.Attach(t.Context(), carrier, a)
	}()
	<-o.Attached()
	return func() { carrier.Close(); <-done }, a.Status
}

func newClient(t *testing.T, token string) *session.Client {
	t.Helper()
	var tok wire.Token
	copy(tok[:], token)
	c := session.NewClient(session.ClientConfig{Token: tok})
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { c.Run(ctx) })
	t.Cleanup(func() {
		cancel()
		wg.Wait()
	})
	return c
}

// A stream goes on in the relay that drains while its carriers come through the one
// that took its place, which has all new sessions. When the stream has ended so does
// the old relay.
func TestDrain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		front := &door{knocks: make(chan *knock)}
		back := &door{knocks: make(chan *knock)}
		old, ended := run(t, Config{Listeners: []transport.Listener{front}})
		idle, busy := newClient(t, "a"), newClient(t, "b")
		stopIdle, _ := attach(t, idle, front)
		stopBusy, _ := attach(t, busy, front)
		s, err := busy.OpenStream(t.Context(), flow.Addr{Name: "site", Port: 80})
		if err != nil {
			t.Fatal(err)
		}
		talk := func(text string) {
			t.Helper()
			buf := make([]byte, len(text))
			if _, err := s.Write([]byte(text)); err != nil {
				t.Fatal(err)
			}
			if _, err := io.ReadFull(s, buf); err != nil || string(buf) != text {
				t.Fatalf("%q, %v", buf, err)
			}
		}
		talk("before")
		if _, err := say(t, idle, "site", "done"); err != nil {
			t.Fatal(err)
		}

		time.Sleep(time.Second) // for the last ACKs
		old.Drain(back)
		door := &door{knocks: make(chan *knock)}
		young, _ := run(t, Config{Listeners: []transport.Listener{door}, Elder: &elder{door: back}})
		talk("over the old carrier")
		if !old.Stats().Draining {
			t.Error("the status does not say that the relay drains")
		}
		// The door through which a client had come already: unknown sessions are sent away.
		if _, status := attach(t, newClient(t, "a"), front); status != wire.StatusDraining {
			t.Errorf("a new session at the relay that drains: %v", status)
		}
		stopBusy()
		stopBusy, status := attach(t, busy, door)
		if status != wire.StatusOK {
			t.Errorf("the session was not found: %v", status)
		}
		talk("over a carrier of the new relay")
		if n := young.Stats(); n.Sessions != 0 || n.Handed != 1 || n.LastHello != 0 {
			t.Errorf("the new relay: %+v", n)
		}
		fresh := newClient(t, "a")
		if _, status := attach(t, fresh, door); status != wire.StatusOK {
			t.Errorf("a new session at the new relay: %v", status)
		}
		if n := young.Stats().Sessions; n != 1 {
			t.Errorf("%d sessions at the new relay", n)
		}

		// A session without streams and carriers ends, but not while its client may be
		// on the way back; one with a stream stays.
		stopIdle()
		synctest.Wait()
		time.Sleep(drainRest - time.Second)
		if n := old.Stats().Sessions; n != 2 {
			t.Errorf("%d sessions are left at the old relay", n)
		}
		time.Sleep(2 * time.Second)
		if n := old.Stats().Sessions; n != 1 {
			t.Errorf("%d sessions are left at the old relay after the rest", n)
		}
		if _, status := attach(t, idle, door); status != wire.StatusUnknownSession {
			t.Errorf("the session that ended: %v", status)
		}
		talk("still")
		s.Close()
		time.Sleep(time.Second)
		stopBusy()
		time.Sleep(drainRest + 2*drainTick)
		synctest.Wait()
		select {
		case err := <-ended:
			if err != nil {
				t.Errorf("Run of the old relay: %v", err)
			}
		default:
			t.Errorf("the old relay goes on with %+v", old.Stats())
		}
	})
}

// A client that the old relay may know is asked to wait while that one is silent: a
// second session of its name would break its streams.
func TestElderSilent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &door{knocks: make(chan *knock)}
		r, _ := run(t, Config{Listeners: []transport.Listener{d}, Elder: &elder{err: context.DeadlineExceeded}})
		if _, status := attach(t, newClient(t, "a"), d); status != wire.StatusBusy {
			t.Errorf("answered %v", status)
		}
		if n := r.Stats(); n.Sessions != 0 || n.Refused != 1 || n.LastHello != -1 {
			t.Errorf("%+v", n)
		}
	})
}
