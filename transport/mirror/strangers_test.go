//go:build linux

package mirror_test

import (
	"bytes"
	"context"
	"crypto/ecdh"
	"crypto/rand"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"busel/internal/nginxtest"
	"busel/internal/wire"
	"busel/transport"
	"busel/transport/mirror"
)

// A stranger must not be able to tell a relay from the web server behind it
// (DESIGN.md section 1, invariant 2; rows P2, P3, S10). Here every probe is a
// function that a prober runs over one TCP connection. The harness runs it
// against bare nginx and against a relay before the same nginx at the same
// time and compares all that the prober could note: bytes or TLS records, the
// kind of the close, what later writes meet, the segments on the wire, and
// when all that happened.

// tolerance is how far apart the same event may be on the two targets.
const tolerance = 50 * time.Millisecond

// The time-outs of the nginx behind both targets, as short as nginx takes.
const (
	headerTimeout    = time.Second
	keepaliveTimeout = 2 * time.Second
	patience         = 4 * time.Second // of a prober: longer than both
)

// event is something that a prober notes: a label that must be equal, and a
// time since the connection that must be near.
type event struct {
	what string
	at   time.Duration
}

// visit is one connection of a prober. It is a net.Conn whose reads are
// recorded, for probes that need a whole TLS stack.
type visit struct {
	*net.TCPConn
	ctx    context.Context
	client net.Addr
	start  time.Time
	stack  *tls.Config
	mu     sync.Mutex
	data   []byte // everything received
	notes  []event
	first  time.Duration // of the first byte received
	ended  string        // "FIN", "RST" or ""
	closed bool          // by the probe
}

func (v *visit) note(format string, args ...any) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.notes = append(v.notes, event{fmt.Sprintf(format, args...), time.Since(v.start)})
}

func (v *visit) Read(b []byte) (int, error) {
	n, err := v.TCPConn.Read(b)
	v.mu.Lock()
	if n > 0 {
		if v.data == nil {
			v.first = time.Since(v.start)
		}
		v.data = append(v.data, b[:n]...)
	}
	ended := ""
	if v.ended == "" {
		switch {
		case errors.Is(err, io.EOF):
			ended = "FIN"
		case errors.Is(err, syscall.ECONNRESET):
			ended = "RST"
		}
		v.ended = ended
	}
	v.mu.Unlock()
	if ended != "" {
		v.note("server's end: %s", ended)
	}
	return n, err
}

// Write notes only failures: a success says nothing but that the kernel
// has room.
func (v *visit) Write(b []byte) (int, error) {
	n, err := v.TCPConn.Write(b)
	if err != nil {
		v.note("write: %s", errno(err))
	}
	return n, err
}

func errno(err error) string {
	var e syscall.Errno
	if errors.As(err, &e) {
		return e.Error()
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return "deadline"
	}
	return err.Error()
}

// pause lets time pass between two writes, as a slow client's network would.
func (v *visit) pause(d time.Duration) {
	select {
	case <-time.After(d):
	case <-v.ctx.Done():
	}
}

// send writes b as one segment.
func (v *visit) send(b ...byte) { _, _ = v.Write(b) }

// drain reads until the server ends the connection or d has passed.
func (v *visit) drain(d time.Duration) {
	_ = v.SetReadDeadline(time.Now().Add(d))
	_, err := io.Copy(io.Discard, struct{ io.Reader }{v})
	if errors.Is(err, os.ErrDeadlineExceeded) {
		v.note("still open")
	}
	_ = v.SetReadDeadline(time.Time{})
}

// await reads until at least n bytes have come in all.
func (v *visit) await(n int) {
	_ = v.SetReadDeadline(time.Now().Add(patience))
	buf := make([]byte, 4096)
	for {
		v.mu.Lock()
		have := len(v.data)
		v.mu.Unlock()
		if have >= n {
			break
		}
		if _, err := v.Read(buf); err != nil {
			return
		}
	}
	_ = v.SetReadDeadline(time.Time{})
}

// abort resets the connection.
func (v *visit) abort() {
	v.closed = true
	_ = v.SetLinger(0)
	_ = v.Close()
}

// afterwards notes what two writes meet after the server's end: whether and
// when a RST answers the first.
func (v *visit) afterwards() {
	if v.closed || v.ended != "FIN" {
		return
	}
	v.send(0x17)
	answer := failure(v.TCPConn, 300*time.Millisecond)
	v.note("a byte after the server's end is met by: %s", answer)
	v.send(0x17)
}

// failure waits until a connection that has ended one way fails altogether, and
// says how. A read would say no more than that the end came.
func failure(c *net.TCPConn, d time.Duration) string {
	answer := "nothing"
	raw, err := c.SyscallConn()
	if err != nil {
		return err.Error()
	}
	_ = raw.Control(func(fd uintptr) {
		p := []unix.PollFd{{Fd: int32(fd)}} // POLLERR and POLLHUP are always told
		deadline := time.Now().Add(d)
		for {
			n, err := unix.Poll(p, max(0, int(time.Until(deadline).Milliseconds())))
			if err == unix.EINTR {
				continue
			}
			if n > 0 {
				if e, err := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_ERROR); err == nil {
					answer = syscall.Errno(e).Error()
				}
			}
			return
		}
	})
	return answer
}

// tls does a handshake with crypto/tls; opt may change the configuration.
func (v *visit) tls(opt func(*tls.Config)) *tls.Conn {
	cfg := v.stack.Clone()
	if opt != nil {
		opt(cfg)
	}
	c := tls.Client(v, cfg)
	err := c.HandshakeContext(v.ctx)
	s := c.ConnectionState()
	v.note("handshake: %v, TLS %#x, cipher %#x, ALPN %q, resumed %v", err, s.Version, s.CipherSuite, s.NegotiatedProtocol, s.DidResume)
	return c
}

