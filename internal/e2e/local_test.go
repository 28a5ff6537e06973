//go:build linux

package e2e

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"busel/internal/front"
)

// pageOf opens the client's page as its user does, and returns what a browser has then:
// lines of its requests.
func pageOf(t *testing.T, c *client) (cookie, key string) {
	t.Helper()
	link := strings.TrimSpace(command(t, "", "client", "page", "-dir", c.dir, "-no-open"))
	_, ticket, ok := strings.Cut(link, "http://"+c.proxy+"/?key=")
	if !ok || len(ticket) < 16 {
		t.Fatalf("no link with a ticket in %q", link)
	}
	web := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	defer web.CloseIdleConnections()
	resp, err := web.Get(link)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	key, ok = strings.CutPrefix(resp.Header.Get("Location"), "/#")
	if resp.StatusCode != http.StatusSeeOther || !ok || len(resp.Cookies()) != 1 {
		t.Fatalf("the link is answered %s to %q with cookies %v", resp.Status, resp.Header.Get("Location"), resp.Cookies())
	}
	cookie, _, _ = strings.Cut(resp.Cookies()[0].String(), ";")
	for name, word := range map[string]string{"ticket": ticket, "key": key, "cookie": resp.Cookies()[0].Value} {
		secrets.Store(strings.ToLower(word), "the page's "+name)
	}
	return cookie, key
}

