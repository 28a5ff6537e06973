// Package memory is what the client remembers of networks: how each route to a
// relay fared on each of them, so that the next start, and the next block, begins
// with what works.
//
// It guarantees that:
//   - the file reveals neither networks nor relays: both are hashes under the
//     installation's salt, which is another file;
//   - it is bounded: at most 64 networks of 256 routes each, of which those go
//     that were used least recently;
//   - no file stops the client. One that is cut short, damaged or of another
//     version is forgotten; a time or a number that cannot be, because the clock
//     was set or by whatever way, is put right or forgotten.
//
// # The file
//
// The first line is "busel memory 1 " and the SHA-256 of the rest in hex, and
// the rest is JSON: networks and their routes, the most recently used last.
package memory

import (
	"bytes"
	"cmp"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base32"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"busel/internal/network"
)

// File is the name of the file in the client's directory.
const File = "memory"

// Bounds.
const (
	maxNetworks = 64
	maxRoutes   = 256
	maxCount    = 1 << 30
	maxDuration = 10 * time.Minute
	maxGoodput  = 1e12 // bytes/s
	maxBytes    = 1 << 50
	maxRests    = 16
	// maxRest is the longest time that a route rests from now: an hour and its
	// jitter. A rest beyond it was noted under another clock.
	maxRest = 2 * time.Hour
	maxName = 32 // bytes of a failure's name
)

// savePeriod is the least time between two writings of the file.
const savePeriod = 30 * time.Second

// Entry is what is known of a route on a network. Its zero value is nothing.
type Entry struct {
	Successes, Failures int
	Failure             string        // kind of the last, as transport.Failure; empty after a success
	Took                time.Duration // the last dial that gave a carrier
	RTT                 time.Duration
	Goodput             float64   // bytes/s, the best that was seen lately
	RestUntil           time.Time // no dial before it
	Rests               int       // rests in a row: each is twice as long as the one before
	// CarrierBytes is the number of bytes after which flows freeze here (THREATS
	// row R1), as it was learned; 0 if they do not. CarrierSeen is when one or the
	// other was last seen, zero if never.
	CarrierBytes uint64
	CarrierSeen  time.Time
}

// Dir is the client's directory. *state.Dir is one.
type Dir interface {
	// ReadSecret returns a file of mode 0600, or an error wrapping
	// [fs.ErrNotExist].
	ReadSecret(name string) ([]byte, error)
	// Write replaces the file, whole or not at all, with mode 0600.
	Write(name string, data []byte) error
}

// Config of a [Memory].
type Config struct {
	Dir    Dir
	Salt   []byte       // the installation's, 16 bytes or more
	Logger *slog.Logger // nil discards
}

// Memory is safe for concurrent use. Create it with [Open], then Run it.
type Memory struct {
	cfg   Config
	log   *slog.Logger
	dirty chan struct{} // something changed since the last writing began; capacity 1

	mu       sync.Mutex
	networks map[network.ID]*networkMemory
	clock    uint64 // counts uses

	saving sync.Mutex // orders writings of the file
}

// networkMemory is one network's.
type networkMemory struct {
	used   uint64
	routes map[string]*routeMemory // by key
}

type routeMemory struct {
	used  uint64
	entry Entry
}

// Open reads the file, if there is a good one, and starts nothing.
func Open(cfg Config) *Memory {
	m := &Memory{cfg: cfg, log: cfg.Logger, dirty: make(chan struct{}, 1), networks: make(map[network.ID]*networkMemory)}
	if m.log == nil {
		m.log = slog.New(slog.DiscardHandler)
	}
	data, err := cfg.Dir.ReadSecret(File)
	if err == nil {
		err = m.decode(data, time.Now())
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		m.log.Debug("what was remembered of networks is lost", "err", err)
	}
	return m
}

// Get returns what is known of a route, which any string may name.
func (m *Memory) Get(on network.ID, route string) Entry {
	key := m.key(on, route)
	m.mu.Lock()
	defer m.mu.Unlock()
	if n := m.networks[on]; n != nil {
		if r := n.routes[key]; r != nil {
			return r.entry
		}
	}
	return Entry{}
}

