package quota

import (
	"context"
	"errors"
	"maps"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"busel/config"
	"busel/internal/state"
)

// shelf is a store in memory that a test may let fail.
type shelf struct {
	mu    sync.Mutex
	sums  map[state.InviteID]uint64
	month map[state.InviteID]state.Month
	adds  int
	fail  error
}

func newShelf() *shelf {
	return &shelf{sums: map[state.InviteID]uint64{}, month: map[state.InviteID]state.Month{}}
}

func (s *shelf) Add(id state.InviteID, m state.Month, n uint64) (uint64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fail != nil {
		return 0, s.fail
	}
	if s.month[id] < m {
		s.sums[id] = 0
	}
	s.month[id] = m
	s.sums[id] += n
	s.adds++
	return s.sums[id], nil
}

func (s *shelf) Sync() error { return nil }

func (s *shelf) get(id state.InviteID) uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.sums[id]
}

func book(t testing.TB, s Store, total config.Limits, limits map[byte]state.Limits) *Book {
	t.Helper()
	b, err := New(Config{Store: s, Total: total})
	if err != nil {
		t.Fatal(err)
	}
	b.SetLimits(func(id state.InviteID) state.Limits { return limits[id[0]] })
	return b
}

func id(n byte) state.InviteID { return state.InviteID{n} }

// Many streams at once: what passes is the quota and at most one call more.
func TestQuotaIsHeld(t *testing.T) {
	const quota, chunk = 10_000_000, 16_377
	s := newShelf()
	b := book(t, s, config.Limits{Monthly: 25_000_000}, map[byte]state.Limits{1: {Quota: quota}, 2: {Quota: quota}})
	passed := make([]uint64, 4)
	for n := range byte(4) { // the last has no limit of its own
		var wg sync.WaitGroup
		var mu sync.Mutex
		for range 8 {
			wg.Go(func() {
				var mine uint64
				var err error
				for d := Up; err == nil; d = 1 - d {
					if err = b.Account(id(n+1)).Take(t.Context(), d, chunk); err == nil {
						mine += chunk
					}
				}
				if !errors.Is(err, ErrUsedUp) {
					t.Error(err)
				}
				mu.Lock()
				passed[n] += mine
				mu.Unlock()
			})
		}
		wg.Wait()
	}
	for n, want := range []uint64{quota, quota, 25_000_000 - 2*quota, 0} {
		if passed[n] < want-min(want, 3*chunk) || passed[n] > want+chunk {
			t.Errorf("invite %d moved %d, want %d", n+1, passed[n], want)
		}
		if got := b.Account(id(byte(n + 1))).Used(); got != passed[n] {
			t.Errorf("invite %d: %d are counted, %d passed", n+1, got, passed[n])
		}
		if !b.Account(id(byte(n + 1))).UsedUp() {
			t.Errorf("invite %d may move more", n+1)
		}
	}
	if n := b.Total().Used(); n != passed[0]+passed[1]+passed[2] {
		t.Errorf("the total is %d", n)
	}
	b.SetLimits(func(state.InviteID) state.Limits { return state.Limits{Quota: 20_000_000} })
	if err := b.Account(id(1)).Take(t.Context(), Up, 1); !errors.Is(err, ErrUsedUp) {
		t.Errorf("a higher quota lifted the total: %v", err)
	}
}

