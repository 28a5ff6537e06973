//go:build !unix

package session

import "io"

// readiness is not known on this system: see source_unix.go.
type readiness struct{}

func newReadiness(io.Reader) *readiness { return nil }

func (*readiness) read(*pools) (*chunk, error) { return nil, io.EOF }
