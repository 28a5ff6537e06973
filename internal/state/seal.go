package state

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"busel/internal/seal"
)

// KeysFile is the lock of internal/seal: it is there if the directory has a passphrase.
const KeysFile = "keys.age"

var (
	// ErrSealed means that a file is secret under a passphrase that was not given yet.
	ErrSealed = errors.New("locked by your passphrase")
	// ErrPartly means that the passphrase was right, but that there are files, which the
	// error names, that stay closed. All others are open.
	ErrPartly = errors.New("unlocked, but for files that cannot be read")
	// ErrChanged means that the passphrase was set, changed or removed meanwhile.
	ErrChanged = errors.New("the passphrase was changed meanwhile; try again")
)

// plainFiles are what the client keeps that is no secret, or must be read before the
// passphrase is known. All else is sealed.
func plainFiles() []string { return []string{ClientFile, PortFile, KeysFile} }

// secretFiles are those of the client's files that are secret, the invites apart: what is
// not here can neither be sealed nor wiped, and so is not written under a passphrase.
func secretFiles() []string {
	return []string{saltFile, "memory", "look", "looks", PasswordFile}
}

// isSecret reports whether a file is one of them, or an invite.
func isSecret(name string) bool {
	label, ok := strings.CutPrefix(name, invitesDir+"/")
	if ok {
		_, ok = labelNumber(label)
	}
	return ok || slices.Contains(secretFiles(), name)
}

// sealing are the keys that a lock gave.
type sealing struct {
	lock [sha256.Size]byte // its hash
	keys *seal.Keys
}

// lockData is the lock, nil if there is none.
func (d *Dir) lockData() ([]byte, error) {
	lock, err := d.read(KeysFile, true)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err == nil && len(lock) == 0 {
		err = fmt.Errorf("%s: %w", d.join(KeysFile), seal.ErrDamaged)
	}
	return lock, err
}

// HasPassphrase reports whether the directory's secrets are sealed.
func (d *Dir) HasPassphrase() (bool, error) {
	lock, err := d.lockData()
	return lock != nil, err
}

// Locked reports whether the directory has a passphrase that was not given yet. Then its
// secrets can be neither read nor written. What cannot be told counts as locked.
func (d *Dir) Locked() bool {
	has, err := d.HasPassphrase()
	return (has || err != nil) && d.keys.Load() == nil
}

// current are the keys that files are sealed with, nil for none, within a change.
func (d *Dir) current() (*seal.Keys, error) {
	lock, err := d.lockData()
	if err != nil {
		return nil, err
	}
	have := d.keys.Load()
	switch {
	case lock == nil && have == nil:
		return nil, nil
	case have == nil:
		return nil, fmt.Errorf("%s is %w", d.path, ErrSealed)
	case lock == nil || have.lock != sha256.Sum256(lock):
		return nil, ErrChanged
	}
	return have.keys, nil
}

// sealed is what is written for data, within a change.
func (d *Dir) sealed(name string, data []byte) ([]byte, error) {
	if slices.Contains(plainFiles(), name) {
		return data, nil
	}
	keys, err := d.current()
	if keys == nil || err != nil {
		return data, err
	}
	if !isSecret(name) {
		return nil, fmt.Errorf("%s is no file that the client keeps under a passphrase", d.join(name))
	}
	return keys.Seal(data)
}

// opened reads a file, and opens it if it is sealed.
func (d *Dir) opened(name string, secret bool) ([]byte, error) {
	data, err := d.read(name, secret)
	if err != nil || !seal.Is(data) {
		return data, err
	}
	have := d.keys.Load()
	if have == nil {
		return nil, fmt.Errorf("%s is %w", d.join(name), ErrSealed)
	}
	plain, _, err := have.keys.Open(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", d.join(name), err)
	}
	return plain, nil
}

// Unlock gives the passphrase, and completes a change of it that was cut short. The error
// wraps [seal.ErrWrong] if the passphrase is wrong, and [ErrPartly] if the directory is
// unlocked all the same. It takes about a second and 256 MiB.
func (d *Dir) Unlock(passphrase string) error {
	return d.change(func() error {
		keys, err := d.tried(passphrase)
		if err != nil {
			return err
		}
		lost, err := d.settle(keys, passphrase)
		if err = errors.Join(lost, err); err != nil {
			return fmt.Errorf("%w: %w", ErrPartly, err)
		}
		return nil
	})
}

