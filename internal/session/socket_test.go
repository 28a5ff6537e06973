package session_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"io"
	"net"
	"runtime"
	"sync"
	"testing"
	"time"

	"busel/internal/flow"
	"busel/internal/session"
	"busel/internal/wire"
	tt "busel/transport/transporttest"
)

// tcpPair returns two ends of a TCP connection on loopback.
func tcpPair(t testing.TB) (a, b *net.TCPConn) {
	t.Helper()
	l, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	a, err = net.DialTCP("tcp", nil, l.Addr().(*net.TCPAddr))
	if err != nil {
		t.Fatal(err)
	}
	b, err = l.AcceptTCP()
	if err != nil {
		t.Fatal(err)
	}
	return a, b
}

// realWorld is a world on the real clock with one carrier.
func realWorld(t *testing.T, handler func(ctx context.Context, s *session.Stream, dst flow.Addr)) *world {
	w := newWorld(t, handler)
	t.Cleanup(w.stop)
	if _, _, err := w.dial(tt.LinkConfig{}); err != nil {
		t.Fatal(err)
	}
	return w
}

// An application's socket at one end, an origin's at the other, flow.Join
// between: half-closes both ways, bytes equal, and the sockets' own fast paths.
func TestSockets(t *testing.T) {
	const up, down = 3<<20 + 17, 5<<20 + 3
	origins := make(chan *net.TCPConn, 1)
	w := realWorld(t, func(ctx context.Context, s *session.Stream, dst flow.Addr) {
		near, far := tcpPair(t)
		origins <- far
		s.Reply(flow.Succeeded, flow.DetailNone)
		if a, b, err := flow.Join(ctx, s, near); err != nil || a != up || b != down {
			t.Errorf("relay: %d up, %d down, %v", a, b, err)
		}
	})
	app, proxy := tcpPair(t)
	s := w.open(origin)
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() {
		if a, b, err := flow.Join(t.Context(), proxy, s); err != nil || a != up || b != down {
			t.Errorf("client: %d up, %d down, %v", a, b, err)
		}
	})
	far := <-origins
	move := func(from, to *net.TCPConn, n int) {
		data := make([]byte, n)
		rand.Read(data)
		wg.Go(func() {
			from.Write(data)
			from.CloseWrite()
		})
		wg.Go(func() {
			if got, err := io.ReadAll(to); err != nil || !bytes.Equal(got, data) {
				t.Errorf("%d of %d bytes, %v", len(got), n, err)
			}
		})
	}
	move(app, far, up)
	move(far, app, down)
	wg.Wait()
	app.Close()
	far.Close()
}

// prefixed holds bytes in front of a socket that it embeds: its Read must not
// be bypassed.
type prefixed struct {
	*net.TCPConn
	front io.Reader
}

func (p prefixed) Read(b []byte) (int, error) { return p.front.Read(b) }

func TestReadFromEmbeddedSocket(t *testing.T) {
	got := make(chan []byte, 1)
	w := realWorld(t, func(ctx context.Context, s *session.Stream, dst flow.Addr) {
		b, _ := io.ReadAll(s)
		got <- b
		s.Close()
	})
	a, b := tcpPair(t)
	defer a.Close()
	defer b.Close()
	s := w.open(origin)
	defer s.Close()
	if n, err := s.ReadFrom(&prefixed{a, io.LimitReader(bytes.NewReader([]byte("front")), 5)}); n != 5 || err != nil {
		t.Errorf("ReadFrom: %d, %v", n, err)
	}
	s.CloseWrite()
	if b := <-got; string(b) != "front" {
		t.Errorf("got %q", b)
	}
}

// 1,000 quiet streams that moved data hold no buffers (issue 2: 45 MiB in each
// program; here both ends, their sockets' goroutines included, are in one).
func TestIdleMemory(t *testing.T) {
	const streams, size = 1000, 50 << 10
	w := realWorld(t, func(ctx context.Context, s *session.Stream, dst flow.Addr) {
		near, far := net.Pipe()
		go io.CopyBuffer(struct{ io.Writer }{far}, struct{ io.Reader }{far}, make([]byte, 512)) // the origin echoes
		s.Reply(flow.Succeeded, flow.DetailNone)
		flow.Join(ctx, s, pipeHalf{near})
		far.Close()
	})
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	var all []*session.Stream
	for range streams {
		s := w.open(origin)
		go s.Write(make([]byte, size))
		if _, err := io.ReadFull(s, make([]byte, size)); err != nil {
			t.Fatal(err)
		}
		all = append(all, s)
	}
	deadline := time.Now().Add(5 * time.Second)
	for { // ACKs come within 200 ms
		runtime.GC()
		runtime.GC() // pools keep what they have for one more cycle
		runtime.ReadMemStats(&after)
		used := int64(after.HeapInuse+after.StackInuse) - int64(before.HeapInuse+before.StackInuse)
		if used < 45<<20 {
			t.Logf("%d KiB a stream, both ends", used>>10/streams)
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d MiB for %d idle streams", used>>20, streams)
		}
	}
	for _, s := range all {
		s.Close()
	}
}

// pipeHalf is a net.Pipe that can half-close in name only.
type pipeHalf struct{ net.Conn }

func (p pipeHalf) CloseWrite() error { return p.Close() }

// Two sessions share nothing: what one knows opens nothing of the other.
func TestSessionsApart(t *testing.T) {
	a := realWorld(t, echo)
	b := realWorld(t, echo)
	for _, w := range []*world{a, b} { // the resumption keys have come
		transfer(t, w, 1000)
	}
	h := a.client.Offer(session.CarrierOptions{}).Hello()
	first := h.Append(nil)
	if !bytes.Equal(first, h.Append(nil)) {
		t.Error("a hello was sealed twice")
	}
	parsed, err := wire.ParseHello(first)
	if err != nil || len(parsed.SealedFrames) == 0 {
		t.Fatalf("no sealed frames: %v", err)
	}
	// Even with the other's secret, frames sealed for one session stay shut.
	parsed.Carrier += 10
	accept, ad := b.server().Admit(parsed, true)
	if ad == nil || len(accept.Frames) != 0 {
		t.Errorf("accept %+v", accept)
	}
	ad.Withdraw()
}

func TestRunEndsAll(t *testing.T) {
	w := newWorld(t, func(ctx context.Context, s *session.Stream, dst flow.Addr) {
		defer s.Close()
		io.Copy(io.Discard, s)
	})
	_, wait, err := w.dial(tt.LinkConfig{})
	if err != nil {
		t.Fatal(err)
	}
	s := w.open(origin)
	s.Write([]byte("x"))
	p, err := w.client.OpenPackets(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	w.stop()
	if err := wait(); err == nil {
		t.Error("carrier has no end")
	}
	if _, err := s.Read(make([]byte, 1)); !errors.Is(err, session.ErrEnded) {
		t.Errorf("Read: %v", err)
	}
	if _, err := w.client.OpenStream(t.Context(), origin); !errors.Is(err, session.ErrEnded) {
		t.Errorf("OpenStream: %v", err)
	}
	if err := w.client.WaitNeeded(t.Context()); !errors.Is(err, session.ErrEnded) {
		t.Errorf("WaitNeeded: %v", err)
	}
	s.Close()
	p.Close()
}