// Update changes what is known of a route. change runs under a lock and must not
// use m.
func (m *Memory) Update(on network.ID, route string, change func(*Entry)) {
	if !validID(on) {
		return
	}
	key := m.key(on, route)
	m.mu.Lock()
	defer m.mu.Unlock()
	r := m.use(on, key)
	change(&r.entry)
	r.entry.mend(time.Now())
	select {
	case m.dirty <- struct{}{}:
	default:
	}
}

// use returns the route's memory, which it makes if it has to, at the cost of
// the least recently used.
func (m *Memory) use(on network.ID, key string) *routeMemory {
	m.clock++
	n := m.networks[on]
	if n == nil {
		if len(m.networks) >= maxNetworks {
			delete(m.networks, oldest(m.networks, func(n *networkMemory) uint64 { return n.used }))
		}
		n = &networkMemory{routes: make(map[string]*routeMemory)}
		m.networks[on] = n
	}
	n.used = m.clock
	r := n.routes[key]
	if r == nil {
		if len(n.routes) >= maxRoutes {
			delete(n.routes, oldest(n.routes, func(r *routeMemory) uint64 { return r.used }))
		}
		r = new(routeMemory)
		n.routes[key] = r
	}
	r.used = m.clock
	return r
}

// byUse returns the keys of a map, the least recently used first.
func byUse[K comparable, V any](all map[K]V, used func(V) uint64) []K {
	return slices.SortedFunc(maps.Keys(all), func(a, b K) int { return cmp.Compare(used(all[a]), used(all[b])) })
}

func oldest[K comparable, V any](all map[K]V, used func(V) uint64) K { return byUse(all, used)[0] }

// key is a route's name in the file.
func (m *Memory) key(on network.ID, route string) string {
	h := hmac.New(sha256.New, m.cfg.Salt)
	_, _ = fmt.Fprintf(h, "busel route 1\n%s\n%s", on, route)
	return encoding.EncodeToString(h.Sum(nil)[:keyLen])
}

const keyLen = 10

var encoding = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)

func validKey(s string) bool {
	b, err := encoding.DecodeString(s)
	return err == nil && len(b) == keyLen && encoding.EncodeToString(b) == s
}

// validID bounds what becomes of a name: network.ID is 16 characters or a word.
func validID(id network.ID) bool { return validName(string(id)) && id != "" }

func validName(s string) bool {
	return len(s) <= maxName && !strings.ContainsFunc(s, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < '0' || r > '9') && r != '-'
	})
}

// mend puts right what cannot be, at the time now.
func (e *Entry) mend(now time.Time) {
	e.Successes, e.Failures = bound(e.Successes, maxCount), bound(e.Failures, maxCount)
	e.Took, e.RTT = bound(e.Took, maxDuration), bound(e.RTT, maxDuration)
	e.Rests = bound(e.Rests, maxRests)
	e.CarrierBytes = bound(e.CarrierBytes, maxBytes)
	e.CarrierSeen = past(e.CarrierSeen, now)
	if !(e.Goodput >= 0 && e.Goodput <= maxGoodput) { // not a number, too
		e.Goodput = 0
	}
	if e.RestUntil.After(now.Add(maxRest)) || e.RestUntil.Unix() <= 0 {
		e.RestUntil = time.Time{}
	}
	if !validName(e.Failure) {
		e.Failure = ""
	}
}

func bound[T int | uint64 | time.Duration](v, most T) T { return max(0, min(v, most)) }

// past is t, or now if the clock was set back since.
func past(t, now time.Time) time.Time {
	switch {
	case t.Unix() <= 0:
		return time.Time{}
	case t.After(now):
		return now
	}
	return t
}

// Run writes the file when something changed, at most every 30 seconds, until
// ctx ends, and then once more. It returns the context's cause; that the file
// cannot be written is logged only.
func (m *Memory) Run(ctx context.Context) error {
	save := func() {
		if err := m.Save(); err != nil {
			m.log.Debug("cannot write down what was learned of networks", "err", err)
		}
	}
	for {
		select {
		case <-ctx.Done():
		case <-m.dirty:
			save()
			select {
			case <-ctx.Done():
			case <-time.After(savePeriod):
				continue
			}
		}
		if len(m.dirty) > 0 {
			save()
		}
		return context.Cause(ctx)
	}
}

