package session

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"slices"
	"sync"
	"time"

	"busel/internal/flow"
	"busel/internal/wire"
	"busel/transport"
)

// Limits of a session. Those that the peer must know are in DESIGN section 6
// and docs/PROTOCOL.md, "Limits"; the others bound this end's memory.
const (
	initialWindow = wire.DefaultStreamWindow
	maxWindow     = 16 << 20 // bytes a stream, after tuning
	sessionWindow = wire.DefaultSessionWindow
	maxStreams    = wire.DefaultMaxStreams

	// maxUnsent is what a stream queues beyond what carriers took: two batches,
	// so that one is filled while the other is sealed.
	maxUnsent = 128 << 10
	// maxSessionUnsent is the same for all streams together, one chunk each aside.
	// A stream may queue a quarter of what the others leave: so streams that do
	// not move never take all.
	maxSessionUnsent = 4 << 20
	// maxGrown is how much the windows of all streams grow together, and one
	// doubling takes at most half of what is left: streams whose readers were
	// fast and then stopped keep at most half the session window.
	maxGrown = sessionWindow / 2
	// scarceWindow is how little of the session window has to be left for every
	// raised limit to be said within ackDelay, until enoughWindow is left again
	// (docs/PROTOCOL.md, "Flow control").
	scarceWindow = sessionWindow / 2
	enoughWindow = sessionWindow * 5 / 8
	// maxUnread is the part of what is left of the session window that a stream
	// may take while it seems unread: 500 unread ones leave enough for the next.
	// As long as half is left that is a first window.
	maxUnread = 128
	// minUnread is what each may take in any case: a small chunk and a large one.
	minUnread = smallBuffer + bigBuffer
	// maxOffline is what a session stores without a carrier: DESIGN "Limits".
	maxOffline = 1 << 20
	// maxHeard is how much all streams together receive before their ACKs go out
	// without company: many small streams would else make the peer store a
	// session window.
	maxHeard = 1 << 20
	// maxGaps bounds the pieces that wait for an earlier one, in all streams
	// (docs/PROTOCOL.md, "Limits").
	maxGaps = 1 << 16
	// maxSeen is how many SEEN frames of one read are looked at, and moreSeen how
	// many ranges of a stream are said.
	maxSeen  = 64
	moreSeen = 8
	// maxAnswers bounds the answers to frames for finished ids.
	maxAnswers = 2 * maxStreams

	// maxBatch is what a carrier takes at once: four full records a write are
	// enough (DESIGN section 4, rule 10).
	maxBatch = 4 * wire.MaxFrame
	// minBatch is two pieces, batchTime about what a batch takes to be written.
	minBatch  = 2 * smallBuffer
	batchTime = 100 * time.Millisecond
	maxFrames = 256 // in a batch
	scratch   = 8 << 10

	// budgetPiece is the most data that a carrier with a budget takes at once: what
	// fills one TCP segment, whose record is opened as soon as it is there.
	budgetPiece = 1330
	// budgetFlight is how much may be unacknowledged on such a carrier: if it freezes
	// too early no more is lost, and its peer's words came before.
	budgetFlight = 6 << 10
	// After a silence, of carefulAfter at least, a carrier starts with minFlight
	// unacknowledged, for carefulFor or until it moves more than fastRate; the other end
	// acknowledges the first promptBytes as over a carrier with a budget, so that where
	// round trips are short that takes a few of them.
	carefulAfter = 400 * time.Millisecond
	minFlight    = 16 << 10
	carefulFor   = 30 * time.Second
	promptBytes  = 64 << 10
	// minPiece is the least that a chunk is cut to.
	minPiece = 256
	// reserve is what stays of a budget for a last ACK and CARRIER (docs/PROTOCOL.md,
	// section 11.1), and maxSmall bounds one of them.
	reserve  = 192
	maxSmall = 32
	// earlyAck is after how much data over a carrier with a budget, or the first over
	// one that came after a silence, ACKs go out without company.
	earlyAck = 4 << 10
	// minLinger is the least time that a spent carrier stays, for what is under way.
	minLinger = 50 * time.Millisecond

	// ackDelay is how long an ACK waits for something to travel with: frequent
	// small records during a download would be a tell (DESIGN "Fairness").
	ackDelay = 200 * time.Millisecond
	// ackJitter and probeJitter keep what comes so long after the last data from coming to the
	// millisecond, which no visitor does: an ACK may be that much sooner, a PING into silence
	// that much later.
	ackJitter   = 60 * time.Millisecond
	probeJitter = 300 * time.Millisecond
	// pingEvery is how often the round trip is measured while data moves.
	pingEvery = 5 * time.Second
	// probeAfter is how long an end takes silence after data for a pause, and
	// steadyProbe how long at least when data came without a pause before.
	probeAfter  = time.Second
	steadyProbe = 250 * time.Millisecond
	// maxAsks is how many PINGs in a row a client sends into silence that may mean
	// nothing, each after twice as long: the last one 15 s after data moved.
	maxAsks = 4
	// lullSpan is how long a silence that ended well counts in full.
	lullSpan = 4 * time.Second
	// slowRate is the least that a path is believed to pass, in bytes a second.
	slowRate = 8 << 10
	// fastRate is, in bytes a second, where a record and what may lie unsent before it
	// take less than suspectMin.
	fastRate = 200 << 10
	// relayPatience is how long a relay waits for a sign of life from one carrier
	// while it hears the client on another.
	relayPatience = 3 * time.Second
	// suspectMin and suspectMax bound when a silent carrier is suspect (DESIGN
	// section 7, "Suspect fast").
	suspectMin = 400 * time.Millisecond
	suspectMax = 5 * time.Second
	// promotedMin is suspectMin of a spare that was promoted, whose PING is the first
	// thing on it for a while.
	promotedMin = 300 * time.Millisecond
	// maxGrace bounds how long a suspect carrier is kept beside one that works.
	maxGrace = 2 * time.Second
	// lostAfter is when a client gives up a suspect carrier even if it has no
	// other, as its user waits; deadAfter is that for a relay, and the most for
	// both. TCP would try for a quarter of an hour.
	lostAfter = 15 * time.Second
	deadAfter = 60 * time.Second
	// A stream's window grows while it is less than what is read in windowTimes
	// [core.windowTime]: it is raised by halves, and takes a round trip, what the kernel
	// holds and what programs are late. minWindowTime is the least such time. It is raised
	// to soonWindow once half of the first one was read: TCP gathers speed still, and what
	// was read in the last round trips is a part of what the next one could carry. At 5 %
	// loss and 100 ms a download has 2 to 3 times as much after 8 s as without.
	soonWindow    = 1 << 20
	windowTimes   = 3.5
	minWindowTime = 25 * time.Millisecond
	// defaultRTT stands for a round trip that was not measured yet.
	defaultRTT = 100 * time.Millisecond
	// slept is how late a timer is when the process did not run for a while: its
	// carriers get the time to answer that they would have had.
	slept = 2 * time.Second
	// leftLife is the life, without a carrier, of a session whose client has ended it:
	// what came last finds its way to the destinations.
	leftLife = 10 * time.Second
	// farewell is how long carriers may take to say BYE.
	farewell = time.Second
)

