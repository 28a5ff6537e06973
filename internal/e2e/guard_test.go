//go:build linux

package e2e

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// scannerVariable makes this test binary a program that looks for a proxy at the address
// that it names.
const scannerVariable = "BUSEL_E2E_SCANNER"

// nobody is a user of every Linux who runs no client.
const nobody = 65534

// localProbes are what somebody says who looks for proxies on this computer.
func localProbes(proxy string) map[string]string {
	return map[string]string{
		"silence":        "",
		"SOCKS5":         "\x05\x01\x00",
		"SOCKS5 methods": "\x05\x03\x00\x01\x02",
		"SOCKS5 CONNECT": "\x05\x01\x00\x05\x01\x00\x01\x7f\x00\x00\x01\x00\x50",
		"SOCKS5 UDP":     "\x05\x01\x00\x05\x03\x00\x01\x00\x00\x00\x00\x00\x00",
		"SOCKS4":         "\x04\x01\x00\x50\x7f\x00\x00\x01me\x00",
		"SOCKS4a":        "\x04\x01\x00\x50\x00\x00\x00\x01\x00www.example.org\x00",
		"CONNECT":        "CONNECT 127.0.0.1:80 HTTP/1.1\r\nHost: 127.0.0.1:80\r\n\r\n",
		"absolute":       "GET http://127.0.0.1/ HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
		"page":           "GET / HTTP/1.1\r\nHost: " + proxy + "\r\n\r\n",
		"API":            "GET /status.json HTTP/1.1\r\nHost: " + proxy + "\r\n\r\n",
		"PAC":            "GET /proxy.pac HTTP/1.1\r\nHost: " + proxy + "\r\n\r\n",
		"no HTTP":        "GET\r\n\r\n",
		"TLS":            "\x16\x03\x01\x00\x05\x01\x00\x00\x01\x03",
		"garbage":        strings.Repeat("\x99", 20_000),
	}
}

// scan says what each probe gives: "reset", or what came and how it ended. With end the
// scanner says that it is done, lest both wait for each other.
func scan(proxy string, end bool) map[string]string {
	var mu sync.Mutex
	var wg sync.WaitGroup
	found := map[string]string{}
	for name, say := range localProbes(proxy) {
		wg.Go(func() {
			got := probeLocal(proxy, say, end)
			mu.Lock()
			defer mu.Unlock()
			found[name] = got
		})
	}
	wg.Wait()
	return found
}

func probeLocal(proxy, say string, end bool) string {
	c, err := net.Dial("tcp", proxy)
	if errors.Is(err, syscall.ECONNRESET) {
		return "reset" // before the system has told of the connection
	}
	if err != nil {
		return err.Error()
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(20 * time.Second))
	// Said in one packet with the last of the handshake where that is fast enough: the
	// answer may depend on whether anything has come.
	_, failed := io.WriteString(c, say)
	if end {
		c.(*net.TCPConn).CloseWrite()
	}
	got, err := io.ReadAll(c)
	switch {
	case len(got) == 0 && (errors.Is(err, syscall.ECONNRESET) || err == nil && (failed != nil)):
		return "reset"
	case err == nil && len(got) == 0:
		return "end"
	}
	return fmt.Sprintf("%q, %v", got, err)
}

// beScanner is the other program.
func beScanner(proxy string) int {
	if err := json.NewEncoder(os.Stdout).Encode(scan(proxy, false)); err != nil {
		return 1
	}
	return 0
}

// asUser makes a command another user's.
func asUser(cmd *exec.Cmd, uid int) *exec.Cmd {
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(uid), NoSetGroups: true}}
	return cmd
}

// scanAs has another user's program scan.
func scanAs(t *testing.T, uid int, proxy string) (found map[string]string) {
	t.Helper()
	// Its file is this process's, wherever that is and whoever may look into its folder.
	cmd := asUser(exec.Command("/proc/self/exe"), uid)
	cmd.Env = append(os.Environ(), scannerVariable+"="+proxy)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	decode(t, string(out), &found)
	if len(found) != len(localProbes(proxy)) {
		t.Fatalf("%d probes answered", len(found))
	}
	return found
}

