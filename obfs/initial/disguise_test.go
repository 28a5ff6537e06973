package initial

import (
	"bytes"
	"crypto/tls"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
)

// helloOf is the ClientHello that crypto/tls makes for QUIC.
func helloOf(t testing.TB, name string, parameters []byte, groups ...tls.CurveID) []byte {
	t.Helper()
	c := tls.QUICClient(&tls.QUICConfig{TLSConfig: &tls.Config{
		ServerName: name, NextProtos: []string{"h3"}, MinVersion: tls.VersionTLS13, InsecureSkipVerify: true, CurvePreferences: groups,
	}})
	defer c.Close()
	c.SetTransportParameters(parameters)
	if err := c.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	for {
		switch e := c.NextEvent(); e.Kind {
		case tls.QUICWriteData:
			return bytes.Clone(e.Data)
		case tls.QUICNoEvent:
			t.Fatal("no ClientHello")
		}
	}
}

// likeQUICGos are transport parameters as quic-go writes them.
func likeQUICGos(r *rand.Rand) []byte {
	b, err := hex.DecodeString("0504800800000604800800000704800800000404800c000008010009012301048000ea60030245ac0b011a0e01040f0020027fff")
	if err != nil {
		panic(err)
	}
	n := r.IntN(16)
	return append(append(appendVarint(appendVarint(nil, 27+31*uint64(r.IntN(200))), uint64(n)), randomBytes(r, n)...), b...)
}

func testRandom() *rand.Rand { return rand.New(rand.NewPCG(1, 2)) }

// TestDisguise: what is put into a ClientHello comes out of it again, to nobody else, and not
// when a byte was changed.
func TestDisguise(t *testing.T) {
	r := testRandom()
	d, other := NewDisguise([32]byte{1}), NewDisguise([32]byte{2})
	sizes := map[int]int{}
	for i := range 200 {
		name := strings.Repeat("a", 1+i%60) + ".example"
		if i%10 == 0 {
			name = "192.0.2.1" // which is not said
		}
		hello := helloOf(t, name, likeQUICGos(r))
		shown := d.put(hello, r)
		if shown == nil {
			t.Fatalf("a ClientHello of %d bytes does not fit", len(hello))
		}
		f, ok := parse(shown)
		if !ok {
			t.Fatal("what is shown is no ClientHello")
		}
		sizes[f.payload.len()]++
		if (f.name.len() == 0) != (i%10 == 0) {
			t.Error("the name is not the client's")
		}
		if got, ok := d.take(shown); !ok || !bytes.Equal(got, hello) {
			t.Fatalf("out comes %x, %v", got, ok)
		}
		if _, ok := other.take(shown); ok {
			t.Fatal("another relay takes it")
		}
		if _, ok := d.take(hello); ok {
			t.Fatal("a plain ClientHello has another one in it")
		}
		at := r.IntN(len(shown))
		shown[at] ^= 1 << r.IntN(8)
		if _, ok := d.take(shown); ok {
			t.Fatalf("it is taken with byte %d changed", at)
		}
	}
	for _, n := range payloads { // as Chromium draws them
		if sizes[n] < 25 {
			t.Errorf("payloads are %v", sizes)
		}
	}
}

// TestNoDisguise: what cannot be hidden is not.
func TestNoDisguise(t *testing.T) {
	r := testRandom()
	d := NewDisguise([32]byte{1})
	for name, hello := range map[string][]byte{
		"nothing":            nil,
		"short":              {1, 0, 0, 0},
		"without the share":  helloOf(t, "a.example", nil, tls.X25519),
		"with what is large": helloOf(t, "a.example", randomBytes(r, 300)),
	} {
		if shown := d.put(hello, r); shown != nil {
			t.Errorf("%s: it becomes %x", name, shown)
		}
	}
	// Only the hybrid share: nothing else is missed.
	hello := helloOf(t, "a.example", nil, tls.X25519MLKEM768)
	if got, ok := d.take(d.put(hello, r)); !ok || !bytes.Equal(got, hello) {
		t.Error("without a share of x25519 another one comes out")
	}
}

