//go:build !unix

package handover

import (
	"context"
	"log/slog"
	"net"
	"os"
	"syscall"

	"busel/transport"
)

// Successor is the new process, seen from the old one: there is none.
type Successor struct{}

var _ transport.Listener = (*Successor)(nil)

// Start does not work here.
func Start([]string, *slog.Logger) (*Successor, error) { return nil, ErrUnsupported }

// PID is 0.
func (*Successor) PID() int { return 0 }

// Give does nothing.
func (*Successor) Give(string, syscall.Conn) error { return ErrUnsupported }

// Ready does nothing.
func (*Successor) Ready(context.Context) error { return ErrUnsupported }

// Abort does nothing.
func (*Successor) Abort() {}

// Go does nothing.
func (*Successor) Go() error { return ErrUnsupported }

// Serve does nothing.
func (*Successor) Serve(context.Context, func() any, func()) error { return ErrUnsupported }

// Accept does nothing.
func (*Successor) Accept(context.Context) (transport.Pending, error) { return nil, net.ErrClosed }

// Close does nothing.
func (*Successor) Close() error { return nil }

// Elder is the old process, seen from the new one: there is none.
type Elder struct{}

// Inherit returns nil.
func Inherit(func(string) (string, bool)) (*Elder, error) { return nil, nil }

// Take returns nil.
func (*Elder) Take(string) *os.File { return nil }

// Ready does nothing.
func (*Elder) Ready(context.Context) error { return ErrUnsupported }

// Fail does nothing.
func (*Elder) Fail(error) {}

// Run does nothing.
func (*Elder) Run(context.Context) error { return ErrUnsupported }

// Gone is nil.
func (*Elder) Gone() <-chan struct{} { return nil }

// Reload does nothing.
func (*Elder) Reload() error { return ErrUnsupported }

// Status does nothing.
func (*Elder) Status(any) error { return ErrUnsupported }

// Offer does nothing.
func (*Elder) Offer(context.Context, transport.Pending) (bool, error) { return false, nil }
