package cli

import (
	"errors"
	"io"
	"strings"
	"testing"
)

// TestSecretLines: lines come one after the other, and nothing behind them is read.
func TestSecretLines(t *testing.T) {
	in := strings.NewReader("old one\nnew one\r\n\nlast")
	std := Std{In: in, Err: io.Discard}
	for _, want := range []string{"old one", "new one", "", "last"} {
		if got, err := std.Secret(t.Context(), "?"); got != want || err != nil {
			t.Errorf("got %q, %v; want %q", got, err, want)
		}
		if want == "new one" && in.Len() != len("\nlast") {
			t.Errorf("%d bytes are left", in.Len())
		}
	}
	if got, err := std.Secret(t.Context(), "?"); !errors.Is(err, io.EOF) {
		t.Errorf("got %q, %v", got, err)
	}
	std.In = strings.NewReader(strings.Repeat("x", maxSecret+1))
	if _, err := std.Secret(t.Context(), "?"); err == nil {
		t.Error("a line without end was read")
	}
}
