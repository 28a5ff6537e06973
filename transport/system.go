package transport

import (
	"context"
	"net"
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
	return d.DialContext(ctx, network, addr)
}

// ListenPacket opens a UDP socket.
func (s System) ListenPacket(ctx context.Context, network, addr string) (net.PacketConn, error) {
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
