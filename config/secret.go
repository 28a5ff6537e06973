package config

import (
	"bytes"
	"fmt"
	"log/slog"
	"slices"
	"strings"
)

// maxUserPass is the longest user and password in bytes (RFC 1929, section 2).
const maxUserPass = 255

// Secret is a text that must not be shown: whatever prints or logs it gets
// "[secret]". A conversion to string gives the text.
type Secret string

var _ slog.LogValuer = Secret("")

// redacted is what is shown; an empty secret is none.
func (s Secret) redacted() string {
	if s == "" {
		return ""
	}
	return "[secret]"
}

// LogValue is the text that is logged.
func (s Secret) LogValue() slog.Value { return slog.StringValue(s.redacted()) }

// Format prints the same for every verb.
func (s Secret) Format(f fmt.State, _ rune) {
	fmt.Fprint(f, s.redacted()) // whoever prints sees the error
}

// MarshalText gives encoders the same.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.redacted()), nil }

// isSecretLine reports whether a line, from 1, sets a password or an invite.
func isSecretLine(data []byte, number int) bool {
	for line := range bytes.Lines(data) {
		if number--; number == 0 {
			m := keyLine.FindSubmatch(line)
			if m == nil {
				return false
			}
			key := keyNoise.Replace(string(m[1]))
			return strings.HasSuffix(key, "password") || strings.HasSuffix(key, "relay")
		}
	}
	return false
}

// password checks local.user and local.password. The faults do not quote them.
func (d *decoder) password(user, pass string) {
	if slices.ContainsFunc(d.errors, func(e *Error) bool { return e.Key == "local.user" || e.Key == "local.password" }) {
		return // one of them is there, but is no text
	}
	switch {
	case user == "" && pass == "":
		return
	case pass == "":
		d.fault("local.user", "stands without a password", "write password = \"...\" below it, or remove it")
		return
	case user == "":
		d.fault("local.password", "stands without a user", "write user = \"...\" above it, or remove it")
		return
	}
	for _, one := range []struct{ key, text string }{{"local.user", user}, {"local.password", pass}} {
		switch {
		case len(one.text) > maxUserPass:
			d.fault(one.key, "is longer than 255 bytes", "take a shorter one")
		case strings.ContainsFunc(one.text, func(r rune) bool { return r < ' ' || r == 0x7f }):
			d.fault(one.key, "has a control character", "take one without line breaks and tabs")
		case one.key == "local.user" && strings.Contains(one.text, ":"):
			// RFC 7617, section 2: HTTP ends the user's name there.
			d.fault(one.key, "has a colon, which HTTP does not allow in a user name", "take one without")
		}
	}
}
