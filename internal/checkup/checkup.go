// Package checkup judges whether a relay and its cover are fit for use, and says so
// in words. What it judges are [Facts]; gathering them is the caller's work, with the
// visits of this package and what the system says.
package checkup

import (
	"net/netip"
	"time"
)

// Verdict is how grave a finding is.
type Verdict string

// Verdicts.
const (
	Good Verdict = "good"
	Note Verdict = "note" // works, and could be better or is to be known
	Bad  Verdict = "bad"  // clients or the cover suffer
)

// Finding is one judgment. Hint says what to do, and is empty when that is nothing.
type Finding struct {
	Verdict Verdict `json:"verdict"`
	Topic   string  `json:"topic"` // one word, for programs
	Text    string  `json:"text"`
	Hint    string  `json:"hint,omitempty"`
}

// Kind is whose the cover is.
type Kind string

// Kinds of covers (docs/PROTOCOL.md, section 3).
const (
	Own      Kind = "own"
	Builtin  Kind = "builtin"
	Borrowed Kind = "borrowed"
)

// Facts are what was found out. Zero values mean that nothing is known.
type Facts struct {
	Kind Kind
	Name string // of the cover
	Now  time.Time
	// Authority says that the built-in cover has its certificate from one, so that
	// invites pin none.
	Authority bool
	Refusal   string // why it issued none the last time; "" after it did

	Running bool // the relay runs here
	Ports   []Port

	Address   netip.AddrPort // where clients go; invalid if it is a name that leads nowhere
	Host      string         // of the address, as it is written
	HostAddrs []netip.Addr   // where that leads, if it is a name
	Local     []netip.Addr   // this machine's addresses
	Leaving   []netip.Addr   // from where connections leave, one for each version of IP

	NameAddrs  []netip.Addr // where the cover's name leads
	NameErr    error
	CoverAddrs []netip.Addr // of a borrowed cover, as the relay dials it

	Cover *Site // as the relay sees it; nil if there is no way but through the relay
	Front *Site // as strangers see it through the relay; nil if that does not run

	Synced    *bool  // the clock follows others
	OpenFiles uint64 // how many this user may open
	UDPBuffer int    // largest buffer of a socket, of sending or receiving, in bytes; 0 unknown
	UDP       bool   // the relay uses UDP
	TCPBuffer int    // the most that TCP keeps of what was sent, in bytes; 0 unknown
	NoBBR     bool   // the kernel does not offer this congestion control
	// NginxRoom is how many connections each worker of this machine's nginx takes; 0
	// unknown.
	NginxRoom int
}

// Port is a door that the relay needs.
type Port struct {
	Name string // "TCP port 443"
	Err  error  // why it cannot be had
}

// Site is a web site as one visitor met it.
type Site struct {
	Err error // it could not be visited; nothing else is known

	TLS13      bool
	ALPN       string // offered h2 and http/1.1
	Group      uint16 // IANA; at the first ClientHello
	Retry      bool   // HelloRetryRequest
	Status     int    // of GET /
	HTTP1      int    // status of GET / over HTTP/1.1
	Leaf       [32]byte
	NotAfter   time.Time
	SelfSigned bool // or of an authority that nobody knows: it must be pinned
	CertErr    error

	Tickets    int    // NewSessionTickets after a handshake; -1 unknown
	EarlyData  uint32 // bytes that a ticket allows
	AltSvc     string
	Server     string // as it says
	HTTP3      bool   // it answers over HTTP/3 at the port that AltSvc names
	HTTP3Err   error
	RoundTrip  time.Duration // of a TCP connection
	Date       time.Time     // as it says; zero if it does not
	Idle       time.Duration // after which it closed a quiet connection; 0 if it did not
	IdleFor    time.Duration // how long was waited for that
	Life       time.Duration // after which it closed a busy connection; 0 if it did not
	LifeFor    time.Duration
	Parallel   int // connections that were served at the same time
	ParallelOf int // of so many; 0 means that it was not tried
}
