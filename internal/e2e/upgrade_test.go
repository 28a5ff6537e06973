//go:build linux

package e2e

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"busel/internal/nginxtest"
)

// running is what tests of an upgrade read of `relayd status -json`.
type running struct {
	PID      int    `json:"pid"`
	Idle     string `json:"idle"`
	Draining *struct {
		PID      int   `json:"pid"`
		Sessions int   `json:"sessions"`
		Streams  int64 `json:"streams"`
	} `json:"draining"`
	Relay struct {
		Sessions     int   `json:"sessions"`
		Carriers     int64 `json:"carriers"`
		Streams      int64 `json:"streams"`
		StreamsTotal int64 `json:"streams_total"`
		Handed       int64 `json:"handed_total"`
	} `json:"relay"`
}

func (r *relay) running(t *testing.T) (s running) {
	t.Helper()
	decode(t, command(t, "", "relayd", "status", "-dir", r.dir, "-json"), &s)
	return s
}

// lives reports whether a process runs that is not waited for only.
func lives(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	_, after, ok := strings.Cut(string(stat), ") ")
	return err == nil && ok && !strings.HasPrefix(after, "Z")
}

// upgrade replaces the relay, until the test ends.
func (r *relay) upgrade(t *testing.T, args ...string) (s running) {
	t.Helper()
	command(t, "", "relayd", append([]string{"upgrade", "-dir", r.dir}, args...)...)
	s = r.running(t)
	t.Cleanup(func() {
		if lives(s.PID) {
			syscall.Kill(s.PID, syscall.SIGTERM)
		}
		for limit := time.Now().Add(15 * time.Second); lives(s.PID); <-time.After(20 * time.Millisecond) {
			if time.Now().After(limit) {
				syscall.Kill(s.PID, syscall.SIGKILL)
				t.Error("the new relayd did not end when asked to")
				return
			}
		}
	})
	return s
}

// downloads are many at a time that last until they are stopped.
type downloads struct {
	stop   func()
	moved  []*gauge
	finish func()
}

// startDownloads begins n downloads through a proxy. finish stops them and checks
// that each brought what its origin sent.
func startDownloads(t *testing.T, proxy string, n int) *downloads {
	t.Helper()
	stop := make(chan struct{})
	var sums sync.Map
	origin := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		src, h, b := rand.NewChaCha8([32]byte([]byte(fmt.Sprintf("%-32s", req.URL.Path)))), sha256.New(), make([]byte, 8<<10)
		tick := time.NewTicker(100 * time.Millisecond)
		defer tick.Stop()
		for {
			src.Read(b)
			h.Write(b)
			if _, err := w.Write(b); err != nil {
				t.Errorf("download %s at its origin: %v", req.URL.Path, err)
				return
			}
			w.(http.Flusher).Flush()
			select {
			case <-tick.C:
			case <-stop:
				sums.Store(req.URL.Path, [32]byte(h.Sum(nil)))
				return
			}
		}
	}))
	t.Cleanup(origin.Close)
	d := &downloads{stop: sync.OnceFunc(func() { close(stop) })}
	web := proxied(t, proxy)
	var wg sync.WaitGroup
	for i := range n {
		g := new(gauge)
		d.moved = append(d.moved, g)
		wg.Go(func() {
			path := fmt.Sprintf("/%d", i)
			resp, err := web.Get(origin.URL + path)
			if err != nil {
				t.Errorf("download %d: %v", i, err)
				return
			}
			defer resp.Body.Close()
			h := sha256.New()
			if _, err := io.Copy(io.MultiWriter(h, g), resp.Body); err != nil {
				t.Errorf("download %d broke after %d bytes: %v", i, g.bytes(), err)
			} else if want, _ := sums.Load(path); want != [32]byte(h.Sum(nil)) {
				t.Errorf("download %d differs", i)
			}
		})
	}
	d.finish = sync.OnceFunc(func() {
		d.stop()
		wg.Wait()
	})
	t.Cleanup(d.finish)
	return d
}

