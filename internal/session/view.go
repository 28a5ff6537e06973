package session

import (
	"math"
	"time"

	"busel/internal/wire"
)

const (
	// stillAfter is how long nothing moves before a session counts as still, and
	// calmAfter that for a carrier: a page's pause, and a round trip of data.
	stillAfter = 2 * time.Second
	calmAfter  = 500 * time.Millisecond
	// meterSpan is over how long rates are smoothed.
	meterSpan = time.Second
)

// View is what a [Client] looks like from outside: all that who decides about
// carriers needs to know.
type View struct {
	Wanted bool // a carrier is of use: see [Client.Wanted]
	// Moving: bytes of streams or datagrams moved within the last 2 s, or wait to
	// be sent or acknowledged.
	Moving         bool
	Up, Down       uint64 // bytes of streams and datagrams, without resends
	Streams, Flows int    // open now
	Carriers       []CarrierStats
}

// CarrierStats describe an attached carrier.
type CarrierStats struct {
	N       uint32
	Kind    string            // of the transport
	State   wire.CarrierState // active or spare
	Suspect bool              // it owes an answer
	Spent   bool              // its budget is used up: streams use it no more
	RTT     time.Duration     // 0 if not measured yet
	// Rate is how many bytes of frames a second arrived or were acknowledged,
	// smoothed over about a second.
	Rate     float64
	Up, Down uint64 // bytes of frames
	Age      time.Duration
	// Busy: it has unacknowledged data of ours, or data came over it within the
	// last 500 ms.
	Busy bool
	// Late: a stream waits for what this carrier took. While all goes well that is now
	// one, now another; when all stands it is the one to blame.
	Late bool
}

// View returns a snapshot, and a channel that is closed at the next change of
// anything in it but rates, counters and ages, and when the session ends. The
// numbers of streams and flows are counters; a first round-trip time is a change.
func (cl *Client) View() (View, <-chan struct{}) {
	c := cl.c
	c.mu.Lock()
	defer c.mu.Unlock()
	st := c.stats()
	return View{
		Wanted: cl.wanted(), Moving: cl.wanted() && c.isMoving(), Up: st.Up, Down: st.Down,
		Streams: st.Streams, Flows: st.Flows, Carriers: st.Carriers,
	}, cl.watch()
}

// watch returns the channel that the next change closes. c.mu is held.
func (cl *Client) watch() <-chan struct{} {
	cl.notify()
	if cl.change == nil {
		cl.change = make(chan struct{})
		cl.was = cl.glance()
		for _, a := range cl.c.atts {
			a.was = a.glance()
		}
	}
	return cl.change
}

// glance is what a change of is told, carriers aside.
type glance struct{ wanted, moving, ended bool }

func (cl *Client) glance() glance {
	w := cl.wanted()
	return glance{w, w && cl.c.isMoving(), cl.c.ended != nil}
}

// look is what a change of is told of a carrier.
type look struct {
	live, suspect, spent, busy, timed bool
	state                             wire.CarrierState
}

func (a *attachment) glance() look {
	return look{a.live, a.suspect, a.spent, a.busy(), a.rtt > 0, a.state}
}

func (a *attachment) busy() bool { return a.fresh || a.inflight > 0 }

// notify tells whoever waits of a change. It runs before each unlock.
func (cl *Client) notify() {
	if cl.change == nil {
		return
	}
	changed := cl.gone || cl.was != cl.glance()
	for _, a := range cl.c.atts {
		changed = changed || a.was != a.glance()
	}
	cl.gone = false
	if changed {
		close(cl.change)
		cl.change = nil
	}
}

// moved notes that bytes of streams or datagrams moved.
func (c *core) moved(now time.Time) {
	c.movedAt = now
	if c.client && !c.moving {
		c.moving = true
		c.tickBy(now.Add(stillAfter))
	}
}

// isMoving is [View.Moving].
func (c *core) isMoving() bool { return c.moving || c.pending() }

