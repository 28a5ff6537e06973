//go:build linux

package prober

import (
	"crypto/tls"
	"io"
	"time"
)

// sessions are probes inside TLS: the tickets that a server sends by itself, and
// its alerts in every state.
func (p *Prober) sessions() []Probe {
	tls12 := TLS(func(c *tls.Config) { c.MaxVersion = tls.VersionTLS12 })
	http1 := TLS(func(c *tls.Config) { c.NextProtos = []string{"http/1.1"} })
	table := []Probe{
		{Name: "tickets, h2", Steps: tickets("h2", 0)},
		{Name: "tickets, HTTP/1.1", Steps: tickets("http/1.1", 0)},
		{Name: "tickets, TLS 1.2", Steps: tickets("h2", tls.VersionTLS12)},
		{Name: "a body behind the answer", Steps: append([]Step{
			http1,
			Request("POST " + p.path() + " HTTP/1.1\r\nHost: " + p.Name + "\r\nConnection: close\r\nContent-Length: 100000\r\n\r\n"),
		}, append(pieces(make([]byte, 200), 10, 10*time.Millisecond), Drain())...)},
		{Name: "Multipath TCP offered", multipath: true, Steps: []Step{Send([]byte("NONSENSE\r\n\r\n")), Drain()}},
	}
	for _, bad := range []struct {
		name   string
		record []byte
	}{
		{"a record that does not open", append([]byte{0x17, 3, 3, 0, 80}, make([]byte, 80)...)},
		{"a record shorter than a tag", []byte{0x17, 3, 3, 0, 4, 1, 2, 3, 4}},
		{"an oversized record", append([]byte{0x17, 3, 3, 0x48, 0x01}, make([]byte, 100)...)},
		{"a record of another version", append([]byte{0x17, 2, 0, 0, 80}, make([]byte, 80)...)},
		{"a record of type 99", append([]byte{99, 3, 3, 0, 20}, make([]byte, 20)...)},
		{"CCS", []byte{0x14, 3, 3, 0, 1, 1}},
		{"an alert in the clear", []byte{0x15, 3, 3, 0, 2, 2, 20}},
		{"a handshake record in the clear", append([]byte{0x16, 3, 3, 0, 36, 20, 0, 0, 32}, make([]byte, 32)...)},
	} {
		table = append(table,
			Probe{Name: "alert: " + bad.name, Steps: []Step{http1, Pause(50 * time.Millisecond), Send(bad.record), Hear(), Drain()}},
			Probe{Name: "alert, TLS 1.2: " + bad.name, Steps: []Step{tls12, Pause(50 * time.Millisecond), Send(bad.record), Hear(), Drain()}},
		)
	}
	return table
}

// tickets does a handshake and notes every NewSessionTicket that comes without
// being asked for: behind which records, how long, and when (THREATS.md, row
// P4: REALITY and ShadowTLS omitted them). max is the highest TLS version, 0 for
// any.
func tickets(alpn string, max uint16) []Step {
	return []Step{
		func(v *visit) {
			cfg := v.stack.Clone()
			cfg.NextProtos, cfg.MaxVersion, cfg.ClientSessionCache = []string{alpn}, max, noter{v}
			v.handshake(cfg)
		},
		func(v *visit) {
			finished := v.received()
			_ = v.SetReadDeadline(time.Now().Add(quiet))
			_, err := io.ReadAll(v.secure)
			_ = v.SetReadDeadline(time.Time{})
			v.mu.Lock()
			after := Records(v.data[finished:])
			v.mu.Unlock()
			v.note("after the Finished: %s, then %s", after, ending(err))
		},
	}
}

// noter is a cache of tickets that notes each and keeps none.
type noter struct{ v *visit }

func (noter) Get(string) (*tls.ClientSessionState, bool) { return nil, false }

func (n noter) Put(_ string, s *tls.ClientSessionState) {
	if s == nil {
		return
	}
	opaque, _, err := s.ResumptionState()
	n.v.note("ticket of %d bytes, %v", ticket(len(opaque)+ticketFrame)-ticketFrame, err)
}

// ticketFrame is what is around a ticket in a record of TLS 1.3 (RFC 8446,
// section 4.6.1): a handshake header, life, age, an 8-byte nonce, lengths, the
// type and the tag.
const ticketFrame = 4 + 4 + 4 + 9 + 2 + 2 + 1 + 16