// Codes of BYE.
const (
	byeDone      = 0 // the session ended
	byeViolation = 1
	byeRevoked   = 2
)

// Errors with which carriers and streams end.
var (
	// ErrEnded means that the session is over.
	ErrEnded = fmt.Errorf("session ended: %w", net.ErrClosed)
	// ErrDropped means that one end declared the carrier dropped.
	ErrDropped = errors.New("carrier was dropped")
	// ErrSpent means that the carrier's budget was used up, as intended.
	ErrSpent = errors.New("carrier's budget is used up")
	// ErrProtocol means that the peer broke the protocol, which ends the session.
	ErrProtocol = errors.New("protocol violation")

	errRestarted = errors.New("the relay does not know the session")
	errLife      = errors.New("no carrier for the session's life")
)

func violation(what string) error { return fmt.Errorf("%w: %s", ErrProtocol, what) }

// ByeError is how a carrier ended that the peer ended on purpose.
type ByeError struct {
	Code uint64
	Text string // the peer's words: for a log attribute only
}

func (e *ByeError) Error() string { return fmt.Sprintf("peer ended the carrier (code %d)", e.Code) }

// core is what both ends of a session have in common. One mutex guards all of
// it and is never held over I/O; what must happen outside is left in after.
type core struct {
	mu     sync.Mutex
	client bool
	log    *slog.Logger
	pools  pools
	epoch  int // how often the session began anew
	// unheard: a client's session began anew since the relay did not know it, and
	// nothing has come on its carriers yet.
	unheard bool
	ended   error // set for ever
	bye     *wire.Frame
	done    chan struct{} // closed with ended
	kicked  chan struct{} // tells Run that a timer moved
	after   []func()      // to do once the mutex is free

	onStream  func(s *Stream, dst flow.Addr)
	onFlow    func(p *packets)
	onControl func(m wire.Control)
	onUnlock  func() // with the mutex held, before each unlock
	onGreet   func(a *attachment)
	onDetach  func(a *attachment)
	onUsed    func(n uint32)                           // a relay: this number must not come again
	onAgain   func(received bool, n int) time.Duration // see [ServerConfig.OnAgain]
	onBroken  func(err error)                          // the peer broke the protocol

	life time.Duration // a relay: without a carrier

	all       map[*Stream]struct{} // control too
	streams   map[uint64]*Stream   // named ones
	control   *Stream
	nextID    uint64 // ours
	peerNext  uint64 // the lowest id that the peer has not opened
	localOpen int
	peerOpen  int
	slots     sync.Cond

	// The scheduler's queues.
	urgent, bulk queue
	blocked      []*Stream // by the session window
	chores       []*Stream // with a frame to be sent now
	lazy         []*Stream // with an ACK that can wait
	answers      map[uint64]uint64
	announce     []wire.Frame // CARRIER frames
	heardAt      time.Time    // when something came last, over whichever carrier
	windowDue    bool
	ackFlush     bool
	ackAt        time.Time
	ackWait      time.Duration // how long that one waits
	dataAt       time.Time     // when STREAM frames came last
	queryDue     bool          // ask for the ACKs of all streams
	movedAt      time.Time     // when bytes of streams or datagrams moved last
	moving       bool          // lately
	nextTick     time.Time
	asleep       bool // Run sleeps without a timer

	// What travels again. While it is held back no data is sent a second time.
	sentAgain, gotAgain int // bytes that onAgain was not told of yet
	held                bool
	heldUntil           time.Time

	// Sums.
	unsent, stored int
	waiting        int // streams whose writers wait for space
	up, down       uint64
	sentSum        uint64 // of our streams' highest offsets
	peerWindow     uint64
	peerStream     uint64
	peerStreams    uint64
	heard          uint64 // bytes since the last flush of ACKs
	recvSum        uint64 // of the peer's highest offsets
	consumed       uint64
	advertised     uint64
	scarce         bool   // little of it is left
	grown          uint64 // windows beyond the first, of all streams
	gaps           int

	atts     []*attachment
	open     int // carriers that streams may use
	bareFrom time.Time

	flows    map[uint64]*packets
	nextFlow uint64
	outgoing []datagram
	outBytes int
	inBytes  int
	large    int // own streams that carry a datagram
}

