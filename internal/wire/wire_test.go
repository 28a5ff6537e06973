package wire_test

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"
	"time"

	"busel/internal/flow"
	"busel/internal/wire"
)

func TestVarint(t *testing.T) {
	// The first four are the examples of RFC 9000, appendix A.1.
	for _, tt := range []struct {
		v    uint64
		want []byte
	}{
		{151288809941952652, []byte{0xc2, 0x19, 0x7c, 0x5e, 0xff, 0x14, 0xe8, 0x8c}},
		{494878333, []byte{0x9d, 0x7f, 0x3e, 0x7d}},
		{15293, []byte{0x7b, 0xbd}},
		{37, []byte{0x25}},
		{0, []byte{0}},
		{63, []byte{0x3f}},
		{64, []byte{0x40, 0x40}},
		{16383, []byte{0x7f, 0xff}},
		{16384, []byte{0x80, 0, 0x40, 0}},
		{1<<30 - 1, []byte{0xbf, 0xff, 0xff, 0xff}},
		{1 << 30, []byte{0xc0, 0, 0, 0, 0x40, 0, 0, 0}},
		{wire.MaxVarint, bytes.Repeat([]byte{0xff}, 8)},
	} {
		if got := wire.AppendVarint(nil, tt.v); !bytes.Equal(got, tt.want) {
			t.Errorf("%d is %x, want %x", tt.v, got, tt.want)
		}
		if got := wire.VarintLen(tt.v); got != len(tt.want) {
			t.Errorf("%d has length %d, want %d", tt.v, got, len(tt.want))
		}
		v, n, err := wire.Varint(append(tt.want, 0xff))
		if v != tt.v || n != len(tt.want) || err != nil {
			t.Errorf("%x is %d, %d, %v", tt.want, v, n, err)
		}
		for i := range tt.want {
			if _, n, err := wire.Varint(tt.want[:i]); n != 0 || err != wire.ErrTruncated {
				t.Errorf("%x: %d, %v", tt.want[:i], n, err)
			}
		}
	}
	// RFC 9000 lets 37 take two bytes; here it may not.
	if _, n, err := wire.Varint([]byte{0x40, 0x25}); n != 0 || err != wire.ErrNotMinimal {
		t.Errorf("long form of 37: %d, %v", n, err)
	}
}

func TestVarintOutOfRangePanics(t *testing.T) {
	for _, v := range []uint64{wire.MaxVarint + 1, 1<<64 - 1} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%d does not panic", v)
				}
			}()
			wire.AppendVarint(nil, v)
		}()
	}
}

func TestUnknownTypePanics(t *testing.T) {
	defer func() {
		if recover() == nil {
			t.Error("no panic")
		}
	}()
	f := wire.Frame{Type: 12}
	f.Append(nil)
}

// A STREAM frame that is built around its data is the one that Append writes,
// for every length of header.
func TestStreamHeader(t *testing.T) {
	edges := []uint64{0, 63, 64, 16383, 16384, 1<<30 - 1, 1 << 30, wire.MaxVarint}
	for _, id := range edges {
		for _, offset := range edges {
			for _, n := range []int{0, 1, 63, 64, wire.MaxFrame - wire.MaxStreamHeader} {
				for _, fin := range []bool{false, true} {
					f := wire.Frame{Type: wire.Stream, ID: id, Offset: offset, Fin: fin, Data: make([]byte, n)}
					want := f.Append(nil)
					got := wire.AppendStreamHeader(nil, id, offset, fin, n)
					if len(got) != wire.StreamHeaderLen(id, offset, n) || len(got) > wire.MaxStreamHeader {
						t.Fatalf("id %d offset %d n %d: header of %d bytes", id, offset, n, len(got))
					}
					if !bytes.Equal(append(got, f.Data...), want) {
						t.Fatalf("id %d offset %d n %d: header differs", id, offset, n)
					}
				}
			}
		}
	}
	if n := wire.StreamHeaderLen(wire.MaxVarint, wire.MaxVarint, wire.MaxFrame); n != wire.MaxStreamHeader {
		t.Errorf("longest header is %d, MaxStreamHeader says %d", n, wire.MaxStreamHeader)
	}
}

