package mirror

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"busel/obfs/look"
)

// onWire dials a port that only listens and returns the ClientHello's record.
func onWire(t *testing.T, r *relay) []byte {
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
	if _, _, err := r.dialer(t, nil).Dial(context.Background(), routeTo(ln.Addr().String()), testHello()); err == nil {
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
	c := cursor{rec[headerLen:], true}
	c.take(4 + 2 + 32)
	c.vector(1)
	list := c.vector(2)
	for len(list.b) > 0 && list.ok {
		p.ciphers = append(p.ciphers, uint16(list.uint(2)))
	}
	c.vector(1)
	exts := c.vector(2)
	for len(exts.b) > 0 && exts.ok {
		id := uint16(exts.uint(2))
		p.exts = append(p.exts, ext{id, exts.vector(2).b})
	}
	if !c.ok || !exts.ok || len(c.b) > 0 {
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

// TestLook checks the ClientHello on the wire against what Chromium 156 sends.
func TestLook(t *testing.T) {
	r := &relay{key: newKey(t), site: &site{name: "a-test-name.example."[:19], roots: goSite(t, nil).roots}}
	orders := map[string]bool{}
	lengths := map[int]bool{}
	greaseSigs := map[uint16]bool{}
	for range 24 {
		rec := onWire(t, r)
		p := parseAll(t, rec)
		if got := p.ja4(); got != "t13d1517h2_8daaf6152771_cb7bf5808d99" {
			t.Fatalf("JA4 is %s", got)
		}
		if rec[0] != 22 || rec[1] != 3 || rec[2] != 1 {
			t.Errorf("record header %x", rec[:5])
		}
		lengths[len(rec)-headerLen] = true
		var order []string
		for _, e := range p.exts {
			order = append(order, fmt.Sprint(e.id))
		}
		orders[strings.Join(order[1:len(order)-1], " ")] = true
		first, last := p.exts[0], p.exts[len(p.exts)-1]
		if !isGREASE(first.id) || len(first.body) != 0 || !isGREASE(last.id) || len(last.body) != 1 || first.id == last.id {
			t.Errorf("GREASE extensions %+v, %+v", first, last)
		}
		if !isGREASE(p.ciphers[0]) {
			t.Error("no GREASE cipher")
		}
		groups := numbers(p.ext(10)[2:])
		shares := cursor{p.ext(extKeyShare)[2:], true}
		var keys [][]byte
		var shared []uint16
		for len(shares.b) > 0 {
			shared = append(shared, uint16(shares.uint(2)))
			keys = append(keys, shares.vector(2).b)
		}
		if !isGREASE(groups[0]) || groups[0] != shared[0] || !slices.Equal(shared[1:], []uint16{0x11ec, 0x1d}) {
			t.Errorf("groups %x, shares %x", groups, shared)
		}
		if len(keys[0]) != 1 || len(keys[1]) != hybridShareLen || len(keys[2]) != 32 || string(keys[1][hybridShareLen-32:]) == string(keys[2]) {
			t.Error("key shares are not Chromium's: two separate x25519 keys")
		}
		sigs := numbers(p.ext(13)[2:])
		if !isGREASE(sigs[0]) || !slices.Equal(sigs[1:4], []uint16{0x904, 0x905, 0x906}) {
			t.Errorf("signature algorithms %x", sigs)
		}
		greaseSigs[sigs[0]] = true
		if string(p.ext(look.ExtTrustAnchors)) != string(look.Chromium156().TLS.TrustAnchors) {
			t.Error("trust anchors differ")
		}
		if p.ext(41) != nil || p.ext(42) != nil {
			t.Error("a PSK or early data is offered")
		}
		if string(p.ext(45)) != "\x01\x01" {
			t.Error("psk_ke is offered")
		}
	}
	if len(orders) < 20 || len(greaseSigs) < 3 {
		t.Errorf("%d orders of extensions, %d GREASE signature algorithms in 24 connections", len(orders), len(greaseSigs))
	}
	// 1923, 1955, 1987, 2019 with a name of 20 bytes (measured in November 2026).
	for n := range lengths {
		if n += 20 - len(r.site.name); n != 1923 && n != 1955 && n != 1987 && n != 2019 {
			t.Errorf("ClientHello of %d bytes", n)
		}
	}
	if len(lengths) < 2 {
		t.Error("the ECH payload has always the same length")
	}
}
