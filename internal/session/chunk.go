package session

import (
	"sync"

	"busel/internal/wire"
)

const (
	// room is what is kept free in front of a chunk's data for the header of its
	// STREAM frame: type 1, id 4, offset 8, fin 1, length 2. Ids stay below
	// maxID so that four bytes hold them.
	room = 1 + 4 + 8 + 1 + 2
	// maxData is the most data that fits one frame behind that room.
	maxData = wire.MaxFrame - room
	// maxID is where a session has used up its ids: 2^29 streams a direction.
	maxID = 1 << 30

	bigBuffer   = 16 << 10 // one whole frame
	smallBuffer = 2 << 10  // what a quiet stream may hold: DESIGN section 6, 1,000 idle streams
)

// chunk is a piece of a stream that waits to be sent or acknowledged, laid out
// so that its STREAM frame is built around the data in place. While a carrier has it,
// it does not change; one that waits again may be split.
type chunk struct {
	next   *chunk
	buf    []byte
	off    uint64 // stream offset of buf[base]
	base   int    // at least room
	start  int    // buf[start:end] is the frame, once sealed
	end    int    // buf[base:end] is the data
	fin    bool
	taken  bool
	sealed bool
	seen   bool        // the peer has it, though not all before it
	freed  bool        // acknowledged while a writer still held it
	held   int         // writers that are sending it now
	on     *attachment // who carried it; nil if it waits
	pooled *sync.Pool
}

func (ch *chunk) len() int { return ch.end - ch.base }

// last is the offset that an acknowledgement of the whole chunk reaches.
func (ch *chunk) last() uint64 {
	if ch.fin {
		return ch.off + uint64(ch.len()) + 1
	}
	return ch.off + uint64(ch.len())
}

// free is how many more bytes the chunk takes.
func (ch *chunk) free() int { return min(cap(ch.buf), wire.MaxFrame) - ch.end }

// frame is the encoded frame.
func (ch *chunk) frame() []byte { return ch.buf[ch.start:ch.end] }

// seal encodes the header in front of the data.
func (ch *chunk) seal(id uint64) {
	var head [wire.MaxStreamHeader]byte
	h := wire.AppendStreamHeader(head[:0], id, ch.off, ch.fin, ch.len())
	ch.start = ch.base - len(h)
	copy(ch.buf[ch.start:], h)
	ch.sealed = true
}

// buffer holds what one ReadFrames returned. Segments refer to it; it goes back
// to the pool with the last of them. refs is guarded by the session's mutex.
type buffer struct {
	refs int
	b    [bigBuffer]byte
}

// segment is received data that nobody has read yet.
type segment struct {
	next *segment
	off  uint64
	data []byte
	from *buffer     // nil if data is a copy of its own
	on   *attachment // that brought it, if it lies beyond a gap
}

func (g *segment) end() uint64 { return g.off + uint64(len(g.data)) }

// pools hold a session's buffers between uses. They belong to the session, so
// that they go with it.
type pools struct {
	big, small, buffers sync.Pool
	segments            *segment // free ones
	free                int
}

// maxFreeSegments bounds the free list: a window of full frames.
const maxFreeSegments = maxWindow / maxData

// segment returns a segment; c.mu is held.
func (p *pools) segment(off uint64, data []byte, from *buffer) *segment {
	g := p.segments
	if g == nil {
		g = new(segment)
	} else {
		p.segments = g.next
		p.free--
	}
	*g = segment{off: off, data: data, from: from}
	return g
}

// done releases a segment and its buffer; c.mu is held.
func (p *pools) done(g *segment) {
	p.unref(g.from)
	*g = segment{}
	if p.free < maxFreeSegments {
		g.next = p.segments
		p.segments = g
		p.free++
	}
}

// chunk returns an empty chunk with room for n bytes of data, or as many as
// fit one frame.
func (p *pools) chunk(n int) *chunk {
	pool, size := &p.big, bigBuffer
	if n <= smallBuffer-room {
		pool, size = &p.small, smallBuffer
	}
	ch, _ := pool.Get().(*chunk)
	if ch == nil {
		ch = &chunk{buf: make([]byte, size), pooled: pool}
	}
	*ch = chunk{buf: ch.buf, base: room, end: room, pooled: pool}
	return ch
}

// put returns a chunk, unless a writer still holds it: then the writer's
// release does.
func (p *pools) put(ch *chunk) {
	if ch.held > 0 {
		ch.freed = true
		return
	}
	ch.next, ch.on = nil, nil
	ch.pooled.Put(ch)
}

func (p *pools) buffer() *buffer {
	b, _ := p.buffers.Get().(*buffer)
	if b == nil {
		b = new(buffer)
	}
	b.refs = 1
	return b
}

func (p *pools) unref(b *buffer) {
	if b == nil {
		return
	}
	if b.refs--; b.refs == 0 {
		p.buffers.Put(b)
	}
}
