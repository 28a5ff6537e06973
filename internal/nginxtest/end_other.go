//go:build !linux

package nginxtest

import (
	"os"
	"syscall"
)

// terminate is the signal that every platform knows.
var terminate = os.Kill

func dieWithParent() *syscall.SysProcAttr { return nil }
