package rule

import (
	"net/netip"
	"time"

	"busel/scripts/lab/censor/packet"
)

// flowKey names a flow, seen from the client's side.
type flowKey struct {
	client, world netip.AddrPort
	protocol      uint8
}

// seen is a packet that is judged.
type seen struct {
	packet.Packet
	direction Direction
	now       time.Time
}

func (p *seen) key() flowKey {
	if p.direction == Up {
		return flowKey{p.Src, p.Dst, p.Protocol}
	}
	return flowKey{p.Dst, p.Src, p.Protocol}
}

// A flow is what the censor remembers of a connection or of datagrams between
// two ports.
type flow struct {
	key        flowKey
	born, last time.Time
	packets    uint64 // both ways
	load       load
	generation uint64 // of the rules that tracks are of
	tracks     []track
	active     []*track // those of tracks that may still act

	syn      uint32 // sequence number of the client's SYN
	sawSYN   bool
	firstUp  bool // the client has sent data
	anyData  bool // somebody has
	app      app  // what the flow as a whole tells
	reading  bool // a view is not settled
	up       *packet.Stream
	initials *initials
	bursts   *Bursts
	joins    [views]bool // the views that rules ask for
	views    [views]view

	divert netip.AddrPort // where the client's packets go instead, if valid
}

// load counts what a flow carried of late, both ways.
type load struct {
	span        int64  // the one that now is of
	now, before uint64 // bytes of IP in that span, and in the one before it
}

// loadSpan makes "the last second" half a second to a second.
const loadSpan = 500 * time.Millisecond

func (l *load) add(now time.Time, size int) {
	l.turn(now)
	l.now += uint64(size)
}

func (l *load) turn(now time.Time) {
	span := now.UnixNano() / int64(loadSpan)
	switch span - l.span {
	case 0:
	case 1:
		l.before, l.now = l.now, 0
	default:
		l.before, l.now = 0, 0
	}
	l.span = span
}

// bytes is what was carried within the last second.
func (l *load) bytes(now time.Time) uint64 {
	l.turn(now)
	return l.before + l.now
}

// track is what one rule remembers of a flow.
type track struct {
	*live
	fit         fit
	rolled, won bool // the probability
	counted     bool
	key         string // of the rule's rate
	held        span   // of a hold by flow
	buckets     *[2]bucket
}

// dead reports whether a rule can have no more to do with a flow.
func (t *track) dead() bool {
	return t.fit == misses && (t.holdBy == byNothing || t.holdBy == byFlow && t.held.from.IsZero())
}

// How long a flow without packets is remembered. TCP: row R5, "state about 10
// minutes". UDP: row C3, 60 s.
const (
	tcpIdle   = 10 * time.Minute
	otherIdle = 60 * time.Second
)

func (f *flow) expired(now time.Time) bool {
	idle := otherIdle
	if f.key.protocol == packet.TCP {
		idle = tcpIdle
	}
	return now.Sub(f.last) > idle
}

// renewed reports whether a packet opens a new connection between the ports of
// this one.
func (f *flow) renewed(p *seen) bool {
	return p.direction == Up && p.Has(packet.SYN) && !p.Has(packet.ACK) && !(f.sawSYN && p.Seq == f.syn)
}

// look reads what is new in a packet.
func (f *flow) look(p *seen) {
	if p.Protocol == packet.TCP && p.direction == Up && p.Has(packet.SYN) {
		f.syn, f.sawSYN = p.Seq, true
	}
	if !p.Transport() || len(p.Payload) == 0 {
		return
	}
	if p.Protocol == packet.TCP {
		f.lookTCP(p)
	} else if p.direction == Up && f.reading {
		if f.initials == nil {
			f.initials = new(initials)
		}
		f.each(func(v *view, join pieces) { v.datagram(join, f.key.world.Port(), p.Payload, f.initials) })
		if !f.reading {
			f.initials = nil
		}
	}
}

func (f *flow) lookTCP(p *seen) {
	// In the middle of a flow any packet may begin as a ChangeCipherSpec does.
	if f.bursts != nil && f.sawSYN && !f.bursts.done {
		f.bursts.Add(p.direction, &p.Packet)
		if f.bursts.found {
			f.app |= appTLSInTLS
		}
	}
	if !f.anyData {
		f.anyData = true
		if len(p.Payload) >= 4 && string(p.Payload[:4]) == "SSH-" {
			f.app |= appSSH
		}
	}
	if p.direction == Down {
		return
	}
	if !f.firstUp {
		f.firstUp = true
		if f.sawSYN && fullyEncrypted(p.Payload) {
			f.app |= appEncrypted
		}
	}
	if !f.reading {
		return
	}
	if f.up == nil {
		start := p.Seq
		if f.sawSYN {
			start = f.syn + 1
		}
		f.up = packet.NewStream(start, packet.MaxHello)
	}
	f.up.Add(p.Seq, p.Payload)
	f.each(func(v *view, join pieces) {
		data := p.Payload
		if join&joinTCP != 0 {
			data = f.up.Bytes()
		}
		v.stream(data, join, f.key.world.Port(), f.up.Full())
	})
	if !f.reading {
		f.up = nil
	}
}

// each shows the views that are not settled something new.
func (f *flow) each(show func(*view, pieces)) {
	f.reading = false
	for join := range views {
		v := &f.views[join]
		if !f.joins[join] || v.settled {
			continue
		}
		show(v, join)
		f.reading = f.reading || !v.settled
	}
}

// follow makes the tracks of the rules that there are now; what is known of
// the flow for a rule that stays is kept.
func (f *flow) follow(rules []*live, generation uint64) {
	old := f.tracks
	f.tracks, f.generation = nil, generation
	f.reading = false
	for _, r := range rules {
		if !r.spec.Match.flow(f.key) {
			continue
		}
		t := track{live: r}
		for i := range old {
			if old[i].live == r {
				t = old[i]
			}
		}
		f.tracks = append(f.tracks, t)
		if r.readsBursts && f.bursts == nil {
			f.bursts = &Bursts{done: f.packets > 1 && f.anyData}
		}
		if r.reads && !f.joins[r.join] {
			f.joins[r.join] = true
			// What was not looked at when it passed stays unknown.
			passed := f.firstUp || f.key.protocol == packet.UDP && f.packets > 1
			f.views[r.join].settled = passed && f.key.world.Port() != dnsPort
		}
	}
	f.active = nil
	for i := range f.tracks {
		if !f.tracks[i].dead() {
			f.active = append(f.active, &f.tracks[i])
		}
	}
	for join := range views {
		f.reading = f.reading || f.joins[join] && !f.views[join].settled
	}
}
