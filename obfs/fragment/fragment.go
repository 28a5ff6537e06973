// Package fragment cuts a ClientHello so that a censor who does not put it
// together again does not see the name in it.
//
// # Concept
//
// A censor reads the server's name in the first flight of a connection. Many read
// it from what they take for the whole: the first TCP segment, or the first TLS
// record. A [Mode] says what is cut:
//
//	records   the handshake message goes into several TLS records (RFC 8446,
//	          section 5.1, allows that). China's censor puts TCP segments together,
//	          and not records (row C4); 92 to 96% of servers accept it
//	segments  the bytes go into several TCP segments, the first of which has at
//	          most four: less than a record's header (rows C5, C6)
//	both      both, which passes where either alone does not (row R6)
//
// It is an extra, to be tried when an uncut hello fails: no browser cuts its
// hello, and who puts everything together (row R3) sees the name all the same.
//
// # Where
//
// One cut is always inside the name, so that neither a record nor a segment has
// the whole of it, and a search for its bytes fails. One is near the start. Up to
// two more are anywhere. All are drawn anew each time: lengths that were always
// the same would be a mark of their own.
//
// Everything here is pure; randomness is the caller's.
package fragment

import (
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"slices"
	"time"
)

// Mode is what is cut.
type Mode uint8

// Modes.
const (
	Off      Mode = 0
	Records  Mode = 1
	Segments Mode = 2
	Both          = Records | Segments
)

// ErrMode means that no mode has that name.
var ErrMode = errors.New("not one of records, segments and both")

// ParseMode reads a mode's name.
func ParseMode(name string) (Mode, error) {
	switch name {
	case "records":
		return Records, nil
	case "segments":
		return Segments, nil
	case "both":
		return Both, nil
	}
	return Off, ErrMode
}

const (
	headerLen       = 5 // of a record
	recordHandshake = 22
	typeClientHello = 1
	extServerName   = 0

	// The first record has 5 to 64 bytes of the message: its type and length, by
	// which servers know what is coming, and not yet an extension.
	minFirst, maxFirst = 5, 64
	// maxFirstSegment is what row C6 needs.
	maxFirstSegment = 4
	// maxExtra is how many cuts there are beside the two that are due.
	maxExtra = 2
)

// MaxParts is the most records, and the most segments, that a hello becomes.
const MaxParts = 3 + maxExtra

// Bounds of the pause between two segments. A millisecond keeps the kernel from
// sending them as one; four times ten are less than people notice, and than the
// retransmission of a lost packet takes.
const (
	MinPause = time.Millisecond
	MaxPause = 10 * time.Millisecond
)

// Pause draws a pause between two segments.
func Pause(r *rand.Rand) time.Duration {
	return MinPause + time.Duration(r.Int64N(int64(MaxPause-MinPause)+1))
}

// Cut returns the segments to send one after another instead of flight, which is
// what a TLS stack writes at once: whole records. If none of them is a
// ClientHello, or the mode is Off, that is flight itself. What is returned may
// share its memory.
func (m Mode) Cut(flight []byte, r *rand.Rand) [][]byte {
	start, end, ok := findHello(flight)
	if m == Off || !ok {
		return [][]byte{flight}
	}
	msg := flight[start+headerLen : end]
	name := findName(msg)

	var cuts []int // of the message into records
	if m&Records != 0 {
		cuts = sorted(slices.Concat(
			[]int{min(minFirst+r.IntN(maxFirst-minFirst+1), len(msg)-1)},
			inside(name, r), extra(minFirst, len(msg), r)))
	}
	stream := slices.Clone(flight[:start])
	at := 0
	for _, cut := range append(cuts, len(msg)) {
		stream = append(stream, flight[start:start+3]...)
		stream = binary.BigEndian.AppendUint16(stream, uint16(cut-at))
		stream = append(stream, msg[at:cut]...)
		at = cut
	}
	stop := len(stream)
	stream = append(stream, flight[end:]...)
	if m&Segments == 0 {
		return [][]byte{stream}
	}

	// Where a byte of the message went to.
	moved := func(i int) int {
		records := 1
		for _, cut := range cuts {
			if cut <= i {
				records++
			}
		}
		return start + records*headerLen + i
	}
	if name.len() > 0 {
		name = span{moved(name.start), moved(name.end-1) + 1}
	}
	points := slices.Concat(
		[]int{start + 1 + r.IntN(maxFirstSegment)},
		inside(name, r), extra(start+maxFirstSegment, stop, r))
	var segments [][]byte
	at = 0
	for _, point := range append(sorted(points), len(stream)) {
		segments = append(segments, stream[at:point])
		at = point
	}
	return segments
}

// sorted returns the cuts in order, each once.
func sorted(cuts []int) []int {
	slices.Sort(cuts)
	return slices.Compact(cuts)
}

// inside is a cut between two bytes of s, none if there are no two. If it can it
// leaves two bytes before it: a record's length in front of the rest may happen to
// be the one that is missing.
func inside(s span, r *rand.Rand) []int {
	switch s.len() {
	case 0, 1:
		return nil
	case 2:
		return []int{s.start + 1}
	}
	return []int{s.start + 2 + r.IntN(s.len()-2)}
}

// extra are cuts anywhere between two places.
func extra(after, before int, r *rand.Rand) (cuts []int) {
	if before-after < 2 {
		return nil
	}
	for range r.IntN(maxExtra + 1) {
		cuts = append(cuts, after+1+r.IntN(before-after-1))
	}
	return cuts
}

// span is a part of something.
type span struct{ start, end int }

func (s span) len() int { return s.end - s.start }

// findHello returns where the record of a ClientHello lies in whole records. ok
// is false if there is none that has all of it and nothing else.
func findHello(flight []byte) (start, end int, ok bool) {
	for start = 0; len(flight)-start > headerLen; start = end {
		rec := flight[start:]
		size := int(binary.BigEndian.Uint16(rec[3:]))
		if end = start + headerLen + size; end > len(flight) {
			return 0, 0, false
		}
		body := rec[headerLen : headerLen+size]
		if rec[0] == recordHandshake && size > 4 && body[0] == typeClientHello &&
			int(body[1])<<16|int(body[2])<<8|int(body[3]) == size-4 {
			return start, end, true
		}
	}
	return 0, 0, false
}

// findName returns where the host name lies in a ClientHello message with its
// header; it is empty if there is none.
func findName(msg []byte) span {
	at := 4 + 2 + 32 // header, version and random
	// skip passes a vector with a length of n bytes.
	skip := func(n int) bool {
		size, ok := number(msg, at, n)
		at += n + size
		return ok && at <= len(msg)
	}
	if !skip(1) || !skip(2) || !skip(1) { // session id, ciphers, compression
		return span{}
	}
	at += 2 // the extensions' length
	for {
		typ, ok := number(msg, at, 2)
		size, ok2 := number(msg, at+2, 2)
		at += 4
		if !ok || !ok2 || at+size > len(msg) {
			return span{}
		}
		if typ == extServerName {
			// A list of one: its length, the type 0, the name's length (RFC 6066).
			n, ok := number(msg, at+3, 2)
			if !ok || 5+n > size {
				return span{}
			}
			return span{at + 5, at + 5 + n}
		}
		at += size
	}
}

// number reads n bytes at i.
func number(b []byte, i, n int) (v int, ok bool) {
	if i+n > len(b) {
		return 0, false
	}
	for _, x := range b[i : i+n] {
		v = v<<8 | int(x)
	}
	return v, true
}
