package exit

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"busel/internal/flow"
)

// fakeWire is a UDP socket in memory with one end.
type fakeWire struct {
	in       chan fakeDatagram
	sent     chan fakeDatagram
	closed   chan struct{}
	once     sync.Once
	mu       sync.Mutex
	deadline time.Time
}

type fakeDatagram struct {
	data string
	peer string
}

func newFakeWire() *fakeWire {
	return &fakeWire{in: make(chan fakeDatagram), sent: make(chan fakeDatagram, 4096), closed: make(chan struct{})}
}

func (w *fakeWire) ReadFrom(b []byte) (int, net.Addr, error) {
	w.mu.Lock()
	left := time.Until(w.deadline)
	w.mu.Unlock()
	select {
	case d := <-w.in:
		return copy(b, d.data), net.UDPAddrFromAddrPort(netip.MustParseAddrPort(d.peer)), nil
	case <-time.After(left):
		return 0, nil, &net.OpError{Op: "read", Err: os.ErrDeadlineExceeded}
	case <-w.closed:
		return 0, nil, net.ErrClosed
	}
}

func (w *fakeWire) WriteTo(b []byte, to net.Addr) (int, error) {
	select {
	case <-w.closed:
		return 0, net.ErrClosed
	default:
	}
	select {
	case <-w.closed:
		return 0, net.ErrClosed
	case w.sent <- fakeDatagram{string(b), to.String()}:
	}
	return len(b), nil
}

func (w *fakeWire) Close() error { w.once.Do(func() { close(w.closed) }); return nil }
func (w *fakeWire) SetReadDeadline(t time.Time) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.deadline = t
	return nil
}
func (w *fakeWire) LocalAddr() net.Addr              { return nil }
func (w *fakeWire) SetDeadline(time.Time) error      { return nil }
func (w *fakeWire) SetWriteDeadline(time.Time) error { return nil }

// wireNet hands out one fakeWire.
type wireNet struct{ wire *fakeWire }

func (n wireNet) DialContext(context.Context, string, string) (net.Conn, error) {
	return nil, errors.ErrUnsupported
}

func (n wireNet) ListenPacket(context.Context, string, string) (net.PacketConn, error) {
	return n.wire, nil
}

// inBubble opens an association over a fake socket.
func inBubble(t *testing.T, r Resolver, test func(t *testing.T, e *Exit, w *fakeWire, p flow.Packets)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := newFakeWire()
		e := New(Config{Network: wireNet{w}, Resolver: r})
		p, err := e.OpenPackets(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		test(t, e, w, p)
		if err := p.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
		if err := p.Close(); err != nil {
			t.Errorf("second Close: %v", err)
		}
		if err := p.WriteTo([]byte("x"), to(v4a, 53)); !errors.Is(err, net.ErrClosed) {
			t.Errorf("WriteTo after Close: %v", err)
		}
		if _, _, err := p.ReadFrom(make([]byte, 10)); !errors.Is(err, net.ErrClosed) {
			t.Errorf("ReadFrom after Close: %v", err)
		}
		if n := e.Stats().PacketsOpen; n != 0 {
			t.Errorf("%d associations open", n)
		}
	})
}

func to(host string, port uint16) flow.Addr {
	a, err := flow.MakeAddr(host, port)
	if err != nil {
		panic(err)
	}
	return a
}

func TestPacketsFilterByEndpoint(t *testing.T) {
	inBubble(t, &fakeNames{}, func(t *testing.T, e *Exit, w *fakeWire, p flow.Packets) {
		if err := p.WriteTo([]byte("query"), to(v4a, 53)); err != nil {
			t.Fatal(err)
		}
		if got := <-w.sent; got != (fakeDatagram{"query", v4a + ":53"}) {
			t.Fatalf("sent %v", got)
		}
		go func() {
			w.in <- fakeDatagram{"stranger", v4b + ":53"}
			w.in <- fakeDatagram{"other port", v4a + ":54"}
			w.in <- fakeDatagram{"answer", "[::ffff:" + v4a + "]:53"} // as a socket of both families says
		}()
		buf := make([]byte, 100)
		n, from, err := p.ReadFrom(buf)
		if err != nil || string(buf[:n]) != "answer" || from != to(v4a, 53) {
			t.Fatalf("%q from %v, %v", buf[:n], from, err)
		}
		if s := e.Stats(); s.DatagramsUp != 1 || s.DatagramsDown != 1 || s.DatagramsLost != 2 {
			t.Errorf("%+v", s)
		}
	})
}

