//go:build !linux

package main

import "busel/internal/checkup"

// machine knows nothing of other systems.
func (c *checker) machine(*checkup.Facts) {}

// openFiles is not known here.
func openFiles() uint64 { return 0 }

// memoryMax is not known here.
func memoryMax() int64 { return 0 }
