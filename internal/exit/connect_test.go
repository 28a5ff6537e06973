package exit

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"busel/internal/flow"
)

// host is what the fake network and resolver do with one address.
type host struct {
	after time.Duration // until the verdict
	err   error         // nil: connected
}

// silent never answers.
const silent = time.Hour

// fakeNet dials nothing but remembers when each address was tried.
type fakeNet struct {
	hosts map[string]host // by address without port
	begin time.Time

	mu    sync.Mutex
	tried []string
	open  atomic.Int64 // connections that nobody closed
}

func (n *fakeNet) DialContext(ctx context.Context, network, addr string) (net.Conn, error) {
	ap := netip.MustParseAddrPort(addr)
	n.mu.Lock()
	n.tried = append(n.tried, fmt.Sprintf("%s@%d", ap.Addr(), time.Since(n.begin).Milliseconds()))
	n.mu.Unlock()
	h, ok := n.hosts[ap.Addr().String()]
	if !ok {
		h.err = syscall.ENETUNREACH
	}
	select {
	case <-time.After(h.after):
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if h.err != nil {
		return nil, &net.OpError{Op: "dial", Net: network, Addr: net.TCPAddrFromAddrPort(ap), Err: os.NewSyscallError("connect", h.err)}
	}
	n.open.Add(1)
	return &fakeConn{addr: net.TCPAddrFromAddrPort(ap), closed: func() { n.open.Add(-1) }}, nil
}

func (n *fakeNet) ListenPacket(context.Context, string, string) (net.PacketConn, error) {
	return nil, errors.ErrUnsupported
}

type fakeConn struct {
	net.Conn
	addr   net.Addr
	closed func()
}

func (c *fakeConn) RemoteAddr() net.Addr { return c.addr }
func (c *fakeConn) Close() error         { c.closed(); return nil }
func (c *fakeConn) CloseWrite() error    { return nil }

// fakeNames answers "ip4 name." and "ip6 name.".
type fakeNames struct {
	answers map[string]fakeAnswer
	asked   atomic.Int64
}

type fakeAnswer struct {
	after time.Duration
	addrs []string
	err   error
}

func (r *fakeNames) LookupNetIP(ctx context.Context, network, name string) ([]netip.Addr, error) {
	r.asked.Add(1)
	a, ok := r.answers[network+" "+name]
	if !ok {
		return nil, noSuchHost
	}
	select {
	case <-time.After(a.after):
	case <-ctx.Done():
		return nil, &net.DNSError{Err: ctx.Err().Error(), Name: name, IsTimeout: true}
	}
	var out []netip.Addr
	for _, s := range a.addrs {
		out = append(out, netip.MustParseAddr(s))
	}
	return out, a.err
}

var (
	noSuchHost  = &net.DNSError{Err: "no such host", Name: "x", IsNotFound: true}
	serverFault = &net.DNSError{Err: "server misbehaving", Name: "x", IsTemporary: true}
)

const (
	v6a, v6b = "2a00:1450::a", "2a00:1450::b"
	v4a, v4b = "8.8.8.8", "8.8.4.4"
)

func TestHappyEyeballs(t *testing.T) {
	const ms = time.Millisecond
	ok := func(after time.Duration) host { return host{after: after} }
	bad := func(after time.Duration, err error) host { return host{after, err} }
	tests := []struct {
		name   string
		v6, v4 fakeAnswer
		hosts  map[string]host
		tried  []string // address@ms
		won    string
		took   time.Duration
		code   flow.Code
		detail flow.Detail
	}{
		{
			name: "both families, IPv6 wins",
			v6:   fakeAnswer{addrs: []string{v6a}}, v4: fakeAnswer{addrs: []string{v4a}},
			hosts: map[string]host{v6a: ok(20 * ms), v4a: ok(1 * ms)},
			tried: []string{v6a + "@0"}, won: v6a, took: 20 * ms,
		},
		{
			name: "IPv6 late within the resolution delay goes first",
			v6:   fakeAnswer{after: 49 * ms, addrs: []string{v6a}}, v4: fakeAnswer{addrs: []string{v4a}},
			hosts: map[string]host{v6a: ok(10 * ms), v4a: ok(10 * ms)},
			tried: []string{v6a + "@49"}, won: v6a, took: 59 * ms,
		},
		{
			name: "IPv6 later than the resolution delay",
			v6:   fakeAnswer{after: 60 * ms, addrs: []string{v6a}}, v4: fakeAnswer{addrs: []string{v4a}},
			hosts: map[string]host{v6a: ok(10 * ms), v4a: ok(30 * ms)},
			tried: []string{v4a + "@50"}, won: v4a, took: 80 * ms,
		},
		{
			name: "IPv4 late does not hold IPv6 up",
			v6:   fakeAnswer{addrs: []string{v6a}}, v4: fakeAnswer{after: silent},
			hosts: map[string]host{v6a: ok(10 * ms)},
			tried: []string{v6a + "@0"}, won: v6a, took: 10 * ms,
		},
		{
			name: "IPv6 name server silent",
			v6:   fakeAnswer{after: silent}, v4: fakeAnswer{after: 5 * ms, addrs: []string{v4a}},
			hosts: map[string]host{v4a: ok(10 * ms)},
			tried: []string{v4a + "@55"}, won: v4a, took: 65 * ms,
		},
		{
			name: "no IPv6 address: no delay",
			v6:   fakeAnswer{err: noSuchHost}, v4: fakeAnswer{after: 5 * ms, addrs: []string{v4a}},
			hosts: map[string]host{v4a: ok(10 * ms)},
			tried: []string{v4a + "@5"}, won: v4a, took: 15 * ms,
		},
		{
			name: "IPv6 drops packets",
			v6:   fakeAnswer{addrs: []string{v6a, v6b}}, v4: fakeAnswer{addrs: []string{v4a, v4b}},
			hosts: map[string]host{v6a: ok(silent), v6b: ok(silent), v4a: ok(20 * ms)},
			tried: []string{v6a + "@0", v4a + "@250"}, won: v4a, took: 270 * ms,
		},
		{
			name: "families in turns",
			v6:   fakeAnswer{addrs: []string{v6a, v6b}}, v4: fakeAnswer{addrs: []string{v4a, v4b}},
			hosts: map[string]host{v6a: ok(silent), v4a: ok(silent), v6b: ok(silent), v4b: ok(20 * ms)},
			tried: []string{v6a + "@0", v4a + "@250", v6b + "@500", v4b + "@750"}, won: v4b, took: 770 * ms,
		},
		{
			name: "no IPv6 route: next at once",
			v6:   fakeAnswer{addrs: []string{v6a}}, v4: fakeAnswer{addrs: []string{v4a}},
			hosts: map[string]host{v6a: bad(0, syscall.ENETUNREACH), v4a: ok(20 * ms)},
			tried: []string{v6a + "@0", v4a + "@0"}, won: v4a, took: 20 * ms,
		},
		{
			name: "the slower attempt may still win",
			v6:   fakeAnswer{addrs: []string{v6a}}, v4: fakeAnswer{addrs: []string{v4a}},
			hosts: map[string]host{v6a: ok(300 * ms), v4a: ok(100 * ms)},
			tried: []string{v6a + "@0", v4a + "@250"}, won: v6a, took: 300 * ms,
		},
		{
			name: "refused beats no route",
			v6:   fakeAnswer{addrs: []string{v6a}}, v4: fakeAnswer{addrs: []string{v4a}},
			hosts: map[string]host{v6a: bad(0, syscall.ENETUNREACH), v4a: bad(7*ms, syscall.ECONNREFUSED)},
			tried: []string{v6a + "@0", v4a + "@0"}, took: 7 * ms,
			code: flow.ConnectionRefused, detail: flow.DetailRefused,
		},
		{
			name: "denied address is not dialled",
			v6:   fakeAnswer{addrs: []string{"fd00::1"}}, v4: fakeAnswer{addrs: []string{"10.0.0.1", "127.0.0.1"}},
			code: flow.NotAllowed, detail: flow.DetailPolicy,
		},
		{
			name: "of several addresses the permitted one",
			v6:   fakeAnswer{err: noSuchHost}, v4: fakeAnswer{addrs: []string{"10.0.0.1", v4a}},
			hosts: map[string]host{v4a: ok(20 * ms)},
			tried: []string{v4a + "@0"}, won: v4a, took: 20 * ms,
		},
		{
			name: "no such name",
			v6:   fakeAnswer{err: noSuchHost}, v4: fakeAnswer{after: 3 * ms, err: noSuchHost}, took: 3 * ms,
			code: flow.HostUnreachable, detail: flow.DetailNameNotFound,
		},
		{
			name: "name server failed for one family, nothing for the other",
			v6:   fakeAnswer{err: noSuchHost}, v4: fakeAnswer{after: 3 * ms, err: serverFault}, took: 3 * ms,
			code: flow.HostUnreachable, detail: flow.DetailNameServerFailed,
		},
		{
			name: "empty answers",
			code: flow.HostUnreachable, detail: flow.DetailNameNotFound,
		},
		{
			name: "name server silent",
			v6:   fakeAnswer{after: silent}, v4: fakeAnswer{after: silent}, took: lookupTimeout,
			code: flow.HostUnreachable, detail: flow.DetailNameServerFailed,
		},
		{
			name: "destination silent",
			v6:   fakeAnswer{err: noSuchHost}, v4: fakeAnswer{addrs: []string{v4a}},
			hosts: map[string]host{v4a: ok(silent)},
			tried: []string{v4a + "@0"}, took: DefaultDialTimeout,
			code: flow.TTLExpired, detail: flow.DetailTimeout,
		},
		{
			name: "system's time-out",
			v4:   fakeAnswer{addrs: []string{v4a}}, v6: fakeAnswer{err: noSuchHost},
			hosts: map[string]host{v4a: bad(9*ms, syscall.ETIMEDOUT)},
			tried: []string{v4a + "@0"}, took: 9 * ms,
			code: flow.TTLExpired, detail: flow.DetailTimeout,
		},
		{
			name: "no route to host",
			v4:   fakeAnswer{addrs: []string{v4a}}, v6: fakeAnswer{err: noSuchHost},
			hosts: map[string]host{v4a: bad(9*ms, syscall.EHOSTUNREACH)},
			tried: []string{v4a + "@0"}, took: 9 * ms,
			code: flow.HostUnreachable,
		},
		{
			name: "host's own firewall",
			v4:   fakeAnswer{addrs: []string{v4a}}, v6: fakeAnswer{err: noSuchHost},
			hosts: map[string]host{v4a: bad(0, syscall.EPERM)},
			tried: []string{v4a + "@0"},
			code:  flow.NotAllowed, detail: flow.DetailPolicy,
		},
		{
			name: "something else",
			v4:   fakeAnswer{addrs: []string{v4a}}, v6: fakeAnswer{err: noSuchHost},
			hosts: map[string]host{v4a: bad(0, syscall.EMFILE)},
			tried: []string{v4a + "@0"},
			code:  flow.GeneralFailure,
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := &fakeNet{hosts: tt.hosts, begin: time.Now()}
				r := &fakeNames{answers: map[string]fakeAnswer{"ip6 site.example.": tt.v6, "ip4 site.example.": tt.v4}}
				e := New(Config{Network: n, Resolver: r})
				dst := flow.Addr{Name: "Site.Example", Port: 443}
				conn, err := e.connect(t.Context(), dst)
				if took := time.Since(n.begin); took != tt.took {
					t.Errorf("took %v, want %v", took, tt.took)
				}
				if !slices.Equal(n.tried, tt.tried) {
					t.Errorf("tried %v, want %v", n.tried, tt.tried)
				}
				if tt.won != "" {
					if err != nil {
						t.Fatal(err)
					}
					if got := conn.RemoteAddr().(*net.TCPAddr).AddrPort().Addr().String(); got != tt.won {
						t.Errorf("connected to %s, want %s", got, tt.won)
					}
					conn.Close()
				} else if err == nil || err.Code != tt.code || err.Detail != tt.detail {
					t.Errorf("error %#v, want code %d, detail %d", err, tt.code, tt.detail)
				}
				if open := n.open.Load(); open != 0 {
					t.Errorf("%d connections left open", open)
				}
			})
		})
	}
}

