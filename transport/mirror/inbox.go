package mirror

import (
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"busel/internal/fault"
	"busel/internal/wire"
	"busel/obfs/records"
	"busel/transport"
)

// turn is the right to write to a connection: genuine and covert records take
// turns, whole records at a time. It is a semaphore, not a mutex, because it is
// held over the write, and by the relay until a genuine record has passed whole.
type turn chan struct{}

func newTurn() turn {
	t := make(turn, 1)
	t <- struct{}{}
	return t
}

func (t turn) take() { <-t }
func (t turn) give() { t <- struct{}{} }

// ending is the first reason why something ended.
type ending struct {
	once sync.Once
	dead chan struct{} // closed at the end
	err  error         // valid when dead is closed
}

func newEnding() *ending { return &ending{dead: make(chan struct{})} }

func (e *ending) end(err error) {
	e.once.Do(func() {
		e.err = err
		close(e.dead)
	})
}

func (e *ending) ended() bool {
	select {
	case <-e.dead:
		return true
	default:
		return false
	}
}

// inbox hands the plaintext of covert records from the goroutine that reads the
// connection to the caller of ReadFrames: the caller lends its buffer, and the
// records are decrypted straight into it.
type inbox struct {
	*ending
	lend chan []byte // from the caller
	got  chan int    // to the caller: bytes in its buffer

	dst []byte // the lent buffer, on the reading side
	n   int    // bytes in it

	small [smallPlain]byte // scratch
}

func newInbox(e *ending) inbox {
	return inbox{ending: e, lend: make(chan []byte), got: make(chan int, 1)}
}

// readFrames is [transport.Carrier]'s.
func (b *inbox) readFrames(buf []byte) (int, error) {
	if len(buf) < wire.MaxFrame {
		return 0, io.ErrShortBuffer
	}
	select {
	case b.lend <- buf:
	case <-b.dead:
		return 0, b.err
	}
	// The reading side has the buffer now; it gives it back at its end, too.
	if n := <-b.got; n > 0 {
		return n, nil
	}
	<-b.dead
	return 0, b.err
}

// room returns a lent buffer's free part of at least n bytes, or nil at the end.
func (b *inbox) room(n int) []byte {
	if b.dst != nil && len(b.dst)-b.n < n {
		b.deliver()
	}
	if b.dst == nil {
		if b.ended() {
			return nil
		}
		select {
		case b.dst = <-b.lend:
			b.n = 0
		case <-b.dead:
			return nil
		}
	}
	return b.dst[b.n:]
}

// smallPlain is the most plaintext of a record that is looked at before a new
// buffer is asked for.
const smallPlain = 512

// take opens rec, l's next record, for the caller of readFrames. false means that
// it is not the other end's.
func (b *inbox) take(l *lane, rec []byte) bool {
	size := len(rec) - prefixLen - tagLen
	if size <= smallPlain && (b.dst == nil || len(b.dst)-b.n < size) {
		return b.takeSmall(l, rec, size)
	}
	dst := b.room(size)
	if dst == nil {
		return false
	}
	n, err := l.open(dst, rec)
	if err != nil {
		return false
	}
	b.n += n
	return true
}

// takeSmall drops a record that is all padding, as the short ones of a body are,
// without waking anybody.
func (b *inbox) takeSmall(l *lane, rec []byte, size int) bool {
	if _, err := l.open(b.small[:], rec); err != nil {
		return false
	}
	plain := b.small[:size]
	var f wire.Frame
	if n, err := wire.Parse(plain, &f); err == nil && n == size && f.Type == wire.Padding {
		return true
	}
	dst := b.room(size)
	if dst == nil {
		return false
	}
	b.n += copy(dst, plain)
	return true
}

// deliver gives the lent buffer back if something is in it.
func (b *inbox) deliver() {
	if b.dst != nil && b.n > 0 {
		b.dst = nil
		b.got <- b.n
	}
}

// finish gives the lent buffer back in any case; its caller waits for the
// ending if nothing is in it.
func (b *inbox) finish() {
	if b.dst != nil {
		b.dst = nil
		b.got <- b.n
	}
}

// recordsPerWrite is how many full covert records are sealed for one write to the
// connection: more gain little (docs/PROTOCOL.md, section 3.3, rule 10).
const recordsPerWrite = 4

// minConfirm is more than a control frame of HTTP/2 has, so that a record of padding is as
// long as a request.
const minConfirm = 35

// writeRoom holds them and the short ones between.
const writeRoom = recordsPerWrite*(headerLen+maxRecord) + 1<<10

// outbox seals frames into covert records and writes them. seal state is
// guarded by the turn.
type outbox struct {
	*ending
	turn   turn
	conn   net.Conn
	lane   lane
	cut    records.Cutter // guarded by the turn
	queue  queue          // of the one caller of writeFrames
	buf    []byte
	unsent *transport.Unsent // made with buf
	stop   bool              // nothing may be inserted any more; guarded by the turn
	sent   func(n int)
	// broke is called, with the turn held, when a write failed in the middle of a
	// record: nothing genuine can follow it.
	broke   func(error)
	guise   *guise      // of the client's bursts; nil at the relay
	busy    atomic.Bool // a covert write is under way
	hurried atomic.Bool // hurry has set a deadline
}

