package session_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	mrand "math/rand/v2"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"busel/internal/flow"
	"busel/internal/session"
	"busel/internal/wire"
	"busel/transport"
	tt "busel/transport/transporttest"
)

func TestEcho(t *testing.T) {
	for _, size := range []int{0, 1, 2, 100, 2032, 2033, 16361, 16362, 1 << 20, 5 << 20} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, echo)
				defer w.stop()
				w.delay = 20 * time.Millisecond
				w.redial(plain)
				data := make([]byte, size)
				rand.Read(data)
				s := w.open(origin)
				var wg sync.WaitGroup
				wg.Go(func() {
					if _, err := s.Write(data); err != nil {
						t.Errorf("Write: %v", err)
					}
					if err := s.CloseWrite(); err != nil {
						t.Errorf("CloseWrite: %v", err)
					}
				})
				got, err := io.ReadAll(s)
				if err != nil || !bytes.Equal(got, data) {
					t.Fatalf("got %d bytes, %v", len(got), err)
				}
				wg.Wait()
				if err := s.Connected(t.Context()); err != nil {
					t.Errorf("Connected: %v", err)
				}
				if err := s.Close(); err != nil {
					t.Errorf("Close: %v", err)
				}
				time.Sleep(time.Second) // fake
				synctest.Wait()
				if st := w.client.Stats(); st.Streams != 0 {
					t.Errorf("client has %d streams left", st.Streams)
				}
				if st := w.server().Stats(); st.Streams != 0 {
					t.Errorf("relay has %d streams left", st.Streams)
				}
				if w.client.Wanted() {
					t.Error("an idle session wants a carrier")
				}
			})
		})
	}
}

// Opening costs no round trip: one to the relay brings the answer (issue 2).
func TestRoundTrips(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, echo)
		defer w.stop()
		w.delay = 50 * time.Millisecond
		const rtt = 100 * time.Millisecond
		w.redial(plain)
		fetch := func(what string, want time.Duration) {
			start := time.Now()
			s := w.open(origin)
			s.Write([]byte("GET"))
			b := make([]byte, 3)
			if _, err := io.ReadFull(s, b); err != nil {
				t.Fatal(err)
			}
			if d := time.Since(start); d != want {
				t.Errorf("%s took %v, want %v", what, d, want)
			}
			s.CloseWrite()
			io.Copy(io.Discard, s)
			s.Close()
			time.Sleep(time.Second)
			synctest.Wait()
		}
		fetch("new session", 4*rtt)
		fetch("open session", rtt)
		w.link().Close()
		time.Sleep(time.Second)
		synctest.Wait()
		if st := w.client.Stats(); len(st.Carriers) != 0 {
			t.Fatalf("an idle session dialled: %+v", st)
		}
		fetch("resumed session whose carrier had ended", 3*rtt)
		w.link().Kill()
		time.Sleep(time.Second)
		fetch("resumed session again", 3*rtt)
	})
}

func TestReply(t *testing.T) {
	for _, tc := range []struct {
		code   flow.Code
		detail flow.Detail
	}{{flow.ConnectionRefused, flow.DetailRefused}, {flow.NotAllowed, flow.DetailPolicy}, {flow.HostUnreachable, flow.DetailNameNotFound}} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, func(ctx context.Context, s *session.Stream, dst flow.Addr) {
				if dst != origin {
					t.Errorf("dst = %v", dst)
				}
				s.Reply(tc.code, tc.detail)
				s.Close()
			})
			defer w.stop()
			w.redial(plain)
			s := w.open(origin)
			var oe *flow.OpenError
			if err := s.Connected(t.Context()); !errors.As(err, &oe) || oe.Code != tc.code || oe.Detail != tc.detail {
				t.Errorf("Connected: %v", err)
			}
			if _, err := s.Read(make([]byte, 1)); !errors.As(err, &oe) || oe.Code != tc.code {
				t.Errorf("Read: %v", err)
			}
			s.Close()
			time.Sleep(time.Second)
			synctest.Wait()
			if n := w.server().Stats().Streams + w.client.Stats().Streams; n != 0 {
				t.Errorf("%d streams left", n)
			}
		})
	}
}

