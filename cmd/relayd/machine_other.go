//go:build !linux

package main

import "busel/internal/checkup"

// machine knows nothing of other systems.
func (c *checker) machine(*checkup.Facts) {}
