package config

import (
	"bytes"
	"image"
	"image/color"
	"image/png"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/makiuchi-d/gozxing"
	"github.com/makiuchi-d/gozxing/qrcode"
)

// readQR decodes a picture with an implementation that is not ours.
func readQR(t *testing.T, img image.Image) string {
	t.Helper()
	bitmap, err := gozxing.NewBinaryBitmapFromImage(img)
	if err != nil {
		t.Fatal(err)
	}
	// The codes are straight and alone in their pictures.
	result, err := qrcode.NewQRCodeReader().Decode(bitmap, map[gozxing.DecodeHintType]any{gozxing.DecodeHintType_PURE_BARCODE: true})
	if err != nil {
		t.Fatal(err)
	}
	return result.GetText()
}

func TestQRPNG(t *testing.T) {
	for _, name := range []string{"usual", "smallest"} {
		b := testBundles(t)[name]
		data, err := QRPNG(b)
		if err != nil {
			t.Fatal(err)
		}
		img, err := png.Decode(bytes.NewReader(data))
		if err != nil {
			t.Fatal(err)
		}
		// The quiet zone is 4 modules of 8 pixels, and the finder begins after it.
		for i := range img.Bounds().Dx() {
			if r, _, _, _ := img.At(i, 31).RGBA(); r != 0xffff {
				t.Fatal("no quiet zone")
			}
		}
		if r, _, _, _ := img.At(32, 32).RGBA(); r != 0 {
			t.Fatal("the quiet zone is too wide")
		}
		got, err := ParseText(readQR(t, img))
		if err != nil || !got.Equal(b) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// rasterise paints a terminal's text: each character 8 pixels wide, 16 high.
func rasterise(t *testing.T, text string, foreground, background color.Gray) image.Image {
	t.Helper()
	lines := strings.Split(strings.TrimRight(text, "\n"), "\n")
	width := utf8.RuneCountInString(lines[0])
	img := image.NewGray(image.Rect(0, 0, width*8, len(lines)*16))
	for y, line := range lines {
		if n := utf8.RuneCountInString(line); n != width {
			t.Fatalf("line %d has %d characters, want %d", y, n, width)
		}
		for x, c := range []rune(line) {
			halves, ok := map[rune][2]bool{' ': {false, false}, '▀': {true, false}, '▄': {false, true}, '█': {true, true}}[c]
			if !ok {
				t.Fatalf("character %q", c)
			}
			for i, set := range halves {
				ink := background
				if set {
					ink = foreground
				}
				for py := range 8 {
					for px := range 8 {
						img.SetGray(x*8+px, y*16+i*8+py, ink)
					}
				}
			}
		}
	}
	return img
}

func TestQRTerminal(t *testing.T) {
	black, white := color.Gray{0}, color.Gray{0xff}
	b := mustSign(t, 1, 1, usualRelay())
	var plain, colour bytes.Buffer
	if err := QRTerminal(&plain, b, false); err != nil {
		t.Fatal(err)
	}
	if err := QRTerminal(&colour, b, true); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(plain.String(), "\x1b") {
		t.Error("colours that nobody asked for")
	}
	stripped := strings.ReplaceAll(strings.ReplaceAll(colour.String(), "\x1b[38;5;16;48;5;231m", ""), "\x1b[0m", "")
	if lines := strings.Count(stripped, "\n"); strings.Count(colour.String(), "\x1b[0m\n") != lines {
		t.Error("a line does not end its colours")
	}
	for name, img := range map[string]image.Image{
		"light on dark": rasterise(t, plain.String(), white, black),
		"colour":        rasterise(t, stripped, black, white),
	} {
		got, err := ParseText(readQR(t, img))
		if err != nil || !got.Equal(b) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if width := utf8.RuneCountInString(strings.SplitN(plain.String(), "\n", 2)[0]); width > 80 {
		t.Errorf("%d columns do not fit a terminal of 80", width)
	}
}

// A long invite is several codes in one picture, a near square.
func TestQRSequence(t *testing.T) {
	for name, columns := range map[string]int{"three": 2, "largest": 4} {
		b := testBundles(t)[name]
		data, err := QRPNG(b)
		if err != nil {
			t.Fatal(err)
		}
		img, err := png.Decode(bytes.NewReader(data))
		if err != nil {
			t.Fatal(err)
		}
		side := img.Bounds().Dx() / columns
		var texts []string
		for i := range b.Codes() {
			corner := image.Pt(i%columns*side, i/columns*side)
			cell := img.(*image.Paletted).SubImage(image.Rectangle{corner, corner.Add(image.Pt(side, side))})
			texts = append(texts, readQR(t, cell))
		}
		got, err := ParseText(strings.Join(texts, "\n"))
		if err != nil || !got.Equal(b) {
			t.Errorf("%s: %v", name, err)
		}
		var terminal bytes.Buffer
		if err := QRTerminal(&terminal, b, false); err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(terminal.String()) {
			if n := utf8.RuneCountInString(line) - 1; n > 80 {
				t.Fatalf("%s: %d columns do not fit a terminal of 80", name, n)
			}
		}
	}
}
