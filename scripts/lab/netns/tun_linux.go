package netns

import (
	"fmt"
	"net/netip"
	"os"

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
	file *os.File
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
	// Only now: a descriptor without an interface cannot be polled.
	t.file = os.NewFile(uintptr(fd), tunDevice)
	return nil
}

// ReadPacket reads the next packet that the namespace sends into p. After Close
// the error is [os.ErrClosed].
func (t *TUN) ReadPacket(p []byte) (int, error) { return t.file.Read(p) }

// WritePacket delivers a packet to the namespace. The kernel drops one that is
// no IP packet, with an error, and one that nobody inside waits for, without.
func (t *TUN) WritePacket(p []byte) error {
	_, err := t.file.Write(p)
	return err
}

// Close removes the interface and ends reads and writes.
func (t *TUN) Close() error { return t.file.Close() }