func newCore(client bool, log *slog.Logger) *core {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	c := &core{
		client: client, log: log,
		done: make(chan struct{}), kicked: make(chan struct{}, 1),
		flows: make(map[uint64]*packets), asleep: true, bareFrom: time.Now(),
	}
	c.slots.L = &c.mu
	c.begin()
	return c
}

// begin sets what is new in a new incarnation of the session.
func (c *core) begin() {
	c.all, c.streams = make(map[*Stream]struct{}), make(map[uint64]*Stream)
	c.answers = make(map[uint64]uint64)
	c.urgent, c.bulk = queue{}, queue{}
	c.blocked, c.chores, c.lazy, c.announce = nil, nil, nil, nil
	c.windowDue, c.ackFlush, c.ackAt = false, false, time.Time{}
	c.sentSum, c.recvSum, c.consumed, c.heard = 0, 0, 0, 0
	c.peerWindow, c.peerStream, c.peerStreams = wire.DefaultSessionWindow, wire.DefaultStreamWindow, wire.DefaultMaxStreams
	c.advertised, c.scarce, c.grown = sessionWindow, false, 0
	c.unsent, c.stored, c.gaps = 0, 0, 0
	c.localOpen, c.peerOpen, c.large = 0, 0, 0
	c.nextID, c.peerNext = 1, 2
	if c.client {
		c.nextID, c.peerNext = 2, 1
	}
	c.control = c.newStream(kindControl, true)
	c.control.named = true
	c.control.replied = true
	c.all[c.control] = struct{}{}
	c.streams[0] = c.control
}

