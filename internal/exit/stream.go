package exit

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"

	"busel/internal/flow"
)

// halfCloser is what a connection must be to become a stream.
type halfCloser interface {
	net.Conn
	CloseWrite() error
}

var errNoHalfClose = errors.New("the network's connections cannot be closed by halves")

// newStream makes a stream of a connected conn. closed is called once, when the
// stream is closed.
func newStream(conn net.Conn, closed func()) (flow.Stream, bool) {
	if tcp, ok := conn.(*net.TCPConn); ok {
		return &tcpStream{TCPConn: tcp, ending: ending{closed: closed}}, true
	}
	if h, ok := conn.(halfCloser); ok {
		return &otherStream{halfCloser: h, ending: ending{closed: closed}}, true
	}
	return nil, false
}

// ending remembers which directions have ended.
type ending struct {
	read, written atomic.Bool
	once          sync.Once
	closed        func()
}

// note marks the end of the incoming direction.
func (e *ending) note(err error) {
	if err == io.EOF {
		e.read.Store(true)
	}
}

// tcpStream is a TCP connection. It embeds *net.TCPConn, so that io.Copy finds
// its ReadFrom and WriteTo and the kernel can splice.
type tcpStream struct {
	*net.TCPConn
	ending
}

// Connected returns nil: the exit hands out connected streams only.
func (s *tcpStream) Connected(context.Context) error { return nil }

func (s *tcpStream) Read(b []byte) (int, error) {
	n, err := s.TCPConn.Read(b)
	s.note(err)
	return n, err
}

func (s *tcpStream) WriteTo(w io.Writer) (int64, error) {
	n, err := s.TCPConn.WriteTo(w)
	if err == nil {
		s.note(io.EOF)
	}
	return n, err
}

func (s *tcpStream) CloseWrite() error {
	s.written.Store(true)
	return s.TCPConn.CloseWrite()
}

// Close ends the connection: in good order if both directions have ended, else
// with an RST, as [flow.Stream] asks.
func (s *tcpStream) Close() error {
	s.once.Do(func() {
		if !s.read.Load() || !s.written.Load() {
			_ = s.SetLinger(0) // fails only if the connection is gone already
		}
		s.closed()
	})
	return s.TCPConn.Close()
}

// otherStream is a connection of a network that is not the system's.
type otherStream struct {
	halfCloser
	ending
}

func (s *otherStream) Connected(context.Context) error { return nil }

func (s *otherStream) Close() error {
	s.once.Do(s.closed)
	return s.halfCloser.Close()
}
