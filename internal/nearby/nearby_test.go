package nearby

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"busel/config"
	"busel/internal/flow"
	"busel/internal/words"
)

func invite(t *testing.T, relays int) *config.Bundle {
	t.Helper()
	entries := slices.Repeat([]config.RelayEntry{{
		Addresses: []flow.Addr{{Name: "relay.example.net", Port: 443}}, Key: [32]byte{9}, CoverName: "news.example.org",
		CertHash: [32]byte{1}, Transports: []config.Transport{{Name: "mirror"}},
	}}, relays)
	b, err := config.Sign(ed25519.NewKeyFromSeed(make([]byte, 32)), 1, entries...)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// newShare has a program of 3 MB and a file beside it.
func newShare(t *testing.T) (*Share, []byte) {
	t.Helper()
	dir := t.TempDir()
	program := bytes.Repeat([]byte("stork"), 600_000)
	for name, data := range map[string][]byte{"client": program, "share/client.exe": []byte("for Windows"), "share/.hidden": []byte("no"), "share/client": []byte("another")} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("/etc/passwd", filepath.Join(dir, "share/passwd")); err != nil {
		t.Fatal(err)
	}
	list := Files(filepath.Join(dir, "client"), filepath.Join(dir, "share"), filepath.Join(dir, "nowhere"))
	if len(list) != 2 || list[0].Name != "client" || list[0].Size != int64(len(program)) || list[1].Name != "client.exe" {
		t.Fatalf("files %+v", list)
	}
	languages, err := words.All()
	if err != nil {
		t.Fatal(err)
	}
	s, err := New(Config{Files: list, Invite: invite(t, 3), Languages: languages})
	if err != nil {
		t.Fatal(err)
	}
	if !regexp.MustCompile(`^\d{6}$`).MatchString(s.PIN()) {
		t.Fatalf("PIN %q", s.PIN())
	}
	return s, program
}

// run serves until the test ends.
func run(t *testing.T, s *Share) (site string, ended chan error) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended = make(chan error, 1)
	go func() {
		ended <- s.Run(ctx, ln)
		close(ended)
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return "http://" + ln.Addr().String(), ended
}

func browser(t *testing.T) *http.Client {
	t.Helper()
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	c := &http.Client{Jar: jar, Transport: &http.Transport{}}
	t.Cleanup(c.CloseIdleConnections)
	return c
}

func read(t *testing.T, resp *http.Response, err error) (int, string) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(body)
}

// other is a PIN that is not s's.
func other(s *Share, n int) string {
	pin := fmt.Sprintf("%06d", n)
	if pin == s.PIN() {
		pin = "999999"
	}
	return pin
}

