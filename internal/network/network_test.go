package network

import (
	"net/netip"
	"regexp"
	"slices"
	"testing"
)

func addrs(texts ...string) (all []netip.Addr) {
	for _, t := range texts {
		all = append(all, netip.MustParseAddr(t))
	}
	return all
}

func TestID(t *testing.T) {
	base := on("wlan0", WiFi, []string{"192.168.1.1", "fe80::1"}, "192.168.1.7/24", "2001:db8:1:2::7/64")
	for _, tt := range []struct {
		name string
		s    Snapshot
		same bool
	}{
		{"again", on("wlan0", WiFi, []string{"192.168.1.1", "fe80::1"}, "192.168.1.7/24", "2001:db8:1:2::7/64"), true},
		{"another lease", on("wlan0", WiFi, []string{"192.168.1.1", "fe80::1"}, "192.168.1.201/24", "2001:db8:1:2::7/64"), true},
		{"a temporary address", on("wlan0", WiFi, []string{"192.168.1.1", "fe80::1"}, "192.168.1.7/24", "2001:db8:1:2::7/64", "2001:db8:1:2:aaaa:bbbb:cccc:dddd/64"), true},
		{"a new prefix from the provider", on("wlan0", WiFi, []string{"192.168.1.1", "fe80::1"}, "192.168.1.7/24", "2001:db8:77:2::7/64"), true},
		{"the other order", on("wlan0", WiFi, []string{"fe80::1", "192.168.1.1"}, "2001:db8:1:2::7/64", "192.168.1.7/24"), true},
		{"another name of the interface", on("wlp3s0", WiFi, []string{"192.168.1.1", "fe80::1"}, "192.168.1.7/24"), true},
		{"another network", on("wlan0", WiFi, []string{"192.168.1.1", "fe80::1"}, "192.168.2.7/24"), false},
		{"a smaller network", on("wlan0", WiFi, []string{"192.168.1.1", "fe80::1"}, "192.168.1.7/25"), false},
		{"another gateway", on("wlan0", WiFi, []string{"192.168.1.254", "fe80::1"}, "192.168.1.7/24"), false},
		{"another router", on("wlan0", WiFi, []string{"192.168.1.1", "fe80::2"}, "192.168.1.7/24"), false},
		{"by cable", on("wlan0", Wired, []string{"192.168.1.1", "fe80::1"}, "192.168.1.7/24"), false},
	} {
		if got := tt.s.id(salt) == base.id(salt); got != tt.same {
			t.Errorf("%s: same name is %v, want %v", tt.name, got, tt.same)
		}
	}
	if a, b := on("rmnet0", Mobile, nil, "10.7.0.3/30"), on("rmnet1", Mobile, nil, "100.64.9.1/32"); a.id(salt) != b.id(salt) {
		t.Error("a mobile network has another name with each address")
	}
	if a, b := on("eth0", Wired, []string{"fe80::1"}, "2001:db8:1:2::7/64", "2001:db8:1:2::99/64"), on("eth0", Wired, []string{"fe80::1"}, "2001:db8:1:3::7/64"); a.id(salt) == b.id(salt) {
		t.Error("without IPv4, IPv6 networks are not told apart")
	}
	if base.id(salt) == base.id([]byte("salt of another")) {
		t.Error("the salt changes nothing")
	}
	if !regexp.MustCompile(`^[a-z2-7]{16}$`).MatchString(string(base.id(salt))) {
		t.Errorf("ID is %q", base.id(salt))
	}
	two := Snapshot{Links: slices.Concat(base.Links, on("tun0", Tunnel, nil, "10.8.0.2/32").Links)}
	swapped := Snapshot{Links: []Link{two.Links[1], two.Links[0]}}
	if two.id(salt) == base.id(salt) || two.id(salt) != swapped.id(salt) {
		t.Error("a second link does not count, or its place does")
	}
}

func TestMoved(t *testing.T) {
	base := wired("192.168.1.7/24", "2001:db8:1:2::7/64")
	for _, tt := range []struct {
		name string
		now  Snapshot
		want bool
	}{
		{"nothing", wired("192.168.1.7/24", "2001:db8:1:2::7/64"), false},
		{"a temporary address came", wired("192.168.1.7/24", "2001:db8:1:2::7/64", "2001:db8:1:2::99/64"), false},
		{"an address went", wired("192.168.1.7/24"), true},
		{"an address changed", wired("192.168.1.8/24", "2001:db8:1:2::7/64"), true},
		{"a network came", wired("192.168.1.7/24", "2001:db8:1:2::7/64", "2001:db8:1:3::7/64"), true},
		{"the gateway changed", on("eth0", Wired, []string{"192.168.1.2"}, "192.168.1.7/24", "2001:db8:1:2::7/64"), true},
		{"the link changed", on("eth1", Wired, []string{"192.168.1.1"}, "192.168.1.7/24", "2001:db8:1:2::7/64"), true},
		{"a link came", Snapshot{Links: slices.Concat(base.Links, on("tun0", Tunnel, nil, "10.8.0.2/32").Links)}, true},
	} {
		if got := base.moved(tt.now); got != tt.want {
			t.Errorf("%s: moved is %v, want %v", tt.name, got, tt.want)
		}
	}
}

func TestChoose(t *testing.T) {
	eth := on("eth0", Wired, []string{"192.168.1.1"}, "192.168.1.7/24", "2001:db8:1:2::7/64").Links[0]
	bridge := on("docker0", Unknown, nil, "172.17.0.1/16").Links[0]
	tun := on("tun0", Tunnel, nil, "10.8.0.2/32").Links[0]
	for _, tt := range []struct {
		name   string
		all    []Link
		egress []netip.Addr
		want   []string
	}{
		{"a bridge beside", []Link{eth, bridge}, append(addrs("192.168.1.7"), netip.Addr{}), []string{"eth0"}},
		{"everything through a TUN", []Link{tun, eth, bridge}, addrs("10.8.0.2"), []string{"tun0"}},
		{"IPv4 through a TUN", []Link{tun, eth}, addrs("10.8.0.2", "2001:db8:1:2::7"), []string{"eth0", "tun0"}},
		{"no default route", []Link{eth, bridge}, []netip.Addr{{}, {}}, []string{"docker0", "eth0"}},
		{"a source that no link has", []Link{eth}, addrs("203.0.113.9"), []string{"eth0"}},
		{"nothing", nil, addrs("203.0.113.9"), nil},
	} {
		var got []string
		for _, l := range choose(tt.all, tt.egress).Links {
			got = append(got, l.Name)
		}
		if !slices.Equal(got, tt.want) {
			t.Errorf("%s: links are %q, want %q", tt.name, got, tt.want)
		}
	}
}

// TestGuess is what remains where nothing can be listed.
func TestGuess(t *testing.T) {
	a, b := guess(addrs("192.168.1.7", "2001:db8:1:2::7")), guess(addrs("192.168.1.9", "2001:db8:1:2::9"))
	if len(a.Links) != 1 || a.id(salt) != b.id(salt) || a.id(salt) == guess(addrs("192.168.2.7")).id(salt) {
		t.Errorf("guesses are %+v and %+v", a, b)
	}
	if !a.moved(b) {
		t.Error("another address is no change")
	}
	for _, none := range [][]netip.Addr{{{}, {}}, addrs("127.0.0.1", "::1")} {
		if s := guess(none); len(s.Links) != 0 {
			t.Errorf("%v is a network: %+v", none, s)
		}
	}
}
