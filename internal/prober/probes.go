//go:build linux

package prober

import (
	"bytes"
	"crypto/rand"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"slices"
	"time"
)

// clientHello returns the first flight of crypto/tls.
func clientHello(cfg *tls.Config) []byte {
	ours, theirs := net.Pipe()
	defer ours.Close()
	go func() {
		_ = tls.Client(theirs, cfg).Handshake() // ends with the pipe
		_ = theirs.Close()
	}()
	header := make([]byte, 5)
	if _, err := io.ReadFull(ours, header); err != nil {
		panic(err) // a pipe to ourselves
	}
	body := make([]byte, int(header[3])<<8|int(header[4]))
	if _, err := io.ReadFull(ours, body); err != nil {
		panic(err)
	}
	return append(header, body...)
}

// InRecords cuts the record b into records of at most n bytes of body.
func InRecords(b []byte, n int) []byte {
	var out []byte
	for part := range slices.Chunk(b[5:], n) {
		out = append(out, b[0], b[1], b[2], byte(len(part)>>8), byte(len(part)))
		out = append(out, part...)
	}
	return out
}

// Once sends payload and reads to the end.
func Once(name string, payload []byte) Probe {
	return Probe{Name: name, Steps: []Step{Send(payload), Drain()}}
}

// ThenFIN sends payload and closes the sending half.
func ThenFIN(name string, payload []byte) Probe {
	steps := []Step{FIN(), Drain()}
	if len(payload) > 0 {
		steps = append([]Step{Send(payload)}, steps...)
	}
	return Probe{Name: name, Steps: steps}
}

func randomBytes(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.Read(b) // never fails
	return b
}

func (p *Prober) path() string {
	if p.Path == "" {
		return "/"
	}
	return p.Path
}

