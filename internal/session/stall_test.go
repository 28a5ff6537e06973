package session_test

import (
	"context"
	"fmt"
	"io"
	mrand "math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"busel/internal/flow"
	"busel/internal/session"
	"busel/internal/wire"
	tt "busel/transport/transporttest"
)

// endless is the port of an origin that sends and takes for ever.
const endless = 7

// source sends 80 MiB, more than a session window, or for ever; deaf reads
// nothing of what it is sent.
func source(ctx context.Context, s *session.Stream, dst flow.Addr) {
	defer s.Close()
	if dst.Port == endless {
		for {
			if _, err := s.Write(make([]byte, 64<<10)); err != nil {
				return
			}
		}
	}
	s.Write(make([]byte, 80<<20))
	s.CloseWrite()
	io.Copy(io.Discard, s)
}

// Streams that nobody reads, such as paused videos, stop no other stream.
func TestUnreadDownloads(t *testing.T) {
	counts := []int{1, 40, 130, 300, 500}
	if testing.Short() {
		counts = []int{130}
	}
	for _, n := range counts {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, source)
			defer w.stop()
			w.delay = 10 * time.Millisecond
			if _, _, err := w.dial(tt.LinkConfig{Capacity: 1 << 20}); err != nil {
				t.Fatal(err)
			}
			for range n {
				s := w.open(flow.Addr{Name: "paused", Port: endless})
				defer s.Close()
				s.SetReadDeadline(time.Now().Add(time.Minute))
				if _, err := io.ReadFull(s, make([]byte, 1)); err != nil {
					t.Log(w.server().Dump())
					t.Log(w.client.Dump())
					t.Fatal(err)
				}
			}
			time.Sleep(time.Minute)
			download(t, w, 80<<20, time.Hour)
		})
	}
}

// Streams whose windows grew before they were left unread stop no other either.
func TestUnreadFastDownloads(t *testing.T) {
	if testing.Short() {
		t.Skip("slow with the race detector; scripts/test runs it without")
	}
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, source)
		defer w.stop()
		w.delay = 50 * time.Millisecond
		if _, _, err := w.dial(tt.LinkConfig{Capacity: 64 << 20}); err != nil {
			t.Fatal(err)
		}
		for range 8 {
			s := w.open(flow.Addr{Name: "fast", Port: endless})
			defer s.Close()
			if _, err := io.CopyN(io.Discard, s, 60<<20); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(time.Minute)
		download(t, w, 80<<20, 5*time.Minute)
	})
}

func download(t *testing.T, w *world, size int64, within time.Duration) {
	t.Helper()
	s := w.open(origin)
	defer s.Close()
	s.CloseWrite()
	s.SetReadDeadline(time.Now().Add(within))
	start := time.Now()
	if n, err := io.Copy(io.Discard, s); n != size || err != nil {
		t.Errorf("%d of %d bytes, %v", n, size, err)
	}
	t.Logf("%d bytes in %v", size, time.Since(start))
}

// Uploads that the relay's destinations do not take stop no other stream.
func TestUnreadUploads(t *testing.T) {
	counts := []int{40, 130, 500}
	if testing.Short() {
		counts = []int{130}
	}
	for _, n := range counts {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, func(ctx context.Context, s *session.Stream, dst flow.Addr) {
				if dst.Port == endless {
					s.Reply(flow.Succeeded, flow.DetailNone)
					<-ctx.Done()
					s.Close()
					return
				}
				echo(ctx, s, dst)
			})
			defer w.stop()
			w.delay = 10 * time.Millisecond
			if _, _, err := w.dial(tt.LinkConfig{Capacity: 1 << 20}); err != nil {
				t.Fatal(err)
			}
			for range n {
				s := w.open(flow.Addr{Name: "deaf", Port: endless})
				w.wg.Go(func() {
					io.Copy(s, endlessZeros{})
				})
				defer s.Close()
			}
			time.Sleep(time.Minute)
			done := make(chan struct{})
			go func() {
				defer close(done)
				transfer(t, w, 80<<20)
			}()
			select {
			case <-done:
			case <-time.After(time.Hour):
				t.Error("an upload does not get on")
			}
		})
	}
}

type endlessZeros struct{}

func (endlessZeros) Read(p []byte) (int, error) { return len(p), nil }

// warm keeps a spare beside the active carrier and promotes it as rotation does: when
// the active one is suspect or gone.
func (w *world) warm(cfg func() tt.LinkConfig) {
	w.wg.Go(func() {
		for w.ctx.Err() == nil {
			v, changed := w.client.View()
			healthy, spare := 0, uint32(0)
			for _, a := range v.Carriers {
				switch {
				case a.Suspect:
				case a.State == wire.CarrierSpare:
					spare = a.N
				default:
					healthy++
				}
			}
			switch {
			case healthy == 0 && spare != 0:
				w.client.Set(spare, wire.CarrierActive)
			case healthy == 0:
				w.dial(cfg())
				synctest.Wait()
			case spare == 0:
				w.dialFor(session.CarrierOptions{State: wire.CarrierSpare}, cfg())
				synctest.Wait()
			}
			select {
			case <-changed:
			case <-w.ctx.Done():
			}
		}
	})
}

