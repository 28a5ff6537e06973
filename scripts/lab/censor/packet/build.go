package packet

import (
	"encoding/binary"
	"net/netip"
)

// A Header is what is chosen of an IP header. Src and Dst are of one family.
type Header struct {
	Src, Dst netip.AddrPort
	TTL      uint8  // 0 is [DefaultTTL]
	ID       uint16 // of IPv4, as is
	DF       bool   // of IPv4
}

// DefaultTTL is what Linux sends.
const DefaultTTL = 64

// A Segment is a TCP packet to build.
type Segment struct {
	Header
	Seq, Ack uint32
	Flags    uint8
	Window   uint16
	Options  []byte // whole words of four bytes
	Payload  []byte
}

// Build returns the packet with valid checksums.
func (s *Segment) Build() []byte {
	header := tcpLen + len(s.Options)
	b, at := s.ip(TCP, header+len(s.Payload))
	t := b[at:]
	binary.BigEndian.PutUint16(t, s.Src.Port())
	binary.BigEndian.PutUint16(t[2:], s.Dst.Port())
	binary.BigEndian.PutUint32(t[4:], s.Seq)
	binary.BigEndian.PutUint32(t[8:], s.Ack)
	t[12], t[13] = byte(header/4)<<4, s.Flags
	binary.BigEndian.PutUint16(t[14:], s.Window)
	copy(t[tcpLen:], s.Options)
	copy(t[header:], s.Payload)
	binary.BigEndian.PutUint16(t[tcpSum:], ^transportSum(b, at, TCP))
	return b
}

// A Datagram is a UDP packet to build.
type Datagram struct {
	Header
	Payload []byte
}

// Build returns the packet with valid checksums.
func (d *Datagram) Build() []byte {
	b, at := d.ip(UDP, udpLen+len(d.Payload))
	u := b[at:]
	binary.BigEndian.PutUint16(u, d.Src.Port())
	binary.BigEndian.PutUint16(u[2:], d.Dst.Port())
	binary.BigEndian.PutUint16(u[4:], uint16(len(u)))
	copy(u[udpLen:], d.Payload)
	sum := ^transportSum(b, at, UDP)
	if sum == 0 { // means "no checksum" (RFC 768)
		sum = 0xffff
	}
	binary.BigEndian.PutUint16(u[udpSum:], sum)
	return b
}

// ip returns a packet with room for size bytes behind its header, which begin
// at the second result.
func (h *Header) ip(protocol uint8, size int) ([]byte, int) {
	ttl := h.TTL
	if ttl == 0 {
		ttl = DefaultTTL
	}
	if !h.Src.Addr().Is4() {
		b := make([]byte, ip6Len+size)
		b[0], b[6], b[7] = 6<<4, protocol, ttl
		binary.BigEndian.PutUint16(b[4:], uint16(size))
		src, dst := h.Src.Addr().As16(), h.Dst.Addr().As16()
		copy(b[8:], src[:])
		copy(b[24:], dst[:])
		return b, ip6Len
	}
	b := make([]byte, ip4Len+size)
	b[0], b[8], b[9] = 4<<4|ip4Len/4, ttl, protocol
	binary.BigEndian.PutUint16(b[2:], uint16(len(b)))
	binary.BigEndian.PutUint16(b[4:], h.ID)
	if h.DF {
		b[6] = 0x40
	}
	src, dst := h.Src.Addr().As4(), h.Dst.Addr().As4()
	copy(b[12:], src[:])
	copy(b[16:], dst[:])
	binary.BigEndian.PutUint16(b[10:], ^fold(add(0, b[:ip4Len])))
	return b, ip4Len
}
