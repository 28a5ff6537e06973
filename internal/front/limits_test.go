package front

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"busel/internal/flow"
)

const patience = 20 * time.Second

// refuser refuses everything and remembers the last destination.
type refuser struct{}

func (refuser) OpenStream(context.Context, flow.Addr) (flow.Stream, error) {
	return nil, &flow.OpenError{Code: flow.ConnectionRefused, Detail: flow.DetailRefused}
}

func (refuser) OpenPackets(context.Context) (flow.Packets, error) {
	return nil, errors.ErrUnsupported
}

func run(t testing.TB, c Config, change func(*Front)) *Front {
	t.Helper()
	before := runtime.NumGoroutine()
	c.Listen = "auto"
	if c.Opener == nil {
		c.Opener = refuser{}
	}
	f, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	if change != nil {
		change(f)
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
			t.Error("Run does not end")
		}
		if len(f.open) != 0 || f.unasked.Len() != 0 {
			t.Errorf("%d connections, %d unasked are still known", len(f.open), f.unasked.Len())
		}
		if _, fuzzing := t.(*testing.F); fuzzing {
			return // the fuzzing engine starts goroutines of its own
		}
		for end := time.Now().Add(patience); runtime.NumGoroutine() > before; <-time.After(5 * time.Millisecond) {
			if time.Now().After(end) {
				buf := make([]byte, 1<<20)
				t.Fatalf("goroutines are left:\n%s", buf[:runtime.Stack(buf, true)])
			}
		}
	})
	return f
}

func connect(t testing.TB, f *Front) *net.TCPConn {
	t.Helper()
	c, err := net.Dial("tcp", f.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	c.SetDeadline(time.Now().Add(patience))
	return c.(*net.TCPConn)
}

// ended reads until the proxy ends the connection, and returns what it said.
func ended(t testing.TB, c net.Conn) string {
	t.Helper()
	got, err := io.ReadAll(c)
	if timeout, ok := errors.AsType[net.Error](err); ok && timeout.Timeout() {
		t.Fatalf("the connection goes on after %q", got)
	}
	return string(got)
}

func TestSlowPrograms(t *testing.T) {
	f := run(t, Config{}, func(f *Front) { f.firstByte, f.request = 50*time.Millisecond, 100*time.Millisecond })
	for _, said := range []string{
		"", "\x05", "\x05\x01", "\x05\x01\x00\x05\x01", "\x05\x01\x00\x05\x01\x00\x03\xff",
		"\x04", "\x04\x01\x00\x50\x08\x08\x08\x08me", "\x04\x01\x00\x50\x00\x00\x00\x01\x00site",
		"G", "GET / HTTP/1.1\r\nHost:", "CONNECT a:1 HTTP/1.1\r\n", strings.Repeat("A", 100),
	} {
		t.Run(strconv.Quote(said[:min(len(said), 10)]), func(t *testing.T) {
			c := connect(t, f)
			defer c.Close()
			io.WriteString(c, said)
			ended(t, c)
		})
	}
	t.Run("a byte now and then", func(t *testing.T) {
		c := connect(t, f)
		defer c.Close()
		io.WriteString(c, "\x05\xff")
		var err error
		for tick := time.NewTicker(10 * time.Millisecond); err == nil; <-tick.C {
			_, err = c.Write([]byte{1})
		}
		if errors.Is(err, os.ErrDeadlineExceeded) {
			t.Error("the proxy listens for ever")
		}
	})
}

func TestGarbage(t *testing.T) {
	f := run(t, Config{}, nil)
	for _, tt := range []struct{ name, said, want string }{
		{"TLS", "\x16\x03\x01\x02\x00\x01\x00", ""},
		{"SOCKS4 without an end", "\x04" + strings.Repeat("\x01", 100_000), "\x00\x5b\x00\x00\x00\x00\x00\x00"},
		{"zeros", strings.Repeat("\x00", 100_000), ""},
		{"HTTP/2", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "HTTP/1.1 403"},
		{"no HTTP", "HELO mail.example\r\n\r\n", "HTTP/1.1 400"},
		{"bad version", "GET / HTTP/9.9\r\n\r\n", "HTTP/1.1 505"},
		{"no host", "GET / HTTP/1.1\r\n\r\n", "HTTP/1.1 400"},
		{"two hosts", "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", "HTTP/1.1 400"},
		{"old and without host", "GET / HTTP/1.0\r\n\r\n", "HTTP/1.0 403"},
		{"large head", "GET / HTTP/1.1\r\nX: " + strings.Repeat("a", 2*maxHeader) + "\r\n\r\n", "HTTP/1.1 431"},
		{"large request line", "GET /" + strings.Repeat("a", 2*maxHeader) + " HTTP/1.1\r\n\r\n", "HTTP/1.1 431"},
		{"smuggled length", "POST http://a/ HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n", "HTTP/1.1 400"},
		{"unknown coding", "POST http://a/ HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n", "HTTP/1.1 501"},
		{"path for CONNECT", "CONNECT /x HTTP/1.1\r\nHost: a\r\n\r\n", "HTTP/1.1 400"},
		{"name of 300 bytes", "CONNECT " + strings.Repeat("a", 300) + ":443 HTTP/1.1\r\nHost: a\r\n\r\n", "HTTP/1.1 400"},
		{"relative", "GET foo HTTP/1.1\r\nHost: a\r\n\r\n", "HTTP/1.1 400"},
		{"no host in URL", "GET http:///x HTTP/1.1\r\nHost: a\r\n\r\n", "HTTP/1.1 400"},
		{"opaque URL", "GET http:x HTTP/1.1\r\nHost: a\r\n\r\n", "HTTP/1.1 400"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := connect(t, f)
			defer c.Close()
			go func() { // the proxy may close before it has read everything
				io.WriteString(c, tt.said)
				c.CloseWrite()
			}()
			if got := ended(t, c); !strings.HasPrefix(got, tt.want) || tt.want == "" && got != "" {
				t.Errorf("got %.100q, want %q", got, tt.want)
			}
		})
	}
}

