package session_test

import (
	"context"
	"io"
	"sync"
	"testing"

	"busel/internal/flow"
	"busel/internal/session"
	tt "busel/transport/transporttest"
)

// benchWorld is a world with one carrier in memory.
func benchWorld(b *testing.B, handler func(ctx context.Context, s *session.Stream, dst flow.Addr)) *world {
	w := &world{sessions: make(map[[32]byte]*session.Server), cfg: session.ServerConfig{OnStream: handler}}
	w.ctx, w.cancel = context.WithCancel(context.Background())
	w.runs, w.stopRuns = context.WithCancel(w.ctx)
	w.client = session.NewClient(session.ClientConfig{})
	w.wg.Go(func() { w.client.Run(w.ctx) })
	b.Cleanup(w.stop)
	if _, _, err := w.dial(tt.LinkConfig{Capacity: 1 << 20}); err != nil {
		b.Fatal(err)
	}
	return w
}

// zeros is a source that costs nothing.
type zeros struct{ left int }

func (z *zeros) Read(p []byte) (int, error) {
	if z.left == 0 {
		return 0, io.EOF
	}
	n := min(len(p), z.left)
	z.left -= n
	return n, nil
}

// sink takes everything.
type sink struct{}

func (sink) Write(p []byte) (int, error) { return len(p), nil }

const benchSize = 64 << 20

func BenchmarkDown(b *testing.B) {
	w := benchWorld(b, func(ctx context.Context, s *session.Stream, dst flow.Addr) {
		s.ReadFrom(&zeros{benchSize})
		s.CloseWrite()
		s.WriteTo(sink{})
		s.Close()
	})
	b.SetBytes(benchSize)
	b.ReportAllocs()
	for b.Loop() {
		s, err := w.client.OpenStream(b.Context(), origin)
		if err != nil {
			b.Fatal(err)
		}
		s.CloseWrite()
		if n, err := s.(*session.Stream).WriteTo(sink{}); n != benchSize || err != nil {
			b.Fatal(n, err)
		}
		s.Close()
	}
}

func BenchmarkUp(b *testing.B) {
	w := benchWorld(b, func(ctx context.Context, s *session.Stream, dst flow.Addr) {
		s.WriteTo(sink{})
		s.CloseWrite()
		s.Close()
	})
	b.SetBytes(benchSize)
	b.ReportAllocs()
	for b.Loop() {
		s, err := w.client.OpenStream(b.Context(), origin)
		if err != nil {
			b.Fatal(err)
		}
		s.(*session.Stream).ReadFrom(&zeros{benchSize})
		s.CloseWrite()
		if _, err := s.(*session.Stream).WriteTo(sink{}); err != nil {
			b.Fatal(err)
		}
		s.Close()
	}
}

// BenchmarkSmall is 100 streams that each say 200 bytes and hear 200.
func BenchmarkSmall(b *testing.B) {
	w := benchWorld(b, echo)
	b.ReportAllocs()
	var streams []flow.Stream
	for range 100 {
		s, err := w.client.OpenStream(b.Context(), origin)
		if err != nil {
			b.Fatal(err)
		}
		streams = append(streams, s)
	}
	for b.Loop() {
		var wg sync.WaitGroup
		for _, s := range streams {
			wg.Go(func() {
				buf := make([]byte, 200)
				s.Write(buf)
				if _, err := io.ReadFull(s, buf); err != nil {
					b.Error(err)
				}
			})
		}
		wg.Wait()
	}
	for _, s := range streams {
		s.Close()
	}
}

// BenchmarkOpen opens and closes a stream that is answered with one byte.
func BenchmarkOpen(b *testing.B) {
	w := benchWorld(b, func(ctx context.Context, s *session.Stream, dst flow.Addr) {
		s.Write([]byte{1})
		s.CloseWrite()
		s.WriteTo(sink{})
		s.Close()
	})
	b.ReportAllocs()
	for b.Loop() {
		s, err := w.client.OpenStream(b.Context(), origin)
		if err != nil {
			b.Fatal(err)
		}
		s.CloseWrite()
		if _, err := s.(*session.Stream).WriteTo(sink{}); err != nil {
			b.Fatal(err)
		}
		s.Close()
	}
}

// BenchmarkSockets downloads over TCP on loopback at both ends of the session.
func BenchmarkSockets(b *testing.B) {
	w := benchWorld(b, func(ctx context.Context, s *session.Stream, dst flow.Addr) {
		near, far := tcpPair(b)
		go func() {
			buf := make([]byte, 64<<10)
			for left := benchSize; left > 0; left -= len(buf) {
				far.Write(buf)
			}
			far.CloseWrite()
			io.Copy(io.Discard, far)
			far.Close()
		}()
		flow.Join(ctx, s, near)
	})
	b.SetBytes(benchSize)
	b.ReportAllocs()
	for b.Loop() {
		s, err := w.client.OpenStream(b.Context(), origin)
		if err != nil {
			b.Fatal(err)
		}
		app, proxy := tcpPair(b)
		go flow.Join(b.Context(), proxy, s)
		app.CloseWrite()
		if n, err := io.CopyBuffer(struct{ io.Writer }{sink{}}, struct{ io.Reader }{app}, make([]byte, 256<<10)); n != benchSize || err != nil {
			b.Fatal(n, err)
		}
		app.Close()
	}
}
