package main

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"time"
)

const (
	// nginxFolder is where Debian's nginx has its settings, which everybody may read.
	nginxFolder = "/etc/nginx"
	// nginxPatience bounds nginx that says its settings.
	nginxPatience = 5 * time.Second
	// nginxDefault is worker_connections of nginx that is told nothing
	// (ngx_event.c, DEFAULT_CONNECTIONS).
	nginxDefault = 512
)

// nginxRoom is how many connections each worker of this machine's nginx takes, if that
// listens on the port; 0 is unknown. Only root hears nginx's settings from itself, since
// it tries them for that; for others it is read in the files of the folder.
func nginxRoom(ctx context.Context, folder, port string) int {
	ctx, cancel := context.WithTimeout(ctx, nginxPatience)
	defer cancel()
	program, err := exec.LookPath("nginx")
	if err != nil {
		program = "/usr/sbin/nginx" // not in the PATH of users
	}
	cmd := exec.CommandContext(ctx, program, "-T")
	cmd.WaitDelay = time.Second
	text, err := cmd.Output()
	if err != nil {
		text = nil
		for _, pattern := range []string{"nginx.conf", "conf.d/*", "sites-enabled/*"} {
			names, _ := filepath.Glob(filepath.Join(folder, pattern)) // the patterns are well-formed
			for _, name := range names {
				more, _ := os.ReadFile(name) // what cannot be read is not known
				text = append(append(text, more...), '\n')
			}
		}
	}
	return workerConnections(text, port)
}

var (
	nginxComment = regexp.MustCompile(`(?m)(^|\s)#.*$`)
	nginxEvents  = regexp.MustCompile(`(?:^|[\s;{}])events\s*\{([^}]*)\}`)
	nginxListen  = regexp.MustCompile(`[\s;{}]listen\s+(?:\S+:)?(\d+)\b`)
	nginxWorker  = regexp.MustCompile(`(?:^|[\s;])worker_connections\s+(\d{1,9})\s*;`)
)

// workerConnections finds that in the settings of an nginx that listens on the port; 0
// is unknown.
func workerConnections(text []byte, port string) int {
	text = nginxComment.ReplaceAll(text, nil)
	events := nginxEvents.FindSubmatch(text)
	listens := slices.ContainsFunc(nginxListen.FindAllSubmatch(text, -1), func(m [][]byte) bool { return string(m[1]) == port })
	if events == nil || !listens {
		return 0
	}
	m := nginxWorker.FindSubmatch(events[1])
	if m == nil {
		return nginxDefault
	}
	n, _ := strconv.Atoi(string(m[1])) // digits
	return n
}
