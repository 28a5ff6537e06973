package session

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"sync"
	"syscall"
	"time"

	"busel/internal/flow"
	"busel/internal/wire"
)

// kind is what a stream carries.
type kind uint8

const (
	kindProxy    kind = iota // one TCP connection
	kindControl              // stream 0
	kindDatagram             // one datagram that is too large for a frame
	kindUnknown              // opened by the peer, its first byte has not come
)

// progress of a RESET or STOP that this end sends.
type progress uint8

const (
	idle progress = iota
	due           // to be sent
	sent          // on a carrier that lives
	done          // acknowledged
)

// ResetError means that the other end abandoned the stream. It is an
// [syscall.ECONNRESET], so that callers treat it as a TCP reset.
type ResetError struct{ Detail flow.Detail }

func (e *ResetError) Error() string {
	if e.Detail == flow.DetailNone {
		return "stream was reset by the other end"
	}
	return "stream was reset: destination " + e.Detail.String()
}

// Is reports whether target is [syscall.ECONNRESET].
func (e *ResetError) Is(target error) bool { return target == syscall.ECONNRESET }

// Stream is one proxied TCP connection inside a session. It implements
// [flow.Stream], [io.ReaderFrom] and [io.WriterTo]; the latter two move whole
// frames without a copy in between. All methods are safe for concurrent use.
type Stream struct {
	c     *core
	epoch int       // incarnation of the session that it belongs to
	id    uint64    // valid if named
	named bool      // an id was drawn: something was sent
	local bool      // opened by this end
	kind  kind      //
	dst   flow.Addr // of a proxied stream
	gone  bool      // out of the session: finished or killed
	err   error     // why both directions are over, if not by FIN
	shut  bool      // Close was called

	rcond, wcond sync.Cond
	writeMu      sync.Mutex // keeps the bytes of one Write together
	rdead, wdead deadline

	// Sending. chunks from head are unacknowledged, from next on never sent.
	head, tail, next *chunk
	resend           []*chunk // carried by a carrier that died, ascending
	written          uint64   // end of all that was written
	sent             uint64   // end of all that was ever sent
	limit            uint64   // how far the peer lets us send
	unsent           int
	finQueued        bool
	sendDone         bool // FIN or RESET acknowledged
	keep             bool // a failing reply: Close must not take it back
	replied          bool // relay: Reply was called; client: the reply has come
	reset, stop      progress
	resetSaid        bool // RESET went out at least once, so that its ACK may come
	resetCode        uint64
	stopCode         uint64
	stopOn           *attachment
	first            *attachment // took the first chunk
	elsewhere        bool        // something went over another carrier than first
	werr             error       // the peer wants no more

	// In the queues of the scheduler, the chores and the lazy acks.
	qnext         *Stream
	queued        bool
	chore, lazy   bool
	blocked       bool // waits for the session window
	waiting       bool // a writer waits for space
	ackDue, query bool
	tell          bool // of what came beyond a gap

	// Receiving.
	rhead, rtail *segment
	ooo          []*segment // beyond a gap, ascending, apart
	rcvd         uint64     // contiguous
	consumed     uint64
	high         uint64 // highest offset seen
	advertised   uint64 // the limit that the peer knows
	acked        uint64 // the received-up-to that the peer knows
	window       uint64
	tuned        time.Time
	tunedFrom    uint64 // consumed then
	final        uint64
	finalKnown   bool
	recvDone     bool  // all up to FIN received, or RESET
	eof          bool  // the reader saw the end
	discard      bool  // nobody will read
	rerr         error // RESET, or a failing reply
	replyLen     int
	reply        [2]byte

	meter func(received bool, n int) error // see SetMeter
}

var (
	_ flow.Stream   = (*Stream)(nil)
	_ io.ReaderFrom = (*Stream)(nil)
	_ io.WriterTo   = (*Stream)(nil)
)

func (c *core) newStream(k kind, local bool) *Stream {
	s := &Stream{c: c, epoch: c.epoch, kind: k, local: local, limit: c.peerStream, window: initialWindow, advertised: initialWindow}
	s.rcond.L, s.wcond.L = &c.mu, &c.mu
	return s
}

// deadline is a net.Conn deadline that broadcasts a cond when it passes.
type deadline struct {
	at    time.Time
	timer *time.Timer
}

func (d *deadline) set(cond *sync.Cond, t time.Time) {
	if d.timer != nil {
		d.timer.Stop()
		d.timer = nil
	}
	d.at = t
	if !t.IsZero() {
		if wait := time.Until(t); wait > 0 {
			d.timer = time.AfterFunc(wait, func() {
				cond.L.Lock()
				defer cond.L.Unlock()
				cond.Broadcast()
			})
		}
	}
	cond.Broadcast()
}

