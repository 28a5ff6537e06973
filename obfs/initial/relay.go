package initial

import (
	"bytes"
	"net/netip"
	"slices"
)

const (
	// maxFlows is how many clients a relay remembers, the last ones, each with maxWaiting
	// datagrams at most: 10 MiB, if all say one half of a ClientHello only.
	maxFlows   = 1024
	maxWaiting = 4
	// strangers is how many connections of others are remembered, which began without the mark.
	strangers = 1024
)

// Relay takes clients' ClientHellos out of their disguise before a QUIC library sees the
// packets. Everybody else's pass as they came. Packets keep their numbers, so that nothing of what the library
// says needs to change. Its methods are called by one goroutine at a time.
type Relay struct {
	disguise *Disguise
	flows    map[netip.AddrPort]*arriving
	order    [maxFlows]*arriving // in which they came
	passed   [strangers]string   // ids of strangers' connections
	oldest   [2]int              // places in order and passed
}

// NewRelay returns one that knows no client.
func NewRelay(d *Disguise) *Relay {
	return &Relay{disguise: d, flows: map[netip.AddrPort]*arriving{}}
}

// arriving is a ClientHello that seems to be in disguise.
type arriving struct {
	from    netip.AddrPort
	up      *Keys
	largest int64
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
	if !Is(datagram) {
		return append(dst, datagram)
	}
	a := r.flows[from]
	var p Packet
	var rest []byte
	var err error
	if a != nil {
		p, rest, err = a.up.Open(datagram, a.largest)
	}
	if a == nil || err != nil {
		if a, p, rest = r.begin(datagram, from); a == nil {
			return append(dst, datagram)
		}
	}
	a.largest = max(a.largest, int64(p.Number))
	frames, err := Frames(p.Frames)
	if err != nil || !slices.ContainsFunc(frames, func(f Frame) bool { return f.Type == Crypto }) {
		return append(dst, datagram)
	}
	if a.halves[0] != nil {
		return append(dst, a.reveal(waiting{datagram, p, rest}))
	}
	if slices.ContainsFunc(a.waiting, func(w waiting) bool { return w.packet.Number == p.Number }) {
		return dst // the network doubles datagrams; the library would drop one
	}
	fits := a.collect(frames)
	w := waiting{datagram: bytes.Clone(datagram)}
	if w.packet, w.rest, err = a.up.Open(w.datagram, a.largest); err != nil { // it aliases the clone
		return append(dst, datagram)
	}
	a.waiting = append(a.waiting, w)
	shown := a.whole()
	if fits && shown == nil && len(a.waiting) < maxWaiting {
		return dst
	}
	all := a.waiting
	a.waiting = nil
	hello, ok := r.disguise.Take(shown)
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

// begin looks for the mark in the first packet of a client, which takes the place of who came
// first. It returns nil for everybody else.
func (r *Relay) begin(datagram []byte, from netip.AddrPort) (*arriving, Packet, []byte) {
	id, ok := To(datagram)
	if !ok {
		return nil, Packet{}, nil
	}
	a := &arriving{from: from, up: clientKeys(id), largest: -1}
	p, rest, err := a.up.Open(datagram, -1)
	if err != nil {
		return nil, Packet{}, nil
	}
	if !r.disguise.Marks(id, p.Number, p.Frames) {
		r.passed[r.oldest[1]] = string(id)
		r.oldest[1] = (r.oldest[1] + 1) % strangers
		return nil, Packet{}, nil
	}
	if slices.Contains(r.passed[:], string(id)) { // marked by chance: its first datagram has passed
		return nil, Packet{}, nil
	}
	if old := r.order[r.oldest[0]]; old != nil && r.flows[old.from] == old {
		delete(r.flows, old.from)
	}
	r.order[r.oldest[0]] = a
	r.oldest[0] = (r.oldest[0] + 1) % maxFlows
	r.flows[from] = a
	return a, p, rest
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
