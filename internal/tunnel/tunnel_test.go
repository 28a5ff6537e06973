package tunnel

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"busel/config"
	"busel/internal/flow"
)

// Routes are in the order of the invite; what this version lacks is left out.
func TestRoutes(t *testing.T) {
	e := &config.RelayEntry{
		Addresses: []flow.Addr{{IP: netip.MustParseAddr("198.51.100.7"), Port: 443}, {Name: "relay.example.net", Port: 8443}},
		Transports: []config.Transport{
			{Name: "quic", Options: "port=999"}, {Name: "pigeon"}, {Name: "mirror"}, {Name: "quic", Options: "form=later"}, {Name: "quic"},
			{Name: "mirror", Options: "fragment=later"}, {Name: "mirror", Options: "fragment=both"},
		},
	}
	var got []string
	for _, r := range routesTo("r1", e) {
		got = append(got, strings.Join([]string{r.Relay, r.Transport, r.Address, r.Options}, " "))
	}
	want := []string{
		"r1 quic 198.51.100.7:443 port=999", "r1 quic relay.example.net:8443 port=999",
		"r1 mirror 198.51.100.7:443 ", "r1 mirror relay.example.net:8443 ",
		"r1 quic 198.51.100.7:443 ", "r1 quic relay.example.net:8443 ",
		"r1 mirror 198.51.100.7:443 fragment=both", "r1 mirror relay.example.net:8443 fragment=both",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}
