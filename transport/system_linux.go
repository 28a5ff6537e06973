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

// setUnsent limits the bytes that the kernel holds unsent of a TCP connection. An
// error is ignored, as those of tune are.
func setUnsent(raw syscall.RawConn, limit int) {
	_ = raw.Control(func(fd uintptr) {
		_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT, limit)
	})
}

// deliveryRate is how many bytes a second of a TCP connection arrived of late, 0 if
// that is not known. idle says that the path might have taken more: there was less
// to send.
func deliveryRate(raw syscall.RawConn) (rate float64, idle bool) {
	idle = true
	_ = raw.Control(func(fd uintptr) {
		info, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
		if err != nil {
			return
		}
		rate, idle = float64(info.Delivery_rate), info.Delivery_rate == 0 || info.Notsent_bytes == 0
	})
	return rate, idle
}
