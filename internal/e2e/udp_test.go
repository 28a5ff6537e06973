//go:build linux

package e2e

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"busel/internal/flow"
	"busel/internal/nginxtest"
)

// runWith starts a client with settings of its own.
func runWith(t *testing.T, settings string, invites ...string) *client {
	t.Helper()
	dir := t.TempDir()
	for _, in := range invites {
		command(t, in, "client", "add", "-dir", dir, "-")
	}
	if err := os.WriteFile(filepath.Join(dir, "client.toml"), []byte(settings), 0o600); err != nil {
		t.Fatal(err)
	}
	c := &client{proxy: freePort(t)}
	c.program = start(t, dir, "client", "run", "-dir", dir, "-listen", c.proxy)
	eventually(t, 15*time.Second, "client listens", func() bool { return answers(c.proxy) })
	return c
}

// flowsTotal is how many UDP associations the relay has counted.
func flowsTotal(t *testing.T, r *relay) int64 {
	t.Helper()
	var s struct {
		Relay struct {
			FlowsTotal int64 `json:"flows_total"`
		} `json:"relay"`
	}
	decode(t, command(t, "", "relayd", "status", "-dir", r.dir, "-json"), &s)
	return s.Relay.FlowsTotal
}

// serveUDP answers datagrams on the address until the test ends.
func serveUDP(t *testing.T, addr string, answer func([]byte) []byte) netip.AddrPort {
	t.Helper()
	conn, err := net.ListenPacket("udp", addr)
	if err != nil {
		t.Skipf("this machine cannot listen on %s: %v", addr, err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		buf := make([]byte, 1<<16)
		for {
			n, from, err := conn.ReadFrom(buf)
			if err != nil {
				return
			}
			conn.WriteTo(answer(buf[:n]), from)
		}
	})
	t.Cleanup(func() {
		conn.Close()
		wg.Wait()
	})
	return netip.MustParseAddrPort(conn.LocalAddr().String())
}

func echo(b []byte) []byte { return b }

// nameServer answers every question with 192.0.2.7 (RFC 1035, section 4).
func nameServer(q []byte) []byte {
	if len(q) < 12 {
		return nil
	}
	a := bytes.Clone(q)
	binary.BigEndian.PutUint16(a[2:], 0x8180) // an answer without an error
	binary.BigEndian.PutUint16(a[6:], 1)      // with one record
	a = append(a, 0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 192, 0, 2, 7)
	return a
}

// datagrams.py sends datagrams through the proxy with PySocks, and tells how
// many came back as they were.
const datagramsPy = `
import socket, socks, struct, sys
proxy, echo, six, dns = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
def associate(family=socket.AF_INET):
    s = socks.socksocket(family, socket.SOCK_DGRAM)
    host, port = proxy.rsplit(":", 1)
    s.set_proxy(socks.SOCKS5, host, int(port))
    s.settimeout(5)
    return s
def one(s, host, port, size):
    payload = bytes((size + i) % 251 for i in range(size))
    for attempt in range(3):  # datagrams may be lost
        s.sendto(payload, (host, port))
        try:
            got, where = s.recvfrom(1 << 16)
        except socket.timeout:
            continue
        assert got == payload, (size, len(got))
        assert where[1] == port, where
        return attempt
    raise SystemExit("%d bytes to %s do not come back" % (size, host))
s = associate()
again = 0
for size in list(range(1, 1473)) + [9000, 16300, 16377, 16400, 65000, 65507 - 10]:
    again += one(s, "127.0.0.1", echo, size)
if six:
    again += one(s, "::1", six, 700)
    again += one(s, "::1", six, 20000)
s.close()
s = associate()
s.sendto(struct.pack(">HHHHHH", 4711, 0x100, 1, 0, 0, 0) + b"\x04news\x07example\x00" + struct.pack(">HH", 1, 1), ("127.0.0.1", dns))
answer, _ = s.recvfrom(512)
assert answer[:4] == struct.pack(">HH", 4711, 0x8180) and answer[-4:] == bytes([192, 0, 2, 7]), answer
print("sent again:", again)
`

// python is Debian's, which has the modules that Debian packages.
const python = "/usr/bin/python3"

func needPySocks(t *testing.T) {
	t.Helper()
	if err := exec.Command(python, "-c", "import socks").Run(); err != nil {
		t.Skip("PySocks (python3-socks) is not installed")
	}
}