func TestFetch(t *testing.T) {
	s, program := newShare(t)
	site, _ := run(t, s)
	web := browser(t)
	telling := []string{"Busel", "busel", "client", "svg"}

	resp, err := web.Get(site + "/")
	csp := resp.Header.Get("Content-Security-Policy")
	status, body := read(t, resp, err)
	if status != 200 || !strings.Contains(body, "<form") || !strings.Contains(csp, "default-src 'none'") || strings.Contains(csp, "unsafe") {
		t.Errorf("the form: %d, %s, %s", status, csp, body)
	}
	for _, path := range []string{"/", "/files/client", "/files/", "/files/..%2fclient", "/favicon.ico"} {
		resp, err := web.Get(site + path)
		status, body := read(t, resp, err)
		for _, word := range telling {
			if strings.Contains(body, word) {
				t.Errorf("without the PIN %s (%d) tells of %q", path, status, word)
			}
		}
	}
	resp, err = web.PostForm(site+"/", url.Values{"pin": {other(s, 1)}})
	if status, body := read(t, resp, err); status != 403 || !strings.Contains(body, "This is not the PIN.") {
		t.Errorf("a wrong PIN: %d, %s", status, body)
	}
	// Even the right one has to wait after a wrong one.
	resp, err = web.PostForm(site+"/", url.Values{"pin": {s.PIN()}})
	if status, body := read(t, resp, err); status != 429 || strings.Contains(body, "/files/") {
		t.Errorf("at once after a wrong PIN: %d", status)
	}
	s.mu.Lock()
	s.next = time.Time{} // a second later
	s.mu.Unlock()
	resp, err = web.PostForm(site+"/", url.Values{"pin": {" " + s.PIN()[:3] + " " + s.PIN()[3:]}})
	status, body = read(t, resp, err)
	if status != 200 || !strings.Contains(body, s.cfg.Invite.Text()) || strings.Count(body, "<img ") != len(s.cfg.Invite.Codes()) || !strings.Contains(body, "/files/client.exe") {
		t.Fatalf("with the PIN: %d, %s", status, body)
	}
	if strings.Contains(body, "near.") {
		t.Error("a text is missing")
	}
	resp, err = web.Get(site + "/files/client")
	if resp.Header.Get("Content-Disposition") != "attachment" {
		t.Errorf("headers %v", resp.Header)
	}
	if status, body := read(t, resp, err); status != 200 || body != string(program) {
		t.Errorf("the program: %d, %d bytes", status, len(body))
	}
	resp, err = web.Get(site + "/files/passwd")
	if status, _ := read(t, resp, err); status != 404 {
		t.Errorf("a file that is not offered: %d", status)
	}
	if s.Taken() != 1 {
		t.Errorf("%d files were taken", s.Taken())
	}
	// Somebody else's browser still has nothing.
	resp, err = browser(t).Get(site + "/files/client")
	if status, body := read(t, resp, err); status != 404 || body == string(program) {
		t.Errorf("without the cookie: %d", status)
	}
	// Another site's name, and its form.
	for _, change := range []func(r *http.Request){
		func(r *http.Request) { r.Host = "rebind.example" + strings.TrimPrefix(site, "http://127.0.0.1") },
		func(r *http.Request) { r.Header.Set("Origin", "http://evil.example") },
		func(r *http.Request) { r.Header.Set("Sec-Fetch-Site", "cross-site") },
	} {
		r, err := http.NewRequest("POST", site+"/", strings.NewReader("pin="+s.PIN()))
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		change(r)
		resp, err := browser(t).Do(r)
		if status, _ := read(t, resp, err); status != 403 || len(resp.Cookies()) > 0 {
			t.Errorf("a foreign request: %d", status)
		}
	}
	for _, method := range []string{"PUT", "DELETE", "OPTIONS"} {
		r, _ := http.NewRequest(method, site+"/", nil)
		resp, err := browser(t).Do(r)
		if status, _ := read(t, resp, err); status != 405 && status != 403 {
			t.Errorf("%s: %d", method, status)
		}
	}
	r, _ := http.NewRequest("GET", site+"/", nil)
	r.Header.Set("Accept-Language", "be")
	resp, err = browser(t).Do(r)
	if _, body := read(t, resp, err); !strings.Contains(body, "Увядзіце PIN") {
		t.Errorf("in Belarusian: %s", body)
	}
}

// Guessing ends it, whoever guesses and from however many connections.
func TestGuessing(t *testing.T) {
	s, _ := newShare(t)
	site, ended := run(t, s)
	web := browser(t)
	for n := range maxWrong {
		s.mu.Lock()
		s.next = time.Time{}
		s.mu.Unlock()
		resp, err := web.PostForm(site+"/", url.Values{"pin": {other(s, n)}})
		if n == maxWrong-1 && err != nil {
			break // it was over before the answer was
		}
		if status, _ := read(t, resp, err); status != 403 {
			t.Fatalf("try %d: %d", n, status)
		}
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if resp, err := web.Get(site + "/"); err == nil {
		resp.Body.Close()
		t.Error("it goes on")
	}
	if s.try(s.PIN()) == http.StatusOK {
		t.Error("the PIN is taken after the end")
	}
}

// Tries of everybody together are a second apart.
func TestPaceOfTries(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &Share{pin: "123456", end: func() {}}
		looked := 0
		for range 1000 {
			if s.try("000000") == http.StatusForbidden {
				looked++
			}
			time.Sleep(5 * time.Millisecond)
		}
		if looked != 5 {
			t.Errorf("%d tries in 5 s were looked at, want 5", looked)
		}
	})
}

// It ends by itself.
func TestLife(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		languages, err := words.All()
		if err != nil {
			t.Fatal(err)
		}
		s, err := New(Config{Invite: invite(t, 1), Languages: languages})
		if err != nil {
			t.Fatal(err)
		}
		begin := time.Now()
		if err := s.Run(t.Context(), silent{closed: make(chan struct{})}); err != nil || time.Since(begin) != Life {
			t.Errorf("it ended after %v with %v", time.Since(begin), err)
		}
	})
}

// silent is a listener to which nobody comes.
type silent struct{ closed chan struct{} }

func (s silent) Accept() (net.Conn, error) { <-s.closed; return nil, net.ErrClosed }
func (s silent) Close() error              { close(s.closed); return nil }
func (silent) Addr() net.Addr              { return &net.TCPAddr{} }

