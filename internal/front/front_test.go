package front_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"busel/internal/exit"
	"busel/internal/flow"
	"busel/internal/front"
)

// patience is how long a test waits for what should come at once.
const patience = 30 * time.Second

var loopback = []netip.Prefix{
	netip.MustParsePrefix("127.0.0.0/8"),
	netip.MustParsePrefix("::1/128"),
}

// names resolves a few names to loopback, without a name server.
type names map[string][]netip.Addr

func (n names) LookupNetIP(_ context.Context, network, host string) ([]netip.Addr, error) {
	if host == "broken.example." {
		return nil, &net.DNSError{Err: "server misbehaving", Name: host, IsTemporary: true}
	}
	var out []netip.Addr
	for _, a := range n[host] {
		if a.Is4() == (network == "ip4") {
			out = append(out, a)
		}
	}
	if len(out) == 0 {
		return nil, &net.DNSError{Err: "no such host", Name: host, IsNotFound: true}
	}
	return out, nil
}

func newExit() *exit.Exit {
	return exit.New(exit.Config{
		Allow: loopback,
		Resolver: names{
			"site.example.":    {netip.MustParseAddr("127.0.0.1")},
			"private.example.": {netip.MustParseAddr("10.1.2.3")},
		},
		DialTimeout: 3 * time.Second,
	})
}

// start runs a front until the test ends, and then checks that it has ended
// without leaving goroutines behind.
func start(t testing.TB, c front.Config) *front.Front {
	t.Helper()
	before := runtime.NumGoroutine()
	if c.Listen == "" {
		c.Listen = "auto"
	}
	if c.Opener == nil {
		c.Opener = newExit()
	}
	f, err := front.New(c)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Listen(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- f.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("Run: %v", err)
			}
		case <-time.After(patience):
			buf := make([]byte, 1<<20)
			t.Fatalf("Run does not end:\n%s", buf[:runtime.Stack(buf, true)])
		}
		noMoreGoroutines(t, before)
	})
	return f
}

// noMoreGoroutines waits until there are at most n goroutines: net/http ends its
// own a moment after their connections.
func noMoreGoroutines(t testing.TB, n int) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for runtime.NumGoroutine() > n {
		if time.Now().After(deadline) {
			buf := make([]byte, 1<<20)
			t.Fatalf("%d goroutines, want %d:\n%s", runtime.NumGoroutine(), n, buf[:runtime.Stack(buf, true)])
		}
		<-time.After(5 * time.Millisecond)
	}
}

// echo serves TCP connections on addr: what comes in goes out, and the end too.
func echo(t testing.TB, addr string) netip.AddrPort {
	return serveTCP(t, addr, func(c *net.TCPConn) {
		io.Copy(c, c)
		c.CloseWrite()
	})
}

func serveTCP(t testing.TB, addr string, serve func(*net.TCPConn)) netip.AddrPort {
	t.Helper()
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		t.Skipf("this machine cannot listen on %s: %v", addr, err)
	}
	t.Cleanup(func() { ln.Close() })
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				serve(c.(*net.TCPConn))
			}()
		}
	}()
	return ln.Addr().(*net.TCPAddr).AddrPort()
}

func dial(t testing.TB, f *front.Front) *net.TCPConn {
	t.Helper()
	c, err := net.Dial("tcp", f.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(patience))
	return c.(*net.TCPConn)
}

func send(t testing.TB, c net.Conn, b ...byte) {
	t.Helper()
	if _, err := c.Write(b); err != nil {
		t.Fatal(err)
	}
}

func expect(t testing.TB, c io.Reader, want ...byte) {
	t.Helper()
	got := make([]byte, len(want))
	if _, err := io.ReadFull(c, got); err != nil {
		t.Fatalf("reading %x: %v (got %x)", want, err, got)
	}
	if !bytes.Equal(got, want) {
		t.Fatalf("got %x, want %x", got, want)
	}
}

// connectRequest is a whole SOCKS5 dialogue of a program that waits for nothing.
func connectRequest(dst flow.Addr) []byte {
	return dst.Append([]byte{5, 1, 0, 5, 1, 0})
}

func reply(code flow.Code) []byte {
	return []byte{5, byte(code), 0, 1, 0, 0, 0, 0, 0, 0}
}

