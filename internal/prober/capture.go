//go:build linux

package prober

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"time"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// segment is one TCP segment from the server.
type segment struct {
	flags byte
	size  int
	kinds string        // TCP options of the SYN-ACK, or that it asks for a sign of life
	at    time.Duration // on the kernel's clock
}

// like reports whether two segments look alike but for their time and for what
// up to two tickets vary.
func (s segment) like(t segment) bool {
	if d := s.size - t.size; s.size > 250 && t.size > 250 && d%16 == 0 && d >= -32 && d <= 32 {
		t.size = s.size
	}
	return s.String() == t.String()
}

func (s segment) String() string {
	var b strings.Builder
	for i, name := range []string{"FIN", "SYN", "RST"} {
		if s.flags&(1<<i) != 0 {
			b.WriteString(name + " ")
		}
	}
	fmt.Fprintf(&b, "%d%s", s.size, s.kinds)
	return b.String()
}

// sniffer sees what a server sends to us, for root only. It looks behind the
// header of the link, which a TUN does not have, and at all interfaces of the
// network namespace that it was made in.
type sniffer struct{ fd int } // -1 if we may not

// CanCapture reports whether we may see segments, which takes root.
func CanCapture() bool {
	s, err := capture("127.0.0.1:1")
	if err != nil {
		return false
	}
	defer s.close()
	return s.fd >= 0
}

// capture starts to listen for what the server at address sends. Without the
// right to it, and for IPv6, it sees nothing.
func capture(address string) (*sniffer, error) {
	server, err := netip.ParseAddrPort(address)
	if err != nil {
		return nil, err
	}
	if !server.Addr().Is4() {
		return &sniffer{-1}, nil
	}
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if errors.Is(err, unix.EPERM) {
		return &sniffer{-1}, nil
	}
	if err != nil {
		return nil, err
	}
	ip := server.Addr().As4()
	filter, err := bpf.Assemble([]bpf.Instruction{
		bpf.LoadAbsolute{Off: 9, Size: 1}, // protocol
		bpf.JumpIf{Val: unix.IPPROTO_TCP, SkipFalse: 6},
		bpf.LoadAbsolute{Off: 12, Size: 4}, // source
		bpf.JumpIf{Val: binary.BigEndian.Uint32(ip[:]), SkipFalse: 4},
		bpf.LoadMemShift{Off: 0}, // length of the IP header
		bpf.LoadIndirect{Off: 0, Size: 2},
		bpf.JumpIf{Val: uint32(server.Port()), SkipFalse: 1},
		bpf.RetConstant{Val: 128},
		bpf.RetConstant{Val: 0},
	})
	if err != nil {
		return nil, errors.Join(err, unix.Close(fd))
	}
	program := make([]unix.SockFilter, len(filter))
	for i, f := range filter {
		program[i] = unix.SockFilter{Code: f.Op, Jt: f.Jt, Jf: f.Jf, K: f.K}
	}
	// In network order. Of this protocol a packet socket is shown what comes in,
	// of all of them (ETH_P_ALL) also what goes out.
	network := binary.NativeEndian.Uint16([]byte{unix.ETH_P_IP >> 8, unix.ETH_P_IP & 0xff})
	err = errors.Join(
		unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]}),
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 4<<20),
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TIMESTAMPNS, 1),
		unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: network}),
	)
	if err != nil {
		return nil, errors.Join(err, unix.Close(fd))
	}
	return &sniffer{fd}, nil
}

func (s *sniffer) close() {
	if s.fd >= 0 {
		_ = unix.Close(s.fd)
	}
}

// sentTo returns what was sent so far to client's port, without bare ACKs but
// for keepalive probes.
func (s *sniffer) sentTo(client net.Addr) (out []segment) {
	if s.fd < 0 {
		return nil
	}
	packet, control := make([]byte, 256), make([]byte, 128)
	var next uint32 // sequence number that is due: anything older is sent again
	var link int    // interface of the first packet: the others of a bridge or tunnel repeat it
	for {
		n, c, _, from, err := unix.Recvmsg(s.fd, packet, control, 0)
		if err != nil {
			return out
		}
		ip := packet[:n]
		head := int(ip[0]&15) * 4
		tcp := ip[head:]
		if int(binary.BigEndian.Uint16(tcp[2:])) != client.(*net.TCPAddr).Port {
			continue
		}
		if at, ok := from.(*unix.SockaddrLinklayer); ok && link == 0 {
			link = at.Ifindex
		} else if ok && at.Ifindex != link {
			continue
		}
		options := int(tcp[12]>>4)*4 - 20
		size := int(binary.BigEndian.Uint16(ip[2:])) - head - 20 - options
		g := segment{flags: tcp[13] & 7, size: size, at: stamp(control[:c])}
		seq := binary.BigEndian.Uint32(tcp[4:])
		end := seq + uint32(size) + uint32(g.flags&1)
		switch {
		case g.flags&2 != 0:
			next = seq + 1
		case g.flags&4 == 0:
			if size == 0 && g.flags == 0 && seq == next-1 {
				g.kinds = " keepalive" // an ACK of what was sent before (RFC 9293, section 3.8.4)
			} else if int32(end-next) <= 0 {
				continue
			}
			if g.kinds == "" {
				next = end
			}
		}
		if g.flags&2 != 0 {
			g.kinds = fmt.Sprintf(" options %s", optionKinds(tcp[20:20+options]))
		}
		if g.flags != 0 || g.size > 0 || g.kinds != "" {
			out = append(out, g)
		}
	}
}

// stamp is when the kernel saw a packet.
func stamp(control []byte) time.Duration {
	messages, err := unix.ParseSocketControlMessage(control)
	if err != nil {
		return 0
	}
	for _, m := range messages {
		if m.Header.Level == unix.SOL_SOCKET && m.Header.Type == unix.SCM_TIMESTAMPNS && len(m.Data) >= 16 {
			return time.Duration(binary.NativeEndian.Uint64(m.Data))*time.Second + time.Duration(binary.NativeEndian.Uint64(m.Data[8:]))
		}
	}
	return 0
}

// optionKinds lists TCP options; a timestamp's value is its own.
func optionKinds(b []byte) string {
	var out []string
	for len(b) > 0 {
		switch {
		case b[0] == 1:
			out, b = append(out, "nop"), b[1:]
		case b[0] == 0 || len(b) < 2 || int(b[1]) < 2 || int(b[1]) > len(b):
			return strings.Join(append(out, "end"), ",")
		case b[0] == 8:
			out, b = append(out, "timestamp"), b[b[1]:]
		default:
			out, b = append(out, fmt.Sprintf("%d:%x", b[0], b[2:b[1]])), b[b[1]:]
		}
	}
	return strings.Join(out, ",")
}

// together is the time within which two segments of the cover reach a
// forwarder as one: it reads what has come when it wakes, and so does every
// reverse proxy and load balancer. A flight is one write and so one segment,
// and stays one.
const together = 2 * time.Millisecond

// mergeLike merges segments of a that left together where b has them in one.
// It merges and never splits, and no FIN or RST disappears.
func mergeLike(a, b []segment) (out []segment) {
	for i := 0; i < len(a); i++ {
		s := a[i]
		if len(out) < len(b) {
			for want := b[len(out)]; s.flags == 0 && !s.like(want) && s.size < want.size && i+1 < len(a) && a[i+1].flags == 0 && a[i+1].at-a[i].at < together; i++ {
				s.size += a[i+1].size
			}
		}
		out = append(out, s)
	}
	return out
}
