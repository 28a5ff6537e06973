package session_test

import (
	"context"
	"io"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"busel/internal/flow"
	"busel/internal/session"
	"busel/internal/wire"
	tt "busel/transport/transporttest"
)

// drain reads what [patterned] says until the stream ends, checks each byte, and tells
// of each piece.
func drain(t *testing.T, s *session.Stream, took func(n int)) {
	for at, buf := 0, make([]byte, 32<<10); ; {
		n, err := s.Read(buf)
		if err != nil {
			return
		}
		for i, b := range buf[:n] {
			if b != pattern(at+i) {
				t.Errorf("byte %d is wrong", at+i)
				return
			}
		}
		at += n
		took(n)
	}
}

// suspected is a download over a carrier that has just become suspect, and a spare.
func suspected(t *testing.T, w *world) (s *session.Stream, old, spare *tt.Link, got <-chan int) {
	t.Helper()
	return suspectedOf(t, w, tt.LinkConfig{}) // a batch arrives at once, as the records of one do
}

func suspectedOf(t *testing.T, w *world, cfg tt.LinkConfig) (s *session.Stream, old, spare *tt.Link, got <-chan int) {
	t.Helper()
	w.delay = 50 * time.Millisecond
	var err error
	if old, _, err = w.dial(cfg); err != nil {
		t.Fatal(err)
	}
	if spare, _, err = w.dialFor(session.CarrierOptions{State: wire.CarrierSpare}, cfg); err != nil {
		t.Fatal(err)
	}
	s = w.open(flow.Addr{Name: "endless", Port: endless})
	read := make(chan int, 1000)
	go drain(t, s, func(n int) { read <- n })
	time.Sleep(3 * time.Second)
	old.Freeze(tt.Client)
	old.Freeze(tt.Relay)
	w.until("suspicion", func(v session.View) bool { return len(v.Carriers) == 2 && v.Carriers[0].Suspect })
	for len(read) > 0 {
		<-read
	}
	return s, old, spare, read
}

// What a suspect carrier had comes over the promoted spare in one round trip: the
// relay does not wait to be told that the other one is dead.
func TestSuspectIsToldToTheRelay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, patterned)
		defer w.stop()
		s, _, _, got := suspected(t, w)
		defer s.Close()
		begin := time.Now()
		w.client.Set(2, wire.CarrierActive)
		<-got
		if d := time.Since(begin); d > 2*w.delay+20*time.Millisecond {
			t.Errorf("it took %v, a round trip takes %v", d, 2*w.delay)
		}
	})
}

// A suspect carrier that comes back is used again if the other one is dead.
func TestSuspectComesBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, patterned)
		defer w.stop()
		s, old, spare, got := suspected(t, w)
		defer s.Close()
		spare.Freeze(tt.Client)
		spare.Freeze(tt.Relay)
		w.client.Set(2, wire.CarrierActive)
		time.Sleep(200 * time.Millisecond)
		old.Thaw(tt.Client)
		old.Thaw(tt.Relay)
		sum := 0
		for over := time.After(10 * time.Second); sum < 5<<20; {
			select {
			case n := <-got:
				sum += n
			case <-over:
				t.Fatalf("%d bytes came over the carrier that came back", sum)
			}
		}
		v, _ := w.client.View()
		for _, c := range v.Carriers {
			if c.N == 1 && c.Suspect {
				t.Error("it is suspect still")
			}
		}
	})
}

// A carrier is given as long again to come back, though another one works: TCP on a
// path that loses packets is as silent.
func TestSuspectIsKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, patterned)
		defer w.stop()
		s, old, _, _ := suspected(t, w)
		defer s.Close()
		w.client.Set(2, wire.CarrierActive)
		time.Sleep(300 * time.Millisecond)
		old.Thaw(tt.Client)
		old.Thaw(tt.Relay)
		time.Sleep(500 * time.Millisecond)
		v, _ := w.client.View()
		if len(v.Carriers) != 2 || v.Carriers[0].Suspect || v.Carriers[0].N != 1 {
			t.Errorf("%+v", v.Carriers)
		}
	})
}

