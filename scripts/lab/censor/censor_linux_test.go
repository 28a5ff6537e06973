package censor

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"runtime"
	"slices"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"busel/scripts/lab/censor/rule"
	"busel/scripts/lab/netns"
)

// rig is a client and a world with a censor between them.
type rig struct {
	*Censor
	client, world *netns.Namespace
}

const (
	client4, world4 = "203.0.113.2", "203.0.113.3"
	client6, world6 = "2001:db8:c::2", "2001:db8:c::3"
)

func build(tb testing.TB, cfg Config) *rig {
	tb.Helper()
	if err := netns.Available(); err != nil {
		tb.Skip(err)
	}
	r := &rig{}
	end := func(v4, v6 string) (*netns.Namespace, *netns.TUN) {
		n, err := netns.New()
		if err != nil {
			tb.Fatal(err)
		}
		tb.Cleanup(func() { n.Close() })
		dev, err := n.TUN("lab0", 1500, netip.MustParsePrefix(v4+"/24"), netip.MustParsePrefix(v6+"/64"))
		if err != nil {
			tb.Fatal(err)
		}
		return n, dev
	}
	var a, b *netns.TUN
	r.client, a = end(client4, client6)
	r.world, b = end(world4, world6)
	cfg.Client, cfg.World = a, b
	var err error
	if r.Censor, err = New(cfg); err != nil {
		tb.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- r.Run(ctx) }()
	tb.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			tb.Errorf("the censor ended with %v", err)
		}
	})
	return r
}

// judgeFunc is a Judge.
type judgeFunc func(d rule.Direction, p []byte) rule.Verdict

func (f judgeFunc) Judge(_ time.Time, d rule.Direction, p []byte) rule.Verdict { return f(d, p) }

func (judgeFunc) Counts() []rule.Count { return []rule.Count{{Rule: "a function", Packets: 7}} }

// ping sends an echo request from the client and returns the time of the
// answer, which the kernel of the world gives. It measures on an urgent thread:
// how busy the machine is does not count.
func ping(t *testing.T, r *rig, host string, serial uint16) (took time.Duration) {
	t.Helper()
	if err := r.client.Do(func() (err error) {
		took, err = pingHere(netip.MustParseAddr(host), serial)
		return err
	}); err != nil {
		t.Fatalf("ping %s: %v", host, err)
	}
	return took
}

func pingHere(host netip.Addr, serial uint16) (time.Duration, error) {
	defer urgent()()
	family, protocol, header, reply := unix.AF_INET, unix.IPPROTO_ICMP, 20, byte(0)
	request := []byte{8, 0, 0, 0, 0x42, 0x42, 0, 0} // RFC 792
	binary.BigEndian.PutUint16(request[6:], serial)
	binary.BigEndian.PutUint16(request[2:], ^(0x0800 + 0x4242 + serial))
	var to unix.Sockaddr
	if host.Is6() {
		// RFC 4443; the kernel computes the checksum and shows no header.
		family, protocol, header, reply = unix.AF_INET6, unix.IPPROTO_ICMPV6, 0, 129
		request[0] = 128
		to = &unix.SockaddrInet6{Addr: host.As16()}
	} else {
		to = &unix.SockaddrInet4{Addr: host.As4()}
	}
	fd, err := unix.Socket(family, unix.SOCK_RAW|unix.SOCK_CLOEXEC, protocol)
	if err != nil {
		return 0, err
	}
	defer unix.Close(fd)
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 10}); err != nil {
		return 0, err
	}
	sent := time.Now()
	if err := unix.Sendto(fd, request, 0, to); err != nil {
		return 0, err
	}
	answer := make([]byte, 1500)
	for {
		n, err := unix.Read(fd, answer)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return 0, err
		}
		if n >= header+8 && answer[header] == reply && bytes.Equal(answer[header+4:header+8], request[4:8]) {
			return time.Since(sent), nil
		}
	}
}