func mustAddr(t testing.TB, host string, port uint16) flow.Addr {
	t.Helper()
	a, err := flow.MakeAddr(host, port)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func TestSOCKS5Connect(t *testing.T) {
	v4 := echo(t, "127.0.0.1:0")
	f := start(t, front.Config{})
	for _, host := range []string{"127.0.0.1", "site.example"} {
		t.Run(host, func(t *testing.T) {
			c := dial(t, f)
			send(t, c, 5, 2, 1, 0) // GSSAPI or nothing
			expect(t, c, 5, 0)
			send(t, c, mustAddr(t, host, v4.Port()).Append([]byte{5, 1, 0})...)
			expect(t, c, reply(flow.Succeeded)...)
			send(t, c, []byte("hello")...)
			expect(t, c, []byte("hello")...)
			c.CloseWrite()
			if rest, err := io.ReadAll(c); err != nil || len(rest) > 0 {
				t.Fatalf("end: %q, %v", rest, err)
			}
		})
	}
	t.Run("ipv6", func(t *testing.T) {
		v6 := echo(t, "[::1]:0")
		c := dial(t, f)
		send(t, c, connectRequest(flow.AddrFrom(v6))...)
		expect(t, c, 5, 0)
		expect(t, c, reply(flow.Succeeded)...)
	})
	t.Run("literal as name", func(t *testing.T) {
		c := dial(t, f)
		send(t, c, 5, 1, 0, 5, 1, 0, 3, 9)
		send(t, c, []byte("127.0.0.1")...)
		send(t, c, byte(v4.Port()>>8), byte(v4.Port()))
		expect(t, c, 5, 0)
		expect(t, c, reply(flow.Succeeded)...)
	})
	t.Run("one byte at a time", func(t *testing.T) {
		c := dial(t, f)
		for _, b := range connectRequest(flow.AddrFrom(v4)) {
			send(t, c, b)
		}
		expect(t, c, 5, 0)
		expect(t, c, reply(flow.Succeeded)...)
	})
	t.Run("early data", func(t *testing.T) {
		c := dial(t, f)
		send(t, c, append(connectRequest(flow.AddrFrom(v4)), "early"...)...)
		expect(t, c, 5, 0)
		expect(t, c, reply(flow.Succeeded)...)
		expect(t, c, []byte("early")...)
	})
}

func TestSOCKS4(t *testing.T) {
	v4 := echo(t, "127.0.0.1:0")
	f := start(t, front.Config{})
	plain := func(command byte, ap netip.AddrPort, user string) []byte {
		ip := ap.Addr().As4()
		b := append([]byte{4, command, byte(ap.Port() >> 8), byte(ap.Port())}, ip[:]...)
		return append(append(b, user...), 0)
	}
	named := func(name string, port uint16) []byte {
		b := plain(1, netip.AddrPortFrom(netip.MustParseAddr("0.0.0.7"), port), "me")
		return append(append(b, name...), 0)
	}
	granted, rejected := []byte{0, 0x5a, 0, 0, 0, 0, 0, 0}, []byte{0, 0x5b, 0, 0, 0, 0, 0, 0}
	for _, tt := range []struct {
		name string
		send []byte
		ok   bool
	}{
		{"address", plain(1, v4, ""), true},
		{"user id", plain(1, v4, "somebody"), true},
		{"name", named("site.example", v4.Port()), true},
		{"literal as name", named("127.0.0.1", v4.Port()), true},
		{"refused", plain(1, closedPort(t), ""), false},
		{"policy", plain(1, netip.MustParseAddrPort("10.0.0.1:80"), ""), false},
		{"policy by name", named("private.example", 80), false},
		{"no such name", named("none.example", 80), false},
		{"empty name", named("", 80), false},
		{"bind", plain(2, v4, ""), false},
		{"itself", plain(1, f.Addr(), ""), false},
		{"itself by name", named("localhost", f.Addr().Port()), false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for _, pieces := range []int{1, len(tt.send)} {
				c := dial(t, f)
				if pieces == 1 {
					send(t, c, append(bytes.Clone(tt.send), "early"...)...)
				} else {
					for _, b := range tt.send {
						send(t, c, b)
					}
				}
				if !tt.ok {
					expect(t, c, rejected...)
					continue
				}
				expect(t, c, granted...)
				if pieces == 1 {
					expect(t, c, []byte("early")...)
				}
				send(t, c, []byte("late")...)
				expect(t, c, []byte("late")...)
				c.CloseWrite()
				if rest, err := io.ReadAll(c); err != nil || len(rest) > 0 {
					t.Fatalf("end: %q, %v", rest, err)
				}
			}
		})
	}
}