// TestManySilentConnections opens more connections than may be silent: the
// proxy stays usable, the oldest make room, and all are gone in the end.
func TestManySilentConnections(t *testing.T) {
	if testing.Short() {
		t.Skip("takes a second")
	}
	f := run(t, Config{}, nil)
	var silent []*net.TCPConn
	for range maxUnasked + 500 {
		silent = append(silent, connect(t, f))
	}
	c := connect(t, f)
	defer c.Close()
	io.WriteString(c, "\x05\x01\x00\x05\x01\x00\x01\x08\x08\x08\x08\x00\x50")
	if got, want := ended(t, c), "\x05\x00\x05\x05\x00\x01\x00\x00\x00\x00\x00\x00"; got != want {
		t.Errorf("beside silent connections the proxy answers %x", got)
	}
	for _, c := range silent[:400] {
		ended(t, c)
	}
	c.Close()
	for _, c := range silent {
		c.Close()
	}
	// Polling in a tight loop would take the processor from those who close.
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(3 * patience); ; <-tick.C {
		f.mu.Lock()
		open := len(f.open)
		f.mu.Unlock()
		if open == 0 {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("%d connections are left", open)
		}
	}
}

func TestMaxConns(t *testing.T) {
	f := run(t, Config{MaxConns: 3}, nil)
	// Idle HTTP connections have asked, so they do not make room.
	for range 3 {
		c := connect(t, f)
		defer c.Close()
		io.WriteString(c, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
		if _, err := io.ReadFull(c, make([]byte, 12)); err != nil {
			t.Fatal(err)
		}
	}
	c := connect(t, f)
	defer c.Close()
	if got := ended(t, c); got != "" {
		t.Errorf("a connection too many got %q", got)
	}
}

func TestDescriptorsReturn(t *testing.T) {
	if _, err := os.ReadDir("/proc/self/fd"); err != nil {
		t.Skip("needs /proc")
	}
	count := func() int {
		fds, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return len(fds)
	}
	f := run(t, Config{}, nil)
	before := count()
	for _, said := range []string{
		"\x05\x01\x00\x05\x01\x00\x01\x08\x08\x08\x08\x00\x50",
		"CONNECT 8.8.8.8:80 HTTP/1.1\r\n\r\n",
		"GET http://8.8.8.8/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
		"\x04\x01\x00\x50\x08\x08\x08\x08\x00", "\x04\x02\x00\x50\x08\x08\x08\x08\x00", "\xff\xff", "GET / HTTP/1.1\r\nConnection: close\r\nHost: x\r\n\r\n",
	} {
		for range 50 {
			c := connect(t, f)
			io.WriteString(c, said)
			ended(t, c)
			c.Close()
		}
	}
	for end := time.Now().Add(patience); count() > before; <-time.After(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%d descriptors, %d before", count(), before)
		}
	}
}

