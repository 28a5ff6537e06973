package network

import (
	"context"
	"log/slog"
	"sync"
	"time"
)

// Pace of a [Watcher].
const (
	// debounce is the time that a change has to be complete: a new address comes
	// as several notices within milliseconds.
	debounce = 200 * time.Millisecond
	// pollPeriod is how often the source is read where it does not give notice.
	pollPeriod = 2 * time.Second
	// checkPeriod is how often it is read where it does: for what no notice was
	// given of, and what was lost.
	checkPeriod = 30 * time.Second
	// tickPeriod is how often the clock is looked at.
	tickPeriod = time.Second
	// asleep is how much too late a tick must be to mean sleep: more than a busy
	// machine makes it wait, and less than what kills a carrier.
	asleep = 5 * time.Second
	// backlog is how many events wait for a slow subscriber; older ones are
	// dropped.
	backlog = 8
)

// Change is a kind of [Event].
type Change string

// Changes.
const (
	Moved    Change = "moved"     // addresses or gateway; the ID may be the same
	LinkUp   Change = "link up"   // there is a network again
	LinkDown Change = "link down" // there is none
	Woke     Change = "woke"      // from sleep; what else happened meanwhile follows
)

// Event is a change and the state after it.
type Event struct {
	Change Change
	State  State
}

// Source is where a [Watcher] learns of the system's network.
type Source interface {
	// Read returns the present state. It is quick. An error means that the state
	// is not known.
	Read() (Snapshot, error)
	// Notify calls hint, from one goroutine, whenever Read may return something
	// else than before, until ctx ends. An error before that means that the
	// system gives no notice; the source is read every two seconds then.
	Notify(ctx context.Context, hint func()) error
	// Clock is the time since some moment in the past. Unlike Go's monotonic
	// clock it goes on while the machine sleeps, and nobody sets it.
	Clock() time.Duration
}

// Config of a [Watcher].
type Config struct {
	// Salt is the installation's secret for names of networks, 16 bytes or more.
	Salt   []byte
	Source Source       // nil is [System]
	Logger *slog.Logger // nil discards
}

// Watcher watches the network. Create it with [New], then Run it.
type Watcher struct {
	cfg    Config
	log    *slog.Logger
	source Source

	mu          sync.Mutex
	read        bool // snapshot is one
	snapshot    Snapshot
	subscribers map[chan Event]struct{}
}

// New returns a watcher that does nothing until Run.
func New(cfg Config) *Watcher {
	w := &Watcher{cfg: cfg, log: cfg.Logger, source: cfg.Source, subscribers: make(map[chan Event]struct{})}
	if w.log == nil {
		w.log = slog.New(slog.DiscardHandler)
	}
	if w.source == nil {
		w.source = System{}
	}
	return w
}

// Now is the state as it was last read. Before Run it reads it.
func (w *Watcher) Now() State {
	w.mu.Lock()
	known := w.read
	w.mu.Unlock()
	if !known {
		w.look()
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.state()
}

// state is Now under the lock. What cannot be read is taken for one network that
// is up, so that nothing waits for it.
func (w *Watcher) state() State {
	if !w.read {
		return State{ID: Snapshot{Links: []Link{{}}}.id(w.cfg.Salt), Up: true}
	}
	return w.snapshot.state(w.cfg.Salt)
}

// Changes returns the events from now on and a function that ends them, to be
// called once they are not wanted any more. A subscriber that does not keep up
// misses the oldest. The channel is never closed.
func (w *Watcher) Changes() (events <-chan Event, stop func()) {
	c := make(chan Event, backlog)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.subscribers[c] = struct{}{}
	return c, func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		delete(w.subscribers, c)
	}
}

// Run watches until ctx ends, and returns its cause.
func (w *Watcher) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()

	last := w.source.Clock() // at the last tick
	hints := make(chan struct{}, 1)
	silent := make(chan error, 1)
	wg.Go(func() {
		silent <- w.source.Notify(ctx, func() {
			select {
			case hints <- struct{}{}:
			default:
			}
		})
	})
	w.look()
	tick := time.NewTicker(tickPeriod)
	defer tick.Stop()
	period := checkPeriod
	check := time.NewTimer(period)
	defer check.Stop()
	soon := false // check is due within debounce
	for {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-hints:
			// Further hints do not put it off: a stream of them must not hide a change.
			if !soon {
				soon = true
				check.Reset(debounce)
			}
		case err := <-silent:
			if ctx.Err() != nil {
				continue
			}
			w.log.Debug("the system gives no notice of network changes", "err", err)
			period = pollPeriod
			if !soon {
				check.Reset(period)
			}
		case <-check.C:
			// What is read now is newer than any hint.
			select {
			case <-hints:
			default:
			}
			w.look()
			soon = false
			check.Reset(period)
		case <-tick.C:
			now := w.source.Clock()
			if now-last > tickPeriod+asleep {
				w.log.Debug("woke up", "after", (now - last).Round(time.Second))
				w.mu.Lock()
				w.tell(Woke)
				w.mu.Unlock()
				w.look()
				soon = true // interfaces come back one after another
				check.Reset(debounce)
			}
			last = now
		}
	}
}

// look reads the source and tells what changed.
func (w *Watcher) look() {
	now, err := w.source.Read()
	if err != nil {
		w.log.Debug("cannot read the network", "err", err)
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	old, first := w.snapshot, !w.read
	w.snapshot, w.read = now, true
	switch wasUp, up := len(old.Links) > 0, len(now.Links) > 0; {
	case first:
	case wasUp && !up:
		w.tell(LinkDown)
	case !wasUp && up:
		w.tell(LinkUp)
	case old.moved(now):
		w.tell(Moved)
	}
}

// tell gives an event to all, under the lock.
func (w *Watcher) tell(change Change) {
	e := Event{change, w.state()}
	w.log.Debug("network changed", "change", string(change), "network", string(e.State.ID))
	for c := range w.subscribers {
		select {
		case c <- e:
			continue
		default:
		}
		select { // it is full: the oldest makes room, unless it was just taken
		case <-c:
		default:
		}
		c <- e // nobody else sends
	}
}
