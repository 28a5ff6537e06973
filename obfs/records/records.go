// Package records says into what TLS records a web server cuts a large response
// and a browser a large upload.
//
// # Concept
//
// Record lengths are in the clear. A server writes a body in blocks, and its TLS
// stack cuts each block into records of at most 2^14 bytes; what is left of a
// block makes a short record. nginx with HTTP/2 reads 32,768 bytes of a file and
// puts a frame header before every 8,192 of them: 32,804 bytes, which are records
// of 16401 16401 53. Go's server hands over one frame of 16,393 bytes at a time:
// 16401 26. A [Cycle] is what differs between servers, measured on real ones
// (docs/PROTOCOL.md, section 3.3, rule 10); a [Cutter] keeps one connection in
// step with it.
//
// # Vocabulary
//
//	length   what a record's header says: payload and 17 bytes
//	payload  what the server's or browser's HTTP hands to its TLS stack
//	body     a run of blocks; it ends with the first record that is not full
//
// Everything here is pure: no clock, no socket, no randomness.
package records

// Lengths in bytes.
const (
	// MaxPayload is the most that one record carries (RFC 8446, section 5.1).
	MaxPayload = 1 << 14
	// Overhead is a record's content type and tag.
	Overhead = 17
	// maxBlock bounds what is believed of a server: four times the largest buffer
	// that one is known to write at once (256 KiB).
	maxBlock = 1 << 20
	// short is up to where the rest of a block is sent although nothing waits to
	// fill it. Real ones are 9 (Go) and 36 (nginx) bytes, and a header's 200.
	short = 512
	// near: what leaves so little of a record free is no end of a body, but frames
	// that are a little shorter than a record; it is filled up.
	near = 64
	// minPayload is the least that a covert record has: 8 bytes of marker and 2 of
	// PADDING, and the tag.
	minPayload = 26 - Overhead
)

// growth is by how much the payload of Go's first records grows each time
// (crypto/tls, dynamic record sizing): a segment of 1208 bytes without header, tag
// and content type.
const growth = 1208 - 5 - 16 - 1

// Cycle is how one server or browser cuts. The zero value writes full records
// until the body ends, as Chromium does and nginx with HTTP/1.1.
type Cycle struct {
	// Block is how many payload bytes the TLS stack gets at a time; 0: no end.
	Block int
	// Header is what the response's header fields add to the first block; 0: none.
	Header int
	// Apart: the header travels in a record of its own before the first block.
	Apart bool
	// End is the payload of a record that follows a body's last; 0: there is none.
	End int
	// Frame, if not 0: each record carries one frame of at most so many bytes, and 9 of
	// its header. A frame ends with the Segment of the buffer that the body comes from,
	// and with the Round in which the browser writes, both in bytes: Firefox.
	Frame, Segment, Round int
	// Growing: the first records of a connection are smaller, as of Go's crypto/tls.
	Growing bool
}

// Header sizes that were measured: the HEADERS frame of a file's response.
const (
	nginxHeader = 127
	goHeader    = 51
)

// NginxHTTP2 is nginx's cycle: output_buffers of 32 KiB, http2_chunk_size of 8 KiB.
func NginxHTTP2() Cycle { return Cycle{Block: 32768 + 4*9, Header: nginxHeader} }

// FirefoxUpload is how Firefox 153 cuts what it uploads over HTTP/2
// (network.http.http2.chunk-size, nsIOService's segments), measured with 3 MB.
func FirefoxUpload() Cycle { return Cycle{Frame: 16000, Segment: 32768, Round: 32016} }

// Where a body begins in its first segment and round: header fields are before it.
const (
	firstSegment = 434
	firstRound   = 30402
	frameHeader  = 9
)

// GoHTTP2 is the cycle of Go's net/http, and so of Caddy and of the built-in
// cover: frames of 2^14 bytes, and an empty one that ends the body.
func GoHTTP2() Cycle {
	return Cycle{Block: MaxPayload + 9, Header: goHeader, Apart: true, End: 9, Growing: true}
}

// Sane reports whether some server could cut like that: what was learned from one
// must not make a relay odd or slow.
func (c Cycle) Sane() bool {
	rest := c.Block % MaxPayload
	return (c.Block == 0 || c.Block >= MaxPayload && c.Block <= maxBlock && (rest == 0 || rest >= minPayload && rest <= MaxPayload/2)) &&
		(c.Header == 0 || c.Header >= minPayload && c.Header <= 4096) &&
		(c.Frame == 0 && c.Segment == 0 && c.Round == 0 ||
			c.Block == 0 && c.Frame >= 4096 && c.Frame <= MaxPayload-frameHeader && c.Segment > firstRound && c.Segment <= maxBlock && c.Round > firstRound && c.Round <= maxBlock) &&
		(c.End == 0 || c.End >= minPayload && c.End <= short)
}

// Cutter follows one direction of one connection. The zero value cuts by the zero
// [Cycle].
type Cutter struct {
	cycle          Cycle
	count          int  // records so far
	left           int  // payload that the block still has; 0 between blocks
	headed         bool // the header of the body has gone out
	body           bool // a full record has gone out since the last body's end
	ending         bool // the record that ends a body is due
	segment, round int  // bytes that they still have; 0 between bodies
}

