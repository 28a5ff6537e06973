package mirror

import (
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	utls "github.com/refraction-networking/utls"

	"busel/obfs/look"
)

// maxOrigins is how many origins tickets are held of: those of places where the client
// is not any more are of little use.
const maxOrigins = 16

// origin is where a ticket came to, and the only place where it is used again. Whoever
// gave it knows it again, and with him whoever reads along what he decrypts; so it must
// not lead from one place, address or browser of the user's to another one
// (docs/adr/0025). A relay has a [Dialer] of its own, which is the rest of it.
type origin struct {
	look    *look.Look // a browser that was replaced has lost its tickets
	network string     // the client's
	local   netip.Addr // the client's
	address string     // the relay's, host:port
}

// tickets are those of one relay's cover, in memory. Each is used once.
type tickets struct {
	mu      sync.Mutex
	retries bool    // the cover asked for another hello: it is offered none any more
	held    []shelf // the one used last at the end
}

// shelf holds an origin's tickets, the newest last.
type shelf struct {
	origin
	tickets []ticket
}

type ticket struct {
	*utls.ClientSessionState
	came time.Time
}

// maxTicket is the longest ticket in bytes that is kept; servers' have 100 to 400, and
// with them their clients' certificates, up to some thousand.
const maxTicket = 4 << 10

// from is where tickets of a connection belong to; false if that cannot be told, as
// behind another relay, and then there are none.
func from(conn net.Conn, l *look.Look, network, address string) (o origin, ok bool) {
	a, ok := conn.LocalAddr().(*net.TCPAddr)
	if !ok || l.Tickets.Keep == 0 {
		return o, false
	}
	local := a.AddrPort().Addr()
	return origin{l, network, local, address}, local.IsValid() && !local.IsUnspecified()
}

// take gives the origin's newest ticket away; nil if there is none.
func (t *tickets) take(o origin) *utls.ClientSessionState {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := t.shelf(o)
	if s == nil || len(s.tickets) == 0 {
		return nil
	}
	last := len(s.tickets) - 1
	newest := s.tickets[last]
	s.tickets = slices.Delete(s.tickets, last, last+1)
	if age := time.Since(newest.came); age < 0 || age >= time.Duration(o.look.Tickets.Life)*time.Second {
		s.tickets = nil // all the others are older
		return nil
	}
	return newest.ClientSessionState
}

// put takes a ticket that came to the origin.
func (t *tickets) put(o origin, session *utls.ClientSessionState) {
	if session.Vers() != utls.VersionTLS13 || len(session.SessionTicket()) > maxTicket {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.retries {
		return
	}
	s := t.shelf(o)
	if s == nil {
		if len(t.held) == maxOrigins {
			t.held = slices.Delete(t.held, 0, 1)
		}
		t.held = append(t.held, shelf{origin: o})
		s = &t.held[len(t.held)-1]
	}
	s.tickets = append(s.tickets, ticket{session, time.Now().Round(0)}) // sleep counts, too
	if more := len(s.tickets) - o.look.Tickets.Keep; more > 0 {
		s.tickets = slices.Delete(s.tickets, 0, more)
	}
}

// shelf finds the origin's and makes it the last one; nil if there is none.
func (t *tickets) shelf(o origin) *shelf {
	i := slices.IndexFunc(t.held, func(s shelf) bool { return s.origin == o })
	if i < 0 {
		return nil
	}
	s := t.held[i]
	t.held = append(slices.Delete(t.held, i, i+1), s)
	return &t.held[len(t.held)-1]
}

// retried notes that the cover sent a HelloRetryRequest.
func (t *tickets) retried() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.retries, t.held = true, nil
}

// off reports whether there never will be one again.
func (t *tickets) off() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.retries
}

// drop forgets the origin's.
func (t *tickets) drop(o origin) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.held = slices.DeleteFunc(t.held, func(s shelf) bool { return s.origin == o })
}

// forget drops all.
func (t *tickets) forget() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.held = nil
}