// unlock releases the mutex and does what had to wait for that.
func (c *core) unlock() {
	if c.onUnlock != nil {
		c.onUnlock()
	}
	after, sent, got := c.after, c.sentAgain, c.gotAgain
	c.after, c.sentAgain, c.gotAgain = nil, 0, 0
	c.mu.Unlock()
	for _, f := range after {
		f()
	}
	if got > 0 && c.onAgain != nil {
		c.onAgain(true, got)
	}
	if sent > 0 && c.onAgain != nil {
		if wait := c.onAgain(false, sent); wait > 0 {
			c.mu.Lock()
			c.held, c.heldUntil = true, later(c.heldUntil, time.Now().Add(wait))
			c.tickBy(c.heldUntil)
			c.mu.Unlock()
		}
	}
}

// letGo sends again what was held back, once it is time.
func (c *core) letGo(now time.Time) (next time.Time) {
	if !c.held || now.Before(c.heldUntil) {
		return c.heldUntil
	}
	c.held, c.heldUntil = false, time.Time{}
	for s := range c.all {
		if len(s.resend) > 0 {
			c.ready(s)
		}
	}
	return c.heldUntil
}

// queue is a list of streams with something to send.
type queue struct{ head, tail *Stream }

func (q *queue) push(s *Stream) {
	s.qnext = nil
	if q.tail == nil {
		q.head = s
	} else {
		q.tail.qnext = s
	}
	q.tail = s
}

func (q *queue) pop() *Stream {
	s := q.head
	if q.head = s.qnext; q.head == nil {
		q.tail = nil
	}
	s.qnext = nil
	return s
}

// quiet is the most that a stream may have queued to go first: a small request
// or keystrokes, never a transfer.
const quiet = 4 << 10

// small reports whether a stream has no more than that to send, and nothing again.
func (s *Stream) small() bool { return s.unsent <= quiet && len(s.resend) == 0 }

// ready queues a stream that has something to send. New and small ones come
// first, the others take turns.
func (c *core) ready(s *Stream) {
	if s.queued || !s.sendable() {
		return
	}
	s.queued = true
	if s.kind == kindControl || s.small() || s.sent == 0 && s.unsent <= bigBuffer {
		c.urgent.push(s)
	} else {
		c.bulk.push(s)
	}
	c.wake()
}

// wake makes one idle carrier look for work: of those the one that spoke last, as
// another may be silent for a reason that is not known yet.
func (c *core) wake() {
	var best *attachment
	for _, a := range c.atts {
		if a.open && a.idle && (best == nil || a.lastRecv.After(best.lastRecv)) {
			best = a
		}
	}
	if best != nil {
		best.wake()
		return
	}
	if c.open == 0 {
		for _, a := range c.atts { // for last words
			if a.spent {
				a.wake()
			}
		}
	}
}

// schedule makes Run flush the ACKs within ackDelay.
func (c *core) schedule() {
	if c.ackAt.IsZero() {
		c.ackWait = ackDelay - rand.N(ackJitter)
		c.ackAt = time.Now().Add(c.ackWait)
		c.tickBy(c.ackAt)
	}
}

// tickBy makes Run look at the timers at t or earlier.
func (c *core) tickBy(t time.Time) {
	if c.asleep || t.Before(c.nextTick) {
		c.asleep, c.nextTick = false, t
		select {
		case c.kicked <- struct{}{}:
		default:
		}
	}
}

// shortest is the shortest of a round trip of the open carriers', 0 being none.
func (c *core) shortest(trip func(a *attachment) time.Duration) time.Duration {
	best := time.Duration(0)
	for _, a := range c.atts {
		if d := trip(a); a.open && d > 0 && (best == 0 || d < best) {
			best = d
		}
	}
	if best == 0 {
		return defaultRTT
	}
	return best
}

// roundTrip is what a round trip takes now, on the quickest carrier.
func (c *core) roundTrip() time.Duration {
	return c.shortest(func(a *attachment) time.Duration { return a.rtt })
}

// emptyTrip is the shortest round trip that a carrier ever had.
func (c *core) emptyTrip() time.Duration {
	return c.shortest(func(a *attachment) time.Duration { return a.best })
}

