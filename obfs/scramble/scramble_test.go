package scramble

import (
	"bytes"
	"encoding/hex"
	"math/bits"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"
)

var testKey = [32]byte{1, 2, 3}

func packet(n int, first byte) []byte {
	b := make([]byte, n)
	rng := rand.NewChaCha8([32]byte{byte(n), first})
	rng.Read(b)
	b[0] = first
	return b
}

func nonce(i int) []byte {
	n := make([]byte, NonceLen)
	rng := rand.NewChaCha8([32]byte{byte(i), byte(i >> 8), byte(i >> 16)})
	rng.Read(n)
	return n
}

func TestRoundTrip(t *testing.T) {
	up, down := Codecs(testKey)
	other, _ := Codecs([32]byte{9})
	for _, size := range []int{1, 2, 20, 21, 999, 1000, 1001, 1200, 1452} {
		for _, first := range []byte{0x40, 0xc3} {
			for _, filler := range []int{0, 1, 4, 48, 255, 300} {
				want := packet(size, first)
				d := up.Seal([]byte("front"), want, nonce(size), filler, 77)
				if string(d[:5]) != "front" {
					t.Fatal("dst was overwritten")
				}
				d = d[5:]
				added := min(filler, MaxFiller)
				if Opens(want) {
					added = max(added, stampLen)
				}
				if len(d) != size+Overhead+added {
					t.Errorf("%d bytes with filler %d became %d", size, filler, len(d))
				}
				for name, c := range map[string]*Codec{"back": down, "another relay": other} {
					if _, _, ok := c.Open(bytes.Clone(d)); ok {
						t.Errorf("%s opened it", name)
					}
				}
				got, id, ok := up.Open(bytes.Clone(d))
				if !ok || !bytes.Equal(got, want) {
					t.Fatalf("%d bytes, filler %d: got %d bytes, %v", size, filler, len(got), ok)
				}
				if id.opens != (first == 0xc3) || id.opens && id.stamp != 77 {
					t.Errorf("identity is %+v", id)
				}
				for range 20 {
					bad := bytes.Clone(d)
					bad[rand.N(len(bad))] ^= 1 << rand.N(8)
					if _, _, ok := up.Open(bad); ok {
						t.Error("a changed datagram was opened")
					}
				}
				if _, _, ok := up.Open(bytes.Clone(d[:len(d)-1])); ok {
					t.Error("a cut datagram was opened")
				}
			}
		}
	}
}

// A holder of S may write any plaintext: none is taken for a longer packet, and
// none is empty.
func TestHostilePlaintext(t *testing.T) {
	up, _ := Codecs(testKey)
	for _, plain := range [][]byte{{}, {0}, {1}, {255}, {0x40, 1}, {0x40, 2}, {0xc0, 0}, {0xc0, 0, 0, 0, 3}, {0xc0, 0, 0, 0, 0, 3}} {
		n := nonce(len(plain))
		d := append(up.aead.Seal(nil, n, plain, nil), n...)
		if got, _, ok := up.Open(d); ok {
			t.Errorf("%x gave the packet %x", plain, got)
		}
	}
}

// TestLooksLikeNothing: every byte of a datagram is as likely as any other, and
// so is every bit, though the packets are alike.
func TestLooksLikeNothing(t *testing.T) {
	up, _ := Codecs(testKey)
	const count, size = 4000, 60
	var ones [size]int
	first := map[byte]int{}
	for i := range count {
		d := up.Seal(nil, packet(30, 0xc0), nonce(i), 30, StampOf(time.Unix(1.8e9, 0)))
		for j := range size {
			ones[j] += bits.OnesCount8(d[j])
		}
		first[d[0]]++
	}
	for j, n := range ones { // 16,000 of 32,000 bits; 600 are 6.7 standard deviations
		if n < 16000-600 || n > 16000+600 {
			t.Errorf("byte %d has %d of 32,000 bits set", j, n)
		}
	}
	if len(first) < 250 {
		t.Errorf("only %d first bytes occur", len(first))
	}
}