// dressed are a client's first two datagrams for a relay, and the ClientHello in them.
func dressed(t testing.TB, d *Disguise, seed byte) (c *Client, flight, plain [][]byte, hello []byte) {
	t.Helper()
	r := testRandom()
	hello = helloOf(t, "a.example", likeQUICGos(r))
	c = NewClient([32]byte{seed}, d)
	plain = flightOf(Packet{To: testID, NumberLen: 2}, hello)
	flight = append(c.Out(plain[0]), c.Out(plain[1])...)
	if len(flight) != 2 {
		t.Fatalf("%d datagrams", len(flight))
	}
	return c, flight, plain, hello
}

// said puts the CRYPTO frames of datagrams together.
func said(t testing.TB, id []byte, datagrams [][]byte) []byte {
	t.Helper()
	k, _ := KeysOf(id)
	have := map[int]byte{}
	for _, d := range datagrams {
		p, _, err := k.Open(d, 5)
		if err != nil {
			t.Fatal(err)
		}
		frames, err := Frames(p.Frames)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range frames {
			for i, b := range f.Data {
				have[int(f.Offset)+i] = b
			}
		}
	}
	b := make([]byte, len(have))
	for i := range b {
		b[i] = have[i]
	}
	return b
}

var client = netip.MustParseAddrPort("192.0.2.7:1000")

// TestRelay: a relay sees the ClientHello of the client, whichever of its datagrams comes first, or
// again; whoever else comes is not touched, nor is what follows.
func TestRelay(t *testing.T) {
	d := NewDisguise([32]byte{1})
	for seed := range byte(20) {
		c, flight, plain, hello := dressed(t, d, seed)
		if shape(t, opened(t, flight)); bytes.Equal(said(t, testID, flight), hello) {
			t.Fatal("the ClientHello is not in disguise")
		}
		again := append(c.Out(renumbered(t, plain[0], 3)), c.Out(renumbered(t, plain[1], 4))...)
		if !bytes.Equal(said(t, testID, again), said(t, testID, flight)) {
			t.Error("what is sent again is another ClientHello")
		}
		for _, order := range [][][]byte{
			{flight[0], flight[1]},
			{flight[1], flight[0]},
			{flight[0], again[0], again[1]},
			{flight[1], again[0]},
			{flight[0], again[0], flight[0], flight[1]},
		} {
			r := NewRelay(d)
			var got [][]byte
			numbers := map[uint64]bool{}
			for _, p := range opened(t, order) {
				numbers[p.Number] = true
			}
			for i, datagram := range order {
				lent := bytes.Clone(datagram)
				got = r.Take(got, lent, client)
				if !bytes.Equal(datagram, lent) {
					t.Error("a datagram was changed")
				}
				if len(got) == 0 {
					clear(lent) // it is read into again
				}
				if i < len(order)-1 && len(got) > 0 {
					t.Error("a part of the ClientHello was seen")
				}
			}
			if len(got) != len(numbers) || !bytes.Equal(said(t, testID, got), hello) {
				t.Errorf("%d datagrams of %d, and the ClientHello is the client's: %v", len(got), len(numbers), bytes.Equal(said(t, testID, got), hello))
			}
			for i := range got {
				if len(got[i]) != len(order[i]) {
					t.Errorf("datagram %d has %d bytes, not %d", i, len(got[i]), len(order[i]))
				}
				for j := range order { // the same packet is the same whenever it comes
					if again := r.Take(nil, order[j], client); len(again) != 1 || opened(t, again)[0].Number == opened(t, got[i:i+1])[0].Number && !bytes.Equal(again[0], got[i]) {
						t.Error("a packet that comes twice is another one")
					}
				}
			}
			// What comes again is seen again.
			if more := append(r.Take(nil, again[0], client), r.Take(nil, again[1], client)...); !bytes.Equal(said(t, testID, more), hello) {
				t.Error("what was sent again is another ClientHello")
			}
			// Other packets of the client pass.
			k, _ := KeysOf(testID)
			ack := k.Seal(nil, &Packet{To: []byte{1, 2, 3, 4}, Number: 9, NumberLen: 1, Frames: append(appendAck(nil, &Frame{Type: Ack, Ranges: []Range{{0, 1}}}), make([]byte, 50)...)})
			for _, other := range [][]byte{ack, {0x40, 1, 2}, nil} {
				if out := r.Take(nil, other, client); len(out) != 1 || !bytes.Equal(out[0], other) {
					t.Errorf("%x becomes %x", other, out)
				}
			}
		}
	}
}

