package wire

import (
	"errors"
	"fmt"

	"busel/internal/flow"
)

// MaxFrame is the longest frame in bytes, on every transport: the plaintext of
// one covert record (docs/PROTOCOL.md, "Covert records").
const MaxFrame = 16377

// MaxStreamHeader is the longest encoding of a STREAM frame in front of its
// data: type, id, offset, fin and length. Data within [MaxFrame] has a length
// of at most two bytes.
const MaxStreamHeader = 1 + 8 + 8 + 1 + 2

// Errors of the parsers in this package.
var (
	ErrTruncated  = errors.New("cut short")
	ErrNotMinimal = errors.New("integer is not in its shortest form")
	ErrMalformed  = errors.New("malformed")
)

// Type is a frame type.
type Type uint64

// Frame types.
const (
	Padding  Type = 0
	Stream   Type = 1
	Ack      Type = 2
	Window   Type = 3
	Reset    Type = 4
	Datagram Type = 5
	Carrier  Type = 6
	Ping     Type = 7
	Pong     Type = 8
	Bye      Type = 9
	Stop     Type = 10
	Seen     Type = 11
)

var typeNames = [...]string{"PADDING", "STREAM", "ACK", "WINDOW", "RESET", "DATAGRAM", "CARRIER", "PING", "PONG", "BYE", "STOP", "SEEN"}

func (t Type) String() string {
	if t < Type(len(typeNames)) {
		return typeNames[t]
	}
	return fmt.Sprintf("frame type %d", uint64(t))
}

// CarrierState is what may be sent on a carrier.
type CarrierState uint64

// States of a carrier.
const (
	CarrierActive  CarrierState = 0 // streams and flows
	CarrierSpare   CarrierState = 1 // nothing but PING, PONG, CARRIER
	CarrierDropped CarrierState = 2 // closed; late frames from it are ignored
	// CarrierBudget is active, for Limit bytes of frames, both directions summed:
	// the path is expected to freeze then (docs/PROTOCOL.md, section 11.1).
	CarrierBudget CarrierState = 3
	// CarrierSuspect: it is silent at the client. What it carried is sent over others,
	// too, and nothing more over it; late frames from it count.
	CarrierSuspect CarrierState = 4
)

// Frame is any frame. Which fields are used depends on Type:
//
//	PADDING   Data (its bytes are ignored; Append writes len(Data) zeros)
//	STREAM    ID, Offset, Fin, Data
//	ACK       ID, Offset (received-up-to), Limit
//	WINDOW    Limit
//	RESET     ID, Code, Offset (final)
//	DATAGRAM  ID (flow), Addr, Data
//	CARRIER   ID (n, at most 2^32-1), State, with CarrierBudget Limit
//	PING PONG Ping
//	BYE       Code, Data (text)
//	STOP      ID, Code
//	SEEN      ID, Offset (of the first byte), Limit (behind the last)
type Frame struct {
	Type   Type
	Fin    bool
	State  CarrierState
	ID     uint64
	Offset uint64
	Limit  uint64
	Code   uint64
	Ping   [8]byte
	Addr   flow.Addr
	Data   []byte // aliases the parsed bytes
}

// Append appends f's encoding. It is at most [MaxFrame] long if the caller
// keeps Data short enough; integers above [MaxVarint] panic.
func (f *Frame) Append(b []byte) []byte {
	b = AppendVarint(b, uint64(f.Type))
	switch f.Type {
	case Padding:
		b = AppendVarint(b, uint64(len(f.Data)))
		for range f.Data {
			b = append(b, 0)
		}
	case Stream:
		b = b[:len(b)-1]
		b = AppendStreamHeader(b, f.ID, f.Offset, f.Fin, len(f.Data))
		b = append(b, f.Data...)
	case Ack:
		b = AppendVarint(b, f.ID)
		b = AppendVarint(b, f.Offset)
		b = AppendVarint(b, f.Limit)
	case Window:
		b = AppendVarint(b, f.Limit)
	case Reset:
		b = AppendVarint(b, f.ID)
		b = AppendVarint(b, f.Code)
		b = AppendVarint(b, f.Offset)
	case Datagram:
		b = AppendVarint(b, f.ID)
		b = f.Addr.Append(b)
		b = appendData(b, f.Data)
	case Carrier:
		b = AppendVarint(b, f.ID)
		b = AppendVarint(b, uint64(f.State))
		if f.State == CarrierBudget {
			b = AppendVarint(b, f.Limit)
		}
	case Ping, Pong:
		b = append(b, f.Ping[:]...)
	case Bye:
		b = AppendVarint(b, f.Code)
		b = appendData(b, f.Data)
	case Stop:
		b = AppendVarint(b, f.ID)
		b = AppendVarint(b, f.Code)
	case Seen:
		b = AppendVarint(b, f.ID)
		b = AppendVarint(b, f.Offset)
		b = AppendVarint(b, f.Limit)
	default:
		panic("wire: " + f.Type.String())
	}
	return b
}

