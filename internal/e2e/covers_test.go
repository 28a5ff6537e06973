//go:build linux

package e2e

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"busel/internal/nginxtest"
)

// TestUnfitCovers has covers that mirror cannot use: `relayd init` says why.
func TestUnfitCovers(t *testing.T) {
	for name, x := range map[string]struct {
		site nginxtest.Config
		want string
	}{
		"hello retry":  {nginxtest.Config{Curves: "secp384r1"}, "ssl_ecdh_curve X25519"},
		"TLS 1.2 only": {nginxtest.Config{Protocols: "TLSv1.2"}, "does not speak TLS 1.3"},
	} {
		t.Run(name, func(t *testing.T) {
			site := nginxtest.Run(t, x.site)
			cmd := exec.CommandContext(t.Context(), filepath.Join(bin, "relayd"), "init", "-dir", t.TempDir(),
				"-address", "127.0.0.1:443", "-cover", site.Address, "-cover-name", site.Name)
			var out, complaint bytes.Buffer
			cmd.Stdout, cmd.Stderr = &out, &complaint
			err := cmd.Run()
			exit, ok := errors.AsType[*exec.ExitError](err)
			if !ok || exit.ExitCode() != 1 {
				t.Errorf("it ends with %v, want status 1", err)
			}
			if !strings.Contains(complaint.String(), "relayd: error:") || !strings.Contains(complaint.String(), x.want) {
				t.Errorf("it says %q, want %q in it", &complaint, x.want)
			}
			if out.Len() != 0 {
				t.Errorf("it printed an invite: %s", &out)
			}
		})
	}
}

// TestCoverDown takes the cover away during a download and brings it back:
// strangers are refused meanwhile, as by a web server that is down, and the
// download goes on afterwards.
func TestCoverDown(t *testing.T) {
	need(t, "curl")
	site := nginxtest.Run(t, nginxtest.Config{})
	var way *path
	r := startRelay(t, relayOptions{cover: site, coverPath: func(cover string) string {
		way = newPath(t, cover, 0)
		return way.addr()
	}})
	c := startClient(t, r.invite)
	source := "http://" + startOrigin(t) + "/bytes/40000000"
	want := sha256.Sum256(curl(t, source))
	got := make(chan [sha256.Size]byte, 1)
	go func() {
		page, err := tryCurl(t.Context(), "--limit-rate", "8M", "--proxy", "socks5h://"+c.proxy, source)
		if err != nil {
			t.Errorf("the download: %v", err)
		}
		got <- sha256.Sum256(page)
	}()
	eventually(t, 10*time.Second, "the download runs", func() bool { return c.status(t).BytesDown > 4<<20 })
	visit := func() error {
		_, err := tryCurl(t.Context(), "-k", "--max-time", "10", "https://"+r.listen+"/")
		return err
	}
	if err := visit(); err != nil {
		t.Fatalf("before: %v", err)
	}
	way.block()
	// The first to come finds out, and is reset.
	eventually(t, 10*time.Second, "strangers are refused", func() bool {
		conn, err := net.Dial("tcp", r.listen)
		if err == nil {
			conn.Close()
		}
		return errors.Is(err, syscall.ECONNREFUSED)
	})
	way.unblock(t)
	begin := time.Now()
	eventually(t, 15*time.Second, "strangers see the cover again", func() bool { return visit() == nil })
	t.Logf("the relay listened %v after the cover did", time.Since(begin).Round(time.Millisecond))
	select {
	case sum := <-got:
		if sum != want {
			t.Error("the download differs")
		}
	case <-time.After(60 * time.Second):
		t.Error("the download did not go on")
	}
}

// inNamespaces runs the calling test again with a network and mounts of its own,
// and tells which of the two runs this is.
func inNamespaces(t *testing.T) bool {
	t.Helper()
	const inside = "BUSEL_E2E_NAMESPACE"
	if os.Getenv(inside) != "" {
		if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
			t.Fatal(err)
		}
		if out, err := exec.Command("ip", "link", "set", "lo", "up").CombinedOutput(); err != nil {
			t.Fatalf("ip: %v: %s", err, out)
		}
		return true
	}
	if os.Geteuid() != 0 {
		t.Skip("needs root, for namespaces")
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), self, "-test.run=^"+t.Name()+"$", "-test.v")
	cmd.Env = append(os.Environ(), inside+"=yes", programsVariable+"="+bin)
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	out, err := cmd.CombinedOutput()
	if errors.Is(err, syscall.EPERM) {
		t.Skip("namespaces are not allowed here")
	}
	t.Logf("in the namespaces:\n%s", out)
	if err != nil {
		t.Error(err)
	}
	if strings.Contains(string(out), "--- SKIP") {
		t.Skip("skipped in the namespaces")
	}
	return false
}

// elsewhere is an address that is not loopback (RFC 5737). The relays of tests may
// connect to it.
const elsewhere = "203.0.113.80"

// haveElsewhere gives it to a test in namespaces of its own. By a route, because
// programs take what an interface has for their own machine's.
func haveElsewhere(t *testing.T) {
	t.Helper()
	if out, err := exec.Command("ip", "route", "add", "local", elsewhere+"/32", "dev", "lo").CombinedOutput(); err != nil {
		t.Fatalf("ip: %v: %s", err, out)
	}
}

// TestBorrowedCover has a cover on an address that is not the relay's. It runs
// in a network namespace of its own, where that address can be had.
func TestBorrowedCover(t *testing.T) {
	need(t, "curl", "ip")
	if !inNamespaces(t) {
		return
	}
	haveElsewhere(t)
	site := nginxtest.Run(t, nginxtest.Config{Address: elsewhere + ":8443", KeepaliveTimeout: 2 * time.Second, HeaderTimeout: 2 * time.Second})
	var p *path
	r := startRelay(t, relayOptions{cover: site, via: func(listen string) string { p = newPath(t, listen, 0); return p.addr() }})
	if e := invitation(t, r.invite); !e.Proof {
		t.Error("the invite does not ask for a proof")
	}
	if !strings.Contains(r.err.String(), `"borrowed"`) {
		t.Errorf("the relay does not say that its cover is borrowed: %s", &r.err)
	}
	c := startClient(t, r.invite)
	source := "http://" + startOrigin(t) + "/bytes/40000000"
	want := sha256.Sum256(curl(t, source))
	fetch := func(rate string) {
		page, err := tryCurl(t.Context(), "--limit-rate", rate, "--proxy", "socks5h://"+c.proxy, source)
		if err != nil || sha256.Sum256(page) != want {
			t.Errorf("the download has %d bytes: %v", len(page), err)
		}
	}
	fetch("1G")
	// Its connections end, and are cut, and a download outlives it.
	done := make(chan struct{})
	go func() {
		defer close(done)
		fetch("10M")
	}()
	for range 4 {
		select {
		case <-time.After(700 * time.Millisecond):
			p.cut()
		case <-done:
		}
	}
	<-done
	// Three TLS connections a minute are at hand, and one every 5 s after them.
	if n := c.status(t).Moves; n < 2 {
		t.Errorf("the client moved %d times", n)
	}
	// Led to the real site, the client says nothing covert: no proof comes.
	p.lead(site.Address)
	if _, err := tryCurl(t.Context(), "--max-time", "6", "--proxy", "socks5h://"+c.proxy, source, "-o", os.DevNull); err == nil {
		t.Error("a request succeeded with no relay on the way")
	}
	if s := c.status(t); len(s.Paths) != 1 || s.Paths[0].State == "active" || s.Paths[0].Failure == "" {
		t.Errorf("the client says %+v of a path without a relay", s.Paths)
	}
}
