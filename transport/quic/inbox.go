package quic

import (
	"io"
	"sync"

	"busel/internal/wire"
)

// inbox hands whole chunks from the goroutines that read a carrier's streams to
// the caller of ReadFrames, who lends its buffer. Its end is the carrier's.
type inbox struct {
	dead chan struct{} // closed at the end

	mu   sync.Mutex
	cond sync.Cond
	buf  []byte // lent; nil if nobody reads
	n    int    // bytes in it
	err  error  // the first reason to end; valid when dead is closed
}

func (b *inbox) init() {
	b.dead = make(chan struct{})
	b.cond.L = &b.mu
}

// end ends the carrier; the first reason stays.
func (b *inbox) end(err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.err == nil {
		b.err = err
		close(b.dead)
		b.cond.Broadcast()
	}
}

func (b *inbox) ended() bool {
	select {
	case <-b.dead:
		return true
	default:
		return false
	}
}

// readFrames is [transport.Carrier]'s.
func (b *inbox) readFrames(buf []byte) (int, error) {
	if len(buf) < wire.MaxFrame {
		return 0, io.ErrShortBuffer
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.err == nil {
		b.buf, b.n = buf, 0
		b.cond.Broadcast()
	}
	for b.n == 0 && b.err == nil {
		b.cond.Wait()
	}
	n := b.n
	b.buf, b.n = nil, 0
	if n > 0 {
		return n, nil
	}
	return 0, b.err
}

// deliver copies a chunk into the reader's buffer, as soon as there is room;
// false means that the carrier has ended.
func (b *inbox) deliver(chunk []byte) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	for b.err == nil && (b.buf == nil || len(b.buf)-b.n < len(chunk)) {
		b.cond.Wait()
	}
	if b.err != nil {
		return false
	}
	b.n += copy(b.buf[b.n:], chunk)
	b.cond.Broadcast()
	return true
}
