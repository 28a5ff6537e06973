package front

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net/netip"
	"strings"
	"testing"

	"busel/internal/flow"
)

// append encodes the request as it came, without the version byte.
func (r socks4Request) append(b []byte) []byte {
	b = append(b, r.command)
	b = binary.BigEndian.AppendUint16(b, r.port)
	b = append(b, r.ip[:]...)
	b = append(append(b, r.user...), 0)
	if r.named() {
		b = append(append(b, r.name...), 0)
	}
	return b
}

func TestParseSOCKS4(t *testing.T) {
	long := strings.Repeat("n", maxSOCKS4Text)
	for _, tt := range []struct {
		in   string
		dst  flow.Addr // none: no valid destination
		rest int
	}{
		{"\x01\x00\x50\xc0\x00\x02\x01\x00", flow.Addr{IP: netip.MustParseAddr("192.0.2.1"), Port: 80}, 0},
		{"\x01\x00\x50\xc0\x00\x02\x01me\x00early", flow.Addr{IP: netip.MustParseAddr("192.0.2.1"), Port: 80}, 5},
		{"\x01\x00\x50\x00\x00\x00\x00\x00a\x00", flow.Addr{IP: netip.MustParseAddr("0.0.0.0"), Port: 80}, 2}, // no mark of 4a
		{"\x01\x00\x50\x00\x00\x01\x01\x00a\x00", flow.Addr{IP: netip.MustParseAddr("0.0.1.1"), Port: 80}, 2}, // nor this
		{"\x01\x01\xbb\x00\x00\x00\x01\x00site.example\x00", flow.Addr{Name: "site.example", Port: 443}, 0},
		{"\x01\x01\xbb\x00\x00\x00\xff\x00site.example\x00\x00", flow.Addr{Name: "site.example", Port: 443}, 1},
		{"\x01\x01\xbb\x00\x00\x00\x01\x00192.0.2.1\x00", flow.Addr{IP: netip.MustParseAddr("192.0.2.1"), Port: 443}, 0},
		{"\x01\x01\xbb\x00\x00\x00\x01" + long + "\x00" + long + "\x00", flow.Addr{Name: long, Port: 443}, 0},
		{"\x01\x01\xbb\x00\x00\x00\x01\x00\x00", flow.Addr{}, 0},
		{"\x01\x01\xbb\x00\x00\x00\x01\x00a b\x00", flow.Addr{}, 0},
	} {
		req, n, err := parseSOCKS4([]byte(tt.in))
		if err != nil || n != len(tt.in)-tt.rest {
			t.Errorf("%q: %d, %v", tt.in, n, err)
			continue
		}
		if dst, err := req.destination(); dst != tt.dst || (err == nil) != dst.IsValid() {
			t.Errorf("%q goes to %v, %v", tt.in, dst, err)
		}
		for i := range n {
			if _, _, err := parseSOCKS4([]byte(tt.in[:i])); !errors.Is(err, errShortSOCKS4) {
				t.Errorf("%q: %v", tt.in[:i], err)
			}
		}
	}
	for _, in := range []string{
		"\x01\x01\xbb\xc0\x00\x02\x01" + long + "u",
		"\x01\x01\xbb\xc0\x00\x02\x01" + long + "u\x00",
		"\x01\x01\xbb\x00\x00\x00\x01\x00" + long + "n",
	} {
		if _, n, err := parseSOCKS4([]byte(in)); !errors.Is(err, errBadSOCKS4) || n != 0 {
			t.Errorf("%q: %d, %v", in, n, err)
		}
	}
}

// FuzzParseSOCKS4: what parses encodes to the same bytes; a request that fills
// the reader's buffer is never "cut short".
func FuzzParseSOCKS4(f *testing.F) {
	for _, s := range []string{
		"\x01\x00\x50\xc0\x00\x02\x01me\x00early", "\x01\x01\xbb\x00\x00\x00\x01\x00site.example\x00", "\x02\x00\x00\x00\x00\x00\x00\x00", "\x01",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		req, n, err := parseSOCKS4(b)
		switch {
		case err == nil && !bytes.Equal(req.append(nil), b[:n]):
			t.Fatalf("%x encodes to %x", b[:n], req.append(nil))
		case err != nil && (n != 0 || req != socks4Request{}):
			t.Fatalf("%+v, %d with %v", req, n, err)
		case errors.Is(err, errShortSOCKS4) && len(b) >= maxSOCKS4:
			t.Fatalf("%x is cut short", b)
		}
	})
}

// FuzzSOCKS4: what a well-formed request asks for is opened and the bytes behind
// it arrive as they are; nothing else is opened; every answer is a reply.
func FuzzSOCKS4(f *testing.F) {
	for _, s := range []string{
		"\x04\x01\x00\x50\xc0\x00\x02\x01me\x00early", "\x04\x01\x01\xbb\x00\x00\x00\x01\x00site.example\x00\x16\x03\x01",
		"\x04\x02\x00\x50\xc0\x00\x02\x01\x00", "\x04\x01", "\x04\x01\x01\xbb\x00\x00\x00\x01\x00a b\x00",
	} {
		f.Add([]byte(s))
	}
	rec := &recorder{}
	proxy := run(f, Config{Opener: rec}, nil)
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) == 0 || len(b) > 4096 {
			return
		}
		b[0] = socksVersion4
		var dst flow.Addr
		req, n, err := parseSOCKS4(b[1:])
		if err == nil {
			dst, err = req.destination()
		}
		ok := err == nil && req.command == socks4Connect
		if ok && proxy.isOwn(dst) {
			return
		}
		proxy.reached.forget(dst)
		got := talk(t, proxy, b)
		opened, data := rec.take()
		if !ok {
			if len(opened) != 0 || len(data) != 0 || got != "" && got != "\x00\x5b\x00\x00\x00\x00\x00\x00" {
				t.Errorf("%x opened %v with %x, and was answered %x", b, opened, data, got)
			}
			return
		}
		if len(opened) != 1 || opened[0] != dst || !bytes.Equal(data, b[1+n:]) || got != "\x00\x5a\x00\x00\x00\x00\x00\x00" {
			t.Errorf("%x opened %v with %x, want %v with %x; answered %x", b, opened, data, dst, b[1+n:], got)
		}
	})
}
