package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"busel/config"
	"busel/internal/nginxtest"
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

func TestNginxTakesSnippet(t *testing.T) {
	if err := nginxtest.Available(); err != nil {
		t.Skip(err)
	}
	site := nginxtest.Run(t, nginxtest.Config{Name: "news.example.org"}) // has a certificate
	set, err := config.NewRelay("198.51.100.7:443", "127.0.0.1:8443", "news.example.org")
	if err != nil {
		t.Fatal(err)
	}
	text := strings.NewReplacer(
		"/etc/letsencrypt/live/news.example.org/fullchain.pem", filepath.Join(site.Dir, "cert.pem"),
		"/etc/letsencrypt/live/news.example.org/privkey.pem", filepath.Join(site.Dir, "key.pem"),
	).Replace(nginxSnippet(&set))
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	whole := write("nginx.conf", "pid "+dir+"/pid;\nerror_log stderr;\nworker_rlimit_nofile 16384;\nevents { worker_connections 8192; }\nhttp {\ninclude "+write("cover-nginx.conf", text)+";\n}\n")
	nginx, err := exec.LookPath("nginx")
	if err != nil {
		nginx = "/usr/sbin/nginx"
	}
	out, err := exec.CommandContext(t.Context(), nginx, "-t", "-c", whole, "-p", dir).CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}
