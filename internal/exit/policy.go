package exit

import (
	"net/netip"
	"strings"

	"busel/internal/flow"
)

// policy says which endpoints may be dialled. It is pure but for own.
type policy struct {
	allow, deny []netip.Prefix
	cover       []netip.AddrPort
	own         func(netip.Addr) bool // the relay's own addresses
	web         bool
	names       []string
}

// permitsRequest judges what a client asks for, by its port and name. What the name
// stands for is judged by permits.
func (p *policy) permitsRequest(dst flow.Addr, udp bool) bool {
	if p.web && dst.Port != 443 && (udp || dst.Port != 80) {
		return false
	}
	return len(p.names) == 0 || p.permitsName(dst)
}

// permitsName reports whether dst is one of the names or below one.
func (p *policy) permitsName(dst flow.Addr) bool {
	if literal(dst).IsValid() {
		return false
	}
	name := strings.ToLower(strings.TrimSuffix(dst.Name, "."))
	for _, n := range p.names {
		if above, ok := strings.CutSuffix(name, n); ok && (above == "" || above[len(above)-1] == '.') {
			return true
		}
	}
	return false
}

// permitsPassing judges a destination that another relay will reach: addresses as if
// they were dialled here, names as far as that is possible without looking them up.
func (p *policy) permitsPassing(dst flow.Addr) bool {
	if ip := literal(dst); ip.IsValid() {
		return p.permits(netip.AddrPortFrom(ip, dst.Port))
	}
	return dst.Name != "" && dst.Port != 0 && dst.Port != smtp
}

// special are the ranges that lead anywhere but to a host on the public
// internet. The sources are the IANA IPv4 and IPv6 Special-Purpose Address
// Registries (RFC 6890 as updated by RFC 8190), and the IANA IPv6 Address
// Space registry, by which only 2000::/3 is global unicast (RFC 4291, 2.4).
var special = []netip.Prefix{
	netip.MustParsePrefix("0.0.0.0/8"),       // this network, unspecified: RFC 791
	netip.MustParsePrefix("10.0.0.0/8"),      // private: RFC 1918
	netip.MustParsePrefix("100.64.0.0/10"),   // CGNAT: RFC 6598
	netip.MustParsePrefix("127.0.0.0/8"),     // loopback: RFC 1122
	netip.MustParsePrefix("169.254.0.0/16"),  // link-local: RFC 3927
	netip.MustParsePrefix("172.16.0.0/12"),   // private: RFC 1918
	netip.MustParsePrefix("192.0.0.0/24"),    // IETF protocol assignments: RFC 6890
	netip.MustParsePrefix("192.0.2.0/24"),    // documentation: RFC 5737
	netip.MustParsePrefix("192.88.99.0/24"),  // 6to4 relay anycast, withdrawn: RFC 7526
	netip.MustParsePrefix("192.168.0.0/16"),  // private: RFC 1918
	netip.MustParsePrefix("198.18.0.0/15"),   // benchmarks: RFC 2544
	netip.MustParsePrefix("198.51.100.0/24"), // documentation: RFC 5737
	netip.MustParsePrefix("203.0.113.0/24"),  // documentation: RFC 5737
	netip.MustParsePrefix("224.0.0.0/4"),     // multicast: RFC 5771
	netip.MustParsePrefix("240.0.0.0/4"),     // reserved, and broadcast: RFC 1112, RFC 8190

	// All IPv6 outside 2000::/3: unspecified and loopback (RFC 4291), mapped,
	// compatible, 64:ff9b:1::/48 (RFC 8215), discard 100::/64 (RFC 6666),
	// segment routing 5f00::/16 (RFC 9602), unique local fc00::/7 (RFC 4193),
	// link-local fe80::/10, site-local fec0::/10 (RFC 3879), multicast ff00::/8.
	// 64:ff9b::/96 is the exception: see permitsForm.
	netip.MustParsePrefix("::/3"),
	netip.MustParsePrefix("4000::/2"),
	netip.MustParsePrefix("8000::/1"),
	netip.MustParsePrefix("2001::/23"),     // IETF protocol assignments with Teredo (RFC 4380), benchmarks (RFC 5180), ORCHID: RFC 2928
	netip.MustParsePrefix("2001:db8::/32"), // documentation: RFC 3849
	netip.MustParsePrefix("3fff::/20"),     // documentation: RFC 9637
}

// metadata are the addresses where clouds hand out the credentials of a host.
// Most lie in special ranges already; they are listed because a volunteer who
// allows such a range still does not mean them.
var metadata = []netip.Addr{
	netip.MustParseAddr("169.254.169.254"), // AWS, Azure, Google, OpenStack, DigitalOcean, Hetzner
	netip.MustParseAddr("169.254.170.2"),   // AWS container credentials
	netip.MustParseAddr("169.254.170.23"),  // AWS EKS pod identity
	netip.MustParseAddr("fd00:ec2::254"),   // AWS
	netip.MustParseAddr("fd00:ec2::23"),    // AWS EKS pod identity
	netip.MustParseAddr("fd20:ce::254"),    // Google
	netip.MustParseAddr("100.100.100.200"), // Alibaba
	netip.MustParseAddr("192.0.0.192"),     // Oracle
	netip.MustParseAddr("168.63.129.16"),   // Azure's host agent, a public address
	netip.MustParseAddr("169.254.42.42"),   // Scaleway
	netip.MustParseAddr("fd00:42::42"),     // Scaleway
}

