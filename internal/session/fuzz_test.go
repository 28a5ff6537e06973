package session

import (
	"encoding/binary"
	"errors"
	"runtime"
	"testing"

	"busel/internal/flow"
	"busel/internal/wire"
	"busel/transport"
)

// deadCarrier is a carrier that nobody runs: the fuzzer calls fill and handle.
type deadCarrier struct{}

func (deadCarrier) WriteFrames([]transport.Frame) error { return nil }
func (deadCarrier) ReadFrames([]byte) (int, error)      { return 0, errors.New("dead") }
func (deadCarrier) Properties() transport.Properties    { return transport.Properties{} }
func (deadCarrier) Close() error                        { return nil }

// script turns fuzz input into frames that are mostly well-formed, with small
// numbers, so that they meet each other.
type script struct{ b []byte }

func (s *script) byte() byte {
	if len(s.b) == 0 {
		return 0
	}
	x := s.b[0]
	s.b = s.b[1:]
	return x
}

func (s *script) number() uint64 {
	x := s.byte()
	switch x >> 6 {
	case 0, 1:
		return uint64(x & 63)
	case 2:
		return uint64(x&63)<<8 | uint64(s.byte())
	}
	var b [8]byte
	for i := range b {
		b[i] = s.byte()
	}
	return binary.BigEndian.Uint64(b[:]) & wire.MaxVarint >> (x & 31)
}

func (s *script) data() []byte {
	n := int(s.number() % 12000)
	b := make([]byte, n)
	for i := range min(n, 8) {
		b[i] = s.byte()
	}
	return b
}

func (s *script) frame() wire.Frame {
	f := wire.Frame{Type: wire.Type(s.byte() % 12)}
	switch f.Type {
	case wire.Stream:
		f.ID, f.Offset, f.Fin, f.Data = s.number(), s.number(), s.byte()&1 == 1, s.data()
		if f.Offset > wire.MaxVarint-20000 {
			f.Offset = 0
		}
	case wire.Ack:
		f.ID, f.Offset, f.Limit = s.number(), s.number(), s.number()
	case wire.Window:
		f.Limit = s.number()
	case wire.Reset:
		f.ID, f.Code, f.Offset = s.number(), s.number(), s.number()%(wire.MaxVarint-1)
	case wire.Datagram:
		f.ID, f.Addr, f.Data = s.number(), flow.Addr{Name: "x", Port: 1}, s.data()
	case wire.Carrier:
		f.ID, f.State = s.number()&7, wire.CarrierState(s.byte()%4)
		if f.State == wire.CarrierBudget {
			f.Limit = s.number()
		}
	case wire.Bye:
		f.Type = wire.Padding
	case wire.Seen:
		f.ID, f.Offset = s.number(), s.number()&(1<<40-1)
		f.Limit = f.Offset + 1 + s.number()&0xffff
	case wire.Stop:
		f.ID, f.Code = s.number(), s.number()
	}
	return f
}

// stored counts what a core keeps for its peer.
func stored(t *testing.T, c *core) (received int) {
	gaps := 0
	for s := range c.all {
		for g := s.rhead; g != nil; g = g.next {
			received += len(g.data)
		}
		for i, g := range s.ooo {
			received += len(g.data)
			gaps++
			if g.off <= s.rcvd || i > 0 && s.ooo[i-1].end() > g.off {
				t.Fatalf("stream %d: pieces overlap", s.id)
			}
		}
		if s.high > s.advertised && s.advertised != 0 {
			t.Fatalf("stream %d: window exceeded", s.id)
		}
		if s.rcvd > s.high || s.consumed > s.high {
			t.Fatalf("stream %d: received %d, consumed %d of %d", s.id, s.rcvd, s.consumed, s.high)
		}
	}
	if gaps != c.gaps {
		t.Fatalf("%d gaps, counted %d", gaps, c.gaps)
	}
	return received
}

