// Package flow names the two things a proxy moves and who can open them.
//
// A [Stream] is one TCP connection, a [Packets] one UDP association. The local
// proxy (internal/front) asks an [Opener] for them. On a client the opener is
// the session with a relay; on a relay it is the exit to the internet. Because
// both sides meet here, front over exit without any tunnel is a working proxy,
// and each half is tested against the real other half.
package flow

import (
	"context"
	"errors"
	"fmt"
	"net"
)

// Opener opens streams and packet flows. It is implemented by the client's
// session and by the relay's exit, and is safe for concurrent use.
type Opener interface {
	// OpenStream asks for a TCP connection to dst. It may return before dst was
	// reached: see [Stream.Connected]. A failure known at once is an *[OpenError].
	// ctx bounds the opening only, not the life of the stream.
	OpenStream(ctx context.Context, dst Addr) (Stream, error)
	// OpenPackets asks for a UDP association. ctx bounds the opening only.
	OpenPackets(ctx context.Context) (Packets, error)
}

// Stream is one proxied TCP connection. The caller closes it. Close without a
// preceding CloseWrite and a Read that returned io.EOF aborts what is not yet
// acknowledged, as an RST would. Deadlines are honoured.
type Stream interface {
	net.Conn
	// CloseWrite sends FIN after all that was written; reading goes on.
	CloseWrite() error
	// Connected blocks until the far end of the stream was reached, and returns
	// nil, or why it was not: an *[OpenError]. Data may be written before.
	Connected(ctx context.Context) error
}

// Packets is one UDP association: datagrams to and from any address. The caller
// closes it. Datagrams may be lost, doubled or reordered, as UDP's are.
type Packets interface {
	// ReadFrom blocks for the next datagram and copies it to buf. A datagram
	// longer than buf is cut.
	ReadFrom(buf []byte) (n int, from Addr, err error)
	// WriteTo sends one datagram and retains nothing. An error that is
	// net.ErrClosed means that the association has ended; any other concerns this
	// datagram only.
	WriteTo(b []byte, to Addr) error
	// Close ends the association. It may be called more than once.
	Close() error
}

// ErrNoRelay is to be wrapped by the error of an [Opener] that can reach no relay to
// ask. Applications are then told so.
var ErrNoRelay = errors.New("no relay can be reached")

// ErrNoInvite is to be wrapped likewise by one that holds no relay at all.
var ErrNoInvite = errors.New("no invite is held")

// ErrLocked is to be wrapped likewise by one whose relays are under a passphrase that
// was not given yet.
var ErrLocked = errors.New("the invites are locked by a passphrase")

// Code is a SOCKS5 reply code (RFC 1928, section 6).
type Code uint8

// Reply codes of RFC 1928, section 6.
const (
	Succeeded           Code = 0
	GeneralFailure      Code = 1
	NotAllowed          Code = 2
	NetworkUnreachable  Code = 3
	HostUnreachable     Code = 4
	ConnectionRefused   Code = 5
	TTLExpired          Code = 6
	CommandNotSupported Code = 7
	AddressNotSupported Code = 8
)

// Detail says more than a SOCKS5 reply code can. Its values are on the wire
// (docs/PROTOCOL.md, "Stream reply").
type Detail uint8

// Details of a failed opening.
const (
	DetailNone             Detail = 0
	DetailPolicy           Detail = 1 // the relay's volunteer does not allow the destination
	DetailNameNotFound     Detail = 2
	DetailNameServerFailed Detail = 3
	DetailRefused          Detail = 4
	DetailTimeout          Detail = 5
	DetailQuota            Detail = 6
	DetailRelayRestarted   Detail = 7 // the relay no longer knows the session
	DetailInvite           Detail = 8 // the invite was revoked or has expired
	DetailDevices          Detail = 9 // as many devices use the invite as may
)

var details = [...]string{
	DetailNone:             "could not be reached",
	DetailPolicy:           "is not allowed by this relay",
	DetailNameNotFound:     "does not exist: the name was not found",
	DetailNameServerFailed: "could not be looked up: the relay's name server failed",
	DetailRefused:          "refused the connection",
	DetailTimeout:          "did not answer in time",
	DetailQuota:            "was not tried: the invite's quota is used up",
	DetailRelayRestarted:   "was lost because the relay restarted",
	DetailInvite:           "was not tried: the invite is no longer valid",
	DetailDevices:          "was not tried: as many devices use the invite as may",
}

// String is a predicate about a destination: "refused the connection".
func (d Detail) String() string {
	if int(d) < len(details) {
		return details[d]
	}
	return fmt.Sprintf("failed (detail %d)", uint8(d))
}

// OpenError says why a stream or flow could not be opened or was ended by the
// relay. It carries no address, so that it may be logged.
type OpenError struct {
	Code   Code
	Detail Detail
	Err    error // the local cause, may be nil; never sent to the other side
}

func (e *OpenError) Error() string {
	if e.Err != nil {
		return "destination " + e.Detail.String() + ": " + e.Err.Error()
	}
	return "destination " + e.Detail.String()
}

// Unwrap returns the local cause.
func (e *OpenError) Unwrap() error { return e.Err }
