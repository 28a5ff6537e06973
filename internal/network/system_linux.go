package network

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// inspect reads /proc/net and /sys. What cannot be read, as on Android, stays
// unknown.
func inspect(interfaces []net.Interface) map[int]detail {
	gateways := make(map[string][]netip.Addr)
	for name, parse := range map[string]func(string) (string, netip.Addr){
		"/proc/net/route":      parseRoute4,
		"/proc/net/ipv6_route": parseRoute6,
	} {
		if f, err := os.Open(name); err == nil {
			readRoutes(f, parse, gateways)
			f.Close()
		}
	}
	details := make(map[int]detail, len(interfaces))
	for _, i := range interfaces {
		details[i.Index] = detail{kind: sysKind("/sys/class/net/" + i.Name), gateways: gateways[i.Name]}
	}
	return details
}

// maxRoutes is how many lines of a routing table are read: a router may have a
// million.
const maxRoutes = 10_000

func readRoutes(r io.Reader, parse func(line string) (device string, gateway netip.Addr), into map[string][]netip.Addr) {
	lines := bufio.NewScanner(r)
	for n := 0; n < maxRoutes && lines.Scan(); n++ {
		if device, gateway := parse(lines.Text()); gateway.IsValid() {
			into[device] = append(into[device], gateway)
		}
	}
}

// parseRoute4 returns the gateway of a line of /proc/net/route if it is a
// default route, or half of one, as some VPNs put over the system's own: device,
// destination, gateway, flags, three numbers, mask, addresses as words of this
// machine's byte order.
func parseRoute4(line string) (device string, gateway netip.Addr) {
	f := strings.Fields(line)
	if len(f) < 8 || f[7] != "00000000" && f[7] != "00000080" && f[7] != "80000000" {
		return "", netip.Addr{}
	}
	via, err := strconv.ParseUint(f[2], 16, 32)
	flags, ferr := strconv.ParseUint(f[3], 16, 32)
	if err != nil || ferr != nil || flags&unix.RTF_UP == 0 || flags&unix.RTF_GATEWAY == 0 {
		return "", netip.Addr{}
	}
	var b [4]byte
	binary.NativeEndian.PutUint32(b[:], uint32(via))
	return f[0], netip.AddrFrom4(b)
}

// parseRoute6 is parseRoute4 for /proc/net/ipv6_route: destination and length,
// source and length, next hop, three numbers, flags, device.
func parseRoute6(line string) (device string, gateway netip.Addr) {
	f := strings.Fields(line)
	if len(f) < 10 || f[1] != "00" && f[1] != "01" {
		return "", netip.Addr{}
	}
	flags, err := strconv.ParseUint(f[8], 16, 32)
	if err != nil || flags&unix.RTF_UP == 0 || flags&unix.RTF_GATEWAY == 0 {
		return "", netip.Addr{}
	}
	via, err := hex.DecodeString(f[4])
	if err != nil {
		return "", netip.Addr{}
	}
	gateway, _ = netip.AddrFromSlice(via)
	return f[9], gateway
}

// sysKind looks at an interface's folder.
func sysKind(folder string) Kind {
	exists := func(name string) bool {
		_, err := os.Stat(folder + "/" + name)
		return err == nil
	}
	uevent, _ := os.ReadFile(folder + "/uevent")
	switch {
	case exists("tun_flags"), strings.Contains(string(uevent), "DEVTYPE=wireguard"):
		return Tunnel
	case exists("phy80211"), exists("wireless"), strings.Contains(string(uevent), "DEVTYPE=wlan"):
		return WiFi
	case strings.Contains(string(uevent), "DEVTYPE=wwan"):
		return Mobile
	}
	return Unknown
}

// noticeGroups are the notices of links, addresses, routes and rules.
const noticeGroups = unix.RTMGRP_LINK | unix.RTMGRP_IPV4_IFADDR | unix.RTMGRP_IPV6_IFADDR |
	unix.RTMGRP_IPV4_ROUTE | unix.RTMGRP_IPV6_ROUTE | unix.RTMGRP_IPV4_RULE | 1<<(unix.RTNLGRP_IPV6_RULE-1)

// Notify implements [Source], by netlink. Android forbids it.
func (System) Notify(ctx context.Context, hint func()) error {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_ROUTE)
	if err != nil {
		return os.NewSyscallError("netlink socket", err)
	}
	f := os.NewFile(uintptr(fd), "netlink")
	defer f.Close()
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: noticeGroups}); err != nil {
		return os.NewSyscallError("netlink bind", err)
	}
	stop := context.AfterFunc(ctx, func() { _ = f.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	buf := make([]byte, 4096) // what does not fit is cut off: only that it came matters
	for {
		_, err := f.Read(buf)
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case err == nil, errors.Is(err, unix.ENOBUFS): // that is: too many to keep
			hint()
		default:
			return err
		}
	}
}

// Clock implements [Source].
func (System) Clock() time.Duration {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &t); err != nil {
		return wallClock()
	}
	return time.Duration(t.Nano())
}