func (v *visit) request(c *tls.Conn, text string) {
	if _, err := io.WriteString(c, text); err != nil {
		v.note("request: %s", errno(err))
	}
}

// ticket evens out what OpenSSL itself varies from handshake to handshake: the
// encoding of a random number in a NewSessionTicket crosses a cipher block now
// and then, which makes the record 282 bytes long instead of 266.
func ticket(n int) int {
	if n == 282 {
		return 266
	}
	return n
}

// records describes TLS bytes as type and length, and what is no TLS as text.
func records(b []byte) string {
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

// observations is what the prober holds in the end.
func (v *visit) observations() []event {
	v.mu.Lock()
	defer v.mu.Unlock()
	return append([]event{{"received: " + records(v.data), v.first}}, v.notes...)
}

// probe is one way to look at a server.
type probe struct {
	name string
	run  func(*visit)
}

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

// inRecords cuts the record b into records of at most n bytes of body.
func inRecords(b []byte, n int) []byte {
	var out []byte
	for part := range slices.Chunk(b[5:], n) {
		out = append(out, b[0], b[1], b[2], byte(len(part)>>8), byte(len(part)))
		out = append(out, part...)
	}
	return out
}

func once(name string, payload []byte) probe {
	return probe{name, func(v *visit) {
		v.send(payload...)
		v.drain(patience)
	}}
}

// thenFIN sends payload and closes the sending half.
func thenFIN(name string, payload []byte) probe {
	return probe{name, func(v *visit) {
		if len(payload) > 0 {
			v.send(payload...)
		}
		_ = v.CloseWrite()
		v.drain(patience)
	}}
}

func randomBytes(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.Read(b) // never fails
	return b
}

// probes is the whole table. name is the site's.
func probes(name string) []probe {
	base := &tls.Config{ServerName: name, NextProtos: []string{"h2", "http/1.1"}}
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
	get := "GET / HTTP/1.1\r\nHost: " + name + "\r\nUser-Agent: probe\r\nConnection: close\r\n\r\n"
	stay := "GET /site.css HTTP/1.1\r\nHost: " + name + "\r\n\r\n"

	table := []probe{
		// Frolov and Wustrow's eight (row P2).
		{"frolov: nothing", func(v *visit) { v.drain(patience) }},
		once("frolov: plain HTTP", []byte(get)),
		once("frolov: ClientHello, then silence", hello),
		once("frolov: Modbus", []byte("\x44\x62\x00\x00\x00\x05\x00\x2b\x0e\x01\x00\x00")),
		once("frolov: S7", []byte("\x03\x00\x00\x16\x11\xe0\x00\x00\x00\x01\x00\xc1\x02\x01\x00\xc2\x02\x01\x02\xc0\x01\x0a")),
		once("frolov: 23 random bytes", randomBytes(23)),
		once("frolov: 7 kB of random bytes", randomBytes(7<<10)),
		once("frolov: 17 kB of random bytes", randomBytes(17<<10)),

		once("plain HTTP, bad request", []byte("NONSENSE\r\n\r\n")),
		once("plain HTTP, HEAD", []byte("HEAD / HTTP/1.0\r\n\r\n")),
		once("plain h2 preface", []byte("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00")),
		once("oversized record: 18433", append([]byte{0x16, 3, 1, 0x48, 0x01}, randomBytes(200)...)),
		once("oversized record: 65535", []byte{0x16, 3, 1, 0xff, 0xff, 1, 0, 0, 0}),
		once("undersized record: 1 byte", []byte{0x16, 3, 1, 0, 1, 1}),
		once("zero-length record", []byte{0x16, 3, 1, 0, 0}),
		once("zero-length records, forty", bytes.Repeat([]byte{0x16, 3, 1, 0, 0}, 40)),
		once("zero-length record, then ClientHello", append([]byte{0x16, 3, 1, 0, 0}, hello...)),
		once("type alert", []byte{0x15, 3, 1, 0, 2, 2, 40}),
		once("type warning alert, then ClientHello", append([]byte{0x15, 3, 1, 0, 2, 1, 0}, hello...)),
		once("type CCS", []byte{0x14, 3, 3, 0, 1, 1}),
		once("type application data", append([]byte{0x17, 3, 3, 0, 64}, randomBytes(64)...)),
		once("type heartbeat", kind(0x18)),
		once("type 0", kind(0)),
		once("type 255", kind(255)),
		once("record version 0x0300", version(3, 0)),
		once("record version 0x0303", version(3, 3)),
		once("record version 0x0305", version(3, 5)),
		once("record version 0x0401", version(4, 1)),
		once("record version 0x0000", version(0, 0)),
		once("SSLv2-style hello", append([]byte{0x80, 0x2e, 1, 3, 1, 0, 0x15, 0, 0, 0, 0x10}, randomBytes(37)...)),
		once("SSLv2 hello with known ciphers", append(append([]byte{0x80, 0x1c, 1, 0, 2, 0, 3, 0, 0, 0, 0x10}, 1, 0, 0x80), randomBytes(16)...)),
		once("handshake type 2 first", append([]byte{0x16, 3, 1, 0, 5}, 2, 0, 0, 1, 0)),
		once("ClientHello of 0 bytes", append([]byte{0x16, 3, 1, 0, 4}, 1, 0, 0, 0)),
		once("ClientHello that says it has 16 MB", append([]byte{0x16, 3, 1, 0, 64}, append([]byte{1, 0xff, 0xff, 0xff}, randomBytes(60)...)...)),
		once("ClientHello with a byte behind", append(slices.Clone(hello), 0x42)),
		once("ClientHello, then garbage", append(slices.Clone(hello), randomBytes(400)...)),
		once("ClientHello twice", append(slices.Clone(hello), hello...)),
		once("random bytes, 221 (NR2)", randomBytes(221)),
		once("ClientHello in records of 16", inRecords(hello, 16)),
		once("ClientHello in records of 1", inRecords(hello, 1)),
		once("no SNI", with(func(c *tls.Config) { c.ServerName, c.InsecureSkipVerify = "", true })),
		once("wrong SNI", with(func(c *tls.Config) { c.ServerName = "elsewhere.test" })),
		once("unknown ALPN", with(func(c *tls.Config) { c.NextProtos = []string{"busel/9"} })),
		once("no ALPN", with(func(c *tls.Config) { c.NextProtos = nil })),
		once("TLS 1.2 hello", with(func(c *tls.Config) { c.MaxVersion = tls.VersionTLS12 })),
		once("TLS 1.0 hello", with(func(c *tls.Config) { c.MinVersion, c.MaxVersion = tls.VersionTLS10, tls.VersionTLS10 })),
		once("P-521 only", with(func(c *tls.Config) { c.CurvePreferences = []tls.CurveID{tls.CurveP521} })),

		thenFIN("nothing, then FIN", nil),
		thenFIN("half a header, then FIN", hello[:3]),
		thenFIN("half a record, then FIN", hello[:len(hello)/2]),
		thenFIN("ClientHello, then FIN", hello),
		thenFIN("plain HTTP, then FIN", []byte(get)),
		{"half a record, then silence", func(v *visit) {
			v.send(hello[:len(hello)/2]...)
			v.drain(patience)
		}},
		{"ClientHello in three pieces", func(v *visit) {
			for part := range slices.Chunk(hello, len(hello)/3+1) {
				v.send(part...)
				v.pause(40 * time.Millisecond)
			}
			v.drain(patience)
		}},
		{"ClientHello byte by byte at first", func(v *visit) {
			for _, b := range hello[:12] {
				v.send(b)
				v.pause(5 * time.Millisecond)
			}
			v.send(hello[12:]...)
			v.drain(patience)
		}},
		{"RST at once", func(v *visit) { v.abort() }},
		{"RST after half a record", func(v *visit) {
			v.send(hello[:40]...)
			v.pause(30 * time.Millisecond)
			v.abort()
		}},
		{"RST after the server's flight", func(v *visit) {
			v.send(hello...)
			v.await(1000)
			v.abort()
		}},
		{"FIN after the server's flight", func(v *visit) {
			v.send(hello...)
			v.await(1000)
			_ = v.CloseWrite()
			v.drain(patience)
		}},
		{"answers to the server's flight with garbage", func(v *visit) {
			v.send(hello...)
			v.await(1000)
			v.send(append([]byte{0x17, 3, 3, 0, 53}, bytes.Repeat([]byte{7}, 53)...)...)
			v.drain(patience)
		}},
		{"answers to the server's flight with empty records", func(v *visit) {
			v.send(hello...)
			v.await(1000)
			v.send(bytes.Repeat([]byte{0x17, 3, 3, 0, 0}, 3)...)
			v.drain(patience)
		}},
		{"answers to the server's flight with an oversized record", func(v *visit) {
			v.send(hello...)
			v.await(1000)
			v.send(0x17, 3, 3, 0x41, 0x19)
			v.drain(patience)
		}},
		{"answers to the server's flight with many CCS", func(v *visit) {
			v.send(hello...)
			v.await(1000)
			v.send(bytes.Repeat([]byte{0x14, 3, 3, 0, 1, 1}, 40)...)
			v.drain(patience)
		}},

		{"GET over HTTP/1.1", func(v *visit) {
			c := v.tls(func(c *tls.Config) { c.NextProtos = []string{"http/1.1"} })
			v.request(c, get)
			_, _ = io.Copy(io.Discard, c)
			v.drain(patience)
		}},
		{"GET over TLS 1.2", func(v *visit) {
			c := v.tls(func(c *tls.Config) { c.NextProtos, c.MaxVersion = []string{"http/1.1"}, tls.VersionTLS12 })
			v.request(c, get)
			_, _ = io.Copy(io.Discard, c)
			v.drain(patience)
		}},
		{"GET, then idle", func(v *visit) {
			c := v.tls(func(c *tls.Config) { c.NextProtos = []string{"http/1.1"} })
			v.request(c, stay)
			v.drain(patience)
		}},
		{"GET, then half-close of TLS and TCP", func(v *visit) {
			c := v.tls(func(c *tls.Config) { c.NextProtos = []string{"http/1.1"} })
			v.request(c, stay)
			_ = c.CloseWrite()
			_ = v.CloseWrite()
			v.drain(patience)
		}},
		{"GET, then half-close of TCP alone", func(v *visit) {
			c := v.tls(func(c *tls.Config) { c.NextProtos = []string{"http/1.1"} })
			v.request(c, stay)
			v.pause(30 * time.Millisecond) // or nginx itself wavers about a close_notify
			_ = v.CloseWrite()
			v.drain(patience)
		}},
		{"handshake, then idle, h2", func(v *visit) {
			v.tls(nil)
			v.drain(patience)
		}},
		{"handshake, then idle, HTTP/1.1", func(v *visit) {
			v.tls(func(c *tls.Config) { c.NextProtos = []string{"http/1.1"} })
			v.drain(patience)
		}},
		{"handshake, then a record that does not open", func(v *visit) {
			v.tls(nil)
			v.pause(50 * time.Millisecond)
			v.send(append([]byte{0x17, 3, 3, 0, 80}, bytes.Repeat([]byte{9}, 80)...)...)
			v.drain(patience)
		}},
		{"handshake, then an empty record", func(v *visit) {
			v.tls(nil)
			v.pause(50 * time.Millisecond)
			v.send(0x17, 3, 3, 0, 0)
			v.drain(patience)
		}},
		{"handshake, then plain HTTP inside h2", func(v *visit) {
			c := v.tls(nil)
			v.request(c, get)
			v.drain(patience)
		}},
		{"handshake, then RST with the answer unread", func(v *visit) {
			c := v.tls(func(c *tls.Config) { c.NextProtos = []string{"http/1.1"} })
			v.request(c, get)
			v.pause(100 * time.Millisecond)
			v.abort()
		}},
	}
	for _, n := range []int{1, 2, 4, 5, 6, 7, 11, 50, 51} { // around header lengths (rows C2, P2)
		table = append(table, once(fmt.Sprintf("%d zero bytes", n), make([]byte, n)))
	}
	return table
}

// target is a server to be probed.
type target struct{ name, address string }

// run lets p loose on one target.
func (p probe) on(ctx context.Context, t target, site *nginxtest.Server) (events []event, segments []segment, err error) {
	ctx, cancel := context.WithTimeout(ctx, 2*patience)
	defer cancel()
	tap, err := capture(t.address)
	if err != nil {
		return nil, nil, err
	}
	defer tap.close()
	c, err := (&net.Dialer{}).DialContext(ctx, "tcp4", t.address)
	if err != nil {
		return nil, nil, err
	}
	v := &visit{TCPConn: c.(*net.TCPConn), client: c.LocalAddr(), ctx: ctx, start: time.Now(), stack: site.ClientConfig("h2", "http/1.1")}
	defer v.Close()
	p.run(v)
	v.afterwards()
	return v.observations(), tap.sentTo(v.client), nil
}

// differences are what a prober could tell the two by.
func differences(a, b []event, sa, sb []segment) (out []string) {
	for i := range max(len(a), len(b)) {
		var x, y event
		if i < len(a) {
			x = a[i]
		}
		if i < len(b) {
			y = b[i]
		}
		if x.what != y.what {
			out = append(out, fmt.Sprintf("%s | %s", x.what, y.what))
		} else if d := (x.at - y.at).Abs(); d > tolerance {
			out = append(out, fmt.Sprintf("%s: at %v | at %v", x.what, x.at.Round(time.Millisecond), y.at.Round(time.Millisecond)))
		}
	}
	if merged := mergeLike(sa, sb); !slices.EqualFunc(merged, sb, segment.like) {
		out = append(out, fmt.Sprintf("segments %v | %v", sa, sb))
	}
	return out
}

// together is the time within which two segments of the cover reach a
// forwarder as one: it reads what has come when it wakes, and so does every
// reverse proxy and load balancer. A flight is one write and so one segment,
// and stays one.
const together = 2 * time.Millisecond

// mergeLike merges segments of a that left together where b has them in one.
// It merges and never splits, and no FIN or RST disappears.
func mergeLike(a, b []segment) (out []segment) {
	for i := 0; i < len(a); i++ {
		s := a[i]
		if len(out) < len(b) {
			for want := b[len(out)]; s.flags == 0 && !s.like(want) && s.size < want.size && i+1 < len(a) && a[i+1].flags == 0 && a[i+1].at-a[i].at < together; i++ {
				s.size += a[i+1].size
			}
		}
		out = append(out, s)
	}
	return out
}

// attempts is how often a probe is repeated when something differed. What the
// scheduler did to one of the two connections is not seen four times running;
// what a program does differently is.
const attempts = 4

func compare(t *testing.T, p probe, bare, relay target, site *nginxtest.Server) (found []string) {
	t.Helper()
	for range attempts {
		var wg sync.WaitGroup
		var events [2][]event
		var segments [2][]segment
		var errs [2]error
		for i, target := range []target{bare, relay} {
			wg.Go(func() { events[i], segments[i], errs[i] = p.on(t.Context(), target, site) })
		}
		wg.Wait()
		if err := errors.Join(errs[:]...); err != nil {
			t.Fatal(err)
		}
		if found = differences(events[0], events[1], segments[0], segments[1]); len(found) == 0 {
			if !slices.EqualFunc(segments[0], segments[1], segment.like) {
				t.Logf("left together: segments %v | %v", segments[0], segments[1])
			}
			return nil
		}
	}
	return found
}

func site(t *testing.T) *nginxtest.Server {
	return nginxtest.Run(t, nginxtest.Config{
		RSA: true, HeaderTimeout: headerTimeout, KeepaliveTimeout: keepaliveTimeout, Large: 3 << 20,
	})
}

// relayed is a relay before a site, and what a client needs to use it.
type relayed struct {
	target
	public   [32]byte
	site     *nginxtest.Server
	listener *mirror.Listener
	carriers chan transport.Carrier
}

func relay(t *testing.T, site *nginxtest.Server) *relayed {
	t.Helper()
	key, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	listening, err := transport.System{}.Listen(t.Context(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r := &relayed{target: target{"relay", listening.Addr().String()}, public: [32]byte(key.PublicKey().Bytes()), site: site, carriers: make(chan transport.Carrier, 16)}
	r.listener, err = mirror.NewListener(mirror.ListenerConfig{
		Listen: func(context.Context) (net.Listener, error) { return listening, nil },
		Key:    key,
		Cover:  mirror.Cover{Address: site.Address, Name: site.Name, Idle: keepaliveTimeout},
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := r.listener.Run(ctx); err != nil {
			t.Errorf("listener: %v", err)
		}
	})
	wg.Go(func() {
		for {
			p, err := r.listener.Accept(ctx)
			if err != nil {
				return
			}
			wg.Go(func() {
				if c, err := p.Answer(&wire.Accept{Status: wire.StatusOK, SessionLife: time.Minute}); err == nil {
					r.carriers <- c
				}
			})
		}
	})
	t.Cleanup(func() {
		cancel()
		wg.Wait()
	})
	return r
}

func TestStrangersSeeTheCover(t *testing.T) {
	site := site(t)
	relay := relay(t, site)
	bare := target{"nginx", site.Address}
	for _, p := range probes(site.Name) {
		t.Run(p.name, func(t *testing.T) {
			t.Parallel()
			for _, d := range compare(t, p, bare, relay.target, site) {
				t.Errorf("nginx | relay: %s", d)
			}
		})
	}
}

// TestHarnessSeesDifferences proves that the comparison can fail: a forwarder
// written without care differs in what it makes of a RST, and a slow one in
// the times.
func TestHarnessSeesDifferences(t *testing.T) {
	site := site(t)
	bare := target{"nginx", site.Address}
	silent := once("a request", []byte("GET / HTTP/1.0\r\n\r\n"))
	for _, fault := range []struct {
		name    string
		forward func(down, up *net.TCPConn)
		want    string
	}{
		{"in small pieces", func(down, up *net.TCPConn) {
			_, _ = io.CopyBuffer(struct{ io.Writer }{down}, struct{ io.Reader }{up}, make([]byte, 50))
		}, "segments"},
		{"slowly", func(down, up *net.TCPConn) {
			b, _ := io.ReadAll(up)
			<-time.After(3 * tolerance)
			_, _ = down.Write(b)
		}, "at "},
		{"cut short", func(down, up *net.TCPConn) { _, _ = io.CopyN(down, up, 100) }, "received"},
		{"with a RST for a FIN", func(down, up *net.TCPConn) {
			_, _ = io.Copy(down, up)
			_ = down.SetLinger(0)
		}, "RST"},
	} {
		t.Run(fault.name, func(t *testing.T) {
			bad := target{fault.name, forwarder(t, site.Address, fault.forward)}
			found := strings.Join(compare(t, silent, bare, bad, site), "\n")
			if fault.want == "segments" && !canCapture() {
				t.Skip("segments are seen by root only")
			}
			if !strings.Contains(found, fault.want) {
				t.Errorf("the difference was not seen, only: %q", found)
			}
		})
	}
	if found := compare(t, silent, bare, target{"nginx again", site.Address}, site); len(found) > 0 {
		t.Errorf("nginx differs from itself: %v", found)
	}
}

// forwarder accepts connections, copies what clients send to address, and
// leaves the way back to f. It closes both ends when f returns.
func forwarder(t *testing.T, address string, f func(down, up *net.TCPConn)) string {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	t.Cleanup(func() {
		_ = l.Close()
		wg.Wait()
	})
	wg.Go(func() {
		for {
			down, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer down.Close()
				up, err := net.Dial("tcp4", address)
				if err != nil {
					return
				}
				defer up.Close()
				wg.Go(func() { _, _ = io.Copy(up, down) })
				f(down.(*net.TCPConn), up.(*net.TCPConn))
			})
		}
	})
	return l.Addr().String()
}

// TestPagesAreByteForByte fetches through both with curl and compares header
// and body; the date is the only line that the second may change.
func TestPagesAreByteForByte(t *testing.T) {
	if _, err := exec.LookPath("curl"); err != nil {
		t.Skip("curl is not installed")
	}
	site := site(t)
	relay := relay(t, site)
	for _, args := range [][]string{
		{"--http1.1"}, {"--http2"}, {"--http1.1", "--tls-max", "1.2"}, {"--http2", "--tls-max", "1.2"},
		{"--http2", "--head"}, {"--http2", "-H", "Range: bytes=5-50"},
	} {
		for _, path := range []string{"/", "/site.css", "/missing", "/large.bin"} {
			var page [2][]byte
			for i, address := range []string{site.Address, relay.address} {
				out, err := exec.Command("curl", append(args, "-sSki", "https://"+address+path)...).Output()
				if err != nil {
					t.Fatalf("curl %v %s%s: %v", args, address, path, err)
				}
				head, body, _ := bytes.Cut(out, []byte("\r\n\r\n"))
				lines := strings.Split(string(head), "\r\n")
				lines = slices.DeleteFunc(lines, func(l string) bool { return strings.HasPrefix(strings.ToLower(l), "date:") })
				page[i] = append([]byte(strings.Join(lines, "\r\n")), body...)
			}
			if !bytes.Equal(page[0], page[1]) {
				t.Errorf("curl %v %s: %d bytes from nginx, %d through the relay, or other ones", args, path, len(page[0]), len(page[1]))
			}
		}
	}
}

// tap is a forwarder in the path between a client and a server that records
// what the client sends and can flip a bit on the way.
type tap struct {
	address string
	mu      sync.Mutex
	up      []byte // what the client sent on its first connection
	spoil   *spoiler
}

// spoiler corrupts the first record in one direction that comes after it was
// set, in the last byte of its body, and records what follows.
type spoiler struct {
	up    bool // the client's record, else the server's
	start time.Time
	done  bool
	data  []byte // of the other direction since then
	ended chan struct{}
	end   string
	at    time.Duration
}

func newTap(t *testing.T, to string) *tap {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &tap{address: l.Addr().String()}
	var wg sync.WaitGroup
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(func() {
		cancel()
		_ = l.Close()
		wg.Wait()
	})
	wg.Go(func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer client.Close()
				server, err := net.Dial("tcp4", to)
				if err != nil {
					return
				}
				defer server.Close()
				defer context.AfterFunc(ctx, func() { _ = client.Close(); _ = server.Close() })()
				var both sync.WaitGroup
				both.Go(func() { p.copy(server.(*net.TCPConn), client.(*net.TCPConn), true) })
				both.Go(func() { p.copy(client.(*net.TCPConn), server.(*net.TCPConn), false) })
				both.Wait()
			})
		}
	})
	return p
}

