package scenario

import (
	"context"
	"net"

	"busel/scripts/lab/netns"
	"busel/transport"
)

// inside is a namespace as what an exit opens sockets with.
type inside struct{ n *netns.Namespace }

var _ transport.Network = inside{}

// DialContext connects from inside.
func (i inside) DialContext(ctx context.Context, network, addr string) (net.Conn, error) {
	return i.n.Dial(ctx, network, addr)
}

// ListenPacket opens a UDP socket inside.
func (i inside) ListenPacket(ctx context.Context, network, addr string) (net.PacketConn, error) {
	return i.n.ListenPacket(ctx, network, addr)
}
