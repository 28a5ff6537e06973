//go:build linux

package e2e

import (
	"bytes"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// udpPath is a stretch of network before a UDP server, like a router that
// translates addresses: it can go silent, forget its mappings, and record.
type udpPath struct {
	in     *net.UDPConn
	to     *net.UDPAddr
	from   net.IP      // as in path
	silent atomic.Bool // nothing passes either way
	wg     sync.WaitGroup

	mu       sync.Mutex
	outside  map[string]*net.UDPConn // by the client's address
	mappings int
	up, down [][]byte // datagrams that passed
}

// newUDPPath forwards what comes to listen, which has the form of an address,
// until the test ends.
func newUDPPath(t *testing.T, listen, to string) *udpPath {
	t.Helper()
	return newUDPPathFrom(t, nil, listen, to)
}

// newUDPPathFrom is newUDPPath with the clients' address as the server sees it.
func newUDPPathFrom(t *testing.T, from net.IP, listen, to string) *udpPath {
	t.Helper()
	resolve := func(addr string) *net.UDPAddr {
		a, err := net.ResolveUDPAddr("udp", addr)
		if err != nil {
			t.Fatal(err)
		}
		return a
	}
	in, err := net.ListenUDP("udp", resolve(listen))
	if err != nil {
		t.Fatal(err)
	}
	p := &udpPath{from: from, in: in, to: resolve(to), outside: map[string]*net.UDPConn{}}
	in.SetReadBuffer(4 << 20)
	p.wg.Go(p.forward)
	t.Cleanup(func() {
		in.Close()
		p.rebind()
		p.wg.Wait()
	})
	return p
}

func (p *udpPath) forward() {
	buf := make([]byte, 2048)
	for {
		n, from, err := p.in.ReadFromUDP(buf)
		if err != nil {
			return
		}
		p.mu.Lock()
		out := p.outside[from.String()]
		if out == nil {
			if out, err = net.DialUDP("udp", &net.UDPAddr{IP: p.from}, p.to); err != nil {
				p.mu.Unlock()
				continue
			}
			out.SetReadBuffer(4 << 20)
			p.outside[from.String()] = out
			p.mappings++
			p.wg.Go(func() { p.back(out, from) })
		}
		if !p.silent.Load() {
			p.keep(&p.up, buf[:n])
			out.Write(buf[:n])
		}
		p.mu.Unlock()
	}
}

func (p *udpPath) back(out *net.UDPConn, to *net.UDPAddr) {
	buf := make([]byte, 2048)
	for {
		n, err := out.Read(buf)
		if err != nil {
			return
		}
		if p.silent.Load() {
			continue
		}
		p.mu.Lock()
		p.keep(&p.down, buf[:n])
		p.mu.Unlock()
		p.in.WriteToUDP(buf[:n], to)
	}
}

// keep records the first datagrams; p.mu is held.
func (p *udpPath) keep(tape *[][]byte, b []byte) {
	if len(*tape) < 1000 {
		*tape = append(*tape, bytes.Clone(b))
	}
}

// rebind forgets the mappings: the relay then sees the client at a new port.
func (p *udpPath) rebind() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for from, out := range p.outside {
		out.Close()
		delete(p.outside, from)
	}
}

func (p *udpPath) count() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.mappings
}

func (p *udpPath) taped() (up, down [][]byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([][]byte(nil), p.up...), append([][]byte(nil), p.down...)
}

// answersTo sends datagrams from a new port and returns what comes back in a
// second.
func answersTo(t *testing.T, addr string, datagrams [][]byte) (answers [][]byte) {
	t.Helper()
	c, err := net.Dial("udp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for _, d := range datagrams {
		if _, err := c.Write(d); err != nil {
			t.Fatal(err)
		}
	}
	c.SetReadDeadline(time.Now().Add(time.Second))
	buf := make([]byte, 2048)
	for {
		n, err := c.Read(buf)
		if err != nil {
			return answers
		}
		answers = append(answers, bytes.Clone(buf[:n]))
	}
}