func TestSOCKS5Refusals(t *testing.T) {
	closed := closedPort(t)
	f := start(t, front.Config{})
	greeting := []byte{5, 1, 0}
	tests := []struct {
		name string
		send []byte
		want []byte // after the method reply
	}{
		{"refused", flow.AddrFrom(closed).Append([]byte{5, 1, 0}), reply(flow.ConnectionRefused)},
		{"policy", mustAddr(t, "10.0.0.1", 80).Append([]byte{5, 1, 0}), reply(flow.NotAllowed)},
		{"policy by name", mustAddr(t, "private.example", 80).Append([]byte{5, 1, 0}), reply(flow.NotAllowed)},
		{"no such name", mustAddr(t, "none.example", 80).Append([]byte{5, 1, 0}), reply(flow.HostUnreachable)},
		{"name server failed", mustAddr(t, "broken.example", 80).Append([]byte{5, 1, 0}), reply(flow.HostUnreachable)},
		{"empty name", []byte{5, 1, 0, 3, 0, 0, 80}, reply(flow.AddressNotSupported)},
		{"name with a line break", []byte{5, 1, 0, 3, 3, 'a', '\n', 'b', 0, 80}, reply(flow.AddressNotSupported)},
		{"unknown address type", []byte{5, 1, 0, 2, 0, 0}, reply(flow.AddressNotSupported)},
		{"bind", mustAddr(t, "127.0.0.1", 80).Append([]byte{5, 2, 0}), reply(flow.CommandNotSupported)},
		{"unknown command", mustAddr(t, "127.0.0.1", 80).Append([]byte{5, 9, 0}), reply(flow.CommandNotSupported)},
		{"wrong version", []byte{4, 1, 0, 1, 127, 0, 0, 1, 0, 80}, reply(flow.GeneralFailure)},
		{"itself", flow.AddrFrom(f.Addr()).Append([]byte{5, 1, 0}), reply(flow.NotAllowed)},
		{"itself by name", mustAddr(t, "localhost", f.Addr().Port()).Append([]byte{5, 1, 0}), reply(flow.NotAllowed)},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := dial(t, f)
			// Unread bytes behind the request must not destroy the answer.
			send(t, c, append(append(bytes.Clone(greeting), tt.send...), make([]byte, 1000)...)...)
			expect(t, c, 5, 0)
			expect(t, c, tt.want...)
			c.CloseWrite()
			if rest, err := io.ReadAll(c); err != nil || len(rest) > 0 {
				t.Fatalf("after the reply: %x, %v", rest, err)
			}
		})
	}
	t.Run("no acceptable method", func(t *testing.T) {
		c := dial(t, f)
		send(t, c, 5, 1, 1)
		expect(t, c, 5, 0xff)
		if _, err := c.Read(make([]byte, 1)); err != io.EOF {
			t.Fatalf("want the end, got %v", err)
		}
	})
}

// closedPort is a port on which nobody listens.
func closedPort(t testing.TB) netip.AddrPort {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	return ln.Addr().(*net.TCPAddr).AddrPort()
}

func TestHTTPConnect(t *testing.T) {
	v4 := echo(t, "127.0.0.1:0")
	f := start(t, front.Config{})
	t.Run("early data", func(t *testing.T) {
		c := dial(t, f)
		fmt.Fprintf(c, "CONNECT %s HTTP/1.1\r\nHost: %s\r\n\r\nearly", v4, v4)
		expect(t, c, []byte("HTTP/1.1 200 Connection established\r\n\r\nearly")...)
		send(t, c, []byte("late")...)
		expect(t, c, []byte("late")...)
		c.CloseWrite()
		if rest, err := io.ReadAll(c); err != nil || len(rest) > 0 {
			t.Fatalf("end: %q, %v", rest, err)
		}
	})
	tests := []struct {
		name, target string
		status       int
		say          string
	}{
		{"refused", closedPort(t).String(), 502, "refused the connection"},
		{"policy", "10.0.0.1:443", 403, "does not allow"},
		{"no such name", "none.example:443", 502, "no site named none.example"},
		{"name server failed", "broken.example:443", 502, "name server failed"},
		{"itself", f.Addr().String(), 403, "proxy itself"},
		{"no port", "site.example", 400, "HOST:PORT"},
		{"bad port", "site.example:70000", 400, "HOST:PORT"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			for _, accept := range []string{"text/html", "*/*"} {
				c := dial(t, f)
				fmt.Fprintf(c, "CONNECT %s HTTP/1.1\r\nHost: %s\r\nAccept: %s\r\n\r\n\x16\x03\x01early", tt.target, tt.target, accept)
				res, err := http.ReadResponse(bufio.NewReader(c), &http.Request{Method: http.MethodConnect})
				if err != nil {
					t.Fatal(err)
				}
				body, err := io.ReadAll(io.LimitReader(res.Body, max(res.ContentLength, 0)))
				if err != nil {
					t.Fatal(err)
				}
				if res.StatusCode != tt.status || !strings.Contains(string(body), tt.say) {
					t.Errorf("%s %q, want %d and %q", res.Status, body, tt.status, tt.say)
				}
				if html := strings.Contains(string(body), "<p>"); html != (accept == "text/html") {
					t.Errorf("Accept %s got %q", accept, body)
				}
			}
		})
	}
}