func check(t *testing.T, c *core) {
	t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ended != nil {
		return
	}
	if n := stored(t, c); n > sessionWindow || uint64(n) > c.recvSum-c.consumed+uint64(wire.MaxControl) {
		t.Fatalf("%d bytes are stored, %d are not consumed", n, c.recvSum-c.consumed)
	}
	if len(c.all) > 2*maxStreams+maxStreams+1 || len(c.flows) > maxFlows || c.inBytes > maxInBytes || len(c.answers) > maxAnswers || c.gaps > maxGaps {
		t.Fatalf("limits: %d streams, %d flows, %d bytes of datagrams, %d answers, %d gaps", len(c.all), len(c.flows), c.inBytes, len(c.answers), c.gaps)
	}
	sum := 0
	for s := range c.all {
		for ch := s.head; ch != nil; ch = ch.next {
			sum += ch.len()
		}
	}
	if sum != c.stored {
		t.Fatalf("%d bytes wait to be acknowledged, counted %d", sum, c.stored)
	}
}

// play feeds a script to a core over two carriers that come and go.
func play(t *testing.T, c *core, b []byte) {
	attach := func(n uint32) *attachment {
		c.mu.Lock()
		defer c.unlock()
		a := c.newAttachment(n)
		a.carrier, a.live, a.proven = deadCarrier{}, true, true
		a.scratch = make([]byte, 0, scratch)
		c.setOpen(a)
		c.greetPeer(a)
		return a
	}
	next := uint32(2)
	atts := []*attachment{attach(0), attach(1)}
	s := &script{b: b}
	for len(s.b) > 0 {
		op := s.byte()
		i := int(op & 1)
		a := atts[i]
		if a.dead {
			next++
			a = attach(next & 7)
			atts[i] = a
		}
		c.mu.Lock()
		switch op % 16 {
		case 15:
			c.detach(a, ErrDropped)
		case 13, 14:
			for range 4 {
				a.release()
				if a.dead || !a.fill() {
					break
				}
			}
			a.release()
		case 12: // raw bytes
			n := min(len(s.b), int(s.byte()))
			raw := s.b[:min(n, len(s.b))]
			s.b = s.b[len(raw):]
			if err := c.handle(a, raw, nil); err != nil {
				c.onBroken(err)
			}
		default:
			f := s.frame()
			enc := f.Append(nil)
			buf := c.pools.buffer()
			m := copy(buf.b[:], enc)
			if err := c.handle(a, buf.b[:m], buf); err != nil {
				c.onBroken(err)
			}
			c.pools.unref(buf)
		}
		ended := c.ended != nil
		c.unlock()
		check(t, c)
		if ended {
			return
		}
	}
}