// windowTime is a round trip as a stream's window has to cover it.
func (c *core) windowTime() time.Duration {
	if c.open > 1 { // they have to come to an order
		return c.roundTrip() + 2*batchTime
	}
	// Of the path when it is empty: judged by the round trip that its own queue makes
	// long, a window would grow until a page's few bytes wait behind all that it holds.
	return max(c.emptyTrip(), minWindowTime)
}

// share is the most that a stream may have queued now, beside one chunk.
func (c *core) share() int { return max(0, min(maxUnsent, (maxSessionUnsent-c.unsent)/4)) }

// full reports whether s must wait for space: its own, or the session's while
// there is no carrier.
func (c *core) full(s *Stream) bool {
	if c.open == 0 && c.stored >= maxOffline && (!c.client || s.unsent > 0) {
		return true
	}
	return s.unsent > 0 && s.unsent >= c.share()
}

// freed wakes writers that waited because there was no carrier, when there is
// space again. With one, a stream's writer waits for its own stream to move.
func (c *core) freed() {
	if c.open == 0 && c.stored < maxOffline/2 {
		c.wakeWriters()
	}
}

func (c *core) wakeWriters() {
	if c.waiting == 0 {
		return
	}
	for s := range c.all {
		if s.waiting {
			s.waits(false) // once is enough
			s.wcond.Broadcast()
		}
	}
}

// consume moves the session window. It is said when a quarter of it was read, or
// as much as the peer has left, which is less if there are streams that nobody
// reads.
func (c *core) consume(n uint64) {
	c.consumed += n
	raise, left := c.consumed+sessionWindow-c.advertised, c.advertised-c.recvSum
	switch {
	case c.windowDue || raise == 0:
	case raise >= sessionWindow/4 || raise >= max(left, initialWindow):
		c.windowDue = true
		c.wake()
	case c.scarce:
		c.windowDue = true
		c.schedule()
	}
}

// gauge notes whether little is left of the session window. From then on the
// peer hears soon of everything that is read: it holds back streams that seem
// unread, and must learn which are not.
func (c *core) gauge() {
	left := c.advertised - c.recvSum
	switch {
	case c.scarce && left >= enoughWindow:
		c.scarce = false
	case !c.scarce && left < scarceWindow:
		c.scarce = true
		c.consume(0)
		for s := range c.all {
			if s.named && s.raised() > 0 {
				s.ackLater()
			}
		}
	}
}

// name draws the next id: ids ascend in the order in which streams send first,
// and a stream that never sent leaves no trace.
func (c *core) name(s *Stream) {
	s.id, s.named = c.nextID, true
	c.nextID += 2
	c.streams[s.id] = s
}

// remove forgets a finished stream; what came may still be read.
func (c *core) remove(s *Stream) {
	if s.gone {
		return
	}
	s.gone = true
	delete(c.all, s)
	if s.named && c.streams[s.id] == s {
		delete(c.streams, s.id)
	}
	if s.epoch != c.epoch {
		return
	}
	if s.local {
		c.localOpen--
		if s.kind == kindDatagram {
			c.large--
		}
		c.slots.Signal()
	} else {
		c.peerOpen--
	}
}

// retire removes s if both directions are over.
func (c *core) retire(s *Stream) {
	if s.sendDone && s.recvDone && s.kind != kindControl {
		c.remove(s)
	}
}

// find returns the stream of a frame, or nil if the id is finished. A frame for
// an id of the peer's that is not open yet opens it and all lower ones.
func (c *core) find(id uint64) (*Stream, error) {
	if s := c.streams[id]; s != nil {
		return s, nil
	}
	if (id^c.nextID)&1 == 0 {
		if id >= c.nextID {
			return nil, violation("frame for a stream that was never opened")
		}
		return nil, nil
	}
	if id < c.peerNext {
		return nil, nil
	}
	// The peer counts an id as finished before we can know: hence twice.
	if more := (id-c.peerNext)/2 + 1; more > 2*maxStreams || c.peerOpen+int(more) > 2*maxStreams {
		return nil, violation("too many open streams")
	}
	for ; c.peerNext <= id; c.peerNext += 2 {
		s := c.newStream(kindUnknown, false)
		s.id, s.named = c.peerNext, true
		c.streams[s.id] = s
		c.all[s] = struct{}{}
		c.peerOpen++
	}
	return c.streams[id], nil
}

// answer notes that the peer must be told that it is finished with an id.
func (c *core) answer(id, end uint64) error {
	if _, ok := c.answers[id]; !ok && len(c.answers) >= maxAnswers {
		return violation("too many frames for finished streams")
	}
	c.answers[id] = max(c.answers[id], end)
	c.wake()
	return nil
}

