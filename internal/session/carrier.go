package session

import (
	"context"
	"encoding/binary"
	"errors"
	"math"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"busel/internal/wire"
	"busel/transport"
)

var errSilent = errors.New("the other end owes an answer")

// attachment is a carrier's place in a session, from its hello on.
type attachment struct {
	c       *core
	n       uint32
	epoch   int
	carrier transport.Carrier // nil until it is live
	live    bool
	dead    bool
	err     error
	state   wire.CarrierState
	budget  uint64 // bytes of frames, up and down summed; 0: no limit
	spent   bool   // it is used up
	spentAt time.Time
	careful time.Time // until when little is put on it at once; zero if it may take all
	prompt  int       // bytes of data that are acknowledged early
	unsaid  int       // bytes of data that came over it since the last early ACK
	proven  bool      // rule 7: the peer has said something after the reply
	open    bool      // live, proven, active: streams may use it
	suspect bool
	untried bool          // it took over from a suspect one and has not spoken since
	shunned bool          // what it carried goes over others, too, until it speaks again
	laden   bool          // something was put on it since that was last taken back
	doubted time.Time     // when it became suspect
	grace   time.Duration // how long it is kept then beside one that works
	asked   time.Time     // when it was asked for a sign of life, zero if one came since
	// confirmed: the relay's accept said CARRIER(n, active), so the frames in the
	// hello were opened.
	confirmed bool

	cond    sync.Cond
	idle    bool // the writer waits
	batch   []transport.Frame
	scratch []byte
	chunks  []*chunk // that the writer holds
	filled  int      // bytes of STREAM and DATAGRAM frames in the batch
	size    int      // what the next batch may have
	swift   int      // full batches in a row that were written at once

	pongs               [][8]byte
	greet               bool // say CARRIER(n, state)
	pingDue             bool
	pingOut             bool
	pingAhead           bool // no data of ours lay before it, and the path is not slow
	pingID              uint64
	pingAt              time.Time
	rtt                 time.Duration
	best                time.Duration // the shortest
	probe               bool          // data came since the last PING
	late                time.Duration // how much longer than probeAfter the next silence may be
	asks                int           // PINGs since data moved or the carrier took over
	inflight            int           // chunks that it carried and that are not acknowledged
	carrying            int           // their bytes
	received, delivered meter         // bytes of frames, and of chunks that were acknowledged

	since    time.Time
	waiting  time.Time // when something became outstanding
	lastRecv time.Time
	dataAt   time.Time     // when data came last
	sentAt   time.Time     // when data was sent last
	streak   time.Time     // since when it came without a pause
	fresh    bool          // lately
	lull     time.Duration // the longest silence of late that was none
	lullAt   time.Time
	up, down uint64
	was      look // at the last change: see [Client.View]
}

func (c *core) newAttachment(n uint32) *attachment {
	a := &attachment{c: c, n: n, epoch: c.epoch, size: wire.MaxFrame}
	a.cond.L = &c.mu
	c.atts = append(c.atts, a)
	return a
}

func (a *attachment) wake() {
	if a.live && a.idle {
		a.idle = false
		a.cond.Signal()
	}
}

// setOpen recomputes whether streams may use the carrier.
func (c *core) setOpen(a *attachment) {
	open := a.live && a.proven && !a.dead && a.state == wire.CarrierActive && !a.spent && !a.shunned
	if open == a.open {
		return
	}
	a.open, a.asks = open, 0
	if !open {
		c.open--
		for _, b := range c.atts { // alone, it may have more on the way
			if b.open {
				b.wake()
			}
		}
		if !a.shunned {
			c.readmit()
		}
		return
	}
	c.open++
	c.wakeWriters()
	a.wake()
}

// carrier returns the one with that number, or nil.
func (c *core) carrier(n uint32) *attachment {
	for _, a := range c.atts {
		if a.n == n {
			return a
		}
	}
	return nil
}

// rule sets what a carrier is for.
func (c *core) rule(a *attachment, state wire.CarrierState) {
	bare := c.open == 0
	a.state = state
	c.setOpen(a)
	if bare && a.open {
		c.greetPeer(a) // much could not be said before
	}
}

// ruling is the CARRIER frame that tells the relay what a carrier is for.
func (a *attachment) ruling() wire.Frame {
	f := wire.Frame{Type: wire.Carrier, ID: uint64(a.n), State: a.state}
	if a.shunned {
		f.State = wire.CarrierSuspect
	} else if a.state == wire.CarrierActive && a.budget > 0 {
		f.State, f.Limit = wire.CarrierBudget, a.budget
	}
	return f
}

