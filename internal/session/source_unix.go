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
	ch   *chunk
	n    int
	err  error
}

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

// try reads once, and reports false if the socket is silent.
func (rd *readiness) try(fd uintptr) bool {
	ch := rd.p.chunk(maxData)
	for {
		rd.n, rd.err = syscall.Read(int(fd), ch.buf[room:room+maxData])
		if rd.err != syscall.EINTR {
			break
		}
	}
	if rd.err == nil && rd.n > 0 {
		rd.ch = ch
		return true
	}
	rd.p.put(ch)
	return rd.err != syscall.EAGAIN
}

func (rd *readiness) read(p *pools) (*chunk, error) {
	rd.p, rd.ch = p, nil
	if err := rd.raw.Read(rd.poll); err != nil {
		return nil, err
	}
	switch {
	case rd.err != nil:
		return nil, os.NewSyscallError("read", rd.err)
	case rd.ch == nil:
		return nil, io.EOF
	}
	rd.ch.end = room + rd.n
	return rd.ch, nil
}
