package network

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"time"

	"golang.org/x/net/route"
	"golang.org/x/sys/unix"
)

// inspect reads the routing table. The kinds of interfaces are in their names.
func inspect([]net.Interface) map[int]detail {
	details := make(map[int]detail)
	rib, err := route.FetchRIB(unix.AF_UNSPEC, route.RIBTypeRoute, 0)
	if err != nil {
		return details
	}
	messages, err := route.ParseRIB(route.RIBTypeRoute, rib)
	if err != nil {
		return details
	}
	for _, m := range messages {
		m, ok := m.(*route.RouteMessage)
		if !ok || m.Flags&unix.RTF_UP == 0 || m.Flags&unix.RTF_GATEWAY == 0 || len(m.Addrs) <= unix.RTAX_NETMASK {
			continue
		}
		if dst := address(m.Addrs[unix.RTAX_DST]); !dst.IsUnspecified() || !isDefault(m.Addrs[unix.RTAX_NETMASK]) {
			continue
		}
		if via := address(m.Addrs[unix.RTAX_GATEWAY]); via.IsValid() {
			d := details[m.Index]
			d.gateways = append(d.gateways, via)
			details[m.Index] = d
		}
	}
	return details
}

// isDefault reports whether a netmask is that of a default route: none, or
// zeros.
func isDefault(mask route.Addr) bool {
	a := address(mask)
	return !a.IsValid() || a.IsUnspecified()
}

func address(a route.Addr) netip.Addr {
	switch a := a.(type) {
	case *route.Inet4Addr:
		return netip.AddrFrom4(a.IP)
	case *route.Inet6Addr:
		return netip.AddrFrom16(a.IP)
	}
	return netip.Addr{}
}

// Notify implements [Source].
func (System) Notify(context.Context, func()) error { return errors.ErrUnsupported }

// Clock implements [Source]. This system's CLOCK_MONOTONIC goes on in sleep.
func (System) Clock() time.Duration {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &t); err != nil {
		return wallClock()
	}
	return time.Duration(t.Nano())
}
