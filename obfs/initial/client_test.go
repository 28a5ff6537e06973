package initial

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"testing"
)

// captured are connections of Chromium's: each the datagrams that its client sent.
func captured(t testing.TB) [][][]byte {
	t.Helper()
	text, err := os.ReadFile("testdata/chromium-156.json")
	if err != nil {
		t.Fatal(err)
	}
	var file struct{ Connections [][][]byte }
	if err := json.Unmarshal(text, &file); err != nil {
		t.Fatal(err)
	}
	return file.Connections
}

// opened opens all of a client's datagrams.
func opened(t testing.TB, datagrams [][]byte) (packets []Packet) {
	t.Helper()
	var k *Keys
	largest := int64(-1)
	for _, d := range datagrams {
		if k == nil {
			id, ok := To(d)
			if !ok {
				t.Fatalf("%x does not begin a connection", d[:20])
			}
			k, _ = KeysOf(id)
		}
		p, rest, err := k.Open(d, largest)
		if err != nil {
			t.Fatal(err)
		}
		if got := k.Seal(nil, &p); !bytes.Equal(append(got, rest...), d) {
			t.Error("sealed again a packet is another")
		}
		largest = max(largest, int64(p.Number))
		packets = append(packets, p)
	}
	return packets
}

// shape is what a first flight has that does not depend on the ClientHello.
func shape(t testing.TB, packets []Packet) (hello []byte) {
	t.Helper()
	have := map[uint64]byte{}
	for i, p := range packets[:2] {
		frames, err := Frames(p.Frames)
		if err != nil {
			t.Fatal(err)
		}
		count, parts := map[byte]int{}, map[uint64]uint64{} // end of each part by its begin
		for _, f := range frames {
			count[f.Type]++
			if f.Type != Crypto {
				continue
			}
			parts[f.Offset] = f.Offset + uint64(len(f.Data))
			for j, b := range f.Data {
				have[f.Offset+uint64(j)] = b
			}
		}
		for again := true; again; {
			again = false
			for begin, end := range parts {
				if next, ok := parts[end]; ok && next > end {
					parts[begin], again = next, true
					delete(parts, end)
				}
			}
		}
		want := 2 - i
		if len(parts) != want || len(p.To) != 8 || len(p.From) != 0 || len(p.Token) != 0 || p.Number != uint64(i+1) || p.NumberLen != i+1 {
			t.Errorf("packet %d: number %d of %d bytes, ids of %d and %d, %d parts", i, p.Number, p.NumberLen, len(p.To), len(p.From), len(parts))
		}
		most := want + mostExtra
		if count[Crypto] < want || count[Crypto] > most || count[Ping] < leastExtra || count[Ping] > mostExtra || count[Padding] == 0 || len(count) != 3 {
			t.Errorf("packet %d has frames %v", i, count)
		}
		if front, ok := parts[0]; i == 0 && (!ok || front < leastFront || front > mostFront) {
			t.Errorf("the front is %d bytes long", front)
		}
		if i == 1 {
			for begin, end := range parts {
				if n := uint64(len(have)); end-begin != (n+1)/2+overHalf {
					t.Errorf("the middle has %d of %d bytes", end-begin, n)
				}
			}
		}
	}
	for i := range len(have) {
		b, ok := have[uint64(i)]
		if !ok {
			t.Fatalf("byte %d of %d is missing", i, len(have))
		}
		hello = append(hello, b)
	}
	if n := int(binary.BigEndian.Uint32(hello)&0xffffff) + 4; n != len(hello) {
		t.Errorf("the ClientHello has %d bytes, not %d", len(hello), n)
	}
	return hello
}

// TestChromium: what is said of Chromium is true of what was captured.
func TestChromium(t *testing.T) {
	all := captured(t)
	if len(all) < 6 {
		t.Fatalf("%d connections", len(all))
	}
	for _, c := range all {
		shape(t, opened(t, c))
	}
}

// plainFlight is the first flight of a client that does nothing special, with a ClientHello
// of n bytes: in order, number 0 first.
func plainFlight(id []byte, n int) (datagrams [][]byte, hello []byte) {
	return flightAfter(Packet{To: id, NumberLen: 2}, n)
}

