package scratch

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

const victimVariable = "SCRATCH_TEST_VICTIM"

func TestMain(m *testing.M) {
	parent := os.Getenv(victimVariable)
	if parent == "" {
		os.Exit(m.Run())
	}
	f, err := makeIn(parent, "lab-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Println(f.Path)
	io.Copy(io.Discard, os.Stdin)
}

func exists(t *testing.T, path string) bool {
	t.Helper()
	_, err := os.Stat(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	return err == nil
}

// The folder of a process that was killed goes with the next one that is made;
// that of a process that lives, and folders of other names, stay.
func TestKilled(t *testing.T) {
	parent := t.TempDir()
	other := filepath.Join(parent, "other-1")
	if err := os.Mkdir(other, 0o700); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), victimVariable+"="+parent)
	cmd.Stderr = os.Stderr
	if _, err := cmd.StdinPipe(); err != nil { // open, until it is killed
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	theirs := strings.TrimSpace(line)
	if err := os.WriteFile(filepath.Join(theirs, "file"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}

	ours, err := makeIn(parent, "lab-")
	if err != nil {
		t.Fatal(err)
	}
	if !exists(t, theirs) {
		t.Error("the folder of a process that lives is gone")
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	next, err := makeIn(parent, "lab-")
	if err != nil {
		t.Fatal(err)
	}
	if exists(t, theirs) || !exists(t, ours.Path) || !exists(t, other) {
		t.Errorf("orphan %v, ours %v, other %v", exists(t, theirs), exists(t, ours.Path), exists(t, other))
	}
	for _, f := range []*Folder{ours, next} {
		if err := f.Remove(); err != nil || exists(t, f.Path) {
			t.Error(err)
		}
	}
}

// Many at a time do not take each other's for orphans.
func TestConcurrent(t *testing.T) {
	parent := t.TempDir()
	var all sync.WaitGroup
	for range 20 {
		all.Go(func() {
			f, err := makeIn(parent, "lab-")
			if err != nil {
				t.Error(err)
				return
			}
			if err := os.WriteFile(filepath.Join(f.Path, "x"), nil, 0o600); err != nil {
				t.Error(err)
			}
			if err := f.Remove(); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if left, _ := filepath.Glob(parent + "/*"); len(left) != 0 {
		t.Errorf("left: %q", left)
	}
}
