//go:build linux

package e2e

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// browserTime is how long a browser may take to start and to load a page: a busy
// machine takes a minute.
const browserTime = 3 * time.Minute

// readable is an origin in two forms, http and https.
func readable(t *testing.T) (urls []string) {
	t.Helper()
	page := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		io.WriteString(w, `<body>You can read this<script>document.body.append(' and its script ran');</script>`)
	})
	for _, s := range []*httptest.Server{httptest.NewServer(page), httptest.NewTLSServer(page)} {
		t.Cleanup(s.Close)
		urls = append(urls, s.URL)
	}
	return urls
}

// browser starts a browser until the test ends, all its processes included.
func browser(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) // the group that it leads
		cmd.Wait()
	})
}

// settings of a client that demands a password.
const withPassword = "[local]\nuser = \"anna\"\npassword = \"stork on the roof\"\n"

// TestFirefox gives the browser the address of the automatic configuration, and
// the password as somebody does who has it saved.
func TestFirefox(t *testing.T) {
	need(t, "firefox-esr")
	r := startRelay(t, relayOptions{})
	c := runWith(t, withPassword, r.invite)
	f := startFirefox(t, c.proxy)
	f.saveLogin(c.proxy, "anna", "stork on the roof")
	f.usePAC()
	for _, url := range readable(t) {
		before := r.status(t).Relay.StreamsTotal
		f.call("WebDriver:Navigate", map[string]any{"url": url}, nil)
		if text := f.text(); !strings.Contains(text, "and its script ran") {
			t.Errorf("%s: the browser shows %.500q", url, text)
		}
		if after := r.status(t).Relay.StreamsTotal; after <= before {
			t.Errorf("%s went around the relay", url)
		}
	}
}

// firefox is a Firefox that is told what to do by Marionette, its own protocol:
// JSON arrays behind their length.
type firefox struct {
	t    *testing.T
	conn net.Conn
	in   *bufio.Reader
	id   int
}