// TestLosersAreClosed lets two attempts succeed at the same instant.
func TestLosersAreClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &fakeNet{begin: time.Now(), hosts: map[string]host{
			v6a: {after: 300 * time.Millisecond}, v4a: {after: 50 * time.Millisecond},
		}}
		r := &fakeNames{answers: map[string]fakeAnswer{
			"ip6 site.example.": {addrs: []string{v6a}}, "ip4 site.example.": {addrs: []string{v4a}},
		}}
		conn, err := New(Config{Network: n, Resolver: r}).connect(t.Context(), flow.Addr{Name: "site.example", Port: 443})
		if err != nil {
			t.Fatal(err)
		}
		if open := n.open.Load(); open != 1 {
			t.Errorf("%d connections open beside the winner", open-1)
		}
		conn.Close()
	})
}

func TestConnectCancelled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &fakeNet{begin: time.Now(), hosts: map[string]host{v4a: {after: silent}}}
		e := New(Config{Network: n})
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(time.Second, cancel)
		s, err := e.OpenStream(ctx, flow.Addr{IP: netip.MustParseAddr(v4a), Port: 443})
		open, ok := errors.AsType[*flow.OpenError](err)
		if s != nil || !ok || open.Code != flow.GeneralFailure || !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
		if took := time.Since(n.begin); took != time.Second {
			t.Errorf("took %v", took)
		}
	})
}

