package front_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"busel/internal/exit"
	"busel/internal/flow"
	"busel/internal/front"
)

// echoUDP answers every datagram on addr with itself.
func echoUDP(t testing.TB, addr string) netip.AddrPort {
	t.Helper()
	ap := netip.MustParseAddrPort(addr)
	conn, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(ap))
	if err != nil {
		t.Skipf("this machine cannot listen on %s: %v", addr, err)
	}
	t.Cleanup(func() { conn.Close() })
	go func() {
		buf := make([]byte, 1<<16)
		for {
			n, from, err := conn.ReadFromUDPAddrPort(buf)
			if err != nil {
				return
			}
			conn.WriteToUDPAddrPort(buf[:n], from)
		}
	}()
	return netip.AddrPortFrom(ap.Addr(), conn.LocalAddr().(*net.UDPAddr).AddrPort().Port())
}

// udpProgram is a program that uses UDP through the proxy.
type udpProgram struct {
	control *net.TCPConn
	socket  *net.UDPConn
	proxy   netip.AddrPort // where its datagrams go
}

// localSocket is a UDP socket on the proxy's loopback address.
func localSocket(t testing.TB, f *front.Front) *net.UDPConn {
	t.Helper()
	s, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(f.Addr().Addr(), 0)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	s.SetDeadline(time.Now().Add(patience))
	return s
}

// associate asks for an association, with what the program says of its address.
func associate(t testing.TB, f *front.Front, hint flow.Addr) *udpProgram {
	t.Helper()
	p := &udpProgram{control: dial(t, f), socket: localSocket(t, f)}
	send(t, p.control, hint.Append([]byte{5, 1, 0, 5, 3, 0})...)
	expect(t, p.control, 5, 0, 5, 0, 0)
	form := make([]byte, 1+4+2)
	if f.Addr().Addr().Is6() {
		form = make([]byte, 1+16+2)
	}
	if _, err := io.ReadFull(p.control, form); err != nil {
		t.Fatal(err)
	}
	bound, _, err := flow.ParseAddr(form)
	if err != nil || bound.IP != f.Addr().Addr() || bound.Port == 0 || bound.Port == f.Addr().Port() {
		t.Fatalf("the association is at %v (%v), the proxy on %v", bound, err, f.Addr())
	}
	p.proxy = netip.AddrPortFrom(bound.IP, bound.Port)
	return p
}

func datagram(to flow.Addr, payload []byte) []byte {
	return append(to.Append([]byte{0, 0, 0}), payload...)
}

func (p *udpProgram) send(t testing.TB, b []byte) {
	t.Helper()
	if _, err := p.socket.WriteToUDPAddrPort(b, p.proxy); err != nil {
		t.Fatal(err)
	}
}

// expect reads one datagram, which must be payload from the address.
func (p *udpProgram) expect(t testing.TB, from flow.Addr, payload []byte) {
	t.Helper()
	buf := make([]byte, 1<<16)
	n, proxy, err := p.socket.ReadFromUDPAddrPort(buf)
	if err != nil {
		t.Fatalf("%d bytes do not come back: %v", len(payload), err)
	}
	if !bytes.Equal(buf[:n], datagram(from, payload)) || netip.AddrPortFrom(proxy.Addr().Unmap(), proxy.Port()) != p.proxy {
		t.Fatalf("got %d bytes %.40x from %v, want %d from %v", n, buf[:n], proxy, len(payload), p.proxy)
	}
}

var anywhere = flow.Addr{IP: netip.IPv4Unspecified()}

