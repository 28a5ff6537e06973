//go:build linux

package prober

import (
	"slices"
	"time"
)

// Record is a TLS record as somebody in the path sees it.
type Record struct {
	Up   bool // from the client
	Type byte
	Size int           // of its body
	At   time.Duration // of its header, since the connection
}

// Recording is what somebody in the path holds of one connection. The zero
// value is empty and ready to use.
type Recording struct {
	Records []Record // in the order in which their headers passed
	Up      []byte   // all that the client sent
	// How the client and the server ended their direction: "FIN", "RST" or "".
	ClientEnd, ServerEnd     string
	ClientEndAt, ServerEndAt time.Duration // since the connection

	up, down half
}

// half follows the record boundaries of one direction.
type half struct {
	header []byte // of the next record, as far as it has passed
	left   int    // bytes of the record's body still to pass
}

// Pass notes that b passed at a time since the connection.
func (r *Recording) Pass(up bool, b []byte, at time.Duration) {
	h := &r.down
	if up {
		h = &r.up
		r.Up = append(r.Up, b...)
	}
	for len(b) > 0 {
		if h.left > 0 {
			n := min(h.left, len(b))
			h.left -= n
			b = b[n:]
			continue
		}
		n := min(5-len(h.header), len(b))
		h.header = append(h.header, b[:n]...)
		b = b[n:]
		if len(h.header) == 5 {
			h.left = int(h.header[3])<<8 | int(h.header[4])
			r.Records = append(r.Records, Record{up, h.header[0], h.left, at})
			h.header = h.header[:0]
		}
	}
}

// Flight is the client's first record, a ClientHello, as it was sent.
func (r *Recording) Flight() []byte {
	if len(r.Up) < 5 {
		return nil
	}
	return slices.Clone(r.Up[:min(len(r.Up), 5+(int(r.Up[3])<<8|int(r.Up[4])))])
}

func (r *Recording) clone() Recording {
	c := *r
	c.Records, c.Up = slices.Clone(r.Records), slices.Clone(r.Up)
	c.up.header, c.down.header = slices.Clone(r.up.header), slices.Clone(r.down.header)
	return c
}
