package front

import "golang.org/x/sys/windows"

// errnoAddrInUse is the system's word for a port that is taken.
const errnoAddrInUse = windows.WSAEADDRINUSE
