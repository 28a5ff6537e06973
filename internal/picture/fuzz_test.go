package picture

import (
	"bytes"
	"errors"
	"image/jpeg"
	"image/png"
	"strings"
	"testing"

	"github.com/makiuchi-d/gozxing/qrcode/decoder"

	"busel/config"
)

// checkTexts demands that what was read is what an invite is written as: of all
// that a code can say, only the one text form of an invite counts as one.
func checkTexts(t *testing.T, texts []string) {
	t.Helper()
	for _, text := range texts {
		if !isInvite(text) {
			t.Fatalf("%q is no invite", text)
		}
		b, err := config.ParseText(text)
		if err != nil {
			continue // damaged, or one frame of several
		}
		if !strings.Contains(strings.ToUpper(text), strings.ToUpper(b.Text())) {
			t.Fatalf("%q became %q", text, b.Text())
		}
	}
}

// FuzzRead demands that every file is answered with invites or one of the errors.
func FuzzRead(f *testing.F) {
	code := drawn(f, bundle(f, 259))
	f.Add(code)
	f.Add(asPNG(f, render(f, code, scene{module: 2, margin: 1})))
	f.Add(asJPEG(f, render(f, code, scene{module: 3, margin: 4, turn: 10}), 20))
	f.Add(vast(f))
	f.Add([]byte("\x00\x00\x00\x18ftypheic"))
	f.Fuzz(func(t *testing.T, data []byte) {
		// Large pictures take their time, and find no more than small ones.
		for _, conf := range []func() (w, h int){
			func() (int, int) { c, _ := png.DecodeConfig(bytes.NewReader(data)); return c.Width, c.Height },
			func() (int, int) { c, _ := jpeg.DecodeConfig(bytes.NewReader(data)); return c.Width, c.Height },
		} {
			if w, h := conf(); w*h > 1<<19 && w*h < maxPixels {
				return
			}
		}
		texts, err := Read(t.Context(), data)
		if (err == nil) != (len(texts) > 0) {
			t.Fatalf("%d texts and %v", len(texts), err)
		}
		known := err == nil
		for _, kind := range []error{ErrFormat, ErrTooLarge, ErrDamaged, ErrNoCode, config.ErrForeign} {
			known = known || errors.Is(err, kind)
		}
		if !known {
			t.Fatalf("untyped error %v", err)
		}
		checkTexts(t, texts)
	})
}

// FuzzSearch is FuzzRead behind the formats' check sums: the bits are modules of
// width a row, 3 pixels each.
func FuzzSearch(f *testing.F) {
	for _, margin := range []int{0, 1} {
		p, err := newPlane(f.Context(), render(f, drawn(f, bundle(f, 213)), scene{module: 1, margin: margin}))
		if err != nil {
			f.Fatal(err)
		}
		bits := make([]byte, (len(p.pix)+7)/8)
		for i, v := range p.pix {
			bits[i/8] |= v >> 7 << (i % 8)
		}
		f.Add(uint8(p.w), bits)
	}
	f.Fuzz(func(t *testing.T, width uint8, bits []byte) {
		const module = 3
		if width == 0 || len(bits) > 1<<11 {
			return
		}
		rows := len(bits) * 8 / int(width)
		p := &plane{w: module * int(width), h: module * rows}
		for y := range p.h {
			for x := range p.w {
				i := y/module*int(width) + x/module
				p.pix = append(p.pix, -(bits[i/8] >> (i % 8) & 1))
			}
		}
		for _, scaled := range p.stretched().scales() {
			texts, err := search(t.Context(), scaled.framed(false))
			if err != nil {
				t.Fatal(err)
			}
			for _, text := range texts {
				if isInvite(text) {
					checkTexts(t, []string{text})
				}
			}
		}
	})
}

// FuzzContents demands that whatever the bits of a code say is text or an error,
// bounded by what the largest code holds.
func FuzzContents(f *testing.F) {
	f.Add(uint8(1), []byte{0x40, 0x14, 0x10})
	f.Add(uint8(12), []byte("\x20\x51invite"))
	f.Add(uint8(40), []byte{0x71, 0xff, 0x40, 0xff})
	f.Add(uint8(27), []byte{0x80, 0x10, 0x00, 0x30, 0x50, 0xd1, 0x00})
	f.Fuzz(func(t *testing.T, version uint8, data []byte) {
		v, err := decoder.Version_GetVersionForNumber(int(version))
		if err != nil || len(data) > 3000 {
			return
		}
		result, err := decoder.DecodedBitStreamParser_Decode(data, v, decoder.ErrorCorrectionLevel_L, nil)
		if err == nil && len(result.GetText()) > 16*len(data)+16 {
			t.Fatalf("%d bytes became %d", len(data), len(result.GetText()))
		}
	})
}
