package session_test

import (
	"context"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"busel/internal/session"
	"busel/internal/wire"
	"busel/transport"
)

// trickle is a carrier on which no frame ever comes whole, though bytes may.
type trickle struct {
	heard atomic.Int64
	dead  chan struct{}
	once  sync.Once
}

func (c *trickle) WriteFrames([]transport.Frame) error { return nil }

func (c *trickle) ReadFrames([]byte) (int, error) {
	<-c.dead
	return 0, net.ErrClosed
}

func (c *trickle) Properties() transport.Properties { return transport.Properties{Kind: "trickle"} }

func (c *trickle) Close() error {
	c.once.Do(func() { close(c.dead) })
	return nil
}

func (c *trickle) Heard() time.Time { return time.Unix(0, c.heard.Load()) }

// A record of 16 kB takes half a second at 256 kbit/s: bytes of a frame that is not
// whole yet are a sign of life, and their end is none.
func TestBytesAreASignOfLife(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		client := session.NewClient(session.ClientConfig{})
		var wg sync.WaitGroup
		defer wg.Wait()
		defer cancel()
		wg.Go(func() { client.Run(ctx) })
		s, err := client.OpenStream(ctx, origin)
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		c := &trickle{dead: make(chan struct{})}
		o := client.Offer(session.CarrierOptions{})
		wg.Go(func() { o.Attach(ctx, c, &wire.Accept{Status: wire.StatusOK}) })
		suspect := func() bool {
			v, _ := client.View()
			if len(v.Carriers) != 1 {
				t.Fatalf("there are %d carriers", len(v.Carriers))
			}
			return v.Carriers[0].Suspect
		}
		<-o.Attached()
		if _, err := s.Write(make([]byte, 1000)); err != nil {
			t.Fatal(err)
		}
		for range 50 {
			time.Sleep(100 * time.Millisecond)
			c.heard.Store(time.Now().UnixNano())
			if suspect() {
				t.Fatal("suspect although bytes come")
			}
		}
		time.Sleep(6 * time.Second)
		synctest.Wait()
		if !suspect() {
			t.Error("not suspect although nothing comes any more")
		}
	})
}
