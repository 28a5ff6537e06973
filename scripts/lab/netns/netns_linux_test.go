package netns_test

import (
	"bufio"
	"bytes"
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
	"strconv"
	"strings"
	"testing"
	"time"

	"busel/scripts/lab/netns"
)

func create(t *testing.T) *netns.Namespace {
	t.Helper()
	if err := netns.Available(); err != nil {
		t.Skip(err)
	}
	n, err := netns.New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { n.Close() })
	return n
}

func tun(t *testing.T, n *netns.Namespace, name string, addrs ...string) *netns.TUN {
	t.Helper()
	var prefixes []netip.Prefix
	for _, a := range addrs {
		prefixes = append(prefixes, netip.MustParsePrefix(a))
	}
	dev, err := n.TUN(name, 1500, prefixes...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { dev.Close() })
	return dev
}

// output runs a program inside and returns what it wrote.
func output(t *testing.T, n *netns.Namespace, name string, args ...string) string {
	t.Helper()
	var b bytes.Buffer
	cmd := exec.Command(name, args...)
	cmd.Stdout, cmd.Stderr = &b, &b
	if err := n.Start(cmd); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Fatalf("%s %q: %v: %s", name, args, err, b.String())
	}
	return b.String()
}

func identity(t *testing.T) string {
	t.Helper()
	name, err := os.Readlink("/proc/thread-self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	return name
}

// cable passes packets between two interfaces until they are closed.
func cable(t *testing.T, a, b *netns.TUN) {
	pass := func(from, to *netns.TUN) {
		p := make([]byte, from.MTU)
		for {
			n, err := from.ReadPacket(p)
			if errors.Is(err, os.ErrClosed) {
				return
			}
			if err != nil {
				t.Error(err)
				return
			}
			if err := to.WritePacket(p[:n]); err != nil && !errors.Is(err, os.ErrClosed) {
				t.Error(err)
				return
			}
		}
	}
	ended := make(chan struct{}, 2)
	for _, end := range [][2]*netns.TUN{{a, b}, {b, a}} {
		go func() { pass(end[0], end[1]); ended <- struct{}{} }()
	}
	t.Cleanup(func() {
		a.Close()
		b.Close()
		<-ended
		<-ended
	})
}

func TestInside(t *testing.T) {
	n := create(t)
	outside := identity(t)
	var inside string
	if err := n.Do(func() error { inside = identity(t); return nil }); err != nil {
		t.Fatal(err)
	}
	if inside == outside {
		t.Errorf("Do ran in %s as everybody", inside)
	}
	if child := strings.TrimSpace(output(t, n, "readlink", "/proc/self/ns/net")); child != inside {
		t.Errorf("a child runs in %s, want %s", child, inside)
	}
	// Threads that were inside came home.
	for range 100 {
		done := make(chan string)
		go func() { done <- identity(t) }()
		if now := <-done; now != outside {
			t.Fatalf("a goroutine runs in %s, want %s", now, outside)
		}
	}
	want := errors.New("mine")
	if err := n.Do(func() error { return want }); !errors.Is(err, want) {
		t.Errorf("Do gave %v", err)
	}
}

func TestLoopback(t *testing.T) {
	n := create(t)
	ctx := t.Context()
	for _, host := range []string{"127.0.0.1:0", "[::1]:0"} {
		l, err := n.Listen(ctx, "tcp", host)
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		if c, err := net.Dial("tcp", l.Addr().String()); err == nil {
			c.Close()
			t.Errorf("%s can be reached from outside", l.Addr())
		}
		c, err := n.Dial(ctx, "tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		c.Close()
	}
	if _, err := n.Dial(ctx, "tcp", "localhost:1"); err == nil || !strings.Contains(err.Error(), "IP address") {
		t.Errorf("a name was dialled: %v", err)
	}
}

// Two namespaces of the same shape do not meet, and a cable joins them.
func TestCable(t *testing.T) {
	west, east := create(t), create(t)
	a := tun(t, west, "lab0", "203.0.113.2/24", "2001:db8:c::2/64")
	b := tun(t, east, "lab0", "203.0.113.3/24", "2001:db8:c::3/64")
	cable(t, a, b)
	for _, host := range []string{"203.0.113.3", "2001:db8:c::3"} {
		at := net.JoinHostPort(host, "7")
		l, err := east.Listen(t.Context(), "tcp", at)
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		go func() {
			if c, err := l.Accept(); err == nil {
				io.Copy(c, c)
				c.Close()
			}
		}()
		c, err := west.Dial(t.Context(), "tcp", at)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		echo(t, c, 100_000)

		p, err := east.ListenPacket(t.Context(), "udp", at)
		if err != nil {
			t.Fatal(err)
		}
		defer p.Close()
		go func() {
			buf := make([]byte, 2000)
			if n, from, err := p.ReadFrom(buf); err == nil {
				p.WriteTo(buf[:n], from)
			}
		}()
		u, err := west.Dial(t.Context(), "udp", at)
		if err != nil {
			t.Fatal(err)
		}
		defer u.Close()
		echo(t, u, 1400)
	}
}

// echo sends n bytes and wants them back.
func echo(t *testing.T, c net.Conn, n int) {
	t.Helper()
	c.SetDeadline(time.Now().Add(10 * time.Second))
	sent := bytes.Repeat([]byte("busel"), n/5)
	if _, err := c.Write(sent); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, len(sent))
	if _, err := io.ReadFull(c, got); err != nil || !bytes.Equal(got, sent) {
		t.Fatalf("%s: echo: %v", c.RemoteAddr(), err)
	}
}

// Routes of both families lead into the interface.
func TestRoutes(t *testing.T) {
	n := create(t)
	tun(t, n, "lab0", "203.0.113.2/24", "2001:db8:c::2/64")
	everywhere := []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("::/0"), netip.MustParsePrefix("2001:db8:b::/48")}
	if err := n.AddRoutes("lab0", everywhere...); err != nil {
		t.Fatal(err)
	}
	for _, host := range []string{"192.0.2.1", "2001:db8:a::1", "2001:db8:b::1"} {
		if got := output(t, n, "ip", "route", "get", host); !strings.Contains(got, "dev lab0") {
			t.Errorf("to %s: %s", host, got)
		}
	}
}

