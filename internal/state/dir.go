package state

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"time"

	"busel/internal/seal"
)

var (
	// ErrLocked means that another program runs in the directory.
	ErrLocked = errors.New("another Busel program runs in this directory")
	// ErrExists means that what was to be made is there already.
	ErrExists = errors.New("exists already")
	// ErrNotFound means that nothing has that name.
	ErrNotFound = errors.New("not found")
	// ErrExposed means that others can read or change a secret.
	ErrExposed = errors.New("open to other users")
)

// Temporary files are called after what they become, this mark, and random letters.
const (
	tempMark = ".new-"
	tempLen  = 8
)

// MaxFile is the longest file in bytes that is read.
const MaxFile = 4 << 20

// Dir is a program's open directory. Its methods may be called at any time by
// several goroutines, and by several programs on one directory.
type Dir struct {
	path string
	root *os.Root
	keys atomic.Pointer[sealing] // nil: no passphrase, or locked
	work int                     // of scrypt, as seal.Work
	step func()                  // for tests, which end here; nil
}

// stepped is called where it makes a difference that the program ends just now.
func (d *Dir) stepped() {
	if d.step != nil {
		d.step()
	}
}

// DefaultClient is the client's directory when none is given: busel in
// $XDG_CONFIG_HOME, or where the platform keeps settings.
func DefaultClient() (string, error) { return userDir("busel") }

// RootsRelay is the directory of root's relay, which is the service's.
const RootsRelay = "/etc/busel"

// DefaultRelay is the relay's directory when none is given: [RootsRelay] for
// root, and otherwise busel-relay beside the client's.
func DefaultRelay() (string, error) {
	if os.Geteuid() == 0 {
		return RootsRelay, nil
	}
	return userDir("busel-relay")
}

func userDir(name string) (string, error) {
	// os.UserConfigDir knows XDG_CONFIG_HOME on Unix only.
	base := os.Getenv("XDG_CONFIG_HOME")
	if base == "" || !filepath.IsAbs(base) {
		var err error
		if base, err = os.UserConfigDir(); err != nil {
			return "", fmt.Errorf("no place for settings, so say one with -dir: %w", err)
		}
	}
	return filepath.Join(base, name), nil
}

// Open opens the directory, and makes it with mode 0700 if it is not there. A
// directory that other users can write to is refused with [ErrExposed]. The
// caller closes it.
func Open(path string) (*Dir, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(path, 0o700); err != nil {
		return nil, err
	}
	root, err := os.OpenRoot(path)
	if err != nil {
		return nil, err
	}
	info, err := root.Stat(".")
	if err == nil && unixModes && info.Mode().Perm()&0o022 != 0 {
		err = fmt.Errorf("directory %s is %w; run: chmod 700 %s", path, ErrExposed, quote(path))
	}
	if err != nil {
		root.Close()
		return nil, err
	}
	return &Dir{path: path, root: root, work: seal.Work}, nil
}

// unixModes says that file modes mean something.
const unixModes = runtime.GOOS != "windows"

// quote quotes a path for a shell if it has to be.
func quote(path string) string {
	if strings.ContainsAny(path, " \t\n'\"\\$&;|<>()*?[]#~`!{}") {
		return "'" + strings.ReplaceAll(path, "'", `'\''`) + "'"
	}
	return path
}

// Path is the directory's absolute path.
func (d *Dir) Path() string { return d.path }

// Socket is the path of the control socket, see internal/control.
func (d *Dir) Socket() string { return filepath.Join(d.path, "control.sock") }

// Close closes the directory. Locks are released by their own functions.
func (d *Dir) Close() error { return d.root.Close() }

// Lock claims the directory for one running program until release is called,
// or the program ends in whatever way. The error is [ErrLocked] if another
// program has it.
func (d *Dir) Lock() (release func(), err error) {
	f, err := d.LockFile()
	if err != nil {
		return nil, err
	}
	return func() { f.Close() }, nil
}

// lockPoll is how often a lock that somebody has is tried again.
const lockPoll = 20 * time.Millisecond

// LockWithin is Lock that waits for another program to end, until ctx does.
func (d *Dir) LockWithin(ctx context.Context) (release func(), err error) {
	for {
		release, err = d.Lock()
		if !errors.Is(err, ErrLocked) {
			return release, err
		}
		select {
		case <-ctx.Done():
			return nil, err
		case <-time.After(lockPoll):
		}
	}
}

// LockFile is Lock for a program that may hand the lock over: closing the file
// releases it, unless another process has a copy of the descriptor.
func (d *Dir) LockFile() (*os.File, error) {
	f, err := d.lockFile("lock", false)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", d.path, err)
	}
	return f, nil
}