// handle takes the frames that a carrier delivered. from is the buffer that b
// lies in, or nil. c.mu is held.
func (c *core) handle(a *attachment, b []byte, from *buffer) error {
	var f wire.Frame
	seen := 0
	for len(b) > 0 {
		n, err := wire.Parse(b, &f)
		if err != nil {
			return fmt.Errorf("%w: %w", ErrProtocol, err)
		}
		b = b[n:]
		switch f.Type {
		case wire.Padding:
		case wire.Stream:
			c.gotMore(a, len(f.Data))
			c.dataAt = a.lastRecv
			s, err := c.find(f.ID)
			switch {
			case err != nil:
			case s != nil:
				err = s.gotData(a, f.Offset, f.Data, f.Fin, from)
			case f.Fin:
				c.gotAgain += len(f.Data)
				err = c.answer(f.ID, f.Offset+uint64(len(f.Data))+1)
			default:
				c.gotAgain += len(f.Data)
				err = c.answer(f.ID, f.Offset+uint64(len(f.Data)))
			}
			if err != nil {
				return err
			}
		case wire.Ack:
			s, err := c.find(f.ID)
			if err != nil {
				return err
			}
			if s != nil {
				if err := s.gotAck(f.Offset, f.Limit, a.lastRecv); err != nil {
					return err
				}
			}
		case wire.Seen:
			if seen++; seen > maxSeen {
				break // a walk for each
			}
			s, err := c.find(f.ID)
			if err == nil && s != nil {
				err = s.gotSeen(f.Offset, f.Limit, a.lastRecv)
			}
			if err != nil {
				return err
			}
		case wire.Window:
			if f.Limit > c.peerWindow {
				c.peerWindow = f.Limit
				c.unblock()
			}
		case wire.Reset:
			s, err := c.find(f.ID)
			switch {
			case err != nil:
			case s == nil:
				err = c.answer(f.ID, f.Offset+1)
			case s.kind == kindControl:
				err = violation("RESET of stream 0")
			default:
				err = s.gotReset(f.Code, f.Offset)
			}
			if err != nil {
				return err
			}
		case wire.Stop:
			s, err := c.find(f.ID)
			if err != nil {
				return err
			}
			if s != nil && s.kind != kindControl {
				s.gotStop(f.Code)
				c.retire(s)
			}
		case wire.Datagram:
			c.gotMore(a, len(f.Data))
			c.gotDatagram(f.ID, f.Addr, f.Data)
		case wire.Carrier:
			c.gotCarrier(a, &f)
			if a.dead {
				return nil
			}
		case wire.Ping:
			if len(a.pongs) < 16 {
				a.pongs = append(a.pongs, f.Ping)
				a.wake()
			}
		case wire.Pong:
			a.gotPong(f.Ping)
		case wire.Bye:
			if !c.client && f.Code == byeDone {
				c.life = min(c.life, leftLife) // nobody will resume it
			}
			c.detach(a, &ByeError{Code: f.Code, Text: string(f.Data)})
			return nil
		}
	}
	return nil
}

// unblock lets the streams try again that the session window held back.
func (c *core) unblock() {
	blocked := c.blocked
	c.blocked = nil
	for _, s := range blocked {
		s.blocked = false
		c.ready(s)
	}
}

// gotMore notes that n bytes of data came.
func (c *core) gotMore(a *attachment, n int) {
	a.probe, a.asks = true, 0
	if a.lastRecv.Sub(a.dataAt) > calmAfter {
		a.streak = a.lastRecv
	}
	a.dataAt = a.lastRecv
	if c.client && !a.fresh {
		a.fresh = true
		c.tickBy(a.dataAt.Add(calmAfter))
	}
	c.moved(a.lastRecv)
	if a.budget > 0 || a.prompt > 0 {
		a.prompt -= min(n, a.prompt)
		if a.unsaid += n; a.unsaid >= earlyAck {
			a.unsaid, c.ackFlush = 0, true
			c.wake()
		}
	}
}

