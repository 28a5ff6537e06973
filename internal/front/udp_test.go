package front

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"busel/internal/flow"
)

func TestUDPHeader(t *testing.T) {
	for _, tt := range []struct {
		hex  string
		to   flow.Addr
		head int
		err  error
	}{
		{"00000001c000020100356869", flow.AddrFrom(netip.MustParseAddrPort("192.0.2.1:53")), 10, nil},
		{"00000001c00002010035", flow.AddrFrom(netip.MustParseAddrPort("192.0.2.1:53")), 10, nil}, // no payload
		{"0000000420010db800000000000000000000005301bb00", flow.AddrFrom(netip.MustParseAddrPort("[2001:db8::53]:443")), 22, nil},
		{"000000030161003500", flow.Addr{Name: "a", Port: 53}, 8, nil},
		{"000000" + "03ff" + strings.Repeat("6e", 255) + "0002" + "ff", flow.Addr{Name: strings.Repeat("n", 255), Port: 2}, maxUDPHeader, nil},
		{"", flow.Addr{}, 0, errUDPHeader},
		{"0000", flow.Addr{}, 0, errUDPHeader},
		{"000000", flow.Addr{}, 0, errUDPHeader},
		{"00000001c000020100", flow.Addr{}, 0, errUDPHeader},
		{"01000001c00002010035", flow.Addr{}, 0, errUDPHeader}, // reserved bytes
		{"00010001c00002010035", flow.Addr{}, 0, errUDPHeader},
		{"00000101c00002010035", flow.Addr{}, 0, errFragment},
		{"00008101c00002010035", flow.Addr{}, 0, errFragment}, // the last one
		{"00000002c00002010035", flow.Addr{}, 0, errUDPHeader},
		{"00000003000035", flow.Addr{}, 0, errUDPHeader},
		{"0000000301200035", flow.Addr{}, 0, errUDPHeader},
	} {
		b, err := hex.DecodeString(tt.hex)
		if err != nil {
			t.Fatal(err)
		}
		to, n, err := parseUDPHeader(b)
		if to != tt.to || n != tt.head || !errors.Is(err, tt.err) || (err == nil) != (tt.err == nil) {
			t.Errorf("%s: %v, %d, %v", tt.hex, to, n, err)
		}
	}
}

// FuzzUDPHeader: what parses encodes to the same bytes, and goes to a valid
// destination.
func FuzzUDPHeader(f *testing.F) {
	for _, s := range []string{
		"\x00\x00\x00\x01\xc0\x00\x02\x01\x00\x35hello", "\x00\x00\x00\x03\x04site\x01\xbb", "\x00\x00\x01\x01\xc0\x00\x02\x01\x00\x35",
		"\x00\x00\x00\x04\x20\x01\x0d\xb8\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01\x00\x50", "\x00\x00\x00\x03\x00\x00\x35",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		to, n, err := parseUDPHeader(b)
		if err != nil {
			if n != 0 || to != (flow.Addr{}) {
				t.Fatalf("%v, %d with %v", to, n, err)
			}
			return
		}
		if !to.IsValid() || n > maxUDPHeader || !bytes.Equal(appendUDPHeader(nil, to), b[:n]) {
			t.Fatalf("%x is %v in %d bytes", b, to, n)
		}
	})
}

func TestQueueDropsTheOldest(t *testing.T) {
	q := newQueue()
	const size = 1000
	room := maxQueued / (size + perQueued)
	for i := range room + 5 {
		b := make([]byte, size)
		copy(b, fmt.Sprintf("%05d", i))
		q.push(b, flow.Addr{})
		b[0] = 'x' // the queue has a copy
		if q.size > maxQueued {
			t.Fatalf("%d bytes are queued", q.size)
		}
	}
	for i := range room {
		if d, ok := q.pop(); !ok || string(d.b[:5]) != fmt.Sprintf("%05d", i+5) {
			t.Fatalf("datagram %d is %.5q, %v", i, d.b, ok)
		}
	}
	if q.size != 0 || len(q.list) != 0 {
		t.Errorf("an empty queue has %d bytes", q.size)
	}
	q.push(make([]byte, maxDatagram), flow.Addr{})
	q.push(nil, flow.Addr{})
	if q.size != maxDatagram+2*perQueued {
		t.Errorf("%d bytes", q.size)
	}
	popped := make(chan bool)
	q.close()
	go func() { _, ok := q.pop(); popped <- ok }()
	if <-popped {
		t.Error("a closed queue has something")
	}
	q.push([]byte("late"), flow.Addr{})
	if q.size != 0 {
		t.Error("a closed queue takes datagrams")
	}
}