// proxyClient is a web client that goes through f.
func proxyClient(t testing.TB, f *front.Front) *http.Client {
	tr := &http.Transport{
		Proxy:              func(*http.Request) (*url.URL, error) { return &url.URL{Scheme: "http", Host: f.Addr().String()}, nil },
		DisableCompression: true,
	}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{
		Transport:     tr,
		Timeout:       patience,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

func TestForward(t *testing.T) {
	var conns atomic.Int64
	site := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/echo":
			w.WriteHeader(http.StatusCreated)
			io.Copy(w, r.Body)
		case "/redirect":
			http.Redirect(w, r, "/elsewhere", http.StatusFound)
		case "/bare":
			w.Header()["Date"] = nil
			w.Header()["Content-Type"] = nil
			io.WriteString(w, "<html>")
		default:
			fmt.Fprintf(w, "%s %s\n%s\n", r.Method, r.RequestURI, r.Host)
			r.Header.Write(w)
		}
	}))
	site.Config.ConnState = func(_ net.Conn, s http.ConnState) {
		if s == http.StateNew {
			conns.Add(1)
		}
	}
	site.Start()
	defer site.Close()
	_, port, _ := net.SplitHostPort(site.Listener.Addr().String())
	f := start(t, front.Config{})
	client := proxyClient(t, f)

	t.Run("clean request", func(t *testing.T) {
		c := dial(t, f)
		fmt.Fprintf(c, "GET http://site.example:%s/a|b//c%%2fd?q=a;b&|c HTTP/1.1\r\nHost: ignored.example\r\n"+
			"Proxy-Connection: keep-alive\r\nProxy-Authorization: Basic c2VjcmV0\r\nConnection: close, X-Hop\r\nX-Hop: 1\r\nX-End: 2\r\n\r\n", port)
		res, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(res.Body)
		if err != nil {
			t.Fatal(err)
		}
		want := fmt.Sprintf("GET /a|b//c%%2fd?q=a;b&|c\nsite.example:%s\nX-End: 2\r\n", port)
		if got := string(body); got != want {
			t.Errorf("site got\n%s\nwant\n%s", got, want)
		}
		if via := res.Header.Get("Via"); via != "" {
			t.Errorf("Via: %s", via)
		}
	})
	t.Run("body", func(t *testing.T) {
		payload := bytes.Repeat([]byte("0123456789abcdef"), 1<<16)
		res, err := client.Post(site.URL+"/echo", "", bytes.NewReader(payload))
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		got, err := io.ReadAll(res.Body)
		if err != nil || res.StatusCode != 201 || !bytes.Equal(got, payload) {
			t.Fatalf("%s, %d bytes of %d, %v", res.Status, len(got), len(payload), err)
		}
	})
	t.Run("streams both ways", func(t *testing.T) {
		site := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			rc := http.NewResponseController(w)
			rc.EnableFullDuplex()
			w.WriteHeader(200)
			rc.Flush()
			buf := make([]byte, 100)
			for {
				n, err := r.Body.Read(buf)
				w.Write(buf[:n])
				rc.Flush()
				if err != nil {
					return
				}
			}
		}))
		defer site.Close()
		c := dial(t, f)
		fmt.Fprintf(c, "POST %s/ HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n", site.URL)
		br := bufio.NewReader(c)
		res, err := http.ReadResponse(br, nil)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		for _, word := range []string{"one", "three", "fifteen"} {
			fmt.Fprintf(c, "%x\r\n%s\r\n", len(word), word)
			expect(t, res.Body, []byte(word)...)
		}
		io.WriteString(c, "0\r\n\r\n")
		if rest, err := io.ReadAll(res.Body); err != nil || len(rest) > 0 {
			t.Fatalf("end: %q, %v", rest, err)
		}
	})
	t.Run("redirect is not followed", func(t *testing.T) {
		res, err := client.Get(site.URL + "/redirect")
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		if res.StatusCode != 302 || res.Header.Get("Location") != "/elsewhere" {
			t.Errorf("%s to %s", res.Status, res.Header.Get("Location"))
		}
	})
	t.Run("nothing is added", func(t *testing.T) {
		res, err := client.Get(site.URL + "/bare")
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		for _, h := range []string{"Date", "Content-Type", "Via", "Server"} {
			if v, ok := res.Header[h]; ok {
				t.Errorf("%s: %q", h, v)
			}
		}
	})
	t.Run("keep-alive", func(t *testing.T) {
		c := dial(t, f)
		br := bufio.NewReader(c)
		before := conns.Load()
		for range 20 {
			fmt.Fprintf(c, "GET %s/ HTTP/1.1\r\nHost: x\r\n\r\n", site.URL)
			res, err := http.ReadResponse(br, nil)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := io.Copy(io.Discard, res.Body); err != nil {
				t.Fatal(err)
			}
		}
		if n := conns.Load() - before; n > 2 {
			t.Errorf("20 requests took %d connections to the site", n)
		}
	})
	t.Run("errors", func(t *testing.T) {
		garbage := serveTCP(t, "127.0.0.1:0", func(c *net.TCPConn) {
			c.Read(make([]byte, 1000))
			io.WriteString(c, "SSH-2.0-OpenSSH\r\n\r\n")
		})
		for _, tt := range []struct {
			url    string
			status int
			say    string
		}{
			{"http://none.example/", 502, "no site named none.example"},
			{"http://broken.example/", 502, "name server failed"},
			{"http://10.0.0.1/", 403, "does not allow"},
			{"http://[::ffff:10.0.0.1]/", 403, "does not allow"},
			{"http://" + closedPort(t).String() + "/", 502, "refused the connection"},
			{"http://" + garbage.String() + "/", 502, "something else than HTTP"},
			{"http://" + f.Addr().String() + "/", 403, "proxy itself"},
			{fmt.Sprintf("http://localhost:%d/status.json", f.Addr().Port()), 403, "proxy itself"},
			{"https://site.example/", 400, "CONNECT"},
			{"ftp://site.example/", 400, "CONNECT"},
			{"http://site.example:99999/", 400, "no valid host"},
		} {
			c := dial(t, f)
			fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", tt.url)
			res, err := http.ReadResponse(bufio.NewReader(c), nil)
			if err != nil {
				t.Errorf("%s: %v", tt.url, err)
				continue
			}
			body, _ := io.ReadAll(res.Body)
			if res.StatusCode != tt.status || !strings.Contains(string(body), tt.say) {
				t.Errorf("%s: %s %q, want %d and %q", tt.url, res.Status, body, tt.status, tt.say)
			}
		}
	})
}

