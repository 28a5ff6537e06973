package main

import (
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"busel/scripts/lab/censor/packet"
	"busel/scripts/lab/censor/rule"
)

// flowOf lets a watch see records of a connection: lengths of their bodies, downward ones
// negative. The client's first one is a ClientHello's place, and its second ChangeCipherSpec.
func flowOf(t *testing.T, records ...int) *seen {
	t.Helper()
	client, relay := netip.MustParseAddrPort("203.0.113.2:5000"), netip.MustParseAddrPort("192.0.2.1:443")
	w := &watch{to: relay, flows: map[netip.AddrPort]*flow{}}
	var seq [2]uint32
	say := func(d rule.Direction, flags uint8, payload []byte) {
		s := packet.Segment{Header: packet.Header{Src: client, Dst: relay}, Seq: seq[d], Flags: flags, Payload: payload}
		if d == rule.Down {
			s.Src, s.Dst = relay, client
		}
		seq[d] += uint32(len(payload))
		if flags&packet.SYN != 0 {
			seq[d]++
		}
		w.Judge(time.Time{}, d, s.Build())
	}
	say(rule.Up, packet.SYN, nil)
	say(rule.Down, packet.SYN|packet.ACK, nil)
	for i, n := range records {
		d, typ := rule.Up, byte(23)
		switch {
		case n < 0:
			d, n = rule.Down, -n
		case i == 0:
			typ = 22
		case i == 1:
			typ = 20
		}
		for b := append([]byte{typ, 3, 3, byte(n >> 8), byte(n)}, make([]byte, n)...); len(b) > 0; {
			k := min(len(b), 1400)
			say(d, packet.ACK, b[:k])
			b = b[k:]
		}
	}
	s := &seen{flows: w.take(), said: map[string]bool{}}
	if len(s.flows) != 1 {
		t.Fatalf("%d flows", len(s.flows))
	}
	s.look()
	return s
}

// TestObservers: the lab's own observers see a handshake inside, near and far from the beginning, and
// records that HTTP/2 does not have; and neither in a visit.
func TestObservers(t *testing.T) {
	visit := []int{500, 1, 53, 87, 459, -266, -57, 26, -3608, 117, -201, 128, 30, -628}
	far := slices.Clone(visit)
	for range 20 {
		far = append(far, 200, -9000)
	}
	handshake := []int{640, -4600, 450, -1100, 600}
	const near, late, client, server = "a TLS handshake inside, by 25 packets", "a TLS handshake inside, by 200 packets",
		"a record of the client's that is shorter than with HTTP/2", "a record of the server's that is shorter than with HTTP/2"
	for _, tt := range []struct {
		records []int
		want    []string
	}{
		{visit, nil},
		{append(slices.Clone(visit), handshake...), []string{near, late}},
		{append(far, handshake...), []string{late}},
		{append(slices.Clone(visit), 33), []string{client}},
		{append(slices.Clone(visit), -40, 200), []string{server}},
	} {
		s := flowOf(t, tt.records...)
		maps.DeleteFunc(s.said, func(what string, _ bool) bool { return !strings.HasPrefix(what, "a ") })
		if got := slices.Sorted(maps.Keys(s.said)); !slices.Equal(got, slices.Sorted(slices.Values(tt.want))) {
			t.Errorf("%v: %q, want %q", tt.records, got, tt.want)
		}
	}
}