func TestAssociate(t *testing.T) {
	v4 := echoUDP(t, "127.0.0.1:0")
	f := start(t, front.Config{})
	p := associate(t, f, anywhere)
	t.Run("sizes", func(t *testing.T) {
		for _, size := range []int{0, 1, 2, 100, 1200, 1472, 1500, 9000, 16_377, 65_000, 65_507 - 10} {
			payload := bytes.Repeat([]byte{byte(size)}, size)
			p.send(t, datagram(flow.AddrFrom(v4), payload))
			p.expect(t, flow.AddrFrom(v4), payload)
		}
	})
	t.Run("names", func(t *testing.T) {
		p.send(t, datagram(mustAddr(t, "site.example", v4.Port()), []byte("by name")))
		p.expect(t, flow.AddrFrom(v4), []byte("by name"))
		p.send(t, datagram(flow.Addr{Name: "127.0.0.1", Port: v4.Port()}, []byte("by literal")))
		p.expect(t, flow.AddrFrom(v4), []byte("by literal"))
	})
	t.Run("ipv6", func(t *testing.T) {
		v6 := echoUDP(t, "[::1]:0")
		p.send(t, datagram(flow.AddrFrom(v6), []byte("six")))
		p.expect(t, flow.AddrFrom(v6), []byte("six"))
	})
	t.Run("dropped", func(t *testing.T) {
		good := datagram(flow.AddrFrom(v4), []byte("bad"))
		for _, change := range []func([]byte) []byte{
			func(b []byte) []byte { b[2] = 1; return b },    // a fragment
			func(b []byte) []byte { b[2] = 0x81; return b }, // the last one
			func(b []byte) []byte { b[0] = 1; return b },
			func(b []byte) []byte { b[3] = 9; return b },
			func(b []byte) []byte { return b[:5] },
			func(b []byte) []byte { return nil },
			func([]byte) []byte { return datagram(mustAddr(t, "10.0.0.1", 53), []byte("denied")) },
			func([]byte) []byte { return datagram(mustAddr(t, "none.example", 53), []byte("no such name")) },
		} {
			p.send(t, change(bytes.Clone(good)))
		}
		p.send(t, datagram(flow.AddrFrom(v4), []byte("good")))
		p.expect(t, flow.AddrFrom(v4), []byte("good"))
	})
	t.Run("answers its program only", func(t *testing.T) {
		other := &udpProgram{socket: localSocket(t, f), proxy: p.proxy}
		other.send(t, datagram(flow.AddrFrom(v4), []byte("stolen")))
		p.send(t, datagram(flow.AddrFrom(v4), []byte("mine")))
		p.expect(t, flow.AddrFrom(v4), []byte("mine"))
		other.socket.SetReadDeadline(time.Now()) // what was to come has come before mine
		if n, _, err := other.socket.ReadFromUDPAddrPort(make([]byte, 100)); err == nil {
			t.Errorf("another program got %d bytes", n)
		}
	})
	t.Run("ends with its control connection", func(t *testing.T) {
		send(t, p.control, []byte("noise on the control connection means nothing")...)
		p.send(t, datagram(flow.AddrFrom(v4), []byte("still")))
		p.expect(t, flow.AddrFrom(v4), []byte("still"))
		p.control.Close()
		freed(t, p.proxy)
	})
}

// freed waits until nobody has the UDP port.
func freed(t testing.TB, addr netip.AddrPort) {
	t.Helper()
	for end := time.Now().Add(patience); ; <-time.After(5 * time.Millisecond) {
		s, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(addr))
		if err == nil {
			s.Close()
			return
		}
		if time.Now().After(end) {
			t.Fatalf("%v is still taken: %v", addr, err)
		}
	}
}

// TestAssociateOnIPv6 has a program and a proxy on ::1.
func TestAssociateOnIPv6(t *testing.T) {
	v4, v6 := echoUDP(t, "127.0.0.1:0"), echoUDP(t, "[::1]:0")
	f := start(t, front.Config{Listen: "[::1]:0"})
	p := associate(t, f, flow.Addr{IP: netip.IPv6Unspecified()})
	for _, to := range []netip.AddrPort{v4, v6} {
		p.send(t, datagram(flow.AddrFrom(to), []byte("hello")))
		p.expect(t, flow.AddrFrom(to), []byte("hello"))
	}
}

