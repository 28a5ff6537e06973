package session_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	mrand "math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"busel/internal/bridge"
	"busel/internal/rotate"
	"busel/internal/wire"
	"busel/transport"
	tt "busel/transport/transporttest"
)

// censoredDialer dials in a world over links that a censor meddles with.
type censoredDialer struct {
	w *world

	mu     sync.Mutex
	rng    *mrand.Rand
	closed int // carriers that were closed by their owner
	made   int
}

// fate of a dial.
type fate int

const (
	passes   fate = iota
	vanishes      // nothing reaches the relay, and nobody answers
	unheard       // the relay hears the hello, the client no reply
	late          // the reply comes, and the dial does not hear that nobody wants it
	reset         // at once
	fates
)

func (d *censoredDialer) draw() (f fate, life time.Duration) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.rng.IntN(2) == 0 {
		f = fate(d.rng.IntN(int(fates)))
	}
	return f, time.Duration(d.rng.IntN(1500)) * time.Millisecond
}

var errCensored = errors.New("reset by the censor")

// countedCarrier counts its end.
type countedCarrier struct {
	transport.Carrier
	closed func()
}

func (c countedCarrier) Close() error {
	c.closed()
	return c.Carrier.Close()
}

func (d *censoredDialer) Dial(ctx context.Context, r transport.Route, hello *wire.Hello) (transport.Carrier, *wire.Accept, error) {
	w := d.w
	fail := func(err error) (transport.Carrier, *wire.Accept, error) {
		de := &transport.DialError{Route: r, Stage: transport.StageHello, Err: err}
		if ctx.Err() == nil {
			de.Failure = transport.Reset
		}
		return nil, nil, de
	}
	f, life := d.draw()
	if f == reset {
		return fail(errCensored)
	}
	if f != late && !pass(ctx, 4*w.delay) {
		return fail(context.Cause(ctx))
	}
	h, err := wire.ParseHello(hello.Append(nil))
	if err != nil {
		w.t.Errorf("hello: %v", err)
		return fail(err)
	}
	if f == vanishes {
		<-ctx.Done()
		return fail(context.Cause(ctx))
	}
	if f == late {
		time.Sleep(2 * time.Second)
	}
	s, known := w.lookup(h)
	accept, admission := s.Admit(h, known)
	if admission == nil {
		return fail(&wire.StatusError{Status: accept.Status})
	}
	l := tt.NewLink(tt.LinkConfig{Delay: w.delay})
	w.wg.Go(func() { admission.Attach(w.ctx, l.Carrier(tt.Relay)) })
	if f == unheard {
		l.Freeze(tt.Client)
		<-ctx.Done()
		l.Carrier(tt.Client).Close()
		return fail(context.Cause(ctx))
	}
	time.AfterFunc(life, l.Kill)
	a, err := wire.ParseAccept(accept.Append(nil))
	if err != nil {
		w.t.Errorf("accept: %v", err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.made++
	return countedCarrier{l.Carrier(tt.Client), sync.OnceFunc(func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.closed++
	})}, a, nil
}

// pass waits, and reports whether ctx did not end meanwhile.
func pass(ctx context.Context, d time.Duration) bool {
	select {
	case <-time.After(d):
		return true
	case <-ctx.Done():
		return false
	}
}

// TestStreamsSurviveRaces has a keeper race two ways of which each may be silent
// in either direction, late or cut: hellos whose frames the relay took though
// their dial lost, and carriers that come when nobody waits for them. No byte is
// lost or comes twice, and one carrier is left at both ends.
func TestStreamsSurviveRaces(t *testing.T) {
	count := 200
	if testing.Short() {
		count = 30
	}
	for seed := range count {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, echo)
				defer w.stop()
				w.delay = time.Duration(1+seed%50) * time.Millisecond
				d := &censoredDialer{w: w, rng: mrand.New(mrand.NewPCG(uint64(seed), 5))}
				cfg := rotate.Config{Session: bridge.Session{Client: w.client}, Dialer: func(transport.Route) transport.Dialer { return d }}
				for _, name := range []string{"tls", "udp"} {
					cfg.Routes = append(cfg.Routes, transport.Route{Relay: "r1", Transport: name, Address: "a:443"})
				}
				keeper := rotate.New(cfg)
				w.wg.Go(func() { keeper.Run(w.ctx) })

				var streams sync.WaitGroup
				for i := range 4 {
					data := make([]byte, 100000)
					mrand.NewChaCha8([32]byte{byte(seed), byte(i)}).Read(data)
					streams.Go(func() {
						time.Sleep(time.Duration(i) * 300 * time.Millisecond)
						s := w.open(origin)
						defer s.Close()
						w.wg.Go(func() {
							for b := data; len(b) > 0; b = b[5000:] {
								if _, err := s.Write(b[:5000]); err != nil {
									t.Errorf("stream %d: %v", i, err)
									return
								}
								time.Sleep(100 * time.Millisecond)
							}
							s.CloseWrite()
						})
						got, err := io.ReadAll(s)
						if err != nil || !bytes.Equal(got, data) {
							t.Errorf("stream %d: %d of %d bytes, equal %t: %v", i, len(got), len(data), bytes.Equal(got, data), err)
						}
					})
				}
				streams.Wait()
				time.Sleep(30 * time.Second) // what was late has come, and gone
				synctest.Wait()
				here, there := len(w.client.Stats().Carriers), len(w.server().Stats().Carriers)
				d.mu.Lock()
				defer d.mu.Unlock()
				if here > 1 || there > here || d.made-d.closed != here {
					t.Errorf("%d carriers at the client, %d at the relay, %d of %d closed", here, there, d.closed, d.made)
				}
			})
		})
	}
}
