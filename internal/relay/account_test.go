package relay

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"busel/config"
	"busel/internal/exit"
	"busel/internal/flow"
	"busel/internal/quota"
	"busel/internal/session"
	"busel/internal/state"
	"busel/internal/wire"
	"busel/transport"
	"busel/transport/transporttest"
)

// sums is a quota.Store in memory.
type sums struct {
	mu sync.Mutex
	of map[state.InviteID]uint64
}

func (s *sums) Add(id state.InviteID, _ state.Month, n uint64) (uint64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.of == nil {
		s.of = map[state.InviteID]uint64{}
	}
	s.of[id] += n
	return s.of[id], nil
}

func (s *sums) Sync() error { return nil }

func newBook(t *testing.T, total config.Limits, limits map[byte]state.Limits) *quota.Book {
	t.Helper()
	b, err := quota.New(quota.Config{Store: &sums{}, Total: total})
	if err != nil {
		t.Fatal(err)
	}
	b.SetLimits(func(id state.InviteID) state.Limits { return limits[id[0]] })
	return b
}

// mood is a gate whose mind changes, and that knows the book.
type mood struct {
	rules
	book   *quota.Book
	status atomic.Uint32 // of invite a
}

func (m *mood) Judge(t wire.Token) (bool, wire.Status) {
	if s := wire.Status(m.status.Load()); t[0] == 'a' && s != wire.StatusOK {
		return true, s
	}
	if m.book != nil && m.book.Account(t.InviteID()).UsedUp() {
		return true, wire.StatusQuota
	}
	return m.rules.Judge(t)
}

func detailOf(err error) flow.Detail {
	if e, ok := errors.AsType[*session.ResetError](err); ok {
		return e.Detail
	}
	if e, ok := errors.AsType[*flow.OpenError](err); ok {
		return e.Detail
	}
	return 255
}

// A session whose invite is revoked or expires ends, with all that is open in it,
// when the relay is told or within reviewEvery; others go on.
func TestReview(t *testing.T) {
	for _, status := range []wire.Status{wire.StatusRevoked, wire.StatusExpired} {
		for _, told := range []bool{true, false} {
			synctest.Test(t, func(t *testing.T) {
				gate := new(mood)
				r, d := start(t, Config{Gate: gate})
				a, _, err := connect(t, d, "a")
				if err != nil {
					t.Fatal(err)
				}
				b, _, err := connect(t, d, "b")
				if err != nil {
					t.Fatal(err)
				}
				s, err := a.OpenStream(t.Context(), flow.Addr{Name: "site", Port: 80})
				if err != nil {
					t.Fatal(err)
				}
				defer s.Close()
				if _, err := s.Write([]byte("x")); err != nil {
					t.Fatal(err)
				}
				if _, err := io.ReadFull(s, make([]byte, 1)); err != nil {
					t.Fatal(err)
				}
				gate.status.Store(uint32(status))
				begin := time.Now()
				if told {
					r.Review()
				}
				_, err = s.Read(make([]byte, 1))
				if got := detailOf(err); got != flow.DetailInvite {
					t.Errorf("%v: the stream ended with %v, detail %d", status, err, got)
				}
				if took := time.Since(begin); took > reviewEvery+time.Second || told && took > 100*time.Millisecond {
					t.Errorf("%v, told %t: after %v", status, told, took)
				}
				time.Sleep(2 * time.Second) // to say goodbye
				synctest.Wait()
				if n := r.Stats(); n.Sessions != 1 || n.Streams != 0 || n.Carriers != 1 {
					t.Errorf("left: %+v", n)
				}
				if got, err := say(t, b, "site", "hello"); got != "hello" || err != nil {
					t.Errorf("the other invite: %q, %v", got, err)
				}
				if _, _, err := connect(t, d, "a"); err == nil {
					t.Error("it may come back")
				}
			})
		}
	}
}

