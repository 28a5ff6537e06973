package transport

import (
	"errors"
	"net"
	"net/netip"
	"runtime"
	"syscall"
	"testing"
	"time"
)

// TestSource dials and sends to servers on loopback, which say where from.
func TestSource(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("needs 127.0.0.2")
	}
	v4, v6 := netip.MustParseAddr("127.0.0.2"), netip.MustParseAddr("::1")
	for _, sources := range [][]netip.Addr{nil, {v4}, {v6}, {v4, v6}, {v6, v4}} {
		s := System{Source: sources}
		packets, err := s.ListenPacket(t.Context(), "udp", ":0")
		if err != nil {
			t.Fatal(err)
		}
		defer packets.Close()
		for _, server := range []string{"127.0.0.1:0", "[::1]:0"} {
			ln, err := net.Listen("tcp", server)
			if err != nil {
				t.Fatal(err)
			}
			defer ln.Close()
			want, ok := sourceFor(sources, netip.MustParseAddrPort(server).Addr())
			if sources == nil {
				want, ok = netip.MustParseAddrPort(server).Addr(), true // the system's choice
			}
			conn, err := s.DialContext(t.Context(), "tcp", ln.Addr().String())
			if !ok {
				if !errors.Is(err, syscall.ENETUNREACH) {
					t.Errorf("%v to %s: %v", sources, server, err)
				}
			} else if err != nil {
				t.Errorf("%v to %s: %v", sources, server, err)
			} else {
				if from := conn.LocalAddr().(*net.TCPAddr).AddrPort().Addr(); from != want {
					t.Errorf("%v to %s: from %v", sources, server, from)
				}
				conn.Close()
			}

			pc, err := net.ListenPacket("udp", server)
			if err != nil {
				t.Fatal(err)
			}
			defer pc.Close()
			_, err = packets.WriteTo([]byte("x"), pc.LocalAddr())
			if !ok {
				if err == nil {
					t.Errorf("%v: a datagram to %s was sent", sources, server)
				}
				continue
			}
			if err != nil {
				t.Errorf("%v: a datagram to %s: %v", sources, server, err)
				continue
			}
			pc.SetReadDeadline(time.Now().Add(10 * time.Second))
			_, from, err := pc.ReadFrom(make([]byte, 10))
			if err != nil {
				t.Errorf("%v: a datagram to %s: %v", sources, server, err)
				continue
			}
			if got := from.(*net.UDPAddr).AddrPort().Addr().Unmap(); got != want {
				t.Errorf("%v: a datagram to %s came from %v", sources, server, got)
			}
			// And the answer finds its way.
			if _, err := pc.WriteTo([]byte("y"), from); err != nil {
				t.Error(err)
			}
			packets.SetReadDeadline(time.Now().Add(10 * time.Second))
			if n, _, err := packets.ReadFrom(make([]byte, 10)); n != 1 || err != nil {
				t.Errorf("%v: the answer of %s: %v", sources, server, err)
			}
		}
	}
	// An address of another machine is told as such.
	elsewhere := System{Source: []netip.Addr{netip.MustParseAddr("198.51.100.8")}}
	if _, err := elsewhere.ListenPacket(t.Context(), "udp", ":0"); !errors.Is(err, syscall.EADDRNOTAVAIL) {
		t.Errorf("an address that is not here: %v", err)
	}
}
