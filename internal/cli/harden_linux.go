package cli

import "golang.org/x/sys/unix"

// harden keeps the process's memory, with its keys and what passes through it, from
// core files and from other processes of its user (PR_SET_DUMPABLE in prctl(2)).
func harden() error { return unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0) }