func (d *deadline) stop() {
	if d.timer != nil {
		d.timer.Stop()
		d.timer = nil
	}
}

func (d *deadline) passed() bool { return !d.at.IsZero() && !time.Now().Before(d.at) }

// SetDeadline sets both deadlines.
func (s *Stream) SetDeadline(t time.Time) error {
	s.c.mu.Lock()
	defer s.c.mu.Unlock()
	if s.shut {
		return net.ErrClosed
	}
	s.rdead.set(&s.rcond, t)
	s.wdead.set(&s.wcond, t)
	return nil
}

// SetReadDeadline bounds Read, WriteTo and their waiting for the reply.
func (s *Stream) SetReadDeadline(t time.Time) error {
	s.c.mu.Lock()
	defer s.c.mu.Unlock()
	if s.shut {
		return net.ErrClosed
	}
	s.rdead.set(&s.rcond, t)
	return nil
}

// SetWriteDeadline bounds the waiting of Write and ReadFrom for space.
func (s *Stream) SetWriteDeadline(t time.Time) error {
	s.c.mu.Lock()
	defer s.c.mu.Unlock()
	if s.shut {
		return net.ErrClosed
	}
	s.wdead.set(&s.wcond, t)
	return nil
}

// LocalAddr is a name for the session: a stream has no address of its own.
func (s *Stream) LocalAddr() net.Addr { return flow.Addr{Name: "session"} }

// RemoteAddr is the destination.
func (s *Stream) RemoteAddr() net.Addr { return s.dst }

// Connected blocks until the destination was reached. See [flow.Stream].
func (s *Stream) Connected(ctx context.Context) error {
	c := s.c
	stop := context.AfterFunc(ctx, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		s.rcond.Broadcast()
	})
	defer stop()
	c.mu.Lock()
	defer c.mu.Unlock()
	for {
		switch {
		case s.replied && s.rerr == nil:
			return nil
		case s.rerr != nil:
			return openError(s.rerr)
		case s.err != nil:
			return openError(s.err)
		case s.shut:
			return openError(net.ErrClosed)
		case s.recvDone:
			return &flow.OpenError{Code: flow.GeneralFailure, Err: io.ErrUnexpectedEOF}
		case ctx.Err() != nil:
			return context.Cause(ctx)
		}
		s.rcond.Wait()
	}
}

// openError is err as why a stream could not be opened.
func openError(err error) error {
	if e, ok := errors.AsType[*flow.OpenError](err); ok {
		return e
	}
	if e, ok := errors.AsType[*ResetError](err); ok {
		return &flow.OpenError{Code: flow.GeneralFailure, Detail: e.Detail, Err: err}
	}
	return &flow.OpenError{Code: flow.GeneralFailure, Err: err}
}

// readable waits until there is something to read. c.mu is held.
func (s *Stream) readable() error {
	for {
		switch {
		case s.shut:
			return net.ErrClosed
		case s.rdead.passed():
			return os.ErrDeadlineExceeded
		case s.rerr != nil:
			return s.rerr
		case s.rhead != nil:
			return nil
		case s.err != nil:
			return s.err
		case s.finalKnown && s.consumed == s.final:
			if s.local && s.kind == kindProxy && !s.replied {
				return io.ErrUnexpectedEOF
			}
			s.eof = true
			return io.EOF
		}
		s.rcond.Wait()
	}
}

// Read reads what has come. A failing reply of the relay surfaces as an
// *[flow.OpenError], a RESET as a *[ResetError].
func (s *Stream) Read(p []byte) (int, error) {
	c := s.c
	c.mu.Lock()
	defer c.unlock()
	if len(p) == 0 {
		return 0, nil
	}
	if err := s.readable(); err != nil {
		return 0, err
	}
	n := 0
	for g := s.rhead; g != nil && n < len(p); g = s.rhead {
		m := copy(p[n:], g.data)
		n += m
		g.off += uint64(m)
		if g.data = g.data[m:]; len(g.data) == 0 {
			if s.rhead = g.next; s.rhead == nil {
				s.rtail = nil
			}
			c.pools.done(g)
		}
	}
	s.consume(n)
	return n, nil
}

// SetMeter has take asked for the bytes that ReadFrom sends and WriteTo receives, at
// most 64 KiB at a time, before they move. It may wait; an error of it ends the call
// that asks. SetMeter is called before those, and at most once.
func (s *Stream) SetMeter(take func(received bool, n int) error) { s.meter = take }

// maxWriteTo is how much WriteTo takes at once: it stays unread for the peer's
// window until w has taken it.
const maxWriteTo = 256 << 10

// maxMetered is maxWriteTo where bytes are counted, and what ReadFrom reads at once.
const maxMetered = maxBatch

