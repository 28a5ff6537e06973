//go:build linux

package e2e

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// TestTenThousandConnections has a broken or hostile program open 10,000
// connections to the client that say nothing, and then 10,000 that say garbage:
// the others do not notice, and what it cost comes back.
func TestTenThousandConnections(t *testing.T) {
	const (
		connections = 10_000
		mostOpen    = 2_000    // the proxy keeps 1,024 connections that have not asked for anything
		mostKept    = 16 << 20 // bytes that stay; the runtime keeps some of what it used
	)
	mayOpen(t, connections+mostOpen)
	r := startRelay(t, relayOptions{})
	c := startClient(t, r.invite)
	echo := startEcho(t)
	steady := socks(t, c.proxy, echo)
	pass := func(conn net.Conn) {
		t.Helper()
		conn.SetDeadline(time.Now().Add(30 * time.Second))
		if _, err := io.WriteString(conn, "ping"); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(conn, make([]byte, 4)); err != nil {
			t.Fatalf("other traffic does not go on: %v", err)
		}
	}
	pass(steady)
	files, memory := descriptors(t, c.program), resident(t, c.program)
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d; at first %d descriptors, %.1f MiB", seed, files, float64(memory)/(1<<20))
	for _, kind := range []struct {
		name string
		say  func(i int) []byte
	}{
		{"silent", func(int) []byte { return nil }},
		{"garbage", func(i int) []byte { return garbage(seed, i) }},
	} {
		begin := time.Now()
		flood := newFlood(c.proxy, kind.say)
		for i := range 10 {
			flood.grow(t, connections*(i+1)/10)
			pass(steady)
			late := socks(t, c.proxy, echo)
			pass(late)
			late.Close()
		}
		n, m := descriptors(t, c.program), resident(t, c.program)
		t.Logf("%s: beside %d connections after %v: %d descriptors, %.1f MiB", kind.name, connections,
			time.Since(begin).Round(time.Millisecond), n, float64(m)/(1<<20))
		if n > files+mostOpen {
			t.Errorf("%s: the client holds %d descriptors", kind.name, n)
		}
		flood.end()
		eventually(t, time.Minute, kind.name+": descriptors return", func() bool {
			n = descriptors(t, c.program)
			return n <= files+4 // what the relay's carriers do meanwhile
		})
		least := m
		defer func() {
			if t.Failed() {
				t.Logf("%s: never less than %.1f MiB", kind.name, float64(least)/(1<<20))
			}
		}()
		eventually(t, time.Minute, kind.name+": memory returns", func() bool {
			m = resident(t, c.program)
			least = min(least, m)
			return m <= memory+mostKept
		})
		t.Logf("%s: afterwards %d descriptors, %.1f MiB", kind.name, n, float64(m)/(1<<20))
		pass(steady)
	}
}

// mayOpen skips the test unless this process and its children may have n files
// open.
func mayOpen(t *testing.T, n uint64) {
	t.Helper()
	var l syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &l); err != nil {
		t.Fatal(err)
	}
	if l.Max >= n && l.Cur >= n {
		return
	}
	l.Cur, l.Max = max(l.Cur, n), max(l.Max, n)
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &l); err != nil {
		t.Skipf("needs root, for %d open files: %v", n, err)
	}
}

// descriptors is how many files a program has open.
func descriptors(t *testing.T, p *program) int {
	t.Helper()
	names, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", p.cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	return len(names)
}

// garbage is something that no program should say to a proxy.
func garbage(seed uint64, i int) []byte {
	random := make([]byte, 1+i%4096)
	rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8), byte(seed >> 16), byte(i), byte(i >> 8)}).Read(random)
	prefixes := []string{
		"", "\x05", "\x05\x01\x00\x05\x01\x00", "\x05\xff", "\x04\x01", "\x16\x03\x01\x02\x00\x01\x00",
		"GET http://", "CONNECT ", "GET / HTTP/1.1\r\nX: ", "POST http://a/ HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n",
		"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "HELO mail.example\r\n", strings.Repeat("A", 70_000), strings.Repeat("\x00", 1000),
	}
	return append([]byte(prefixes[i%len(prefixes)]), random...)
}

// flood is a growing heap of connections to the proxy.
type flood struct {
	proxy string
	say   func(i int) []byte

	mu   sync.Mutex
	open []*net.TCPConn
}

func newFlood(proxy string, say func(i int) []byte) *flood { return &flood{proxy: proxy, say: say} }

// grow opens connections until there are n, 50 at a time.
func (f *flood) grow(t *testing.T, n int) {
	t.Helper()
	next := make(chan int)
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			for i := range next {
				if err := f.dial(i); err != nil {
					t.Errorf("connection %d: %v", i, err)
				}
			}
		})
	}
	for i := len(f.open); i < n; i++ {
		next <- i
	}
	close(next)
	wg.Wait()
	if len(f.open) < n {
		t.Fatal("no more connections can be opened")
	}
}

func (f *flood) dial(i int) error {
	// Each address has ports of its own, and others need some, too.
	from := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 1, byte(1+i%200))}, Timeout: time.Minute}
	c, err := from.Dial("tcp", f.proxy)
	if err != nil {
		return err
	}
	conn := c.(*net.TCPConn)
	conn.SetLinger(0) // no TIME_WAIT, which would fill the table of ports
	f.mu.Lock()
	f.open = append(f.open, conn)
	f.mu.Unlock()
	conn.SetDeadline(time.Now().Add(time.Minute))
	// The proxy may close before it has read everything, and it need not read.
	if b := f.say(i); len(b) > 0 {
		io.Copy(conn, bytes.NewReader(b))
	}
	return nil
}

func (f *flood) end() {
	for _, c := range f.open {
		c.Close()
	}
}