// gotCarrier takes a CARRIER frame: a client rules all states, a relay can only
// say that it dropped one, and repeat what a hello's frames said.
func (c *core) gotCarrier(a *attachment, f *wire.Frame) {
	n := uint32(f.ID)
	b := c.carrier(n)
	switch {
	case f.State == wire.CarrierDropped && b == nil:
		// The peer may have answered over it after we had lost it.
		c.queryDue = true
		if !c.client {
			c.onUsed(n)
		}
	case f.State == wire.CarrierDropped && c.client:
		// The relay knows by what it misses, or was told by a reset.
		c.detach(b, &transport.CarrierError{Failure: transport.Frozen, Err: ErrDropped})
	case f.State == wire.CarrierDropped:
		c.detach(b, ErrDropped)
		c.onUsed(n)
	case c.client:
		a.confirmed = a.confirmed || n == a.n
	case b == nil:
	case f.State == wire.CarrierSuspect:
		c.shun(b)
	case f.State == wire.CarrierBudget:
		b.shunned = false
		b.budget = f.Limit
		c.rule(b, wire.CarrierActive)
	default:
		b.shunned = false
		c.rule(b, f.State)
	}
}

// progress looks at what came in order on streams that are not an application's.
func (c *core) progress(s *Stream) error {
	if s.discard {
		if s.kind == kindUnknown || s.kind == kindDatagram {
			s.finish()
		}
		return nil
	}
	if s.kind == kindUnknown && s.rhead != nil {
		if s.rhead.data[0] == 0 {
			s.kind = kindDatagram
		} else if err := c.opening(s); err != nil {
			return err
		}
	}
	switch s.kind {
	case kindUnknown:
		if s.recvDone {
			s.quit(0, false)
		}
	case kindControl:
		if s.finalKnown {
			return violation("FIN on stream 0")
		}
		for s.rhead != nil {
			// The head first, so that a message that comes in small pieces, or among
			// many, is copied once.
			b := s.gather(wire.MaxControlHeader)
			if size := wire.ControlLen(b); size > len(b) {
				if uint64(size) > s.rcvd-s.consumed {
					return nil
				}
				b = s.gather(size)
			}
			m, n, err := wire.ParseControl(b)
			if errors.Is(err, wire.ErrTruncated) {
				return nil
			}
			if err != nil {
				return fmt.Errorf("%w: %w", ErrProtocol, err)
			}
			s.skipRead(n)
			if err := c.gotControl(m); err != nil {
				return err
			}
		}
	case kindDatagram:
		switch {
		case s.local: // the peer's direction is empty
			if s.rhead != nil {
				s.quit(0, true)
			}
		case s.rcvd > maxLarge:
			s.quit(0, false)
		case s.recvDone:
			b := s.gather(maxLarge)
			s.drop()
			s.finish()
			c.gotLarge(b)
		}
	}
	return nil
}

// opening reads a request's address.
func (c *core) opening(s *Stream) error {
	dst, n, err := flow.ParseAddr(s.gather(flow.MaxAddrLen))
	switch {
	case errors.Is(err, flow.ErrShortAddr):
	case err != nil:
		s.kind = kindProxy
		s.answer(flow.AddressNotSupported, flow.DetailNone)
		s.quit(0, true)
	case c.onStream == nil: // a relay opens no streams to a client
		s.quit(0, false)
	default:
		s.kind, s.dst = kindProxy, dst
		s.skipRead(n)
		c.onStream(s, dst)
	}
	return nil
}

// gather copies up to most bytes of what can be read.
func (s *Stream) gather(most int) []byte {
	var b []byte
	for g := s.rhead; g != nil && len(b) < most; g = g.next {
		b = append(b, g.data[:min(len(g.data), most-len(b))]...)
	}
	return b
}

// skipRead takes n bytes off what can be read.
func (s *Stream) skipRead(n int) {
	for left := n; left > 0; {
		g := s.rhead
		m := min(left, len(g.data))
		left -= m
		g.off += uint64(m)
		if g.data = g.data[m:]; len(g.data) == 0 {
			if s.rhead = g.next; s.rhead == nil {
				s.rtail = nil
			}
			s.c.pools.done(g)
		}
	}
	s.consume(n)
}