// Streams move what the quota lets, and then all that the invite has open ends.
func TestQuotaEndsSessions(t *testing.T) {
	const cap = 1_000_000
	for name, limits := range map[string]struct {
		total config.Limits
		own   map[byte]state.Limits
	}{
		"own":   {own: map[byte]state.Limits{'a': {Quota: cap}}},
		"total": {total: config.Limits{Monthly: cap}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				book := newBook(t, limits.total, limits.own)
				r, d := start(t, Config{Gate: &mood{book: book}, Book: book})
				c := keep(t, d, "a")
				other, _, err := connect(t, d, "b")
				if err != nil {
					t.Fatal(err)
				}
				var wg sync.WaitGroup
				for range 4 { // each byte goes up and comes back
					s, err := c.OpenStream(t.Context(), flow.Addr{Name: "site", Port: 80})
					if err != nil {
						t.Fatal(err)
					}
					defer s.Close()
					wg.Go(func() { // an echo: it moves until it is cut off
						io.Copy(s, endless{})
					})
					wg.Go(func() {
						_, err := io.Copy(io.Discard, s)
						if got := detailOf(err); got != flow.DetailQuota {
							t.Errorf("a stream ended with %v, detail %d", err, got)
						}
					})
				}
				wg.Wait()
				time.Sleep(2 * time.Second)
				synctest.Wait()
				used := book.Account([8]byte{'a'}).Used()
				if used < cap || used > cap+(64<<10) {
					t.Errorf("%d are counted of %d", used, cap)
				}
				if n := r.Stats(); n.BytesUp > cap || n.BytesUp+n.BytesDown > cap+(64<<10) || n.BytesUp+n.BytesDown < cap*8/10 {
					t.Errorf("moved %d up, %d down", n.BytesUp, n.BytesDown)
				}
				_, _, err = connect(t, d, "a")
				if se, ok := errors.AsType[*wire.StatusError](err); !ok || se.Status != wire.StatusQuota {
					t.Errorf("a hello afterwards: %v", err)
				}
				if name == "own" {
					if got, err := say(t, other, "site", "hello"); got != "hello" || err != nil {
						t.Errorf("the other invite: %q, %v", got, err)
					}
				} else if n := r.Stats().Sessions; n != 0 {
					t.Errorf("%d sessions are left", n)
				}
			})
		})
	}
}

// keep runs a client's session that dials until the relay refuses it, as rotation
// does: what a carrier says last may die with it when the client writes at the time.
func keep(t *testing.T, d *door, token string) *session.Client {
	t.Helper()
	var tok wire.Token
	copy(tok[:], token)
	c := session.NewClient(session.ClientConfig{Token: tok})
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { c.Run(ctx) })
	wg.Go(func() {
		for ctx.Err() == nil {
			o := c.Offer(session.CarrierOptions{})
			carrier, a, err := d.Dial(ctx, transport.Route{}, o.Hello())
			if err != nil {
				o.Withdraw()
				c.Fail(err)
				return
			}
			o.Attach(ctx, carrier, a)
		}
	})
	t.Cleanup(func() {
		cancel()
		wg.Wait()
	})
	return c
}

// spring is an exit whose destinations send without end.
type spring struct{ echo }

func (spring) OpenStream(context.Context, flow.Addr) (flow.Stream, error) {
	near, far := net.Pipe()
	go io.Copy(far, endless{})
	return echoStream{near}, nil
}

