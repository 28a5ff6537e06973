package censor

import (
	"encoding/binary"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// forever is a sleep that only a ring ends.
const forever = time.Duration(1<<63 - 1)

// alarm is a sleep of microseconds' precision that others can end.
type alarm struct{ fd int }

func newAlarm() (*alarm, error) {
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return nil, os.NewSyscallError("eventfd", err)
	}
	return &alarm{fd}, nil
}

func (a *alarm) close() { _ = unix.Close(a.fd) }

// ring ends the current sleep, or the next one.
func (a *alarm) ring() {
	var one [8]byte
	binary.NativeEndian.PutUint64(one[:], 1)
	_, _ = unix.Write(a.fd, one[:]) // fails only if it rings 2^64 times
}

// sleep returns after d or a ring. The thread's timer slack, 50 µs by default,
// is the caller's to change.
func (a *alarm) sleep(d time.Duration) {
	var timeout *unix.Timespec
	if d != forever {
		t := unix.NsecToTimespec(int64(d))
		timeout = &t
	}
	fds := [1]unix.PollFd{{Fd: int32(a.fd), Events: unix.POLLIN}}
	if n, err := unix.Ppoll(fds[:], timeout, nil); n > 0 && err == nil {
		var count [8]byte
		_, _ = unix.Read(a.fd, count[:])
	}
}