// TestGuardedLocalhost has another user's programs, a scanner and curl, look for the
// proxy. They find a port that resets whatever is said to it, while this user's programs
// are served; and nothing of it reaches the relay.
func TestGuardedLocalhost(t *testing.T) {
	need(t, "curl")
	if os.Geteuid() != 0 {
		t.Skip("needs root, to be somebody else")
	}
	r := startRelay(t, relayOptions{})
	c := startClient(t, r.invite)
	page := "http://" + startOrigin(t) + "/"
	if got := curl(t, "--proxy", "socks5h://"+c.proxy, page); !strings.Contains(string(got), "You can read this") {
		t.Errorf("this user's curl gets %q", got)
	}
	before := r.status(t).Relay.StreamsTotal
	for name, got := range scanAs(t, nobody, c.proxy) {
		if got != "reset" {
			t.Errorf("%s by another user: %s", name, got)
		}
	}
	for _, x := range [][]string{
		{"--proxy", "socks5h://" + c.proxy, page}, {"--proxy", "socks4a://" + c.proxy, page}, {"--proxy", "http://" + c.proxy, page},
		{"--proxy", "http://" + c.proxy, "--proxytunnel", page}, {"http://" + c.proxy + "/"}, {"http://" + c.proxy + "/proxy.pac"},
	} {
		out, err := asUser(exec.Command("curl", append([]string{"-sS", "-i", "--max-time", "60"}, x...)...), nobody).CombinedOutput()
		var exit *exec.ExitError
		if !errors.As(err, &exit) || bytes.Contains(out, []byte("HTTP/1")) {
			t.Errorf("curl %q of another user: %v, %s", x, err, out)
		}
	}
	if after := r.status(t).Relay.StreamsTotal; after != before {
		t.Errorf("%d streams reached the relay", after-before)
	}
	// And it is not the other user's fault.
	mine := scan(c.proxy, true)
	for _, name := range []string{"SOCKS5", "SOCKS5 CONNECT", "SOCKS4a", "CONNECT", "page", "PAC", "no HTTP"} {
		if !strings.HasPrefix(mine[name], `"`) || mine[name][1] == '"' {
			t.Errorf("%s by this user: %s", name, mine[name])
		}
	}
	if log := c.err.String(); strings.Count(log, "turned away that may not use the proxy") != 1 {
		t.Errorf("the log says %s", log)
	}

	// Who wants it otherwise can have it.
	open := runWith(t, "[local]\nallow = \"anyone\"\n", r.invite)
	if out, err := asUser(exec.Command("curl", "-sS", "--max-time", "60", "--proxy", "socks5h://"+open.proxy, page), nobody).CombinedOutput(); err != nil || !bytes.Contains(out, []byte("You can read this")) {
		t.Errorf("where everybody may, another user's curl gets %v, %s", err, out)
	}
}

// TestPrograms lets curl alone use the proxy: this test, which is the same user's, gets
// as little as a stranger.
func TestPrograms(t *testing.T) {
	need(t, "curl")
	r := startRelay(t, relayOptions{})
	page := "http://" + startOrigin(t) + "/"
	path, err := exec.LookPath("curl")
	if err == nil {
		path, err = filepath.EvalSymlinks(path)
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"curl", path} {
		c := runWith(t, fmt.Sprintf("[local]\nprograms = [\"firefox\", %q]\n", name), r.invite)
		if got := curl(t, "--proxy", "socks5h://"+c.proxy, page); !strings.Contains(string(got), "You can read this") {
			t.Errorf("curl gets %q", got)
		}
		before := r.status(t).Relay.StreamsTotal
		for name, got := range scan(c.proxy, true) {
			if got != "reset" {
				t.Errorf("%s by a program that is not named: %s", name, got)
			}
		}
		if after := r.status(t).Relay.StreamsTotal; after != before {
			t.Errorf("%d streams reached the relay", after-before)
		}
	}
}

