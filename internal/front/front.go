// Package front is the local proxy: one TCP port for every application of the
// resident.
//
// The first byte of a connection tells what it speaks. 0x05 is SOCKS5
// (RFC 1928); its requests and authentication are parsed by armon/go-socks5,
// everything else is done here, UDP ASSOCIATE too. 0x04 is SOCKS4 or 4a, CONNECT
// only. A letter begins an HTTP request: CONNECT opens a tunnel, a request with an
// absolute URL is forwarded, and a request for the port's own address gets the
// resident's pages or, at /proxy.pac, the automatic configuration of browsers.
// Whatever an application asks for, it gets through the one [flow.Opener] of
// [Config], names unresolved; nothing ever goes direct.
//
// Answers are true: an application hears "connected" when the destination was
// reached, with one exception that docs/adr/0002-optimistic-replies.md gives
// the reasons for. What an application sends before it hears the answer travels
// along with the request.
//
// Every program on the machine can reach the port, and so can every web page in
// the resident's browser. Therefore time, memory and the number of connections
// are bounded, and the resident's pages, which would betray the relays, want secrets
// that are new in every run, the right Host, and no foreign Origin. A user
// and password may be demanded of programs (RFC 1929, RFC 7617).
//
// A program that may not use the proxy ([Config.Admit]) gets an RST before a byte of it
// is read (docs/adr/0024-a-stranger-on-this-machine-gets-a-reset.md).
package front

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"busel/internal/flow"
	"busel/internal/words"
)

// Defaults of [Config].
const (
	DefaultListen = "127.0.0.1:1080"
	// DefaultConnectTimeout is how long an application waits for the answer to
	// its request. Moving to another carrier takes seconds, and the exit gives a
	// destination 20 s; browsers give up after minutes.
	DefaultConnectTimeout = 30 * time.Second
	// DefaultMaxConns bounds descriptors and memory. A browser with many tabs
	// holds a few hundred connections.
	DefaultMaxConns = 8192
)

// Times and limits on local programs. They are generous: a resident's programs
// are on the same machine, only a broken or hostile one comes near.
const (
	idleTimeout = 120 * time.Second // between the requests of one HTTP connection
	maxHeader   = 64 << 10          // bytes of an HTTP request's head; browsers send below 32 KiB
	maxUnasked  = 1024              // connections that have not asked for anything yet
	lingerTime  = time.Second       // for the peer to read the last answer
	lingerBytes = 256 << 10
)

// Config says where to listen and what to open connections with.
type Config struct {
	// Listen is host:port with a loopback address or "localhost"; "auto" takes a
	// free port on 127.0.0.1. Empty means DefaultListen.
	Listen string
	// Public permits addresses that other machines can reach. Whoever reaches
	// the port, and says the password if there is one, uses the relay.
	Public bool
	// User and Password are demanded of every program that asks for something;
	// 1..255 bytes each, or both empty: nothing is demanded. SOCKS4, which has
	// no password, is then rejected. Front keeps only their hashes.
	User, Password string
	// Untold: user and password are demanded, but which is not known before
	// [Front.Demand], since a passphrase is wanted first. None is right until then.
	Untold bool
	Opener flow.Opener
	// Admit, if not nil, is asked for each connection whether its program may use the
	// proxy. If not, the connection is reset, and not a byte of it is read: whatever a
	// program tries, it finds out the same nothing. It runs in the connection's goroutine.
	Admit func(*net.TCPConn) bool
	// AdmitUDP is Admit for a program's datagrams, which came to a socket of ours here.
	AdmitUDP func(here, from netip.AddrPort) bool
	// Gone, if not nil, reports whether the program at the other end of a connection that
	// says nothing more has closed it. What such a one asked for is given up if it has not
	// come yet: after an outage it would take what the link carries from those who wait.
	// What a program says at once that was told that it is connected arrives in any case.
	Gone func(*net.TCPConn) bool
	// Overhear, if not nil, is asked for each tunnel who listens to what the application
	// at the other end of the connection says first; nil is nobody. The listener gets copies of the first bytes, in their
	// order, until it fails to take some, and is then closed; it must not block.
	Overhear func(*net.TCPConn) io.WriteCloser
	// Pages serves the resident's pages, behind the guards of this package; it is given
	// no other request than the resident's own. Paths below /api/ want the page's key, see
	// [KeyHeader]; all others have to be such that a stranger may read them. nil: no page.
	Pages          http.Handler
	Logger         *slog.Logger  // nil: silence
	ConnectTimeout time.Duration // 0: DefaultConnectTimeout
	MaxConns       int           // 0: DefaultMaxConns
}