// renumbered is a packet with another number.
func renumbered(t testing.TB, datagram []byte, number uint64) []byte {
	t.Helper()
	k, _ := KeysOf(testID)
	p, _, err := k.Open(datagram, -1)
	if err != nil {
		t.Fatal(err)
	}
	p.Number = number
	return k.Seal(nil, &p)
}

// TestRelayStrangers: nothing of a stranger waits, nor of a client of another relay.
func TestRelayStrangers(t *testing.T) {
	r := NewRelay(NewDisguise([32]byte{1}))
	pass := func(from netip.AddrPort, flight [][]byte) {
		t.Helper()
		var got [][]byte
		for _, d := range flight {
			before := len(got)
			if got = r.Take(got, d, from); len(got) == before {
				t.Fatal("a stranger's datagram waits")
			}
		}
		if len(got) != len(flight) {
			t.Fatalf("%d datagrams of %d", len(got), len(flight))
		}
		for i := range got {
			if !bytes.Equal(got[i], flight[i]) {
				t.Fatal("a stranger's datagram is another")
			}
		}
	}
	from := func(i int) netip.AddrPort { return netip.AddrPortFrom(client.Addr(), uint16(i)) }
	for i, c := range captured(t) {
		pass(from(i), c)
	}
	_, flight, _, _ := dressed(t, NewDisguise([32]byte{2}), 1)
	pass(from(99), flight)
	for i := range 3000 {
		c := NewClient([32]byte{byte(i), byte(i >> 8)}, nil)
		plain, _ := plainFlight([]byte{byte(i), byte(i >> 8), 3, 4, 5, 6, 7, 8}, 1800)
		c.Out(plain[0])
		pass(from(100+i), c.Out(plain[1]))
	}
}

// TestRelayBounds: who knows S and never says a whole ClientHello has no more than a few of
// its datagrams kept, is forgotten for others, and keeps nobody out.
func TestRelayBounds(t *testing.T) {
	d := NewDisguise([32]byte{1})
	r := NewRelay(d)
	c, flight, plain, hello := dressed(t, d, 1)
	from := func(i int) netip.AddrPort { return netip.AddrPortFrom(client.Addr(), uint16(i)) }
	for i := range maxFlows + 10 {
		half := marked(d, []byte{byte(i), byte(i >> 8), 9, 9, 9, 9, 9, 9}, 300, make([]byte, 900))
		if got := r.Take(nil, half, from(i)); got != nil {
			t.Fatalf("%d: a half is seen", i)
		}
	}
	if len(r.flows) != maxFlows || r.flows[from(9)] != nil || r.flows[from(10)] == nil {
		t.Errorf("%d are known", len(r.flows))
	}
	got := append(r.Take(nil, flight[0], from(9)), r.Take(nil, flight[1], from(9))...)
	if !bytes.Equal(said(t, testID, got), hello) {
		t.Error("then a client's ClientHello is another")
	}
	if a := r.flows[from(9)]; a.shown != nil || a.have != nil || a.waiting != nil {
		t.Error("more is kept than the halves")
	}
	r = NewRelay(d)
	r.Take(nil, flight[0], client)
	for range 9 {
		if got := r.Take(nil, flight[0], client); got != nil {
			t.Error("what comes twice is seen")
		}
	}
	for i := range maxWaiting - 1 {
		half := c.Out(renumbered(t, plain[0], uint64(2+2*i)))[0]
		c.Out(renumbered(t, plain[0], uint64(3+2*i))) // the other half
		got := r.Take(nil, half, client)
		if want := []int{0, 0, maxWaiting}[i]; len(got) != want {
			t.Errorf("the same half %d times is seen as %d datagrams, want %d", i+2, len(got), want)
		}
	}
}

