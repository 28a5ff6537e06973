package quic

import (
	"crypto/rand"
	"encoding/binary"
	"net"
	"sync"

	"golang.org/x/sys/unix"

	"busel/obfs/scramble"
)

// maxSegments is more than quic-go sends in one call: 20 KiB of at least 1200.
const maxSegments = 32

// batchSocket scrambles whole batches: it reads many datagrams a call and
// leaves it to the kernel to cut what is written (UDP_SEGMENT). quic-go uses
// ReadBatch and WriteMsgUDP only; strangers' datagrams get no further than here.
type batchSocket struct {
	*net.UDPConn
	*scrambler
	*reader
	out sync.Pool // of *outgoing
}

// outgoing is the scratch of one write.
type outgoing struct {
	random [maxSegments * randomLen]byte
	oob    [128]byte
	data   []byte
}

func newUDPSocket(c *net.UDPConn, s *scrambler) net.PacketConn {
	b := &batchSocket{UDPConn: c, scrambler: s, reader: newReader(c, maxDatagram, s.take)}
	b.out.New = func() any { return &outgoing{data: make([]byte, 0, 32<<10)} }
	return b
}

// WriteMsgUDP sends one packet, or several of one size but for the last if oob
// says so.
func (b *batchSocket) WriteMsgUDP(packets, oob []byte, addr *net.UDPAddr) (n, oobn int, err error) {
	o := b.out.Get().(*outgoing)
	defer b.out.Put(o)
	segmentation, control := splitControl(o.oob[:0], oob)
	size, count := len(packets), 1
	if segmentation != nil {
		size = int(binary.NativeEndian.Uint16(segmentation[segmentSizeAt:]))
		count = (len(packets) + size - 1) / size
	}
	if count > maxSegments {
		return 0, 0, unix.EMSGSIZE
	}
	if _, err := rand.Read(o.random[:count*randomLen]); err != nil {
		return 0, 0, err
	}
	o.data = o.data[:0]
	for i := range count {
		packet, random := packets[i*size:min((i+1)*size, len(packets))], o.random[i*randomLen:(i+1)*randomLen]
		if count > 1 { // all must have one size, the last at most: the least filler
			clear(random[scramble.NonceLen:])
		}
		o.data = b.seal(o.data, packet, random)
		if i == 0 && count > 1 {
			control = append(control, segmentation...)
			binary.NativeEndian.PutUint16(control[len(control)-len(segmentation)+segmentSizeAt:], uint16(len(o.data)))
		}
	}
	if _, _, err := b.UDPConn.WriteMsgUDP(o.data, control, addr); err != nil {
		if err = b.unsent(err); err != nil {
			return 0, 0, err
		}
	}
	return len(packets), len(oob), nil
}

// segmentSizeAt is where the size stands in a UDP_SEGMENT message.
var segmentSizeAt = unix.CmsgSpace(0)

// splitControl takes control messages apart: the one that says the size of
// segments, nil if there is none, and the others but for ECN marks, appended to
// dst. Marks are rare outside of QUIC and would be a print; QUIC does without.
func splitControl(dst, oob []byte) (segmentation, rest []byte) {
	rest = dst
	for len(oob) > 0 {
		head, data, remainder, err := unix.ParseOneSocketControlMessage(oob)
		if err != nil {
			break
		}
		msg := oob[:len(oob)-len(remainder)]
		switch {
		case head.Level == unix.IPPROTO_UDP && head.Type == unix.UDP_SEGMENT:
			if len(data) >= 2 && binary.NativeEndian.Uint16(data) > 0 {
				segmentation = msg
			}
		case head.Level == unix.IPPROTO_IP && head.Type == unix.IP_TOS,
			head.Level == unix.IPPROTO_IPV6 && head.Type == unix.IPV6_TCLASS:
		default:
			rest = append(rest, msg...)
		}
		oob = remainder
	}
	return segmentation, rest
}

// unmark takes the ECN mark out of control messages.
func unmark(oob []byte) {
	for len(oob) > 0 {
		head, data, remainder, err := unix.ParseOneSocketControlMessage(oob)
		if err != nil {
			return
		}
		if head.Level == unix.IPPROTO_IP && head.Type == unix.IP_TOS || head.Level == unix.IPPROTO_IPV6 && head.Type == unix.IPV6_TCLASS {
			clear(data)
		}
		oob = remainder
	}
}

// joins asks the kernel to join datagrams.
func joins(c *net.UDPConn) bool {
	raw, err := c.SyscallConn()
	if err != nil {
		return false
	}
	var no error
	err = raw.Control(func(fd uintptr) { no = unix.SetsockoptInt(int(fd), unix.IPPROTO_UDP, unix.UDP_GRO, 1) })
	return err == nil && no == nil
}

// joinedOf is the size of the datagrams that were joined to one of n bytes, by its control
// messages; the last may be shorter.
func joinedOf(oob []byte, n int) int {
	for len(oob) > 0 {
		head, data, rest, err := unix.ParseOneSocketControlMessage(oob)
		if err != nil {
			break
		}
		if head.Level == unix.IPPROTO_UDP && head.Type == unix.UDP_GRO && len(data) >= 4 {
			if size := int(int32(binary.NativeEndian.Uint32(data))); size > 0 {
				return size
			}
		}
		oob = rest
	}
	return n
}
