package rules

import (
	"bytes"
	"crypto/tls"
	"encoding/binary"
	"encoding/hex"
	"io/fs"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"busel/scripts/lab/censor/packet"
	"busel/scripts/lab/censor/rule"
)

// Addresses of the lab.
var (
	client = netip.MustParseAddr("203.0.113.2")
	relay  = netip.MustParseAddr("192.0.2.1")
	site   = netip.MustParseAddr("198.51.100.10")
)

// lab is a censor with some rules and a clock.
type lab struct {
	testing.TB
	set   *rule.Set
	files []*rule.File // of the set
	now   time.Time
	port  uint16 // the last that a client used
}

func parse(t testing.TB, name string) *rule.File {
	t.Helper()
	text, err := fs.ReadFile(Files, name)
	if err != nil {
		t.Fatal(err)
	}
	f, err := rule.Parse(name, text)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func newLab(t testing.TB, names ...string) *lab {
	t.Helper()
	var files []*rule.File
	for _, name := range names {
		files = append(files, parse(t, name+".toml"))
	}
	return &lab{
		TB: t, set: rule.NewSet(rand.New(rand.NewPCG(1, 2)), files...), files: files,
		now: time.Date(2020, 8, 9, 12, 0, 0, 0, time.UTC), port: 40000,
	}
}

func (l *lab) wait(d time.Duration) { l.now = l.now.Add(d) }

// conn is a connection through the censor, or datagrams between two ports.
type conn struct {
	*lab
	client, world netip.AddrPort
	seq           [2]uint32 // the next number of each direction
	options       []byte
}

// timestamps make a header of 32 bytes, as nearly all connections have.
var timestamps = []byte{1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 0}

// to is a connection that is not open yet, from a new port.
func (l *lab) to(world netip.Addr, port uint16) *conn {
	l.port++
	return &conn{
		lab: l, client: netip.AddrPortFrom(client, l.port), world: netip.AddrPortFrom(world, port),
		seq: [2]uint32{rand.Uint32(), 0}, options: timestamps,
	}
}

// segment builds the next packet of a direction.
func (c *conn) segment(d rule.Direction, flags uint8, payload []byte) []byte {
	if flags == packet.SYN|packet.ACK {
		c.seq[d] = rand.Uint32()
	}
	s := packet.Segment{
		Header: packet.Header{Src: c.client, Dst: c.world, DF: true},
		Seq:    c.seq[d], Ack: c.seq[1-d], Flags: flags, Window: 502, Options: c.options, Payload: payload,
	}
	if d == rule.Down {
		s.Src, s.Dst = s.Dst, s.Src
	}
	c.seq[d] += uint32(len(payload))
	if flags&(packet.SYN|packet.FIN) != 0 {
		c.seq[d]++
	}
	return s.Build()
}

func (c *conn) send(d rule.Direction, flags uint8, payload []byte) rule.Verdict {
	return c.judge(d, c.segment(d, flags, payload))
}

// judge also checks that what the censor sends is well-formed.
func (l *lab) judge(d rule.Direction, b []byte) rule.Verdict {
	l.Helper()
	v := l.set.Judge(l.now, d, b)
	for _, i := range v.Inject {
		p, err := packet.Parse(i.Packet)
		if err != nil || !p.ChecksumsValid() {
			l.Fatalf("injected packet: %v, checksums valid: %v", err, err == nil && p.ChecksumsValid())
		}
		if up := p.Src.Addr() == client; up != (i.Toward == rule.Up) {
			l.Errorf("packet from %v goes toward %v", p.Src, i.Toward)
		}
	}
	return v
}

func (c *conn) up(payload []byte) rule.Verdict {
	return c.send(rule.Up, packet.PSH|packet.ACK, payload)
}
func (c *conn) down(payload []byte) rule.Verdict {
	return c.send(rule.Down, packet.PSH|packet.ACK, payload)
}

// open shakes hands and fails the test if the censor minds.
func (c *conn) open() *conn {
	c.Helper()
	c.passes("SYN", c.send(rule.Up, packet.SYN, nil))
	c.passes("SYN+ACK", c.send(rule.Down, packet.SYN|packet.ACK, nil))
	c.passes("ACK", c.send(rule.Up, packet.ACK, nil))
	return c
}

// datagram sends one either way.
func (c *conn) datagram(d rule.Direction, payload []byte) rule.Verdict {
	g := packet.Datagram{Header: packet.Header{Src: c.client, Dst: c.world}, Payload: payload}
	if d == rule.Down {
		g.Src, g.Dst = g.Dst, g.Src
	}
	return c.judge(d, g.Build())
}

func (l *lab) passes(what string, v rule.Verdict) {
	l.Helper()
	if v.Drop || len(v.Inject) > 0 {
		l.Errorf("%s: dropped %v, %d injected; want it left alone", what, v.Drop, len(v.Inject))
	}
}

func (l *lab) dropped(what string, v rule.Verdict) {
	l.Helper()
	if !v.Drop || len(v.Inject) > 0 {
		l.Errorf("%s: dropped %v, %d injected; want it dropped and no more", what, v.Drop, len(v.Inject))
	}
}

// wantReset is what a style of RST looks like.
type wantReset struct {
	up, down int // how many
	window   uint16
	id       uint16
	ttl      uint8
	payload  string
	zero     bool
	least    time.Duration
	most     time.Duration
}

// resets checks what was injected for a packet of the client that passed.
func (c *conn) resets(what string, v rule.Verdict, want wantReset) {
	c.Helper()
	if want.ttl == 0 {
		want.ttl = packet.DefaultTTL
	}
	var count [2]int
	for _, i := range v.Inject {
		p, err := packet.Parse(i.Packet)
		if err != nil {
			c.Fatal(err)
		}
		count[i.Toward]++
		seq, ack := c.seq[i.Toward], c.seq[1-i.Toward]
		if want.zero {
			seq, ack = 0, 0
		}
		got := []any{p.Flags, p.Seq, p.Ack, p.Window, p.ID, p.TTL, string(p.Payload), p.DF}
		for n, w := range []any{uint8(packet.RST | packet.ACK), seq, ack, want.window, want.id, want.ttl, want.payload, false} {
			if got[n] != w {
				c.Errorf("%s: flags, seq, ack, window, id, ttl, payload, df are %v; number %d should be %v", what, got, n, w)
			}
		}
		if i.After < want.least || i.After > want.most {
			c.Errorf("%s: after %v, want %v to %v", what, i.After, want.least, want.most)
		}
	}
	if count != [2]int{want.up, want.down} {
		c.Errorf("%s: %d resets up and %d down, want %d and %d", what, count[rule.Up], count[rule.Down], want.up, want.down)
	}
}

const (
	listed   = "www.listed.example"
	unlisted = "www.honest.example" // of the same length
	exempt   = "www.exempt.example"
	allowed  = "a.allowed.example"
)

// hello is Go's ClientHello, a record, with this name; without one if empty.
func hello(t testing.TB, name string) []byte {
	t.Helper()
	a, b := net.Pipe()
	defer b.Close()
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer a.Close()
		_ = tls.Client(a, &tls.Config{ServerName: name, InsecureSkipVerify: name == "", NextProtos: []string{"h2"}}).Handshake()
	}()
	buf := make([]byte, 1<<14)
	n, err := b.Read(buf)
	if err != nil {
		t.Fatal(err)
	}
	b.Close()
	<-done
	return buf[:n]
}