// TestAssociateHint: a program that says its port is the only one that is heard;
// an address that cannot be its own says nothing.
func TestAssociateHint(t *testing.T) {
	v4 := echoUDP(t, "127.0.0.1:0")
	f := start(t, front.Config{})
	for _, ip := range []string{"0.0.0.0", "127.0.0.1"} {
		mine := localSocket(t, f)
		port := mine.LocalAddr().(*net.UDPAddr).AddrPort().Port()
		p := associate(t, f, mustAddr(t, ip, port))
		p.send(t, datagram(flow.AddrFrom(v4), []byte("from the wrong port")))
		p.socket = mine
		p.send(t, datagram(flow.AddrFrom(v4), []byte("from the right one")))
		p.expect(t, flow.AddrFrom(v4), []byte("from the right one"))
	}
	for _, hint := range []flow.Addr{mustAddr(t, "192.0.2.1", 53), mustAddr(t, "site.example", 53), mustAddr(t, "127.0.0.1", 0)} {
		p := associate(t, f, hint)
		p.send(t, datagram(flow.AddrFrom(v4), []byte("learned")))
		p.expect(t, flow.AddrFrom(v4), []byte("learned"))
	}
}

// TestAssociateElsewhere: datagrams from another address than the control
// connection's are not heard, and are not who the program is.
func TestAssociateElsewhere(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("needs more than one loopback address")
	}
	v4 := echoUDP(t, "127.0.0.1:0")
	f := start(t, front.Config{})
	p := associate(t, f, anywhere)
	elsewhere, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 9)})
	if err != nil {
		t.Fatal(err)
	}
	defer elsewhere.Close()
	if _, err := elsewhere.WriteToUDPAddrPort(datagram(flow.AddrFrom(v4), []byte("elsewhere")), p.proxy); err != nil {
		t.Fatal(err)
	}
	p.send(t, datagram(flow.AddrFrom(v4), []byte("here")))
	p.expect(t, flow.AddrFrom(v4), []byte("here"))
}

// TestAssociateReopens: when the flow ends, because it rested at a real exit,
// datagrams find another. TestAssociationReopens counts them.
func TestAssociateReopens(t *testing.T) {
	v4 := echoUDP(t, "127.0.0.1:0")
	opener := &counting{Opener: exit.New(exit.Config{Allow: loopback, Rest: 200 * time.Millisecond})}
	opener.ended = make(chan struct{}, 1)
	f := start(t, front.Config{Opener: opener})
	p := associate(t, f, anywhere)
	for i := range 3 {
		p.insist(t, flow.AddrFrom(v4), fmt.Appendf(nil, "flow %d", i))
		select {
		case <-opener.ended:
		case <-time.After(patience):
			t.Fatal("the flow does not rest")
		}
	}
	// On a busy machine a flow may rest before its answer is there.
	if n := opener.opened.Load(); n < 3 {
		t.Errorf("%d flows were opened", n)
	}
}

// insist sends a datagram until the same comes back from where it was sent to.
func (p *udpProgram) insist(t testing.TB, to flow.Addr, payload []byte) {
	t.Helper()
	want := datagram(to, payload)
	buf := make([]byte, 1<<16)
	for end := time.Now().Add(patience); time.Now().Before(end); {
		p.send(t, want)
		p.socket.SetReadDeadline(time.Now().Add(patience / 20))
		for n, err := 0, error(nil); err == nil; { // late answers to earlier ones, too
			if n, _, err = p.socket.ReadFromUDPAddrPort(buf); err == nil && bytes.Equal(buf[:n], want) {
				return
			}
		}
	}
	t.Fatalf("%q does not come back", payload)
}

// counting counts flows, and says when one has been closed.
type counting struct {
	flow.Opener
	ended  chan struct{}
	opened atomic.Int64
}

func (c *counting) OpenPackets(ctx context.Context) (flow.Packets, error) {
	p, err := c.Opener.OpenPackets(ctx)
	if err != nil {
		return nil, err
	}
	c.opened.Add(1)
	return &counted{Packets: p, c: c}, nil
}

type counted struct {
	flow.Packets
	c    *counting
	once sync.Once
}

func (p *counted) Close() error {
	err := p.Packets.Close()
	p.once.Do(func() {
		select {
		case p.c.ended <- struct{}{}:
		default:
		}
	})
	return err
}

