package packet

import "slices"

// A Stream puts the beginning of one direction of a TCP connection together.
// Where pieces overlap, the first that came stays.
type Stream struct {
	// Limit is how many bytes are kept, from the first on.
	Limit int

	start   uint32
	buf     []byte
	covered []span // of buf; sorted, apart from each other
}

type span struct{ from, to int }

// maxSpans bounds the gaps of a stream; pieces that would make more are lost,
// as they are in a real box that runs out of memory.
const maxSpans = 16

// NewStream makes a stream whose first byte has this sequence number.
func NewStream(seq uint32, limit int) *Stream { return &Stream{Limit: limit, start: seq} }

// Add takes the payload of a segment.
func (s *Stream) Add(seq uint32, data []byte) {
	from := int(int32(seq - s.start))
	if from < 0 { // from before the first byte, such as a keep-alive
		if -from >= len(data) {
			return
		}
		data, from = data[-from:], 0
	}
	to := min(from+len(data), s.Limit)
	if from >= to {
		return
	}
	data = data[:to-from]
	if to > len(s.buf) {
		s.buf = append(s.buf, make([]byte, to-len(s.buf))...)
	}
	// What is new lies in the gaps.
	at := from
	merged := span{from, to}
	rest := s.covered[:0:0]
	for _, c := range s.covered {
		if c.to < from || c.from > to {
			rest = append(rest, c)
			continue
		}
		if at < c.from {
			copy(s.buf[at:c.from], data[at-from:])
		}
		at = max(at, c.to)
		merged = span{min(merged.from, c.from), max(merged.to, c.to)}
	}
	if len(rest) == maxSpans {
		return
	}
	if at < to {
		copy(s.buf[at:to], data[at-from:])
	}
	i, _ := slices.BinarySearchFunc(rest, merged, func(a, b span) int { return a.from - b.from })
	s.covered = slices.Insert(rest, i, merged)
}

// Bytes returns what is known from the first byte on without a gap.
func (s *Stream) Bytes() []byte {
	if len(s.covered) == 0 || s.covered[0].from > 0 {
		return nil
	}
	return s.buf[:s.covered[0].to]
}

// Full reports whether nothing more will be kept.
func (s *Stream) Full() bool { return len(s.Bytes()) >= s.Limit }
