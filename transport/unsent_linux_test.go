package transport

import (
	"context"
	"io"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// The limit is small at first and grows with the rate.
func TestUnsent(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	l, err := System{}.Listen(ctx, "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := System{}.DialContext(ctx, "tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	far, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer far.Close()
	limit := func() int {
		return option(t, c, func(fd int) (int, error) {
			return unix.GetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT)
		})
	}
	u := NewUnsent(c)
	if n := limit(); n != firstUnsent {
		t.Errorf("%d bytes at first", n)
	}
	go io.Copy(io.Discard, far)
	buf := make([]byte, 64<<10)
	for limit() != notSentLowat {
		if ctx.Err() != nil {
			t.Fatalf("still %d bytes on a fast path", limit())
		}
		u.Adapt()
		if _, err := c.Write(buf); err != nil {
			t.Fatal(err)
		}
	}
	NewUnsent(nil).Adapt() // what is no socket is left alone
}
