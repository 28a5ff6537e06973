package mirror

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"busel/internal/wire"
	"busel/obfs/look"
	"busel/obfs/vectors"
	"busel/transport"
)

// onWire dials a port that only listens and returns the ClientHello's record.
func onWire(t *testing.T, r *relay, l *look.Look) []byte {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	got := make(chan []byte, 1)
	go func() {
		defer close(got)
		c, err := ln.Accept()
		if err != nil {
			return
		}
		defer reset(c)
		c.SetDeadline(time.Now().Add(patience))
		b := make([]byte, headerLen)
		if _, err := io.ReadFull(c, b); err != nil {
			return
		}
		body := make([]byte, binary.BigEndian.Uint16(b[3:]))
		if _, err := io.ReadFull(c, body); err != nil {
			return
		}
		got <- append(b, body...)
	}()
	d := r.dialer(t, func(c *DialerConfig) { c.Look = func() *look.Look { return l } })
	if _, _, err := d.Dial(context.Background(), routeTo(ln.Addr().String()), testHello()); err == nil {
		t.Fatal("a dial to nobody succeeded")
	}
	b, ok := <-got
	if !ok {
		t.Fatal("no ClientHello")
	}
	return b
}

type ext struct {
	id   uint16
	body []byte
}

type parsedHello struct {
	ciphers []uint16
	exts    []ext
}

func parseAll(t *testing.T, rec []byte) (p parsedHello) {
	t.Helper()
	c := vectors.Of(rec[headerLen:])
	c.Take(4 + 2 + 32)
	c.Vector(1)
	list := c.Vector(2)
	for len(list.B) > 0 && list.OK {
		p.ciphers = append(p.ciphers, uint16(list.Uint(2)))
	}
	c.Vector(1)
	exts := c.Vector(2)
	for len(exts.B) > 0 && exts.OK {
		id := uint16(exts.Uint(2))
		p.exts = append(p.exts, ext{id, exts.Vector(2).B})
	}
	if !c.OK || !exts.OK || len(c.B) > 0 {
		t.Fatal("ClientHello does not parse")
	}
	return p
}

func (p parsedHello) ext(id uint16) []byte {
	for _, e := range p.exts {
		if e.id == id {
			return e.body
		}
	}
	return nil
}

func isGREASE(v uint16) bool { return v&0x0f0f == 0x0a0a && v>>8 == v&0xff }

func numbers(b []byte) (out []uint16) {
	for ; len(b) >= 2; b = b[2:] {
		out = append(out, binary.BigEndian.Uint16(b))
	}
	return out
}

// ja4 is FoxIO's fingerprint of a ClientHello over TCP.
func (p parsedHello) ja4() string {
	hexes := func(in []uint16) (out []string) {
		for _, v := range in {
			if !isGREASE(v) {
				out = append(out, fmt.Sprintf("%04x", v))
			}
		}
		return out
	}
	hash := func(s string) string {
		h := sha256.Sum256([]byte(s))
		return hex.EncodeToString(h[:])[:12]
	}
	version := uint16(0)
	for _, v := range numbers(p.ext(extSupportedVersions)[1:]) {
		if !isGREASE(v) {
			version = max(version, v)
		}
	}
	var ids []uint16
	for _, e := range p.exts {
		ids = append(ids, e.id)
	}
	ciphers, all := hexes(p.ciphers), hexes(ids)
	name := "i"
	if slices.Contains(ids, 0) {
		name = "d"
	}
	alpn := p.ext(16)
	first := alpn[3 : 3+alpn[2]]
	slices.Sort(ciphers)
	var rest []string
	for _, e := range all {
		if e != "0000" && e != "0010" {
			rest = append(rest, e)
		}
	}
	slices.Sort(rest)
	sigs := hexes(numbers(p.ext(13)[2:]))
	return fmt.Sprintf("t%02x%s%02d%02d%c%c_%s_%s", version-0x0304+0x13, name, len(ciphers), len(all),
		first[0], first[len(first)-1], hash(strings.Join(ciphers, ",")),
		hash(strings.Join(rest, ",")+"_"+strings.Join(sigs, ",")))
}

// shippedLook is the built-in look of a family.
func shippedLook(t testing.TB, family string) *look.Look {
	t.Helper()
	all, err := look.Shipped()
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(all, func(l *look.Look) bool { return l.Family == family })
	if i < 0 {
		t.Fatalf("no look of %s", family)
	}
	return all[i]
}