// A running transfer whose carrier freezes goes on over the spare soon: issue 5 asks
// for two seconds at a round trip of 100 ms.
func TestFrozenTransfer(t *testing.T) {
	for _, up := range []bool{false, true} {
		for name, freeze := range map[string][]tt.Side{"both ways": {tt.Client, tt.Relay}, "down": {tt.Client}, "up": {tt.Relay}} {
			t.Run(fmt.Sprintf("%s, upload %t", name, up), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					moved := make(chan int, 1000)
					w := newWorld(t, func(ctx context.Context, s *session.Stream, dst flow.Addr) {
						if up {
							defer s.Close()
							for buf := make([]byte, 32<<10); ; {
								n, err := s.Read(buf)
								if err != nil {
									return
								}
								moved <- n
							}
						}
						source(ctx, s, dst)
					})
					defer w.stop()
					w.delay = 50 * time.Millisecond
					w.warm(func() tt.LinkConfig { return tt.LinkConfig{Rate: 1.25e6, Capacity: 128 << 10} })
					s := w.open(flow.Addr{Name: "endless", Port: endless})
					defer s.Close()
					go func() {
						if up {
							io.Copy(struct{ io.Writer }{s}, endlessZeros{})
							return
						}
						for buf := make([]byte, 32<<10); ; {
							n, err := s.Read(buf)
							if err != nil {
								return
							}
							moved <- n
						}
					}()
					var worst time.Duration
					for range 5 {
						time.AfterFunc(5*time.Second, func() {
							for _, side := range freeze {
								w.link().Freeze(side)
							}
						})
						last := time.Now()
						for over := time.After(12 * time.Second); ; {
							select {
							case <-moved:
								if d := time.Since(last); d > worst {
									worst = d
								}
								last = time.Now()
								continue
							case <-over:
							}
							break
						}
						if d := time.Since(last); d > worst {
							worst = d
						}
					}
					t.Log(worst)
					if worst > 1400*time.Millisecond {
						t.Errorf("it stood for %v", worst)
					}
				})
			})
		}
	}
}

// Slow paths, and those whose TCP waits for what was lost, are not suspect often.
func TestSlowIsNotFrozen(t *testing.T) {
	if testing.Short() {
		t.Skip("slow with the race detector; scripts/test runs it without")
	}
	for _, tc := range []struct {
		name     string
		rate     float64
		capacity int
		delay    time.Duration
		chance   int // of 1000 frames to be late
		late     time.Duration
		most     int // suspicions within two minutes
	}{
		{"256 kbit/s, 160 ms, 2% lost", 32e3, 64 << 10, 80 * time.Millisecond, 20, 500 * time.Millisecond, 2},
		{"256 kbit/s, deep queue", 32e3, 256 << 10, 80 * time.Millisecond, 0, 0, 1},
		{"64 kbit/s, 40% lost", 8e3, 32 << 10, 100 * time.Millisecond, 200, 2 * time.Second, 6},
		{"100 Mbit/s, 1% lost", 12.5e6, 1 << 20, 50 * time.Millisecond, 2, 300 * time.Millisecond, 2},
	} {
		for _, name := range []string{"down", "up"} {
			t.Run(tc.name+", "+name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					w := newWorld(t, serve)
					defer w.stop()
					w.delay = tc.delay
					rng := mrand.New(mrand.NewPCG(3, 3))
					cfg := tt.LinkConfig{Rate: tc.rate, Capacity: tc.capacity}
					if tc.chance > 0 {
						cfg.Stall = func() time.Duration {
							if rng.IntN(1000) >= tc.chance {
								return 0
							}
							return time.Duration(rng.Int64N(int64(2 * tc.late)))
						}
					}
					if _, _, err := w.dial(cfg); err != nil {
						t.Fatal(err)
					}
					s := w.open(flow.Addr{Name: name, Port: endless})
					defer s.Close()
					if name == "up" {
						go io.Copy(struct{ io.Writer }{s}, endlessZeros{})
					} else {
						go io.Copy(io.Discard, struct{ io.Reader }{s})
					}
					w.until("carrier", func(v session.View) bool { return len(v.Carriers) == 1 })
					suspicions, was := 0, false
					for over := time.After(2 * time.Minute); ; {
						v, changed := w.client.View()
						if len(v.Carriers) == 0 {
							t.Fatal("it was given up")
						}
						if now := v.Carriers[0].Suspect; now != was {
							if was = now; now {
								suspicions++
							}
						}
						select {
						case <-changed:
							continue
						case <-over:
						}
						break
					}
					t.Logf("%d suspicions", suspicions)
					if suspicions > tc.most {
						t.Errorf("%d suspicions", suspicions)
					}
				})
			})
		}
	}
}
