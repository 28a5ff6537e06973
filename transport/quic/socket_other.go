//go:build !linux

package quic

import "net"

func newUDPSocket(c *net.UDPConn, s *scrambler) net.PacketConn {
	return plainUDP{newPlainSocket(c, s), c}
}
