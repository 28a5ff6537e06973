package rule

import (
	"math/rand/v2"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"

	"busel/scripts/lab/censor/packet"
)

// A Direction is where a packet goes.
type Direction uint8

// Directions of a packet: from the client to the world, and back.
const (
	Up Direction = iota
	Down
)

// An Injection is a packet that the censor sends.
type Injection struct {
	Packet []byte        // of IP
	Toward Direction     // Up: to the world
	After  time.Duration // when, from now
}

// A Verdict is what becomes of a packet.
type Verdict struct {
	Drop   bool
	Inject []Injection
}

// A Count is what a rule did. Packets and bytes are those that it acted on, or
// that belonged to what it holds; bytes are of IP.
type Count struct {
	File     string `json:"file"`
	Rule     string `json:"rule"`
	Flows    uint64 `json:"flows"`
	Packets  uint64 `json:"packets"`
	Bytes    uint64 `json:"bytes"`
	Dropped  uint64 `json:"dropped"`  // packets
	Injected uint64 `json:"injected"` // packets
}

// Bounds of what a set remembers.
const (
	maxFlows   = 1 << 14
	maxHolds   = 1 << 14 // per rule
	maxKeys    = 1 << 12 // of connection rates and of policed clients, per rule
	maxRate    = 64      // connections that a rate counts up to
	maxTimes   = 4 * maxRate
	maxResets  = 16
	sweepEvery = 10 * time.Second
)

// A Set judges packets by rules. Its methods may be called at the same time.
type Set struct {
	mu         sync.Mutex
	rand       *rand.Rand
	rules      []*live
	generation uint64
	flows      map[flowKey]*flow
	diverted   map[flowKey]*flow // by the addresses behind the censor
	swept      time.Time
}

// live is a rule at work.
type live struct {
	file  string
	spec  *spec
	count Count
	start time.Time // the first packet after the rule came
	// chosen is the busiest flow at that time, of those that fit.
	chosen flowKey

	reads          bool // content
	readsBursts    bool
	join           pieces
	app, exceptApp app
	holdBy         holdBy

	holds   map[holdKey]span
	rates   map[string][]time.Time
	buckets map[netip.Addr]*[2]bucket
}

// NewSet makes a set of the rules of these files. Random draws come from rand,
// which the set keeps for itself.
func NewSet(rand *rand.Rand, files ...*File) *Set {
	s := &Set{rand: rand, flows: map[flowKey]*flow{}, diverted: map[flowKey]*flow{}}
	s.Replace(files...)
	return s
}

// Replace changes the rules while traffic runs. A rule of the same file and
// name that says the same stays: it keeps its holds, its counts and its start.
func (s *Set) Replace(files ...*File) {
	s.mu.Lock()
	defer s.mu.Unlock()
	old := s.rules
	s.rules = nil
	s.generation++
	for _, f := range files {
		for _, spec := range f.rules {
			r := newLive(f.Name, spec)
			for _, o := range old {
				if o.file == f.Name && reflect.DeepEqual(o.spec, spec) {
					r = o
				}
			}
			s.rules = append(s.rules, r)
		}
	}
}

func newLive(file string, spec *spec) *live {
	m := &spec.Match
	r := &live{
		file: file, spec: spec,
		count:     Count{File: file, Rule: spec.Name},
		reads:     m.content() || m.dns(),
		join:      piecesSet(spec.Reassemble),
		app:       appSet(m.App),
		exceptApp: appSet(m.ExceptApp),
		holdBy:    holdByName(spec.Hold.By),
		holds:     map[holdKey]span{},
		rates:     map[string][]time.Time{},
		buckets:   map[netip.Addr]*[2]bucket{},
	}
	r.readsBursts = (r.app|r.exceptApp)&appTLSInTLS != 0
	if r.holdBy == byNothing && m.content() && m.PacketsOver == 0 && m.AgeOver == 0 && !m.dns() {
		r.holdBy = byFlow
	}
	return r
}

// Counts says what each rule did, in the order of the rules.
func (s *Set) Counts() []Count {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []Count
	for _, r := range s.rules {
		all = append(all, r.count)
	}
	return all
}

