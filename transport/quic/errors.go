package quic

import (
	"context"
	"errors"
	"io"
	"net"
	"os"

	quicgo "github.com/quic-go/quic-go"

	"busel/transport"
)

// judge says how a live carrier ended.
func judge(err error) error {
	if _, ok := errors.AsType[*transport.CarrierError](err); ok {
		return err
	}
	var failure transport.Failure
	app, isApp := errors.AsType[*quicgo.ApplicationError](err)
	_, idle := errors.AsType[*quicgo.IdleTimeoutError](err)
	switch {
	case err == io.EOF, isApp && app.Remote && (app.ErrorCode == 0 || app.ErrorCode == noError):
		err = errDone
	case isApp, idle: // we closed it; or nobody wanted anything for as long as it lives idle
	case errors.Is(err, net.ErrClosed), errors.Is(err, os.ErrDeadlineExceeded):
		err = net.ErrClosed
	default:
		failure = transport.ClosedEarly
	}
	return &transport.CarrierError{Failure: failure, Err: bare(err)}
}

// classify says what a failed dial means, before the relay has said anything.
func classify(err error) transport.Failure {
	transportErr, isTransport := errors.AsType[*quicgo.TransportError](err)
	_, silent := errors.AsType[*quicgo.IdleTimeoutError](err)
	_, slow := errors.AsType[*quicgo.HandshakeTimeoutError](err)
	switch {
	case silent, slow, errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded):
		return transport.Timeout
	case isTransport && transportErr.ErrorCode == quicgo.ConnectionRefused:
		return transport.Refused // it has too much to do, or is about to stop
	case isTransport && !transportErr.Remote && transportErr.ErrorCode == quicgo.InternalError:
		return "" // the socket's: nothing could be sent
	case isTransport:
		return transport.ClosedEarly
	}
	return "" // local
}

// classifyHello says what a hello that failed means. An end of the connection is
// none of a man in the middle: a relay that stops, and whoever resets, bring it
// about.
func classifyHello(err error) transport.Failure {
	_, isApp := errors.AsType[*quicgo.ApplicationError](err)
	_, reset := errors.AsType[*quicgo.StatelessResetError](err)
	switch f := classify(err); {
	case errors.Is(err, errNoReply):
		return transport.Hijacked
	case f != "" || !isApp && !reset:
		return f
	}
	return transport.ClosedEarly
}

// bare strips addresses from an error, so that it may be logged.
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
