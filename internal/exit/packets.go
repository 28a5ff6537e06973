package exit

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"time"

	"busel/internal/flow"
)

// Limits of one UDP association.
const (
	// maxPeers endpoints are remembered; the one unused for longest goes first.
	// A BitTorrent DHT node, the most talkative user, keeps a few hundred.
	maxPeers = 1024
	// maxNameWaits datagrams may wait for the lookup of a name; more are lost,
	// as a full queue loses them.
	maxNameWaits = 16
)

// OpenPackets opens a UDP association: one socket for both families, so that
// every destination sees the same source port (endpoint-independent mapping,
// RFC 4787, REQ-1). Datagrams come in only from endpoints that one was sent to
// within Config.Rest (address and port-dependent filtering): strangers cannot
// reach the client through the relay.
//
// WriteTo returns an *[flow.OpenError] when the policy denies the destination,
// which concerns that datagram only; datagrams to names are sent when the name
// is resolved, without WriteTo waiting. After Config.Rest without traffic
// ReadFrom returns an *[flow.OpenError] with [flow.DetailTimeout], and from then
// on WriteTo returns net.ErrClosed, since nobody reads the answers.
func (e *Exit) OpenPackets(ctx context.Context) (flow.Packets, error) {
	if e.packetsOpen.Add(1) > e.maxPackets {
		e.packetsOpen.Add(-1)
		return nil, &flow.OpenError{Code: flow.GeneralFailure, Err: errFull}
	}
	if e.next != nil {
		return e.passPackets(ctx)
	}
	conn, err := e.network.ListenPacket(ctx, "udp", ":0")
	if err != nil {
		e.packetsOpen.Add(-1)
		return nil, errDial(err)
	}
	e.packetsOpened.Add(1)
	life, cancel := context.WithCancel(context.Background())
	return &association{
		exit:   e,
		conn:   conn,
		life:   life,
		cancel: cancel,
		peers:  newLRU[netip.AddrPort, time.Time](maxPeers),
		used:   time.Now(),
	}, nil
}

type association struct {
	exit   *Exit
	conn   net.PacketConn
	life   context.Context // ends with Close
	cancel context.CancelFunc
	wg     sync.WaitGroup // lookups

	mu     sync.Mutex
	peers  *lru[netip.AddrPort, time.Time] // when each was last heard of or written to
	used   time.Time
	waits  int // datagrams that wait for a name
	rested bool
	closed bool
}

func (a *association) ReadFrom(buf []byte) (int, flow.Addr, error) {
	for {
		a.mu.Lock()
		rest := a.used.Add(a.exit.rest)
		a.rested = a.rested || !time.Now().Before(rest)
		rested := a.rested && !a.closed
		a.mu.Unlock()
		if rested {
			return 0, flow.Addr{}, &flow.OpenError{Code: flow.TTLExpired, Detail: flow.DetailTimeout}
		}
		if err := a.conn.SetReadDeadline(rest); err != nil {
			return 0, flow.Addr{}, net.ErrClosed
		}
		n, from, err := readFrom(a.conn, buf)
		switch {
		case err == nil:
		case errors.Is(err, os.ErrDeadlineExceeded):
			continue // unless something was sent meanwhile, the check above ends it
		case errors.Is(err, net.ErrClosed):
			return 0, flow.Addr{}, net.ErrClosed
		case isErrno(err, errnoRefused):
			continue // Windows reports an ICMP answer to an earlier datagram here
		default:
			return 0, flow.Addr{}, errDial(err)
		}
		if !a.heard(from) {
			a.exit.datagramsLost.Add(1)
			continue
		}
		a.exit.datagramsDown.Add(1)
		return n, flow.AddrFrom(from), nil
	}
}

// heard reports whether from may write to us, and if so keeps its mapping alive.
func (a *association) heard(from netip.AddrPort) bool {
	now := time.Now()
	a.mu.Lock()
	defer a.mu.Unlock()
	last, known := a.peers.get(from)
	if !known || now.Sub(last) >= a.exit.rest {
		return false
	}
	a.peers.put(from, now)
	a.used = now
	return true
}

