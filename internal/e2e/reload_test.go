//go:build linux

package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"busel/internal/state"
)

// TestReload changes settings and invites of a relay that runs: SIGHUP makes them
// count, and a download does not notice.
func TestReload(t *testing.T) {
	need(t, "curl")
	r := startRelay(t, relayOptions{})
	void := strings.TrimSpace(command(t, "", "relayd", "invite", "-dir", r.dir, "-name", "void"))
	c := startClient(t, r.invite)
	d := startDownloads(t, c.proxy, 3)
	d.move(t, "the downloads run")
	origin := startOrigin(t)
	page := "http://" + origin + "/"
	curl(t, "--proxy", "socks5h://"+c.proxy, page)

	settings := filepath.Join(r.dir, "relayd.toml")
	text, err := os.ReadFile(settings)
	if err != nil {
		t.Fatal(err)
	}
	reload := func(text, said string) {
		t.Helper()
		if err := os.WriteFile(settings, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		before := strings.Count(r.err.String(), said)
		if err := r.cmd.Process.Signal(syscall.SIGHUP); err != nil {
			t.Fatal(err)
		}
		eventually(t, 10*time.Second, "the log says "+said, func() bool { return strings.Count(r.err.String(), said) > before })
	}
	dir, err := state.Open(r.dir)
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	err = dir.ChangeLedger(func(l *state.Ledger) error {
		_, err := l.Revoke("void", time.Now())
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	host, _, _ := strings.Cut(origin, ":")
	changed := replaceLine(t, string(text), "deny", fmt.Sprintf("deny = [%q]", host))
	changed = replaceLine(t, changed, "cover-name", `cover-name = "www.example.net"`)
	reload(changed, "were read again")
	if got := r.err.String(); !strings.Contains(got, "wait for `relayd upgrade`") || !strings.Contains(got, `"keys":"cover-name"`) {
		t.Errorf("the log does not say what waits: %s", got)
	}
	if _, err := tryCurl(t.Context(), "--proxy", "socks5h://"+c.proxy, page); err == nil {
		t.Error("a place that is denied now was reached")
	}
	other := startClient(t, void)
	if out := string(curl(t, "--proxy", "http://"+other.proxy, page)); !strings.Contains(out, "invite is no longer valid") {
		t.Errorf("an invite that is revoked now: %s", out)
	}
	// A fault changes no settings, and the text before it counts again after the next.
	reload(changed+"\n[nonsense]\n", "stay as they were")
	reload(string(text), "were read again")
	curl(t, "--proxy", "socks5h://"+c.proxy, page)
	d.move(t, "the downloads run on")
	if moves := c.status(t).Moves; moves != 0 {
		t.Errorf("the client moved %d times", moves)
	}
	d.finish()
}
