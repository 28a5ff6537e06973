package netns

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// Namespace is a network of its own: loopback and what is added to it.
type Namespace struct {
	fd    int         // of the namespace
	home  int         // of the namespace that the process lives in
	calls chan func() // run by the resident thread
	quit  chan struct{}
	ended chan struct{} // the resident has left
	close func()
}

// Available returns nil if namespaces can be made here, and otherwise an error
// that says what to do.
func Available() error {
	if os.Geteuid() != 0 {
		return errors.New("network namespaces need root: run it with sudo")
	}
	if _, err := exec.LookPath("ip"); err != nil {
		return errors.New("the program ip is missing: install iproute2")
	}
	if _, err := os.Stat(tunDevice); err != nil {
		return fmt.Errorf("%w: load the kernel module tun", err)
	}
	return nil
}

// New makes a namespace whose loopback interface is up. The caller closes it.
func New() (*Namespace, error) {
	if err := Available(); err != nil {
		return nil, err
	}
	n := &Namespace{
		fd: -1, home: -1,
		calls: make(chan func()), quit: make(chan struct{}), ended: make(chan struct{}),
	}
	n.close = sync.OnceFunc(func() {
		close(n.quit)
		<-n.ended
		_ = unix.Close(n.fd)
		_ = unix.Close(n.home)
	})
	made := make(chan error, 1)
	go n.live(made)
	if err := <-made; err != nil {
		n.Close()
		return nil, fmt.Errorf("network namespace: %w", err)
	}
	if err := n.ip("link set lo up"); err != nil {
		n.Close()
		return nil, err
	}
	return n, nil
}

// live is the resident: a thread that enters a new namespace and never leaves
// it alive. Children are started here, so that they are inside. They have a PID
// namespace of their own, whose first process dies with this thread, by its
// death signal (prctl(2), PR_SET_PDEATHSIG), and takes all others along, those
// that children started, too (pid_namespaces(7)).
func (n *Namespace) live(made chan<- error) {
	runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
	if unix.Gettid() == unix.Getpid() {
		// The main thread is parked, not ended, by the Go runtime. Keep it busy
		// while another takes over.
		go n.live(made)
		<-n.ended
		runtime.UnlockOSThread()
		return
	}
	defer close(n.ended)
	err := n.enter()
	made <- err
	if err != nil {
		return
	}
	for {
		select {
		case call := <-n.calls:
			call()
		case <-n.quit:
			return
		}
	}
}

// enter moves the calling thread into a new network namespace, and into a
// mount namespace so that [Namespace.Replace] concerns nobody else.
func (n *Namespace) enter() error {
	var err error
	if n.home, err = openOwn(); err != nil {
		return err
	}
	if err := unix.Unshare(unix.CLONE_NEWNET | unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("unshare: %w: run it as root with CAP_SYS_ADMIN", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("private mounts: %w", err)
	}
	if n.fd, err = openOwn(); err != nil {
		return err
	}
	return startInit()
}

// startInit starts the first process of a PID namespace and makes the children
// of the calling thread part of it. It ignores SIGCHLD so that the kernel buries
// orphans.
func startInit() error {
	first := exec.Command("sh", "-c", `trap "" CHLD; exec sleep infinity`)
	first.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWPID, Pdeathsig: syscall.SIGKILL}
	if err := first.Start(); err != nil {
		return fmt.Errorf("first process: %w", err)
	}
	// It ends after all others, and those are waited for by who started them.
	go first.Wait()
	fd, err := unix.Open(fmt.Sprintf("/proc/%d/ns/pid", first.Process.Pid), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("open PID namespace", err)
	}
	defer unix.Close(fd)
	return os.NewSyscallError("enter PID namespace", unix.Setns(fd, unix.CLONE_NEWPID))
}

// openOwn opens the network namespace of the calling thread.
func openOwn() (int, error) {
	fd, err := unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	return fd, os.NewSyscallError("open /proc/thread-self/ns/net", err)
}

// Close ends the programs that were started inside, by SIGKILL, and gives the
// namespace up. The kernel removes it when its last socket and TUN are closed. It
// may be called more than once.
func (n *Namespace) Close() error {
	n.close()
	return nil
}

// resident runs f on the resident thread. It returns [net.ErrClosed] after
// Close.
func (n *Namespace) resident(f func() error) error {
	result := make(chan error, 1)
	select {
	case n.calls <- func() { result <- f() }:
		return <-result
	case <-n.quit:
		return net.ErrClosed
	}
}

