package state

import (
	"bytes"
	"crypto/ecdh"
	"crypto/ed25519"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"busel/config"
	"busel/internal/cover"
	"busel/internal/flow"
)

func open(t *testing.T) *Dir {
	t.Helper()
	d, err := Open(filepath.Join(t.TempDir(), "busel"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return d
}

// snapshot is every file with its contents, but the locks.
func snapshot(t *testing.T, d *Dir) map[string]string {
	t.Helper()
	files := make(map[string]string)
	err := fs.WalkDir(d.root.FS(), ".", func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() || strings.HasSuffix(path, "lock") {
			return err
		}
		data, err := fs.ReadFile(d.root.FS(), path)
		files[path] = string(data)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

func bundle(t *testing.T, issuer byte, sequence uint32, names ...string) *config.Bundle {
	t.Helper()
	var relays []config.RelayEntry
	for i, name := range names {
		relays = append(relays, config.RelayEntry{
			Name:       name,
			Addresses:  []flow.Addr{{IP: netip.AddrFrom4([4]byte{192, 0, 2, byte(i)}), Port: 443}},
			CoverName:  "news.example.org",
			Transports: []config.Transport{{Name: "mirror"}},
		})
	}
	b, err := config.Sign(ed25519.NewKeyFromSeed(bytes.Repeat([]byte{issuer}, 32)), sequence, relays...)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestDefaultDirectories(t *testing.T) {
	base := t.TempDir()
	t.Setenv("XDG_CONFIG_HOME", base)
	if got, err := DefaultClient(); err != nil || got != filepath.Join(base, "busel") {
		t.Errorf("client: %q, %v", got, err)
	}
	want := filepath.Join(base, "busel-relay")
	if os.Geteuid() == 0 {
		want = "/etc/busel"
	}
	if got, err := DefaultRelay(); err != nil || got != want {
		t.Errorf("relay: %q, %v", got, err)
	}
	t.Setenv("XDG_CONFIG_HOME", "relative")
	t.Setenv("HOME", base)
	if got, _ := DefaultClient(); got == filepath.Join("relative", "busel") {
		t.Error("a relative XDG_CONFIG_HOME was used; the XDG specification says to ignore it")
	}
}

func TestModes(t *testing.T) {
	if !unixModes {
		t.Skip("no Unix modes on this system")
	}
	d := open(t)
	if err := d.Write("secret", []byte("x")); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]fs.FileMode{"": 0o700, "secret": 0o600} {
		info, err := os.Stat(filepath.Join(d.Path(), path))
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().Perm() != want {
			t.Errorf("%q has mode %o, want %o", path, info.Mode().Perm(), want)
		}
	}

	secret := filepath.Join(d.Path(), "secret")
	for _, mode := range []fs.FileMode{0o640, 0o604, 0o620} {
		if err := os.Chmod(secret, mode); err != nil {
			t.Fatal(err)
		}
		_, err := d.ReadSecret("secret")
		if !errors.Is(err, ErrExposed) || !strings.Contains(err.Error(), "chmod 600 "+secret) {
			t.Errorf("mode %o: %v", mode, err)
		}
		if _, err := d.Read("secret"); err != nil {
			t.Errorf("mode %o, as no secret: %v", mode, err)
		}
	}

	if err := os.Chmod(d.Path(), 0o777); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(d.Path()); !errors.Is(err, ErrExposed) {
		t.Errorf("a directory that all can write to: %v", err)
	}
}

func TestPathsStayInside(t *testing.T) {
	d := open(t)
	outside := filepath.Join(filepath.Dir(d.Path()), "outside")
	if err := os.WriteFile(outside, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Read("../outside"); err == nil {
		t.Error("read a file outside")
	}
	if err := d.Write("../outside", nil); err == nil {
		t.Error("wrote a file outside")
	}
	if err := os.Symlink("../outside", filepath.Join(d.Path(), "link")); err != nil {
		t.Skip("no symbolic links here:", err)
	}
	if _, err := d.Read("link"); err == nil {
		t.Error("followed a link outside")
	}
}

func TestWriteIsAtomic(t *testing.T) {
	d := open(t)
	old, young := bytes.Repeat([]byte("a"), 1<<20), bytes.Repeat([]byte("b"), 1<<20)
	if err := d.Write("file", old); err != nil {
		t.Fatal(err)
	}
	done := make(chan error)
	go func() {
		for i := range 20 {
			data := young
			if i%2 == 1 {
				data = old
			}
			if err := d.Write("file", data); err != nil {
				done <- err
				return
			}
		}
		done <- nil
	}()
	for {
		select {
		case err := <-done:
			if err != nil {
				t.Error(err)
			}
			if names := slices.Collect(maps.Keys(snapshot(t, d))); len(names) != 1 {
				t.Errorf("left behind: %v", names)
			}
			return
		default:
		}
		data, err := d.Read("file")
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(data, old) && !bytes.Equal(data, young) {
			t.Fatal("read a mixture")
		}
	}
}

func TestFailedWriteLeavesNothing(t *testing.T) {
	d := open(t)
	if err := os.Mkdir(filepath.Join(d.Path(), "file"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := d.Write("file", []byte("x")); err == nil {
		t.Error("a directory was replaced")
	}
	if left := snapshot(t, d); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
	if err := d.create("other", nil); err != nil {
		t.Fatal(err)
	}
	if err := d.create("other", nil); !errors.Is(err, ErrExists) {
		t.Errorf("created twice: %v", err)
	}
	if _, err := d.Read("none"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a file that is not there: %v", err)
	}
}

func TestLock(t *testing.T) {
	d := open(t)
	release, err := d.Lock()
	if err != nil {
		t.Fatal(err)
	}
	second, err := Open(d.Path())
	if err != nil {
		t.Fatal(err)
	}
	defer second.Close()
	if _, err := second.Lock(); !errors.Is(err, ErrLocked) {
		t.Errorf("locked twice: %v", err)
	}
	// Invites can be added while a program runs.
	if _, _, err := second.Add(bundle(t, 1, 1, "a")); err != nil {
		t.Error(err)
	}
	release()
	release, err = second.Lock()
	if err != nil {
		t.Fatal(err)
	}
	release()
}

// TestLockEndsWithProcess kills a program that holds the lock.
func TestLockEndsWithProcess(t *testing.T) {
	if dir := os.Getenv("STATE_TEST_LOCK"); dir != "" {
		d, err := Open(dir)
		if err == nil {
			_, err = d.Lock()
		}
		fmt.Println("locked:", err)
		select {}
	}
	d := open(t)
	child := exec.Command(os.Args[0], "-test.run=^TestLockEndsWithProcess$")
	child.Env = append(os.Environ(), "STATE_TEST_LOCK="+d.Path())
	out, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	line := make([]byte, len("locked: <nil>"))
	if _, err := out.Read(line); err != nil || string(line) != "locked: <nil>" {
		t.Errorf("%q, %v", line, err)
	}
	if _, err := d.Lock(); !errors.Is(err, ErrLocked) {
		t.Errorf("another process has it, yet: %v", err)
	}
	child.Process.Kill()
	child.Wait()
	release, err := d.Lock()
	if err != nil {
		t.Fatal(err)
	}
	release()
}

func TestInvites(t *testing.T) {
	d := open(t)
	if held, err := d.Invites(); err != nil || len(held) != 0 {
		t.Fatalf("new directory: %v, %v", held, err)
	}
	for _, step := range []struct {
		b      *config.Bundle
		label  string
		change config.Change
	}{
		{bundle(t, 1, 5, "Stork"), "r1", config.Added},
		{bundle(t, 2, 1, "heron", "crane"), "r2", config.Added},
		{bundle(t, 1, 5, "Stork"), "r1", config.Known},
		{bundle(t, 1, 4, "old"), "r1", config.Outdated},
		{bundle(t, 1, 6, "Stork", "second"), "r1", config.Replaced},
		{bundle(t, 3, 1, "stork"), "r3", config.Added},
	} {
		before := snapshot(t, d)
		v, change, err := d.Add(step.b)
		if err != nil || v.Label != step.label || change != step.change {
			t.Errorf("got %s, %v, %v, want %s, %v", v.Label, change, err, step.label, step.change)
		}
		unchanged := maps.Equal(before, snapshot(t, d))
		if want := change == config.Known || change == config.Outdated; unchanged != want {
			t.Errorf("change %v: directory unchanged %t", change, unchanged)
		}
	}
	held, err := d.Invites()
	if err != nil || len(held) != 3 {
		t.Fatalf("%d held, %v", len(held), err)
	}
	if held[0].RelayLabel(0) != "r1" || held[0].RelayLabel(1) != "r1.2" || held[0].Bundle.Sequence != 6 {
		t.Errorf("got %+v", held[0])
	}
	for name, want := range map[string]string{
		"r1": "r1", "r1.2": "r1", "r2": "r2", "CRANE": "r2", "heron": "r2", "stork": "", "r4": "", "r1.3": "", "": "", "../relay.key": "",
	} {
		v, err := Find(held, name)
		if v.Label != want || errors.Is(err, ErrNotFound) != (want == "") {
			t.Errorf("%q: got %q, %v", name, v.Label, err)
		}
	}

	before := snapshot(t, d)
	for _, name := range []string{"stork", "../lock", "r9", ""} {
		if err := d.Remove(name); !errors.Is(err, ErrNotFound) {
			t.Errorf("removed %q: %v", name, err)
		}
	}
	if !maps.Equal(before, snapshot(t, d)) {
		t.Error("a failed removal changed the directory")
	}
	if err := d.Remove("crane"); err != nil {
		t.Error(err)
	}
	if err := d.Remove("r1"); err != nil {
		t.Error(err)
	}
	// A label is not used again while a later one is there.
	if v, _, err := d.Add(bundle(t, 4, 1, "x")); err != nil || v.Label != "r4" {
		t.Errorf("got %s, %v", v.Label, err)
	}
}

func TestDamagedInviteCostsOnlyItself(t *testing.T) {
	d := open(t)
	for issuer := range byte(3) {
		if _, _, err := d.Add(bundle(t, issuer+1, 1, "a")); err != nil {
			t.Fatal(err)
		}
	}
	text, err := d.ReadSecret("invites/r2")
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Write("invites/r2", text[:len(text)/2]); err != nil {
		t.Fatal(err)
	}
	if err := d.Write("invites/r1.new-crashed", nil); err != nil {
		t.Fatal(err)
	}
	held, err := d.Invites()
	if len(held) != 2 || held[0].Label != "r1" || held[1].Label != "r3" {
		t.Errorf("got %+v", held)
	}
	if !errors.Is(err, config.ErrDamaged) || !strings.Contains(err.Error(), filepath.Join("invites", "r2")) {
		t.Errorf("got %v", err)
	}
	if v, _, err := d.Add(bundle(t, 9, 1, "b")); err != nil || v.Label != "r4" {
		t.Errorf("add beside a damaged one: %s, %v", v.Label, err)
	}
	if err := d.Remove("r2"); err != nil {
		t.Error(err)
	}
	if _, err := d.Invites(); err != nil {
		t.Error(err)
	}
}

func TestConcurrentAdds(t *testing.T) {
	d := open(t)
	var adds sync.WaitGroup
	for i := range byte(8) {
		b := bundle(t, i+1, 1, "a")
		adds.Go(func() {
			other, err := Open(d.Path())
			if err != nil {
				t.Error(err)
				return
			}
			defer other.Close()
			if _, _, err := other.Add(b); err != nil {
				t.Error(err)
			}
		})
	}
	adds.Wait()
	if held, err := d.Invites(); err != nil || len(held) != 8 {
		t.Errorf("%d held, %v", len(held), err)
	}
}

func TestCreateRelay(t *testing.T) {
	d := open(t)
	if err := d.CreateRelay([]byte("settings")); err != nil {
		t.Fatal(err)
	}
	before := snapshot(t, d)
	if err := d.CreateRelay([]byte("others")); !errors.Is(err, ErrExists) {
		t.Errorf("created twice: %v", err)
	}
	if !maps.Equal(before, snapshot(t, d)) {
		t.Error("a refused init changed the directory")
	}
	key, err := d.RelayKey()
	if err != nil || key.Curve() != ecdh.X25519() {
		t.Errorf("relay key: %v", err)
	}
	token, err := d.TokenKey()
	if err != nil || token == (config.TokenKey{}) {
		t.Errorf("token key: %v", err)
	}
	if issuer, err := d.IssuerKey(); err != nil || len(issuer) != ed25519.PrivateKeySize {
		t.Errorf("issuer key: %v", err)
	}
	if settings, err := d.Read(RelayFile); err != nil || string(settings) != "settings" {
		t.Errorf("settings: %q, %v", settings, err)
	}

	// The issuer's key moves elsewhere; init does not take that for a free place.
	if err := os.Remove(filepath.Join(d.Path(), issuerKeyFile)); err != nil {
		t.Fatal(err)
	}
	if _, err := d.IssuerKey(); !errors.Is(err, ErrNoIssuer) {
		t.Errorf("without issuer key: %v", err)
	}
	if err := d.CreateRelay(nil); !errors.Is(err, ErrExists) {
		t.Errorf("created again: %v", err)
	}

	// A key in the wrong file is refused and not misused.
	relayKey := before[relayKeyFile]
	if err := d.Write(issuerKeyFile, []byte(relayKey)); err != nil {
		t.Fatal(err)
	}
	if _, err := d.IssuerKey(); err == nil {
		t.Error("took a relay key for an issuer key")
	}
	for _, name := range []string{relayKeyFile, tokenKeyFile} {
		if err := d.Write(name, []byte(relayKey[:40])); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := d.RelayKey(); err == nil {
		t.Error("took half a relay key")
	}
	if _, err := d.TokenKey(); err == nil {
		t.Error("took half a token key")
	}
}

func TestLedger(t *testing.T) {
	d := open(t)
	now := time.Date(2026, 11, 21, 10, 0, 0, 5, time.UTC)
	var first, second LedgerEntry
	err := d.ChangeLedger(func(l *Ledger) (err error) {
		if first, err = l.Issue("", 0, Limits{}, now); err != nil {
			return err
		}
		second, err = l.Issue("anna", 400, Limits{Quota: 5e9, Devices: 2}, now)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if first.Name != "invite-1" || first.ID == second.ID {
		t.Errorf("got %+v, %+v", first, second)
	}
	before := snapshot(t, d)
	err = d.ChangeLedger(func(l *Ledger) error {
		if _, err := l.Issue("bela", 0, Limits{}, now); err != nil {
			return err
		}
		_, err := l.Issue("anna", 0, Limits{}, now)
		return err
	})
	if !errors.Is(err, ErrExists) || !maps.Equal(before, snapshot(t, d)) {
		t.Errorf("a taken name: %v", err)
	}
	err = d.ChangeLedger(func(l *Ledger) error {
		if _, err := l.Revoke("nobody", now); !errors.Is(err, ErrNotFound) {
			t.Errorf("got %v", err)
		}
		_, err := l.Revoke("anna", now)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	l, err := d.Ledger()
	if err != nil {
		t.Fatal(err)
	}
	want := []LedgerEntry{first, second}
	want[1].Revoked = now.Truncate(time.Second)
	if !slices.Equal(l.Invites, want) {
		t.Errorf("got %+v, want %+v", l.Invites, want)
	}
	if !l.Revoked(second.ID) || l.Revoked(first.ID) || l.Revoked(InviteID{1}) {
		t.Error("the wrong invites are revoked")
	}
	// 324 days and 10 hours since 2026, and one more for the second invite.
	if l.Sequence != (324*24+10)*3600+1 {
		t.Errorf("sequence %d", l.Sequence)
	}
	if _, err := l.Issue("later", 0, Limits{}, time.Unix(0, 0)); err != nil || l.Sequence != (324*24+10)*3600+2 {
		t.Errorf("with a clock that runs back: sequence %d, %v", l.Sequence, err)
	}

	if err := d.Write(ledgerFile, []byte(`{"invites":[{"id":"01"}]}`)); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Ledger(); err == nil {
		t.Error("took a short id")
	}
	if err := d.ChangeLedger(func(*Ledger) error { return nil }); err == nil {
		t.Error("wrote over a ledger that it cannot read")
	}
}

func TestCover(t *testing.T) {
	for _, host := range []string{"news.example.org", "198.51.100.7", "2001:db8::7"} {
		d := open(t)
		now := time.Date(2026, 11, 21, 10, 0, 0, 0, time.UTC)
		certPEM, keyPEM, err := cover.SelfSigned(host, now)
		if err != nil {
			t.Fatal(err)
		}
		if err := d.CreateCover(certPEM, keyPEM); err != nil {
			t.Fatal(err)
		}
		cert, err := d.Cover()
		if err != nil {
			t.Fatal(err)
		}
		if err := cert.Leaf.VerifyHostname(host); err != nil {
			t.Error(err)
		}
		roots := x509.NewCertPool()
		roots.AddCert(cert.Leaf)
		if _, err := cert.Leaf.Verify(x509.VerifyOptions{Roots: roots, DNSName: host, CurrentTime: now}); err != nil {
			t.Error(err)
		}
		again, err := d.Cover()
		if err != nil || CertHash(again) != CertHash(cert) || CertHash(cert) == CertHash(tls.Certificate{Certificate: [][]byte{nil}}) {
			t.Errorf("the hash is not of the certificate: %v", err)
		}
		if err := d.CreateCover(certPEM, keyPEM); !errors.Is(err, ErrExists) {
			t.Errorf("created twice: %v", err)
		}
	}
}

// The resident's name for an invite is kept with it, and outlives a newer one.
func TestRename(t *testing.T) {
	d := open(t)
	v, _, err := d.Add(bundle(t, 1, 1, "a"))
	if err != nil {
		t.Fatal(err)
	}
	for _, bad := range []string{"two\nlines", "\x1b[31m", strings.Repeat("a", MaxName+1)} {
		if err := d.Rename(v.Label, bad); !errors.Is(err, ErrName) {
			t.Errorf("%q: %v", bad, err)
		}
	}
	if err := d.Rename("r9", "nobody"); !errors.Is(err, ErrNotFound) {
		t.Errorf("an invite that is not held: %v", err)
	}
	named := func(want string) {
		t.Helper()
		held, err := d.Invites()
		if err != nil || len(held) != 1 || held[0].Name != want {
			t.Errorf("held %+v, %v; want the name %q", held, err, want)
		}
	}
	for _, name := range []string{"Anna’s relay", "# busel:AEBA", "Ганна", "", "  with space "} {
		if err := d.Rename(v.Label, name); err != nil {
			t.Fatal(err)
		}
		named(strings.TrimSpace(name))
	}
	if _, change, err := d.Add(bundle(t, 1, 2, "a")); err != nil || change != config.Replaced {
		t.Fatalf("change %v, %v", change, err)
	}
	named("with space")
	held, _ := d.Invites()
	if found, err := Find(held, "WITH space"); err != nil || found.Label != v.Label {
		t.Errorf("found %+v, %v", found, err)
	}
}