// move waits until every download has moved anew.
func (d *downloads) move(t *testing.T, what string) {
	t.Helper()
	for _, g := range d.moved {
		g.take()
	}
	done := make([]bool, len(d.moved))
	eventually(t, 30*time.Second, what, func() bool {
		for i, g := range d.moved {
			done[i] = done[i] || g.take() > 0
		}
		for _, ok := range done {
			if !ok {
				return false
			}
		}
		return true
	})
}

// TestUpgrade replaces the relay under a hundred downloads: none breaks, neither
// over the old connections nor when those are cut, and new sessions are the new
// relay's. A second upgrade while the first one drains breaks nothing either.
func TestUpgrade(t *testing.T) {
	need(t, "curl")
	var p *path
	r := startRelay(t, relayOptions{
		cover: nginxtest.Run(t, nginxtest.Config{}),
		via:   func(listen string) string { p = newPath(t, listen, 0); return p.addr() },
	})
	c := startClient(t, r.invite)
	d := startDownloads(t, c.proxy, 100)
	d.move(t, "the downloads run")
	before := r.running(t)
	s := r.upgrade(t)
	if s.PID == before.PID || s.Draining == nil || s.Draining.PID != before.PID || s.Draining.Sessions != 1 || s.Draining.Streams < 100 {
		t.Errorf("after the upgrade of process %d: %+v", before.PID, s)
	}
	d.move(t, "the downloads run on over the old connections")
	p.cut()
	d.move(t, "the downloads run on over connections to the new relay")
	s = r.running(t)
	if s.Relay.Sessions != 0 || s.Relay.Handed == 0 {
		t.Errorf("the new relay has %+v", s.Relay)
	}
	origin := startOrigin(t)
	page := func(c *client) {
		t.Helper()
		if got := string(curl(t, "--proxy", "socks5h://"+c.proxy, "http://"+origin+"/")); !strings.Contains(got, "You can read this") {
			t.Errorf("the page is %q", got)
		}
	}
	page(c)
	page(startClient(t, r.invite))
	if s = r.running(t); s.Relay.Sessions != 1 {
		t.Errorf("another client's session is not the new relay's: %+v", s)
	}
	again := r.upgrade(t)
	if again.PID == s.PID || again.Draining == nil || again.Draining.Sessions != 2 {
		t.Errorf("after the second upgrade: %+v", again)
	}
	p.cut()
	d.move(t, "the downloads run on through both")
	d.finish()
	if what := tells(r.err.String()); what != "" {
		t.Errorf("the log tells %s", what)
	}
}

// TestUpgradeQUIC is the same over QUIC alone, whose connections end with the old
// relay: the new one has the port.
func TestUpgradeQUIC(t *testing.T) {
	for name, site := range map[string]*nginxtest.Server{"visits": nil, "scrambled": nginxtest.Run(t, nginxtest.Config{})} {
		t.Run(name, func(t *testing.T) {
			w := startQUICWorld(t, site)
			w.tcp.block()
			d := startDownloads(t, w.client.proxy, 20)
			d.move(t, "the downloads run")
			w.over(t, "quic")
			s := w.upgrade(t)
			if s.Draining == nil || s.Draining.Sessions != 1 {
				t.Errorf("after the upgrade: %+v", s)
			}
			d.move(t, "the downloads run on over connections to the new relay")
			if s := w.running(t); s.Relay.Handed == 0 {
				t.Errorf("the new relay has %+v", s.Relay)
			}
			d.finish()
		})
	}
}