// flightAfter is one whose first packet is like p.
func flightAfter(p Packet, n int) (datagrams [][]byte, hello []byte) {
	hello = make([]byte, n)
	for i := range hello {
		hello[i] = byte(i*7 + i>>8)
	}
	binary.BigEndian.PutUint32(hello, uint32(n-4))
	hello[0] = 1
	return flightOf(p, hello), hello
}

// flightOf is one with a given ClientHello.
func flightOf(p Packet, hello []byte) (datagrams [][]byte) {
	k, _ := KeysOf(p.To)
	for at := 0; at < len(hello); p.Number++ {
		room := 1250 - p.Overhead()
		end := min(len(hello), at+room-6)
		p.Frames = appendCrypto(nil, at, hello[at:end])
		p.Frames = append(p.Frames, make([]byte, room-len(p.Frames))...)
		datagrams, at = append(datagrams, k.Seal(nil, &p)), end
	}
	return datagrams
}

var testID = []byte{1, 2, 3, 4, 5, 6, 7, 8}

// TestFlight: a ClientHello of any length takes Chromium's shape, if it has two datagrams.
func TestFlight(t *testing.T) {
	fronts, orders := map[int]bool{}, map[string]bool{}
	for n := 1250; n <= 2300; n += 7 {
		c := NewClient([32]byte{byte(n), byte(n >> 8)}, nil)
		flight, hello := plainFlight(testID, n)
		if out := c.Out(flight[0]); out != nil {
			t.Fatalf("%d: the first datagram does not wait", n)
		}
		out := c.Out(flight[1])
		if len(out) != 2 || len(out[0]) != 1250 || len(out[1]) != 1250 {
			t.Fatalf("%d: %d datagrams", n, len(out))
		}
		packets := opened(t, out)
		if got := shape(t, packets); !bytes.Equal(got, hello) {
			t.Errorf("%d: the ClientHello has changed", n)
		}
		frames, _ := Frames(packets[0].Frames)
		order := ""
		for _, f := range frames {
			order += fmt.Sprint(f.Type)
			if f.Type == Crypto && f.Offset == 0 {
				fronts[len(f.Data)] = true
			}
		}
		orders[order] = true
	}
	if len(fronts) < 20 || len(orders) < 20 {
		t.Errorf("fronts are %v, %d orders of frames", fronts, len(orders))
	}
}

// TestOtherFlights: what is not a ClientHello in two datagrams loses nothing, and keeps its
// lengths.
func TestOtherFlights(t *testing.T) {
	for _, n := range []int{4, 5, 100, 1190, 2380, 3000} {
		c := NewClient([32]byte{1}, nil)
		flight, hello := plainFlight(testID, n)
		var out [][]byte
		for _, d := range flight {
			out = append(out, c.Out(d)...)
		}
		if len(out) != len(flight) {
			t.Fatalf("%d: %d datagrams of %d", n, len(out), len(flight))
		}
		got := make([]byte, n)
		for i, p := range opened(t, out) {
			if len(out[i]) != 1250 || p.Number != uint64(i+1) {
				t.Errorf("%d: datagram %d has %d bytes, number %d", n, i, len(out[i]), p.Number)
			}
			frames, err := Frames(p.Frames)
			if err != nil {
				t.Fatal(err)
			}
			for _, f := range frames {
				copy(got[f.Offset:], f.Data)
			}
		}
		if !bytes.Equal(got, hello) {
			t.Errorf("%d: the ClientHello has changed", n)
		}
	}
	// A part of a ClientHello does not wait for ever.
	c := NewClient([32]byte{1}, nil)
	flight, _ := plainFlight(testID, 2000)
	first := flight[0]
	k, _ := KeysOf(testID)
	p, _, _ := k.Open(first, -1)
	for i := range maxHeld {
		p.Number = uint64(i)
		if out := c.Out(k.Seal(nil, &p)); out != nil {
			t.Fatalf("datagram %d does not wait", i)
		}
	}
	p.Number = maxHeld
	if out := c.Out(k.Seal(nil, &p)); len(out) != maxHeld+1 {
		t.Errorf("then there are %d", len(out))
	}
	// Others go as they came.
	for _, d := range [][]byte{nil, {0x40}, bytes.Repeat([]byte{0xc0}, 1250), append([]byte{0xe0, 0, 0, 0, 1}, make([]byte, 50)...)} {
		if out := c.Out(d); len(out) != 1 || !bytes.Equal(out[0], d) {
			t.Errorf("%x becomes %x", d, out)
		}
	}
}