// copy forwards whole records, so that a record can be spoiled in place.
func (p *tap) copy(to, from *net.TCPConn, up bool) {
	header := make([]byte, 5)
	for {
		n, err := io.ReadFull(from, header)
		record := slices.Clone(header[:n])
		if err == nil {
			body := make([]byte, int(header[3])<<8|int(header[4]))
			n, err = io.ReadFull(from, body)
			record = append(record, body[:n]...)
		}
		p.mu.Lock()
		if up {
			p.up = append(p.up, record...)
		}
		s := p.spoil
		hold := false
		switch {
		case s == nil:
		case s.up == up && !s.done && len(record) > 5:
			s.done = true
			s.start = time.Now()
			record[len(record)-1] ^= 1
		case s.up != up && s.done:
			// Nothing is passed on before the end: whoever hears the alert says
			// something himself (Go's visitor a close_notify), and a RST that this
			// draws from an end that has closed hides the FIN before it.
			s.data = append(s.data, record...)
			hold = err == nil
			if err != nil && s.end == "" {
				s.end, s.at = errno(err), time.Since(s.start)
				record = s.data
				close(s.ended)
			}
		}
		p.mu.Unlock()
		if hold {
			continue
		}
		_, werr := to.Write(record)
		if err != nil || werr != nil {
			if errors.Is(err, syscall.ECONNRESET) {
				_ = to.SetLinger(0)
				_ = to.Close()
			}
			_ = to.CloseWrite()
			return
		}
	}
}

