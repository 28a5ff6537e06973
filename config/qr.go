package config

import (
	"bufio"
	"errors"
	"io"
	"strings"

	"rsc.io/qr"
)

// ErrTooLong means that a text does not fit into one QR code.
var ErrTooLong = errors.New("the invite is too long for one QR code; pass it on as text")

const (
	quietZone = 4 // modules of white around a code (ISO/IEC 18004, section 5.3.8)
	// maxAlphanumeric is what version 40, level L holds (ISO/IEC 18004, table 7).
	maxAlphanumeric = 4296
)

// encodeQR makes the code of an invite's text: in upper case, so that the
// alphanumeric mode holds it, and at level L for the largest modules.
func encodeQR(text string) (*qr.Code, error) {
	if len(text) > maxAlphanumeric {
		return nil, ErrTooLong
	}
	code, err := qr.Encode(strings.ToUpper(text), qr.L)
	if err != nil {
		return nil, ErrTooLong
	}
	return code, nil
}

// QRPNG is the QR code of an invite's text as a PNG picture, 8 pixels a module.
// The error is [ErrTooLong].
func QRPNG(text string) ([]byte, error) {
	code, err := encodeQR(text)
	if err != nil {
		return nil, err
	}
	return code.PNG(), nil
}

// QRTerminal draws the QR code of an invite's text in half-block characters, two
// modules high. With colour each line sets black on white, which every
// terminal that knows colours shows right. Without, the blocks are the light
// modules: right where text is light on dark, and inverted elsewhere, which
// Busel and most phones read too. The error is [ErrTooLong] or w's.
func QRTerminal(w io.Writer, text string, colour bool) error {
	code, err := encodeQR(text)
	if err != nil {
		return err
	}
	out := bufio.NewWriter(w)
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
	return out.Flush()
}
