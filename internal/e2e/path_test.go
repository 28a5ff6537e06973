//go:build linux

package e2e

import (
	"bytes"
	"io"
	"net"
	"sync"
	"testing"
	"time"
)

// path is a stretch of network between client and relay: a forwarder that
// delays, cuts and records. It stands where a censor would.
type path struct {
	ln     net.Listener
	to     string
	oneWay time.Duration // delay of each direction, and of the TCP handshake
	wg     sync.WaitGroup

	mu      sync.Mutex
	conns   map[*net.TCPConn]struct{} // both halves of each connection
	total   int
	record  bool
	up      bytes.Buffer // what clients sent, if record
	forever chan struct{}
}

// newPath forwards to the address until the test ends.
func newPath(t *testing.T, to string, oneWay time.Duration) *path {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &path{ln: ln, to: to, oneWay: oneWay, conns: make(map[*net.TCPConn]struct{}), forever: make(chan struct{})}
	p.wg.Go(p.accept)
	t.Cleanup(func() {
		close(p.forever)
		ln.Close()
		p.cut()
		p.wg.Wait()
	})
	return p
}

func (p *path) addr() string { return p.ln.Addr().String() }

func (p *path) accept() {
	for {
		c, err := p.ln.Accept()
		if err != nil {
			return
		}
		p.wg.Go(func() { p.serve(c.(*net.TCPConn)) })
	}
}

func (p *path) serve(in *net.TCPConn) {
	defer in.Close()
	if !p.pause(2 * p.oneWay) { // SYN and SYN-ACK
		return
	}
	c, err := net.Dial("tcp", p.to)
	if err != nil {
		in.SetLinger(0)
		return
	}
	out := c.(*net.TCPConn)
	defer out.Close()
	p.mu.Lock()
	p.conns[in], p.conns[out] = struct{}{}, struct{}{}
	p.total++
	p.mu.Unlock()
	defer func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		delete(p.conns, in)
		delete(p.conns, out)
	}()
	var wg sync.WaitGroup
	wg.Go(func() { p.pump(out, in, true) })
	p.pump(in, out, false)
	wg.Wait()
}

// pump copies with the path's delay; FIN is passed on as FIN and anything else
// as RST.
func (p *path) pump(dst, src *net.TCPConn, up bool) {
	type chunk struct {
		data []byte
		due  time.Time
		err  error
	}
	queue := make(chan chunk, 4096)
	p.wg.Go(func() {
		defer close(queue)
		for {
			buf := make([]byte, 64<<10)
			n, err := src.Read(buf)
			if n > 0 && up {
				p.mu.Lock()
				if p.record {
					p.up.Write(buf[:n])
				}
				p.mu.Unlock()
			}
			queue <- chunk{buf[:n], time.Now().Add(p.oneWay), err}
			if err != nil {
				return
			}
		}
	})
	var failed bool
	for c := range queue {
		if failed || !p.pause(time.Until(c.due)) {
			continue // drain, so that the reader ends
		}
		if len(c.data) > 0 {
			if _, err := dst.Write(c.data); err != nil {
				src.SetLinger(0)
				src.Close()
				failed = true
				continue
			}
		}
		switch c.err {
		case nil:
		case io.EOF:
			dst.CloseWrite()
		default:
			dst.SetLinger(0)
			dst.Close()
		}
	}
}

func (p *path) pause(d time.Duration) bool {
	if d <= 0 {
		return true
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-p.forever:
		return false
	}
}

// cut sends RST both ways on every connection.
func (p *path) cut() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.conns {
		c.SetLinger(0)
		c.Close()
	}
	return len(p.conns) / 2
}

// live is how many connections there are, and how many there were.
func (p *path) live() (now, total int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.conns) / 2, p.total
}
