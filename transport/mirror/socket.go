package mirror

import "net"

// halfCloser is what both ends of a relay's connection are.
type halfCloser interface {
	net.Conn
	CloseWrite() error
}

// reset ends a connection with RST instead of FIN.
func reset(c net.Conn) {
	if t, ok := c.(interface{ SetLinger(int) error }); ok {
		_ = t.SetLinger(0)
	}
	_ = c.Close()
}
