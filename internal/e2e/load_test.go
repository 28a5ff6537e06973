//go:build linux

package e2e

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"busel/config"
	"busel/internal/flow"
	"busel/internal/session"
	"busel/internal/wire"
	"busel/transport"
	"busel/transport/mirror"
)

// load is many sessions at one relay, from this process.
type load struct {
	sessions, streams int           // streams of each session; half of them move data
	length            time.Duration // of the steady part
	kills             time.Duration // how long a carrier lives on average before it is reset; 0 is for ever
	every             time.Duration // between two messages of a stream that moves data
}

// loadMessage is how long those are, in bytes. The origin echoes them.
const loadMessage = 1000

// TestLoad holds sessions with many streams, which all come back with what was sent,
// and then looks whether the relay's descriptors and memory do. By default it is
// short, once with carriers that live and once with such that are reset. The long
// forms have 1,000 sessions of 10 streams:
//
//	BUSEL_E2E_LOAD=10m go test -timeout 30m -run 'TestLoad$' ./internal/e2e
//	BUSEL_E2E_SOAK=30m go test -timeout 60m -run 'TestLoad$' ./internal/e2e
//
// the second with a reset of each carrier every minute on average. All streams together
// move 2 MB/s then, so that a machine can be used beside. Memory must be flat
// after the first minute in the first of them, and in the second, in which each session
// comes to its peak some time, from a third of the time on: what is in use, as the first
// collection there and the later ones find it, and what is resident in the first third of that
// time and in the last. That grows at first, until there was a collection with all streams
// open, since one comes only every two minutes where so little is asked for. They need
// 15,000 open files.
func TestLoad(t *testing.T) {
	short := true
	for variable, kills := range map[string]time.Duration{"BUSEL_E2E_LOAD": 0, "BUSEL_E2E_SOAK": time.Minute} {
		text := os.Getenv(variable)
		if text == "" {
			continue
		}
		short = false
		length, err := time.ParseDuration(text)
		if err != nil {
			t.Fatal(err)
		}
		t.Run(variable, func(t *testing.T) { (&load{1000, 10, length, kills, 5 * time.Second}).run(t) })
	}
	if short {
		t.Run("steady", func(t *testing.T) { (&load{40, 10, 2 * time.Second, 0, 200 * time.Millisecond}).run(t) })
		t.Run("resets", func(t *testing.T) { (&load{40, 10, 3 * time.Second, 2 * time.Second, 200 * time.Millisecond}).run(t) })
	}
}