// change runs fn while no other change is made, by whatever program.
func (d *Dir) change(fn func() error) error {
	f, err := d.lockFile("change.lock", true)
	if err != nil {
		return fmt.Errorf("%s: %w", d.path, err)
	}
	defer f.Close()
	return fn()
}

// lockFile opens and locks the file; closing it unlocks it.
func (d *Dir) lockFile(name string, wait bool) (*os.File, error) {
	f, err := d.root.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if info, err := f.Stat(); err == nil && info.Size() == 0 { // else it is no lock of ours
		if err := d.own(f); err != nil {
			f.Close()
			return nil, err
		}
	}
	if err := lock(f, wait); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// Read returns a file that is no secret, such as the TOML file, or an error
// wrapping [fs.ErrNotExist]. It reads at most [MaxFile]. A sealed file is opened; the
// error is [ErrSealed] while the directory is locked.
func (d *Dir) Read(name string) ([]byte, error) { return d.opened(name, false) }

// ReadSecret is Read for a file that nobody else may read; else the error is
// [ErrExposed] and says how to mend it.
func (d *Dir) ReadSecret(name string) ([]byte, error) { return d.opened(name, true) }

func (d *Dir) read(name string, secret bool) ([]byte, error) {
	f, err := d.root.Open(name)
	if err != nil {
		return nil, d.named(name, err)
	}
	defer f.Close()
	info, err := f.Stat()
	switch {
	case err != nil:
		return nil, d.named(name, err)
	case !info.Mode().IsRegular():
		return nil, fmt.Errorf("%s is no file", d.join(name))
	case info.Size() > MaxFile:
		return nil, fmt.Errorf("%s is larger than %d bytes", d.join(name), MaxFile)
	case secret && unixModes && info.Mode().Perm()&0o077 != 0:
		return nil, fmt.Errorf("%s is a secret and %w; run: chmod 600 %s", d.join(name), ErrExposed, quote(d.join(name)))
	}
	data, err := io.ReadAll(io.LimitReader(f, MaxFile))
	if err != nil {
		return nil, d.named(name, err)
	}
	return data, nil
}

// Write replaces or makes the file, whole or not at all, with mode 0600, and seals it if
// the directory has a passphrase; the error is [ErrSealed] while that is locked.
func (d *Dir) Write(name string, data []byte) error {
	return d.change(func() error { return d.put(name, data) })
}

// Overwrite is Write that leaves nothing of what the file held on the disk, as far as a
// program can see to that. The file has to be there.
func (d *Dir) Overwrite(name string, data []byte) error {
	return d.change(func() error {
		data, err := d.sealed(name, data)
		if err != nil {
			return err
		}
		return d.supersede(name, data)
	})
}

// Forget overwrites and removes a file, which need not be there.
func (d *Dir) Forget(name string) error {
	return d.change(func() error { return d.scrub(name) })
}

// put is Write within a change.
func (d *Dir) put(name string, data []byte) error {
	data, err := d.sealed(name, data)
	if err != nil {
		return err
	}
	return d.replace(name, data)
}

// replace replaces or makes the file as it is given, within a change.
func (d *Dir) replace(name string, data []byte) error {
	temp := name + tempMark + rand.Text()[:tempLen]
	d.stepped()
	err := d.writeTemp(temp, data)
	if err == nil {
		d.stepped()
		err = d.root.Rename(temp, name)
	}
	if err != nil {
		// Nothing is left behind; if that fails too, the first error says why.
		_ = d.root.Remove(temp)
		return d.named(name, err)
	}
	return d.named(name, d.syncDir(filepath.Dir(name)))
}

// create is put for a file that must not be there yet; else
// the error is [ErrExists].
func (d *Dir) create(name string, data []byte) error {
	if _, err := d.root.Lstat(name); err == nil {
		return fmt.Errorf("%s %w", d.join(name), ErrExists)
	} else if !errors.Is(err, fs.ErrNotExist) {
		return d.named(name, err)
	}
	return d.put(name, data)
}

func (d *Dir) writeTemp(name string, data []byte) error {
	f, err := d.root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	return errors.Join(err, d.own(f), f.Sync(), f.Close())
}

// syncDir makes a rename survive a power cut where the system can do that.
func (d *Dir) syncDir(name string) error {
	if !unixModes {
		return nil
	}
	f, err := d.root.Open(name)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

func (d *Dir) join(name string) string { return filepath.Join(d.path, name) }

// named makes a file error name the whole path.
func (d *Dir) named(name string, err error) error {
	if path, ok := errors.AsType[*fs.PathError](err); ok {
		return fmt.Errorf("%s: %w", d.join(name), path.Err)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", d.join(name), err)
	}
	return nil
}
