package front_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"testing"

	"busel/internal/flow"
	"busel/internal/front"
)

// ear takes so many bytes and no more.
type ear struct {
	limit int

	mu     sync.Mutex
	heard  []byte
	closed chan struct{}
}

func (e *ear) Write(b []byte) (int, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.heard = append(e.heard, b...)
	if len(e.heard) >= e.limit {
		return 0, errors.New("enough")
	}
	return len(b), nil
}

func (e *ear) Close() error {
	close(e.closed)
	return nil
}

// TestOverhear: what an application says arrives whole, however much of it somebody
// listens to, and he hears the beginning of it, once; then he is dismissed.
func TestOverhear(t *testing.T) {
	said := bytes.Repeat([]byte("said by the application. "), 4000)
	for _, limit := range []int{1, 1000, 10_000, len(said), len(said) + 1} {
		t.Run(fmt.Sprint(limit), func(t *testing.T) {
			got := make(chan []byte, 1)
			site := serveTCP(t, "127.0.0.1:0", func(c *net.TCPConn) {
				b, _ := io.ReadAll(c)
				got <- b
				c.Write([]byte("answer"))
			})
			e := &ear{limit: limit, closed: make(chan struct{})}
			f := start(t, front.Config{Overhear: func(*net.TCPConn) io.WriteCloser { return e }})
			c, err := net.Dial("tcp", f.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			send(t, c, connectRequest(flow.AddrFrom(site))...)
			expect(t, c, append([]byte{5, 0}, reply(flow.Succeeded)...)...)
			send(t, c, said...)
			c.(*net.TCPConn).CloseWrite()
			if b := <-got; !bytes.Equal(b, said) {
				t.Errorf("%d bytes arrived of %d", len(b), len(said))
			}
			expect(t, c, []byte("answer")...)
			<-e.closed
			if !bytes.HasPrefix(said, e.heard) || len(e.heard) < min(limit, len(said)) {
				t.Errorf("heard %d bytes", len(e.heard))
			}
		})
	}
}

// TestOverhearNobody: an application that says nothing, and a listener that is not
// there, change nothing.
func TestOverhearNobody(t *testing.T) {
	site := serveTCP(t, "127.0.0.1:0", func(c *net.TCPConn) { c.Write([]byte("welcome")) })
	e := &ear{limit: 1, closed: make(chan struct{})}
	for _, overhear := range []func(*net.TCPConn) io.WriteCloser{nil, func(*net.TCPConn) io.WriteCloser { return nil }, func(*net.TCPConn) io.WriteCloser { return e }} {
		f := start(t, front.Config{Overhear: overhear})
		c, err := net.Dial("tcp", f.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		send(t, c, connectRequest(flow.AddrFrom(site))...)
		expect(t, c, append([]byte{5, 0}, reply(flow.Succeeded)...)...)
		expect(t, c, []byte("welcome")...)
		c.(*net.TCPConn).CloseWrite()
		if b, err := io.ReadAll(c); err != nil || len(b) > 0 {
			t.Errorf("read %q, %v", b, err)
		}
		c.Close()
	}
	<-e.closed
	if len(e.heard) > 0 {
		t.Errorf("heard %q", e.heard)
	}
}