// shun leaves a carrier that is silent at the client to itself: what it carried goes
// over others, too. Waiting until one of them has shown that it is better would cost
// a round trip. It is not given up: the others may be as silent, and it may come back.
func (c *core) shun(a *attachment) {
	if a.shunned || !a.live || a.dead {
		return
	}
	a.shunned = true
	c.setOpen(a)
	if a.laden { // else a walk through all streams, as often as the peer likes
		a.laden = false
		c.requeue(a)
	}
	if c.client {
		a.pingDue = true
		a.wake()
	}
	c.readmit()
}

// readmit lets a relay's suspect carriers go on when there is no other. What said that
// they are suspect may have come late, after the client had heard from them and said so
// on them: carriers have no common order. A carrier that is about to be live is waited
// for: its hello says for whose sake they are suspect.
func (c *core) readmit() {
	if c.client || c.open > 0 || slices.ContainsFunc(c.atts, func(a *attachment) bool { return !a.live }) {
		return
	}
	for _, a := range c.atts {
		if a.shunned {
			a.shunned = false
			c.setOpen(a)
		}
	}
}

// sayDropped tells the peer, over the next carrier that can, which ones ended.
func (c *core) sayDropped(numbers []uint32) {
	c.announce = slices.DeleteFunc(c.announce, func(f wire.Frame) bool { return f.State == wire.CarrierDropped })
	for _, n := range numbers {
		c.announce = append(c.announce, wire.Frame{Type: wire.Carrier, ID: uint64(n), State: wire.CarrierDropped})
	}
}

// doubt asks all carriers for a sign of life.
func (c *core) doubt(now time.Time) {
	for _, a := range c.atts {
		if a.live && a.proven {
			a.asked, a.waiting = now, now
			a.pingOut, a.pingDue = false, true
			a.wake()
			c.tickBy(a.due())
		}
	}
}

// attach makes an attachment live and moves frames until the carrier is done.
// It returns why it is. greeting is done with the mutex held.
func (c *core) attach(ctx context.Context, a *attachment, carrier transport.Carrier, greeting func() error) error {
	c.mu.Lock()
	if a.dead || c.ended != nil {
		err := a.err
		if c.ended != nil {
			err = c.ended
		}
		c.detach(a, err)
		c.unlock()
		carrier.Close()
		return err
	}
	now := time.Now()
	a.carrier, a.live, a.since, a.lastRecv = carrier, true, now, now
	a.scratch = make([]byte, 0, scratch)
	if !c.heardAt.IsZero() && now.Sub(c.heardAt) >= carefulAfter && a.budget == 0 {
		a.prompt = promptBytes
		if c.stored > minFlight {
			a.careful = now.Add(carefulFor)
		}
	}
	if err := greeting(); err != nil {
		c.detach(a, err)
	}
	c.readmit() // it may be a spare
	c.unlock()

	var wg sync.WaitGroup
	stopped := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(stopped)
		c.mu.Lock()
		c.detach(a, context.Cause(ctx))
		c.unlock()
	})
	wg.Go(func() { c.writeLoop(a) })
	c.readLoop(a)
	wg.Wait()
	if !stop() {
		<-stopped
	}
	return a.err
}

// greetPeer queues what each side says after an attach: the state of the
// carrier, a PING, and an ACK of every open stream. c.mu is held.
func (c *core) greetPeer(a *attachment) {
	a.greet, a.pingDue = c.client, true
	c.windowDue = true
	c.ackAll()
	c.announce = nil // all of it is said anew
	if c.onGreet != nil {
		c.onGreet(a)
	}
	a.wake()
}

func (c *core) ackAll() {
	for _, s := range c.streams {
		s.ackAnew()
	}
}

// carry notes which carrier has a chunk.
func (c *core) carry(ch *chunk, a *attachment) {
	ch.on = a
	a.laden = true
	a.inflight++
	a.carrying += ch.len()
}

func (c *core) uncarry(ch *chunk) {
	if a := ch.on; a != nil {
		a.inflight--
		a.carrying -= ch.len()
		ch.on = nil
		if a.budget > 0 || a.c.open > 1 || !a.careful.IsZero() {
			a.wake() // it may have waited for that
		}
	}
}

