package initial

import (
	"bytes"
	"math/rand/v2"
	"slices"
	"sync"
)

// What Chromium 156 does, measured in 31 connections (docs/QUIC.md).
const (
	shift      = 1 // its first packet has number 1
	leastFront = 55
	mostFront  = 86 // of the ClientHello in the first datagram's first part, in bytes
	// The second datagram has the middle of the ClientHello, half of it and this much,
	// in bytes.
	overHalf   = 2
	leastExtra = 2 // cuts of CRYPTO, and PINGs, in a datagram
	mostExtra  = 10

	// maxHello is the longest ClientHello that is cut over two datagrams, in bytes.
	maxHello = 4096
	// maxHeld is how many datagrams wait for the ClientHello to be complete.
	maxHeld = 2
	// maxCut is how many packets with a half of it are told from others: a dial ends after four
	// probes of two.
	maxCut = 64
	// leastData and leastRoom are how long what a packet in disguise has of the ClientHello
	// is at least, and what is left beside it, in bytes.
	leastData, leastRoom = 256, 64
	// maxDraws is how many numbers are drawn for a packet, of which the last serves for all that
	// follow. A packet takes some 50.
	maxDraws = 128
	// shortNumbers is up to which number one byte is enough for any receiver that has
	// seen one of the packets before.
	shortNumbers = 100
)

// Client rewrites the Initial packets of one client's connection. It is safe for
// concurrent use.
type Client struct {
	disguise *Disguise // of the ClientHello, or nil

	mu      sync.Mutex
	random  *rand.Rand
	id      []byte // that keys are made of
	up      *Keys  // nil before the first packet
	down    *Keys
	largest [2]int64 // numbers of opened packets: up, in the client's count; down
	flown   bool     // the first flight
	held    []*flight
	cut     []sent // what was sent of the halves, whose ACKs are held back until both have arrived
	seen    [2]bool

	plain, shown []byte     // the client's ClientHello, and the one that it is sent in
	halves       [2][]piece // of shown, if the library's has another form
	turn         int        // which half is sent next
}

// sent is a packet, by its number in the client's count, with a half of the ClientHello.
type sent struct {
	number uint64
	half   int
}

// flight is a datagram of the first flight.
type flight struct {
	packet Packet
	crypto []piece
	size   int // of the datagram
}

// piece is a part of the ClientHello.
type piece struct {
	offset int
	data   []byte
}

// NewClient returns one that draws what varies from the seed. d is the disguise of the
// ClientHello, or nil: then it goes out as it is.
func NewClient(seed [32]byte, d *Disguise) *Client {
	return &Client{disguise: d, random: rand.New(rand.NewChaCha8(seed)), largest: [2]int64{-1, -1}}
}

