package network

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"time"
	"unsafe"

	"golang.org/x/sys/windows"
)

// Interface types that x/sys does not name (ipifcons.h).
const (
	ifTypeWWANPP  = 243
	ifTypeWWANPP2 = 244
)

// inspect asks the IP helper. What it does not say stays unknown.
func inspect([]net.Interface) map[int]detail {
	const flags = windows.GAA_FLAG_INCLUDE_GATEWAYS | windows.GAA_FLAG_SKIP_UNICAST | windows.GAA_FLAG_SKIP_ANYCAST |
		windows.GAA_FLAG_SKIP_MULTICAST | windows.GAA_FLAG_SKIP_DNS_SERVER | windows.GAA_FLAG_SKIP_FRIENDLY_NAME
	details := make(map[int]detail)
	size := uint32(15 << 10) // as the documentation advises; it says how much more it needs
	for range 4 {
		buf := make([]byte, size)
		first := (*windows.IpAdapterAddresses)(unsafe.Pointer(&buf[0]))
		err := windows.GetAdaptersAddresses(windows.AF_UNSPEC, flags, 0, first, &size)
		if errors.Is(err, windows.ERROR_BUFFER_OVERFLOW) && size <= 1<<20 {
			continue
		}
		if err != nil {
			return details
		}
		for a := first; a != nil; a = a.Next {
			index := int(a.IfIndex)
			if index == 0 {
				index = int(a.Ipv6IfIndex)
			}
			d := detail{kind: windowsKind(a.IfType)}
			for g := a.FirstGatewayAddress; g != nil; g = g.Next {
				if addr, ok := netip.AddrFromSlice(g.Address.IP()); ok {
					d.gateways = append(d.gateways, addr.Unmap())
				}
			}
			details[index] = d
		}
		return details
	}
	return details
}

func windowsKind(ifType uint32) Kind {
	switch ifType {
	case windows.IF_TYPE_ETHERNET_CSMACD:
		return Wired
	case windows.IF_TYPE_IEEE80211:
		return WiFi
	case ifTypeWWANPP, ifTypeWWANPP2:
		return Mobile
	case windows.IF_TYPE_TUNNEL:
		return Tunnel
	}
	return Unknown
}

// Notify implements [Source].
func (System) Notify(context.Context, func()) error { return errors.ErrUnsupported }

// Clock implements [Source].
func (System) Clock() time.Duration { return windows.DurationSinceBoot() }
