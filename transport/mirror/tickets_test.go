package mirror

import (
	"crypto/tls"
	"errors"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	utls "github.com/refraction-networking/utls"

	"busel/internal/nginxtest"
	"busel/obfs/look"
	"busel/transport"
)

// aTicket has n in it.
func aTicket(n byte) *utls.ClientSessionState {
	return utls.MakeClientSessionState([]byte{n}, utls.VersionTLS13, utls.TLS_AES_128_GCM_SHA256, nil, nil, nil)
}

// number takes a ticket and returns what is in it; 0: there was none.
func number(t *tickets, o origin) byte {
	if s := t.take(o); s != nil {
		return s.SessionTicket()[0]
	}
	return 0
}

// TestTicketOrigins wants each ticket back once, where it came to, and nowhere else.
func TestTicketOrigins(t *testing.T) {
	l, other := shippedLook(t, "chromium"), shippedLook(t, "firefox")
	here := origin{l, "home", netip.MustParseAddr("192.168.1.7"), "198.51.100.7:443"}
	var k tickets
	for name, o := range map[string]origin{
		"another look":            {other, here.network, here.local, here.address},
		"another network":         {l, "work", here.local, here.address},
		"another local address":   {l, here.network, netip.MustParseAddr("192.168.1.8"), here.address},
		"another relay's address": {l, here.network, here.local, "198.51.100.8:443"},
		"another port":            {l, here.network, here.local, "198.51.100.7:8443"},
	} {
		k.put(here, aTicket(1))
		if n := number(&k, o); n != 0 {
			t.Errorf("%s: ticket %d", name, n)
		}
		if n := number(&k, here); n != 1 {
			t.Errorf("%s: the ticket is gone", name)
		}
		if n := number(&k, here); n != 0 {
			t.Errorf("%s: ticket %d twice", name, n)
		}
	}
	// The newest as many as the browser keeps, the newest first.
	for n := range byte(5) {
		k.put(here, aTicket(n+1))
	}
	if a, b, c := number(&k, here), number(&k, here), number(&k, here); a != 5 || b != 4 || c != 0 {
		t.Errorf("tickets %d %d %d", a, b, c)
	}
	k.put(here, utls.MakeClientSessionState([]byte{9}, utls.VersionTLS12, utls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, nil, nil, nil))
	k.put(here, utls.MakeClientSessionState(make([]byte, maxTicket+1), utls.VersionTLS13, utls.TLS_AES_128_GCM_SHA256, nil, nil, nil))
	if n := number(&k, here); n != 0 {
		t.Error("a ticket of TLS 1.2, or one without end, was kept")
	}
	for n := range byte(maxOrigins + 3) {
		o := here
		o.local = netip.AddrFrom4([4]byte{10, 0, 0, n})
		k.put(o, aTicket(n+1))
	}
	if len(k.held) != maxOrigins {
		t.Errorf("tickets of %d origins", len(k.held))
	}
	k.forget()
	if len(k.held) != 0 {
		t.Error("not forgotten")
	}
	k.put(here, aTicket(1))
	k.retried()
	if k.put(here, aTicket(2)); number(&k, here) != 0 || !k.off() {
		t.Error("a ticket after a HelloRetryRequest")
	}
}

// TestTicketsAge waits until a browser would not offer them any more.
func TestTicketsAge(t *testing.T) {
	l := shippedLook(t, "chromium")
	synctest.Test(t, func(t *testing.T) {
		o := origin{l, "home", netip.MustParseAddr("192.168.1.7"), "198.51.100.7:443"}
		var k tickets
		k.put(o, aTicket(1))
		k.put(o, aTicket(2))
		time.Sleep(time.Duration(l.Tickets.Life)*time.Second - time.Second)
		if n := number(&k, o); n != 2 {
			t.Errorf("ticket %d", n)
		}
		time.Sleep(time.Second)
		if n := number(&k, o); n != 0 {
			t.Errorf("ticket %d of two days ago", n)
		}
	})
}

// TestFrom: behind another relay nothing is known of the place, and nothing is kept.
func TestFrom(t *testing.T) {
	l := shippedLook(t, "chromium")
	never := *l
	never.Tickets = look.Tickets{}
	at := func(text string) net.Conn {
		return fakeAddr{local: net.TCPAddrFromAddrPort(netip.MustParseAddrPort(text))}
	}
	for _, tt := range []struct {
		conn net.Conn
		look *look.Look
		ok   bool
	}{
		{at("192.168.1.7:40000"), l, true},
		{at("[2001:db8::1]:40000"), l, true},
		{at("192.168.1.7:40000"), &never, false},
		{at("0.0.0.0:0"), l, false},
		{fakeAddr{local: net.TCPAddrFromAddrPort(netip.AddrPort{})}, l, false},
		{fakeAddr{local: &net.UnixAddr{}}, l, false},
	} {
		if o, ok := from(tt.conn, tt.look, "home", "r:443"); ok != tt.ok || ok && (o.network != "home" || !o.local.IsValid()) {
			t.Errorf("%v: %+v, %v", tt.conn.LocalAddr(), o, ok)
		}
	}
}

