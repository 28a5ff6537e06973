//go:build unix

package handover

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"busel/internal/wire"
	"busel/transport"
	"busel/transport/transporttest"
)

// processes are both ends of a link in one process.
func processes(t *testing.T) (*Successor, *Elder) {
	t.Helper()
	ours, theirs, err := pair()
	if err != nil {
		t.Fatal(err)
	}
	far, err := unixConn(theirs)
	if err != nil {
		t.Fatal(err)
	}
	s := &Successor{link: link{conn: ours}, pending: make(chan *pending), closed: make(chan struct{})}
	began := make(chan error, 1)
	go func() { began <- s.send(msgBegin, []byte{Version}, -1) }()
	e, err := inherit(far)
	if err := errors.Join(err, <-began); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		s.Close()
		e.conn.Close()
	})
	return s, e
}

// serving lets the old process answer until the test ends.
func serving(t *testing.T, s *Successor, status func() any, reload func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { s.Serve(ctx, status, reload) })
	t.Cleanup(func() {
		cancel()
		wg.Wait()
	})
}

// visitor is a client's hello at the new process.
type visitor struct {
	hello   *wire.Hello
	carrier transport.Carrier
	answer  chan *wire.Accept
}

func (v *visitor) Hello() *wire.Hello { return v.hello }
func (v *visitor) Close() error       { return nil }
func (v *visitor) Answer(a *wire.Accept) (transport.Carrier, error) {
	v.answer <- a
	if a.Status.Refused() {
		return nil, nil
	}
	return v.carrier, nil
}

func hello() *wire.Hello {
	return &wire.Hello{Mode: wire.ModeResume, Secret: [32]byte{1, 2}, Carrier: 7, Dropped: []uint32{3, 4}, SealedFrames: []byte("sealed")}
}

