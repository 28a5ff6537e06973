package front_test

import (
	"bufio"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"busel/internal/front"
)

var fullStatus = front.Status{
	Listen: "127.0.0.1:1080", Network: "k3f", Online: true, Streams: 12, Flows: 1, Moves: 3,
	BytesUp: 1, BytesDown: 2_345_678,
	Carriers: []front.Carrier{{Relay: "r1", Transport: "mirror", State: front.Active, RTT: 48, BytesUp: 1, BytesDown: 2, Age: 61}},
	Paths: []front.Path{{
		Relay: "r<1>", Transport: "quic", State: front.Resting, Failure: "timeout",
		Since: time.Date(2026, 11, 21, 10, 0, 0, 0, time.UTC), Retry: 140, Successes: 4, Failures: 1,
	}},
}

// TestStatusContract compares with the text of the contract.
func TestStatusContract(t *testing.T) {
	s := fullStatus
	s.BytesDown = 2
	s.Paths = []front.Path{s.Paths[0]}
	s.Paths[0].Relay = "r1"
	got, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	want := `{"listen":"127.0.0.1:1080","network":"k3f","online":true,"streams":12,"flows":1,"moves":3,"bytes_up":1,"bytes_down":2,` +
		`"carriers":[{"relay":"r1","transport":"mirror","state":"active","rtt_ms":48,"bytes_up":1,"bytes_down":2,"age_s":61}],` +
		`"paths":[{"relay":"r1","transport":"quic","state":"resting","failure":"timeout","since":"2026-11-21T10:00:00Z","retry_s":140,"successes":4,"failures":1}]}`
	if string(got) != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	var back front.Status
	if err := json.Unmarshal(got, &back); err != nil || back.Paths[0] != s.Paths[0] || back.Carriers[0] != s.Carriers[0] {
		t.Errorf("read back %+v, %v", back, err)
	}
	if got, _ := json.Marshal(front.Status{}); !strings.Contains(string(got), `"carriers":[],"paths":[]`) {
		t.Errorf("empty lists: %s", got)
	}
}

// ask sends one request with exact headers and returns the answer.
func ask(t *testing.T, f *front.Front, method, target string, headers ...string) (*http.Response, string) {
	t.Helper()
	c := dial(t, f)
	fmt.Fprintf(c, "%s %s HTTP/1.1\r\nConnection: close\r\n", method, target)
	for _, h := range headers {
		fmt.Fprintf(c, "%s\r\n", h)
	}
	io.WriteString(c, "\r\n")
	res, err := http.ReadResponse(bufio.NewReader(c), &http.Request{Method: method})
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res, string(body)
}

