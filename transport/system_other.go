//go:build !linux

package transport

import "syscall"

// tune leaves the socket as it is: congestion control is chosen per system here.
func tune(_, _ string, _ syscall.RawConn) error {
	_ = notSentLowat
	return nil
}

// setUnsent does nothing.
func setUnsent(syscall.RawConn, int) {}

// deliveryRate knows nothing.
func deliveryRate(syscall.RawConn) (rate float64, idle bool) { return 0, true }
