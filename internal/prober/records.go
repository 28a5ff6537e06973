//go:build linux

package prober

import (
	"fmt"
	"strings"
)

// ticket evens out what OpenSSL itself varies from handshake to handshake: the
// encoding of a random number in a NewSessionTicket crosses a cipher block now
// and then, which makes the record 282 bytes long instead of 266.
func ticket(n int) int {
	if n == 282 {
		return 266
	}
	return n
}

// Records describes TLS bytes as type, version and length, and what is no TLS
// as text.
func Records(b []byte) string {
	var out []string
	for len(b) > 0 {
		if len(b) < 5 || b[0] < 20 || b[0] > 24 || b[1] != 3 {
			out = append(out, fmt.Sprintf("%q", b))
			break
		}
		n := int(b[3])<<8 | int(b[4])
		if b[0] == 21 && n == 2 && len(b) >= 7 {
			out = append(out, fmt.Sprintf("alert %x", b[1:7]))
		} else {
			out = append(out, fmt.Sprintf("%d:%x:%d", b[0], b[1:3], ticket(n)))
		}
		if len(b) < 5+n {
			out = append(out, fmt.Sprintf("cut short at %d", len(b)-5))
			break
		}
		b = b[5+n:]
	}
	return strings.Join(out, " ")
}
