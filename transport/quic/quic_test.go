package quic

import (
	"context"
	"crypto/ecdh"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	mathrand "math/rand/v2"
	"net"
	"runtime"
	"sync"
	"testing"
	"time"

	quicgo "github.com/quic-go/quic-go"

	"busel/internal/wire"
	"busel/transport"
	"busel/transport/transporttest"
)

// patience bounds what must happen soon.
const patience = 20 * time.Second

// testRelay is a listener that runs.
type testRelay struct {
	*Listener
	key  *ecdh.PrivateKey
	addr string
	stop func() error // ends it and returns what Run did
}

func startRelay(t testing.TB, change func(*ListenerConfig)) *testRelay {
	t.Helper()
	key, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	socket, err := transport.System{}.ListenPacket(t.Context(), "udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	cfg := ListenerConfig{
		Listen: func(context.Context) ([]net.PacketConn, error) { return []net.PacketConn{socket}, nil },
		Key:    key, Logger: slog.New(slog.DiscardHandler),
	}
	if change != nil {
		change(&cfg)
	}
	l, err := NewListener(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- l.Run(ctx) }()
	r := &testRelay{Listener: l, key: key, addr: socket.LocalAddr().String()}
	r.stop = sync.OnceValue(func() error {
		cancel()
		return <-done
	})
	t.Cleanup(func() {
		if err := r.stop(); err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	return r
}

func (r *testRelay) dialer(t testing.TB, n transport.Network) *Dialer {
	t.Helper()
	d, err := NewDialer(DialerConfig{PublicKey: [32]byte(r.key.PublicKey().Bytes()), Network: n})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return d
}

func (r *testRelay) route() transport.Route {
	return transport.Route{Relay: "r1", Transport: Kind, Address: r.addr}
}

// answer answers every hello and hands out the carriers and hellos.
func (r *testRelay) answer(t testing.TB, a wire.Accept) (carriers chan transport.Carrier, hellos chan *wire.Hello) {
	t.Helper()
	carriers, hellos = make(chan transport.Carrier, 100), make(chan *wire.Hello, 100)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			p, err := r.Accept(context.Background())
			if err != nil {
				return
			}
			hellos <- p.Hello()
			c, err := p.Answer(&a)
			if err != nil {
				t.Errorf("Answer: %v", err)
				return
			}
			if c != nil {
				carriers <- c
			}
		}
	}()
	t.Cleanup(func() {
		r.Close()
		<-done
	})
	return carriers, hellos
}

func testHello() *wire.Hello {
	return &wire.Hello{Token: wire.Token{1, 2, 3}, Secret: [32]byte{4, 5}, Carrier: 7, Dropped: []uint32{5, 6}}
}

func testContext(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}

// pair returns the two ends of one carrier.
func pair(t testing.TB, n transport.Network) (client, relay transport.Carrier) {
	t.Helper()
	r := startRelay(t, nil)
	carriers, _ := r.answer(t, wire.Accept{})
	client, _, err := r.dialer(t, n).Dial(testContext(t), r.route(), testHello())
	if err != nil {
		t.Fatal(err)
	}
	relay = <-carriers
	t.Cleanup(func() { client.Close(); relay.Close() })
	return client, relay
}

func TestConformance(t *testing.T) {
	for name, network := range map[string]transport.Network{"batched": transport.System{}, "plain": plainNetwork{}} {
		t.Run(name, func(t *testing.T) {
			transporttest.TestCarrier(t, func(t *testing.T) (client, relay transport.Carrier) { return pair(t, network) })
		})
	}
}

// plainNetwork's sockets are not the system's as far as anybody can see, so
// that they are used one datagram at a time, as outside of Linux.
type plainNetwork struct{ transport.System }

func (n plainNetwork) ListenPacket(ctx context.Context, network, addr string) (net.PacketConn, error) {
	c, err := n.System.ListenPacket(ctx, network, addr)
	return struct{ net.PacketConn }{c}, err
}

