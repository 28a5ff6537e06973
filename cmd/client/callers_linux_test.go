package main

import (
	"bytes"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"busel/config"
)

// connectAs has a program of that name connect to a listener, until the test ends.
func connectAs(t *testing.T, name string, ln net.Listener) *net.TCPConn {
	t.Helper()
	bash, err := exec.LookPath("bash")
	if err != nil {
		t.Skip(err)
	}
	data, err := os.ReadFile(bash)
	if err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(program, data, 0o700); err != nil {
		t.Fatal(err)
	}
	_, port, _ := net.SplitHostPort(ln.Addr().String())
	cmd := exec.Command(program, "-c", "exec 3<>/dev/tcp/127.0.0.1/"+port+"; read -r line <&3")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	c, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		c.Close()
		cmd.Wait()
	})
	return c.(*net.TCPConn)
}

// TestCallers: who is admitted, who is heard, and what the log says of it.
func TestCallers(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	fox, other := connectAs(t, "firefox-esr", ln), connectAs(t, "malware", ln)
	var log bytes.Buffer
	open := func(set config.Client) *callers {
		t.Helper()
		log.Reset()
		c, err := newCallers(set, slog.New(slog.NewTextHandler(&log, nil)))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(c.close)
		if c.peers == nil {
			t.Skip("the system does not tell")
		}
		return c
	}

	c := open(config.Client{})
	for _, conn := range []*net.TCPConn{fox, other} {
		if !c.admit()(conn) {
			t.Error("a program of this user is turned away")
		}
	}
	// A look is learned from browsers only, and looking for them is no burden.
	for _, x := range []struct {
		conn *net.TCPConn
		want bool
	}{{other, false}, {fox, true}} {
		c.next = time.Time{}
		begin := time.Now()
		if got := c.browser(x.conn); got != x.want {
			t.Errorf("a browser: %t, want %t", got, x.want)
		}
		if took := time.Since(begin); c.next.Before(begin) || c.next.After(begin.Add((effort+1)*took)) {
			t.Errorf("after %v the next is looked for after %v", took, c.next.Sub(begin))
		}
	}
	if c.next = time.Now().Add(time.Hour); c.browser(fox) {
		t.Error("programs are looked for all the time")
	}
	if log.Len() > 0 {
		t.Errorf("the log says %s", &log)
	}

	c = open(config.Client{Programs: []string{"chromium", "firefox-esr"}})
	for range 3 {
		if !c.admit()(fox) || c.admit()(other) {
			t.Error("the list is not kept to")
		}
	}
	if strings.Count(log.String(), "not in the list") != 1 || strings.Contains(log.String(), "malware") {
		t.Errorf("the log says %s", &log)
	}

	if c = open(config.Client{Allow: config.AllowAnyone}); c.admit() != nil || c.admitUDP() != nil {
		t.Error("somebody is asked for where everybody may")
	}
}

// TestCallersUnknown: where the system does not tell, all may, unless the settings say
// otherwise; and looks are learned from whatever connects.
func TestCallersUnknown(t *testing.T) {
	c := &callers{log: slog.New(slog.DiscardHandler)}
	if c.admit() != nil || c.admitUDP() != nil || !c.browser(nil) {
		t.Error("somebody is asked for")
	}
}
