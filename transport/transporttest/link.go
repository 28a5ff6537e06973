// Package transporttest holds what tests of carriers and of their users share:
// carriers in memory with a programmable censor between their ends ([Link]), and
// a conformance suite that every carrier passes ([TestCarrier]).
//
// Everything here waits on channels, conditions and package time only, so it
// works inside a testing/synctest bubble.
package transporttest

import (
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"syscall"
	"time"

	"busel/internal/wire"
	"busel/transport"
)

// Side is one end of a [Link].
type Side int

// The two ends. What travels up goes from the client to the relay.
const (
	Client Side = 0
	Relay  Side = 1
)

// Peer is the other side.
func (s Side) Peer() Side { return 1 - s }

// LinkConfig is what the path between two carriers is like. The zero value is a
// fast path without faults.
type LinkConfig struct {
	Kind     string        // default "memory"
	Delay    time.Duration // one way
	Capacity int           // bytes on the way in each direction before writes block; default 256 KiB
	// Rate is how many bytes a second pass in each direction; 0 is no limit. What
	// waits for its turn is on the way.
	Rate float64
	// Stall, if set, is asked once for each frame how much longer it takes, as what
	// was lost and sent again does; those behind it wait.
	Stall func() time.Duration
	// FreezeAfter is how many bytes pass, both directions summed, before nothing
	// does any more, without a word to anybody; the frame in which that falls is
	// lost. 0 is never.
	FreezeAfter int64
	// CutAfter kills the link when that many bytes have been written towards
	// the indexed side; the frame in which the cut falls is lost. 0 is never.
	CutAfter [2]int64
	// CutNotice says who notices such a cut: both if it is empty.
	CutNotice []Side
}

// Errors with which a censored carrier ends.
var (
	ErrKilled = errors.New("killed by the censor")
	errFull   = errors.New("buffer is shorter than the longest frame")
)

// Link is a pair of carriers with a censor between them. Its methods may be
// called at any time, from any goroutine.
type Link struct {
	mu   sync.Mutex
	cfg  LinkConfig
	ends [2]*end
	pool sync.Pool

	sum    int64 // bytes written in both directions
	silent bool  // nothing passes any more
}

// end is one side's carrier, and what is on its way to it.
type end struct {
	l      *Link
	side   Side
	cond   sync.Cond
	in     []parcel
	size   int   // bytes in in
	passed int64 // bytes ever written towards this side
	frozen bool  // nothing is delivered to this side
	deaf   bool  // what is written towards this side vanishes
	closed bool  // by its owner
	eof    bool  // the peer closed: after in comes io.EOF
	err    error // what its owner sees from now on
	timer  *time.Timer
	free   time.Time // when what is on its way to this side has passed
}

// parcel is a batch on its way. The slices are advanced as it is read; store
// keeps their arrays.
type parcel struct {
	data  []byte
	lens  []int
	at    time.Time
	store *store
}

type store struct {
	data []byte
	lens []int
}

// NewLink returns a link. Close ends it.
func NewLink(cfg LinkConfig) *Link {
	if cfg.Kind == "" {
		cfg.Kind = "memory"
	}
	if cfg.Capacity <= 0 {
		cfg.Capacity = 256 << 10
	}
	l := &Link{cfg: cfg}
	for i := range l.ends {
		l.ends[i] = &end{l: l, side: Side(i)}
		l.ends[i].cond.L = &l.mu
	}
	return l
}

// Carrier is the carrier at one side.
func (l *Link) Carrier(s Side) transport.Carrier { return l.ends[s] }

// Kill ends the link now: what is on the way is lost, both sides notice.
func (l *Link) Kill() { l.KillNoticed(Client, Relay) }

// KillNoticed ends the link now. Only the sides given notice; for another,
// reads block and writes vanish until its owner closes.
func (l *Link) KillNoticed(sides ...Side) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.kill(sides)
}

func (l *Link) kill(sides []Side) {
	for _, e := range l.ends {
		e.deaf = true
		e.clear()
	}
	for _, s := range sides {
		l.ends[s].fail()
	}
	l.broadcast()
}

// Zombie makes one side notice the end of the link, while what is on its way
// to the other is still delivered, late.
func (l *Link) Zombie(notices Side) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ends[notices].fail()
	l.ends[notices].deaf = true
	l.ends[notices].clear()
	l.broadcast()
}

// Freeze stops delivery to one side, until Thaw. Writes towards it go on until
// the capacity is used up.
func (l *Link) Freeze(to Side) { l.setFrozen(to, true) }

// Thaw delivers what was held up.
func (l *Link) Thaw(to Side) { l.setFrozen(to, false) }

func (l *Link) setFrozen(to Side, frozen bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ends[to].frozen = frozen
	l.broadcast()
}

// Passed is how many bytes of frames were written towards a side.
func (l *Link) Passed(to Side) int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.ends[to].passed
}

// Close closes both carriers.
func (l *Link) Close() {
	for _, e := range l.ends {
		e.Close()
	}
}

func (l *Link) broadcast() {
	for _, e := range l.ends {
		e.cond.Broadcast()
	}
}

func (e *end) fail() {
	if e.err == nil {
		e.err = &transport.CarrierError{Failure: transport.Reset, Err: ErrKilled}
	}
}

func (e *end) clear() {
	for i := range e.in {
		e.l.pool.Put(e.in[i].store)
	}
	e.in, e.size = nil, 0
}

