//go:build !linux

package transport

import (
	"net"
	"net/netip"
)

const canSendFrom = false

func sendFrom(c *net.UDPConn, _ []netip.Addr) net.PacketConn { return c }
