//go:build linux

package e2e

import (
	"bytes"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// path is a stretch of network before a server: a forwarder that delays, cuts,
// freezes and records. It stands where a censor would.
type path struct {
	ln     net.Listener
	oneWay time.Duration // delay of each direction, and of the TCP handshake
	record bool          // keep what passes; set before the first connection
	from   net.IP        // the clients' address as the server sees it, if not nil
	wg     sync.WaitGroup
	over   chan struct{} // closed when the test ends

	mu    sync.Mutex
	to    string
	links map[*link]struct{} // that live
	all   []*link
}

// link is one connection through a path.
type link struct {
	in, out *net.TCPConn
	frozen  atomic.Bool // passes nothing any more, not even its end

	mu       sync.Mutex
	up, down bytes.Buffer // if recorded
}

// tape returns what the two ends sent so far.
func (l *link) tape() (up, down []byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return bytes.Clone(l.up.Bytes()), bytes.Clone(l.down.Bytes())
}

// newPath forwards to the address until the test ends.
func newPath(t *testing.T, to string, oneWay time.Duration) *path {
	t.Helper()
	return newPathFrom(t, nil, to, oneWay)
}

// newPathFrom is newPath with the clients' address as the server sees it.
func newPathFrom(t *testing.T, from net.IP, to string, oneWay time.Duration) *path {
	t.Helper()
	p := &path{from: from, to: to, oneWay: oneWay, links: make(map[*link]struct{}), over: make(chan struct{})}
	p.open(t, "127.0.0.1:0")
	t.Cleanup(func() {
		close(p.over)
		p.block()
		p.wg.Wait()
	})
	return p
}

func (p *path) addr() string { return p.ln.Addr().String() }

func (p *path) open(t *testing.T, addr string) {
	t.Helper()
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	p.ln = ln
	p.wg.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			p.wg.Go(func() { p.serve(c.(*net.TCPConn)) })
		}
	})
}

// block ends all connections and refuses new ones; unblock lets them in again.
func (p *path) block() {
	p.ln.Close()
	p.cut()
}

func (p *path) unblock(t *testing.T) {
	t.Helper()
	p.open(t, p.addr())
}

// lead ends all connections and takes new ones elsewhere.
func (p *path) lead(to string) {
	p.mu.Lock()
	p.to = to
	p.mu.Unlock()
	p.cut()
}

func (p *path) serve(in *net.TCPConn) {
	defer in.Close()
	if !p.pause(2 * p.oneWay) { // SYN and SYN-ACK
		return
	}
	p.mu.Lock()
	to := p.to
	p.mu.Unlock()
	c, err := (&net.Dialer{LocalAddr: &net.TCPAddr{IP: p.from}}).Dial("tcp", to)
	if err != nil {
		in.SetLinger(0)
		return
	}
	l := &link{in: in, out: c.(*net.TCPConn)}
	defer l.out.Close()
	p.mu.Lock()
	p.links[l] = struct{}{}
	p.all = append(p.all, l)
	p.mu.Unlock()
	defer func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		delete(p.links, l)
	}()
	var wg sync.WaitGroup
	wg.Go(func() { p.pump(l, l.out, l.in, &l.up) })
	p.pump(l, l.in, l.out, &l.down)
	wg.Wait()
}

// pump copies with the path's delay; FIN is passed on as FIN and anything else
// as RST.
func (p *path) pump(l *link, dst, src *net.TCPConn, tape *bytes.Buffer) {
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
			if l.frozen.Load() {
				<-p.over
				return
			}
			if p.record {
				l.mu.Lock()
				tape.Write(buf[:n])
				l.mu.Unlock()
			}
			queue <- chunk{buf[:n], time.Now().Add(p.oneWay), err}
			if err != nil {
				return
			}
		}
	})
	var failed bool
	for c := range queue {
		if failed || !p.pause(time.Until(c.due)) || l.frozen.Load() {
			continue // drain, so that the reader ends
		}
		if len(c.data) > 0 {
			if _, err := dst.Write(c.data); err != nil {
				if l.frozen.Load() {
					continue
				}
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
	case <-p.over:
		return false
	}
}

// each calls f for every live connection and returns how many there are.
func (p *path) each(f func(*link)) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	for l := range p.links {
		f(l)
	}
	return len(p.links)
}

func reset(c *net.TCPConn) {
	c.SetLinger(0)
	c.Close()
}

// cut sends RST both ways on every connection.
func (p *path) cut() int {
	return p.each(func(l *link) {
		reset(l.in)
		reset(l.out)
	})
}

// freeze lets nothing pass on the connections that there are, as if the path
// dropped every packet of them; new ones are not touched.
func (p *path) freeze() int { return p.each(func(l *link) { l.frozen.Store(true) }) }

// cutOneEnd tells only one end that the connections are dead.
func (p *path) cutOneEnd(client bool) int {
	return p.each(func(l *link) {
		if l.frozen.Swap(true) {
			return
		}
		if client {
			reset(l.in)
		} else {
			reset(l.out)
		}
	})
}

// live is how many connections there are, and how many there were.
func (p *path) live() (now, total int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.links), len(p.all)
}

// taped returns all connections that there were.
func (p *path) taped() []*link {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]*link(nil), p.all...)
}