// A spare that took over from a suspect carrier and is as silent is told to the relay
// in the next hello, although it is not suspect yet: else the relay would answer over it.
func TestUntriedIsToldInTheHello(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, patterned)
		defer w.stop()
		s, _, spare, got := suspected(t, w)
		defer s.Close()
		spare.Freeze(tt.Client)
		spare.Freeze(tt.Relay)
		w.client.Set(2, wire.CarrierActive)
		w.delay = 30 * time.Millisecond
		if _, _, err := w.dial(tt.LinkConfig{}); err != nil {
			t.Fatal(err)
		}
		if v, _ := w.client.View(); v.Carriers[1].Suspect {
			t.Fatal("the spare is suspect already")
		}
		begin := time.Now()
		sum := <-got
		if d := time.Since(begin); d > w.delay/2 {
			t.Errorf("it took %v after the relay's answer", d)
		}
		for sum < 1<<20 {
			select {
			case n := <-got:
				sum += n
			case <-time.After(300 * time.Millisecond):
				t.Fatalf("it stands after %d bytes", sum)
			}
		}
	})
}

// A carrier of which a hello says that it is suspect is not used again while the one
// that said hello is about to come, though nothing else is left to the relay.
func TestSuspectUntilAttached(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, patterned)
		defer w.stop()
		// The silent one takes whatever is put on it.
		s, _, spare, got := suspectedOf(t, w, tt.LinkConfig{Rate: 1 << 20, Capacity: 16 << 20})
		defer s.Close()
		spare.Kill()
		synctest.Wait()
		w.answer = 20 * time.Millisecond
		if _, _, err := w.dial(tt.LinkConfig{}); err != nil {
			t.Fatal(err)
		}
		begin := time.Now()
		<-got
		if d := time.Since(begin); d > w.delay/2 {
			t.Errorf("it took %v after the relay's answer", d)
		}
	})
}

// An old word that a carrier is suspect may come after a newer one that it is not:
// carriers have no common order. The relay uses the carrier again soon, as long as
// several are in use, and when no other is left.
func TestLateWord(t *testing.T) {
	for _, alone := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, patterned)
			defer w.stop()
			w.delay = 50 * time.Millisecond
			cfg := tt.LinkConfig{Rate: 1 << 20, Capacity: 80 << 10}
			var links [2]*tt.Link
			for i := range links {
				var err error
				if links[i], _, err = w.dial(cfg); err != nil {
					t.Fatal(err)
				}
			}
			s := w.open(flow.Addr{Name: "endless", Port: endless})
			defer s.Close()
			go drain(t, s, func(int) {})
			time.Sleep(3 * time.Second)
			links[0].Freeze(tt.Client)
			links[0].Freeze(tt.Relay)
			links[1].Freeze(tt.Relay) // the word does not arrive yet
			w.until("suspicion", func(v session.View) bool { return v.Carriers[0].Suspect && !v.Carriers[1].Suspect })
			links[0].Thaw(tt.Client)
			links[0].Thaw(tt.Relay)
			w.until("recovery", func(v session.View) bool { return !v.Carriers[0].Suspect })
			time.Sleep(2 * w.delay) // that it is well again is said on it, and arrives
			links[1].Thaw(tt.Relay)
			synctest.Wait()
			if alone {
				w.client.Set(2, wire.CarrierSpare)
			}
			time.Sleep(4 * time.Second)
			v, _ := w.client.View()
			before := v.Carriers[0].Down
			time.Sleep(2 * time.Second)
			if v, _ = w.client.View(); len(v.Carriers) != 2 || v.Carriers[0].Down-before < 1<<20 {
				t.Errorf("alone %t: %d bytes came over it in 2 s, it passes 1 MiB a second\nclient %s\nrelay %s", alone, v.Carriers[0].Down-before, w.client.Dump(), w.server().Dump())
			}
		})
	}
}

