package mirror

import (
	"slices"

	"busel/internal/wire"
	"busel/transport"
)

const (
	// overhead is what a covert record's header counts beyond its frames.
	overhead = markerLen + tagLen
	// scrap is how many bytes of a record are rather padded than filled with a
	// piece of a frame: a session's full frames leave up to 7 free.
	scrap = 256
	// ahead is how far a full frame is looked for behind smaller ones.
	ahead = 16
)

// queue is a batch of frames on its way into records.
type queue struct {
	frames []transport.Frame
	rest   wire.Frame // what is left of frames[0], a STREAM frame that was split
	split  bool
	size   int // bytes of all that is left
}

func (q *queue) put(batch []transport.Frame) {
	q.frames = append(q.frames[:0], batch...)
	q.size, q.split = 0, false
	for _, f := range batch {
		q.size += len(f.Data)
	}
}

// drop forgets what is left.
func (q *queue) drop() {
	clear(q.frames)
	q.frames, q.rest, q.split, q.size = q.frames[:0], wire.Frame{}, false, 0
}

// control reports whether nothing but frames of [transport.LaneControl] is left.
func (q *queue) control() bool {
	for _, f := range q.frames {
		if f.Lane != transport.LaneControl {
			return false
		}
	}
	return len(q.frames) > 0
}

// length is frame i's.
func (q *queue) length(i int) int {
	if i == 0 && q.split {
		return wire.StreamHeaderLen(q.rest.ID, q.rest.Offset, len(q.rest.Data)) + len(q.rest.Data)
	}
	return len(q.frames[i].Data)
}

// fits reports whether n bytes leave a gap that PADDING can fill, or none.
func fits(n, room int) bool { return n == room || n <= room-2 }

// big finds a frame that nearly fills want bytes, and that no earlier frame of its
// lane waits for. Smaller ones can wait for a shorter record.
func (q *queue) big(want int) int {
	for i := range q.frames[:min(len(q.frames), ahead)] {
		n := q.length(i)
		if n < want-scrap || !fits(n, want) {
			continue
		}
		same := func(f transport.Frame) bool { return f.Lane == q.frames[i].Lane }
		if slices.ContainsFunc(q.frames[:i], same) {
			continue
		}
		return i
	}
	return -1
}

// whole returns the next frame if it is want bytes long, so that it is sealed
// from where it lies.
func (q *queue) whole(want int) []byte {
	i := q.big(want)
	if i < 0 || q.length(i) != want || i == 0 && q.split {
		return nil
	}
	data := q.frames[i].Data
	q.remove(i)
	return data
}

func (q *queue) remove(i int) {
	q.size -= q.length(i)
	q.split = q.split && i > 0
	q.frames = slices.Delete(q.frames, i, i+1)
}

// take appends frame i to b and removes it.
func (q *queue) take(b []byte, i int) []byte {
	if i == 0 && q.split {
		b = q.rest.Append(b)
	} else {
		b = append(b, q.frames[i].Data...)
	}
	q.remove(i)
	return b
}

// fill appends frames to b that take at most want bytes: whole ones, a piece of a
// STREAM frame for what is left, and PADDING for the rest. Only if the first
// frame fits no full record, as a datagram may, it is longer.
func (q *queue) fill(b []byte, want int) []byte {
	start := len(b)
	room := func() int { return want - (len(b) - start) }
	if i := q.big(want); i >= 0 && want > scrap {
		b = q.take(b, i)
	}
	for len(q.frames) > 0 && fits(q.length(0), room()) {
		b = q.take(b, 0)
	}
	if room() > scrap && len(q.frames) > 0 {
		b = q.piece(b, room())
	}
	if len(b) == start && want > scrap {
		return q.take(b, 0)
	}
	return pad(b, room())
}

// piece appends a part of the first frame that takes at most room bytes, if that
// is a STREAM frame.
func (q *queue) piece(b []byte, room int) []byte {
	if !q.split {
		var f wire.Frame
		if n, err := wire.Parse(q.frames[0].Data, &f); err != nil || n != len(q.frames[0].Data) || f.Type != wire.Stream {
			return b
		}
		q.rest = f
	}
	before := q.length(0)
	head := wire.StreamHeaderLen(q.rest.ID, q.rest.Offset, room)
	n := min(room-head, len(q.rest.Data)-1)
	for ; n > 0 && !fits(wire.StreamHeaderLen(q.rest.ID, q.rest.Offset, n)+n, room); n-- {
	}
	if n <= 0 {
		return b
	}
	f := q.rest
	f.Data, f.Fin = f.Data[:n], false
	b = f.Append(b)
	q.rest.Data, q.rest.Offset = q.rest.Data[n:], q.rest.Offset+uint64(n)
	q.split = true
	q.size += q.length(0) - before
	return b
}

var zeros [maxPlain]byte

// pad appends n bytes of PADDING; n must not be 1.
func pad(b []byte, n int) []byte {
	// A length above 63 takes two bytes, so that no frame has 66 in all.
	const one = 2 + 63
	f := wire.Frame{Type: wire.Padding}
	if n == one+1 {
		b = f.Append(b)
		n -= 2
	}
	switch {
	case n <= 0:
		return b
	case n <= one:
		f.Data = zeros[:n-2]
	default:
		f.Data = zeros[:n-3]
	}
	return f.Append(b)
}
