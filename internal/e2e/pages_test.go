//go:build linux

package e2e

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"busel/internal/nginxtest"
)

// covers runs the test with each kind of own cover.
func covers(t *testing.T, test func(t *testing.T, o relayOptions)) {
	t.Run("builtin", func(t *testing.T) { test(t, relayOptions{}) })
	t.Run("nginx", func(t *testing.T) { test(t, relayOptions{cover: nginxtest.Run(t, nginxtest.Config{})}) })
}

func TestCurlLoadsPages(t *testing.T) {
	need(t, "curl")
	covers(t, func(t *testing.T, o relayOptions) {
		r := startRelay(t, o)
		c := startClient(t, r.invite)
		secure := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			io.WriteString(w, "You can read this over TLS")
		}))
		defer secure.Close()
		plain := "http://" + startOrigin(t) + "/"
		for i, args := range [][]string{
			{"--proxy", "socks5h://" + c.proxy, plain},
			{"--proxy", "http://" + c.proxy, plain},
			{"--proxy", "http://" + c.proxy, "--proxytunnel", plain},
			{"--proxy", "socks5h://" + c.proxy, "-k", secure.URL},
			{"--proxy", "http://" + c.proxy, "-k", secure.URL},
		} {
			if got := curl(t, args...); !strings.Contains(string(got), "You can read this") {
				t.Errorf("curl %v got %q", args, got)
			}
			if n := r.status(t).Relay.StreamsTotal; n != int64(i+1) {
				t.Errorf("after request %d the relay has counted %d streams", i+1, n)
			}
		}
	})
}

func TestTrueReplies(t *testing.T) {
	need(t, "curl")
	r := startRelay(t, relayOptions{})
	c := startClient(t, r.invite)
	closed := freePort(t)
	for _, x := range []struct{ url, want string }{
		{"http://" + closed + "/", "(5)"},       // refused
		{"http://192.168.77.1/", "(2)"},         // not allowed
		{"http://no-such-name.invalid/", "(4)"}, // host unreachable
	} {
		_, err := tryCurl(t.Context(), "--proxy", "socks5h://"+c.proxy, x.url)
		if err == nil || !strings.Contains(err.Error(), x.want) {
			t.Errorf("%s: want SOCKS reply %s, got %v", x.url, x.want, err)
		}
	}
	for _, x := range []struct{ url, want string }{
		{"http://" + closed + "/", "502"},
		{"http://192.168.77.1/", "403"},
	} {
		out := curl(t, "--proxy", "http://"+c.proxy, "-o", os.DevNull, "-w", "%{http_code}", x.url)
		if string(out) != x.want {
			t.Errorf("%s over the HTTP proxy: status %s, want %s", x.url, out, x.want)
		}
	}
}

// TestGigabyte moves 1 GiB down and up.
func TestGigabyte(t *testing.T) {
	need(t, "curl", "sha256sum", "head")
	if testing.Short() {
		t.Skip("moves 2 GiB")
	}
	const size = 1 << 30
	r := startRelay(t, relayOptions{cover: nginxtest.Run(t, nginxtest.Config{})})
	c := startClient(t, r.invite)
	origin := startOrigin(t)
	direct := fmt.Sprintf("http://%s/bytes/%d", origin, size)
	sum := func(args ...string) string {
		h := sha256.New()
		cmd := exec.CommandContext(t.Context(), "curl", append([]string{"-sS"}, args...)...)
		cmd.Stdout = h
		if err := cmd.Run(); err != nil {
			t.Fatalf("curl %v: %v", args, err)
		}
		return fmt.Sprintf("%x", h.Sum(nil))
	}
	start := time.Now()
	want := sum(direct)
	t.Logf("direct: %.0f MB/s", size/1e6/time.Since(start).Seconds())
	start = time.Now()
	got := sum("--proxy", "socks5h://"+c.proxy, direct)
	t.Logf("down: %.0f MB/s", size/1e6/time.Since(start).Seconds())
	if got != want {
		t.Errorf("download differs: %s, want %s", got, want)
	}
	file := filepath.Join(t.TempDir(), "up")
	curl(t, "-o", file, direct)
	start = time.Now()
	answer := curl(t, "--proxy", "socks5h://"+c.proxy, "-X", "POST", "-T", file, "http://"+origin+"/upload")
	t.Logf("up: %.0f MB/s", size/1e6/time.Since(start).Seconds())
	if want := fmt.Sprintf("%s %d\n", want, size); string(answer) != want {
		t.Errorf("origin got %q, want %q", answer, want)
	}
}