// TestAcknowledgedInDisguise: as long as only one half has arrived, however often, nothing is taken for
// acknowledged; then everything.
func TestAcknowledgedInDisguise(t *testing.T) {
	c, _, plain, _ := dressed(t, NewDisguise([32]byte{1}), 1)
	for i := range 3 { // packets 2 to 7 in the client's count: halves by turns
		c.Out(renumbered(t, plain[0], uint64(2+2*i)))
		c.Out(renumbered(t, plain[1], uint64(3+2*i)))
	}
	if len(c.cut) != 8 {
		t.Errorf("%d packets with a half are known", len(c.cut))
	}
	_, server := KeysOf(testID)
	number := uint64(0)
	acknowledged := func(ranges ...Range) string {
		p := Packet{From: []byte{1}, Number: number, NumberLen: 1, Frames: append(appendAck(nil, &Frame{Type: Ack, Ranges: ranges}), make([]byte, 20)...)}
		number++
		d := server.Seal(nil, &p)
		c.In(d)
		got, _, err := server.Open(d, int64(number)-2)
		if err != nil {
			t.Fatal(err)
		}
		frames, err := Frames(got.Frames)
		if err != nil {
			t.Fatal(err)
		}
		return fmt.Sprint(frames[0].Ranges)
	}
	for _, tt := range []struct {
		ranges []Range
		want   string
	}{
		{[]Range{{1, 1}}, "[]"},
		{[]Range{{5, 5}, {3, 3}, {1, 1}}, "[]"}, // the same half three times
		{[]Range{{9, 9}, {5, 5}}, "[{8 8}]"},    // none of the ClientHello
		{[]Range{{5, 6}}, "[{4 5}]"},
		{[]Range{{1, 8}}, "[{0 7}]"},
	} {
		if got := acknowledged(tt.ranges...); got != tt.want {
			t.Errorf("%v becomes %s, want %s", tt.ranges, got, tt.want)
		}
	}
	for i := range uint64(2 * maxCut) {
		c.Out(renumbered(t, plain[0], 10+i))
	}
	if len(c.cut) != maxCut {
		t.Errorf("%d packets with a half are known", len(c.cut))
	}
}

// FuzzRelay: whatever comes, a datagram that is no client's passes as it is, or waits, and memory
// is bounded.
func FuzzRelay(f *testing.F) {
	d := NewDisguise([32]byte{1})
	_, flight, _, _ := dressed(f, d, 1)
	f.Add(flight[0], flight[1], false)
	f.Add(flight[1], flight[0], true)
	f.Add([]byte{0xc0, 0, 0, 0, 1}, []byte{}, true)
	f.Fuzz(func(t *testing.T, a, b []byte, mark bool) {
		r := NewRelay(d)
		if mark && len(a) > 0 { // what only who knows S can say
			a = marked(d, testID, int(a[0])<<4, append(bytes.Clone(a[1:min(len(a), 900)]), make([]byte, leastData)...))
		}
		for _, datagram := range [][]byte{a, b, a, b} {
			for _, out := range r.Take(nil, datagram, client) {
				if len(out) != len(a) && len(out) != len(b) {
					t.Errorf("%x became %x", datagram, out)
				}
			}
		}
	})
}

// marked is a datagram with a part of a ClientHello and the mark.
func marked(d *Disguise, id []byte, offset int, data []byte) []byte {
	p := Packet{To: id, Number: 1, NumberLen: 1}
	for _, s := range layout(d.draws(id, 1), []piece{{offset, data}}, 1250-p.Overhead()) {
		p.Frames = s.append(p.Frames)
	}
	k, _ := KeysOf(id)
	return k.Seal(nil, &p)
}

// TestMarks: layouts that a client draws are marked, and none that leaves little to chance,
// which somebody could find by trying.
func TestMarks(t *testing.T) {
	d := NewDisguise([32]byte{1})
	for _, tt := range []struct {
		data, room int
		want       bool
	}{{leastData, leastRoom, true}, {900, 300, true}, {leastData - 1, 900, false}, {1100, leastRoom - 1, false}, {1, 1, false}, {1100, 0, false}} {
		for number := range uint64(200) {
			crypto := []piece{{17, make([]byte, tt.data)}}
			var b []byte
			for _, s := range layout(d.draws(testID, number), crypto, piecesLen(crypto)+tt.room) {
				b = s.append(b)
			}
			frames, err := Frames(b)
			if err != nil {
				t.Fatal(err)
			}
			if d.marks(testID, number, frames) != tt.want {
				t.Fatalf("%d bytes and %d of room are marked: %t", tt.data, tt.room, !tt.want)
			}
			if d.marks(testID, number+1, frames) || d.marks([]byte("another"), number, frames) {
				t.Fatal("another packet's layout is marked")
			}
		}
	}
}