func TestResetAndStop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		relayErr := make(chan error, 2)
		w := newWorld(t, func(ctx context.Context, s *session.Stream, dst flow.Addr) {
			s.Reply(flow.Succeeded, 0)
			_, err := io.Copy(io.Discard, s)
			relayErr <- err
			_, err = s.Write(make([]byte, 1<<20))
			relayErr <- err
			s.Close()
		})
		defer w.stop()
		w.redial(plain)
		s := w.open(origin)
		s.Write([]byte("hello"))
		if err := s.Connected(t.Context()); err != nil {
			t.Fatal(err)
		}
		s.Close()
		for range 2 {
			if err := <-relayErr; !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("relay saw %v", err)
			}
		}
		if _, err := s.Read(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
			t.Errorf("Read after Close: %v", err)
		}
		if _, err := s.Write([]byte("x")); !errors.Is(err, net.ErrClosed) {
			t.Errorf("Write after Close: %v", err)
		}
		time.Sleep(time.Second)
		synctest.Wait()
		if n := w.server().Stats().Streams + w.client.Stats().Streams; n != 0 {
			t.Errorf("%d streams left", n)
		}
	})
}

// A stream that was closed before anything was sent leaves no trace.
func TestCloseUnsent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, echo)
		defer w.stop()
		s := w.open(origin)
		if !w.client.Wanted() {
			t.Error("no carrier wanted")
		}
		s.Close()
		if w.client.Wanted() || w.client.Stats().Streams != 0 {
			t.Error("closed stream is still there")
		}
	})
}

func TestDeadlines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, func(ctx context.Context, s *session.Stream, dst flow.Addr) {
			s.Reply(0, 0)
			<-ctx.Done()
			s.Close()
		})
		defer w.stop()
		w.redial(plain)
		s := w.open(origin)
		start := time.Now()
		s.SetReadDeadline(start.Add(time.Second))
		if _, err := s.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(start) != time.Second {
			t.Errorf("Read: %v after %v", err, time.Since(start))
		}
		s.SetWriteDeadline(time.Now().Add(time.Second))
		start = time.Now()
		n, err := s.Write(make([]byte, 64<<20))
		if !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(start) != time.Second {
			t.Errorf("Write: %v after %v", err, time.Since(start))
		}
		// The relay reads nothing: the window and both queues bound what is under way.
		if n > 1<<20 {
			t.Errorf("%d bytes were taken", n)
		}
		var ne net.Error
		if !errors.As(err, &ne) || !ne.Timeout() {
			t.Errorf("no timeout: %v", err)
		}
		s.SetDeadline(time.Time{})
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := s.Connected(ctx); err != nil {
			t.Errorf("Connected: %v", err)
		}
		s.Close()
	})
}

func TestTooManyStreams(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, echo)
		defer w.stop()
		w.redial(plain)
		var all []*session.Stream
		for range wire.DefaultMaxStreams {
			all = append(all, w.open(origin))
		}
		for _, s := range all {
			if err := s.Connected(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := w.client.OpenStream(ctx, origin); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("OpenStream over the limit: %v", err)
		}
		opened := make(chan error)
		go func() {
			s, err := w.client.OpenStream(t.Context(), origin)
			if err == nil {
				err = s.Connected(t.Context())
			}
			opened <- err
		}()
		all[0].Close()
		if err := <-opened; err != nil {
			t.Errorf("OpenStream after a Close: %v", err)
		}
	})
}

// A resume that the relay does not know resets old streams with a reason, and
// opens anew those of which it can have seen nothing.
func TestUnknownSession(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, echo)
		defer w.stop()
		w.delay = 10 * time.Millisecond
		w.redial(plain)
		old := w.open(origin)
		if err := old.Connected(t.Context()); err != nil {
			t.Fatal(err)
		}
		w.restartRelay()
		w.link().Kill()
		synctest.Wait() // the client has noticed
		fresh := w.open(origin)
		fresh.Write([]byte("early"))
		var oe *flow.OpenError
		if _, err := old.Read(make([]byte, 1)); !errors.As(err, &oe) || oe.Detail != flow.DetailRelayRestarted {
			t.Errorf("old stream: %v", err)
		}
		if _, err := old.Write([]byte("x")); !errors.As(err, &oe) {
			t.Errorf("old stream: %v", err)
		}
		fresh.CloseWrite()
		if got, err := io.ReadAll(fresh); err != nil || string(got) != "early" {
			t.Errorf("fresh stream: %q, %v", got, err)
		}
		again := w.open(origin)
		again.Write([]byte("again"))
		again.CloseWrite()
		if got, err := io.ReadAll(again); err != nil || string(got) != "again" {
			t.Errorf("later stream: %q, %v", got, err)
		}
		old.Close()
		fresh.Close()
		again.Close()
	})
}