func (c *core) gotControl(m wire.Control) error {
	if m.Type == wire.ControlSettings {
		set, err := wire.ParseSettings(m.Body)
		if err != nil {
			return fmt.Errorf("%w: %w", ErrProtocol, err)
		}
		if set.StreamWindow > c.peerStream {
			c.peerStream = min(set.StreamWindow, wire.MaxVarint)
			for s := range c.all {
				s.limit = max(s.limit, c.peerStream)
				c.ready(s)
			}
		}
		if set.SessionWindow > c.peerWindow {
			c.peerWindow = min(set.SessionWindow, wire.MaxVarint)
			c.unblock()
		}
		if set.MaxStreams > c.peerStreams {
			c.peerStreams = set.MaxStreams
			c.slots.Broadcast()
		}
		return nil
	}
	if c.onControl != nil {
		c.onControl(m)
	}
	return nil
}

// sendControl queues a message on stream 0.
func (c *core) sendControl(t wire.ControlType, body []byte) {
	m := wire.Control{Type: t, Body: body}
	b := m.Append(nil)
	c.control.push(b, len(b))
}

// finishSession ends the session for good: streams die, carriers say BYE. With
// byeRevoked streams are reset with the detail revoked before that.
func (c *core) finishSession(err error, code uint64, revoked uint64, text string) {
	if c.ended != nil {
		return
	}
	c.ended = err
	c.bye = &wire.Frame{Type: wire.Bye, Code: code, Data: []byte(text)}
	for s := range c.all {
		if code == byeRevoked && s.kind == kindProxy { // the peer hears of each
			s.err = err
			s.quit(revoked, false)
			s.rcond.Broadcast()
			s.wcond.Broadcast()
		} else {
			s.kill(err)
		}
	}
	for _, p := range c.flows {
		p.end(err)
	}
	for _, a := range slices.Clone(c.atts) {
		if a.live && a.proven {
			a.wake()
		} else { // rule 7: not a word to who may only have replayed a hello
			c.detach(a, err)
		}
	}
	c.slots.Broadcast()
	close(c.done)
}

// run keeps the timers until ctx or the session ends, and then lets the
// carriers say BYE. It returns why the session ended.
func (c *core) run(ctx context.Context) error {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for ctx.Err() == nil {
		c.mu.Lock()
		if c.ended != nil {
			c.mu.Unlock()
			break
		}
		now := time.Now()
		if c.client && !c.asleep && now.Sub(c.nextTick) > slept {
			c.doubt(now)
		}
		next := c.tick(now)
		c.asleep, c.nextTick = next.IsZero(), next
		c.unlock()
		var fire <-chan time.Time
		if !next.IsZero() {
			timer.Reset(time.Until(next))
			fire = timer.C
		}
		select {
		case <-ctx.Done():
		case <-c.done:
		case <-c.kicked:
		case <-fire:
		}
	}
	c.mu.Lock()
	c.finishSession(ErrEnded, byeDone, 0, "")
	c.unlock()
	timer.Reset(farewell)
	for {
		c.mu.Lock()
		left := len(c.atts)
		c.mu.Unlock()
		if left == 0 {
			break
		}
		select {
		case <-c.kicked:
			continue
		case <-timer.C:
		}
		c.mu.Lock()
		for len(c.atts) > 0 {
			c.detach(c.atts[0], c.ended)
		}
		c.unlock()
	}
	return c.ended
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

func earlier(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

// tick does what is due and returns when to look again, or zero.
func (c *core) tick(now time.Time) (next time.Time) {
	if !c.ackAt.IsZero() {
		at := c.ackAt
		if c.client && c.open < 2 {
			// While a download runs its ACKs wait for half a window. A relay's do not:
			// the client takes silence after data for a frozen carrier. Nor do those of
			// a client with several carriers, whose flight is bounded by them.
			at = later(at, c.dataAt.Add(c.ackWait))
		}
		if now.Before(at) {
			next = at
		} else {
			c.ackAt = time.Time{}
			c.ackFlush = true
			c.wake()
		}
	}
	next = earlier(next, c.settle(now))
	next = earlier(next, c.letGo(now))
	for i := 0; i < len(c.atts); i++ {
		a := c.atts[i]
		next = earlier(next, a.tick(now))
		if a.dead {
			i--
		}
	}
	for id, p := range c.flows {
		rest := p.restAt()
		if now.Before(rest) {
			next = earlier(next, rest)
			continue
		}
		delete(c.flows, id)
		p.rest()
	}
	if !c.client && len(c.atts) == 0 && c.ended == nil {
		over := c.bareFrom.Add(c.life)
		if !now.Before(over) {
			c.finishSession(errLife, byeDone, 0, "")
		}
		next = earlier(next, over)
	}
	return next
}