// Parse takes frames off a record one by one, whatever their order.
func TestParseSequence(t *testing.T) {
	all := readVectors(t, "frames.txt")
	rng := rand.New(rand.NewPCG(1, 2))
	for range 50 {
		var record []byte
		var lengths []int
		for range 20 {
			v := all[rng.IntN(len(all))]
			if _, bad := v.fields["error"]; !bad {
				b := v.bytes("hex")
				record, lengths = append(record, b...), append(lengths, len(b))
			}
		}
		for i, want := range lengths {
			var f wire.Frame
			n, err := wire.Parse(record, &f)
			if n != want || err != nil {
				t.Fatalf("frame %d: %d, %v; want %d", i, n, err, want)
			}
			record = record[n:]
		}
		if len(record) != 0 {
			t.Fatalf("%d bytes left", len(record))
		}
	}
}

// Parse leaves nothing of the frame before, and its data cannot grow into what
// follows.
func TestParseReusesFrame(t *testing.T) {
	var f wire.Frame
	long := wire.Frame{
		Type: wire.Datagram, ID: 9, Addr: flow.Addr{IP: netip.IPv6Loopback(), Port: 5}, Data: []byte("data"),
	}
	b := long.Append(nil)
	b = append(b, 0xee)
	if _, err := wire.Parse(b, &f); err != nil {
		t.Fatal(err)
	}
	if f.Data = append(f.Data, 0); b[len(b)-1] != 0xee {
		t.Error("append to Data wrote behind the frame")
	}
	window := wire.Frame{Type: wire.Window, Limit: 3}
	if _, err := wire.Parse(window.Append(nil), &f); err != nil {
		t.Fatal(err)
	}
	if fmt.Sprintf("%+v", f) != fmt.Sprintf("%+v", window) {
		t.Errorf("frame is %+v", f)
	}
}

// An address that a program built badly never breaks the framing.
func TestDatagramOddAddr(t *testing.T) {
	for _, addr := range []flow.Addr{
		{}, {Port: 7}, {Name: strings.Repeat("n", 256)}, {Name: "a b"}, {Name: "a", IP: netip.IPv6Loopback()},
		{IP: netip.MustParseAddr("::ffff:192.0.2.1")}, {IP: netip.MustParseAddr("fe80::1%eth0")},
	} {
		f := wire.Frame{Type: wire.Datagram, ID: 1, Addr: addr, Data: []byte("x")}
		var got wire.Frame
		b := f.Append(nil)
		if n, err := wire.Parse(b, &got); n != len(b) || err != nil || string(got.Data) != "x" || !got.Addr.IsValid() {
			t.Errorf("%+v: %d, %v, %+v", addr, n, err, got)
		}
	}
}

