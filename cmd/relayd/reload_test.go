package main

import (
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"busel/internal/exit"
	"busel/internal/quota"
	"busel/internal/relay"
	"busel/internal/state"
)

// An invite that was revoked is void at once, also where the settings cannot be read:
// an older relay that drains may find a key there that only the new one knows.
func TestReloadRevokesWhateverTheSettings(t *testing.T) {
	dir, err := state.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	if err := dir.CreateRelay([]byte("# none\n")); err != nil {
		t.Fatal(err)
	}
	usage, err := dir.OpenUsage()
	if err != nil {
		t.Fatal(err)
	}
	defer usage.Close()
	book, err := quota.New(quota.Config{Store: usage})
	if err != nil {
		t.Fatal(err)
	}
	var id state.InviteID
	err = dir.ChangeLedger(func(l *state.Ledger) error {
		e, err := l.Issue("one", 0, state.Limits{}, time.Now())
		id = e.ID
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	g, err := newGate(dir, book)
	if err != nil {
		t.Fatal(err)
	}
	if g.ledger.Load().Revoked(id) {
		t.Fatal("it is revoked from the start")
	}
	err = dir.ChangeLedger(func(l *state.Ledger) error {
		_, err := l.Revoke("one", time.Now())
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir.Path(), state.RelayFile), []byte("[from-the-future]\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	s := &server{dir: dir, level: new(slog.LevelVar), log: slog.New(slog.DiscardHandler)}
	s.reload(g, relay.New(relay.Config{Gate: g}), exit.New(exit.Config{}))
	if !g.ledger.Load().Revoked(id) {
		t.Error("the invite is valid still")
	}
}
