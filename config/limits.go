package config

import (
	"fmt"
	"math"
	"strconv"
	"strings"
)

// Limits bound what all clients of a relay may move together; 0 is no limit.
type Limits struct {
	Monthly Size // in a calendar month, UTC
	Rate    Rate // in each direction
}

// Size is an amount of data in bytes, at most [MaxSize].
type Size uint64

// MaxSize is the largest [Size] that can be written: a million TB.
const MaxSize Size = 1e18

// Rate is a speed in bit/s, at most [MaxRate].
type Rate uint64

// MaxRate is the highest [Rate] that can be written: 1,000 Gbit/s.
const MaxRate Rate = 1e12

// MinRate is the lowest [Rate] other than 0: what is read at once, 64 KiB, takes
// seconds already, and a page minutes.
const MinRate Rate = 64_000

// MaxDevices is the largest number of devices that an invite may be limited to: a
// relay keeps some state for each.
const MaxDevices = 1000

// unit is a suffix and what it stands for; the largest comes first.
type unit struct {
	suffix string
	value  uint64
}

var (
	sizeUnits = []unit{{"TB", 1e12}, {"GB", 1e9}, {"MB", 1e6}, {"kB", 1e3}, {"B", 1}}
	rateUnits = []unit{{"Gbit", 1e9}, {"Mbit", 1e6}, {"kbit", 1e3}, {"bit", 1}}
)

// ParseSize reads "500GB", "1.5TB", "800 MB", in powers of 1000 and in any case.
// An empty text is 0. The error says what to write.
func ParseSize(text string) (Size, error) {
	n, ok := parseUnits(text, sizeUnits, uint64(MaxSize))
	if !ok {
		return 0, fmt.Errorf("%q is no amount of data: want 500GB, 1.5TB or 800MB", text)
	}
	return Size(n), nil
}

// String is what [ParseSize] reads; "" for 0.
func (s Size) String() string { return formatUnits(uint64(s), sizeUnits) }

// ParseRate reads "50Mbit", "1.5Gbit", "800 kbit", a second each, in any case. An
// empty text is 0. The error says what to write.
func ParseRate(text string) (Rate, error) {
	n, ok := parseUnits(text, rateUnits, uint64(MaxRate))
	switch {
	case !ok:
		return 0, fmt.Errorf("%q is no speed: want 50Mbit, 1.5Gbit or 800kbit, a second each", text)
	case text != "" && Rate(n) < MinRate:
		return 0, fmt.Errorf("%q is too slow to be of use: want %v at least", text, MinRate)
	}
	return Rate(n), nil
}

// String is what [ParseRate] reads; "" for 0.
func (r Rate) String() string { return formatUnits(uint64(r), rateUnits) }

// Bytes is the rate in bytes a second.
func (r Rate) Bytes() float64 { return float64(r) / 8 }

// parseUnits reads a decimal number and a unit. The result is above 0, but for an
// empty text.
func parseUnits(text string, units []unit, most uint64) (uint64, bool) {
	if text == "" {
		return 0, true
	}
	for _, u := range units {
		at := len(text) - len(u.suffix)
		if at <= 0 || !strings.EqualFold(text[at:], u.suffix) {
			continue
		}
		number := strings.TrimSuffix(text[:at], " ")
		if strings.Trim(number, "0123456789.") != "" { // no sign, exponent, Inf
			return 0, false
		}
		value, err := strconv.ParseFloat(number, 64)
		n := math.Round(value * float64(u.value))
		if err != nil || n < 1 || n > float64(most) {
			return 0, false
		}
		return uint64(n), true
	}
	return 0, false
}

// formatUnits is exact: it takes the largest unit of which n is a multiple.
func formatUnits(n uint64, units []unit) string {
	if n == 0 {
		return ""
	}
	for _, u := range units {
		if n%u.value == 0 {
			return strconv.FormatUint(n/u.value, 10) + u.suffix
		}
	}
	return "" // the last unit is 1
}
