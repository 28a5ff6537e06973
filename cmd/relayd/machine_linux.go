package main

import (
	"io/fs"
	"os"
	"path"
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

// memoryMax is how much memory this process may take, in bytes: the machine's, or what
// its control groups leave of it (version 2); 0 is unknown.
func memoryMax() int64 {
	return leastMemory(os.DirFS("/"))
}

func leastMemory(root fs.FS) (least int64) {
	bound := func(n int64, err error) {
		if err == nil && n > 0 && (least == 0 || n < least) {
			least = n
		}
	}
	info, _ := fs.ReadFile(root, "proc/meminfo")
	if total, _, ok := strings.Cut(strings.TrimPrefix(string(info), "MemTotal:"), "kB"); ok {
		n, err := strconv.ParseInt(strings.TrimSpace(total), 10, 54)
		bound(n<<10, err)
	}
	groups, _ := fs.ReadFile(root, "proc/self/cgroup")
	for line := range strings.Lines(string(groups)) {
		group, ok := strings.CutPrefix(strings.TrimSpace(line), "0::/")
		if !ok {
			continue
		}
		for group = path.Clean(group); ; group = path.Dir(group) {
			text, _ := fs.ReadFile(root, path.Join("sys/fs/cgroup", group, "memory.max"))
			bound(strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64)) // or "max"
			if group == "." || group == "/" {
				break
			}
		}
	}
	return least
}
