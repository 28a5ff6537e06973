package quic

import (
	"context"
	"crypto/ecdh"
	"crypto/sha256"
	"errors"
	"net"
	"os"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"busel/internal/wire"
	"busel/obfs/scramble"
	"busel/transport"
)

// memNetwork carries datagrams between sockets in memory, with a delay.
type memNetwork struct {
	delay time.Duration
	most  int // longer datagrams are lost; 0: none are
	limit int // so many arrive, and then none; 0: all do
	mu    sync.Mutex
	ports map[string]*memSocket
	sent  int
	fault error // of whoever sends
	// lost, if not nil, sees each datagram and says whether it is lost.
	lost func(from net.Addr, b []byte) bool
	// again, if not nil, says how much later than the delay a datagram comes, and its copies.
	again func() []time.Duration
}

type memSocket struct {
	net  *memNetwork
	addr *net.UDPAddr
	in   chan memDatagram

	mu       sync.Mutex
	closed   bool
	deadline chan struct{} // closed when reads time out
}

type memDatagram struct {
	b    []byte
	from net.Addr
}

func (n *memNetwork) ListenPacket(context.Context, string, string) (net.PacketConn, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	s := &memSocket{net: n, addr: &net.UDPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 1000 + len(n.ports)}, in: make(chan memDatagram, 1000), deadline: make(chan struct{})}
	n.ports[s.addr.String()] = s
	return s, nil
}

func (n *memNetwork) DialContext(context.Context, string, string) (net.Conn, error) {
	return nil, errors.New("no names here")
}

func (n *memNetwork) count() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.sent
}

func (s *memSocket) WriteTo(b []byte, addr net.Addr) (int, error) {
	s.net.mu.Lock()
	to, err, most := s.net.ports[addr.String()], s.net.fault, s.net.most
	s.net.sent++
	from := s.addr
	later := []time.Duration{0}
	if s.net.again != nil {
		later = s.net.again()
	}
	dark := s.net.limit > 0 && s.net.sent > s.net.limit || s.net.lost != nil && s.net.lost(from, b)
	s.net.mu.Unlock()
	if err != nil {
		return 0, err
	}
	d := memDatagram{append([]byte(nil), b...), from}
	if to != nil && !dark && (most == 0 || len(b) <= most) {
		for _, more := range later {
			time.AfterFunc(s.net.delay+more, func() {
				select {
				case to.in <- d:
				default:
				}
			})
		}
	}
	return len(b), nil
}

func (s *memSocket) ReadFrom(b []byte) (int, net.Addr, error) {
	s.mu.Lock()
	deadline := s.deadline
	s.mu.Unlock()
	select {
	case d := <-s.in:
		return copy(b, d.b), d.from, nil
	case <-deadline:
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.closed {
			return 0, nil, net.ErrClosed
		}
		return 0, nil, os.ErrDeadlineExceeded
	}
}

func (s *memSocket) SetReadDeadline(t time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if t.IsZero() || s.closed {
		return nil
	}
	select {
	case <-s.deadline:
	default:
		close(s.deadline) // quic-go sets none but the past, to stop
	}
	return nil
}

func (s *memSocket) Close() error {
	_ = s.SetReadDeadline(time.Unix(1, 0))
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	return nil
}

func (s *memSocket) SetWriteDeadline(time.Time) error { return nil }

func (s *memSocket) LocalAddr() net.Addr {
	s.net.mu.Lock()
	defer s.net.mu.Unlock()
	return s.addr
}

// rebind gives all sockets but the first another port, as a router does that has forgotten them.
func (n *memNetwork) rebind() {
	n.mu.Lock()
	defer n.mu.Unlock()
	for old, s := range n.ports {
		if s.addr.Port != 1000 {
			delete(n.ports, old)
			s.addr = &net.UDPAddr{IP: s.addr.IP, Port: s.addr.Port + 1000}
			n.ports[s.addr.String()] = s
		}
	}
}

func (s *memSocket) SetDeadline(time.Time) error { return nil }

