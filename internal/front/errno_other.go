//go:build !windows

package front

import "syscall"

// errnoAddrInUse is the system's word for a port that is taken.
const errnoAddrInUse = syscall.EADDRINUSE