func TestHello(t *testing.T) {
	r := startRelay(t, nil)
	sent := wire.Accept{SessionLife: time.Hour, CoverIdle: time.Second, Frames: []byte{7, 1, 2, 3, 4, 5, 6, 7, 8}}
	carriers, hellos := r.answer(t, sent)
	d := r.dialer(t, nil)
	hello := testHello()
	hello.Mode = wire.ModeResume
	hello.Seal = func([]byte) []byte { return make([]byte, 16000) }
	c, got, err := d.Dial(testContext(t), r.route(), hello)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	h := <-hellos
	if h.Token != hello.Token || h.Secret != hello.Secret || h.Carrier != 7 || len(h.Dropped) != 2 || len(h.SealedFrames) != 16000 {
		t.Errorf("the relay heard %v", h)
	}
	if got.SessionLife != time.Hour || got.CoverIdle != idleTimeout || string(got.Frames) != string(sent.Frames) {
		t.Errorf("the client got %+v", got)
	}
	if p := c.Properties(); p.Kind != "quic" || p.Ordered || p.CoverIdle != idleTimeout {
		t.Errorf("properties are %+v", p)
	}
	defer (<-carriers).Close()
	if st := r.Stats(); st.Carriers != 1 || st.Conns != 1 || st.Strange != 0 || st.NoHello != 0 {
		t.Errorf("stats are %+v", st)
	}
}

func TestRefusal(t *testing.T) {
	for _, tt := range []struct {
		status  wire.Status
		failure transport.Failure
	}{{wire.StatusRevoked, transport.Revoked}, {wire.StatusExpired, transport.Expired}, {wire.StatusBusy, ""}, {wire.StatusVersion, ""}} {
		r := startRelay(t, nil)
		r.answer(t, wire.Accept{Status: tt.status})
		c, _, err := r.dialer(t, nil).Dial(testContext(t), r.route(), testHello())
		se, ok := errors.AsType[*wire.StatusError](err)
		de, _ := errors.AsType[*transport.DialError](err)
		if c != nil || !ok || se.Status != tt.status || de.Failure != tt.failure || de.Stage != transport.StageHello {
			t.Errorf("%v: %v, %v", tt.status, c, err)
		}
	}
}

// Failures of a dial have the right names, and a cancelled one has none.
func TestDialFailures(t *testing.T) {
	r := startRelay(t, nil)
	wrong := startRelay(t, nil)
	silent, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	route := func(addr, options string) transport.Route {
		return transport.Route{Relay: "r1", Transport: Kind, Address: addr, Options: options}
	}
	_, port, _ := net.SplitHostPort(r.addr)
	r.answer(t, wire.Accept{})
	for _, tt := range []struct {
		name    string
		route   transport.Route
		failure transport.Failure
		stage   transport.Stage
	}{
		{"another relay", route(wrong.addr, ""), transport.Timeout, transport.StageConnect},
		{"nobody answers", route(silent.LocalAddr().String(), ""), transport.Timeout, transport.StageConnect},
		{"unknown options", route(r.addr, "form=h3"), "", transport.StageConnect},
		{"no address", route("127.0.0.1", ""), "", transport.StageConnect},
		{"the port of the options", route("127.0.0.1:1", "port="+port), "none", ""},
		{"a name", route("localhost:"+port, ""), "none", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			c, _, err := r.dialer(t, nil).Dial(testContext(t), tt.route, testHello())
			if tt.failure == "none" {
				if err != nil {
					t.Error(err)
				}
				return
			}
			de, ok := errors.AsType[*transport.DialError](err)
			if c != nil || !ok || de.Failure != tt.failure || de.Stage != tt.stage || de.Route != tt.route {
				t.Errorf("%v, %v", c, err)
			}
		})
	}
	t.Run("cancelled", func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		_, _, err := r.dialer(t, nil).Dial(ctx, route(silent.LocalAddr().String(), ""), testHello())
		if de, ok := errors.AsType[*transport.DialError](err); !ok || de.Failure != "" || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%v", err)
		}
	})
}

func TestOptions(t *testing.T) {
	for options, ok := range map[string]bool{"": true, "port=1": true, "port=65535": true, "port=0": false, "port=65536": false, "port=": false, "port=+1": false, "x": false, "port=1,x": false,
		"ports=1-1": true, "ports=1-64": true, "ports=1-65": false, "ports=65472-65535": true, "ports=65535-65536": false, "ports=2-1": false,
		"ports=1": false, "port=1-2": false, "ports=0-1": false, "ports=1-2-3": false, "ports=1-2,port=1": false, "ports=1-2,ports=1-2": false,
		"h3": true, "h3,h3": false, "h3,port=1": true, "h3,disguise": true, "h3,disguise,port=1": true, "disguise": false, "disguise,h3": false, "h3,disguise,disguise": false} {
		if err := CheckOptions(options); (err == nil) != ok {
			t.Errorf("%q: %v", options, err)
		}
	}
}