func startFirefox(t *testing.T, proxy string) *firefox {
	t.Helper()
	dir := t.TempDir()
	marionette := freePort(t)
	_, port, _ := net.SplitHostPort(marionette)
	prefs := fmt.Sprintf(`user_pref("network.proxy.type", 1); // nothing goes out until useProxy
user_pref("network.proxy.socks", "127.0.0.1");
user_pref("network.proxy.socks_port", 9);
user_pref("network.proxy.autoconfig_url", "http://%s/proxy.pac");
user_pref("network.proxy.allow_hijacking_localhost", true); // the origins of tests are here
user_pref("network.captive-portal-service.enabled", false);
user_pref("network.connectivity-service.enabled", false);
user_pref("signon.autologin.proxy", true); // the saved password without a question
user_pref("marionette.port", %s);
`, proxy, port)
	if err := os.WriteFile(filepath.Join(dir, "user.js"), []byte(prefs), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("firefox-esr", "--headless", "--no-remote", "--profile", dir, "--marionette", "--remote-allow-system-access")
	cmd.Env = append(os.Environ(), "HOME="+dir)
	browser(t, cmd)
	f := &firefox{t: t}
	eventually(t, browserTime, "Firefox listens", func() bool {
		conn, err := net.Dial("tcp", marionette)
		if err != nil {
			return false
		}
		f.conn, f.in = conn, bufio.NewReader(conn)
		return true
	})
	t.Cleanup(func() { f.conn.Close() })
	f.read() // who it is
	f.call("WebDriver:NewSession", map[string]any{"acceptInsecureCerts": true}, nil)
	return f
}

func (f *firefox) read() []byte {
	f.t.Helper()
	f.conn.SetDeadline(time.Now().Add(browserTime))
	length, err := f.in.ReadString(':')
	if err != nil {
		f.t.Fatalf("Firefox: %v", err)
	}
	n, err := strconv.Atoi(strings.TrimSuffix(length, ":"))
	if err != nil {
		f.t.Fatalf("Firefox: %v", err)
	}
	b := make([]byte, n)
	if _, err := io.ReadFull(f.in, b); err != nil {
		f.t.Fatalf("Firefox: %v", err)
	}
	return b
}

// call runs a command: [0, id, command, parameters] is answered by
// [1, id, error, result].
func (f *firefox) call(command string, params map[string]any, result any) {
	f.t.Helper()
	f.id++
	b, err := json.Marshal([]any{0, f.id, command, params})
	if err != nil {
		f.t.Fatal(err)
	}
	if _, err := fmt.Fprintf(f.conn, "%d:%s", len(b), b); err != nil {
		f.t.Fatal(err)
	}
	var answer [4]json.RawMessage
	decode(f.t, string(f.read()), &answer)
	if string(answer[2]) != "null" {
		f.t.Fatalf("%s: %.1000s", command, answer[2])
	}
	if result != nil {
		decode(f.t, string(answer[3]), result)
	}
}

// text is what the page says.
func (f *firefox) text() string {
	f.t.Helper()
	var got struct{ Value string }
	f.call("WebDriver:ExecuteScript", map[string]any{"script": "return document.body.textContent", "args": []any{}}, &got)
	return got.Value
}

// saveLogin does what "save the password" in the browser's dialog does.
func (f *firefox) saveLogin(proxy, user, password string) {
	f.t.Helper()
	f.asBrowser(`
const [origin, user, password, done] = arguments;
const login = Cc["@mozilla.org/login-manager/loginInfo;1"].createInstance(Ci.nsILoginInfo);
login.init(origin, null, "proxy", user, password, "", "");
Services.logins.addLoginAsync(login).then(() => done(null), e => done(String(e)));
`, "moz-proxy://"+proxy, user, password)
}

// usePAC chooses the automatic configuration. It comes late because the browser
// has requests of its own, which would ask for a password that is not saved yet.
func (f *firefox) usePAC() {
	f.t.Helper()
	f.asBrowser(`Services.prefs.setIntPref("network.proxy.type", 2); arguments[0](null);`)
}

// asBrowser runs a script with the browser's own rights. It calls its last
// argument when it is done.
func (f *firefox) asBrowser(script string, args ...any) {
	f.t.Helper()
	f.call("Marionette:SetContext", map[string]any{"value": "chrome"}, nil)
	var failed struct{ Value any }
	f.call("WebDriver:ExecuteAsyncScript", map[string]any{"script": script, "args": append([]any{}, args...)}, &failed)
	if failed.Value != nil {
		f.t.Fatal(failed.Value)
	}
	f.call("Marionette:SetContext", map[string]any{"value": "content"}, nil)
}

// TestChromiumAsksForThePassword answers the browser's question for the proxy's
// password.
func TestChromiumAsksForThePassword(t *testing.T) {
	need(t, "chromium")
	r := startRelay(t, relayOptions{})
	c := runWith(t, withPassword, r.invite)
	for _, url := range readable(t) {
		before := r.status(t).Relay.StreamsTotal
		b := startChromium(t, c.proxy)
		b.call("Fetch.enable", map[string]any{"handleAuthRequests": true})
		b.call("Page.enable", nil)
		b.send("Page.navigate", map[string]any{"url": url})
		asked := 0
		for loaded := false; !loaded; {
			switch m := b.read(); m.Method {
			case "Fetch.requestPaused":
				b.send("Fetch.continueRequest", map[string]any{"requestId": m.Params.RequestID})
			case "Fetch.authRequired":
				if asked++; asked > 10 {
					t.Fatal("the password is not accepted")
				}
				if m.Params.AuthChallenge.Source != "Proxy" {
					t.Errorf("%q asks for a password", m.Params.AuthChallenge.Source)
				}
				b.send("Fetch.continueWithAuth", map[string]any{"requestId": m.Params.RequestID, "authChallengeResponse": map[string]any{
					"response": "ProvideCredentials", "username": "anna", "password": "stork on the roof",
				}})
			case "Page.loadEventFired":
				loaded = true
			}
		}
		got := b.call("Runtime.evaluate", map[string]any{"expression": "document.body.textContent"})
		if !strings.Contains(string(got), "and its script ran") {
			t.Errorf("%s: the browser shows %.500s", url, got)
		}
		if asked == 0 {
			t.Errorf("%s: nobody asked for the password", url)
		}
		if after := r.status(t).Relay.StreamsTotal; after <= before {
			t.Errorf("%s went around the relay", url)
		}
	}
}

// devtools is a page of a Chromium that speaks the DevTools protocol over pipes:
// JSON objects that end with a zero byte.
type devtools struct {
	t       *testing.T
	out     *os.File
	pipe    *os.File
	in      *bufio.Reader
	session string
	id      int
}

// devtoolsMessage is an answer, which has an id, or an event.
type devtoolsMessage struct {
	ID     int             `json:"id"`
	Result json.RawMessage `json:"result"`
	Error  json.RawMessage `json:"error"`
	Method string          `json:"method"`
	Params struct {
		RequestID     string `json:"requestId"`
		AuthChallenge struct {
			Source string `json:"source"`
		} `json:"authChallenge"`
	} `json:"params"`
}

func startChromium(t *testing.T, proxy string) *devtools {
	t.Helper()
	cmd := exec.Command("chromium", "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
		"--disable-background-networking", "--disable-component-update", "--disable-sync", "--ignore-certificate-errors",
		"--proxy-bypass-list=<-loopback>", "--proxy-server=http://"+proxy, "--user-data-dir="+t.TempDir(),
		"--remote-debugging-pipe", "about:blank")
	theirIn, out, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	in, theirOut, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.ExtraFiles = []*os.File{theirIn, theirOut} // 3 and 4 there
	browser(t, cmd)
	theirIn.Close()
	theirOut.Close()
	t.Cleanup(func() {
		out.Close()
		in.Close()
	})
	b := &devtools{t: t, out: out, pipe: in, in: bufio.NewReader(in)}
	var targets struct {
		TargetInfos []struct{ Type, TargetID string }
	}
	eventually(t, browserTime, "Chromium has a page", func() bool {
		decode(t, string(b.call("Target.getTargets", nil)), &targets)
		targets.TargetInfos = slices.DeleteFunc(targets.TargetInfos, func(i struct{ Type, TargetID string }) bool { return i.Type != "page" })
		return len(targets.TargetInfos) > 0
	})
	var session struct{ SessionID string }
	decode(t, string(b.call("Target.attachToTarget", map[string]any{"targetId": targets.TargetInfos[0].TargetID, "flatten": true})), &session)
	b.session = session.SessionID
	return b
}

func (b *devtools) send(method string, params any) {
	b.t.Helper()
	b.id++
	m := map[string]any{"id": b.id, "method": method}
	if params != nil {
		m["params"] = params
	}
	if b.session != "" {
		m["sessionId"] = b.session
	}
	text, err := json.Marshal(m)
	if err != nil {
		b.t.Fatal(err)
	}
	if _, err := b.out.Write(append(text, 0)); err != nil {
		b.t.Fatal(err)
	}
}

func (b *devtools) read() (m devtoolsMessage) {
	b.t.Helper()
	b.pipe.SetReadDeadline(time.Now().Add(browserTime))
	text, err := b.in.ReadString(0)
	if err != nil {
		b.t.Fatalf("Chromium: %v", err)
	}
	decode(b.t, strings.TrimSuffix(text, "\x00"), &m)
	if m.Error != nil {
		b.t.Fatalf("Chromium: %s", m.Error)
	}
	return m
}

// call sends a command and returns its result; events in between are dropped.
func (b *devtools) call(method string, params any) json.RawMessage {
	b.t.Helper()
	b.send(method, params)
	for {
		if m := b.read(); m.ID == b.id {
			return m.Result
		}
	}
}
