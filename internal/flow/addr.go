package flow

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
)

// Address types of RFC 1928, section 5.
const (
	atypIPv4 = 1
	atypName = 3
	atypIPv6 = 4
)

// MaxAddrLen is the longest SOCKS5 form of an [Addr] in bytes.
const MaxAddrLen = 1 + 1 + 255 + 2

// Errors of [ParseAddr] and [SplitHostPort].
var (
	// ErrShortAddr means that the bytes end inside the address.
	ErrShortAddr = errors.New("address is cut short")
	// ErrBadAddr means that no continuation makes it an address.
	ErrBadAddr = errors.New("address is malformed")
)

// Addr is where a stream or datagram goes: a host name, resolved by the relay
// and nowhere else, or an IP address, and a port. It is comparable. Exactly one
// of Name and IP is set; IP is unmapped and has no zone.
type Addr struct {
	Name string // 1..255 bytes without blanks and control characters, as the application gave it
	IP   netip.Addr
	Port uint16
}

// AddrFrom turns an IP address and port into an Addr.
func AddrFrom(ap netip.AddrPort) Addr {
	return Addr{IP: ap.Addr().Unmap().WithZone(""), Port: ap.Port()}
}

// MakeAddr returns the address of host, a name or IP literal of either family
// without brackets, and port.
func MakeAddr(host string, port uint16) (Addr, error) {
	if ip, err := netip.ParseAddr(host); err == nil {
		return AddrFrom(netip.AddrPortFrom(ip, port)), nil
	}
	if !validName(host) {
		return Addr{}, fmt.Errorf("%w: host name of %d bytes", ErrBadAddr, len(host))
	}
	return Addr{Name: host, Port: port}, nil
}

// SplitHostPort parses "host:port" or "[v6]:port".
func SplitHostPort(s string) (Addr, error) {
	host, portText, err := net.SplitHostPort(s)
	if err != nil {
		return Addr{}, fmt.Errorf("%w: want host:port", ErrBadAddr)
	}
	port, err := strconv.ParseUint(portText, 10, 16)
	if err != nil {
		return Addr{}, fmt.Errorf("%w: port must be 0..65535", ErrBadAddr)
	}
	return MakeAddr(host, uint16(port))
}

func validName(s string) bool {
	if len(s) == 0 || len(s) > 255 {
		return false
	}
	for i := range len(s) {
		if s[i] <= ' ' || s[i] == 0x7f {
			return false
		}
	}
	return true
}

// IsValid reports whether a is a usable address.
func (a Addr) IsValid() bool {
	if a.Name != "" {
		return !a.IP.IsValid() && validName(a.Name)
	}
	return a.IP.IsValid()
}

// Host is the name or the IP address without brackets.
func (a Addr) Host() string {
	if a.Name != "" {
		return a.Name
	}
	return a.IP.String()
}

// String is host:port, with brackets around an IPv6 address.
func (a Addr) String() string {
	return net.JoinHostPort(a.Host(), strconv.Itoa(int(a.Port)))
}

// Network is "busel": Addr is a [net.Addr] that is never dialled as it is.
func (a Addr) Network() string { return "busel" }

// Append appends the SOCKS5 form (RFC 1928, section 5): type, address, port.
// An IPv4 address inside an IPv6 one is unwrapped and a zone is dropped. An
// invalid address appends 0.0.0.0, which no relay dials.
func (a Addr) Append(b []byte) []byte {
	switch ip := a.IP.Unmap(); {
	case !a.IsValid():
		b = append(b, atypIPv4, 0, 0, 0, 0)
	case a.Name != "":
		b = append(b, atypName, byte(len(a.Name)))
		b = append(b, a.Name...)
	case ip.Is6():
		raw := ip.As16()
		b = append(b, atypIPv6)
		b = append(b, raw[:]...)
	default:
		raw := ip.As4()
		b = append(b, atypIPv4)
		b = append(b, raw[:]...)
	}
	return binary.BigEndian.AppendUint16(b, a.Port)
}

// ParseAddr reads a SOCKS5 form address from the start of b and returns it with
// its length. The error is [ErrShortAddr] if more bytes are needed, and
// [ErrBadAddr] if no more bytes could help. What parses, [Addr.Append] returns
// to the same bytes.
func ParseAddr(b []byte) (a Addr, n int, err error) {
	if len(b) == 0 {
		return Addr{}, 0, ErrShortAddr
	}
	switch b[0] {
	case atypIPv4:
		n = 1 + 4
	case atypIPv6:
		n = 1 + 16
	case atypName:
		if len(b) < 2 {
			return Addr{}, 0, ErrShortAddr
		}
		n = 2 + int(b[1])
	default:
		return Addr{}, 0, fmt.Errorf("%w: type %d", ErrBadAddr, b[0])
	}
	if len(b) < n+2 {
		return Addr{}, 0, ErrShortAddr
	}
	switch b[0] {
	case atypName:
		a.Name = string(b[2:n])
		if !validName(a.Name) {
			return Addr{}, 0, fmt.Errorf("%w: host name", ErrBadAddr)
		}
	default:
		a.IP, _ = netip.AddrFromSlice(b[1:n])
		if a.IP.Is4In6() {
			return Addr{}, 0, fmt.Errorf("%w: IPv4 in an IPv6 address", ErrBadAddr)
		}
	}
	a.Port = binary.BigEndian.Uint16(b[n:])
	return a, n + 2, nil
}
