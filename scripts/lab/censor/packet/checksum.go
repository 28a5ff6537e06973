package packet

import (
	"encoding/binary"
	"net/netip"
)

// Where checksums are in the transport headers.
const (
	tcpSum = 16
	udpSum = 6
)

// add adds b to a sum of 16-bit words (RFC 1071).
func add(sum uint64, b []byte) uint64 {
	for ; len(b) >= 4; b = b[4:] {
		sum += uint64(binary.BigEndian.Uint32(b))
	}
	if len(b) >= 2 {
		sum += uint64(binary.BigEndian.Uint16(b))
		b = b[2:]
	}
	if len(b) == 1 {
		sum += uint64(b[0]) << 8
	}
	return sum
}

// fold brings a sum down to 16 bits.
func fold(sum uint64) uint16 {
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return uint16(sum)
}

// transportSum is the sum of the pseudo header and of all behind byte at.
func transportSum(b []byte, at int, protocol uint8) uint16 {
	addresses := b[12:20]
	if b[0]>>4 == 6 {
		addresses = b[8:40]
	}
	sum := add(uint64(protocol)+uint64(len(b)-at), addresses)
	return fold(add(sum, b[at:]))
}

// ChecksumsValid reports whether the checksums of IPv4, TCP and UDP are right.
func (p *Packet) ChecksumsValid() bool {
	b := p.Bytes
	if b[0]>>4 == 4 && fold(add(0, b[:int(b[0]&15)*4])) != 0xffff {
		return false
	}
	if !p.Transport() {
		return true
	}
	end := p.transport + p.HeaderLen + len(p.Payload)
	if p.Protocol == UDP {
		end += udpLen
		if p.noChecksum() {
			return true
		}
	}
	return transportSum(b[:end], p.transport, p.Protocol) == 0xffff
}

// noChecksum reports whether a UDP packet was sent without one.
func (p *Packet) noChecksum() bool {
	return binary.BigEndian.Uint16(p.Bytes[p.transport+udpSum:]) == 0
}

// SetSrc writes another source of the same family into the packet, and mends
// the checksums by what changed (RFC 1624), so that a wrong one stays wrong.
func (p *Packet) SetSrc(a netip.AddrPort) {
	p.rewrite(a, 12, 8, 0)
	p.Src = a
}

// SetDst is SetSrc for the destination.
func (p *Packet) SetDst(a netip.AddrPort) {
	p.rewrite(a, 16, 24, 2)
	p.Dst = a
}

// rewrite puts an address at at4 or at6 and a port at byte port of the
// transport header.
func (p *Packet) rewrite(a netip.AddrPort, at4, at6, port int) {
	var change uint64 // what the words that change add to a checksum
	put := func(at int, b []byte) {
		old := p.Bytes[at : at+len(b)]
		for i := 0; i < len(b); i += 2 {
			change += uint64(^binary.BigEndian.Uint16(old[i:])) + uint64(binary.BigEndian.Uint16(b[i:]))
		}
		copy(old, b)
	}
	if p.Bytes[0]>>4 == 4 {
		b := a.Addr().As4()
		put(at4, b[:])
		p.mend(10, change)
	} else {
		b := a.Addr().As16()
		put(at6, b[:])
	}
	if !p.Transport() {
		return
	}
	put(p.transport+port, binary.BigEndian.AppendUint16(nil, a.Port()))
	if p.Protocol == TCP {
		p.mend(p.transport+tcpSum, change)
	} else if !p.noChecksum() {
		p.mend(p.transport+udpSum, change)
		if p.noChecksum() {
			binary.BigEndian.PutUint16(p.Bytes[p.transport+udpSum:], 0xffff)
		}
	}
}

// mend changes the checksum at byte at.
func (p *Packet) mend(at int, change uint64) {
	sum := p.Bytes[at : at+2]
	binary.BigEndian.PutUint16(sum, ^fold(uint64(^binary.BigEndian.Uint16(sum))+change))
}
