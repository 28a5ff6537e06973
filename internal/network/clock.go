//go:build !windows

package network

import "time"

// wallClock is for systems without a better clock: setting it looks like sleep.
func wallClock() time.Duration { return time.Duration(time.Now().UnixNano()) }
