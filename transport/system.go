package transport

import (
	"context"
	"net"
	"net/netip"
	"os"
	"slices"
	"syscall"
	"time"

	"busel/internal/fault"
)

// System is the operating system's network. Nothing of ours shows at its
// sockets (docs/PROTOCOL.md, rule 11): Multipath TCP, which Go's listener
// offers on its own, is off, and so is Nagle's algorithm, as with every web
// server and browser. Where the kernel has them it uses BBR congestion control,
// which moves many times more than CUBIC over a lossy path, and a limit on
// unsent bytes in the kernel, so that what was written last is not late. The
// zero value is ready to use. It is safe for concurrent use.
type System struct {
	// KeepAlive is the time between TCP keepalive probes on dialled
	// connections. 0 turns them off, as on every accepted connection: a web
	// server sends none. [BrowserKeepAlive] is what a browser does.
	KeepAlive time.Duration
	// Source are addresses of this machine, at most one of each family, from which
	// connections are dialled and datagrams sent; nil leaves it to the system. A
	// family that has none is not used then: dialling it fails with ENETUNREACH. With
	// two sources systems other than Linux send datagrams from the first alone.
	Source []netip.Addr
}

var _ Network = System{}

// BrowserKeepAlive is Chromium's TCP keepalive interval (net/socket:
// kTCPKeepAliveSeconds), for connections that pose as a browser's.
const BrowserKeepAlive = 45 * time.Second

// notSentLowat is how many bytes the kernel holds that were not yet sent before
// a socket stops being writable: enough for a few covert records. [Unsent] makes it
// less for a carrier on a slow path.
const notSentLowat = 128 << 10

// DialContext connects to addr.
func (s System) DialContext(ctx context.Context, network, addr string) (net.Conn, error) {
	d := net.Dialer{KeepAlive: -1, Control: tune}
	if s.KeepAlive > 0 {
		d.KeepAliveConfig = net.KeepAliveConfig{Enable: true, Idle: s.KeepAlive, Interval: s.KeepAlive}
	}
	d.SetMultipathTCP(false)
	if len(s.Source) > 0 {
		to, err := netip.ParseAddrPort(addr)
		if err != nil {
			return nil, err
		}
		from, ok := sourceFor(s.Source, to.Addr())
		if !ok {
			return nil, &net.OpError{Op: "dial", Net: network, Err: os.NewSyscallError("connect", syscall.ENETUNREACH)}
		}
		d.LocalAddr = net.TCPAddrFromAddrPort(netip.AddrPortFrom(from, 0))
	}
	return d.DialContext(ctx, network, addr)
}

// sourceFor is the source of the family of to.
func sourceFor(sources []netip.Addr, to netip.Addr) (netip.Addr, bool) {
	i := slices.IndexFunc(sources, func(a netip.Addr) bool { return a.Is4() == to.Unmap().Is4() })
	if i < 0 {
		return netip.Addr{}, false
	}
	return sources[i], true
}

// ListenPacket opens a UDP socket. With a Source the host in addr must be empty.
func (s System) ListenPacket(ctx context.Context, network, addr string) (net.PacketConn, error) {
	if len(s.Source) > 0 {
		_, port, err := net.SplitHostPort(addr)
		if err != nil {
			return nil, err
		}
		if len(s.Source) > 1 && canSendFrom {
			c, err := (&net.ListenConfig{}).ListenPacket(ctx, network, addr)
			if err != nil {
				return nil, err
			}
			return sendFrom(c.(*net.UDPConn), s.Source), nil
		}
		addr = net.JoinHostPort(s.Source[0].String(), port)
	}
	return (&net.ListenConfig{}).ListenPacket(ctx, network, addr)
}

// Listen accepts TCP connections on addr. ctx bounds the call only.
func (s System) Listen(ctx context.Context, addr string) (net.Listener, error) {
	lc := net.ListenConfig{KeepAlive: -1, Control: tune}
	if fault.KeepAlive {
		lc.KeepAlive = time.Second
	}
	lc.SetMultipathTCP(fault.MultipathTCP)
	return lc.Listen(ctx, "tcp", addr)
}
