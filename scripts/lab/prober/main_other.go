//go:build !linux

package main

import (
	"fmt"
	"os"
)

func main() {
	fmt.Fprintln(os.Stderr, "prober: error: it needs Linux, like the lab")
	os.Exit(2)
}