// A hello that is late says that a carrier is suspect which is well again, and no other
// is left: the relay uses it, whether the dial is given up or its carrier is a spare of
// which the client does not know yet.
func TestLateHello(t *testing.T) {
	for _, state := range []wire.CarrierState{wire.CarrierActive, wire.CarrierSpare} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, patterned)
			defer w.stop()
			w.delay = 50 * time.Millisecond
			cfg := tt.LinkConfig{Rate: 1 << 20, Capacity: 80 << 10}
			old, _, err := w.dial(cfg)
			if err != nil {
				t.Fatal(err)
			}
			other, _, err := w.dial(cfg)
			if err != nil {
				t.Fatal(err)
			}
			s := w.open(flow.Addr{Name: "endless", Port: endless})
			defer s.Close()
			got := make(chan int, 1000)
			go drain(t, s, func(n int) { got <- n })
			came(got, 3*time.Second)
			old.Freeze(tt.Client)
			old.Freeze(tt.Relay)
			w.until("suspicion", func(v session.View) bool { return v.Carriers[0].Suspect })
			o := w.client.Offer(session.CarrierOptions{State: state})
			defer o.Withdraw()
			h, err := wire.ParseHello(o.Hello().Append(nil))
			if err != nil {
				t.Fatal(err)
			}
			old.Thaw(tt.Client)
			old.Thaw(tt.Relay)
			came(got, time.Second)
			other.Kill()
			came(got, time.Second)
			srv, known := w.lookup(h)
			_, ad := srv.Admit(h, known)
			if state == wire.CarrierSpare {
				l := tt.NewLink(cfg)
				w.wg.Go(func() { ad.Attach(w.ctx, l.Carrier(tt.Relay)) })
			} else {
				ad.Withdraw()
			}
			came(got, time.Second)
			if n := came(got, 2*time.Second); n < 1<<20 {
				t.Errorf("state %d: %d bytes came in 2 s over the carrier that is left, it passes 1 MiB a second\nclient %s\nrelay %s", state, n, w.client.Dump(), w.server().Dump())
			}
		})
	}
}

// With several carriers in use, what a silent one had comes over the others as soon as
// it is suspect, and not when it is given up; and it is used again if it comes back.
func TestSuspectOfSeveral(t *testing.T) {
	soon := 0
	for range 9 {
		if suspectOfSeveral(t) < 300*time.Millisecond { // 0.6 s if it is only given up
			soon++
		}
	}
	if soon < 5 { // now and then more lies on the other one's way
		t.Errorf("the next bytes came soon after one of two was suspect %d of 9 times", soon)
	}
}

// suspectOfSeveral returns how long after the suspicion the next bytes come.
func suspectOfSeveral(t *testing.T) (took time.Duration) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, patterned)
		defer w.stop()
		w.delay = 50 * time.Millisecond
		cfg := tt.LinkConfig{Rate: 1 << 20}
		old, _, err := w.dial(cfg)
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := w.dial(cfg); err != nil {
			t.Fatal(err)
		}
		s := w.open(flow.Addr{Name: "endless", Port: endless})
		defer s.Close()
		var at, last atomic.Int64
		begin := time.Now()
		go drain(t, s, func(n int) {
			at.Add(int64(n))
			last.Store(int64(time.Since(begin)))
		})
		time.Sleep(3 * time.Second)
		old.Freeze(tt.Client)
		old.Freeze(tt.Relay)
		w.until("suspicion", func(v session.View) bool { return v.Carriers[0].Suspect })
		suspect, was := time.Since(begin), last.Load()
		for last.Load() == was {
			time.Sleep(10 * time.Millisecond)
		}
		took = time.Duration(last.Load()) - suspect
		old.Thaw(tt.Client)
		old.Thaw(tt.Relay)
		time.Sleep(3 * time.Second)
		from := at.Load()
		time.Sleep(2 * time.Second)
		if n := at.Load() - from; n < 3<<20 { // both have 1 MiB/s
			t.Errorf("%d bytes in 2 s after it came back", n)
		}
	})
	return took
}

