package scenario

import (
	"crypto/sha256"
	"encoding/hex"
	"hash"
	"sync"
	"time"
)

// Gauge takes the bytes of a transfer as they arrive, and tells afterwards what
// arrived and how long the longest silence was. It is safe for concurrent use.
type Gauge struct {
	now func() time.Time

	mu      sync.Mutex
	sum     hash.Hash
	bytes   int64
	last    time.Time // of the last bytes; zero before the first
	longest time.Duration
	ended   bool
}

// NewGauge returns a gauge that reads the time from now.
func NewGauge(now func() time.Time) *Gauge {
	return &Gauge{now: now, sum: sha256.New()}
}

// Write counts b. It never fails.
func (g *Gauge) Write(b []byte) (int, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.tick()
	g.bytes += int64(len(b))
	g.sum.Write(b)
	return len(b), nil
}

// tick closes the silence that lasted until now. A transfer that has not begun
// is not silent.
func (g *Gauge) tick() {
	now := g.now()
	if !g.last.IsZero() {
		g.longest = max(g.longest, now.Sub(g.last))
	}
	g.last = now
}

// Mark begins anew with the longest silence: it is that from now on.
func (g *Gauge) Mark() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.longest = 0
	if !g.last.IsZero() {
		g.last = g.now()
	}
}

// Last returns when the last bytes arrived; zero if none did. It is the time of the
// mark if none did since.
func (g *Gauge) Last() time.Time {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.last
}

// End says that nothing more will come: the silence before it counts.
func (g *Gauge) End() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.ended && !g.last.IsZero() {
		g.tick()
	}
	g.ended = true
}

// Bytes returns how many bytes arrived.
func (g *Gauge) Bytes() int64 {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.bytes
}

// Sum returns the SHA-256 of what arrived, in hexadecimal digits.
func (g *Gauge) Sum() string {
	g.mu.Lock()
	defer g.mu.Unlock()
	return hex.EncodeToString(g.sum.Sum(nil))
}

// Longest returns the longest silence between two arrivals, the one that lasts
// still included.
func (g *Gauge) Longest() time.Duration {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.ended || g.last.IsZero() {
		return g.longest
	}
	return max(g.longest, g.now().Sub(g.last))
}