func (a *association) WriteTo(b []byte, to flow.Addr) error {
	a.mu.Lock()
	a.used = time.Now() // also for what is denied: the flow is in use
	over := a.rested || a.closed
	a.mu.Unlock()
	if over {
		return net.ErrClosed
	}
	if !a.exit.policy.Load().permitsRequest(to, true) {
		a.exit.denied.Add(1)
		return errDenied()
	}
	if ip := literal(to); ip.IsValid() {
		return a.send(b, []netip.Addr{ip}, to.Port)
	}
	if to.Name == "" {
		return &flow.OpenError{Code: flow.AddressNotSupported, Err: flow.ErrBadAddr}
	}
	if addrs, ok := a.exit.cachedAddrs(to.Name); ok {
		return a.send(b, addrs, to.Port)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.closed {
		return net.ErrClosed
	}
	if a.waits >= maxNameWaits {
		a.exit.datagramsLost.Add(1)
		return nil
	}
	a.waits++
	b = slices.Clone(b)
	a.wg.Go(func() {
		addrs := a.exit.lookupAddrs(a.life, to.Name)
		a.mu.Lock()
		a.waits--
		a.mu.Unlock()
		_ = a.send(b, addrs, to.Port) // counted there; nobody waits for the answer
	})
	return nil
}

// send sends b to the first of addrs that is permitted.
func (a *association) send(b []byte, addrs []netip.Addr, port uint16) error {
	denied := false
	for _, ip := range addrs {
		to := netip.AddrPortFrom(ip, port)
		if !a.exit.policy.Load().permits(to) {
			denied = true
			continue
		}
		now := time.Now()
		a.mu.Lock()
		a.peers.put(to, now)
		a.used = now
		a.mu.Unlock()
		_, err := a.conn.WriteTo(b, net.UDPAddrFromAddrPort(to))
		switch {
		case err == nil:
			a.exit.datagramsUp.Add(1)
		case errors.Is(err, net.ErrClosed):
			return net.ErrClosed
		default: // too long, no route, no buffers: lost, as on any hop
			a.exit.datagramsLost.Add(1)
		}
		return nil
	}
	if denied {
		a.exit.denied.Add(1)
		return errDenied()
	}
	a.exit.datagramsLost.Add(1)
	return nil
}

// Close ends the association and waits for its lookups.
func (a *association) Close() error {
	a.mu.Lock()
	first := !a.closed
	a.closed = true
	a.mu.Unlock()
	a.cancel()
	err := a.conn.Close()
	a.wg.Wait()
	if !first {
		return nil
	}
	a.exit.packetsOpen.Add(-1)
	return err
}

// cachedAddrs and lookupAddrs return the addresses of a name for datagrams:
// IPv4 before IPv6, because a datagram cannot be raced and IPv4 works on
// nearly every relay.
func (e *Exit) cachedAddrs(name string) ([]netip.Addr, bool) {
	v4, ok := e.names.cached(ask("ip4", name))
	if !ok {
		return nil, false
	}
	if len(v4.addrs) > 0 {
		return v4.addrs, true
	}
	v6, ok := e.names.cached(ask("ip6", name))
	return v6.addrs, ok
}

func (e *Exit) lookupAddrs(ctx context.Context, name string) []netip.Addr {
	for _, network := range []string{"ip4", "ip6"} {
		if addrs, err := e.names.lookup(ctx, ask(network, name)); err == nil && len(addrs) > 0 {
			return addrs
		}
	}
	return nil
}

// readFrom reads a datagram and says where from, without allocating on the
// system's sockets.
func readFrom(conn net.PacketConn, buf []byte) (int, netip.AddrPort, error) {
	if udp, ok := conn.(*net.UDPConn); ok {
		n, from, err := udp.ReadFromUDPAddrPort(buf)
		return n, netip.AddrPortFrom(plain(from.Addr()), from.Port()), err
	}
	n, addr, err := conn.ReadFrom(buf)
	if err != nil {
		return n, netip.AddrPort{}, err
	}
	from, _ := netip.ParseAddrPort(addr.String())
	return n, netip.AddrPortFrom(plain(from.Addr()), from.Port()), nil
}
