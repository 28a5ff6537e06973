package state

import (
	"errors"
	"io/fs"
	"os"
	"path"
	"slices"
)

// Wipe overwrites and removes everything that the client keeps in the directory, the
// directory too if nothing else is in it, and closes it. What makes all other secrets
// unreadable goes first. It does as much as it can: left names what is still there,
// files of others among it, and err says what went wrong.
func (d *Dir) Wipe() (left []string, err error) {
	// Whoever is in the midst of a change is not waited for.
	if f, busy := d.lockFile("change.lock", false); busy == nil {
		defer f.Close()
	}
	names := []string{KeysFile}
	if entries, err := fs.ReadDir(d.root.FS(), invitesDir); err == nil {
		for _, e := range entries {
			if name := path.Join(invitesDir, e.Name()); isSecret(name) {
				names = append(names, name)
			}
		}
	}
	temps, failed := d.leftovers()
	names = slices.Concat(names, secretFiles(), temps, plainFiles())
	err = failed
	for _, name := range names {
		err = errors.Join(err, d.scrub(name))
	}
	// They hold nothing, and another program that wipes may have made them again.
	empty := []string{invitesDir, "control.sock", "change.lock", "lock"}
	for _, name := range empty {
		_ = d.root.Remove(name) // what stays is told below
	}
	d.keys.Store(nil)
	_ = fs.WalkDir(d.root.FS(), ".", func(name string, e fs.DirEntry, failed error) error {
		if errors.Is(failed, fs.ErrNotExist) {
			return nil
		}
		if failed != nil {
			err = errors.Join(err, d.named(name, failed))
		} else if name != "." && !slices.Contains(empty[1:], name) {
			left = append(left, d.join(name))
		}
		if e != nil && e.IsDir() && name != "." && name != invitesDir {
			return fs.SkipDir
		}
		return nil
	})
	err = errors.Join(err, d.root.Close())
	if len(left) == 0 {
		_ = os.Remove(d.path) // it is empty, and may be gone
	}
	return left, err
}