// detach ends a carrier: its unacknowledged ranges go back to the front of the
// queue, and what still comes from it is ignored. c.mu is held.
func (c *core) detach(a *attachment, err error) {
	if a.dead {
		return
	}
	a.dead, a.err = true, err
	c.setOpen(a)
	if i := slices.Index(c.atts, a); i >= 0 {
		c.atts = slices.Delete(c.atts, i, i+1)
	}
	c.requeue(a)
	if a.carrier != nil {
		c.after = append(c.after, func() { a.carrier.Close() })
	}
	a.idle = false
	a.cond.Broadcast()
	if len(c.atts) == 0 {
		c.bareFrom = time.Now()
	}
	if c.ended == nil {
		c.readmit()
		if c.onDetach != nil {
			c.onDetach(a)
		}
		c.wake()
	}
	select {
	case c.kicked <- struct{}{}:
	default:
	}
}

// requeue puts what a carried back to the front. Its ACKs may be lost too: all
// open streams are acknowledged anew, and streams whose data went over other
// carriers ask for the answer that a may have taken with it.
func (c *core) requeue(a *attachment) {
	if a.epoch != c.epoch || c.ended != nil {
		return
	}
	for s := range c.all {
		if !s.named {
			continue
		}
		lost, other := false, false
		for ch := s.head; ch != nil && ch != s.next; ch = ch.next {
			switch {
			case ch.on == a:
				c.uncarry(ch)
				lost = true
			case ch.on != nil:
				other = true
			}
		}
		if lost {
			s.resend = s.resend[:0:0]
			for ch := s.head; ch != nil && ch != s.next; ch = ch.next {
				if ch.on == nil && !ch.seen {
					s.resend = append(s.resend, ch)
				}
			}
			c.ready(s)
		}
		s.query = s.query || other
		if s.reset == sent {
			s.reset = due
		}
		if s.stop == sent && s.stopOn == a {
			s.stop = due
		}
		s.ackAnew()
	}
	c.windowDue = true
}

// queryAll asks for an ACK of all streams that carriers have unacknowledged data of.
func (c *core) queryAll() {
	for s := range c.all {
		for ch := s.head; ch != nil && ch != s.next; ch = ch.next {
			if ch.on != nil {
				s.query = true
				s.addChore()
				break
			}
		}
	}
}

// writeLoop lets the carrier pull frames until it is dead.
func (c *core) writeLoop(a *attachment) {
	for {
		c.mu.Lock()
		a.release()
		last := false
		for !a.dead {
			if c.ended != nil {
				a.start()
				if a.open {
					c.fillControl(a)
				}
				if last = len(a.batch) == 0 || len(c.chores) == 0; last {
					a.add(transport.LaneControl, *c.bye)
				}
				break
			}
			if a.fill() {
				break
			}
			a.idle = true
			a.cond.Wait()
			a.idle = false
		}
		if a.dead {
			c.unlock()
			return
		}
		c.unlock()
		start := time.Now()
		err := a.carrier.WriteFrames(a.batch)
		a.paced(time.Since(start))
		if last && err == nil {
			// The other end closes it when it has read that: to close here, with something
			// of it unread, would reset the connection, and BYE might be lost. Run gives up
			// after farewell.
			return
		}
		if err != nil {
			c.mu.Lock()
			a.release()
			c.detach(a, a.why(err))
			c.unlock()
			return
		}
	}
}

// why is how the carrier ended whose transport says err.
func (a *attachment) why(err error) error {
	if a.spent {
		return ErrSpent
	}
	return err
}

// release gives back the chunks of the last batch.
func (a *attachment) release() {
	for i, ch := range a.chunks {
		a.chunks[i] = nil
		if ch.held--; ch.held == 0 && ch.freed {
			a.c.pools.put(ch)
		}
	}
	a.chunks = a.chunks[:0]
}

func (a *attachment) start() {
	clear(a.batch)
	a.batch, a.scratch = a.batch[:0], a.scratch[:0]
}

// add encodes a small frame.
func (a *attachment) add(lane transport.Lane, f wire.Frame) {
	a.laden = true
	n := len(a.scratch)
	a.scratch = f.Append(a.scratch)
	a.batch = append(a.batch, transport.Frame{Lane: lane, Data: a.scratch[n:len(a.scratch):len(a.scratch)]})
	a.up += uint64(len(a.scratch) - n)
}

// space reports whether a few more small frames fit the batch, and the budget.
func (a *attachment) space() bool {
	return cap(a.scratch)-len(a.scratch) >= 256 && len(a.batch) < maxFrames && a.left() >= maxSmall
}

