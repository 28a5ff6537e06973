// Package transport holds the contracts between the session and the ways to
// make carriers.
//
// A carrier is one live disguised connection between a client and a relay. It
// moves whole session frames in order until it dies, and it may die at any
// moment: the session resends what was lost over the next one. A transport
// (mirror, later quic and others) makes carriers: its [Dialer] on the client,
// its [Listener] on the relay. A transport knows nothing of streams; it sees
// the hello and the accept payload (internal/wire) because they travel inside
// its own handshake, and beyond them opaque frames.
package transport

import (
	"context"
	"net"
	"time"

	"busel/internal/wire"
)

// Lane names frames that keep their order among each other. It is the id of
// the stream that a frame belongs to; everything else travels on [LaneControl].
// A transport without lanes keeps one order for all.
type Lane uint64

const (
	// LaneControl carries stream 0 and ACK, WINDOW, CARRIER, PING, PONG, BYE.
	LaneControl Lane = 0
	// LaneDatagram carries DATAGRAM frames: each may be lost or overtake others.
	LaneDatagram Lane = 1 << 62
)

// Frame is one encoded session frame of at most [wire.MaxFrame] bytes and the
// lane that it keeps its order in.
type Frame struct {
	Lane Lane
	Data []byte
}

// Carrier moves session frames between two authenticated ends until it dies.
type Carrier interface {
	// WriteFrames sends the frames in order. It blocks while the path is full,
	// retains nothing, and is called by one goroutine at a time. A nil error
	// means accepted, never delivered. A STREAM frame of more than 256 bytes may
	// arrive in pieces, each a frame with the offset of its own data, and anything
	// beside PADDING. Close unblocks it. An error is final.
	WriteFrames(batch []Frame) error
	// ReadFrames fills buf, which holds at least [wire.MaxFrame] bytes, with one
	// or more whole frames, one after another, and returns their total length.
	// It is called by one goroutine at a time. Close unblocks it. An error is
	// final; [CarrierError] says how the carrier ended where that is known.
	ReadFrames(buf []byte) (n int, err error)
	// Properties are constant for the carrier's life.
	Properties() Properties
	// Close ends the carrier as the disguise would end a connection. It is
	// idempotent and safe to call at any time.
	Close() error
}

// Properties describe a carrier.
type Properties struct {
	Kind    string // name of the transport, as in configuration: "mirror"
	Ordered bool   // all lanes share one order
	// CoverIdle is how long the cover keeps a connection without a request, and
	// CoverLifetime how long it keeps one at all; 0 means unknown or for ever.
	// The relay tells them to the client in the accept payload.
	CoverIdle, CoverLifetime time.Duration
}

// Dialer makes carriers to one relay.
type Dialer interface {
	// Dial connects to r.Address, says hello and waits for the relay's answer.
	// If the answer's status is [wire.StatusOK] or [wire.StatusUnknownSession]
	// the carrier is live and the caller closes it; otherwise the carrier is nil
	// and the error wraps *[wire.StatusError]. ctx bounds the dialling only.
	// Errors are *[DialError]; a cancelled ctx is not evidence of blocking.
	Dial(ctx context.Context, r Route, hello *wire.Hello) (Carrier, *wire.Accept, error)
}

// Listener hands out the clients that proved to hold an invite's relay key.
// Strangers never surface here: they are the cover's visitors.
type Listener interface {
	// Accept blocks for the next client that said a well-formed hello. The
	// caller must Answer or Close it, in a goroutine of its own if that may
	// take time. After Close it returns an error wrapping net.ErrClosed.
	Accept(ctx context.Context) (Pending, error)
	// Close stops accepting; carriers and strangers' connections live on.
	Close() error
}

// Pending is a client's hello that awaits an answer.
type Pending interface {
	// Hello is the client's decrypted hello. Its token is not verified yet.
	Hello() *wire.Hello
	// Answer sends the accept payload; the transport fills in the cover's
	// limits. With a status that refuses, the carrier is nil and the connection
	// goes on as an ordinary visit to the cover until the client leaves.
	Answer(a *wire.Accept) (Carrier, error)
	// Close gives up without an answer; the visit to the cover goes on.
	Close() error
}

// Network is the only way to a socket: the system's, one in memory with
// faults, or one marked by the operating system.
type Network interface {
	DialContext(ctx context.Context, network, addr string) (net.Conn, error)
	ListenPacket(ctx context.Context, network, addr string) (net.PacketConn, error)
}

// Route is one way to make a carrier: comparable, so that it keys memories of
// what worked.
type Route struct {
	Relay     string // the relay's short name in the client, e.g. "r1"
	Transport string // "mirror"
	Address   string // host:port that is dialled; IP literal unless the invite names a host
	Options   string // the transport's own, e.g. "fragment=records"; usually empty
	Detour    bool   // it leads through a stream at another relay
}
