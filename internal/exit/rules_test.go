package exit

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"busel/internal/flow"
)

// both is a network of which everything that leaves is noted.
type both struct {
	mu   sync.Mutex
	left []string
}

func (n *both) note(what string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.left = append(n.left, what)
}

func (n *both) took() []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	took := n.left
	n.left = nil
	return took
}

func (n *both) DialContext(_ context.Context, network, addr string) (net.Conn, error) {
	n.note(network + " " + addr)
	return &fakeConn{closed: func() {}}, nil
}

func (n *both) ListenPacket(context.Context, string, string) (net.PacketConn, error) {
	return notedWire{newFakeWire(), n}, nil
}

type notedWire struct {
	*fakeWire
	n *both
}

func (w notedWire) WriteTo(b []byte, to net.Addr) (int, error) {
	w.n.note("udp " + to.String())
	return len(b), nil
}

// resolve is a Resolver.
type resolve func(network, name string) []netip.Addr

func (r resolve) LookupNetIP(_ context.Context, network, name string) ([]netip.Addr, error) {
	if addrs := r(network, name); len(addrs) > 0 {
		return addrs, nil
	}
	return nil, noSuchHost
}

// hidings are all the ways to write an IPv4 address into an IPv6 one.
func hidings(v4 netip.Addr) map[string]netip.Addr {
	a := v4.As4()
	public := [4]byte{8, 8, 8, 8}
	put := func(prefix string, at int, bytes ...byte) netip.Addr {
		b := netip.MustParseAddr(prefix).As16()
		copy(b[at:], bytes)
		return netip.AddrFrom16(b)
	}
	teredo := func(server, client [4]byte) netip.Addr {
		return put("2001::", 4, append(append(server[:], 0, 0, 0, 0), client[0]^0xff, client[1]^0xff, client[2]^0xff, client[3]^0xff)...)
	}
	return map[string]netip.Addr{
		"mapped":        put("::ffff:0:0", 12, a[:]...),
		"compatible":    put("::", 12, a[:]...),
		"NAT64":         put("64:ff9b::", 12, a[:]...),
		"local NAT64":   put("64:ff9b:1::", 12, a[:]...),
		"6to4":          put("2002::1", 2, a[:]...),
		"Teredo client": teredo(public, a),
		"Teredo server": teredo(a, public),
		"ISATAP":        put("2a00:1450::5efe:0:0", 12, a[:]...),
	}
}

