package front

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"busel/internal/flow"
)

func TestUDPHeader(t *testing.T) {
	for _, tt := range []struct {
		hex  string
		to   flow.Addr
		head int
		err  error
	}{
		{"00000001c000020100356869", flow.AddrFrom(netip.MustParseAddrPort("192.0.2.1:53")), 10, nil},
		{"00000001c00002010035", flow.AddrFrom(netip.MustParseAddrPort("192.0.2.1:53")), 10, nil}, // no payload
		{"0000000420010db800000000000000000000005301bb00", flow.AddrFrom(netip.MustParseAddrPort("[2001:db8::53]:443")), 22, nil},
		{"000000030161003500", flow.Addr{Name: "a", Port: 53}, 8, nil},
		{"000000" + "03ff" + strings.Repeat("6e", 255) + "0002" + "ff", flow.Addr{Name: strings.Repeat("n", 255), Port: 2}, maxUDPHeader, nil},
		{"", flow.Addr{}, 0, errUDPHeader},
		{"0000", flow.Addr{}, 0, errUDPHeader},
		{"000000", flow.Addr{}, 0, errUDPHeader},
		{"00000001c000020100", flow.Addr{}, 0, errUDPHeader},
		{"01000001c00002010035", flow.Addr{}, 0, errUDPHeader}, // reserved bytes
		{"00010001c00002010035", flow.Addr{}, 0, errUDPHeader},
		{"00000101c00002010035", flow.Addr{}, 0, errFragment},
		{"00008101c00002010035", flow.Addr{}, 0, errFragment}, // the last one
		{"00000002c00002010035", flow.Addr{}, 0, errUDPHeader},
		{"00000003000035", flow.Addr{}, 0, errUDPHeader},
		{"0000000301200035", flow.Addr{}, 0, errUDPHeader},
	} {
		b, err := hex.DecodeString(tt.hex)
		if err != nil {
			t.Fatal(err)
		}
		to, n, err := parseUDPHeader(b)
		if to != tt.to || n != tt.head || !errors.Is(err, tt.err) || (err == nil) != (tt.err == nil) {
			t.Errorf("%s: %v, %d, %v", tt.hex, to, n, err)
		}
	}
}

// FuzzUDPHeader: what parses encodes to the same bytes, and goes to a valid
// destination.
func FuzzUDPHeader(f *testing.F) {
	for _, s := range []string{
		"\x00\x00\x00\x01\xc0\x00\x02\x01\x00\x35hello", "\x00\x00\x00\x03\x04site\x01\xbb", "\x00\x00\x01\x01\xc0\x00\x02\x01\x00\x35",
		"\x00\x00\x00\x04\x20\x01\x0d\xb8\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01\x00\x50", "\x00\x00\x00\x03\x00\x00\x35",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		to, n, err := parseUDPHeader(b)
		if err != nil {
			if n != 0 || to != (flow.Addr{}) {
				t.Fatalf("%v, %d with %v", to, n, err)
			}
			return
		}
		if !to.IsValid() || n > maxUDPHeader || !bytes.Equal(appendUDPHeader(nil, to), b[:n]) {
			t.Fatalf("%x is %v in %d bytes", b, to, n)
		}
	})
}

func TestQueueDropsTheOldest(t *testing.T) {
	q := newQueue()
	const size = 1000
	room := maxQueued / (size + perQueued)
	for i := range room + 5 {
		b := make([]byte, size)
		copy(b, fmt.Sprintf("%05d", i))
		q.push(b, flow.Addr{})
		b[0] = 'x' // the queue has a copy
		if q.size > maxQueued {
			t.Fatalf("%d bytes are queued", q.size)
		}
	}
	for i := range room {
		if d, ok := q.pop(); !ok || string(d.b[:5]) != fmt.Sprintf("%05d", i+5) {
			t.Fatalf("datagram %d is %.5q, %v", i, d.b, ok)
		}
	}
	if q.size != 0 || len(q.list) != 0 {
		t.Errorf("an empty queue has %d bytes", q.size)
	}
	q.push(make([]byte, maxDatagram), flow.Addr{})
	q.push(nil, flow.Addr{})
	if q.size != maxDatagram+2*perQueued {
		t.Errorf("%d bytes", q.size)
	}
	popped := make(chan bool)
	q.close()
	go func() { _, ok := q.pop(); popped <- ok }()
	if <-popped {
		t.Error("a closed queue has something")
	}
	q.push([]byte("late"), flow.Addr{})
	if q.size != 0 {
		t.Error("a closed queue takes datagrams")
	}
}