// TestPage asks the client's own page as a resident does, and as a web site does that
// the resident visits.
func TestPage(t *testing.T) {
	need(t, "curl")
	r := startRelay(t, relayOptions{})
	c := startClient(t, r.invite)
	curl(t, "-o", os.DevNull, "--proxy", "socks5h://"+c.proxy, "http://"+startOrigin(t)+"/")
	if strings.Contains(c.out.String()+c.err.String(), "key=") {
		t.Error("the client wrote the link where nobody reads")
	}
	cookie, key := pageOf(t, c)
	own := "http://" + c.proxy
	_, port, _ := net.SplitHostPort(c.proxy)

	web := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	t.Cleanup(web.CloseIdleConnections)
	do := func(method, url string, header ...string) (*http.Response, string) {
		t.Helper()
		req, err := http.NewRequest(method, url, strings.NewReader("{}"))
		if err != nil {
			t.Fatal(err)
		}
		for i := 0; i < len(header); i += 2 {
			req.Header.Set(header[i], header[i+1])
		}
		req.Host = req.Header.Get("Host") // empty: as in the URL
		resp, err := web.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp, string(body)
	}
	if resp, body := do("GET", own+"/", "Cookie", cookie); resp.StatusCode != 200 || !strings.Contains(body, "<h1 id=\"title\">") {
		t.Errorf("the page: %s: %s", resp.Status, body)
	}
	resp, body := do("GET", own+"/api/state", "Cookie", cookie, front.KeyHeader, key)
	var s struct {
		Phase  string
		Status front.Status
	}
	if err := json.Unmarshal([]byte(body), &s); resp.StatusCode != 200 || err != nil || s.Phase != "connected" || s.Status.Listen != c.proxy || len(s.Status.Paths) != 1 {
		t.Errorf("the state: %s, %v: %s", resp.Status, err, body)
	}
	if host, _, _ := net.SplitHostPort(r.listen); strings.Contains(strings.ReplaceAll(body, c.proxy, ""), host) {
		t.Errorf("the state tells where the relay is: %s", body)
	}
	good := []string{"Cookie", cookie, front.KeyHeader, key, "Content-Type", "application/json"}
	for name, x := range map[string][]string{
		"no secret":                 {"GET", "/"},
		"no secret for the state":   {"GET", "/api/state"},
		"a wrong ticket":            {"GET", "/?key=" + strings.Repeat("a", 26)},
		"the cookie alone":          {"GET", "/api/state", "Cookie", cookie},
		"the key alone":             {"GET", "/api/state", front.KeyHeader, key},
		"wrong cookie":              {"GET", "/api/state", "Cookie", cookie[:len(cookie)-2] + "xx", front.KeyHeader, key},
		"another site's name":       append([]string{"GET", "/api/state", "Host", "rebind.example:" + port}, good...),
		"name that begins so":       append([]string{"GET", "/api/state", "Host", "localhost.rebind.example:" + port}, good...),
		"no port":                   append([]string{"GET", "/api/state", "Host", "127.0.0.1"}, good...),
		"another port":              append([]string{"GET", "/api/state", "Host", "127.0.0.1:80"}, good...),
		"another site's script":     append([]string{"POST", "/api/quit", "Origin", "http://rebind.example"}, good...),
		"another port's script":     append([]string{"POST", "/api/quit", "Origin", "http://127.0.0.1:80"}, good...),
		"another site's image":      append([]string{"GET", "/api/share?label=r1", "Sec-Fetch-Site", "cross-site"}, good...),
		"another port's image":      append([]string{"GET", "/api/picture?label=r1", "Sec-Fetch-Site", "same-site"}, good...),
		"another site's form":       {"POST", "/api/quit", "Cookie", cookie, "Content-Type", "application/x-www-form-urlencoded"},
		"a name, and a new address": append([]string{"POST", "/api/quit", "Host", "rebind.example:" + port, "Origin", "http://rebind.example:" + port}, good...),
	} {
		resp, body := do(x[0], own+x[1], x[2:]...)
		if resp.StatusCode != http.StatusForbidden || len(resp.Cookies()) != 0 {
			t.Errorf("%s: %s, cookies %v", name, resp.Status, resp.Cookies())
		}
		if host, _, _ := net.SplitHostPort(r.listen); strings.Contains(body, host) || strings.Contains(body, "mirror") {
			t.Errorf("%s: the answer tells of the relay: %s", name, body)
		}
	}
	// A page that is loaded over the proxy cannot reach it either, whatever name
	// it finds for this machine.
	for _, host := range []string{"127.0.0.1", "localhost", "[::ffff:127.0.0.1]"} {
		code := curl(t, "-o", os.DevNull, "-w", "%{http_code}", "--proxy", own, "--noproxy", "", "-H", "Cookie: "+cookie, "-H", front.KeyHeader+": "+key,
			"http://"+host+":"+port+"/api/state")
		if string(code) != "403" {
			t.Errorf("through the proxy itself by %s: status %s", host, code)
		}
	}
	if resp, _ := do("POST", own+"/api/quit", good...); resp.StatusCode != 200 {
		t.Errorf("the end: %s", resp.Status)
	}
	eventually(t, 10*time.Second, "the client has ended", func() bool { return !answers(c.proxy) })
}

// TestWithoutRelay has a client that holds no invite, and one whose relay does
// not answer: both say so, and nothing goes around them.
func TestWithoutRelay(t *testing.T) {
	need(t, "curl")
	page := "http://" + startOrigin(t) + "/"
	t.Run("no invite", func(t *testing.T) {
		c := startClient(t)
		out := string(curl(t, "-H", "Accept: text/html", "-w", " %{http_code}", "--proxy", "http://"+c.proxy, page))
		if !strings.HasSuffix(out, " 503") || !strings.Contains(out, "<h1>") || strings.Contains(out, "You can read this") {
			t.Errorf("over HTTP: want a page of status 503, got %s", out)
		}
		_, err := tryCurl(t.Context(), "--proxy", "socks5h://"+c.proxy, page)
		if err == nil || !strings.Contains(err.Error(), "(1)") {
			t.Errorf("over SOCKS: want code 1, got %v", err)
		}
	})
	t.Run("relay is gone", func(t *testing.T) {
		r := startRelay(t, relayOptions{})
		r.end()
		c := startClient(t, r.invite)
		begin := time.Now()
		out := string(curl(t, "-w", " %{http_code}", "--proxy", "http://"+c.proxy, page))
		if !strings.HasSuffix(out, " 503") || !strings.Contains(out, "No relay can be reached") {
			t.Errorf("over HTTP: want status 503, got %s", out)
		}
		_, err := tryCurl(t.Context(), "--proxy", "socks5h://"+c.proxy, page)
		if err == nil || !strings.Contains(err.Error(), "(1)") {
			t.Errorf("over SOCKS: want code 1, got %v", err)
		}
		if took := time.Since(begin); took > 30*time.Second {
			t.Errorf("two applications waited %v to hear that no relay can be reached", took)
		}
		if s := c.status(t); s.Online || len(s.Paths) != 1 || s.Paths[0].Failure != "refused" {
			t.Errorf("the client says %+v, want refused", s)
		}
	})
}

