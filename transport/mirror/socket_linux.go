package mirror

import (
	"net"
	"syscall"

	"golang.org/x/sys/unix"
)

// awaitReset blocks after EOF was read from c until the peer resets the
// connection, and reports that; it returns false once c is closed or its read
// deadline passes. After EOF Go shows no RST, but the poller wakes for it.
func awaitReset(c net.Conn, _ <-chan struct{}) bool {
	sc, ok := c.(syscall.Conn)
	if !ok {
		return false
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return false
	}
	wasReset := false
	_ = raw.Read(func(fd uintptr) bool {
		if e, err := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_ERROR); err != nil || e != 0 {
			wasReset = true
			return true
		}
		return false
	})
	return wasReset
}

// forget lets the kernel keep c no longer than a second when it is closed after
// its own FIN and before the peer's.
func forget(c net.Conn) {
	sc, ok := c.(syscall.Conn)
	if !ok {
		return
	}
	if raw, err := sc.SyscallConn(); err == nil {
		_ = raw.Control(func(fd uintptr) {
			_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_LINGER2, 1)
		})
	}
}

// canRead is whether readDescriptor works here.
const canRead = true

// readDescriptor reads what a descriptor that does not block has.
func readDescriptor(fd uintptr, b []byte) (int, error) { return syscall.Read(int(fd), b) }

// somethingToRead reports whether a read would return at once.
func somethingToRead(fd uintptr) bool {
	var one [1]byte
	_, _, err := unix.Recvfrom(int(fd), one[:], unix.MSG_PEEK|unix.MSG_DONTWAIT)
	return err != unix.EAGAIN
}
