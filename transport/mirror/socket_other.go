//go:build !linux

package mirror

import "net"

// awaitReset waits for done: a reset after EOF is not visible here. Relays are
// meant for Linux; elsewhere a stranger sees a FIN where the cover sent both.
func awaitReset(_ net.Conn, done <-chan struct{}) bool {
	<-done
	return false
}

// forget leaves it to the kernel how long it keeps a closed connection.
func forget(net.Conn) {}

// canRead is whether readDescriptor works here.
const canRead = false

func readDescriptor(uintptr, []byte) (int, error) { return 0, nil }

func somethingToRead(uintptr) bool { return true }