// Probes is the table of probes: Frolov and Wustrow's eight, malformed and
// unusual hellos, closes in every state, whole visits, random bytes of the
// lengths NR1 and NR2, tickets, alerts, and searches for the number of bytes that
// end a connection.
func (p *Prober) Probes() []Probe {
	base := &tls.Config{ServerName: p.Name, InsecureSkipVerify: true, NextProtos: []string{"h2", "http/1.1"}}
	with := func(f func(*tls.Config)) []byte {
		c := base.Clone()
		f(c)
		return clientHello(c)
	}
	hello := clientHello(base)
	version := func(major, minor byte) []byte {
		b := slices.Clone(hello)
		b[1], b[2] = major, minor
		return b
	}
	kind := func(k byte) []byte {
		b := slices.Clone(hello)
		b[0] = k
		return b
	}
	get := "GET / HTTP/1.1\r\nHost: " + p.Name + "\r\nUser-Agent: probe\r\nConnection: close\r\n\r\n"
	stay := "GET " + p.path() + " HTTP/1.1\r\nHost: " + p.Name + "\r\n\r\n"

	http1 := TLS(func(c *tls.Config) { c.NextProtos = []string{"http/1.1"} })

	table := []Probe{
		// Frolov and Wustrow's eight (row P2).
		{Name: "frolov: nothing", Steps: []Step{Drain()}},
		Once("frolov: plain HTTP", []byte(get)),
		Once("frolov: ClientHello, then silence", hello),
		Once("frolov: Modbus", []byte("\x44\x62\x00\x00\x00\x05\x00\x2b\x0e\x01\x00\x00")),
		Once("frolov: S7", []byte("\x03\x00\x00\x16\x11\xe0\x00\x00\x00\x01\x00\xc1\x02\x01\x00\xc2\x02\x01\x02\xc0\x01\x0a")),
		Once("frolov: 23 random bytes", randomBytes(23)),
		Once("frolov: 7 kB of random bytes", randomBytes(7<<10)),
		Once("frolov: 17 kB of random bytes", randomBytes(17<<10)),

		Once("plain HTTP, bad request", []byte("NONSENSE\r\n\r\n")),
		Once("plain HTTP, HEAD", []byte("HEAD / HTTP/1.0\r\n\r\n")),
		Once("plain h2 preface", []byte("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00")),
		Once("oversized record: 18433", append([]byte{0x16, 3, 1, 0x48, 0x01}, randomBytes(200)...)),
		Once("oversized record: 65535", []byte{0x16, 3, 1, 0xff, 0xff, 1, 0, 0, 0}),
		Once("undersized record: 1 byte", []byte{0x16, 3, 1, 0, 1, 1}),
		Once("zero-length record", []byte{0x16, 3, 1, 0, 0}),
		Once("zero-length records, forty", bytes.Repeat([]byte{0x16, 3, 1, 0, 0}, 40)),
		Once("zero-length record, then ClientHello", append([]byte{0x16, 3, 1, 0, 0}, hello...)),
		Once("type alert", []byte{0x15, 3, 1, 0, 2, 2, 40}),
		Once("type warning alert, then ClientHello", append([]byte{0x15, 3, 1, 0, 2, 1, 0}, hello...)),
		Once("type CCS", []byte{0x14, 3, 3, 0, 1, 1}),
		Once("type application data", append([]byte{0x17, 3, 3, 0, 64}, randomBytes(64)...)),
		Once("type heartbeat", kind(0x18)),
		Once("type 0", kind(0)),
		Once("type 255", kind(255)),
		Once("record version 0x0300", version(3, 0)),
		Once("record version 0x0303", version(3, 3)),
		Once("record version 0x0305", version(3, 5)),
		Once("record version 0x0401", version(4, 1)),
		Once("record version 0x0000", version(0, 0)),
		Once("SSLv2-style hello", append([]byte{0x80, 0x2e, 1, 3, 1, 0, 0x15, 0, 0, 0, 0x10}, randomBytes(37)...)),
		Once("SSLv2 hello with known ciphers", append(append([]byte{0x80, 0x1c, 1, 0, 2, 0, 3, 0, 0, 0, 0x10}, 1, 0, 0x80), randomBytes(16)...)),
		Once("handshake type 2 first", append([]byte{0x16, 3, 1, 0, 5}, 2, 0, 0, 1, 0)),
		Once("ClientHello of 0 bytes", append([]byte{0x16, 3, 1, 0, 4}, 1, 0, 0, 0)),
		Once("ClientHello that says it has 16 MB", append([]byte{0x16, 3, 1, 0, 64}, append([]byte{1, 0xff, 0xff, 0xff}, randomBytes(60)...)...)),
		Once("ClientHello with a byte behind", append(slices.Clone(hello), 0x42)),
		Once("ClientHello, then garbage", append(slices.Clone(hello), randomBytes(400)...)),
		Once("ClientHello twice", append(slices.Clone(hello), hello...)),
		Once("ClientHello in records of 16", InRecords(hello, 16)),
		Once("ClientHello in records of 1", InRecords(hello, 1)),
		Once("no SNI", with(func(c *tls.Config) { c.ServerName = "" })),
		Once("wrong SNI", with(func(c *tls.Config) { c.ServerName = "elsewhere.test" })),
		Once("unknown ALPN", with(func(c *tls.Config) { c.NextProtos = []string{"busel/9"} })),
		Once("no ALPN", with(func(c *tls.Config) { c.NextProtos = nil })),
		Once("TLS 1.2 hello", with(func(c *tls.Config) { c.MaxVersion = tls.VersionTLS12 })),
		Once("TLS 1.0 hello", with(func(c *tls.Config) { c.MinVersion, c.MaxVersion = tls.VersionTLS10, tls.VersionTLS10 })),
		Once("P-521 only", with(func(c *tls.Config) { c.CurvePreferences = []tls.CurveID{tls.CurveP521} })),

		ThenFIN("nothing, then FIN", nil),
		ThenFIN("half a header, then FIN", hello[:3]),
		ThenFIN("half a record, then FIN", hello[:len(hello)/2]),
		ThenFIN("ClientHello, then FIN", hello),
		ThenFIN("plain HTTP, then FIN", []byte(get)),
		{Name: "half a record, then silence", Steps: []Step{Send(hello[:len(hello)/2]), Drain()}},
		{Name: "ClientHello in three pieces", Steps: append(pieces(hello, len(hello)/3+1, 40*time.Millisecond), Drain())},
		{Name: "ClientHello byte by byte at first", Steps: append(pieces(hello[:12], 1, 5*time.Millisecond), Send(hello[12:]), Drain())},
		{Name: "RST at once", Steps: []Step{RST()}},
		{Name: "RST after half a record", Steps: []Step{Send(hello[:40]), Pause(30 * time.Millisecond), RST()}},
		{Name: "RST after the server's flight", Steps: []Step{Send(hello), Flight(), RST()}},
		{Name: "FIN after the server's flight", Steps: []Step{Send(hello), Flight(), FIN(), Drain()}},
		{Name: "answers to the server's flight with garbage", Steps: []Step{Send(hello), Flight(), Send(append([]byte{0x17, 3, 3, 0, 53}, bytes.Repeat([]byte{7}, 53)...)), Drain()}},
		{Name: "answers to the server's flight with empty records", Steps: []Step{Send(hello), Flight(), Send(bytes.Repeat([]byte{0x17, 3, 3, 0, 0}, 3)), Drain()}},
		{Name: "answers to the server's flight with an oversized record", Steps: []Step{Send(hello), Flight(), Send([]byte{0x17, 3, 3, 0x41, 0x19}), Drain()}},
		{Name: "answers to the server's flight with many CCS", Steps: []Step{Send(hello), Flight(), Send(bytes.Repeat([]byte{0x14, 3, 3, 0, 1, 1}, 40)), Drain()}},

		{Name: "GET over HTTP/1.1", Steps: []Step{http1, Request(get), Response(), Drain()}},
		{Name: "GET over TLS 1.2", Steps: []Step{TLS(func(c *tls.Config) { c.NextProtos, c.MaxVersion = []string{"http/1.1"}, tls.VersionTLS12 }), Request(get), Response(), Drain()}},
		{Name: "GET, then idle", Steps: []Step{http1, Request(stay), Drain()}},
		{Name: "GET, then half-close of TLS and TCP", Steps: []Step{http1, Request(stay), CloseNotify(), FIN(), Drain()}},
		{Name: "GET, then half-close of TCP alone", Steps: []Step{http1, Request(stay), Pause(30 * time.Millisecond), FIN(), Drain()}}, // without it nginx itself wavers about a close_notify
		{Name: "handshake, then idle, h2", Steps: []Step{TLS(nil), Drain()}},
		{Name: "handshake, then idle, HTTP/1.1", Steps: []Step{http1, Drain()}},
		{Name: "handshake, then a record that does not open", Steps: []Step{TLS(nil), Pause(50 * time.Millisecond), Send(append([]byte{0x17, 3, 3, 0, 80}, bytes.Repeat([]byte{9}, 80)...)), Drain()}},
		{Name: "handshake, then an empty record", Steps: []Step{TLS(nil), Pause(50 * time.Millisecond), Send([]byte{0x17, 3, 3, 0, 0}), Drain()}},
		// At once, nginx itself wavers: what it reads with the Finished it answers in one record with its SETTINGS.
		{Name: "handshake, then plain HTTP inside h2", Steps: []Step{TLS(nil), Pause(50 * time.Millisecond), Request(get), Drain()}},
		{Name: "handshake, then RST with the answer unread", Steps: []Step{http1, Request(get), Pause(100 * time.Millisecond), RST()}},
	}
	for _, n := range []int{1, 2, 4, 5, 6, 7, 11, 50, 51} { // around header lengths (rows C2, P2)
		table = append(table, Once(fmt.Sprintf("%d zero bytes", n), make([]byte, n)))
	}
	return slices.Concat(table, random(), p.sessions(), thresholds(hello))
}