// TestErrorsNameNoAddress demands that errors may be logged.
func TestErrorsNameNoAddress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, errno := range []syscall.Errno{syscall.ECONNREFUSED, syscall.EHOSTUNREACH, syscall.ENETUNREACH, syscall.EMFILE, syscall.EPERM} {
			n := &fakeNet{hosts: map[string]host{v4a: {err: errno}}}
			_, err := New(Config{Network: n}).OpenStream(t.Context(), flow.Addr{IP: netip.MustParseAddr(v4a), Port: 443})
			if err == nil {
				t.Fatal("no error")
			}
			for _, leak := range []string{v4a, "443"} {
				if text := err.Error(); strings.Contains(text, leak) {
					t.Errorf("%q names %q", text, leak)
				}
			}
		}
	})
}

func TestStreamLimitAndStats(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &fakeNet{hosts: map[string]host{v4a: {}, v4b: {err: syscall.ECONNREFUSED}}}
		e := New(Config{Network: n, MaxStreams: 2})
		dst := flow.Addr{IP: netip.MustParseAddr(v4a), Port: 443}
		var open []flow.Stream
		for range 2 {
			s, err := e.OpenStream(t.Context(), dst)
			if err != nil {
				t.Fatal(err)
			}
			open = append(open, s)
		}
		if _, err := e.OpenStream(t.Context(), dst); !errors.Is(err, errFull) {
			t.Fatalf("a third stream: %v", err)
		}
		open[0].Close()
		open[0].Close() // counts once
		if _, err := e.OpenStream(t.Context(), flow.Addr{IP: netip.MustParseAddr(v4b), Port: 443}); err == nil {
			t.Fatal("not refused")
		}
		if _, err := e.OpenStream(t.Context(), flow.Addr{IP: netip.MustParseAddr("10.0.0.1"), Port: 443}); err == nil {
			t.Fatal("not denied")
		}
		if _, err := e.OpenStream(t.Context(), flow.Addr{}); err == nil {
			t.Fatal("no destination at all, and a stream")
		}
		want := Stats{StreamsOpen: 1, StreamsOpened: 2, StreamsFailed: 3, Denied: 1}
		if got := e.Stats(); got != want {
			t.Errorf("stats %+v, want %+v", got, want)
		}
		open[1].Close()
	})
}

