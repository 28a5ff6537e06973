package front

import (
	"bufio"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// portOwner finds the process that listens on a TCP port: the port's socket in
// /proc/net, then the process that has it open (proc_net_tcp.txt and proc(5)).
// It is a best effort: processes of other users do not show what they have open.
func portOwner(port uint16) (pid int, process string) {
	sockets := map[string]bool{}
	for _, table := range []string{"/proc/net/tcp", "/proc/net/tcp6"} {
		addListeners(sockets, table, port)
	}
	if len(sockets) == 0 {
		return 0, ""
	}
	open, _ := filepath.Glob("/proc/[0-9]*/fd/[0-9]*") // the pattern is well-formed
	for _, fd := range open {
		target, err := os.Readlink(fd)
		if err != nil || !sockets[target] {
			continue
		}
		dir := filepath.Dir(filepath.Dir(fd))
		pid, err := strconv.Atoi(filepath.Base(dir))
		if err != nil {
			continue
		}
		name, err := os.ReadFile(filepath.Join(dir, "comm"))
		if err != nil {
			continue
		}
		return pid, strings.TrimSpace(string(name))
	}
	return 0, ""
}

// addListeners adds the sockets in a /proc/net table that listen on port, in the
// form in which /proc/PID/fd names them.
func addListeners(sockets map[string]bool, table string, port uint16) {
	f, err := os.Open(table)
	if err != nil {
		return
	}
	defer f.Close()
	const listening = "0A" // TCP_LISTEN
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		field := strings.Fields(lines.Text())
		if len(field) < 10 || field[3] != listening {
			continue
		}
		_, hex, _ := strings.Cut(field[1], ":")
		if p, err := strconv.ParseUint(hex, 16, 16); err == nil && uint16(p) == port {
			sockets["socket:["+field[9]+"]"] = true
		}
	}
}