// A relay's session ends when its life without a carrier is over.
func TestLife(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		gone := make(chan struct{})
		w := newWorld(t, func(ctx context.Context, s *session.Stream, dst flow.Addr) {
			<-ctx.Done()
			s.Close()
			close(gone)
		})
		defer w.stop()
		l, wait, err := w.dial(plain())
		if err != nil {
			t.Fatal(err)
		}
		s := w.open(origin)
		time.Sleep(2 * time.Hour)
		select {
		case <-gone:
			t.Fatal("session ended although a carrier was attached")
		default:
		}
		start := time.Now()
		l.Kill()
		wantEnd(t, wait())
		<-gone
		if d := time.Since(start); d != time.Hour {
			t.Errorf("session lived %v", d)
		}
		s.Close()
	})
}

func TestRevoke(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, echo)
		defer w.stop()
		_, wait, err := w.dial(plain())
		if err != nil {
			t.Fatal(err)
		}
		s := w.open(origin)
		if err := s.Connected(t.Context()); err != nil {
			t.Fatal(err)
		}
		srv := w.server()
		srv.End(flow.DetailQuota, "quota used up")
		var re *session.ResetError
		if _, err := s.Read(make([]byte, 1)); !errors.As(err, &re) || re.Detail != flow.DetailQuota {
			t.Errorf("Read: %v", err)
		}
		var bye *session.ByeError
		if err := wait(); !errors.As(err, &bye) || bye.Text != "quota used up" {
			t.Errorf("carrier ended with %v", err)
		}
		h := w.client.Offer(session.CarrierOptions{}).Hello()
		if a, ad := srv.Admit(h, true); a.Status != wire.StatusRevoked || ad != nil {
			t.Errorf("hello after End: %v", a.Status)
		}
		s.Close()
	})
}

// Nothing is sent by the relay before the client spoke on the carrier, unless
// the hello proved a fresh resumption key.
func TestRuleSeven(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		more := make(chan struct{})
		w := newWorld(t, func(ctx context.Context, s *session.Stream, dst flow.Addr) {
			defer s.Close()
			s.Write([]byte{1})
			<-more
			s.Write(make([]byte, 64<<10))
			<-ctx.Done()
		})
		defer w.stop()
		l1, _, err := w.dial(plain())
		if err != nil {
			t.Fatal(err)
		}
		s := w.open(origin)
		if _, err := io.ReadFull(s, make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
		// A hello without proof, from one who knows the secret.
		o := w.client.Offer(session.CarrierOptions{})
		h := *o.Hello()
		h.Seal, h.SealedFrames = nil, nil
		a, ad := w.server().Admit(&h, true)
		if a.Status != wire.StatusOK || len(a.Frames) != 0 {
			t.Fatalf("accept %+v", a)
		}
		l2 := tt.NewLink(plain())
		w.wg.Go(func() { ad.Attach(w.ctx, l2.Carrier(tt.Relay)) })
		l1.KillNoticed(tt.Relay)
		synctest.Wait()
		close(more)
		time.Sleep(10 * time.Second)
		synctest.Wait()
		if n := l2.Passed(tt.Client); n != 0 {
			t.Errorf("relay sent %d bytes on an unproven carrier", n)
		}
		// The same with a proof.
		h3, err := wire.ParseHello(w.client.Offer(session.CarrierOptions{}).Hello().Append(nil))
		if err != nil || len(h3.SealedFrames) == 0 {
			t.Fatalf("no proof: %v", err)
		}
		damaged := *h3
		damaged.Carrier += 100 // sealed for another carrier
		if a, _ := w.server().Admit(&damaged, true); len(a.Frames) != 0 {
			t.Error("frames sealed for another carrier opened")
		}
		a, ad = w.server().Admit(h3, true)
		if len(a.Frames) == 0 {
			t.Fatal("proof was not confirmed")
		}
		l3 := tt.NewLink(plain())
		w.wg.Go(func() { ad.Attach(w.ctx, l3.Carrier(tt.Relay)) })
		synctest.Wait()
		if n := l3.Passed(tt.Client); n < 16<<10 { // what is put on it before its first ACK
			t.Errorf("relay sent only %d bytes on a proven carrier", n)
		}
		if a, ad := w.server().Admit(h3, true); a.Status != wire.StatusBusy || ad != nil {
			t.Error("a carrier's number was taken twice")
		}
		s.Close()
	})
}