// left is how much of the budget is left.
func (a *attachment) left() uint64 {
	if a.budget == 0 {
		return math.MaxInt
	}
	return a.budget - min(a.budget, a.up+a.down)
}

// quota is how many bytes of STREAM and DATAGRAM frames the carrier takes at once.
func (a *attachment) quota() int {
	left := a.flight() - a.carrying
	if !a.careful.IsZero() && a.c.urgent.head != nil {
		left = max(left, smallBuffer) // a page does not wait for a transfer's ACK
	}
	switch {
	case left <= 0:
		return 0
	case !a.careful.IsZero():
		return min(a.size, left)
	case a.budget == 0:
		return min(a.size, max(left, wire.MaxFrame))
	}
	return min(room+budgetPiece, int(a.left())-reserve)
}

// flight is how much may be unacknowledged on the carrier. Beside others it is what
// arrives in its round trip without a queue and until the next ACK: what waits in a
// deep queue there would hold up all that others deliver of its streams.
func (a *attachment) flight() int {
	switch {
	case a.budget > 0:
		return budgetFlight
	case a.gropes():
		return max(minFlight, int(2*a.delivered.soon()*(min(a.best, time.Second)+ackDelay).Seconds()))
	case a.c.open < 2:
		return math.MaxInt
	}
	return max(2*min(a.size, wire.MaxFrame), int(a.delivered.soon()*(a.best+3*ackDelay).Seconds()))
}

// gropes reports whether it is not known what the carrier takes: it came after a silence
// into which transfers ran. What TCP or QUIC try at first then lies in a queue before the
// pages that wait: 64 kB take two seconds at 256 kbit/s.
func (a *attachment) gropes() bool {
	if !a.careful.IsZero() && (a.delivered.soon() > fastRate || time.Now().After(a.careful)) {
		a.careful = time.Time{}
	}
	return !a.careful.IsZero()
}

// paced sets the next batch's size after one took d to be written. What waits
// behind a batch that is being written cannot overtake it; on a slow path that is
// long. It is used by the writer alone.
func (a *attachment) paced(d time.Duration) {
	switch {
	case d > 2*batchTime && a.filled >= minBatch/2:
		a.size, a.swift = max(int(float64(a.filled)*float64(batchTime)/float64(d)), minBatch), 0
	case d > batchTime/2:
		a.swift = 0
	case a.filled >= a.size-a.size/4:
		if a.swift++; a.swift == 2 { // one may have found room in buffers
			a.size, a.swift = min(2*a.size, maxBatch), 0
		}
	}
	if a.size >= wire.MaxFrame {
		a.size -= a.size % wire.MaxFrame
	}
}

// spend leaves the carrier to itself once its budget is used up.
func (c *core) spend(a *attachment, now time.Time) {
	if a.spent || a.left() >= reserve+minPiece || !a.live || !a.proven || a.state != wire.CarrierActive {
		return
	}
	a.spent, a.spentAt = true, now
	c.setOpen(a)
	c.ackFlush = true
	c.wake()
	c.tickBy(now)
}

// done reports whether a spent carrier can be given up, and if not, when to look
// again; it may be zero.
func (a *attachment) done(now time.Time) (over bool, next time.Time) {
	c, wait := a.c, max(a.rtt, minLinger)
	switch {
	case a.inflight == 0 && c.gaps == 0:
	case a.inflight == 0 || !a.heads() || !c.other(a):
		return false, next // what it carried may have come, and wait for another carrier
	case c.client:
		wait *= 2
	default: // the client goes first, if it knows
		wait = max(4*wait, probeAfter)
	}
	next = later(a.lastRecv, a.spentAt).Add(wait)
	return !now.Before(next), next
}

// heads reports whether a stream's oldest unacknowledged data is on the carrier.
func (a *attachment) heads() bool {
	for s := range a.c.all {
		if s.head != nil && s.head.on == a {
			return true
		}
	}
	return false
}

// other reports whether there is another carrier in good health.
func (c *core) other(a *attachment) bool {
	for _, b := range c.atts {
		if b != a && b.open && !b.suspect {
			return true
		}
	}
	return false
}

