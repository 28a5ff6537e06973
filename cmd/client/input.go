package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"busel/config"
	"busel/internal/cli"
	"busel/internal/picture"
)

// readInvite reads the one invite that the arguments of client add mean, and the
// clipboard if it is asked for. An argument is a file, - for standard input, or
// text; an invite may be spread over several of them.
func readInvite(ctx context.Context, std cli.Std, args []string, fromClipboard bool) (*config.Bundle, error) {
	var texts, words []string
	take := func(name string, data []byte) error {
		found := []string{string(data)}
		if picture.Is(data) {
			var err error
			if found, err = picture.Read(ctx, data); err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
		}
		texts = append(texts, found...)
		return nil
	}
	if fromClipboard {
		data, err := clipboard(ctx, std.LookupEnv)
		if err != nil {
			return nil, err
		}
		if err := take("the clipboard", data); err != nil {
			return nil, err
		}
	}
	for _, arg := range args {
		if arg == "-" {
			data, err := cli.ReadInput(std.In, picture.MaxFile)
			if err != nil {
				return nil, fmt.Errorf("standard input: %w", err)
			}
			if err := take("standard input", data); err != nil {
				return nil, err
			}
			continue
		}
		data, err := readFile(arg)
		switch {
		case err == nil:
			err = take(arg, data)
		case !namesFile(arg):
			words, err = append(words, arg), nil
		}
		if err != nil {
			return nil, err
		}
	}
	// An unquoted invite with spaces is several arguments.
	texts = append(texts, strings.Join(words, " "))
	bundle, err := config.ParseText(strings.Join(texts, "\n"))
	if errors.Is(err, config.ErrIncomplete) {
		err = cli.Hint(err, "name all its pictures, or paste all its texts: client add PICTURE PICTURE ...")
	}
	return bundle, err
}

// namesFile reports whether an argument is meant as the name of a file, though
// there may be none: an invite has no such ending, and is no path that exists.
func namesFile(arg string) bool {
	if _, err := os.Stat(arg); err == nil {
		return true
	}
	endings := []string{".png", ".jpg", ".jpeg", ".gif", ".webp", ".heic", ".avif", ".bmp", ".pdf", ".txt"}
	return slices.Contains(endings, strings.ToLower(filepath.Ext(arg)))
}

// readFile reads a file of no more bytes than a picture may have.
func readFile(name string) ([]byte, error) {
	f, err := os.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("there is no file %s", name)
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if info, err := f.Stat(); err == nil && info.IsDir() {
		return nil, fmt.Errorf("%s is a directory; name the picture in it", name)
	}
	data, err := cli.ReadInput(f, picture.MaxFile)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return data, nil
}