func TestCurl(t *testing.T) {
	curl, err := exec.LookPath("curl")
	if err != nil {
		t.Skip("curl is not installed")
	}
	payload := bytes.Repeat([]byte("busel "), 1<<18)
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPut {
			n, _ := io.Copy(io.Discard, r.Body)
			fmt.Fprintf(w, "got %d", n)
			return
		}
		w.Write(payload)
	})
	plain := httptest.NewServer(handler)
	defer plain.Close()
	tls := httptest.NewTLSServer(handler)
	defer tls.Close()
	upload := t.TempDir() + "/upload"
	if err := os.WriteFile(upload, payload, 0o600); err != nil {
		t.Fatal(err)
	}
	f := start(t, front.Config{})
	for _, scheme := range []string{"socks5h", "socks5", "http"} {
		for _, site := range []string{plain.URL, tls.URL} {
			for _, host := range []string{"127.0.0.1", "site.example"} {
				if scheme == "socks5" && host == "site.example" {
					continue // curl would resolve it
				}
				t.Run(scheme+" "+host+" "+site[:5], func(t *testing.T) {
					url := strings.Replace(site, "127.0.0.1", host, 1)
					base := []string{"-sS", "-k", "--noproxy", "", "-m", "20", "--proxy", scheme + "://" + f.Addr().String()}
					out, err := exec.CommandContext(t.Context(), curl, append(base, url+"/", url+"/again")...).Output()
					if err != nil || len(out) != 2*len(payload) || !bytes.HasPrefix(out, payload) {
						t.Fatalf("download: %d bytes, %v", len(out), err)
					}
					out, err = exec.CommandContext(t.Context(), curl, append(base, "-T", upload, url+"/up")...).Output()
					if want := fmt.Sprintf("got %d", len(payload)); err != nil || string(out) != want {
						t.Fatalf("upload: %q, %v; want %q", out, err, want)
					}
				})
			}
		}
	}
	t.Run("refusal", func(t *testing.T) {
		err := exec.CommandContext(t.Context(), curl, "-sS", "-m", "20", "--proxy", "socks5h://"+f.Addr().String(), "http://none.example/").Run()
		exit, ok := errors.AsType[*exec.ExitError](err)
		if !ok || exit.ExitCode() != 97 { // CURLE_PROXY
			t.Errorf("curl: %v", err)
		}
	})
}

