package main

import (
	"os"
	"slices"
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
	f.UDPBuffer = min(lastNumber("/proc/sys/net/core/rmem_max"), lastNumber("/proc/sys/net/core/wmem_max"))
	f.TCPBuffer = lastNumber("/proc/sys/net/ipv4/tcp_wmem")
	if ways, err := os.ReadFile("/proc/sys/net/ipv4/tcp_available_congestion_control"); err == nil {
		f.NoBBR = !slices.Contains(strings.Fields(string(ways)), "bbr")
	}
}

// lastNumber is the last one in a file of the kernel; 0 is unknown.
func lastNumber(path string) (n int) {
	text, _ := os.ReadFile(path)
	if fields := strings.Fields(string(text)); len(fields) > 0 {
		n, _ = strconv.Atoi(fields[len(fields)-1])
	}
	return n
}

// openFiles is how many descriptors this process may have; 0 is unknown.
func openFiles() uint64 {
	var files unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &files) != nil {
		return 0
	}
	return files.Cur // which Go has raised as far as it may
}
