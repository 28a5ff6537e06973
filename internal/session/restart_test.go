package session_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	mrand "math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"busel/internal/flow"
	"busel/internal/session"
	"busel/internal/wire"
	tt "busel/transport/transporttest"
)

// Relays that restart under load, with several carriers and dials that overtake
// each other: a stream ends well with the right bytes, or it fails. It never
// ends well with others, and the session goes on.
func TestRestarts(t *testing.T) {
	count := 300
	if testing.Short() {
		count = 50
	}
	var failed, well atomic.Int64
	for seed := range count {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				rng := mrand.New(mrand.NewPCG(uint64(seed), 3))
				w := newWorld(t, echo)
				defer w.stop()
				w.delay = time.Duration(1+rng.IntN(20)) * time.Millisecond
				w.redial(plain)
				w.wg.Go(func() {
					rng := mrand.New(mrand.NewPCG(uint64(seed), 4))
					for range 8 {
						time.Sleep(time.Duration(rng.IntN(200)) * time.Millisecond)
						switch rng.IntN(3) {
						case 0:
							w.restartRelay()
							w.mu.Lock()
							links := append([]*tt.Link(nil), w.links...)
							w.mu.Unlock()
							for _, l := range links {
								l.Kill()
							}
						case 1:
							w.wg.Go(func() { w.dial(plain()) })
						case 2:
							if st := w.client.Stats(); len(st.Carriers) > 0 {
								w.client.Drop(st.Carriers[0].N, nil)
							}
						}
					}
				})
				var wg sync.WaitGroup
				for i := range 6 {
					data := make([]byte, 1+rng.IntN(200000))
					for j := range data {
						data[j] = byte(i*7 + j*13 + j>>9)
					}
					wait := time.Duration(rng.IntN(1500)) * time.Millisecond
					wg.Go(func() {
						time.Sleep(wait)
						s := w.open(origin)
						defer s.Close()
						wg.Go(func() {
							for b := data; len(b) > 0; {
								n, err := s.Write(b[:min(len(b), 20000)])
								if err != nil {
									return
								}
								b = b[n:]
								time.Sleep(10 * time.Millisecond)
							}
							s.CloseWrite()
						})
						got, err := io.ReadAll(s)
						switch {
						case err != nil:
							failed.Add(1)
							if !bytes.HasPrefix(data, got) {
								t.Errorf("wrong bytes before %v", err)
							}
						case !bytes.Equal(got, data):
							t.Errorf("%d bytes that are not the %d sent", len(got), len(data))
						default:
							well.Add(1)
						}
					})
				}
				wg.Wait()
				time.Sleep(time.Minute)
				transfer(t, w, 50000)
				time.Sleep(time.Minute)
				synctest.Wait()
				if n := w.client.Stats().Streams; n != 0 {
					t.Errorf("%d streams left:\n%s", n, w.client.Dump())
				}
			})
		})
	}
	t.Logf("%d streams ended well, %d failed", well.Load(), failed.Load())
	if well.Load() == 0 || failed.Load() == 0 {
		t.Error("the schedules test only one of the two")
	}
}

// A relay that restarted answers a second hello before it has heard anything on
// the first one's carrier. The client begins anew, again; what comes late over
// the first carrier must not become part of the new streams.
func TestRestartHeardLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, func(ctx context.Context, s *session.Stream, dst flow.Addr) {
			defer s.Close()
			s.Write([]byte(dst.Name + ":"))
			io.Copy(s, s)
			s.CloseWrite()
		})
		defer w.stop()
		ask := func(host string) {
			s := w.open(flow.Addr{Name: host, Port: 1})
			defer s.Close()
			s.SetReadDeadline(time.Now().Add(time.Minute))
			s.Write([]byte(" from " + host))
			s.CloseWrite()
			if got, err := io.ReadAll(s); string(got) != host+": from "+host || err != nil {
				t.Errorf("%s answered %q, %v", host, got, err)
			}
		}
		l0, wait, err := w.dial(plain())
		if err != nil {
			t.Fatal(err)
		}
		ask("before")
		w.restartRelay()
		l0.Kill()
		wait()

		attach := func(l *tt.Link, o *session.Offer, ad *session.Admission, accept *wire.Accept) {
			w.wg.Go(func() { ad.Attach(w.ctx, l.Carrier(tt.Relay)) })
			w.wg.Go(func() { o.Attach(w.ctx, l.Carrier(tt.Client), accept) })
			synctest.Wait()
		}
		hello := func() (*session.Offer, *session.Admission, *wire.Accept) {
			o := w.client.Offer(session.CarrierOptions{})
			h, err := wire.ParseHello(o.Hello().Append(nil))
			if err != nil {
				t.Fatal(err)
			}
			s, known := w.lookup(h)
			accept, ad := s.Admit(h, known)
			if accept.Status != wire.StatusUnknownSession {
				t.Fatalf("status %v", accept.Status)
			}
			return o, ad, accept
		}
		l1, l2 := tt.NewLink(plain()), tt.NewLink(plain())
		l1.Freeze(tt.Relay)
		o1, ad1, accept1 := hello()
		attach(l1, o1, ad1, accept1)
		early := w.open(flow.Addr{Name: "early", Port: 1})
		early.Write([]byte("never to be seen"))
		synctest.Wait()
		o2, ad2, accept2 := hello()
		l1.Thaw(tt.Relay)
		synctest.Wait()
		attach(l2, o2, ad2, accept2)
		ask("late")
		if _, err := io.ReadAll(early); err == nil {
			t.Error("a stream of the session before ended well")
		}
		early.Close()
	})
}
