package mirror

import "encoding/binary"

// tracker follows record boundaries in a byte stream that passes by. Whatever
// the header's type and version are, its length is believed: the peer's TLS
// stack judges.
type tracker struct {
	hdr  [headerLen]byte
	nHdr int // bytes of the header that passed
	left int // bytes of the body that are still to pass
	typ  byte
	// began is called with the type and body length of each record whose header
	// passed, ended with the type of each that passed whole; both may be nil.
	began func(typ byte, size int)
	ended func(typ byte)
}

// boundary reports whether the bytes passed so far end with a record.
func (t *tracker) boundary() bool { return t.nHdr == 0 && t.left == 0 }

// pass notes that b passes.
func (t *tracker) pass(b []byte) {
	for len(b) > 0 {
		if t.left > 0 {
			n := min(t.left, len(b))
			t.left -= n
			b = b[n:]
			if t.left == 0 && t.ended != nil {
				t.ended(t.typ)
			}
			continue
		}
		n := copy(t.hdr[t.nHdr:], b)
		t.nHdr += n
		b = b[n:]
		if t.nHdr == headerLen {
			t.nHdr = 0
			t.typ = t.hdr[0]
			t.left = int(binary.BigEndian.Uint16(t.hdr[3:]))
			if t.began != nil {
				t.began(t.hdr[0], t.left)
			}
		}
	}
}

// scanner tells covert records from genuine ones in one direction. The zero
// value takes everything for genuine. It is pure but for its state.
type scanner struct {
	tracker
	// want returns the marker of the covert record that would be next, and false
	// if none can be: then nothing is held back.
	want func() ([markerLen]byte, bool)
}

// next looks at b, the bytes that have not passed yet. The first pass bytes are
// genuine and must be passed on now; then, if covert > 0, a whole covert record
// of that many bytes follows, header included. What is left of b, if pass and
// covert are 0, is held: the beginning of what may be covert (at most 12 bytes)
// or surely is (at most a record).
func (s *scanner) next(b []byte) (pass, covert int) {
	for pass < len(b) {
		if s.boundary() {
			n, hold := s.covert(b[pass:])
			if n > 0 || hold {
				return pass, n
			}
		}
		// Pass the rest of this record, or what there is of it.
		n := s.left
		if n == 0 {
			n = headerLen - s.nHdr
		}
		n = min(n, len(b)-pass)
		s.pass(b[pass : pass+n])
		pass += n
	}
	return pass, 0
}

// covert looks at b, which begins with a record: n > 0 is the length of a whole
// covert one, hold means that more bytes must decide or complete it.
func (s *scanner) covert(b []byte) (n int, hold bool) {
	if s.want == nil || b[0] != recordData {
		return 0, false
	}
	mark, ok := s.want()
	if !ok {
		return 0, false
	}
	const first, last = minRecord, maxRecord
	switch {
	case len(b) > 1 && b[1] != 3, len(b) > 2 && b[2] != 3:
		return 0, false
	case len(b) == 4 && (int(b[3]) > last>>8):
		return 0, false
	}
	if len(b) < headerLen {
		return 0, true
	}
	size := int(binary.BigEndian.Uint16(b[3:]))
	if size < first || size > last {
		return 0, false
	}
	// A timing difference here is one between a client's records and any other's;
	// the marker is visible on the wire and used once.
	for i, x := range b[headerLen:min(len(b), prefixLen)] {
		if x != mark[i] {
			return 0, false
		}
	}
	if len(b) < headerLen+size {
		return 0, true
	}
	return headerLen + size, false
}
