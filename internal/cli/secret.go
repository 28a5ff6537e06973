package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/term"
)

// maxSecret bounds a line that is read as a secret, in bytes.
const maxSecret = 4 << 10

// Asks reports whether In is a terminal, so that a person can be asked.
func (s Std) Asks() bool {
	f, ok := s.In.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// Secret asks for one line that nobody shall see: typed unseen on a terminal, or else the
// next line of In. The error is [io.EOF] if there is none, and the context's if that ends.
func (s Std) Secret(ctx context.Context, prompt string) (string, error) {
	if !s.Asks() {
		return readLine(s.In)
	}
	fd := int(s.In.(*os.File).Fd())
	before, err := term.GetState(fd)
	if err != nil {
		return "", err
	}
	fmt.Fprint(s.Err, prompt)
	type line struct {
		text []byte
		err  error
	}
	typed := make(chan line, 1)
	go func() { // until a line is typed, or the program ends
		text, err := term.ReadPassword(fd)
		typed <- line{text, err}
	}()
	select {
	case l := <-typed:
		fmt.Fprintln(s.Err)
		return string(l.text), l.err
	case <-ctx.Done():
		fmt.Fprintln(s.Err)
		return "", errors.Join(context.Cause(ctx), term.Restore(fd, before)) // or the terminal stays mute
	}
}

// Line asks for one line that may be seen, likewise.
func (s Std) Line(prompt string) (string, error) {
	fmt.Fprint(s.Err, prompt)
	return readLine(s.In)
}

// readLine reads a line and nothing behind it.
func readLine(r io.Reader) (string, error) {
	var line []byte
	for {
		var b [1]byte
		_, err := io.ReadFull(r, b[:])
		switch {
		case err == io.EOF && len(line) > 0, err == nil && b[0] == '\n':
			return strings.TrimSuffix(string(line), "\r"), nil
		case err != nil:
			return "", err
		case len(line) == maxSecret:
			return "", errors.New("input is too long")
		}
		line = append(line, b[0])
	}
}
