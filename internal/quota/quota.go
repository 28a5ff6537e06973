// Package quota counts what the invites of a relay move, holds them to what they
// may move in a month, and to their speed.
//
// A byte of a stream or datagram counts whenever it passes between a client and the
// relay, up and down added: once, and again if it was lost with a connection. So whoever
// breaks connections moves no more than others. What carries it does not count. What a
// connection had taken to send when it broke, 64 KiB at most, counts as if it had gone. Months are calendar months in UTC. A sum is what the file
// of internal/state says and what was counted since. It is written whenever a step
// has come together, at most 1/4096 of the smallest cap and at most 256 KiB. So the
// end of the program at any moment forgets less than a step of each invite: forty
// such ends in a month, all in the midst of traffic, are 1 % of a cap. A power cut
// forgets what came in the last [syncEvery].
//
// A rate holds for each direction by itself and for all sessions of an invite
// together. Who goes beyond it waits, and keeps nobody else waiting: of each invite
// one at a time waits for the relay's own rate, so that all invites share that alike,
// however many streams they have.
package quota

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"busel/config"
	"busel/internal/state"
)

// Store keeps sums. It is implemented by *[state.Usage].
type Store interface {
	// Add adds n bytes to what an invite has moved in the month; it returns the sum.
	Add(id state.InviteID, m state.Month, n uint64) (sum uint64, err error)
	// Sync makes it survive a power cut.
	Sync() error
}

const (
	// syncEvery is how often what was counted goes to the disk: at 1 Gbit/s a power
	// cut forgets 0.6 GB at most.
	syncEvery = 5 * time.Second
	// maxStep bounds what the end of the program forgets.
	maxStep = 256 << 10
	minStep = 1 << 10
	// steps in a cap.
	steps = 4096
	// burst is how much of its rate an invite that was silent has saved up: less
	// than is noticed, and enough for a page's first requests to go at once.
	burst = 100 * time.Millisecond
)

// ErrUsedUp means that the invite, or all together, have moved what they may this
// month.
var ErrUsedUp = errors.New("what may be moved this month is used up")

// Everybody is the id of the sum over all invites. Invites have random ones.
var Everybody state.InviteID

// Config of a [Book].
type Config struct {
	Store  Store
	Total  config.Limits // of all invites together
	Logger *slog.Logger  // nil discards
}

// Book has an account for each invite. Create it with [New], then Run it.
type Book struct {
	store Store
	log   *slog.Logger
	total *Account
	month atomic.Uint32
	until atomic.Int64 // Unix time at which the month is over
	dirty atomic.Bool  // since the last sync

	mu       sync.Mutex
	accounts map[state.InviteID]*Account
	limits   func(state.InviteID) state.Limits
}

// New returns a book without limits for single invites. It reads the total, and
// starts nothing.
func New(cfg Config) (*Book, error) {
	b := &Book{
		store: cfg.Store, log: cfg.Logger, accounts: make(map[state.InviteID]*Account),
		limits: func(state.InviteID) state.Limits { return state.Limits{} },
	}
	if b.log == nil {
		b.log = slog.New(slog.DiscardHandler)
	}
	b.begin(state.MonthOf(time.Now()))
	b.total = newAccount(b, Everybody, state.Limits{Quota: cfg.Total.Monthly, Rate: cfg.Total.Rate})
	return b, b.total.load()
}

func (b *Book) begin(m state.Month) {
	b.month.Store(uint32(m))
	b.until.Store((m + 1).Begin().Unix())
}

// SetLimits changes the limits of all invites, those that are in use too.
func (b *Book) SetLimits(limits func(state.InviteID) state.Limits) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.limits = limits
	for id, a := range b.accounts {
		a.limit(limits(id))
	}
}

// Account returns the account of an invite. It makes one if there is none, so only
// for invites that are genuine.
func (b *Book) Account(id state.InviteID) *Account {
	b.mu.Lock()
	defer b.mu.Unlock()
	a := b.accounts[id]
	if a == nil {
		a = newAccount(b, id, b.limits(id))
		if err := a.load(); err != nil {
			b.log.Error("what an invite has used cannot be read; it counts from 0", "err", err)
		}
		b.accounts[id] = a
	}
	return a
}

// Total is the account of all invites together.
func (b *Book) Total() *Account { return b.total }

