package config

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"time"

	"busel/internal/wire"
)

// TokenKey is the relay's secret under which tokens are made.
type TokenKey [32]byte

// String redacts.
func (TokenKey) String() string { return "token key(redacted)" }

// LogValue redacts.
func (k TokenKey) LogValue() slog.Value { return slog.StringValue(k.String()) }

// tokenLabel separates a token's MAC from any other use of the key
// (docs/PROTOCOL.md, "Tokens").
const tokenLabel = "busel token 1"

// tokenEpoch is day 0 of a token's expiry.
var tokenEpoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// MakeToken makes the token of the invite id, valid until the end of the UTC
// day expiry, counted from 2026-01-01; 0 is for ever:
//
//	id(8) || expiry u16 || first 16 bytes of HMAC-SHA-256(key, "busel token 1" || id || expiry)
func MakeToken(key TokenKey, id [8]byte, expiry uint16) wire.Token {
	var t wire.Token
	copy(t[:], id[:])
	binary.BigEndian.PutUint16(t[8:], expiry)
	mac := hmac.New(sha256.New, key[:])
	mac.Write([]byte(tokenLabel))
	mac.Write(t[:10])
	copy(t[10:], mac.Sum(nil))
	return t
}

// VerifyToken reports in constant time whether t was made under key. It does
// not judge the expiry.
func VerifyToken(key TokenKey, t wire.Token) bool {
	want := MakeToken(key, t.InviteID(), t.Expiry())
	return hmac.Equal(want[:], t[:])
}

// Expired reports whether t's last day is over at now.
func Expired(t wire.Token, now time.Time) bool {
	return t.Expiry() != 0 && !now.Before(ExpiryTime(t.Expiry()))
}

// ExpiryTime is when a token of that expiry day stops to be valid: the end of
// the day in UTC. The zero time is never.
func ExpiryTime(day uint16) time.Time {
	if day == 0 {
		return time.Time{}
	}
	return tokenEpoch.AddDate(0, 0, int(day)+1)
}

// ParseExpiry turns what a volunteer writes into an expiry day: "30d" or "6w"
// from now, a last day such as "2027-01-31", or "never", which is 0.
func ParseExpiry(text string, now time.Time) (uint16, error) {
	if text == "never" {
		return 0, nil
	}
	last, err := time.Parse(time.DateOnly, text)
	if err != nil {
		days := 1
		number, ok := strings.CutSuffix(text, "d")
		if !ok {
			number, ok = strings.CutSuffix(text, "w")
			days = 7
		}
		n, err := strconv.ParseUint(number, 10, 16)
		if err != nil || !ok || n == 0 {
			return 0, fmt.Errorf("expiry %q: want 30d, 6w, a day such as 2027-01-31, or never", text)
		}
		last = now.UTC().AddDate(0, 0, int(n)*days)
	}
	day := int64(last.Sub(tokenEpoch) / (24 * time.Hour))
	switch {
	case last.Before(now.UTC().Truncate(24 * time.Hour)):
		return 0, fmt.Errorf("expiry %q is in the past", text)
	case day < 1:
		return 0, errors.New("expiry lies before 2026-01-02; is this computer's clock right")
	case day > 1<<16-1:
		return 0, fmt.Errorf("expiry %q is beyond the year 2205; write never", text)
	}
	return uint16(day), nil
}
