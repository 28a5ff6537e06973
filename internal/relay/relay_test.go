package relay

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"busel/internal/flow"
	"busel/internal/session"
	"busel/internal/wire"
	"busel/transport"
	"busel/transport/transporttest"
)

// door is a transport.Listener whose clients come from the test, over paths that are
// like path.
type door struct {
	knocks chan *knock
	path   transporttest.LinkConfig
	frozen bool // nothing arrives at clients
	mu     sync.Mutex
	links  []*transporttest.Link
}

// kill ends the newest path.
func (d *door) kill() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.links[len(d.links)-1].Kill()
}

// passed are the bytes of frames that were written towards a side, over all paths.
func (d *door) passed(to transporttest.Side) (n int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, l := range d.links {
		n += l.Passed(to)
	}
	return n
}

func (d *door) Accept(ctx context.Context) (transport.Pending, error) {
	select {
	case k := <-d.knocks:
		return k, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

func (d *door) Close() error { return nil }

// knock is a hello at the door, and what became of it.
type knock struct {
	hello   *wire.Hello
	carrier transport.Carrier // the relay's side
	answer  chan *wire.Accept // nil: closed without one
}

func (k *knock) Hello() *wire.Hello { return k.hello }

func (k *knock) Answer(a *wire.Accept) (transport.Carrier, error) {
	k.answer <- a
	if a.Status.Refused() {
		return nil, nil
	}
	return k.carrier, nil
}

func (k *knock) Close() error {
	k.answer <- nil
	return nil
}

// Dial implements transport.Dialer for clients of the door.
func (d *door) Dial(ctx context.Context, _ transport.Route, h *wire.Hello) (transport.Carrier, *wire.Accept, error) {
	link := transporttest.NewLink(d.path)
	if d.frozen {
		link.Freeze(transporttest.Client)
	}
	d.mu.Lock()
	d.links = append(d.links, link)
	d.mu.Unlock()
	encoded := h.Append(nil) // as a transport would send it
	parsed, err := wire.ParseHello(encoded)
	if err != nil {
		return nil, nil, err
	}
	k := &knock{hello: parsed, carrier: link.Carrier(transporttest.Relay), answer: make(chan *wire.Accept, 1)}
	select {
	case d.knocks <- k:
	case <-ctx.Done():
		return nil, nil, context.Cause(ctx)
	}
	a := <-k.answer
	switch {
	case a == nil:
		link.Close()
		return nil, nil, net.ErrClosed
	case a.Status.Refused():
		link.Close()
		return nil, a, &wire.StatusError{Status: a.Status}
	}
	return link.Carrier(transporttest.Client), a, nil
}

// rules is a gate by the first byte of the token.
type rules struct{}

func (rules) Judge(t wire.Token) (bool, wire.Status) {
	switch t[0] {
	case 'a', 'b':
		return true, wire.StatusOK
	case 'r':
		return true, wire.StatusRevoked
	case 'e':
		return true, wire.StatusExpired
	}
	return false, 0
}

// echo is an exit whose destinations send back what they get; names that begin
// with "no" refuse.
type echo struct{}

type echoStream struct{ net.Conn }

func (echoStream) Connected(context.Context) error { return nil }
func (s echoStream) CloseWrite() error             { return s.Close() }

func (echo) OpenStream(_ context.Context, dst flow.Addr) (flow.Stream, error) {
	if dst.Name[:2] == "no" {
		return nil, &flow.OpenError{Code: flow.ConnectionRefused, Detail: flow.DetailRefused}
	}
	near, far := net.Pipe()
	go func() {
		io.Copy(far, far)
		far.Close()
	}()
	return echoStream{near}, nil
}

func (echo) OpenPackets(context.Context) (flow.Packets, error) {
	return nil, errors.New("no flows here")
}

// start runs a relay until the test ends.
func start(t *testing.T, cfg Config) (*Relay, *door) {
	t.Helper()
	d := &door{knocks: make(chan *knock)}
	cfg.Listeners = []transport.Listener{d}
	if cfg.Gate == nil {
		cfg.Gate = rules{}
	}
	if cfg.Exit == nil {
		cfg.Exit = echo{}
	}
	r := New(cfg)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("Run returned %v", err)
		}
		if s := r.Stats(); s.Sessions+int(s.Carriers)+int(s.Streams) != 0 {
			t.Errorf("left behind: %+v", s)
		}
	})
	return r, d
}

// connect runs a client session with one carrier until the test ends. stop ends
// the carrier.
func connect(t *testing.T, d *door, token string) (*session.Client, func(), error) {
	t.Helper()
	c, ctx := newClient(t, token), t.Context()
	o := c.Offer(session.CarrierOptions{})
	carrier, a, err := d.Dial(ctx, transport.Route{}, o.Hello())
	if err != nil {
		o.Withdraw()
		return nil, nil, err
	}
	var wg sync.WaitGroup
	wg.Go(func() { o.Attach(ctx, carrier, a) })
	t.Cleanup(wg.Wait)
	return c, func() { carrier.Close() }, nil
}

func say(t *testing.T, c *session.Client, name, text string) (string, error) {
	t.Helper()
	s, err := c.OpenStream(t.Context(), flow.Addr{Name: name, Port: 80})
	if err != nil {
		return "", err
	}
	defer s.Close()
	if _, err := s.Write([]byte(text)); err != nil {
		return "", err
	}
	buf := make([]byte, len(text))
	_, err = io.ReadFull(s, buf)
	return string(buf), err
}

