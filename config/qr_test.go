package config

import (
	"bytes"
	"errors"
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
	result, err := qrcode.NewQRCodeReader().Decode(bitmap, nil)
	if err != nil {
		t.Fatal(err)
	}
	return result.GetText()
}

func TestQRPNG(t *testing.T) {
	for _, name := range []string{"usual", "smallest", "three"} {
		b := testBundles(t)[name]
		data, err := QRPNG(b.Text())
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
	if err := QRTerminal(&plain, b.Text(), false); err != nil {
		t.Fatal(err)
	}
	if err := QRTerminal(&colour, b.Text(), true); err != nil {
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

func TestQRTooLong(t *testing.T) {
	longest := strings.Repeat("A", 4296)
	if _, err := QRPNG(longest); err != nil {
		t.Error(err)
	}
	if _, err := QRPNG(longest + "A"); !errors.Is(err, ErrTooLong) {
		t.Errorf("got %v", err)
	}
	if err := QRTerminal(new(bytes.Buffer), longest+"A", false); !errors.Is(err, ErrTooLong) {
		t.Errorf("got %v", err)
	}
}