// refusing has no flows.
type refusing struct {
	flow.Opener
	err error
}

func (r refusing) OpenPackets(context.Context) (flow.Packets, error) { return nil, r.err }

func TestAssociateRefused(t *testing.T) {
	for _, tt := range []struct {
		err  error
		want flow.Code
	}{
		{&flow.OpenError{Code: flow.GeneralFailure}, flow.GeneralFailure},
		{&flow.OpenError{Code: flow.NotAllowed, Detail: flow.DetailPolicy}, flow.NotAllowed},
		{fmt.Errorf("%w: take an invite", flow.ErrNoRelay), flow.GeneralFailure},
		{context.DeadlineExceeded, flow.TTLExpired},
		{errors.ErrUnsupported, flow.GeneralFailure},
	} {
		f := start(t, front.Config{Opener: refusing{err: tt.err}})
		c := dial(t, f)
		send(t, c, anywhere.Append([]byte{5, 1, 0, 5, 3, 0})...)
		expect(t, c, 5, 0)
		expect(t, c, reply(tt.want)...)
		if _, err := c.Read(make([]byte, 1)); err != io.EOF {
			t.Errorf("after the refusal: %v", err)
		}
	}
}

// stuck is a relay that does not take datagrams until it is let go.
type stuck struct {
	flow.Opener
	held chan struct{}
	got  chan string
}

func (s *stuck) OpenPackets(context.Context) (flow.Packets, error) { return s, nil }
func (s *stuck) ReadFrom([]byte) (int, flow.Addr, error) {
	<-s.held
	return 0, flow.Addr{}, net.ErrClosed
}

func (s *stuck) WriteTo(b []byte, _ flow.Addr) error {
	select {
	case s.got <- string(b[:min(len(b), 8)]):
	case <-s.held:
	}
	return nil
}

func (s *stuck) Close() error {
	select {
	case <-s.held:
	default:
		close(s.held)
	}
	return nil
}

// TestAssociateFlood: a program sends what no relay takes. The newest survive.
func TestAssociateFlood(t *testing.T) {
	s := &stuck{held: make(chan struct{}), got: make(chan string)}
	f := start(t, front.Config{Opener: s})
	p := associate(t, f, anywhere)
	big := make([]byte, 60_000)
	const last = 200
	for i := range last {
		copy(big, fmt.Sprintf("%08d", i))
		p.send(t, datagram(mustAddr(t, "192.0.2.1", 9), big))
	}
	p.send(t, datagram(mustAddr(t, "192.0.2.1", 9), []byte("the last")))
	var got []string
	for len(got) == 0 || got[len(got)-1] != "the last" {
		select {
		case d := <-s.got:
			got = append(got, d)
		case <-time.After(patience):
			t.Fatalf("the newest datagram is lost; %d came: %v", len(got), got)
		}
		// The kernel's own queue may hold the last ones back meanwhile.
	}
	if len(got) > last/2 {
		t.Errorf("%d of %d datagrams were kept", len(got), last)
	}
}

// TestManyAssociations opens as many as there may be, and one more.
func TestManyAssociations(t *testing.T) {
	v4 := echoUDP(t, "127.0.0.1:0")
	f := start(t, front.Config{})
	var all []*udpProgram
	for range 256 {
		all = append(all, associate(t, f, anywhere))
	}
	c := dial(t, f)
	send(t, c, anywhere.Append([]byte{5, 1, 0, 5, 3, 0})...)
	expect(t, c, 5, 0)
	expect(t, c, reply(flow.GeneralFailure)...)
	for i, p := range all {
		payload := []byte(strings.Repeat("x", i))
		p.send(t, datagram(flow.AddrFrom(v4), payload))
		p.expect(t, flow.AddrFrom(v4), payload)
	}
	for _, p := range all {
		p.control.Close()
	}
	for _, p := range all {
		freed(t, p.proxy)
	}
	p := associate(t, f, anywhere)
	p.send(t, datagram(flow.AddrFrom(v4), []byte("again")))
	p.expect(t, flow.AddrFrom(v4), []byte("again"))
}