func (l *load) run(t *testing.T) {
	mayOpen(t, uint64(l.sessions*l.streams+4*l.sessions+1000)) // here and at the relay
	const each = 8                                             // sessions of one invite
	r, metrics := relayWithMetrics(t, relayOptions{})
	invites := []string{r.invite}
	for len(invites)*each < l.sessions {
		invites = append(invites, strings.TrimSpace(command(t, "", "relayd", "invite", "-dir", r.dir)))
	}
	origin, err := flow.SplitHostPort(startManyEchoes(t))
	if err != nil {
		t.Fatal(err)
	}
	r.status(t) // what that opens for the first time stays open
	figures := func(when string) {
		t.Helper()
		mib := func(n int64) float64 { return float64(n) / (1 << 20) }
		t.Logf("%s: resident %.1f MiB, of the Go heap and stacks %.1f MiB, in use %.1f MiB; %d descriptors, %d goroutines", when,
			mib(resident(t, r.program)), mib(int64(measured(t, metrics, "memory_bytes"))), mib(int64(measured(t, metrics, "memory_live_bytes"))),
			descriptors(t, r.program), measured(t, metrics, "goroutines"))
	}
	figures("at first") // and so does this
	files := descriptors(t, r.program)

	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	var all crowd
	begin := time.Now()
	for i := range l.sessions {
		c := newLoadClient(t, invites[i/each], l.kills)
		wg.Go(func() { c.live(ctx, &all) })
		stop := make(chan struct{})
		all.stops = append(all.stops, stop)
		for n := range l.streams {
			all.streams.Go(func() { c.stream(ctx, &all, origin, n%2 == 0, l.every, uint64(i*l.streams+n), stop) })
		}
		if i%20 == 19 { // handshakes take their time; they are not what is measured
			all.opened(t, (i+1)*l.streams)
		}
	}
	all.opened(t, l.sessions*l.streams)
	if s := r.status(t).Relay; s.Sessions != l.sessions || s.Streams != int64(l.sessions*l.streams) {
		t.Errorf("the relay has %d sessions and %d streams", s.Sessions, s.Streams)
	}
	t.Logf("%d streams are open after %v", l.sessions*l.streams, time.Since(begin).Round(time.Millisecond))

	var sizes, lives []int64
	collected := measured(t, metrics, "memory_collections_total")
	moved := all.messages.Load()
	sample := max(l.length/60, 500*time.Millisecond)
	minutes := 0
	for begin := time.Now(); time.Since(begin) < l.length; {
		<-time.After(sample)
		sizes = append(sizes, resident(t, r.program))
		if n := measured(t, metrics, "memory_collections_total"); n > collected {
			collected = n
			if l.kills == 0 || time.Since(begin) > l.length/3 {
				lives = append(lives, int64(measured(t, metrics, "memory_live_bytes")))
			}
		}
		all.check(t)
		if n := int(time.Since(begin) / time.Minute); n > minutes {
			minutes = n
			figures(fmt.Sprintf("minute %d", n))
		}
	}
	moved = all.messages.Load() - moved
	if moved == 0 {
		t.Error("nothing moved")
	}
	t.Logf("%d messages of %d bytes went and came back, %d carriers were reset; %d descriptors; resident MiB: %v; in use after each collection: %v",
		moved, loadMessage, all.resets.Load(), descriptors(t, r.program), mebibytes(sizes), mebibytes(lives))
	if (l.kills > 0) != (all.resets.Load() > 0) {
		t.Errorf("%d carriers were reset", all.resets.Load())
	}
	if l.length >= 3*time.Minute {
		// Where it has to be flat, the last third is no higher than the first.
		flat := sizes[int(time.Minute/sample):]
		if l.kills > 0 {
			flat = sizes[len(sizes)/3:]
		}
		third := len(flat) / 3
		first, last := median(flat[:third]), median(flat[len(flat)-third:])
		t.Logf("memory was %.1f MiB where it has to be flat, and %.1f in the end", float64(first)/(1<<20), float64(last)/(1<<20))
		if last > first+first/20 {
			t.Errorf("memory grew from %d to %d bytes", first, last)
		}
		// A collection may come when much is on its way; what grows is in all later ones.
		if n := len(lives); n < 2 || slices.Min(lives[n/2:]) > lives[0]+lives[0]/20 {
			t.Errorf("in use were %v bytes after each collection", lives)
		}
	}
	for _, stop := range all.stops {
		close(stop)
	}
	all.streams.Wait()
	all.check(t)
	eventually(t, 30*time.Second, "streams have ended", func() bool { return r.status(t).Relay.Streams == 0 })
	cancel()
	wg.Wait()
	// The sessions wait for an hour: nobody said that they are over.
	eventually(t, 90*time.Second, "carriers have ended", func() bool { return r.status(t).Relay.Carriers == 0 })
	eventually(t, 90*time.Second, "descriptors return", func() bool { return descriptors(t, r.program) <= files })
	if l.length >= 3*time.Minute {
		<-time.After(15 * time.Second) // idle memory goes back to the system within 6
	}
	figures("in the end")
}

// startManyEchoes is startEcho with one descriptor for a connection: io.Copy between
// two of them takes two more, for a pipe to splice through.
func startManyEchoes(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			conn, err := ln.Accept()
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if err != nil {
				t.Errorf("the origin: %v", err)
				return
			}
			wg.Go(func() {
				defer conn.Close()
				io.Copy(struct{ io.Writer }{conn}, struct{ io.Reader }{conn})
			})
		}
	})
	t.Cleanup(func() {
		ln.Close()
		wg.Wait()
	})
	return ln.Addr().String()
}

func mebibytes(all []int64) (m []int64) {
	for i := 0; i < len(all); i += max(1, len(all)/20) {
		m = append(m, all[i]>>20)
	}
	return m
}

func median(all []int64) int64 {
	all = slices.Clone(all)
	slices.Sort(all)
	return all[len(all)/2]
}

// crowd is what all sessions of a load have in common.
type crowd struct {
	streams                sync.WaitGroup
	stops                  []chan struct{} // of the streams of one session each
	open, messages, resets atomic.Int64
	undialled              atomic.Pointer[error] // why a dial failed last
	failed                 atomic.Int64
	failure                sync.Once
	failedWith             error
	mu                     sync.Mutex
}

func (a *crowd) fail(err error) {
	a.failed.Add(1)
	a.failure.Do(func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		a.failedWith = err
	})
}