// TestIdle: a carrier on which nothing moves sends nothing, and ends in good
// order at both ends when its time is over.
func TestIdle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &memNetwork{delay: 50 * time.Millisecond, ports: map[string]*memSocket{}}
		key, err := ecdh.X25519().NewPrivateKey(append(make([]byte, 31), 1))
		if err != nil {
			t.Fatal(err)
		}
		socket, _ := n.ListenPacket(t.Context(), "", "")
		l, err := NewListener(ListenerConfig{Key: key, Listen: func(context.Context) ([]net.PacketConn, error) { return []net.PacketConn{socket}, nil }})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() {
			if err := l.Run(ctx); err != nil {
				t.Error(err)
			}
		})
		carriers := make(chan transport.Carrier, 1)
		wg.Go(func() {
			p, err := l.Accept(ctx)
			if err != nil {
				t.Error(err)
				return
			}
			c, err := p.Answer(&wire.Accept{})
			if err != nil {
				t.Error(err)
			}
			carriers <- c
		})
		d, err := NewDialer(DialerConfig{PublicKey: [32]byte(key.PublicKey().Bytes()), Network: n})
		if err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		client, _, err := d.Dial(ctx, transport.Route{Relay: "r1", Transport: Kind, Address: socket.LocalAddr().String()}, &wire.Hello{})
		if err != nil {
			t.Fatal(err)
		}
		if took := time.Since(start); took != 200*time.Millisecond {
			t.Errorf("a dial took %v, want two round trips of 100 ms", took)
		}
		relay := <-carriers
		time.Sleep(5 * time.Second)
		before := n.count()
		ends := make(chan error, 2)
		for _, c := range []transport.Carrier{client, relay} {
			wg.Go(func() {
				var buf [wire.MaxFrame]byte
				_, err := c.ReadFrames(buf[:])
				ends <- err
			})
		}
		time.Sleep(idleTimeout - 6*time.Second)
		if sent := n.count() - before; sent != 0 || len(ends) != 0 {
			t.Errorf("an idle carrier sent %d datagrams; %d ends", sent, len(ends))
		}
		for range 2 {
			if ce, ok := errors.AsType[*transport.CarrierError](<-ends); !ok || ce.Failure != "" {
				t.Errorf("it ended with %v", ce)
			}
		}
		d.Close()
		cancel()
		wg.Wait()
		time.Sleep(time.Minute) // what quic-go remembers of closed connections
	})
}

// TestSlowClock: a relay that has just started drops what a client stamps whose
// clock is slow, and the client's dial lasts until it has sent something without.
func TestSlowClock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &memNetwork{delay: 50 * time.Millisecond, ports: map[string]*memSocket{}}
		relay, _ := n.ListenPacket(t.Context(), "", "")
		s := relayScrambler([32]byte{9}, NewMemory())
		s.memory.window = scramble.NewWindow(time.Now().Add(time.Hour))
		taken := make(chan time.Duration, 100)
		start := time.Now()
		var wg sync.WaitGroup
		wg.Go(func() {
			for b := make([]byte, maxDatagram); ; {
				n, _, err := relay.ReadFrom(b)
				if err != nil {
					return
				}
				if s.open(b[:n]) != nil {
					taken <- time.Since(start)
				}
			}
		})
		d, err := NewDialer(DialerConfig{PublicKey: [32]byte{9}, Network: n})
		if err != nil {
			t.Fatal(err)
		}
		_, _, _ = d.Dial(t.Context(), transport.Route{Address: relay.LocalAddr().String()}, &wire.Hello{})
		took := time.Since(start)
		relay.Close()
		wg.Wait()
		if len(taken) == 0 {
			t.Errorf("the dial ended after %v, and the relay took none of %d datagrams, %d dropped", took, n.count(), s.replayed.Load())
		}
		d.Close()
	})
}

