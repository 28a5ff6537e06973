package censor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"busel/scripts/lab/censor/rule"
)

// Port is where packets come from and go to, such as a TUN.
type Port interface {
	// ReadPacket reads one whole IP packet. It blocks until Close, after which
	// the error is [fs.ErrClosed].
	ReadPacket(p []byte) (int, error)
	// WritePacket delivers one; it retains nothing and may be called by several
	// goroutines. An error concerns that packet only, unless it is fs.ErrClosed.
	WritePacket(p []byte) error
	Close() error
}

// Judge decides about packets. It may change packet in place, and is called by
// two goroutines, one per direction.
type Judge interface {
	Judge(now time.Time, d rule.Direction, packet []byte) rule.Verdict
	// Counts says what each of its rules did.
	Counts() []rule.Count
}

// Config says what to forward and how.
type Config struct {
	Client, World Port
	MTU           int   // of both, in bytes; 0 means 1500
	Judge         Judge // nil lets all pass
	Up, Down      Link
	Seed          uint64       // of what is random: loss, jitter, reordering
	Log           *slog.Logger // nil for none
}

// Censor forwards packets between client and world.
type Censor struct {
	log     *slog.Logger
	ports   [2]Port
	lanes   [2]*lane // by rule.Direction
	judge   atomic.Pointer[Judge]
	capture atomic.Pointer[Capture]
	start   time.Time // zero of its clock
}

// lane is one direction.
type lane struct {
	way   rule.Direction
	out   Port
	meter meter
	alarm *alarm

	mu      sync.Mutex
	line    line
	flight  flight
	sending bool          // the sender has packets in hand
	awake   time.Duration // when the sender will look by itself; 0: it does already
}

// New checks the configuration. The caller runs what it returns.
func New(cfg Config) (*Censor, error) {
	if err := checkLinks(cfg.Up, cfg.Down); err != nil {
		return nil, err
	}
	if cfg.MTU == 0 {
		cfg.MTU = defaultMTU
	}
	c := &Censor{log: cfg.Log, ports: [2]Port{cfg.Client, cfg.World}, start: time.Now()}
	if c.log == nil {
		c.log = slog.New(slog.DiscardHandler)
	}
	for i, link := range []Link{cfg.Up, cfg.Down} {
		c.lanes[i] = &lane{
			way: rule.Direction(i), out: c.ports[1-i],
			line:   line{Link: link, random: rand.New(rand.NewPCG(cfg.Seed, uint64(i)))},
			flight: flight{mtu: cfg.MTU},
		}
	}
	c.SetJudge(cfg.Judge)
	return c, nil
}

func checkLinks(up, down Link) error {
	if err := up.Check(); err != nil {
		return fmt.Errorf("link up: %w", err)
	}
	if err := down.Check(); err != nil {
		return fmt.Errorf("link down: %w", err)
	}
	return nil
}

// SetLinks changes the links. What is under way arrives as it was promised.
func (c *Censor) SetLinks(up, down Link) error {
	if err := checkLinks(up, down); err != nil {
		return err
	}
	for i, link := range []Link{up, down} {
		l := c.lanes[i]
		l.mu.Lock()
		l.line.Link = link
		l.mu.Unlock()
	}
	return nil
}

// Links are the present ones.
func (c *Censor) Links() (up, down Link) {
	var links [2]Link
	for i, l := range c.lanes {
		l.mu.Lock()
		links[i] = l.line.Link
		l.mu.Unlock()
	}
	return links[rule.Up], links[rule.Down]
}

// SetJudge changes who decides; nil lets all pass.
func (c *Censor) SetJudge(j Judge) {
	if j == nil {
		c.judge.Store(nil)
		return
	}
	c.judge.Store(&j)
}

// SetCapture records from now on with the capture, or not if it is nil, and
// returns the one before, which the caller closes.
func (c *Censor) SetCapture(next *Capture) (before *Capture) { return c.capture.Swap(next) }

// Counters are what was done since New.
func (c *Censor) Counters() (up, down Counters) {
	return c.lanes[rule.Up].meter.read(), c.lanes[rule.Down].meter.read()
}

// Run forwards until ctx ends, or a port closes or fails. It closes the ports,
// and returns nil after ctx's end.
func (c *Censor) Run(ctx context.Context) error {
	for _, l := range c.lanes {
		var err error
		if l.alarm, err = newAlarm(); err != nil {
			return err
		}
		defer l.alarm.close()
	}
	asked := ctx
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var all sync.WaitGroup
	for i, l := range c.lanes {
		all.Go(func() { cancel(c.receive(l, c.ports[i])) })
		all.Go(func() { c.send(ctx, l) })
	}
	<-ctx.Done()
	for i, l := range c.lanes {
		l.alarm.ring()
		_ = c.ports[i].Close() // perhaps the reader's reason to end
	}
	all.Wait()
	if asked.Err() != nil {
		return nil
	}
	return context.Cause(ctx)
}

func (c *Censor) now() time.Duration { return time.Since(c.start) }

// receive schedules what comes from the port until it closes.
func (c *Censor) receive(l *lane, from Port) error {
	defer urgent()()
	for {
		p := l.buffer()
		n, err := from.ReadPacket(p.data)
		if err != nil {
			return fmt.Errorf("port: %w", err)
		}
		p.size = n
		l.meter.packets.Add(1)
		l.meter.bytes.Add(uint64(n))
		var forged []rule.Injection
		if l.way == rule.Up {
			var pass bool
			if forged, pass = c.judgePacket(l, p); !pass {
				l.recycle(p)
				p = nil
			}
		}
		if p != nil {
			c.schedule(l, p)
		}
		c.inject(forged)
	}
}

