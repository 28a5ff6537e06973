package netns

import (
	"fmt"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

const tunDevice = "/dev/net/tun"

// TUN is a network interface inside a namespace, of which this process is the
// other end. Packets are whole IP packets of at most the MTU with complete
// checksums: no offload is offered to the kernel, so it never hands over
// segments of 64 kB, and what counts packets counts what a wire would carry.
// Methods are safe for concurrent use.
type TUN struct {
	Name string
	MTU  int

	fd, bell int // the bell, an eventfd, rings at Close
	using    sync.RWMutex
	closed   atomic.Bool
}

// TUN adds an interface that is up and has the addresses. The caller closes it,
// which removes it. It is silent until somebody sends: no link-local addresses,
// router solicitations or multicast reports.
func (n *Namespace) TUN(name string, mtu int, addrs ...netip.Prefix) (*TUN, error) {
	t := &TUN{Name: name, MTU: mtu}
	if err := n.Do(t.open); err != nil {
		return nil, fmt.Errorf("TUN %s: %w", name, err)
	}
	lines := []string{
		fmt.Sprintf("link set dev %s mtu %d txqueuelen %d addrgenmode none multicast off", name, mtu, tunQueue),
		fmt.Sprintf("link set dev %s up", name),
	}
	for _, a := range addrs {
		lines = append(lines, addLine(name, a))
	}
	if err := n.ip(lines...); err != nil {
		t.Close()
		return nil, err
	}
	return t, nil
}

// tunQueue is the interface's queue in packets. What a sender's congestion
// window puts out at once must fit, or the lab would lose packets that no link
// or rule dropped: 3 MB at 1500 bytes.
const tunQueue = 2000

func (t *TUN) open() error {
	req, err := unix.NewIfreq(t.Name)
	if err != nil {
		return fmt.Errorf("name: %w", err)
	}
	fd, err := unix.Open(tunDevice, unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return fmt.Errorf("open %s: %w", tunDevice, err)
	}
	req.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, req); err != nil {
		unix.Close(fd)
		return fmt.Errorf("create: %w", err)
	}
	if t.bell, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err != nil {
		unix.Close(fd)
		return os.NewSyscallError("eventfd", err)
	}
	t.fd = fd
	return nil
}

// ReadPacket reads the next packet that the namespace sends into p. After Close
// the error is [os.ErrClosed]. It sleeps in the kernel and not in the runtime's
// poller, so that a thread with real-time priority has its packet at once.
func (t *TUN) ReadPacket(p []byte) (int, error) {
	t.using.RLock()
	defer t.using.RUnlock()
	for !t.closed.Load() {
		n, err := unix.Read(t.fd, p)
		switch err {
		case nil:
			return n, nil
		case unix.EINTR:
		case unix.EAGAIN:
			fds := [2]unix.PollFd{{Fd: int32(t.fd), Events: unix.POLLIN}, {Fd: int32(t.bell), Events: unix.POLLIN}}
			if _, err := unix.Ppoll(fds[:], nil, nil); err != nil && err != unix.EINTR {
				return 0, os.NewSyscallError("ppoll", err)
			}
		default:
			return 0, os.NewSyscallError("read", err)
		}
	}
	return 0, os.ErrClosed
}

// WritePacket delivers a packet to the namespace. The kernel drops one that is
// no IP packet, with an error, and one that nobody inside waits for, without.
func (t *TUN) WritePacket(p []byte) error {
	t.using.RLock()
	defer t.using.RUnlock()
	if t.closed.Load() {
		return os.ErrClosed
	}
	_, err := unix.Write(t.fd, p)
	return os.NewSyscallError("write", err)
}

// Close removes the interface and ends reads and writes. It may be called more
// than once.
func (t *TUN) Close() error {
	if t.closed.Swap(true) {
		return nil
	}
	one := [8]byte{1}
	_, _ = unix.Write(t.bell, one[:])
	t.using.Lock() // until nobody is in the kernel with the descriptor
	defer t.using.Unlock()
	_ = unix.Close(t.bell)
	return os.NewSyscallError("close", unix.Close(t.fd))
}