// WriteTo writes everything up to the end of the stream to w: whole frames from
// the carrier's buffers, in one writev if w is a *net.TCPConn. On an error it
// has lost what it took.
func (s *Stream) WriteTo(w io.Writer) (total int64, err error) {
	c := s.c
	var vec, work net.Buffers
	most := maxWriteTo
	if s.meter != nil {
		most = maxMetered - maxData // one segment goes beyond it
	}
	for {
		c.mu.Lock()
		if err := s.readable(); err != nil {
			c.mu.Unlock()
			if err == io.EOF {
				return total, nil
			}
			return total, err
		}
		first, n := s.rhead, 0
		last := first
		vec = vec[:0]
		for g := first; g != nil && n < most; g = g.next {
			vec = append(vec, g.data)
			n += len(g.data)
			last = g
		}
		s.rhead, last.next = last.next, nil
		if s.rhead == nil {
			s.rtail = nil
		}
		c.mu.Unlock()

		if s.meter != nil {
			err = s.meter(true, n)
		}
		if err == nil {
			work = vec // WriteTo advances the slice it is called on
			var m int64
			m, err = work.WriteTo(w)
			total += m
		}

		c.mu.Lock()
		for g := first; g != nil; {
			next := g.next
			c.pools.done(g)
			g = next
		}
		s.consume(n)
		c.unlock()
		clear(vec)
		if err != nil {
			return total, err
		}
	}
}

// consume tells both windows that n bytes were read. c.mu is held.
func (s *Stream) consume(n int) {
	c := s.c
	if s.epoch != c.epoch || n == 0 {
		return
	}
	if s.discard { // Close has settled them
		return
	}
	s.consumed += uint64(n)
	c.consume(uint64(n))
	if s.finalKnown && s.consumed == s.final {
		s.shrink()
	}
	if s.gone || s.recvDone || s.finalKnown {
		return
	}
	s.tune()
	switch r := s.raised(); {
	case r >= s.window/2:
		s.ackNow()
	case !c.scarce || r == 0:
	case r >= max(minUnread, (c.advertised-c.recvSum)/maxUnread)/2: // half of what the peer lets be unread
		s.ackNow()
	default:
		s.ackLater()
	}
}

// tune fits the window to what is read: one that is read in about a round trip limits
// the stream (DESIGN section 6). c.mu is held.
func (s *Stream) tune() {
	n := s.consumed - s.tunedFrom
	if n < s.window/2 {
		return
	}
	now := time.Now()
	if s.tuned.IsZero() {
		s.tuned, s.tunedFrom = now, s.consumed
		s.grow(soonWindow - s.window)
		return
	}
	// The rate is that of two round trips at least, since what waited for a lost segment
	// comes all at once.
	c := s.c
	span, took := c.windowTime(), now.Sub(s.tuned)
	if took < 2*min(span, c.emptyTrip()) {
		return
	}
	s.tuned, s.tunedFrom = now, s.consumed
	if float64(n)*windowTimes*float64(span) > float64(s.window)*float64(took) {
		s.grow(s.window / 2)
	}
}

// grow makes the window larger, if the session's allows it.
func (s *Stream) grow(more uint64) {
	if more = min(more, maxWindow-s.window); more <= (maxGrown-s.c.grown)/2 {
		s.window += more
		s.c.grown += more
	}
}

// raised is by how much the peer's limit could be raised.
func (s *Stream) raised() uint64 {
	if s.gone || s.recvDone || s.finalKnown || s.discard {
		return 0
	}
	return max(s.consumed+s.window, s.advertised) - s.advertised
}

// shrink gives back what the window grew by, once nothing more can come that
// nobody has read. c.mu is held.
func (s *Stream) shrink() {
	if s.epoch == s.c.epoch {
		s.c.grown -= s.window - initialWindow
	}
	s.window = initialWindow
}

// writable waits until the stream takes more. c.mu is held.
func (s *Stream) writable() error {
	c := s.c
	for {
		switch {
		case s.shut:
			return net.ErrClosed
		case s.finQueued:
			return errWriteAfterFin
		case s.err != nil:
			return s.err
		case s.werr != nil:
			return s.werr
		case s.wdead.passed():
			return os.ErrDeadlineExceeded
		case !c.full(s):
			return nil
		}
		s.waits(true)
		s.wcond.Wait()
		s.waits(false)
	}
}

// waits notes whether a writer waits for space that nobody has woken.
func (s *Stream) waits(is bool) {
	switch {
	case is && !s.waiting:
		s.c.waiting++
	case !is && s.waiting:
		s.c.waiting--
	}
	s.waiting = is
}

var errWriteAfterFin = fmt.Errorf("write after CloseWrite: %w", net.ErrClosed)