// TestRest: what follows an Initial packet in its datagram stays, and ACK comes first.
func TestRest(t *testing.T) {
	c := NewClient([32]byte{1}, nil)
	flight, _ := plainFlight(testID, 1300)
	c.Out(flight[0])
	c.Out(flight[1])
	k, _ := KeysOf(testID)
	ack := appendAck(nil, &Frame{Type: Ack, Ranges: []Range{{0, 1}}})
	p := Packet{To: []byte{9, 9, 9, 9}, Number: 2, NumberLen: 2, Frames: append(ack, make([]byte, 1000)...)}
	sealed := k.Seal(nil, &p)
	out := c.Out(append(bytes.Clone(sealed), "handshake"...))
	if len(out) != 1 || len(out[0]) != len(sealed)+9 || !bytes.HasSuffix(out[0], []byte("handshake")) {
		t.Fatalf("%x", out)
	}
	// A probe stays one.
	probe := Packet{To: p.To, Number: 9, NumberLen: 2, Frames: append(append(bytes.Clone(ack), Ping), make([]byte, 1000)...)}
	if got, _, err := k.Open(c.Out(k.Seal(nil, &probe))[0], 9); err != nil || !bytes.HasPrefix(got.Frames, append(bytes.Clone(ack), Ping, Padding)) {
		t.Errorf("a PING becomes %x, %v", got.Frames, err)
	}
	got, rest, err := k.Open(out[0], 2)
	if err != nil || string(rest) != "handshake" || got.Number != 3 || got.NumberLen != 1 || !bytes.Equal(got.To, p.To) {
		t.Fatalf("%+v, %q, %v", got, rest, err)
	}
	frames, err := Frames(got.Frames)
	if err != nil || len(frames) != 2 || frames[0].Type != Ack || !slices.Equal(frames[0].Ranges, []Range{{0, 1}}) || frames[1].Type != Padding {
		t.Errorf("frames %+v, %v", frames, err)
	}
}

// TestRetry: after a Retry the ClientHello goes out again in the same shape, under other keys.
func TestRetry(t *testing.T) {
	c := NewClient([32]byte{1}, nil)
	flight, hello := plainFlight(testID, 1500)
	c.Out(flight[0])
	c.Out(flight[1])
	id := []byte{5, 5, 5, 5}
	k, _ := KeysOf(id)
	again, _ := flightAfter(Packet{To: id, Token: []byte("a token"), Number: 2, NumberLen: 2}, 1500)
	out := slices.Concat(c.Out(again[0]), c.Out(again[1]))
	got := make([]byte, len(hello))
	for i, d := range out {
		p, _, err := k.Open(d, int64(i)+2)
		if err != nil || string(p.Token) != "a token" || p.Number != uint64(i)+3 || len(d) != 1250 {
			t.Fatalf("%+v, %v", p, err)
		}
		frames, _ := Frames(p.Frames)
		for _, f := range frames {
			copy(got[f.Offset:], f.Data)
		}
	}
	if len(out) != 2 || !bytes.Equal(got, hello) {
		t.Errorf("%d datagrams; the ClientHello is whole: %v", len(out), bytes.Equal(got, hello))
	}
}

