package main

import (
	"bytes"
	"context"
	"errors"
	"runtime"
	"strings"
	"testing"
	"time"

	"busel/internal/picture"
)

func TestClipboardWithoutPrograms(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("the clipboard is read on Linux only")
	}
	t.Setenv("PATH", t.TempDir())
	_, err := clipboard(t.Context(), func(name string) (string, bool) { return ":0", name == "DISPLAY" })
	if err == nil || !strings.Contains(err.Error(), "wl-paste or xclip is needed") {
		t.Errorf("got %v", err)
	}
}

// A program that never ends, and one that writes without end, are ended.
func TestOutputIsBounded(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("there are no /dev/zero and cat")
	}
	if _, err := output(t.Context(), "/bin/cat", []string{"/dev/zero"}); !errors.Is(err, picture.ErrTooLarge) {
		t.Errorf("got %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := output(ctx, "/bin/sleep", []string{"100"}); err == nil || !strings.Contains(err.Error(), "does not answer") {
		t.Errorf("got %v", err)
	}
	if got, err := output(t.Context(), "/bin/echo", []string{"x"}); err != nil || !bytes.Equal(got, []byte("x\n")) {
		t.Errorf("got %q, %v", got, err)
	}
}
