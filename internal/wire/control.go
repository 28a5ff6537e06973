package wire

import "fmt"

// ControlType is the type of a message on stream 0. Both directions of stream 0
// are open from the start; it has no request and no reply, and ends with the
// session. A message is a varint type and data; an unknown type is skipped, so
// that later versions can say more.
type ControlType uint64

// Types of control messages.
const (
	ControlSettings      ControlType = 0 // pairs of varints: [Setting], value; ids ascend
	ControlResumptionKey ControlType = 1 // number u32, key(32); relay to client, after each attach
	ControlBundle        ControlType = 2 // an invite update; relay to client
	ControlNotice        ControlType = 3 // code varint, UTF-8 text for the user; relay to client
)

// MaxControl is the longest body of a control message in bytes; a longer one
// ends the session.
const MaxControl = 16 << 10

// Setting is a limit that its sender, as a receiver of streams, promises.
type Setting uint64

// Settings; unknown ones are ignored. What is not said has the default.
const (
	SettingStreamWindow  Setting = 0 // bytes; default [DefaultStreamWindow]; first limit of each stream
	SettingSessionWindow Setting = 1 // bytes; default [DefaultSessionWindow]
	SettingMaxStreams    Setting = 2 // open streams; default [DefaultMaxStreams]
)

// Defaults that hold until a SETTINGS message arrives, so that a new session
// sends at once. A SETTINGS message can only raise them.
const (
	DefaultStreamWindow  = 256 << 10
	DefaultSessionWindow = 64 << 20
	DefaultMaxStreams    = 4096
)

// Control is one message of stream 0.
type Control struct {
	Type ControlType
	Body []byte
}

// Append appends the message's encoding.
func (c *Control) Append(b []byte) []byte {
	b = AppendVarint(b, uint64(c.Type))
	return appendData(b, c.Body)
}

// MaxControlHeader is the longest encoding of a message in front of its body.
const MaxControlHeader = 8 + 8

// ControlLen is the length of the message at the start of b, of which the first
// [MaxControlHeader] bytes are enough. It is 0 if b is too short to tell, or no
// message: [ParseControl] says which.
func ControlLen(b []byte) int {
	r := reader{b: b}
	r.varint()
	size := r.varint()
	if r.err != nil || size > MaxControl {
		return 0
	}
	return len(b) - len(r.b) + int(size)
}

// ParseControl reads one message from the start of b and returns its length.
// The error wraps [ErrTruncated] if more bytes are needed. The body aliases b.
func ParseControl(b []byte) (c Control, n int, err error) {
	r := reader{b: b}
	c.Type = ControlType(r.varint())
	size := r.varint()
	if r.err == nil && size > MaxControl {
		r.fail("longer than 16384 bytes")
	}
	c.Body = r.bytes(int(size))
	if r.err != nil {
		return Control{}, 0, fmt.Errorf("control message: %w", r.err)
	}
	return c, len(b) - len(r.b), nil
}

// Settings is the body of a SETTINGS message. A field of 0 is not sent, and
// leaves what holds already.
type Settings struct {
	StreamWindow, SessionWindow, MaxStreams uint64
}

// Append appends the body's encoding.
func (s *Settings) Append(b []byte) []byte {
	for _, p := range [...]struct {
		id Setting
		v  uint64
	}{{SettingStreamWindow, s.StreamWindow}, {SettingSessionWindow, s.SessionWindow}, {SettingMaxStreams, s.MaxStreams}} {
		if p.v != 0 {
			b = AppendVarint(b, uint64(p.id))
			b = AppendVarint(b, p.v)
		}
	}
	return b
}

// ParseSettings parses the body of a SETTINGS message. The ids ascend: a
// setting that is said twice is an error, not a choice between two values.
func ParseSettings(b []byte) (Settings, error) {
	var s Settings
	r := reader{b: b}
	for least := Setting(0); len(r.b) > 0 && r.err == nil; {
		id := Setting(r.varint())
		if r.err == nil && id < least {
			r.fail("settings are not in ascending order")
		}
		least = id + 1
		switch v := r.varint(); id {
		case SettingStreamWindow:
			s.StreamWindow = v
		case SettingSessionWindow:
			s.SessionWindow = v
		case SettingMaxStreams:
			s.MaxStreams = v
		}
	}
	if r.err != nil {
		return Settings{}, fmt.Errorf("SETTINGS: %w", r.err)
	}
	return s, nil
}