// fill collects the next batch and reports whether there is one.
func (a *attachment) fill() bool {
	c := a.c
	a.start()
	a.filled = 0
	if a.greet {
		a.greet = false
		a.add(transport.LaneControl, a.ruling())
	}
	for len(a.pongs) > 0 && a.space() {
		a.add(transport.LaneControl, wire.Frame{Type: wire.Pong, Ping: a.pongs[0]})
		a.pongs = a.pongs[1:]
	}
	if a.pingDue && a.proven && a.space() {
		a.ping(time.Now()) // before data, whose time it would measure
	}
	if !a.open {
		if a.spent && c.open == 0 { // the last words have no other way
			c.fillControl(a)
			if c.ackFlush {
				c.fillAcks(a)
			}
		}
		return len(a.batch) > 0
	}
	before, echoes := a.inflight > 0 || a.pingOut, len(a.batch)
	c.fillControl(a)
	quota := a.quota()
	size := c.fillDatagrams(a, min(maxBatch, int(a.left())-reserve))
	a.filled = size + c.fillStreams(a, quota-size)
	moved := a.filled > 0
	if c.ackFlush || len(a.batch) > 0 {
		c.fillAcks(a)
	}
	if len(a.batch) == 0 {
		return false
	}
	now := time.Now()
	if moved {
		a.sentAt, a.asks = now, 0
		c.moved(now)
		c.spend(a, now)
	}
	switch {
	case a.pingOut || len(a.batch) == echoes:
	case now.Sub(a.pingAt) >= pingEvery && (a.inflight > 0 || c.client && a.probe),
		c.client && (now.Sub(a.lastRecv) >= probeAfter || a.steady() && a.probe && now.Sub(a.lastRecv) >= ackDelay):
		// The others: what is sent into silence, even an ACK, asks for a sign of life.
		a.ping(now)
	}
	if !before && (a.inflight > 0 || a.pingOut) {
		a.waiting = now
		c.tickBy(earlier(a.due(), a.probeAt()))
	}
	if c.urgent.head != nil || c.bulk.head != nil || len(c.chores) > 0 || len(c.outgoing) > 0 {
		c.wake() // there is more than one batch: let another carrier help
	}
	return true
}

func (a *attachment) ping(now time.Time) {
	a.pingDue, a.probe = false, false
	a.late = rand.N(probeJitter)
	a.asks++
	if !a.pingOut {
		if a.inflight == 0 {
			a.waiting = now
		}
		a.pingOut, a.pingAt = true, now
		a.pingAhead = a.carrying == 0 && a.c.fast()
		a.pingID++
	}
	if a.c.client && a.open && a.c.open > 1 {
		a.add(transport.LaneControl, a.ruling()) // an older word, on another one, may have come later
	}
	f := wire.Frame{Type: wire.Ping}
	binary.BigEndian.PutUint64(f.Ping[:], a.pingID)
	a.add(transport.LaneControl, f)
	a.c.tickBy(a.due())
}

// fast reports whether some carrier moves so much that queues are short.
func (c *core) fast() bool {
	for _, a := range c.atts {
		if max(a.received.rate, a.delivered.rate) > fastRate {
			return true
		}
	}
	return false
}

func (a *attachment) gotPong(p [8]byte) {
	if !a.pingOut || binary.BigEndian.Uint64(p[:]) != a.pingID {
		return
	}
	a.pingOut = false
	if a.inflight > 0 && a.pingAt.Sub(a.sentAt) >= probeAfter {
		a.c.queryDue = true // its ACK may be lost on a carrier that nobody misses
	}
	rtt := max(time.Since(a.pingAt), time.Microsecond)
	if a.best == 0 || rtt < a.best {
		a.best = rtt
	}
	if a.rtt == 0 {
		a.rtt = rtt
	} else {
		a.rtt += (rtt - a.rtt) / 4
	}
}

// fillControl adds what goes before everything else.
func (c *core) fillControl(a *attachment) {
	if c.windowDue && a.space() {
		c.windowDue = false
		c.advertised = max(c.advertised, min(c.consumed+sessionWindow, wire.MaxVarint))
		c.gauge()
		a.add(transport.LaneControl, wire.Frame{Type: wire.Window, Limit: c.advertised})
	}
	for len(c.announce) > 0 && a.space() {
		a.add(transport.LaneControl, c.announce[0])
		c.announce = c.announce[1:]
	}
	for id, end := range c.answers {
		if !a.space() {
			break
		}
		delete(c.answers, id)
		a.add(transport.LaneControl, wire.Frame{Type: wire.Ack, ID: id, Offset: end, Limit: end})
	}
	n := 0
	for ; n < len(c.chores) && a.space(); n++ {
		s := c.chores[n]
		s.chore = false
		c.fillChores(a, s)
	}
	c.chores = slices.Delete(c.chores, 0, n)
}