// What connections take with them when they break travels again, and counts again, in
// both directions: a quota is about what passes between clients and relay.
func TestQuotaCountsWhatTravelsAgain(t *testing.T) {
	for name, cut := range map[string][2]int64{"down": {transporttest.Client: 200_000}, "up": {transporttest.Relay: 200_000}} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				book := newBook(t, config.Limits{}, nil)
				r, d := start(t, Config{Book: book})
				d.path = transporttest.LinkConfig{Delay: 10 * time.Millisecond, Rate: 1e6, Capacity: 40_000, CutAfter: cut}
				c := keep(t, d, "a")
				s, err := c.OpenStream(t.Context(), flow.Addr{Name: "site", Port: 80})
				if err != nil {
					t.Fatal(err)
				}
				defer s.Close()
				const size = 2_000_000
				go s.Write(make([]byte, size))
				if _, err := io.CopyN(io.Discard, s, size); err != nil {
					t.Fatal(err)
				}
				synctest.Wait()
				used := int64(book.Account([8]byte{'a'}).Used())
				passed := d.passed(transporttest.Client) + d.passed(transporttest.Relay)
				if passed < 2*size*5/4 {
					t.Fatalf("%d bytes passed: hardly any of them twice", passed)
				}
				// Headers and ACKs pass and do not count. What a client sent may not have
				// come, and what a relay's carrier took may not have been written.
				slack := int64(len(d.links)) * (64 << 10)
				t.Logf("%d are counted of %d that passed over %d connections: %+d for each", used, passed, len(d.links), (used-passed)/int64(len(d.links)))
				if used < passed*95/100-slack || used > passed+slack {
					t.Errorf("%d are counted of %d that passed over %d connections", used, passed, len(d.links))
				}
				if got := used - 2*size; got != r.Stats().BytesAgain {
					t.Errorf("%d travelled again, the status says %d", got, r.Stats().BytesAgain)
				}
				if total := int64(book.Total().Used()); total != used {
					t.Errorf("the total is %d", total)
				}
			})
		})
	}
}

// A client whose connections break again and again before anything has arrived gets
// the same bytes each time, but not faster than its rate, and not more than its quota.
func TestSentAgainWithinLimits(t *testing.T) {
	const length = 20 // seconds
	for name, x := range map[string]struct {
		limits      state.Limits
		least, most int64
	}{
		"no limits": {state.Limits{}, 30_000_000, 60_000_000},
		"rate":      {state.Limits{Rate: 800_000}, length * 90_000, length*100_000 + (64 << 10)},
		"quota":     {state.Limits{Quota: 5_000_000}, 4_600_000, 5_000_000 + (64 << 10)},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				book := newBook(t, config.Limits{}, map[byte]state.Limits{'a': x.limits})
				r, d := start(t, Config{Gate: &mood{book: book}, Book: book, Exit: spring{}})
				d.frozen = true
				c := keep(t, d, "a")
				s, err := c.OpenStream(t.Context(), flow.Addr{Name: "site", Port: 80})
				if err != nil {
					t.Fatal(err)
				}
				defer s.Close()
				if _, err := s.Write([]byte("x")); err != nil {
					t.Fatal(err)
				}
				for begin := time.Now(); time.Since(begin) < length*time.Second; {
					time.Sleep(100 * time.Millisecond)
					d.kill()
				}
				synctest.Wait()
				passed := d.passed(transporttest.Client)
				t.Logf("%d bytes over %d connections", passed, len(d.links))
				if passed < x.least || passed > x.most {
					t.Errorf("%d bytes passed, between %d and %d may", passed, x.least, x.most)
				}
				if again := r.Stats().BytesAgain; again < passed*9/10 {
					t.Errorf("%d of %d bytes were sent again", again, passed)
				}
				if n := r.Stats().Sessions; (n == 0) != (name == "quota") {
					t.Errorf("%d sessions are left", n)
				}
			})
		})
	}
}

type endless struct{}

func (endless) Read(b []byte) (int, error) { return len(b), nil }

