package main

import (
	"os"
	"path/filepath"
	"testing"
)

func TestWorkerConnections(t *testing.T) {
	const site = "\nhttp { server { listen 127.0.0.1:8443 ssl http2; } }"
	for text, want := range map[string]int{
		"user www-data;\nevents {\n\tworker_connections 768;\n\t# multi_accept on;\n}" + site:           768,
		"events { # worker_connections 1;\n  worker_connections   8192 ; }" + site:                      8192,
		"events{worker_connections 1024;}http{server{listen 8443;}}":                                    1024,
		"events{worker_connections 1024;}http{server{listen 80;listen [::1]:8443 ssl;}}":                1024,
		"events { multi_accept on; }" + site:                                                            512,
		"events { worker_connections 768; }\nhttp { server { listen 443 ssl; } }":                       0,
		"events { worker_connections 768; }\nhttp { server { listen 18443; listen 127.0.0.1:84431; } }": 0,
		"events { worker_connections 768; }\nhttp { server {\n# listen 8443;\n} }":                      0,
		"# events { worker_connections 9; }" + site:                                                     0,
		"stream_events { worker_connections 9; }" + site:                                                0,
		"events { worker_connections many; }" + site:                                                    512,
		"": 0,
	} {
		if got := workerConnections([]byte(text), "8443"); got != want {
			t.Errorf("%q: %d, want %d", text, got, want)
		}
	}
}

// What nginx says of itself is heard, and that it fails or says nothing is no fault.
func TestNginxRoom(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	for script, want := range map[string]int{
		"[ \"$1\" = -T ] && echo 'events { worker_connections 4242; } http { server { listen 61234; } }'": 4242,
		"echo 'http { }'": 0,
		"exit 0":          0,
		// One that may not try its settings: nothing in files listens there.
		"echo 'events { worker_connections 4242; } http { server { listen 61234; } }'; exit 1": 0,
	} {
		if err := os.WriteFile(filepath.Join(dir, "nginx"), []byte("#!/bin/sh\n"+script+"\n"), 0o755); err != nil {
			t.Fatal(err)
		}
		if got := nginxRoom(t.Context(), dir, "61234"); got != want {
			t.Errorf("%s: %d, want %d", script, got, want)
		}
	}
}

// Without root the files say it.
func TestNginxFiles(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("PATH", dir)
	if err := os.WriteFile(filepath.Join(dir, "nginx"), []byte("#!/bin/sh\nexit 1\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	if got := nginxRoom(t.Context(), dir, "8443"); got != 0 {
		t.Errorf("no files: %d", got)
	}
	if err := os.Mkdir(filepath.Join(dir, "sites-enabled"), 0o755); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{"nginx.conf": "events { worker_connections 768; }", "sites-enabled/a": "server { listen 8443; }"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if got := nginxRoom(t.Context(), dir, "8443"); got != 768 {
		t.Errorf("from the files: %d", got)
	}
}
