package config

import (
	"errors"
	"net/netip"
	"strings"
	"testing"
)

func TestSizesAndRates(t *testing.T) {
	for text, want := range map[string]Size{
		"": 0, "1B": 1, "500GB": 500e9, "1.5TB": 1.5e12, "800 MB": 800e6, "3kb": 3000, "0.001kB": 1, "1000000TB": MaxSize,
	} {
		got, err := ParseSize(text)
		if err != nil || got != want {
			t.Errorf("%q: %d, %v, want %d", text, got, err, want)
		}
		if back, err := ParseSize(got.String()); err != nil || back != got {
			t.Errorf("%q became %q", text, got)
		}
	}
	for text, want := range map[string]Rate{
		"": 0, "50Mbit": 50e6, "1.5gbit": 1.5e9, "64 kbit": MinRate, "64001bit": 64001, "1000Gbit": MaxRate,
	} {
		got, err := ParseRate(text)
		if err != nil || got != want {
			t.Errorf("%q: %d, %v, want %d", text, got, err, want)
		}
		if back, err := ParseRate(got.String()); err != nil || back != got {
			t.Errorf("%q became %q", text, got)
		}
	}
	for _, text := range []string{"0", "5", "B", "GB", "-1GB", "0GB", "1e3GB", "InfGB", "NaNGB", "0x1GB", "1  GB", "1.2.3GB", "1000001TB", "10GiB", "50Mbit", " 1GB"} {
		if got, err := ParseSize(text); err == nil {
			t.Errorf("size %q is %d", text, got)
		}
	}
	for _, text := range []string{"50", "50MB", "63kbit", "0bit", "1001Gbit", "bit"} {
		if got, err := ParseRate(text); err == nil {
			t.Errorf("rate %q is %d", text, got)
		}
	}
}

// TestExit reads [exit] beside what a relay needs.
func TestExit(t *testing.T) {
	parse := func(exit string) (Relay, error) {
		return ParseRelay("f", []byte("[relay]\naddress = \"198.51.100.7:443\"\ncover = \"builtin\"\ncover-name = \"a.example\"\n[exit]\n"+exit))
	}
	r, err := parse(`source = ["198.51.100.8", "2001:db8::8"]`)
	if err != nil || len(r.Exit.Source) != 2 || r.Exit.Source[1] != netip.MustParseAddr("2001:db8::8") || r.Exit.Web || r.Exit.Names != nil {
		t.Errorf("%+v, %v", r.Exit, err)
	}
	for _, test := range []struct{ text, want string }{
		{`only = "Web"`, `"Web" is no preset`},
		{`only = ""`, `"" is no preset`},
		{`names = ["Example.org"]`, `"Example.org" is no host name`},
		{`names = ["example.org:443"]`, `is no host name`},
		{`names = ["192.0.2.1"]`, `"192.0.2.1" is no host name`},
		{`names = ["*.*.example.org"]`, `is no host name`},
		{`names = ["a` + strings.Repeat(`", "a`, maxNames) + `"]`, `has 1001 names`},
		{`source = ["198.51.100.8", "198.51.100.9"]`, `"198.51.100.9" is the second of its family`},
		{`source = ["0.0.0.0"]`, `"0.0.0.0" is no address of a machine`},
		{`source = ["fe80::1%eth0"]`, `is no address of a machine`},
		{`source = ["eth0"]`, `"eth0" is no address`},
		{`relay = "busel:ABC"`, `exit.relay: `},
		{`relay = "` + strings.Repeat("busel:AH6FYY7X", 1000) + `"`, `exit.relay: `},
	} {
		_, err := parse(test.text)
		faults, _ := errors.AsType[Errors](err)
		if len(faults) != 1 || !strings.Contains(faults[0].Error(), test.want) || faults[0].Hint == "" || faults[0].Line != 6 {
			t.Errorf("%.60s: %v, want %q", test.text, err, test.want)
		}
	}
	// An invite is a secret: no message quotes it, a damaged file's neither.
	for _, text := range []string{`relay = "busel:SECRET"`, `relay = busel:SECRET`, `relay = ["busel:SECRET"]`} {
		if _, err := parse(text); err == nil || strings.Contains(err.Error(), "SECRET") {
			t.Errorf("%s: %v", text, err)
		}
	}
}