// TestRelayReplayed: who says what a client said, changed, is answered at once: nothing of it
// waits once a part has passed.
func TestRelayReplayed(t *testing.T) {
	d := NewDisguise([32]byte{1})
	_, flight, _, _ := dressed(t, d, 1)
	k, _ := KeysOf(testID)
	open := func() (Packet, []Frame) {
		p := opened(t, flight)[0]
		frames, err := Frames(p.Frames)
		if err != nil {
			t.Fatal(err)
		}
		return p, frames
	}
	turned, frames := open()
	var b []byte
	for _, f := range slices.Backward(frames) {
		b = append(b, f.Raw...)
	}
	turned.Frames = b
	r := NewRelay(d)
	for _, datagram := range [][]byte{k.Seal(nil, &turned), flight[1], flight[0]} {
		if got := r.Take(nil, datagram, client); len(got) != 1 || !bytes.Equal(got[0], datagram) {
			t.Errorf("it becomes %d datagrams", len(got))
		}
	}
	// With other bytes it passes when it is whole, and from then on.
	changed, frames := open()
	for _, f := range frames {
		if f.Type == Crypto {
			f.Data[len(f.Data)-1] ^= 1
		}
	}
	first := k.Seal(nil, &changed)
	r = NewRelay(d)
	lent := bytes.Clone(first)
	got := r.Take(nil, lent, client)
	clear(lent) // it is read into again
	got = append(got, r.Take(nil, flight[1], client)...)
	if len(got) != 2 || !bytes.Equal(got[0], first) || !bytes.Equal(got[1], flight[1]) {
		t.Errorf("changed it becomes %d datagrams", len(got))
	}
	if len(r.flows) != 0 {
		t.Error("it is taken for a client")
	}
	if again := r.Take(nil, flight[0], client); len(again) != 1 {
		t.Error("then a part of it waits")
	}
}

// TestRelayReplayedInPart: who says one datagram of a client again, from elsewhere, is answered at
// once, whether the client was whole or not, and the client is not disturbed.
func TestRelayReplayedInPart(t *testing.T) {
	d := NewDisguise([32]byte{1})
	_, flight, _, hello := dressed(t, d, 1)
	prober := netip.MustParseAddrPort("198.51.100.1:9")
	r := NewRelay(d)
	var got [][]byte
	replay := func() {
		t.Helper()
		for _, datagram := range flight {
			if again := r.Take(nil, datagram, prober); len(again) != 1 || !bytes.Equal(again[0], datagram) {
				t.Errorf("it becomes %d datagrams", len(again))
			}
		}
	}
	for _, datagram := range flight {
		got = r.Take(got, datagram, client)
		replay()
	}
	if !bytes.Equal(said(t, testID, got), hello) {
		t.Error("the client's ClientHello is another")
	}
	for i := range clients + 10 { // they are forgotten in the end
		r.Take(nil, marked(d, []byte{byte(i), byte(i >> 8), 9, 9, 9, 9, 9, 9}, 300, make([]byte, 900)), client)
		if i == clients-2 {
			replay()
		}
	}
	if len(r.met.has) != clients {
		t.Errorf("%d clients are remembered", len(r.met.has))
	}
}

// TestRelayLong: what is longer than a client's datagrams does not wait, so that memory is bounded.
func TestRelayLong(t *testing.T) {
	d := NewDisguise([32]byte{1})
	_, flight, _, _ := dressed(t, d, 1)
	r := NewRelay(d)
	long := append(bytes.Clone(flight[0]), make([]byte, 60000)...)
	if got := r.Take(nil, long, client); len(got) != 1 || len(r.flows) != 0 {
		t.Error("a datagram of 61 kB waits")
	}
	k, _ := KeysOf(testID)
	short := k.Seal(nil, &Packet{To: testID, NumberLen: 1, Frames: appendCrypto(nil, 0, make([]byte, 100))}) // a server drops it
	if got := r.Take(nil, short, client); len(got) != 1 || len(r.passed.has) != 0 {
		t.Error("a short datagram was opened")
	}
}