func (c *core) fillChores(a *attachment, s *Stream) {
	if s.epoch != c.epoch || !s.named {
		return
	}
	lane := transport.Lane(s.id)
	if !s.gone {
		if s.reset == due {
			s.reset, s.resetSaid = sent, true
			s.elsewhere = s.elsewhere || a != s.first
			a.add(lane, wire.Frame{Type: wire.Reset, ID: s.id, Code: s.resetCode, Offset: s.sent})
		}
		if s.stop == due {
			s.stop, s.stopOn = sent, a
			a.add(lane, wire.Frame{Type: wire.Stop, ID: s.id, Code: s.stopCode})
		}
		if s.query && s.reset == idle && !s.sendDone {
			a.add(lane, wire.Frame{Type: wire.Stream, ID: s.id, Offset: s.sent, Fin: s.finQueued && s.next == nil})
		}
		s.query = false
	}
	if s.ackDue {
		a.addAck(s)
	}
}

// addAck adds a stream's ACK, and what came beyond a gap if that is of use.
func (a *attachment) addAck(s *Stream) {
	a.add(transport.LaneControl, s.ack())
	if !s.tell && a.budget == 0 {
		return
	}
	s.tell = false
	var f wire.Frame
	said := 0
	for i, g := range s.ooo {
		if f.Limit == g.off {
			f.Limit = g.end()
		} else {
			f = wire.Frame{Type: wire.Seen, ID: s.id, Offset: g.off, Limit: g.end()}
		}
		if i+1 == len(s.ooo) || s.ooo[i+1].off != f.Limit {
			if said++; said > moreSeen || !a.space() {
				return
			}
			a.add(transport.LaneControl, f)
		}
	}
}

// fillAcks adds the ACKs that waited for company.
func (c *core) fillAcks(a *attachment) {
	n := 0
	for ; n < len(c.lazy) && a.space(); n++ {
		s := c.lazy[n]
		s.lazy = false
		if s.ackDue && s.epoch == c.epoch {
			a.addAck(s)
		}
	}
	c.lazy = slices.Delete(c.lazy, 0, n)
	if len(c.lazy) == 0 {
		c.ackFlush, c.ackAt = false, time.Time{}
	}
}

// fillStreams adds chunks, at most size bytes of frames: urgent streams first,
// then the others in turn.
func (c *core) fillStreams(a *attachment, size int) (filled int) {
	for len(a.batch) < maxFrames {
		q := &c.urgent
		if q.head == nil {
			q = &c.bulk
		}
		s := q.head
		if s == nil {
			break
		}
		most := maxData
		if left, n := size-filled, s.nextLen(); n > left {
			// A batch that holds whole frames is not worth a cut, and what was cut
			// is not cut again, but for the last of a budget.
			if size >= wire.MaxFrame || left < minPiece || n <= smallBuffer && filled > 0 {
				break
			}
			most = min(left, smallBuffer) - room
		}
		q.pop()
		s.queued = false
		if s.gone {
			continue
		}
		if ch := s.take(a, most); ch != nil {
			if s.first == nil {
				s.first = a
			}
			s.elsewhere = s.elsewhere || a != s.first
			ch.held++
			a.chunks = append(a.chunks, ch)
			frame := ch.frame()
			a.batch = append(a.batch, transport.Frame{Lane: transport.Lane(s.id), Data: frame})
			filled += len(frame)
			a.up += uint64(len(frame))
		}
		if !s.queued && s.sendable() {
			s.queued = true
			if s.small() {
				c.urgent.push(s)
			} else {
				c.bulk.push(s)
			}
		}
	}
	return filled
}

// nextLen is an upper bound of the next frame's length.
func (s *Stream) nextLen() int {
	switch {
	case len(s.resend) > 0:
		return room + s.resend[0].len()
	case s.next != nil:
		return room + s.next.len()
	}
	return 0
}