// TestUDP sends datagrams of all sizes, to IPv4 and IPv6, and asks a name server, with a SOCKS client that nobody here wrote.
func TestUDP(t *testing.T) {
	needPySocks(t)
	covers(t, func(t *testing.T, o relayOptions) {
		r := startRelay(t, o)
		c := runWith(t, "", r.invite)
		four := serveUDP(t, "127.0.0.1:0", echo)
		dns := serveUDP(t, "127.0.0.1:0", nameServer)
		var six netip.AddrPort
		if conn, err := net.ListenPacket("udp", "[::1]:0"); err == nil {
			conn.Close()
			six = serveUDP(t, "[::1]:0", echo)
		}
		cmd := exec.CommandContext(t.Context(), python, "-c", datagramsPy, c.proxy,
			fmt.Sprint(four.Port()), fmt.Sprint(six.Port()), fmt.Sprint(dns.Port()))
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		t.Logf("%s", bytes.TrimSpace(out))
		if n := flowsTotal(t, r); n < 2 {
			t.Errorf("the relay has counted %d flows, want at least 2", n)
		}
	})
}

// TestSocksify has Dante put a program that knows nothing of proxies behind this
// one: drill asks a name server over UDP. Dante leaves the machine's own addresses
// alone, hence this one.
func TestSocksify(t *testing.T) {
	need(t, "socksify", "drill", "ip")
	if !inNamespaces(t) {
		return
	}
	haveElsewhere(t)
	r := startRelay(t, relayOptions{})
	c := runWith(t, "", r.invite)
	dns := serveUDP(t, elsewhere+":0", nameServer)
	host, port, err := net.SplitHostPort(c.proxy)
	if err != nil {
		t.Fatal(err)
	}
	conf := filepath.Join(t.TempDir(), "socks.conf")
	text := fmt.Sprintf(`resolveprotocol: fake
route {
  from: 0.0.0.0/0 to: 0.0.0.0/0 via: %s port = %s
  protocol: tcp udp
  proxyprotocol: socks_v5
  method: none
}
`, host, port)
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "socksify", "drill", "-p", fmt.Sprint(dns.Port()), "@"+elsewhere, "news.example", "A")
	cmd.Env = append(os.Environ(), "SOCKS_CONF="+conf)
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "192.0.2.7") {
		t.Errorf("drill: %v\n%s", err, out)
	}
	if n := flowsTotal(t, r); n < 1 {
		t.Errorf("the relay has counted %d flows", n)
	}
}

// associate asks the proxy for UDP, and returns the control connection and a
// socket whose datagrams go to the association.
func associate(t *testing.T, proxy string) (net.Conn, *net.UDPConn) {
	t.Helper()
	control, err := net.Dial("tcp", proxy)
	if err != nil {
		t.Fatal(err)
	}
	control.SetDeadline(time.Now().Add(30 * time.Second))
	control.Write([]byte{5, 1, 0, 5, 3, 0, 1, 0, 0, 0, 0, 0, 0})
	reply := make([]byte, 2+10)
	if _, err := io.ReadFull(control, reply); err != nil || reply[3] != 0 {
		t.Fatalf("%x, %v", reply, err)
	}
	bound, _, err := flow.ParseAddr(reply[5:])
	if err != nil {
		t.Fatal(err)
	}
	socket, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(netip.AddrPortFrom(bound.IP, bound.Port)))
	if err != nil {
		t.Fatal(err)
	}
	return control, socket
}

// call sends 50 packets a second of 160 bytes, 64 kbit/s as a G.711 call has
// (RFC 3551, section 4.5.14), behind head, to an echo, and returns the round trip
// of each that came back.
func call(t *testing.T, conn net.Conn, head []byte, length time.Duration) (sent int, trips []time.Duration) {
	t.Helper()
	const every, size = 20 * time.Millisecond, 160
	at := make([]time.Time, length/every)
	back := make([]time.Duration, len(at))
	var mu sync.Mutex
	var wg sync.WaitGroup
	wg.Go(func() {
		buf := make([]byte, 1500)
		for {
			n, err := conn.Read(buf)
			if err != nil {
				return
			}
			now := time.Now()
			if n != len(head)+size || !bytes.Equal(buf[:len(head)], head) {
				t.Errorf("%d bytes came: %.40x", n, buf[:n])
				return
			}
			i := binary.BigEndian.Uint32(buf[len(head):])
			mu.Lock()
			if int(i) < len(at) && back[i] == 0 {
				back[i] = now.Sub(at[i])
			}
			mu.Unlock()
			if int(i) == len(at)-1 {
				return
			}
		}
	})
	tick := time.NewTicker(every)
	defer tick.Stop()
	packet := append(bytes.Clone(head), make([]byte, size)...)
	for i := range at {
		<-tick.C
		binary.BigEndian.PutUint32(packet[len(head):], uint32(i))
		mu.Lock()
		at[i] = time.Now()
		mu.Unlock()
		if _, err := conn.Write(packet); err != nil {
			t.Fatal(err)
		}
	}
	// The last ones may be late, and on a busy machine all of it lasts longer than
	// length: a ticker drops ticks that nobody takes.
	conn.SetReadDeadline(time.Now().Add(2 * time.Second))
	wg.Wait()
	gap := 0
	for i, d := range back {
		if d > 0 {
			trips = append(trips, d)
			continue
		}
		if gap++; i+1 == len(back) || back[i+1] > 0 {
			t.Logf("%d packets in a row were lost, up to number %d", gap, i)
			gap = 0
		}
	}
	return len(at), trips
}