// TestRelayRestarted restarts the relay in the middle of a download: that ends
// with an error, and the next request works at once.
func TestRelayRestarted(t *testing.T) {
	need(t, "curl")
	r := startRelay(t, relayOptions{})
	c := startClient(t, r.invite)
	origin := startOrigin(t)
	broken := make(chan error, 1)
	received := make(chan struct{})
	resp, err := proxied(t, c.proxy).Get("http://" + origin + "/bytes/4000000000")
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		defer resp.Body.Close()
		if _, err := io.CopyN(io.Discard, resp.Body, 1<<20); err != nil {
			t.Error(err)
		}
		close(received)
		_, err := io.Copy(io.Discard, resp.Body)
		broken <- err
	}()
	<-received
	r.end()
	r.run(t, r.dir)
	begin := time.Now()
	if got := curl(t, "--proxy", "http://"+c.proxy, "http://"+origin+"/"); !strings.Contains(string(got), "You can read this") {
		t.Errorf("the next request got %q", got)
	}
	took := time.Since(begin)
	t.Logf("the next request took %v", took.Round(time.Millisecond))
	if took > 5*time.Second {
		t.Errorf("the next request took %v", took)
	}
	select {
	case err := <-broken:
		if err == nil {
			t.Error("a download that was cut short looks complete")
		}
		t.Logf("the download: %v", err)
	case <-time.After(20 * time.Second):
		t.Error("the download hangs")
	}
}

// TestIPv6 has all of it on ::1.
func TestIPv6(t *testing.T) {
	need(t, "curl")
	ln, err := net.Listen("tcp", "[::1]:0")
	if err != nil {
		t.Skip("no IPv6 here")
	}
	ln.Close()
	r := startRelay(t, relayOptions{host: "::1"})
	dir := t.TempDir()
	invitation(t, r.invite)
	command(t, r.invite, "client", "add", "-dir", dir, "-")
	c := runClient(t, dir, freePortOn(t, "::1"))
	page := "http://" + startOriginOn(t, "::1") + "/"
	for _, scheme := range []string{"socks5h", "socks5", "http"} {
		if got := curl(t, "--proxy", scheme+"://"+c.proxy, page); !strings.Contains(string(got), "You can read this") {
			t.Errorf("over %s: %q", scheme, got)
		}
	}
	if n := r.status(t).Relay.StreamsTotal; n != 3 {
		t.Errorf("the relay has counted %d streams", n)
	}
}