// Datagrams count, and end with the quota.
func TestQuotaOfDatagrams(t *testing.T) {
	server := udpEcho(t, "127.0.0.1:0")
	book := newBook(t, config.Limits{}, map[byte]state.Limits{'a': {Quota: 10_000}})
	r, d := start(t, Config{
		Gate: &mood{book: book}, Book: book,
		Exit: exit.New(exit.Config{Allow: []netip.Prefix{netip.PrefixFrom(server.Addr(), 32)}}),
	})
	c, _, err := connect(t, d, "a")
	if err != nil {
		t.Fatal(err)
	}
	p, err := c.OpenPackets(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	stuck := time.AfterFunc(30*time.Second, func() { p.Close() })
	defer stuck.Stop()
	b := bytes.Repeat([]byte("x"), 1000)
	for range 5 {
		if err := p.WriteTo(b, flow.AddrFrom(server)); err != nil {
			t.Fatal(err)
		}
		if n, _, err := p.ReadFrom(make([]byte, 2000)); n != 1000 || err != nil {
			t.Fatalf("%d bytes, %v", n, err)
		}
	}
	if n := book.Account([8]byte{'a'}).Used(); n != 10_000 {
		t.Errorf("%d are counted", n)
	}
	if err := p.WriteTo(b, flow.AddrFrom(server)); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(20 * time.Second); r.Stats().Sessions > 0; {
		if time.Now().After(deadline) {
			t.Fatal("the session goes on")
		}
		time.Sleep(10 * time.Millisecond)
	}
	if n := book.Account([8]byte{'a'}).Used(); n != 10_000 {
		t.Errorf("%d are counted after the end", n)
	}
}

// A rate holds for all sessions of an invite together, in each direction, and for no
// other. A stream that waits for it can be closed.
func TestRateOfInvite(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		book := newBook(t, config.Limits{}, map[byte]state.Limits{'a': {Rate: 8_000_000}})
		_, d := start(t, Config{Book: book})
		const size = 5_000_000
		move := func(token string) time.Duration {
			c, _, err := connect(t, d, token)
			if err != nil {
				t.Error(err)
				return 0
			}
			s, err := c.OpenStream(t.Context(), flow.Addr{Name: "site", Port: 80})
			if err != nil {
				t.Error(err)
				return 0
			}
			defer s.Close()
			begin := time.Now()
			go s.Write(make([]byte, size/2))
			if _, err := io.CopyN(io.Discard, s, size/2); err != nil {
				t.Error(err)
			}
			return time.Since(begin)
		}
		var wg sync.WaitGroup
		for range 2 {
			wg.Go(func() {
				if took := move("a"); took < 4500*time.Millisecond || took > 5500*time.Millisecond {
					t.Errorf("two sessions at 1 MB/s together moved 2.5 MB each in %v", took)
				}
			})
		}
		wg.Go(func() {
			if took := move("b"); took > 500*time.Millisecond {
				t.Errorf("an invite without a rate took %v", took)
			}
		})
		wg.Wait()
		c, _, err := connect(t, d, "a")
		if err != nil {
			t.Fatal(err)
		}
		s, err := c.OpenStream(t.Context(), flow.Addr{Name: "site", Port: 80})
		if err != nil {
			t.Fatal(err)
		}
		go s.Write(make([]byte, size))
		time.Sleep(time.Second)
		s.Close()
		time.Sleep(time.Second)
		synctest.Wait() // the cleanup of start finds a stream that is left
	})
}

func TestDevices(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		book := newBook(t, config.Limits{}, map[byte]state.Limits{'a': {Devices: 1}})
		r, d := start(t, Config{Book: book, MaxPerInvite: 2})
		first, stop, err := connect(t, d, "a")
		if err != nil {
			t.Fatal(err)
		}
		_, _, err = connect(t, d, "a")
		if se, ok := errors.AsType[*wire.StatusError](err); !ok || se.Status != wire.StatusDevices {
			t.Errorf("a second device: %v", err)
		}
		if got, err := say(t, first, "site", "hello"); got != "hello" || err != nil {
			t.Errorf("the first device: %q, %v", got, err)
		}
		for range 2 {
			if _, _, err := connect(t, d, "b"); err != nil {
				t.Errorf("another invite: %v", err)
			}
		}
		if n := r.Devices(); n[[8]byte{'a'}] != 1 || n[[8]byte{'b'}] != 2 {
			t.Errorf("devices: %v", n)
		}
		stop()
		synctest.Wait()
		if n := r.Devices(); n[[8]byte{'a'}] != 0 || n[[8]byte{'b'}] != 2 {
			t.Errorf("devices after one is gone: %v", n)
		}
		if _, _, err := connect(t, d, "a"); err != nil {
			t.Errorf("when the first one is gone: %v", err)
		}
		if n := r.Stats().Sessions; n != 3 {
			t.Errorf("%d sessions", n)
		}
	})
}
