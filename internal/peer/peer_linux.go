package peer

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const caseless = false

// Peers asks the system. It is safe for concurrent use. The caller closes it.
type Peers struct {
	uid     uint32
	udpMute bool // the kernel does not tell of UDP, which is a module of its own

	mu  sync.Mutex // one question at a time
	fd  int        // -1 once closed
	seq uint32
	buf [1024]byte

	search sync.Mutex
	recent []int // processes that were found lately, the latest first
}

// Of looking for processes.
const (
	maxRecent = 8    // processes that are looked at first
	maxFDs    = 8192 // descriptors of a process that are looked at
	// answerTime is how long an answer is waited for. The kernel gives it before the
	// question's system call returns.
	answerTime = time.Second
)

// Open finds out whether the system tells who connects; else the error wraps
// [ErrUnknown].
func Open() (*Peers, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_SOCK_DIAG)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnknown, err)
	}
	wait := unix.NsecToTimeval(int64(answerTime))
	err = unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &wait)
	p := &Peers{fd: fd, uid: uint32(os.Geteuid())}
	if err == nil {
		err = proves(p)
	}
	if err != nil {
		p.Close()
		return nil, fmt.Errorf("%w: %w", ErrUnknown, err)
	}
	p.udpMute = !p.provesUDP()
	return p, nil
}

// provesUDP reports whether the kernel tells of a UDP socket of this process.
func (p *Peers) provesUDP() bool {
	c, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		return false
	}
	defer c.Close()
	at := c.LocalAddr().(*net.UDPAddr).AddrPort()
	return p.MineUDP(at, at)
}

// Close ends all questions: the answer to later ones is no.
func (p *Peers) Close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.fd < 0 {
		return nil
	}
	err := unix.Close(p.fd)
	p.fd = -1
	return err
}

// Mine is nil if the other end of c belongs to a program of the user that this process
// runs as, and [ErrOther] if it is known to belong to another's.
func (p *Peers) Mine(c *net.TCPConn) error {
	s, err := p.socket(c)
	if err == nil && s.uid != p.uid {
		err = ErrOther
	}
	return err
}

// MineUDP reports whether a program of this process's user has the UDP socket on this
// machine from which a datagram came to a socket of ours. Where the kernel tells of TCP
// only it reports true.
func (p *Peers) MineUDP(here, from netip.AddrPort) bool {
	if p.udpMute {
		return true
	}
	// For UDP the question names the socket that is sought as the destination
	// (udp_dump_one in the kernel's net/ipv4/udp_diag.c: "src and dst are swapped for
	// historical reasons").
	s, err := p.ask(unix.IPPROTO_UDP, plainly(here), plainly(from))
	return err == nil && s.uid == p.uid
}

// Program is the path of the executable of the process that has the other end of c open,
// if it is one of this process's user; else the error is as of Mine.
func (p *Peers) Program(c *net.TCPConn) (path string, err error) {
	s, err := p.socket(c)
	if err != nil {
		return "", err
	}
	if s.uid != p.uid {
		return "", ErrOther
	}
	return p.holder(fmt.Sprintf("socket:[%d]", s.inode))
}

var (
	errGone   = errors.New("nobody has the socket any more")
	errHidden = errors.New("no process shows that it has the socket")
)

// Gone reports whether the program at the other end of c has closed it: one that only has
// nothing more to say has its socket still. c's own end must stand. It is false if that
// cannot be told.
func (p *Peers) Gone(c *net.TCPConn) bool {
	_, err := p.socket(c)
	return errors.Is(err, errGone) || errors.Is(err, unix.ENOENT)
}

// socket is what the kernel knows of the other end of c.
func (p *Peers) socket(c *net.TCPConn) (socket, error) {
	here, there, ok := ends(c)
	if !ok {
		return socket{}, errGone
	}
	s, err := p.ask(unix.IPPROTO_TCP, there, here)
	if err != nil {
		return socket{}, err
	}
	if !stands(c) {
		return socket{}, errGone
	}
	return s, nil
}

// stands reports whether c has not been reset: then its addresses are still its own, and
// nobody else can have been asked about.
func stands(c *net.TCPConn) bool {
	raw, err := c.SyscallConn()
	if err != nil {
		return false
	}
	const established, closeWait = 1, 8 // net/tcp_states.h
	var info *unix.TCPInfo
	var failed error
	err = raw.Control(func(fd uintptr) {
		info, failed = unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
	})
	return err == nil && failed == nil && (info.State == established || info.State == closeWait)
}

// A socket as the kernel describes it.
type socket struct{ uid, inode uint32 }

// Lengths of linux/inet_diag.h and linux/netlink.h.
const (
	headerLen  = 16 // struct nlmsghdr
	requestLen = 56 // struct inet_diag_req_v2
	messageLen = 72 // struct inet_diag_msg
)

