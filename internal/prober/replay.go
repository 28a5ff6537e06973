//go:build linux

package prober

import (
	"fmt"
	"slices"
	"time"
)

// Replays are the probes that the Great Firewall makes of a client's first
// flight, which was seen at a time (THREATS.md, row C2): R1 to R5 after each
// delay. NR1 and NR2, which replay nothing, are in [Prober.Probes].
func Replays(flight []byte, seen time.Time, delays ...time.Duration) (table []Probe) {
	replay := func(at ...int) []byte {
		b := slices.Clone(flight)
		for _, i := range at {
			if i < len(b) {
				b[i] ^= 0x5a
			}
		}
		return b
	}
	kinds := []struct {
		name    string
		payload []byte
	}{
		{"R1: identical", replay()},
		{"R2: byte 0 changed", replay(0)},
		{"R3: bytes 0-7 and 62-63 changed", replay(0, 1, 2, 3, 4, 5, 6, 7, 62, 63)},
		{"R4: byte 16 changed", replay(16)},
		{"R5: bytes 6 and 16 changed", replay(6, 16)},
	}
	for _, delay := range delays {
		for _, k := range kinds {
			p := Once(fmt.Sprintf("%s, after %v", k.name, delay), k.payload)
			p.NotBefore = seen.Add(delay)
			table = append(table, p)
		}
	}
	return table
}

// random are the probes of the Great Firewall that replay nothing.
func random() (table []Probe) {
	for _, middle := range []int{8, 12, 16, 22, 33, 41, 49} {
		for n := middle - 1; n <= middle+1; n++ {
			table = append(table, Once(fmt.Sprintf("NR1: %d random bytes", n), randomBytes(n)))
		}
	}
	return append(table, Once("NR2: 221 random bytes", randomBytes(221)))
}