// What was said of a suspect carrier may come late, after it has come back: when the
// other one is gone, it goes on.
func TestSuspicionComesLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, patterned)
		defer w.stop()
		s, old, spare, got := suspected(t, w)
		defer s.Close()
		spare.Freeze(tt.Relay)
		w.client.Set(2, wire.CarrierActive)
		time.Sleep(100 * time.Millisecond)
		old.Thaw(tt.Client)
		old.Thaw(tt.Relay)
		time.Sleep(300 * time.Millisecond)
		spare.Thaw(tt.Relay)
		time.Sleep(300 * time.Millisecond)
		spare.Kill()
		time.Sleep(300 * time.Millisecond)
		for len(got) > 0 {
			<-got
		}
		sum := 0
		for over := time.After(10 * time.Second); sum < 5<<20; {
			select {
			case n := <-got:
				sum += n
			case <-over:
				t.Fatalf("%d bytes came over the carrier that is left\nrelay\n%s\nclient\n%s", sum, w.server().Dump(), w.client.Dump())
			}
		}
	})
}

// pattern is the byte of a patterned stream at an offset.
func pattern(at int) byte { return byte(at) ^ byte(at>>11) }

// patterned answers with bytes that tell their offset, without an end.
func patterned(_ context.Context, s *session.Stream, _ flow.Addr) {
	defer s.Close()
	for at, buf := 0, make([]byte, 64<<10); ; at += len(buf) {
		for i := range buf {
			buf[i] = pattern(at + i)
		}
		if _, err := s.Write(buf); err != nil {
			return
		}
	}
}

// A client that ends leaves no session behind at the relay, though streams were open.
func TestLeftBehind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, echo)
		defer w.stop()
		if _, _, err := w.dial(plain()); err != nil {
			t.Fatal(err)
		}
		s := w.open(origin)
		defer s.Close()
		s.Write([]byte("hello"))
		time.Sleep(time.Second)
		w.quit()
		time.Sleep(15 * time.Second)
		if w.server() != nil {
			t.Error("the session is there still")
		}
	})
}

// A dial that begins when all is silent takes along what the silent carrier had: it
// comes with the relay's first words.
func TestSuspectIsToldInTheHello(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, patterned)
		defer w.stop()
		s, _, spare, got := suspected(t, w)
		defer s.Close()
		spare.Kill()
		synctest.Wait()
		if _, _, err := w.dial(tt.LinkConfig{}); err != nil {
			t.Fatal(err)
		}
		begin := time.Now()
		<-got
		if d := time.Since(begin); d > w.delay/2 {
			t.Errorf("it took %v after the relay's answer", d)
		}
	})
}

// A carrier that froze after the question was acknowledged is found out, though nothing
// is outstanding and the answer leaves no gap; and silence without a question costs no
// more than a few PINGs.
func TestLostAnswer(t *testing.T) {
	for _, frozen := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, func(ctx context.Context, s *session.Stream, dst flow.Addr) {
				defer s.Close()
				s.Read(make([]byte, 1))
				select {
				case <-time.After(5 * time.Second):
					s.Write([]byte("answer"))
				case <-ctx.Done():
				}
				if !frozen {
					<-ctx.Done()
				}
			})
			defer w.stop()
			w.delay = 50 * time.Millisecond
			link, _, err := w.dial(plain())
			if err != nil {
				t.Fatal(err)
			}
			s := w.open(origin)
			defer s.Close()
			s.Write([]byte("question"))
			time.Sleep(4 * time.Second)
			if frozen {
				link.Freeze(tt.Client)
				link.Freeze(tt.Relay)
				begin := time.Now()
				w.until("suspicion", func(v session.View) bool { return v.Carriers[0].Suspect })
				if d := time.Since(begin); d > 5*time.Second {
					t.Errorf("it took %v", d)
				}
				return
			}
			time.Sleep(20 * time.Second) // for the answer
			v, _ := w.client.View()
			before := v.Carriers[0].Up
			time.Sleep(time.Hour)
			if v, _ = w.client.View(); v.Carriers[0].Up != before {
				t.Errorf("%d bytes were sent in an hour of silence", v.Carriers[0].Up-before)
			}
		})
	}
}