func TestStatusPage(t *testing.T) {
	f := start(t, front.Config{Status: func() front.Status { return fullStatus }})
	host := "Host: " + f.Addr().String()
	localhost := fmt.Sprintf("Host: localhost:%d", f.Addr().Port())
	path, ok := strings.CutPrefix(f.URL(), "http://"+f.Addr().String())
	if !ok || len(path) < len("/?key=")+26 { // 128 bits in base32
		t.Fatalf("URL %s", f.URL())
	}

	res, _ := ask(t, f, "GET", path, host)
	if res.StatusCode != http.StatusSeeOther || res.Header.Get("Location") != "/" {
		t.Fatalf("with the key: %s to %q", res.Status, res.Header.Get("Location"))
	}
	cookies := res.Cookies()
	if len(cookies) != 1 || !cookies[0].HttpOnly || cookies[0].SameSite != http.SameSiteStrictMode {
		t.Fatalf("cookies %v", res.Header["Set-Cookie"])
	}
	cookie := "Cookie: " + cookies[0].Name + "=" + cookies[0].Value

	t.Run("page", func(t *testing.T) {
		for _, h := range []string{host, localhost, fmt.Sprintf("Host: [::1]:%d", f.Addr().Port())} {
			res, body := ask(t, f, "GET", "/", h, cookie, "Sec-Fetch-Site: none")
			if res.StatusCode != 200 || !strings.Contains(body, "Connected through r1 by mirror.") || !strings.Contains(body, "2.3 MB") {
				t.Errorf("%s: %s\n%s", h, res.Status, body)
			}
			if strings.Contains(body, "r<1>") {
				t.Error("a relay's name is not escaped")
			}
			if !strings.Contains(body, "<code>"+f.PACURL()+"</code>") {
				t.Error("the page does not say where the automatic configuration is")
			}
			body = strings.ReplaceAll(body, f.PACURL(), "")
			if strings.Contains(body, "http:") || strings.Contains(body, "https:") || strings.Contains(body, "<script") {
				t.Error("the page refers to something outside")
			}
			csp := res.Header.Get("Content-Security-Policy")
			_, rest, _ := strings.Cut(body, "<style>")
			style, _, _ := strings.Cut(rest, "</style>")
			hash := sha256.Sum256([]byte(style))
			if !strings.HasPrefix(csp, "default-src 'none';") || !strings.Contains(csp, base64.StdEncoding.EncodeToString(hash[:])) {
				t.Errorf("policy %q does not fit the page's style", csp)
			}
			if res.Header.Get("Cache-Control") != "no-store" {
				t.Error("the page may be stored")
			}
		}
	})
	t.Run("json", func(t *testing.T) {
		res, body := ask(t, f, "GET", "/status.json", host, cookie)
		var s front.Status
		if err := json.Unmarshal([]byte(body), &s); err != nil || s.Moves != 3 || res.Header.Get("Content-Type") != "application/json" {
			t.Errorf("%s %s %v", res.Status, body, err)
		}
	})
	t.Run("not found", func(t *testing.T) {
		if res, _ := ask(t, f, "GET", "/other", host, cookie); res.StatusCode != 404 {
			t.Errorf("%s", res.Status)
		}
		if res, _ := ask(t, f, "POST", "/", host, cookie); res.StatusCode != 405 {
			t.Errorf("%s", res.Status)
		}
	})
	foreign := [][]string{
		{"GET", "/", host},
		{"GET", "/status.json", host},
		{"GET", "/?key=", host},
		{"GET", "/?key=" + strings.Repeat("A", 26), host},
		{"GET", "/", host, "Cookie: " + cookies[0].Name + "=wrong"},
		{"GET", "/status.json" + strings.TrimPrefix(path, "/"), host}, // the key only opens the page
		{"GET", "/", "Host: evil.example", cookie},                    // DNS rebinding
		{"GET", path, "Host: evil.example"},
		{"GET", "/", fmt.Sprintf("Host: evil.example:%d", f.Addr().Port()), cookie},
		{"GET", "/", "Host: 127.0.0.1", cookie},
		{"GET", "/", "Host: 127.0.0.1:1", cookie},
		{"GET", "/", "Host: ", cookie},
		{"GET", "/", host, cookie, "Sec-Fetch-Site: cross-site"},
		{"GET", "/", host, cookie, "Sec-Fetch-Site: same-site"},
		{"GET", path, host, "Sec-Fetch-Site: cross-site"},
		{"GET", "/", host, cookie, "Origin: https://evil.example"},
		{"GET", "/", host, cookie, "Origin: null"},
		{"GET", "/", host, cookie, "Origin: https://" + f.Addr().String()},
		{"POST", "/", host, cookie, "Origin: http://evil.example"},
		{"POST", "/", "Host: evil.example", cookie},
		{"OPTIONS", "*", host},
		{"OPTIONS", "/", host, "Origin: https://evil.example", "Access-Control-Request-Method: GET"},
	}
	for _, r := range foreign {
		t.Run(strings.Join(r, " "), func(t *testing.T) {
			res, body := ask(t, f, r[0], r[1], r[2:]...)
			if res.StatusCode != 403 {
				t.Errorf("%s", res.Status)
			}
			for _, word := range []string{"r1", "mirror", "relay", "Busel"} {
				if strings.Contains(body, word) {
					t.Errorf("the refusal says %q", word)
				}
			}
			if len(res.Cookies()) > 0 || res.Header.Get("Access-Control-Allow-Origin") != "" {
				t.Errorf("headers %v", res.Header)
			}
		})
	}
}