// handed is a carrier that came to the new process, and its end at the old one.
func handed(t *testing.T, s *Successor, e *Elder) (client, old transport.Carrier) {
	t.Helper()
	l := transporttest.NewLink(transporttest.LinkConfig{})
	v := &visitor{hello: hello(), carrier: l.Carrier(transporttest.Relay), answer: make(chan *wire.Accept, 1)}
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		if taken, _ := e.Offer(ctx, v); !taken {
			t.Error("the carrier was not taken")
		}
	})
	t.Cleanup(func() {
		cancel()
		l.Close()
		wg.Wait()
	})
	p, err := s.Accept(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if got, want := p.Hello().Append(nil), hello().Append(nil); !bytes.Equal(got, want) {
		t.Errorf("the hello came as %x, want %x", got, want)
	}
	old, err = p.Answer(&wire.Accept{Status: wire.StatusOK, SessionLife: time.Minute, Frames: []byte("\x00\x00")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { old.Close() })
	if a := <-v.answer; a.SessionLife != time.Minute || len(a.Frames) != 2 {
		t.Errorf("the client was told %+v", a)
	}
	if got, want := old.Properties(), v.carrier.Properties(); got.Kind != want.Kind || got.Ordered != want.Ordered {
		t.Errorf("the carrier is %+v, want %+v", got, want)
	}
	return l.Carrier(transporttest.Client), old
}

// A carrier that is handed over is one like others.
func TestCarrier(t *testing.T) {
	s, e := processes(t)
	serving(t, s, nil, nil)
	transporttest.TestCarrier(t, func(t *testing.T) (client, relay transport.Carrier) { return handed(t, s, e) })
}

func TestOffer(t *testing.T) {
	s, e := processes(t)
	serving(t, s, nil, nil)
	for _, c := range []struct {
		status wire.Status
		taken  bool
	}{{wire.StatusDraining, false}, {wire.StatusRevoked, true}, {wire.StatusBusy, true}} {
		v := &visitor{hello: hello(), answer: make(chan *wire.Accept, 1)}
		go func() {
			p, err := s.Accept(t.Context())
			if err == nil {
				_, err = p.Answer(&wire.Accept{Status: c.status})
			}
			if err != nil {
				t.Error(err)
			}
		}()
		taken, err := e.Offer(t.Context(), v)
		if taken != c.taken || (err != nil) != c.taken {
			t.Errorf("%v: taken %v, %v", c.status, taken, err)
		}
		select {
		case a := <-v.answer:
			if !c.taken || a.Status != c.status {
				t.Errorf("%v: the client was told %v", c.status, a.Status)
			}
		default:
			if c.taken {
				t.Errorf("%v: the client was not told", c.status)
			}
		}
	}
	// An old process that has ended has no sessions.
	s.Close()
	if taken, err := e.Offer(t.Context(), &visitor{hello: hello()}); taken || err != nil {
		t.Errorf("taken %v, %v by a process that has ended", taken, err)
	}
}

// Sockets pass with their names: what connects to one before or after is accepted by
// the new process, and the old one's end may be closed.
func TestSockets(t *testing.T) {
	ours, theirs, err := pair()
	if err != nil {
		t.Fatal(err)
	}
	far, err := unixConn(theirs)
	if err != nil {
		t.Fatal(err)
	}
	defer far.Close()
	s := &Successor{link: link{conn: ours}, closed: make(chan struct{})}
	defer s.Close()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	gone, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	gone.Close()
	udp, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer udp.Close()
	early, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer early.Close()
	ready := make(chan error, 1)
	go func() {
		for name, c := range map[string]any{"tcp a": ln, "tcp gone": gone, "udp a": udp} {
			if err := s.Give(name, c.(syscall.Conn)); err != nil {
				ready <- err
				return
			}
		}
		ready <- s.Ready(t.Context())
	}()
	e, err := inherit(far)
	if err != nil {
		t.Fatal(err)
	}
	if e.Take("tcp gone") != nil || e.Take("other") != nil {
		t.Error("a socket that is not there was given")
	}
	f := e.Take("tcp a")
	if f == nil || e.Take("tcp a") != nil {
		t.Fatal("the listener was not given once")
	}
	young, err := net.FileListener(f)
	f.Close()
	if err != nil {
		t.Fatal(err)
	}
	defer young.Close()
	took := make(chan error, 1)
	go func() { took <- e.Ready(t.Context()) }()
	if err := <-ready; err != nil {
		t.Fatal(err)
	}
	ln.Close()
	if err := s.Go(); err != nil {
		t.Fatal(err)
	}
	if err := <-took; err != nil {
		t.Fatal(err)
	}
	late, err := net.Dial("tcp", young.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer late.Close()
	for range 2 {
		young.(*net.TCPListener).SetDeadline(time.Now().Add(10 * time.Second))
		c, err := young.Accept()
		if err != nil {
			t.Fatal(err)
		}
		c.Close()
	}
	if len(e.sockets) != 0 {
		t.Error("sockets that nobody took are open")
	}
}

// What goes wrong before the new process is ready is said at the old one.
func TestNotReady(t *testing.T) {
	begin := func(t *testing.T, version byte, young func(*Elder, error)) error {
		t.Helper()
		ours, theirs, err := pair()
		if err != nil {
			t.Fatal(err)
		}
		far, err := unixConn(theirs)
		if err != nil {
			t.Fatal(err)
		}
		s := &Successor{link: link{conn: ours}, closed: make(chan struct{})}
		defer s.Close()
		var wg sync.WaitGroup
		defer wg.Wait()
		wg.Go(func() {
			e, err := inherit(far)
			young(e, err)
		})
		if version != Version {
			if err := s.send(msgBegin, []byte{version}, -1); err != nil {
				t.Fatal(err)
			}
		}
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		return s.Ready(ctx)
	}
	if err := begin(t, Version, func(e *Elder, err error) { e.Fail(errors.New("relayd.toml:3: no cover")) }); err == nil || !strings.Contains(err.Error(), "relayd.toml:3: no cover") {
		t.Errorf("a wrong configuration: %v", err)
	}
	if err := begin(t, Version, func(e *Elder, err error) { e.conn.Close() }); err == nil || !strings.Contains(err.Error(), "ended before it was ready") {
		t.Errorf("a process that dies: %v", err)
	}
	if err := begin(t, Version+1, func(e *Elder, err error) {
		if err == nil {
			t.Error("another version was taken")
		}
	}); err == nil || !strings.Contains(err.Error(), "restart") {
		t.Errorf("another version: %v", err)
	}
}

func TestStatusAndReload(t *testing.T) {
	s, e := processes(t)
	reloaded := make(chan struct{}, 1)
	serving(t, s, func() any { return map[string]int{"sessions": 3} }, func() { reloaded <- struct{}{} })
	var got map[string]int
	if err := e.Status(&got); err != nil || got["sessions"] != 3 {
		t.Errorf("status %v, %v", got, err)
	}
	if err := e.Reload(); err != nil {
		t.Fatal(err)
	}
	<-reloaded
	ctx, cancel := context.WithCancel(t.Context())
	ran := make(chan error, 1)
	go func() { ran <- e.Run(ctx) }()
	select {
	case <-e.Gone():
		t.Error("gone while it lives")
	default:
	}
	s.Close()
	<-e.Gone()
	cancel()
	<-ran
}

// Descriptors return.
func TestDescriptors(t *testing.T) {
	count := func() int {
		all, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Skip("no /proc")
		}
		return len(all)
	}
	before := count()
	t.Run("many", func(t *testing.T) {
		s, e := processes(t)
		serving(t, s, func() any { return 1 }, func() {})
		for range 50 {
			client, old := handed(t, s, e)
			client.Close()
			if _, err := old.ReadFrames(make([]byte, wire.MaxFrame)); err == nil {
				t.Error("the end was not seen")
			}
			var v int
			if err := e.Status(&v); err != nil {
				t.Error(err)
			}
		}
	})
	if after := count(); after > before {
		t.Errorf("%d descriptors before, %d after", before, after)
	}
}

// What parses as a batch encodes to the same bytes.
func FuzzBatch(f *testing.F) {
	f.Add(appendBatch(nil, []transport.Frame{{Lane: 4, Data: []byte("ab")}, {Lane: transport.LaneDatagram, Data: nil}}))
	f.Add(binary.BigEndian.AppendUint32(make([]byte, 8), wire.MaxFrame+1))
	f.Fuzz(func(t *testing.T, b []byte) {
		batch, err := parseBatch(nil, slices.Clone(b))
		if err != nil {
			return
		}
		if got := appendBatch(nil, batch); !bytes.Equal(got, b) {
			t.Errorf("%x encodes to %x", b, got)
		}
	})
}

// Messages longer than their bound are refused before they are read.
func TestBounds(t *testing.T) {
	head := binary.BigEndian.AppendUint32(nil, maxMessage+1)
	if _, err := readMessage(io.MultiReader(bytes.NewReader(head), neverEnding{}), nil, maxMessage); !errors.Is(err, errMessage) {
		t.Errorf("got %v", err)
	}
}

type neverEnding struct{}

func (neverEnding) Read(b []byte) (int, error) { return len(b), nil }

// A process that lives and does not read keeps nobody waiting for ever.
func TestStuckElder(t *testing.T) {
	t.Parallel()
	ours, theirs, err := pair()
	if err != nil {
		t.Fatal(err)
	}
	defer theirs.Close()
	defer ours.Close()
	e := &Elder{link: link{conn: ours}, gone: make(chan struct{})}
	begin := time.Now()
	for err == nil {
		err = e.Reload()
	}
	if took := time.Since(begin); !errors.Is(err, os.ErrDeadlineExceeded) || took > 2*answerTime {
		t.Errorf("%v after %v", err, took)
	}
	if e.unlessGone(err) == nil {
		t.Error("it is taken for gone")
	}
}
