//go:build linux

package e2e

import (
	"crypto/sha256"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"busel/internal/flow"
)

// invitesStatus is what the tests read of `relayd invites -json`.
type invitesStatus struct {
	Used    uint64 `json:"used_bytes"`
	Invites []struct {
		Name    string `json:"name"`
		State   string `json:"state"`
		Used    uint64 `json:"used_bytes"`
		Devices int    `json:"devices"`
	} `json:"invites"`
}

func (r *relay) invites(t *testing.T) (s invitesStatus) {
	t.Helper()
	decode(t, command(t, "", "relayd", "invites", "-dir", r.dir, "-json"), &s)
	return s
}

func (s *invitesStatus) find(t *testing.T, name string) (state string, used uint64, devices int) {
	t.Helper()
	for _, in := range s.Invites {
		if in.Name == name {
			return in.State, in.Used, in.Devices
		}
	}
	t.Fatalf("no invite %s in %+v", name, s)
	return "", 0, 0
}

// refused has curl try the page over SOCKS and returns the reply code that it saw; 0
// if it got the page.
func refused(t *testing.T, proxy, page string) int {
	t.Helper()
	_, err := tryCurl(t.Context(), "--proxy", "socks5h://"+proxy, page)
	if err == nil {
		return 0
	}
	for code := 1; code < 10; code++ {
		if strings.Contains(err.Error(), fmt.Sprintf("(%d)", code)) && !strings.Contains(err.Error(), "No authentication") {
			return code
		}
	}
	return -1
}

// TestRevokeLive revokes an invite while its client downloads: that ends within
// seconds, in the client's words, and another invite's goes on.
func TestRevokeLive(t *testing.T) {
	need(t, "curl")
	r := startRelay(t, relayOptions{quic: true})
	anna := strings.TrimSpace(command(t, "", "relayd", "invite", "-dir", r.dir, "-name", "anna"))
	a, b := startClient(t, anna), startClient(t, r.invite)
	page := "http://" + startOrigin(t) + "/bytes/20000000"
	want := sha256.Sum256(curl(t, page))
	type result struct {
		sum [32]byte
		err error
		at  time.Time
	}
	load := func(c *client) chan result {
		done := make(chan result, 1)
		go func() {
			out, err := tryCurl(t.Context(), "--limit-rate", "2500K", "--proxy", "socks5h://"+c.proxy, page)
			done <- result{sha256.Sum256(out), err, time.Now()}
		}()
		eventually(t, 20*time.Second, "the download runs", func() bool { return c.status(t).BytesDown > 1<<20 })
		return done
	}
	lost, kept := load(a), load(b)
	if s := r.invites(t); true {
		if state, used, devices := s.find(t, "anna"); state != "valid" || used < 1<<20 || devices != 1 {
			t.Errorf("anna before: %s, %d bytes, %d devices", state, used, devices)
		}
	}
	begin := time.Now()
	command(t, "", "relayd", "revoke", "-dir", r.dir, "anna")
	if l := <-lost; l.err == nil || l.at.Sub(begin) > 5*time.Second {
		t.Errorf("the download of the revoked invite ended after %v with %v", l.at.Sub(begin), l.err)
	}
	if k := <-kept; k.err != nil || k.sum != want {
		t.Errorf("the other invite's download: %v, right %t", k.err, k.sum == want)
	}
	if code := refused(t, a.proxy, "http://127.0.0.1:1/"); code != 2 {
		t.Errorf("a new stream of the revoked invite: reply %d", code)
	}
	if out := command(t, "", "client", "status", "-dir", a.dir); !strings.Contains(out, "the invite was revoked: ask for a new one") {
		t.Errorf("client status says:\n%s", out)
	}
	if s := r.invites(t); true {
		if state, _, devices := s.find(t, "anna"); state != "revoked" || devices != 0 {
			t.Errorf("anna after: %s, %d devices", state, devices)
		}
	}
}