// jitter is by how much 95 of 100 round trips differ from the median at most.
func jitter(trips []time.Duration) (median, p95 time.Duration) {
	if len(trips) == 0 {
		return 0, 0
	}
	slices.Sort(trips)
	median = trips[len(trips)/2]
	off := make([]time.Duration, len(trips))
	for i, d := range trips {
		off[i] = (d - median).Abs()
	}
	slices.Sort(off)
	return median, off[len(off)*95/100]
}

// TestCall holds a call over the tunnel and beside it, 20 s or as long as
// BUSEL_E2E_CALL says ("10m").
func TestCall(t *testing.T) {
	length := 20 * time.Second
	if text := os.Getenv("BUSEL_E2E_CALL"); text != "" {
		var err error
		if length, err = time.ParseDuration(text); err != nil {
			t.Fatal(err)
		}
	} else if testing.Short() {
		t.Skip("takes 20 s")
	}
	r := startRelay(t, relayOptions{cover: nginxtest.Run(t, nginxtest.Config{})})
	c := runWith(t, "", r.invite)
	peer := serveUDP(t, "127.0.0.1:0", echo)
	direct, err := net.Dial("udp", peer.String())
	if err != nil {
		t.Fatal(err)
	}
	defer direct.Close()
	control, tunnelled := associate(t, c.proxy)
	defer control.Close()
	defer tunnelled.Close()
	var wg sync.WaitGroup
	var bare []time.Duration
	wg.Go(func() { _, bare = call(t, direct, nil, length) })
	sent, trips := call(t, tunnelled, flow.AddrFrom(peer).Append([]byte{0, 0, 0}), length)
	wg.Wait()
	lost := sent - len(trips)
	median, p95 := jitter(trips)
	bareMedian, bareP95 := jitter(bare)
	t.Logf("%d packets, %d lost; round trip %v, direct %v; jitter p95 %v, direct %v", sent, lost, median, bareMedian, p95, bareP95)
	if 1000*lost > sent {
		t.Errorf("%d of %d packets are lost, want less than 0.1%%", lost, sent)
	}
	if added := p95 - bareP95; added > 10*time.Millisecond {
		t.Errorf("p95 of the added jitter is %v, want at most 10 ms", added)
	}
}

// TestCallSurvivesMoves cuts the connection to the relay under a call: some
// packets are lost, the call goes on.
func TestCallSurvivesMoves(t *testing.T) {
	var p *path
	r := startRelay(t, relayOptions{via: func(listen string) string { p = newPath(t, listen, 0); return p.addr() }})
	c := runWith(t, "", r.invite)
	peer := serveUDP(t, "127.0.0.1:0", echo)
	control, socket := associate(t, c.proxy)
	defer control.Close()
	defer socket.Close()
	head := flow.AddrFrom(peer).Append([]byte{0, 0, 0})
	for round := range 3 {
		packet := fmt.Appendf(bytes.Clone(head), "round %d", round)
		buf := make([]byte, 100)
		eventually(t, 20*time.Second, "an answer after the cut", func() bool {
			if _, err := socket.Write(packet); err != nil {
				t.Fatal(err)
			}
			socket.SetReadDeadline(time.Now().Add(200 * time.Millisecond))
			n, err := socket.Read(buf)
			return err == nil && bytes.Equal(buf[:n], packet)
		})
		p.cut()
	}
}

// TestSOCKS4 has curl speak SOCKS4a and SOCKS4.
func TestSOCKS4(t *testing.T) {
	need(t, "curl")
	r := startRelay(t, relayOptions{})
	c := runWith(t, "", r.invite)
	_, port, _ := net.SplitHostPort(startOrigin(t))
	for i, args := range [][]string{
		{"--socks4a", c.proxy, "http://127.0.0.1:" + port + "/"}, // as a name
		{"--socks4", c.proxy, "http://127.0.0.1:" + port + "/"},
		{"--proxy", "socks4a://somebody@" + c.proxy, "http://127.0.0.1:" + port + "/"},
	} {
		if got := curl(t, args...); !strings.Contains(string(got), "You can read this") {
			t.Errorf("curl %v got %q", args, got)
		}
		if n := r.status(t).Relay.StreamsTotal; n != int64(i+1) {
			t.Errorf("after request %d the relay has counted %d streams", i+1, n)
		}
	}
	for _, url := range []string{"http://" + freePort(t) + "/", "http://no-such-name.invalid/"} {
		if _, err := tryCurl(t.Context(), "--socks4a", c.proxy, url); err == nil || !strings.Contains(err.Error(), "(91)") {
			t.Errorf("%s: want SOCKS4 reply 91, got %v", url, err)
		}
	}
}