var errFrameLen = errors.New("frame is shorter than 2 or longer than 16377 bytes")

// writeFrames is [transport.Carrier]'s.
func (o *outbox) writeFrames(batch []transport.Frame) error {
	for _, f := range batch {
		if len(f.Data) < 2 || len(f.Data) > maxPlain {
			return errFrameLen
		}
	}
	q := &o.queue
	q.put(batch)
	defer q.drop()
	for q.size > 0 {
		if err := o.hold(func() error { return o.write(q) }); err != nil {
			return err
		}
	}
	return nil
}

// confirm sends a record of padding.
func (o *outbox) confirm() error {
	return o.hold(func() error {
		b, err := o.lane.seal(nil, pad(nil, o.short(minConfirm)-overhead))
		if err != nil {
			return err
		}
		o.cut.Passed()
		return o.flush(b)
	})
}

// hold calls send when it is our turn, unless nothing may be sent any more.
func (o *outbox) hold(send func() error) error {
	select {
	case <-o.turn:
	case <-o.dead:
		return o.err
	}
	defer o.turn.give()
	if o.ended() {
		return o.err
	}
	if o.stop {
		return net.ErrClosed
	}
	return send()
}

// write sends the beginning of q in one write.
func (o *outbox) write(q *queue) (err error) {
	if o.buf == nil {
		o.buf = make([]byte, 0, writeRoom)
		o.unsent = transport.NewUnsent(o.conn)
	}
	o.unsent.Adapt()
	b := o.buf[:0]
	// Control frames alone are no part of a handshake, and where the observer is they may be in one
	// burst with what is.
	talk := o.guise != nil && !q.control()
	for {
		size, body := o.next(q)
		last := size == q.size+overhead // nothing is left behind it
		if last {
			size = o.short(size)
		}
		if size == 0 || len(b)+headerLen+size > writeRoom {
			return o.flush(b)
		}
		start, after := len(b), 0
		if last && talk {
			inside := 0
			inside, after = o.guise.fill(start + headerLen + size)
			size += inside
		}
		plain := q.whole(size - overhead)
		if plain == nil {
			at := start + prefixLen
			plain = q.fill(b[at:at], size-overhead)
		}
		if fault.FixedRecords && o.lane.dir == dirRelay {
			plain = filled(plain)
		}
		if b, err = o.lane.seal(b, plain); err != nil {
			o.end(&transport.CarrierError{Err: err})
			return o.err
		}
		if body {
			o.cut.Sent(len(b) - start - headerLen)
		} else {
			o.cut.Passed()
		}
		if after > 0 {
			at := len(b) + prefixLen
			if b, err = o.lane.seal(b, pad(b[at:at], after-headerLen-overhead)); err != nil {
				o.end(&transport.CarrierError{Err: err})
				return o.err
			}
			o.cut.Passed()
		}
	}
}

// short is how long a record of n bytes is to be that nothing is left behind: no shorter than
// a browser's request or a server's answer, unless it is as long as a browser's control frame.
func (o *outbox) short(n int) int {
	if o.lane.dir == dirClient {
		return records.Request(n, rand.IntN)
	}
	return records.Answer(n, rand.IntN)
}

// next is rule 10, and the one place where it is applied: how long the next covert
// record is, 0 for none, and whether it belongs to a body or is a control frame's
// beside it.
func (o *outbox) next(q *queue) (size int, body bool) {
	if due := o.cut.Next(0); due > 0 {
		return due, true
	}
	if q.size == 0 {
		return 0, false
	}
	pending := q.size + overhead
	if q.control() && pending <= maxRecord {
		return pending, false
	}
	return o.cut.Next(pending), true
}

// filled is a fault: plain with as much padding as a record has room for.
func filled(plain []byte) []byte {
	room := maxPlain - len(plain)
	for n := room; n >= 0; n-- {
		padding := (&wire.Frame{Type: wire.Padding, Data: make([]byte, n)}).Append(nil)
		if len(padding) <= room {
			return append(slices.Clone(plain), padding...)
		}
	}
	return plain
}

// flush writes whole records; the turn is held.
func (o *outbox) flush(b []byte) error {
	o.busy.Store(true)
	if o.guise != nil {
		o.guise.says(len(b))
	}
	m, err := o.conn.Write(b)
	o.busy.Store(false)
	o.sent(m)
	if o.hurried.Swap(false) {
		_ = o.conn.SetWriteDeadline(time.Time{}) // for what is genuine
	}
	if err != nil {
		o.stop = true
		o.broke(err)
		return &transport.CarrierError{Failure: classify(err), Err: bare(err)}
	}
	return nil
}

// await waits for a write that is under way, but not for long. The kernel tells of a reset
// once: if that was the writer, a reader sees no more than the end.
func (o *outbox) await() {
	t := time.NewTimer(writeGrace)
	defer t.Stop()
	select {
	case <-o.turn:
		o.turn.give()
	case <-t.C:
	}
}

// hurry bounds a covert write that is under way; the ending must have come.
func (o *outbox) hurry() {
	if o.busy.Load() {
		o.hurried.Store(true)
		_ = o.conn.SetWriteDeadline(time.Now().Add(writeGrace))
	}
}
