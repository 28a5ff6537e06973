// Package detour leads carriers to one relay through a stream at another, so that
// a session survives the blocking of its relay's address (docs/THREATS.md, rows C8
// and C10). To the other relay it is an ordinary stream to an ordinary web site.
package detour

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"

	"busel/internal/flow"
	"busel/transport"
)

// Opener opens streams at the relay to go through.
type Opener interface {
	OpenStream(ctx context.Context, dst flow.Addr) (flow.Stream, error)
}

// Network is a [transport.Network] whose TCP connections are streams of an opener. There is no UDP. It is safe for
// concurrent use if the opener is.
type Network struct {
	Opener Opener
}

var _ transport.Network = Network{}

// DialContext opens a stream to addr, host:port. It does not wait until the other
// relay has reached it, which would cost a round trip: a failure there comes with the
// first Read. A refusal is syscall.ECONNREFUSED; other failures wrap
// *[flow.OpenError]. The caller closes the stream.
func (n Network) DialContext(ctx context.Context, network, addr string) (net.Conn, error) {
	if network != "tcp" {
		return nil, fmt.Errorf("detour: %w: %s", errors.ErrUnsupported, network)
	}
	dst, err := flow.SplitHostPort(addr)
	if err != nil {
		return nil, fmt.Errorf("detour: %w", err)
	}
	s, err := n.Opener.OpenStream(ctx, dst)
	if err != nil {
		return nil, judge(err)
	}
	return conn{s}, nil
}

// ListenPacket always fails.
func (Network) ListenPacket(context.Context, string, string) (net.PacketConn, error) {
	return nil, fmt.Errorf("detour: %w: udp", errors.ErrUnsupported)
}

// Read reads from the stream.
func (c conn) Read(p []byte) (int, error) {
	n, err := c.Stream.Read(p)
	if _, ok := errors.AsType[*flow.OpenError](err); ok {
		err = judge(err)
	}
	return n, err
}

// judge keeps of a refusal what a direct connection would have said.
func judge(err error) error {
	if e, ok := errors.AsType[*flow.OpenError](err); ok && e.Code == flow.ConnectionRefused {
		return fmt.Errorf("detour: %w", syscall.ECONNREFUSED)
	}
	return fmt.Errorf("detour: %w", err)
}

// conn is a stream with addresses that say nothing.
type conn struct{ flow.Stream }

func (conn) LocalAddr() net.Addr  { return nowhere }
func (conn) RemoteAddr() net.Addr { return nowhere }

var nowhere = net.TCPAddrFromAddrPort(netip.AddrPort{})