// readLoop takes what the carrier delivers until it is dead.
func (c *core) readLoop(a *attachment) {
	c.mu.Lock()
	buf := c.pools.buffer()
	c.mu.Unlock()
	for {
		n, err := a.carrier.ReadFrames(buf.b[:])
		c.mu.Lock()
		if err != nil {
			c.detach(a, a.why(err))
		}
		if a.dead || c.ended != nil {
			c.pools.unref(buf)
			dead := a.dead
			c.unlock()
			if dead {
				return
			}
			c.mu.Lock()
			buf = c.pools.buffer()
			c.mu.Unlock()
			continue
		}
		a.heard(n, time.Now())
		c.unheard = c.unheard && a.epoch != c.epoch
		if c.client {
			c.supersede(a)
		}
		if !a.proven {
			a.proven = true
			c.setOpen(a)
			c.greetPeer(a)
		}
		if err := c.handle(a, buf.b[:n], buf); err != nil {
			c.log.Warn("peer broke the protocol", "carrier", a.n, "err", err)
			c.onBroken(err)
		}
		if c.queryDue {
			c.queryDue = false
			c.queryAll()
		}
		if a.budget > 0 && !a.dead {
			c.spend(a, a.lastRecv)
		}
		if buf.refs > 1 {
			buf.refs--
			buf = c.pools.buffer()
		}
		if at := a.probeAt(); !at.IsZero() {
			c.tickBy(at)
		}
		c.unlock()
	}
}

// supersede has carriers that are suspect looked at, now that a has delivered
// something: suspicion alone is not death (DESIGN section 6).
func (c *core) supersede(a *attachment) {
	for _, b := range c.atts {
		if b == a || !a.open || !b.suspect || !b.live {
			continue
		}
		if b.listen(); b.suspect {
			c.tickBy(b.doubted.Add(b.grace))
		}
	}
}

// owedSince is since when something is owed that has not come.
func (a *attachment) owedSince() time.Time {
	from := later(a.waiting, a.lastRecv)
	if a.pingOut {
		from = later(from, a.pingAt)
	}
	return from
}

// due is when the carrier's silence will mean something.
func (a *attachment) due() time.Time {
	c := a.c
	if !a.asked.IsZero() && !a.suspect {
		return a.asked.Add(min(max(4*a.rtt, suspectMin), suspectMax))
	}
	from := a.owedSince()
	// What lies in buffers on the way needs its time.
	// What was acknowledged of little says little of the rate.
	queued := time.Duration(float64(a.carrying) / max(a.delivered.rate, slowRate) * float64(time.Second))
	if a.delivered.rate == 0 {
		queued = min(queued, time.Second)
	}
	if a.pingOut && a.pingAhead {
		queued = 0 // a spare that was promoted is asked first, and then laden
	}
	if !c.client {
		// A client judges, but it cannot know what should have come.
		if !a.outlived(from) {
			return from.Add(deadAfter)
		}
		wait := relayPatience
		if a.budget > 0 {
			wait = probeAfter
		}
		return from.Add(min(max(wait, 8*a.rtt)+queued, deadAfter))
	}
	if a.suspect {
		return from.Add(min(lostAfter+queued, deadAfter))
	}
	best, rtt := a.best, a.rtt
	if best == 0 {
		best, rtt = defaultRTT, c.longestTrip()
	}
	// In silence the queues that made a round trip long are empty.
	wait := max(4*best, rtt*7/4, suspectMin, a.lull+a.lull/2)
	if a.pingOut && a.pingAhead && a.rtt > 0 && a.pingAt.Sub(a.dataAt) >= probeAfter {
		wait = max(5*best/2, a.rtt+a.rtt/4, promotedMin)
	}
	steady := a.steady() && c.fast()
	if steady {
		queued = 0 // data came all the time, and that does not wait for ours
	}
	switch {
	case a.pingOut:
	case a.pingDue && steady: // what was written before does not even leave
		from = from.Add(max(2*a.best, steadyProbe))
	default:
		wait += a.quiet()
	}
	return from.Add(min(wait+queued, suspectMax))
}

// longestTrip is the longest round trip of a carrier now: of one that was never measured
// it says most, as all share the way to the network. It is zero if none was.
func (c *core) longestTrip() (d time.Duration) {
	for _, a := range c.atts {
		d = max(d, a.rtt)
	}
	return d
}

// outlived reports whether the peer has spoken on another carrier since.
func (a *attachment) outlived(since time.Time) bool {
	for _, b := range a.c.atts {
		if b != a && b.open && b.lastRecv.After(since) {
			return true
		}
	}
	return false
}

// quiet is how long a carrier with unacknowledged data is silent in good health,
// and some more: until it is asked for a PONG.
func (a *attachment) quiet() time.Duration {
	return max(a.best, a.rtt/2) + ackDelay + 100*time.Millisecond
}

