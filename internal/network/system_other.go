//go:build !linux && !windows && !darwin

package network

import (
	"context"
	"errors"
	"net"
	"time"
)

// inspect knows nothing of other systems.
func inspect([]net.Interface) map[int]detail { return nil }

// Notify implements [Source].
func (System) Notify(context.Context, func()) error { return errors.ErrUnsupported }

// Clock implements [Source].
func (System) Clock() time.Duration { return wallClock() }