// Do runs f on a thread inside the namespace and returns its error. f must not
// leave sockets to be made to other goroutines: those run outside.
func (n *Namespace) Do(f func() error) error {
	result := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		if err := unix.Setns(n.fd, unix.CLONE_NEWNET); err != nil {
			runtime.UnlockOSThread()
			result <- fmt.Errorf("enter the namespace: %w", err)
			return
		}
		err := f()
		// A thread that cannot go home stays locked, and ends with this goroutine.
		if unix.Setns(n.home, unix.CLONE_NEWNET) == nil {
			runtime.UnlockOSThread()
		}
		result <- err
	}()
	return <-result
}

// Start starts cmd inside. It ends, with all that it starts, by SIGKILL when the
// namespace is closed or this process ends; a Pdeathsig that cmd asks for is
// taken away, as Go's check for a parent that is gone already fails across PID
// namespaces.
func (n *Namespace) Start(cmd *exec.Cmd) error {
	if cmd.SysProcAttr != nil {
		cmd.SysProcAttr.Pdeathsig = 0
	}
	return n.resident(cmd.Start)
}

// Replace shows the programs that are started from now on the file with instead
// of the existing file path, such as another /etc/resolv.conf.
func (n *Namespace) Replace(path, with string) error {
	return n.resident(func() error {
		if err := unix.Mount(with, path, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("replace %s: %w", path, err)
		}
		return nil
	})
}

// SetSysctl sets a kernel variable of this namespace, such as
// "net/ipv4/tcp_rmem".
func (n *Namespace) SetSysctl(name, value string) error {
	return n.Do(func() error {
		return os.WriteFile(filepath.Join("/proc/sys", name), []byte(value), 0)
	})
}

// Listen is [net.ListenConfig.Listen] inside. Sockets offer no multipath TCP,
// which would show in the SYN-ACK.
func (n *Namespace) Listen(ctx context.Context, network, address string) (l net.Listener, err error) {
	var lc net.ListenConfig
	lc.SetMultipathTCP(false)
	err = n.Do(func() (err error) {
		l, err = lc.Listen(ctx, network, address)
		return err
	})
	return l, err
}

// ListenPacket is [net.ListenConfig.ListenPacket] inside.
func (n *Namespace) ListenPacket(ctx context.Context, network, address string) (c net.PacketConn, err error) {
	err = n.Do(func() (err error) {
		c, err = (&net.ListenConfig{}).ListenPacket(ctx, network, address)
		return err
	})
	return c, err
}

// Dial is [net.Dialer.DialContext] inside. The host must be an IP address:
// names would be looked up, and attempts made, by goroutines outside.
func (n *Namespace) Dial(ctx context.Context, network, address string) (c net.Conn, err error) {
	if _, err := netip.ParseAddrPort(address); err != nil {
		return nil, fmt.Errorf("dial %q in a namespace: want an IP address and a port", address)
	}
	err = n.Do(func() (err error) {
		c, err = (&net.Dialer{}).DialContext(ctx, network, address)
		return err
	})
	return c, err
}

// AddAddresses adds addresses to the interface of that name.
func (n *Namespace) AddAddresses(name string, addrs ...netip.Prefix) error {
	lines := make([]string, len(addrs))
	for i, a := range addrs {
		lines[i] = addLine(name, a)
	}
	return n.ip(lines...)
}

// ReplaceAddress gives the interface of that name one address in place of another.
// Connections that are bound to the old one are not told.
func (n *Namespace) ReplaceAddress(name string, old, now netip.Prefix) error {
	return n.ip(addLine(name, now), fmt.Sprintf("addr del %s dev %s", old, name))
}

// addLine is the command for one address. Nobody else has it, so the second
// that detection of duplicates would take is saved.
func addLine(name string, a netip.Prefix) string {
	line := fmt.Sprintf("addr add %s dev %s", a, name)
	if a.Addr().Is6() {
		line += " nodad"
	}
	return line
}

// AddRoutes sends what goes to those networks into the interface of that name.
func (n *Namespace) AddRoutes(name string, dst ...netip.Prefix) error {
	lines := make([]string, len(dst))
	for i, d := range dst {
		lines[i] = fmt.Sprintf("route add %s dev %s", d, name)
	}
	return n.ip(lines...)
}

// ip runs the commands inside, in one process.
func (n *Namespace) ip(lines ...string) error {
	cmd := exec.Command("ip", "-batch", "-")
	cmd.Stdin = strings.NewReader(strings.Join(lines, "\n") + "\n")
	var output strings.Builder
	cmd.Stdout, cmd.Stderr = &output, &output
	err := n.Start(cmd)
	if err == nil {
		err = cmd.Wait()
	}
	if err != nil {
		return fmt.Errorf("ip: %w: %s", err, strings.TrimSpace(output.String()))
	}
	return nil
}