// A relay that ends a session says so on proven carriers only (rule 7).
func TestRuleSevenBye(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, echo)
		defer w.stop()
		h, err := wire.ParseHello(w.client.Offer(session.CarrierOptions{}).Hello().Append(nil))
		if err != nil {
			t.Fatal(err)
		}
		s, known := w.lookup(h)
		_, ad := s.Admit(h, known)
		l := tt.NewLink(plain())
		ended := make(chan error, 1)
		w.wg.Go(func() { ended <- ad.Attach(w.ctx, l.Carrier(tt.Relay)) })
		synctest.Wait()
		s.End(flow.DetailQuota, "used up")
		<-ended
		if n := l.Passed(tt.Client); n != 0 {
			t.Errorf("relay sent %d bytes on an unproven carrier", n)
		}
	})
}

func TestSpareCarriesNoStreams(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, echo)
		defer w.stop()
		l1, _, err := w.dial(plain())
		if err != nil {
			t.Fatal(err)
		}
		l2, _, err := w.dial(plain())
		if err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		w.client.Set(2, wire.CarrierSpare)
		synctest.Wait()
		before := l2.Passed(tt.Client) + l2.Passed(tt.Relay)
		transfer(t, w, 1<<20)
		if after := l2.Passed(tt.Client) + l2.Passed(tt.Relay); after-before > 200 {
			t.Errorf("spare moved %d bytes", after-before)
		}
		w.client.Set(2, wire.CarrierActive)
		w.client.Drop(1, nil)
		transfer(t, w, 1<<20)
		if n := l2.Passed(tt.Client); n < 1<<20 {
			t.Errorf("promoted spare moved %d bytes", n)
		}
		_ = l1
	})
}

// transfer sends size random bytes there and back.
func transfer(t *testing.T, w *world, size int) {
	t.Helper()
	data := make([]byte, size)
	rand.Read(data)
	s := w.open(origin)
	defer s.Close()
	go func() {
		s.Write(data)
		s.CloseWrite()
	}()
	got, err := io.ReadAll(s)
	if err != nil || !bytes.Equal(got, data) {
		t.Errorf("transfer: %d of %d bytes, %v", len(got), size, err)
	}
}

// A frozen carrier becomes suspect, another is wanted, and when that one has
// replied everything moves.
func TestFrozen(t *testing.T) {
	for _, side := range []tt.Side{tt.Client, tt.Relay} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, echo)
			defer w.stop()
			w.delay = 10 * time.Millisecond
			w.redial(plain)
			s := w.open(origin)
			s.Write([]byte("one"))
			b := make([]byte, 3)
			if _, err := io.ReadFull(s, b); err != nil {
				t.Fatal(err)
			}
			w.link().Freeze(side)
			start := time.Now()
			s.Write([]byte("two"))
			if _, err := io.ReadFull(s, b); err != nil || string(b) != "two" {
				t.Fatalf("%q, %v", b, err)
			}
			if d := time.Since(start); d > 2*time.Second {
				t.Errorf("moved after %v", d)
			}
			w.until("end of the old one", func(v session.View) bool { return len(v.Carriers) == 1 })
			if d := time.Since(start); d > 3*time.Second {
				t.Errorf("the old one was kept for %v", d)
			}
			if st := w.client.Stats(); st.Moves != 1 {
				t.Errorf("%+v", st)
			}
			s.Close()
		})
	}
}

// A redialer that waits for the old carrier's end gets it in bounded time, at
// both ends.
func TestFrozenAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, echo)
		defer w.stop()
		l, wait, err := w.dial(plain())
		if err != nil {
			t.Fatal(err)
		}
		s := w.open(origin)
		defer s.Close()
		if err := s.Connected(t.Context()); err != nil {
			t.Fatal(err)
		}
		l.Freeze(tt.Client)
		l.Freeze(tt.Relay)
		start := time.Now()
		s.Write([]byte("x"))
		time.Sleep(3 * time.Second)
		if st := w.client.Stats(); !st.Carriers[0].Suspect || w.client.Healthy() || !w.client.Wanted() {
			t.Errorf("after 3 s: %+v", st)
		}
		var ce *transport.CarrierError
		if err := wait(); !errors.As(err, &ce) || ce.Failure != transport.Frozen {
			t.Errorf("carrier ended with %v", err)
		}
		if d := time.Since(start); d > 20*time.Second {
			t.Errorf("given up after %v", d)
		}
	})
}