// TestEveryRule asks each rule for what it denies: by its address, by an IPv6 address
// that hides it, and by names that resolve to either; over TCP, and by datagrams.
// Every answer is "not allowed", and nothing leaves.
func TestEveryRule(t *testing.T) {
	const port = 443
	rules := []struct {
		name string
		cfg  Config
		v4   string
		port uint16
	}{
		{"loopback", Config{}, "127.0.0.1", port},
		{"private", Config{}, "10.0.0.1", port},
		{"private 172", Config{}, "172.16.0.1", port},
		{"private 192", Config{}, "192.168.0.1", port},
		{"link-local", Config{}, "169.254.1.1", port},
		{"CGNAT", Config{}, "100.64.0.1", port},
		{"multicast", Config{}, "224.0.0.1", port},
		{"reserved", Config{}, "240.0.0.1", port},
		{"this network", Config{}, "0.0.0.0", port},
		{"metadata", Config{}, "169.254.169.254", port},
		{"metadata at a public address", Config{}, "168.63.129.16", port},
		{"own", Config{Own: []netip.Addr{netip.MustParseAddr("9.9.9.9")}}, "9.9.9.9", port},
		{"cover", Config{Cover: []netip.AddrPort{netip.MustParseAddrPort("9.9.9.9:443")}}, "9.9.9.9", port},
		{"deny", Config{Deny: prefixes(t, "9.9.9.0/24")}, "9.9.9.9", port},
		{"deny before allow", Config{Deny: prefixes(t, "9.9.9.0/24"), Allow: prefixes(t, "0.0.0.0/0", "::/0")}, "9.9.9.9", port},
		{"mail", Config{}, "9.9.9.9", 25},
		{"web", Config{Web: true}, "9.9.9.9", 8443},
		{"web before allow", Config{Web: true, Allow: prefixes(t, "0.0.0.0/0", "::/0")}, "9.9.9.9", 22},
		{"names", Config{Names: []string{"example.org"}}, "9.9.9.9", port},
		{"names before allow", Config{Names: []string{"example.org"}, Allow: prefixes(t, "9.9.9.9/32")}, "9.9.9.9", port},
	}
	for _, rule := range rules {
		for _, next := range []bool{false, true} {
			synctest.Test(t, func(t *testing.T) {
				v4 := netip.MustParseAddr(rule.v4)
				n := &both{}
				cfg := rule.cfg
				cfg.Network = n
				byName := map[string]netip.Addr{"four.test.": v4}
				literals := []flow.Addr{{IP: v4, Port: rule.port}, {Name: rule.v4, Port: rule.port}}
				i := 0
				for _, hidden := range hidings(v4) {
					byName[fmt.Sprintf("six-%d.test.", i)] = hidden
					literals = append(literals, flow.Addr{IP: hidden, Port: rule.port}, flow.Addr{Name: hidden.String(), Port: rule.port},
						// Spelt as nobody does: with a zone, and in full.
						flow.Addr{IP: hidden.WithZone("eth0"), Port: rule.port},
						flow.Addr{Name: hidden.WithZone("1").String(), Port: rule.port},
						flow.Addr{Name: strings.ToUpper(hidden.StringExpanded()), Port: rule.port})
					i++
				}
				cfg.Resolver = resolve(func(network, name string) []netip.Addr {
					if a, ok := byName[name]; ok && (network == "ip4") == a.Is4() {
						return []netip.Addr{a}
					}
					return nil
				})
				asked := literals
				for name := range byName {
					dst := flow.Addr{Name: name[:len(name)-1], Port: rule.port}
					// The next relay looks names up, and has its own rules for what they are.
					if !next || rule.port == 25 || cfg.Web || cfg.Names != nil {
						asked = append(asked, dst)
					}
				}
				e := New(cfg)
				if next {
					e.next = noting{n}
				}
				for _, dst := range asked {
					s, err := e.OpenStream(t.Context(), dst)
					open, ok := errors.AsType[*flow.OpenError](err)
					if !ok || open.Code != flow.NotAllowed || open.Detail != flow.DetailPolicy {
						t.Errorf("%s, next %t: TCP to %v: %v", rule.name, next, dst, err)
					}
					if s != nil {
						s.Close()
					}
				}
				p, err := e.OpenPackets(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				defer p.Close()
				for _, dst := range asked {
					for range 2 { // the second time the name is known
						denied := e.Stats().Denied
						err := p.WriteTo([]byte("x"), dst)
						open, ok := errors.AsType[*flow.OpenError](err)
						if err != nil && (!ok || open.Code != flow.NotAllowed || open.Detail != flow.DetailPolicy) {
							t.Errorf("%s, next %t: UDP to %v: %v", rule.name, next, dst, err)
						}
						synctest.Wait() // for the name
						if n := e.Stats().Denied; n != denied+1 {
							t.Errorf("%s, next %t: UDP to %v: denied %d times", rule.name, next, dst, n-denied)
						}
					}
				}
				if left := n.took(); len(left) > 0 {
					t.Errorf("%s, next %t: %v left the relay", rule.name, next, left)
				}
			})
		}
	}
}

// What the narrow presets let through does pass.
func TestPresetsPermit(t *testing.T) {
	names := []string{"example.org", "news.example.net"}
	for _, tt := range []struct {
		cfg  Config
		dst  string
		port uint16
		tcp  bool
		udp  bool
	}{
		{Config{Web: true}, "8.8.8.8", 80, true, false},
		{Config{Web: true}, "8.8.8.8", 443, true, true},
		{Config{Web: true}, "any.test", 443, true, true},
		{Config{Web: true}, "8.8.8.8", 53, false, false},
		{Config{Names: names}, "example.org", 22, true, true},
		{Config{Names: names}, "EXAMPLE.org.", 443, true, true},
		{Config{Names: names}, "a.b.example.org", 443, true, true},
		{Config{Names: names}, "badexample.org", 443, false, false},
		{Config{Names: names}, "example.org.test", 443, false, false},
		{Config{Names: names}, "org", 443, false, false},
		{Config{Names: names}, "example.net", 443, false, false},
		{Config{Names: names}, "news.example.net", 443, true, true},
		{Config{Names: names, Web: true}, "example.org", 22, false, false},
		{Config{Names: names, Web: true}, "example.org", 80, true, false},
		{Config{Names: names}, "example.org", 25, false, false},
	} {
		for _, next := range []bool{false, true} {
			synctest.Test(t, func(t *testing.T) {
				n := &both{}
				tt.cfg.Network = n
				tt.cfg.Resolver = resolve(func(network, _ string) []netip.Addr {
					if network == "ip4" {
						return []netip.Addr{netip.MustParseAddr(v4a)}
					}
					return nil
				})
				if next {
					tt.cfg.Next = noting{n}
				}
				e := New(tt.cfg)
				if s, err := e.OpenStream(t.Context(), to(tt.dst, tt.port)); (err == nil) != tt.tcp {
					t.Errorf("TCP to %s:%d, next %t: %v", tt.dst, tt.port, next, err)
				} else if err == nil {
					s.Close()
				}
				n.took()
				p, err := e.OpenPackets(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				defer p.Close()
				p.WriteTo([]byte("x"), to(tt.dst, tt.port))
				synctest.Wait()
				if left := n.took(); (len(left) == 1) != tt.udp {
					t.Errorf("UDP to %s:%d, next %t: %v left", tt.dst, tt.port, next, left)
				}
			})
		}
	}
}

// A name that changes its address between question and answer, or is both at once,
// leads nowhere but to what was judged.
func TestRebinding(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &both{}
		questions := 0
		e := New(Config{Network: n, Resolver: resolve(func(network, _ string) []netip.Addr {
			if network == "ip6" {
				return nil
			}
			questions++
			inside, public := netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr(v4a)
			switch questions {
			case 1:
				return []netip.Addr{public}
			case 3:
				return []netip.Addr{inside, public, inside}
			}
			return []netip.Addr{inside}
		})})
		p, err := e.OpenPackets(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		defer p.Close()
		dst := to("rebind.test", 80)
		for round, permitted := range []bool{true, false, true, false} {
			want := []string{"tcp " + v4a + ":80", "udp " + v4a + ":80", "udp " + v4a + ":80"}
			if !permitted {
				want = nil
			}
			s, err := e.OpenStream(t.Context(), dst)
			open, _ := errors.AsType[*flow.OpenError](err)
			if permitted != (err == nil) || err != nil && (open == nil || open.Code != flow.NotAllowed || open.Detail != flow.DetailPolicy) {
				t.Errorf("round %d: %v", round, err)
			}
			if err == nil {
				s.Close()
			}
			for range 2 {
				if err := p.WriteTo([]byte("x"), dst); permitted != (err == nil) {
					t.Errorf("round %d: a datagram: %v", round, err)
				}
			}
			synctest.Wait()
			if left := n.took(); !slices.Equal(left, want) {
				t.Errorf("round %d: %v left, want %v", round, left, want)
			}
			if questions != round+1 {
				t.Errorf("round %d: %d questions: who asks twice may get two answers", round, questions)
			}
			time.Sleep(nameTTL + time.Second)
		}
	})
}

// noting is a next relay that takes everything.
type noting struct{ n *both }

func (o noting) OpenStream(_ context.Context, dst flow.Addr) (flow.Stream, error) {
	o.n.note("next tcp " + dst.String())
	s, _ := newStream(&fakeConn{closed: func() {}}, func() {})
	return s, nil
}

func (o noting) OpenPackets(context.Context) (flow.Packets, error) { return notingPackets(o), nil }

type notingPackets struct{ n *both }

func (p notingPackets) ReadFrom([]byte) (int, flow.Addr, error) {
	return 0, flow.Addr{}, net.ErrClosed
}

func (p notingPackets) WriteTo(_ []byte, to flow.Addr) error {
	p.n.note("next udp " + to.String())
	return nil
}

func (p notingPackets) Close() error { return nil }

// failing is a next relay that fails as it is told, at once or when it is waited for.
type failing struct {
	err   error
	later bool
}

func (f failing) OpenStream(context.Context, flow.Addr) (flow.Stream, error) {
	if f.later {
		s, _ := newStream(&fakeConn{closed: func() {}}, func() {})
		return unconnected{s, f.err}, nil
	}
	return nil, f.err
}

func (f failing) OpenPackets(context.Context) (flow.Packets, error) { return nil, f.err }

type unconnected struct {
	flow.Stream
	err error
}

func (u unconnected) Connected(context.Context) error { return u.err }

// What goes wrong at the next relay is told, unless it is between the two relays.
func TestNextFails(t *testing.T) {
	open := func(c flow.Code, d flow.Detail) error { return &flow.OpenError{Code: c, Detail: d} }
	for _, tt := range []struct {
		err    error
		code   flow.Code
		detail flow.Detail
	}{
		{open(flow.ConnectionRefused, flow.DetailRefused), flow.ConnectionRefused, flow.DetailRefused},
		{open(flow.NotAllowed, flow.DetailPolicy), flow.NotAllowed, flow.DetailPolicy},
		{open(flow.HostUnreachable, flow.DetailNameNotFound), flow.HostUnreachable, flow.DetailNameNotFound},
		{open(flow.TTLExpired, flow.DetailTimeout), flow.TTLExpired, flow.DetailTimeout},
		{open(flow.HostUnreachable, flow.DetailNone), flow.HostUnreachable, flow.DetailNone},
		{open(flow.NotAllowed, flow.DetailInvite), flow.NetworkUnreachable, flow.DetailNone},
		{open(flow.NotAllowed, flow.DetailQuota), flow.NetworkUnreachable, flow.DetailNone},
		{open(flow.NotAllowed, flow.DetailDevices), flow.NetworkUnreachable, flow.DetailNone},
		{open(flow.GeneralFailure, flow.DetailRelayRestarted), flow.NetworkUnreachable, flow.DetailNone},
		{open(flow.GeneralFailure, flow.DetailNone), flow.NetworkUnreachable, flow.DetailNone},
		{errors.New("no relay"), flow.NetworkUnreachable, flow.DetailNone},
		{context.DeadlineExceeded, flow.NetworkUnreachable, flow.DetailNone},
	} {
		for _, later := range []bool{false, true} {
			e := New(Config{Next: failing{tt.err, later}})
			_, err := e.OpenStream(t.Context(), to("example.org", 443))
			got, ok := errors.AsType[*flow.OpenError](err)
			if !ok || got.Code != tt.code || got.Detail != tt.detail {
				t.Errorf("%v: %v", tt.err, err)
			}
			if n := e.Stats(); n.StreamsOpen != 0 {
				t.Errorf("%v: %d streams are open", tt.err, n.StreamsOpen)
			}
		}
		e := New(Config{Next: failing{tt.err, false}})
		if _, err := e.OpenPackets(t.Context()); err == nil {
			t.Errorf("%v: an association", tt.err)
		}
		if n := e.Stats(); n.PacketsOpen != 0 {
			t.Errorf("%v: %d associations are open", tt.err, n.PacketsOpen)
		}
	}
}
