package flow_test

import (
	"bytes"
	"encoding/hex"
	"errors"
	"net/netip"
	"strings"
	"testing"

	"busel/internal/flow"
)

func ip(s string) netip.Addr { return netip.MustParseAddr(s) }

var addrs = []struct {
	addr flow.Addr
	hex  string
	text string
}{
	{flow.Addr{IP: ip("192.0.2.1"), Port: 443}, "01c000020101bb", "192.0.2.1:443"},
	{flow.Addr{IP: ip("0.0.0.0")}, "01000000000000", "0.0.0.0:0"},
	{flow.Addr{IP: ip("255.255.255.255"), Port: 65535}, "01ffffffffffff", "255.255.255.255:65535"},
	{flow.Addr{IP: ip("2001:db8::53"), Port: 53}, "0420010db80000000000000000000000530035", "[2001:db8::53]:53"},
	{flow.Addr{IP: ip("::"), Port: 1}, "04000000000000000000000000000000000001", "[::]:1"},
	{flow.Addr{Name: "a", Port: 80}, "0301610050", "a:80"},
	{flow.Addr{Name: "example.org", Port: 443}, "030b6578616d706c652e6f726701bb", "example.org:443"},
	{flow.Addr{Name: "192.0.2.1", Port: 1}, "03093139322e302e322e310001", "192.0.2.1:1"},
	{flow.Addr{Name: "\xd0\xbf", Port: 80}, "0302d0bf0050", "\xd0\xbf:80"},
	{flow.Addr{Name: strings.Repeat("n", 255), Port: 2}, "03ff" + strings.Repeat("6e", 255) + "0002", strings.Repeat("n", 255) + ":2"},
}

func TestAddr(t *testing.T) {
	for _, tt := range addrs {
		want, err := hex.DecodeString(tt.hex)
		if err != nil {
			t.Fatal(err)
		}
		if got := tt.addr.Append([]byte("x")); !bytes.Equal(got[1:], want) || len(want) > flow.MaxAddrLen {
			t.Errorf("%v is %x, want %x", tt.addr, got[1:], want)
		}
		got, n, err := flow.ParseAddr(append(want, 0xff))
		if got != tt.addr || n != len(want) || err != nil {
			t.Errorf("%x is %v, %d, %v", want, got, n, err)
		}
		for i := range want {
			if a, n, err := flow.ParseAddr(want[:i]); err != flow.ErrShortAddr || n != 0 || a != (flow.Addr{}) {
				t.Errorf("%x: %v, %d, %v", want[:i], a, n, err)
			}
		}
		if got := tt.addr.String(); got != tt.text {
			t.Errorf("%x reads %q, want %q", want, got, tt.text)
		}
		if !tt.addr.IsValid() || tt.addr.Network() != "busel" {
			t.Errorf("%v is not valid", tt.addr)
		}
	}
}

func TestParseAddrRefuses(t *testing.T) {
	for _, in := range []string{
		"00", "02c000020101bb", "05", "ff", // types
		"0300" + "0050",          // empty name
		"0302" + "6100" + "0050", // NUL, line feed, blank, DEL
		"0302" + "610a" + "0050",
		"0302" + "6120" + "0050",
		"0302" + "617f" + "0050",
		"0400000000000000000000ffffc000020101bb", // ::ffff:192.0.2.1
	} {
		b, err := hex.DecodeString(in)
		if err != nil {
			t.Fatal(err)
		}
		if a, n, err := flow.ParseAddr(b); !errors.Is(err, flow.ErrBadAddr) || n != 0 || a != (flow.Addr{}) {
			t.Errorf("%s: %v, %d, %v", in, a, n, err)
		}
	}
}