// Write queues p and returns when all of it is queued; it blocks while the
// stream's or the session's queue is full. On a relay it implies a successful
// [Stream.Reply].
func (s *Stream) Write(p []byte) (n int, err error) {
	s.writeMu.Lock()
	defer s.writeMu.Unlock()
	c := s.c
	c.mu.Lock()
	defer c.unlock()
	for {
		if err := s.writable(); err != nil {
			return n, err
		}
		if len(p) == 0 {
			return n, nil
		}
		s.ensureReply()
		m := s.push(p, max(bigBuffer, c.share()-s.unsent))
		n += m
		p = p[m:]
	}
}

// push queues up to about most bytes of p. c.mu is held.
func (s *Stream) push(p []byte, most int) (n int) {
	p = p[:min(len(p), most)]
	for len(p) > 0 {
		ch := s.tail
		if ch == nil || ch.taken || ch.fin || ch.free() == 0 {
			ch = s.c.pools.chunk(len(p))
			s.append(ch)
		}
		m := min(len(p), ch.free())
		copy(ch.buf[ch.end:], p[:m])
		ch.end += m
		s.wrote(m)
		n += m
		p = p[m:]
	}
	s.c.ready(s)
	return n
}

// append puts a chunk that is not sent yet at the end.
func (s *Stream) append(ch *chunk) {
	ch.off = s.written
	if s.tail == nil {
		s.head = ch
	} else {
		s.tail.next = ch
	}
	s.tail = ch
	if s.next == nil {
		s.next = ch
	}
}

func (s *Stream) wrote(n int) {
	s.written += uint64(n)
	s.unsent += n
	s.c.unsent += n
	s.c.stored += n
}

// ReadFrom queues what r returns until its end. It blocks while the queues are
// full, before it reads. If r is a TCP connection on a system that can tell,
// no buffer is held while it is silent; else a small one.
func (s *Stream) ReadFrom(r io.Reader) (total int64, err error) {
	c := s.c
	src := newSource(r)
	for {
		c.mu.Lock()
		err := s.writable()
		c.mu.Unlock()
		if err != nil {
			return total, err
		}
		ch, err := src.read(&c.pools)
		if ch != nil && s.meter != nil {
			if refused := s.admit(ch); refused != nil {
				return total, refused
			}
		}
		if ch != nil {
			c.mu.Lock()
			for next := ch; next != nil; {
				ch, next = next, next.next
				ch.next = nil
				total += int64(ch.len())
				if werr := s.enqueue(ch, src); werr != nil {
					err = werr
				}
			}
			c.unlock()
		}
		if err == io.EOF {
			return total, nil
		}
		if err != nil {
			return total, err
		}
	}
}

// admit asks the meter for what was read, and frees it if it may not move.
func (s *Stream) admit(ch *chunk) error {
	n := 0
	for c := ch; c != nil; c = c.next {
		n += c.len()
	}
	err := s.meter(false, n)
	if err != nil {
		s.c.mu.Lock()
		for ch != nil {
			next := ch.next
			s.c.pools.put(ch)
			ch = next
		}
		s.c.mu.Unlock()
	}
	return err
}

// enqueue queues a chunk that was filled outside. A small one is copied, so
// that it does not hold a large buffer until it is acknowledged. c.mu is held.
func (s *Stream) enqueue(ch *chunk, src *source) error {
	switch {
	case s.shut:
		return net.ErrClosed
	case s.finQueued:
		return errWriteAfterFin
	case s.err != nil:
		return s.err
	case s.werr != nil:
		return s.werr
	}
	s.ensureReply()
	n := ch.len()
	tail := s.tail
	if n <= smallBuffer-room && (cap(ch.buf) > smallBuffer || tail != nil && !tail.taken && tail.free() >= n) {
		s.push(ch.buf[room:ch.end], n)
		src.giveBack(ch)
		return nil
	}
	s.append(ch)
	s.wrote(n)
	s.c.ready(s)
	return nil
}

// CloseWrite sends FIN after all that was written; reading goes on.
func (s *Stream) CloseWrite() error {
	c := s.c
	c.mu.Lock()
	defer c.unlock()
	switch {
	case s.shut:
		return net.ErrClosed
	case s.err != nil:
		return s.err
	case s.werr != nil:
		return s.werr
	}
	s.ensureReply()
	s.finish()
	return nil
}

// finish queues FIN. c.mu is held.
func (s *Stream) finish() {
	if s.finQueued || s.reset != idle {
		return
	}
	s.finQueued = true
	if ch := s.tail; ch != nil && !ch.taken {
		ch.fin = true
	} else {
		ch = s.c.pools.chunk(0)
		ch.fin = true
		s.append(ch)
	}
	s.c.ready(s)
	s.wcond.Broadcast()
}

