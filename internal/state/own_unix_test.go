//go:build unix

package state

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

// What root writes into the directory of a service user belongs to that user; a
// file of root's that was linked into it stays root's.
func TestRootWritesForOwner(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can give files away")
	}
	const user = 4321
	path := t.TempDir()
	d, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if err := os.Chown(path, user, user); err != nil {
		t.Fatal(err)
	}
	other := filepath.Join(t.TempDir(), "other")
	if err := os.WriteFile(other, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Link(other, filepath.Join(path, "change.lock")); err != nil {
		t.Fatal(err)
	}
	if err := d.CreateRelay([]byte("x")); err != nil {
		t.Fatal(err)
	}
	release, err := d.Lock()
	if err != nil {
		t.Fatal(err)
	}
	defer release()
	owner := func(name string) uint32 {
		info, err := os.Stat(name)
		if err != nil {
			t.Fatal(err)
		}
		return info.Sys().(*syscall.Stat_t).Uid
	}
	for _, name := range []string{RelayFile, ledgerFile, relayKeyFile, "lock"} {
		if got := owner(filepath.Join(path, name)); got != user {
			t.Errorf("%s belongs to %d, want %d", name, got, user)
		}
	}
	if got := owner(other); got != 0 {
		t.Errorf("a linked file was given to %d", got)
	}
}
