package front

import (
	"errors"
	"fmt"

	"busel/internal/flow"
)

// maxUDPHeader is the longest header of a datagram in bytes.
const maxUDPHeader = 3 + flow.MaxAddrLen

var (
	errUDPHeader = errors.New("UDP header is malformed")
	// errFragment refuses fragments, as RFC 1928, section 7 permits.
	errFragment = errors.New("UDP datagram is a fragment")
)

// parseUDPHeader reads the header of a program's datagram (RFC 1928, section 7)
// and returns where it is to go, and the header's length:
//
//	0 (2 bytes) | fragment number, 0 | address in SOCKS5 form | payload
//
// The payload may be empty. What parses, [appendUDPHeader] returns to the same
// bytes.
func parseUDPHeader(b []byte) (to flow.Addr, n int, err error) {
	switch {
	case len(b) < 3 || b[0] != 0 || b[1] != 0:
		return flow.Addr{}, 0, errUDPHeader
	case b[2] != 0:
		return flow.Addr{}, 0, errFragment
	}
	to, n, err = flow.ParseAddr(b[3:])
	if err != nil {
		return flow.Addr{}, 0, fmt.Errorf("%w: %w", errUDPHeader, err)
	}
	return to, 3 + n, nil
}

// appendUDPHeader appends the header of a datagram from an address.
func appendUDPHeader(b []byte, from flow.Addr) []byte {
	return from.Append(append(b, 0, 0, 0))
}