// What moves again counts whether it may or not, keeps its own stream waiting, and of
// what comes from a client keeps nobody else waiting.
func TestAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := book(t, newShelf(), config.Limits{Monthly: 5000, Rate: 80_000}, map[byte]state.Limits{1: {Quota: 3000, Rate: 8000}})
		a, other := b.Account(id(1)), b.Account(id(2))
		if wait, err := a.Again(Down, 2000); err != nil || wait < 1800*time.Millisecond || wait > 2*time.Second {
			t.Errorf("2000 bytes at 1000 a second: %v, %v", wait, err)
		}
		if wait, err := a.Again(Up, 1000); !errors.Is(err, ErrUsedUp) || wait <= 0 {
			t.Errorf("when the quota is used up: %v, %v", wait, err)
		}
		if n := b.Total().Used(); a.Used() != 3000 || n != 3000 {
			t.Errorf("%d are counted, in all %d", a.Used(), n)
		}
		if err := a.Take(t.Context(), Down, 1); !errors.Is(err, ErrUsedUp) {
			t.Errorf("after that: %v", err)
		}
		for d, least := range map[Direction]time.Duration{Up: 0, Down: 100 * time.Millisecond} {
			begin := time.Now()
			if err := other.Take(t.Context(), d, 500); err != nil {
				t.Error(err)
			}
			if took := time.Since(begin); took < least || took > 150*time.Millisecond {
				t.Errorf("another invite waits for %v in direction %d", took, d)
			}
		}
		if _, err := other.Again(Up, 1000); !errors.Is(err, ErrUsedUp) || !b.Total().UsedUp() {
			t.Errorf("when the total is used up: %v", err)
		}
	})
}

// TestQuotaOverKills ends the program without a word again and again, in the midst
// of traffic: what passed is within 1 % of the quota.
func TestQuotaOverKills(t *testing.T) {
	for _, quota := range []config.Size{5_000_000, 400_000_000, 2_000_000_000} {
		s := newShelf()
		var passed, kills uint64
		for used := false; !used; kills++ {
			// What the store has is all that the next program knows.
			b := book(t, s, config.Limits{}, map[byte]state.Limits{1: {Quota: quota}})
			a := b.Account(id(1))
			for end := passed + rand.Uint64N(uint64(quota)/10); passed < end && !used; {
				n := 1 + rand.IntN(16_377)
				if err := a.Take(t.Context(), Down, n); err != nil {
					used = true
					break
				}
				passed += uint64(n)
			}
		}
		if diff := int64(passed) - int64(quota); diff < -int64(quota)/100 || diff > int64(quota)/100 {
			t.Errorf("%v: %d passed over %d kills", quota, passed, kills)
		} else {
			t.Logf("%v: off by %.3f %% over %d kills, %d writes", quota, 100*float64(diff)/float64(quota), kills, s.adds)
		}
	}
}

func TestMonths(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // begins at 2000-01-01
		s := newShelf()
		limits := map[byte]state.Limits{1: {Quota: 1000}}
		b := book(t, s, config.Limits{}, limits)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- b.Run(ctx) }()
		a := b.Account(id(1))
		if err := a.Take(ctx, Up, 1000); err != nil || !a.UsedUp() {
			t.Errorf("the first month: %v", err)
		}
		if err := a.Take(ctx, Up, 1); !errors.Is(err, ErrUsedUp) {
			t.Errorf("beyond the quota: %v", err)
		}
		time.Sleep(31*24*time.Hour - time.Second)
		if !a.UsedUp() {
			t.Error("free before the month is over")
		}
		time.Sleep(time.Second)
		if a.UsedUp() || a.Used() != 0 || b.Total().Used() != 0 {
			t.Error("the month has turned")
		}
		if err := a.Take(ctx, Up, 600); err != nil {
			t.Error(err)
		}
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
		// A program that ends in good order forgets nothing.
		b = book(t, s, config.Limits{}, limits)
		if n := b.Account(id(1)).Used(); n != 600 || b.Total().Used() != 600 {
			t.Errorf("the next program knows of %d and %d in all", n, b.Total().Used())
		}
	})
}

// What is counted is on the disk soon, though less than a step came together.
func TestWritten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newShelf()
		b := book(t, s, config.Limits{}, nil)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		go b.Run(ctx)
		b.Account(id(1)).Take(ctx, Up, 10)
		if n := s.get(id(1)); n != 0 {
			t.Errorf("%d were written at once", n)
		}
		time.Sleep(syncEvery + time.Second)
		if n, all := s.get(id(1)), s.get(Everybody); n != 10 || all != 10 {
			t.Errorf("%d and %d are written", n, all)
		}
		s.mu.Lock()
		s.fail = errors.New("no disk")
		before := maps.Clone(s.sums)
		s.mu.Unlock()
		b.Account(id(1)).Take(ctx, Up, 2*maxStep) // goes on, and is counted here
		if n := b.Account(id(1)).Used(); n != 10+2*maxStep {
			t.Errorf("%d are counted without a disk", n)
		}
		s.mu.Lock()
		s.fail = nil
		s.sums[id(1)] += 5 // by another program
		s.mu.Unlock()
		time.Sleep(syncEvery)
		if n := s.get(id(1)); n != before[id(1)]+2*maxStep+5 || b.Account(id(1)).Used() != n {
			t.Errorf("%d are written, %d counted", n, b.Account(id(1)).Used())
		}
		cancel()
		synctest.Wait()
	})
}