// TestBrowserIsNamed lets Chromium alone use the proxy, whose connections are those of a
// process among many.
func TestBrowserIsNamed(t *testing.T) {
	need(t, "chromium")
	r := startRelay(t, relayOptions{})
	c := runWith(t, "[local]\nprograms = [\"chromium\"]\n", r.invite)
	url := readable(t)[0]
	b := startChromium(t, c.proxy)
	b.call("Page.enable", nil)
	b.send("Page.navigate", map[string]any{"url": url})
	for b.read().Method != "Page.loadEventFired" {
	}
	if got := b.call("Runtime.evaluate", map[string]any{"expression": "document.body.textContent"}); !strings.Contains(string(got), "and its script ran") {
		t.Errorf("the browser shows %.500s", got)
	}
	if got := probeLocal(c.proxy, localProbes(c.proxy)["SOCKS5"], false); got != "reset" {
		t.Errorf("another program gets %s", got)
	}
}

// TestPasswordKeepsScannersOut: where a password is set, no probe of this user's own
// programs reaches the relay, and what they hear does not name the program.
func TestPasswordKeepsScannersOut(t *testing.T) {
	r := startRelay(t, relayOptions{})
	c := runWith(t, withPassword, r.invite)
	eventually(t, 15*time.Second, "the client runs", func() bool { return len(c.status(t).Paths) > 0 })
	before := r.status(t).Relay.StreamsTotal
	for name, got := range scan(c.proxy, true) {
		if strings.Contains(got, `\x05\x00`) || strings.Contains(got, " 200 ") && name != "PAC" || strings.Contains(strings.ToLower(got), "busel") {
			t.Errorf("%s: %s", name, got)
		}
	}
	if after := r.status(t).Relay.StreamsTotal; after != before {
		t.Errorf("%d streams reached the relay", after-before)
	}
}

// TestRandomPort draws a port that stays the same, and everything follows it.
func TestRandomPort(t *testing.T) {
	need(t, "curl")
	r := startRelay(t, relayOptions{})
	page := "http://" + startOrigin(t) + "/"
	dir := t.TempDir()
	command(t, r.invite, "client", "add", "-dir", dir, "-")
	if err := os.WriteFile(filepath.Join(dir, "client.toml"), []byte("[local]\nlisten = \"random\"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	address := regexp.MustCompile(`proxy for SOCKS5 and HTTP is on (\S+)`)
	var drawn string
	for range 3 {
		p := start(t, dir, "client", "run", "-dir", dir)
		var m []string
		eventually(t, 15*time.Second, "the client says where it is", func() bool {
			m = address.FindStringSubmatch(p.out.String())
			return m != nil && answers(m[1])
		})
		if at := netip.MustParseAddrPort(m[1]); at.Port() < 20000 || at.Port() >= 32000 || drawn != "" && m[1] != drawn {
			t.Errorf("it is on %s, was on %q", m[1], drawn)
		}
		drawn = m[1]
		if got := curl(t, "--proxy", "socks5h://"+drawn, page); !strings.Contains(string(got), "You can read this") {
			t.Errorf("curl gets %q", got)
		}
		if got := curl(t, "http://"+drawn+"/proxy.pac"); !strings.Contains(string(got), "PROXY "+drawn) {
			t.Errorf("the automatic configuration is %s", got)
		}
		c := &client{program: p}
		if s := c.status(t); s.Listen != drawn {
			t.Errorf("the status says %s", s.Listen)
		}
		p.end()
	}
	ln, err := net.Listen("tcp", drawn)
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	if out, err := tryCommand(t, "", "client", "run", "-dir", dir); err == nil || !strings.Contains(err.Error()+out, drawn) || !strings.Contains(err.Error()+out, "remove the file port") {
		t.Errorf("taken: %v, %s", err, out)
	}
}