func TestPortTaken(t *testing.T) {
	for _, addr := range []string{"127.0.0.1:0", "[::1]:0"} {
		ln, err := net.Listen("tcp", addr)
		if err != nil {
			t.Logf("skipping %s: %v", addr, err)
			continue
		}
		defer ln.Close()
		f, err := New(Config{Listen: ln.Addr().String(), Opener: refuser{}})
		if err != nil {
			t.Fatal(err)
		}
		err = f.Listen(t.Context())
		taken, ok := errors.AsType[*PortTakenError](err)
		if !ok || taken.Addr.String() != ln.Addr().String() {
			t.Fatalf("got %v", err)
		}
		if runtime.GOOS == "linux" {
			if !errors.Is(err, syscall.EADDRINUSE) {
				t.Error("does not unwrap to the system's error")
			}
			if taken.PID != os.Getpid() || taken.Process == "" || !strings.Contains(err.Error(), strconv.Itoa(os.Getpid())) {
				t.Errorf("taken by %d %q: %v", taken.PID, taken.Process, err)
			}
		}
		if err := f.Run(t.Context()); err == nil {
			t.Error("runs without a port")
		}
	}
}

func TestNewRefuses(t *testing.T) {
	for _, tt := range []struct {
		listen string
		public bool
		ok     bool
	}{
		{"", false, true},
		{"auto", false, true},
		{"localhost:1080", false, true},
		{"127.9.9.9:1080", false, true},
		{"[::1]:1080", false, true},
		{"0.0.0.0:1080", false, false},
		{"0.0.0.0:1080", true, true},
		{"192.168.1.1:1080", false, false},
		{"[::]:1080", false, false},
		{":1080", false, false},
		{"1080", false, false},
		{"example.org:1080", true, false},
		{"127.0.0.1:99999", false, false},
	} {
		if _, err := New(Config{Listen: tt.listen, Public: tt.public, Opener: refuser{}}); (err == nil) != tt.ok {
			t.Errorf("%q, public %v: %v", tt.listen, tt.public, err)
		}
	}
	if _, err := New(Config{}); err == nil {
		t.Error("no opener, and no error")
	}
}

func TestReached(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newReached()
		addr := func(i int) flow.Addr { return flow.Addr{Name: fmt.Sprint(i), Port: 1} }
		r.add(addr(0))
		time.Sleep(reachedTime - 1)
		if !r.lately(addr(0)) || r.lately(addr(1)) {
			t.Error("within the time")
		}
		time.Sleep(time.Nanosecond)
		if r.lately(addr(0)) {
			t.Error("beyond the time")
		}
		for i := range 3 * maxReached {
			r.add(addr(i))
			r.add(addr(1)) // keeps this one young
			time.Sleep(time.Millisecond)
		}
		if len(r.at) != maxReached {
			t.Errorf("%d destinations are remembered", len(r.at))
		}
		if !r.lately(addr(1)) || !r.lately(addr(3*maxReached-1)) || r.lately(addr(3*maxReached-maxReached)) {
			t.Error("not the oldest was forgotten")
		}
		r.forget(addr(1))
		if r.lately(addr(1)) {
			t.Error("not forgotten")
		}
	})
}

