package transporttest_test

import (
	"testing"
	"testing/synctest"
	"time"

	"busel/internal/wire"
	"busel/transport"
	"busel/transport/transporttest"
)

func TestLink(t *testing.T) {
	for _, delay := range []time.Duration{0, time.Millisecond} {
		t.Run(delay.String(), func(t *testing.T) {
			transporttest.TestCarrier(t, func(t *testing.T) (client, relay transport.Carrier) {
				l := transporttest.NewLink(transporttest.LinkConfig{Delay: delay})
				t.Cleanup(l.Close)
				return l.Carrier(transporttest.Client), l.Carrier(transporttest.Relay)
			})
		})
	}
}

func ping(b byte) []transport.Frame {
	return []transport.Frame{{Data: (&wire.Frame{Type: wire.Ping, Ping: [8]byte{b}}).Append(nil)}}
}

// The censor's faults, each as its documentation says.
func TestFaults(t *testing.T) {
	const client, relay = transporttest.Client, transporttest.Relay
	read := func(c transport.Carrier) (got chan byte, end chan error) {
		got, end = make(chan byte, 100), make(chan error, 1)
		go func() {
			buf := make([]byte, wire.MaxFrame)
			for {
				n, err := c.ReadFrames(buf)
				if err != nil {
					end <- err
					return
				}
				for i := 0; i < n; i += 9 {
					got <- buf[i+1]
				}
			}
		}()
		return got, end
	}
	t.Run("kill noticed by one", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			l := transporttest.NewLink(transporttest.LinkConfig{Delay: time.Second})
			defer l.Close()
			got, end := read(l.Carrier(relay))
			l.Carrier(client).WriteFrames(ping(1))
			l.KillNoticed(client)
			if err := l.Carrier(client).WriteFrames(ping(2)); err == nil {
				t.Error("client did not notice")
			}
			if err := l.Carrier(relay).WriteFrames(ping(3)); err != nil {
				t.Error("relay noticed:", err)
			}
			time.Sleep(time.Hour)
			synctest.Wait()
			if len(got) != 0 || len(end) != 0 {
				t.Error("relay got something")
			}
		})
	})
	t.Run("zombie", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			l := transporttest.NewLink(transporttest.LinkConfig{Delay: time.Second})
			defer l.Close()
			got, _ := read(l.Carrier(relay))
			l.Carrier(client).WriteFrames(ping(7))
			l.Zombie(client)
			if b := <-got; b != 7 {
				t.Errorf("got %d", b)
			}
		})
	})
	t.Run("freeze and thaw", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			l := transporttest.NewLink(transporttest.LinkConfig{})
			defer l.Close()
			got, _ := read(l.Carrier(relay))
			l.Freeze(relay)
			l.Carrier(client).WriteFrames(ping(9))
			synctest.Wait()
			if len(got) != 0 {
				t.Error("delivered while frozen")
			}
			l.Thaw(relay)
			if b := <-got; b != 9 {
				t.Errorf("got %d", b)
			}
		})
	})
	t.Run("cut", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			l := transporttest.NewLink(transporttest.LinkConfig{CutAfter: [2]int64{relay: 20}, CutNotice: []transporttest.Side{client}})
			defer l.Close()
			got, end := read(l.Carrier(relay))
			c := l.Carrier(client)
			for b := byte(1); b <= 3; b++ {
				if err := c.WriteFrames(ping(b)); err != nil {
					t.Fatal(err)
				}
			}
			if err := c.WriteFrames(ping(4)); err == nil {
				t.Error("client did not notice the cut")
			}
			synctest.Wait()
			if len(got) != 2 || len(end) != 0 {
				t.Errorf("relay got %d frames, want the 2 before the cut", len(got))
			}
		})
	})
	t.Run("delay", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			l := transporttest.NewLink(transporttest.LinkConfig{Delay: 80 * time.Millisecond})
			defer l.Close()
			got, _ := read(l.Carrier(relay))
			start := time.Now()
			l.Carrier(client).WriteFrames(ping(1))
			<-got
			if d := time.Since(start); d != 80*time.Millisecond {
				t.Errorf("took %v", d)
			}
		})
	})
}
