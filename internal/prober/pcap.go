//go:build linux

package prober

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
)

// maxFlight bounds a flight, in bytes: no first flight is longer.
const maxFlight = 64 << 10

// FirstFlight reads a capture in the classic pcap format and returns what the
// client of the first TCP connection in it said before the server's answer. What
// is no capture is returned as it is: the bytes themselves were recorded.
func FirstFlight(file []byte) ([]byte, error) {
	order, ok := pcapOrder(file)
	if !ok {
		if len(file) == 0 || len(file) > maxFlight {
			return nil, fmt.Errorf("recording has %d bytes, want 1 to %d", len(file), maxFlight)
		}
		return file, nil
	}
	if len(file) < 24 {
		return nil, errors.New("capture is cut short")
	}
	link := order.Uint32(file[20:]) & 0xffff
	var c conversation
	for b := file[24:]; len(b) >= 16; {
		n := order.Uint32(b[8:])
		b = b[16:]
		if uint64(n) > uint64(len(b)) {
			break // of a capture that was still being written
		}
		if t, ok := parseTCP(link, b[:n]); ok && c.add(t) {
			break
		}
		b = b[n:]
	}
	if len(c.flight) == 0 {
		return nil, errors.New("capture has no TCP connection over IP whose client speaks first; of formats only classic pcap is read: editcap -F pcap")
	}
	return c.flight, nil
}

// pcapOrder is the byte order of a capture, with times in micro- or nanoseconds.
func pcapOrder(file []byte) (binary.ByteOrder, bool) {
	if len(file) < 4 {
		return nil, false
	}
	for _, order := range []binary.ByteOrder{binary.LittleEndian, binary.BigEndian} {
		if m := order.Uint32(file); m == 0xa1b2c3d4 || m == 0xa1b23c4d {
			return order, true
		}
	}
	return nil, false
}

// tcp is a segment in a capture.
type tcp struct {
	from, to netip.AddrPort
	seq      uint32
	syn, ack bool
	data     []byte
}

// linkHeaders are the bytes before IP of the link types of pcap-linktype(7).
func linkHeader(link uint32) (n int, ok bool) {
	switch link {
	case 0: // loopback of BSD
		return 4, true
	case 1: // Ethernet
		return 14, true
	case 101, 228, 229: // IP
		return 0, true
	case 113: // Linux, "any"
		return 16, true
	case 276: // the same, version 2
		return 20, true
	}
	return 0, false
}

func parseTCP(link uint32, b []byte) (t tcp, ok bool) {
	n, ok := linkHeader(link)
	if !ok || len(b) < n+20 {
		return t, false
	}
	ip := b[n:]
	var from, to netip.Addr
	var head, total int
	switch {
	case ip[0]>>4 == 4 && ip[9] == 6:
		from, to = netip.AddrFrom4([4]byte(ip[12:])), netip.AddrFrom4([4]byte(ip[16:]))
		head, total = int(ip[0]&15)*4, int(binary.BigEndian.Uint16(ip[2:]))
	case ip[0]>>4 == 6 && len(ip) >= 40 && ip[6] == 6:
		from, to = netip.AddrFrom16([16]byte(ip[8:])), netip.AddrFrom16([16]byte(ip[24:]))
		head, total = 40, 40+int(binary.BigEndian.Uint16(ip[4:]))
	default:
		return t, false
	}
	if total > len(ip) || head < 20 || total < head+20 {
		return t, false
	}
	seg := ip[head:total]
	options := int(seg[12]>>4) * 4
	if options < 20 || options > len(seg) {
		return t, false
	}
	return tcp{
		from: netip.AddrPortFrom(from, binary.BigEndian.Uint16(seg)),
		to:   netip.AddrPortFrom(to, binary.BigEndian.Uint16(seg[2:])),
		seq:  binary.BigEndian.Uint32(seg[4:]),
		syn:  seg[13]&2 != 0, ack: seg[13]&16 != 0,
		data: seg[options:],
	}, true
}

// conversation gathers the first flight of a capture.
type conversation struct {
	client, server netip.AddrPort
	next           uint32
	flight         []byte
}

// add takes the next segment and reports whether the flight is over.
func (c *conversation) add(t tcp) bool {
	switch {
	case !c.client.IsValid():
		if t.syn && !t.ack {
			c.client, c.server, c.next = t.from, t.to, t.seq+1
		}
	case t.from == c.server && t.to == c.client:
		return len(t.data) > 0
	case t.from == c.client && t.to == c.server && t.seq == c.next && !t.syn:
		c.next += uint32(len(t.data))
		c.flight = append(c.flight, t.data...)
		return len(c.flight) >= maxFlight
	}
	return false
}
