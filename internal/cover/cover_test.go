package cover_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"image/jpeg"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os/exec"
	"regexp"
	"strings"
	"testing"
	"time"

	"busel/internal/cover"
)

func certificate(t testing.TB, name string) tls.Certificate {
	t.Helper()
	c, k, err := cover.SelfSigned(name, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	pair, err := tls.X509KeyPair(c, k)
	if err != nil {
		t.Fatal(err)
	}
	return pair
}

// serve runs a site until the test ends and returns its address and a client.
func serve(t *testing.T, seed byte, name string, logger *slog.Logger) (string, *http.Client) {
	t.Helper()
	cert := certificate(t, name)
	site, err := cover.New(cover.Config{Name: name, Certificate: cert, Seed: [32]byte{seed}, Logger: logger})
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- site.Run(ctx, l) }()
	roots := x509.NewCertPool()
	roots.AddCert(cert.Leaf)
	tr := &http.Transport{
		TLSClientConfig:    &tls.Config{RootCAs: roots, ServerName: name},
		ForceAttemptHTTP2:  true,
		DisableCompression: true,
	}
	t.Cleanup(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("Run: %v", err)
			}
		case <-time.After(10 * time.Second):
			t.Error("Run does not end")
		}
		tr.CloseIdleConnections()
	})
	return l.Addr().String(), &http.Client{
		Transport:     tr,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

func get(t *testing.T, c *http.Client, address string, headers ...string) (*http.Response, []byte) {
	t.Helper()
	req, err := http.NewRequest("GET", address, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	resp, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, body
}

var reference = regexp.MustCompile(`(?:href|src)="(/[^"]*)"`)

// crawl follows every reference from the home page and returns path -> body.
func crawl(t *testing.T, c *http.Client, base string) map[string][]byte {
	t.Helper()
	seen, todo := map[string][]byte{}, []string{"/", "/robots.txt", "/sitemap.xml", "/favicon.ico"}
	for len(todo) > 0 {
		path := todo[0]
		todo = todo[1:]
		if _, ok := seen[path]; ok {
			continue
		}
		resp, body := get(t, c, base+path)
		if resp.StatusCode != 200 {
			t.Errorf("%s: status %d", path, resp.StatusCode)
		}
		for _, h := range []string{"Etag", "Last-Modified", "Content-Length", "Content-Type"} {
			if resp.Header.Get(h) == "" {
				t.Errorf("%s: no %s", path, h)
			}
		}
		if m, err := http.ParseTime(resp.Header.Get("Last-Modified")); err != nil || m.After(time.Date(2026, 10, 15, 0, 0, 0, 0, time.UTC)) {
			t.Errorf("%s: last modified %v, %v", path, m, err)
		}
		seen[path] = body
		if strings.HasPrefix(resp.Header.Get("Content-Type"), "text/html") {
			if bytes.ContainsAny(body, "{}") {
				t.Errorf("%s: a slot is not filled", path)
			}
			for _, m := range reference.FindAllSubmatch(body, -1) {
				todo = append(todo, string(m[1]))
			}
		}
	}
	return seen
}

func TestEverySiteIsWholeAndItsOwn(t *testing.T) {
	kinds := map[string]bool{}
	hashes := map[[32]byte]byte{}
	for seed := range byte(6) {
		addr, c := serve(t, seed, "site.test", nil)
		files := crawl(t, c, "https://"+addr)
		if len(files) < 14 {
			t.Errorf("seed %d: only %d files", seed, len(files))
		}
		total := 0
		for path, body := range files {
			total += len(body)
			if path == "/robots.txt" {
				continue
			}
			sum := sha256.Sum256(body)
			if other, ok := hashes[sum]; ok {
				t.Errorf("%s is the same for the seeds %d and %d", path, seed, other)
			}
			hashes[sum] = seed
			if strings.HasSuffix(path, ".jpg") {
				if _, err := jpeg.Decode(bytes.NewReader(body)); err != nil {
					t.Errorf("%s: %v", path, err)
				}
			}
		}
		if total < 150_000 {
			t.Errorf("seed %d: the whole site has only %d bytes", seed, total)
		}
		title := regexp.MustCompile(`<meta name="description" content="(.*)">`).FindSubmatch(files["/"])
		kinds[string(title[1])] = true
	}
	if len(kinds) < 4 {
		t.Errorf("6 seeds gave only %d taglines", len(kinds))
	}
}

func TestSameBytesAfterRestart(t *testing.T) {
	a, ca := serve(t, 7, "site.test", nil)
	b, cb := serve(t, 7, "site.test", nil)
	first := crawl(t, ca, "https://"+a)
	for path, body := range crawl(t, cb, "https://"+b) {
		if !bytes.Equal(body, first[path]) {
			t.Errorf("%s differs between two starts", path)
		}
	}
	ra, _ := get(t, ca, "https://"+a+"/")
	rb, _ := get(t, cb, "https://"+b+"/")
	for _, h := range []string{"Etag", "Last-Modified", "Cache-Control", "Content-Type"} {
		if ra.Header.Get(h) != rb.Header.Get(h) {
			t.Errorf("%s: %q and %q", h, ra.Header.Get(h), rb.Header.Get(h))
		}
	}
}

func TestHTTP(t *testing.T) {
	addr, c := serve(t, 3, "site.test", nil)
	base := "https://" + addr
	plain, body := get(t, c, base+"/")
	if plain.ProtoMajor != 2 || plain.TLS.Version != tls.VersionTLS13 {
		t.Errorf("%s over TLS %#x", plain.Proto, plain.TLS.Version)
	}
	zipped, small := get(t, c, base+"/", "Accept-Encoding", "gzip, br")
	if zipped.Header.Get("Content-Encoding") != "gzip" || zipped.Header.Get("Etag") == plain.Header.Get("Etag") {
		t.Errorf("compressed: %v", zipped.Header)
	}
	z, err := gzip.NewReader(bytes.NewReader(small))
	if err != nil {
		t.Fatal(err)
	}
	if unzipped, err := io.ReadAll(z); err != nil || !bytes.Equal(unzipped, body) {
		t.Errorf("the compressed page differs (%v)", err)
	}
	if r, _ := get(t, c, base+"/", "Accept-Encoding", "gzip;q=0"); r.Header.Get("Content-Encoding") != "" {
		t.Error("gzip although its weight is 0")
	}
	for _, h := range [][]string{{"If-None-Match", plain.Header.Get("Etag")}, {"If-Modified-Since", plain.Header.Get("Last-Modified")}} {
		if r, b := get(t, c, base+"/", h...); r.StatusCode != 304 || len(b) != 0 {
			t.Errorf("%s: status %d, %d bytes", h[0], r.StatusCode, len(b))
		}
	}
	if r, b := get(t, c, base+"/", "Range", "bytes=0-9", "Accept-Encoding", "gzip"); r.StatusCode != 206 || !bytes.Equal(b, body[:10]) {
		t.Errorf("range: status %d, %q", r.StatusCode, b)
	}
	for _, enc := range []string{"identity", "gzip"} {
		r, b := get(t, c, base+"/no/such/page", "Accept-Encoding", enc)
		if r.StatusCode != 404 || r.Header.Get("Etag") != "" || len(b) == 0 || int(r.ContentLength) != len(b) {
			t.Errorf("missing page: status %d, %v, %d bytes", r.StatusCode, r.Header, len(b))
		}
	}
	if r, _ := get(t, c, base+"/index.html"); r.StatusCode != 301 {
		t.Errorf("/index.html: status %d", r.StatusCode)
	}
	resp, err := c.PostForm(base+"/", url.Values{"a": {"b"}})
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	if resp.StatusCode != 405 || resp.Header.Get("Allow") == "" {
		t.Errorf("POST: %d %v", resp.StatusCode, resp.Header)
	}
}

func TestPlainHTTPIsAnsweredAsGoDoes(t *testing.T) {
	addr, _ := serve(t, 1, "site.test", nil)
	resp, body := get(t, http.DefaultClient, "http://"+addr+"/")
	if resp.StatusCode != 400 || string(body) != "Client sent an HTTP request to an HTTPS server.\n" {
		t.Errorf("status %d, %q", resp.StatusCode, body)
	}
}

func TestCurl(t *testing.T) {
	if _, err := exec.LookPath("curl"); err != nil {
		t.Skip("curl is not installed")
	}
	addr, c := serve(t, 5, "site.test", nil)
	_, want := get(t, c, "https://"+addr+"/")
	for _, args := range [][]string{{"--http1.1"}, {"--http2"}, {"--http2", "--tls-max", "1.2"}, {"--http2", "--compressed"}} {
		got, err := exec.Command("curl", append(args, "-sSk", "https://"+addr+"/")...).Output()
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("curl %v: %d bytes, want %d: %v", args, len(got), len(want), err)
		}
	}
}

func TestVisitorsAreNotLogged(t *testing.T) {
	var b bytes.Buffer
	addr, c := serve(t, 2, "site.test", slog.New(slog.NewTextHandler(&b, &slog.HandlerOptions{Level: slog.LevelDebug})))
	get(t, c, "https://"+addr+"/a-path-that-somebody-wanted")
	conn, err := tls.Dial("tcp", addr, &tls.Config{ServerName: "wrong.test"}) // fails on the client's side
	if err == nil {
		_ = conn.Close()
	}
	t.Cleanup(func() { // before serve's: the last cleanup runs first
		if strings.Contains(b.String(), "127.0.0.1") || strings.Contains(b.String(), "somebody") {
			t.Errorf("the log tells of visitors: %s", b.String())
		}
	})
}

func TestRunEndsWithItsListener(t *testing.T) {
	site, err := cover.New(cover.Config{Name: "site.test", Certificate: certificate(t, "site.test")})
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = l.Close()
	if err := site.Run(context.Background(), l); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Run on a closed listener: %v", err)
	}
}