type fakeAddr struct {
	net.Conn
	local net.Addr
}

func (f fakeAddr) LocalAddr() net.Addr { return f.local }

// until waits for what must come.
func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s did not come", what)
		}
	}
}

// stock is how many tickets a dialer holds.
func (d *Dialer) stock() (n int) {
	d.tickets.mu.Lock()
	defer d.tickets.mu.Unlock()
	for _, s := range d.tickets.held {
		n += len(s.tickets)
	}
	return n
}

// TestResumed makes carriers with each look that resume, before covers that choose
// differently, and sees that they do: no certificate comes.
func TestResumed(t *testing.T) {
	for _, family := range []string{"chromium", "firefox"} {
		l := shippedLook(t, family)
		for name, site := range map[string]func(t *testing.T) *site{
			"go": func(t *testing.T) *site { return goSite(t, nil) },
			"go http1": func(t *testing.T) *site {
				return goSite(t, func(c *tls.Config) { c.NextProtos = []string{"http/1.1"} })
			},
			"built-in": builtinSite,
			"nginx":    func(t *testing.T) *site { return nginxSite(t, nginxtest.Config{}) },
		} {
			t.Run(family+" "+name, func(t *testing.T) {
				r := startRelay(t, site(t), nil)
				pin := r.site.leaf
				d := r.dialer(t, func(c *DialerConfig) { c.CertHash, c.Look = &pin, func() *look.Look { return l } })
				for i := range 4 {
					c, e := r.pair(t, d)
					k := c.(*clientCarrier).c
					if state := k.tls.ConnectionState(); k.offered != (i > 0) || state.DidResume != (i > 0) {
						t.Fatalf("carrier %d: a ticket was offered: %v, taken: %v", i, k.offered, state.DidResume)
					}
					for n := byte(1); n < 9; n += 2 {
						send(t, c, e, n)
						send(t, e, c, n+1)
					}
					until(t, "a ticket", func() bool { return d.stock() > 0 })
					c.Close()
				}
				// On another network, and after a move, hellos are fresh ones.
				d.Forget()
				c, _ := r.pair(t, d)
				if c.(*clientCarrier).c.offered {
					t.Error("a ticket was offered after Forget")
				}
			})
		}
	}
}

// TestResumedElsewhere changes the place between two carriers.
func TestResumedElsewhere(t *testing.T) {
	r := startRelay(t, goSite(t, nil), nil)
	var place atomic.Value
	place.Store("home")
	d := r.dialer(t, func(c *DialerConfig) { c.Place = func() string { return place.Load().(string) } })
	for _, tt := range []struct {
		place   string
		offered bool
	}{{"home", false}, {"home", true}, {"work", false}, {"home", true}, {"work", true}} {
		place.Store(tt.place)
		before := d.stock()
		c, e := r.pair(t, d)
		send(t, c, e, 1)
		send(t, e, c, 2)
		if got := c.(*clientCarrier).c.offered; got != tt.offered {
			t.Fatalf("at %s: a ticket was offered: %v", tt.place, got)
		}
		until(t, "a ticket", func() bool { return d.stock() > before || tt.offered && d.stock() >= before })
		c.Close()
	}
}

// TestTicketsAreUsedOnce dials in parallel.
func TestTicketsAreUsedOnce(t *testing.T) {
	var mu sync.Mutex
	seen := map[string]int{}
	fresh := 0
	s := goSite(t, func(c *tls.Config) {
		c.UnwrapSession = func(identity []byte, cs tls.ConnectionState) (*tls.SessionState, error) {
			mu.Lock()
			seen[string(identity)]++
			mu.Unlock()
			return c.DecryptTicket(identity, cs)
		}
	})
	r := startRelay(t, s, nil)
	d := r.dialer(t, nil)
	for range 4 {
		var wg sync.WaitGroup
		for range 5 {
			wg.Go(func() {
				p := make(chan struct{})
				go func() {
					defer close(p)
					if p, err := r.Accept(testContext(t)); err == nil {
						_, _ = p.Answer(okAccept())
					}
				}()
				c, _, err := d.Dial(testContext(t), r.route(), testHello())
				if err != nil {
					t.Error(err)
					return
				}
				if !c.(*clientCarrier).c.offered {
					mu.Lock()
					fresh++
					mu.Unlock()
				}
				<-p
				c.Close()
			})
		}
		wg.Wait()
		until(t, "tickets", func() bool { return d.stock() == 2 })
	}
	for _, n := range seen {
		if n != 1 {
			t.Errorf("a ticket was used %d times", n)
		}
	}
	if len(seen) == 0 || fresh < 5 || fresh+len(seen) != 20 {
		t.Errorf("%d fresh hellos, %d tickets", fresh, len(seen))
	}
}

