package front_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"busel/internal/flow"
	"busel/internal/front"
)

// probes are what somebody sends who looks for proxies on this computer.
func probes(own netip.AddrPort) map[string][]byte {
	site := flow.Addr{Name: "site.example", Port: 80}
	return map[string][]byte{
		"silence":        nil,
		"SOCKS5":         {5, 1, 0},
		"SOCKS5 methods": {5, 3, 0, 1, 2},
		"SOCKS5 request": connectRequest(site),
		"SOCKS5 no more": {5},
		"SOCKS4":         append([]byte{4, 1, 0, 80, 127, 0, 0, 1}, 'm', 'e', 0),
		"SOCKS4a":        append([]byte{4, 1, 0, 80, 0, 0, 0, 1, 0}, "site.example\x00"...),
		"CONNECT":        []byte("CONNECT site.example:80 HTTP/1.1\r\nHost: site.example:80\r\n\r\n"),
		"absolute":       []byte("GET http://site.example/ HTTP/1.1\r\nHost: site.example\r\n\r\n"),
		"page":           fmt.Appendf(nil, "GET / HTTP/1.1\r\nHost: %s\r\n\r\n", own),
		"PAC":            fmt.Appendf(nil, "GET /proxy.pac HTTP/1.1\r\nHost: %s\r\n\r\n", own),
		"bad HTTP":       []byte("GET\r\n\r\n"),
		"TLS":            append([]byte{22, 3, 1, 2, 0, 1, 0, 1, 252, 3, 3}, make([]byte, 506)...),
		"garbage":        bytes.Repeat([]byte{0x99}, 100_000),
		"SSH":            []byte("SSH-2.0-OpenSSH_9.2\r\n"),
	}
}

// nothing is what a program finds out that may not use the proxy. The reset may come
// before its own system has told it of the connection.
func nothing(t testing.TB, own netip.AddrPort, say []byte, end bool) error {
	t.Helper()
	c, err := net.Dial("tcp", own.String())
	if errors.Is(err, syscall.ECONNRESET) {
		return nil
	}
	if err != nil {
		return err
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(patience))
	switch _, err := c.Write(say); { // of nothing, too, hears of the reset if that has come
	case errors.Is(err, syscall.ECONNRESET):
		return nil
	case err != nil && !errors.Is(err, syscall.EPIPE):
		return err
	}
	if end {
		c.(*net.TCPConn).CloseWrite() // fails if the reset has come
	}
	got, err := io.ReadAll(c)
	// What is written after a reset turns the answer of the next read into an end on
	// Linux (EPIPE took the error away), so it is only looked at where nothing was.
	if len(got) > 0 || err == nil && len(say) == 0 && !end || err != nil && !errors.Is(err, syscall.ECONNRESET) {
		return fmt.Errorf("got %q, %v", got, err)
	}
	return nil
}

// TestStranger: whatever a program sends that may not use the proxy, it is reset and
// nothing comes back, and nothing is opened; also when it waits for the verdict while
// the proxy is full, or ends.
func TestStranger(t *testing.T) {
	o := newOpener(t)
	asked := new(atomic.Int64)
	f := start(t, front.Config{Opener: o, Admit: func(*net.TCPConn) bool { asked.Add(1); return false }})
	for name, say := range probes(f.Addr()) {
		for _, end := range []bool{false, true} {
			if err := nothing(t, f.Addr(), say, end); err != nil {
				t.Errorf("%s, end %t: %v", name, end, err)
			}
		}
	}
	if n := asked.Load(); n != int64(2*len(probes(f.Addr()))) {
		t.Errorf("asked %d times", n)
	}
	if len(o.openings) > 0 {
		t.Errorf("%v was opened", (<-o.openings).dst)
	}
}

// TestStrangerWaits: a connection whose program is not known yet is reset, too, when the
// proxy ends or has no room for it.
func TestStrangerWaits(t *testing.T) {
	f, err := front.New(front.Config{Listen: "auto", Opener: newExit(), MaxConns: 1, Admit: func(c *net.TCPConn) bool {
		raw, err := c.SyscallConn()
		if err == nil {
			raw.Read(func(uintptr) bool { return false }) // as long as it is open
		}
		return true
	}})
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Listen(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- f.Run(ctx) }()
	waits, err := net.Dial("tcp", f.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer waits.Close()
	for f.Moves() == 0 {
		<-time.After(time.Millisecond)
	}
	if err := nothing(t, f.Addr(), nil, false); err != nil {
		t.Errorf("no room: %v", err)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if _, err := io.ReadAll(waits); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("at the end: %v", err)
	}
}

// TestWelcome: a program that may is served as if nobody was asked, and its connections
// end as they do then.
func TestWelcome(t *testing.T) {
	site := echo(t, "127.0.0.1:0")
	f := start(t, front.Config{Admit: func(*net.TCPConn) bool { return true }})
	c, err := net.Dial("tcp", f.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	send(t, c, connectRequest(flow.AddrFrom(site))...)
	expect(t, c, append([]byte{5, 0}, reply(flow.Succeeded)...)...)
	text := []byte(strings.Repeat("welcome ", 10_000))
	go func() { c.Write(text); c.(*net.TCPConn).CloseWrite() }()
	c.SetDeadline(time.Now().Add(patience))
	got, err := io.ReadAll(c)
	if err != nil || !bytes.Equal(got, text) {
		t.Errorf("%d bytes of %d, %v", len(got), len(text), err)
	}
}

// TestForeignDatagram: a program that may not use the proxy cannot take an association
// over that has not been used yet.
func TestForeignDatagram(t *testing.T) {
	far := echoUDP(t, "127.0.0.1:0")
	var foreign atomic.Pointer[netip.AddrPort]
	f := start(t, front.Config{AdmitUDP: func(_, from netip.AddrPort) bool { return from != *foreign.Load() }})
	other := localSocket(t, f)
	at := other.LocalAddr().(*net.UDPAddr).AddrPort()
	foreign.Store(&at)
	p := associate(t, f, flow.Addr{})
	if _, err := other.WriteToUDPAddrPort(datagram(flow.AddrFrom(far), []byte("foreign")), p.proxy); err != nil {
		t.Fatal(err)
	}
	p.send(t, datagram(flow.AddrFrom(far), []byte("own")))
	p.expect(t, flow.AddrFrom(far), []byte("own"))
}
