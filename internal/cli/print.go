package cli

import (
	"fmt"
	"os"

	"busel/config"
)

// PrintInvite writes an invite as one line, its QR code below it for a person,
// and as a picture if png names a file.
func PrintInvite(std Std, b *config.Bundle, png string) error {
	fmt.Fprintln(std.Out, b.Text())
	if std.Terminal {
		if err := config.QRTerminal(std.Out, b, true); err != nil {
			return err
		}
	}
	if png == "" {
		return nil
	}
	picture, err := config.QRPNG(b)
	if err != nil {
		return err
	}
	// An invite is a secret.
	return os.WriteFile(png, picture, 0o600)
}

// Size is a number of bytes for a person, in powers of 1000: "12.3 MB".
func Size(n uint64) string {
	if n < 1000 {
		return fmt.Sprintf("%d B", n)
	}
	value, unit := float64(n), 0
	for value >= 999.95 { // which would be written as 1000.0
		value /= 1000
		unit++
	}
	return fmt.Sprintf("%.1f %cB", value, " kMGTPE"[unit])
}

// Count is n of something for a person: "1 stream", "2 streams".
func Count[N int | int64 | uint64](n N, what string) string {
	if n != 1 {
		what += "s"
	}
	return fmt.Sprintf("%d %s", n, what)
}

// NoArgs refuses arguments of a command that takes none.
func NoArgs(args []string) error {
	if len(args) == 0 {
		return nil
	}
	return &UsageError{Reason: fmt.Sprintf("unexpected argument %q", args[0])}
}