// Front is the local proxy. Use it in the order [New], [Front.Listen],
// [Front.Run].
type Front struct {
	opener         flow.Opener
	admits         func(*net.TCPConn) bool // nil: all
	admitsUDP      func(here, from netip.AddrPort) bool
	gone           func(*net.TCPConn) bool // nil: nobody knows
	overhear       func(*net.TCPConn) io.WriteCloser
	pages          http.Handler
	languages      []*words.Catalogue
	log            *slog.Logger
	listen         netip.AddrPort
	connectTimeout time.Duration
	maxConns       int
	door           *door
	password       atomic.Pointer[password] // nil: none is demanded
	reached        *reached
	associations   chan struct{} // one element for each that is open
	firstByte      time.Duration // until the first byte
	request        time.Duration // from there to the end of the request's head
	idle           time.Duration // of a UDP association

	ln   net.Listener
	addr netip.AddrPort

	wg sync.WaitGroup // connections

	mu      sync.Mutex
	open    map[*conn]struct{}
	unasked unaskedList
	moves   uint64 // connections that came, and those that went
}

// New returns a proxy that does not listen yet. It fails if the listen address
// is malformed, or reachable from other machines without Config.Public, and if
// user or password is missing or too long.
func New(c Config) (*Front, error) {
	listen, err := parseListen(c.Listen)
	if err != nil {
		return nil, err
	}
	if !listen.Addr().IsLoopback() && !c.Public {
		return nil, fmt.Errorf("listen address %s can be reached from other machines: use 127.0.0.1 or [::1]", listen)
	}
	if c.Opener == nil {
		return nil, errors.New("a proxy needs an opener")
	}
	languages, err := words.All()
	if err != nil {
		return nil, err
	}
	f := &Front{
		opener:         c.Opener,
		admits:         c.Admit,
		admitsUDP:      c.AdmitUDP,
		gone:           c.Gone,
		overhear:       c.Overhear,
		pages:          c.Pages,
		languages:      languages,
		log:            c.Logger,
		listen:         listen,
		connectTimeout: c.ConnectTimeout,
		maxConns:       c.MaxConns,
		door:           newDoor(),
		reached:        newReached(),
		associations:   make(chan struct{}, maxAssociations),
		firstByte:      10 * time.Second,
		request:        30 * time.Second,
		idle:           associationIdle,
		open:           map[*conn]struct{}{},
	}
	if err := f.Demand(c.User, c.Password); err != nil {
		return nil, err
	}
	if c.Untold {
		f.password.Store(&password{untold: true})
	}
	if f.overhear == nil {
		f.overhear = func(*net.TCPConn) io.WriteCloser { return nil }
	}
	if f.admitsUDP == nil {
		f.admitsUDP = func(_, _ netip.AddrPort) bool { return true }
	}
	if f.pages == nil {
		f.pages = http.NotFoundHandler()
	}
	if f.log == nil {
		f.log = slog.New(slog.DiscardHandler)
	}
	if f.connectTimeout <= 0 {
		f.connectTimeout = DefaultConnectTimeout
	}
	if f.maxConns <= 0 {
		f.maxConns = DefaultMaxConns
	}
	return f, nil
}

func parseListen(s string) (netip.AddrPort, error) {
	switch s {
	case "":
		s = DefaultListen
	case "auto":
		s = "127.0.0.1:0"
	}
	if port, ok := strings.CutPrefix(s, "localhost:"); ok {
		s = "127.0.0.1:" + port
	}
	ap, err := netip.ParseAddrPort(s)
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("listen address %q is not of the form 127.0.0.1:1080, or \"auto\"", s)
	}
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port()), nil
}

// PortTakenError says that another program listens on the port.
type PortTakenError struct {
	Addr    netip.AddrPort
	PID     int    // 0 if unknown
	Process string // its name, as it calls itself; empty if unknown
	Err     error
}

func (e *PortTakenError) Error() string {
	by := "another program"
	if e.PID != 0 {
		by = fmt.Sprintf("%q (process %d)", e.Process, e.PID)
	}
	return fmt.Sprintf("%s is already in use by %s: stop it, or listen on another port", e.Addr, by)
}

// Unwrap returns the system's error.
func (e *PortTakenError) Unwrap() error { return e.Err }

// Listen takes the port. If it is in use the error is a *[PortTakenError].
func (f *Front) Listen(ctx context.Context) error {
	var lc net.ListenConfig
	ln, err := lc.Listen(ctx, "tcp", f.listen.String())
	if err != nil {
		if errors.Is(err, errnoAddrInUse) {
			taken := &PortTakenError{Addr: f.listen, Err: errnoAddrInUse}
			taken.PID, taken.Process = portOwner(f.listen.Port())
			return taken
		}
		return fmt.Errorf("cannot listen: %w", err)
	}
	f.ln = ln
	f.addr = ln.Addr().(*net.TCPAddr).AddrPort()
	f.addr = netip.AddrPortFrom(f.addr.Addr().Unmap(), f.addr.Port())
	return nil
}

// Addr is where the proxy listens. It is valid after Listen.
func (f *Front) Addr() netip.AddrPort { return f.addr }

// URL is a link to the resident's page that can be opened once, within an hour. It is
// for the resident's eyes: whoever opens it sees the relays. At most 16 links wait to
// be opened. It is valid after Listen.
func (f *Front) URL() string { return "http://" + f.addr.String() + "/?key=" + f.door.ticket() }

