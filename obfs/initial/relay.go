package initial

import (
	"bytes"
	"net/netip"
	"slices"
)

const (
	// maxFlows is how many clients a relay remembers, the last ones, each with maxWaiting
	// datagrams at most: 12 MiB, if all say one half of a ClientHello only.
	maxFlows   = 1024
	maxWaiting = 4
	// strangers is how many connections of others are remembered, which began without the mark, and
	// clients how many with it, by ids of 8 bytes: those of weeks, in a megabyte or two.
	strangers = 1024
	clients   = 1 << 14
	// A client's Initial packets are in datagrams of at least leastDatagram bytes (RFC 9000,
	// section 14.1); quic-go cuts those that are longer than maxDatagram.
	leastDatagram, maxDatagram = 1200, 1452
)

// Relay takes clients' ClientHellos out of their disguise before a QUIC library sees the
// packets. Everybody else's pass as they came. Packets keep their numbers, so that nothing of what the library
// says needs to change. Its methods are called by one goroutine at a time.
type Relay struct {
	disguise *Disguise
	flows    map[netip.AddrPort]*arriving
	order    [maxFlows]*arriving // in which they came
	oldest   int                 // place in order
	passed   recent              // ids of strangers' connections
	met      recent              // ids of clients
	frames   []Frame             // scratch
}

// recent are the last most strings that were added.
type recent struct {
	most  int
	has   map[string]bool
	order []string
	next  int // place in order, once there are so many
}

func newRecent(most int) recent { return recent{most: most, has: map[string]bool{}} }

func (r *recent) add(s string) {
	switch {
	case r.has[s]:
		return
	case len(r.order) < r.most:
		r.order = append(r.order, s)
	default:
		delete(r.has, r.order[r.next])
		r.order[r.next], r.next = s, (r.next+1)%r.most
	}
	r.has[s] = true
}

// NewRelay returns one that knows no client.
func NewRelay(d *Disguise) *Relay {
	return &Relay{disguise: d, flows: map[netip.AddrPort]*arriving{}, passed: newRecent(strangers), met: newRecent(clients)}
}

// arriving is a ClientHello that seems to be in disguise.
type arriving struct {
	from    netip.AddrPort
	id      string // that keys are made of
	up      *Keys
	shown   []byte // what has come, with gaps
	have    []bool
	waiting []waiting
	halves  [2][]byte // of the hidden one; nil as long as it is not known
}

// waiting is a datagram that the library has not seen.
type waiting struct {
	datagram []byte
	packet   Packet
	rest     []byte
}

// Take appends what the library is to see for a datagram, which is kept by nobody: the datagram
// itself, for a client's ClientHello nothing until it is whole, and then all of it.
func (r *Relay) Take(dst [][]byte, datagram []byte, from netip.AddrPort) [][]byte {
	if !Is(datagram) || len(datagram) < leastDatagram || len(datagram) > maxDatagram {
		return append(dst, datagram)
	}
	a, w, ok := r.open(datagram, from)
	if !ok {
		return append(dst, datagram)
	}
	frames, err := appendFrames(r.frames[:0], w.packet.Frames)
	if err != nil {
		return append(dst, datagram)
	}
	if r.frames = frames; !slices.ContainsFunc(frames, func(f Frame) bool { return f.Type == Crypto }) {
		return append(dst, datagram)
	}
	switch {
	case r.flows[from] != a && !r.begin(a, w.packet.Number, frames):
		return append(dst, datagram)
	case a.halves[0] != nil:
		return append(dst, a.reveal(w))
	case slices.ContainsFunc(a.waiting, func(x waiting) bool { return x.packet.Number == w.packet.Number }):
		return dst // the network doubles datagrams; the library would drop one
	}
	fits := a.collect(frames)
	a.waiting = append(a.waiting, w.clone())
	shown := a.whole()
	if fits && shown == nil && len(a.waiting) < maxWaiting {
		return dst
	}
	all := a.waiting
	a.waiting = nil
	hello, ok := r.disguise.take(shown)
	if !ok { // somebody else's
		delete(r.flows, from)
		for _, w := range all {
			dst = append(dst, w.datagram)
		}
		return dst
	}
	half := (len(hello) + 1) / 2
	a.halves, a.shown, a.have = [2][]byte{hello[:half], hello[half:]}, nil, nil
	for _, w := range all {
		dst = append(dst, a.reveal(w))
	}
	return dst
}

