package session_test

import (
	"context"
	"io"
	"testing"
	"testing/synctest"
	"time"

	"busel/internal/flow"
	"busel/internal/session"
	tt "busel/transport/transporttest"
)

// endless is the port of an origin that sends and takes for ever.
const endless = 7

// source sends 80 MiB, more than a session window, or for ever; deaf reads
// nothing of what it is sent.
func source(ctx context.Context, s *session.Stream, dst flow.Addr) {
	defer s.Close()
	if dst.Port == endless {
		for {
			if _, err := s.Write(make([]byte, 64<<10)); err != nil {
				return
			}
		}
	}
	s.Write(make([]byte, 80<<20))
	s.CloseWrite()
	io.Copy(io.Discard, s)
}

// Streams that nobody reads, such as paused videos, stop no other stream.
func TestUnreadDownloads(t *testing.T) {
	for _, n := range []int{1, 40, 130, 300, 500} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, source)
			defer w.stop()
			w.delay = 10 * time.Millisecond
			if _, _, err := w.dial(tt.LinkConfig{Capacity: 1 << 20}); err != nil {
				t.Fatal(err)
			}
			for range n {
				s := w.open(flow.Addr{Name: "paused", Port: endless})
				defer s.Close()
				s.SetReadDeadline(time.Now().Add(time.Minute))
				if _, err := io.ReadFull(s, make([]byte, 1)); err != nil {
					t.Log(w.server().Dump())
					t.Log(w.client.Dump())
					t.Fatal(err)
				}
			}
			time.Sleep(time.Minute)
			download(t, w, 80<<20, time.Hour)
		})
	}
}

// Streams whose windows grew before they were left unread stop no other either.
func TestUnreadFastDownloads(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, source)
		defer w.stop()
		w.delay = 50 * time.Millisecond
		if _, _, err := w.dial(tt.LinkConfig{Capacity: 64 << 20}); err != nil {
			t.Fatal(err)
		}
		for range 8 {
			s := w.open(flow.Addr{Name: "fast", Port: endless})
			defer s.Close()
			if _, err := io.CopyN(io.Discard, s, 60<<20); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(time.Minute)
		download(t, w, 80<<20, 5*time.Minute)
	})
}

func download(t *testing.T, w *world, size int64, within time.Duration) {
	t.Helper()
	s := w.open(origin)
	defer s.Close()
	s.CloseWrite()
	s.SetReadDeadline(time.Now().Add(within))
	start := time.Now()
	if n, err := io.Copy(io.Discard, s); n != size || err != nil {
		t.Errorf("%d of %d bytes, %v", n, size, err)
	}
	t.Logf("%d bytes in %v", size, time.Since(start))
}

// Uploads that the relay's destinations do not take stop no other stream.
func TestUnreadUploads(t *testing.T) {
	for _, n := range []int{40, 130, 500} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, func(ctx context.Context, s *session.Stream, dst flow.Addr) {
				if dst.Port == endless {
					s.Reply(flow.Succeeded, flow.DetailNone)
					<-ctx.Done()
					s.Close()
					return
				}
				echo(ctx, s, dst)
			})
			defer w.stop()
			w.delay = 10 * time.Millisecond
			if _, _, err := w.dial(tt.LinkConfig{Capacity: 1 << 20}); err != nil {
				t.Fatal(err)
			}
			for range n {
				s := w.open(flow.Addr{Name: "deaf", Port: endless})
				w.wg.Go(func() {
					io.Copy(s, endlessZeros{})
				})
				defer s.Close()
			}
			time.Sleep(time.Minute)
			done := make(chan struct{})
			go func() {
				defer close(done)
				transfer(t, w, 80<<20)
			}()
			select {
			case <-done:
			case <-time.After(time.Hour):
				t.Error("an upload does not get on")
			}
		})
	}
}

type endlessZeros struct{}

func (endlessZeros) Read(p []byte) (int, error) { return len(p), nil }
