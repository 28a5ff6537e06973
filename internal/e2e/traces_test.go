//go:build linux

package e2e

import (
	"bytes"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"busel/internal/flow"
)

// Where the clients of TestNoTraces come from and go to, as they would stand in a
// log. Each is nowhere else.
const (
	tracedClient   = "127.77.88.99"
	tracedStranger = "127.77.88.98"
	tracedName     = "haven-of-words.invalid" // resolves to the next one, there
	tracedSite     = "127.99.55.11"
	tracedClosed   = "127.99.55.12" // nobody listens
	tracedDenied   = "10.99.55.13"
	tracedUDP      = "127.99.55.14"
	tracedNowhere  = "no-such-haven.invalid"
	tracedSNI      = "name-of-a-stranger.invalid"
)

var (
	tracedClients      = []string{tracedClient, tracedStranger, tracedSNI}
	tracedDestinations = []string{tracedName, tracedSite, tracedClosed, tracedDenied, tracedUDP, tracedNowhere}
)

// holds returns the first of the words that a text has, in the ways in which Go
// writes addresses, and that of bytes in files.
func holds(text string, words []string) string {
	text = strings.ToLower(text)
	for _, w := range words {
		forms := []string{w}
		if ip := net.ParseIP(w).To4(); ip != nil {
			forms = append(forms, fmt.Sprintf("%x", []byte(ip)), string(ip), fmt.Sprintf("%v", []byte(ip)))
		}
		for _, f := range forms {
			if strings.Contains(text, f) {
				return w
			}
		}
	}
	return ""
}

// TestHolds checks the check.
func TestHolds(t *testing.T) {
	for _, text := range []string{
		"dial tcp 127.99.55.11:80: refused", `{"destination":"HAVEN-of-words.invalid:80"}`, "bytes 7f63370b", "\x00\x7f\x63\x37\x0b\x00", "[127 99 55 11]",
	} {
		if holds(text, tracedDestinations) == "" {
			t.Errorf("%q holds nothing", text)
		}
	}
	if w := holds("127.0.0.1, 99.55.11, haven", slices.Concat(tracedClients, tracedDestinations)); w != "" {
		t.Errorf("%q is found where it is not", w)
	}
}