// TestLook checks the ClientHello on the wire against what Chromium 156 and Firefox
// 153 send.
func TestLook(t *testing.T) {
	for _, tt := range []struct {
		family, ja4     string
		shares          []uint16
		lengths         []int // with a name of 20 bytes (measured in November 2026)
		orders, greases int   // at least, in 24 connections
	}{
		{"chromium", "t13d1517h2_8daaf6152771_cb7bf5808d99", []uint16{0x0a0a, 0x11ec, 0x1d}, []int{1923, 1955, 1987, 2019}, 20, 3},
		{"firefox", "t13d1617h2_86a278354501_3cbfd9057e0d", []uint16{0x11ec, 0x1d, 0x17}, []int{1898}, 1, 0},
	} {
		t.Run(tt.family, func(t *testing.T) {
			l := shippedLook(t, tt.family)
			r := &relay{key: newKey(t), site: &site{name: "a-test-name.example."[:19], roots: goSite(t, nil).roots}}
			orders, lengths, greases := map[string]bool{}, map[int]bool{}, map[uint16]bool{}
			for range 24 {
				rec := onWire(t, r, l)
				p := parseAll(t, rec)
				if got := p.ja4(); got != tt.ja4 || got != l.TLS.JA4(l.TLS.Extensions) {
					t.Fatalf("JA4 is %s", got)
				}
				if rec[0] != 22 || rec[1] != 3 || rec[2] != 1 {
					t.Errorf("record header %x", rec[:5])
				}
				lengths[len(rec)-headerLen+20-len(r.site.name)] = true
				var order []string
				for _, e := range p.exts {
					order = append(order, fmt.Sprint(e.id))
				}
				if tt.greases > 0 {
					order = order[1 : len(order)-1]
					first, last := p.exts[0], p.exts[len(p.exts)-1]
					if !isGREASE(first.id) || len(first.body) != 0 || !isGREASE(last.id) || len(last.body) != 1 || first.id == last.id {
						t.Errorf("GREASE extensions %+v, %+v", first, last)
					}
					if !isGREASE(p.ciphers[0]) {
						t.Error("no GREASE cipher")
					}
					sigs := numbers(p.ext(13)[2:])
					if !isGREASE(sigs[0]) {
						t.Errorf("signature algorithms %x", sigs)
					}
					greases[sigs[0]] = true
				}
				orders[strings.Join(order, " ")] = true
				groups := numbers(p.ext(10)[2:])
				shares := vectors.Of(p.ext(extKeyShare)[2:])
				keys := map[uint16]string{}
				var shared []uint16
				for len(shares.B) > 0 {
					g := uint16(shares.Uint(2))
					if isGREASE(g) {
						if g != groups[0] {
							t.Errorf("groups %x, share %x", groups, g)
						}
						g = look.GREASE
					}
					shared = append(shared, g)
					keys[g] = string(shares.Vector(2).B)
				}
				if !slices.Equal(shared, tt.shares) {
					t.Errorf("shares %x", shared)
				}
				if same := keys[groupX25519MLKEM768][hybridShareLen-32:] == keys[groupX25519]; same != l.TLS.Reuse {
					t.Errorf("the x25519 key is in both shares: %v", same)
				}
				for id, body := range l.TLS.Fixed {
					if got := p.ext(id); got == nil || string(got) != string(body) {
						t.Errorf("extension %d is %x", id, got)
					}
				}
				if p.ext(41) != nil || p.ext(42) != nil {
					t.Error("a PSK or early data is offered")
				}
			}
			if len(orders) < tt.orders || len(greases) < tt.greases || tt.orders == 1 && len(orders) > 1 {
				t.Errorf("%d orders of extensions, %d GREASE signature algorithms in 24 connections", len(orders), len(greases))
			}
			for n := range lengths {
				if !slices.Contains(tt.lengths, n) {
					t.Errorf("ClientHello of %d bytes", n)
				}
			}
			if len(lengths) < min(2, len(tt.lengths)) {
				t.Error("the ECH payload has always the same length")
			}
		})
	}
}

// TestRefusedLook: a hello that the cover's TLS refuses is said once more in another look,
// which is found to be accepted only if it is; what others do to a hello is no refusal.
func TestRefusedLook(t *testing.T) {
	good, err := shipped()
	if err != nil {
		t.Fatal(err)
	}
	bad := *good
	bad.TLS.Signatures = look.Codes{0x0804, 0x0805, 0x0806} // RSA; the site's key is another
	r := startRelay(t, goSite(t, nil), nil)
	cutter, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer cutter.Close()
	go func() {
		for {
			c, err := cutter.Accept()
			if err != nil {
				return
			}
			_, _ = c.Read(make([]byte, 1))
			reset(c)
		}
	}()
	for _, tt := range []struct {
		name            string
		worn, other     *look.Look
		to              string
		asked, accepted int
		want            transport.Failure // "" is a carrier
	}{
		{"another look is accepted", &bad, good, r.addr, 1, 1, ""},
		{"another look is refused, too", &bad, &bad, r.addr, 1, 0, transport.UnfitCover},
		{"there is no other", &bad, nil, r.addr, 1, 0, transport.UnfitCover},
		{"the look is accepted", good, &bad, r.addr, 0, 0, ""},
		{"a reset", &bad, good, cutter.Addr().String(), 0, 0, transport.Reset},
	} {
		t.Run(tt.name, func(t *testing.T) {
			asked, accepted := 0, 0
			d := r.dialer(t, func(c *DialerConfig) {
				c.Look = func() *look.Look { return tt.worn }
				c.Refused = func(l *look.Look) (*look.Look, func()) {
					if l != tt.worn {
						t.Error("another look is said to be refused")
					}
					asked++
					return tt.other, func() { accepted++ }
				}
			})
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			go func() {
				if p, err := r.Accept(ctx); err == nil {
					_, _ = p.Answer(&wire.Accept{Status: wire.StatusOK, SessionLife: time.Minute})
				}
			}()
			c, _, err := d.Dial(ctx, routeTo(tt.to), testHello())
			if err == nil {
				defer c.Close()
			}
			var got transport.Failure
			if e, ok := errors.AsType[*transport.DialError](err); ok {
				got = e.Failure
			}
			if (err == nil) != (tt.want == "") || got != tt.want || asked != tt.asked || accepted != tt.accepted {
				t.Errorf("%v, %q; asked %d times, accepted %d times", err, got, asked, accepted)
			}
		})
	}
}
