package transport

import (
	"context"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func option(t *testing.T, c net.Conn, get func(fd int) (int, error)) int {
	t.Helper()
	raw, err := c.(syscall.Conn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	v := 0
	if cerr := raw.Control(func(fd uintptr) { v, err = get(int(fd)) }); cerr != nil || err != nil {
		t.Fatal(cerr, err)
	}
	return v
}

// TestSystem checks what may show at a socket (rule 11), on both ends.
func TestSystem(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	ln, err := System{}.Listen(ctx, "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	dial := func(s System) net.Conn {
		t.Helper()
		c, err := s.DialContext(ctx, "tcp", ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c
	}
	client, browser := dial(System{}), dial(System{KeepAlive: BrowserKeepAlive})
	server, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	int32Option := func(level, name int) func(int) (int, error) {
		return func(fd int) (int, error) { return unix.GetsockoptInt(fd, level, name) }
	}
	bbr, _ := os.ReadFile("/proc/sys/net/ipv4/tcp_available_congestion_control")
	for name, c := range map[string]net.Conn{"dialled": client, "accepted": server} {
		if option(t, c, int32Option(unix.SOL_SOCKET, unix.SO_KEEPALIVE)) != 0 {
			t.Errorf("%s: keepalive is on", name)
		}
		if option(t, c, int32Option(unix.SOL_SOCKET, unix.SO_PROTOCOL)) != unix.IPPROTO_TCP {
			t.Errorf("%s: the socket is not plain TCP", name)
		}
		if option(t, c, int32Option(unix.IPPROTO_TCP, unix.TCP_NODELAY)) != 1 {
			t.Errorf("%s: Nagle's algorithm is on", name)
		}
		if v := option(t, c, int32Option(unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT)); v != notSentLowat {
			t.Errorf("%s: TCP_NOTSENT_LOWAT is %d", name, v)
		}
		if strings.Contains(string(bbr), "bbr") {
			option(t, c, func(fd int) (int, error) {
				cc, err := unix.GetsockoptString(fd, unix.IPPROTO_TCP, unix.TCP_CONGESTION)
				if strings.TrimRight(cc, "\x00") != "bbr" {
					t.Errorf("%s: congestion control is %q", name, cc)
				}
				return 0, err
			})
		}
	}
	if option(t, browser, int32Option(unix.SOL_SOCKET, unix.SO_KEEPALIVE)) == 0 ||
		option(t, browser, int32Option(unix.IPPROTO_TCP, unix.TCP_KEEPIDLE)) != 45 {
		t.Error("a browser's keepalive is not set")
	}
	p, err := System{}.ListenPacket(ctx, "udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p.Close()
}