// TestQuotaOverKill9 uploads until the quota is used up, over restarts and kill -9 of
// the relay in the midst of it: what came to the origin is the quota within 1 %.
func TestQuotaOverKill9(t *testing.T) {
	need(t, "curl")
	const quota, kills = 100_000_000, 3
	r := startRelay(t, relayOptions{})
	invite := strings.TrimSpace(command(t, "", "relayd", "invite", "-dir", r.dir, "-name", "anna", "-quota", "100MB", "-rate", "400Mbit"))
	c := startClient(t, invite)
	var came atomic.Int64 // at the origin, heads too
	origin := httptest.NewUnstartedServer(http.HandlerFunc(func(_ http.ResponseWriter, req *http.Request) { io.Copy(io.Discard, req.Body) }))
	origin.Listener = countingListener{origin.Listener, &came}
	origin.Start()
	defer origin.Close()
	web := proxied(t, c.proxy)
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for {
			select {
			case <-stop:
				return
			default:
			}
			resp, err := web.Post(origin.URL, "application/octet-stream", io.LimitReader(zeros{}, 8<<20))
			if err == nil {
				resp.Body.Close()
			}
		}
	}()
	for n := range kills {
		least := came.Load() + 1 + rand.Int64N(quota/kills/2)
		eventually(t, 60*time.Second, "the upload goes on", func() bool { return came.Load() > least })
		if n == kills-1 {
			r.end()
		} else {
			r.kill()
		}
		r.run(t, r.dir)
	}
	eventually(t, 90*time.Second, "the quota is used up", func() bool {
		s := r.invites(t)
		state, _, _ := s.find(t, "anna")
		return state == "used-up"
	})
	close(stop)
	<-stopped
	if n := came.Load(); n < quota*99/100 || n > quota*101/100 {
		t.Errorf("%d bytes came to the origin", n)
	} else {
		t.Logf("%d bytes of %d came over %d ends of the relay: off by %.3f %%", n, quota, kills, 100*float64(n-quota)/quota)
	}
	// A stream that opened just as the quota ended may have been reset in its midst.
	eventually(t, 30*time.Second, "streams are refused by rule", func() bool { return refused(t, c.proxy, origin.URL) == 2 })
	if out := string(curl(t, "--proxy", "http://"+c.proxy, origin.URL)); !strings.Contains(out, "quota of your invite") {
		t.Errorf("over HTTP: %s", out)
	}
	if out := command(t, "", "client", "status", "-dir", c.dir); !strings.Contains(out, "this month's quota of the invite, or of its relay, is used up") {
		t.Errorf("client status says:\n%s", out)
	}
	command(t, "", "relayd", "limit", "-dir", r.dir, "-quota", "none", "anna")
	if code := refused(t, startClient(t, invite).proxy, origin.URL); code != 0 {
		t.Errorf("without its quota: reply %d", code)
	}
}

type zeros struct{}

func (zeros) Read(b []byte) (int, error) { return len(b), nil }

// countingListener counts what its connections receive.
type countingListener struct {
	net.Listener
	n *atomic.Int64
}

func (l countingListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	return countingConn{c, l.n}, err
}

type countingConn struct {
	net.Conn
	n *atomic.Int64
}

func (c countingConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.n.Add(int64(n))
	return n, err
}

// TestExitRules tries what the exit denies from a program's view, names that resolve
// to it among them: the reply is 2, "not allowed by ruleset".
func TestExitRules(t *testing.T) {
	need(t, "curl", "ip")
	if !inNamespaces(t) {
		return
	}
	hosts := filepath.Join(t.TempDir(), "hosts")
	forms := []string{"::1", "::ffff:127.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::1", "2001:0:808:808::80ff:fffe", "fe80::1", "10.0.0.1", "169.254.169.254"}
	table := "127.0.0.1 inside.example.org inside.example.net\n"
	for i, form := range forms {
		table += fmt.Sprintf("%s hidden-%d.example.org\n", form, i)
	}
	if err := os.WriteFile(hosts, []byte(table), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount(hosts, "/etc/hosts", "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	origin := startOrigin(t)
	_, port, _ := net.SplitHostPort(origin)
	here := []string{origin, "inside.example.org:" + port}
	inside := slices.Clone(here)
	for i, form := range forms {
		inside = append(inside, net.JoinHostPort(form, port), fmt.Sprintf("hidden-%d.example.org:%s", i, port))
	}
	set := func(key, line string) func(string) string {
		return func(text string) string { return replaceLine(t, text, key, line) }
	}
	for _, tt := range []struct {
		name           string
		edit           func(string) string
		denied, passes []string
	}{
		{"default", set("allow", `allow = []`), inside, nil},
		{"web", set("only", `only = "web"`), here, nil},
		{"names", set("names", `names = ["example.org"]`), []string{origin, "inside.example.net:" + port}, here[1:]},
		{"source", set("source", `source = ["127.0.0.9"]`), nil, here},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := startRelay(t, relayOptions{edit: tt.edit})
			c := startClient(t, r.invite)
			for _, host := range tt.denied {
				if code := refused(t, c.proxy, "http://"+host+"/"); code != 2 {
					t.Errorf("%s: reply %d, want 2", host, code)
				}
			}
			for _, host := range tt.passes {
				if code := refused(t, c.proxy, "http://"+host+"/"); code != 0 {
					t.Errorf("%s: reply %d", host, code)
				}
			}
		})
	}
}