// TestResumedPin: the certificate of the handshake that brought the ticket is judged
// again; a cover that is replaced by another one with the same tickets is not believed.
func TestResumedPin(t *testing.T) {
	s := goSite(t, nil)
	r := startRelay(t, s, nil)
	d := r.dialer(t, nil)
	c, _ := r.pair(t, d)
	until(t, "a ticket", func() bool { return d.stock() > 0 })
	c.Close()
	pin := s.leaf
	pin[0]++
	v, err := newVerifier(s.name, &pin, nil)
	if err != nil {
		t.Fatal(err)
	}
	d.verifier = v
	_, _, err = d.Dial(testContext(t), r.route(), testHello())
	if e := dialFailure(t, err); e.Failure != transport.Hijacked || e.Stage != transport.StageTLS {
		t.Fatalf("another pin: %v", err)
	}
	if d.stock() != 0 {
		t.Error("the tickets of a cover that is not believed are kept")
	}
}

// TestRetryAfterTicket: a cover that begins to send HelloRetryRequests gets a fresh
// hello at once, and no other ones ever.
func TestRetryAfterTicket(t *testing.T) {
	var retry atomic.Bool
	s := goSite(t, func(c *tls.Config) {
		other := c.Clone()
		other.CurvePreferences = []tls.CurveID{tls.CurveP384}
		other.NextProtos = []string{"h2", "http/1.1"}
		c.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) {
			if retry.Load() {
				return other, nil
			}
			return nil, nil
		}
	})
	r := startRelay(t, s, nil)
	d := r.dialer(t, nil)
	c, _ := r.pair(t, d)
	until(t, "a ticket", func() bool { return d.stock() > 0 })
	c.Close()
	retry.Store(true)
	for range 2 {
		c, e := r.pair(t, d)
		send(t, c, e, 1)
		send(t, e, c, 2)
		if c.(*clientCarrier).c.offered || d.stock() != 0 {
			t.Error("a ticket for a cover that sends HelloRetryRequests")
		}
		c.Close()
	}
}

// TestTicketThatFails: whoever lets no hello with a ticket pass meets a fresh one next.
func TestTicketThatFails(t *testing.T) {
	var refuse atomic.Bool
	s := goSite(t, func(c *tls.Config) {
		c.UnwrapSession = func(identity []byte, cs tls.ConnectionState) (*tls.SessionState, error) {
			if refuse.Load() {
				return nil, errors.New("not here")
			}
			return c.DecryptTicket(identity, cs)
		}
	})
	r := startRelay(t, s, nil)
	l := shippedLook(t, "firefox")
	d := r.dialer(t, func(c *DialerConfig) { c.Look = func() *look.Look { return l } })
	c, _ := r.pair(t, d)
	until(t, "a ticket", func() bool { return d.stock() > 0 })
	c.Close()
	held := &d.tickets.held[0] // nothing runs that would touch it
	held.tickets = append(held.tickets, held.tickets...)
	refuse.Store(true)
	if _, _, err := d.Dial(testContext(t), r.route(), testHello()); err == nil {
		t.Fatal("a hello that the cover refuses made a carrier")
	}
	c, _ = r.pair(t, d)
	if c.(*clientCarrier).c.offered {
		t.Error("a ticket was offered after one was refused")
	}
}

// TestRefusedTicket: a resumed hello that the cover refuses is no reason to doubt the look.
func TestRefusedTicket(t *testing.T) {
	var refuses atomic.Bool
	r := startRelay(t, goSite(t, func(c *tls.Config) {
		c.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) {
			if refuses.Load() {
				return nil, errors.New("not this one")
			}
			return nil, nil
		}
	}), nil)
	asked := 0
	d := r.dialer(t, func(c *DialerConfig) {
		c.Refused = func(*look.Look) (*look.Look, func()) { asked++; return nil, nil }
	})
	c, e := r.pair(t, d)
	send(t, c, e, 1)
	send(t, e, c, 2)
	until(t, "a ticket", func() bool { return d.stock() > 0 })
	c.Close()
	refuses.Store(true)
	for _, want := range []int{0, 1} { // with the ticket, and then without
		if _, _, err := d.Dial(t.Context(), r.route(), testHello()); err == nil {
			t.Fatal("the cover refused nothing")
		}
		if asked != want {
			t.Fatalf("the look was doubted %d times, want %d", asked, want)
		}
	}
}