// TestPassword has curl say the right password, a wrong one and none.
func TestPassword(t *testing.T) {
	need(t, "curl")
	r := startRelay(t, relayOptions{})
	c := runWith(t, "[local]\nuser = \"anna\"\npassword = \"stork on the roof\"\n", r.invite)
	origin := "http://" + startOrigin(t) + "/"
	const right, wrong = "anna:stork%20on%20the%20roof@", "anna:crow@"
	for _, args := range [][]string{
		{"--proxy", "socks5h://" + right + c.proxy, origin},
		{"--proxy", "http://" + right + c.proxy, origin},
		{"--proxy", "http://" + right + c.proxy, "--proxytunnel", origin},
		{"--proxy", "http://" + right + c.proxy, "--proxy-anyauth", origin},
		{"--proxy", "http://" + right + c.proxy, "--proxy-anyauth", "--proxytunnel", origin},
	} {
		if got := curl(t, args...); !strings.Contains(string(got), "You can read this") {
			t.Errorf("curl %v got %q", args, got)
		}
	}
	streams := r.status(t).Relay.StreamsTotal
	for _, login := range []string{"", wrong} {
		for _, scheme := range []string{"socks5h", "socks4a"} {
			if _, err := tryCurl(t.Context(), "--proxy", scheme+"://"+login+c.proxy, origin); err == nil {
				t.Errorf("%s with %q is let through", scheme, login)
			}
		}
		out := curl(t, "--proxy", "http://"+login+c.proxy, "-o", os.DevNull, "-w", "%{http_code}", origin)
		if string(out) != "407" {
			t.Errorf("http with %q: status %s, want 407", login, out)
		}
	}
	if n := r.status(t).Relay.StreamsTotal; n != streams {
		t.Errorf("without the password %d streams were opened", n-streams)
	}
	if got := curl(t, "http://"+c.proxy+"/proxy.pac"); !strings.Contains(string(got), "PROXY "+c.proxy) {
		t.Errorf("the automatic configuration is %q", got)
	}
}

// TestChromiumUsesPAC gives the browser nothing but the address of the automatic
// configuration, and asks for a name that only the relay can look up. Browsers
// send what they know to be loopback around any proxy, so that an address of this
// machine would prove nothing.
func TestChromiumUsesPAC(t *testing.T) {
	need(t, "chromium", "ip")
	if !inNamespaces(t) {
		return
	}
	const name = "site.busel.test"
	hosts := filepath.Join(t.TempDir(), "hosts")
	if err := os.WriteFile(hosts, []byte("127.0.0.1 localhost "+name+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount(hosts, "/etc/hosts", "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	r := startRelay(t, relayOptions{})
	c := runWith(t, "", r.invite)
	page := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		io.WriteString(w, `<body>You can read this<script>document.body.append(' and its script ran');</script>`)
	})
	plain, secure := httptest.NewServer(page), httptest.NewTLSServer(page)
	defer plain.Close()
	defer secure.Close()
	browse := func(url string, options ...string) (dom []byte, err error) {
		args := []string{
			"--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
			"--disable-background-networking", "--disable-component-update", "--disable-sync", "--ignore-certificate-errors",
			"--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1", "--user-data-dir=" + t.TempDir(), "--timeout=20000", "--dump-dom",
		}
		return exec.CommandContext(t.Context(), "chromium", append(append(args, options...), url)...).Output()
	}
	const ran = "and its script ran"
	for _, server := range []string{plain.URL, secure.URL} {
		url := strings.Replace(server, "127.0.0.1", name, 1)
		if out, err := browse(url, "--proxy-pac-url=http://"+c.proxy+"/proxy.pac"); err != nil || !strings.Contains(string(out), ran) {
			t.Errorf("%s: %v\n%s", url, err, out)
		}
	}
	url := strings.Replace(plain.URL, "127.0.0.1", name, 1)
	if out, _ := browse(url, "--no-proxy-server"); strings.Contains(string(out), ran) {
		t.Errorf("%s comes without the proxy, too: this test proves nothing", url)
	}
}
