package session_test

import (
	"context"
	"errors"
	"io"
	"sync"
	"testing"
	"time"

	"busel/internal/flow"
	"busel/internal/session"
	"busel/internal/wire"
	"busel/transport"
	tt "busel/transport/transporttest"
)

// world is a client and a relay with links between them, without transports:
// hellos and accepts go through the codec as they would on the wire.
type world struct {
	t      *testing.T
	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup
	client *session.Client
	quit   context.CancelFunc // ends the client
	cfg    session.ServerConfig
	delay  time.Duration
	answer time.Duration // from when the relay has taken a hello until its accept leaves

	mu       sync.Mutex
	sessions map[[wire.SecretLen]byte]*session.Server
	links    []*tt.Link // live, oldest first
	dials    int
	runs     context.Context
	stopRuns context.CancelFunc
}

// newWorld starts a client and a relay whose streams are answered by handler.
func newWorld(t *testing.T, handler func(ctx context.Context, s *session.Stream, dst flow.Addr)) *world {
	return newWorldOf(t, session.ClientConfig{}, handler)
}

func newWorldOf(t *testing.T, cfg session.ClientConfig, handler func(ctx context.Context, s *session.Stream, dst flow.Addr)) *world {
	w := &world{t: t, sessions: make(map[[wire.SecretLen]byte]*session.Server), cfg: session.ServerConfig{OnStream: handler}}
	w.ctx, w.cancel = context.WithCancel(context.Background())
	w.runs, w.stopRuns = context.WithCancel(w.ctx)
	w.client = session.NewClient(cfg)
	running, quit := context.WithCancel(w.ctx)
	w.quit = quit
	w.wg.Go(func() { w.client.Run(running) })
	return w
}

// stop ends everything and waits for it.
func (w *world) stop() {
	w.cancel()
	w.wg.Wait()
}

// restartRelay forgets all sessions, as a relay that restarted.
func (w *world) restartRelay() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.stopRuns()
	w.runs, w.stopRuns = context.WithCancel(w.ctx)
	clear(w.sessions)
}

func (w *world) server() *session.Server {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, s := range w.sessions {
		return s
	}
	return nil
}

func (w *world) lookup(h *wire.Hello) (*session.Server, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	s, known := w.sessions[h.Secret]
	if !known {
		s = session.NewServer(w.cfg)
		w.sessions[h.Secret] = s
		runs := w.runs
		w.wg.Go(func() {
			s.Run(runs)
			w.mu.Lock()
			defer w.mu.Unlock()
			if w.sessions[h.Secret] == s {
				delete(w.sessions, h.Secret)
			}
		})
	}
	return s, known
}

// dial makes one carrier over a link and attaches it at both ends. It returns
// once both are live; wait blocks until the client's carrier is done.
func (w *world) dial(cfg tt.LinkConfig) (l *tt.Link, wait func() error, err error) {
	return w.dialFor(session.CarrierOptions{}, cfg)
}

// dialFor is dial of a carrier with a purpose.
func (w *world) dialFor(opt session.CarrierOptions, cfg tt.LinkConfig) (l *tt.Link, wait func() error, err error) {
	o := w.client.Offer(opt)
	time.Sleep(2 * w.delay) // TCP and TLS, one round trip each
	time.Sleep(2 * w.delay)
	h, err := wire.ParseHello(o.Hello().Append(nil))
	if err != nil {
		w.t.Errorf("hello: %v", err)
	}
	time.Sleep(w.delay)
	s, known := w.lookup(h)
	accept, admission := s.Admit(h, known)
	if admission == nil {
		o.Withdraw()
		return nil, nil, &wire.StatusError{Status: accept.Status}
	}
	time.Sleep(w.answer)
	cfg.Delay = w.delay
	l = tt.NewLink(cfg)
	w.wg.Go(func() { admission.Attach(w.ctx, l.Carrier(tt.Relay)) })
	a, err := wire.ParseAccept(accept.Append(nil))
	if err != nil {
		w.t.Errorf("accept: %v", err)
	}
	time.Sleep(w.delay)
	w.mu.Lock()
	w.links = append(w.links, l)
	w.dials++
	w.mu.Unlock()
	done := make(chan error, 1)
	w.wg.Go(func() {
		done <- o.Attach(w.ctx, l.Carrier(tt.Client), a)
		w.mu.Lock()
		for i := range w.links {
			if w.links[i] == l {
				w.links = append(w.links[:i], w.links[i+1:]...)
				break
			}
		}
		w.mu.Unlock()
	})
	return l, func() error { return <-done }, nil
}

// redial keeps a carrier attached whenever the client wants one.
func (w *world) redial(cfg func() tt.LinkConfig) {
	w.wg.Go(func() {
		for w.client.WaitNeeded(w.ctx) == nil {
			if _, _, err := w.dial(cfg()); err != nil {
				time.Sleep(100 * time.Millisecond)
			}
			time.Sleep(time.Millisecond)
		}
	})
}

func plain() tt.LinkConfig { return tt.LinkConfig{} }

var origin = flow.Addr{Name: "origin.example", Port: 443}

// echo answers a stream with what it gets.
func echo(ctx context.Context, s *session.Stream, _ flow.Addr) {
	defer s.Close()
	if s.Reply(flow.Succeeded, flow.DetailNone) != nil {
		return
	}
	if _, err := io.Copy(s, struct{ io.Reader }{s}); err != nil {
		return
	}
	s.CloseWrite()
	io.Copy(io.Discard, s)
}

func (w *world) open(dst flow.Addr) *session.Stream {
	w.t.Helper()
	s, err := w.client.OpenStream(w.ctx, dst)
	if err != nil {
		w.t.Fatal(err)
	}
	return s.(*session.Stream)
}

// wantEnd fails unless err is one of the ends that carriers have.
func wantEnd(t *testing.T, err error) {
	t.Helper()
	var ce *transport.CarrierError
	if !errors.As(err, &ce) && !errors.Is(err, session.ErrDropped) && !errors.Is(err, context.Canceled) {
		t.Errorf("carrier ended with %v", err)
	}
}

// link is the oldest live link.
func (w *world) link() *tt.Link {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.links[0]
}
