//go:build linux

package main

import (
	"bytes"
	"encoding/json"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"busel/internal/nginxtest"
)

// TestProber holds a site against itself, and against a server that does not
// know TLS.
func TestProber(t *testing.T) {
	site := nginxtest.Run(t, nginxtest.Config{RSA: true, HeaderTimeout: time.Second})
	flight := filepath.Join(t.TempDir(), "flight")
	if err := os.WriteFile(flight, append([]byte{0x16, 3, 1, 0, 100}, make([]byte, 100)...), 0o600); err != nil {
		t.Fatal(err)
	}
	mute := silent(t)
	for _, tt := range []struct {
		args   []string
		status int
		want   string // on either output
	}{
		{[]string{"-a", site.Address, "-b", site.Address, "-only", "frolov"}, 0, "0 differences in 8 probes"},
		{[]string{"-a", site.Address, "-b", site.Address, "-only", "R", "-replay", flight, "-delays", "0s,50ms"}, 0, "0 differences in "},
		{[]string{"-a", site.Address, "-b", mute, "-only", "frolov: plain HTTP", "-patience", "200ms"}, 1, "still open"},
		{[]string{"-a", site.Address, "-b", "example.org:443"}, 2, "want an IP address and a port"},
		{[]string{"-a", site.Address, "-b", site.Address, "-only", "nonesuch"}, 2, "no probe"},
		{[]string{"-a", site.Address, "-b", site.Address, "-replay", "/nonexistent"}, 2, "no such file"},
		{[]string{"-a", site.Address, "-b", site.Address, "-replay", flight, "-delays", "soon"}, 2, "want durations"},
		{[]string{"-a", "127.0.0.1:1", "-b", site.Address, "-only", "frolov: nothing"}, 2, "refused"},
		{[]string{"-nonesuch"}, 2, "not defined"},
		{[]string{"-a", site.Address, "-b", site.Address, "more"}, 2, "unexpected"},
	} {
		var out bytes.Buffer
		status := run(t.Context(), append([]string{"-name", site.Name}, tt.args...), &out, &out)
		if status != tt.status || !strings.Contains(out.String(), tt.want) {
			t.Errorf("%q: status %d, want %d; says %s\nwant %q in it", tt.args, status, tt.status, &out, tt.want)
		}
	}
	var out bytes.Buffer
	if status := run(t.Context(), []string{"-a", site.Address, "-b", mute, "-only", "frolov: Modbus", "-patience", "200ms", "-json"}, &out, io.Discard); status != 1 {
		t.Errorf("status %d, want 1", status)
	}
	var r report
	if err := json.Unmarshal(out.Bytes(), &r); err != nil || r.Probes != 1 || len(r.Differences) == 0 || r.Differences[0].Probe != "frolov: Modbus" {
		t.Errorf("%v: %s", err, &out)
	}
}

// silent accepts connections and says nothing.
func silent(t *testing.T) string {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	t.Cleanup(func() {
		_ = l.Close()
		wg.Wait()
	})
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer c.Close()
				_, _ = io.Copy(io.Discard, c)
			})
		}
	})
	return l.Addr().String()
}