// Save writes the file now.
func (m *Memory) Save() error {
	m.saving.Lock()
	defer m.saving.Unlock()
	select { // what changes from here on is for the next time
	case <-m.dirty:
	default:
	}
	return m.cfg.Dir.Write(File, m.encode())
}

// The file's JSON. Times are Unix milliseconds, durations milliseconds.
type (
	fileJSON struct {
		Networks []networkJSON `json:"networks"`
	}
	networkJSON struct {
		ID     network.ID  `json:"id"`
		Routes []routeJSON `json:"routes"`
	}
	routeJSON struct {
		Key          string  `json:"route"`
		Successes    int     `json:"ok,omitempty"`
		Failures     int     `json:"bad,omitempty"`
		Failure      string  `json:"why,omitempty"`
		Took         int64   `json:"took,omitempty"`
		RTT          int64   `json:"rtt,omitempty"`
		Goodput      float64 `json:"rate,omitempty"`
		RestUntil    int64   `json:"rest,omitempty"`
		Rests        int     `json:"rests,omitempty"`
		CarrierBytes uint64  `json:"budget,omitempty"`
		CarrierSeen  int64   `json:"budgetAt,omitempty"`
	}
)

const header = "busel memory 1 "

func (m *Memory) encode() []byte {
	m.mu.Lock()
	defer m.mu.Unlock()
	var file fileJSON
	for _, id := range byUse(m.networks, func(n *networkMemory) uint64 { return n.used }) {
		n := m.networks[id]
		out := networkJSON{ID: id}
		for _, key := range byUse(n.routes, func(r *routeMemory) uint64 { return r.used }) {
			e := n.routes[key].entry
			out.Routes = append(out.Routes, routeJSON{
				Key: key, Successes: e.Successes, Failures: e.Failures,
				Failure: e.Failure,
				Took:    e.Took.Milliseconds(), RTT: e.RTT.Milliseconds(), Goodput: float64(int64(e.Goodput)),
				RestUntil: fromTime(e.RestUntil), Rests: e.Rests, CarrierBytes: e.CarrierBytes, CarrierSeen: fromTime(e.CarrierSeen),
			})
		}
		file.Networks = append(file.Networks, out)
	}
	body, err := json.Marshal(file)
	if err != nil {
		panic(err) // numbers were mended: there is no NaN
	}
	sum := sha256.Sum256(body)
	return slices.Concat([]byte(header), []byte(hex.EncodeToString(sum[:])), []byte("\n"), body)
}

// decode takes the file's contents into an empty memory. What is in it is
// bounded by the directory's largest file.
func (m *Memory) decode(data []byte, now time.Time) error {
	first, body, _ := bytes.Cut(data, []byte("\n"))
	sum, ok := bytes.CutPrefix(first, []byte(header))
	if !ok {
		return errors.New("the file is of another version, or damaged")
	}
	if want := sha256.Sum256(body); string(sum) != hex.EncodeToString(want[:]) {
		return errors.New("the file is damaged")
	}
	var file fileJSON
	d := json.NewDecoder(bytes.NewReader(body))
	if err := d.Decode(&file); err != nil {
		return err
	}
	if _, err := d.Token(); err != io.EOF {
		return errors.New("the file goes on behind its end")
	}
	for _, n := range file.Networks {
		for _, r := range n.Routes {
			if !validID(n.ID) || !validKey(r.Key) {
				continue
			}
			e := Entry{
				Successes: r.Successes, Failures: r.Failures,
				Failure: r.Failure,
				Took:    toDuration(r.Took), RTT: toDuration(r.RTT), Goodput: r.Goodput,
				RestUntil: toTime(r.RestUntil), Rests: r.Rests, CarrierBytes: r.CarrierBytes, CarrierSeen: toTime(r.CarrierSeen),
			}
			e.mend(now)
			m.use(n.ID, r.Key).entry = e
		}
	}
	return nil
}

func fromTime(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMilli()
}

// toTime is zero for what cannot be a time of ours, which also keeps it far from
// the ends of what time.Time computes with.
func toTime(ms int64) time.Time {
	if ms <= 0 || ms > 1<<45 { // the year 3084
		return time.Time{}
	}
	return time.UnixMilli(ms)
}

func toDuration(ms int64) time.Duration {
	return time.Duration(bound(time.Duration(ms), maxDuration/time.Millisecond)) * time.Millisecond
}