// TestRelayOdd: who knows S and says odd things keeps no memory, and stops nothing.
func TestRelayOdd(t *testing.T) {
	d := NewDisguise([32]byte{1})
	k, _ := KeysOf(testID)
	sealed := func(number uint64, crypto []piece, size int) []byte {
		p := Packet{To: testID, Number: number, NumberLen: 1}
		for _, s := range layout(d.draws(testID, number), crypto, size-p.Overhead()) {
			p.Frames = s.append(p.Frames)
		}
		return k.Seal(nil, &p)
	}
	// A part far behind any ClientHello's end.
	r := NewRelay(d)
	first := sealed(1, []piece{{300, make([]byte, 900)}}, 1250)
	if got := r.Take(nil, first, client); got != nil {
		t.Fatal("a half is seen")
	}
	far := sealed(2, []piece{{1 << 20, make([]byte, 900)}}, 1250)
	if got := r.Take(nil, far, client); len(got) != 2 || !bytes.Equal(got[0], first) || !bytes.Equal(got[1], far) || len(r.flows) != 0 {
		t.Errorf("what is far behind is seen as %d datagrams", len(got))
	}
	// What follows a half in its datagram stays.
	hello := helloOf(t, "a.example", likeQUICGos(testRandom()))
	shown := d.put(hello, testRandom())
	r = NewRelay(d)
	var coalesced [][]byte
	for i, data := range [][]byte{shown[:1000], shown[1000:]} {
		lent := append(sealed(uint64(i+1), []piece{{1000 * i, data}}, 1200), "what follows"...)
		coalesced = r.Take(coalesced, lent, client)
		clear(lent[len(lent)-12:])
	}
	if len(coalesced) != 2 || !bytes.HasSuffix(coalesced[0], []byte("what follows")) || !bytes.Equal(said(t, testID, coalesced), hello) {
		t.Errorf("%d datagrams, in which something follows, are others", len(coalesced))
	}
	// Packets with no room for a half of what is hidden.
	r = NewRelay(d)
	var sent, got [][]byte
	quarter := (len(shown) + 3) / 4
	for i := range 4 {
		data := shown[i*quarter : min((i+1)*quarter, len(shown))]
		small := append(sealed(uint64(i+1), []piece{{i * quarter, data}}, 640), make([]byte, 600)...)
		sent, got = append(sent, small), r.Take(got, small, client)
	}
	if len(got) != 4 || !slices.EqualFunc(got, sent, bytes.Equal) {
		t.Errorf("four quarters are seen as %d datagrams", len(got))
	}
	// A client's address whose first connection is forgotten is that of its second.
	r = NewRelay(d)
	other := netip.MustParseAddrPort("192.0.2.8:1")
	from := func(i int) netip.AddrPort { return netip.AddrPortFrom(client.Addr(), uint16(i)) }
	half := func(i int) []byte {
		return marked(d, []byte{byte(i), byte(i >> 8), 9, 9, 9, 9, 9, 9}, 300, make([]byte, 900))
	}
	r.Take(nil, half(0), other)
	r.Take(nil, half(1), other)
	for i := range maxFlows - 1 {
		r.Take(nil, half(2+i), from(i))
	}
	if r.flows[other] == nil {
		t.Error("the second connection is forgotten with the first")
	}
}

// TestRecent: the last ones are remembered, and so many, however often one is added.
func TestRecent(t *testing.T) {
	r := newRecent(3)
	for _, s := range []string{"a", "b", "b", "b", "c", "b"} {
		r.add(s)
	}
	if len(r.has) != 3 || !r.has["a"] {
		t.Errorf("%v of three", r.has)
	}
	for _, s := range []string{"d", "d", "e", "c"} {
		r.add(s)
	}
	if len(r.has) != 3 || !r.has["c"] || !r.has["d"] || !r.has["e"] {
		t.Errorf("%v are the last three", r.has)
	}
}

// TestRoom: whatever else is in a client's packets, a relay sees its ClientHello, or nothing
// yet, and never the shown one.
func TestRoom(t *testing.T) {
	d := NewDisguise([32]byte{1})
	hello := helloOf(t, "a.example", likeQUICGos(testRandom()))
	plainly, dropped := 0, 0
	for n := range 400 { // a Retry's token, of any length
		p := Packet{To: testID, NumberLen: 2, Token: make([]byte, n)}
		c, r := NewClient([32]byte{byte(n), byte(n >> 8)}, d), NewRelay(d)
		var out, got [][]byte
		for _, datagram := range flightOf(p, hello) {
			out = append(out, c.Out(datagram)...)
		}
		for _, datagram := range out {
			got = r.Take(got, datagram, client)
		}
		if !bytes.Equal(said(t, testID, got), hello) {
			t.Fatalf("with a token of %d bytes the relay sees another ClientHello", n)
		}
		if bytes.Equal(said(t, testID, out), hello) {
			plainly++
		}
	}
	if plainly == 0 || plainly == 400 {
		t.Errorf("%d of 400 are sent as they are", plainly)
	}
	for n := range 100 { // ACKs beside what is sent again
		c, _, plain, _ := dressed(t, d, byte(n))
		k, _ := KeysOf(testID)
		p, _, err := k.Open(plain[0], -1)
		if err != nil {
			t.Fatal(err)
		}
		ack := &Frame{Type: Ack, Ranges: []Range{{400, 400}}}
		for i := range uint64(n) {
			ack.Ranges = append(ack.Ranges, Range{398 - 2*i, 398 - 2*i})
		}
		p.Number = 2
		p.Frames = appendCrypto(appendAck(nil, ack), 0, make([]byte, 500))
		p.Frames = append(p.Frames, make([]byte, 1250-p.Overhead()-len(p.Frames))...)
		out := c.Out(k.Seal(nil, &p))
		if len(out) == 0 {
			dropped++
		} else if got := NewRelay(d).Take(nil, out[0], client); got != nil {
			t.Fatalf("beside an ACK of %d ranges a half is seen as it is", n+1)
		}
	}
	if dropped == 0 || dropped == 100 {
		t.Errorf("%d of 100 are not sent", dropped)
	}
}

