package exit

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"strings"
	"sync"
	"time"
)

// Resolver looks up the addresses of a host. It is implemented by
// *[net.Resolver]. network is "ip4" or "ip6"; host ends in a dot, so that no
// search domain of the relay is tried. "No such name" and "no such addresses"
// are a *[net.DNSError] with IsNotFound; every other error means that the name
// server failed.
type Resolver interface {
	LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error)
}

// Times and limits of the name cache. [net.Resolver] does not tell the TTL of
// an answer, so one is assumed: a minute is what large sites set for addresses
// that they move, and it saves the lookups of one page and its parts.
const (
	nameTTL       = 60 * time.Second
	notFoundTTL   = 10 * time.Second
	failedTTL     = 2 * time.Second
	maxNames      = 4096 // answers, one a name and family: below 2 MiB
	maxNameAddrs  = 10   // addresses of one family that are kept and tried
	lookupTimeout = 10 * time.Second
)

type question struct{ network, name string }

type answer struct {
	addrs   []netip.Addr
	err     error
	expires time.Time
}

// cache remembers answers and lets one lookup serve all who wait for it.
type cache struct {
	resolver Resolver

	mu      sync.Mutex
	answers *lru[question, answer]
	flights map[question]chan struct{} // closed when the lookup is over
}

func newCache(r Resolver) *cache {
	return &cache{
		resolver: r,
		answers:  newLRU[question, answer](maxNames),
		flights:  map[question]chan struct{}{},
	}
}

// ask builds the question for name in "ip4" or "ip6".
func ask(network, name string) question {
	return question{network, strings.ToLower(strings.TrimSuffix(name, ".")) + "."}
}

// cached returns an answer if there is a fresh one.
func (c *cache) cached(q question) (answer, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.cachedLocked(q)
}

func (c *cache) cachedLocked(q question) (answer, bool) {
	a, ok := c.answers.get(q)
	return a, ok && time.Now().Before(a.expires)
}

// lookup returns at most maxNameAddrs addresses. It runs in the goroutine of
// the first who asks. If that one gives up, the next one asks anew: somebody
// else's cancelled wait is no answer.
func (c *cache) lookup(ctx context.Context, q question) ([]netip.Addr, error) {
	for {
		c.mu.Lock()
		if a, ok := c.cachedLocked(q); ok {
			c.mu.Unlock()
			return a.addrs, a.err
		}
		flight, flying := c.flights[q]
		if !flying {
			flight = make(chan struct{})
			c.flights[q] = flight
		}
		c.mu.Unlock()
		if !flying {
			return c.fly(ctx, q, flight)
		}
		select {
		case <-flight:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

func (c *cache) fly(ctx context.Context, q question, flight chan struct{}) ([]netip.Addr, error) {
	bounded, cancel := context.WithTimeout(ctx, lookupTimeout)
	defer cancel()
	addrs, err := c.resolver.LookupNetIP(bounded, q.network, q.name)
	a := answer{err: err}
	for _, addr := range addrs[:min(len(addrs), maxNameAddrs)] {
		a.addrs = append(a.addrs, plain(addr))
	}
	ttl := nameTTL
	switch {
	case err == nil:
	case notFound(err):
		ttl = notFoundTTL
	default:
		ttl = failedTTL
	}
	a.expires = time.Now().Add(ttl)
	c.mu.Lock()
	delete(c.flights, q)
	if err == nil || ctx.Err() == nil {
		c.answers.put(q, a)
	}
	c.mu.Unlock()
	close(flight)
	return a.addrs, err
}

func notFound(err error) bool {
	dns, ok := errors.AsType[*net.DNSError](err)
	return ok && dns.IsNotFound
}