// question is the request for the one socket with these addresses (sock_diag(7)).
func question(protocol uint8, seq uint32, src, dst netip.AddrPort) []byte {
	b := make([]byte, headerLen+requestLen)
	native := binary.NativeEndian
	native.PutUint32(b, uint32(len(b)))
	native.PutUint16(b[4:], unix.SOCK_DIAG_BY_FAMILY)
	native.PutUint16(b[6:], unix.NLM_F_REQUEST)
	native.PutUint32(b[8:], seq)
	req := b[headerLen:]
	req[0], req[1] = unix.AF_INET6, protocol
	if src.Addr().Is4() {
		req[0] = unix.AF_INET
	}
	native.PutUint32(req[4:], ^uint32(0)) // any state
	id := req[8:]                         // struct inet_diag_sockid
	binary.BigEndian.PutUint16(id, src.Port())
	binary.BigEndian.PutUint16(id[2:], dst.Port())
	copy(id[4:20], src.Addr().AsSlice())
	copy(id[20:36], dst.Addr().AsSlice())
	native.PutUint64(id[40:], ^uint64(0)) // INET_DIAG_NOCOOKIE
	return b
}

// answer reads the kernel's answer to the question of that number.
func answer(b []byte, seq uint32) (socket, error) {
	native := binary.NativeEndian
	if len(b) < headerLen {
		return socket{}, errAnswer
	}
	length, kind, number := native.Uint32(b), native.Uint16(b[4:]), native.Uint32(b[8:])
	if uint64(length) > uint64(len(b)) || length < headerLen || number != seq {
		return socket{}, errAnswer
	}
	body := b[headerLen:length]
	switch {
	case kind == unix.NLMSG_ERROR && len(body) >= 4:
		if errno := -int32(native.Uint32(body)); errno > 0 {
			return socket{}, unix.Errno(errno)
		}
		return socket{}, errAnswer
	case kind != unix.SOCK_DIAG_BY_FAMILY || len(body) < messageLen:
		return socket{}, errAnswer
	}
	s := socket{uid: native.Uint32(body[64:]), inode: native.Uint32(body[68:])}
	if s.inode == 0 {
		// Closed by its program, and its user forgotten: the kernel says root.
		return socket{}, errGone
	}
	return s, nil
}

var errAnswer = errors.New("the kernel's answer is not understood")

// ask is the kernel's answer about one socket.
func (p *Peers) ask(protocol uint8, src, dst netip.AddrPort) (socket, error) {
	if src.Addr().Is4() != dst.Addr().Is4() {
		return socket{}, errGone
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.fd < 0 {
		return socket{}, net.ErrClosed
	}
	p.seq++
	q := question(protocol, p.seq, src, dst)
	if err := unix.Sendto(p.fd, q, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return socket{}, err
	}
	for {
		n, from, err := unix.Recvfrom(p.fd, p.buf[:], 0)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return socket{}, err
		}
		// Other processes may send to the socket, too.
		if sender, ok := from.(*unix.SockaddrNetlink); !ok || sender.Pid != 0 {
			continue
		}
		s, err := answer(p.buf[:n], p.seq)
		if errors.Is(err, errAnswer) && n >= headerLen && binary.NativeEndian.Uint32(p.buf[8:]) != p.seq {
			continue // to a question that was given up
		}
		return s, err
	}
}

// holder is the executable of a process of this user that has the file open. Those that
// had one lately are looked at first: a browser opens connections by the hundred.
func (p *Peers) holder(file string) (path string, err error) {
	p.search.Lock()
	defer p.search.Unlock()
	for i, pid := range p.recent {
		if path, ok := p.holds(pid, file); ok {
			copy(p.recent[1:i+1], p.recent[:i])
			p.recent[0] = pid
			return path, nil
		}
	}
	proc, err := os.Open("/proc")
	if err != nil {
		return "", err
	}
	defer proc.Close()
	names, err := proc.Readdirnames(-1)
	if err != nil {
		return "", err
	}
	for _, name := range slices.Backward(names) { // the newest are last
		pid, err := strconv.Atoi(name)
		if err != nil || slices.Contains(p.recent, pid) {
			continue
		}
		if path, ok := p.holds(pid, file); ok {
			p.recent = slices.Insert(p.recent, 0, pid)[:min(len(p.recent)+1, maxRecent)]
			return path, nil
		}
	}
	return "", errHidden
}

// holds reports whether the process has the file open, and what it executes.
func (p *Peers) holds(pid int, file string) (path string, ok bool) {
	dir := "/proc/" + strconv.Itoa(pid)
	var of unix.Stat_t
	if unix.Stat(dir, &of) != nil || of.Uid != p.uid {
		return "", false
	}
	fds, err := os.Open(dir + "/fd")
	if err != nil {
		return "", false
	}
	defer fds.Close()
	names, _ := fds.Readdirnames(maxFDs) // those that were read
	at := slices.IndexFunc(names, func(name string) bool { return link(int(fds.Fd()), name, file) })
	if at < 0 {
		return "", false
	}
	path, err = os.Readlink(dir + "/exe")
	// Of a process that ended meanwhile the number may be another's.
	if err != nil || !link(int(fds.Fd()), names[at], file) {
		return "", false
	}
	// An update has replaced the file (proc_pid_exe(5)).
	return strings.TrimSuffix(path, " (deleted)"), true
}

// link reports whether the symbolic link leads to the file.
func link(dir int, name, file string) bool {
	var target [64]byte // longer than "socket:[4294967295]"
	n, err := unix.Readlinkat(dir, name, target[:])
	return err == nil && string(target[:n]) == file
}