// TestNoTraces has a client with an address of its own go to places with names of
// their own, of every kind and with every end, at every level of the log. Then
// nothing that stays tells of it: above debug level no line of the log has either,
// and no line at all has both; no status, no metric and no file of the relay has
// one; and a crash leaves no core file.
func TestNoTraces(t *testing.T) {
	need(t, "curl", "ip", "openssl")
	if !inNamespaces(t) {
		return
	}
	hosts := filepath.Join(t.TempDir(), "hosts")
	if err := os.WriteFile(hosts, []byte("127.0.0.1 localhost\n"+tracedSite+" "+tracedName+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount(hosts, "/etc/hosts", "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	// What warn and error say is part of what info says.
	for _, c := range [][2]string{{"debug", "mirror"}, {"debug", "quic"}, {"info", "mirror"}, {"info", "quic"}, {"warn", "mirror"}, {"error", "quic"}} {
		t.Run(c[0]+" "+c[1], func(t *testing.T) { testNoTraces(t, c[0], c[1]) })
	}
}

func testNoTraces(t *testing.T, level, way string) {
	metrics := freePort(t)
	var tcp *path
	r := startRelay(t, relayOptions{quic: true, via: func(listen string) string {
		tcp = newPathFrom(t, net.ParseIP(tracedClient), listen, 0)
		newUDPPathFrom(t, net.ParseIP(tracedClient), tcp.addr(), listen)
		return tcp.addr()
	}})
	r.end()
	file := filepath.Join(r.dir, "relayd.toml")
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	edited := replaceLine(t, string(text), "level", fmt.Sprintf("level = %q", level))
	edited = strings.Replace(edited, `listen = ""`, fmt.Sprintf("listen = %q", metrics), 1)
	if err := os.WriteFile(file, []byte(edited), 0o600); err != nil {
		t.Fatal(err)
	}
	// Its working directory is where a core file would be.
	here := t.TempDir()
	script := filepath.Join(t.TempDir(), "relayd-here")
	if err := os.WriteFile(script, fmt.Appendf(nil, "#!/bin/sh\nulimit -c unlimited\ncd %s && GOTRACEBACK=crash exec %s \"$@\"\n", here, filepath.Join(bin, "relayd")), 0o700); err != nil {
		t.Fatal(err)
	}
	p := startUnjudged(t, script, "run", "-dir", r.dir)
	eventually(t, 15*time.Second, "relayd listens", func() bool { return answers(r.listen) })
	if way == "quic" {
		tcp.block()
	}
	c := startClient(t, r.invite)

	site := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "reached") }))
	site.Listener.Close()
	if site.Listener, err = net.Listen("tcp", tracedSite+":0"); err != nil {
		t.Fatal(err)
	}
	site.Start()
	defer site.Close()
	_, port, _ := net.SplitHostPort(site.Listener.Addr().String())
	for _, host := range []string{tracedName, tracedSite} {
		if got := string(curl(t, "--proxy", "socks5h://"+c.proxy, "http://"+host+":"+port+"/")); got != "reached" {
			t.Errorf("%s answers %q", host, got)
		}
	}
	for _, host := range []string{tracedClosed + ":1", tracedDenied, tracedNowhere} {
		if _, err := tryCurl(t.Context(), "--proxy", "socks5h://"+c.proxy, "http://"+host+"/"); err == nil {
			t.Errorf("%s was reached", host)
		}
	}
	peer := serveUDP(t, tracedUDP+":0", echo)
	control, socket := associate(t, c.proxy)
	defer control.Close()
	defer socket.Close()
	buf := make([]byte, 100)
	eventually(t, 20*time.Second, "a datagram comes back", func() bool {
		socket.Write(append(flow.AddrFrom(peer).Append([]byte{0, 0, 0}), "hello"...))
		socket.SetReadDeadline(time.Now().Add(200 * time.Millisecond))
		_, err := socket.Read(buf)
		return err == nil
	})
	// A stranger, who asks for a name, says nonsense and resets.
	stranger, err := (&net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(tracedStranger)}}).Dial("tcp", r.listen)
	if err != nil {
		t.Fatal(err)
	}
	stranger.Write([]byte("GET / HTTP/1.1\r\nHost: " + tracedSNI + "\r\n\r\n"))
	stranger.SetReadDeadline(time.Now().Add(10 * time.Second))
	stranger.Read(buf)
	stranger.(*net.TCPConn).SetLinger(0)
	stranger.Close()
	// Carriers that die, and an upgrade, during a download.
	d := startDownloads(t, c.proxy, 2)
	d.move(t, "the downloads run")
	tcp.cut()
	d.move(t, "the downloads run on after a cut")
	s := r.upgrade(t)
	d.move(t, "the downloads run on after an upgrade")
	d.finish()
	all := slices.Concat(tracedClients, tracedDestinations)
	for what, text := range map[string]string{
		"status":         command(t, "", "relayd", "status", "-dir", r.dir),
		"status as JSON": command(t, "", "relayd", "status", "-dir", r.dir, "-json"),
		"metrics":        string(curl(t, "http://"+metrics+"/metrics")),
	} {
		if w := holds(text, all); w != "" || text == "" {
			t.Errorf("%s holds %q:\n%s", what, w, text)
		}
	}

	// The crash of the new one: Go tells what its goroutines do, and aborts.
	if err := syscall.Kill(s.PID, syscall.SIGQUIT); err != nil {
		t.Fatal(err)
	}
	eventually(t, 15*time.Second, "relayd has crashed", func() bool { return !lives(s.PID) })
	if got := p.err.String(); !strings.Contains(got, "SIGQUIT") {
		t.Errorf("relayd did not crash:\n%s", got)
	}
	p.end()
	for line := range strings.Lines(p.err.String()) {
		client, destination := holds(line, tracedClients), holds(line, tracedDestinations)
		debug := strings.Contains(line, `"level":"DEBUG"`)
		if client != "" && destination != "" || !debug && client+destination != "" {
			t.Errorf("the log holds %q %q: %s", client, destination, line)
		}
	}
	if strings.Contains(p.err.String(), `"level":"DEBUG"`) != (level == "debug") {
		t.Errorf("the log is not on level %s", level)
	}
	for _, dir := range []string{r.dir, here} {
		err := filepath.WalkDir(dir, func(name string, e fs.DirEntry, err error) error {
			if err != nil || !e.Type().IsRegular() {
				return err
			}
			if dir == here {
				t.Errorf("the crash left %s", name)
				return nil
			}
			content, err := os.ReadFile(name)
			if w := holds(string(content), all); w != "" {
				t.Errorf("%s holds %q", name, w)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if pattern, err := os.ReadFile("/proc/sys/kernel/core_pattern"); err != nil || bytes.HasPrefix(pattern, []byte("|")) || bytes.ContainsRune(pattern, '/') {
		t.Logf("core files would not be in the working directory here: %s", pattern)
	}
}
