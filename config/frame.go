package config

import (
	"bytes"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// ErrIncomplete means that parts of an invite are still missing: it was shown as
// several QR codes, and not all of them were read.
var ErrIncomplete = errors.New("incomplete invite")

// Bounds of a sequence of frames (docs/PROTOCOL.md, "Frames").
const (
	// FramePrefix begins the text form of a frame; any case is read.
	FramePrefix = "busel/"
	// MaxFrames is the highest number of frames of one invite.
	MaxFrames = 16

	// maxPiece is the longest bundle in bytes that one QR code holds such that a
	// phone reads it at an angle too (version 12 at level L), and the longest
	// piece of one in a frame, unless 16 of them do not hold the bundle.
	maxPiece  = 300
	frameHead = 2 + frameIDLen
	// frameIDLen is the length in bytes of what the frames of one bundle have in
	// common: the start of SHA-256 of it.
	frameIDLen = 4
)

// frameLabel precedes the bytes that a frame's check digits are of, so that they
// never match those of a bundle.
const frameLabel = "busel frame 1"

// frame is one part of a bundle that is too long for one QR code. Its text form
// is "busel/", its number from 1, "/", the number of frames, ":", and Base32 of
//
//	frame = length u16 | id(4) | piece
//	check = the first 4 bytes of SHA-256("busel frame 1" | number u8 | count u8 | frame)
//
// where length is that of the whole bundle in bytes and id is the first 4 bytes
// of its SHA-256. The length gives count and the length of every piece, see
// pieces: there is one sequence for each bundle.
type frame struct {
	number int // from 1
	length int // of the bundle in bytes
	id     [frameIDLen]byte
	piece  []byte
}

// pieces returns how many frames a bundle of that many bytes is in, and how many
// bytes of it each of them holds, the last one less if need be. One means that
// there are no frames.
func pieces(length int) (count, size int) {
	count = min((length+maxPiece-1)/maxPiece, MaxFrames)
	return count, (length + count - 1) / count
}

// Codes returns what the bundle's QR codes say: its text form alone if one code
// holds it well, else 2 to [MaxFrames] frames, which [ParseText] reads in any
// order.
func (b *Bundle) Codes() []string {
	raw := b.Append(nil)
	count, size := pieces(len(raw))
	if count == 1 {
		return []string{b.Text()}
	}
	sum := sha256.Sum256(raw)
	var codes []string
	for piece := range slices.Chunk(raw, size) {
		f := frame{len(codes) + 1, len(raw), [frameIDLen]byte(sum[:]), piece}
		codes = append(codes, f.text())
	}
	return codes
}

func (f *frame) count() int {
	count, _ := pieces(f.length)
	return count
}

// size is how many bytes the frame's piece has.
func (f *frame) size() int {
	count, size := pieces(f.length)
	if f.number == count {
		return f.length - (count-1)*size
	}
	return size
}

func (f *frame) append(to []byte) []byte {
	to = binary.BigEndian.AppendUint16(to, uint16(f.length))
	to = append(to, f.id[:]...)
	return append(to, f.piece...)
}

func (f *frame) check() []byte {
	sum := sha256.Sum256(f.append(append([]byte(frameLabel), byte(f.number), byte(f.count()))))
	return sum[:checkLen]
}

func (f *frame) text() string {
	digits := encoding.EncodeToString(append(f.append(nil), f.check()...))
	return fmt.Sprintf("%s%d/%d:%s", FramePrefix, f.number, f.count(), digits)
}

// of reports whether f is one of b's frames.
func (f *frame) of(b *Bundle) bool { return slices.Contains(b.Codes(), f.text()) }

// parseFrame reads a frame from the start of text, which is in upper case and
// follows [FramePrefix]. The frame says itself how long it is, so letters that
// follow it do no harm.
func parseFrame(text string) (*frame, error) {
	head, digits, ok := strings.Cut(text, ":")
	first, second, ok2 := strings.Cut(head, "/")
	number, ok3 := frameNumber(first)
	count, ok4 := frameNumber(second)
	if !ok || !ok2 || !ok3 || !ok4 || number > count || count == 1 {
		return nil, damaged("the beginning of a part of it cannot be read")
	}
	where := fmt.Sprintf("part %d of %d", number, count)
	digits = leadingDigits(digits)
	raw := decodeAll(digits)
	if len(raw) < frameHead {
		return nil, shortFrame(where)
	}
	f := &frame{number: number, length: int(binary.BigEndian.Uint16(raw)), id: [frameIDLen]byte(raw[2:])}
	if f.length > maxBundle || f.length == 0 || f.count() != count {
		return nil, damaged("%s: its check digits do not match, so a character of it is wrong", where)
	}
	end := frameHead + f.size()
	if len(raw) < end+checkLen {
		return nil, shortFrame(where)
	}
	f.piece = raw[frameHead:end]
	if subtle.ConstantTimeCompare(f.check(), raw[end:end+checkLen]) != 1 || !canonical(digits, raw[:end+checkLen]) {
		return nil, damaged("%s: its check digits do not match, so a character of it is wrong", where)
	}
	return f, nil
}

func shortFrame(where string) error {
	return fmt.Errorf("%w: %w: it ends inside %s; copy it again in full, or ask for it once more", ErrDamaged, errShort, where)
}

// frameNumber reads 1..MaxFrames as it is written.
func frameNumber(s string) (int, bool) {
	if len(s) == 0 || len(s) > 2 {
		return 0, false
	}
	n, err := strconv.Atoi(s)
	return n, err == nil && n >= 1 && n <= MaxFrames && strconv.Itoa(n) == s
}

// joinFrames makes the bundle of which all frames are parts. They come in any
// order, and may be there more than once.
func joinFrames(frames []*frame) (*Bundle, error) {
	first := frames[0]
	parts := make([]*frame, first.count())
	for _, f := range frames {
		if f.id != first.id || f.length != first.length {
			return nil, fmt.Errorf("%w in these parts; give the parts of one at a time", errSeveral)
		}
		known := parts[f.number-1]
		if known != nil && !bytes.Equal(known.piece, f.piece) {
			return nil, damaged("part %d is there twice and differs", f.number)
		}
		parts[f.number-1] = f
	}
	var missing []string
	var raw []byte
	for i, f := range parts {
		if f == nil {
			missing = append(missing, strconv.Itoa(i+1))
			continue
		}
		raw = append(raw, f.piece...)
	}
	switch n := len(missing); {
	case n == 1:
		return nil, fmt.Errorf("%w: part %s of %d is missing; give all parts together", ErrIncomplete, missing[0], len(parts))
	case n > 1:
		last := n - 1
		return nil, fmt.Errorf("%w: parts %s and %s of %d are missing; give all parts together", ErrIncomplete,
			strings.Join(missing[:last], ", "), missing[last], len(parts))
	}
	if sum := sha256.Sum256(raw); [frameIDLen]byte(sum[:]) != first.id {
		return nil, damaged("its parts do not fit together")
	}
	return ParseBundle(raw)
}
