// Package packet reads and writes what a censor in the path sees: IP packets,
// and the first bytes of the protocols in them. It is pure: bytes in, values
// out; no socket, no clock, nothing kept between calls but what [Stream] and
// [Initials] hold, and they are bounded.
//
// [Parse] splits a packet into headers and payload without copying. Above it:
//
//   - [Stream] puts TCP segments of one direction together;
//   - [Handshake] and [ParseHello] read a ClientHello out of TLS records;
//   - [Initials] decrypts the Initial packets of QUIC and yields the same;
//   - [ParseRequest] reads the head of an HTTP request;
//   - [ParseQuestion] and [Answer] read a DNS query and forge its answer.
//
// [Segment] and [Datagram] build packets, [Packet.SetSrc] and [Packet.SetDst]
// rewrite addresses in place as a NAT does.
//
// Parsers that see a part of a message say [ErrMore], and an error of another
// kind if the bytes are not of that protocol, whatever may follow.
package packet

import (
	"encoding/binary"
	"errors"
	"net/netip"
)

// Numbers of protocols in the IP header.
const (
	TCP = 6
	UDP = 17
)

// Flags of the TCP header.
const (
	FIN = 1 << iota
	SYN
	RST
	PSH
	ACK
)

// ErrMore says that the bytes are a part of a message that may be complete
// when more follow.
var ErrMore = errors.New("message is incomplete")

var (
	errShort   = errors.New("packet is shorter than its headers say")
	errVersion = errors.New("not an IPv4 or IPv6 packet")
)

// Lengths of headers without options (RFC 791, 8200, 9293, 768).
const (
	ip4Len = 20
	ip6Len = 40
	tcpLen = 20
	udpLen = 8
)

// A Packet is an IP packet taken apart. Its slices are parts of the input.
type Packet struct {
	Bytes    []byte         // the packet without what the link put behind it
	Src, Dst netip.AddrPort // the port is 0 without a transport header
	Protocol uint8          // of the payload: TCP, UDP or another
	TTL      uint8          // or hop limit
	ID       uint16         // of IPv4
	DF       bool           // of IPv4
	// Fragment says that this is a part of a packet. No part is looked into,
	// not even the first.
	Fragment bool

	// Payload is what the transport carries. Without a transport header that
	// we read it is what IP carries.
	Payload []byte

	// These are of TCP only.
	Seq, Ack  uint32
	Flags     uint8
	Window    uint16
	HeaderLen int // 20 without options
	Options   []byte

	transport int // where its header begins in Bytes; 0 if none was read
}

// Transport reports whether the packet is a whole TCP or UDP packet.
func (p *Packet) Transport() bool { return p.transport > 0 }

// Has reports whether all of these TCP flags are set.
func (p *Packet) Has(flags uint8) bool {
	return p.Protocol == TCP && p.transport > 0 && p.Flags&flags == flags
}

// Parse takes an IP packet apart. Checksums are not looked at: a network card
// may fill them in later.
func Parse(b []byte) (Packet, error) {
	if len(b) == 0 {
		return Packet{}, errShort
	}
	switch b[0] >> 4 {
	case 4:
		return parse4(b)
	case 6:
		return parse6(b)
	}
	return Packet{}, errVersion
}

func parse4(b []byte) (Packet, error) {
	if len(b) < ip4Len {
		return Packet{}, errShort
	}
	header, total := int(b[0]&15)*4, int(binary.BigEndian.Uint16(b[2:]))
	if header < ip4Len || total < header || total > len(b) {
		return Packet{}, errShort
	}
	fragment := binary.BigEndian.Uint16(b[6:])
	p := Packet{
		Bytes:    b[:total],
		Src:      netip.AddrPortFrom(netip.AddrFrom4([4]byte(b[12:16])), 0),
		Dst:      netip.AddrPortFrom(netip.AddrFrom4([4]byte(b[16:20])), 0),
		Protocol: b[9],
		TTL:      b[8],
		ID:       binary.BigEndian.Uint16(b[4:]),
		DF:       fragment&0x4000 != 0,
		Fragment: fragment&0x3fff != 0, // more fragments, or not the first
	}
	return withTransport(p, header)
}

// Numbers of IPv6 extension headers (RFC 8200).
const (
	hopByHop    = 0
	routing     = 43
	fragment    = 44
	destOptions = 60
)

// maxExtensions bounds the extension headers that are walked over; real
// packets have two at most.
const maxExtensions = 8

func parse6(b []byte) (Packet, error) {
	if len(b) < ip6Len {
		return Packet{}, errShort
	}
	total := ip6Len + int(binary.BigEndian.Uint16(b[4:]))
	if total > len(b) {
		return Packet{}, errShort
	}
	p := Packet{
		Bytes:    b[:total],
		Src:      netip.AddrPortFrom(netip.AddrFrom16([16]byte(b[8:24])), 0),
		Dst:      netip.AddrPortFrom(netip.AddrFrom16([16]byte(b[24:40])), 0),
		Protocol: b[6],
		TTL:      b[7],
	}
	at := ip6Len
	for range maxExtensions {
		switch p.Protocol {
		case hopByHop, routing, destOptions:
			if total < at+8 {
				return Packet{}, errShort
			}
			p.Protocol = b[at]
			at += 8 + 8*int(b[at+1])
			if at > total {
				return Packet{}, errShort
			}
			continue
		case fragment:
			if total < at+8 {
				return Packet{}, errShort
			}
			p.Protocol, p.Fragment = b[at], true
			at += 8
		}
		break
	}
	return withTransport(p, at)
}

// withTransport reads the transport header at byte at.
func withTransport(p Packet, at int) (Packet, error) {
	b := p.Bytes[at:]
	p.Payload = b
	if p.Fragment {
		return p, nil
	}
	header := 0
	switch p.Protocol {
	case TCP:
		if len(b) < tcpLen {
			return Packet{}, errShort
		}
		header = int(b[12]>>4) * 4
		if header < tcpLen || header > len(b) {
			return Packet{}, errShort
		}
		p.Seq, p.Ack = binary.BigEndian.Uint32(b[4:]), binary.BigEndian.Uint32(b[8:])
		p.Flags, p.Window = b[13], binary.BigEndian.Uint16(b[14:])
		p.HeaderLen, p.Options = header, b[tcpLen:header]
	case UDP:
		if len(b) < udpLen {
			return Packet{}, errShort
		}
		length := int(binary.BigEndian.Uint16(b[4:]))
		if length < udpLen || length > len(b) {
			return Packet{}, errShort
		}
		header, b = udpLen, b[:length]
	default:
		return p, nil
	}
	p.transport, p.Payload = at, b[header:]
	p.Src = netip.AddrPortFrom(p.Src.Addr(), binary.BigEndian.Uint16(b))
	p.Dst = netip.AddrPortFrom(p.Dst.Addr(), binary.BigEndian.Uint16(b[2:]))
	return p, nil
}
