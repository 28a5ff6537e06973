package rule

import (
	"net/netip"
	"slices"
	"time"

	"busel/scripts/lab/censor/packet"
)

// content reports whether a rule asks what a flow carries.
func (m *match) content() bool {
	return len(m.App)+len(m.ExceptApp)+len(m.SNI)+len(m.ExceptSNI)+len(m.Host)+len(m.ExceptHost)+len(m.JA4) > 0 || m.Rate != nil
}

// perPacket reports whether a rule asks something of each packet that is not
// the same for all packets of a flow.
func (m *match) perPacket() bool {
	return m.dns() || m.Direction != "" || m.SYN || m.TCPHeader > 0 || m.PayloadMin > 0 ||
		m.QUICVersion > 0 || m.PacketsOver > 0 || m.AgeOver > 0
}

// dns reports whether a rule asks for names in queries.
func (m *match) dns() bool { return len(m.DNS)+len(m.ExceptDNS) > 0 }

// flow judges what is the same for all packets of a flow.
func (m *match) flow(k flowKey) bool {
	port := k.world.Port()
	return (len(m.Protocol) == 0 || slices.Contains(m.Protocol, protocolName(k.protocol))) &&
		(len(m.Ports) == 0 || slices.Contains(m.Ports, port)) &&
		!slices.Contains(m.ExceptPorts, port) &&
		!slices.Contains(m.ExceptClientPorts, k.client.Port()) &&
		(!m.ClientPortAbove || k.client.Port() > port) &&
		(len(m.To) == 0 || contains(m.To, k.world.Addr())) &&
		!contains(m.ExceptTo, k.world.Addr())
}

func protocolName(number uint8) string {
	switch number {
	case packet.TCP:
		return "tcp"
	case packet.UDP:
		return "udp"
	}
	return "other"
}

func contains(prefixes []netip.Prefix, a netip.Addr) bool {
	return slices.ContainsFunc(prefixes, func(p netip.Prefix) bool { return p.Contains(a) })
}

// packet judges what differs from packet to packet.
func (m *match) packet(f *flow, p *seen) bool {
	if m.Direction == "up" && p.direction != Up || m.Direction == "down" && p.direction != Down {
		return false
	}
	if m.QUICVersion > 0 {
		if v, ok := packet.QUICVersion(p.Payload); !ok || v != m.QUICVersion {
			return false
		}
	}
	return (!m.SYN || p.Has(packet.SYN)) &&
		(m.TCPHeader == 0 || p.HeaderLen == m.TCPHeader) &&
		(m.PayloadMin == 0 || len(p.Payload) >= m.PayloadMin) &&
		f.packets > m.PacketsOver &&
		(m.AgeOver == 0 || p.now.Sub(f.born) > time.Duration(m.AgeOver))
}

// on reports whether the rule is in one of its windows.
func (m *match) on(since time.Duration) bool {
	if len(m.Windows) == 0 {
		return true
	}
	if m.Period > 0 {
		since %= time.Duration(m.Period)
	}
	return slices.ContainsFunc(m.Windows, func(w []duration) bool {
		return time.Duration(w[0]) <= since && since < time.Duration(w[1])
	})
}

// A fit says how a flow's content answers a rule.
type fit uint8

const (
	undecided fit = iota
	fits
	misses // for good
)

// read judges the content of a flow.
//
// What a rule asks for must be known; what it excepts must be known not to be
// there. A rule that waits for packets or time anyway takes what it does not
// know by then for not excepted.
func (r *live) read(f *flow, p *seen) fit {
	m := &r.spec.Match
	v := &f.views[r.join]
	if m.dns() {
		if p.direction == Down || len(p.Payload) == 0 || v.dns == "" {
			return undecided
		}
		if len(m.DNS) > 0 && !anyGlob(m.DNS, v.dns) || anyGlob(m.ExceptDNS, v.dns) {
			return undecided // the next query may fit
		}
		return fits
	}
	app := v.app | f.app
	if r.exceptApp&app != 0 || anyGlob(m.ExceptSNI, v.sni) || anyGlob(m.ExceptHost, v.host) {
		return misses
	}
	if r.app != 0 && r.app&app == 0 {
		if f.cannotBe(r.app, v) {
			return misses
		}
		return undecided
	}
	if len(m.SNI) > 0 && !anyGlob(m.SNI, v.sni) ||
		len(m.Host) > 0 && !anyGlob(m.Host, v.host) ||
		len(m.JA4) > 0 && !slices.Contains(m.JA4, v.ja4) {
		if v.settled {
			return misses
		}
		return undecided
	}
	waits := m.PacketsOver > 0 || m.AgeOver > 0
	if !v.settled && !waits &&
		(r.exceptApp != 0 && app == 0 || len(m.ExceptSNI) > 0 && v.sni == "" || len(m.ExceptHost) > 0 && v.host == "") {
		return undecided
	}
	return fits
}

// cannotBe reports whether a flow that is none of these protocols yet will
// never be one.
func (f *flow) cannotBe(set app, v *view) bool {
	return (set&^(appEncrypted|appSSH|appTLSInTLS) == 0 || v.settled || v.app != 0) &&
		(set&appEncrypted == 0 || f.firstUp) &&
		(set&appSSH == 0 || f.anyData) &&
		(set&appTLSInTLS == 0 || f.bursts.done)
}
