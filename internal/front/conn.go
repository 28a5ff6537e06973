package front

import (
	"container/list"
	"context"
	"io"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
)

// conn is an application's connection. It embeds *net.TCPConn, so that io.Copy
// finds ReadFrom and WriteTo and bytes need not pass through a buffer.
type conn struct {
	*net.TCPConn
	first  []byte        // read already, and to be read again
	place  *list.Element // in the list of the unasked; guarded by Front.mu
	closed func()        // called once, after the connection was closed
	// ear, if not nil, hears what a tunnelled application says first. It is set before
	// WriteTo, which alone writes to it.
	ear io.WriteCloser

	// lingering lets the application read the last words before the end: a
	// plain close with unread bytes would send an RST that destroys them.
	lingering atomic.Bool
	// tunnelled marks a connection whose end must be passed on as what it is:
	// closed before both directions have ended, it is reset, lest the
	// application take a cut download for a whole one.
	tunnelled             atomic.Bool
	readEnded, writeEnded atomic.Bool

	once sync.Once
	err  error
}

func (c *conn) Read(b []byte) (int, error) {
	if len(c.first) > 0 {
		n := copy(b, c.first)
		c.first = c.first[n:]
		return n, nil
	}
	return c.TCPConn.Read(b)
}

func (c *conn) WriteTo(w io.Writer) (int64, error) {
	var n int64
	if len(c.first) > 0 {
		m, err := w.Write(c.first)
		n = int64(m)
		deaf := c.hear(c.first[:m])
		c.first = c.first[m:]
		if err != nil {
			return n, err
		}
		if deaf {
			c.ear = nil
		}
	}
	if c.ear != nil {
		m, err := c.tell(w)
		n += m
		if err != nil {
			return n, err
		}
	}
	m, err := c.TCPConn.WriteTo(w)
	if err == nil {
		c.readEnded.Store(true)
	}
	return n + m, err
}

// hear tells the ear, and reports that it wants no more.
func (c *conn) hear(b []byte) (deaf bool) {
	if c.ear == nil {
		return true
	}
	_, err := c.ear.Write(b)
	return err != nil
}

// tell copies to w and to the ear while that listens, or until the application's end,
// which is left to be read again.
func (c *conn) tell(w io.Writer) (n int64, err error) {
	buf := make([]byte, earBuffer)
	for {
		m, end := c.TCPConn.Read(buf)
		if m > 0 {
			k, err := w.Write(buf[:m])
			n += int64(k)
			if err != nil {
				return n, err
			}
			if c.hear(buf[:m]) {
				return n, nil
			}
		}
		switch {
		case end == io.EOF:
			return n, nil
		case end != nil:
			return n, end
		}
	}
}

func (c *conn) CloseWrite() error {
	c.writeEnded.Store(true)
	return c.TCPConn.CloseWrite()
}

// Close ends the connection and everything that is kept about it.
func (c *conn) Close() error {
	c.once.Do(func() {
		switch {
		case c.lingering.Load():
			c.drain()
		case c.tunnelled.Load() && !(c.readEnded.Load() && c.writeEnded.Load()):
			_ = c.SetLinger(0) // fails only if the connection is gone already
		}
		c.err = c.TCPConn.Close()
		c.closed()
	})
	return c.err
}

// drain says that nothing more comes and reads until the application has
// understood. It is bounded in time and bytes.
func (c *conn) drain() {
	if c.TCPConn.CloseWrite() != nil || c.SetDeadline(time.Now().Add(lingerTime)) != nil {
		return
	}
	_, _ = io.CopyN(io.Discard, onlyReader{c.TCPConn}, lingerBytes) // whatever ends it
}

// abort makes every use of the connection fail at once; its owner closes it.
func (c *conn) abort() {
	if c.tunnelled.Load() {
		_ = c.SetLinger(0)
	}
	c.TCPConn.Close()
}

// earBuffer has room for a browser's ClientHello, of some 2,000 bytes, so that it goes on
// in one piece.
const earBuffer = 4 << 10

// onlyReader hides a reader's other methods.
type onlyReader struct{ io.Reader }

// onlyWriter hides a writer's other methods.
type onlyWriter struct{ io.Writer }

// unaskedList holds the connections that have not asked for anything yet, the
// oldest first. It is guarded by Front.mu.
type unaskedList struct{ list.List }

func (l *unaskedList) add(c *conn) { c.place = l.PushBack(c) }

func (l *unaskedList) remove(c *conn) {
	if c.place != nil {
		l.Remove(c.place)
		c.place = nil
	}
}

func (l *unaskedList) oldest() *conn { return l.Front().Value.(*conn) }

// handoff is a [net.Listener] for the web server, fed with the connections that
// speak HTTP.
type handoff struct {
	addr  netip.AddrPort
	conns chan *conn
	done  chan struct{}
	once  sync.Once
}

func newHandoff(addr netip.AddrPort) *handoff {
	return &handoff{addr: addr, conns: make(chan *conn), done: make(chan struct{})}
}

// give hands c over and reports whether the web server owns it now.
func (h *handoff) give(ctx context.Context, c *conn) bool {
	select {
	case h.conns <- c:
		return true
	case <-h.done:
	case <-ctx.Done():
	}
	return false
}

func (h *handoff) Accept() (net.Conn, error) {
	select {
	case c := <-h.conns:
		return c, nil
	case <-h.done:
		return nil, net.ErrClosed
	}
}

func (h *handoff) Close() error {
	h.once.Do(func() { close(h.done) })
	return nil
}

func (h *handoff) Addr() net.Addr { return net.TCPAddrFromAddrPort(h.addr) }