// TestSockets looks at the programs' sockets as the kernel shows them: BBR where
// it has that, plain TCP, and no keepalive of the relay's.
func TestSockets(t *testing.T) {
	need(t, "ss", "curl")
	r := startRelay(t, relayOptions{})
	c := startClient(t, r.invite)
	curl(t, "-o", os.DevNull, "--proxy", "socks5h://"+c.proxy, "http://"+startOrigin(t)+"/")
	_, port, _ := net.SplitHostPort(r.listen)
	show := func(side string) string {
		out, err := exec.Command("ss", "-HtnioO", "state", "established", side+" = :"+port).Output()
		lines := strings.Split(strings.TrimSpace(string(out)), "\n")
		if err != nil || len(lines) != 1 || lines[0] == "" {
			t.Fatalf("want one socket with %s %s, got %q, %v", side, port, out, err)
		}
		return lines[0]
	}
	client, relay := show("dport"), show("sport")
	available, err := os.ReadFile("/proc/sys/net/ipv4/tcp_available_congestion_control")
	if err != nil {
		t.Fatal(err)
	}
	bbr := strings.Contains(string(available), "bbr")
	if !bbr {
		t.Log("this kernel has no BBR, so it was not looked for")
	}
	for name, socket := range map[string]string{"client": client, "relay": relay} {
		if bbr && !strings.Contains(socket, " bbr ") {
			t.Errorf("the %s does not use BBR: %s", name, socket)
		}
		if strings.Contains(socket, "mptcp") {
			t.Errorf("the %s offers Multipath TCP: %s", name, socket)
		}
	}
	// A browser probes an idle connection every 45 s, a web server never.
	m := regexp.MustCompile(`timer:\(keepalive,(\d+)(?:\.\d+)?sec`).FindStringSubmatch(client)
	if m == nil {
		t.Errorf("the client has no keepalive: %s", client)
	} else if s, _ := strconv.Atoi(m[1]); s < 30 || s > 45 {
		t.Errorf("the client's keepalive is due in %d s", s)
	}
	if strings.Contains(relay, "keepalive") {
		t.Errorf("the relay has a keepalive: %s", relay)
	}
}

// TestThousandIdleStreams is the budget for memory: 1,000 streams that rest cost
// less than 45 MiB in each program 10 s after the last byte, also after bulk.
func TestThousandIdleStreams(t *testing.T) {
	need(t, "curl")
	if os.Getenv("BUSEL_E2E_RACE") != "" {
		t.Skip("the race detector takes memory of its own")
	}
	if testing.Short() {
		t.Skip("takes half a minute")
	}
	const streams, most, rest = 1000, 45 << 20, 10 * time.Second
	r := startRelay(t, relayOptions{})
	c := startClient(t, r.invite)
	origin := startOrigin(t)
	echo := startEcho(t)
	for range streams {
		conn := socks(t, c.proxy, echo)
		if _, err := conn.Write([]byte{1}); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(conn, make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
	}
	if n := c.status(t).Streams; n < streams {
		t.Fatalf("the client has %d streams", n)
	}
	weigh := func(when string) {
		t.Helper()
		<-time.After(rest) // it is what the budget says
		for name, p := range map[string]*program{"client": c.program, "relayd": r.program} {
			n := resident(t, p)
			t.Logf("%s: %s has %.1f MiB", when, name, float64(n)/(1<<20))
			if n > most {
				t.Errorf("%s: %s has %.1f MiB, more than %d", when, name, float64(n)/(1<<20), most>>20)
			}
		}
	}
	weigh("idle")
	curl(t, "-o", os.DevNull, "--proxy", "socks5h://"+c.proxy, "http://"+origin+"/bytes/300000000")
	weigh("after bulk")
}

// resident is a program's resident memory in bytes.
func resident(t *testing.T, p *program) int64 {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	m := regexp.MustCompile(`VmRSS:\s+(\d+) kB`).FindSubmatch(text)
	if m == nil {
		t.Fatalf("no VmRSS in %s", text)
	}
	n, err := strconv.ParseInt(string(m[1]), 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return n << 10
}

// startEcho serves connections by sending back what comes.
func startEcho(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	go func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				io.Copy(conn, conn)
			}()
		}
	}()
	return ln.Addr().String()
}

// socks opens a connection to an IPv4 address through the proxy, until the test
// ends.
func socks(t *testing.T, proxy, dst string) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", proxy)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	a, err := net.ResolveTCPAddr("tcp4", dst)
	if err != nil {
		t.Fatal(err)
	}
	request := append([]byte{5, 1, 0, 5, 1, 0, 1}, a.IP.To4()...)
	request = append(request, byte(a.Port>>8), byte(a.Port))
	reply := make([]byte, 2+10)
	if _, err := conn.Write(request); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(conn, reply); err != nil || reply[3] != 0 {
		t.Fatalf("SOCKS reply % x: %v", reply, err)
	}
	return conn
}