func TestPacketsPolicy(t *testing.T) {
	r := &fakeNames{answers: map[string]fakeAnswer{"ip4 private.example.": {addrs: []string{"10.0.0.1"}}}}
	inBubble(t, r, func(t *testing.T, e *Exit, w *fakeWire, p flow.Packets) {
		for _, dst := range []flow.Addr{to("10.0.0.1", 53), to("64:ff9b::10.0.0.1", 53), {Name: "10.0.0.1", Port: 53}} {
			err := p.WriteTo([]byte("x"), dst)
			open, ok := errors.AsType[*flow.OpenError](err)
			if !ok || open.Detail != flow.DetailPolicy {
				t.Errorf("%v: %v", dst, err)
			}
		}
		if err := p.WriteTo([]byte("x"), to("private.example", 53)); err != nil {
			t.Errorf("by name: %v", err)
		}
		synctest.Wait()
		if err := p.WriteTo([]byte("x"), to("private.example", 53)); err == nil {
			t.Error("by a name that is known by now: no error")
		}
		if n := len(w.sent); n != 0 {
			t.Errorf("%d datagrams were sent", n)
		}
		if n := e.Stats().Denied; n != 5 {
			t.Errorf("denied %d", n)
		}
		if err := p.WriteTo([]byte("x"), to(v4a, 53)); err != nil {
			t.Errorf("after a denial: %v", err)
		}
	})
}

func TestPacketsNames(t *testing.T) {
	r := &fakeNames{answers: map[string]fakeAnswer{
		"ip4 both.example.": {after: time.Second, addrs: []string{v4a}},
		"ip6 both.example.": {after: time.Second, addrs: []string{v6a}},
		"ip4 six.example.":  {err: noSuchHost},
		"ip6 six.example.":  {addrs: []string{v6a}},
	}}
	inBubble(t, r, func(t *testing.T, e *Exit, w *fakeWire, p flow.Packets) {
		begin := time.Now()
		data := []byte("0")
		for range 2 * maxNameWaits { // waits for nothing, and loses what is too much
			if err := p.WriteTo(data, to("both.example", 443)); err != nil {
				t.Fatal(err)
			}
		}
		data[0] = '?' // retained?
		if took := time.Since(begin); took != 0 {
			t.Errorf("WriteTo waited %v", took)
		}
		for range maxNameWaits {
			if got := <-w.sent; got != (fakeDatagram{"0", v4a + ":443"}) {
				t.Fatalf("sent %v", got)
			}
		}
		synctest.Wait()
		if n := len(w.sent); n != 0 {
			t.Errorf("%d datagrams too many", n)
		}
		if n := e.Stats().DatagramsLost; n != maxNameWaits {
			t.Errorf("lost %d", n)
		}
		for range 2 {
			if err := p.WriteTo([]byte("1"), to("six.example", 443)); err != nil {
				t.Fatal(err)
			}
			if got := <-w.sent; got != (fakeDatagram{"1", "[" + v6a + "]:443"}) {
				t.Fatalf("sent %v", got)
			}
		}
		p.WriteTo([]byte("2"), to("none.example", 443))
		p.WriteTo([]byte("3"), to("both.example", 443)) // Close must not wait a second for it
	})
}

func TestPacketsRest(t *testing.T) {
	inBubble(t, &fakeNames{}, func(t *testing.T, e *Exit, w *fakeWire, p flow.Packets) {
		begin := time.Now()
		p.WriteTo([]byte("x"), to(v4a, 53))
		go func() {
			time.Sleep(100 * time.Second)
			w.in <- fakeDatagram{"answer", v4a + ":53"}
			time.Sleep(100 * time.Second)
			p.WriteTo([]byte("x"), to(v4b, 53)) // keeps the association, not the mapping of v4a
			time.Sleep(DefaultRest - 100*time.Second)
			w.in <- fakeDatagram{"too late", v4a + ":53"}
		}()
		buf := make([]byte, 100)
		if n, _, err := p.ReadFrom(buf); err != nil || string(buf[:n]) != "answer" {
			t.Fatalf("%q, %v", buf[:n], err)
		}
		_, _, err := p.ReadFrom(buf)
		open, ok := errors.AsType[*flow.OpenError](err)
		if !ok || open.Detail != flow.DetailTimeout {
			t.Errorf("got %v", err)
		}
		if took := time.Since(begin); took != 200*time.Second+DefaultRest {
			t.Errorf("ended after %v", took)
		}
		if err := p.WriteTo([]byte("x"), to(v4a, 53)); !errors.Is(err, net.ErrClosed) {
			t.Errorf("WriteTo whose answers nobody would read: %v", err)
		}
	})
}

func TestPacketsTableIsBounded(t *testing.T) {
	inBubble(t, &fakeNames{}, func(t *testing.T, e *Exit, w *fakeWire, p flow.Packets) {
		for i := range maxPeers + 10 {
			p.WriteTo([]byte("x"), to(v4a, uint16(1000+i)))
		}
		if n := len(p.(*association).peers.items); n != maxPeers {
			t.Errorf("%d endpoints are remembered", n)
		}
		go func() {
			w.in <- fakeDatagram{"forgotten", v4a + ":1000"}
			w.in <- fakeDatagram{"known", v4a + ":2000"}
		}()
		buf := make([]byte, 100)
		if n, _, err := p.ReadFrom(buf); err != nil || string(buf[:n]) != "known" {
			t.Errorf("%q, %v", buf[:n], err)
		}
	})
}