// What is no address appends one that no relay dials; what only hides an
// address is unwrapped.
func TestAppendOddAddr(t *testing.T) {
	for _, tt := range []struct {
		addr flow.Addr
		want flow.Addr
	}{
		{flow.Addr{}, flow.Addr{IP: ip("0.0.0.0")}},
		{flow.Addr{Port: 9}, flow.Addr{IP: ip("0.0.0.0"), Port: 9}},
		{flow.Addr{Name: strings.Repeat("n", 256), Port: 9}, flow.Addr{IP: ip("0.0.0.0"), Port: 9}},
		{flow.Addr{Name: "a b", Port: 9}, flow.Addr{IP: ip("0.0.0.0"), Port: 9}},
		{flow.Addr{Name: "a", IP: ip("::1"), Port: 9}, flow.Addr{IP: ip("0.0.0.0"), Port: 9}},
		{flow.Addr{IP: ip("::ffff:192.0.2.1"), Port: 9}, flow.Addr{IP: ip("192.0.2.1"), Port: 9}},
		{flow.Addr{IP: ip("fe80::1%eth0"), Port: 9}, flow.Addr{IP: ip("fe80::1"), Port: 9}},
	} {
		b := tt.addr.Append(nil)
		if got, n, err := flow.ParseAddr(b); got != tt.want || n != len(b) || err != nil {
			t.Errorf("%+v parses to %v, %d, %v", tt.addr, got, n, err)
		}
	}
}

func TestSplitHostPort(t *testing.T) {
	for _, tt := range []struct {
		in   string
		want flow.Addr
	}{
		{"example.org:443", flow.Addr{Name: "example.org", Port: 443}},
		{"EXAMPLE.org.:0", flow.Addr{Name: "EXAMPLE.org.", Port: 0}},
		{"192.0.2.1:65535", flow.Addr{IP: ip("192.0.2.1"), Port: 65535}},
		{"[2001:db8::1]:80", flow.Addr{IP: ip("2001:db8::1"), Port: 80}},
		{"[::ffff:192.0.2.1]:80", flow.Addr{IP: ip("192.0.2.1"), Port: 80}},
		{"[fe80::1%eth0]:80", flow.Addr{IP: ip("fe80::1"), Port: 80}},
		{strings.Repeat("n", 255) + ":1", flow.Addr{Name: strings.Repeat("n", 255), Port: 1}},
	} {
		if got, err := flow.SplitHostPort(tt.in); got != tt.want || err != nil {
			t.Errorf("%q is %v, %v", tt.in, got, err)
		}
	}
	for _, in := range []string{
		"", "example.org", ":80", "example.org:", "example.org:65536", "example.org:-1", "example.org:+1", "example.org:http",
		"2001:db8::1:80", "a b:80", "a\x00b:80", "a\nb:80", strings.Repeat("n", 256) + ":1", "[::1]", "[::1]80",
	} {
		if got, err := flow.SplitHostPort(in); !errors.Is(err, flow.ErrBadAddr) || got != (flow.Addr{}) {
			t.Errorf("%q is %v, %v", in, got, err)
		}
	}
}

func TestAddrFromUnmaps(t *testing.T) {
	got := flow.AddrFrom(netip.MustParseAddrPort("[::ffff:192.0.2.1]:7"))
	if want := (flow.Addr{IP: ip("192.0.2.1"), Port: 7}); got != want {
		t.Errorf("%v", got)
	}
}

func TestDetailStrings(t *testing.T) {
	seen := map[string]bool{}
	for d := range flow.Detail(9) {
		if s := d.String(); s == "" || seen[s] {
			t.Errorf("detail %d is %q", uint8(d), s)
		}
		seen[d.String()] = true
	}
	cause := errors.New("why")
	err := &flow.OpenError{Code: flow.ConnectionRefused, Detail: flow.DetailRefused, Err: cause}
	if !errors.Is(err, cause) || err.Error() != "destination refused the connection: why" {
		t.Errorf("%v", err)
	}
	if err.Err = nil; err.Error() != "destination refused the connection" || err.Unwrap() != nil {
		t.Errorf("%v", err)
	}
}

// Whatever parses encodes to the same bytes, and is valid.
func FuzzParseAddr(f *testing.F) {
	for _, tt := range addrs {
		b, err := hex.DecodeString(tt.hex)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
		f.Add(b[:len(b)-1])
	}
	f.Add([]byte{4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 1, 2, 3, 4, 0, 80})
	f.Add([]byte{3, 2, 'a', 0, 0, 80})
	f.Fuzz(func(t *testing.T, b []byte) {
		a, n, err := flow.ParseAddr(b)
		if err != nil {
			if n != 0 || a != (flow.Addr{}) {
				t.Fatalf("%v, %d with error %v", a, n, err)
			}
			return
		}
		if !a.IsValid() || n > flow.MaxAddrLen {
			t.Fatalf("%v of %d bytes is not valid", a, n)
		}
		if got := a.Append(nil); !bytes.Equal(got, b[:n]) {
			t.Fatalf("%x encodes to %x", b[:n], got)
		}
	})
}
