package peer

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

func open(t testing.TB) *Peers {
	t.Helper()
	p, err := Open()
	if err != nil {
		t.Skipf("needs a kernel that tells: %v", err)
	}
	t.Cleanup(func() { p.Close() })
	return p
}

// as runs f on a thread that is that user's meanwhile, and so are its sockets.
func as(t testing.TB, uid int, f func()) {
	t.Helper()
	if uid == os.Geteuid() {
		f()
		return
	}
	if os.Geteuid() != 0 {
		t.Skip("needs root, to be somebody else")
	}
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		become := func(uid int) error {
			if _, _, errno := syscall.RawSyscall(unix.SYS_SETRESUID, ^uintptr(0), uintptr(uid), ^uintptr(0)); errno != 0 {
				return errno
			}
			return nil
		}
		if err := become(uid); err != nil {
			done <- err
			return
		}
		f()
		if err := become(0); err != nil {
			done <- err // the thread ends
			return
		}
		runtime.UnlockOSThread()
		done <- nil
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

const nobody = 65534

// connect makes a connection from a user to a listener, and gives both ends.
func connect(t testing.TB, uid int, network string, ln *net.TCPListener, to string) (far, near *net.TCPConn) {
	t.Helper()
	var err error
	as(t, uid, func() {
		var d net.Dialer
		var c net.Conn
		if c, err = d.DialContext(context.Background(), network, to); err == nil {
			far = c.(*net.TCPConn)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { far.Close() })
	if near, err = ln.AcceptTCP(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { near.Close() })
	return far, near
}

func listen(t testing.TB, network, on string) *net.TCPListener {
	t.Helper()
	ln, err := net.Listen(network, on)
	if err != nil {
		t.Skip(err)
	}
	t.Cleanup(func() { ln.Close() })
	return ln.(*net.TCPListener)
}

// mapped connects from an IPv6 socket to an IPv4 address, as Java programs and others do.
func mapped(t *testing.T, uid int, ln *net.TCPListener) (near *net.TCPConn) {
	t.Helper()
	var fd int
	var err error
	port := ln.Addr().(*net.TCPAddr).Port
	as(t, uid, func() {
		if fd, err = unix.Socket(unix.AF_INET6, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0); err == nil {
			err = unix.Connect(fd, &unix.SockaddrInet6{Port: port, Addr: netip.MustParseAddr("::ffff:127.0.0.1").As16()})
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	if near, err = ln.AcceptTCP(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { near.Close() })
	return near
}

// TestMine has sockets of this user and of another one, of every family, alive, half
// closed, closed and reset.
func TestMine(t *testing.T) {
	p := open(t)
	me := os.Geteuid()
	for _, uid := range []int{me, nobody, 1000} {
		var want error
		if uid != me {
			want = ErrOther
		}
		for _, x := range []struct{ network, on, to string }{
			{"tcp4", "127.0.0.1:0", ""},
			{"tcp4", "127.0.0.1:0", "127.0.0.1"},
			{"tcp6", "[::1]:0", ""},
			{"tcp4", "0.0.0.0:0", "127.9.8.7"},
			{"tcp", "[::]:0", "127.0.0.1"}, // an IPv4 peer of an IPv6 listener
		} {
			ln := listen(t, x.network, x.on)
			to := ln.Addr().String()
			if x.to != "" {
				_, port, _ := net.SplitHostPort(to)
				to = net.JoinHostPort(x.to, port)
			}
			far, near := connect(t, uid, "tcp", ln, to)
			if got := p.Mine(near); got != want {
				t.Errorf("user %d to %s at %s: %v", uid, to, ln.Addr(), got)
			}
			far.CloseWrite()
			if got := p.Mine(near); got != want {
				t.Errorf("user %d to %s, half closed: %v", uid, to, got)
			}
			far.Close()
			if got := p.Mine(near); got == nil || errors.Is(got, ErrOther) {
				t.Errorf("user %d to %s, closed: %v", uid, to, got)
			}
			far, near = connect(t, uid, "tcp", ln, to)
			far.SetLinger(0)
			far.Close()
			if got := p.Mine(near); got == nil || errors.Is(got, ErrOther) {
				t.Errorf("user %d to %s, reset: %v", uid, to, got)
			}
		}
		if got := p.Mine(mapped(t, uid, listen(t, "tcp4", "127.0.0.1:0"))); got != want {
			t.Errorf("user %d by a mapped address: %v", uid, got)
		}
	}
}

// TestSuccessor: a stranger's connection is not taken for that of a program of this user
// that connects from the same port after it.
func TestSuccessor(t *testing.T) {
	p := open(t)
	ln := listen(t, "tcp4", "127.0.0.1:0")
	for range 100 {
		far, near := connect(t, nobody, "tcp4", ln, ln.Addr().String())
		if _, err := far.Write([]byte("said by a stranger")); err != nil {
			t.Fatal(err)
		}
		from := far.LocalAddr().(*net.TCPAddr)
		far.SetLinger(0)
		far.Close()
		heir, err := (&net.Dialer{LocalAddr: from}).Dial("tcp4", ln.Addr().String())
		if errors.Is(err, unix.EADDRINUSE) {
			continue // another program was faster
		}
		if err != nil {
			t.Fatal(err)
		}
		defer heir.Close()
		next, err := ln.AcceptTCP()
		if err != nil {
			t.Fatal(err)
		}
		defer next.Close()
		if next.RemoteAddr().String() != near.RemoteAddr().String() {
			t.Fatal("it has another address")
		}
		if p.Mine(near) == nil {
			t.Error("the stranger is taken for his successor")
		}
		if err := p.Mine(next); err != nil {
			t.Errorf("the successor: %v", err)
		}
		return
	}
	t.Fatal("no port could be had again")
}

// TestMineUDP has datagrams from both.
func TestMineUDP(t *testing.T) {
	p := open(t)
	if p.udpMute {
		t.Skip("the kernel does not tell of UDP")
	}
	for _, on := range []string{"127.0.0.1:0", "[::1]:0"} {
		here, err := net.ListenPacket("udp", on)
		if err != nil {
			t.Log(err)
			continue
		}
		defer here.Close()
		own := here.LocalAddr().(*net.UDPAddr).AddrPort()
		for _, connected := range []bool{false, true} {
			for _, uid := range []int{os.Geteuid(), nobody} {
				var from net.PacketConn
				as(t, uid, func() {
					if connected {
						var c net.Conn
						if c, err = net.Dial("udp", own.String()); err == nil {
							from = c.(net.PacketConn)
						}
					} else {
						from, err = net.ListenPacket("udp", on)
					}
				})
				if err != nil {
					t.Fatal(err)
				}
				there := from.LocalAddr().(*net.UDPAddr).AddrPort()
				if got, want := p.MineUDP(own, there), uid == os.Geteuid(); got != want {
					t.Errorf("user %d on %s, connected %t: mine %t", uid, on, connected, got)
				}
				from.Close()
				if p.MineUDP(own, there) {
					t.Errorf("user %d on %s, closed: mine", uid, on)
				}
			}
		}
	}
}

// TestProgram has this process and others connect; what they execute is told, also when
// the file was replaced, and again when many connect.
func TestProgram(t *testing.T) {
	p := open(t)
	ln := listen(t, "tcp4", "127.0.0.1:0")
	_, near := connect(t, os.Geteuid(), "tcp4", ln, ln.Addr().String())
	own, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if path, err := p.Program(near); err != nil || path != own {
		t.Errorf("this program is %q, %v; want %s", path, err, own)
	}
	if _, near := connect(t, nobody, "tcp4", ln, ln.Addr().String()); true {
		if path, err := p.Program(near); !errors.Is(err, ErrOther) {
			t.Errorf("another user's program is %q, %v", path, err)
		}
	}
	bash, err := exec.LookPath("bash")
	if err != nil {
		t.Skip(err)
	}
	_, port, _ := net.SplitHostPort(ln.Addr().String())
	for _, gone := range []bool{false, true} {
		fox := filepath.Join(t.TempDir(), "firefox")
		data, err := os.ReadFile(bash)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(fox, data, 0o700); err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command(fox, "-c", "exec 3<>/dev/tcp/127.0.0.1/"+port+"; read -r line <&3")
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		near, err := ln.AcceptTCP()
		if err != nil {
			t.Fatal(err)
		}
		if gone {
			if err := os.Remove(fox); err != nil {
				t.Fatal(err)
			}
		}
		for range 3 {
			path, err := p.Program(near)
			if err != nil || path != fox || !Named(path, []string{"firefox"}) {
				t.Errorf("the program is %q, %v; want %s", path, err, fox)
			}
		}
		fmt.Fprintln(near, "end")
		if err := cmd.Wait(); err != nil {
			t.Error(err)
		}
		if path, err := p.Program(near); err == nil {
			t.Errorf("a program that ended is %q", path)
		}
		near.Close()
	}
}

func TestNamed(t *testing.T) {
	for _, x := range []struct {
		path     string
		program  string
		caseless bool
		want     bool
	}{
		{"/usr/lib/firefox/firefox", "firefox", false, true},
		{"/usr/lib/firefox/firefox", "/usr/lib/firefox/firefox", false, true},
		{"/usr/lib/firefox/firefox", "/usr/lib/firefox/../firefox/firefox", false, true},
		{"/usr/lib/firefox/firefox", "Firefox", false, false},
		{"/usr/lib/firefox/firefox", "fire", false, false},
		{"/usr/lib/firefox/firefox", "fox", false, false},
		{"/usr/lib/firefox/firefox", "firefox/firefox", false, false},
		{"/home/x/firefox", "/usr/lib/firefox/firefox", false, false},
		{"", "", false, false},
		{"/usr/lib/firefox/", "", false, true}, // no executable ends so, and the settings refuse the name
		{`C:\Program Files\Mozilla Firefox\firefox.exe`, "firefox", true, true},
		{`C:\Program Files\Mozilla Firefox\firefox.exe`, "Firefox.EXE", true, true},
		{`C:\Program Files\Mozilla Firefox\firefox.exe`, `c:\program files\mozilla firefox\firefox.exe`, true, true},
		{`C:\Program Files\Mozilla Firefox\firefox.exe`, `c:\other\firefox.exe`, true, false},
	} {
		if got := named(x.path, []string{"other", x.program}, x.caseless); got != x.want {
			t.Errorf("%q is %q: %t", x.path, x.program, got)
		}
	}
}

// TestGone: a program that says nothing more is there, one that closed its socket is not.
func TestGone(t *testing.T) {
	p := open(t)
	ln := listen(t, "tcp4", "127.0.0.1:0")
	for _, closed := range []bool{false, true} {
		far, err := net.Dial("tcp4", ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer far.Close()
		c, err := ln.Accept()
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		near := c.(*net.TCPConn)
		if p.Gone(near) {
			t.Error("gone, who has just come")
		}
		if closed {
			far.Close()
		} else if err := far.(*net.TCPConn).CloseWrite(); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadAll(near); err != nil {
			t.Fatal(err)
		}
		if got := p.Gone(near); got != closed {
			t.Errorf("closed %t: gone %t", closed, got)
		}
	}
}

// TestClosed: nothing is told any more.
func TestClosed(t *testing.T) {
	p := open(t)
	ln := listen(t, "tcp4", "127.0.0.1:0")
	_, near := connect(t, os.Geteuid(), "tcp4", ln, ln.Addr().String())
	if err := p.Mine(near); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(p.Close(), p.Close()); err != nil {
		t.Error(err)
	}
	if p.Mine(near) == nil {
		t.Error("mine, who cannot be asked")
	}
}

// message is an answer of the kernel.
func message(seq, uid, inode uint32) []byte {
	b := make([]byte, headerLen+messageLen)
	native := binary.NativeEndian
	native.PutUint32(b, uint32(len(b)))
	native.PutUint16(b[4:], unix.SOCK_DIAG_BY_FAMILY)
	native.PutUint32(b[8:], seq)
	native.PutUint32(b[headerLen+64:], uid)
	native.PutUint32(b[headerLen+68:], inode)
	return b
}

// FuzzAnswer: whatever comes, a user is told only of a whole answer to this question
// about a socket that somebody has.
func FuzzAnswer(f *testing.F) {
	f.Add(message(7, 1000, 12345), uint32(7))
	f.Add(message(7, 0, 0), uint32(7))
	f.Add(message(8, 1000, 12345), uint32(7))
	f.Add(message(7, 1000, 12345)[:80], uint32(7))
	refused := message(7, 0, 0)
	binary.NativeEndian.PutUint16(refused[4:], unix.NLMSG_ERROR)
	binary.NativeEndian.PutUint32(refused[headerLen:], ^uint32(unix.ENOENT)+1)
	f.Add(refused, uint32(7))
	f.Fuzz(func(t *testing.T, b []byte, seq uint32) {
		s, err := answer(b, seq)
		if err != nil {
			if s != (socket{}) {
				t.Errorf("%v tells %v", err, s)
			}
			return
		}
		if len(b) < headerLen+messageLen || s.inode == 0 || binary.NativeEndian.Uint32(b[8:]) != seq {
			t.Errorf("%x tells %v", b, s)
		}
	})
}

// BenchmarkAccept is what a connection costs without a question, with one for its user,
// and with one for its program.
func BenchmarkAccept(b *testing.B) {
	p := open(b)
	for _, x := range []struct {
		name string
		ask  func(*net.TCPConn) bool
	}{
		{"unasked", func(*net.TCPConn) bool { return true }},
		{"user", func(c *net.TCPConn) bool { return p.Mine(c) == nil }},
		{"program", func(c *net.TCPConn) bool { _, err := p.Program(c); return err == nil }},
	} {
		b.Run(x.name, func(b *testing.B) {
			ln := listen(b, "tcp4", "127.0.0.1:0")
			go func() {
				for {
					c, err := ln.AcceptTCP()
					if err != nil {
						return
					}
					if !x.ask(c) {
						b.Error("not mine")
					}
					c.Write([]byte{0})
					c.Close()
				}
			}()
			for b.Loop() {
				c, err := net.Dial("tcp4", ln.Addr().String())
				if err != nil {
					b.Fatal(err)
				}
				io.Copy(io.Discard, c)
				c.(*net.TCPConn).SetLinger(0) // or there will be no ports left
				c.Close()
			}
		})
	}
	b.Run("elsewhere", func(b *testing.B) { // not in this process, as seen on a first time
		ln := listen(b, "tcp4", "127.0.0.1:0")
		_, near := connect(b, os.Geteuid(), "tcp4", ln, ln.Addr().String())
		for b.Loop() {
			p.recent = nil
			if path, err := p.Program(near); err != nil || !strings.Contains(path, "peer") {
				b.Fatal(path, err)
			}
		}
	})
}
