package flow

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
)

// Half is what [Join] needs of either side: a *net.TCPConn, or a [Stream].
// Close unblocks Read, Write and CloseWrite.
type Half interface {
	io.ReadWriteCloser
	CloseWrite() error
}

// Join copies between a and b until both directions have ended, and closes
// both. The end of one direction is passed on as a half-close; an error or the
// end of ctx aborts both directions at once. It returns the bytes copied from a
// to b and back, and the first error that was not an ordinary end.
//
// An abort must not look like an end: a *net.TCPConn is closed with RST, so that
// an application never takes half a download for a whole one. Any other side
// aborts by its own Close, as a [Stream] does.
//
// It copies with [io.Copy], so a side that is an [io.ReaderFrom] or
// [io.WriterTo] moves the bytes without a buffer in between.
func Join(ctx context.Context, a, b Half) (aToB, bToA int64, err error) {
	var once sync.Once
	fail := func(cause error) {
		once.Do(func() {
			err = cause
			abort(a)
			abort(b)
		})
	}
	stop := context.AfterFunc(ctx, func() { fail(context.Cause(ctx)) })
	var wg sync.WaitGroup
	pump := func(dst, src Half, n *int64) {
		var cause error
		*n, cause = io.Copy(dst, src)
		if cause == nil {
			cause = dst.CloseWrite()
		}
		if cause != nil {
			fail(cause)
		}
	}
	wg.Go(func() { pump(b, a, &aToB) })
	pump(a, b, &bToA)
	wg.Wait()
	if stop() {
		once.Do(func() {
			err = errors.Join(a.Close(), b.Close())
		})
	} else {
		fail(context.Cause(ctx)) // waits for the AfterFunc's work
	}
	return aToB, bToA, err
}

func abort(h Half) {
	if tcp, ok := h.(*net.TCPConn); ok {
		tcp.SetLinger(0) // an error means that it is closed already
	}
	h.Close()
}