// A relay listens on all ports of a range at once, with one bound for all of them,
// and a client goes from one to another.
func TestPortRange(t *testing.T) {
	var sockets []net.PacketConn
	first := 0
	for tries := 0; first == 0; tries++ {
		if tries == 100 {
			t.Fatal("no three free ports in a row")
		}
		n := 10000 + mathrand.IntN(20000)
		for i := range 3 {
			c, err := transport.System{}.ListenPacket(t.Context(), "udp", fmt.Sprintf("127.0.0.1:%d", n+i))
			if err != nil {
				for _, c := range sockets {
					c.Close()
				}
				sockets = nil
				break
			}
			sockets = append(sockets, c)
		}
		if sockets != nil {
			first = n
		}
	}
	r := startRelay(t, func(cfg *ListenerConfig) {
		cfg.Listen = func(context.Context) ([]net.PacketConn, error) { return sockets, nil }
		cfg.MaxConns = 3
	})
	carriers, _ := r.answer(t, wire.Accept{})
	asked := &askedPorts{}
	d := r.dialer(t, asked)
	route := transport.Route{Relay: "r1", Transport: Kind, Address: "127.0.0.1:1", Options: PortsOptions(uint16(first), uint16(first+2))}
	dial := func() (transport.Carrier, error) {
		c, _, err := d.Dial(testContext(t), route, testHello())
		if err == nil {
			relay := <-carriers
			exchange(t, c, relay)
			exchange(t, relay, c)
		}
		return c, err
	}
	seen := map[int]bool{}
	for range 12 {
		c, err := dial()
		if err != nil {
			t.Fatal(err)
		}
		c.Close()
		for ctx := testContext(t); r.Stats().Conns > 0 && ctx.Err() == nil; {
			runtime.Gosched()
		}
		seen[asked.last(t)] = true
	}
	if len(seen) < 2 {
		t.Errorf("12 dials in a row went to %v", seen)
	}
	for range 3 {
		c, err := dial()
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
	}
	_, err := dial()
	if de, ok := errors.AsType[*transport.DialError](err); !ok || de.Failure != transport.Refused {
		t.Errorf("one more than MaxConns on all ports together: %v", err)
	}
	if err := r.stop(); err != nil {
		t.Error(err)
	}
	for _, c := range sockets {
		if err := c.SetDeadline(time.Now()); !errors.Is(err, net.ErrClosed) {
			t.Errorf("after Run port %v is open: %v", c.LocalAddr(), err)
		}
	}
}

// askedPorts notes where datagrams go to.
type askedPorts struct {
	transport.System
	mu  sync.Mutex
	all []net.Addr
}

type askedSocket struct {
	net.PacketConn
	n *askedPorts
}

func (n *askedPorts) ListenPacket(ctx context.Context, network, addr string) (net.PacketConn, error) {
	c, err := n.System.ListenPacket(ctx, network, addr)
	return askedSocket{c, n}, err
}

func (s askedSocket) WriteTo(b []byte, to net.Addr) (int, error) {
	s.n.mu.Lock()
	s.n.all = append(s.n.all, to)
	s.n.mu.Unlock()
	return s.PacketConn.WriteTo(b, to)
}

// last is the one port that was asked since the last call.
func (n *askedPorts) last(t *testing.T) int {
	t.Helper()
	n.mu.Lock()
	defer n.mu.Unlock()
	port := n.all[0].(*net.UDPAddr).Port
	for _, a := range n.all {
		if p := a.(*net.UDPAddr).Port; p != port {
			t.Errorf("one carrier has asked the ports %d and %d", port, p)
		}
	}
	n.all = nil
	return port
}

