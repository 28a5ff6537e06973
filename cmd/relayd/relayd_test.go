package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"busel/config"
	"busel/internal/cli"
	"busel/transport/quic"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"relayd": func() { os.Exit(cli.Start(program())) }})
}

func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{Dir: "testdata", Cmds: map[string]func(*testscript.TestScript, bool, []string){
		"exit-relay": exitRelay,
	}})
}

// exitRelay writes the invite in a file into the settings of a relay.
func exitRelay(ts *testscript.TestScript, _ bool, args []string) {
	settings := ts.MkAbs(args[0] + "/relayd.toml")
	text := ts.ReadFile(settings)
	old := `relay = ""`
	if !strings.Contains(text, old) {
		ts.Fatalf("no %s in the settings", old)
	}
	text = strings.Replace(text, old, fmt.Sprintf("relay = %q", strings.TrimSpace(ts.ReadFile(args[1]))), 1)
	ts.Check(os.WriteFile(settings, []byte(text), 0o600))
}

// Who forgets sudo is told so, and who has a relay of his own, or no relay at all, is not.
func TestRootsAlone(t *testing.T) {
	made, empty := t.TempDir(), t.TempDir()
	if err := os.WriteFile(filepath.Join(made, "relayd.toml"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		own, roots string
		want       bool
	}{
		{empty, made, true},
		{filepath.Join(empty, "none"), made, true},
		{made, made, false},
		{made, empty, false},
		{empty, filepath.Join(empty, "none"), false},
	} {
		if got := rootsAlone(tt.own, tt.roots); got != tt.want {
			t.Errorf("%+v: %t", tt, got)
		}
	}
}

// What an invite says of QUIC, and where the relay listens for it.
func TestPortRange(t *testing.T) {
	full := config.Ports{Low: 400, High: 400 + config.MaxPorts - 1}
	for _, c := range []struct {
		cover string
		ports config.Ports
		want  []string // options
	}{
		{"127.0.0.1:8443", config.Ports{}, []string{""}},
		{"127.0.0.1:8443", config.Ports{Low: 7, High: 7}, []string{"port=7"}},
		{"127.0.0.1:8443", full, []string{"ports=400-463"}},
		{config.CoverBuiltin, config.Ports{}, []string{"h3,disguise"}},
		{config.CoverBuiltin, full, []string{"h3,disguise", "ports=400-463"}},
	} {
		set := config.Relay{Cover: c.cover, QUICPorts: c.ports, Listen: []string{":443", "[::1]:443", "[::1]:444"}}
		var options []string
		for _, way := range ways("quic", &set) {
			options = append(options, way.Options)
			if err := quic.CheckOptions(way.Options); err != nil || way.Name != "quic" {
				t.Errorf("clients cannot use %+v: %v", way, err)
			}
		}
		if !slices.Equal(options, c.want) {
			t.Errorf("%s, %v: an invite says %q, want %q", c.cover, c.ports, options, c.want)
		}
		addrs := portRange(&set)
		if c.ports.Low == 0 {
			if len(addrs) > 0 {
				t.Errorf("without a range the relay listens on %q", addrs)
			}
			continue
		}
		if n := 2 * int(c.ports.High-c.ports.Low+1); len(addrs) != n || addrs[0] != ":"+c.ports.String()[:len(addrs[0])-1] || addrs[n-1][:6] != "[::1]:" {
			t.Errorf("%v: the relay listens on %q", c.ports, addrs)
		}
	}
	if got := ways("mirror", &config.Relay{QUICPorts: full}); len(got) != 1 || got[0] != (config.Transport{Name: "mirror"}) {
		t.Errorf("of mirror an invite says %+v", got)
	}
}
