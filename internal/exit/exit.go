// Package exit is where proxied traffic enters the internet: the relay's end of
// [flow.Opener].
//
// It turns a destination, a name or an address, into a TCP connection or a UDP
// association. Three things are guaranteed (docs/PROTOCOL.md, "Exit"):
//
//   - The policy is applied to the address that is dialled, after the name was
//     resolved, and for UDP to every datagram. A name that resolves to the
//     relay's own network is refused like the address itself, and so is an IPv4
//     address that hides inside an IPv6 one.
//   - Every table is bounded, every wait has an end.
//   - Nothing is remembered about who went where. [Stats] are counts. Errors
//     carry no address and no name, so that they may be logged.
//
// TCP connections are raced over both address families as RFC 8305 says, so
// that a relay with broken IPv6 costs a quarter of a second and not a time-out.
package exit

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"busel/internal/flow"
	"busel/transport"
)

// Defaults of [Config].
const (
	// DefaultDialTimeout leaves room for three repeated SYNs, which Linux sends
	// after 1, 3, 7 and 15 s (tcp_syn_retries in ip-sysctl).
	DefaultDialTimeout = 20 * time.Second
	// DefaultRest is how long a UDP mapping lives without traffic. RFC 4787,
	// REQ-5, asks for at least two minutes; a session's flow lives for up to 150 s
	// (docs/PROTOCOL.md, "Flows"), and must not lose its mapping before.
	DefaultRest = 160 * time.Second
	// DefaultMaxStreams and DefaultMaxPackets bound the descriptors that the
	// exit holds for all clients together.
	DefaultMaxStreams = 16384
	DefaultMaxPackets = 4096
)

// Config says where the exit may go and how it gets there. The zero value goes
// to the public internet with the system's sockets and name servers.
type Config struct {
	// Deny refuses addresses, whatever else is said. Allow lets addresses
	// through although they are denied by default. The order is: Deny, Allow,
	// built-in denials. Port 25, cloud metadata and the endpoints in Cover are
	// let through only by a prefix in Allow that is the one address (a /32 or
	// /128), so that allowing a whole network never opens them by accident.
	Allow, Deny []netip.Prefix
	// Own are addresses of the relay that its interfaces do not show, such as
	// the public one of a host behind NAT. Interface addresses are added.
	Own []netip.Addr
	// Cover are endpoints that are never dialled: the cover site's, and those
	// the relay listens on. An unspecified address (":443") stands for all of
	// the relay's own addresses.
	Cover []netip.AddrPort

	// Web permits ports 80 and 443 alone: both over TCP, 443 over UDP (HTTP/3).
	Web bool
	// Names, if there are any, are all that is permitted, each with its subdomains;
	// addresses are not. They are in lower case.
	Names []string
	// Next, if it is set, is where everything goes that the rules permit instead of
	// Network: the session with another relay. Names are judged by Web, Names and
	// port 25 here, and by the addresses behind them there, where they are looked up:
	// this relay may be on a network whose name servers lie.
	Next flow.Opener

	Network     transport.Network // nil: the system's sockets
	Resolver    Resolver          // nil: the system's name servers, by Go's own resolver
	Logger      *slog.Logger      // nil: silence
	DialTimeout time.Duration     // name lookup and connecting together; 0: DefaultDialTimeout
	Rest        time.Duration     // life of an unused UDP mapping; 0: DefaultRest
	MaxStreams  int               // open at once; 0: DefaultMaxStreams
	MaxPackets  int               // associations open at once; 0: DefaultMaxPackets
}

// Stats are counts since the start, except for those of what is open now.
type Stats struct {
	StreamsOpen   int64 `json:"streams_open"`
	StreamsOpened int64 `json:"streams_opened"`
	StreamsFailed int64 `json:"streams_failed"` // all reasons but policy
	PacketsOpen   int64 `json:"packets_open"`   // UDP associations
	PacketsOpened int64 `json:"packets_opened"`
	DatagramsUp   int64 `json:"datagrams_up"` // sent to the internet
	DatagramsDown int64 `json:"datagrams_down"`
	DatagramsLost int64 `json:"datagrams_lost"` // not sent, or came from an endpoint that nothing was sent to
	Denied        int64 `json:"denied"`         // streams and datagrams against the policy
}

// Exit opens connections to the internet. It is a [flow.Opener], safe for
// concurrent use, and needs no closing: what it opened belongs to the caller.
type Exit struct {
	policy      atomic.Pointer[policy]
	names       *cache
	network     transport.Network
	next        flow.Opener
	log         *slog.Logger
	dialTimeout time.Duration
	rest        time.Duration
	maxStreams  int64
	maxPackets  int64

	streamsOpen, streamsOpened, streamsFailed atomic.Int64
	packetsOpen, packetsOpened                atomic.Int64
	datagramsUp, datagramsDown, datagramsLost atomic.Int64
	denied                                    atomic.Int64
}

var _ flow.Opener = (*Exit)(nil)

