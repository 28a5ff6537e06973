// Package picture reads invites from pictures: screenshots, scans and photos of
// QR codes, as people send them to each other.
//
// [Read] takes the bytes of a PNG or JPEG file and returns what the invites in it
// say; whether that is a good invite is config.ParseText's to judge. Codes may be
// turned, seen at an angle, white on black, without a margin, among other things,
// and several in one picture.
//
// A picture comes from a stranger, so its cost is bounded before it is decoded:
// by the size of the file, by its pixels, and by the memory that they need. What
// is decoded is then searched at no more than 4 megapixels, with a bound on the
// finder patterns that are looked at: a picture of noise costs about as much as
// one of a code. A picture of another format, one that is too large, is damaged
// or holds nothing to read is answered with an error that says what to do.
package picture

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"image"
	"image/color"
	"image/jpeg"
	"image/png"
	"io"
	"slices"
	"strings"

	"busel/config"
)

// Why a picture cannot be read. The error that wraps one of them says what to
// do; a code that is no invite is [config.ErrForeign]. None of them shows what a
// picture holds.
var (
	ErrFormat   = errors.New("picture format")    // neither PNG nor JPEG
	ErrTooLarge = errors.New("picture too large") // in bytes or pixels
	ErrDamaged  = errors.New("damaged picture")   // cannot be decoded to its end
	ErrNoCode   = errors.New("no QR code found")
)

// Bounds of a picture.
const (
	// MaxFile is the largest file in bytes: above every phone's photos.
	MaxFile = 32 << 20
	// maxPixels is above every phone's usual photos, at 12 to 50 million.
	maxPixels = 50_000_000
	// maxMemory is what decoding may need in bytes.
	maxMemory = 256 << 20
	// maxScans is how many times a JPEG may go over its pixels. Those that are made for
	// looking at have ten or so, and a small picture or two of themselves inside. One with
	// 50 bytes for each scan would take hours.
	maxScans = 200
)

// Is reports whether data begin as a picture's file does, of a format that
// [Read] reads or names in its error.
func Is(data []byte) bool { return format(data) != "" }

// format names the picture's format by its first bytes; empty if it is none.
func format(data []byte) string {
	has := func(at int, magic string) bool {
		return len(data) >= at+len(magic) && string(data[at:at+len(magic)]) == magic
	}
	switch {
	case has(0, "\x89PNG\r\n\x1a\n"):
		return "PNG"
	case has(0, "\xff\xd8\xff"):
		return "JPEG"
	case has(0, "GIF87a"), has(0, "GIF89a"):
		return "GIF"
	case has(0, "RIFF") && has(8, "WEBP"):
		return "WebP"
	case has(4, "ftypavif"), has(4, "ftypavis"):
		return "AVIF"
	case has(4, "ftyphei"), has(4, "ftyphev"), has(4, "ftypmif1"), has(4, "ftypmsf1"):
		return "HEIC"
	case has(0, "BM") && has(6, "\x00\x00\x00\x00"):
		return "BMP"
	case has(0, "II*\x00"), has(0, "MM\x00*"):
		return "TIFF"
	case has(0, "%PDF-"):
		return "PDF"
	}
	return ""
}

// Read returns the texts of the invites, whole or in frames, in the picture,
// each once and in no order that means anything. The error wraps one of this
// package's, [config.ErrForeign], or ctx's.
func Read(ctx context.Context, data []byte) ([]string, error) {
	if len(data) > MaxFile {
		return nil, tooLarge("%d MB, and %d are read", len(data)>>20, MaxFile>>20)
	}
	img, err := decode(ctx, data)
	if err != nil {
		return nil, err
	}
	base, err := newPlane(ctx, img)
	if err != nil {
		return nil, err
	}
	var texts []string
	foreign := false
	for _, p := range base.stretched().scales() {
		for _, inverted := range []bool{false, true} {
			found, err := search(ctx, p.framed(inverted))
			if err != nil {
				return nil, err
			}
			for _, text := range found {
				switch {
				case !isInvite(text):
					foreign = true
				case !slices.Contains(texts, text):
					texts = append(texts, text)
				}
			}
			if complete(texts) {
				return texts, nil
			}
		}
	}
	switch {
	case len(texts) > 0:
		return texts, nil
	case foreign:
		return nil, fmt.Errorf("%w: the QR code in this picture is not one of Busel's; look for the picture that came with the invite", config.ErrForeign)
	}
	return nil, fmt.Errorf("%w: the whole code has to be in the picture, sharp and in even light; "+
		"crop the picture to the code, or take it again from nearer, or paste the invite's text", ErrNoCode)
}

