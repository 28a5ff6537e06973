//go:build linux

package prober

import (
	"crypto/tls"
	"io"
	"slices"
	"time"
)

// Step is something that a probe does on its connection.
type Step func(*visit)

// Send writes b as one segment.
func Send(b []byte) Step { return func(v *visit) { _, _ = v.Write(b) } }

// Pause lets time pass between two writes, as a slow client's network would.
func Pause(d time.Duration) Step { return func(v *visit) { sleep(v.ctx, d) } }

// Await reads until at least n bytes have come in all, or patience ends.
func Await(n int) Step {
	return func(v *visit) {
		_ = v.SetReadDeadline(time.Now().Add(v.patience))
		buf := make([]byte, 4096)
		for v.received() < n {
			if _, err := v.Read(buf); err != nil {
				return
			}
		}
		_ = v.SetReadDeadline(time.Time{})
	}
}

// Flight awaits the server's answer to a ClientHello: with its certificate it
// is longer than this.
func Flight() Step { return Await(1000) }

// Drain reads until the server ends the connection or patience does.
func Drain() Step {
	return func(v *visit) {
		if !v.drain(v.patience) {
			v.note("still open")
		}
	}
}

// FIN closes the sending half.
func FIN() Step { return func(v *visit) { _ = v.CloseWrite() } }

// RST resets the connection.
func RST() Step {
	return func(v *visit) {
		v.closed = true
		_ = v.SetLinger(0)
		_ = v.Close()
	}
}

// TLS does a handshake; opt, if not nil, changes the configuration.
func TLS(opt func(*tls.Config)) Step {
	return func(v *visit) {
		cfg := v.stack.Clone()
		if opt != nil {
			opt(cfg)
		}
		v.handshake(cfg)
	}
}

// Request sends text inside TLS.
func Request(text string) Step {
	return func(v *visit) {
		if _, err := io.WriteString(v.secure, text); err != nil {
			v.note("request: %s", errno(err))
		}
	}
}

// Response reads inside TLS until the server ends that.
func Response() Step { return func(v *visit) { _, _ = io.Copy(io.Discard, v.secure) } }

// Hear reads inside TLS until an alert or the end, and notes which.
func Hear() Step {
	return func(v *visit) {
		_ = v.SetReadDeadline(time.Now().Add(v.patience))
		_, err := io.ReadAll(v.secure)
		_ = v.SetReadDeadline(time.Time{})
		v.note("TLS ends with: %s", ending(err))
	}
}

// ending says what ended a reading to the end; nil is a close_notify.
func ending(err error) string {
	if err == nil {
		return "close_notify"
	}
	return errno(err)
}

// CloseNotify ends TLS and not TCP.
func CloseNotify() Step { return func(v *visit) { _ = v.secure.CloseWrite() } }

// pieces sends b in pieces of n bytes, and pauses behind each.
func pieces(b []byte, n int, pause time.Duration) (steps []Step) {
	for part := range slices.Chunk(b, n) {
		steps = append(steps, Send(part), Pause(pause))
	}
	return steps
}
