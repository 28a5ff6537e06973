package state

import (
	"errors"
	"os"

	"golang.org/x/sys/windows"
)

// lock takes the file's lock, which its closing or the program's end releases.
func lock(f *os.File, wait bool) error {
	how := uint32(windows.LOCKFILE_EXCLUSIVE_LOCK)
	if !wait {
		how |= windows.LOCKFILE_FAIL_IMMEDIATELY
	}
	err := windows.LockFileEx(windows.Handle(f.Fd()), how, 0, 1, 0, lockPlace())
	if errors.Is(err, windows.ERROR_LOCK_VIOLATION) {
		return ErrLocked
	}
	return err
}

// unlock releases the lock of a file that stays open.
func unlock(f *os.File) error {
	return windows.UnlockFileEx(windows.Handle(f.Fd()), 0, 1, 0, lockPlace())
}

// lockPlace is the byte that a lock covers. It lies beyond any file's end, because
// Windows lets nobody else read or write what is locked.
func lockPlace() *windows.Overlapped { return &windows.Overlapped{OffsetHigh: 1 << 30} }