func isInvite(text string) bool {
	for _, prefix := range []string{config.TextPrefix, config.FramePrefix} {
		if len(text) >= len(prefix) && strings.EqualFold(text[:len(prefix)], prefix) {
			return true
		}
	}
	return false
}

// complete reports whether more of the same picture cannot help.
func complete(texts []string) bool {
	if len(texts) == 0 {
		return false
	}
	_, err := config.ParseText(strings.Join(texts, "\n"))
	return err == nil || errors.Is(err, config.ErrForged)
}

// decode decodes a PNG or JPEG whose cost is within the bounds.
func decode(ctx context.Context, data []byte) (image.Image, error) {
	var decodeConfig func(io.Reader) (image.Config, error)
	var decodeImage func(io.Reader) (image.Image, error)
	switch kind := format(data); kind {
	case "PNG":
		decodeConfig, decodeImage = png.DecodeConfig, png.Decode
	case "JPEG":
		decodeConfig, decodeImage = jpeg.DecodeConfig, jpeg.Decode
	case "":
		return nil, fmt.Errorf("%w: this is no picture; PNG and JPEG are read", ErrFormat)
	default:
		return nil, fmt.Errorf("%w: %s is not read, PNG and JPEG are; open it, and give a screenshot of it", ErrFormat, kind)
	}
	conf, err := decodeConfig(bytes.NewReader(data))
	if err != nil {
		return nil, damaged(err)
	}
	pixels := int64(conf.Width) * int64(conf.Height)
	if pixels > maxPixels || pixels*pixelCost(conf.ColorModel, data) > maxMemory {
		return nil, tooLarge("%d by %d pixels", conf.Width, conf.Height)
	}
	if format(data) == "JPEG" && bytes.Count(data, startOfScan) > maxScans {
		return nil, damaged(fmt.Errorf("it has more than %d scans", maxScans))
	}
	img, err := decodeImage(&reader{ctx, bytes.NewReader(data)})
	if cause := context.Cause(ctx); cause != nil {
		return nil, fmt.Errorf("picture: %w", cause)
	}
	if err != nil {
		return nil, damaged(err)
	}
	return img, nil
}

// startOfScan is a JPEG's marker (ITU-T T.81, table B.1), which does not occur in what is
// encoded (section B.1.1.5).
var startOfScan = []byte{0xff, 0xda}

// reader reads until ctx ends, so that a decoder does not outlive it.
type reader struct {
	ctx context.Context
	r   *bytes.Reader
}

func (r *reader) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.r.Read(p)
}

func tooLarge(what string, args ...any) error {
	return fmt.Errorf("%w: %s; crop it to the code, or take a screenshot of it", ErrTooLarge, fmt.Sprintf(what, args...))
}

func damaged(err error) error {
	return fmt.Errorf("%w: %w; ask for it once more, or take a screenshot if you can open it", ErrDamaged, err)
}

// pixelCost is how many bytes decoding takes at most for each pixel.
func pixelCost(model color.Model, data []byte) int64 {
	var cost int64
	switch model {
	case color.GrayModel:
		cost = 1
	case color.Gray16Model:
		cost = 2
	case color.YCbCrModel:
		cost = 3
	case color.RGBAModel, color.NRGBAModel, color.CMYKModel:
		cost = 4
	case color.RGBA64Model, color.NRGBA64Model:
		cost = 8
	default:
		cost = 1 // a palette
	}
	if progressive(data) {
		// The standard decoder keeps every coefficient as an int32.
		cost += 4 * cost
	}
	return cost
}

// progressive reports whether data are a JPEG whose first frame header (ITU-T
// T.81, table B.1) is that of a progressive one.
func progressive(data []byte) bool {
	if format(data) != "JPEG" {
		return false
	}
	for at := 2; at+4 <= len(data); {
		if data[at] != 0xff {
			at++ // what the standard decoder skips, too
			continue
		}
		switch marker := data[at+1]; {
		case marker == 0xc2:
			return true
		case marker == 0xc0, marker == 0xc1, marker == 0xda, marker == 0xd9:
			return false
		case marker == 0xff:
			at++
		case marker == 0x00, marker >= 0xd0 && marker <= 0xd7:
			at += 2 // without a length
		default:
			at += 2 + int(binary.BigEndian.Uint16(data[at+2:]))
		}
	}
	return false
}