// Judge decides on a packet that arrives now. It may write another address
// into the packet. What is not an IP packet passes.
//
// Rules are asked in their order; one that drops the packet is the last.
func (s *Set) Judge(now time.Time, d Direction, b []byte) Verdict {
	parsed, err := packet.Parse(b)
	if err != nil {
		return Verdict{}
	}
	p := &seen{parsed, d, now}
	s.mu.Lock()
	defer s.mu.Unlock()
	f := s.flow(p)
	f.look(p)
	var v Verdict
	missed := false
	for _, t := range f.active {
		fit := t.fit
		s.judge(t, f, p, &v)
		missed = missed || t.fit != fit
		if v.Drop {
			break
		}
	}
	if missed {
		f.active = slices.DeleteFunc(f.active, (*track).dead)
	}
	if v.Drop {
		return v
	}
	if d == Up && f.divert.IsValid() {
		p.SetDst(f.divert)
	}
	return v
}

// flow finds or makes the flow of a packet, and undoes a diversion.
func (s *Set) flow(p *seen) *flow {
	k := p.key()
	if p.direction == Down && len(s.diverted) > 0 {
		if f := s.diverted[k]; f != nil {
			p.SetSrc(f.key.world)
			k = f.key
		}
	}
	f := s.flows[k]
	if f != nil && (f.expired(p.now) || f.renewed(p)) {
		s.forget(f)
		f = nil
	}
	if f == nil {
		f = &flow{key: k, born: p.now}
		s.sweep(p.now)
		s.flows[k] = f
	}
	f.last = p.now
	f.packets++
	f.load.add(p.now, len(p.Bytes))
	if f.generation != s.generation {
		for _, r := range s.rules {
			if r.start.IsZero() {
				r.start = p.now
				if r.spec.Match.Busiest {
					r.chosen, _ = s.busiest(p.now, r.spec.Match.flow)
				}
			}
		}
		f.follow(s.rules, s.generation)
		s.diversion(f, p)
	}
	return f
}

// diversion decides where a new flow goes.
func (s *Set) diversion(f *flow, p *seen) {
	if f.packets > 1 || p.direction == Down {
		return
	}
	for i := range f.tracks {
		t := &f.tracks[i]
		for _, to := range t.spec.Act.Divert {
			if to.Addr().Is4() != f.key.world.Addr().Is4() || !t.spec.Match.on(p.now.Sub(t.start)) {
				continue
			}
			if to.Port() == 0 {
				to = netip.AddrPortFrom(to.Addr(), f.key.world.Port())
			}
			if f.key.world == to {
				continue
			}
			f.divert = to
			s.diverted[flowKey{f.key.client, to, f.key.protocol}] = f
			return
		}
	}
}

// busiest is the flow that carried most within the last second, of those that fit;
// of those that carried nothing, the one that was used last.
func (s *Set) busiest(now time.Time, fit func(flowKey) bool) (flowKey, uint64) {
	var best *flow
	var most uint64
	for k, f := range s.flows {
		if !fit(k) {
			continue
		}
		carried := f.load.bytes(now)
		if best == nil || carried > most || carried == most && f.last.After(best.last) {
			best, most = f, carried
		}
	}
	if best == nil {
		return flowKey{}, 0
	}
	return best.key, most
}

// A Flow is one that passes through the censor.
type Flow struct {
	Protocol string // "tcp", "udp" or "other"
	World    netip.AddrPort
	Bytes    uint64 // of IP, both ways, within the last second
}

// Busiest is the flow to these prefixes that a rule with busiest would choose now;
// the zero value if there is none.
func (s *Set) Busiest(now time.Time, to ...netip.Prefix) Flow {
	s.mu.Lock()
	defer s.mu.Unlock()
	k, carried := s.busiest(now, func(k flowKey) bool { return contains(to, k.world.Addr()) })
	if k == (flowKey{}) {
		return Flow{}
	}
	return Flow{protocolName(k.protocol), k.world, carried}
}

func (s *Set) forget(f *flow) {
	delete(s.flows, f.key)
	if f.divert.IsValid() {
		k := flowKey{f.key.client, f.divert, f.key.protocol}
		if s.diverted[k] == f {
			delete(s.diverted, k)
		}
	}
}

// sweep makes room for a new flow.
func (s *Set) sweep(now time.Time) {
	if now.Sub(s.swept) >= sweepEvery {
		s.swept = now
		for _, f := range s.flows {
			if f.expired(now) {
				s.forget(f)
			}
		}
		for _, r := range s.rules {
			r.sweep(now)
		}
	}
	for _, f := range s.flows {
		if len(s.flows) < maxFlows {
			break
		}
		s.forget(f) // any one: a real box that is full is no fairer
	}
}