func TestParseDoesNotAllocate(t *testing.T) {
	f := wire.Frame{Type: wire.Stream, ID: 4, Offset: 1 << 20, Data: make([]byte, 1350)}
	b := f.Append(nil)
	buf := make([]byte, 0, wire.MaxFrame)
	if n := testing.AllocsPerRun(100, func() {
		if _, err := wire.Parse(b, &f); err != nil {
			t.Fatal(err)
		}
		buf = f.Append(buf[:0])
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestHelloCutsDropped(t *testing.T) {
	h := wire.Hello{Dropped: make([]uint32, 300)}
	got, err := wire.ParseHello(h.Append(nil))
	if err != nil || len(got.Dropped) != wire.MaxDropped {
		t.Fatalf("%v, %v", got, err)
	}
}

// Seal gets the hello before the rest, whatever it is appended to, and wins over
// SealedFrames.
func TestHelloSeal(t *testing.T) {
	h := wire.Hello{Mode: wire.ModeResume, Carrier: 9, SealedFrames: []byte("old")}
	h.Seal = func(header []byte) []byte {
		if !bytes.Equal(header, h.AppendHeader(nil)) {
			t.Errorf("header is %x", header)
		}
		return []byte("sealed")
	}
	got, err := wire.ParseHello(h.Append([]byte("xyz"))[3:])
	if err != nil || string(got.SealedFrames) != "sealed" || got.Carrier != 9 {
		t.Errorf("%+v, %v", got, err)
	}
	h.Seal = func([]byte) []byte { return nil }
	if got, err := wire.ParseHello(h.Append(nil)); err != nil || len(got.SealedFrames) != 0 {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestAcceptDurations(t *testing.T) {
	for _, tt := range []struct {
		in, life, idle time.Duration
	}{
		{-time.Second, 0, 0},
		{0, 0, 0},
		{999 * time.Millisecond, 0, 0},
		{1500 * time.Millisecond, time.Second, time.Second},
		{65535 * time.Second, 65535 * time.Second, 65535 * time.Second},
		{65536 * time.Second, 65536 * time.Second, 65535 * time.Second},
		{(1<<32 - 1) * time.Second, (1<<32 - 1) * time.Second, 65535 * time.Second},
		{1 << 32 * time.Second, (1<<32 - 1) * time.Second, 65535 * time.Second},
	} {
		a := wire.Accept{SessionLife: tt.in, CoverIdle: tt.in, CoverLifetime: tt.in}
		got, err := wire.ParseAccept(a.Append(nil))
		if err != nil || got.SessionLife != tt.life || got.CoverIdle != tt.idle || got.CoverLifetime != tt.life {
			t.Errorf("%v: %+v, %v", tt.in, got, err)
		}
	}
}

func TestSettingsIgnoresUnknown(t *testing.T) {
	var b []byte
	for _, v := range []uint64{0, 5, 2, 0, 3, 9, 1 << 40, 7} {
		b = wire.AppendVarint(b, v)
	}
	got, err := wire.ParseSettings(b)
	if want := (wire.Settings{StreamWindow: 5}); got != want || err != nil {
		t.Errorf("%+v, %v", got, err)
	}
}

// What a log or a user reads of a status, a type and a token.
func TestStrings(t *testing.T) {
	seen := map[string]bool{}
	for s := range wire.Status(9) {
		err := &wire.StatusError{Status: s}
		if err.Error() != s.String() || seen[s.String()] || s.String() == "" {
			t.Errorf("status %d is %q", s, s)
		}
		seen[s.String()] = true
	}
	if got := wire.Type(12).String(); got != "frame type 12" {
		t.Errorf("type 11 is %q", got)
	}
	if !errors.Is(wire.ErrVersion, wire.ErrMalformed) {
		t.Error("ErrVersion is not ErrMalformed")
	}
}

// Neither fmt nor a log handler shows a secret.
func TestSecretsAreRedacted(t *testing.T) {
	token := wire.Token(bytes.Repeat([]byte{0x41}, wire.TokenLen))
	hello := wire.Hello{Token: token, Secret: [wire.SecretLen]byte(bytes.Repeat([]byte{0x41}, wire.SecretLen))}
	var text, json bytes.Buffer
	for _, h := range []slog.Handler{slog.NewTextHandler(&text, nil), slog.NewJSONHandler(&json, nil)} {
		log := slog.New(h)
		log.Info("x", "v", token)
		log.Info("x", "v", hello)
		log.Info("x", "v", &hello)
	}
	for _, shown := range []string{
		fmt.Sprintf("%v %+v %s", token, token, token), fmt.Sprintf("%v %+v %s", hello, &hello, hello),
		text.String(), json.String(),
	} {
		for _, secret := range []string{"AAA", "4141", "65 65", "65,65", "QUFB"} {
			if strings.Contains(shown, secret) {
				t.Errorf("secret is shown: %s", shown)
			}
		}
	}
}