// Close releases the stream. Without a preceding CloseWrite and a Read that
// returned io.EOF it aborts what is not yet acknowledged.
func (s *Stream) Close() error {
	c := s.c
	c.mu.Lock()
	defer c.unlock()
	if s.shut {
		return nil
	}
	s.shut = true
	s.rdead.stop()
	s.wdead.stop()
	s.rcond.Broadcast()
	s.wcond.Broadcast()
	if s.gone {
		s.drop()
		return nil
	}
	if s.finQueued && s.eof {
		return nil
	}
	s.quit(uint64(flow.DetailNone), s.keep)
	return nil
}

// quit abandons what is not finished: STOP for the receiving direction, RESET
// for the sending one unless keepSend. c.mu is held.
func (s *Stream) quit(code uint64, keepSend bool) {
	if s.gone {
		return
	}
	if !s.named && !keepSend { // the peer has never heard of it
		s.clearSend()
		s.sendDone, s.recvDone = true, true
		s.drop()
		s.c.remove(s)
		return
	}
	if !s.recvDone {
		s.stop, s.stopCode = due, code
		s.addChore()
	}
	s.drop()
	if !keepSend {
		s.abort(code)
	}
	s.c.retire(s)
}

// abort replaces all that is unacknowledged by RESET. c.mu is held.
func (s *Stream) abort(code uint64) {
	if s.sendDone || s.reset != idle {
		return
	}
	s.clearSend()
	s.reset, s.resetCode = due, code
	s.addChore()
	s.wcond.Broadcast()
}

// clearSend frees all chunks.
func (s *Stream) clearSend() {
	c := s.c
	for ch := s.head; ch != nil; {
		next := ch.next
		c.stored -= ch.len()
		c.uncarry(ch)
		c.pools.put(ch)
		ch = next
	}
	s.head, s.tail, s.next, s.resend = nil, nil, nil, nil
	c.unsent -= s.unsent
	s.unsent = 0
	c.freed()
}

// drop throws away what was received and ignores what will be. c.mu is held.
func (s *Stream) drop() {
	c := s.c
	for g := s.rhead; g != nil; {
		next := g.next
		c.pools.done(g)
		g = next
	}
	s.rhead, s.rtail = nil, nil
	s.dropGaps()
	if !s.discard {
		s.discard = true
		s.shrink()
		if s.epoch == c.epoch {
			c.consume(s.high - s.consumed)
		}
		s.consumed = s.high
	}
	if !s.recvDone {
		s.skip()
	}
}

func (s *Stream) dropGaps() {
	s.c.gaps -= len(s.ooo)
	for _, g := range s.ooo {
		s.c.pools.done(g)
	}
	s.ooo = nil
}

// skip acknowledges all that was seen of a stream that nobody reads, gaps too:
// what is missing need not come any more.
func (s *Stream) skip() {
	s.rcvd = s.high
	if s.finalKnown {
		s.received()
	}
}

// received ends the receiving direction.
func (s *Stream) received() {
	s.recvDone = true
	if s.stop != done {
		s.stop = done
	}
	s.rcond.Broadcast()
}

// up is the received-up-to of an ACK: FIN and RESET count as one.
func (s *Stream) up() uint64 {
	if s.recvDone {
		return s.final + 1
	}
	return s.rcvd
}

// Reply says on a relay how the opening ended. It comes before all data and is
// called once; with a code other than [flow.Succeeded] it also ends the sending
// direction, and a following Close leaves the reply on its way.
func (s *Stream) Reply(code flow.Code, detail flow.Detail) error {
	c := s.c
	c.mu.Lock()
	defer c.unlock()
	switch {
	case s.local || s.replied:
		return errors.New("reply was sent already")
	case s.shut:
		return net.ErrClosed
	case s.err != nil:
		return s.err
	case s.werr != nil:
		return s.werr
	}
	s.answer(code, detail)
	return nil
}

func (s *Stream) answer(code flow.Code, detail flow.Detail) {
	s.replied = true
	s.push([]byte{byte(code), byte(detail)}, 2)
	if code != flow.Succeeded {
		s.keep = true
		s.finish()
	}
}

func (s *Stream) ensureReply() {
	if !s.local && !s.replied && s.kind == kindProxy {
		s.answer(flow.Succeeded, flow.DetailNone)
	}
}

// ---- scheduling; c.mu is held ----

// sendable reports whether a carrier could take something.
func (s *Stream) sendable() bool {
	if s.gone || s.reset != idle {
		return false
	}
	if len(s.resend) > 0 {
		return !s.heldBack()
	}
	ch := s.next
	return ch != nil && ch.off+uint64(ch.len()) <= s.limit && !s.blocked
}

