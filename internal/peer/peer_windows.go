package peer

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"unsafe"

	"golang.org/x/sys/windows"
)

const caseless = true

// Peers asks the system. It is safe for concurrent use. The caller closes it.
type Peers struct {
	user *windows.SID
	tcp  *windows.LazyProc // GetExtendedTcpTable
	udp  *windows.LazyProc // GetExtendedUdpTable
}

// Open finds out whether the system tells who connects; else the error wraps
// [ErrUnknown].
func Open() (*Peers, error) {
	// GetCurrentProcessToken is a pseudo handle that needs no closing.
	own, err := windows.GetCurrentProcessToken().GetTokenUser()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnknown, err)
	}
	lib := windows.NewLazySystemDLL("iphlpapi.dll")
	p := &Peers{user: own.User.Sid, tcp: lib.NewProc("GetExtendedTcpTable"), udp: lib.NewProc("GetExtendedUdpTable")}
	if err := errors.Join(p.tcp.Find(), p.udp.Find()); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnknown, err)
	}
	if err := proves(p); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnknown, err)
	}
	return p, nil
}

// Close does nothing here.
func (*Peers) Close() error { return nil }

// Mine is nil if the other end of c belongs to a program of the user that this process
// runs as, and [ErrOther] if it is known to belong to another's.
func (p *Peers) Mine(c *net.TCPConn) error {
	pid, err := p.process(c)
	if err == nil && !p.mine(pid) {
		err = ErrOther
	}
	return err
}

// MineUDP reports whether a program of this process's user has the UDP socket on this
// machine from which a datagram came to a socket of ours.
func (p *Peers) MineUDP(_, from netip.AddrPort) bool {
	from = plainly(from)
	// MIB_UDPROW_OWNER_PID is address, port, pid; MIB_UDP6ROW_OWNER_PID has 16 bytes of
	// address and a scope before the port. A socket may be bound to no address.
	row, portAt := 12, 4
	family := uintptr(windows.AF_INET)
	if !from.Addr().Is4() {
		row, portAt, family = 28, 20, windows.AF_INET6
	}
	const udpTableOwnerPID = 1
	table, err := read(p.udp, family, udpTableOwnerPID)
	if err != nil {
		return false
	}
	for r := range rows(table, row) {
		ip, _ := netip.AddrFromSlice(r[:from.Addr().BitLen()/8])
		if portOf(r[portAt:]) == from.Port() && (ip == from.Addr() || ip.IsUnspecified()) {
			return p.mine(binary.NativeEndian.Uint32(r[row-4:]))
		}
	}
	return false
}

// Gone is false: it cannot be told.
func (p *Peers) Gone(*net.TCPConn) bool { return false }

// Program is the path of the executable of the process that has the other end of c open,
// if it is one of this process's user; else the error is as of Mine.
func (p *Peers) Program(c *net.TCPConn) (path string, err error) {
	pid, err := p.process(c)
	if err != nil {
		return "", err
	}
	if !p.mine(pid) {
		return "", ErrOther
	}
	h, err := windows.OpenProcess(windows.PROCESS_QUERY_LIMITED_INFORMATION, false, pid)
	if err != nil {
		return "", err
	}
	defer windows.CloseHandle(h)
	var name [windows.MAX_LONG_PATH]uint16
	n := uint32(len(name))
	if err := windows.QueryFullProcessImageName(h, 0, &name[0], &n); err != nil {
		return "", err
	}
	return windows.UTF16ToString(name[:n]), nil
}

// process is the one that has the other end of c.
func (p *Peers) process(c *net.TCPConn) (pid uint32, err error) {
	here, there, ok := ends(c)
	if !ok {
		return 0, ErrUnknown
	}
	// MIB_TCPROW_OWNER_PID is state, local address, port, remote address, port, pid, of
	// 4 bytes each; MIB_TCP6ROW_OWNER_PID is local address (16), scope, port, remote
	// address (16), scope, port, state, pid.
	row, family := 24, uintptr(windows.AF_INET)
	local, localPort, remote, remotePort := 4, 8, 12, 16
	if !here.Addr().Is4() {
		row, family = 56, windows.AF_INET6
		local, localPort, remote, remotePort = 0, 20, 24, 44
	}
	const tcpTableOwnerPIDAll = 5
	table, err := read(p.tcp, family, tcpTableOwnerPIDAll)
	if err != nil {
		return 0, err
	}
	size := here.Addr().BitLen() / 8
	for r := range rows(table, row) {
		from, _ := netip.AddrFromSlice(r[local : local+size])
		to, _ := netip.AddrFromSlice(r[remote : remote+size])
		if netip.AddrPortFrom(from, portOf(r[localPort:])) == there && netip.AddrPortFrom(to, portOf(r[remotePort:])) == here {
			return binary.NativeEndian.Uint32(r[row-4:]), nil
		}
	}
	return 0, errors.New("nobody has the socket any more")
}

// mine reports whether the process is one of this process's user.
func (p *Peers) mine(pid uint32) bool {
	h, err := windows.OpenProcess(windows.PROCESS_QUERY_LIMITED_INFORMATION, false, pid)
	if err != nil {
		return false
	}
	defer windows.CloseHandle(h)
	var token windows.Token
	if windows.OpenProcessToken(h, windows.TOKEN_QUERY, &token) != nil {
		return false
	}
	defer token.Close()
	of, err := token.GetTokenUser()
	return err == nil && of.User.Sid.Equals(p.user)
}

// maxTable bounds a table in bytes: 65536 rows.
const maxTable = 4 << 20

// read returns a table of the system's connections.
func read(proc *windows.LazyProc, family, class uintptr) ([]byte, error) {
	size := uint32(16 << 10)
	for {
		b := make([]byte, size)
		status, _, _ := proc.Call(uintptr(unsafe.Pointer(&b[0])), uintptr(unsafe.Pointer(&size)), 0, family, class, 0)
		switch err := windows.Errno(status); {
		case status == 0:
			return b, nil
		case err != windows.ERROR_INSUFFICIENT_BUFFER || size > maxTable:
			return nil, err
		}
		size += size / 8 // it may have grown meanwhile
	}
}

// rows are those of a table: a count, and then as many rows of that size.
func rows(table []byte, size int) func(yield func([]byte) bool) {
	return func(yield func([]byte) bool) {
		if len(table) < 4 {
			return
		}
		n := binary.NativeEndian.Uint32(table)
		for b := table[4:]; n > 0 && len(b) >= size; n, b = n-1, b[size:] {
			if !yield(b[:size]) {
				return
			}
		}
	}
}

// portOf is a port in the two first of four bytes, in network order.
func portOf(b []byte) uint16 { return binary.BigEndian.Uint16(b) }