// judge asks one rule.
func (s *Set) judge(t *track, f *flow, p *seen, v *Verdict) {
	r := t.live
	h, ok := r.held(t, f, p.now)
	switch {
	case ok && p.now.Before(h.from): // what lasts has not begun
	case ok:
		if r.spec.Hold.Refresh {
			r.hold(t, f, span{h.from, p.now.Add(time.Duration(r.spec.Hold.For))})
		}
		s.act(t, f, p, v, held)
	case s.fires(t, f, p):
		s.fire(t, f, p, v)
	}
}

// fires reports whether the rule fires on a packet.
func (s *Set) fires(t *track, f *flow, p *seen) bool {
	r := t.live
	m := &r.spec.Match
	if t.fit == misses || m.Busiest && f.key != r.chosen || !m.on(p.now.Sub(r.start)) || !m.packet(f, p) {
		return false
	}
	if !r.reads {
		return s.roll(t)
	}
	if m.dns() {
		return r.read(f, p) == fits && s.roll(t)
	}
	if t.fit == undecided {
		t.fit = r.read(f, p)
	}
	if t.fit != fits {
		return false
	}
	// What is drawn and counted once per flow is decided for good.
	if m.Rate != nil && t.key == "" && !r.over(t, f, p.now) || !s.roll(t) {
		t.fit = misses
		return false
	}
	return true
}

// fire does what the rule says for a packet that it fires on, and begins its
// hold.
func (s *Set) fire(t *track, f *flow, p *seen, v *Verdict) {
	r := t.live
	if r.holdBy == byNothing {
		s.act(t, f, p, v, alone)
		return
	}
	if r.reads && !r.spec.Match.dns() {
		t.fit = misses // it fires once; the hold does the rest
	}
	h := span{from: p.now}
	if r.spec.Act.Drop != "" || r.spec.Act.Police != nil {
		h.from = p.now.Add(s.delay(r.spec))
	}
	if r.spec.Hold.For > 0 {
		h.until = h.from.Add(time.Duration(r.spec.Hold.For))
	}
	r.hold(t, f, h)
	because := alone
	if p.now.Before(h.from) {
		because = later
	}
	s.act(t, f, p, v, because)
}

// roll draws whether a rule acts: once per flow, or once per query.
func (s *Set) roll(t *track) bool {
	if t.spec.Probability == nil {
		return true
	}
	if !t.rolled || t.spec.Match.dns() {
		t.rolled = true
		t.won = s.rand.Float64() < *t.spec.Probability
	}
	return t.won
}

// delay draws how long after the trigger the censor acts.
func (s *Set) delay(r *spec) time.Duration {
	if len(r.Delay) == 0 {
		return 0
	}
	least, most := time.Duration(r.Delay[0]), time.Duration(r.Delay[1])
	return least + time.Duration(s.rand.Int64N(int64(most-least)+1))
}

// rateKey makes the key that connections are counted by.
func rateKey(by []string, f *flow, v *view) string {
	parts := []string{"by"} // so that no key is empty
	for _, part := range by {
		switch part {
		case "client":
			parts = append(parts, f.key.client.Addr().String())
		case "prefix":
			bits := 24 // row S11
			if f.key.world.Addr().Is6() {
				bits = 48
			}
			prefix, _ := f.key.world.Addr().Prefix(bits)
			parts = append(parts, prefix.String())
		case "sni":
			parts = append(parts, v.sni)
		case "ja4":
			parts = append(parts, v.ja4)
		}
	}
	return strings.Join(parts, " ")
}

// over counts a flow, once, and reports whether it is one too many: it began
// soon after another, and within the time more than the number began so close
// to each other.
func (r *live) over(t *track, f *flow, now time.Time) bool {
	m := r.spec.Match.Rate
	t.key = rateKey(m.By, f, &f.views[r.join])
	times := append(r.rates[t.key], now)
	for now.Sub(times[0]) > time.Duration(m.Within) || len(times) > maxTimes {
		times = times[1:]
	}
	if len(r.rates) >= maxKeys && r.rates[t.key] == nil {
		clear(r.rates)
	}
	r.rates[t.key] = times
	near := func(i int) bool { // to the one before
		return m.Apart == 0 || i > 0 && i < len(times) && times[i].Sub(times[i-1]) < time.Duration(m.Apart)
	}
	count := 0
	for i := range times {
		if near(i) || near(i+1) {
			count++
		}
	}
	return near(len(times)-1) && count > m.Connections
}
