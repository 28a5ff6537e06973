package state

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"busel/internal/seal"
)

const (
	first  = "four words and more"
	second = "белы бусел ляціць дадому"
)

// furnished is a directory of a client that has everything, with little work for a
// passphrase, and what is in it.
func furnished(t testing.TB) (*Dir, map[string]string) {
	t.Helper()
	d, err := Open(filepath.Join(t.TempDir(), "busel"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	d.work = 4
	files := map[string]string{
		ClientFile: "[local]\nlisten = \"auto\"\n", PortFile: "23456\n",
		saltFile: strings.Repeat("s", saltLen), "memory": "what is remembered", "look": "what is worn", "looks": "what was taken", PasswordFile: "anna\nfour random words",
		"invites/r1": "busel:first", "invites/r7": "busel:second", "invites/notes": "not ours", "letter.txt": "not ours",
	}
	if err := d.root.Mkdir(invitesDir, 0o700); err != nil {
		t.Fatal(err)
	}
	for name, text := range files {
		if err := d.root.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return d, files
}

// again opens a directory as another program does.
func again(t testing.TB, d *Dir) *Dir {
	t.Helper()
	e, err := Open(d.path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { e.Close() })
	e.work = d.work
	return e
}

// contents is what the client reads of its files, and others of theirs.
func contents(t testing.TB, d *Dir) map[string]string {
	t.Helper()
	files := map[string]string{}
	err := fs.WalkDir(d.root.FS(), ".", func(name string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() || strings.HasSuffix(name, "lock") || name == KeysFile {
			return err
		}
		data, err := d.Read(name)
		files[name] = string(data)
		return err
	})
	if err != nil {
		t.Error(err)
	}
	return files
}

// disk is all that the files hold.
func disk(t testing.TB, d *Dir) map[string]string {
	t.Helper()
	files := map[string]string{}
	err := filepath.WalkDir(d.path, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() || strings.HasSuffix(path, "lock") {
			return err
		}
		data, err := os.ReadFile(path)
		name, _ := filepath.Rel(d.path, path)
		files[filepath.ToSlash(name)] = string(data)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// tight checks that every secret of files is sealed on disk, and nothing else changed.
func tight(t testing.TB, d *Dir, files map[string]string) {
	t.Helper()
	on := disk(t, d)
	for name, text := range files {
		switch {
		case !isSecret(name):
			if on[name] != text {
				t.Errorf("%s was changed", name)
			}
		case !seal.Is([]byte(on[name])):
			t.Errorf("%s is not sealed", name)
		}
	}
	for name, data := range on {
		if _, known := files[name]; !known && name != KeysFile {
			t.Errorf("%s is new", name)
		}
		for other, text := range files {
			if !isSecret(other) {
				continue
			}
			for _, form := range []string{text, hex.EncodeToString([]byte(text)), base64.StdEncoding.EncodeToString([]byte(text))} {
				if strings.Contains(data, form) {
					t.Errorf("%s tells %s", name, other)
				}
			}
		}
	}
}

func TestPassphrase(t *testing.T) {
	d, files := furnished(t)
	if err := d.SetPassphrase("", "short"); err == nil || !strings.Contains(err.Error(), "at least") {
		t.Errorf("a short one: %v", err)
	}
	if has, err := d.HasPassphrase(); has || err != nil || d.Locked() {
		t.Fatalf("there is a passphrase, %v", err)
	}
	if err := d.Unlock(first); err == nil {
		t.Error("unlocked what is not locked")
	}
	if err := d.SetPassphrase("", first); err != nil {
		t.Fatal(err)
	}
	tight(t, d, files)
	if got := contents(t, d); !maps.Equal(got, files) || d.Locked() {
		t.Errorf("it reads as %q", got)
	}

	// Another program finds it locked: it can read no secret, and change none.
	e := again(t, d)
	before := disk(t, d)
	if !e.Locked() {
		t.Error("not locked")
	}
	for _, name := range append(secretFiles(), "invites/r1") {
		if _, err := e.ReadSecret(name); !errors.Is(err, ErrSealed) {
			t.Errorf("%s: %v", name, err)
		}
		if err := e.Write(name, []byte("over it")); !errors.Is(err, ErrSealed) {
			t.Errorf("%s was written: %v", name, err)
		}
	}
	if _, err := e.Salt(); !errors.Is(err, ErrSealed) {
		t.Errorf("salt: %v", err)
	}
	if _, _, err := e.Add(bundle(t, 1, 1, "a")); !errors.Is(err, ErrSealed) {
		t.Errorf("add: %v", err)
	}
	if held, err := e.Invites(); len(held) > 0 || !errors.Is(err, ErrSealed) {
		t.Errorf("%v, %v", held, err)
	}
	if err := e.Unlock("four words and less"); !errors.Is(err, seal.ErrWrong) || !e.Locked() {
		t.Errorf("a wrong passphrase: %v", err)
	}
	if after := disk(t, d); !maps.Equal(after, before) {
		t.Error("files were changed")
	}
	if err := e.Write(PortFile, []byte("23456\n")); err != nil {
		t.Errorf("the port is no secret: %v", err)
	}
	if err := e.Unlock(first); err != nil || e.Locked() {
		t.Fatal(err)
	}
	if got := contents(t, e); !maps.Equal(got, files) {
		t.Errorf("it reads as %q", got)
	}
	if after := disk(t, d); !maps.Equal(after, before) {
		t.Error("unlocking changed files")
	}
	if err := e.Write("diary", nil); err == nil {
		t.Error("a file that nobody seals was written")
	}

	// A change: the other program must be told.
	if err := d.SetPassphrase(second, first); !errors.Is(err, seal.ErrWrong) {
		t.Errorf("changed by who does not know it: %v", err)
	}
	if err := d.SetPassphrase(first, second); err != nil {
		t.Fatal(err)
	}
	tight(t, d, files)
	if err := e.Write("memory", nil); !errors.Is(err, ErrChanged) {
		t.Errorf("written under the former passphrase: %v", err)
	}
	e = again(t, d)
	if err := e.Unlock(first); !errors.Is(err, seal.ErrWrong) {
		t.Errorf("the former passphrase: %v", err)
	}
	if err := e.UseKeys(d.Keys()); err != nil || e.Locked() || d.Keys() == "" {
		t.Error(err)
	}
	if got := contents(t, e); !maps.Equal(got, files) {
		t.Errorf("it reads as %q", got)
	}
	// What was sealed under the former one is not readable with the new one.
	for name, data := range before {
		if seal.Is([]byte(data)) && name != KeysFile {
			if _, _, err := d.keys.Load().keys.Open([]byte(data)); !errors.Is(err, seal.ErrForeign) {
				t.Errorf("%s opens with the new key: %v", name, err)
			}
		}
	}

	// Gone again.
	if err := d.SetPassphrase(first, ""); !errors.Is(err, seal.ErrWrong) {
		t.Errorf("removed by who does not know it: %v", err)
	}
	if err := d.SetPassphrase(second, ""); err != nil {
		t.Fatal(err)
	}
	if on := disk(t, d); !maps.Equal(on, files) {
		t.Errorf("on disk is %q", on)
	}
	if err := e.Write("memory", nil); !errors.Is(err, ErrChanged) {
		t.Errorf("sealed without a lock: %v", err)
	}
	if err := d.SetPassphrase(second, first); !errors.Is(err, ErrChanged) {
		t.Errorf("changed what is not there: %v", err)
	}
}

// TestPassphraseOverwrites: what was written before a passphrase was set is not on the
// disk any more, as far as a program can see to that.
func TestPassphraseOverwrites(t *testing.T) {
	d, files := furnished(t)
	keep := t.TempDir()
	secret := slices.DeleteFunc(slices.Collect(maps.Keys(files)), func(name string) bool { return !isSecret(name) })
	for i, name := range secret {
		if err := os.Link(filepath.Join(d.path, name), filepath.Join(keep, fmt.Sprint(i))); err != nil {
			t.Skip(err)
		}
	}
	if err := d.SetPassphrase("", first); err != nil {
		t.Fatal(err)
	}
	for i, name := range secret {
		data, err := os.ReadFile(filepath.Join(keep, fmt.Sprint(i)))
		if err != nil || len(data) != len(files[name]) || strings.Contains(string(data), files[name][:8]) {
			t.Errorf("%s still holds %q, %v", name, data, err)
		}
	}
}

// TestPassphraseCrash ends the program at every step of setting, changing and removing a
// passphrase: all is as it was, or the next unlocking completes it.
func TestPassphraseCrash(t *testing.T) {
	type crash struct{}
	for _, x := range []struct{ name, old, next string }{{"set", "", first}, {"change", first, second}, {"remove", first, ""}} {
		t.Run(x.name, func(t *testing.T) {
			steps, asWas, completed := 0, 0, 0
			for ended := false; !ended; steps++ {
				d, files := furnished(t)
				if x.old != "" {
					if err := d.SetPassphrase("", x.old); err != nil {
						t.Fatal(err)
					}
				}
				func() {
					defer func() {
						if r := recover(); r != nil && r != (crash{}) {
							panic(r)
						}
					}()
					n := 0
					d.step = func() {
						if n == steps {
							panic(crash{})
						}
						n++
					}
					if err := d.SetPassphrase(x.old, x.next); err != nil {
						t.Fatal(err)
					}
					ended = true
				}()
				e := again(t, d)
				has, err := e.HasPassphrase()
				if err != nil {
					t.Fatal(err)
				}
				if !has {
					switch {
					case x.next == "":
						completed++
					case x.old == "":
						asWas++
					default:
						t.Errorf("step %d: the passphrase is gone", steps)
					}
					on := disk(t, e)
					maps.DeleteFunc(on, func(name, _ string) bool { return strings.HasPrefix(name, KeysFile+tempMark) })
					if !maps.Equal(on, files) {
						t.Errorf("step %d: on disk is %q", steps, on)
					}
					continue
				}
				switch err := e.Unlock(x.next); {
				case err == nil && x.next != "":
					completed++
				case errors.Is(err, seal.ErrWrong) && e.Unlock(x.old) == nil:
					asWas++
				default:
					t.Fatalf("step %d: neither passphrase is right: %v", steps, err)
				}
				tight(t, e, files)
				if got := contents(t, e); !maps.Equal(got, files) {
					t.Errorf("step %d: it reads as %q", steps, got)
				}
				if e.keys.Load().keys.Several() {
					t.Errorf("step %d: the former key is still in the lock", steps)
				}
				f := again(t, d)
				if err := f.UseKeys(e.Keys()); err != nil || !maps.Equal(contents(t, f), files) {
					t.Errorf("step %d: %v", steps, err)
				}
			}
			t.Logf("%d steps: as it was %d times, completed %d times", steps, asWas, completed)
			if steps < 10 || asWas < 2 || completed < 2 {
				t.Error("too few")
			}
		})
	}
}

// TestPassphraseForeign: a file that another key has sealed does not keep the others from
// being read, and is not lost.
func TestPassphraseForeign(t *testing.T) {
	d, files := furnished(t)
	other, err := seal.New()
	if err != nil {
		t.Fatal(err)
	}
	foreign, err := other.Seal([]byte("of another installation"))
	if err != nil {
		t.Fatal(err)
	}
	if err := d.root.WriteFile("invites/r3", foreign, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := d.SetPassphrase("", first); err != nil {
		t.Fatal(err)
	}
	if err := d.SetPassphrase(first, second); err != nil {
		t.Fatal(err)
	}
	e := again(t, d)
	if err := e.Unlock(second); !errors.Is(err, ErrPartly) || !errors.Is(err, seal.ErrForeign) || !strings.Contains(err.Error(), filepath.Join("invites", "r3")) {
		t.Fatal(err)
	}
	if d.keys.Load().keys.Several() || e.Locked() {
		t.Error("a former key is kept for a file that it does not open, or it is locked")
	}
	if _, err := e.Read("invites/r3"); !errors.Is(err, seal.ErrForeign) {
		t.Error(err)
	}
	if data, err := e.Read("invites/r7"); string(data) != files["invites/r7"] {
		t.Errorf("%q, %v", data, err)
	}
	if !bytes.Equal([]byte(disk(t, d)["invites/r3"]), foreign) {
		t.Error("it was changed")
	}
	if err := e.SetPassphrase(second, ""); !errors.Is(err, seal.ErrForeign) {
		t.Errorf("removed: %v", err)
	}
}

// TestPassphraseUnreadable: whatever is wrong with one file, all others open, and it is
// named; and however often the passphrase is changed meanwhile, its key is not lost.
func TestPassphraseUnreadable(t *testing.T) {
	const broken = "invites/r1"
	d, files := furnished(t)
	if err := d.SetPassphrase("", first); err != nil {
		t.Fatal(err)
	}
	whole, err := d.root.ReadFile(broken)
	if err != nil {
		t.Fatal(err)
	}
	large := append(bytes.Clone(whole), make([]byte, MaxFile)...)
	flipped := bytes.Clone(whole)
	flipped[len(flipped)-1] ^= 1
	for name, data := range map[string][]byte{"large": large, "flipped": flipped, "cut": whole[:len(whole)/2], "empty age": []byte("age-encryption.org/v1\n")} {
		if err := d.root.WriteFile(broken, data, 0o600); err != nil {
			t.Fatal(err)
		}
		e := again(t, d)
		if err := e.Unlock(first); !errors.Is(err, ErrPartly) || !strings.Contains(err.Error(), filepath.Join("invites", "r1")) || e.Locked() {
			t.Errorf("%s: %v", name, err)
		}
		for other, text := range files {
			if got, err := e.Read(other); other != broken && (err != nil || string(got) != text) {
				t.Errorf("%s: %s reads as %q, %v", name, other, got, err)
			}
		}
	}

	// The disk has a bad day, and the resident a long one.
	if err := d.root.WriteFile(broken, large, 0o600); err != nil {
		t.Fatal(err)
	}
	now, changes := first, 0
	for range 10 {
		next := map[string]string{first: second, second: first}[now]
		switch err := d.SetPassphrase(now, next); {
		case errors.Is(err, seal.ErrKeys):
			if err := again(t, d).Unlock(next); !errors.Is(err, seal.ErrWrong) {
				t.Errorf("the passphrase was changed though it said that it stays: %v", err)
			}
		case err == nil || !strings.Contains(err.Error(), "the new passphrase holds"):
			t.Fatal(err)
		default:
			now = next
			changes++
		}
	}
	if err := d.root.WriteFile(broken, whole, 0o600); err != nil { // a good one
		t.Fatal(err)
	}
	e := again(t, d)
	if err := e.Unlock(now); err != nil {
		t.Errorf("after %d changes: %v", changes, err)
	}
	tight(t, e, files)
	if got := contents(t, e); !maps.Equal(got, files) || e.keys.Load().keys.Several() {
		t.Errorf("it reads as %q", got)
	}
	if changes < 2 {
		t.Errorf("only %d changes", changes)
	}
}

// TestDamagedLock says so, and nothing is written in its place.
func TestDamagedLock(t *testing.T) {
	for _, lock := range []string{"", "nothing", "age-encryption.org/v1\n"} {
		d, _ := furnished(t)
		if err := d.root.WriteFile(KeysFile, []byte(lock), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := d.Unlock(first); !errors.Is(err, seal.ErrDamaged) || !strings.Contains(err.Error(), KeysFile) {
			t.Errorf("%q: %v", lock, err)
		}
		if err := d.SetPassphrase("", first); err == nil {
			t.Errorf("%q: set", lock)
		}
		if err := d.Write("memory", nil); err == nil || !d.Locked() {
			t.Errorf("%q: written", lock)
		}
	}
}

// TestPassphraseInUse has programs read and write while passphrases come and go.
func TestPassphraseInUse(t *testing.T) {
	d, _ := furnished(t)
	for _, name := range []string{"invites/r1", "invites/r7"} {
		if err := d.root.Remove(name); err != nil {
			t.Fatal(err)
		}
	}
	if _, _, err := d.Add(bundle(t, 1, 1, "a")); err != nil {
		t.Fatal(err)
	}
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for i := range 3 {
		wg.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-stop:
					return
				default:
				}
				if err := d.Write("memory", fmt.Appendf(nil, "%d %d", i, n)); err != nil {
					t.Error(err)
				}
				if _, err := d.Salt(); err != nil {
					t.Error(err)
				}
			}
		})
	}
	old := ""
	for _, next := range []string{first, second, first, ""} {
		if err := d.SetPassphrase(old, next); err != nil {
			t.Error(err)
		}
		old = next
	}
	close(stop)
	wg.Wait()
	if held, err := d.Invites(); len(held) != 1 || err != nil {
		t.Errorf("%v, %v", held, err)
	}
}

// TestWipe: all that is the client's is overwritten and gone, and nothing else.
func TestWipe(t *testing.T) {
	for _, sealed := range []bool{false, true} {
		d, files := furnished(t)
		if sealed {
			if err := d.SetPassphrase("", first); err != nil {
				t.Fatal(err)
			}
		}
		if err := d.root.WriteFile("memory"+tempMark+"ABCDEFG2", []byte("half of it"), 0o600); err != nil {
			t.Fatal(err)
		}
		release, err := d.Lock()
		if err != nil {
			t.Fatal(err)
		}
		release()
		outside := filepath.Join(t.TempDir(), "outside")
		if err := os.WriteFile(outside, []byte("not ours"), 0o600); err != nil {
			t.Fatal(err)
		}
		linked := os.Remove(filepath.Join(d.path, "look")) == nil && os.Symlink(outside, filepath.Join(d.path, "look")) == nil
		keep := t.TempDir()
		if err := os.Link(filepath.Join(d.path, "invites", "r1"), filepath.Join(keep, "r1")); err != nil {
			t.Skip(err)
		}
		length := len(disk(t, d)["invites/r1"])

		left, err := d.Wipe()
		if err != nil {
			t.Error(err)
		}
		slices.Sort(left)
		if want := []string{filepath.Join(d.path, "invites"), filepath.Join(d.path, "invites", "notes"), filepath.Join(d.path, "letter.txt")}; !slices.Equal(left, want) {
			t.Errorf("left is %q, want %q", left, want)
		}
		if data, err := os.ReadFile(filepath.Join(d.path, "letter.txt")); string(data) != files["letter.txt"] {
			t.Errorf("%q, %v", data, err)
		}
		if data, err := os.ReadFile(outside); linked && (string(data) != "not ours" || err != nil) {
			t.Errorf("a file outside holds %q, %v", data, err)
		}
		if data, err := os.ReadFile(filepath.Join(keep, "r1")); err != nil || len(data) != length || bytes.Contains(data, []byte("busel")) || seal.Is(data) {
			t.Errorf("an invite was not overwritten: %q, %v", data, err)
		}

		// Without files of others nothing stays.
		e := again(t, d)
		for _, name := range []string{"invites/notes", "letter.txt"} {
			if err := e.root.Remove(name); err != nil {
				t.Fatal(err)
			}
		}
		if left, err := e.Wipe(); len(left) > 0 || err != nil {
			t.Errorf("left is %q, %v", left, err)
		}
		if _, err := os.Stat(d.path); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("the directory is there: %v", err)
		}
	}
}

// Keys that were given before the passphrase was changed are not used after that: what
// was sealed with them could not be read any more.
func TestKeysOfFormerLock(t *testing.T) {
	d, _ := furnished(t)
	if err := d.SetPassphrase("", first); err != nil {
		t.Fatal(err)
	}
	keys := d.Keys()
	e := again(t, d)
	if err := e.UseKeys(keys); err != nil {
		t.Fatal(err)
	}
	if err := d.SetPassphrase(first, second); err != nil {
		t.Fatal(err)
	}
	f := again(t, d)
	if err := f.UseKeys(keys); !errors.Is(err, ErrChanged) {
		t.Errorf("keys of a former lock: %v, want %v", err, ErrChanged)
		if err := f.Write("memory", []byte("new")); err != nil {
			t.Error(err)
		}
		_, err := d.Read("memory")
		t.Errorf("what was written with them: %v", err)
	}
	for _, text := range []string{"", "x", keys[:65], keys[65:70], keys + "x"} {
		if err := again(t, d).UseKeys(text); !errors.Is(err, seal.ErrDamaged) {
			t.Errorf("%q: %v, want %v", text, err, seal.ErrDamaged)
		}
	}
}

// A change that fails midway says which passphrase holds from now on.
func TestPassphraseHalfChanged(t *testing.T) {
	d, _ := furnished(t)
	if err := d.root.WriteFile("look", make([]byte, MaxFile+1), 0o600); err != nil {
		t.Fatal(err)
	}
	err := d.SetPassphrase("", first)
	if err == nil || !strings.Contains(err.Error(), "the new passphrase holds") || !strings.Contains(err.Error(), "look") {
		t.Errorf("set: %v", err)
	}
	e := again(t, d)
	if err := e.Unlock(second); !errors.Is(err, seal.ErrWrong) {
		t.Errorf("another passphrase: %v", err)
	}
	if err := d.root.Remove("look"); err != nil {
		t.Fatal(err)
	}
	if err := e.Unlock(first); err != nil {
		t.Errorf("the new passphrase: %v", err)
	}
}
