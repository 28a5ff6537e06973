package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"time"

	"busel/internal/cli"
	"busel/internal/picture"
)

// clipboardTimeout is how long a program that reads the clipboard may take: it
// asks another program for what that one has copied.
const clipboardTimeout = 5 * time.Second

// clipboardTool is a program that reads the clipboard of a kind of desktop.
type clipboardTool struct {
	name    string
	display string   // the variable that says that such a desktop is there
	list    []string // arguments to list the types of what is copied
	get     []string // arguments to write it, before its type
}

func clipboardTools() []clipboardTool {
	return []clipboardTool{
		{"wl-paste", "WAYLAND_DISPLAY", []string{"--list-types"}, []string{"--no-newline", "--type"}},
		{"xclip", "DISPLAY", []string{"-selection", "clipboard", "-o", "-t", "TARGETS"}, []string{"-selection", "clipboard", "-o", "-t"}},
	}
}

// clipboard returns what is on the clipboard: a picture if one is there, else
// text.
func clipboard(ctx context.Context, env func(string) (string, bool)) ([]byte, error) {
	const instead = "paste the invite's text, or save the picture and name it: client add invite.png"
	if runtime.GOOS != "linux" {
		return nil, cli.Hint(errors.New("the clipboard is read on Linux only so far"), instead)
	}
	desktop := false
	for _, tool := range clipboardTools() {
		if display, _ := env(tool.display); display == "" {
			continue
		}
		desktop = true
		path, err := exec.LookPath(tool.name)
		if err != nil {
			continue
		}
		data, err := tool.read(ctx, path)
		if err != nil {
			return nil, cli.Hint(fmt.Errorf("the clipboard: %w", err), instead)
		}
		return data, nil
	}
	if !desktop {
		return nil, cli.Hint(errors.New("there is no desktop here, and so no clipboard"), instead)
	}
	return nil, cli.Hint(errors.New("wl-paste or xclip is needed to read the clipboard, and neither is installed"),
		"install wl-clipboard (Wayland) or xclip (X11), or "+instead)
}

func (t *clipboardTool) read(ctx context.Context, path string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, clipboardTimeout)
	defer cancel()
	listed, err := output(ctx, path, t.list)
	if err != nil {
		return nil, err
	}
	types := strings.Fields(string(listed))
	for _, kind := range []string{"image/png", "image/jpeg", "text/plain;charset=utf-8", "UTF8_STRING", "text/plain", "TEXT", "STRING"} {
		if slices.Contains(types, kind) {
			return output(ctx, path, append(slices.Clone(t.get), kind))
		}
	}
	return nil, errors.New("neither a picture nor text is on it")
}

// output runs a program and returns what it writes. Its complaints may show what
// is copied, so they stay with it.
func output(ctx context.Context, path string, args []string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.WaitDelay = time.Second
	var out bounded
	cmd.Stdout = &out
	switch err := cmd.Run(); {
	case ctx.Err() != nil:
		return nil, errors.New("the program that copied it does not answer")
	case out.full:
		return nil, picture.ErrTooLarge
	case err != nil:
		return nil, errors.New("nothing is on it")
	}
	return out.buf.Bytes(), nil
}

// bounded keeps as much as a picture may have. The buffer is not embedded: its
// ReadFrom would go around Write.
type bounded struct {
	buf  bytes.Buffer
	full bool
}

func (b *bounded) Write(p []byte) (int, error) {
	if b.buf.Len()+len(p) > picture.MaxFile {
		b.full = true
		return 0, picture.ErrTooLarge
	}
	return b.buf.Write(p)
}
