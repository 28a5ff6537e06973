//go:build !linux

package transport

import "syscall"

// tune leaves the socket as it is: congestion control is chosen per system here.
func tune(_, _ string, _ syscall.RawConn) error {
	_ = notSentLowat
	return nil
}