// heldBack reports whether what the stream has to send again has to wait.
func (s *Stream) heldBack() bool { return s.c.held && s.kind != kindControl }

// split cuts a chunk that no carrier has after n bytes of data. The chunk that is
// left in its place has those, and is the one returned. c.mu is held.
func (s *Stream) split(ch *chunk, n int) *chunk {
	c := s.c
	if ch.held > 0 { // the writer of a dead carrier still reads it
		whole := c.pools.chunk(ch.len())
		whole.next, whole.off, whole.fin, whole.taken = ch.next, ch.off, ch.fin, ch.taken
		whole.end = room + copy(whole.buf[room:], ch.buf[ch.base:ch.end])
		link := &s.head
		for *link != ch {
			link = &(*link).next
		}
		*link = whole
		if s.tail == ch {
			s.tail = whole
		}
		c.pools.put(ch)
		ch = whole
	}
	// What is left keeps the buffer, the first bytes move to one of their size.
	rest := c.pools.chunk(n)
	copy(rest.buf[room:], ch.buf[ch.base:ch.base+n])
	ch.buf, rest.buf = rest.buf, ch.buf
	ch.pooled, rest.pooled = rest.pooled, ch.pooled
	rest.next, rest.off, rest.base, rest.end = ch.next, ch.off+uint64(n), ch.base+n, ch.end
	rest.fin, rest.taken = ch.fin, ch.taken
	ch.next, ch.base, ch.end, ch.fin, ch.sealed = rest, room, room+n, false, false
	if s.tail == ch {
		s.tail = rest
	}
	return ch
}

// take hands the next chunk to a carrier, at most most bytes of its data, or nil if
// a window is closed.
func (s *Stream) take(a *attachment, most int) *chunk {
	c := s.c
	for len(s.resend) > 0 {
		if s.heldBack() {
			return nil
		}
		ch := s.resend[0]
		if ch.on == nil {
			if ch.len() > most {
				ch = s.split(ch, most)
				s.resend[0] = ch.next
			} else {
				s.resend = s.resend[1:]
			}
			if !ch.sealed {
				ch.seal(s.id)
			}
			if s.kind != kindControl {
				c.sentAgain += ch.len()
			}
			c.carry(ch, a)
			return ch
		}
		s.resend = s.resend[1:]
	}
	ch := s.next
	if ch == nil || s.reset != idle {
		return nil
	}
	n := uint64(min(ch.len(), most))
	if ch.off+n > s.limit {
		return nil
	}
	if c.sentSum+n > c.peerWindow || s.greedy(n) {
		s.blocked = true
		c.blocked = append(c.blocked, s)
		return nil
	}
	if !s.named {
		c.name(s)
	}
	if ch.len() > most {
		ch = s.split(ch, most)
	}
	ch.seal(s.id)
	ch.taken = true
	s.next = ch.next
	s.sent = ch.off + n
	c.sentSum += n
	c.up += n
	s.unsent -= int(n)
	c.unsent -= int(n)
	if s.waiting && s.unsent <= c.share()/2 {
		s.wcond.Broadcast()
	}
	c.carry(ch, a)
	return ch
}

// greedy reports whether n more bytes would leave too little of the session
// window to others. What may be unread at the peer is taken to be what lies in
// the last first-window below the limit: windows that grew are the receiver's to
// bound.
func (s *Stream) greedy(n uint64) bool {
	unread := s.sent + n - min(s.limit-initialWindow, s.sent+n)
	return n > 0 && s.kind != kindControl && unread > minUnread && unread > (s.c.peerWindow-s.c.sentSum)/maxUnread
}

// gotAck frees what the peer has, and moves the window.
func (s *Stream) gotAck(up, limit uint64, now time.Time) error {
	c := s.c
	most := s.sent
	if s.resetSaid || s.finQueued && s.next == nil && (s.head == nil || s.head.taken) {
		most++
	}
	if up > most {
		return violation("ACK of what was never sent")
	}
	for len(s.resend) > 0 && s.resend[0].last() <= up {
		s.resend = s.resend[1:]
	}
	for s.head != nil && s.head != s.next && s.head.last() <= up {
		ch := s.head
		if s.head = ch.next; s.head == nil {
			s.tail = nil
		}
		if ch.fin {
			s.sendDone = true
		}
		c.stored -= ch.len()
		if a := ch.on; a != nil {
			a.delivered.add(ch.len(), now)
		}
		c.uncarry(ch)
		c.pools.put(ch)
	}
	if s.resetSaid && up == s.sent+1 {
		s.reset, s.sendDone = done, true
	}
	if limit > s.limit {
		s.limit = min(limit, wire.MaxVarint)
		if s.blocked {
			s.blocked = false
			c.blocked = slices.DeleteFunc(c.blocked, func(b *Stream) bool { return b == s })
		}
	}
	c.freed()
	c.ready(s)
	c.retire(s)
	return nil
}

