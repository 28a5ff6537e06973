package exit

import (
	"syscall"

	"golang.org/x/sys/windows"
)

// Error numbers by what they say about a destination. A reset while connecting
// is a refusal by a middlebox; no local address means no such network here.
var (
	errnoRefused         = []syscall.Errno{windows.WSAECONNREFUSED, windows.WSAECONNRESET}
	errnoHostUnreachable = []syscall.Errno{windows.WSAEHOSTUNREACH, windows.WSAEHOSTDOWN}
	errnoNetUnreachable  = []syscall.Errno{windows.WSAENETUNREACH, windows.WSAENETDOWN, windows.WSAEADDRNOTAVAIL, windows.WSAEAFNOSUPPORT}
	errnoForbidden       = []syscall.Errno{windows.WSAEACCES}
)