// A range is used up evenly, and no port of it twice in a row.
func TestHop(t *testing.T) {
	for _, c := range []struct{ low, high uint16 }{{1, 1}, {1, 2}, {65472, 65535}, {40000, 40004}} {
		d := new(Dialer)
		const draws = 6400
		count := map[uint16]int{}
		last := uint16(0)
		for range draws {
			p := d.hop(c.low, c.high)
			if p < c.low || p > c.high || p == last && c.low != c.high {
				t.Fatalf("%d-%d: %d after %d", c.low, c.high, p, last)
			}
			last = p
			count[p]++
		}
		n := int(c.high-c.low) + 1
		for p, times := range count {
			if mean := draws / n; times < mean/2 || times > 2*mean {
				t.Errorf("%d-%d: port %d was taken %d times, want about %d", c.low, c.high, p, times, mean)
			}
		}
		if len(count) != n {
			t.Errorf("%d-%d: %d ports of %d were taken", c.low, c.high, len(count), n)
		}
		if p := d.hop(7, 7); p != 7 {
			t.Errorf("of another range: %d", p)
		}
	}
}

// A client whose token the relay did not issue sees nobody.
func TestForeignToken(t *testing.T) {
	r := startRelay(t, nil)
	go func() {
		if p, err := r.Accept(context.Background()); err == nil {
			p.Close()
		}
	}()
	_, _, err := r.dialer(t, nil).Dial(testContext(t), r.route(), testHello())
	if de, ok := errors.AsType[*transport.DialError](err); !ok || de.Failure != transport.Hijacked {
		t.Errorf("%v", err)
	}
}

// After Close no hello is taken, and carriers live on until Run's end.
func TestDraining(t *testing.T) {
	r := startRelay(t, nil)
	carriers, _ := r.answer(t, wire.Accept{})
	client, _, err := r.dialer(t, nil).Dial(testContext(t), r.route(), testHello())
	if err != nil {
		t.Fatal(err)
	}
	relay := <-carriers
	r.Close()
	if _, err := r.Accept(t.Context()); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Accept after Close: %v", err)
	}
	_, _, err = r.dialer(t, nil).Dial(testContext(t), r.route(), testHello())
	if de, ok := errors.AsType[*transport.DialError](err); !ok || de.Failure == "" {
		t.Errorf("a dial after Close: %v", err)
	}
	exchange(t, client, relay)
	exchange(t, relay, client)
	if err := r.stop(); err != nil {
		t.Error(err)
	}
	var buf [wire.MaxFrame]byte
	if _, err := client.ReadFrames(buf[:]); err == nil {
		t.Error("a carrier outlived its relay")
	}
}

// exchange sends one frame and waits for it.
func exchange(t testing.TB, from, to transport.Carrier) {
	t.Helper()
	ping := (&wire.Frame{Type: wire.Ping, Ping: [8]byte{1, 2, 3}}).Append(nil)
	if err := from.WriteFrames([]transport.Frame{{Data: ping}}); err != nil {
		t.Fatal(err)
	}
	var buf [wire.MaxFrame]byte
	watchdog := time.AfterFunc(patience, func() { to.Close() })
	defer watchdog.Stop()
	if n, err := to.ReadFrames(buf[:]); err != nil || string(buf[:n]) != string(ping) {
		t.Fatalf("got %x, %v", buf[:n], err)
	}
}

// What was said last arrives, though the carrier is closed at once.
func TestLastWords(t *testing.T) {
	client, relay := pair(t, nil)
	exchange(t, client, relay)
	bye := (&wire.Frame{Type: wire.Bye, Code: 3, Data: []byte("good night")}).Append(nil)
	if err := relay.WriteFrames([]transport.Frame{{Data: bye}}); err != nil {
		t.Fatal(err)
	}
	relay.Close()
	var buf [wire.MaxFrame]byte
	if n, err := client.ReadFrames(buf[:]); err != nil || string(buf[:n]) != string(bye) {
		t.Fatalf("got %x, %v", buf[:n], err)
	}
	_, err := client.ReadFrames(buf[:])
	if ce, ok := errors.AsType[*transport.CarrierError](err); !ok || ce.Failure != "" {
		t.Errorf("the end is %v, want one in good order", err)
	}
}

