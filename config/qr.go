package config

import (
	"bufio"
	"bytes"
	"fmt"
	"image"
	"image/color"
	"image/png"
	"io"
	"math"
	"strings"

	"rsc.io/qr"
)

const (
	quietZone    = 4 // modules of white around a code (ISO/IEC 18004, section 5.3.8)
	modulePixels = 8 // side of a module in a picture
)

// encodeQR makes the codes of an invite: in upper case, so that the alphanumeric
// mode holds them, and at level L for the largest modules.
func encodeQR(b *Bundle) ([]*qr.Code, error) {
	var codes []*qr.Code
	for _, text := range b.Codes() {
		code, err := qr.Encode(strings.ToUpper(text), qr.L)
		if err != nil {
			return nil, fmt.Errorf("qr code: %w", err)
		}
		codes = append(codes, code)
	}
	return codes, nil
}

// QRPNG is the invite as a PNG picture: its QR code, or its QR codes side by side
// and one below the other, 8 pixels a module. One picture is what people pass on
// without losing a part, and a near square is what messengers scale down least.
func QRPNG(b *Bundle) ([]byte, error) {
	codes, err := encodeQR(b)
	if err != nil {
		return nil, err
	}
	cell := 0 // side of one code with its quiet zone in modules
	for _, code := range codes {
		cell = max(cell, code.Size+2*quietZone)
	}
	columns := int(math.Ceil(math.Sqrt(float64(len(codes)))))
	rows := (len(codes) + columns - 1) / columns
	side := cell * modulePixels
	img := image.NewPaletted(image.Rect(0, 0, columns*side, rows*side), color.Palette{color.White, color.Black})
	for i, code := range codes {
		left, top := i%columns*side, i/columns*side
		for y := range side {
			for x := range side {
				if code.Black(x/modulePixels-quietZone, y/modulePixels-quietZone) {
					img.SetColorIndex(left+x, top+y, 1)
				}
			}
		}
	}
	var out bytes.Buffer
	if err := png.Encode(&out, img); err != nil {
		return nil, fmt.Errorf("qr code: %w", err)
	}
	return out.Bytes(), nil
}

// QRSVG is a QR code of text as an SVG picture with its quiet zone, black on white, one
// unit a module. Text of an invite is drawn in upper case, like all of its codes.
func QRSVG(text string) (string, error) {
	if strings.HasPrefix(text, TextPrefix) || strings.HasPrefix(text, FramePrefix) {
		text = strings.ToUpper(text)
	}
	code, err := qr.Encode(text, qr.L)
	if err != nil {
		return "", fmt.Errorf("qr code: %w", err)
	}
	var b strings.Builder
	side := code.Size + 2*quietZone
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" shape-rendering="crispEdges"><path fill="#fff" d="M0 0h%dv%dH0z"/><path d="`, side, side, side, side)
	for y := range code.Size {
		for x := 0; x < code.Size; x++ {
			from := x
			for code.Black(x, y) { // none is beyond the edge
				x++
			}
			if x > from {
				fmt.Fprintf(&b, "M%d %dh%dv1h-%dz", from+quietZone, y+quietZone, x-from, x-from)
			}
		}
	}
	b.WriteString(`"/></svg>`)
	return b.String(), nil
}

// QRTerminal draws the invite's QR code in half-block characters, two modules
// high; several codes one below the other. With colour each line sets black on
// white, which every terminal that knows colours shows right. Without, the blocks
// are the light modules: right where text is light on dark, and inverted
// elsewhere, which Busel and most phones read too.
func QRTerminal(w io.Writer, b *Bundle, colour bool) error {
	codes, err := encodeQR(b)
	if err != nil {
		return err
	}
	out := bufio.NewWriter(w)
	for _, code := range codes {
		drawQR(out, code, colour)
	}
	return out.Flush()
}

func drawQR(out *bufio.Writer, code *qr.Code, colour bool) {
	// Index: upper module black, lower module black.
	blocks := [2][2]string{{"█", "▀"}, {"▄", " "}}
	if colour {
		blocks = [2][2]string{{" ", "▄"}, {"▀", "█"}}
	}
	bit := func(x, y int) int {
		if code.Black(x, y) {
			return 1
		}
		return 0
	}
	for y := -quietZone; y < code.Size+quietZone; y += 2 {
		if colour {
			// The 256-colour palette's black and white: themes change the first 16.
			out.WriteString("\x1b[38;5;16;48;5;231m")
		}
		for x := -quietZone; x < code.Size+quietZone; x++ {
			out.WriteString(blocks[bit(x, y)][bit(x, y+1)])
		}
		if colour {
			out.WriteString("\x1b[0m")
		}
		out.WriteByte('\n')
	}
}
