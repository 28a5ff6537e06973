package exit

import (
	"errors"
	"net"
	"net/netip"
	"testing"
)

func prefixes(t testing.TB, texts ...string) []netip.Prefix {
	t.Helper()
	var out []netip.Prefix
	for _, s := range texts {
		p, err := netip.ParsePrefix(s)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, p)
	}
	return unmapPrefixes(out)
}

func noOwn(netip.Addr) bool { return false }

// TestPolicyRanges checks the first and last address of every denied range and
// their neighbours, written out by hand from the registries.
func TestPolicyRanges(t *testing.T) {
	p := &policy{own: noOwn}
	tests := []struct {
		before, first, last, after string // before and after are permitted; "" if not
	}{
		{"", "0.0.0.0", "0.255.255.255", "1.0.0.0"},
		{"9.255.255.255", "10.0.0.0", "10.255.255.255", "11.0.0.0"},
		{"100.63.255.255", "100.64.0.0", "100.127.255.255", "100.128.0.0"},
		{"126.255.255.255", "127.0.0.0", "127.255.255.255", "128.0.0.0"},
		{"169.253.255.255", "169.254.0.0", "169.254.255.255", "169.255.0.0"},
		{"172.15.255.255", "172.16.0.0", "172.31.255.255", "172.32.0.0"},
		{"191.255.255.255", "192.0.0.0", "192.0.0.255", "192.0.1.0"},
		{"192.0.1.255", "192.0.2.0", "192.0.2.255", "192.0.3.0"},
		{"192.88.98.255", "192.88.99.0", "192.88.99.255", "192.88.100.0"},
		{"192.167.255.255", "192.168.0.0", "192.168.255.255", "192.169.0.0"},
		{"198.17.255.255", "198.18.0.0", "198.19.255.255", "198.20.0.0"},
		{"198.51.99.255", "198.51.100.0", "198.51.100.255", "198.51.101.0"},
		{"203.0.112.255", "203.0.113.0", "203.0.113.255", "203.0.114.0"},
		{"223.255.255.255", "224.0.0.0", "239.255.255.255", ""},
		{"", "240.0.0.0", "255.255.255.255", ""},
		{"", "::", "::1", ""},
		{"", "::2", "::ffff", ""},
		{"", "64:ff9b:1::", "64:ff9b:1:ffff:ffff:ffff:ffff:ffff", ""},
		{"", "100::", "100::ffff:ffff:ffff:ffff", ""},
		{"", "100:0:0:1::", "1fff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "2000::"},
		{"2000:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "2001::", "2001:1ff:ffff:ffff:ffff:ffff:ffff:ffff", "2001:200::"},
		{"2001:db7:ffff:ffff:ffff:ffff:ffff:ffff", "2001:db8::", "2001:db8:ffff:ffff:ffff:ffff:ffff:ffff", "2001:db9::"},
		{"3ffe:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "3fff::", "3fff:fff:ffff:ffff:ffff:ffff:ffff:ffff", "3fff:1000::"},
		{"3fff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "4000::", "7fff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", ""},
		{"", "5f00::", "5f00:ffff:ffff:ffff:ffff:ffff:ffff:ffff", ""},
		{"", "8000::", "fbff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", ""},
		{"", "fc00::", "fdff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", ""},
		{"", "fe80::", "febf:ffff:ffff:ffff:ffff:ffff:ffff:ffff", ""},
		{"", "fec0::", "feff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", ""},
		{"", "ff00::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", ""},
	}
	for _, tt := range tests {
		for _, c := range []struct {
			addr string
			want bool
		}{{tt.before, true}, {tt.first, false}, {tt.last, false}, {tt.after, true}} {
			if c.addr == "" {
				continue
			}
			ap := netip.AddrPortFrom(netip.MustParseAddr(c.addr), 443)
			if got := p.permits(ap); got != c.want {
				t.Errorf("permits(%s) = %v, want %v", ap, got, c.want)
			}
		}
	}
}

func TestPolicyHidden(t *testing.T) {
	p := &policy{own: noOwn}
	tests := []struct {
		addr string
		want bool
	}{
		{"::ffff:8.8.8.8", true}, // mapped
		{"::ffff:10.0.0.1", false},
		{"::ffff:127.0.0.1", false},
		{"::ffff:169.254.169.254", false},
		{"::8.8.8.8", false}, // compatible: withdrawn
		{"::127.0.0.1", false},
		{"64:ff9b::8.8.8.8", true}, // NAT64
		{"64:ff9b::10.0.0.1", false},
		{"64:ff9b::127.0.0.1", false},
		{"64:ff9b::169.254.169.254", false},
		{"64:ff9b::168.63.129.16", false},
		{"64:ff9b:0:0:0:1:808:808", false}, // just outside 64:ff9b::/96
		{"64:ff9b:1::8.8.8.8", false},
		{"64:ff9b:1::10.0.0.1", false},
		{"2002:808:808::1", true}, // 6to4
		{"2002:a00:1::1", false},
		{"2002:7f00:1::1", false},
		{"2002:c0a8:101:1::", false},
		{"2002:a9fe:a9fe::", false},
		{"2001:0:808:808::f5ff:fffe", false}, // Teredo, whatever it carries
		{"2a00:1450::5efe:8.8.8.8", true},    // ISATAP
		{"2a00:1450::5efe:10.0.0.1", false},  // local bit clear
		{"2a00:1450::200:5efe:a00:1", false}, // and set
		{"2a00:1450::5eff:10.0.0.1", true},   // not ISATAP
		{"2002:808:808::5efe:a00:1", false},  // both
		{"fe80::1%eth0", false},              // a zone changes nothing
		{"2a00:1450:4001:82a::200e%x", true},
	}
	for _, tt := range tests {
		ap := netip.AddrPortFrom(netip.MustParseAddr(tt.addr), 443)
		if got := p.permits(ap); got != tt.want {
			t.Errorf("permits(%s) = %v, want %v", ap, got, tt.want)
		}
	}
}

func TestEmbedded(t *testing.T) {
	tests := []struct {
		addr string
		want []string
	}{
		{"10.0.0.1", nil},
		{"::", nil},
		{"::1", nil},
		{"2a00:1450::1", nil},
		{"::10.0.0.1", []string{"10.0.0.1"}},
		{"64:ff9b::192.0.2.33", []string{"192.0.2.33"}},
		{"64:ff9b:1::192.0.2.33", []string{"192.0.2.33"}},
		{"2002:c000:204::1", []string{"192.0.2.4"}},
		// RFC 4380, section 4: server, flags, port, and the client's inverted.
		{"2001:0:4136:e378:8000:63bf:3fff:fdd2", []string{"65.54.227.120", "192.0.2.45"}},
		{"2a00:1450::5efe:c000:221", []string{"192.0.2.33"}},
	}
	for _, tt := range tests {
		got := embedded(netip.MustParseAddr(tt.addr))
		same := len(got) == len(tt.want)
		for i := range got {
			same = same && got[i].String() == tt.want[i]
		}
		if !same {
			t.Errorf("embedded(%s) = %v, want %v", tt.addr, got, tt.want)
		}
	}
}

func TestPolicyOrder(t *testing.T) {
	own := func(a netip.Addr) bool {
		return a == netip.MustParseAddr("9.9.9.9") || a == netip.MustParseAddr("10.0.0.9")
	}
	tests := []struct {
		name        string
		allow, deny []netip.Prefix
		cover       string
		dst         string
		want        bool
	}{
		{name: "public", dst: "8.8.8.8:443", want: true},
		{name: "port 0", dst: "8.8.8.8:0"},
		{name: "port 25", dst: "8.8.8.8:25"},
		{name: "port 25, network allowed", allow: prefixes(t, "8.8.8.0/24"), dst: "8.8.8.8:25"},
		{name: "port 25, address allowed", allow: prefixes(t, "8.8.8.8/32"), dst: "8.8.8.8:25", want: true},
		{name: "port 25, hidden", dst: "[64:ff9b::8.8.8.8]:25"},
		{name: "submission", dst: "8.8.8.8:587", want: true},
		{name: "denied", deny: prefixes(t, "8.8.8.0/24"), dst: "8.8.8.8:443"},
		{name: "deny before allow", deny: prefixes(t, "8.8.8.0/24"), allow: prefixes(t, "8.8.8.8/32"), dst: "8.8.8.8:443"},
		{name: "denied, mapped", deny: prefixes(t, "8.8.8.0/24"), dst: "[::ffff:8.8.8.8]:443"},
		{name: "denied by a mapped prefix", deny: prefixes(t, "::ffff:8.8.8.0/120"), dst: "8.8.8.8:443"},
		{name: "denied, hidden in NAT64", deny: prefixes(t, "8.8.8.0/24"), dst: "[64:ff9b::8.8.8.8]:443"},
		{name: "denied, hidden in 6to4", deny: prefixes(t, "8.8.8.0/24"), dst: "[2002:808:808::1]:443"},
		{name: "deny all", deny: prefixes(t, "0.0.0.0/0"), dst: "8.8.8.8:443"},
		{name: "deny all of the other family", deny: prefixes(t, "0.0.0.0/0"), dst: "[2a00:1450::1]:443", want: true},
		{name: "private allowed", allow: prefixes(t, "10.0.0.0/8"), dst: "10.1.2.3:80", want: true},
		{name: "loopback allowed", allow: prefixes(t, "127.0.0.0/8", "::1/128"), dst: "[::1]:80", want: true},
		{name: "allowed, hidden", allow: prefixes(t, "10.0.0.0/8"), dst: "[64:ff9b::10.1.2.3]:80", want: true},
		{name: "outer allowed, hidden not", allow: prefixes(t, "2002::/16"), dst: "[2002:a00:1::1]:80"},
		{name: "Teredo allowed, client private", allow: prefixes(t, "2001::/32"), dst: "[2001:0:808:808::f5ff:fffe]:80"},
		{name: "Teredo allowed, server private", allow: prefixes(t, "2001::/32"), dst: "[2001:0:a00:1::f7f7:f7f7]:80"},
		{name: "Teredo allowed", allow: prefixes(t, "2001::/32"), dst: "[2001:0:808:808::f7f7:f7f7]:80", want: true},
		{name: "local NAT64 allowed, private", allow: prefixes(t, "64:ff9b:1::/48"), dst: "[64:ff9b:1::10.0.0.1]:80"},
		{name: "local NAT64 allowed", allow: prefixes(t, "64:ff9b:1::/48"), dst: "[64:ff9b:1::8.8.8.8]:80", want: true},
		{name: "own", dst: "9.9.9.9:443"},
		{name: "own, mapped", dst: "[::ffff:9.9.9.9]:443"},
		{name: "own, hidden", dst: "[64:ff9b::9.9.9.9]:443"},
		{name: "own, allowed", allow: prefixes(t, "10.0.0.0/8"), dst: "10.0.0.9:80", want: true},
		{name: "cover", cover: "8.8.8.8:443", dst: "8.8.8.8:443"},
		{name: "cover, other port", cover: "8.8.8.8:443", dst: "8.8.8.8:80", want: true},
		{name: "cover, hidden", cover: "8.8.8.8:443", dst: "[64:ff9b::8.8.8.8]:443"},
		{name: "cover, network allowed", cover: "127.0.0.1:8443", allow: prefixes(t, "127.0.0.0/8"), dst: "127.0.0.1:8443"},
		{name: "beside the cover", cover: "127.0.0.1:8443", allow: prefixes(t, "127.0.0.0/8"), dst: "127.0.0.1:8080", want: true},
		{name: "cover, address allowed", cover: "127.0.0.1:8443", allow: prefixes(t, "127.0.0.1/32"), dst: "127.0.0.1:8443", want: true},
		{name: "own port on loopback", cover: "0.0.0.0:443", allow: prefixes(t, "127.0.0.0/8"), dst: "127.0.0.2:443"},
		{name: "own port on own address", cover: "[::]:443", allow: prefixes(t, "10.0.0.0/8"), dst: "10.0.0.9:443"},
		{name: "own port elsewhere", cover: "[::]:443", dst: "8.8.8.8:443", want: true},
		{name: "metadata, network allowed", allow: prefixes(t, "169.254.0.0/16"), dst: "169.254.169.254:80"},
		{name: "metadata beside, network allowed", allow: prefixes(t, "169.254.0.0/16"), dst: "169.254.1.1:80", want: true},
		{name: "metadata, address allowed", allow: prefixes(t, "169.254.169.254/32"), dst: "169.254.169.254:80", want: true},
		{name: "metadata v6, network allowed", allow: prefixes(t, "fd00::/8"), dst: "[fd00:ec2::254]:80"},
		{name: "metadata at a public address", dst: "168.63.129.16:80"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p := &policy{allow: tt.allow, deny: tt.deny, own: own}
			if tt.cover != "" {
				p.cover = []netip.AddrPort{netip.MustParseAddrPort(tt.cover)}
			}
			if got := p.permits(netip.MustParseAddrPort(tt.dst)); got != tt.want {
				t.Errorf("permits(%s) = %v, want %v", tt.dst, got, tt.want)
			}
		})
	}
	if (&policy{own: own}).permits(netip.AddrPort{}) {
		t.Error("no address at all is permitted")
	}
}

func TestOwnAddrs(t *testing.T) {
	addr := netip.MustParseAddr
	var list []net.Addr
	var fail error
	o := &ownAddrs{
		fixed: map[netip.Addr]bool{addr("9.9.9.9"): true},
		list:  func() ([]net.Addr, error) { return list, fail },
	}
	_, n4, _ := net.ParseCIDR("198.51.100.0/24")
	n4.IP = net.ParseIP("198.51.100.7") // 16 bytes, as some systems give it
	_, n6, _ := net.ParseCIDR("2001:db8::/64")
	n6.IP = net.ParseIP("2001:db8::7")
	list = []net.Addr{n4, n6}
	for _, s := range []string{"9.9.9.9", "198.51.100.7", "2001:db8::7"} {
		if !o.contains(addr(s)) {
			t.Errorf("%s is not known as own", s)
		}
	}
	if o.contains(addr("198.51.100.8")) {
		t.Error("a neighbour is taken for own")
	}
	fail = errors.New("no interfaces")
	o.read = o.read.Add(-2 * ownAddrsAge)
	if !o.contains(addr("198.51.100.7")) {
		t.Error("forgot the addresses when they could not be read again")
	}
	list, fail = nil, nil
	o.read = o.read.Add(-2 * ownAddrsAge)
	if o.contains(addr("198.51.100.7")) {
		t.Error("did not read the addresses again")
	}
}

// FuzzPolicy checks that wrapping an IPv4 address in IPv6 never opens a door,
// and that a denied prefix closes all of them.
func FuzzPolicy(f *testing.F) {
	f.Add([]byte{10, 0, 0, 1}, uint16(80))
	f.Add([]byte{8, 8, 8, 8}, uint16(25))
	f.Fuzz(func(t *testing.T, b []byte, port uint16) {
		v4, ok := netip.AddrFromSlice(b)
		if !ok || !v4.Is4() {
			return
		}
		a := v4.As4()
		wraps := []netip.Addr{
			netip.AddrFrom16([16]byte{10: 0xff, 11: 0xff, 12: a[0], 13: a[1], 14: a[2], 15: a[3]}),
			netip.AddrFrom16([16]byte{1: 0x64, 2: 0xff, 3: 0x9b, 12: a[0], 13: a[1], 14: a[2], 15: a[3]}),
			netip.AddrFrom16([16]byte{0: 0x20, 1: 0x02, 2: a[0], 3: a[1], 4: a[2], 5: a[3], 15: 1}),
			netip.AddrFrom16([16]byte{0: 0x2a, 10: 0x5e, 11: 0xfe, 12: a[0], 13: a[1], 14: a[2], 15: a[3]}),
		}
		open := &policy{own: noOwn}
		closed := &policy{own: noOwn, deny: []netip.Prefix{netip.PrefixFrom(v4, 32)}, allow: prefixes(t, "0.0.0.0/0", "::/0")}
		direct := open.permits(netip.AddrPortFrom(v4, port))
		for _, w := range wraps {
			if open.permits(netip.AddrPortFrom(w, port)) && !direct {
				t.Errorf("%s is denied, but %s is permitted (port %d)", v4, w, port)
			}
			if closed.permits(netip.AddrPortFrom(w, port)) {
				t.Errorf("%s is closed by configuration, but %s is permitted", v4, w)
			}
		}
	})
}
