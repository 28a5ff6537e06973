package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"

	"busel/internal/control"
	"busel/scripts/lab/censor"
	"busel/scripts/lab/censor/rule"
)

// serveControl lets others ask and change the bed's censor until ctx ends, and
// returns the socket.
func (b *bed) serveControl(ctx context.Context) (socket string, err error) {
	socket = filepath.Join(b.world.Dir, "control.sock")
	ctx, cancel := context.WithCancel(ctx)
	ready := make(chan struct{})
	ended := make(chan error, 1)
	c := censor.NewControl(b.world.Censor, loadRules, nil)
	go func() { ended <- c.Serve(ctx, socket, func() { close(ready) }, slog.New(slog.DiscardHandler)) }()
	b.closers = append(b.closers, func() error {
		cancel()
		return <-ended
	})
	select {
	case <-ready:
		return socket, nil
	case err := <-ended:
		ended <- err
		return "", err
	}
}

// loadRules reads rule files for a censor.
func loadRules(names []string) (censor.Judge, error) {
	files, err := readAll(names)
	if err != nil {
		return nil, err
	}
	return newSet(files), nil
}

// newSet judges with chances that are the same in each run.
func newSet(files []*rule.File) *rule.Set {
	return rule.NewSet(rand.New(rand.NewPCG(1, 2)), files...)
}

func readAll(names []string) (files []*rule.File, err error) {
	for _, name := range names {
		f, err := readRules(name)
		if err != nil {
			return nil, err
		}
		files = append(files, f)
	}
	return files, nil
}

// ask sends a request to the censor of a shell and prints the answer.
func ask(ctx context.Context, socket string, words []string) error {
	if len(words) == 0 {
		words = []string{"status"}
	}
	var args any
	switch op, rest := words[0], words[1:]; op {
	case "rules":
		args = censor.RulesArgs{Files: rest}
	case "capture":
		var file string
		if len(rest) > 0 {
			var err error
			if file, err = filepath.Abs(rest[0]); err != nil {
				return err
			}
		}
		args = censor.CaptureArgs{File: file}
	case "link":
		if len(rest) != 1 {
			return errors.New(`link wants one argument, such as '{"up": {"delay": "50ms", "loss": 0.05}}'`)
		}
		args = json.RawMessage(rest[0])
	}
	var answer json.RawMessage
	if err := control.Call(ctx, socket, words[0], args, &answer); err != nil {
		return err
	}
	_, err := fmt.Fprintf(os.Stdout, "%s\n", answer)
	return err
}