func TestStreamsGoThrough(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, d := start(t, Config{})
		c, _, err := connect(t, d, "a")
		if err != nil {
			t.Fatal(err)
		}
		if got, err := say(t, c, "site", "hello"); got != "hello" || err != nil {
			t.Errorf("echo: %q, %v", got, err)
		}
		_, err = say(t, c, "nobody", "hello")
		if oe, ok := errors.AsType[*flow.OpenError](err); !ok || oe.Code != flow.ConnectionRefused || oe.Detail != flow.DetailRefused {
			t.Errorf("a refused destination: %v", err)
		}
		synctest.Wait()
		if s := r.Stats(); s.Sessions != 1 || s.Carriers != 1 || s.StreamsTotal != 2 || s.StreamsFailed != 1 || s.BytesUp != 5 || s.BytesDown != 5 {
			t.Errorf("counts: %+v", s)
		}
	})
}

func TestHellosAreJudged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, d := start(t, Config{})
		for _, c := range []struct {
			token string
			want  wire.Status // 0: no answer
		}{{"x", 0}, {"r", wire.StatusRevoked}, {"e", wire.StatusExpired}} {
			_, _, err := connect(t, d, c.token)
			se, refused := errors.AsType[*wire.StatusError](err)
			if refused != (c.want != 0) || refused && se.Status != c.want || err == nil {
				t.Errorf("token %s: %v, want status %d", c.token, err, c.want)
			}
		}
		if s := r.Stats(); s.Sessions != 0 || s.Hellos != 3 || s.Refused != 3 {
			t.Errorf("counts: %+v", s)
		}
	})
}

// TestInvitesAreApart gives an attacker who holds invite b all that could name
// a's session, the secret itself included: it never attaches to it.
func TestInvitesAreApart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, d := start(t, Config{})
		victim, _, err := connect(t, d, "a")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := say(t, victim, "site", "before"); err != nil {
			t.Fatal(err)
		}
		var secret [32]byte
		o := victim.Offer(session.CarrierOptions{})
		secret = o.Hello().Secret
		o.Withdraw()
		for i, try := range [][32]byte{secret, {}, {1}} {
			h := &wire.Hello{Mode: wire.ModeResume, Secret: try, Carrier: 1000}
			h.Token[0] = 'b'
			carrier, a, err := d.Dial(t.Context(), transport.Route{}, h)
			if err != nil {
				t.Fatal(err)
			}
			if a.Status != wire.StatusUnknownSession {
				t.Errorf("try %d: status %v", i, a.Status)
			}
			if n := r.Stats().Sessions; n != i+2 {
				t.Errorf("try %d: %d sessions", i, n)
			}
			carrier.Close()
		}
		if got, err := say(t, victim, "site", "after"); got != "after" || err != nil {
			t.Errorf("the victim's session: %q, %v", got, err)
		}
	})
}

func TestSessionsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, d := start(t, Config{MaxPerInvite: 2, MaxSessions: 3})
		_, stop, err := connect(t, d, "a")
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := connect(t, d, "a"); err != nil {
			t.Fatal(err)
		}
		_, _, err = connect(t, d, "a")
		if se, ok := errors.AsType[*wire.StatusError](err); !ok || se.Status != wire.StatusDevices {
			t.Errorf("a third session of one invite, while both have carriers: %v", err)
		}
		stop()
		synctest.Wait()
		if _, _, err := connect(t, d, "a"); err != nil {
			t.Errorf("the session without a carrier did not make room: %v", err)
		}
		if _, _, err := connect(t, d, "b"); err != nil {
			t.Errorf("another invite: %v", err)
		}
		if _, _, err := connect(t, d, "b"); err == nil {
			t.Error("more sessions than MaxSessions")
		}
		if n := r.Stats().Sessions; n != 3 {
			t.Errorf("%d sessions", n)
		}
	})
}

// One session has so many carriers and no more, until one of them ends.
func TestCarriersAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, d := start(t, Config{})
		h := &wire.Hello{Secret: [32]byte{1}}
		h.Token[0] = 'a'
		var carriers []transport.Carrier
		dial := func() wire.Status {
			h.Carrier++
			c, a, err := d.Dial(t.Context(), transport.Route{}, h)
			if se, ok := errors.AsType[*wire.StatusError](err); ok {
				return se.Status
			}
			if err != nil {
				t.Fatal(err)
			}
			carriers = append(carriers, c)
			return a.Status
		}
		for i := range maxCarriers {
			if s := dial(); s != wire.StatusOK {
				t.Fatalf("carrier %d: %v", i, s)
			}
		}
		if s := dial(); s != wire.StatusBusy {
			t.Errorf("one more: %v", s)
		}
		carriers[0].Close()
		synctest.Wait()
		if s := dial(); s != wire.StatusOK {
			t.Errorf("after one has ended: %v", s)
		}
		for _, c := range carriers {
			c.Close()
		}
	})
}

func TestSessionLife(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, d := start(t, Config{SessionLife: time.Minute})
		_, stop, err := connect(t, d, "a")
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Hour)
		if n := r.Stats().Sessions; n != 1 {
			t.Errorf("%d sessions while a carrier lives", n)
		}
		stop()
		time.Sleep(59 * time.Second)
		if n := r.Stats().Sessions; n != 1 {
			t.Errorf("%d sessions within its life", n)
		}
		time.Sleep(3 * time.Second)
		synctest.Wait()
		if n := r.Stats().Sessions; n != 0 {
			t.Errorf("%d sessions after its life", n)
		}
	})
}
