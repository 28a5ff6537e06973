package wire

import (
	"encoding/binary"
	"fmt"
	"log/slog"
	"time"

	"busel/internal/flow"
)

// Version is the protocol version that a hello carries.
const Version = 1

// Cipher is the AEAD of the records after the Noise messages.
type Cipher uint8

// Ciphers. A client without AES instructions chooses ChaCha20-Poly1305.
const (
	AES256GCM        Cipher = 0
	ChaCha20Poly1305 Cipher = 1
)

// Mode says whether the client believes that the relay knows the session.
type Mode uint8

// Modes of a hello.
const (
	ModeNew    Mode = 0 // create the session, or join it
	ModeResume Mode = 1 // the session must exist
)

// Lengths of hello fields in bytes.
const (
	TokenLen  = 8 + 2 + 16
	SecretLen = 32
	// MaxDropped is how many dropped carriers a hello can name: its count is one byte.
	MaxDropped = 255
)

// Token proves an invite to the relay that issued it: invite id, expiry day
// (days since 2026-01-01, 0 for never; u16 big-endian) and the first 16 bytes
// of HMAC-SHA-256 under the relay's token key (docs/PROTOCOL.md, "Tokens").
type Token [TokenLen]byte

// InviteID is the invite that the token belongs to.
func (t Token) InviteID() [8]byte { return [8]byte(t[:8]) }

// Expiry is the day after which the token is void, in days since 2026-01-01; 0 is never.
func (t Token) Expiry() uint16 { return binary.BigEndian.Uint16(t[8:10]) }

// String redacts: a token is a secret.
func (t Token) String() string { return "token(redacted)" }

// LogValue redacts, where a handler would not ask for String.
func (t Token) LogValue() slog.Value { return slog.StringValue(t.String()) }

// Hello is what a client says first on every carrier, inside the transport's
// encryption:
//
//	version u8 | cipher u8 | token(26) | mode u8 | secret(32) | carrier n u32 |
//	count u8 | count * dropped n u32 | rest
//
// In mode new the rest is empty: stream frames there would lack forward secrecy
// against a seized relay. In mode resume it is empty or frames sealed under a
// resumption key, see [Hello.SealedFrames].
type Hello struct {
	Cipher  Cipher
	Token   Token
	Mode    Mode
	Secret  [SecretLen]byte // the session's, drawn by the client
	Carrier uint32          // n, never used twice in a session
	Dropped []uint32        // carriers that the client gave up, at most [MaxDropped]
	// SealedFrames is empty, or a resumption key's number (u32) and frames
	// sealed with AES-256-GCM under that key: nonce 8 zero bytes || n u32, AAD
	// the hello before the rest. The session seals and opens it.
	SealedFrames []byte
	// Seal, if set, makes the sealed frames when the hello is encoded, so that
	// what was queued while the transport dialled rides along. It gets the hello
	// before the rest. SealedFrames is then ignored by Append.
	Seal func(header []byte) []byte
}

// String redacts: token and session secret are secrets.
func (h Hello) String() string {
	return fmt.Sprintf("hello(mode %d, carrier %d, %d dropped)", h.Mode, h.Carrier, len(h.Dropped))
}

// LogValue redacts, where a handler would not ask for String.
func (h Hello) LogValue() slog.Value { return slog.StringValue(h.String()) }

// AppendHeader appends the hello before its rest, which is the AAD of the
// sealed frames.
func (h *Hello) AppendHeader(b []byte) []byte {
	b = append(b, Version, byte(h.Cipher))
	b = append(b, h.Token[:]...)
	b = append(b, byte(h.Mode))
	b = append(b, h.Secret[:]...)
	b = binary.BigEndian.AppendUint32(b, h.Carrier)
	dropped := h.Dropped[:min(len(h.Dropped), MaxDropped)]
	b = append(b, byte(len(dropped)))
	for _, n := range dropped {
		b = binary.BigEndian.AppendUint32(b, n)
	}
	return b
}

// Append appends the whole hello.
func (h *Hello) Append(b []byte) []byte {
	n := len(b)
	b = h.AppendHeader(b)
	if h.Seal != nil {
		return append(b, h.Seal(b[n:len(b):len(b)])...)
	}
	return append(b, h.SealedFrames...)
}

// ErrVersion means that the peer speaks another version of the protocol.
var ErrVersion = fmt.Errorf("%w: unknown protocol version", ErrMalformed)