// TestAcknowledged: a server's ACKs come in the client's count, and not before they are true.
func TestAcknowledged(t *testing.T) {
	type acks [][]Range // of one datagram after the other; nil for none
	for _, c := range []struct{ sent, want acks }{
		{acks{{{1, 2}}}, acks{{{0, 1}}}},
		{acks{{{1, 1}}}, acks{nil}},
		{acks{{{2, 2}}}, acks{nil}},
		{acks{{{1, 1}}, {{1, 2}}}, acks{nil, {{0, 1}}}},
		{acks{{{1, 1}}, {{2, 2}}}, acks{nil, {{1, 1}}}},
		{acks{{{4, 4}, {2, 2}}}, acks{{{3, 3}}}},
		{acks{{{2, 5}}}, acks{{{2, 4}}}},
		{acks{{{2, 5}}, {{1, 1}}, {{1, 9}}}, acks{{{2, 4}}, {{0, 0}}, {{0, 8}}}},
		{acks{{{0, 0}}}, acks{nil}},
		{acks{{{0, 2}}}, acks{{{0, 1}}}},
		{acks{{{70, 80}, {64, 64}, {1, 2}}}, acks{{{69, 79}, {63, 63}, {0, 1}}}},
	} {
		client := NewClient([32]byte{1}, nil)
		flight, _ := plainFlight(testID, 1500)
		client.Out(flight[0])
		client.Out(flight[1])
		_, server := KeysOf(testID)
		for i, ranges := range c.sent {
			for _, typ := range []byte{Ack, AckECN} {
				f := Frame{Type: typ, Ranges: ranges, Delay: 7}
				if typ == AckECN {
					f.Tail = []byte{1, 2, 3}
				}
				frames := append(appendAck(nil, &f), Crypto, 0, 1, 9)
				number := uint64(2*i) + uint64(typ)
				// It follows another Initial packet in its datagram, and is followed.
				before := Packet{From: []byte{1}, Number: number + 100, NumberLen: 2, Frames: []byte{Crypto, 0, 1, 9, 0}}
				first := server.Seal(nil, &before)
				p := Packet{From: []byte{1}, Number: number, NumberLen: 1, Frames: frames, lengthLen: 1}
				datagram := append(server.Seal(bytes.Clone(first), &p), "rest"...)
				size := len(datagram)
				client.In(datagram)
				got, rest, err := server.Open(datagram[len(first):], int64(number)-1)
				if err != nil || string(rest) != "rest" || !bytes.HasPrefix(datagram, first) || len(datagram) != size || got.Number != number {
					t.Fatalf("%v: %+v, %q, %v", c.sent, got, rest, err)
				}
				fs, err := Frames(got.Frames)
				if err != nil {
					t.Fatal(err)
				}
				var crypto bool
				var heard []Range
				for _, f := range fs {
					crypto = crypto || f.Type == Crypto
					if f.Type == typ {
						if heard = f.Ranges; f.Delay != 7 || typ == AckECN && !bytes.Equal(f.Tail, []byte{1, 2, 3}) {
							t.Errorf("%v: delay %d, tail %x", c.sent, f.Delay, f.Tail)
						}
					}
				}
				if !crypto || !slices.Equal(heard, c.want[i]) {
					t.Errorf("%v: datagram %d acknowledges %v, want %v; CRYPTO stays: %v", c.sent, i, heard, c.want[i], crypto)
				}
			}
		}
	}
}