// opened waits until n streams have echoed once.
func (a *crowd) opened(t *testing.T, n int) {
	t.Helper()
	defer func() {
		if t.Failed() {
			t.Logf("%d are", a.open.Load())
			if err := a.undialled.Load(); err != nil {
				t.Logf("a dial failed with: %v", *err)
			}
		}
	}()
	eventually(t, 60*time.Second, fmt.Sprintf("%d streams are open", n), func() bool {
		a.check(t)
		return int(a.open.Load()) >= n
	})
}

func (a *crowd) check(t *testing.T) {
	t.Helper()
	if n := a.failed.Load(); n > 0 {
		a.mu.Lock()
		defer a.mu.Unlock()
		t.Fatalf("%d streams failed, the first with: %v", n, a.failedWith)
	}
}

// loadClient is one session, which dials over TLS whenever it needs to.
type loadClient struct {
	session *session.Client
	dialer  *mirror.Dialer
	route   transport.Route
	kills   time.Duration
	conns   *lastConn
}

// lastConn is a network that remembers its last connection.
type lastConn struct {
	transport.System
	mu   sync.Mutex
	last *net.TCPConn
}

func (l *lastConn) DialContext(ctx context.Context, network, addr string) (net.Conn, error) {
	c, err := l.System.DialContext(ctx, network, addr)
	if err == nil {
		l.mu.Lock()
		l.last = c.(*net.TCPConn)
		l.mu.Unlock()
	}
	return c, err
}

// reset ends the last connection as a censor would.
func (l *lastConn) reset() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.last != nil {
		l.last.SetLinger(0)
		l.last.Close()
	}
}

func newLoadClient(t *testing.T, invite string, kills time.Duration) *loadClient {
	t.Helper()
	b, err := config.ParseText(invite)
	if err != nil {
		t.Fatal(err)
	}
	e := &b.Relays[0]
	c := &loadClient{
		session: session.NewClient(session.ClientConfig{Token: e.Token}),
		route:   transport.Route{Relay: "r1", Transport: mirror.Kind, Address: e.Addresses[0].String()},
		kills:   kills, conns: new(lastConn),
	}
	c.dialer, err = mirror.NewDialer(mirror.DialerConfig{PublicKey: e.Key, CoverName: e.CoverName, CertHash: &e.CertHash, Network: c.conns})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// live keeps a carrier attached until ctx ends.
func (c *loadClient) live(ctx context.Context, all *crowd) {
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() { c.session.Run(ctx) })
	for c.session.WaitNeeded(ctx) == nil {
		o := c.session.Offer(session.CarrierOptions{State: wire.CarrierActive})
		carrier, accept, err := c.dialer.Dial(ctx, c.route, o.Hello())
		if err != nil {
			o.Withdraw()
			all.undialled.Store(&err)
			select {
			case <-ctx.Done():
			case <-time.After(50*time.Millisecond + rand.N(100*time.Millisecond)):
			}
			continue
		}
		if c.kills > 0 {
			timer := time.AfterFunc(time.Duration(rand.ExpFloat64()*float64(c.kills)), func() {
				all.resets.Add(1)
				c.conns.reset()
			})
			o.Attach(ctx, carrier, accept)
			timer.Stop()
		} else {
			o.Attach(ctx, carrier, accept)
		}
	}
	c.dialer.Close()
}

// stream opens a stream, and sends messages until stop is closed that must come
// back; one that does not move data does so at its begin and its end.
func (c *loadClient) stream(ctx context.Context, all *crowd, origin flow.Addr, moves bool, every time.Duration, seed uint64, stop <-chan struct{}) {
	err := func() error {
		s, err := c.session.OpenStream(ctx, origin)
		if err != nil {
			return err
		}
		defer s.Close()
		sent, got := make([]byte, loadMessage), make([]byte, loadMessage)
		src := rand.NewChaCha8([32]byte(binary.LittleEndian.AppendUint64(make([]byte, 24), seed)))
		say := func() error {
			src.Read(sent)
			if _, err := s.Write(sent); err != nil {
				return err
			}
			if _, err := io.ReadFull(s, got); err != nil {
				return err
			}
			if !bytes.Equal(sent, got) {
				return errors.New("other bytes came back")
			}
			all.messages.Add(1)
			return nil
		}
		if err := say(); err != nil {
			return err
		}
		all.open.Add(1)
		for moves {
			select {
			case <-time.After(every/2 + rand.N(every)):
			case <-stop:
				return say()
			case <-ctx.Done():
				return nil
			}
			if err := say(); err != nil {
				return err
			}
		}
		select {
		case <-stop:
			return say()
		case <-ctx.Done():
			return nil
		}
	}()
	if err != nil {
		all.fail(err)
	}
}