// ParseHello parses a hello. It aliases b. The error is [ErrVersion] when only
// the version is wrong, which is answered with [StatusVersion].
func ParseHello(b []byte) (*Hello, error) {
	r := reader{b: b}
	head := r.bytes(2)
	if r.err == nil && head[0] != Version {
		return nil, ErrVersion
	}
	h := new(Hello)
	if r.err == nil {
		h.Cipher = Cipher(head[1])
	}
	copy(h.Token[:], r.bytes(TokenLen))
	if m := r.bytes(1); r.err == nil {
		h.Mode = Mode(m[0])
	}
	copy(h.Secret[:], r.bytes(SecretLen))
	h.Carrier = r.u32()
	if c := r.bytes(1); r.err == nil {
		for range c[0] {
			h.Dropped = append(h.Dropped, r.u32())
		}
	}
	h.SealedFrames = r.b
	switch {
	case r.err != nil:
	case h.Cipher > ChaCha20Poly1305:
		r.fail("unknown cipher")
	case h.Mode > ModeResume:
		r.fail("unknown mode")
	case h.Mode == ModeNew && len(h.SealedFrames) > 0:
		r.fail("frames in a hello of mode new")
	}
	if r.err != nil {
		return nil, fmt.Errorf("hello: %w", r.err)
	}
	return h, nil
}

func (r *reader) u32() uint32 {
	b := r.bytes(4)
	if b == nil {
		return 0
	}
	return binary.BigEndian.Uint32(b)
}

func (r *reader) u16() uint16 {
	b := r.bytes(2)
	if b == nil {
		return 0
	}
	return binary.BigEndian.Uint16(b)
}

// Status is a relay's answer to a hello.
type Status uint8

// Statuses. With StatusOK and StatusUnknownSession the carrier is attached;
// with any other the relay inserts nothing more.
const (
	StatusOK             Status = 0
	StatusUnknownSession Status = 1 // created anew: frames in the hello were ignored, ids and offsets start anew
	StatusRevoked        Status = 2
	StatusExpired        Status = 3
	StatusQuota          Status = 4
	StatusDraining       Status = 5
	StatusVersion        Status = 6
	StatusBusy           Status = 7
	StatusDevices        Status = 8 // as many devices use the invite as may
)

var statusNames = [...]string{
	"ok", "the relay does not know the session", "the invite was revoked", "the invite has expired",
	"the invite's quota is used up", "the relay is shutting down", "the relay speaks another version", "the relay is busy",
	"as many devices use the invite as may",
}

func (s Status) String() string {
	if int(s) < len(statusNames) {
		return statusNames[s]
	}
	return fmt.Sprintf("status %d", uint8(s))
}

// Refused reports whether the status means that no carrier was attached.
func (s Status) Refused() bool { return s > StatusUnknownSession }

// Detail is why streams fail while the relay refuses the invite so; for a status that
// says nothing of the invite it is [flow.DetailNone].
func (s Status) Detail() flow.Detail {
	switch s {
	case StatusRevoked, StatusExpired:
		return flow.DetailInvite
	case StatusQuota:
		return flow.DetailQuota
	case StatusDevices:
		return flow.DetailDevices
	}
	return flow.DetailNone
}

// StatusError is a hello refused by the relay.
type StatusError struct{ Status Status }

func (e *StatusError) Error() string { return e.Status.String() }

// Accept is a relay's answer to a hello:
//
//	status u8 | session life u32 s | cover idle limit u16 s | cover lifetime u32 s | frames
type Accept struct {
	Status        Status
	SessionLife   time.Duration // how long the session lives without a carrier; whole seconds
	CoverIdle     time.Duration // the cover closes a connection without requests after it; 0 unknown
	CoverLifetime time.Duration // the cover closes any connection after it; 0 unknown or never
	Frames        []byte        // whole frames
}

// Append appends the accept payload; durations are cut to whole seconds and to
// their field's range.
func (a *Accept) Append(b []byte) []byte {
	b = append(b, byte(a.Status))
	b = binary.BigEndian.AppendUint32(b, uint32(seconds(a.SessionLife, 1<<32-1)))
	b = binary.BigEndian.AppendUint16(b, uint16(seconds(a.CoverIdle, 1<<16-1)))
	b = binary.BigEndian.AppendUint32(b, uint32(seconds(a.CoverLifetime, 1<<32-1)))
	return append(b, a.Frames...)
}

func seconds(d time.Duration, most int64) int64 {
	return min(max(int64(d/time.Second), 0), most)
}

// ParseAccept parses an accept payload; Frames aliases b and is not looked into.
func ParseAccept(b []byte) (*Accept, error) {
	r := reader{b: b}
	a := new(Accept)
	if s := r.bytes(1); r.err == nil {
		a.Status = Status(s[0])
	}
	a.SessionLife = time.Duration(r.u32()) * time.Second
	a.CoverIdle = time.Duration(r.u16()) * time.Second
	a.CoverLifetime = time.Duration(r.u32()) * time.Second
	if r.err != nil {
		return nil, fmt.Errorf("accept: %w", r.err)
	}
	a.Frames = r.b
	return a, nil
}
