package transport

import (
	"net"
	"net/netip"

	"golang.org/x/sys/unix"
)

// canSendFrom: one socket can send from several addresses.
const canSendFrom = true

// sender is a UDP socket of both families that sends each datagram from the source
// of its family (ip(7), IP_PKTINFO; RFC 3542, section 6.2).
type sender struct {
	*net.UDPConn
	words [2][]byte // control messages: IPv4, IPv6; nil for a family without a source
}

// sendFrom makes c send from the sources.
func sendFrom(c *net.UDPConn, sources []netip.Addr) net.PacketConn {
	s := &sender{UDPConn: c}
	for _, from := range sources {
		if from.Is4() {
			s.words[0] = unix.PktInfo4(&unix.Inet4Pktinfo{Spec_dst: from.As4()})
		} else {
			s.words[1] = unix.PktInfo6(&unix.Inet6Pktinfo{Addr: from.As16()})
		}
	}
	return s
}

// WriteTo sends from the source of the family of to.
func (s *sender) WriteTo(b []byte, to net.Addr) (int, error) {
	udp, ok := to.(*net.UDPAddr)
	if !ok {
		return 0, &net.OpError{Op: "write", Net: "udp", Err: net.InvalidAddrError("want a UDP address")}
	}
	ap := udp.AddrPort()
	words := s.words[1]
	if ap.Addr().Unmap().Is4() {
		words = s.words[0]
	}
	n, _, err := s.WriteMsgUDPAddrPort(b, words, ap)
	return n, err
}
