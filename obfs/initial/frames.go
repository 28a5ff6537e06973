package initial

import "errors"

// Types of frames that Initial packets may have (RFC 9000, table 3).
const (
	Padding = 0x00
	Ping    = 0x01
	Ack     = 0x02
	AckECN  = 0x03
	Crypto  = 0x06
	Close   = 0x1c
)

// Frame is one frame, or a run of PADDING.
type Frame struct {
	Type   byte
	Raw    []byte  // all of it
	Offset uint64  // of CRYPTO
	Data   []byte  // of CRYPTO
	Ranges []Range // of ACK, the largest first; none overlap or touch
	Tail   []byte  // of ACK: what follows the ranges
	Delay  uint64  // of ACK, as on the wire
}

// Range is the packets First..Last.
type Range struct{ First, Last uint64 }

// ErrFrames says that a packet's frames are not what an Initial packet may have.
var ErrFrames = errors.New("the frames of an Initial packet are wrong")

// Frames takes a packet's frames apart. They alias it.
func Frames(b []byte) ([]Frame, error) { return appendFrames(nil, b) }

func appendFrames(frames []Frame, b []byte) ([]Frame, error) {
	c := cursor{b, true}
	for len(c.b) > 0 {
		start := c.b
		f := Frame{Type: c.byte()}
		switch f.Type {
		case Padding:
			for len(c.b) > 0 && c.b[0] == Padding {
				c.byte()
			}
		case Ping:
		case Ack, AckECN:
			f.ack(&c)
		case Crypto:
			f.Offset = c.varint()
			f.Data = c.take(c.varint())
		case Close:
			c.varint() // code
			c.varint() // type of the frame that was wrong
			c.take(c.varint())
		default:
			return nil, ErrFrames
		}
		if !c.ok {
			return nil, ErrFrames
		}
		f.Raw = start[:len(start)-len(c.b)]
		frames = append(frames, f)
	}
	return frames, nil
}

func (f *Frame) ack(c *cursor) {
	last := c.varint()
	f.Delay = c.varint()
	more, length := c.varint(), c.varint()
	for {
		if length > last {
			c.ok = false
			return
		}
		f.Ranges = append(f.Ranges, Range{last - length, last})
		if more == 0 || !c.ok {
			break
		}
		more--
		gap := c.varint()
		if gap+2 > last-length {
			c.ok = false
			return
		}
		last -= length + gap + 2
		length = c.varint()
	}
	start := c.b
	if f.Type == AckECN {
		for range 3 {
			c.varint()
		}
	}
	if c.ok {
		f.Tail = start[:len(start)-len(c.b)]
	}
}

// appendAck appends an ACK frame with at least one range.
func appendAck(b []byte, f *Frame) []byte {
	b = append(b, f.Type)
	last := f.Ranges[0]
	b = appendVarint(b, last.Last)
	b = appendVarint(b, f.Delay)
	b = appendVarint(b, uint64(len(f.Ranges)-1))
	b = appendVarint(b, last.Last-last.First)
	for _, r := range f.Ranges[1:] {
		b = appendVarint(b, last.First-r.Last-2)
		b = appendVarint(b, r.Last-r.First)
		last = r
	}
	return append(b, f.Tail...)
}

// appendCrypto appends a CRYPTO frame.
func appendCrypto(b []byte, offset int, data []byte) []byte {
	b = appendVarint(append(b, Crypto), uint64(offset))
	b = appendVarint(b, uint64(len(data)))
	return append(b, data...)
}