// Run serves until ctx ends, then closes the port and every connection, and
// returns when all of them have ended. The result is nil if ctx ended it.
func (f *Front) Run(ctx context.Context) error {
	if f.ln == nil {
		return errors.New("the proxy does not listen yet")
	}
	ctx, cancel := context.WithCancel(ctx)
	transport := f.newTransport(ctx)
	defer transport.CloseIdleConnections()
	defer f.wg.Wait()
	defer cancel()

	web := newHandoff(f.addr)
	server := f.newServer(ctx, transport)
	served := make(chan error, 1)
	go func() { served <- server.Serve(web) }()
	defer func() {
		server.Close()
		<-served
	}()

	stop := context.AfterFunc(ctx, func() {
		f.ln.Close()
		f.closeAll()
	})
	defer stop()
	defer f.closeAll()
	defer f.ln.Close()

	var pause time.Duration
	for {
		c, err := f.ln.Accept()
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			if errors.Is(err, net.ErrClosed) {
				return fmt.Errorf("the proxy's port was closed: %w", net.ErrClosed)
			}
			// Most likely out of descriptors: wait until some are free.
			pause = min(max(2*pause, 5*time.Millisecond), time.Second)
			f.log.Warn("cannot accept a connection", "pause", pause, "cause", cause(err))
			select {
			case <-time.After(pause):
			case <-ctx.Done():
			}
			continue
		}
		pause = 0
		tcp, ok := c.(*net.TCPConn)
		if !ok {
			c.Close()
			continue
		}
		if f.admits != nil {
			// Until its program is known to be welcome, a connection ends in one way
			// only, whatever ends it.
			_ = tcp.SetLinger(0) // fails only if it has ended
		}
		f.admit(ctx, tcp, web)
	}
}

// cause strips what is not the system's own words from an error.
func cause(err error) error {
	if errno, ok := errors.AsType[syscall.Errno](err); ok {
		return errno
	}
	return errors.New("network error")
}

// admit starts a goroutine for the connection unless there are too many. When
// very many have not asked for anything, the oldest of them makes room: a
// program that only connects cannot keep others out.
func (f *Front) admit(ctx context.Context, tcp *net.TCPConn, web *handoff) {
	c := &conn{TCPConn: tcp}
	f.mu.Lock()
	if ctx.Err() != nil || len(f.open) >= f.maxConns {
		f.mu.Unlock()
		tcp.Close()
		return
	}
	c.closed = func() {
		f.mu.Lock()
		delete(f.open, c)
		f.moves++
		f.unasked.remove(c)
		f.mu.Unlock()
		f.wg.Done()
	}
	f.wg.Add(1)
	f.open[c] = struct{}{}
	f.moves++
	f.unasked.add(c)
	var oldest *conn
	if f.unasked.Len() > min(maxUnasked, f.maxConns/2+1) {
		oldest = f.unasked.oldest()
		f.unasked.remove(oldest)
	}
	f.mu.Unlock()
	if oldest != nil {
		oldest.abort()
	}
	f.wg.Go(func() { f.serve(ctx, c, web) })
}

// Moves grows with every connection that comes, and again when it goes.
func (f *Front) Moves() uint64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.moves
}

// asked takes c off the list of those that have not asked for anything.
func (f *Front) asked(c *conn) {
	f.mu.Lock()
	f.unasked.remove(c)
	f.mu.Unlock()
}

func (f *Front) closeAll() {
	f.mu.Lock()
	open := make([]*conn, 0, len(f.open))
	for c := range f.open {
		open = append(open, c)
	}
	f.mu.Unlock()
	for _, c := range open {
		c.abort()
	}
}

// serve reads the first byte and passes the connection on. It does not close c
// if the web server has taken it over.
func (f *Front) serve(ctx context.Context, c *conn, web *handoff) {
	if f.admits != nil {
		if !f.admits(c.TCPConn) {
			c.Close() // with an RST
			return
		}
		_ = c.SetLinger(-1) // fails only on a closed connection, as does the next line
	}
	_ = c.SetDeadline(time.Now().Add(f.firstByte)) // fails only on a closed connection, as does the next line
	var first [1]byte
	if _, err := io.ReadFull(c.TCPConn, first[:]); err != nil {
		c.Close()
		return
	}
	_ = c.SetDeadline(time.Now().Add(f.request))
	switch b := first[0]; {
	case b == socksVersion5:
		defer c.Close()
		f.serveSOCKS5(ctx, c)
	case b == socksVersion4:
		defer c.Close()
		f.serveSOCKS4(ctx, c)
	case 'A' <= b && b <= 'Z' || 'a' <= b && b <= 'z':
		_ = c.SetDeadline(time.Time{}) // the web server sets its own
		c.first = first[:]
		if !web.give(ctx, c) {
			c.Close()
		}
	default:
		f.log.Debug("a program speaks neither SOCKS nor HTTP to the proxy", "first_byte", b)
		c.Close()
	}
}