func TestFiveHundredInParallel(t *testing.T) {
	need(t, "curl")
	r := startRelay(t, relayOptions{cover: nginxtest.Run(t, nginxtest.Config{})})
	c := startClient(t, r.invite)
	origin := startOrigin(t)
	// curl's own parallel mode: one process, 500 transfers at a time.
	dir := t.TempDir()
	args := []string{"--no-progress-meter", "--parallel", "--parallel-immediate", "--parallel-max", "300", "--proxy", "socks5h://" + c.proxy, "--fail"}
	var list strings.Builder
	for i := range 500 {
		fmt.Fprintf(&list, "url = \"http://%s/bytes/%d\"\noutput = \"%s/%d\"\n", origin, 1000+i, dir, i)
	}
	config := filepath.Join(dir, "urls")
	if err := os.WriteFile(config, []byte(list.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	curl(t, append(args, "-K", config)...)
	for i := range 500 {
		info, err := os.Stat(filepath.Join(dir, fmt.Sprint(i)))
		if err != nil || info.Size() != int64(1000+i) {
			t.Errorf("request %d: %v, %v", i, info, err)
		}
	}
	// And 500 that are really open at the same time.
	var wg sync.WaitGroup
	errs := make(chan error, 500)
	client := proxied(t, c.proxy)
	for range 500 {
		wg.Go(func() {
			resp, err := client.Get("http://" + origin + "/hold?s=2")
			if err == nil {
				_, err = io.Copy(io.Discard, resp.Body)
				resp.Body.Close()
			}
			errs <- err
		})
	}
	wg.Wait()
	close(errs)
	for err := range errs {
		if err != nil {
			t.Error(err)
		}
	}
	// curl uses some connections again.
	if n := r.status(t).Relay.StreamsTotal; n < 700 {
		t.Errorf("the relay has counted %d streams, want at least 700", n)
	}
}

// chromium loads the page through the proxy and returns what the browser made of
// it.
func chromium(t *testing.T, proxy, url string) (string, error) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "chromium", "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic",
		"--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync",
		"--ignore-certificate-errors", "--proxy-bypass-list=<-loopback>", "--proxy-server="+proxy,
		"--user-data-dir="+t.TempDir(), "--timeout=60000", "--dump-dom", url)
	out, err := cmd.Output()
	return string(out), err
}

// TestChromium loads an http and an https page in a real browser.
func TestChromium(t *testing.T) {
	need(t, "chromium")
	r := startRelay(t, relayOptions{cover: nginxtest.Run(t, nginxtest.Config{})})
	c := startClient(t, r.invite)
	page := http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if req.URL.Path != "/" {
			io.WriteString(w, "document.body.append(' and its script ran');")
			return
		}
		w.Header().Set("Content-Type", "text/html")
		io.WriteString(w, `<body>You can read this<script src="/more.js"></script>`)
	})
	plain, secure := httptest.NewServer(page), httptest.NewTLSServer(page)
	defer plain.Close()
	defer secure.Close()
	for _, scheme := range []string{"socks5", "http"} {
		for _, url := range []string{plain.URL, secure.URL} {
			before := r.status(t).Relay.StreamsTotal
			out, err := chromium(t, scheme+"://"+c.proxy, url)
			if err != nil || !strings.Contains(out, "and its script ran") {
				t.Errorf("%s over %s: %v\n%s", url, scheme, err, out)
			}
			if after := r.status(t).Relay.StreamsTotal; after <= before {
				t.Errorf("%s over %s went around the relay", url, scheme)
			}
		}
	}
}

// TestChromiumWhileKilled loads a page of 50 parts while the connection between
// client and relay is cut every 300 ms.
func TestChromiumWhileKilled(t *testing.T) {
	need(t, "chromium")
	const parts, size = 50, 100_000
	var p *path
	r := startRelay(t, relayOptions{
		cover: nginxtest.Run(t, nginxtest.Config{}),
		via:   func(listen string) string { p = newPath(t, listen, 10*time.Millisecond); return p.addr() },
	})
	c := startClient(t, r.invite)
	site := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if n, ok := strings.CutPrefix(req.URL.Path, "/part"); ok {
			w.Header().Set("Content-Type", "text/javascript")
			fmt.Fprintf(w, "/*%s*/document.body.append(' part %s.');", strings.Repeat("stork ", size/6), n)
			return
		}
		w.Header().Set("Content-Type", "text/html")
		io.WriteString(w, "<body>")
		for i := range parts {
			fmt.Fprintf(w, `<script async src="/part%d"></script>`, i)
		}
	}))
	defer site.Close()
	ctx, cancel := context.WithCancel(t.Context())
	cuts := make(chan int)
	go func() {
		n := 0
		defer func() { cuts <- n }()
		for {
			select {
			case <-ctx.Done():
				return
			case <-time.After(300 * time.Millisecond):
				n += p.cut()
			}
		}
	}()
	begin := time.Now()
	out, err := chromium(t, "socks5://"+c.proxy, site.URL)
	took := time.Since(begin)
	cancel()
	n := <-cuts
	if err != nil {
		t.Error(err)
	}
	for i := range parts {
		if !strings.Contains(out, fmt.Sprintf(" part %d.", i)) {
			t.Errorf("part %d is missing", i)
		}
	}
	t.Logf("the browser took %v, with %d cuts", took.Round(time.Millisecond), n)
	if n < 2 {
		t.Errorf("only %d cuts", n)
	}
}
