package cli

import (
	"context"
	"flag"
	"fmt"
	"log"
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
			log.Print("what net/http tells of a site")
			dumpable, err := unix.PrctlRetInt(unix.PR_GET_DUMPABLE, 0, 0, 0, 0)
			fmt.Fprintln(std.Out, dumpable)
			return err
		}
	}}}}))
}

// TestHardened: whatever the command, no core is written, no other process of the
// user looks into the memory, and nothing that net/http tells is seen.
func TestHardened(t *testing.T) {
	cmd := exec.Command(os.Args[0], "short")
	cmd.Env = append(os.Environ(), "BUSEL_TEST_PROGRAM=1")
	if out, err := cmd.CombinedOutput(); err != nil || string(out) != "0\n" {
		t.Errorf("it says %q, %v; want PR_GET_DUMPABLE to be 0 and nothing else", out, err)
	}
}