// A promoted spare that is silent, too, is found out by its own round trip.
func TestSilentSpare(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, patterned)
		defer w.stop()
		s, _, spare, _ := suspected(t, w)
		defer s.Close()
		spare.Freeze(tt.Client)
		begin := time.Now()
		w.client.Set(2, wire.CarrierActive)
		w.until("suspicion", func(v session.View) bool { return len(v.Carriers) == 2 && v.Carriers[1].Suspect })
		if d := time.Since(begin); d > 350*time.Millisecond {
			t.Errorf("it took %v", d)
		}
	})
}

// A download's silence means something at once, although an upload fills the way up so
// that not even a question leaves.
func TestFrozenWithUpload(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, serve)
		defer w.stop()
		w.delay = 50 * time.Millisecond
		link, _, err := w.dial(tt.LinkConfig{Rate: 2.5e6, Capacity: 256 << 10})
		if err != nil {
			t.Fatal(err)
		}
		down, up := w.open(flow.Addr{Name: "down", Port: endless}), w.open(flow.Addr{Name: "up", Port: endless})
		defer down.Close()
		defer up.Close()
		go io.Copy(io.Discard, struct{ io.Reader }{down})
		go io.Copy(struct{ io.Writer }{up}, endlessZeros{})
		time.Sleep(8 * time.Second)
		link.Freeze(tt.Client)
		link.Freeze(tt.Relay)
		begin := time.Now()
		w.until("suspicion", func(v session.View) bool { return v.Carriers[0].Suspect })
		if d := time.Since(begin); d > 900*time.Millisecond {
			t.Errorf("it took %v", d)
		}
	})
}

// A window is no larger than the path needs when its own queue is deep: all else on the
// carrier waits behind it.
func TestWindowLeavesQueuesShort(t *testing.T) {
	// An upload's relay hears of the empty path less.
	for name, most := range map[string]time.Duration{"down": 450 * time.Millisecond, "up": 700 * time.Millisecond} {
		synctest.Test(t, func(t *testing.T) {
			const rate = 2.5e6
			w := newWorld(t, serve)
			defer w.stop()
			w.delay = 50 * time.Millisecond
			if _, _, err := w.dial(tt.LinkConfig{Rate: rate, Capacity: 8 << 20}); err != nil {
				t.Fatal(err)
			}
			s := w.open(flow.Addr{Name: name, Port: endless})
			defer s.Close()
			if name == "up" {
				go io.Copy(struct{ io.Writer }{s}, endlessZeros{})
			} else {
				go io.Copy(io.Discard, struct{ io.Reader }{s})
			}
			time.Sleep(20 * time.Second)
			v, _ := w.client.View()
			if rtt := v.Carriers[0].RTT; rtt > most {
				t.Errorf("%s: a round trip takes %v", name, rtt)
			}
		})
	}
}

