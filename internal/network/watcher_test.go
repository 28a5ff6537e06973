package network

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// fakeSource is a network that tests change.
type fakeSource struct {
	start time.Time

	mu       sync.Mutex
	snapshot Snapshot
	err      error         // of Read
	stall    time.Duration // how long the next Read takes, as if the process was stopped
	reads    int
	hint     func()
	silent   bool // gives no notice
}

func (f *fakeSource) Read() (Snapshot, error) {
	f.mu.Lock()
	stall := f.stall
	f.stall = 0
	f.mu.Unlock()
	time.Sleep(stall)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.reads++
	return f.snapshot, f.err
}

func (f *fakeSource) Notify(ctx context.Context, hint func()) error {
	f.mu.Lock()
	f.hint = hint
	silent := f.silent
	f.mu.Unlock()
	if silent {
		return errors.ErrUnsupported
	}
	<-ctx.Done()
	return ctx.Err()
}

func (f *fakeSource) Clock() time.Duration { return time.Since(f.start) }

func (f *fakeSource) count() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.reads
}

// stallNext makes the next Read take that long.
func (f *fakeSource) stallNext(d time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.stall = d
}

// set changes the network and gives notice if it is one that does.
func (f *fakeSource) set(s Snapshot) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.snapshot = s
	if f.hint != nil && !f.silent {
		f.hint()
	}
}

func wired(prefixes ...string) Snapshot {
	return on("eth0", Wired, []string{"192.168.1.1"}, prefixes...)
}

func on(name string, kind Kind, gateways []string, prefixes ...string) Snapshot {
	l := Link{Name: name, Kind: kind}
	for _, g := range gateways {
		l.Gateways = append(l.Gateways, netip.MustParseAddr(g))
	}
	for _, p := range prefixes {
		l.Prefixes = append(l.Prefixes, netip.MustParsePrefix(p))
	}
	return Snapshot{Links: []Link{l}}
}

// watch runs fn beside a watcher in a bubble.
func watch(t *testing.T, source *fakeSource, fn func(w *Watcher, events <-chan Event)) {
	synctest.Test(t, func(t *testing.T) {
		source.start = time.Now()
		w := New(Config{Salt: salt, Source: source})
		events, stop := w.Changes()
		defer stop()
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- w.Run(ctx) }()
		synctest.Wait()
		fn(w, events)
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("Run returned %v", err)
		}
	})
}

// expect waits for these changes and no others within d.
func expect(t *testing.T, events <-chan Event, d time.Duration, want ...Change) (last Event) {
	t.Helper()
	var got []Change
	for timeout := time.After(d); ; {
		select {
		case last = <-events:
			got = append(got, last.Change)
		case <-timeout:
			if !slices.Equal(got, want) {
				t.Errorf("events in %v are %q, want %q", d, got, want)
			}
			return last
		}
	}
}

var salt = []byte("salt of an installation")

func TestWatcher(t *testing.T) {
	home := wired("192.168.1.7/24")
	for _, silent := range []bool{false, true} {
		name, soon := "notice", debounce+time.Millisecond
		if silent {
			name, soon = "polling", pollPeriod+time.Millisecond
		}
		t.Run(name, func(t *testing.T) {
			source := &fakeSource{snapshot: home, silent: silent}
			watch(t, source, func(w *Watcher, events <-chan Event) {
				at := w.Now()
				if !at.Up || at.ID != home.id(salt) {
					t.Errorf("first state is %+v", at)
				}
				expect(t, events, time.Hour)

				// Another address in the same network: its carriers are lost.
				source.set(wired("192.168.1.8/24"))
				if e := expect(t, events, soon, Moved); e.State != at {
					t.Errorf("state is %+v, want %+v", e.State, at)
				}
				source.set(Snapshot{})
				if e := expect(t, events, soon, LinkDown); e.State != (State{ID: Offline}) {
					t.Errorf("offline is %+v", e.State)
				}
				source.set(on("wlan0", WiFi, []string{"10.0.0.1"}, "10.0.0.9/16"))
				e := expect(t, events, soon, LinkUp)
				if !e.State.Up || e.State.ID == at.ID || e.State != w.Now() {
					t.Errorf("state on another network is %+v, now %+v", e.State, w.Now())
				}
				source.set(home)
				if e := expect(t, events, soon, Moved); e.State != at {
					t.Errorf("back at home it is %+v, want %+v", e.State, at)
				}
			})
		})
	}
}