// Lengths of what opens a connection are spread, and most pass any path.
func TestFiller(t *testing.T) {
	lengths, safe := map[int]int{}, 0
	for range 10000 {
		p := packet(1200, 0xc0)
		n := len(p) + Overhead + Filler(p, rand.Uint32())
		lengths[n]++
		if n <= safeDatagram {
			safe++
		}
		if n > wideDatagram {
			t.Fatalf("%d bytes", n)
		}
	}
	if len(lengths) < 90 || safe < 7300 || safe > 7900 {
		t.Errorf("%d lengths, %d of 10,000 safe", len(lengths), safe)
	}
	for _, tt := range []struct {
		size  int
		first byte
		most  int
	}{{1400, 0xc0, stampLen}, {1300, 0xc0, 5}, {30, 0xc0, MaxFiller}, {30, 0x40, smallFiller - 1}, {1001, 0x40, 0}} {
		seen := 0
		for range 10000 {
			n := Filler(packet(tt.size, tt.first), rand.Uint32())
			seen = max(seen, n)
			if tt.first == 0xc0 && n < stampLen {
				t.Fatalf("%d bytes of filler hold no stamp", n)
			}
		}
		if seen != tt.most {
			t.Errorf("%d bytes, first %#x: the longest filler is %d, want %d", tt.size, tt.first, seen, tt.most)
		}
	}
}

func TestWindow(t *testing.T) {
	start := time.Unix(1_800_000_000, 0)
	w := NewWindow(start)
	at := func(n uint64, d time.Duration) Identity {
		return Identity{nonce: n, opens: true, stamp: StampOf(start.Add(d))}
	}
	for _, tt := range []struct {
		name string
		id   Identity
		want bool
	}{
		{"first", at(1, 0), true},
		{"again", at(1, 0), false},
		{"again with another stamp", at(1, time.Hour), false},
		{"slow clock", at(2, -2*time.Minute), true},
		{"before the start", at(3, -time.Hour), false},
		{"fast clock", at(4, 1000*time.Hour), true},
		{"no clock", Identity{nonce: 5, opens: true}, true},
		{"no clock again", Identity{nonce: 5, opens: true}, false},
		{"short header", Identity{nonce: 1}, true},
		{"short header again", Identity{nonce: 1}, false},
	} {
		if got := w.Fresh(tt.id); got != tt.want {
			t.Errorf("%s: %v", tt.name, got)
		}
	}
}

// A window remembers what it promises and no more than twice as much.
func TestWindowBounds(t *testing.T) {
	w := NewWindow(time.Unix(1_800_000_000, 0))
	const count = 5 * rememberOther / 2
	for i := range uint64(count) {
		if !w.Fresh(Identity{nonce: i}) {
			t.Fatalf("%d was taken for old", i)
		}
		if n := len(w.other.now) + len(w.other.old); n > 2*rememberOther {
			t.Fatalf("%d are remembered", n)
		}
	}
	for i := uint64(count - rememberOther); i < count; i++ {
		if w.Fresh(Identity{nonce: i}) {
			t.Fatalf("%d was forgotten", i)
		}
	}
}