// A download that freezes shows by a PING, though the client has nothing to send.
func TestFrozenDownload(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, func(ctx context.Context, s *session.Stream, dst flow.Addr) {
			defer s.Close()
			for i := 0; i < 100; i++ {
				if _, err := s.Write(make([]byte, 10000)); err != nil {
					return
				}
				time.Sleep(50 * time.Millisecond)
			}
			s.CloseWrite()
			io.Copy(io.Discard, s)
		})
		defer w.stop()
		w.delay = 10 * time.Millisecond
		w.redial(plain)
		s := w.open(origin)
		time.Sleep(time.Second)
		w.link().Freeze(tt.Client)
		s.CloseWrite()
		start := time.Now()
		n, err := io.Copy(io.Discard, s)
		if n != 1000000 || err != nil {
			t.Errorf("%d bytes, %v", n, err)
		}
		if d := time.Since(start); d > 8*time.Second {
			t.Errorf("took %v", d)
		}
		s.Close()
	})
}

func TestOfflineBound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var written atomic.Int64
		w := newWorld(t, func(ctx context.Context, s *session.Stream, dst flow.Addr) {
			defer s.Close()
			for {
				n, err := s.Write(make([]byte, 4096))
				written.Add(int64(n))
				if err != nil {
					return
				}
			}
		})
		defer w.stop()
		l, wait, err := w.dial(plain())
		if err != nil {
			t.Fatal(err)
		}
		for range 100 {
			s := w.open(origin)
			defer s.Close()
			s.CloseWrite()
		}
		l.Freeze(tt.Client)
		synctest.Wait()
		l.Kill()
		wait()
		before := written.Load()
		synctest.Wait()
		if n := written.Load(); n > before+(1<<20) {
			t.Errorf("relay read %d bytes more without a carrier", n-before)
		}
	})
}

func TestPackets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var flows atomic.Int64
		w := newWorld(t, echo)
		w.cfg.OnPackets = func(ctx context.Context, p flow.Packets) {
			flows.Add(1)
			defer p.Close()
			buf := make([]byte, 65535)
			for {
				n, from, err := p.ReadFrom(buf)
				if err != nil {
					if !errors.Is(err, net.ErrClosed) {
						t.Errorf("ReadFrom: %v", err)
					}
					return
				}
				p.WriteTo(buf[:n], from)
			}
		}
		defer w.stop()
		w.delay = 10 * time.Millisecond
		w.redial(plain)
		p, err := w.client.OpenPackets(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if w.client.Wanted() {
			t.Error("a flow without a datagram wants a carrier")
		}
		buf := make([]byte, 65535)
		for i, size := range []int{0, 1, 1200, 16000, 16100, 20000, 65507, 65535} {
			data := bytes.Repeat([]byte{byte(i + 1)}, size)
			to := flow.Addr{Name: "dns.example", Port: uint16(i + 1)}
			if err := p.WriteTo(data, to); err != nil {
				t.Fatal(err)
			}
			n, from, err := p.ReadFrom(buf)
			if err != nil || !bytes.Equal(buf[:n], data) || from != to {
				t.Fatalf("size %d: got %d bytes from %v, %v", size, n, from, err)
			}
		}
		if err := p.WriteTo(make([]byte, 65536), origin); err == nil {
			t.Error("a datagram of 65536 bytes was taken")
		}
		time.Sleep(3 * time.Minute)
		synctest.Wait()
		if w.client.Wanted() || w.server().Stats().Flows != 0 {
			t.Error("flow does not rest")
		}
		p.WriteTo([]byte("again"), origin)
		if n, _, err := p.ReadFrom(buf); string(buf[:n]) != "again" || err != nil {
			t.Errorf("after a rest: %q, %v", buf[:n], err)
		}
		if flows.Load() != 2 {
			t.Errorf("%d flows, want 2", flows.Load())
		}
		p.Close()
		if _, _, err := p.ReadFrom(buf); !errors.Is(err, net.ErrClosed) {
			t.Errorf("ReadFrom after Close: %v", err)
		}
		time.Sleep(time.Second)
		if n := w.client.Stats().Streams + w.server().Stats().Streams; n != 0 {
			t.Errorf("%d streams of large datagrams left", n)
		}
	})
}