func TestNameCache(t *testing.T) {
	q := ask("ip4", "Site.Example.")
	t.Run("one lookup for all, kept for its time", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			r := &fakeNames{answers: map[string]fakeAnswer{"ip4 site.example.": {after: time.Second, addrs: []string{v4a}}}}
			c := newCache(r)
			var wg sync.WaitGroup
			for range 10 {
				wg.Go(func() {
					if addrs, err := c.lookup(t.Context(), q); err != nil || len(addrs) != 1 {
						t.Errorf("%v, %v", addrs, err)
					}
				})
			}
			wg.Wait()
			time.Sleep(nameTTL - time.Millisecond)
			c.lookup(t.Context(), q)
			if n := r.asked.Load(); n != 1 {
				t.Errorf("asked %d times", n)
			}
			time.Sleep(time.Millisecond)
			c.lookup(t.Context(), q)
			if n := r.asked.Load(); n != 2 {
				t.Errorf("asked %d times after the time was over", n)
			}
		})
	})
	t.Run("failures are kept shortly", func(t *testing.T) {
		for err, ttl := range map[error]time.Duration{noSuchHost: notFoundTTL, serverFault: failedTTL} {
			synctest.Test(t, func(t *testing.T) {
				r := &fakeNames{answers: map[string]fakeAnswer{"ip4 site.example.": {err: err}}}
				c := newCache(r)
				c.lookup(t.Context(), q)
				time.Sleep(ttl - 1)
				c.lookup(t.Context(), q)
				if n := r.asked.Load(); n != 1 {
					t.Errorf("%v: asked %d times", err, n)
				}
				time.Sleep(time.Nanosecond)
				if _, got := c.lookup(t.Context(), q); got != err || r.asked.Load() != 2 {
					t.Errorf("%v: got %v, asked %d times", err, got, r.asked.Load())
				}
			})
		}
	})
	t.Run("one who gives up spoils nothing", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			r := &fakeNames{answers: map[string]fakeAnswer{"ip4 site.example.": {after: time.Second, addrs: []string{v4a}}}}
			c := newCache(r)
			hasty, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
			defer cancel()
			var wg sync.WaitGroup
			wg.Go(func() {
				if _, err := c.lookup(hasty, q); err == nil {
					t.Error("the hasty one got an answer")
				}
			})
			synctest.Wait()
			if addrs, err := c.lookup(t.Context(), q); err != nil || len(addrs) != 1 {
				t.Errorf("%v, %v", addrs, err)
			}
			wg.Wait()
		})
	})
	t.Run("bounded", func(t *testing.T) {
		many := make([]string, 3*maxNameAddrs)
		for i := range many {
			many[i] = v4a
		}
		r := &fakeNames{answers: map[string]fakeAnswer{"ip4 site.example.": {addrs: many}}}
		c := newCache(r)
		if addrs, _ := c.lookup(t.Context(), q); len(addrs) != maxNameAddrs {
			t.Errorf("%d addresses", len(addrs))
		}
		for i := range 2 * maxNames {
			c.lookup(t.Context(), ask("ip4", fmt.Sprint(i)))
		}
		if n := len(c.answers.items); n != maxNames || n != c.answers.order.Len() || len(c.flights) != 0 {
			t.Errorf("%d answers, %d in order, %d flights", n, c.answers.order.Len(), len(c.flights))
		}
	})
}
