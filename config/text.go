package config

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base32"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"unicode"
)

// TextPrefix begins an invite's text form; any case is read.
const TextPrefix = "busel:"

const (
	checkLen = 4 // check digits in bytes: the start of SHA-256 of the bundle
	// MaxText is the longest text in bytes that is searched for an invite: an
	// invite with the chatter of a messenger around it.
	MaxText = 64 << 10
)

// encoding is Base32 (RFC 4648, section 6): no digits that look like letters,
// and QR codes hold it in their compact alphanumeric mode.
var encoding = base32.StdEncoding.WithPadding(base32.NoPadding)

// Text is the text form: "busel:" and Base32 of the binary form and its check
// digits. It is a secret: whoever reads it can use the relays, and find them.
func (b *Bundle) Text() string {
	raw := b.Append(nil)
	sum := sha256.Sum256(raw)
	return TextPrefix + encoding.EncodeToString(append(raw, sum[:checkLen]...))
}

// errSeveral means that more than one invite was found.
var errSeveral = fmt.Errorf("%w: there are several invites", ErrForeign)

// beginning is what an invite or a frame begins with, noise dropped.
var beginning = regexp.MustCompile(strings.ToUpper(TextPrefix) + "|" + strings.ToUpper(FramePrefix))

// ParseText finds the one invite in text, whole or as all of its frames, and
// verifies it. Case does not matter; white space, invisible characters, quotes
// and quotation marks of e-mail are skipped, and what goes before the prefix or
// follows the check digits is ignored. Two different invites are an error, and
// so is a frame of another invite. Errors wrap [ErrForeign], [ErrDamaged],
// [ErrForged] or [ErrIncomplete], and text in errors is never taken from the
// input.
func ParseText(text string) (*Bundle, error) {
	if len(text) > MaxText {
		return nil, fmt.Errorf("%w: more than %d bytes of text; paste only the invite, which begins with %q", ErrForeign, MaxText, TextPrefix)
	}
	text = strings.Map(dropNoise, text)
	found := beginning.FindAllStringIndex(text, -1)
	if len(found) == 0 {
		return nil, fmt.Errorf("%w: nothing here begins with %q; paste the whole invite, from that word to its end", ErrForeign, TextPrefix)
	}
	var whole *Bundle
	var frames []*frame
	var fault, frameFault error
	longest := -1
	for i, at := range found {
		end := len(text)
		if i+1 < len(found) {
			end = found[i+1][0]
		}
		part := text[at[1]:end]
		if strings.HasSuffix(text[:at[1]], "/") {
			f, err := parseFrame(part)
			if err != nil {
				frameFault = err
				continue
			}
			frames = append(frames, f)
			continue
		}
		digits := leadingDigits(part)
		b, err := parseDigits(digits)
		switch {
		case err != nil:
			// "Busel: scan this" is not the invite; the longest attempt is.
			if len(digits) > longest {
				longest, fault = len(digits), err
			}
		case whole == nil:
			whole = b
		case !whole.Equal(b):
			return nil, fmt.Errorf("%w in this text; paste one at a time", errSeveral)
		}
	}
	switch {
	case whole == nil && len(frames) > 0:
		b, err := joinFrames(frames)
		if errors.Is(err, ErrIncomplete) && frameFault != nil {
			err = frameFault
		}
		return b, err
	case whole == nil && fault == nil:
		return nil, frameFault
	case whole == nil:
		return nil, fault
	}
	for _, f := range frames {
		if !f.of(whole) {
			return nil, fmt.Errorf("%w in this text; paste one at a time", errSeveral)
		}
	}
	return whole, nil
}

// dropNoise maps what messengers, mailers and people put inside an invite to
// nothing, and the rest to upper case.
func dropNoise(c rune) rune {
	switch {
	case unicode.IsSpace(c), unicode.Is(unicode.Cf, c), unicode.IsControl(c), unicode.Is(unicode.Quotation_Mark, c),
		unicode.Is(unicode.Variation_Selector, c):
		return -1
	case strings.ContainsRune("`´>|*", c):
		return -1
	case 'a' <= c && c <= 'z':
		return c - 'a' + 'A'
	}
	return c
}

// leadingDigits cuts s before the first character that is no Base32 digit, and
// at the longest possible invite.
func leadingDigits(s string) string {
	for i := range len(s) {
		if c := s[i]; !(c >= 'A' && c <= 'Z' || c >= '2' && c <= '7') || i == maxDigits {
			return s[:i]
		}
	}
	return s
}

// maxDigits is the longest invite in digits.
var maxDigits = encoding.EncodedLen(maxBundle + checkLen)

// parseDigits reads an invite from the start of digits. The bundle says itself
// how long it is, so letters that follow it do no harm.
func parseDigits(digits string) (*Bundle, error) {
	raw := decodeAll(digits)
	b, n, err := readBundle(raw)
	switch {
	case errors.Is(err, ErrForeign) && !checks(raw, len(raw)-checkLen):
		return nil, damaged("its beginning is changed, or it is no invite")
	case err != nil:
		return nil, err
	case len(raw) < n+checkLen:
		return nil, fmt.Errorf("%w: %w: it ends inside its check digits; copy it again in full, or ask for it once more", ErrDamaged, errShort)
	case !checks(raw, n), !canonical(digits, raw[:n+checkLen]):
		return nil, damaged("its check digits do not match, so a character of it is wrong")
	}
	if err := b.verify(); err != nil {
		return nil, err
	}
	return b, nil
}

// decodeAll decodes the whole bytes in digits.
func decodeAll(digits string) []byte {
	// 1, 3 or 6 digits beyond a group of 8 hold no whole number of bytes; the
	// last one is then dropped.
	switch len(digits) % 8 {
	case 1, 3, 6:
		digits = digits[:len(digits)-1]
	}
	raw, err := encoding.DecodeString(digits)
	if err != nil {
		panic("config: base32 digits that are none: " + err.Error())
	}
	return raw
}

// canonical reports whether digits begin with the one encoding of raw: the bits
// that fill up the last digit have to be zero.
func canonical(digits string, raw []byte) bool {
	return strings.HasPrefix(digits, encoding.EncodeToString(raw))
}

// checks reports whether the check digits at raw[n:] match what goes before.
func checks(raw []byte, n int) bool {
	if n < 0 || len(raw) < n+checkLen {
		return false
	}
	sum := sha256.Sum256(raw[:n])
	return subtle.ConstantTimeCompare(sum[:checkLen], raw[n:n+checkLen]) == 1
}
