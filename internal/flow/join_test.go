package flow_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"busel/internal/flow"
)

// half is one end of two pipes, one for each direction, so that it can be
// closed by halves as TCP can.
type half struct {
	in  *io.PipeReader
	out *io.PipeWriter

	mu     sync.Mutex
	closed int
	ending error // what CloseWrite returns
}

// ends makes the two ends of a connection.
func ends() (near, far *half) {
	r1, w1 := io.Pipe()
	r2, w2 := io.Pipe()
	return &half{in: r1, out: w2}, &half{in: r2, out: w1}
}

func (h *half) Read(b []byte) (int, error)  { return h.in.Read(b) }
func (h *half) Write(b []byte) (int, error) { return h.out.Write(b) }

func (h *half) CloseWrite() error {
	h.out.Close()
	return h.ending
}

func (h *half) Close() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.closed++
	h.in.CloseWithError(net.ErrClosed)
	h.out.CloseWithError(net.ErrClosed)
	return nil
}

// check wants the half closed once.
func (h *half) check(t *testing.T, name string) {
	t.Helper()
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed != 1 {
		t.Errorf("%s: closed %d times, want once", name, h.closed)
	}
}

type joined struct {
	aToB, bToA int64
	err        error
}

// start joins two connections and returns their outer ends, the inner ones and
// the result.
func start(ctx context.Context) (left, right, a, b *half, result chan joined) {
	a, left = ends()
	b, right = ends()
	result = make(chan joined, 1)
	go func() {
		var j joined
		j.aToB, j.bToA, j.err = flow.Join(ctx, a, b)
		result <- j
	}()
	return left, right, a, b, result
}

func write(t *testing.T, w io.Writer, s string) {
	t.Helper()
	if _, err := io.WriteString(w, s); err != nil {
		t.Error(err)
	}
}

func read(t *testing.T, r io.Reader, want string) {
	t.Helper()
	b := make([]byte, len(want))
	if _, err := io.ReadFull(r, b); err != nil || string(b) != want {
		t.Errorf("read %q, %v; want %q", b, err, want)
	}
}

func wantEOF(t *testing.T, r io.Reader) {
	t.Helper()
	if n, err := r.Read(make([]byte, 1)); n != 0 || err != io.EOF {
		t.Errorf("read %d, %v; want EOF", n, err)
	}
}

// One direction ends, the other goes on, whichever is first.
func TestJoinHalfClose(t *testing.T) {
	for _, leftFirst := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			left, right, a, b, result := start(t.Context())
			first, second := left, right
			if !leftFirst {
				first, second = right, left
			}
			write(t, first, "question")
			read(t, second, "question")
			first.CloseWrite()
			wantEOF(t, second)
			time.Sleep(time.Hour) // of the bubble: the other direction has all the time
			for range 3 {
				write(t, second, "answer")
				read(t, first, "answer")
			}
			synctest.Wait()
			if a.closed+b.closed != 0 {
				t.Error("closed while a direction is open")
			}
			second.CloseWrite()
			wantEOF(t, first)
			got := <-result
			want := joined{aToB: 8, bToA: 18}
			if !leftFirst {
				want = joined{aToB: 18, bToA: 8}
			}
			if got != want {
				t.Errorf("%+v, want %+v", got, want)
			}
			a.check(t, "a")
			b.check(t, "b")
		})
	}
}

// A broken half breaks the other; the first cause is reported.
func TestJoinError(t *testing.T) {
	broken := errors.New("broken")
	for _, tt := range []struct {
		name string
		do   func(left, right, a, b *half)
	}{
		{"read from a", func(left, right, a, b *half) { left.out.CloseWithError(broken) }},
		{"read from b", func(left, right, a, b *half) { right.out.CloseWithError(broken) }},
		{"write to a", func(left, right, a, b *half) {
			left.in.CloseWithError(broken)
			right.Write([]byte("x"))
		}},
		{"write to b", func(left, right, a, b *half) {
			right.in.CloseWithError(broken)
			left.Write([]byte("x"))
		}},
		{"half-close of b", func(left, right, a, b *half) {
			b.ending = broken
			left.CloseWrite()
		}},
		{"half-close of a", func(left, right, a, b *half) {
			a.ending = broken
			right.CloseWrite()
		}},
		{"read from a after b ended", func(left, right, a, b *half) {
			right.CloseWrite()
			wantEOF(t, left)
			left.out.CloseWithError(broken)
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				left, right, a, b, result := start(t.Context())
				tt.do(left, right, a, b)
				if got := <-result; got.err != broken {
					t.Errorf("error %v, want %v", got.err, broken)
				}
				a.check(t, "a")
				b.check(t, "b")
				if _, err := left.Write([]byte("x")); err == nil {
					t.Error("left is still read")
				}
				if _, err := right.Write([]byte("x")); err == nil {
					t.Error("right is still read")
				}
			})
		})
	}
}

