package cli

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"testing"

	"golang.org/x/sys/unix"
)

// TestMain is a program of one command if it is told so.
func TestMain(m *testing.M) {
	if os.Getenv("BUSEL_TEST_PROGRAM") == "" {
		os.Exit(m.Run())
	}
	os.Exit(Start(&Program{Name: "program", Commands: []Command{{Name: "short", Flags: func(*flag.FlagSet) Action {
		return func(_ context.Context, std Std, _ []string) error {
			dumpable, err := unix.PrctlRetInt(unix.PR_GET_DUMPABLE, 0, 0, 0, 0)
			fmt.Fprintln(std.Out, dumpable)
			return err
		}
	}}}}))
}

// TestHardened: whatever the command, no core is written, and no other process of the
// user looks into the memory.
func TestHardened(t *testing.T) {
	cmd := exec.Command(os.Args[0], "short")
	cmd.Env = append(os.Environ(), "BUSEL_TEST_PROGRAM=1")
	if out, err := cmd.CombinedOutput(); err != nil || string(out) != "0\n" {
		t.Errorf("PR_GET_DUMPABLE is %q, %v", out, err)
	}
}