// A window does not hold up a download on a path that takes much.
func TestWindowAtFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, serve)
		defer w.stop()
		w.delay = 50 * time.Millisecond
		if _, _, err := w.dial(tt.LinkConfig{Rate: 10e6, Capacity: 1 << 20}); err != nil {
			t.Fatal(err)
		}
		s := w.open(flow.Addr{Name: "down", Port: endless})
		defer s.Close()
		go io.Copy(io.Discard, struct{ io.Reader }{s})
		time.Sleep(time.Second)
		if n := w.client.Stats().Down; n < 6<<20 { // 3 MB with 256 KiB that grow
			t.Errorf("%d bytes came in the first second", n)
		}
	})
}

// A carrier that comes to the aid of another one is believed in after a few round trips.
func TestSecondGathersSpeed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, serve)
		defer w.stop()
		w.delay = 50 * time.Millisecond
		cfg := tt.LinkConfig{Rate: 5e6, Capacity: 512 << 10}
		if _, _, err := w.dial(cfg); err != nil {
			t.Fatal(err)
		}
		s := w.open(flow.Addr{Name: "down", Port: endless})
		defer s.Close()
		go io.Copy(io.Discard, struct{ io.Reader }{s})
		time.Sleep(5 * time.Second)
		if _, _, err := w.dial(cfg); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		if v, _ := w.client.View(); v.Carriers[1].Down < 1e6 { // 400 kB by a rate that is smoothed over a second
			t.Errorf("%d bytes came in its first second", v.Carriers[1].Down)
		}
	})
}

// Of two carriers the one is late that has what streams wait for.
func TestLate(t *testing.T) {
	for _, name := range []string{"down", "up"} {
		for slow := range 2 {
			var late [2]int // times
			for range 5 {   // a carrier that was suspect meanwhile, and came back, makes the other one late
				one := lateness(t, name, slow)
				late[0], late[1] = late[0]+one[0], late[1]+one[1]
			}
			if late[slow] < 50 || late[slow] < 2*late[1-slow] {
				t.Errorf("%s, %d is slow: they were late %v of 200 times", name, slow, late)
			}
			t.Log(name, slow, late)
		}
	}
}

// lateness is how many of 40 times each of two carriers was late, of which one is slow.
func lateness(t *testing.T, name string, slow int) (late [2]int) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, serve)
		defer w.stop()
		w.delay = 50 * time.Millisecond
		var policed atomic.Bool
		for i := range 2 {
			stall := func() time.Duration {
				if i == slow && policed.Load() {
					return 100 * time.Millisecond
				}
				return 0
			}
			if _, _, err := w.dial(tt.LinkConfig{Rate: 1.25e6, Capacity: 128 << 10, Stall: stall}); err != nil {
				t.Fatal(err)
			}
		}
		s := w.open(flow.Addr{Name: name, Port: endless})
		defer s.Close()
		if name == "up" {
			go io.Copy(struct{ io.Writer }{s}, endlessZeros{})
		} else {
			go io.Copy(io.Discard, struct{ io.Reader }{s})
		}
		time.Sleep(3 * time.Second)
		policed.Store(true)
		for range 40 {
			time.Sleep(50 * time.Millisecond)
			v, _ := w.client.View()
			for _, c := range v.Carriers {
				if c.Late {
					late[c.N-1]++
				}
			}
		}
	})
	return late
}

// A carrier without a round trip of its own is judged by that of another one: where
// queues are deep it answers as late.
func TestNewcomerOnSlowPath(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, patterned)
		defer w.stop()
		w.delay = 600 * time.Millisecond
		if _, _, err := w.dial(tt.LinkConfig{}); err != nil {
			t.Fatal(err)
		}
		s := w.open(flow.Addr{Name: "endless", Port: endless})
		defer s.Close()
		go io.Copy(io.Discard, s)
		time.Sleep(20 * time.Second)
		if _, _, err := w.dialFor(session.CarrierOptions{State: wire.CarrierSpare}, tt.LinkConfig{}); err != nil {
			t.Fatal(err)
		}
		for range 60 {
			time.Sleep(50 * time.Millisecond)
			v, _ := w.client.View()
			for _, c := range v.Carriers {
				if c.Suspect {
					t.Fatalf("carrier %d is suspect", c.N)
				}
			}
		}
	})
}