// TestDebounce sends notices faster than they can settle.
func TestDebounce(t *testing.T) {
	source := &fakeSource{snapshot: wired("192.168.1.7/24")}
	watch(t, source, func(w *Watcher, events <-chan Event) {
		before := source.count()
		// A reconnection within the time that a change has.
		source.set(Snapshot{})
		time.Sleep(debounce / 2)
		source.set(wired("192.168.1.7/24"))
		expect(t, events, time.Second)
		if n := source.count() - before; n != 1 {
			t.Errorf("read %d times for one change, want 1", n)
		}
		// A stream of notices does not hide it.
		source.set(Snapshot{})
		for range 40 {
			time.Sleep(10 * time.Millisecond)
			source.hint()
		}
		expect(t, events, time.Millisecond, LinkDown)
	})
}

func TestWoke(t *testing.T) {
	for _, tt := range []struct {
		stopped time.Duration
		want    []Change
	}{
		{asleep - 10*time.Millisecond, nil}, // a busy machine
		{asleep + tickPeriod, []Change{Woke}},
		{60 * time.Second, []Change{Woke}},
		{8 * time.Hour, []Change{Woke}},
	} {
		t.Run(tt.stopped.String(), func(t *testing.T) {
			source := &fakeSource{snapshot: wired("192.168.1.7/24")}
			watch(t, source, func(w *Watcher, events <-chan Event) {
				source.stallNext(tt.stopped)
				source.set(source.snapshot)
				expect(t, events, debounce+tt.stopped+time.Second, tt.want...)
				expect(t, events, time.Minute)
			})
		})
	}
	// What changed in the meantime is told after it.
	source := &fakeSource{snapshot: wired("192.168.1.7/24")}
	watch(t, source, func(w *Watcher, events <-chan Event) {
		source.stallNext(time.Minute)
		source.hint()
		time.Sleep(30 * time.Second) // the read has begun, and Moved comes of it
		source.mu.Lock()
		source.snapshot = Snapshot{}
		source.mu.Unlock()
		expect(t, events, 40*time.Second, LinkDown, Woke)
	})
}

// TestUnreadable keeps what is known when the source fails, and takes the
// unknown for a network.
func TestUnreadable(t *testing.T) {
	source := &fakeSource{err: errors.New("not today"), silent: true}
	watch(t, source, func(w *Watcher, events <-chan Event) {
		if s := w.Now(); !s.Up || s.ID == Offline || s.ID == "" {
			t.Errorf("the unknown is %+v", s)
		}
		expect(t, events, time.Minute)
		source.mu.Lock()
		source.err, source.snapshot = nil, wired("192.168.1.7/24")
		source.mu.Unlock()
		expect(t, events, time.Minute)
		known := w.Now()
		source.mu.Lock()
		source.err, source.snapshot = errors.New("not again"), Snapshot{}
		source.mu.Unlock()
		expect(t, events, time.Minute)
		if w.Now() != known {
			t.Errorf("after an error it is %+v, before %+v", w.Now(), known)
		}
	})
}

// TestNowBeforeRun reads the source: New starts nothing, and a first decision
// must not be for the wrong network.
func TestNowBeforeRun(t *testing.T) {
	source := &fakeSource{snapshot: wired("192.168.1.7/24")}
	w := New(Config{Salt: salt, Source: source})
	if source.reads != 0 {
		t.Error("New read the source")
	}
	if s := w.Now(); s.ID != source.snapshot.id(salt) || !s.Up {
		t.Errorf("state is %+v", s)
	}
}

// TestSubscribers has one that reads nothing, one that left, and one that gets
// the newest.
func TestSubscribers(t *testing.T) {
	source := &fakeSource{snapshot: wired("192.168.1.7/24")}
	watch(t, source, func(w *Watcher, events <-chan Event) {
		slow, stop := w.Changes()
		defer stop()
		left, leave := w.Changes()
		leave()
		for range 3 * backlog {
			source.set(Snapshot{})
			expect(t, events, time.Second, LinkDown)
			source.set(wired("192.168.1.7/24"))
			expect(t, events, time.Second, LinkUp)
		}
		if len(left) != 0 {
			t.Error("an event after the end")
		}
		if len(slow) != backlog {
			t.Errorf("%d events wait, want %d", len(slow), backlog)
		}
		var last Event
		for range backlog {
			last = <-slow
		}
		if last.Change != LinkUp || last.State != w.Now() {
			t.Errorf("the newest event is %+v", last)
		}
	})
}
