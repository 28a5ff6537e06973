package mirror

import (
	"bytes"
	"net"
	"testing"

	"busel/internal/wire"
	"busel/obfs/bursts"
	"busel/obfs/records"
	"busel/transport"
)

// spoken is a connection that keeps what is written, in TLS records.
type spoken struct {
	net.Conn
	records []int // by their headers
}

func (s *spoken) Write(b []byte) (int, error) {
	s.records = append(s.records, lengths(b)...)
	return len(b), nil
}

// length is that of all since the last call.
func (s *spoken) length() (n int) {
	for _, r := range s.records {
		n += headerLen + r
	}
	s.records = nil
	return n
}

func speaker(t *testing.T, g *guise) (*outbox, *spoken) {
	t.Helper()
	s := new(spoken)
	sec := newSecrets([32]byte{1}, [32]byte{2}, newKey(t).Bytes())
	return &outbox{
		ending: newEnding(), turn: newTurn(), conn: s, guise: g,
		lane: lane{s: sec, dir: dirClient, n: 1, aead: newGCM(make([]byte, keyLen))},
		sent: func(int) {}, broke: func(err error) { t.Error(err) },
	}, s
}

func streamOf(n int) transport.Frame {
	f := wire.Frame{Type: wire.Stream, ID: 2, Data: make([]byte, n)}
	return transport.Frame{Lane: 2, Data: f.Append(nil)}
}

// good reports whether a burst may stay as it is, whatever went before it.
func good(burst int) bool {
	return bursts.Fill(4515, burst, func(int) int { return 0 }) == 0
}

// TestGuise: a client's burst with data, however many writes it takes, has a length that is no
// handshake's, and a small one stays one record, as a request is. Control frames alone, a relay's records, and what is beyond the budget are as long as they are.
func TestGuise(t *testing.T) {
	o, s := speaker(t, newGuise())
	write := func(n int) {
		t.Helper()
		if err := o.writeFrames([]transport.Frame{streamOf(n)}); err != nil {
			t.Fatal(err)
		}
	}
	hears := func(n int) {
		o.guise.hears(n)
		o.guise.spare = guiseBudget * guiseShare
		o.guise.heard = n
	}
	for n := range 600 {
		hears(4515)
		write(1 + 7*n)
		if n := len(s.records); s.records[0] < bursts.Small && n != 1 {
			t.Errorf("a request in %d records", n)
		}
		if got := s.length(); !good(got) {
			t.Fatalf("a burst of %d bytes with %d of data", got, 1+7*n)
		}
	}
	hears(4515)
	for _, n := range []int{100, 20, 500, 1} {
		write(n)
		if got := s.length(); !good(o.guise.burst) {
			t.Errorf("the burst has %d bytes after another %d", o.guise.burst, got)
		}
	}
	hears(4515)
	write(600)
	if n := len(s.records); n != 2 || s.records[0] < overhead+len(streamOf(600).Data)+2 {
		t.Errorf("records %d: 600 bytes show", s.records)
	}
	s.length()
	hears(4515)
	if err := o.writeFrames([]transport.Frame{{Data: pingFrame(1)}}); err != nil {
		t.Fatal(err)
	}
	if got := s.length(); got > 120 {
		t.Errorf("a PING has %d bytes", got)
	}
	hears(1)
	write(16000)
	if got := s.length(); got > 17<<10 {
		t.Errorf("an upload of 16,000 bytes has %d bytes", got)
	}

	o, s = speaker(t, newGuise())
	total, plain := 0, 0
	for range 1000 { // as keystrokes come
		o.guise.heard, o.guise.burst = 4515, 0
		write(60)
		total += s.length()
		plain += 5 + overhead + len(streamOf(60).Data)
	}
	if most := guiseBudget + total/guiseShare; total-plain > most {
		t.Errorf("%d bytes were filled in, %d may be", total-plain, most)
	}
	if total-plain < guiseBudget*9/10 {
		t.Errorf("only %d bytes were filled in", total-plain)
	}

	o, s = speaker(t, nil)
	write(500)
	if got := s.length(); got != 5+overhead+len(streamOf(500).Data) {
		t.Errorf("a relay's record has %d bytes", got)
	}
}

// TestGuiseHears: what comes begins another burst, and is counted until the next one.
func TestGuiseHears(t *testing.T) {
	g := newGuise()
	for _, step := range []struct{ says, hears, burst, heard int }{
		{0, 100, 0, 100},
		{50, 0, 50, 100},
		{20, 0, 70, 100},
		{0, 1000, 0, 1000},
		{0, 2000, 0, 3000},
		{5, 10, 0, 10},
	} {
		g.says(step.says)
		g.hears(step.hears)
		if g.burst != step.burst || g.heard != step.heard {
			t.Errorf("%+v: the burst has %d bytes after %d", step, g.burst, g.heard)
		}
	}
}

// TestShortOnTheWire: no control frame makes a record that is shorter than a visit's (rule 13), and
// the client notices that the relay's end has spoken (rule 12).
func TestShortOnTheWire(t *testing.T) {
	r := startRelay(t, goSite(t, nil), nil)
	n := new(tap)
	client, relay := r.pair(t, r.dialer(t, func(c *DialerConfig) { c.Network = n }))
	c := client.(*clientCarrier).c
	send(t, client, relay, 1) // which makes it live
	sofar := func() (up, down []int) {
		n.mu.Lock()
		defer n.mu.Unlock()
		return lengths(bytes.Join(n.writes, nil)), lengths(n.read)
	}
	upBefore, downBefore := sofar()
	for i := range byte(10) {
		send(t, client, relay, i)
		send(t, relay, client, i)
		c.out.guise.mu.Lock()
		if c.out.guise.burst != 0 || c.out.guise.heard == 0 {
			t.Errorf("the burst has %d bytes after %d", c.out.guise.burst, c.out.guise.heard)
		}
		c.out.guise.mu.Unlock()
	}
	if err := c.out.confirm(); err != nil {
		t.Fatal(err)
	}
	up, down := sofar()
	up, down = up[len(upBefore):], down[len(downBefore):]
	if len(up) < 11 || len(down) < 10 {
		t.Fatalf("records of %v and %v", up, down)
	}
	for _, size := range up {
		if records.Request(size, func(int) int { return 0 }) != size {
			t.Errorf("the client sends a record of %d bytes", size)
		}
	}
	for _, size := range down {
		if records.Answer(size, func(int) int { return 0 }) != size {
			t.Errorf("the relay sends a record of %d bytes", size)
		}
	}
	if last := up[len(up)-1]; last < 62 {
		t.Errorf("the record that confirms has %d bytes, a request has 62", last)
	}
}