// TestVectors opens and makes the datagrams that docs/vectors/gen.py wrote, which
// shares no code with this package.
func TestVectors(t *testing.T) {
	raw, err := os.ReadFile("../../docs/vectors/scramble.txt")
	if err != nil {
		t.Fatal(err)
	}
	count := 0
	for paragraph := range strings.SplitSeq(string(raw), "\n\n") {
		v := map[string]string{}
		for line := range strings.Lines(paragraph) {
			key, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
			v[key] = value
		}
		if v["kind"] != "DATAGRAM" {
			continue
		}
		count++
		field := func(key string) []byte {
			b, err := hex.DecodeString(v[key])
			if err != nil || len(b) == 0 {
				t.Fatalf("%s of vector %d: %v", key, count, err)
			}
			return b
		}
		number := func(key string) int {
			n, err := strconv.Atoi(v[key])
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
		codec, down := Codecs([32]byte(field("relay_public")))
		if v["direction"] == "down" {
			codec = down
		}
		packet, datagram, stamp := field("packet"), field("datagram"), Stamp(number("stamp"))
		if got := codec.Seal(nil, packet, field("nonce"), number("filler"), stamp); !bytes.Equal(got, datagram) {
			t.Errorf("vector %d: sealed to %x", count, got)
		}
		got, id, ok := codec.Open(datagram)
		if !ok || !bytes.Equal(got, packet) || id.opens != Opens(packet) || id.stamp != stamp {
			t.Errorf("vector %d: opened %v to %x, %+v", count, ok, got, id)
		}
	}
	if count != 6 {
		t.Errorf("%d vectors", count)
	}
}

// FuzzOpen: what opens is what Seal makes of the packet, but for the filler's
// zeros; a stranger's bytes do not open.
func FuzzOpen(f *testing.F) {
	up, _ := Codecs(testKey)
	f.Add([]byte{}, false)
	f.Add([]byte{0x40, 1, 2, 3, 0}, true)
	f.Add([]byte{0xc0, 1, 2, 0, 0, 0, 9, 4}, true)
	f.Add(up.Seal(nil, packet(1200, 0xc0), nonce(1), 9, 5), false)
	f.Fuzz(func(t *testing.T, b []byte, sealed bool) {
		n := nonce(len(b))
		d := bytes.Clone(b)
		if sealed { // the plaintext of somebody who knows S
			d = append(up.aead.Seal(nil, n, b, nil), n...)
		} else if len(b) > Overhead {
			n = b[len(b)-NonceLen:]
		}
		got, id, ok := up.Open(bytes.Clone(d))
		if !ok {
			return
		}
		if len(got) == 0 || len(got)+Overhead > len(d) {
			t.Fatalf("a packet of %d bytes from a datagram of %d", len(got), len(d))
		}
		again := up.Seal(nil, got, n, len(d)-len(got)-Overhead, id.stamp)
		if len(again) != len(d) {
			t.Fatalf("sealed again it has %d bytes, not %d", len(again), len(d))
		}
		back, id2, ok := up.Open(again)
		if !ok || !bytes.Equal(back, got) || id2 != id {
			t.Fatal("what was sealed again is another packet")
		}
	})
}

// Opening and sealing allocate nothing.
func TestAllocations(t *testing.T) {
	up, _ := Codecs(testKey)
	p, buf, n := packet(1200, 0x40), make([]byte, 0, 2000), nonce(1)
	if got := testing.AllocsPerRun(100, func() { buf = up.Seal(buf[:0], p, n, 0, NoClock) }); got != 0 {
		t.Errorf("Seal allocates %v times", got)
	}
	d, work := bytes.Clone(buf), make([]byte, len(buf))
	if got := testing.AllocsPerRun(100, func() {
		copy(work, d)
		if _, _, ok := up.Open(work); !ok {
			t.Error("not opened")
		}
	}); got != 0 {
		t.Errorf("Open allocates %v times", got)
	}
}

func BenchmarkSeal(b *testing.B) {
	up, _ := Codecs(testKey)
	p, buf, n := packet(1400, 0x40), make([]byte, 0, 2000), nonce(1)
	b.SetBytes(int64(len(p)))
	for b.Loop() {
		buf = up.Seal(buf[:0], p, n, 0, NoClock)
	}
}

func BenchmarkOpen(b *testing.B) {
	up, _ := Codecs(testKey)
	d := up.Seal(nil, packet(1400, 0x40), nonce(1), 0, NoClock)
	work := make([]byte, len(d))
	b.SetBytes(int64(len(d)))
	for b.Loop() {
		copy(work, d)
		up.Open(work)
	}
}

func BenchmarkWindow(b *testing.B) {
	w := NewWindow(time.Unix(1_800_000_000, 0))
	n := uint64(0)
	for b.Loop() {
		n += 0x9e3779b97f4a7c15
		w.Fresh(Identity{nonce: n})
	}
}