// take moves n bytes in chunks and returns how long that took.
func take(t *testing.T, a *Account, d Direction, n int) time.Duration {
	t.Helper()
	begin := time.Now()
	const chunk = 10_000
	for ; n > 0; n -= chunk {
		if err := a.Take(t.Context(), d, min(n, chunk)); err != nil {
			t.Error(err)
		}
	}
	return time.Since(begin)
}

func near(got, want time.Duration) bool { return got > want*95/100 && got < want*105/100 }

func TestRates(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := book(t, newShelf(), config.Limits{}, map[byte]state.Limits{1: {Rate: 8e6}}) // 1 MB/s
		var wg sync.WaitGroup
		var times [5]time.Duration
		for i, stream := range []struct {
			id byte
			d  Direction
			n  int
		}{{1, Down, 10e6}, {1, Down, 10e6}, {1, Up, 10e6}, {2, Down, 1e9}, {2, Up, 1e9}} {
			wg.Go(func() { times[i] = take(t, b.Account(id(stream.id)), stream.d, stream.n) })
		}
		wg.Wait()
		if !near(times[0], 20*time.Second) || !near(times[1], 20*time.Second) || !near(times[2], 10*time.Second) {
			t.Errorf("two streams down, one up, of an invite of 1 MB/s: %v", times[:3])
		}
		if times[3] != 0 || times[4] != 0 {
			t.Errorf("an invite without a rate waited %v", times[3:])
		}
		// What is waited for can be given up.
		ctx, cancel := context.WithTimeoutCause(t.Context(), time.Second, errors.New("gone"))
		defer cancel()
		if err := b.Account(id(1)).Take(ctx, Up, 1e9); err == nil || err.Error() != "gone" {
			t.Errorf("given up: %v", err)
		}
		b.SetLimits(func(state.InviteID) state.Limits { return state.Limits{} })
		if took := take(t, b.Account(id(1)), Up, 1e9); took != 0 {
			t.Errorf("without its limit it waited %v", took)
		}
	})
}

// The relay's own rate is shared alike by invites, not by streams.
func TestRateIsShared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := book(t, newShelf(), config.Limits{Rate: 16e6}, nil) // 2 MB/s
		var wg sync.WaitGroup
		var quiet time.Duration
		for range 20 {
			wg.Go(func() { take(t, b.Account(id(1)), Down, 1e6) })
		}
		wg.Go(func() { quiet = take(t, b.Account(id(2)), Down, 5e6) })
		begin := time.Now()
		wg.Wait()
		if !near(quiet, 5*time.Second) {
			t.Errorf("one stream beside twenty of another invite took %v, want half the rate", quiet)
		}
		if took := time.Since(begin); !near(took, 12500*time.Millisecond) {
			t.Errorf("all together took %v", took)
		}
	})
}

// Who breaks off what waits keeps nobody else waiting.
func TestBrokenWaitsCostOthersNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := book(t, newShelf(), config.Limits{Rate: 8e6}, nil) // 1 MB/s
		for range 1000 {
			ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
			_ = b.Account(id(1)).Take(ctx, Down, 64<<10)
			cancel()
		}
		if took := take(t, b.Account(id(2)), Down, 1e6); took > 3*time.Second {
			t.Errorf("another invite waited %v for a second's worth", took)
		}
	})
}

func BenchmarkTake(b *testing.B) {
	a := book(b, newShelf(), config.Limits{Monthly: config.MaxSize}, map[byte]state.Limits{1: {Quota: config.MaxSize}}).Account(id(1))
	for b.Loop() {
		a.Take(b.Context(), Down, 16_377)
	}
}
