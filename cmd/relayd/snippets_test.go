package main

import (
	"bytes"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"busel/config"
	"busel/internal/checkup"
	"busel/internal/nginxtest"
	"busel/transport"
)

// The settings that init leaves are such that nginx takes them.
func TestNginxSnippet(t *testing.T) {
	for cover, listen := range map[string]string{
		"127.0.0.1:8443": "127.0.0.1:8443",
		"localhost:8443": "127.0.0.1:8443",
		"[::1]:8443":     "[::1]:8443",
	} {
		set, err := config.NewRelay("198.51.100.7:443", cover, "news.example.org")
		if err != nil {
			t.Fatal(err)
		}
		if !ownServer(&set) {
			t.Errorf("%s is not taken for an own server", cover)
		}
		text := nginxSnippet(&set)
		for _, want := range []string{"listen " + listen + " ssl", "server_name news.example.org;", "access_log off;", "TLSv1.3", "keepalive_timeout"} {
			if !strings.Contains(text, want) {
				t.Errorf("%s: no %q in\n%s", cover, want, text)
			}
		}
	}
	for _, cover := range []string{"builtin", "192.0.2.7:443", "news.example.org:443"} {
		set, err := config.NewRelay("198.51.100.7:443", cover, "news.example.org")
		if err != nil {
			t.Fatal(err)
		}
		if ownServer(&set) {
			t.Errorf("%s is taken for an own server on loopback", cover)
		}
	}
}

// nginx and Caddy run with the settings that init leaves, and relayd check has
// nothing against either as a cover.
func TestServersTakeSnippets(t *testing.T) {
	if err := nginxtest.Available(); err != nil {
		t.Skip(err)
	}
	site := nginxtest.Run(t, nginxtest.Config{Name: "news.example.org"}) // has a certificate
	cert, key := filepath.Join(site.Dir, "cert.pem"), filepath.Join(site.Dir, "key.pem")
	for name, tt := range map[string]struct {
		command []string // before the path of the file
		change  *strings.Replacer
		text    func(*config.Relay) string
		around  string
	}{
		"nginx": {
			[]string{"nginx", "-c"},
			strings.NewReplacer("/etc/letsencrypt/live/news.example.org/fullchain.pem", cert, "/etc/letsencrypt/live/news.example.org/privkey.pem", key, "/var/www/html", filepath.Join(site.Dir, "html")),
			nginxSnippet,
			"daemon off;\nuser root;\npid DIR/pid;\nerror_log stderr;\nworker_rlimit_nofile 16384;\nevents { worker_connections 8192; }\nhttp {\n%s\n}\n",
		},
		"caddy": {
			[]string{"caddy", "run", "--adapter", "caddyfile", "--config"},
			strings.NewReplacer("\thttps_port", "\tadmin off\n\thttp_port "+freePort(t)+"\n\thttps_port", "\tfile_server\n", "\tfile_server\n\ttls "+cert+" "+key+"\n", "/var/www/html", filepath.Join(site.Dir, "html")),
			caddySnippet,
			"%s",
		},
	} {
		t.Run(name, func(t *testing.T) {
			program, err := exec.LookPath(tt.command[0])
			if err != nil {
				if program, err = exec.LookPath("/usr/sbin/" + tt.command[0]); err != nil {
					t.Skipf("%s is not installed", name)
				}
			}
			address := "127.0.0.1:" + freePort(t)
			set, err := config.NewRelay("198.51.100.7:443", address, "news.example.org")
			if err != nil {
				t.Fatal(err)
			}
			dir := t.TempDir()
			file := filepath.Join(dir, "settings")
			text := strings.Replace(tt.around, "%s", tt.change.Replace(tt.text(&set)), 1)
			if err := os.WriteFile(file, []byte(strings.ReplaceAll(text, "DIR", dir)), 0o600); err != nil {
				t.Fatal(err)
			}
			cmd := exec.CommandContext(t.Context(), program, append(tt.command[1:], file)...)
			cmd.Env = append(os.Environ(), "HOME="+dir, "XDG_DATA_HOME="+dir, "XDG_CONFIG_HOME="+dir)
			cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
			var said bytes.Buffer
			cmd.Stdout, cmd.Stderr = &said, &said
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			ended := make(chan error, 1)
			go func() { ended <- cmd.Wait() }()
			defer func() {
				_ = cmd.Process.Signal(syscall.SIGTERM)
				<-ended
			}()
			for deadline := time.Now().Add(30 * time.Second); ; {
				conn, err := transport.System{}.DialContext(t.Context(), "tcp", address)
				if err == nil {
					conn.Close()
					break
				}
				select {
				case err := <-ended:
					ended <- err
					t.Fatalf("%v\n%s", err, &said)
				case <-time.After(20 * time.Millisecond):
				}
				if time.Now().After(deadline) {
					t.Fatal("it does not listen")
				}
			}
			c := checker{network: transport.System{}, now: time.Now()}
			findings, err := c.coverAlone(t.Context(), address, "news.example.org")
			if err != nil {
				t.Fatal(err)
			}
			got := map[string]checkup.Verdict{}
			for _, f := range findings {
				got[f.Topic] = f.Verdict
				if f.Verdict == checkup.Bad {
					t.Errorf("%+v", f)
				}
			}
			for _, topic := range []string{"tls", "tickets", "http", "h2", "h3", "connections"} {
				if got[topic] != checkup.Good {
					t.Errorf("%s is %q in %+v", topic, got[topic], findings)
				}
			}
		})
	}
}

func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	return port
}