// Messages on stream 0 that come byte by byte, or thousands at once, cost no
// more than their length.
func TestControlCost(t *testing.T) {
	c := newCore(true, nil)
	got := 0
	c.onControl = func(m wire.Control) { got += len(m.Body) }
	a := c.newAttachment(1)
	a.carrier, a.live, a.proven = deadCarrier{}, true, true
	long := wire.Control{Type: 99, Body: make([]byte, wire.MaxControl)}
	small := wire.Control{Type: 98, Body: []byte{1}}
	stream := long.Append(nil)
	many := len(stream)
	for range 5000 {
		stream = small.Append(stream)
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	c.mu.Lock()
	for off := 0; off < len(stream); {
		n := 1
		if off >= many {
			n = min(wire.MaxFrame-wire.MaxStreamHeader, len(stream)-off)
		}
		f := wire.Frame{Type: wire.Stream, Offset: uint64(off), Data: stream[off : off+n]}
		if err := c.handle(a, f.Append(nil), nil); err != nil {
			t.Fatal(err)
		}
		off += n
	}
	c.unlock()
	runtime.ReadMemStats(&after)
	if got != wire.MaxControl+5000 {
		t.Errorf("%d bytes of bodies", got)
	}
	if n := after.TotalAlloc - before.TotalAlloc; n > 16<<20 {
		t.Errorf("%d bytes were allocated for %d", n, len(stream))
	}
}

// A client may say as often as it likes that a carrier is suspect and is not: what that
// had is taken back once, in a walk through all streams.
func TestSuspectCost(t *testing.T) {
	c := newCore(false, nil)
	c.mu.Lock()
	defer c.unlock()
	for n := range uint32(2) { // so that the other one is left
		a := c.newAttachment(n + 1)
		a.carrier, a.live, a.proven, a.laden = deadCarrier{}, true, true, true
		c.setOpen(a)
	}
	walks := 0
	for range 100 {
		var said []byte
		for _, state := range []wire.CarrierState{wire.CarrierSuspect, wire.CarrierActive} {
			f := wire.Frame{Type: wire.Carrier, ID: 1, State: state}
			said = f.Append(said)
		}
		c.windowDue = false
		if err := c.handle(c.atts[1], said, nil); err != nil {
			t.Fatal(err)
		}
		if c.windowDue { // it is said anew
			walks++
		}
	}
	if walks != 1 {
		t.Errorf("%d walks", walks)
	}
}

// Carriers that die before they have said anything leave no heap of
// announcements.
func TestAnnouncementsAreBounded(t *testing.T) {
	if testing.Short() {
		t.Skip("slow with the race detector; scripts/test runs it without")
	}
	for name, c := range map[string]*core{"client": NewClient(ClientConfig{}).c, "relay": NewServer(ServerConfig{}).c} {
		c.mu.Lock()
		for n := range uint32(3 * maxGaveUp) {
			a := c.newAttachment(n)
			a.carrier, a.live, a.proven = deadCarrier{}, true, true
			c.setOpen(a)
			if n%100 == 99 { // a heap would grow with each; together they take minutes
				c.greetPeer(a)
			}
			if n > 0 {
				c.detach(a, ErrDropped) // the first lives, and is stuck
			}
			c.after = nil
		}
		if n := len(c.announce); n > maxGaveUp+100 {
			t.Errorf("%s: %d announcements wait", name, n)
		}
		c.unlock()
	}
}

func seeds(f *testing.F) {
	f.Add([]byte{0, 1, 2, 0, 0, 10, 1, 2, 0, 1})
	f.Add([]byte{0, 1, 2, 0, 1, 7, 1, 127, 0, 0, 1, 0, 80, 13, 0, 4, 2, 1, 20, 13, 15})
	f.Add([]byte{0, 1, 4, 9, 0, 200, 0, 1, 4, 0, 1, 60, 3, 5, 0, 1, 8, 13, 15, 13})
	f.Add([]byte{0, 5, 9, 5, 1, 2, 3, 0, 6, 1, 2, 0, 10, 2, 1, 0, 2, 0, 0, 0, 12, 5, 1, 2, 3, 4, 5})
}

// FuzzServer: whatever an invited client sends, a relay keeps bounded memory
// and consistent books.
func FuzzServer(f *testing.F) {
	seeds(f)
	f.Fuzz(func(t *testing.T, b []byte) {
		s := NewServer(ServerConfig{})
		c := s.c
		c.onStream = func(s *Stream, dst flow.Addr) { // answers without a goroutine
			switch dst.Port % 4 {
			case 0:
				s.answer(flow.ConnectionRefused, flow.DetailRefused)
				s.quit(0, true)
			case 1:
				s.answer(flow.Succeeded, flow.DetailNone)
				s.push(make([]byte, 50000), 50000)
				s.finish()
			case 2:
				s.answer(flow.Succeeded, flow.DetailNone)
				s.quit(3, false)
			}
		}
		c.onFlow = func(p *packets) {}
		play(t, c, b)
	})
}

// FuzzClient: the same for what a relay sends to a client.
func FuzzClient(f *testing.F) {
	seeds(f)
	f.Fuzz(func(t *testing.T, b []byte) {
		cl := NewClient(ClientConfig{OnBundle: func([]byte) {}, OnNotice: func(uint64, string) {}})
		for i := range 4 {
			st, err := cl.OpenStream(t.Context(), flow.Addr{Name: "x", Port: uint16(i)})
			if err != nil {
				t.Fatal(err)
			}
			s := st.(*Stream)
			s.Write(make([]byte, 30000*i))
			if i == 2 {
				s.CloseWrite()
			}
			if i == 3 {
				defer s.Close()
			}
		}
		p, err := cl.OpenPackets(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		p.WriteTo(make([]byte, 100), flow.Addr{Name: "x", Port: 1})
		play(t, cl.c, b)
	})
}
