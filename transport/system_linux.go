package transport

import (
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// tune sets what accepted sockets inherit from their listener. Errors are
// ignored: a kernel without BBR or the limit works, only slower.
func tune(network, _ string, c syscall.RawConn) error {
	if !strings.HasPrefix(network, "tcp") {
		return nil
	}
	return c.Control(func(fd uintptr) {
		_ = unix.SetsockoptString(int(fd), unix.IPPROTO_TCP, unix.TCP_CONGESTION, "bbr")
		_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT, notSentLowat)
	})
}
