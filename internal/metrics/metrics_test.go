package metrics

import (
	"context"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
)

func TestAppend(t *testing.T) {
	got := string(Append(nil, []Metric{
		One(Gauge, "busel_relay_sessions", "Sessions now.", 3),
		{"busel_relay_bytes_total", "Bytes.\nOf \\ all \"kinds\".", Counter, []Sample{{"way", `a"b\c` + "\n", 1 << 50}, {"way", "down", 0.5}}},
		{"busel_relay_none", "Nothing.", Gauge, nil},
	}))
	want := `# HELP busel_relay_sessions Sessions now.
# TYPE busel_relay_sessions gauge
busel_relay_sessions 3
# HELP busel_relay_bytes_total Bytes.\nOf \\ all "kinds".
# TYPE busel_relay_bytes_total counter
busel_relay_bytes_total{way="a\"b\\c\n"} 1125899906842624
busel_relay_bytes_total{way="down"} 0.5
`
	if got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func TestServe(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- Serve(ctx, ln, func() []Metric { return []Metric{One(Gauge, "a", "b", 1)} }) }()
	site := "http://" + ln.Addr().String()
	web := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	for _, c := range []struct {
		method, path string
		status       int
	}{{"GET", "/metrics", 200}, {"GET", "/", 404}, {"POST", "/metrics", 405}, {"GET", "/debug/pprof/", 404}} {
		for range 2 * maxConns { // places return
			req, _ := http.NewRequestWithContext(t.Context(), c.method, site+c.path, nil)
			resp, err := web.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			body, _ := io.ReadAll(resp.Body)
			resp.Body.Close()
			if resp.StatusCode != c.status {
				t.Fatalf("%s %s: %s", c.method, c.path, resp.Status)
			}
			if c.status == 200 && (resp.Header.Get("Content-Type") != contentType || !strings.HasSuffix(string(body), "\na 1\n")) {
				t.Fatalf("%q of type %q", body, resp.Header.Get("Content-Type"))
			}
		}
	}
	cancel()
	<-done
	if _, err := net.Dial("tcp", ln.Addr().String()); err == nil {
		t.Error("the port is open after the end")
	}
}
