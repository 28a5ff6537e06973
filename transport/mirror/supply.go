package mirror

import (
	"io"
	"net"
	"sync"
	"syscall"
)

// buffers are lent to who has something to read.
type buffers struct{ pool sync.Pool }

// copyBuffer is the size of one in bytes. What the kernel hands over at once fits, a
// server's first flight and the 17 kB of a prober: what came together must leave
// together, or the cover ends the connection between two parts and answers the second
// with a RST.
const copyBuffer = 32 << 10

func (b *buffers) get() *[]byte {
	if buf, ok := b.pool.Get().(*[]byte); ok {
		return buf
	}
	buf := make([]byte, copyBuffer)
	return &buf
}

// supply reads a connection and holds a buffer only from when something came until
// that was dealt with: most of the time most connections are silent, and a stranger
// can open many.
type supply struct {
	conn net.Conn
	from *buffers
	raw  syscall.RawConn // nil if the connection has none: then the buffer is kept
	try  func(fd uintptr) bool

	buf *[]byte
	n   int
	err error
}

func newSupply(conn net.Conn, from *buffers) *supply {
	s := &supply{conn: conn, from: from}
	if c, ok := conn.(syscall.Conn); ok && canRead {
		if raw, err := c.SyscallConn(); err == nil {
			s.raw, s.try = raw, s.readNow
		}
	}
	return s
}

// read is [net.Conn]'s Read into a buffer that is the supply's, and valid until the
// next call or release.
func (s *supply) read() ([]byte, error) {
	if s.raw == nil {
		if s.buf == nil {
			s.buf = s.from.get()
		}
		n, err := s.conn.Read(*s.buf)
		return (*s.buf)[:n], err
	}
	s.release()
	s.n, s.err = 0, nil
	if err := s.raw.Read(s.try); err != nil {
		return nil, err // closed, or past the deadline
	}
	if s.err != nil {
		return nil, s.err
	}
	if s.n == 0 {
		return nil, io.EOF
	}
	return (*s.buf)[:s.n], nil
}

// readNow reads what there is, and reports false if nothing is.
func (s *supply) readNow(fd uintptr) bool {
	s.buf = s.from.get()
	for {
		s.n, s.err = readDescriptor(fd, *s.buf)
		switch s.err {
		case syscall.EINTR:
			continue
		case syscall.EAGAIN:
			s.release()
			return false
		}
		return true
	}
}

// wait blocks until a read would not, if that can be had.
func (s *supply) wait() {
	if s.raw != nil {
		_ = s.raw.Read(somethingToRead) // the next read tells of the error
	}
}

// release gives the buffer back.
func (s *supply) release() {
	if s.buf != nil {
		s.from.pool.Put(s.buf)
		s.buf = nil
	}
}