// tried are the keys behind the passphrase, within a change.
func (d *Dir) tried(passphrase string) (*seal.Keys, error) {
	lock, err := d.lockData()
	if err != nil {
		return nil, err
	}
	if lock == nil {
		return nil, errors.New("there is no passphrase")
	}
	keys, err := seal.Unlock(lock, passphrase)
	if errors.Is(err, seal.ErrDamaged) {
		err = fmt.Errorf("%s: %w; what it sealed is lost without a copy of that file", d.join(KeysFile), err)
	}
	if err != nil {
		return nil, err
	}
	d.keys.Store(&sealing{sha256.Sum256(lock), keys})
	return keys, nil
}

// Keys are those of an unlocked directory, for another program of this user that works on
// it, as text; empty if there is no passphrase. It is a secret.
func (d *Dir) Keys() string {
	if have := d.keys.Load(); have != nil {
		return hex.EncodeToString(have.lock[:]) + "\n" + have.keys.Text()
	}
	return ""
}

// UseKeys unlocks with what Keys gave. The error is [ErrChanged] if the passphrase is
// another one since: what was sealed with the former keys could not be read any more.
func (d *Dir) UseKeys(text string) error {
	of, text, _ := strings.Cut(text, "\n")
	keys, err := seal.Parse(text)
	if err != nil {
		return err
	}
	return d.change(func() error {
		lock, err := d.lockData()
		if err != nil {
			return err
		}
		hash := sha256.Sum256(lock)
		if lock == nil || of != hex.EncodeToString(hash[:]) {
			return ErrChanged
		}
		d.keys.Store(&sealing{hash, keys})
		return nil
	})
}

// SetPassphrase changes the passphrase, old, to another one: old is empty if there is
// none yet, and next is empty to have none any more. Every secret is written anew under a
// new key. The error wraps [seal.ErrWrong] if old is wrong, and says what is wrong with
// next. Whatever ends the program meanwhile, the directory is as it was or the next Unlock,
// with the new passphrase, completes the change.
func (d *Dir) SetPassphrase(old, next string) error {
	if next != "" {
		if err := seal.Check(next); err != nil {
			return err
		}
	}
	return d.change(func() error {
		lock, err := d.lockData()
		if err != nil {
			return err
		}
		keys := new(seal.Keys)
		switch {
		case lock != nil:
			if keys, err = d.tried(old); err != nil {
				return err
			}
		case old != "":
			return ErrChanged
		}
		if next == "" {
			return d.bare()
		}
		if keys, err = keys.Renewed(); err != nil {
			return fmt.Errorf("the passphrase stays as it is, since files that cannot be read are under former ones; mend or remove those: %w", err)
		}
		if err := d.relock(keys, next); err != nil {
			return err
		}
		// What nobody can read need not be under it.
		if _, err := d.settle(keys, next); err != nil {
			return fmt.Errorf("the new passphrase holds from now on, but not all is under it; give it again when this is mended: %w", err)
		}
		return nil
	})
}

// relock writes the keys under the passphrase, and seals with them from then on.
func (d *Dir) relock(keys *seal.Keys, passphrase string) error {
	lock, err := keys.Lock(passphrase, d.work)
	if err != nil {
		return err
	}
	if err := d.replace(KeysFile, lock); err != nil {
		return err
	}
	d.keys.Store(&sealing{sha256.Sum256(lock), keys})
	return nil
}

// settle seals what is not sealed with the first key yet, and forgets the other keys if
// nothing needs them any more. It does as much as it can: lost names what none of the keys
// opens, err what could not be read or written now.
func (d *Dir) settle(keys *seal.Keys, passphrase string) (lost, err error) {
	swept := d.sweep()
	err = d.eachSecret(func(name string) error {
		data, err := d.read(name, false)
		if err != nil {
			return err
		}
		if seal.Is(data) {
			plain, current, err := keys.Open(data)
			if err != nil {
				lost = errors.Join(lost, fmt.Errorf("%s: %w", d.join(name), err))
				return nil
			}
			if current {
				return nil
			}
			data = plain
		}
		if data, err = keys.Seal(data); err != nil {
			return err
		}
		return d.supersede(name, data)
	})
	if err == nil && keys.Several() {
		err = d.relock(keys.First(), passphrase)
	}
	return lost, errors.Join(swept, err)
}