// open opens the packet of a datagram with the keys of the client, or as the first one of another, who is
// not among flows yet.
func (r *Relay) open(datagram []byte, from netip.AddrPort) (a *arriving, w waiting, ok bool) {
	w.datagram = datagram
	var err error
	if a = r.flows[from]; a != nil {
		if w.packet, w.rest, err = a.up.Open(datagram, -1); err == nil { // a dial's numbers are small
			return a, w, true
		}
	}
	id, ok := To(datagram)
	if !ok {
		return nil, w, false
	}
	a = &arriving{from: from, id: string(id), up: clientKeys(id)}
	w.packet, w.rest, err = a.up.Open(datagram, -1)
	return a, w, err == nil
}

// begin adds a client to flows if its packet has the mark, in the place of who came first. It is false for
// everybody else, and for who says from elsewhere, or later, what a client said: he may have only one datagram of it, and is
// to be answered as by any server.
func (r *Relay) begin(a *arriving, number uint64, frames []Frame) bool {
	if !r.disguise.marks([]byte(a.id), number, frames) {
		r.passed.add(a.id) // the library is to see all of it as it comes
		return false
	}
	if r.met.has[a.id] || r.passed.has[a.id] {
		return false
	}
	r.met.add(a.id)
	if old := r.order[r.oldest]; old != nil && r.flows[old.from] == old {
		delete(r.flows, old.from)
	}
	r.order[r.oldest], r.oldest = a, (r.oldest+1)%maxFlows
	r.flows[a.from] = a
	return true
}

// clone is one that does not alias what it was read into.
func (w waiting) clone() waiting {
	p := w.packet
	p.To, p.From, p.Token = bytes.Clone(p.To), bytes.Clone(p.From), bytes.Clone(p.Token)
	return waiting{bytes.Clone(w.datagram), p, bytes.Clone(w.rest)}
}

// collect keeps what CRYPTO frames have. It is false if that is too much.
func (a *arriving) collect(frames []Frame) bool {
	for _, f := range frames {
		if f.Type != Crypto {
			continue
		}
		end := f.Offset + uint64(len(f.Data))
		if end > maxHello {
			return false
		}
		if n := int(end) - len(a.shown); n > 0 {
			a.shown, a.have = append(a.shown, make([]byte, n)...), append(a.have, make([]bool, n)...)
		}
		copy(a.shown[f.Offset:], f.Data)
		for i := range f.Data {
			a.have[int(f.Offset)+i] = true
		}
	}
	return true
}

// whole is the ClientHello if all of it has come, otherwise nil.
func (a *arriving) whole() []byte {
	if len(a.shown) < 4 || slices.Contains(a.have[:4], false) {
		return nil
	}
	n := helloLen(a.shown)
	if len(a.shown) < n || slices.Contains(a.have[:n], false) {
		return nil
	}
	return a.shown[:n]
}

// reveal puts the first half of the hidden ClientHello into the place of what a packet has of the
// shown one if that is its front and end, and the second half if it is its middle. So a packet that
// comes twice says the same twice, and who has both halves of the one has both of the other.
func (a *arriving) reveal(w waiting) []byte {
	p := w.packet
	frames, err := Frames(p.Frames)
	if err != nil {
		return w.datagram
	}
	var b []byte
	half, offset := 1, len(a.halves[0])
	for _, f := range frames {
		if f.Type != Crypto && f.Type != Padding {
			b = append(b, f.Raw...)
		}
		if f.Type == Crypto && f.Offset == 0 {
			half, offset = 0, 0
		}
	}
	b = appendCrypto(b, offset, a.halves[half])
	if len(b) > len(p.Frames) {
		return w.datagram // no client's
	}
	p.Frames = append(b, make([]byte, len(p.Frames)-len(b))...)
	return append(a.up.Seal(nil, &p), w.rest...)
}
