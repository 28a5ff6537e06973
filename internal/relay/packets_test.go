package relay

import (
	"bytes"
	"crypto/rand"
	"net"
	"net/netip"
	"testing"
	"time"

	"busel/internal/exit"
	"busel/internal/flow"
)

// udpEcho sends each datagram back until the test ends.
func udpEcho(t *testing.T, addr string) netip.AddrPort {
	t.Helper()
	conn, err := net.ListenPacket("udp", addr)
	if err != nil {
		t.Skip("no UDP on ", addr)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		buf := make([]byte, 64<<10)
		for {
			n, from, err := conn.ReadFrom(buf)
			if err != nil {
				return
			}
			conn.WriteTo(buf[:n], from)
		}
	}()
	t.Cleanup(func() {
		conn.Close()
		<-done
	})
	return conn.LocalAddr().(*net.UDPAddr).AddrPort()
}

// Datagrams of every size go from a client's session through the relay and its
// exit to a real socket, and back.
func TestDatagrams(t *testing.T) {
	for _, bind := range []string{"127.0.0.1:0", "[::1]:0"} {
		t.Run(bind, func(t *testing.T) {
			server := udpEcho(t, bind)
			loopback := netip.PrefixFrom(server.Addr(), server.Addr().BitLen())
			_, d := start(t, Config{Exit: exit.New(exit.Config{Allow: []netip.Prefix{loopback}})})
			c, stop, err := connect(t, d, "a")
			if err != nil {
				t.Fatal(err)
			}
			defer stop()
			p, err := c.OpenPackets(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			defer p.Close()
			stuck := time.AfterFunc(30*time.Second, func() { p.Close() })
			defer stuck.Stop()
			to := flow.AddrFrom(server)
			if err := p.WriteTo([]byte("denied"), flow.AddrFrom(netip.MustParseAddrPort("10.0.0.1:9"))); err != nil {
				t.Fatal(err)
			}
			buf := make([]byte, 64<<10)
			for _, size := range []int{1, 2, 63, 64, 512, 1200, 1472, 9000, 16300, 16377, 20000, 65507, 0, 1} {
				b := make([]byte, size)
				rand.Read(b)
				if err := p.WriteTo(b, to); err != nil {
					t.Fatalf("%d bytes: %v", size, err)
				}
				n, from, err := p.ReadFrom(buf)
				if err != nil || from != to || !bytes.Equal(buf[:n], b) {
					t.Fatalf("%d bytes: got %d from %v, %v", size, n, from, err)
				}
			}
			for size := 1; size <= 1472; size++ {
				b := bytes.Repeat([]byte{byte(size)}, size)
				if err := p.WriteTo(b, to); err != nil {
					t.Fatal(err)
				}
				if n, _, err := p.ReadFrom(buf); err != nil || !bytes.Equal(buf[:n], b) {
					t.Fatalf("%d bytes: got %d, %v", size, n, err)
				}
			}
		})
	}
}
