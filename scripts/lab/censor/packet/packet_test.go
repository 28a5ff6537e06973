package packet

import (
	"bytes"
	"net/netip"
	"testing"
)

var (
	v4a, v4b = netip.MustParseAddrPort("203.0.113.2:50000"), netip.MustParseAddrPort("192.0.2.1:443")
	v6a, v6b = netip.MustParseAddrPort("[2001:db8:203::2]:50000"), netip.MustParseAddrPort("[2001:db8:192::1]:443")
)

func TestParseRefuses(t *testing.T) {
	tcp := (&Segment{Header: Header{Src: v4a, Dst: v4b}, Payload: []byte("abc")}).Build()
	udp := (&Datagram{Header: Header{Src: v6a, Dst: v6b}, Payload: []byte("abc")}).Build()
	change := func(b []byte, at int, to byte) []byte {
		b = bytes.Clone(b)
		b[at] = to
		return b
	}
	for what, b := range map[string][]byte{
		"nothing": nil, "version 5": change(tcp, 0, 0x55), "header of 16": change(tcp, 0, 0x44),
		"longer than it is": change(tcp, 3, byte(len(tcp)+1)), "cut in the IP header": tcp[:19],
		"cut in the TCP header": change(tcp, 3, 39)[:39], "TCP header of 16": change(tcp, 32, 0x40),
		"TCP header beyond the end": change(tcp, 32, 0xf0), "cut IPv6": udp[:39],
		"longer IPv6": change(udp, 5, byte(len(udp))), "UDP length 7": change(udp, 45, 7), "UDP length beyond": change(udp, 45, 12),
	} {
		if _, err := Parse(b); err == nil {
			t.Errorf("%s: parsed", what)
		}
	}
	if p, err := Parse(append(bytes.Clone(tcp), make([]byte, 6)...)); err != nil || string(p.Payload) != "abc" || len(p.Bytes) != len(tcp) {
		t.Errorf("with padding of the link: %v, %q", err, p.Payload)
	}
}

// Fragments have addresses and no ports, the first like the others.
func TestFragments(t *testing.T) {
	whole := (&Segment{Header: Header{Src: v4a, Dst: v4b}, Payload: []byte("abcdefgh")}).Build()
	for _, field := range [][2]byte{{0x20, 0}, {0, 1}, {0x20, 1}} {
		b := bytes.Clone(whole)
		b[6], b[7] = field[0], field[1]
		p, err := Parse(b)
		if err != nil || !p.Fragment || p.Transport() || p.Src.Port() != 0 || p.Dst.Addr() != v4b.Addr() || p.Protocol != TCP {
			t.Errorf("%x: %+v, %v", field, p, err)
		}
	}
	whole = (&Datagram{Header: Header{Src: v6a, Dst: v6b}, Payload: []byte("abc")}).Build()
	b := append(bytes.Clone(whole[:40]), UDP, 0, 0, 1, 0, 0, 0, 9)
	b = append(b, whole[40:]...)
	b[5], b[6] = byte(len(b)-40), fragment
	if p, err := Parse(b); err != nil || !p.Fragment || p.Transport() || p.Protocol != UDP {
		t.Errorf("IPv6: %+v, %v", p, err)
	}
	// An extension header before UDP is walked over.
	b[6], b[41] = destOptions, 0
	if p, err := Parse(b); err != nil || p.Fragment || p.Dst != v6b || string(p.Payload) != "abc" {
		t.Errorf("extension header: %+v, %v", p, err)
	}
}

// header makes a header of either family.
func header(six, df bool, ttl uint8, id uint16) Header {
	if six {
		return Header{Src: v6a, Dst: v6b, TTL: max(ttl, 1)}
	}
	return Header{Src: v4a, Dst: v4b, TTL: max(ttl, 1), ID: id, DF: df}
}

// What is built parses to the same, with valid checksums.
func FuzzBuild(f *testing.F) {
	f.Add(false, true, uint8(58), uint16(1), uint32(7), uint32(9), uint8(RST|ACK), uint16(502), []byte(nil), []byte("\x01\x02"))
	f.Add(true, false, uint8(0), uint16(0), uint32(0), uint32(1<<31), uint8(SYN), uint16(0), []byte{2, 4, 5, 180}, []byte(nil))
	f.Fuzz(func(t *testing.T, six, df bool, ttl uint8, id uint16, seq, ack uint32, flags uint8, window uint16, options, payload []byte) {
		options = options[:min(len(options)&^3, 40)]
		payload = payload[:min(len(payload), 2000)]
		s := Segment{header(six, df, ttl, id), seq, ack, flags, window, options, payload}
		p, err := Parse(s.Build())
		if err != nil {
			t.Fatal(err)
		}
		got := Segment{Header{p.Src, p.Dst, p.TTL, p.ID, p.DF}, p.Seq, p.Ack, p.Flags, p.Window, p.Options, p.Payload}
		if !p.ChecksumsValid() || p.Protocol != TCP || p.HeaderLen != 20+len(options) || !bytes.Equal(got.Build(), s.Build()) ||
			!bytes.Equal(p.Payload, payload) || got.Header != s.Header || got.Seq != seq || got.Flags != flags {
			t.Errorf("got  %+v\nwant %+v", got, s)
		}
		d := Datagram{header(six, df, ttl, id), payload}
		p, err = Parse(d.Build())
		if err != nil || !p.ChecksumsValid() || p.Protocol != UDP || !bytes.Equal(p.Payload, payload) || p.Src != d.Src || p.Dst != d.Dst {
			t.Errorf("datagram: %+v, %v", p, err)
		}
	})
}