// turn begins a new month if it is time. A clock that runs back begins none.
func (b *Book) turn(now time.Time) {
	if now.Unix() < b.until.Load() {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if now.Unix() < b.until.Load() {
		return
	}
	b.total.reset()
	for _, a := range b.accounts {
		a.reset()
	}
	b.begin(state.MonthOf(now))
}

// Run writes what is counted until ctx ends, once more then, and returns its cause.
func (b *Book) Run(ctx context.Context) error {
	tick := time.NewTicker(syncEvery)
	defer tick.Stop()
	for {
		select {
		case now := <-tick.C:
			b.turn(now)
			b.Write()
		case <-ctx.Done():
			b.Write()
			return context.Cause(ctx)
		}
	}
}

// Write brings all that was counted to the disk.
func (b *Book) Write() {
	b.mu.Lock()
	all := []*Account{b.total}
	for _, a := range b.accounts {
		all = append(all, a)
	}
	b.mu.Unlock()
	for _, a := range all {
		a.flush()
	}
	if b.dirty.Swap(false) {
		if err := b.store.Sync(); err != nil {
			b.log.Error("what was used cannot be written; it is lost at the next start", "err", err)
		}
	}
}

// Direction is where bytes go.
type Direction int

// Directions of a client's bytes.
const (
	Up   Direction = iota // to the internet
	Down                  // from there
)

// Account is one invite's. Its methods may be called at any time by several
// goroutines.
type Account struct {
	book  *Book
	id    state.InviteID
	used  atomic.Uint64 // this month
	kept  atomic.Uint64 // of it in the store
	quota atomic.Uint64 // 0: none
	step  atomic.Uint64
	lanes [2]lane // by Direction

	mu      sync.Mutex // of writing
	devices int
	faulty  bool // the store failed, and the log says so
}

func newAccount(b *Book, id state.InviteID, l state.Limits) *Account {
	a := &Account{book: b, id: id}
	for i := range a.lanes {
		a.lanes[i].turn = make(chan struct{}, 1)
	}
	a.limit(l)
	return a
}

func (a *Account) limit(l state.Limits) {
	a.quota.Store(uint64(l.Quota))
	step := uint64(maxStep)
	if l.Quota > 0 {
		step = min(max(uint64(l.Quota)/steps, minStep), maxStep)
	}
	a.step.Store(step)
	for i := range a.lanes {
		a.lanes[i].set(l.Rate)
	}
	a.mu.Lock()
	a.devices = l.Devices
	a.mu.Unlock()
}

// load reads the sum.
func (a *Account) load() error {
	sum, err := a.book.store.Add(a.id, state.Month(a.book.month.Load()), 0)
	a.used.Store(sum)
	a.kept.Store(sum)
	return err
}

// Devices is how many sessions the invite may have at a time; 0 is the relay's
// default.
func (a *Account) Devices() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.devices
}

// Used is what was moved this month, in bytes.
func (a *Account) Used() uint64 {
	a.book.turn(time.Now())
	return a.used.Load()
}

// UsedUp reports whether nothing more may be moved this month.
func (a *Account) UsedUp() bool {
	a.book.turn(time.Now())
	return a.over() || a.book.total.over()
}

func (a *Account) over() bool {
	quota := a.quota.Load()
	return quota > 0 && a.used.Load() >= quota
}

// Take counts n bytes that are about to move, and waits until they may: as long as
// the rates say, or until ctx ends, whose cause it returns then. It returns
// [ErrUsedUp] if they may not move at all. By Take alone a sum goes beyond its cap by
// one call at most; [Account.Again] adds what has moved whether it may or not.
func (a *Account) Take(ctx context.Context, d Direction, n int) error {
	a.book.turn(time.Now())
	if !a.spend(uint64(n)) {
		return ErrUsedUp
	}
	if !a.book.total.spend(uint64(n)) {
		a.giveBack(uint64(n))
		return ErrUsedUp
	}
	return a.lanes[d].wait(ctx, &a.book.total.lanes[d], n)
}

// Again counts n bytes that move another time, whether they may or not, and does not
// wait. It returns for how long no more of them should follow, and [ErrUsedUp] if nothing
// more may move this month.
func (a *Account) Again(d Direction, n int) (wait time.Duration, err error) {
	now := time.Now()
	a.book.turn(now)
	a.count(uint64(n))
	a.book.total.count(uint64(n))
	wait = a.lanes[d].take(n, now)
	if d == Down { // a client may say as much again as it likes; that holds up only its own
		wait = max(wait, a.book.total.lanes[d].take(n, now))
	}
	if a.over() || a.book.total.over() {
		err = ErrUsedUp
	}
	return wait, err
}

// count counts n bytes.
func (a *Account) count(n uint64) {
	if a.used.Add(n)-a.kept.Load() >= a.step.Load() {
		a.flush()
	}
}

// spend counts n bytes unless the quota is used up.
func (a *Account) spend(n uint64) bool {
	for {
		used, quota := a.used.Load(), a.quota.Load()
		if quota > 0 && used >= quota {
			return false
		}
		if a.used.CompareAndSwap(used, used+n) {
			if used+n-a.kept.Load() >= a.step.Load() {
				a.flush()
			}
			return true
		}
	}
}

// giveBack takes off what was counted and did not move. The month may have turned
// meanwhile.
func (a *Account) giveBack(n uint64) {
	for {
		used := a.used.Load()
		if a.used.CompareAndSwap(used, used-min(n, used)) {
			return
		}
	}
}

// flush writes what was counted since the last time.
func (a *Account) flush() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.write()
}

// write is flush with a.mu held.
func (a *Account) write() {
	kept := a.kept.Load()
	fresh := a.used.Load() - kept
	if fresh == 0 || fresh > 1<<63 { // below it: a call that was refused took its bytes back
		return
	}
	sum, err := a.book.store.Add(a.id, state.Month(a.book.month.Load()), fresh)
	if err != nil {
		if !a.faulty {
			a.book.log.Error("what was used cannot be written; it is lost at the next start", "err", err)
		}
		a.faulty = true
		return
	}
	a.faulty = false
	a.book.dirty.Store(true)
	// Another program that counts in the same file may have added to it.
	a.used.Add(sum - kept - fresh)
	a.kept.Store(sum)
}

// reset writes the sum of a month that is over and begins anew.
func (a *Account) reset() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.write()
	a.used.Store(0)
	a.kept.Store(0)
}
