package session

import "io"

// source reads into chunks, with a large buffer only while much comes.
type source struct {
	r     io.Reader
	ready *readiness // nil if the system cannot tell that r is readable
	bulk  bool
}

func newSource(r io.Reader) *source { return &source{r: r, ready: newReadiness(r)} }

// read returns chunks with data, linked by next, or nil, and an error, or nil.
func (src *source) read(p *pools) (*chunk, error) {
	if src.ready != nil {
		return src.ready.read(p)
	}
	size := smallBuffer - room
	if src.bulk {
		size = maxData
	}
	ch := p.chunk(size)
	n, err := src.r.Read(ch.buf[room : room+min(ch.free(), size)])
	src.bulk = n == size // else it has run dry: wait with a small buffer
	if n <= 0 {
		p.put(ch)
		return nil, err
	}
	ch.end = room + n
	return ch, err
}

// giveBack returns a chunk whose data was copied.
func (src *source) giveBack(ch *chunk) {
	ch.end = room
	ch.pooled.Put(ch)
}