// dialFrom connects from an address of this machine.
func dialFrom(t *testing.T, from, host string) net.Conn {
	t.Helper()
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
	c, err := d.Dial("tcp", host)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// Very many connections, and silent ones, do not keep others out for long, nor in memory;
// those of one device do not keep others out at all.
func TestCrowd(t *testing.T) {
	s, _ := newShare(t)
	site, _ := run(t, s)
	host := strings.TrimPrefix(site, "http://")
	// stays connects and reports whether that is taken: who has no place is sent away at once.
	stays := func(from string) bool {
		c := dialFrom(t, from, host)
		fmt.Fprintf(c, "HEAD / HTTP/1.1\r\nHost: %s\r\n\r\n", host)
		c.SetReadDeadline(time.Now().Add(slow))
		_, err := c.Read(make([]byte, 1))
		return err == nil
	}
	taken := 0
	for range 3 * maxFrom {
		if stays("127.0.0.2") {
			taken++
		}
	}
	if taken != maxFrom {
		t.Errorf("%d connections of one device are taken, want %d", taken, maxFrom)
	}
	for ; taken < maxConns; taken++ {
		if !stays(fmt.Sprintf("127.0.0.%d", 10+taken/maxFrom)) {
			t.Fatalf("another device is kept out by %d connections", taken)
		}
	}
	if stays("127.0.1.1") {
		t.Error("there is no bound")
	}
}

// pipe is a connection in memory of a device on a local network.
type pipe struct{ net.Conn }

func (pipe) RemoteAddr() net.Addr { return &net.TCPAddr{IP: net.IPv4(192, 168, 7, 7), Port: 7} }
func (pipe) LocalAddr() net.Addr  { return &net.TCPAddr{IP: net.IPv4(192, 168, 7, 1), Port: 8} }

// meeting is a listener to which one comes.
type meeting struct {
	silent
	once chan net.Conn
}

func (m meeting) Accept() (net.Conn, error) {
	select {
	case c := <-m.once:
		return c, nil
	case <-m.closed:
		return nil, net.ErrClosed
	}
}

// inMemory runs a share in a bubble, and gives one device's connection to it.
func inMemory(t *testing.T, s *Share) net.Conn {
	near, far := net.Pipe()
	m := meeting{silent{make(chan struct{})}, make(chan net.Conn, 1)}
	m.once <- pipe{near}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx, m) }()
	t.Cleanup(func() {
		far.Close()
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return far
}

// A device that does not take what it asked for is left, and so is one that asks slowly.
func TestSlowDevice(t *testing.T) {
	for name, says := range map[string]string{"takes nothing": "GET / HTTP/1.1\r\nHost: 192.168.7.1:8\r\n\r\n", "says nothing": "", "says little": "GET / HTTP"} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, _ := newShare(t)
				c := inMemory(t, s)
				begin := time.Now()
				if _, err := io.WriteString(c, says); err != nil {
					t.Fatal(err)
				}
				time.Sleep(slow + time.Second)
				synctest.Wait()
				if _, err := c.Write([]byte("x")); err == nil {
					t.Errorf("it is still waited for after %v", time.Since(begin))
				}
			})
		})
	}
}

// A file may take its time, and is cut off at the end of the ten minutes.
func TestSlowDownload(t *testing.T) {
	for _, pause := range []time.Duration{time.Second, time.Minute} {
		synctest.Test(t, func(t *testing.T) {
			s, program := newShare(t)
			c := inMemory(t, s)
			begin := time.Now()
			go fmt.Fprintf(c, "GET /files/client HTTP/1.1\r\nHost: 192.168.7.1:8\r\nCookie: %s=%s\r\nConnection: close\r\n\r\n", cookie, s.pass)
			buf := make([]byte, 32<<10)
			var got []byte
			for {
				n, err := c.Read(buf)
				got = append(got, buf[:n]...)
				if err != nil {
					break
				}
				time.Sleep(pause)
			}
			whole := bytes.HasSuffix(got, program)
			if took := time.Since(begin); whole != (pause == time.Second) || took < time.Minute || took > Life+time.Minute {
				t.Errorf("with pauses of %v: %d bytes in %v, whole %t", pause, len(got), took, whole)
			}
		})
	}
}

// Every text of the pages is there, and every one there is used.
func TestKeys(t *testing.T) {
	languages, err := words.All()
	if err != nil {
		t.Fatal(err)
	}
	page, err := files.ReadFile("nearby.html")
	if err != nil {
		t.Fatal(err)
	}
	code, err := os.ReadFile("nearby.go")
	if err != nil {
		t.Fatal(err)
	}
	used := map[string]bool{}
	for _, m := range regexp.MustCompile(`"((?:near|share)\.[a-z.]+)"`).FindAllSubmatch(slices.Concat(page, code), -1) {
		used[string(m[1])] = true
		if languages[0].Texts[string(m[1])] == nil {
			t.Errorf("the page uses %s, which is in no catalogue", m[1])
		}
	}
	for key := range languages[0].Texts {
		if strings.HasPrefix(key, "near.") && !used[key] {
			t.Errorf("nothing uses %s", key)
		}
	}
}