// TestBelief: whatever is lost, and however often parts of the ClientHello are sent again,
// the client takes nothing for delivered that was not, and what it sends in the end is whole.
func TestBelief(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for trial := range 300 {
		n := 1250 + random.IntN(1000)
		c := NewClient([32]byte{byte(trial), byte(trial >> 8)}, nil)
		flight, hello := plainFlight(testID, n)
		up, down := KeysOf(testID)
		first, _, _ := up.Open(flight[0], -1)
		second, _, _ := up.Open(flight[1], 0)
		parts := [2]Packet{first, second} // that the client sends until they are acknowledged
		content := map[uint64]int{}       // part of each number
		var believed [2]bool
		received := make([]bool, n)
		var numbers []uint64 // that arrived
		next, replies := uint64(0), uint64(0)
		for !believed[0] || !believed[1] {
			for i := range parts {
				if believed[i] {
					continue
				}
				p := parts[i]
				p.Number, content[next] = next, i
				next++
				for _, d := range c.Out(up.Seal(nil, &p)) {
					if random.IntN(3) == 0 {
						continue // lost
					}
					got, _, err := up.Open(d, int64(next))
					if err != nil {
						t.Fatal(err)
					}
					frames, err := Frames(got.Frames)
					if err != nil {
						t.Fatal(err)
					}
					for _, f := range frames {
						for j, b := range f.Data {
							if received[int(f.Offset)+j] = true; hello[int(f.Offset)+j] != b {
								t.Fatal("a byte is wrong")
							}
						}
					}
					numbers = append(numbers, got.Number)
				}
				if len(numbers) == 0 || random.IntN(3) == 0 {
					continue
				}
				slices.Sort(numbers)
				var ranges []Range // of a random half of them
				for _, m := range slices.Backward(numbers) {
					if random.IntN(2) == 0 {
						continue
					}
					if k := len(ranges) - 1; k >= 0 && ranges[k].First == m+1 {
						ranges[k].First = m
					} else {
						ranges = append(ranges, Range{m, m})
					}
				}
				if len(ranges) == 0 {
					continue
				}
				reply := down.Seal(nil, &Packet{Number: replies, NumberLen: 2, Frames: append(appendAck(nil, &Frame{Type: Ack, Ranges: ranges}), 0, 0, 0)})
				replies++
				c.In(reply)
				got, _, err := down.Open(reply, int64(replies)-2)
				if err != nil {
					t.Fatal(err)
				}
				frames, err := Frames(got.Frames)
				if err != nil {
					t.Fatal(err)
				}
				for _, f := range frames {
					for _, r := range f.Ranges {
						for m := r.First; m <= r.Last; m++ {
							part, sent := content[m]
							if !sent {
								t.Fatalf("number %d is acknowledged and was not sent", m)
							}
							believed[part] = true
							crypto, _ := Frames(parts[part].Frames)
							for at := range crypto[0].Data {
								if !received[int(crypto[0].Offset)+at] {
									t.Fatalf("trial %d: byte %d of part %d is taken for delivered", trial, at, part)
								}
							}
						}
					}
				}
			}
			if next > 1000 {
				t.Fatal("the client never hears that the ClientHello came")
			}
		}
	}
}

// eliciting reports whether frames ask for an ACK (RFC 9002, section 2).
func eliciting(frames []Frame) bool {
	return slices.ContainsFunc(frames, func(f Frame) bool { return f.Type == Ping || f.Type == Crypto })
}

func FuzzClient(f *testing.F) {
	flight, _ := plainFlight(testID, 1500)
	f.Add(flight[0], flight[1], []byte{Ack, 2, 0, 0, 1, Crypto, 0, 1, 7})
	for _, c := range captured(f)[:2] {
		f.Add(c[0], c[1], []byte{Ping, AckECN, 9, 0, 1, 0, 2, 3, 0, 0, 0, Close, 1, 2, 0, 0, 0})
	}
	f.Fuzz(func(t *testing.T, first, second, frames []byte) {
		c := NewClient([32]byte{1}, nil)
		in := len(first) + len(second)
		out := 0
		for _, d := range [][]byte{first, second, first, second} {
			for _, o := range c.Out(d) {
				out += len(o)
			}
		}
		if out > 2*in {
			t.Errorf("%d bytes of %d", out, 2*in)
		}
		c.In(bytes.Clone(first))
		// Frames inside a packet that opens, up and down.
		if len(frames) < 4 || len(frames) > 1200 {
			return
		}
		parsed, err := Frames(frames)
		if err == nil {
			var raw []byte
			for _, f := range parsed {
				raw = append(raw, f.Raw...)
			}
			if !bytes.Equal(raw, frames) {
				t.Errorf("the frames of %x are %x", frames, raw)
			}
		}
		c = NewClient([32]byte{1}, nil)
		up, down := KeysOf(testID)
		sealed := up.Seal(nil, &Packet{To: testID, NumberLen: 2, Frames: frames})
		for _, o := range append(c.Out(sealed), c.Out(sealed)...) {
			if len(o) != len(sealed) {
				t.Errorf("%d bytes become %d", len(sealed), len(o))
			}
			p, _, err := up.Open(o, 0)
			if err != nil {
				t.Fatal(err)
			}
			now, got := Frames(p.Frames)
			if parsed != nil && (got != nil || eliciting(now) != eliciting(parsed)) {
				t.Errorf("frames %x become %x", frames, p.Frames)
			}
		}
		reply := down.Seal(nil, &Packet{NumberLen: 2, Frames: frames})
		c.In(reply)
		if p, _, err := down.Open(reply, -1); err != nil {
			t.Error(err)
		} else if _, got := Frames(p.Frames); got != nil && parsed != nil {
			t.Errorf("frames %x become %x", frames, p.Frames)
		}
	})
}