// Datagrams arrive, the largest as well, though it fits no QUIC packet.
func TestDatagrams(t *testing.T) {
	client, relay := pair(t, nil)
	exchange(t, client, relay)
	for _, size := range []int{10, 1000, 1300, 9000, wire.MaxFrame} {
		f := make([]byte, size)
		f[0], f[size-1] = 5, byte(size)
		if err := relay.WriteFrames([]transport.Frame{{Lane: transport.LaneDatagram, Data: f}}); err != nil {
			t.Fatal(err)
		}
		var buf [wire.MaxFrame]byte
		if n, err := client.ReadFrames(buf[:]); err != nil || string(buf[:n]) != string(f) {
			t.Errorf("%d bytes: got %d, %v", size, n, err)
		}
	}
}

// A datagram that fits a QUIC packet does not wait in a stream, also not behind
// frames of the lane that takes those that do not fit.
func TestDatagramsAreNotPutIntoStreams(t *testing.T) {
	client, relay := pair(t, nil)
	exchange(t, client, relay)
	c := relay.(*carrier)
	<-c.turn
	defer func() { c.turn <- struct{}{} }()
	f := make([]byte, 100)
	for _, lane := range []transport.Lane{1, 2 * laneStreams, transport.LaneDatagram} {
		batch := []transport.Frame{{Lane: lane, Data: f}, {Lane: transport.LaneDatagram, Data: f}}
		if n, err := c.write(batch); n != 1 || err != nil {
			t.Errorf("after lane %d: %d frames were written at once, %v", lane, n, err)
		}
	}
}

func TestListenerConfig(t *testing.T) {
	p256, _ := ecdh.P256().GenerateKey(rand.Reader)
	listen := func(context.Context) ([]net.PacketConn, error) { return nil, errors.New("port is taken") }
	for _, cfg := range []ListenerConfig{{}, {Listen: listen}, {Listen: listen, Key: p256}} {
		if _, err := NewListener(cfg); err == nil {
			t.Errorf("%+v was taken", cfg)
		}
	}
	key, _ := ecdh.X25519().GenerateKey(rand.Reader)
	l, err := NewListener(ListenerConfig{Listen: listen, Key: key})
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Run(t.Context()); err == nil {
		t.Error("Run without a port returned nil")
	}
}

// Who comes beyond the bounds is refused, and a place is free again as soon as
// its connection has ended.
func TestBounds(t *testing.T) {
	r := startRelay(t, func(cfg *ListenerConfig) { cfg.MaxConns = 1 })
	carriers, _ := r.answer(t, wire.Accept{})
	d := r.dialer(t, nil)
	client, _, err := d.Dial(testContext(t), r.route(), testHello())
	if err != nil {
		t.Fatal(err)
	}
	relay := <-carriers
	_, _, err = d.Dial(testContext(t), r.route(), testHello())
	if de, ok := errors.AsType[*transport.DialError](err); !ok || de.Failure != transport.Refused {
		t.Errorf("a second one: %v", err)
	}
	client.Close()
	var buf [wire.MaxFrame]byte
	for err = nil; err == nil; _, err = relay.ReadFrames(buf[:]) {
	}
	ctx := testContext(t)
	for err = errBusy; err != nil && ctx.Err() == nil; {
		_, _, err = d.Dial(ctx, r.route(), testHello())
	}
	if err != nil {
		t.Errorf("after its end: %v", err)
	}
}

// Connections that are not carriers have fewer places, and leave them when they
// become one or end.
func TestEarlyBound(t *testing.T) {
	key, _ := ecdh.X25519().GenerateKey(rand.Reader)
	l, err := NewListener(ListenerConfig{Listen: func(context.Context) ([]net.PacketConn, error) { return nil, nil }, Key: key})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var last context.Context
	admit := func(ip string, i int) (err error) {
		addr := &net.UDPAddr{IP: net.ParseIP(ip), Port: i}
		if addr.IP.To4() == nil {
			addr.IP[15] = byte(i) // of one network
		}
		c, err := l.admit(ctx, &quicgo.ClientInfo{RemoteAddr: addr})
		if err == nil {
			last = c
		}
		return err
	}
	for _, ip := range []string{"192.0.2.1", "2001:db8::", "2001:db8:0:1::", "192.0.2.2"} {
		for i := range maxEarlyFrom {
			if err := admit(ip, i); err != nil {
				t.Fatalf("connection %d from %s: %v", i, ip, err)
			}
		}
		if admit(ip, maxEarlyFrom) == nil {
			t.Errorf("one more from %s was admitted", ip)
		}
	}
	if admit("192.0.2.3", 0) == nil {
		t.Errorf("more than %d were admitted", maxEarly)
	}
	last.Value(placeKey{}).(*place).settle()
	if err := admit("192.0.2.2", 0); err != nil {
		t.Errorf("after one became a carrier: %v", err)
	}
	cancel()
	deadline := time.Now().Add(patience)
	for left := -1; left != 0 || l.conns.Load() != 0 || l.early.Load() != 0; {
		l.mu.Lock()
		left = len(l.earlyFrom)
		l.mu.Unlock()
		if time.Now().After(deadline) {
			t.Fatalf("%d connections, %d early, are still counted", l.conns.Load(), l.early.Load())
		}
		runtime.Gosched()
	}
}