// gotSeen notes what the peer has beyond a gap.
func (s *Stream) gotSeen(from, to uint64, now time.Time) error {
	if to > s.sent {
		return violation("SEEN of what was never sent")
	}
	for ch := s.head; ch != nil && ch != s.next && ch.last() <= to; ch = ch.next {
		if ch.off >= from && !ch.seen && !ch.fin {
			ch.seen = true
			if ch.on != nil {
				ch.on.delivered.add(ch.len(), now)
			}
			s.c.uncarry(ch)
		}
	}
	s.resend = slices.DeleteFunc(s.resend, func(ch *chunk) bool { return ch.seen })
	return nil
}

// ---- receiving; c.mu is held ----

// gotData takes a STREAM frame that came over a. from is the buffer that data lies in.
func (s *Stream) gotData(a *attachment, off uint64, data []byte, fin bool, from *buffer) error {
	c := s.c
	end := off + uint64(len(data))
	if s.finalKnown && (end > s.final || fin && end != s.final) || fin && end < s.high {
		return violation("stream's final offset changed")
	}
	if end > s.advertised {
		return violation("stream window exceeded")
	}
	if s.recvDone {
		c.gotAgain += len(data)
		s.ackLater()
		return nil
	}
	if err := s.seen(end); err != nil {
		return err
	}
	if fin {
		s.final, s.finalKnown = end, true
	}
	switch {
	case s.discard:
		c.gotAgain += len(data) // or in vain
		c.consume(s.high - s.consumed)
		s.consumed = s.high
		s.skip()
	case off > s.rcvd:
		if err := s.insert(a, off, data, from); err != nil {
			return err
		}
	case end > s.rcvd:
		c.gotAgain += int(s.rcvd - off)
		s.deliver(data[s.rcvd-off:], from)
		for len(s.ooo) > 0 && s.ooo[0].off <= s.rcvd {
			g := s.ooo[0]
			s.ooo = s.ooo[1:]
			c.gaps--
			c.gotAgain += int(min(s.rcvd, g.end()) - g.off)
			if g.end() > s.rcvd {
				s.deliver(g.data[s.rcvd-g.off:], g.from)
			}
			c.pools.done(g)
		}
		if len(s.ooo) == 0 {
			s.ooo = nil
		}
	default:
		c.gotAgain += len(data)
	}
	if s.finalKnown && s.rcvd == s.final && !s.recvDone {
		s.received()
	}
	s.ackLater()
	if s.rcvd-min(s.rcvd, s.acked) >= s.window/2 {
		s.ackNow()
	}
	if err := c.progress(s); err != nil {
		return err
	}
	c.retire(s)
	return nil
}

// seen settles the session window for an offset.
func (s *Stream) seen(end uint64) error {
	if end <= s.high {
		return nil
	}
	d := end - s.high
	s.high = end
	s.c.down += d
	if s.c.heard += d; s.c.heard >= maxHeard {
		s.c.heard, s.c.ackFlush = 0, true // the peer stores it until it hears
		s.c.wake()
	}
	if s.c.recvSum += d; s.c.recvSum > s.c.advertised {
		return violation("session window exceeded")
	}
	s.c.gauge()
	return nil
}

// deliver appends data at s.rcvd to what can be read. A large piece stays where
// it is; a small one is copied tight, or behind the previous copy.
func (s *Stream) deliver(data []byte, from *buffer) {
	s.rcvd += uint64(len(data))
	if s.local && s.kind == kindProxy && s.replyLen < len(s.reply) {
		n := copy(s.reply[s.replyLen:], data)
		s.replyLen += n
		data = data[n:]
		s.consumed += uint64(n)
		s.c.consume(uint64(n))
		if s.replyLen == len(s.reply) {
			s.replied = true
			if code := flow.Code(s.reply[0]); code != flow.Succeeded {
				s.rerr = &flow.OpenError{Code: code, Detail: flow.Detail(s.reply[1])}
			}
			s.rcond.Broadcast()
		}
	}
	if len(data) == 0 {
		return
	}
	off := s.rcvd - uint64(len(data))
	if from == nil || len(data) < bigBuffer/2 {
		if t := s.rtail; t != nil && t.from == nil && len(t.data)+len(data) <= bigBuffer {
			t.data = append(t.data, data...)
			return
		}
		data, from = append(make([]byte, 0, len(data)), data...), nil
	} else {
		from.refs++
	}
	g := s.c.pools.segment(off, data, from)
	if s.rtail == nil {
		s.rhead = g
		s.rcond.Broadcast()
	} else {
		s.rtail.next = g
	}
	s.rtail = g
}