// recorder is an opener whose streams record what goes up and answer nothing.
type recorder struct {
	mu   sync.Mutex
	dst  []flow.Addr
	data bytes.Buffer
}

func (r *recorder) OpenStream(_ context.Context, dst flow.Addr) (flow.Stream, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.dst = append(r.dst, dst)
	return &recorded{r: r, ended: make(chan struct{})}, nil
}

func (r *recorder) OpenPackets(context.Context) (flow.Packets, error) {
	return nil, errors.ErrUnsupported
}

// take returns what was recorded, and forgets it.
func (r *recorder) take() (dst []flow.Addr, data []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	dst, data = r.dst, bytes.Clone(r.data.Bytes())
	r.dst = nil
	r.data.Reset()
	return dst, data
}

type recorded struct {
	net.Conn
	r     *recorder
	once  sync.Once
	ended chan struct{}
}

func (s *recorded) Connected(context.Context) error { return nil }
func (s *recorded) Write(b []byte) (int, error) {
	s.r.mu.Lock()
	defer s.r.mu.Unlock()
	return s.r.data.Write(b)
}
func (s *recorded) Read([]byte) (int, error)         { <-s.ended; return 0, io.EOF }
func (s *recorded) CloseWrite() error                { return s.Close() }
func (s *recorded) Close() error                     { s.once.Do(func() { close(s.ended) }); return nil }
func (s *recorded) SetDeadline(time.Time) error      { return nil }
func (s *recorded) SetReadDeadline(time.Time) error  { return nil }
func (s *recorded) SetWriteDeadline(time.Time) error { return nil }

// panics counts log records about panics, which net/http swallows.
type panics struct {
	slog.Handler
	n atomic.Int64
}

func (p *panics) Enabled(context.Context, slog.Level) bool { return true }
func (p *panics) Handle(_ context.Context, r slog.Record) error {
	if strings.Contains(r.Message, "panic") {
		p.n.Add(1)
	}
	return nil
}

// talk sends said in one piece and returns all that the proxy answers.
func talk(t *testing.T, f *Front, said []byte) string {
	t.Helper()
	c := connect(t, f)
	defer c.Close()
	c.SetLinger(0) // else a fuzzer uses up the ports in a second
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() {
		c.Write(said) // the proxy may close before it has read everything
		c.CloseWrite()
	})
	return ended(t, c)
}

// parseSOCKS5 is a second opinion about a SOCKS5 dialogue sent in one piece: the
// destination if it is a CONNECT that must be served, and what follows.
func parseSOCKS5(b []byte) (dst flow.Addr, rest []byte, ok bool) {
	if len(b) < 2 || b[0] != 5 || len(b) < 2+int(b[1]) || !bytes.Contains(b[2:2+int(b[1])], []byte{0}) {
		return flow.Addr{}, nil, false
	}
	b = b[2+int(b[1]):]
	if len(b) < 3 || b[0] != 5 || b[1] != 1 {
		return flow.Addr{}, nil, false
	}
	b = b[3:]
	if len(b) > 18 && b[0] == 4 { // an IPv4 address in an IPv6 one is that address
		ip, _ := netip.AddrFromSlice(b[1:17])
		return flow.AddrFrom(netip.AddrPortFrom(ip, uint16(b[17])<<8|uint16(b[18]))), b[19:], true
	}
	dst, n, err := flow.ParseAddr(b)
	if err != nil {
		return flow.Addr{}, nil, false
	}
	if dst.Name != "" {
		dst, err = flow.MakeAddr(dst.Name, dst.Port)
	}
	return dst, b[n:], err == nil
}