// New returns an exit. It opens no socket.
func New(c Config) *Exit {
	own := &ownAddrs{fixed: map[netip.Addr]bool{}, list: net.InterfaceAddrs}
	for _, a := range c.Own {
		own.fixed[plain(a)] = true
	}
	e := &Exit{
		next:        c.Next,
		network:     c.Network,
		log:         c.Logger,
		dialTimeout: c.DialTimeout,
		rest:        c.Rest,
		maxStreams:  int64(c.MaxStreams),
		maxPackets:  int64(c.MaxPackets),
	}
	e.policy.Store(&policy{cover: c.Cover, own: own.contains})
	e.SetPolicy(c)
	if e.network == nil {
		e.network = &system{}
	}
	if e.log == nil {
		e.log = slog.New(slog.DiscardHandler)
	}
	if e.dialTimeout <= 0 {
		e.dialTimeout = DefaultDialTimeout
	}
	if e.rest <= 0 {
		e.rest = DefaultRest
	}
	if e.maxStreams <= 0 {
		e.maxStreams = DefaultMaxStreams
	}
	if e.maxPackets <= 0 {
		e.maxPackets = DefaultMaxPackets
	}
	resolver := c.Resolver
	if resolver == nil {
		resolver = &net.Resolver{PreferGo: true}
	}
	e.names = newCache(resolver)
	return e
}

// SetPolicy changes Allow, Deny, Web and Names to those of c. What is open goes on,
// but for datagrams to what is denied now. It may be called at any time by one
// goroutine.
func (e *Exit) SetPolicy(c Config) {
	p := *e.policy.Load()
	p.allow, p.deny = unmapPrefixes(c.Allow), unmapPrefixes(c.Deny)
	p.web, p.names = c.Web, c.Names
	e.policy.Store(&p)
}

// errFull is the cause in an *[flow.OpenError] when a limit of [Config] is reached.
var errFull = errors.New("the relay has no room for more connections")

// OpenStream resolves dst, asks the policy, connects and returns the connected
// stream. The error is always an *[flow.OpenError]. ctx bounds the opening only.
func (e *Exit) OpenStream(ctx context.Context, dst flow.Addr) (flow.Stream, error) {
	if e.streamsOpen.Add(1) > e.maxStreams {
		e.streamsOpen.Add(-1)
		e.streamsFailed.Add(1)
		return nil, &flow.OpenError{Code: flow.GeneralFailure, Err: errFull}
	}
	s, err := e.reach(ctx, dst)
	if err != nil {
		e.streamsOpen.Add(-1)
		if err.Detail == flow.DetailPolicy {
			e.denied.Add(1)
		} else {
			e.streamsFailed.Add(1)
		}
		e.log.Debug("stream not opened", "destination", dst, "cause", err)
		return nil, err
	}
	e.streamsOpened.Add(1)
	return s, nil
}

// reach opens a stream to what the rules permit. Its Close takes it off the count.
func (e *Exit) reach(ctx context.Context, dst flow.Addr) (flow.Stream, *flow.OpenError) {
	closed := func() { e.streamsOpen.Add(-1) }
	if !e.policy.Load().permitsRequest(dst, false) {
		return nil, errDenied()
	}
	if e.next != nil {
		return e.pass(ctx, dst, closed)
	}
	conn, err := e.connect(ctx, dst)
	if err != nil {
		return nil, err
	}
	s, ok := newStream(conn, closed)
	if !ok {
		conn.Close()
		return nil, &flow.OpenError{Code: flow.GeneralFailure, Err: errNoHalfClose}
	}
	return s, nil
}

// Stats returns the counts. They are read one by one, not at one instant.
func (e *Exit) Stats() Stats {
	return Stats{
		StreamsOpen:   e.streamsOpen.Load(),
		StreamsOpened: e.streamsOpened.Load(),
		StreamsFailed: e.streamsFailed.Load(),
		PacketsOpen:   e.packetsOpen.Load(),
		PacketsOpened: e.packetsOpened.Load(),
		DatagramsUp:   e.datagramsUp.Load(),
		DatagramsDown: e.datagramsDown.Load(),
		DatagramsLost: e.datagramsLost.Load(),
		Denied:        e.denied.Load(),
	}
}

// system is the operating system's network.
type system struct {
	net.Dialer
	listen net.ListenConfig
}

func (s *system) ListenPacket(ctx context.Context, network, addr string) (net.PacketConn, error) {
	return s.listen.ListenPacket(ctx, network, addr)
}

// ownAddrs knows the relay's addresses. Those of the interfaces change while it
// runs (DHCP, privacy addresses), so they are read again from time to time.
type ownAddrs struct {
	fixed map[netip.Addr]bool
	list  func() ([]net.Addr, error)

	mu   sync.Mutex
	read time.Time
	seen map[netip.Addr]bool
}

// ownAddrsAge is how old the list of interface addresses may be. Reading it
// takes tens of microseconds.
const ownAddrsAge = 30 * time.Second

func (o *ownAddrs) contains(a netip.Addr) bool {
	if o.fixed[a] {
		return true
	}
	o.mu.Lock()
	seen := o.seen
	fresh := seen != nil && time.Since(o.read) < ownAddrsAge
	o.mu.Unlock()
	if !fresh {
		seen = o.refresh(seen)
	}
	return seen[a]
}

// refresh reads the interfaces. Several callers may do so at once; the last
// one's answer stays. When reading fails the old list is better than none.
func (o *ownAddrs) refresh(old map[netip.Addr]bool) map[netip.Addr]bool {
	addrs, err := o.list()
	seen := old
	if err == nil {
		seen = make(map[netip.Addr]bool, len(addrs))
		for _, a := range addrs {
			if p, err := netip.ParsePrefix(a.String()); err == nil {
				seen[plain(p.Addr())] = true
			}
		}
	}
	o.mu.Lock()
	o.seen, o.read = seen, time.Now()
	o.mu.Unlock()
	return seen
}