func TestPacketsLimit(t *testing.T) {
	e := New(Config{Network: wireNet{newFakeWire()}, MaxPackets: 1})
	p, err := e.OpenPackets(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := e.OpenPackets(t.Context()); !errors.Is(err, errFull) {
		t.Errorf("a second association: %v", err)
	}
	p.Close()
	if _, err := e.OpenPackets(t.Context()); err != nil {
		t.Errorf("after the first was closed: %v", err)
	}
}

func loopbackExit() *Exit {
	return New(Config{Allow: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")}})
}

// TestPacketsReal uses the system's sockets: one association talks to both
// families, and every endpoint sees the same port.
func TestPacketsReal(t *testing.T) {
	p, err := loopbackExit().OpenPackets(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	ports := map[uint16]bool{}
	buf := make([]byte, 65536)
	for _, addr := range []string{"127.0.0.1:0", "127.0.0.1:0", "[::1]:0"} {
		pc, err := net.ListenPacket("udp", addr)
		if err != nil {
			t.Logf("skipping %s: %v", addr, err)
			continue
		}
		defer pc.Close()
		pc.SetDeadline(time.Now().Add(10 * time.Second))
		dst := flow.AddrFrom(pc.LocalAddr().(*net.UDPAddr).AddrPort())
		for _, size := range []int{0, 1, 1472, 9000} {
			sent := bytes.Repeat([]byte{7}, size)
			if err := p.WriteTo(sent, dst); err != nil {
				t.Fatal(err)
			}
			n, from, err := pc.ReadFrom(buf)
			if err != nil || !bytes.Equal(buf[:n], sent) {
				t.Fatalf("%d bytes of %d, %v", n, size, err)
			}
			ports[from.(*net.UDPAddr).AddrPort().Port()] = true
			if _, err := pc.WriteTo(sent, from); err != nil {
				t.Fatal(err)
			}
			n, back, err := p.ReadFrom(buf)
			if err != nil || n != size || back != dst {
				t.Fatalf("%d bytes of %d from %v, %v", n, size, back, err)
			}
		}
	}
	if len(ports) != 1 {
		t.Errorf("the endpoints saw %d ports", len(ports))
	}
}

// TestStreamEnds checks on real TCP that an orderly end is FIN and any other RST.
func TestStreamEnds(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	dst := flow.AddrFrom(ln.Addr().(*net.TCPAddr).AddrPort())
	e := loopbackExit()
	open := func() (flow.Stream, net.Conn) {
		t.Helper()
		s, err := e.OpenStream(t.Context(), dst)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Connected(t.Context()); err != nil {
			t.Fatal(err)
		}
		if _, ok := s.(io.ReaderFrom); !ok {
			t.Error("the stream hides ReadFrom")
		}
		if _, ok := s.(io.WriterTo); !ok {
			t.Error("the stream hides WriteTo")
		}
		far, err := ln.Accept()
		if err != nil {
			t.Fatal(err)
		}
		far.SetDeadline(time.Now().Add(10 * time.Second))
		return s, far
	}
	t.Run("orderly", func(t *testing.T) {
		s, far := open()
		defer far.Close()
		far.Write([]byte("bye"))
		far.(*net.TCPConn).CloseWrite()
		if got, err := io.ReadAll(s); err != nil || string(got) != "bye" {
			t.Fatalf("%q, %v", got, err)
		}
		s.Write([]byte("you too"))
		s.CloseWrite()
		s.Close()
		if got, err := io.ReadAll(far); err != nil || string(got) != "you too" {
			t.Fatalf("%q, %v", got, err)
		}
	})
	t.Run("aborted", func(t *testing.T) {
		s, far := open()
		defer far.Close()
		s.Close()
		if _, err := far.Read(make([]byte, 1)); err == nil || err == io.EOF {
			t.Fatalf("want a reset, got %v", err)
		}
	})
	t.Run("aborted after half a close", func(t *testing.T) {
		s, far := open()
		defer far.Close()
		s.CloseWrite()
		if _, err := far.Read(make([]byte, 1)); err != io.EOF {
			t.Fatalf("want the end, got %v", err)
		}
		s.Close()
		// The reset shows in what is written: at the latest in the second write.
		var err error
		for err == nil {
			_, err = far.Write(make([]byte, 1000))
		}
		if errors.Is(err, net.ErrClosed) {
			t.Fatal(err)
		}
	})
	if n := e.Stats().StreamsOpen; n != 0 {
		t.Errorf("%d streams open", n)
	}
}

func TestRefusedReal(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	dst := flow.AddrFrom(ln.Addr().(*net.TCPAddr).AddrPort())
	ln.Close()
	_, err = loopbackExit().OpenStream(t.Context(), dst)
	if open, ok := errors.AsType[*flow.OpenError](err); !ok || open.Code != flow.ConnectionRefused || open.Detail != flow.DetailRefused {
		t.Errorf("got %v", err)
	}
}
