//go:build !linux

package main

import (
	"context"
	"errors"
)

var errLinux = errors.New("the lab needs Linux: its networks are namespaces")

func ask(context.Context, string, []string) error { return errLinux }

func (o *options) run(context.Context) error {
	_, err := o.chosen()
	return errors.Join(err, errLinux)
}
