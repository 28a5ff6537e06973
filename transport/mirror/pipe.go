package mirror

import (
	"bytes"
	"math/rand/v2"
	"net"
	"sync"
	"time"

	"busel/obfs/fragment"
)

// pipeLimit is how many genuine bytes wait for the TLS stack at most.
const pipeLimit = 64 << 10

// pipe carries the genuine bytes to the TLS stack.
type pipe struct {
	mu   sync.Mutex
	cond sync.Cond
	buf  []byte
	err  error // after buf is empty
}

func newPipe() *pipe {
	p := new(pipe)
	p.cond.L = &p.mu
	return p
}

// write blocks while much waits. After close it drops b.
func (p *pipe) write(b []byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for p.err == nil && len(p.buf) > pipeLimit {
		p.cond.Wait()
	}
	if p.err == nil {
		p.buf = append(p.buf, b...)
		p.cond.Broadcast()
	}
}

// close lets the reader see err after what was written; the first one counts.
func (p *pipe) close(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.err == nil {
		p.err = err
		p.cond.Broadcast()
	}
}

func (p *pipe) read(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for len(p.buf) == 0 && p.err == nil {
		p.cond.Wait()
	}
	if len(p.buf) == 0 {
		return 0, p.err
	}
	n := copy(b, p.buf)
	p.buf = p.buf[:copy(p.buf, p.buf[n:])]
	if len(p.buf) == 0 && cap(p.buf) > pipeLimit/4 {
		p.buf = nil // a visit is quiet most of the time
	}
	p.cond.Broadcast()
	return n, nil
}

// shim is what the TLS stack takes for its connection: it reads the genuine
// records only, and writes whole records in turn with the covert ones.
type shim struct {
	pipe *pipe
	turn turn
	conn net.Conn
	// alert, if not nil, takes the place of the alert that the TLS stack sends
	// last; both are used by the goroutine of the handshake.
	alert []byte
	cut   fragment.Mode   // of ClientHellos
	dead  <-chan struct{} // the connection is over: do not pause any more
}

func (s *shim) Read(b []byte) (int, error) { return s.pipe.read(b) }

func (s *shim) Write(b []byte) (int, error) {
	s.turn.take()
	defer s.turn.give()
	if i := len(b) - len(s.alert); s.alert != nil && i >= 0 && bytes.HasPrefix(b[i:], s.alert[:headerLen]) {
		b = append(b[:i:i], s.alert...)
	}
	if s.cut == fragment.Off {
		return s.conn.Write(b)
	}
	if err := s.writeCut(b); err != nil {
		return 0, err
	}
	return len(b), nil
}

// writeCut writes b, in pieces if a ClientHello is in it: the first one, or the
// one that answers a HelloRetryRequest. Nobody else has anything to write by then.
func (s *shim) writeCut(b []byte) error {
	r := rand.New(rand.NewPCG(rand.Uint64(), rand.Uint64()))
	for i, segment := range s.cut.Cut(b, r) {
		if i > 0 {
			t := time.NewTimer(fragment.Pause(r))
			select {
			case <-t.C:
			case <-s.dead:
				t.Stop()
				return net.ErrClosed
			}
		}
		if _, err := s.conn.Write(segment); err != nil {
			return err
		}
	}
	return nil
}

// Close does nothing: the carrier ends its connection itself.
func (s *shim) Close() error                     { return nil }
func (s *shim) LocalAddr() net.Addr              { return s.conn.LocalAddr() }
func (s *shim) RemoteAddr() net.Addr             { return s.conn.RemoteAddr() }
func (s *shim) SetDeadline(time.Time) error      { return nil }
func (s *shim) SetReadDeadline(time.Time) error  { return nil }
func (s *shim) SetWriteDeadline(time.Time) error { return nil }