// Begin is the cutter of a new connection.
func (c Cycle) Begin() Cutter { return Cutter{cycle: c} }

// limit is the most payload of the next record.
func (c *Cutter) limit() int {
	if c.cycle.Growing {
		return min(growth*(c.count+1), MaxPayload)
	}
	return MaxPayload
}

// rest is what segment and round have left, of a new body what they begin with.
func (c *Cutter) rest() (segment, round int) {
	if c.segment == 0 {
		return c.cycle.Segment - firstSegment, c.cycle.Round - firstRound
	}
	return c.segment, c.round
}

// spend takes a record's frame from segment and round.
func (c *Cutter) spend(payload int) {
	c.segment, c.round = c.rest()
	n := max(payload-frameHeader, 0)
	// A frame that cannot be split may have been too long.
	if c.segment -= n; c.segment <= 0 {
		c.segment = c.cycle.Segment
	}
	if c.round -= n; c.round <= 0 {
		c.round = c.cycle.Round
	}
}

// full is the payload of the next record within a body.
func (c *Cutter) full() int {
	switch {
	case c.cycle.Frame > 0:
		segment, round := c.rest()
		return min(c.cycle.Frame, segment, round) + frameHeader
	case c.cycle.Block == 0:
		return c.limit()
	case c.left > 0:
		return min(c.limit(), c.left)
	case c.cycle.Apart:
		return min(c.limit(), c.cycle.Block)
	}
	return min(c.limit(), c.cycle.Block+c.cycle.Header)
}

// Next is how long the next record must be when a record of pending bytes, by its
// header, would take all that waits. A result above pending is filled up with
// padding; 0 means that none is due. A small answer stays as it is.
func (c *Cutter) Next(pending int) int {
	full := c.full()
	switch {
	case c.ending:
		return c.cycle.End + Overhead
	case c.left > 0 && full == c.left && full <= short, c.cycle.Frame > 0 && c.body && full <= short:
		return full + Overhead
	case pending < full+Overhead-near:
		return pending
	case c.cycle.Apart && !c.headed && !c.body:
		return c.cycle.Header + Overhead
	}
	return full + Overhead
}

// Sent notes a record of a body, or an answer.
func (c *Cutter) Sent(size int) {
	size -= Overhead
	full := c.full()
	header := c.cycle.Apart && !c.headed && !c.body && size == c.cycle.Header
	c.count++
	switch {
	case c.ending:
		c.ending = false
	case header:
		c.headed = true
	case size < full:
		c.ending = c.body && c.cycle.End > 0
		if c.body && c.cycle.Frame > 0 { // perhaps more of it comes
			c.spend(size)
		} else {
			c.segment, c.round = 0, 0
		}
		c.left, c.body, c.headed = 0, false, false
	case c.cycle.Frame > 0:
		c.spend(size)
		c.body = true
	case c.cycle.Block == 0:
		c.body = true
	default:
		if c.left == 0 {
			c.left = c.cycle.Block
			if !c.body && !c.cycle.Apart {
				c.left += c.cycle.Header
			}
		}
		c.left -= size
		if c.left < minPayload { // a frame that cannot be split was too long
			c.left = 0
		}
		c.body = true
	}
}

// Passed notes a record that belongs to no body: of the server itself, or a
// control frame's.
func (c *Cutter) Passed() { c.count++ }

// Learn tells the cycle from the lengths of a server's records: everything that
// followed the handshake on one connection, in which at least one body was large
// enough. ok is false if none was, or if what came is no cycle.
func Learn(lengths []int) (c Cycle, ok bool) {
	// A ticket of Go's may come before what it says itself.
	c.Growing = grows(lengths) || len(lengths) > 0 && grows(lengths[1:])
	const maxRecord, least = MaxPayload + Overhead, 3 // blocks that agree
	var block, agreed int
	start := -1
	for i, n := range lengths {
		switch {
		case n == maxRecord && start < 0:
			start = i
		case n == maxRecord || start < 0:
		default: // the short record of a block, or a body's last one
			size := (i-start)*MaxPayload + n - Overhead
			switch {
			case i+1 < len(lengths) && lengths[i+1] != maxRecord: // the last one
			case size == block:
				agreed++
			case block == 0 || agreed < 2:
				block, agreed = size, 1 // the first block has a header in it
			}
			start = -1
		}
	}
	switch {
	case agreed >= least:
		c.Block = block
	case longest(lengths, maxRecord) >= 8: // no block that anybody writes is so long
	default:
		return Cycle{}, false
	}
	if c.Growing && c.Block == GoHTTP2().Block {
		c = GoHTTP2()
	}
	if c.Block == NginxHTTP2().Block {
		c.Header = nginxHeader
	}
	return c, c.Sane()
}

// longest is the longest run of n in lengths.
func longest(lengths []int, n int) (most int) {
	run := 0
	for _, l := range lengths {
		if l != n {
			run = 0
			continue
		}
		run++
		most = max(most, run)
	}
	return most
}

// grows reports whether the beginning has records as long as only Go's growth
// makes them, and none that is longer.
func grows(lengths []int) bool {
	exact := false
	for i, n := range lengths[:min(len(lengths), MaxPayload/growth)] {
		most := growth*(i+1) + Overhead
		if n > most {
			return false
		}
		exact = exact || n == most
	}
	return exact
}