// TestExitRelay has one relay leave by another: all goes through both, the rules of
// each hold, and when the second fails, programs are told the truth.
func TestExitRelay(t *testing.T) {
	need(t, "curl")
	second := startRelay(t, relayOptions{})
	first := startRelay(t, relayOptions{edit: func(s string) string {
		s = replaceLine(t, s, "deny", `deny = ["127.0.0.3/32"]`)
		return replaceLine(t, s, "relay", fmt.Sprintf("relay = %q", second.invite))
	}})
	c := startClient(t, first.invite)
	origin := startOrigin(t)
	_, port, _ := net.SplitHostPort(origin)
	page := "http://" + origin + "/bytes/20000000"
	want := sha256.Sum256(curl(t, page))
	if got := sha256.Sum256(curl(t, "--proxy", "socks5h://"+c.proxy, page)); got != want {
		t.Error("the download differs")
	}
	one, two := first.status(t), second.status(t)
	if one.Relay.StreamsTotal == 0 || two.Relay.StreamsTotal != one.Relay.StreamsTotal || two.Relay.Sessions != 1 || one.Next != "connected" {
		t.Errorf("first %+v, second %+v", one, two)
	}
	// The second relay allows all of loopback, the first one does not.
	for host, want := range map[string]int{
		"127.0.0.1:" + port: 0, "127.0.0.3:" + port: 2, "[::ffff:127.0.0.3]:" + port: 2,
		"10.0.0.1": 2, "169.254.169.254": 2, "mail.invalid:25": 2,
		"127.0.0.1:1": 5, "no-such-name.invalid": 4,
	} {
		if code := refused(t, c.proxy, "http://"+host+"/"); code != want {
			t.Errorf("%s: reply %d, want %d", host, code, want)
		}
	}
	// Datagrams, too.
	server := serveUDP(t, "127.0.0.1:0", echo)
	ctl, udp := associate(t, c.proxy)
	defer ctl.Close()
	defer udp.Close()
	packet := append(flow.AddrFrom(server).Append([]byte{0, 0, 0}), "hello"...)
	closed := append(flow.AddrFrom(netip.AddrPortFrom(netip.MustParseAddr("127.0.0.3"), server.Port())).Append([]byte{0, 0, 0}), "no"...)
	udp.Write(closed)
	buf := make([]byte, 100)
	for tries := 0; ; tries++ {
		udp.Write(packet)
		udp.SetReadDeadline(time.Now().Add(2 * time.Second))
		n, err := udp.Read(buf)
		if err == nil {
			if string(buf[:n]) != string(packet) {
				t.Errorf("a datagram came back as %q", buf[:n])
			}
			break
		}
		if tries == 10 {
			t.Fatal("no datagram came back")
		}
	}
	if n := second.status(t).Relay.FlowsTotal; n != 1 {
		t.Errorf("the second relay had %d flows", n)
	}

	second.kill()
	begin := time.Now()
	// A destination that was not reached before: what was is answered at once.
	if code := refused(t, c.proxy, "http://127.0.0.4:1/"); code != 3 {
		t.Errorf("without the second relay: reply %d, want 3", code)
	}
	if took := time.Since(begin); took > 30*time.Second {
		t.Errorf("the reply took %v", took)
	}
	if out := command(t, "", "client", "status", "-dir", c.dir); !strings.Contains(out, ": connected\n") {
		t.Errorf("the client is told:\n%s", out)
	}
}