func (p *tap) corrupt(up bool) *spoiler {
	s := &spoiler{up: up, ended: make(chan struct{})}
	p.mu.Lock()
	p.spoil = s
	p.mu.Unlock()
	return s
}

// dial makes a carrier through the address, which may be a tap's.
func (r *relayed) dial(t *testing.T, address string) (client, server transport.Carrier) {
	t.Helper()
	d, err := mirror.NewDialer(mirror.DialerConfig{PublicKey: r.public, CoverName: r.site.Name, Roots: r.site.Roots})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.Close() })
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	client, _, err = d.Dial(ctx, transport.Route{Relay: "r1", Transport: "mirror", Address: address}, &wire.Hello{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close() })
	select {
	case server = <-r.carriers:
	case <-ctx.Done():
		t.Fatal("the relay saw no carrier")
	}
	t.Cleanup(func() { _ = server.Close() })
	return client, server
}

// TestReplayedClientSeesTheCover plays a real client's bytes to both: the
// ClientHello is one that the relay recognises, its sender is not the client.
func TestReplayedClientSeesTheCover(t *testing.T) {
	site := site(t)
	relay := relay(t, site)
	tap := newTap(t, relay.address)
	client, server := relay.dial(t, tap.address)
	go discard(server)
	if err := client.WriteFrames([]transport.Frame{ping(1), ping(2)}); err != nil {
		t.Fatal(err)
	}
	_ = client.Close()
	tap.mu.Lock()
	recorded := slices.Clone(tap.up)
	tap.mu.Unlock()
	length := 5 + (int(recorded[3])<<8 | int(recorded[4]))
	if length >= len(recorded) {
		t.Fatalf("only %d bytes recorded, the ClientHello has %d", len(recorded), length)
	}
	bare := target{"nginx", site.Address}
	flip := func(at int) []byte {
		b := slices.Clone(recorded)
		b[at] ^= 1
		return b
	}
	for _, p := range []probe{
		once("the ClientHello", recorded[:length]),
		thenFIN("the ClientHello, then FIN", recorded[:length]),
		once("everything at once", recorded),
		{"everything, in its time", func(v *visit) {
			v.send(recorded[:length]...)
			v.await(1000)
			v.send(recorded[length:]...)
			v.drain(patience)
		}},
		{"the ClientHello in pieces, then garbage", func(v *visit) {
			v.send(recorded[:100]...)
			v.pause(30 * time.Millisecond)
			v.send(recorded[100:length]...)
			v.await(1000)
			v.send(append([]byte{0x17, 3, 3, 0, 80}, bytes.Repeat([]byte{5}, 80)...)...)
			v.drain(patience)
		}},
		{"the ClientHello, then an oversized record", func(v *visit) {
			v.send(recorded[:length]...)
			v.await(1000)
			v.send(0x17, 3, 3, 0xff, 0xff)
			v.drain(patience)
		}},
		{"the ClientHello, then half a record and FIN", func(v *visit) {
			v.send(recorded[:length]...)
			v.await(1000)
			v.send(0x17, 3, 3, 0, 80, 1, 2, 3)
			_ = v.CloseWrite()
			v.drain(patience)
		}},
		{"the ClientHello, then RST", func(v *visit) {
			v.send(recorded[:length]...)
			v.await(1000)
			v.abort()
		}},
		{"the ClientHello, then 12 bytes of a record and silence", func(v *visit) {
			v.send(recorded[:length]...)
			v.await(1000)
			v.send(0x17, 3, 3, 0, 80, 1, 2, 3, 4, 5, 6, 7)
			v.drain(patience)
		}},
		once("a bit of the random flipped", flip(5+4+2+10)),
		once("a bit of the session id flipped", flip(5+4+2+32+1+10)),
		once("a bit of the last extension flipped", flip(length-1)),
		once("the ClientHello across records", inRecords(recorded[:length], 300)),
	} {
		t.Run(p.name, func(t *testing.T) {
			t.Parallel()
			for _, d := range compare(t, p, bare, relay.target, site) {
				t.Errorf("nginx | relay: %s", d)
			}
		})
	}
}