func (l *lane) buffer() *packet {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.flight.get()
}

func (l *lane) recycle(p *packet) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.flight.put(p)
}

// schedule puts a packet onto the link, or delivers it if that is over at once.
func (c *Censor) schedule(l *lane, p *packet) {
	now := c.now()
	l.mu.Lock()
	due, what := l.line.admit(now, p.size)
	if what == arrives && l.flight.full() {
		what = overflows
	}
	switch {
	case what != arrives:
		l.mu.Unlock()
		c.dropped(l, p, what)
		l.recycle(p)
	case due <= now && len(l.flight.queue) == 0 && !l.sending:
		l.mu.Unlock()
		c.deliver(l, p)
		l.recycle(p)
	default:
		l.flight.push(p, due)
		l.unlockAndWake(due)
	}
}

// unlockAndWake unlocks, and rings if the sender would sleep beyond due.
func (l *lane) unlockAndWake(due time.Duration) {
	ring := due < l.awake
	if ring {
		l.awake = 0
	}
	l.mu.Unlock()
	if ring {
		l.alarm.ring()
	}
}

func (c *Censor) dropped(l *lane, p *packet, what fate) {
	if what == lost {
		l.meter.lost.Add(1)
		c.record(l.way, wasLost, p.bytes())
	} else {
		l.meter.overflowed.Add(1)
		c.record(l.way, hasOverflowed, p.bytes())
	}
}

const (
	// batchSize is how many packets the sender takes at a time.
	batchSize = 64
	// tick is the least sleep of a sender, so that a stream costs one sleep for
	// several packets, and how much before its time a packet may be delivered,
	// which makes up for what it takes to wake.
	tick = 100 * time.Microsecond
)

// send delivers what is due until ctx ends.
func (c *Censor) send(ctx context.Context, l *lane) {
	defer urgent()()
	batch := make([]*packet, 0, batchSize)
	for ctx.Err() == nil {
		var pause time.Duration
		if batch, pause = l.take(batch, c.now()); len(batch) == 0 {
			l.alarm.sleep(pause)
			continue
		}
		now := c.now()
		for _, p := range batch {
			l.meter.lateness(now - p.due)
			c.deliver(l, p)
		}
	}
}

// take gives back the buffers of the batch before, and fills the batch with what
// is due. If that is nothing it says how long to sleep.
func (l *lane) take(batch []*packet, now time.Duration) (_ []*packet, pause time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, p := range batch {
		l.flight.put(p)
	}
	batch = l.flight.land(batch[:0], now+tick)
	l.sending, l.awake = len(batch) > 0, 0
	if l.sending {
		return batch, 0
	}
	due, any := l.flight.next()
	if !any {
		l.awake = forever
		return batch, forever
	}
	pause = max(due-tick-now, tick)
	l.awake = now + pause
	return batch, pause
}

// deliver hands a packet to the port, if the judge lets it. It keeps nothing.
func (c *Censor) deliver(l *lane, p *packet) {
	var forged []rule.Injection
	if l.way == rule.Down && !p.judged {
		var pass bool
		if forged, pass = c.judgePacket(l, p); !pass {
			c.inject(forged)
			return
		}
	}
	if err := l.out.WritePacket(p.bytes()); err != nil {
		l.meter.failed.Add(1)
		if !errors.Is(err, fs.ErrClosed) {
			c.log.Debug("packet not delivered", "err", err)
		}
	} else {
		l.meter.delivered.Add(1)
		l.meter.deliveredBytes.Add(uint64(p.size))
	}
	c.inject(forged)
}

// judgePacket asks the judge and records the verdict.
func (c *Censor) judgePacket(l *lane, p *packet) (forged []rule.Injection, pass bool) {
	p.judged = true
	var v rule.Verdict
	if j := c.judge.Load(); j != nil {
		v = (*j).Judge(c.start.Add(c.now()), l.way, p.bytes())
	}
	if v.Drop {
		l.meter.judged.Add(1)
		c.record(l.way, wasJudged, p.bytes())
	} else {
		c.record(l.way, hasPassed, p.bytes())
	}
	return v.Inject, !v.Drop
}

// inject sends packets of the censor's own.
func (c *Censor) inject(forged []rule.Injection) {
	for _, f := range forged {
		l := c.lanes[f.Toward]
		c.record(f.Toward, wasInjected, f.Packet)
		l.meter.injected.Add(1)
		now := c.now()
		l.mu.Lock()
		if len(f.Packet) > l.flight.mtu || l.flight.full() {
			l.mu.Unlock()
			l.meter.failed.Add(1)
			continue
		}
		p := l.flight.get()
		p.size, p.judged = copy(p.data, f.Packet), true
		due := now + f.After // toward the client the way is short
		if f.Toward == rule.Up {
			due = l.line.inject(now, f.After)
		}
		l.flight.push(p, due)
		l.unlockAndWake(due)
	}
}

func (c *Censor) record(d rule.Direction, what event, p []byte) {
	if capture := c.capture.Load(); capture != nil {
		capture.record(d, what, p)
	}
}