// What parses has its parts in its bytes, in order and without a gap at the
// end, and NAT there and back leaves it as it was.
func FuzzParse(f *testing.F) {
	f.Add((&Segment{Header: Header{Src: v4a, Dst: v4b}, Options: []byte{1, 1, 1, 0}, Payload: []byte("abc")}).Build(), uint16(8443))
	f.Add((&Datagram{Header: Header{Src: v6a, Dst: v6b}, Payload: []byte("abc")}).Build(), uint16(53))
	f.Fuzz(func(t *testing.T, b []byte, port uint16) {
		p, err := Parse(b)
		if err != nil {
			return
		}
		if len(p.Bytes) > len(b) || &p.Bytes[0] != &b[0] {
			t.Fatal("not of the input")
		}
		at := cap(b) - cap(p.Payload)
		if at < 0 || at+len(p.Payload) > len(p.Bytes) {
			t.Fatalf("payload at %d, %d bytes of %d", at, len(p.Payload), len(p.Bytes))
		}
		if p.Protocol == TCP && p.Transport() && at != p.transport+p.HeaderLen {
			t.Fatalf("payload at %d, header of %d at %d", at, p.HeaderLen, p.transport)
		}
		valid := p.ChecksumsValid()
		src, dst := p.Src, p.Dst
		other := netip.AddrPortFrom(v4b.Addr(), port)
		if src.Addr().Is6() {
			other = netip.AddrPortFrom(v6b.Addr(), port)
		}
		p.SetDst(other)
		p.SetSrc(other)
		q, err := Parse(b)
		if err != nil || q.Src.Addr() != other.Addr() || q.Transport() && (q.Src != other || q.Dst != other) {
			t.Fatalf("rewritten: %+v, %v", q, err)
		}
		if q.ChecksumsValid() != valid {
			t.Fatalf("checksums valid: %v before, %v after", valid, q.ChecksumsValid())
		}
		p.SetDst(dst)
		p.SetSrc(src)
		if q, err := Parse(b); err != nil || q.ChecksumsValid() != valid || q.Src != src || q.Dst != dst {
			t.Fatalf("rewritten back: %+v, %v", q, err)
		}
	})
}

// Pieces do not matter: in any order, twice and overlapping, they give the
// beginning of what was sent.
func FuzzStream(f *testing.F) {
	f.Add([]byte("0123456789abcdef"), []byte{4, 4, 0, 5, 8, 8}, uint32(0xfffffff8))
	f.Add([]byte("0123456789abcdef"), []byte{0, 16}, uint32(5))
	f.Fuzz(func(t *testing.T, data, cuts []byte, start uint32) {
		if len(data) == 0 || len(data) > 255 {
			return
		}
		const limit = 100
		s := NewStream(start, limit)
		have := make([]bool, len(data))
		spans := 0
		for i := 0; i+1 < len(cuts); i += 2 {
			from := int(cuts[i]) % len(data)
			to := min(from+int(cuts[i+1]), len(data))
			s.Add(start+uint32(from), data[from:to])
			for k := from; k < to; k++ {
				have[k] = true
			}
			spans = max(spans, len(s.covered))
		}
		got := s.Bytes()
		if !bytes.HasPrefix(data, got) || len(got) > limit || len(s.buf) > limit || spans > maxSpans {
			t.Fatalf("%q of %q, %d spans", got, data, spans)
		}
		want := 0
		for want < min(len(data), limit) && have[want] {
			want++
		}
		if spans < maxSpans && len(got) != want {
			t.Fatalf("%d bytes, want %d", len(got), want)
		}
		// What came first stays, and what is sent again changes nothing.
		old := bytes.Clone(got)
		s.Add(start, bytes.Repeat([]byte{'!'}, len(old)))
		if !bytes.Equal(s.Bytes(), old) {
			t.Fatal("bytes changed")
		}
	})
}