func ping(n byte) transport.Frame {
	f := wire.Frame{Type: wire.Ping, Ping: [8]byte{n}}
	return transport.Frame{Lane: transport.LaneControl, Data: f.Append(nil)}
}

// discard reads a carrier to its end.
func discard(c transport.Carrier) {
	buf := make([]byte, wire.MaxFrame)
	for {
		if _, err := c.ReadFrames(buf); err != nil {
			return
		}
	}
}

// TestCorruptedRecords flips a bit in a record of a live carrier and in the
// same place of a browser-like visit to bare nginx; whoever did it sees the
// same answer from the same end.
func TestCorruptedRecords(t *testing.T) {
	site := site(t)
	relay := relay(t, site)
	for _, up := range []bool{true, false} {
		name := map[bool]string{true: "client to relay", false: "relay to client"}[up]
		t.Run(name, func(t *testing.T) {
			tap := newTap(t, relay.address)
			client, server := relay.dial(t, tap.address)
			go discard(client)
			go discard(server)
			// One exchange first, so that the tickets and settings are through.
			for _, c := range []transport.Carrier{client, server} {
				if err := c.WriteFrames([]transport.Frame{ping(1)}); err != nil {
					t.Fatal(err)
				}
			}
			<-time.After(300 * time.Millisecond) // let both directions fall silent
			got := tap.corrupt(up)
			sender := server
			if up {
				sender = client
			}
			_ = sender.WriteFrames([]transport.Frame{ping(2)})

			if up {
				want := genuineCorrupted(t, site)
				wait(t, want, got)
				if w, g := records(want.data), records(got.data); w != g || want.end != got.end {
					t.Errorf("genuine: %s, then %s; carrier: %s, then %s", w, want.end, g, got.end)
				}
				if d := (want.at - got.at).Abs(); d > tolerance {
					t.Errorf("genuine ended after %v, carrier after %v", want.at, got.at)
				}
				return
			}
			// What Chromium does, seen by spoiling records of its visits to this
			// nginx: one alert, no close_notify behind it, FIN.
			wait(t, got)
			if g := records(got.data); g != "23:0303:19" || got.end != "EOF" || got.at > tolerance {
				t.Errorf("client: %s, then %s after %v; a browser sends one alert and ends at once", g, got.end, got.at)
			}
		})
	}
}