// A program that goes on sending through an outage (or while its machine sleeps,
// which the client does not notice) keeps the flow alive at the client only.
func TestFlowOutlivesAnOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, echo)
		w.cfg.OnPackets = echoPackets
		defer w.stop()
		p, err := w.client.OpenPackets(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		answers := make(chan byte, 100)
		w.wg.Go(func() {
			buf := make([]byte, 100)
			for {
				if _, _, err := p.ReadFrom(buf); err != nil {
					return
				}
				answers <- buf[0]
			}
		})
		for _, outage := range []time.Duration{0, time.Minute, 5 * time.Minute, 20 * time.Minute} {
			for end := time.Now().Add(outage); time.Now().Before(end); time.Sleep(5 * time.Second) {
				p.WriteTo([]byte("lost"), origin)
			}
			l, _, err := w.dial(plain())
			if err != nil {
				t.Fatal(err)
			}
			p.WriteTo([]byte{1}, origin)
			time.Sleep(time.Second)
			synctest.Wait()
			if n := w.server().Stats().Flows; n != 1 {
				t.Errorf("%d flows at the relay after %v", n, outage)
			}
			l.Kill()
			var last byte
			for len(answers) > 0 {
				last = <-answers
			}
			if last != 1 {
				t.Errorf("no answer after %v", outage)
			}
		}
		p.Close()
	})
}

// echoPackets answers a flow with what it gets.
func echoPackets(_ context.Context, p flow.Packets) {
	defer p.Close()
	buf := make([]byte, 100)
	for {
		n, from, err := p.ReadFrom(buf)
		if err != nil {
			return
		}
		p.WriteTo(buf[:n], from)
	}
}

// A client that uses its flow again just before it rests reaches a relay that
// still knows it, however long the datagram travels.
func TestFlowRestRace(t *testing.T) {
	for _, early := range []time.Duration{time.Millisecond, 500 * time.Millisecond, 1100 * time.Millisecond, 2 * time.Second} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, echo)
			w.cfg.OnPackets = echoPackets
			defer w.stop()
			w.delay = 500 * time.Millisecond
			w.redial(plain)
			p, err := w.client.OpenPackets(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			stuck := time.AfterFunc(10*time.Minute, func() { p.Close() })
			defer stuck.Stop()
			buf := make([]byte, 100)
			for i := range 4 {
				p.WriteTo([]byte{byte(i)}, origin)
				if n, _, err := p.ReadFrom(buf); n != 1 || buf[0] != byte(i) || err != nil {
					t.Fatalf("datagram %d, %v before the rest: %v", i, early, err)
				}
				time.Sleep(120*time.Second - early)
			}
			p.Close()
		})
	}
}

func TestControl(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		bundles, notices := make(chan []byte, 1), make(chan string, 1)
		w := newWorldOf(t, session.ClientConfig{
			OnBundle: func(b []byte) { bundles <- b },
			OnNotice: func(code uint64, text string) { notices <- fmt.Sprint(code, text) },
		}, echo)
		defer w.stop()
		if _, _, err := w.dial(plain()); err != nil {
			t.Fatal(err)
		}
		big := make([]byte, wire.MaxControl)
		rand.Read(big)
		if err := w.server().SendBundle(big); err != nil {
			t.Fatal(err)
		}
		if err := w.server().Notify(7, "maintenance"); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(<-bundles, big) {
			t.Error("bundle was damaged")
		}
		if n := <-notices; n != "7maintenance" {
			t.Errorf("notice %q", n)
		}
		if err := w.server().SendBundle(make([]byte, wire.MaxControl+1)); err == nil {
			t.Error("a bundle over the limit was taken")
		}
	})
}

// Windows grow with the path: a fast long path is not held at 256 KiB a round trip.
func TestWindowGrows(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, func(ctx context.Context, s *session.Stream, dst flow.Addr) {
			defer s.Close()
			s.Write(make([]byte, 100<<20))
			s.CloseWrite()
			io.Copy(io.Discard, s)
		})
		defer w.stop()
		w.delay = 50 * time.Millisecond
		w.redial(func() tt.LinkConfig { return tt.LinkConfig{Capacity: 64 << 20} })
		start := time.Now()
		s := w.open(origin)
		s.CloseWrite()
		if n, err := io.Copy(io.Discard, s); n != 100<<20 || err != nil {
			t.Errorf("%d bytes, %v", n, err)
		}
		s.Close()
		// 256 KiB a round trip would need 40 s; 16 MiB a trip, after doubling, 2 s.
		if d := time.Since(start); d > 4*time.Second {
			t.Errorf("took %v", d)
		}
	})
}