func TestSelfSigned(t *testing.T) {
	from := time.Date(2026, 5, 4, 3, 2, 1, 9, time.UTC)
	for _, name := range []string{"site.test", "192.0.2.7", "2001:db8::7"} {
		c, k, err := cover.SelfSigned(name, from)
		if err != nil {
			t.Fatal(err)
		}
		pair, err := tls.X509KeyPair(c, k)
		if err != nil {
			t.Fatal(err)
		}
		if err := pair.Leaf.VerifyHostname(name); err != nil {
			t.Error(err)
		}
		if err := pair.Leaf.CheckSignatureFrom(pair.Leaf); err != nil {
			t.Error(err)
		}
		if !pair.Leaf.NotBefore.Equal(from.Truncate(time.Second)) || len(pair.Leaf.SerialNumber.Bytes()) != 20 {
			t.Errorf("from %v, serial %x", pair.Leaf.NotBefore, pair.Leaf.SerialNumber)
		}
	}
}

func TestLimits(t *testing.T) {
	site, err := cover.New(cover.Config{Name: "192.0.2.7", Certificate: certificate(t, "192.0.2.7")})
	if err != nil {
		t.Fatal(err)
	}
	if idle, life := site.Limits(); idle != 5*time.Minute || life != 0 {
		t.Errorf("limits %v, %v", idle, life)
	}
}

func BenchmarkNew(b *testing.B) {
	cert := certificate(b, "site.test")
	for b.Loop() {
		if _, err := cover.New(cover.Config{Name: "site.test", Certificate: cert}); err != nil {
			b.Fatal(err)
		}
	}
}
