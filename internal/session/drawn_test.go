package session_test

import (
	"io"
	"testing"
	"testing/synctest"
	"time"

	tt "busel/transport/transporttest"
)

// TestDrawnTimes: an ACK after the last data, and a PING into the silence after it, do not come to
// the millisecond, which would tell a session from a visit.
func TestDrawnTimes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, talk)
		defer w.stop()
		l, _, err := w.dial(tt.LinkConfig{})
		if err != nil {
			t.Fatal(err)
		}
		s := w.open(origin)
		defer s.Close()
		// said is how long after it is called the client says something.
		said := func() time.Duration {
			begin, before := time.Now(), l.Passed(tt.Relay)
			for l.Passed(tt.Relay) == before && time.Since(begin) < 10*time.Second {
				time.Sleep(time.Millisecond)
				synctest.Wait()
			}
			return time.Since(begin)
		}
		acks, pings, more := map[time.Duration]bool{}, map[time.Duration]bool{}, map[time.Duration]bool{}
		for round := range 21 {
			for range 2 { // the first after a rest draws a PING, with which its ACK travels
				if _, err := s.Write(make([]byte, 1<<10)); err != nil {
					t.Fatal(err)
				}
				if _, err := io.ReadFull(s, make([]byte, 4<<10)); err != nil {
					t.Fatal(err)
				}
				synctest.Wait()
			}
			if round == 0 {
				time.Sleep(10 * time.Second) // how a session begins is another matter
				continue
			}
			ping := said()
			if ping < time.Second { // otherwise the ACK went along with something else
				if acks[ping] = true; ping < 139*time.Millisecond || ping > 201*time.Millisecond {
					t.Errorf("the ACK comes %v after the data, want 140 to 200 ms", ping)
				}
				ping += said()
			}
			pings[ping], more[said()] = true, true
			if ping < time.Second || ping > 1302*time.Millisecond {
				t.Errorf("the PING comes %v after the data, want 1 to 1.3 s", ping)
			}
			time.Sleep(5 * time.Second)
		}
		if len(acks) < 8 || len(pings) < 12 || len(more) < 12 {
			t.Errorf("of 20 ACKs and first and second PINGs come %d, %d and %d at other times", len(acks), len(pings), len(more))
		}
	})
}
