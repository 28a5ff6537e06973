package network

import (
	"bufio"
	"context"
	"errors"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestRoutes(t *testing.T) {
	const table4 = `Iface	Destination	Gateway 	Flags	RefCnt	Use	Metric	Mask		MTU	Window	IRTT
eth0	00000000	0101A8C0	0003	0	0	100	00000000	0	0	0
eth0	0001A8C0	00000000	0001	0	0	100	00FFFFFF	0	0	0
tun0	00000000	0100080A	0003	0	0	0	00000080	0	0	0
tun0	00000080	0100080A	0003	0	0	0	00000080	0	0	0
tun1	00000000	00000000	0001	0	0	0	00000000	0	0	0
eth1	00000000	0101A8C0	0002	0	0	0	00000000	0	0	0
eth1	0000000A	0201A8C0	0003	0	0	0	000000FF	0	0	0
eth1	00000000	wrong
`
	const table6 = `00000000000000000000000000000000 00 00000000000000000000000000000000 00 fe800000000000000000000000000001 00000400 00000001 00000000 00450003     eth0
20010db8000100020000000000000000 40 00000000000000000000000000000000 00 00000000000000000000000000000000 00000100 00000001 00000000 00000001     eth0
00000000000000000000000000000000 00 00000000000000000000000000000000 00 00000000000000000000000000000000 ffffffff 00000001 00000000 00200200       lo
00000000000000000000000000000000 00 00000000000000000000000000000000 00 wrong 00000400 00000001 00000000 00450003     eth1
`
	got := make(map[string][]netip.Addr)
	readRoutes(strings.NewReader(table4), parseRoute4, got)
	readRoutes(strings.NewReader(table6), parseRoute6, got)
	want := map[string][]netip.Addr{"eth0": addrs("192.168.1.1", "fe80::1"), "tun0": addrs("10.8.0.1", "10.8.0.1")}
	if len(got) != len(want) || !slices.Equal(got["eth0"], want["eth0"]) || !slices.Equal(got["tun0"], want["tun0"]) {
		t.Errorf("gateways are %v, want %v", got, want)
	}
}

// inNamespace runs the calling test again with a network of its own, in which
// only loopback is, and tells which of the two runs this is.
func inNamespace(t *testing.T) bool {
	t.Helper()
	const inside = "BUSEL_NETWORK_NAMESPACE"
	if os.Getenv(inside) != "" {
		return true
	}
	if os.Geteuid() != 0 {
		t.Skip("needs root, for a namespace")
	}
	cmd := exec.CommandContext(t.Context(), "/proc/self/exe", "-test.run=^"+t.Name()+"$", "-test.v")
	cmd.Env = append(os.Environ(), inside+"=yes")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	out, err := cmd.CombinedOutput()
	if errors.Is(err, syscall.EPERM) {
		t.Skip("namespaces are not allowed here")
	}
	t.Logf("in the namespace:\n%s", out)
	if err != nil {
		t.Error(err)
	}
	return false
}

func ip(t *testing.T, args string) {
	t.Helper()
	if out, err := exec.CommandContext(t.Context(), "ip", strings.Fields(args)...).CombinedOutput(); err != nil {
		t.Fatalf("ip %s: %v: %s", args, err, out)
	}
}

// blind is a system that gives no notice.
type blind struct{ System }

func (blind) Notify(context.Context, func()) error { return errors.ErrUnsupported }

// TestSystem changes a real network under a watcher.
func TestSystem(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	start := func(source Source) (*Watcher, <-chan Event) {
		w := New(Config{Salt: salt, Source: source})
		events, _ := w.Changes()
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan struct{})
		go func() {
			defer close(done)
			_ = w.Run(ctx)
		}()
		t.Cleanup(func() {
			cancel()
			<-done
		})
		return w, events
	}
	// await returns the event that ends a change; others may come before it, as a
	// change is several for the kernel.
	await := func(events <-chan Event, what string, since time.Time, is func(Event) bool) Event {
		t.Helper()
		timeout := time.After(20 * time.Second)
		for {
			select {
			case e := <-events:
				if is(e) {
					t.Logf("%s: %s after %v", what, e.Change, time.Since(since).Round(time.Millisecond))
					return e
				}
			case <-timeout:
				t.Fatalf("%s: not noticed", what)
			}
		}
	}
	down := func(e Event) bool { return e.Change == LinkDown }
	up := func(e Event) bool { return e.Change == LinkUp }

	w, events := start(System{})
	_, polled := start(blind{})
	if s := w.Now(); s != (State{ID: Offline}) {
		t.Fatalf("without a network the state is %+v", s)
	}
	ip(t, "link set lo up")
	ip(t, "link add eth0 type veth peer name peer0")
	ip(t, "link set peer0 up")
	ip(t, "link set eth0 up")
	if s := w.Now(); s.Up {
		t.Errorf("up with link-local addresses alone: %+v", s)
	}
	since := time.Now()
	ip(t, "address add 192.168.77.7/24 dev eth0")
	await(events, "address", since, up)
	await(polled, "address, polled", since, up)

	since = time.Now()
	ip(t, "route add default via 192.168.77.1")
	home := await(events, "gateway", since, func(e Event) bool { return e.Change == Moved }).State

	since = time.Now()
	ip(t, "address add 192.168.77.8/24 dev eth0")
	ip(t, "address del 192.168.77.7/24 dev eth0")
	ip(t, "address replace 192.168.77.8/24 dev eth0") // the first address takes the others along
	ip(t, "route replace default via 192.168.77.1")
	await(events, "address change", since, func(e Event) bool { return e.Change != LinkDown && e.State == home })

	since = time.Now()
	ip(t, "link set peer0 down") // the cable is out
	await(events, "link down", since, down)
	await(polled, "link down, polled", since, down)
	since = time.Now()
	ip(t, "link set peer0 up")
	await(events, "link up", since, func(e Event) bool { return e.State == home })
	await(polled, "link up, polled", since, up)

	// A VPN, or a container whose only way out is a device without a gateway.
	since = time.Now()
	ip(t, "tuntap add tun0 mode tun")
	ip(t, "address add 10.8.0.2/32 dev tun0")
	ip(t, "link set tun0 up")
	tun := openTUN(t, "tun0")
	ip(t, "route add default dev tun0 metric 1")
	ip(t, "route del default via 192.168.77.1")
	await(events, "TUN", since, func(e Event) bool { return e.Change == Moved && e.State.ID != home.ID && e.State.Up })
	s, err := System{}.Read()
	if err != nil || len(s.Links) != 1 || s.Links[0].Name != "tun0" || s.Links[0].Kind != Tunnel || len(s.Links[0].Gateways) != 0 {
		t.Errorf("with a TUN the network is %+v, %v", s, err)
	}
	// What goes on beside it is nothing.
	ip(t, "link add bridge0 type bridge")
	ip(t, "address add 172.17.0.1/16 dev bridge0")
	ip(t, "link set bridge0 up")
	since = time.Now()
	tun.Close()
	await(events, "TUN gone", since, func(e Event) bool {
		return e.Change == Moved && e.State.ID != home.ID
	})
}

