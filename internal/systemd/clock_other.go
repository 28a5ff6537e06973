//go:build !linux

package systemd

import "time"

// monotonic is 0: systemd is a program for Linux.
func monotonic() time.Duration { return 0 }
