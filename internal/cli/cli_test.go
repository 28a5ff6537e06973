package cli

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"busel/config"
)

func program() *Program {
	return &Program{Name: "prog", Summary: "prog does things.", Commands: []Command{
		{Name: "go", Args: "PLACE", Summary: "go somewhere", Help: "Goes.", Flags: func(fs *flag.FlagSet) Action {
			by := fs.String("travel-by", "foot", "`means` of travel")
			return func(_ context.Context, std Std, args []string) error {
				if len(args) != 1 {
					return &UsageError{"want one place"}
				}
				switch args[0] {
				case "moon":
					return Hint(errors.New("too far"), "take a rocket")
				case "atlantis":
					return config.Errors{{File: "f.toml", Line: 3, Key: "a.b", Reason: "no such place", Hint: "try Rome"}}
				}
				fmt.Fprintln(std.Out, args[0], "by", *by)
				return nil
			}
		}},
		NotYet("fly", "go through the air"),
	}}
}

func TestMainStatuses(t *testing.T) {
	env := map[string]string{}
	for _, c := range []struct {
		args     string
		env      string
		status   int
		out, err string // substrings
	}{
		{args: "go rome", out: "rome by foot"},
		{args: "go -travel-by ship rome", out: "rome by ship"},
		{args: "go rome -travel-by ship", out: "rome by ship"},
		{args: "go rome", env: "train", out: "rome by train"},
		{args: "go rome -travel-by ship", env: "train", out: "rome by ship"},
		{args: "go", status: WrongUsage, err: "prog: hint: see `prog go -h`"},
		{args: "go -x rome", status: WrongUsage, err: "-x"},
		{args: "swim", status: WrongUsage, err: `no command "swim"`},
		{args: "", status: WrongUsage, err: "Usage: prog COMMAND"},
		{args: "fly", status: Failed, err: "not available yet"},
		{args: "go moon", status: Failed, err: "prog: error: too far\nprog: hint: take a rocket\n"},
		{args: "go atlantis", status: WrongConfig, err: "prog: error: f.toml:3: a.b: no such place\nprog: hint: try Rome\n"},
		{args: "-h", out: "go somewhere"},
		{args: "help go", out: "-travel-by means"},
		{args: "go -h", out: "(default \"foot\")"},
		{args: "-version", out: "prog "},
	} {
		env["BUSEL_TRAVEL_BY"] = c.env
		var out, errOut bytes.Buffer
		std := Std{Out: &out, Err: &errOut, LookupEnv: func(k string) (string, bool) { v, ok := env[k]; return v, ok }}
		status := program().Main(t.Context(), strings.Fields(c.args), std)
		if status != c.status || !strings.Contains(out.String(), c.out) || !strings.Contains(errOut.String(), c.err) {
			t.Errorf("%q (env %q): status %d, want %d\nout: %s\nerr: %s", c.args, c.env, status, c.status, &out, &errOut)
		}
		if (c.out == "") != (out.Len() == 0) || (c.err == "") != (errOut.Len() == 0) {
			t.Errorf("%q: wrote to the wrong place\nout: %s\nerr: %s", c.args, &out, &errOut)
		}
	}
}

// What a program does alone is what a double click does.
func TestAlone(t *testing.T) {
	p := program()
	p.Alone = []string{"go", "rome"}
	var out bytes.Buffer
	none := func(string) (string, bool) { return "", false }
	if status := p.Main(t.Context(), nil, Std{In: strings.NewReader(""), Out: &out, Err: &out, LookupEnv: none}); status != Done || out.String() != "rome by foot\n" {
		t.Errorf("status %d, %q", status, &out)
	}
	out.Reset()
	p.Alone = []string{"go", "moon"}
	if status := p.Main(t.Context(), nil, Std{In: strings.NewReader(""), Out: &out, Err: &out, LookupEnv: none}); status != Failed || !strings.Contains(out.String(), "too far") {
		t.Errorf("status %d, %q", status, &out)
	}
}

func TestSize(t *testing.T) {
	for n, want := range map[uint64]string{
		0: "0 B", 999: "999 B", 1000: "1.0 kB", 12_345: "12.3 kB", 999_949: "999.9 kB", 999_950: "1.0 MB",
		5_000_000_000: "5.0 GB", 1<<64 - 1: "18.4 EB",
	} {
		if got := Size(n); got != want {
			t.Errorf("%d: %q, want %q", n, got, want)
		}
	}
}

// Durations are readable in both forms, and a terminal shows the time of day.
func TestLogger(t *testing.T) {
	for _, terminal := range []bool{false, true} {
		var b bytes.Buffer
		Std{Err: &b, ErrTerminal: terminal}.Logger(slog.LevelInfo).Info("done", "took", 1500*time.Millisecond)
		if !strings.Contains(b.String(), "1.5s") {
			t.Errorf("duration is written as %s", &b)
		}
		if dated := strings.Contains(b.String(), time.Now().Format("2006-")); dated == terminal {
			t.Errorf("terminal %v: %s", terminal, &b)
		}
	}
}