func wait(t *testing.T, all ...*spoiler) {
	t.Helper()
	for _, s := range all {
		select {
		case <-s.ended:
		case <-time.After(10 * time.Second):
			t.Fatal("a corrupted record did not end the connection")
		}
	}
}

// genuineCorrupted makes a visit to bare nginx and spoils its second request.
func genuineCorrupted(t *testing.T, site *nginxtest.Server) *spoiler {
	t.Helper()
	tap := newTap(t, site.Address)
	tr := &http.Transport{TLSClientConfig: site.ClientConfig("h2"), ForceAttemptHTTP2: true}
	visitor := &http.Client{Transport: tr, Timeout: 10 * time.Second}
	var wg sync.WaitGroup
	t.Cleanup(func() {
		tr.CloseIdleConnections()
		wg.Wait()
	})
	fetch := func() error {
		resp, err := visitor.Get("https://" + tap.address + "/site.css")
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		_, err = io.Copy(io.Discard, resp.Body)
		return err
	}
	if err := fetch(); err != nil {
		t.Fatal(err)
	}
	<-time.After(300 * time.Millisecond) // as above
	s := tap.corrupt(true)
	wg.Go(func() { _ = fetch() }) // it fails, by now or by its time-out
	return s
}

// TestRecordAfterTheCoversEnd lets the cover end an idle carrier while somebody
// in the path keeps its goodbye from the client. The client's next covert record
// then meets what any byte meets that comes to nginx too late: a RST.
func TestRecordAfterTheCoversEnd(t *testing.T) {
	relay := relay(t, site(t))
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ended, met := make(chan struct{}), make(chan string, 1)
	var held atomic.Bool // what the relay sends: else a close_notify tells the client
	var wg sync.WaitGroup
	t.Cleanup(func() {
		_ = l.Close()
		wg.Wait()
	})
	wg.Go(func() {
		client, err := l.Accept()
		if err != nil {
			return
		}
		defer client.Close()
		server, err := net.Dial("tcp4", relay.address)
		if err != nil {
			return
		}
		defer server.Close()
		wg.Go(func() { _, _ = io.Copy(server, struct{ io.Reader }{client}) })
		buf := make([]byte, 16<<10)
		for {
			n, err := server.Read(buf)
			if err != nil {
				break // and the client's side stays open
			}
			if !held.Load() {
				_, _ = client.Write(buf[:n])
			}
		}
		close(ended)
		met <- failure(server.(*net.TCPConn), 5*time.Second)
	})
	client, server := relay.dial(t, l.Addr().String())
	held.Store(true)
	go discard(client)
	go discard(server)
	select {
	case <-ended:
	case <-time.After(2 * patience):
		t.Fatal("the cover does not end an idle connection")
	}
	if err := client.WriteFrames([]transport.Frame{ping(1)}); err != nil {
		t.Fatalf("the client knows of the end: %v", err)
	}
	if got := <-met; got != syscall.EPIPE.Error() && got != syscall.ECONNRESET.Error() {
		t.Errorf("the record was met by: %s; want a RST", got)
	}
}

