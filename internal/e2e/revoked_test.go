//go:build linux

package e2e

import (
	"strings"
	"testing"
	"time"

	"busel/internal/state"
)

// TestRevokedInvite has a resident whose invite was revoked: every application
// hears so at once, and the relay is not hammered.
func TestRevokedInvite(t *testing.T) {
	need(t, "curl")
	r := startRelay(t, relayOptions{})
	r.end()
	dir, err := state.Open(r.dir)
	if err != nil {
		t.Fatal(err)
	}
	err = dir.ChangeLedger(func(l *state.Ledger) error {
		_, err := l.Revoke(l.Invites[len(l.Invites)-1].Name, time.Now())
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	dir.Close()
	r.run(t, r.dir)
	c := startClient(t, r.invite)
	page := "http://" + startOrigin(t) + "/"
	begin := time.Now()
	for range 2 {
		out := string(curl(t, "-w", " %{http_code}", "--proxy", "http://"+c.proxy, page))
		if !strings.HasSuffix(out, " 503") || !strings.Contains(out, "invite is no longer valid") {
			t.Errorf("over HTTP: %s", out)
		}
		_, err := tryCurl(t.Context(), "--proxy", "socks5h://"+c.proxy, page)
		if err == nil || !strings.Contains(err.Error(), "(2)") {
			t.Errorf("over SOCKS: want code 2, got %v", err)
		}
	}
	if took := time.Since(begin); took > 10*time.Second {
		t.Errorf("four applications waited %v", took)
	}
	if s := c.status(t); len(s.Paths) != 1 || s.Paths[0].Failure != "revoked" || s.Paths[0].Failures != 1 {
		t.Errorf("the client says %+v, want one failure, revoked", s.Paths)
	}
}