// AppendStreamHeader appends a STREAM frame up to its data of n bytes, which
// the caller puts right behind it, so that a frame is built around data in
// place.
func AppendStreamHeader(b []byte, id, offset uint64, fin bool, n int) []byte {
	b = append(b, byte(Stream))
	b = AppendVarint(b, id)
	b = AppendVarint(b, offset)
	if fin {
		b = append(b, 1)
	} else {
		b = append(b, 0)
	}
	return AppendVarint(b, uint64(n))
}

// StreamHeaderLen is the length that [AppendStreamHeader] appends.
func StreamHeaderLen(id, offset uint64, n int) int {
	return 2 + VarintLen(id) + VarintLen(offset) + VarintLen(uint64(n))
}

func appendData(b, data []byte) []byte {
	b = AppendVarint(b, uint64(len(data)))
	return append(b, data...)
}

// Parse reads one frame from the start of b into f and returns its length.
// Whatever parses, but for the bytes of PADDING, encodes to the same bytes
// again. f.Data aliases b.
func Parse(b []byte, f *Frame) (n int, err error) {
	r := reader{b: b}
	*f = Frame{Type: Type(r.varint())}
	switch f.Type {
	case Padding:
		f.Data = r.data()
	case Stream:
		f.ID = r.varint()
		f.Offset = r.varint()
		f.Fin = r.flag()
		f.Data = r.data()
		if r.err == nil && f.Offset+uint64(len(f.Data))+1 > MaxVarint {
			r.fail("STREAM passes offset 2^62-1")
		}
	case Ack:
		f.ID = r.varint()
		f.Offset = r.varint()
		f.Limit = r.varint()
	case Window:
		f.Limit = r.varint()
	case Reset:
		f.ID = r.varint()
		f.Code = r.varint()
		f.Offset = r.varint()
		if r.err == nil && f.Offset+1 > MaxVarint {
			r.fail("RESET passes offset 2^62-1")
		}
	case Datagram:
		f.ID = r.varint()
		f.Addr = r.addr()
		f.Data = r.data()
	case Carrier:
		f.ID = r.varint()
		f.State = CarrierState(r.varint())
		if r.err == nil && (f.ID > 1<<32-1 || f.State > CarrierSuspect) {
			r.fail("CARRIER number or state out of range")
		}
		if f.State == CarrierBudget {
			f.Limit = r.varint()
		}
	case Ping, Pong:
		copy(f.Ping[:], r.bytes(8))
	case Bye:
		f.Code = r.varint()
		f.Data = r.data()
	case Stop:
		f.ID = r.varint()
		f.Code = r.varint()
	case Seen:
		f.ID = r.varint()
		f.Offset = r.varint()
		f.Limit = r.varint()
		if r.err == nil && f.Limit <= f.Offset {
			r.fail("SEEN of nothing")
		}
	default:
		r.fail("unknown frame type")
	}
	if r.err == nil && len(b)-len(r.b) > MaxFrame {
		r.fail("frame is longer than 16377 bytes")
	}
	if r.err != nil {
		return 0, fmt.Errorf("%s: %w", f.Type, r.err)
	}
	return len(b) - len(r.b), nil
}

// reader takes fields off the front of b; the first fault sticks.
type reader struct {
	b   []byte
	err error
}

func (r *reader) fail(why string) {
	if r.err == nil {
		r.err = fmt.Errorf("%w: %s", ErrMalformed, why)
	}
}

func (r *reader) varint() uint64 {
	if r.err != nil {
		return 0
	}
	v, n, err := Varint(r.b)
	r.b, r.err = r.b[n:], err
	return v
}

func (r *reader) flag() bool {
	v := r.varint()
	if v > 1 {
		r.fail("flag is neither 0 nor 1")
	}
	return v == 1
}

func (r *reader) bytes(n int) []byte {
	if r.err == nil && len(r.b) < n {
		r.err = ErrTruncated
	}
	if r.err != nil {
		return nil
	}
	b := r.b[:n:n]
	r.b = r.b[n:]
	return b
}

func (r *reader) data() []byte {
	n := r.varint()
	if r.err == nil && n > uint64(len(r.b)) {
		r.err = ErrTruncated
	}
	if r.err != nil {
		return nil
	}
	return r.bytes(int(n))
}

func (r *reader) addr() flow.Addr {
	if r.err != nil {
		return flow.Addr{}
	}
	a, n, err := flow.ParseAddr(r.b)
	switch {
	case errors.Is(err, flow.ErrShortAddr):
		r.err = ErrTruncated
	case err != nil:
		r.fail(err.Error())
	default:
		r.b = r.b[n:]
	}
	return a
}