// steady reports whether data came without a pause for a while: then a pause means
// something sooner.
func (a *attachment) steady() bool { return a.dataAt.Sub(a.streak) >= calmAfter }

// probeAt is when silence asks for a PING, or zero.
func (a *attachment) probeAt() time.Time {
	c := a.c
	switch {
	case a.pingOut || a.pingDue || !a.open:
	case !c.client:
		if a.inflight > 0 && c.other(a) {
			wait := probeAfter
			if a.budget > 0 {
				wait = a.quiet()
			}
			return a.owedSince().Add(wait)
		}
	case a.probe && a.steady():
		return a.lastRecv.Add(max(2*a.best, steadyProbe))
	case a.inflight > 0:
		return a.owedSince().Add(a.quiet())
	case a.probe || c.gaps > 0:
		return a.lastRecv.Add(probeAfter + a.late)
	case a.asks < maxAsks && a.budget == 0 && (len(c.all) > 1 || len(c.flows) > 0):
		// The answer to what was sent may be lost on a carrier that froze after it took
		// the question, and nothing shows that something should have come.
		return a.lastRecv.Add(probeAfter<<a.asks + a.late)
	}
	return time.Time{}
}

// heard notes that something came.
func (a *attachment) heard(n int, now time.Time) {
	if a.inflight > 0 || a.pingOut || a.suspect {
		if d := now.Sub(a.owedSince()); d > a.lull {
			a.lull, a.lullAt = min(d, suspectMax), now
		}
	}
	if now.Sub(a.lullAt) > lullSpan {
		a.lull, a.lullAt = a.lull/2, now
	}
	a.lastRecv, a.c.heardAt = now, now
	a.down += uint64(n)
	a.received.add(n, now)
	a.suspect, a.untried, a.asked = false, false, time.Time{}
	if a.shunned && a.c.client {
		a.shunned, a.greet = false, true
		a.c.setOpen(a)
		a.wake()
	}
}

// hearing is a carrier that hears more than whole frames: on a slow path a record
// takes longer to come than silence may last.
type hearing interface {
	// Heard is when bytes came last, of whatever kind; zero if none did.
	Heard() time.Time
}

// listen takes bytes of a frame that is not whole yet for a sign of life.
func (a *attachment) listen() {
	h, ok := a.carrier.(hearing)
	if !ok {
		return
	}
	if at := h.Heard(); at.After(a.lastRecv) {
		a.heard(0, at)
	}
}

// tick looks after a carrier's liveness.
func (a *attachment) tick(now time.Time) (next time.Time) {
	if !a.live || a.dead {
		return next
	}
	c := a.c
	if a.spent {
		over, next := a.done(now)
		if over {
			c.detach(a, ErrSpent)
		}
		return next
	}
	probe := a.probeAt()
	if !probe.IsZero() && !now.Before(probe) {
		a.pingDue, probe = true, time.Time{}
		a.wake()
	}
	if a.inflight > 0 || a.pingOut || !a.asked.IsZero() {
		at := a.due()
		if !now.Before(at) {
			a.listen()
			at = a.due()
		}
		if !now.Before(at) && c.client && !a.suspect {
			// What it had goes over another one, so keeping it costs nothing. TCP whose
			// retransmission was lost tries again when it has been silent for twice as
			// long (RFC 6298, section 5.5).
			a.suspect, a.doubted, a.grace = true, now, min(now.Sub(later(a.waiting, a.lastRecv))+a.best, maxGrace)
			if a.budget > 0 {
				a.grace = 0
			}
			for _, b := range c.atts { // is another one better off?
				if b != a && b.live && b.proven && !b.suspect {
					b.pingDue = true
					b.wake()
				}
			}
			if c.other(a) { // what it has is waited for
				c.shun(a)
				c.announce = append(c.announce, a.ruling())
				c.wake()
			}
			c.log.Debug("carrier is suspect", "carrier", a.n, "silent", now.Sub(a.lastRecv), "rtt", a.rtt, "best", a.best, "lull", a.lull, "asked", a.pingOut)
			at = a.due()
		}
		if a.suspect && a.outlived(a.doubted) {
			at = earlier(at, a.doubted.Add(a.grace))
		}
		if !now.Before(at) {
			c.detach(a, &transport.CarrierError{Failure: transport.Frozen, Err: errSilent})
			return time.Time{}
		}
		next = at
	}
	return earlier(next, probe)
}
