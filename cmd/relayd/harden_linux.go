package main

import (
	"errors"

	"golang.org/x/sys/unix"
)

// seal keeps the process's memory, with its keys and what passes through it, from
// other processes of its user and from core files.
func seal() error {
	none := &unix.Rlimit{}
	return errors.Join(unix.Setrlimit(unix.RLIMIT_CORE, none), unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0))
}
