package main

import (
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"busel/internal/checkup"
)

// machine says what the kernel knows of clock and limits.
func (c *checker) machine(f *checkup.Facts) {
	if state, err := unix.Adjtimex(new(unix.Timex)); err == nil {
		synced := state != unix.TIME_ERROR
		f.Synced = &synced
	}
	// Those of the running relay are not this shell's.
	var files unix.Rlimit
	if !f.Running && unix.Getrlimit(unix.RLIMIT_NOFILE, &files) == nil {
		f.OpenFiles = files.Max
	}
	if text, err := os.ReadFile("/proc/sys/net/core/rmem_max"); err == nil {
		f.UDPBuffer, _ = strconv.Atoi(strings.TrimSpace(string(text))) // 0 is unknown
	}
}

// openFiles is how many descriptors this process may have; 0 is unknown.
func openFiles() uint64 {
	var files unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &files) != nil {
		return 0
	}
	return files.Cur // which Go has raised as far as it may
}