// pipe is an opener whose flow gives back what is written to it.
type pipe struct {
	refuser
	back chan []byte
}

func (p *pipe) OpenPackets(context.Context) (flow.Packets, error) {
	return &piped{pipe: p, ended: make(chan struct{})}, nil
}

type piped struct {
	*pipe
	once  sync.Once
	ended chan struct{}
}

func (p *piped) ReadFrom(buf []byte) (int, flow.Addr, error) {
	select {
	case b := <-p.back:
		return copy(buf, b), flow.Addr{IP: netip.IPv6Unspecified(), Port: 9}, nil
	case <-p.ended:
		return 0, flow.Addr{}, net.ErrClosed
	}
}

func (p *piped) WriteTo(b []byte, _ flow.Addr) error {
	select {
	case p.back <- bytes.Clone(b):
		return nil
	case <-p.ended:
		return net.ErrClosed
	}
}

func (p *piped) Close() error { p.once.Do(func() { close(p.ended) }); return nil }

// associated is an association: its control connection, and a socket that the
// proxy takes for the program's.
func associated(t *testing.T, f *Front) (*net.TCPConn, *net.UDPConn) {
	t.Helper()
	c := connect(t, f)
	t.Cleanup(func() { c.Close() })
	io.WriteString(c, "\x05\x01\x00\x05\x03\x00\x01\x00\x00\x00\x00\x00\x00")
	reply := make([]byte, 12)
	if _, err := io.ReadFull(c, reply); err != nil || reply[3] != 0 {
		t.Fatalf("%x, %v", reply, err)
	}
	socket, err := net.DialUDP("udp", nil, &net.UDPAddr{IP: reply[6:10], Port: int(binary.BigEndian.Uint16(reply[10:]))})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { socket.Close() })
	socket.SetDeadline(time.Now().Add(patience))
	return c, socket
}

// someDatagram is the header of one to 192.0.2.1:53.
const someDatagram = "\x00\x00\x00\x01\xc0\x00\x02\x01\x00\x35"

// mortal is an opener whose flows end when the test says so.
type mortal struct {
	refuser
	opened chan *mortalFlow
}

type mortalFlow struct {
	got    chan string
	dead   chan struct{} // closed: WriteTo says that the flow has ended
	over   chan struct{} // closed: so does ReadFrom
	once   sync.Once
	closed chan struct{} // by the proxy
	hold   chan struct{} // Close returns when this is closed
}

func newMortal() *mortal { return &mortal{opened: make(chan *mortalFlow, 10)} }

func (m *mortal) OpenPackets(context.Context) (flow.Packets, error) {
	p := &mortalFlow{
		got: make(chan string, 10), dead: make(chan struct{}), over: make(chan struct{}),
		closed: make(chan struct{}), hold: make(chan struct{}),
	}
	m.opened <- p
	return p, nil
}

func (p *mortalFlow) ReadFrom([]byte) (int, flow.Addr, error) {
	select {
	case <-p.over:
	case <-p.closed:
	}
	return 0, flow.Addr{}, net.ErrClosed
}

func (p *mortalFlow) WriteTo(b []byte, _ flow.Addr) error {
	select {
	case <-p.dead:
		return fmt.Errorf("at rest: %w", net.ErrClosed)
	default:
	}
	p.got <- string(b)
	return nil
}

func (p *mortalFlow) Close() error {
	p.once.Do(func() { close(p.closed) })
	<-p.hold
	return nil
}

// wait receives from c what must come.
func wait[T any](t *testing.T, what string, c <-chan T) (v T) {
	t.Helper()
	select {
	case v = <-c:
	case <-time.After(patience):
		t.Fatalf("%s: it does not come", what)
	}
	return v
}

