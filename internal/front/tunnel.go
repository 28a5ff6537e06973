package front

import (
	"context"
	"errors"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"busel/internal/flow"
)

// verdictGrace is how long the true reason of a failure may come after the
// failure itself, before the application is answered without it.
const verdictGrace = 250 * time.Millisecond

// errOwnAddress refuses a proxy request to the proxy itself.
var errOwnAddress = errors.New("the destination is the proxy itself")

// saidAll is until when a program that was told that it is connected, and closes its
// connection, has said all that it wanted, as one that reports a line: what it said
// arrives. Who leaves later has waited in vain.
const saidAll = time.Second

// errNobodyWaits ends a tunnel whose application left before anything came.
var errNobodyWaits = errors.New("the application is gone")

// tunnel connects c with dst and copies until both directions have ended. What
// the application sends early is forwarded at once. answer tells it whether dst
// was reached; it is called exactly once, with nil before the first byte from
// dst, unless the application goes away.
func (f *Front) tunnel(ctx context.Context, c *conn, dst flow.Addr, answer func(error) error) {
	if f.isOwn(dst) {
		c.lingering.Store(true)
		_ = answer(errOwnAddress) // the connection ends either way
		return
	}
	optimistic := f.reached.lately(dst)
	if optimistic {
		if answer(nil) != nil {
			return
		}
		answer = func(error) error { return nil }
	}
	c.tunnelled.Store(true)

	opening, cancel := context.WithTimeout(ctx, f.connectTimeout)
	defer cancel()
	stream, err := f.opener.OpenStream(opening, dst)
	if err != nil {
		f.failed(ctx, dst, err)
		c.lingering.Store(!optimistic)
		_ = answer(err)
		return
	}
	t := &tunnelled{Stream: stream, hurry: func() { time.AfterFunc(verdictGrace, cancel) }}
	begun := time.Now()
	t.gone = func() bool {
		return f.gone != nil && (!optimistic || time.Since(begun) > saidAll) && f.gone(c.TCPConn)
	}
	t.verdict = sync.OnceValue(func() error {
		err := stream.Connected(opening)
		t.decided.Store(true)
		if err != nil {
			f.failed(ctx, dst, err)
			c.lingering.Store(!optimistic)
			_ = answer(err)
			return err
		}
		f.reached.add(dst)
		return answer(nil)
	})
	if c.ear = f.overhear(c.TCPConn); c.ear != nil {
		defer c.ear.Close()
	}
	up, down, err := flow.Join(ctx, t, c)
	// Join's a is the stream: what came from it went down.
	f.log.Debug("tunnel ended", "destination", dst, "up", down, "down", up, "cause", err)
}

// failed forgets that dst was reached. A wait that somebody ended is no failure.
func (f *Front) failed(ctx context.Context, dst flow.Addr, err error) {
	f.log.Debug("not reached", "destination", dst, "cause", err)
	if ctx.Err() == nil {
		f.reached.forget(dst)
	}
}

// isOwn reports whether dst is this proxy, which would ask itself for ever.
func (f *Front) isOwn(dst flow.Addr) bool {
	if dst.Port != f.addr.Port() {
		return false
	}
	if dst.Name != "" {
		return isLocalhost(dst.Name)
	}
	return dst.IP.IsLoopback() || dst.IP.IsUnspecified() || dst.IP == f.addr.Addr()
}

// tunnelled is a stream whose first read waits for the verdict: whether the
// destination was reached, and that the application was told so.
type tunnelled struct {
	flow.Stream
	verdict func() error
	hurry   func() // bounds the wait for the verdict
	decided atomic.Bool
	gone    func() bool // the application does not even wait for an answer
}

func (t *tunnelled) Read(b []byte) (int, error) {
	if err := t.verdict(); err != nil {
		return 0, err
	}
	return t.Stream.Read(b)
}

func (t *tunnelled) WriteTo(w io.Writer) (int64, error) {
	if err := t.verdict(); err != nil {
		return 0, err
	}
	return io.Copy(w, t.Stream)
}

func (t *tunnelled) Write(b []byte) (int, error) {
	n, err := t.Stream.Write(b)
	return n, t.judge(err)
}

func (t *tunnelled) ReadFrom(r io.Reader) (int64, error) {
	if rf, ok := t.Stream.(io.ReaderFrom); ok {
		n, err := rf.ReadFrom(r)
		return n, t.judge(err)
	}
	return io.Copy(onlyWriter{t}, r)
}

func (t *tunnelled) CloseWrite() error {
	if !t.decided.Load() && t.gone() {
		return errNobodyWaits
	}
	return t.judge(t.Stream.CloseWrite())
}

// judge holds an error on the way up back until the application was told the
// reason: its connection is closed as soon as the error is out.
func (t *tunnelled) judge(err error) error {
	if err == nil {
		return nil
	}
	t.hurry()
	if reason := t.verdict(); reason != nil {
		return reason
	}
	return err
}