// A hello that nobody has judged is worth nothing: who knows S can say one.
func TestUnjudgedIsEarly(t *testing.T) {
	r := startRelay(t, nil)
	dialled := make(chan transport.Carrier, 1)
	d := r.dialer(t, nil)
	go func() {
		c, _, err := d.Dial(testContext(t), r.route(), testHello())
		if err != nil {
			t.Error(err)
		}
		dialled <- c
	}()
	p, err := r.Accept(testContext(t))
	if err != nil {
		t.Fatal(err)
	}
	if n := r.early.Load(); n != 1 {
		t.Errorf("%d early connections before the answer, want 1", n)
	}
	c, err := p.Answer(&wire.Accept{})
	if err != nil {
		t.Fatal(err)
	}
	if n := r.early.Load(); n != 0 {
		t.Errorf("%d early connections after the answer", n)
	}
	c.Close()
	if c := <-dialled; c != nil {
		c.Close()
	}
}

// All connections together widen their windows up to a bound, and what one had is
// free again when it has ended.
func TestWindowBound(t *testing.T) {
	key, _ := ecdh.X25519().GenerateKey(rand.Reader)
	l, err := NewListener(ListenerConfig{Listen: func(context.Context) ([]net.PacketConn, error) { return nil, nil }, Key: key})
	if err != nil {
		t.Fatal(err)
	}
	place := func() *place {
		ctx, err := l.admit(t.Context(), new(quicgo.ClientInfo))
		if err != nil {
			t.Fatal(err)
		}
		p := ctx.Value(placeKey{}).(*place)
		if p.widen(1) {
			t.Error("a window is wider before there is a carrier")
		}
		p.settle()
		return p
	}
	a, b := place(), place()
	if !a.widen(maxWide-1) || b.widen(2) || !b.widen(1) || a.widen(1) {
		t.Errorf("the windows are wider by %d bytes, want %d at most", l.wide.Load(), maxWide)
	}
	a.leave()
	if a.widen(1) || !b.widen(maxWide-1) {
		t.Error("what a connection had is not free, or it had more after its end")
	}
	b.leave()
	if n := l.wide.Load(); n != 0 {
		t.Errorf("%d bytes are counted for nobody", n)
	}
}

// An upload widens its connection's window, as long as the connection lives.
func TestUploadWidens(t *testing.T) {
	r := startRelay(t, nil)
	carriers, _ := r.answer(t, wire.Accept{})
	client, _, err := r.dialer(t, nil).Dial(testContext(t), r.route(), testHello())
	if err != nil {
		t.Fatal(err)
	}
	relay := <-carriers
	go func() {
		f := transport.Frame{Lane: 2, Data: make([]byte, wire.MaxFrame)}
		for client.WriteFrames([]transport.Frame{f, f, f, f}) == nil {
		}
	}()
	ctx := testContext(t)
	for buf := make([]byte, 64<<10); r.wide.Load() == 0 && ctx.Err() == nil; {
		if _, err := relay.ReadFrames(buf); err != nil {
			t.Fatal(err)
		}
	}
	client.Close()
	relay.Close()
	for r.Stats().Conns != 0 && ctx.Err() == nil {
		runtime.Gosched()
	}
	if n := r.wide.Load(); n != 0 || ctx.Err() != nil {
		t.Errorf("after its end %d bytes are counted: %v", n, ctx.Err())
	}
}
