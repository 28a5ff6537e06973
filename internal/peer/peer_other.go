//go:build !linux && !windows

package peer

import (
	"net"
	"net/netip"
)

const caseless = false

// Peers would ask the system, which does not tell.
type Peers struct{}

// Open fails with [ErrUnknown].
func Open() (*Peers, error) { return nil, ErrUnknown }

// Close does nothing.
func (*Peers) Close() error { return nil }

// Mine fails with [ErrUnknown].
func (*Peers) Mine(*net.TCPConn) error { return ErrUnknown }

// MineUDP reports false.
func (*Peers) MineUDP(_, _ netip.AddrPort) bool { return false }

// Program fails with [ErrUnknown].
func (*Peers) Program(*net.TCPConn) (path string, err error) { return "", ErrUnknown }

// Gone is false: it cannot be told.
func (*Peers) Gone(*net.TCPConn) bool { return false }
