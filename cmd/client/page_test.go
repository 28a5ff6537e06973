package main

import (
	"slices"
	"testing"
)

// Each system has a program that opens links.
func TestOpener(t *testing.T) {
	for _, c := range []struct {
		system, name, value string
		want                []string
	}{
		{"windows", "", "", []string{"rundll32", "url.dll,FileProtocolHandler"}},
		{"darwin", "", "", []string{"open"}},
		{"linux", "DISPLAY", ":0", []string{"xdg-open"}},
		{"linux", "WAYLAND_DISPLAY", "wayland-0", []string{"xdg-open"}},
		{"linux", "DISPLAY", "", nil},
		{"linux", "", "", nil},
		{"freebsd", "DISPLAY", ":0", []string{"xdg-open"}},
	} {
		got, err := opener(c.system, func(name string) (string, bool) { return c.value, name == c.name })
		if !slices.Equal(got, c.want) || (err == nil) != (c.want != nil) {
			t.Errorf("%+v: got %q, %v", c, got, err)
		}
	}
}