// TestChromium loads a page over both protocols and both schemes. The name is
// known to the exit only, so the page proves the way.
func TestChromium(t *testing.T) {
	chromium, err := exec.LookPath("chromium")
	if err != nil {
		t.Skip("chromium is not installed")
	}
	if testing.Short() {
		t.Skip("takes seconds")
	}
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/":
			io.WriteString(w, `<!DOCTYPE html><title>t</title><p id=p>waiting</p><script src="/script.js"></script>`)
		case "/script.js":
			w.Header().Set("Content-Type", "text/javascript")
			io.WriteString(w, `document.getElementById("p").textContent = "loaded " + location.protocol`)
		default:
			http.NotFound(w, r)
		}
	})
	plain := httptest.NewServer(handler)
	defer plain.Close()
	tls := httptest.NewTLSServer(handler)
	defer tls.Close()
	f := start(t, front.Config{})
	for _, scheme := range []string{"socks5", "http"} {
		for _, site := range []string{plain.URL, tls.URL} {
			url := strings.Replace(site, "127.0.0.1", "site.example", 1)
			out, err := exec.CommandContext(t.Context(), chromium, "--headless", "--no-sandbox", "--disable-gpu",
				"--user-data-dir="+t.TempDir(), "--no-first-run", "--disable-background-networking", "--ignore-certificate-errors",
				"--proxy-server="+scheme+"://"+f.Addr().String(), "--dump-dom", url+"/").Output()
			protocol, _, _ := strings.Cut(url, "//")
			if want := "loaded " + protocol; err != nil || !strings.Contains(string(out), want) {
				t.Errorf("%s over %s: %v, want %q in\n%s", url, scheme, err, want, out)
			}
		}
	}
}

// TestParallel runs 500 tunnels at once, each with bytes of its own.
func TestParallel(t *testing.T) {
	site := echo(t, "127.0.0.1:0")
	// A busy machine takes seconds to connect so many: that is no refusal.
	f := start(t, front.Config{
		Opener:         exit.New(exit.Config{Allow: loopback, DialTimeout: 6 * patience}),
		ConnectTimeout: 6 * patience,
	})
	var wg sync.WaitGroup
	for i := range 500 {
		wg.Go(func() {
			c, err := net.Dial("tcp", f.Addr().String())
			if err != nil {
				t.Error(err)
				return
			}
			defer c.Close()
			c.SetDeadline(time.Now().Add(6 * patience))
			sp := speakers[i%len(speakers)]
			payload := bytes.Repeat(fmt.Appendf(nil, "%08d", i), 10_000)
			go func() {
				c.Write(append(sp.request(flow.AddrFrom(site)), payload...))
				c.(*net.TCPConn).CloseWrite()
			}()
			got, err := io.ReadAll(c)
			want := slices.Concat(sp.hello, sp.success, payload)
			if err != nil || !bytes.Equal(got, want) {
				t.Errorf("tunnel %d: %d bytes of %d, %v", i, len(got), len(want), err)
			}
		})
	}
	wg.Wait()
}
