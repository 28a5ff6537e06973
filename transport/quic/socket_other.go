//go:build !linux

package quic

import (
	"net"
	"syscall"
)

// plainUDP is a plainSocket that lets quic-go set the buffers, and the bit that
// forbids fragmenting, which it needs to find the path's MTU.
type plainUDP struct {
	*plainSocket
	udp *net.UDPConn
}

func (p plainUDP) SyscallConn() (syscall.RawConn, error) { return p.udp.SyscallConn() }
func (p plainUDP) SetReadBuffer(n int) error             { return p.udp.SetReadBuffer(n) }
func (p plainUDP) SetWriteBuffer(n int) error            { return p.udp.SetWriteBuffer(n) }

func newUDPSocket(c *net.UDPConn, s *scrambler) net.PacketConn {
	return plainUDP{newPlainSocket(c, s), c}
}

// unmark does nothing: only Linux' quic-go is known to mark.
func unmark([]byte) {}

// joins reports that datagrams come one by one: Linux joins them.
func joins(*net.UDPConn) bool { return false }

func joinedOf(_ []byte, n int) int { return n }
