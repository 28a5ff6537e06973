package mirror

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"syscall"

	"busel/transport"
)

var (
	errTampered  = errors.New("a covert record was changed on the way")
	errCoverDone = errors.New("the cover ended the connection")
	// errHelloRefused: the cover's TLS does not take a fresh hello.
	errHelloRefused = errors.New("the cover refuses the hello")
)

// bare strips addresses from a network error, so that it may be logged.
func bare(err error) error {
	for {
		op, ok := errors.AsType[*net.OpError](err)
		if !ok {
			return err
		}
		if op.Err == nil {
			return errors.New(op.Op)
		}
		err = op.Err
	}
}

// wanting reports whether a dial failed for want of something on this machine,
// which says nothing about the other end.
func wanting(err error) bool {
	for _, e := range []error{syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM, syscall.EADDRNOTAVAIL} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// classify is the failure kind of a socket's error.
func classify(err error) transport.Failure {
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		return transport.Refused
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE), errors.Is(err, syscall.ECONNABORTED):
		return transport.Reset
	case errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, syscall.ETIMEDOUT),
		errors.Is(err, context.DeadlineExceeded), errors.Is(err, syscall.EHOSTUNREACH):
		return transport.Timeout
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return transport.ClosedEarly
	}
	return "" // local
}