// A page does not wait long behind a transfer that ran into a silence, although the
// carrier that came is slow and what it takes at first lies in a deep queue.
func TestPageAfterSilence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, patterned)
		defer w.stop()
		s, _, spare, _ := suspected(t, w)
		defer s.Close()
		spare.Kill()
		time.Sleep(time.Second)
		if _, _, err := w.dial(tt.LinkConfig{Rate: 32 << 10, Capacity: 1 << 20}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(500 * time.Millisecond)
		for i := range 3 {
			begin := time.Now()
			page := w.open(flow.Addr{Name: "page", Port: 1})
			if _, err := io.ReadFull(page, make([]byte, 1000)); err != nil {
				t.Fatal(err)
			}
			page.Close()
			if d := time.Since(begin); d > 3*time.Second { // 32 s if it takes all
				t.Errorf("answer %d took %v", i, d)
			}
		}
	})
}

// afterSilence is a download over a new carrier that comes after a second of silence.
func afterSilence(t *testing.T, w *world, delay time.Duration, cfg tt.LinkConfig) (got <-chan int) {
	t.Helper()
	_, _, spare, got := suspected(t, w)
	spare.Kill()
	time.Sleep(time.Second)
	w.delay = delay
	if _, _, err := w.dial(cfg); err != nil {
		t.Fatal(err)
	}
	return got
}

// came is how much does for so long.
func came(got <-chan int, long time.Duration) (sum int) {
	for over := time.After(long); ; {
		select {
		case n := <-got:
			sum += n
		case <-over:
			return sum
		}
	}
}

// Where round trips are short and connections may not live long a careful start is over
// soon.
func TestCarefulIsBrief(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, patterned)
		defer w.stop()
		got := afterSilence(t, w, 10*time.Millisecond, tt.LinkConfig{})
		if n := came(got, 200*time.Millisecond); n < 1<<20 { // 0.2 MB if ACKs wait for company
			t.Errorf("%d bytes came in the first 200 ms", n)
		}
	})
}

// A careful start finds what a slow path takes.
func TestCarefulGrows(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, patterned)
		defer w.stop()
		const rate = 120 << 10
		got := afterSilence(t, w, 150*time.Millisecond, tt.LinkConfig{Rate: rate})
		if n := came(got, 10*time.Second); n < 10*rate*2/3 {
			t.Errorf("%d bytes came in 10 s, the path passes %d", n, 10*rate)
		}
	})
}

// Care has an end though too little moves to know the path: what is asked for a minute
// after an outage is not held up.
func TestCarefulEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, func(ctx context.Context, s *session.Stream, dst flow.Addr) {
			if dst.Port == endless {
				patterned(ctx, s, dst)
				return
			}
			defer s.Close()
			s.Write(make([]byte, int(dst.Port)<<10))
			s.CloseWrite()
			io.Copy(io.Discard, s)
		})
		defer w.stop()
		ask := func(kib uint16) {
			s := w.open(flow.Addr{Name: "page", Port: kib})
			defer s.Close()
			if n, err := io.Copy(io.Discard, s); n != int64(kib)<<10 || err != nil {
				t.Errorf("%d bytes of %d KiB: %v", n, kib, err)
			}
		}
		bulk, _, spare, _ := suspected(t, w)
		spare.Kill()
		time.Sleep(time.Second)
		w.delay = 10 * time.Millisecond
		if _, _, err := w.dial(tt.LinkConfig{}); err != nil {
			t.Fatal(err)
		}
		bulk.Close()
		for range 30 {
			time.Sleep(2 * time.Second)
			ask(8)
		}
		begin := time.Now()
		ask(1 << 10)
		if d := time.Since(begin); d > 200*time.Millisecond {
			t.Errorf("1 MiB took %v", d)
		}
	})
}