// Small streams do not wait behind a large one.
func TestFairness(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, func(ctx context.Context, s *session.Stream, dst flow.Addr) {
			if dst.Port == 1 {
				s.Write(make([]byte, 32<<20))
				s.CloseWrite()
				io.Copy(io.Discard, s)
				s.Close()
				return
			}
			echo(ctx, s, dst)
		})
		defer w.stop()
		// With a rate: else what passes meanwhile is the machine's, not the session's.
		l, _, err := w.dial(tt.LinkConfig{Capacity: 64 << 10, Rate: 20e6})
		if err != nil {
			t.Fatal(err)
		}
		bulk := w.open(flow.Addr{Name: "bulk", Port: 1})
		bulk.CloseWrite()
		io.ReadFull(bulk, make([]byte, 1000))
		go func() {
			io.Copy(io.Discard, bulk)
			bulk.Close()
		}()
		before := l.Passed(tt.Client)
		transfer(t, w, 100)
		if n := l.Passed(tt.Client) - before; n > 1<<20 {
			t.Errorf("%d bytes of bulk passed before a small answer", n)
		}
	})
}

// sum writes size bytes of a seeded stream and returns their hash.
func sum(w io.Writer, seed uint64, size int, rng *mrand.Rand) ([32]byte, error) {
	h := sha256.New()
	src := mrand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8), byte(seed >> 16), byte(seed >> 24)})
	buf := make([]byte, 40000)
	for size > 0 {
		b := buf[:min(size, 1+rng.IntN([]int{10, 3000, 40000}[rng.IntN(3)]))]
		src.Read(b)
		h.Write(b)
		if _, err := w.Write(b); err != nil {
			return [32]byte{}, err
		}
		size -= len(b)
		if rng.IntN(8) == 0 {
			time.Sleep(time.Duration(rng.IntN(100)) * time.Millisecond)
		}
	}
	return [32]byte(h.Sum(nil)), nil
}

// TestSchedules is the property that everything is for: whatever happens to the
// carriers, no stream loses, doubles or reorders a byte, and all of them end.
func TestSchedules(t *testing.T) {
	count := 1000
	if testing.Short() {
		count = 100
	}
	for seed := range count {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { schedule(t, uint64(seed)) })
		})
	}
}