// TestStatusPageInChromium looks at the page with a real browser, which also
// judges the content policy. BUSEL_SCREENSHOT names a file to keep the picture.
func TestStatusPageInChromium(t *testing.T) {
	chromium, err := exec.LookPath("chromium")
	if err != nil {
		t.Skip("chromium is not installed")
	}
	if testing.Short() {
		t.Skip("takes seconds")
	}
	f := start(t, front.Config{Status: func() front.Status { return fullStatus }})
	dir := t.TempDir()
	picture := os.Getenv("BUSEL_SCREENSHOT")
	if picture == "" {
		picture = filepath.Join(dir, "page.png")
	}
	out, err := exec.CommandContext(t.Context(), chromium, "--headless", "--no-sandbox", "--disable-gpu",
		"--user-data-dir="+dir, "--no-first-run", "--disable-background-networking", "--window-size=900,800", "--enable-logging=stderr",
		"--screenshot="+picture, f.URL()).CombinedOutput()
	if err != nil {
		t.Fatalf("chromium: %v\n%s", err, out)
	}
	if strings.Contains(string(out), "Content Security Policy") || strings.Contains(string(out), "Content-Security-Policy") {
		t.Errorf("the browser rejects a part of the page:\n%s", out)
	}
	if info, err := os.Stat(picture); err != nil || info.Size() < 5000 {
		t.Errorf("no picture: %v", err)
	}
}

// The page says in one sentence what is the matter.
func TestSentence(t *testing.T) {
	for _, c := range []struct {
		status front.Status
		class  string
		want   string
	}{
		{front.Status{}, "off", "There is no relay yet"},
		{front.Status{Online: true, Carriers: []front.Carrier{{Relay: "r1", Transport: "mirror", State: front.Active}}}, "on", "Connected through r1"},
		{front.Status{Online: true, Carriers: []front.Carrier{{Relay: "r1", Transport: "mirror", State: front.Suspect}}}, "on", "faltering"},
		{front.Status{Paths: []front.Path{{State: front.Untried}}}, "rest", "At rest"},
		{front.Status{Paths: []front.Path{{State: front.Resting}, {State: front.Known}}}, "rest", "At rest"},
		{front.Status{Paths: []front.Path{{State: front.Resting}}}, "off", "No relay can be reached"},
		{front.Status{Paths: []front.Path{{State: front.Resting, Failure: "revoked"}, {State: front.Untried}}}, "off", "The invite was revoked: ask"},
		{front.Status{Paths: []front.Path{{State: front.Resting, Failure: "expired"}}}, "off", "The invite has expired: ask"},
		{front.Status{Paths: []front.Path{{State: front.Resting, Failure: "quota"}}}, "off", "quota of the invite"},
		{front.Status{Paths: []front.Path{{State: front.Resting, Failure: "devices"}}}, "off", "As many devices"},
		{front.Status{Paths: []front.Path{{State: front.Known, Failure: "quota"}}}, "rest", "At rest"}, // it was, and is tried again
		{front.Status{Paths: []front.Path{{State: front.Resting, Failure: "quota"}, {Relay: "r2", State: front.Known}}}, "rest", "At rest"},
	} {
		f := start(t, front.Config{Status: func() front.Status { return c.status }})
		u, err := url.Parse(f.URL())
		if err != nil {
			t.Fatal(err)
		}
		cookie := "Cookie: key-" + u.Port() + "=" + u.Query().Get("key")
		_, body := ask(t, f, "GET", "/", "Host: "+u.Host, cookie)
		_, say, _ := strings.Cut(body, `<p class="say `)
		say, _, _ = strings.Cut(say, "</p>")
		if !strings.HasPrefix(say, c.class+`"`) || !strings.Contains(say, c.want) {
			t.Errorf("%+v: %s", c.status, say)
		}
	}
}