// openTUN holds the device as a VPN's program does: it is running meanwhile.
func openTUN(t *testing.T, name string) *os.File {
	t.Helper()
	f, err := os.OpenFile("/dev/net/tun", os.O_RDWR, 0)
	if err != nil {
		t.Skip(err)
	}
	t.Cleanup(func() { f.Close() })
	req, err := unix.NewIfreq(name)
	if err != nil {
		t.Fatal(err)
	}
	req.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
	if err := unix.IoctlIfreq(int(f.Fd()), unix.TUNSETIFF, req); err != nil {
		t.Fatal(err)
	}
	return f
}

// announced tells when Run is at work.
type announced struct {
	System
	begun chan struct{}
}

func (a announced) Notify(ctx context.Context, hint func()) error {
	close(a.begun)
	return a.System.Notify(ctx, hint)
}

// TestStopped stops a process for longer than a busy machine would.
func TestStopped(t *testing.T) {
	const child = "BUSEL_NETWORK_STOPPED"
	if os.Getenv(child) != "" {
		source := announced{begun: make(chan struct{})}
		w := New(Config{Salt: salt, Source: source})
		events, _ := w.Changes()
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan struct{})
		go func() {
			defer close(done)
			_ = w.Run(ctx)
		}()
		<-source.begun
		os.Stdout.WriteString("\nready\n")
		for e := range events {
			if e.Change == Woke {
				break
			}
		}
		os.Stdout.WriteString("\nwoke\n")
		cancel()
		<-done
		return
	}
	cmd := exec.CommandContext(t.Context(), "/proc/self/exe", "-test.run=^TestStopped$", "-test.v", "-test.timeout=2m")
	cmd.Env = append(os.Environ(), child+"=yes")
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := cmd.Wait(); err != nil {
			t.Error(err)
		}
	}()
	lines := bufio.NewScanner(out)
	await := func(line string) {
		t.Helper()
		for lines.Scan() {
			if lines.Text() == line {
				return
			}
		}
		t.Fatalf("no line %q: %v", line, lines.Err())
	}
	await("ready")
	if err := cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	<-time.After(asleep + 2*tickPeriod + time.Second) // the very thing: it is stopped for so long
	since := time.Now()
	if err := cmd.Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	await("woke")
	t.Logf("woke after %v", time.Since(since).Round(time.Millisecond))
}

// BenchmarkRead is what a look at the network costs; where the system gives no
// notice there is one every [pollPeriod].
func BenchmarkRead(b *testing.B) {
	for b.Loop() {
		if _, err := (System{}).Read(); err != nil {
			b.Fatal(err)
		}
	}
}
