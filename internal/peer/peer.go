// Package peer tells which user and which program is at the other end of a connection
// on this machine, so that the local proxy may serve its user's programs, or some of
// them, and be nothing to all others.
//
// # What it rests on
//
//   - Linux: the kernel says which user owns a socket (NETLINK_SOCK_DIAG, sock_diag(7)),
//     and /proc says which process of ours has it open and what that process executes.
//   - Windows: the table of TCP connections names the process of each
//     (GetExtendedTcpTable), whose token names its user.
//   - Elsewhere, and where a sandbox or kernel does not answer, [Open] fails with
//     [ErrUnknown]: it looks at a connection of its own first, and trusts a system that
//     says the truth about that.
//
// # Guarantees
//
//   - Whatever cannot be told is answered with no: a socket that nobody owns any more (its
//     program has closed it), a process that hides what it has open.
//   - What is told of a TCP connection is told of that connection. Its ports could be
//     another program's a moment later; so the answer counts only if the connection
//     stands once it has come.
//   - A user is who made the socket. A program that was handed it by another counts as
//     the one that has it; names are for the honest, since any program may be called
//     firefox.
package peer

import (
	"errors"
	"net"
	"net/netip"
	"path/filepath"
	"strings"
	"time"
)

// ErrUnknown means that the system does not tell who is at the other end.
var ErrUnknown = errors.New("this system does not tell which program connects")

// ErrOther means that the program at the other end is another user's.
var ErrOther = errors.New("the program belongs to another user")

// Named reports whether the executable at path is one of the programs, which are paths or
// names of files. Windows is asked without regard to case and to a missing ".exe".
func Named(path string, programs []string) bool { return named(path, programs, caseless) }

func named(path string, programs []string, caseless bool) bool {
	plain := func(s string) string {
		if !caseless {
			return s
		}
		return strings.TrimSuffix(strings.ReplaceAll(strings.ToLower(s), `\`, "/"), ".exe")
	}
	path = plain(path)
	if path == "" {
		return false
	}
	base := path[strings.LastIndexByte(path, '/')+1:]
	for _, p := range programs {
		p = plain(p)
		if p == base || p == path || strings.Contains(p, "/") && plain(filepath.Clean(p)) == path {
			return true
		}
	}
	return false
}

// ends are the addresses of a connection, seen from here, as IPv4 where they are.
func ends(c net.Conn) (here, there netip.AddrPort, ok bool) {
	local, ok1 := c.LocalAddr().(*net.TCPAddr)
	remote, ok2 := c.RemoteAddr().(*net.TCPAddr)
	if !ok1 || !ok2 {
		return here, there, false
	}
	return plainly(local.AddrPort()), plainly(remote.AddrPort()), true
}

func plainly(a netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(a.Addr().Unmap().WithZone(""), a.Port())
}

// proofTime is how long a connection between two sockets of this process may take.
const proofTime = 5 * time.Second

// proves has a system tell of a connection between two sockets of this process, which
// its user has and nobody else.
func proves(p *Peers) error {
	ln, err := net.ListenTCP("tcp4", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		return err
	}
	defer ln.Close()
	if err := ln.SetDeadline(time.Now().Add(proofTime)); err != nil {
		return err
	}
	far, err := net.DialTCP("tcp4", nil, ln.Addr().(*net.TCPAddr))
	if err != nil {
		return err
	}
	defer far.Close()
	for {
		near, err := ln.AcceptTCP()
		if err != nil {
			return err
		}
		if near.RemoteAddr().String() != far.LocalAddr().String() {
			near.Close() // somebody else was faster
			continue
		}
		err = p.Mine(near)
		near.Close()
		return err
	}
}