func schedule(t *testing.T, seed uint64) {
	rng := mrand.New(mrand.NewPCG(seed, 7))
	type result struct {
		sum [32]byte
		n   int64
	}
	var mu sync.Mutex
	relayGot := make(map[uint16]result)
	relaySent := make(map[uint16][32]byte)
	clientGot, clientSent := make(map[uint16]result), make(map[uint16]result)
	copyIn := func(s *session.Stream, rng *mrand.Rand) (result, error) {
		h := sha256.New()
		var n int64
		var err error
		if rng.IntN(2) == 0 {
			n, err = s.WriteTo(h)
		} else {
			n, err = io.CopyBuffer(h, struct{ io.Reader }{s}, make([]byte, 1+rng.IntN(50000)))
		}
		return result{[32]byte(h.Sum(nil)), n}, err
	}
	w := newWorld(t, func(ctx context.Context, s *session.Stream, dst flow.Addr) {
		rng := mrand.New(mrand.NewPCG(seed, uint64(dst.Port)<<16))
		defer s.Close()
		s.Reply(flow.Succeeded, flow.DetailNone)
		read := func() {
			got, err := copyIn(s, rng)
			if err != nil {
				t.Errorf("relay, stream %d: read %d: %v", dst.Port, got.n, err)
			}
			mu.Lock()
			relayGot[dst.Port] = got
			mu.Unlock()
		}
		send := func() {
			rng := mrand.New(mrand.NewPCG(seed, uint64(dst.Port)<<24))
			h, err := sum(s, seed<<16|uint64(dst.Port)<<8|1, sizeOf(rng), rng)
			if err != nil {
				t.Errorf("relay, stream %d: write: %v", dst.Port, err)
			}
			mu.Lock()
			relaySent[dst.Port] = h
			mu.Unlock()
			s.CloseWrite()
		}
		if rng.IntN(3) == 0 { // answers only after the client's FIN
			read()
			send()
			return
		}
		var wg sync.WaitGroup
		wg.Go(read)
		send()
		wg.Wait()
	})
	w.delay = time.Duration(rng.IntN(40)) * time.Millisecond
	notices := [][]tt.Side{nil, {tt.Client}, {tt.Relay}}
	paths, cuts := mrand.New(mrand.NewPCG(seed, 55)), 0 // used by the redialer alone
	w.redial(func() tt.LinkConfig {
		cfg := tt.LinkConfig{Capacity: 1 << (12 + paths.IntN(8))}
		if cuts++; cuts < 20 && paths.IntN(3) > 0 {
			cfg.CutAfter[paths.IntN(2)] = 1 + int64(paths.IntN(400000))
			cfg.CutNotice = notices[paths.IntN(len(notices))]
		}
		return cfg
	})
	// A censor, and a client that likes several carriers.
	chaos := mrand.New(mrand.NewPCG(seed, 99))
	censor, stopCensor := context.WithCancel(w.ctx)
	w.wg.Go(func() {
		for range 30 {
			select {
			case <-censor.Done():
				return
			case <-time.After(time.Duration(1+chaos.IntN(300)) * time.Millisecond):
			}
			w.mu.Lock()
			var l *tt.Link
			if len(w.links) > 0 {
				l = w.links[chaos.IntN(len(w.links))]
			}
			w.mu.Unlock()
			if l == nil {
				continue
			}
			side := tt.Side(chaos.IntN(2))
			switch chaos.IntN(8) {
			case 0:
				l.Kill()
			case 1:
				l.KillNoticed(side)
			case 2:
				l.Zombie(side)
			case 3:
				l.Freeze(side)
				late := time.Duration(chaos.IntN(4000)) * time.Millisecond
				w.wg.Go(func() {
					time.Sleep(late)
					l.Thaw(side)
				})
			case 4, 5, 6:
				if len(w.client.Stats().Carriers) < 4 {
					w.dial(tt.LinkConfig{Capacity: 1 << (12 + chaos.IntN(8))})
				}
			case 7:
				if st := w.client.Stats(); len(st.Carriers) > 0 {
					w.client.Drop(st.Carriers[chaos.IntN(len(st.Carriers))].N, nil)
				}
			}
		}
	})
	streams := 1 + rng.IntN(6)
	var wg sync.WaitGroup
	start := time.Now()
	for port := uint16(1); port <= uint16(streams); port++ {
		wait := time.Duration(rng.IntN(500)) * time.Millisecond
		wg.Go(func() {
			time.Sleep(wait)
			rng := mrand.New(mrand.NewPCG(seed, uint64(port)))
			s := w.open(flow.Addr{Name: "origin", Port: port})
			defer s.Close()
			var sent [32]byte
			var size int
			var wg sync.WaitGroup
			wg.Go(func() {
				rng := mrand.New(mrand.NewPCG(seed, uint64(port)<<8))
				size = sizeOf(rng)
				var err error
				if sent, err = sum(s, seed<<16|uint64(port)<<8, size, rng); err != nil {
					t.Errorf("stream %d: write: %v", port, err)
				}
				s.CloseWrite()
			})
			got, err := copyIn(s, rng)
			if err != nil {
				t.Errorf("stream %d: read %d: %v", port, got.n, err)
			}
			wg.Wait()
			mu.Lock()
			defer mu.Unlock()
			clientGot[port], clientSent[port] = got, result{sent, int64(size)}
		})
	}
	wg.Wait()
	if d := time.Since(start); d > 10*time.Minute {
		t.Errorf("took %v", d)
	}
	stopCensor()
	time.Sleep(3 * time.Minute) // fake: all that is lost has shown by now
	synctest.Wait()
	for port := uint16(1); port <= uint16(streams); port++ {
		if clientGot[port].sum != relaySent[port] {
			t.Errorf("stream %d: download differs after %d bytes", port, clientGot[port].n)
		}
		if got, want := relayGot[port], clientSent[port]; got != want {
			t.Errorf("stream %d: upload differs: %d of %d bytes", port, got.n, want.n)
		}
	}
	if n := w.client.Stats().Streams; n != 0 {
		t.Errorf("client has %d streams left", n)
	}
	if srv := w.server(); srv != nil {
		if srv.Stats().Streams > 0 {
			// The client's last ACKs were lost and it wants no carrier for them. The
			// next one, for whatever reason, settles that.
			w.dial(plain())
			time.Sleep(time.Second)
			synctest.Wait()
		}
		if n := srv.Stats().Streams; n != 0 {
			t.Errorf("relay has %d streams left:\n%s\nclient:\n%s", n, srv.Dump(), w.client.Dump())
		}
	}
	w.mu.Lock()
	links := append([]*tt.Link(nil), w.links...)
	w.mu.Unlock()
	w.stop()
	for _, l := range links {
		l.Close()
	}
}

func sizeOf(rng *mrand.Rand) int {
	return rng.IntN([]int{1, 100, 20000, 300000, 1500000}[rng.IntN(5)] + 1)
}
