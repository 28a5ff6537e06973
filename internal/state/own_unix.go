//go:build unix

package state

import (
	"os"

	"golang.org/x/sys/unix"
)

// own gives a new file of root's to the owner of the directory, so that a service
// which runs as that user can read what root's commands wrote. A file with a second
// name was not made here: it would hand over what that user must not have.
func (d *Dir) own(f *os.File) error {
	if os.Geteuid() != 0 {
		return nil
	}
	dir, err := d.root.Open(".")
	if err != nil {
		return err
	}
	defer dir.Close()
	var home, file unix.Stat_t
	if err := unix.Fstat(int(dir.Fd()), &home); err != nil {
		return err
	}
	if err := unix.Fstat(int(f.Fd()), &file); err != nil {
		return err
	}
	if file.Uid == home.Uid || file.Uid != 0 || file.Nlink != 1 {
		return nil
	}
	return f.Chown(int(home.Uid), int(home.Gid))
}