// The end of ctx unblocks a Join that reads, and one that writes to a reader
// who does not read; its cause is reported.
func TestJoinContext(t *testing.T) {
	cause := errors.New("shutting down")
	for _, tt := range []struct {
		name string
		do   func(left, right *half)
	}{
		{"idle", func(left, right *half) {}},
		{"writing", func(left, right *half) {
			left.Write([]byte("abc")) // returns when Join has it; nobody takes it on the right
		}},
		{"half closed", func(left, right *half) {
			left.CloseWrite()
			right.Read(make([]byte, 1))
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithCancelCause(t.Context())
				left, right, a, b, result := start(ctx)
				tt.do(left, right)
				synctest.Wait()
				select {
				case got := <-result:
					t.Fatalf("ended early: %+v", got)
				default:
				}
				cancel(cause)
				if got := <-result; got.err != cause {
					t.Errorf("%+v, want %v", got, cause)
				}
				a.check(t, "a")
				b.check(t, "b")
			})
		})
	}
}

func TestJoinContextAlreadyEnded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		_, _, a, b, result := start(ctx)
		if got := <-result; !errors.Is(got.err, context.Canceled) {
			t.Errorf("%v", got.err)
		}
		a.check(t, "a")
		b.check(t, "b")
	})
}

// Over real sockets: bulk both ways at once arrives whole, and an abort is an
// RST, not an end.
func TestJoinTCP(t *testing.T) {
	join := func(t *testing.T) (left, right *net.TCPConn, result chan joined) {
		a, left := tcpPair(t)
		b, right := tcpPair(t)
		result = make(chan joined, 1)
		go func() {
			var j joined
			j.aToB, j.bToA, j.err = flow.Join(t.Context(), a, b)
			result <- j
		}()
		return left, right, result
	}
	t.Run("bulk", func(t *testing.T) {
		left, right, result := join(t)
		rng := rand.NewChaCha8([32]byte{1})
		up, down := make([]byte, 3<<20), make([]byte, 5<<20)
		rng.Read(up)
		rng.Read(down)
		var wg sync.WaitGroup
		for _, side := range []struct {
			conn      *net.TCPConn
			send, get []byte
		}{{left, up, down}, {right, down, up}} {
			wg.Go(func() {
				side.conn.Write(side.send)
				side.conn.CloseWrite()
			})
			wg.Go(func() {
				if got, err := io.ReadAll(side.conn); err != nil || !bytes.Equal(got, side.get) {
					t.Errorf("%d bytes, %v; want %d", len(got), err, len(side.get))
				}
			})
		}
		wg.Wait()
		if got, want := <-result, (joined{aToB: 3 << 20, bToA: 5 << 20}); got != want {
			t.Errorf("%+v, want %+v", got, want)
		}
	})
	t.Run("abort", func(t *testing.T) {
		left, right, result := join(t)
		write(t, left, "x")
		read(t, right, "x")
		right.SetLinger(0)
		right.Close()
		if n, err := left.Read(make([]byte, 1)); n != 0 || err == nil || err == io.EOF {
			t.Errorf("left reads %d, %v; want a reset", n, err)
		}
		if got := <-result; got.err == nil {
			t.Error("no error")
		}
	})
}

// tcpPair is a loopback connection; the outer end has a deadline and is closed
// with the test.
func tcpPair(t *testing.T) (inner, outer *net.TCPConn) {
	t.Helper()
	l, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	outer, err = net.DialTCP("tcp", nil, l.Addr().(*net.TCPAddr))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { outer.Close() })
	outer.SetDeadline(time.Now().Add(30 * time.Second))
	inner, err = l.AcceptTCP()
	if err != nil {
		t.Fatal(err)
	}
	return inner, outer
}