// recorded reads hellos that were recorded, and puts another name into them.
func recorded(t testing.TB, file, name string) [][]byte {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var all [][]byte
	for line := range bytes.Lines(text) {
		b, err := hex.DecodeString(string(bytes.TrimSpace(line)))
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, bytes.Replace(b, []byte(listed), []byte(name), 1))
	}
	return all
}

// chromium is the ClientHello of Chromium 156, with a name of 18 letters.
func chromium(t testing.TB, name string) []byte {
	return recorded(t, "../censor/packet/testdata/chromium156-tls.hex", name)[0]
}

// initial is a QUIC Initial with one CRYPTO frame.
func initial(t testing.TB, name string, size int) []byte {
	t.Helper()
	message := hello(t, name)[5:]
	frames := binary.BigEndian.AppendUint16([]byte{6, 0}, 0x4000|uint16(len(message)))
	b, err := packet.SealInitial([]byte("8 bytes!"), append(frames, message...), size)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// missesQUIC checks that a rule for TCP leaves a listed name in QUIC alone.
func (l *lab) missesQUIC() {
	l.Helper()
	c := l.to(site, 443)
	l.passes("QUIC", c.datagram(rule.Up, initial(l, listed, 1800)))
	l.wait(time.Second)
	for d := range rule.Direction(2) {
		l.passes("QUIC, later", c.datagram(d, []byte("x")))
	}
}

// halves sends a message in two segments, of which the first must pass.
func (c *conn) halves(message []byte) rule.Verdict {
	c.Helper()
	c.passes("first half", c.up(message[:20]))
	return c.up(message[20:])
}

// records splits a handshake record into two, the first with n bytes.
func records(record []byte, n int) []byte {
	head := func(length int) []byte {
		return binary.BigEndian.AppendUint16(bytes.Clone(record[:3]), uint16(length))
	}
	body := record[5:]
	out := append(head(n), body[:n]...)
	return append(append(out, head(len(body)-n)...), body[n:]...)
}

func get(host string) []byte { return []byte("GET / HTTP/1.1\r\nHost: " + host + "\r\n\r\n") }

// query is a DNS query for a name.
func query(name string, kind uint16) []byte {
	b := []byte{0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0}
	for label := range bytes.SplitSeq([]byte(name), []byte(".")) {
		b = append(append(b, byte(len(label))), label...)
	}
	return append(binary.BigEndian.AppendUint16(append(b, 0), kind), 0, 1)
}

// noise is what a fully encrypted protocol sends first.
func noise(n int) []byte {
	r := rand.New(rand.NewPCG(3, 4))
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	b[0] = 0x80
	return b
}
