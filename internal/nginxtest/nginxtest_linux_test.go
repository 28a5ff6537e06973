package nginxtest_test

import (
	"context"
	"crypto/tls"
	"net/netip"
	"path/filepath"
	"testing"

	"busel/internal/nginxtest"
	"busel/scripts/lab/netns"
)

var _ nginxtest.Host = (*netns.Namespace)(nil)

// nginx serves inside a namespace, on the ports and addresses of a real site.
func TestHost(t *testing.T) {
	if err := netns.Available(); err != nil {
		t.Skip(err)
	}
	n, err := netns.New()
	if err != nil {
		t.Fatal(err)
	}
	defer n.Close()
	if err := n.AddAddresses("lo", netip.MustParsePrefix("192.0.2.20/32"), netip.MustParsePrefix("2001:db8:a::20/128")); err != nil {
		t.Fatal(err)
	}
	parent := t.TempDir()
	s := nginxtest.Run(t, nginxtest.Config{
		Host: n, Parent: parent,
		Address: "192.0.2.20:443", Also: []string{"[2001:db8:a::20]:443"}, Plain: "192.0.2.20:80",
	})
	if filepath.Dir(s.Dir) != parent || s.Address != "192.0.2.20:443" || s.Plain != "192.0.2.20:80" {
		t.Errorf("%+v", s)
	}
	for _, address := range []string{s.Address, "[2001:db8:a::20]:443"} {
		raw, err := n.Dial(context.Background(), "tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		c := tls.Client(raw, s.ClientConfig())
		if err := c.Handshake(); err != nil {
			t.Errorf("%s: %v", address, err)
		}
		c.Close()
	}
}
