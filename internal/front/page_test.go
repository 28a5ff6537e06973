package front_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
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

// residents is what a test shows behind the guards.
func residents() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Security-Policy", "default-src 'self'")
		fmt.Fprintf(w, "for the resident: %s %s", r.Method, r.URL.Path)
	})
}

// enter opens the link, and returns the lines of a browser that did.
func enter(t *testing.T, f *front.Front) (cookie, key string) {
	t.Helper()
	path, ok := strings.CutPrefix(f.URL(), "http://"+f.Addr().String())
	if !ok || len(path) < len("/?key=")+26 { // 128 bits in base32
		t.Fatalf("URL %s", f.URL())
	}
	res, _ := ask(t, f, "GET", path, "Host: "+f.Addr().String())
	key, ok = strings.CutPrefix(res.Header.Get("Location"), "/#")
	if res.StatusCode != http.StatusSeeOther || !ok || len(key) < 26 {
		t.Fatalf("with the key: %s to %q", res.Status, res.Header.Get("Location"))
	}
	cookies := res.Cookies()
	if len(cookies) != 1 || !cookies[0].HttpOnly || cookies[0].SameSite != http.SameSiteStrictMode || cookies[0].Domain != "" {
		t.Fatalf("cookies %v", res.Header["Set-Cookie"])
	}
	if strings.Contains(path, cookies[0].Value) || strings.Contains(path, key) || key == cookies[0].Value {
		t.Fatal("the link holds more than a ticket")
	}
	return "Cookie: " + cookies[0].Name + "=" + cookies[0].Value, front.KeyHeader + ": " + key
}