// FuzzSOCKS5: what a well-formed request asks for is opened, and the bytes
// behind it arrive as they are; nothing else is opened; every answer is a
// well-formed reply.
func FuzzSOCKS5(f *testing.F) {
	for _, s := range []string{
		"\x05\x01\x00\x05\x01\x00\x01\x08\x08\x08\x08\x00\x50hello",
		"\x05\x02\x01\x00\x05\x01\x00\x03\x04site\x01\xbb\x16\x03\x01",
		"\x05\x01\x00\x05\x01\x00\x04\x20\x01\x0d\xb8\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01\x00\x50",
		"\x05\x01\x00\x05\x03\x00\x01\x00\x00\x00\x00\x00\x00", "\x05\x00", "\x05\x01\x02",
		"\x05\x01\x00\x05\x01\x00\x03\x00\x00\x50", "\x05\x01\x00\x05\x01\x00\x02\x00\x00\x50",
	} {
		f.Add([]byte(s))
	}
	rec := &recorder{}
	proxy := run(f, Config{Opener: rec}, nil)
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) == 0 || len(b) > 4096 {
			return
		}
		b[0] = 5
		dst, rest, ok := parseSOCKS5(b)
		if ok && proxy.isOwn(dst) {
			return
		}
		proxy.reached.forget(dst)
		got := talk(t, proxy, b)
		opened, data := rec.take()
		if ok {
			if len(opened) != 1 || opened[0] != dst || !bytes.Equal(data, rest) {
				t.Errorf("%x opened %v with %x, want %v with %x", b, opened, data, dst, rest)
			}
			if got != "\x05\x00\x05\x00\x00\x01\x00\x00\x00\x00\x00\x00" {
				t.Errorf("%x answered %x", b, got)
			}
			return
		}
		if len(opened) != 0 || len(data) != 0 {
			t.Errorf("%x opened %v with %x", b, opened, data)
		}
		switch {
		case got == "", got == "\x05\xff", got == "\x05\x00":
		case len(got) == 12 && strings.HasPrefix(got, "\x05\x00\x05") && got[3] >= 1 && got[3] <= 8:
		default:
			t.Errorf("%x answered %x", b, got)
		}
	})
}

// FuzzHTTP: no request makes the proxy panic or hang; what is opened is a valid
// destination and never the proxy itself; the status page stays closed; and what
// follows a CONNECT that is served arrives as it is.
func FuzzHTTP(f *testing.F) {
	for _, s := range []string{
		"CONNECT site.example:443 HTTP/1.1\r\nHost: x\r\n\r\n\x16\x03\x01",
		"CONNECT [::1]:443 HTTP/1.0\r\n\r\n",
		"GET http://site.example/a?b HTTP/1.1\r\nHost: x\r\n\r\n",
		"POST http://site.example:8080/ HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabcGET / HTTP/1.1\r\n\r\n",
		"POST http://site.example/ HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
		"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", "OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n",
		"GET http://site.example/ HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
		"GET http://a@b:c/%zz HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\n\r\n",
	} {
		f.Add([]byte(s))
	}
	rec := &recorder{}
	logged := &panics{Handler: slog.DiscardHandler}
	proxy := run(f, Config{Opener: rec, Logger: slog.New(logged), Pages: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		io.WriteString(w, "must stay secret")
	})}, nil)
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) == 0 || len(b) > 4096 || b[0] == 4 || b[0] == 5 {
			return
		}
		got := talk(t, proxy, b)
		opened, data := rec.take()
		if logged.n.Load() > 0 {
			t.Fatalf("%q made it panic", b)
		}
		for _, dst := range opened {
			if !dst.IsValid() || proxy.isOwn(dst) {
				t.Errorf("%q opened %v", b, dst)
			}
		}
		if strings.Contains(got, "must stay secret") {
			t.Errorf("%q opened the status page", b)
		}
		const established = "HTTP/1.1 200 Connection established\r\n\r\n"
		if strings.HasSuffix(got, established) {
			proxy.reached.forget(opened[len(opened)-1])
			// Everything behind the last empty line of the heads, at least, and
			// nothing that was not sent.
			if !bytes.HasSuffix(b, data) && len(opened) == 1 {
				t.Errorf("%q arrived as %q", b, data)
			}
		}
	})
}
