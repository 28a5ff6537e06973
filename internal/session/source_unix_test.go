//go:build unix

package session

import (
	"errors"
	"net"
	"syscall"
	"testing"
)

// A reset that follows right behind a whole chunk is met by the same look at the
// socket, and the system tells it only once: it must not become an end.
func TestReadinessReset(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	near, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	far, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer far.Close()
	if _, err := near.Write(make([]byte, 2*maxData)); err != nil {
		t.Fatal(err)
	}
	near.(*net.TCPConn).SetLinger(0)
	near.Close()
	var p pools
	src, got := newSource(far), 0
	for {
		ch, err := src.read(&p)
		for ; ch != nil; ch = ch.next {
			got += ch.len()
		}
		if err != nil {
			if !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("after %d bytes: %v", got, err)
			}
			return
		}
	}
}