// TestUpgradeEnds has the old relay end when the time is over, politely: its client
// goes on with the new one. New settings count.
func TestUpgradeEnds(t *testing.T) {
	need(t, "curl")
	r := startRelay(t, relayOptions{quic: true})
	first := r.running(t)
	before := r.upgrade(t)
	eventually(t, 15*time.Second, "an old relayd that nobody uses has ended", func() bool { return !lives(first.PID) })
	c := startClient(t, r.invite)
	origin := startOrigin(t)
	ends := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		w.(http.Flusher).Flush()
		<-req.Context().Done() // the relay's end
	}))
	defer ends.Close()
	conn := make(chan error, 1)
	go func() {
		resp, err := proxied(t, c.proxy).Get(ends.URL)
		if err == nil {
			defer resp.Body.Close()
			_, err = io.ReadAll(resp.Body)
		}
		conn <- err
	}()
	eventually(t, 10*time.Second, "a download runs", func() bool { return r.running(t).Relay.Streams == 1 })
	settings := filepath.Join(r.dir, "relayd.toml")
	text, err := os.ReadFile(settings)
	if err != nil {
		t.Fatal(err)
	}
	metrics := freePort(t)
	edited := bytes.Replace(text, []byte(`listen = ""`), []byte(fmt.Sprintf("listen = %q", metrics)), 1)
	// What cannot start changes nothing.
	if err := os.WriteFile(settings, append(edited, "\n[nonsense]\n"...), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := tryCommand(t, "", "relayd", "upgrade", "-dir", r.dir); err == nil || !strings.Contains(err.Error(), "nonsense: unknown key") || !strings.Contains(err.Error(), "goes on as before") {
		t.Errorf("an upgrade with wrong settings: %v", err)
	}
	if now := r.running(t); now.PID != before.PID || now.Relay.Streams != 1 {
		t.Errorf("after an upgrade that failed: %+v", now)
	}
	if err := os.WriteFile(settings, edited, 0o600); err != nil {
		t.Fatal(err)
	}
	s := r.upgrade(t, "-within", "0s")
	if err := <-conn; err == nil {
		t.Error("the download went on without its relay")
	}
	eventually(t, 15*time.Second, "the old relayd has ended", func() bool { return !lives(before.PID) })
	if got := string(curl(t, "--proxy", "socks5h://"+c.proxy, "http://"+origin+"/")); !strings.Contains(got, "You can read this") {
		t.Errorf("the page is %q", got)
	}
	if got := string(curl(t, "http://"+metrics+"/metrics")); !strings.Contains(got, "\nbusel_relay_sessions 1\n") {
		t.Errorf("metrics:\n%s", got)
	}
	eventually(t, 10*time.Second, "the status knows that the old one has gone", func() bool { return r.running(t).Draining == nil })
	if s.PID != r.running(t).PID {
		t.Error("another process answers")
	}
}

// TestUpgradeTakesPlainPort has the new relay answer on the port of plain HTTP while
// the old one drains: it is the new one's proofs that an authority looks for there.
func TestUpgradeTakesPlainPort(t *testing.T) {
	plain := freePort(t)
	r := startRelay(t, relayOptions{quic: true, edit: func(text string) string {
		text = replaceLine(t, text, "directory", `directory = "https://127.0.0.1:9/dir"`) // which does not answer
		return replaceLine(t, text, "http", fmt.Sprintf("http = %q", plain))
	}})
	c := startClient(t, r.invite)
	d := startDownloads(t, c.proxy, 1)
	d.move(t, "a download runs")
	s := r.upgrade(t)
	if s.Draining == nil || s.Draining.Sessions != 1 {
		t.Fatalf("the old relay does not drain: %+v", s)
	}
	eventually(t, 10*time.Second, "the new relay has the port", func() bool { return listensOn(t, s.PID, plain) })
	d.move(t, "the download runs on")
}

// listensOn reports whether a process has the listening socket of an IPv4 address.
func listensOn(t *testing.T, pid int, addr string) bool {
	t.Helper()
	table, err := os.ReadFile("/proc/net/tcp")
	if err != nil {
		t.Fatal(err)
	}
	ap := netip.MustParseAddrPort(addr)
	want := fmt.Sprintf(":%04X", ap.Port())
	for line := range strings.Lines(string(table)) {
		f := strings.Fields(line)
		if len(f) < 10 || !strings.HasSuffix(f[1], want) || f[3] != "0A" { // TCP_LISTEN
			continue
		}
		fds, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
		for _, fd := range fds {
			if to, err := os.Readlink(fd); err == nil && to == "socket:["+f[9]+"]" {
				return true
			}
		}
	}
	return false
}