func TestPages(t *testing.T) {
	f := start(t, front.Config{Pages: residents()})
	host := "Host: " + f.Addr().String()
	cookie, key := enter(t, f)
	name, _, _ := strings.Cut(strings.TrimPrefix(cookie, "Cookie: "), "=")

	for _, r := range [][]string{
		{"GET", "/", host, cookie, "Sec-Fetch-Site: none"},
		{"GET", "/", fmt.Sprintf("Host: localhost:%d", f.Addr().Port()), cookie},
		{"GET", "/", fmt.Sprintf("Host: [::1]:%d", f.Addr().Port()), cookie},
		{"GET", "/page.js", host, cookie, "Sec-Fetch-Site: same-origin"},
		{"GET", "/api/state", host, cookie, key, "Sec-Fetch-Site: same-origin"},
		{"POST", "/api/add", host, cookie, key, "Sec-Fetch-Site: same-origin", "Origin: http://" + f.Addr().String()},
	} {
		res, body := ask(t, f, r[0], r[1], r[2:]...)
		if res.StatusCode != 200 || body != "for the resident: "+r[0]+" "+r[1] {
			t.Errorf("%q: %s, %s", r, res.Status, body)
		}
		if res.Header.Get("Cache-Control") != "no-store" || res.Header.Get("Cross-Origin-Resource-Policy") != "same-origin" {
			t.Errorf("%q: headers %v", r, res.Header)
		}
	}
	used := strings.TrimPrefix(f.URL(), "http://"+f.Addr().String())
	ask(t, f, "GET", used, host)
	if res, _ := ask(t, f, "GET", used, host, cookie); res.Header.Get("Location") != "/" || len(res.Cookies()) > 0 {
		t.Errorf("the resident's second look at a link: %s to %s", res.Status, res.Header.Get("Location"))
	}
	fresh := strings.TrimPrefix(f.URL(), "http://"+f.Addr().String())
	for _, r := range [][]string{
		{"GET", "/", host},
		{"GET", "/page.js", host},
		{"GET", "/api/state", host},
		{"GET", used, host},
		{"GET", "/?key=", host},
		{"GET", "/?key=" + strings.Repeat("A", 26), host},
		{"POST", fresh, host},
		{"HEAD", fresh, host},
		{"GET", "/api/state" + strings.TrimPrefix(fresh, "/"), host}, // a ticket opens the page only
		{"GET", "/", host, "Cookie: " + name + "=wrong"},
		{"GET", "/", host, "Cookie: " + name + "="},
		{"GET", "/", host, key},
		{"GET", "/api/state", host, key}, // without the cookie
		{"GET", "/api/state", host, cookie},
		{"GET", "/api/state", host, cookie, front.KeyHeader + ":"},
		{"GET", "/api/state", host, cookie, front.KeyHeader + ": " + strings.Repeat("A", 26)},
		{"POST", "/api/wipe", host, cookie, "Origin: http://" + f.Addr().String()},
		// DNS rebinding.
		{"GET", "/", "Host: evil.example", cookie},
		{"GET", fresh, "Host: evil.example"},
		{"GET", "/api/state", fmt.Sprintf("Host: evil.example:%d", f.Addr().Port()), cookie, key},
		{"GET", "/", fmt.Sprintf("Host: localhost.evil.example:%d", f.Addr().Port()), cookie},
		{"GET", "/", "Host: 127.0.0.1", cookie},
		{"GET", "/", "Host: 127.0.0.1:1", cookie},
		{"GET", "/", "Host: ", cookie},
		// What another site's page may cause.
		{"GET", "/", host, cookie, "Sec-Fetch-Site: cross-site"},
		{"GET", "/", host, cookie, "Sec-Fetch-Site: same-site"},
		{"GET", "/api/state", host, cookie, key, "Sec-Fetch-Site: same-site"},
		{"GET", fresh, host, "Sec-Fetch-Site: cross-site"},
		{"GET", "/", host, cookie, "Origin: https://evil.example"},
		{"GET", "/", host, cookie, "Origin: null"},
		{"GET", "/", host, cookie, "Origin: https://" + f.Addr().String()},
		{"POST", "/api/wipe", host, cookie, key, "Origin: http://evil.example"},
		{"POST", "/api/wipe", host, cookie, key, fmt.Sprintf("Origin: http://127.0.0.1:%d", f.Addr().Port()-1)},
		{"POST", "/api/wipe", host, cookie, key, "Origin: http://" + f.Addr().String(), "Sec-Fetch-Site: cross-site"},
		{"POST", "/api/wipe", "Host: evil.example", cookie, key},
		{"OPTIONS", "*", host},
		{"OPTIONS", "/api/state", host, "Origin: https://evil.example", "Access-Control-Request-Method: GET", "Access-Control-Request-Headers: " + front.KeyHeader},
	} {
		t.Run(strings.Join(r, " "), func(t *testing.T) {
			res, body := ask(t, f, r[0], r[1], r[2:]...)
			if res.StatusCode != 403 {
				t.Errorf("%s", res.Status)
			}
			for _, word := range []string{"resident", "relay", "Busel"} {
				if strings.Contains(body, word) {
					t.Errorf("the refusal says %q", word)
				}
			}
			if len(res.Cookies()) > 0 || res.Header.Get("Access-Control-Allow-Origin") != "" || strings.Contains(res.Header.Get("Content-Security-Policy"), "self") {
				t.Errorf("headers %v", res.Header)
			}
		})
	}
	if res, _ := ask(t, f, "GET", fresh, host); res.StatusCode != http.StatusSeeOther {
		t.Errorf("the ticket was used up by who could not use it: %s", res.Status)
	}
}

// A stranger's answer is the same in every byte whatever he asks for, so that a scan
// tells no client with a page from one without.
func TestStrangersAnswer(t *testing.T) {
	var answers []string
	for _, pages := range []http.Handler{nil, residents()} {
		f := start(t, front.Config{Pages: pages})
		for _, target := range []string{"/", "/page.js", "/api/state", "/status.json", "/?key=1", "/nothing"} {
			res, body := ask(t, f, "GET", target, "Host: "+f.Addr().String())
			res.Header.Del("Date")
			answers = append(answers, fmt.Sprint(res.Status, res.Header, body))
		}
	}
	if len(slices.Compact(answers)) != 1 {
		t.Errorf("answers differ: %q", answers)
	}
}

func TestTickets(t *testing.T) {
	f := start(t, front.Config{Pages: residents()})
	host := "Host: " + f.Addr().String()
	var links []string
	for range 20 {
		links = append(links, strings.TrimPrefix(f.URL(), "http://"+f.Addr().String()))
	}
	for i, link := range links {
		for try := range 2 {
			res, _ := ask(t, f, "GET", link, host)
			if good := i >= 4 && try == 0; good != (res.StatusCode == http.StatusSeeOther) {
				t.Errorf("link %d of 20, try %d: %s", i, try, res.Status)
			}
		}
	}
}
