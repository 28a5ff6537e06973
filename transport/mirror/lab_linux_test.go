package mirror

import (
	"context"
	"io/fs"
	"math/rand/v2"
	"net"
	"net/netip"
	"testing"
	"time"

	"busel/internal/nginxtest"
	"busel/scripts/lab/censor"
	"busel/scripts/lab/censor/rule"
	"busel/scripts/lab/netns"
	"busel/scripts/lab/rules"
	"busel/scripts/lab/world"
	"busel/transport"
)

// inside is the network of the lab's client.
type inside struct{ *netns.Namespace }

func (n inside) DialContext(ctx context.Context, network, addr string) (net.Conn, error) {
	return n.Dial(ctx, network, addr)
}

// TestFragmentsInTheLab sends each hello through the lab's censor, which resets
// connections by the name of the cover: one that puts TCP segments together and
// not TLS records, one that does neither and one that does both.
func TestFragmentsInTheLab(t *testing.T) {
	if err := netns.Available(); err != nil {
		t.Skip(err)
	}
	if err := nginxtest.Available(); err != nil {
		t.Skip(err)
	}
	for _, tt := range []struct {
		rules  string
		passes map[string]bool // by option
	}{
		{"s1-rst-gfw", map[string]bool{"fragment=records": true, "fragment=both": true}},
		{"s1-rst-henan", map[string]bool{"fragment=records": true, "fragment=segments": true, "fragment=both": true}},
		{"s1-rst-reassemble", nil},
	} {
		for _, options := range append([]string{""}, fragments...) {
			t.Run(tt.rules+" "+options, func(t *testing.T) {
				t.Parallel()
				judge := newJudge(t, tt.rules)
				dial := labRelay(t, judge)
				// Several, as each hello is cut in other places, and an uncut one is two
				// segments, of which either may have the name.
				for tries := range 20 {
					switch err := dial(options); {
					case err != nil && tt.passes[options]:
						t.Fatalf("it does not pass: %v", err)
					case err != nil:
						if e := dialFailure(t, err); e.Failure != transport.Reset || e.Stage != transport.StageTLS {
							t.Fatalf("the censor did not bite: %v", err)
						}
						return // it may be held against us from now on
					case !tt.passes[options] && tries == 19:
						t.Fatal("the censor did not bite")
					}
				}
				for _, c := range judge.Counts() {
					if c.Injected != 0 {
						t.Errorf("rule %s bit %d times", c.Rule, c.Injected)
					}
				}
			})
		}
	}
}

func newJudge(t *testing.T, name string) *rule.Set {
	t.Helper()
	text, err := fs.ReadFile(rules.Files, name+".toml")
	if err != nil {
		t.Fatal(err)
	}
	f, err := rule.Parse(name, text)
	if err != nil {
		t.Fatal(err)
	}
	return rule.NewSet(rand.New(rand.NewPCG(rand.Uint64(), 0)), f)
}

// labRelay puts a relay in front of nginx behind a censor, and returns a function
// that makes and uses a carrier through it.
func labRelay(t *testing.T, judge censor.Judge) (dial func(options string) error) {
	t.Helper()
	relayIP, resolver := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("198.51.100.53")
	link := censor.Link{Delay: 10 * time.Millisecond}
	w, err := world.New(world.Config{
		Abroad: []netip.Addr{relayIP, resolver}, Resolver: resolver, Up: link, Down: link, Judge: judge, Seed: 1,
	})
	if err != nil {
		t.Fatal(err)
	}
	// Henan's acts on TCP headers of 20 bytes only: those of systems without
	// timestamps, as Windows.
	if err := w.Client.SetSysctl("net/ipv4/tcp_timestamps", "0"); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- w.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("the world ended with %v", err)
		}
	})
	s, err := nginxtest.Start(ctx, nginxtest.Config{
		Host: w.Abroad, Parent: w.Dir, Name: "listed.example", Address: netip.AddrPortFrom(relayIP, 8443).String(),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	listen := func(ctx context.Context, addr string) (net.Listener, error) { return w.Abroad.Listen(ctx, "tcp", addr) }
	r := startRelayAt(t, &site{addr: s.Address, name: s.Name, roots: s.Roots}, netip.AddrPortFrom(relayIP, 443).String(), listen,
		func(c *ListenerConfig) { c.Network = inside{w.Abroad} })
	d := r.dialer(t, func(c *DialerConfig) { c.Network = inside{w.Client} })
	return func(options string) error {
		carriers, _ := r.answer(t, okAccept())
		c, _, err := d.Dial(testContext(t), r.routeWith(options), testHello())
		if err != nil {
			return err
		}
		defer c.Close()
		e := <-carriers
		defer e.Close()
		send(t, c, e, 1)
		send(t, e, c, 2)
		return nil
	}
}
