//go:build unix

package session

import (
	"io"
	"os"
	"reflect"
	"syscall"
)

// readiness reads from a socket without holding a buffer while it is silent.
type readiness struct {
	raw  syscall.RawConn
	poll func(fd uintptr) bool
	p    *pools
	ch   *chunk // the first of n that were read
	n    int
	err  error
}

// maxRead is how many chunks are read at once from a socket that has them: a
// batch, so that a carrier is woken once for all of it.
const maxRead = maxBatch / bigBuffer

// newReadiness returns nil unless r is a socket of package net itself: a type
// that embeds one may hold bytes of its own in front.
func newReadiness(r io.Reader) *readiness {
	t := reflect.TypeOf(r)
	if t != nil && t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	sc, ok := r.(syscall.Conn)
	if !ok || t.PkgPath() != "net" {
		return nil
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return nil
	}
	rd := &readiness{raw: raw}
	rd.poll = rd.try
	return rd
}

// try reads what is there, up to maxRead chunks, and reports false if the
// socket is silent. An error is told once only by the system, so it is kept
// beside what was read before it.
func (rd *readiness) try(fd uintptr) bool {
	rd.err = nil
	for last := &rd.ch; ; last = &(*last).next {
		ch := rd.p.chunk(maxData)
		n, err := readOnce(int(fd), ch.buf[room:room+maxData])
		if n <= 0 {
			rd.p.put(ch)
			if err == syscall.EAGAIN {
				return rd.ch != nil
			}
			rd.err = err
			return true
		}
		*last = ch
		ch.end = room + n
		if rd.n++; n < maxData || rd.n == maxRead {
			return true
		}
	}
}

func readOnce(fd int, b []byte) (n int, err error) {
	for {
		if n, err = syscall.Read(fd, b); err != syscall.EINTR {
			return n, err
		}
	}
}

func (rd *readiness) read(p *pools) (*chunk, error) {
	rd.p, rd.ch, rd.n = p, nil, 0
	if err := rd.raw.Read(rd.poll); err != nil {
		return nil, err
	}
	switch {
	case rd.err != nil:
		return rd.ch, os.NewSyscallError("read", rd.err)
	case rd.ch == nil:
		return nil, io.EOF
	}
	return rd.ch, nil
}
