//go:build !linux

package cli

// Harden does nothing here.
func Harden() error { return nil }