// smtp is refused because a relay that sends mail for strangers is on every
// block list within hours. Submission ports (465, 587) ask for a password.
const smtp = 25

// IPv6 prefixes that carry an IPv4 address.
var (
	nat64      = netip.MustParsePrefix("64:ff9b::/96")   // RFC 6052
	nat64Local = netip.MustParsePrefix("64:ff9b:1::/48") // RFC 8215
	compatible = netip.MustParsePrefix("::/96")          // RFC 4291, 2.5.5.1
	sixToFour  = netip.MustParsePrefix("2002::/16")      // RFC 3056
	teredo     = netip.MustParsePrefix("2001::/32")      // RFC 4380
)

// permits reports whether ap may be dialled. An address that carries others
// must be permitted itself, and so must each that it carries.
func (p *policy) permits(ap netip.AddrPort) bool {
	addr := plain(ap.Addr())
	if !addr.IsValid() || ap.Port() == 0 {
		return false
	}
	if !p.permitsForm(addr, ap.Port()) {
		return false
	}
	for _, hidden := range embedded(addr) {
		if !p.permitsForm(hidden, ap.Port()) {
			return false
		}
	}
	return true
}

func (p *policy) permitsForm(a netip.Addr, port uint16) bool {
	if containing(p.deny, a) {
		return false
	}
	if p.guarded(a, port) {
		return p.allowsExactly(a)
	}
	if containing(p.allow, a) {
		return true
	}
	if p.own(a) {
		return false
	}
	// 64:ff9b::/96 is how a host without IPv4 reaches the IPv4 internet; the
	// address that it carries is judged beside it.
	return nat64.Contains(a) || !containing(special, a)
}

// guarded endpoints stay closed when a whole network is allowed.
func (p *policy) guarded(a netip.Addr, port uint16) bool {
	if port == smtp {
		return true
	}
	for _, m := range metadata {
		if a == m {
			return true
		}
	}
	for _, c := range p.cover {
		if c.Port() != port {
			continue
		}
		if plain(c.Addr()) == a || c.Addr().IsUnspecified() && (a.IsLoopback() || p.own(a)) {
			return true
		}
	}
	return false
}

func (p *policy) allowsExactly(a netip.Addr) bool {
	for _, prefix := range p.allow {
		if prefix.IsSingleIP() && prefix.Addr() == a {
			return true
		}
	}
	return false
}

func containing(prefixes []netip.Prefix, a netip.Addr) bool {
	for _, p := range prefixes {
		if p.Contains(a) {
			return true
		}
	}
	return false
}

// plain is the form of an address that the policy compares: an IPv4 address
// is one, also when mapped into IPv6 (::ffff:0:0/96), and there is no zone.
func plain(a netip.Addr) netip.Addr { return a.Unmap().WithZone("") }

// unmapPrefixes turns prefixes of mapped IPv4 addresses into those they mean.
func unmapPrefixes(in []netip.Prefix) []netip.Prefix {
	out := make([]netip.Prefix, 0, len(in))
	for _, p := range in {
		if p.Addr().Is4In6() && p.Bits() >= 96 {
			p = netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96)
		}
		out = append(out, p.Masked())
	}
	return out
}

// embedded returns the IPv4 addresses that an IPv6 address carries and that a
// translator or tunnel on the way would send its packets to.
func embedded(a netip.Addr) []netip.Addr {
	if !a.Is6() {
		return nil
	}
	b := a.As16()
	at := func(i int) netip.Addr { return netip.AddrFrom4([4]byte(b[i : i+4])) }
	switch {
	// In 64:ff9b:1::/48 the place of the IPv4 address depends on the operator
	// (RFC 6052, 2.2). Only the usual layout, the last four bytes, can ever be
	// allowed: any other has zeros there, which are denied.
	case nat64.Contains(a), nat64Local.Contains(a):
		return []netip.Addr{at(12)}
	case compatible.Contains(a):
		if a.IsUnspecified() || a.IsLoopback() {
			return nil
		}
		return []netip.Addr{at(12)}
	case sixToFour.Contains(a):
		return append(isatap(b), at(2))
	case teredo.Contains(a):
		for i := 12; i < 16; i++ {
			b[i] ^= 0xff // the client's address is stored inverted (RFC 4380, 4)
		}
		return []netip.Addr{at(4), at(12)}
	}
	return isatap(b)
}

// isatap returns the IPv4 address in an interface identifier of the form
// 0000:5efe or 0200:5efe (RFC 5214, 6.1), which may follow any prefix.
func isatap(b [16]byte) []netip.Addr {
	if b[8]&^2 == 0 && b[9] == 0 && b[10] == 0x5e && b[11] == 0xfe {
		return []netip.Addr{netip.AddrFrom4([4]byte(b[12:16]))}
	}
	return nil
}
