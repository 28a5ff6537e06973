package scratch

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// Folder is a private folder. The lock, flock(2) of the folder itself, ends with
// the process: the descriptor is not passed to children.
type Folder struct {
	Path string
	lock *os.File
}

// Make makes a folder for temporary files whose name begins with prefix, after
// it has removed orphans of the same prefix. The caller removes it.
func Make(prefix string) (*Folder, error) {
	parent, err := filepath.EvalSymlinks(os.TempDir())
	if err != nil {
		return nil, err
	}
	return makeIn(parent, prefix)
}

func makeIn(parent, prefix string) (*Folder, error) {
	// One at a time, or a folder could be taken for an orphan before it is locked.
	turn, err := lock(parent, unix.LOCK_EX)
	if err != nil {
		return nil, fmt.Errorf("folder for temporary files: %w", err)
	}
	defer turn.Close()
	if err := sweep(parent, prefix); err != nil {
		return nil, fmt.Errorf("remove what a run before left: %w", err)
	}
	path, err := os.MkdirTemp(parent, prefix)
	if err != nil {
		return nil, err
	}
	held, err := lock(path, unix.LOCK_EX|unix.LOCK_NB)
	if err != nil {
		return nil, errors.Join(err, os.Remove(path))
	}
	return &Folder{Path: path, lock: held}, nil
}

// Remove removes the folder and all in it.
func (f *Folder) Remove() error {
	return errors.Join(os.RemoveAll(f.Path), f.lock.Close())
}

// sweep removes the folders that nobody holds. Those of other users are not
// ours to remove.
func sweep(parent, prefix string) error {
	entries, err := os.ReadDir(parent)
	if err != nil {
		return err
	}
	var all []error
	for _, e := range entries {
		if !e.IsDir() || !strings.HasPrefix(e.Name(), prefix) {
			continue
		}
		path := filepath.Join(parent, e.Name())
		orphan, err := lock(path, unix.LOCK_EX|unix.LOCK_NB)
		if err != nil {
			continue // held, removed by its owner just now, or somebody else's
		}
		all = append(all, os.RemoveAll(path), orphan.Close())
	}
	return errors.Join(all...)
}

// lock opens and locks a folder, no symbolic link.
func lock(path string, how int) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, err
	}
	for {
		err := unix.Flock(int(f.Fd()), how)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			f.Close()
			return nil, &os.PathError{Op: "flock", Path: path, Err: err}
		}
		return f, nil
	}
}
