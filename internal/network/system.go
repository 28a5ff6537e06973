package network

import (
	"cmp"
	"net"
	"net/netip"
	"slices"
	"strings"
)

// System is the operating system's network as this process sees it. The zero
// value is ready to use.
type System struct{}

var _ Source = System{}

// Addresses that are nobody's (RFC 5737, RFC 3849): they stand for the internet
// when the kernel is asked for a route.
const (
	internet4 = "192.0.2.1:9"
	internet6 = "[2001:db8::1]:9"
)

// Read implements [Source].
func (System) Read() (Snapshot, error) {
	egress := []netip.Addr{sourceAddr("udp4", internet4), sourceAddr("udp6", internet6)}
	interfaces, err := net.Interfaces()
	if err != nil {
		// Android lets an application list nothing, but it can still connect.
		return guess(egress), nil
	}
	details := inspect(interfaces)
	var all []Link
	for _, i := range interfaces {
		if i.Flags&net.FlagLoopback != 0 || i.Flags&net.FlagRunning == 0 {
			continue
		}
		addrs, err := i.Addrs()
		if err != nil {
			continue // it has gone meanwhile, and that will be noticed
		}
		l := Link{Name: i.Name, Kind: details[i.Index].kind, Gateways: details[i.Index].gateways}
		if l.Kind == Unknown {
			l.Kind = kindByName(i.Name)
		}
		for _, a := range addrs {
			if p := prefixOf(a); p.IsValid() && !p.Addr().IsLinkLocalUnicast() && !p.Addr().IsLoopback() {
				l.Prefixes = append(l.Prefixes, p)
			}
		}
		if len(l.Prefixes) > 0 {
			all = append(all, l)
		}
	}
	return choose(all, egress), nil
}

// choose returns the links that have one of the egress addresses, or all if none
// has.
func choose(all []Link, egress []netip.Addr) Snapshot {
	for i := range all {
		l := &all[i]
		slices.SortFunc(l.Prefixes, comparePrefixes)
		slices.SortFunc(l.Gateways, netip.Addr.Compare)
		l.Gateways = slices.Compact(l.Gateways)
	}
	slices.SortFunc(all, func(a, b Link) int { return cmp.Compare(a.Name, b.Name) })
	var chosen []Link
	for _, l := range all {
		if slices.ContainsFunc(l.Prefixes, func(p netip.Prefix) bool { return slices.Contains(egress, p.Addr()) }) {
			chosen = append(chosen, l)
		}
	}
	if len(chosen) == 0 {
		chosen = all
	}
	return Snapshot{Links: chosen}
}

// guess makes a link of the addresses alone, in networks of the usual size.
func guess(egress []netip.Addr) Snapshot {
	var l Link
	for _, a := range egress {
		bits := 64
		if a.Is4() {
			bits = 24
		}
		if a.IsValid() && !a.IsLoopback() {
			l.Prefixes = append(l.Prefixes, netip.PrefixFrom(a, bits))
		}
	}
	if len(l.Prefixes) == 0 {
		return Snapshot{}
	}
	return choose([]Link{l}, egress)
}

func comparePrefixes(a, b netip.Prefix) int {
	return cmp.Or(a.Addr().Compare(b.Addr()), cmp.Compare(a.Bits(), b.Bits()))
}

// sourceAddr is the address that the kernel would send from, invalid if there is
// no route. A UDP socket that is connected sends nothing.
func sourceAddr(network, to string) netip.Addr {
	c, err := net.Dial(network, to)
	if err != nil {
		return netip.Addr{}
	}
	defer c.Close()
	addr, ok := c.LocalAddr().(*net.UDPAddr)
	if !ok {
		return netip.Addr{}
	}
	return addr.AddrPort().Addr().Unmap().WithZone("")
}

func prefixOf(a net.Addr) netip.Prefix {
	n, ok := a.(*net.IPNet)
	if !ok {
		return netip.Prefix{}
	}
	addr, ok := netip.AddrFromSlice(n.IP)
	if !ok {
		return netip.Prefix{}
	}
	bits, _ := n.Mask.Size()
	return netip.PrefixFrom(addr.Unmap(), bits)
}

// detail is what net does not say of an interface.
type detail struct {
	kind     Kind
	gateways []netip.Addr
}

// kindByName knows the names that systems give to interfaces of one kind only.
func kindByName(name string) Kind {
	for _, known := range []struct {
		prefix string
		kind   Kind
	}{
		{"rmnet", Mobile}, {"ccmni", Mobile}, {"wwan", Mobile}, {"pdp_ip", Mobile}, // Android, Linux, iOS
		{"tun", Tunnel}, {"utun", Tunnel}, {"wg", Tunnel}, {"tap", Tunnel}, {"ipsec", Tunnel},
		{"wlan", WiFi}, {"wlp", WiFi}, {"wlx", WiFi}, {"eth", Wired}, {"enp", Wired}, {"ens", Wired}, {"eno", Wired},
	} {
		if strings.HasPrefix(name, known.prefix) {
			return known.kind
		}
	}
	return Unknown
}