// A large write arrives as packets of the MTU whose checksums are right, and
// an idle interface says nothing before.
func TestPackets(t *testing.T) {
	n := create(t)
	dev := tun(t, n, "lab0", "203.0.113.2/24", "2001:db8:c::2/64")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go n.Dial(ctx, "tcp", "203.0.113.9:80")
	p := make([]byte, 65536)
	size, err := dev.ReadPacket(p)
	if err != nil {
		t.Fatal(err)
	}
	syn := p[:size]
	if syn[0]>>4 != 4 || syn[9] != 6 {
		t.Fatalf("the first packet is not the SYN: %x", syn)
	}
	header := int(syn[0]&15) * 4
	segment := syn[header:]
	pseudo := make([]byte, 0, 12)
	pseudo = append(pseudo, syn[12:20]...)
	pseudo = append(pseudo, 0, 6)
	pseudo = binary.BigEndian.AppendUint16(pseudo, uint16(len(segment)))
	if sum(syn[:header]) != 0xffff || sum(append(pseudo, segment...)) != 0xffff {
		t.Errorf("checksums are not complete: %x", syn)
	}
}

// sum is the ones' complement sum of RFC 1071 section 1, without the last
// complement.
func sum(p []byte) uint16 {
	var s uint32
	for i := 0; i < len(p); i += 2 {
		s += uint32(p[i]) << 8
		if i+1 < len(p) {
			s += uint32(p[i+1])
		}
	}
	for s > 0xffff {
		s = s>>16 + s&0xffff
	}
	return uint16(s)
}