// TestAssociationReopens: no datagram is lost because the flow has ended.
func TestAssociationReopens(t *testing.T) {
	m := newMortal()
	_, socket := associated(t, run(t, Config{Opener: m}, nil))
	first := wait(t, "a flow at once", m.opened)
	io.WriteString(socket, someDatagram+"1")
	if got := wait(t, "a datagram", first.got); got != "1" {
		t.Fatalf("got %q", got)
	}
	// ReadFrom says it, and the next datagram comes while the flow is closed.
	close(first.dead)
	close(first.over)
	wait(t, "the end", first.closed)
	io.WriteString(socket, someDatagram+"2")
	second := wait(t, "a flow after a rest", m.opened)
	if got := wait(t, "a datagram after a rest", second.got); got != "2" {
		t.Fatalf("got %q", got)
	}
	close(first.hold)
	// Only WriteTo says it.
	close(second.hold)
	close(second.dead)
	io.WriteString(socket, someDatagram+"3")
	third := wait(t, "a flow after an end that nobody saw", m.opened)
	close(third.hold)
	if got := wait(t, "the datagram that found the end", third.got); got != "3" {
		t.Fatalf("got %q", got)
	}
	wait(t, "the end", second.closed)
	if len(m.opened)+len(first.got)+len(second.got)+len(third.got) > 0 {
		t.Error("more flows or datagrams than were asked for")
	}
}

// TestAssociationGivesUp: a datagram has two tries, not more.
func TestAssociationGivesUp(t *testing.T) {
	dying := dyingOpener{new(int)}
	a := &association{front: &Front{opener: dying, connectTimeout: time.Minute}, queue: newQueue()}
	for i := range 3 {
		if err := a.pass(t.Context(), queued{}); !errors.Is(err, net.ErrClosed) {
			t.Errorf("got %v", err)
		}
		if *dying.opened > 2*(i+1) {
			t.Errorf("%d flows for %d datagrams", *dying.opened, i+1)
		}
	}
	a.wg.Wait()
}

// dyingOpener opens flows that have ended.
type dyingOpener struct{ opened *int }

func (d dyingOpener) OpenStream(context.Context, flow.Addr) (flow.Stream, error) {
	return nil, errors.ErrUnsupported
}

func (d dyingOpener) OpenPackets(context.Context) (flow.Packets, error) {
	*d.opened++
	return d, nil
}
func (dyingOpener) ReadFrom([]byte) (int, flow.Addr, error) { return 0, flow.Addr{}, net.ErrClosed }
func (dyingOpener) WriteTo([]byte, flow.Addr) error         { return net.ErrClosed }
func (dyingOpener) Close() error                            { return nil }

// TestAssociationEndsWhenIdle: datagrams keep it, silence ends it, and noise on
// the control connection does not keep it.
func TestAssociationEndsWhenIdle(t *testing.T) {
	if testing.Short() {
		t.Skip("takes 5 s")
	}
	const idle = 2 * time.Second // a busy machine must not look idle
	f := run(t, Config{Opener: &pipe{back: make(chan []byte)}}, func(f *Front) { f.idle = idle })
	c, socket := associated(t, f)
	tick := time.NewTicker(idle / 10)
	defer tick.Stop()
	for i := range 15 { // longer than it may be idle
		<-tick.C
		io.WriteString(socket, someDatagram+"hello")
		buf := make([]byte, 100)
		if n, err := socket.Read(buf); err != nil || !strings.HasSuffix(string(buf[:n]), "hello") || n != 22+5 {
			t.Fatalf("datagram %d: %x, %v", i, buf[:n], err)
		}
	}
	last := time.Now()
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		for {
			<-tick.C
			if _, err := io.WriteString(c, "noise"); err != nil {
				return
			}
		}
	}()
	ended(t, c)
	if took := time.Since(last); took < idle*9/10 {
		t.Errorf("ended after %v of silence", took)
	}
	c.Close()
	<-gone
}

// TestFloodOfAssociations: programs that associate and go at once leave nothing.
func TestFloodOfAssociations(t *testing.T) {
	f := run(t, Config{Opener: &pipe{back: make(chan []byte)}}, nil)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 100 {
				c := connect(t, f)
				io.WriteString(c, "\x05\x01\x00\x05\x03\x00\x01\x00\x00\x00\x00\x00\x00garbage")
				c.SetLinger(0)
				c.Close()
			}
		})
	}
	wg.Wait()
	for end := time.Now().Add(patience); len(f.associations) > 0; <-time.After(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%d associations are left", len(f.associations))
		}
	}
}