// segment is one TCP segment from the server.
type segment struct {
	flags byte
	size  int
	kinds string        // TCP options of the SYN-ACK
	at    time.Duration // on the kernel's clock
}

// like reports whether two segments look alike but for their time and for what
// up to two tickets vary.
func (s segment) like(t segment) bool {
	if d := s.size - t.size; s.size > 250 && t.size > 250 && d%16 == 0 && d >= -32 && d <= 32 {
		t.size = s.size
	}
	return s.String() == t.String()
}

func (s segment) String() string {
	var b strings.Builder
	for i, name := range []string{"FIN", "SYN", "RST"} {
		if s.flags&(1<<i) != 0 {
			b.WriteString(name + " ")
		}
	}
	fmt.Fprintf(&b, "%d%s", s.size, s.kinds)
	return b.String()
}

// sniffer sees what a server sends on loopback, for root only.
type sniffer struct {
	port uint16
	fd   int // -1 if we may not
}

func canCapture() bool {
	s, err := capture("127.0.0.1:1")
	if err != nil {
		return false
	}
	defer s.close()
	return s.fd >= 0
}

// capture starts to listen for what the server at address sends. Without the
// right to it, it sees nothing.
func capture(address string) (*sniffer, error) {
	port, err := netip.ParseAddrPort(address)
	if err != nil {
		return nil, err
	}
	s := &sniffer{port.Port(), -1}
	network := int(binary.NativeEndian.Uint16([]byte{unix.ETH_P_IP >> 8, unix.ETH_P_IP & 0xff})) // in network order
	s.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if errors.Is(err, unix.EPERM) {
		s.fd = -1
		return s, nil
	}
	if err != nil {
		return nil, err
	}
	filter, err := bpf.Assemble([]bpf.Instruction{
		bpf.LoadAbsolute{Off: 9, Size: 1}, // protocol
		bpf.JumpIf{Val: unix.IPPROTO_TCP, SkipFalse: 4},
		bpf.LoadMemShift{Off: 0}, // length of the IP header
		bpf.LoadIndirect{Off: 0, Size: 2},
		bpf.JumpIf{Val: uint32(s.port), SkipFalse: 1},
		bpf.RetConstant{Val: 128},
		bpf.RetConstant{Val: 0},
	})
	if err != nil {
		return nil, errors.Join(err, unix.Close(s.fd))
	}
	program := make([]unix.SockFilter, len(filter))
	for i, f := range filter {
		program[i] = unix.SockFilter{Code: f.Op, Jt: f.Jt, Jf: f.Jf, K: f.K}
	}
	lo, err := net.InterfaceByName("lo")
	if err == nil {
		err = errors.Join(
			unix.SetsockoptSockFprog(s.fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]}),
			unix.SetsockoptInt(s.fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 4<<20),
			unix.SetsockoptInt(s.fd, unix.SOL_SOCKET, unix.SO_TIMESTAMPNS, 1),
			unix.Bind(s.fd, &unix.SockaddrLinklayer{Protocol: uint16(network), Ifindex: lo.Index}),
		)
	}
	if err != nil {
		return nil, errors.Join(err, unix.Close(s.fd))
	}
	return s, nil
}