func TestReplace(t *testing.T) {
	n := create(t)
	dir := t.TempDir()
	real, other := filepath.Join(dir, "real"), filepath.Join(dir, "other")
	for _, name := range []string{real, other} {
		if err := os.WriteFile(name, []byte(filepath.Base(name)), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := n.Replace(real, other); err != nil {
		t.Fatal(err)
	}
	if got := output(t, n, "cat", real); got != "other" {
		t.Errorf("inside it says %q", got)
	}
	if got, err := os.ReadFile(real); err != nil || string(got) != "real" {
		t.Errorf("outside it says %q, %v", got, err)
	}
	if err := n.Replace(filepath.Join(dir, "none"), other); err == nil {
		t.Error("replaced a file that is not there")
	}
}

// inhabitants are the processes that are in a network namespace or hold it
// open, this one apart.
func inhabitants(t *testing.T, namespace string) (all []string) {
	t.Helper()
	links, err := filepath.Glob("/proc/[0-9]*/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	open, err := filepath.Glob("/proc/[0-9]*/fd/*")
	if err != nil {
		t.Fatal(err)
	}
	for _, link := range append(links, open...) {
		pid := strings.Split(link, "/")[2]
		if name, err := os.Readlink(link); err == nil && name == namespace && pid != strconv.Itoa(os.Getpid()) {
			all = append(all, pid)
		}
	}
	return all
}

// deserted waits until nobody is in the namespace.
func deserted(t *testing.T, namespace string) {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(10 * time.Second)
	for {
		left := inhabitants(t, namespace)
		if len(left) == 0 {
			return
		}
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("processes %q are left in %s", left, namespace)
		}
	}
}

// family is a program with a child and a grandchild that want to stay.
func family() *exec.Cmd {
	return exec.Command("sh", "-c", `trap "" HUP TERM; (sleep 1000 & sleep 1000) & sleep 1000`)
}

func TestClose(t *testing.T) {
	n := create(t)
	var inside string
	if err := n.Do(func() error { inside = identity(t); return nil }); err != nil {
		t.Fatal(err)
	}
	cmd := family()
	if err := n.Start(cmd); err != nil {
		t.Fatal(err)
	}
	if len(inhabitants(t, inside)) < 2 {
		t.Error("this test does not see programs")
	}
	n.Close()
	if err := cmd.Wait(); err == nil || !strings.Contains(err.Error(), "killed") {
		t.Errorf("the program ended with %v", err)
	}
	deserted(t, inside)
	if err := n.Start(exec.Command("true")); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Start after Close gave %v", err)
	}
	n.Close()
}

const victimVariable = "NETNS_TEST_VICTIM"

func TestMain(m *testing.M) {
	if os.Getenv(victimVariable) == "" {
		os.Exit(m.Run())
	}
	if err := victim(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// victim is a process with all that a namespace may have. It prints the
// namespace and waits to be killed.
func victim() error {
	n, err := netns.New()
	if err != nil {
		return err
	}
	if _, err := n.TUN("lab0", 1500, netip.MustParsePrefix("203.0.113.2/24")); err != nil {
		return err
	}
	if _, err := n.Listen(context.Background(), "tcp", "203.0.113.2:80"); err != nil {
		return err
	}
	if err := n.Start(family()); err != nil {
		return err
	}
	var inside string
	if err := n.Do(func() (err error) {
		inside, err = os.Readlink("/proc/thread-self/ns/net")
		return err
	}); err != nil {
		return err
	}
	fmt.Println(inside)
	_, err = io.Copy(io.Discard, os.Stdin)
	return err
}

// A process that is killed leaves no program, and so no namespace, behind.
func TestKilled(t *testing.T) {
	if err := netns.Available(); err != nil {
		t.Skip(err)
	}
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), victimVariable+"=yes")
	cmd.Stderr = os.Stderr
	if _, err := cmd.StdinPipe(); err != nil { // open, until it is killed
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	inside := strings.TrimSpace(line)
	if err != nil || len(inhabitants(t, inside)) < 3 {
		t.Errorf("%q, %v: the victim is not there", inside, err)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	deserted(t, inside)
}