// pending reports whether data waits to be sent or acknowledged.
func (c *core) pending() bool {
	if c.urgent.head != nil || c.bulk.head != nil || len(c.outgoing) > 0 {
		return true
	}
	for _, a := range c.atts {
		if a.inflight > 0 {
			return true
		}
	}
	return false
}

// settle lets time pass over what counts as moving, and returns when to look
// again, or zero.
func (c *core) settle(now time.Time) (next time.Time) {
	if !c.client {
		return next
	}
	if c.moving && now.Sub(c.movedAt) >= stillAfter {
		if c.moving = c.pending(); c.moving {
			c.movedAt = now
		}
	}
	if c.moving {
		next = c.movedAt.Add(stillAfter)
	}
	for _, a := range c.atts {
		if a.fresh = a.fresh && now.Sub(a.dataAt) < calmAfter; a.fresh {
			next = earlier(next, a.dataAt.Add(calmAfter))
		}
	}
	return next
}

// maxLate bounds how many pieces beyond gaps are looked at for [CarrierStats.Late].
const maxLate = 1024

// late finds the carriers that hold up others: those with the oldest that we have sent
// of a stream, and those that have brought nothing of a stream that lies beyond its gap.
func (c *core) late() map[*attachment]bool {
	if c.open < 2 {
		return nil
	}
	late, looked := map[*attachment]bool{}, 0
	for s := range c.all {
		if s.head != nil && s.head.on != nil {
			late[s.head.on] = true
		}
		if len(s.ooo) == 0 {
			continue
		}
		ahead := map[*attachment]bool{}
		for _, g := range s.ooo {
			ahead[g.on] = true
			if looked++; looked > maxLate {
				return late
			}
		}
		for _, a := range c.atts {
			if a.open && !ahead[a] {
				late[a] = true
			}
		}
	}
	return late
}

// meter measures a rate in bytes a second: what came counts for about
// [meterSpan].
type meter struct {
	rate float64 // when something came last: it does not fade in silence
	at   time.Time
	from time.Time // when the first thing came
}

// minMeter is the least time that a rate is taken over.
const minMeter = 200 * time.Millisecond

// soon is the rate as it is while less than [meterSpan] was measured, in which rate
// grows towards it.
func (m *meter) soon() float64 {
	return m.rate / (1 - math.Exp(-float64(m.at.Sub(m.from)+minMeter)/float64(meterSpan)))
}

func (m *meter) add(n int, now time.Time) {
	if m.from.IsZero() {
		m.from = now
	}
	m.rate = m.now(now) + float64(n)/meterSpan.Seconds()
	m.at = now
}

// now is the rate as it fades in silence.
func (m *meter) now(now time.Time) float64 {
	if d := now.Sub(m.at); d > 0 {
		return m.rate * math.Exp(-float64(d)/float64(meterSpan))
	}
	return m.rate
}

// Stats are what the session did so far.
type Stats struct {
	Streams, Flows int    // open now
	Up, Down       uint64 // bytes of streams and datagrams, without resends
	Moves          int    // replacements of an active carrier
	Carriers       []CarrierStats
}

// Stats returns the counters now.
func (cl *Client) Stats() Stats {
	cl.c.mu.Lock()
	defer cl.c.mu.Unlock()
	st := cl.c.stats()
	st.Moves = cl.moves
	return st
}

func (c *core) stats() Stats {
	st := Stats{Streams: len(c.all) - 1, Flows: len(c.flows), Up: c.up, Down: c.down}
	if _, ok := c.all[c.control]; !ok {
		st.Streams++
	}
	now := time.Now()
	late := c.late()
	for _, a := range c.atts {
		if a.live {
			st.Carriers = append(st.Carriers, CarrierStats{
				N: a.n, Kind: a.carrier.Properties().Kind, State: a.state, Suspect: a.suspect, Spent: a.spent,
				RTT: a.rtt, Rate: a.received.now(now) + a.delivered.now(now), Up: a.up, Down: a.down,
				Age: now.Sub(a.since), Busy: a.busy(), Late: late[a],
			})
		}
	}
	return st
}
