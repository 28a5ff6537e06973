package censor

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"busel/internal/control"
	"busel/scripts/lab/censor/rule"
)

// still is a port that nothing comes from.
type still chan struct{}

func (s still) ReadPacket([]byte) (int, error) { <-s; return 0, fs.ErrClosed }
func (s still) WritePacket([]byte) error       { return nil }
func (s still) Close() error                   { return nil }

func TestControl(t *testing.T) {
	c, err := New(Config{Client: still(nil), World: still(nil), Up: Link{Delay: ms}})
	if err != nil {
		t.Fatal(err)
	}
	var loaded [][]string
	ctl := NewControl(c, func(files []string) (Judge, error) {
		if files[0] == "bad.toml" {
			return nil, errors.New("bad.toml: no such rule")
		}
		loaded = append(loaded, files)
		return judgeFunc(func(rule.Direction, []byte) rule.Verdict { return rule.Verdict{Drop: true} }), nil
	}, []string{"first.toml"})
	dir := t.TempDir()
	socket := filepath.Join(dir, "censor.sock")
	ctx, cancel := context.WithCancel(context.Background())
	ready, ended := make(chan struct{}), make(chan error, 1)
	go func() { ended <- ctl.Serve(ctx, socket, func() { close(ready) }, nil) }()
	<-ready
	ask := func(op string, args any) (s Status, err error) {
		err = control.Call(t.Context(), socket, op, args, &s)
		return s, err
	}

	s, err := ask("status", nil)
	if err != nil || s.Up.Link.Delay != "1ms" || !slices.Equal(s.Rules, []string{"first.toml"}) {
		t.Errorf("%+v, %v", s, err)
	}
	s, err = ask("link", LinkArgs{Down: &LinkText{Delay: "50ms", Loss: 0.1, Rate: 1e6, Queue: 9000}})
	if err != nil || s.Up.Link.Delay != "1ms" || s.Down.Link.Rate != 1e6 {
		t.Errorf("%+v, %v", s, err)
	}
	if _, down := c.Links(); down != (Link{Delay: 50 * ms, Loss: 0.1, Rate: 1e6, Queue: 9000}) {
		t.Errorf("%+v", down)
	}
	s, err = ask("rules", RulesArgs{Files: []string{"a.toml", "b.toml"}})
	if err != nil || len(s.Rules) != 2 || len(loaded) != 1 || c.judge.Load() == nil || len(s.Counts) != 1 || s.Counts[0].Packets != 7 {
		t.Errorf("%+v, %v, loaded %q", s, err, loaded)
	}
	if s, err = ask("rules", RulesArgs{}); err != nil || len(s.Rules) != 0 || c.judge.Load() != nil {
		t.Errorf("%+v, %v", s, err)
	}
	file := filepath.Join(dir, "x.pcapng")
	if s, err = ask("capture", CaptureArgs{File: file}); err != nil || s.Capture != file {
		t.Errorf("%+v, %v", s, err)
	}
	c.record(rule.Up, hasPassed, []byte{0x45, 0, 0, 1})

	for _, bad := range []struct {
		op   string
		args any
		says string
	}{
		{"stop", nil, "there are status"},
		{"link", LinkArgs{Up: &LinkText{Loss: 2}}, "up: loss 2"},
		{"link", LinkArgs{Up: &LinkText{Delay: "50"}}, "delay"},
		{"link", map[string]int{"left": 1}, "unknown field"},
		{"rules", RulesArgs{Files: []string{"bad.toml"}}, "no such rule"},
		{"capture", CaptureArgs{File: filepath.Join(dir, "none", "x")}, "capture"},
	} {
		if _, err := ask(bad.op, bad.args); err == nil || !strings.Contains(err.Error(), bad.says) {
			t.Errorf("%s %+v: %v, want %q", bad.op, bad.args, err, bad.says)
		}
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if info, err := os.Stat(file); err != nil || info.Size() != int64(len(captureHeader())+blockSize(4)) {
		t.Errorf("the capture was not completed: %v, %v", info, err)
	}
}
