//go:build !linux

package capture

import "os/exec"

func group(*exec.Cmd) {}

// end ends the browser; its other processes see that and follow.
func end(cmd *exec.Cmd) { _ = cmd.Process.Kill() }