// TestNarrowPath: dials get through where nothing passes that is longer than
// IPv6's least MTU allows.
func TestNarrowPath(t *testing.T) {
	const dials, most = 200, 6
	failed := 0
	for range dials {
		synctest.Test(t, func(t *testing.T) {
			n := &memNetwork{delay: 50 * time.Millisecond, most: 1280 - 40 - 8, ports: map[string]*memSocket{}}
			if err := dialOver(t, n, func(client, relay transport.Carrier) {}); err != nil {
				failed++
			}
		})
	}
	if failed > most {
		t.Errorf("%d of %d dials failed, want %d at most", failed, dials, most)
	}
}

// TestNoRoute: a carrier lives on when nothing can be sent for a moment, as while
// a device changes its network, and a dial fails at once.
func TestNoRoute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &memNetwork{delay: 50 * time.Millisecond, ports: map[string]*memSocket{}}
		broken := func(err error) {
			n.mu.Lock()
			defer n.mu.Unlock()
			n.fault = err
		}
		err := dialOver(t, n, func(client, relay transport.Carrier) {
			exchange(t, client, relay)
			broken(&net.OpError{Op: "write", Err: os.NewSyscallError("sendto", syscall.ENETUNREACH)})
			ping := (&wire.Frame{Type: wire.Ping}).Append(nil)
			for _, c := range []transport.Carrier{client, relay} {
				if err := c.WriteFrames([]transport.Frame{{Data: ping}}); err != nil {
					t.Fatal(err)
				}
			}
			time.Sleep(2 * time.Second)
			broken(nil)
			var buf [wire.MaxFrame]byte
			for _, c := range []transport.Carrier{client, relay} {
				if got, err := c.ReadFrames(buf[:]); err != nil || string(buf[:got]) != string(ping) {
					t.Errorf("got %x, %v", buf[:got], err)
				}
			}
			broken(syscall.ENETUNREACH)
		})
		if err != nil {
			t.Error(err)
		}
		start := time.Now()
		err = dialOver(t, n, nil)
		if de, ok := errors.AsType[*transport.DialError](err); !ok || de.Failure != "" || time.Since(start) > afterDial {
			t.Errorf("without a route: %v after %v", err, time.Since(start))
		}
	})
}

// afterDial is for what quic-go remembers of closed connections.
const afterDial = time.Minute

// dialOver dials a relay of its own over n and does something with the carrier.
func dialOver(t *testing.T, n *memNetwork, do func(client, relay transport.Carrier)) error {
	return dialSite(t, n, nil, do, func() {})
}

// dialSite is dialOver to a relay whose site answers everyone, if it is not nil.
// dialled is called after the dial.
func dialSite(t *testing.T, n *memNetwork, site *Site, do func(client, relay transport.Carrier), dialled func()) error {
	key, err := ecdh.X25519().NewPrivateKey(append(make([]byte, 31), 1))
	if err != nil {
		t.Fatal(err)
	}
	socket, _ := n.ListenPacket(t.Context(), "", "")
	l, err := NewListener(ListenerConfig{Key: key, Site: site, Listen: func(context.Context) ([]net.PacketConn, error) { return []net.PacketConn{socket}, nil }})
	if err != nil {
		t.Fatal(err)
	}
	cfg, options := DialerConfig{PublicKey: [32]byte(key.PublicKey().Bytes()), Network: n}, ""
	if site != nil {
		pin := sha256.Sum256(site.Certificate.Certificate[0])
		cfg.CoverName, cfg.CertHash, options = siteName, &pin, SiteOptions
	}
	d, err := NewDialer(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	carriers := make(chan transport.Carrier, 1)
	wg.Go(func() { _ = l.Run(ctx) })
	wg.Go(func() {
		if p, err := l.Accept(ctx); err == nil {
			c, _ := p.Answer(&wire.Accept{})
			carriers <- c
		}
	})
	client, _, err := d.Dial(ctx, transport.Route{Address: socket.LocalAddr().String(), Options: options}, &wire.Hello{})
	dialled()
	if err == nil {
		do(client, <-carriers)
	}
	d.Close()
	cancel()
	wg.Wait()
	time.Sleep(afterDial)
	return err
}