func listenUDP(t *testing.T, n *netns.Namespace, host string) net.PacketConn {
	t.Helper()
	p, err := n.ListenPacket(t.Context(), "udp", net.JoinHostPort(host, "0"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	return p
}

func dial(t testing.TB, n *netns.Namespace, network string, to net.Addr) net.Conn {
	t.Helper()
	c, err := n.Dial(t.Context(), network, to.String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// Everything that a resident may use passes, both ways, both families.
func TestForwards(t *testing.T) {
	r := build(t, Config{})
	ping(t, r, world4, 1)
	ping(t, r, world6, 1)
	for _, host := range []string{world4, world6} {
		p := listenUDP(t, r.world, host)
		go func() {
			buf := make([]byte, 2000)
			if n, from, err := p.ReadFrom(buf); err == nil {
				p.WriteTo(buf[:n], from)
			}
		}()
		u := dial(t, r.client, "udp", p.LocalAddr())
		u.SetDeadline(time.Now().Add(10 * time.Second))
		if _, err := u.Write([]byte("a datagram")); err != nil {
			t.Fatal(err)
		}
		buf := make([]byte, 100)
		if n, err := u.Read(buf); err != nil || string(buf[:n]) != "a datagram" {
			t.Errorf("%s: %q, %v", host, buf[:n], err)
		}
		if got := download(t, r, host, 10<<20); got != 10<<20 {
			t.Errorf("%s: %d bytes came", host, got)
		}
	}
	up, down := r.Counters()
	if up.Packets != up.Delivered || down.Packets != down.Delivered || down.Bytes < 20<<20 {
		t.Errorf("up %+v\ndown %+v", up, down)
	}
}

// stream is a TCP connection on which the world sends so much to the client.
func stream(t testing.TB, r *rig, host string, size int64) net.Conn {
	t.Helper()
	l, err := r.world.Listen(t.Context(), "tcp", net.JoinHostPort(host, "0"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		c, err := l.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		block := make([]byte, 1<<17)
		for left := size; left > 0; left -= int64(len(block)) {
			if _, err := c.Write(block[:min(left, int64(len(block)))]); err != nil {
				return
			}
		}
	}()
	return dial(t, r.client, "tcp", l.Addr())
}

// receive reads so much, or to the end.
func receive(t testing.TB, c net.Conn, size int64) int64 {
	t.Helper()
	c.SetDeadline(time.Now().Add(time.Minute))
	got, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, io.LimitReader(c, size), make([]byte, 1<<17))
	if err != nil {
		t.Fatal(err)
	}
	return got
}

// download moves bytes from the world to the client over TCP.
func download(t testing.TB, r *rig, host string, size int64) int64 {
	t.Helper()
	return receive(t, stream(t, r, host, size), 1<<62)
}

// The round trip is what was asked for, to the millisecond.
func TestDelay(t *testing.T) {
	link := Link{Delay: 50 * ms}
	r := build(t, Config{Up: link, Down: link})
	ping(t, r, world4, 0)
	var all []time.Duration
	for i := range uint16(30) {
		all = append(all, ping(t, r, world4, i+1))
	}
	slices.Sort(all)
	up, down := r.Counters()
	t.Logf("round trips %v to %v, median %v; late by %v up and %v down", all[0], all[29], all[15], up.LateMean, down.LateMean)
	// The least is the path's: a busy machine delays answers, and makes none early.
	if all[0] < 99*ms || all[0] > 101*ms {
		t.Errorf("round trips %v", all)
	}
}

// arrivals sends numbered datagrams up in bursts, waits until each burst has
// been received or dropped, and returns the numbers in order of arrival.
func arrivals(t *testing.T, r *rig, packets, burst, size int) []uint32 {
	t.Helper()
	p := listenUDP(t, r.world, world4)
	u := dial(t, r.client, "udp", p.LocalAddr())
	var all []uint32
	datagram := make([]byte, size)
	start, _ := r.Counters()
	for i := range packets {
		binary.BigEndian.PutUint32(datagram, uint32(i))
		if _, err := u.Write(datagram); err != nil {
			t.Fatal(err)
		}
		if (i+1)%burst != 0 && i+1 != packets {
			continue
		}
		settled := settle(t, r, start.Packets+uint64(i+1))
		p.SetReadDeadline(time.Now().Add(10 * time.Second))
		for uint64(len(all)) < settled.Delivered-start.Delivered {
			if _, _, err := p.ReadFrom(datagram); err != nil {
				t.Fatalf("%d datagrams of %d received: %v", len(all), i+1, err)
			}
			all = append(all, binary.BigEndian.Uint32(datagram))
		}
	}
	return all
}

// settle waits until so many packets are delivered or dropped.
func settle(t *testing.T, r *rig, packets uint64) Counters {
	t.Helper()
	deadline := time.After(10 * time.Second)
	tick := time.NewTicker(ms)
	defer tick.Stop()
	for {
		c, _ := r.Counters()
		if c.Delivered+c.Lost+c.Overflowed+c.Judged+c.Failed >= packets {
			return c
		}
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("%d packets are not accounted for: %+v", packets, c)
		}
	}
}

func TestLoss(t *testing.T) {
	r := build(t, Config{Up: Link{Loss: 0.05}, Seed: 7})
	const packets = 20_000
	got := len(arrivals(t, r, packets, 50, 100))
	up, _ := r.Counters()
	share := float64(up.Lost) / packets
	t.Logf("%.2f %% lost", 100*share)
	// Five standard deviations are 0.77 %.
	if share < 0.0423 || share > 0.0577 || uint64(got) != packets-up.Lost {
		t.Errorf("%d came of %d: %+v", got, packets, up)
	}
}

func TestJitterOnTheWire(t *testing.T) {
	link := Link{Delay: 20 * ms, Jitter: 10 * ms}
	r := build(t, Config{Up: link, Seed: 7})
	all := arrivals(t, r, 5000, 50, 100)
	if len(all) != 5000 || !slices.IsSorted(all) {
		t.Errorf("%d came, in order: %v", len(all), slices.IsSorted(all))
	}
	link.Reorder = 0.1
	if err := r.SetLinks(link, Link{}); err != nil {
		t.Fatal(err)
	}
	all = arrivals(t, r, 5000, 50, 100)
	overtaken := 0
	for i := range all {
		if i+1 < len(all) && all[i] > all[i+1] {
			overtaken++
		}
	}
	t.Logf("%d of %d overtaken", overtaken, len(all))
	if len(all) != 5000 || overtaken < 50 {
		t.Errorf("%d came, %d overtaken", len(all), overtaken)
	}
}

// A full queue drops: a burst of 100 finds room for 10.
func TestQueue(t *testing.T) {
	const packets, size = 100, 1028 // with headers
	const each = 41120 * time.Microsecond
	r := build(t, Config{Up: Link{Rate: 200_000, Queue: 10 * size}})
	p := listenUDP(t, r.world, world4)
	u := dial(t, r.client, "udp", p.LocalAddr())
	start, begin := func() Counters { up, _ := r.Counters(); return up }(), time.Now()
	for range packets {
		if _, err := u.Write(make([]byte, size-28)); err != nil {
			t.Fatal(err)
		}
	}
	up := start
	for up.Packets-start.Packets < packets {
		if up, _ = r.Counters(); time.Since(begin) > 10*time.Second {
			t.Fatalf("%+v", up)
		}
		<-time.After(ms)
	}
	// While the burst lasts, more leave.
	most := 11 + int(time.Since(begin)/each)
	up = settle(t, r, start.Packets+packets)
	got := int(up.Delivered - start.Delivered)
	if got < 10 || got > most || int(up.Overflowed) != packets-got {
		t.Errorf("%d came, want 10 to %d: %+v", got, most, up)
	}
}

// Once the queue has filled, the link delivers what its rate allows.
func TestRate(t *testing.T) {
	const rate = 10_000_000
	r := build(t, Config{Down: Link{Rate: rate, Delay: 10 * ms}, Up: Link{Delay: 10 * ms}})
	type sample struct {
		at    time.Time
		bytes uint64
	}
	ended := make(chan struct{})
	samples := make(chan []sample)
	go func() {
		var all []sample
		tick := time.NewTicker(100 * ms)
		defer tick.Stop()
		for {
			select {
			case now := <-tick.C:
				_, down := r.Counters()
				all = append(all, sample{now, down.DeliveredBytes})
			case <-ended:
				samples <- all
				return
			}
		}
	}()
	const size = 4 << 20
	start := time.Now()
	download(t, r, world4, size)
	took := time.Since(start).Seconds()
	close(ended)
	all := <-samples
	if len(all) < 20 {
		t.Fatalf("the download took %.1f s", took)
	}
	first, last := all[5], all[len(all)-2]
	wire := float64(last.bytes-first.bytes) * 8 / last.at.Sub(first.at).Seconds()
	t.Logf("%.2f Mbit/s on the wire, %.2f Mbit/s of data from the first to the last byte", wire/1e6, size*8/took/1e6)
	if wire < 0.95*rate || wire > 1.05*rate {
		t.Errorf("%.0f bit/s, want %d", wire, rate)
	}
}

// A judge drops, changes and forges, in both directions, and its changes take
// effect while traffic runs.
func TestJudge(t *testing.T) {
	r := build(t, Config{Up: Link{Delay: 20 * ms}, Down: Link{Delay: 20 * ms}})
	p := listenUDP(t, r.world, world4)
	go func() {
		buf := make([]byte, 2000)
		for {
			n, from, err := p.ReadFrom(buf)
			if err != nil {
				return
			}
			p.WriteTo(append([]byte("re:"), buf[:n]...), from)
		}
	}()
	c := dial(t, r.client, "udp", p.LocalAddr())
	ask := func(text string, patience time.Duration) (string, time.Duration) {
		t.Helper()
		start := time.Now()
		if _, err := c.Write([]byte(text)); err != nil {
			t.Fatal(err)
		}
		c.SetReadDeadline(start.Add(patience))
		buf := make([]byte, 100)
		n, err := c.Read(buf)
		if err != nil && !errors.Is(err, syscall.EAGAIN) && !isTimeout(err) {
			t.Fatal(err)
		}
		return string(buf[:n]), time.Since(start)
	}
	if got, _ := ask("one", 10*time.Second); got != "re:one" {
		t.Errorf("without a judge: %q", got)
	}

	for d := range rule.Direction(2) {
		r.SetJudge(judgeFunc(func(way rule.Direction, p []byte) rule.Verdict { return rule.Verdict{Drop: way == d} }))
		if _, err := c.Write([]byte("two")); err != nil {
			t.Fatal(err)
		}
		// Until it is dropped: the next judge would see an answer that is late.
		for deadline := time.Now().Add(10 * time.Second); ; <-time.After(ms) {
			up, down := r.Counters()
			if [2]Counters{up, down}[d].Judged > 0 {
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("not dropped in direction %d: %+v %+v", d, up, down)
			}
		}
	}

	// An answer forged toward the client is there before the true one.
	const after = 5 * ms
	var seen atomic.Int32
	r.SetJudge(judgeFunc(func(way rule.Direction, p []byte) rule.Verdict {
		seen.Add(1)
		if way == rule.Down {
			return rule.Verdict{}
		}
		return rule.Verdict{Inject: []rule.Injection{{Packet: answer(p, "forged"), Toward: rule.Down, After: after}}}
	}))
	got, took := ask("three", 10*time.Second)
	if got != "forged" || took < after-tick {
		t.Errorf("got %q after %v", got, took)
	}
	c.SetReadDeadline(time.Now().Add(10 * time.Second))
	buf := make([]byte, 100)
	if n, err := c.Read(buf); err != nil || string(buf[:n]) != "re:three" {
		t.Errorf("then got %q, %v", buf[:n], err)
	}
	if seen.Load() != 2 {
		t.Errorf("the judge saw %d packets: its own must not be judged", seen.Load())
	}

	// One forged toward the world takes the way up.
	r.SetJudge(judgeFunc(func(way rule.Direction, p []byte) rule.Verdict {
		if way == rule.Down {
			return rule.Verdict{}
		}
		return rule.Verdict{Drop: true, Inject: []rule.Injection{{Packet: slices.Clone(p), Toward: rule.Up, After: after}}}
	}))
	if got, took := ask("four", 10*time.Second); got != "re:four" || took < 40*ms+after-2*tick {
		t.Errorf("got %q after %v", got, took)
	}
	// What is no packet counts as failed, and hurts nobody.
	r.SetJudge(judgeFunc(func(way rule.Direction, p []byte) rule.Verdict {
		return rule.Verdict{Inject: []rule.Injection{{Packet: []byte{0}}, {Packet: make([]byte, 3000)}}}
	}))
	if got, _ := ask("five", 10*time.Second); got != "re:five" {
		t.Errorf("got %q", got)
	}
	if up, _ := r.Counters(); up.Failed == 0 || up.Injected == 0 {
		t.Errorf("%+v", up)
	}
}

func isTimeout(err error) bool {
	var e net.Error
	return errors.As(err, &e) && e.Timeout()
}

// answer forges an answer to an IPv4 datagram. UDP may do without a checksum.
func answer(p []byte, text string) []byte {
	b := append(slices.Clone(p[:28]), text...)
	binary.BigEndian.PutUint16(b[2:], uint16(len(b)))
	copy(b[12:], p[16:20])
	copy(b[16:], p[12:16])
	copy(b[20:], p[22:24])
	copy(b[22:], p[20:22])
	binary.BigEndian.PutUint16(b[24:], uint16(8+len(text)))
	b[26], b[27] = 0, 0
	b[10], b[11] = 0, 0
	var sum uint32
	for i := 0; i < 20; i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	binary.BigEndian.PutUint16(b[10:], ^uint16(sum))
	return b
}

// A port that closes ends the censor, and says so.
func TestPortCloses(t *testing.T) {
	if err := netns.Available(); err != nil {
		t.Skip(err)
	}
	n, err := netns.New()
	if err != nil {
		t.Fatal(err)
	}
	defer n.Close()
	var ports [2]*netns.TUN
	for i, name := range []string{"a", "b"} {
		if ports[i], err = n.TUN(name, 1500); err != nil {
			t.Fatal(err)
		}
	}
	c, err := New(Config{Client: ports[0], World: ports[1]})
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- c.Run(context.Background()) }()
	ports[1].Close()
	if err := <-ended; err == nil {
		t.Error("no error")
	}
}

// BenchmarkTCP is a download from the world to the client over real TCP, and
// what the process, which has both ends in it, spends.
func BenchmarkTCP(b *testing.B) {
	for _, bb := range []struct {
		name string
		link Link
	}{
		{"direct", Link{}},
		{"delay=50ms", Link{Delay: 50 * ms}},
		{"delay=50ms,jitter=5ms,rate=550M", Link{Delay: 50 * ms, Jitter: 5 * ms, Rate: 550e6, Queue: 8 << 20}},
	} {
		b.Run(bb.name, func(b *testing.B) {
			r := build(b, Config{Up: bb.link, Down: bb.link, Judge: judgeFunc(busy)})
			wide(b, r)
			// As the package's documentation advises.
			defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(runtime.NumCPU() + 4))
			c := stream(b, r, world4, 1<<62)
			receive(b, c, 200<<20) // slow start is no matter of the censor
			const size = 100 << 20
			b.SetBytes(size)
			before := cpu()
			upBefore, downBefore := r.Counters()
			for b.Loop() {
				receive(b, c, size)
			}
			b.ReportMetric(float64(size)*8*float64(b.N)/b.Elapsed().Seconds()/1e6, "Mbit/s")
			b.ReportMetric((cpu()-before).Seconds()/b.Elapsed().Seconds(), "cores")
			up, down := r.Counters()
			b.ReportMetric(float64(up.LateMean+down.LateMean)/2000, "µs-late")
			b.ReportMetric(float64(down.Packets+up.Packets-downBefore.Packets-upBefore.Packets)/b.Elapsed().Seconds(), "packets/s")
		})
	}
}

// wide gives TCP windows that are large enough for the path.
func wide(b *testing.B, r *rig) {
	for _, n := range []*netns.Namespace{r.client, r.world} {
		if err := n.SetSysctl("net/ipv4/tcp_rmem", "4096 131072 67108864"); err != nil {
			b.Fatal(err)
		}
		if err := n.SetSysctl("net/ipv4/tcp_wmem", "4096 131072 67108864"); err != nil {
			b.Fatal(err)
		}
	}
}

// busy stands in for rules: about 0.5 µs.
func busy(_ rule.Direction, p []byte) rule.Verdict {
	start := time.Now()
	for time.Since(start) < 500*time.Nanosecond {
	}
	return rule.Verdict{}
}

func cpu() time.Duration {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