// TestRetryInDisguise: after a Retry the same ClientHello is shown (RFC 9000, section 17.2.5.2).
func TestRetryInDisguise(t *testing.T) {
	d := NewDisguise([32]byte{1})
	c, flight, plain, hello := dressed(t, d, 1)
	c.Out(renumbered(t, plain[0], 2)) // the second half is next
	id, r := []byte{5, 5, 5, 5}, NewRelay(d)
	var again, got [][]byte
	for _, datagram := range flightOf(Packet{To: id, Token: []byte("a token"), Number: 3, NumberLen: 2}, hello) {
		again = append(again, c.Out(datagram)...)
	}
	if !bytes.Equal(said(t, id, again), said(t, testID, flight)) {
		t.Error("another ClientHello is shown")
	}
	if front := said(t, id, again[:1]); front[0] != 1 {
		t.Error("its front is not in the first datagram")
	}
	for _, datagram := range append(flight, again...) {
		got = r.Take(got, datagram, client)
	}
	if len(got) != 4 || !bytes.Equal(said(t, id, got[2:]), hello) {
		t.Error("the relay does not see the client's")
	}
}

// showing is a ClientHello with a payload of somebody who knows S.
func showing(d *Disguise, payload []byte) []byte {
	shown, at := chromium(make([]byte, 32), []byte("a.example"), make([]byte, hybridLen), payloads[3], testRandom())
	plain := append(bytes.Clone(payload), make([]byte, at.len()-tagLen-len(payload))...)
	d.seal.Seal(at.of(shown)[:0], shown[randomAt:randomAt+sealedNonce], plain, around(shown, at))
	return shown
}

// TestTakeOdd: what who knows S hides has to be a ClientHello's rest, in its place.
func TestTakeOdd(t *testing.T) {
	d := NewDisguise([32]byte{1})
	rest := make([]byte, 300)
	for name, c := range map[string]struct {
		payload []byte
		want    bool
	}{
		"good":          {pack([]byte{0, 50, 0, 100, 255, 255}, rest), true},
		"one in other":  {pack([]byte{0, 50, 0, 51, 255, 255}, rest), false},
		"behind it all": {pack([]byte{0, 50, 255, 0, 255, 255}, rest), false},
		"a bomb":        {pack([]byte{0, 50, 0, 100, 255, 255}, make([]byte, 20*maxRest)), false},
		"no DEFLATE":    {bytes.Repeat([]byte{255}, 100), false},
	} {
		if _, ok := d.take(showing(d, c.payload)); ok != c.want {
			t.Errorf("%s: %t", name, ok)
		}
	}
}

// FuzzTake: no ClientHello is too odd.
func FuzzTake(f *testing.F) {
	d := NewDisguise([32]byte{1})
	r := testRandom()
	hello := helloOf(f, "a.example", likeQUICGos(r))
	f.Add(hello, false)
	f.Add(d.put(hello, r), false)
	f.Add([]byte("\x00\x06\x00\x50\x00\x60"), true)
	f.Fuzz(func(t *testing.T, b []byte, sealed bool) {
		if sealed && len(b) <= payloads[3]-tagLen {
			b = showing(d, b)
		}
		if got, ok := d.take(b); ok && len(got) > maxRest+randomLen+hybridLen+keyLen+len(b) {
			t.Errorf("%d bytes become %d", len(b), len(got))
		}
		d.put(b, testRandom())
	})
}
