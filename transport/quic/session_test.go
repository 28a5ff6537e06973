package quic

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"testing"
	"time"

	"busel/internal/bridge"
	"busel/internal/flow"
	"busel/internal/relay"
	"busel/internal/rotate"
	"busel/internal/session"
	"busel/internal/wire"
	"busel/transport"
)

// killer is both ends' transport, and can kill the carriers of either.
type killer struct {
	transport.Listener
	transport.Dialer

	mu   sync.Mutex
	live [2]transport.Carrier // the newest of client and relay
}

type killerPending struct {
	transport.Pending
	k *killer
}

func (k *killer) note(end int, c transport.Carrier) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.live[end] = c
}

func (k *killer) Dial(ctx context.Context, r transport.Route, h *wire.Hello) (transport.Carrier, *wire.Accept, error) {
	c, a, err := k.Dialer.Dial(ctx, r, h)
	if err == nil {
		k.note(0, c)
	}
	return c, a, err
}

func (k *killer) Accept(ctx context.Context) (transport.Pending, error) {
	p, err := k.Listener.Accept(ctx)
	return killerPending{p, k}, err
}

func (k *killer) Close() error { return k.Listener.Close() }

func (p killerPending) Answer(a *wire.Accept) (transport.Carrier, error) {
	c, err := p.Pending.Answer(a)
	if c != nil {
		p.k.note(1, c)
	}
	return c, err
}

// kill ends a random end's carrier: abruptly, or as a session does.
func (k *killer) kill() bool {
	k.mu.Lock()
	end := rand.N(2)
	c := k.live[end]
	k.live = [2]transport.Carrier{}
	k.mu.Unlock()
	if c == nil {
		return false
	}
	if rand.N(2) == 0 {
		c.(*carrier).conn.CloseWithError(0, "")
	} else {
		c.Close()
	}
	return true
}

type anyToken struct{}

func (anyToken) Judge(wire.Token) (bool, wire.Status) { return true, wire.StatusOK }

// echo is an exit whose destinations send back what they get.
type echo struct{}

type echoStream struct {
	*net.TCPConn
	far io.Closer
}

func (echoStream) Connected(context.Context) error { return nil }

func (echo) OpenStream(ctx context.Context, _ flow.Addr) (flow.Stream, error) {
	ln, err := transport.System{}.Listen(ctx, "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	defer ln.Close()
	near, err := transport.System{}.DialContext(ctx, "tcp", ln.Addr().String())
	if err != nil {
		return nil, err
	}
	far, err := ln.Accept()
	if err != nil {
		return nil, err
	}
	go func() {
		io.Copy(far, far)
		far.Close()
	}()
	return echoStream{near.(*net.TCPConn), far}, nil
}

func (echo) OpenPackets(context.Context) (flow.Packets, error) { return nil, errors.New("no flows") }

// TestSessionSurvivesKills moves bytes on several streams both ways over
// carriers whose lanes are independent, while carriers are killed: none is lost,
// none comes twice.
func TestSessionSurvivesKills(t *testing.T) {
	const streams, size, kills = 6, 2 << 20, 8
	r := startRelay(t, nil)
	k := &killer{Listener: r.Listener, Dialer: r.dialer(t, nil)}
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	server := relay.New(relay.Config{Listeners: []transport.Listener{k}, Gate: anyToken{}, Exit: echo{}})
	client := session.NewClient(session.ClientConfig{})
	keeper := rotate.New(rotate.Config{
		Routes: []transport.Route{r.route()}, Dialer: func(transport.Route) transport.Dialer { return k }, Session: bridge.Session{Client: client},
	})
	for _, run := range []func(context.Context) error{server.Run, client.Run, keeper.Run} {
		wg.Go(func() { run(ctx) })
	}
	dst, err := flow.SplitHostPort("192.0.2.1:7")
	if err != nil {
		t.Fatal(err)
	}
	// The kills come while bytes move: each stream goes on until they are over.
	over := make(chan struct{})
	var moving sync.WaitGroup
	for i := range streams {
		moving.Go(func() {
			s, err := client.OpenStream(ctx, dst)
			if err != nil {
				t.Error(err)
				return
			}
			defer s.Close()
			data := make([]byte, size)
			rand.NewChaCha8([32]byte{byte(i)}).Read(data)
			for round := 0; ; round++ {
				done := make(chan error, 1)
				go func() {
					_, err := s.Write(data)
					done <- err
				}()
				got := make([]byte, size)
				if _, err := io.ReadFull(s, got); err != nil || !bytes.Equal(got, data) {
					t.Errorf("stream %d, round %d: %v, or bytes differ", i, round, err)
					return
				}
				if err := <-done; err != nil {
					t.Error(err)
					return
				}
				select {
				case <-over:
					return
				default:
				}
			}
		})
	}
	tick := time.NewTicker(300 * time.Millisecond)
	defer tick.Stop()
	for n := 0; n < kills; {
		<-tick.C
		if k.kill() {
			n++
		}
	}
	close(over)
	moving.Wait()
	if st := r.Stats(); st.Carriers < kills {
		t.Errorf("%d carriers for %d kills", st.Carriers, kills)
	}
}