// Out returns what is to be sent in the place of a datagram, which it does not keep: as many
// datagrams of the same sizes in the long run, but none as long as the rest of the
// ClientHello is to follow.
func (c *Client) Out(datagram []byte) [][]byte {
	if !Is(datagram) {
		return [][]byte{datagram}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	p, rest, err := c.open(datagram)
	if err != nil {
		return [][]byte{datagram}
	}
	frames, err := Frames(p.Frames)
	if err != nil {
		return [][]byte{datagram}
	}
	var crypto []piece
	var others []byte // ACK and CONNECTION_CLOSE
	var ping []byte
	for _, f := range frames {
		switch f.Type {
		case Ping:
			ping = f.Raw
		case Crypto:
			if f.Offset > maxHello {
				return [][]byte{datagram} // never from a client that ends
			}
			crypto = append(crypto, piece{int(f.Offset), f.Data})
		case Ack, AckECN, Close:
			others = append(others, f.Raw...)
		}
	}
	if len(crypto) == 0 {
		others = append(others, ping...) // it asks for an answer
	}
	if c.flown || len(crypto) == 0 || len(others) > 0 || len(rest) > 0 {
		size := len(datagram) - len(rest)
		if len(crypto) > 0 && c.shown != nil {
			if crypto = c.half(p.Number); size-p.Overhead() < len(others)+piecesLen(crypto)+leastRoom {
				return nil // lost: it is sent again
			}
		}
		return [][]byte{append(c.seal(&p, others, crypto, size), rest...)}
	}
	p.To, p.From, p.Token = bytes.Clone(p.To), bytes.Clone(p.From), bytes.Clone(p.Token)
	c.held = append(c.held, &flight{p, crypto, len(datagram)})
	hello := c.hello()
	if hello == nil && len(c.held) <= maxHeld {
		return nil
	}
	held := c.held
	c.flown, c.held = true, nil
	if len(held) == maxHeld && hello != nil {
		c.recut(held, hello)
	}
	var out [][]byte
	for _, f := range held {
		out = append(out, c.seal(&f.packet, nil, f.crypto, f.size))
	}
	return out
}

// open opens a packet of the client. One that does not open was sealed by the id that a Retry
// gave, which changes the keys.
func (c *Client) open(datagram []byte) (p Packet, rest []byte, err error) {
	if c.up != nil {
		p, rest, err = c.up.Open(datagram, c.largest[0])
	}
	if c.up == nil || err != nil {
		id, ok := To(datagram)
		if !ok {
			return p, nil, ErrNotInitial
		}
		up, down := KeysOf(id)
		if p, rest, err = up.Open(datagram, c.largest[0]); err != nil {
			return p, nil, err
		}
		c.id, c.up, c.down = bytes.Clone(id), up, down
		c.flown, c.held = false, nil
	}
	c.largest[0] = max(c.largest[0], int64(p.Number))
	return p, rest, nil
}

// hello is the ClientHello in the held datagrams, nil if a part is missing.
func (c *Client) hello() []byte {
	var all []piece
	for _, f := range c.held {
		all = append(all, f.crypto...)
	}
	slices.SortFunc(all, func(a, b piece) int { return a.offset - b.offset })
	var hello []byte
	for _, p := range all {
		if p.offset != len(hello) {
			return nil
		}
		hello = append(hello, p.data...)
	}
	if len(hello) < 4 || len(hello) != helloLen(hello) {
		return nil
	}
	return hello
}

// recut deals the ClientHello out as Chromium does: the front and the end in the first
// datagram, the middle in the second. What the client learns of them is then true only of
// both.
func (c *Client) recut(held []*flight, hello []byte) {
	if c.disguise != nil && !bytes.Equal(hello, c.plain) { // after a Retry it is the same
		c.plain, c.shown = hello, c.disguise.put(hello, c.random)
	}
	if c.shown != nil {
		hello = c.shown
	}
	front := leastFront + c.random.IntN(mostFront-leastFront+1)
	end := front + (len(hello)+1)/2 + overHalf
	if end >= len(hello) {
		return // no browser's
	}
	c.halves = [2][]piece{{{0, hello[:front]}, {end, hello[end:]}}, {{front, hello[front:end]}}}
	for i, f := range held {
		room := f.room() - piecesLen(c.halves[i])
		if room < 0 || room < leastRoom && c.shown != nil {
			c.shown = nil
			return
		}
	}
	c.turn = 0
	for _, f := range held {
		f.crypto = c.half(f.packet.Number)
	}
}

// half is the half of the ClientHello that a packet is to have: they take turns, as those that Chromium
// sends again.
func (c *Client) half(number uint64) []piece {
	half := c.turn
	c.turn = 1 - half
	if len(c.cut) < maxCut {
		c.cut = append(c.cut, sent{number, half})
	}
	return c.halves[half]
}

// room is what frames may take, in bytes.
func (f *flight) room() int { return f.size - f.packet.Overhead() }

func piecesLen(pieces []piece) (n int) {
	for _, p := range pieces {
		n += p.len()
	}
	return n
}

func (p piece) len() int {
	return 1 + varintLen(uint64(p.offset)) + varintLen(uint64(len(p.data))) + len(p.data)
}

// seal makes a packet of size bytes.
func (c *Client) seal(p *Packet, others []byte, crypto []piece, size int) []byte {
	q := *p
	q.Number += shift
	switch {
	case q.Number == 2:
		q.NumberLen = min(q.NumberLen, 2)
	case q.Number < shortNumbers:
		q.NumberLen = 1
	}
	q.Frames = c.frames(q.Number, others, crypto, size-q.Overhead())
	return c.up.Seal(nil, &q)
}

// frames fills size bytes of a packet with frames: others first, then CRYPTO, PING and PADDING in
// disorder. In disguise what is drawn is the mark.
func (c *Client) frames(number uint64, others []byte, crypto []piece, size int) []byte {
	b := append(make([]byte, 0, size), others...)
	if len(crypto) == 0 {
		return append(b, make([]byte, max(size-len(b), 0))...)
	}
	draw := c.random.IntN
	if c.shown != nil {
		draw = c.disguise.draws(c.id, number)
	}
	for _, s := range layout(draw, crypto, size-len(others)) {
		b = s.append(b)
	}
	return b
}

// slot is a frame of a layout.
type slot struct {
	kind  byte
	piece     // of CRYPTO
	n     int // of PADDING, in bytes
}

func (s *slot) size() int {
	switch s.kind {
	case Crypto:
		return s.len()
	case Padding:
		return s.n
	}
	return 1
}

func (s *slot) append(b []byte) []byte {
	switch s.kind {
	case Crypto:
		return appendCrypto(b, s.offset, s.data)
	case Padding:
		return append(b, make([]byte, s.n)...)
	}
	return append(b, s.kind)
}

// layout lays frames out in Chromium's way, of room bytes: CRYPTO is cut, PINGs and PADDING are added, and all
// is shuffled. draw(n) is one of 0..n-1. docs/PROTOCOL.md has what is drawn when.
func layout(draw func(n int) int, crypto []piece, room int) []slot {
	crypto = slices.Clone(crypto)
	room -= piecesLen(crypto)
	extra := func() int { return leastExtra + draw(mostExtra-leastExtra+1) }
	for range extra() {
		i := draw(len(crypto))
		p := crypto[i]
		if len(p.data) < 2 || room < 9 { // another frame's head has 9 bytes at most
			continue
		}
		at := 1 + draw(len(p.data)-1)
		head, tail := piece{p.offset, p.data[:at]}, piece{p.offset + at, p.data[at:]}
		room -= head.len() + tail.len() - p.len()
		crypto[i] = head
		crypto = append(crypto, tail)
	}
	slots := make([]slot, 0, 2*len(crypto)+2*mostExtra)
	for _, p := range crypto {
		slots = append(slots, slot{kind: Crypto, piece: p})
	}
	for range min(extra(), room) {
		slots = append(slots, slot{kind: Ping})
		room--
	}
	for room > 0 {
		n := 1 + draw(room)
		slots = append(slots, slot{kind: Padding, n: n})
		room -= n
	}
	for i := len(slots) - 1; i > 0; i-- {
		j := draw(i + 1)
		slots[i], slots[j] = slots[j], slots[i]
	}
	joined := slots[:0]
	for _, s := range slots {
		if last := len(joined) - 1; s.kind == Padding && last >= 0 && joined[last].kind == Padding {
			joined[last].n += s.n
		} else {
			joined = append(joined, s)
		}
	}
	return joined
}

// In puts the client's own count of packets into what a server acknowledges, in place.
func (c *Client) In(datagram []byte) {
	if !Is(datagram) {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for c.down != nil && Is(datagram) {
		datagram = c.in(datagram)
	}
}

// in does that to the first packet and returns what follows it.
func (c *Client) in(datagram []byte) (rest []byte) {
	p, rest, err := c.down.Open(datagram, c.largest[1])
	if err != nil {
		return nil
	}
	c.largest[1] = max(c.largest[1], int64(p.Number))
	frames, err := Frames(p.Frames)
	if err != nil {
		return rest
	}
	b := make([]byte, 0, len(p.Frames))
	for i := range frames {
		f := &frames[i]
		if f.Type != Ack && f.Type != AckECN {
			b = append(b, f.Raw...)
		} else if c.counted(f) {
			b = appendAck(b, f)
		}
	}
	// Numbers became smaller, and ranges fewer: what is left is padding.
	p.Frames = append(b, make([]byte, max(len(p.Frames)-len(b), 0))...)
	if sealed := c.down.Seal(nil, &p); len(sealed) == len(datagram)-len(rest) {
		copy(datagram, sealed)
	} else { // a token, which a server's Initial must not have: no QUIC any more
		datagram[0] = 0
	}
	return rest
}

// counted puts an ACK into the client's count, without those packets that the client must not
// take for delivered yet; false if nothing is left. What was never sent is not in it.
func (c *Client) counted(f *Frame) bool {
	ranges := f.Ranges[:0]
	for _, r := range f.Ranges {
		if r.Last < shift {
			continue
		}
		r = Range{max(r.First, shift) - shift, r.Last - shift}
		ranges = append(ranges, r)
		for _, p := range c.cut {
			c.seen[p.half] = c.seen[p.half] || r.First <= p.number && p.number <= r.Last
		}
	}
	if c.seen[0] && c.seen[1] {
		c.cut = nil
	}
	if len(c.cut) > 0 { // what is before the last of them was never acknowledged
		last := c.cut[len(c.cut)-1].number
		ranges = slices.DeleteFunc(ranges, func(r Range) bool { return r.Last <= last })
		for i := range ranges {
			ranges[i].First = max(ranges[i].First, last+1)
		}
	}
	f.Ranges = ranges
	return len(ranges) > 0
}
