//go:build !windows

package exit

import "syscall"

// Error numbers by what they say about a destination. A reset while connecting
// is a refusal by a middlebox; no local address means no such network here.
var (
	errnoRefused         = []syscall.Errno{syscall.ECONNREFUSED, syscall.ECONNRESET}
	errnoHostUnreachable = []syscall.Errno{syscall.EHOSTUNREACH, syscall.EHOSTDOWN}
	errnoNetUnreachable  = []syscall.Errno{syscall.ENETUNREACH, syscall.ENETDOWN, syscall.EADDRNOTAVAIL, syscall.EAFNOSUPPORT}
	errnoForbidden       = []syscall.Errno{syscall.EACCES, syscall.EPERM}
)