func (s *sniffer) close() {
	if s.fd >= 0 {
		_ = unix.Close(s.fd)
	}
}

// sentTo returns what was sent so far to client's port, without bare ACKs.
func (s *sniffer) sentTo(client net.Addr) (out []segment) {
	if s.fd < 0 {
		return nil
	}
	packet, control := make([]byte, 256), make([]byte, 128)
	var next uint32 // sequence number that is due: anything older is sent again
	for {
		n, c, _, _, err := unix.Recvmsg(s.fd, packet, control, 0)
		if err != nil {
			return out
		}
		ip := packet[:n]
		head := int(ip[0]&15) * 4
		tcp := ip[head:]
		if int(binary.BigEndian.Uint16(tcp[2:])) != client.(*net.TCPAddr).Port {
			continue
		}
		options := int(tcp[12]>>4)*4 - 20
		size := int(binary.BigEndian.Uint16(ip[2:])) - head - 20 - options
		g := segment{flags: tcp[13] & 7, size: size, at: stamp(control[:c])}
		seq := binary.BigEndian.Uint32(tcp[4:])
		end := seq + uint32(size) + uint32(g.flags&1)
		switch {
		case g.flags&2 != 0:
			next = seq + 1
		case g.flags&4 == 0:
			if int32(end-next) <= 0 {
				continue
			}
			next = end
		}
		if g.flags&2 != 0 {
			g.kinds = fmt.Sprintf(" options %s", optionKinds(tcp[20:20+options]))
		}
		if g.flags != 0 || g.size > 0 {
			out = append(out, g)
		}
	}
}

// stamp is when the kernel saw a packet.
func stamp(control []byte) time.Duration {
	messages, err := unix.ParseSocketControlMessage(control)
	if err != nil {
		return 0
	}
	for _, m := range messages {
		if m.Header.Level == unix.SOL_SOCKET && m.Header.Type == unix.SCM_TIMESTAMPNS && len(m.Data) >= 16 {
			return time.Duration(binary.NativeEndian.Uint64(m.Data))*time.Second + time.Duration(binary.NativeEndian.Uint64(m.Data[8:]))
		}
	}
	return 0
}

// optionKinds lists TCP options; a timestamp's value is its own.
func optionKinds(b []byte) string {
	var out []string
	for len(b) > 0 {
		switch {
		case b[0] == 1:
			out, b = append(out, "nop"), b[1:]
		case b[0] == 0 || len(b) < 2 || int(b[1]) < 2 || int(b[1]) > len(b):
			return strings.Join(append(out, "end"), ",")
		case b[0] == 8:
			out, b = append(out, "timestamp"), b[b[1]:]
		default:
			out, b = append(out, fmt.Sprintf("%d:%x", b[0], b[2:b[1]])), b[b[1]:]
		}
	}
	return strings.Join(out, ",")
}