// WriteFrames copies the batch onto the way.
func (e *end) WriteFrames(batch []transport.Frame) error {
	l := e.l
	l.mu.Lock()
	defer l.mu.Unlock()
	peer := l.ends[e.side.Peer()]
	for {
		switch {
		case e.closed:
			return net.ErrClosed
		case e.err != nil:
			return e.err
		case peer.closed && !peer.deaf && !l.silent:
			return &transport.CarrierError{Failure: transport.Reset, Err: syscall.EPIPE}
		}
		if peer.deaf || l.silent || peer.size < l.cfg.Capacity {
			break
		}
		e.cond.Wait()
	}
	p := l.parcel()
	cut := false
	for _, f := range batch {
		if len(f.Data) == 0 || len(f.Data) > wire.MaxFrame {
			panic(fmt.Sprintf("frame of %d bytes", len(f.Data)))
		}
		peer.passed += int64(len(f.Data))
		if at := l.cfg.CutAfter[peer.side]; at > 0 && peer.passed >= at {
			cut = true
			break
		}
		if l.sum += int64(len(f.Data)); l.cfg.FreezeAfter > 0 && l.sum > l.cfg.FreezeAfter {
			l.silent = true
		}
		if l.silent {
			break
		}
		p.data = append(p.data, f.Data...)
		p.lens = append(p.lens, len(f.Data))
		if l.cfg.Rate > 0 || l.cfg.Stall != nil { // each arrives by itself
			peer.send(p)
			p = l.parcel()
		}
	}
	peer.send(p)
	if cut {
		notice := l.cfg.CutNotice
		if len(notice) == 0 {
			notice = []Side{Client, Relay}
		}
		// What passed before the cut has passed: it is delivered to whoever does
		// not notice; those who do lose it, as a reset loses what was not read.
		for _, s := range notice {
			l.ends[s].fail()
			l.ends[s].clear()
		}
		for _, o := range l.ends {
			o.deaf = true
		}
		l.broadcast()
	}
	return nil
}

func (l *Link) parcel() parcel {
	st, _ := l.pool.Get().(*store)
	if st == nil {
		st = new(store)
	}
	return parcel{data: st.data[:0], lens: st.lens[:0], store: st}
}

// send puts a parcel on its way to e.
func (e *end) send(p parcel) {
	l := e.l
	p.store.data, p.store.lens = p.data, p.lens
	if len(p.lens) == 0 || e.deaf {
		l.pool.Put(p.store)
		return
	}
	if l.cfg.Delay > 0 || l.cfg.Rate > 0 || l.cfg.Stall != nil {
		p.at = time.Now()
		if p.at.Before(e.free) {
			p.at = e.free
		}
		if l.cfg.Rate > 0 {
			p.at = p.at.Add(time.Duration(float64(len(p.data)) / l.cfg.Rate * float64(time.Second)))
		}
		if l.cfg.Stall != nil {
			p.at = p.at.Add(l.cfg.Stall())
		}
		e.free = p.at
		p.at = p.at.Add(l.cfg.Delay)
	}
	e.in = append(e.in, p)
	e.size += len(p.data)
	e.cond.Broadcast()
}

// ReadFrames delivers what has come.
func (e *end) ReadFrames(buf []byte) (n int, err error) {
	if len(buf) < wire.MaxFrame {
		return 0, errFull
	}
	l := e.l
	l.mu.Lock()
	defer l.mu.Unlock()
	for {
		switch {
		case e.closed:
			return 0, net.ErrClosed
		case e.err != nil:
			return 0, e.err
		case e.frozen:
		case len(e.in) > 0:
			if n := e.take(buf); n > 0 {
				l.ends[e.side.Peer()].cond.Broadcast()
				return n, nil
			}
		case e.eof:
			return 0, &transport.CarrierError{Err: io.EOF}
		}
		e.cond.Wait()
	}
}

// take copies whole frames that are due.
func (e *end) take(buf []byte) (n int) {
	for len(e.in) > 0 {
		p := &e.in[0]
		if !p.at.IsZero() {
			if wait := time.Until(p.at); wait > 0 {
				if n == 0 {
					e.alarm(wait)
				}
				return n
			}
		}
		for len(p.lens) > 0 {
			m := p.lens[0]
			if n+m > len(buf) {
				return n
			}
			copy(buf[n:], p.data[:m])
			n += m
			e.size -= m
			p.data, p.lens = p.data[m:], p.lens[1:]
		}
		e.l.pool.Put(p.store)
		e.in[0] = parcel{}
		if e.in = e.in[1:]; len(e.in) == 0 {
			e.in = nil
		}
	}
	return n
}

func (e *end) alarm(wait time.Duration) {
	if e.timer != nil {
		e.timer.Reset(wait)
		return
	}
	e.timer = time.AfterFunc(wait, func() {
		e.l.mu.Lock()
		defer e.l.mu.Unlock()
		e.cond.Broadcast()
	})
}

// Properties describe a link.
func (e *end) Properties() transport.Properties {
	return transport.Properties{Kind: e.l.cfg.Kind, Ordered: true}
}

// Close ends the carrier; the peer reads what is on the way, then its end.
func (e *end) Close() error {
	l := e.l
	l.mu.Lock()
	defer l.mu.Unlock()
	if e.closed {
		return nil
	}
	e.closed = true
	e.clear()
	if e.timer != nil {
		e.timer.Stop()
	}
	if !e.deaf && !l.silent {
		l.ends[e.side.Peer()].eof = true
	}
	l.broadcast()
	return nil
}