// insert keeps data that lies beyond a gap.
func (s *Stream) insert(a *attachment, off uint64, data []byte, from *buffer) error {
	if len(data) == 0 {
		return nil
	}
	i, _ := slices.BinarySearchFunc(s.ooo, off+1, func(g *segment, off uint64) int { return cmp.Compare(g.off, off) })
	if i > 0 {
		p := s.ooo[i-1]
		if p.end() > off {
			skip := p.end() - off
			s.c.gotAgain += int(min(skip, uint64(len(data))))
			if skip >= uint64(len(data)) {
				return nil
			}
			off, data = p.end(), data[skip:]
		}
		if p.end() == off && p.from == nil && len(p.data)+len(data) <= bigBuffer && len(data) < bigBuffer/2 &&
			(i == len(s.ooo) || s.ooo[i].off >= off+uint64(len(data))) {
			p.data = append(p.data, data...)
			return nil
		}
	}
	// Whatever follows inside the range is covered by it, or sticks out behind.
	end := off + uint64(len(data))
	j := i
	for j < len(s.ooo) && s.ooo[j].end() <= end {
		s.c.gotAgain += len(s.ooo[j].data)
		s.c.pools.done(s.ooo[j])
		j++
	}
	if j < len(s.ooo) && s.ooo[j].off < end {
		s.c.gotAgain += int(end - s.ooo[j].off)
		data = data[:s.ooo[j].off-off]
	}
	if s.c.gaps += 1 - (j - i); s.c.gaps > maxGaps {
		return violation("too many gaps")
	}
	if len(data) < bigBuffer/2 {
		data, from = append(make([]byte, 0, len(data)), data...), nil
	} else {
		from.refs++
	}
	g := s.c.pools.segment(off, data, from)
	g.on = a
	s.ooo = slices.Replace(s.ooo, i, j, g)
	return nil
}

// gotReset takes a RESET frame.
func (s *Stream) gotReset(code, final uint64) error {
	if s.finalKnown && final != s.final || final < s.high {
		return violation("stream's final offset changed")
	}
	if final > s.advertised {
		return violation("stream window exceeded")
	}
	if err := s.seen(final); err != nil {
		return err
	}
	defer s.c.retire(s)
	s.ackLater()
	if s.recvDone {
		return nil
	}
	s.final, s.finalKnown = final, true
	s.rcvd = final
	s.drop()
	s.received()
	if s.rerr == nil {
		e := &ResetError{Detail: detail(code)}
		if s.rerr = e; s.local && s.kind == kindProxy && !s.replied {
			s.rerr = openError(e)
		}
	}
	s.rcond.Broadcast()
	if s.kind != kindProxy {
		s.abort(0)
	}
	return nil
}

// gotStop takes a STOP frame.
func (s *Stream) gotStop(code uint64) {
	if s.sendDone || s.reset != idle {
		return
	}
	s.werr = &ResetError{Detail: detail(code)}
	s.abort(code)
}

// detail is a RESET's or STOP's code as a detail: they share their values
// (docs/PROTOCOL.md, "Stream reply").
func detail(code uint64) flow.Detail {
	if code > 255 {
		return flow.DetailNone
	}
	return flow.Detail(code)
}

// kill ends both directions at once, without a word to the peer.
func (s *Stream) kill(err error) {
	if s.gone {
		return
	}
	s.clearSend()
	s.drop()
	if s.err == nil {
		s.err = err
	}
	s.sendDone, s.recvDone = true, true
	s.rcond.Broadcast()
	s.wcond.Broadcast()
	s.c.remove(s)
}

// ---- acknowledgements; c.mu is held ----

func (s *Stream) ackLater() {
	s.ackDue = true
	if !s.lazy {
		s.lazy = true
		s.c.lazy = append(s.c.lazy, s)
		s.c.schedule()
	}
}

func (s *Stream) ackNow() {
	s.ackDue = true
	s.addChore()
}

// ackAnew is ackNow when ACKs may have been lost.
func (s *Stream) ackAnew() {
	s.tell = len(s.ooo) > 0
	s.ackNow()
}

func (s *Stream) addChore() {
	if !s.chore {
		s.chore = true
		s.c.chores = append(s.c.chores, s)
		s.c.wake()
	}
}

// ack is the frame that tells the peer how far we are.
func (s *Stream) ack() wire.Frame {
	s.ackDue = false
	s.acked = s.up()
	if !s.recvDone {
		s.advertised = max(s.advertised, min(s.consumed+s.window, wire.MaxVarint-1))
	}
	return wire.Frame{Type: wire.Ack, ID: s.id, Offset: s.acked, Limit: s.advertised}
}
