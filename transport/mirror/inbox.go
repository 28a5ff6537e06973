package mirror

import (
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"busel/internal/wire"
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

// recordsPerWrite is how many covert records are sealed for one write to the
// connection: more gain little (docs/PROTOCOL.md, section 3.3, rule 10).
const recordsPerWrite = 4

// outbox seals frames into covert records and writes them. seal state is
// guarded by the turn.
type outbox struct {
	*ending
	turn turn
	conn net.Conn
	lane lane
	buf  []byte
	stop bool // nothing may be inserted any more; guarded by the turn
	sent func(n int)
	// broke is called, with the turn held, when a write failed in the middle of a
	// record: nothing genuine can follow it.
	broke   func(error)
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
	for len(batch) > 0 {
		n, err := o.write(batch)
		if err != nil {
			return err
		}
		batch = batch[n:]
	}
	return nil
}

// write sends the beginning of batch in one write and returns how many frames.
func (o *outbox) write(batch []transport.Frame) (n int, err error) {
	select {
	case <-o.turn:
	case <-o.dead:
		return 0, o.err
	}
	defer o.turn.give()
	if o.ended() {
		return 0, o.err
	}
	if o.stop {
		return 0, net.ErrClosed
	}
	if o.buf == nil {
		o.buf = make([]byte, 0, recordsPerWrite*(headerLen+maxRecord))
	}
	b := o.buf[:0]
	for records := 0; n < len(batch) && records < recordsPerWrite; records++ {
		m, size := 1, len(batch[n].Data)
		for n+m < len(batch) && size+len(batch[n+m].Data) <= maxPlain {
			size += len(batch[n+m].Data)
			m++
		}
		plain := batch[n].Data // one frame is sealed from where it lies
		if m > 1 {
			start := len(b) + prefixLen
			plain = b[start:start]
			for _, f := range batch[n : n+m] {
				plain = append(plain, f.Data...)
			}
		}
		if b, err = o.lane.seal(b, plain); err != nil {
			o.end(&transport.CarrierError{Err: err})
			return n, o.err
		}
		n += m
	}
	return n, o.flush(b)
}

// flush writes whole records; the turn is held.
func (o *outbox) flush(b []byte) error {
	o.busy.Store(true)
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

// hurry bounds a covert write that is under way; the ending must have come.
func (o *outbox) hurry() {
	if o.busy.Load() {
		o.hurried.Store(true)
		_ = o.conn.SetWriteDeadline(time.Now().Add(writeGrace))
	}
}