// bare opens everything and removes the lock.
func (d *Dir) bare() error {
	if err := d.sweep(); err != nil {
		return err
	}
	have := d.keys.Load()
	err := d.eachSecret(func(name string) error {
		data, err := d.read(name, false)
		if err != nil || !seal.Is(data) {
			return err
		}
		plain, _, err := have.keys.Open(data)
		if err != nil {
			return fmt.Errorf("%s: %w; remove it, and try again", d.join(name), err)
		}
		return d.replace(name, plain)
	})
	if err != nil {
		return err
	}
	// In one step, lest half a lock stand before files that are open.
	gone := KeysFile + tempMark + rand.Text()[:tempLen]
	if err := d.root.Rename(KeysFile, gone); err != nil {
		return d.named(KeysFile, err)
	}
	d.stepped()
	d.keys.Store(nil)
	return d.scrub(gone)
}

// eachSecret calls fn with the name of each secret file that there is, whatever it says of
// others, and joins the errors, each of which names its file.
func (d *Dir) eachSecret(fn func(name string) error) error {
	labels, faults := d.labels()
	names := secretFiles()
	for _, l := range labels {
		names = append(names, invitesDir+"/"+l)
	}
	for _, name := range names {
		info, err := d.root.Lstat(name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err = d.named(name, err); err == nil && info.Mode().IsRegular() {
			err = fn(name)
		}
		faults = errors.Join(faults, err)
	}
	return faults
}

// sweep removes what a crash has left of files that were being written, within a change:
// nobody else is writing.
func (d *Dir) sweep() error {
	left, err := d.leftovers()
	for _, name := range left {
		err = errors.Join(err, d.scrub(name))
	}
	return err
}

// leftovers are temporary files of ours.
func (d *Dir) leftovers() (names []string, err error) {
	for _, in := range []string{".", invitesDir} {
		entries, failed := fs.ReadDir(d.root.FS(), in)
		if failed != nil && !errors.Is(failed, fs.ErrNotExist) {
			err = errors.Join(err, d.named(in, failed))
		}
		for _, e := range entries {
			base, letters, ok := strings.Cut(e.Name(), tempMark)
			if !ok || len(letters) != tempLen || strings.Trim(letters, "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567") != "" {
				continue
			}
			if whole := path.Join(in, base); isSecret(whole) || slices.Contains(plainFiles(), whole) {
				names = append(names, path.Join(in, e.Name()))
			}
		}
	}
	return names, err
}

// supersede is replace for a file whose former contents are a secret: they are
// overwritten where they were.
func (d *Dir) supersede(name string, data []byte) error {
	old, err := d.root.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		return d.named(name, err)
	}
	defer old.Close()
	if err := d.replace(name, data); err != nil {
		// Some file systems of Windows do not replace a file that is open.
		old.Close()
		return d.replace(name, data)
	}
	d.stepped()
	return d.named(name, overwrite(old))
}

// scrub overwrites a file and removes it; a link is removed only.
func (d *Dir) scrub(name string) error {
	info, err := d.root.Lstat(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil && info.Mode().IsRegular() {
		var f *os.File
		if f, err = d.root.OpenFile(name, os.O_RDWR, 0); err == nil {
			err = errors.Join(overwrite(f), f.Close())
		}
	}
	d.stepped()
	// Removed, though it may not have been overwritten.
	return d.named(name, errors.Join(err, d.root.Remove(name), d.syncDir(filepath.Dir(name))))
}

// overwrite writes random bytes over a file. Where the disk puts them is its own matter:
// flash memory and file systems that copy on write keep what was there for a while.
func overwrite(f *os.File) error {
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return err
	}
	_, err = io.CopyN(f, rand.Reader, info.Size())
	return errors.Join(err, f.Sync())
}
