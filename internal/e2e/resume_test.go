//go:build linux

package e2e

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"testing"
	"time"

	"busel/internal/nginxtest"
)

// ticketIn returns the identity of the pre-shared key that a recorded ClientHello offers;
// nil if it offers none. That extension is the last (RFC 8446, section 4.2.11).
func ticketIn(t *testing.T, up []byte) []byte {
	t.Helper()
	n := func(b []byte) int { return int(binary.BigEndian.Uint16(b)) }
	if len(up) < 5 || len(up) < 5+n(up[3:]) {
		t.Fatal("no ClientHello was recorded")
	}
	b := up[5 : 5+n(up[3:])][4+2+32:]
	b = b[1+int(b[0]):]
	b = b[2+n(b):]
	b = b[1+int(b[0]):]
	for b = b[2:]; len(b) >= 4; b = b[4+n(b[2:]):] {
		if n(b) == 41 {
			return b[8 : 8+n(b[6:])]
		}
	}
	return nil
}

// TestResumes cuts connections of a download: the new ones resume TLS with what the cover
// gave, each ticket once, and no byte is lost.
func TestResumes(t *testing.T) {
	need(t, "curl")
	const size = 24_000_000
	var p *path
	r := startRelay(t, relayOptions{
		cover: nginxtest.Run(t, nginxtest.Config{}),
		via: func(listen string) string {
			p = newPath(t, listen, 0)
			p.record = true
			return p.addr()
		},
	})
	c := startClient(t, r.invite)
	source := fmt.Sprintf("http://%s/bytes/%d", startOrigin(t), size)
	want := sha256.Sum256(curl(t, source))
	done := make(chan [32]byte, 1)
	go func() { done <- sha256.Sum256(curl(t, "--limit-rate", "4M", "--proxy", "socks5h://"+c.proxy, source)) }()
	var got [32]byte
	for cuts := 0; got == [32]byte{}; {
		select {
		case got = <-done:
		case <-time.After(time.Second):
			if now, _ := p.live(); now > 0 && cuts < 2 {
				p.cut()
				cuts++
			}
		}
	}
	if got != want {
		t.Errorf("SHA-256 is %x, want %x", got, want)
	}
	p.mu.Lock()
	links := p.all
	p.mu.Unlock()
	var tickets [][]byte
	for i, l := range links {
		up, _ := l.tape()
		ticket := ticketIn(t, up)
		if (ticket == nil) != (i == 0) && i < 3 { // more than two tickets may not have come in time
			t.Errorf("connection %d offers a ticket of %d bytes", i, len(ticket))
		}
		for _, other := range tickets {
			if ticket != nil && bytes.Equal(ticket, other) {
				t.Errorf("connection %d offers a ticket again", i)
			}
		}
		tickets = append(tickets, ticket)
	}
	t.Logf("%d connections, the client moved %d times", len(links), c.status(t).Moves)
	if len(links) < 3 {
		t.Errorf("%d connections", len(links))
	}
}
