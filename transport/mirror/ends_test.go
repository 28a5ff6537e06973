package mirror

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"busel/internal/certs"
	"busel/internal/wire"
	"busel/transport"
)

// stage is a forwarder in the test's hand: in front of a cover, or of a relay.
type stage struct {
	addr string
	mu   sync.Mutex
	near []*net.TCPConn // towards whoever dialled
	far  []*net.TCPConn
	hold chan struct{} // not nil: bytes towards near stop until it is closed
	// holdAfter makes hold after so many bytes towards near; 0 is never.
	holdAfter int

	up, down []byte // what passed on the first connection
	broken   chan error
}

// newStage forwards to to.
func newStage(t *testing.T, to string) *stage {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &stage{addr: ln.Addr().String(), broken: make(chan error, 8)}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			f, err := net.Dial("tcp", to)
			if err != nil {
				c.Close()
				continue
			}
			near, far := c.(*net.TCPConn), f.(*net.TCPConn)
			s.mu.Lock()
			s.near, s.far = append(s.near, near), append(s.far, far)
			first := len(s.near) == 1
			s.mu.Unlock()
			wg.Go(func() { s.copy(near, far, &s.down, first, true) })
			wg.Go(func() { s.copy(far, near, &s.up, first, false) })
		}
	})
	t.Cleanup(func() {
		ln.Close()
		s.mu.Lock()
		for i := range s.near {
			s.near[i].Close()
			s.far[i].Close()
		}
		if s.hold != nil {
			close(s.hold)
		}
		s.mu.Unlock()
		wg.Wait()
	})
	return s
}

func (s *stage) copy(to, from *net.TCPConn, log *[]byte, first, down bool) {
	buf := make([]byte, 32<<10)
	for {
		s.mu.Lock()
		hold := s.hold
		s.mu.Unlock()
		if down && hold != nil {
			<-hold
		}
		n, err := from.Read(buf)
		if first {
			s.mu.Lock()
			*log = append(*log, buf[:n]...)
			s.mu.Unlock()
		}
		s.mu.Lock()
		if down && s.holdAfter > 0 && s.hold == nil && len(*log) >= s.holdAfter {
			s.hold = make(chan struct{})
		}
		s.mu.Unlock()
		if n > 0 {
			if _, err := to.Write(buf[:n]); err != nil {
				s.broken <- err
				return
			}
		}
		if err == io.EOF {
			to.CloseWrite()
			return
		}
		if err != nil {
			s.broken <- err
			reset(to)
			return
		}
	}
}

// passed returns what went each way on the first connection.
func (s *stage) passed() (up, down []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]byte(nil), s.up...), append([]byte(nil), s.down...)
}

// end closes the near side of the last connection, with a reset or a FIN.
func (s *stage) end(rst bool) {
	s.mu.Lock()
	c := s.near[len(s.near)-1]
	s.mu.Unlock()
	if rst {
		reset(c)
	} else {
		c.Close()
	}
}

func failureOf(err error) transport.Failure {
	if e, ok := errors.AsType[*transport.CarrierError](err); ok {
		return e.Failure
	}
	return "untyped"
}

// TestCoverEnds checks rule 4: the cover's FIN and RST end the carrier and are
// passed on as what they are.
func TestCoverEnds(t *testing.T) {
	for name, rst := range map[string]bool{"FIN": false, "RST": true} {
		t.Run(name, func(t *testing.T) {
			s := goSite(t, nil)
			puppet := newStage(t, s.addr)
			s.addr = puppet.addr
			r := startRelay(t, s, nil)
			c, e := r.pair(t, r.dialer(t, nil))
			send(t, c, e, 1)
			send(t, e, c, 2)
			puppet.end(rst)
			at, back := ends(t, c), ends(t, e)
			want := map[bool]transport.Failure{false: transport.ClosedEarly, true: transport.Reset}[rst]
			if failureOf(at) != want {
				t.Errorf("the client's carrier ended with %v, want %s", at, want)
			}
			if !rst && failureOf(back) != "" || rst && failureOf(back) != transport.Reset {
				t.Errorf("the relay's carrier ended with %v", back)
			}
			for _, k := range []transport.Carrier{c, e} {
				if err := k.WriteFrames([]transport.Frame{{Data: pingFrame(1)}}); err == nil {
					t.Error("a dead carrier takes frames")
				}
			}
		})
	}
}

// TestAfterCoverFIN checks that a covert record that comes after the cover's
// FIN goes to the cover, whose reset comes back.
func TestAfterCoverFIN(t *testing.T) {
	s := goSite(t, nil)
	puppet := newStage(t, s.addr)
	s.addr = puppet.addr
	r := startRelay(t, s, nil)
	path := newStage(t, r.addr) // between client and relay
	front := &relay{Listener: r.Listener, addr: path.addr, key: r.key, site: s}
	c, e := front.pair(t, r.dialer(t, nil))
	send(t, c, e, 1)
	send(t, e, c, 2)
	// The client does not learn of the FIN: bytes to it stop.
	path.mu.Lock()
	path.hold = make(chan struct{})
	path.mu.Unlock()
	send(t, c, e, 3)
	if err := e.WriteFrames([]transport.Frame{{Data: pingFrame(4)}}); err != nil { // wakes the path into its hold
		t.Fatal(err)
	}
	want(t, c, 4)
	puppet.end(false)
	ends(t, e)
	deadline := time.Now().Add(patience)
	for {
		if err := c.WriteFrames([]transport.Frame{{Data: pingFrame(5)}}); err != nil {
			t.Fatalf("the client's write: %v", err)
		}
		select {
		case err := <-path.broken:
			if f := classify(err); f != transport.Reset {
				t.Errorf("the client's records after the FIN drew %v, want a reset", err)
			}
			return
		case <-time.After(5 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			t.Fatal("no reset came back")
		}
	}
}

// TestForged checks rule 6: a man in the middle gets a browser's alert and
// nothing else.
func TestForged(t *testing.T) {
	s := goSite(t, nil)
	forger := goSite(t, nil)
	r := startRelay(t, s, nil)
	for _, name := range []string{"other authority", "pinned"} {
		t.Run(name, func(t *testing.T) {
			path := newStage(t, forger.addr)
			d := r.dialer(t, func(c *DialerConfig) {
				if name == "pinned" {
					c.Roots, c.CertHash = nil, &s.leaf
				}
			})
			_, _, err := d.Dial(testContext(t), routeTo(path.addr), testHello())
			if e := dialFailure(t, err); e.Failure != transport.Hijacked || e.Stage != transport.StageTLS || !errors.Is(err, certs.ErrRefused) {
				t.Fatalf("Dial: %v", err)
			}
			d.Close()
			up, _ := path.passed()
			hello := headerLen + int(up[3])<<8 + int(up[4])
			// change_cipher_spec and one alert, 2 + 1 + 16 bytes.
			if rest := up[hello:]; len(rest) != 6+headerLen+19 || rest[0] != 20 || rest[6] != 23 || rest[10] != 19 {
				t.Errorf("after its ClientHello the client sent %x", rest)
			}
		})
	}
	if forger.hits() != 0 {
		t.Error("the forger got a request")
	}
}

// TestLedSilently checks that a client which awaits a proof says nothing covert
// to the real site: its records are those of one page.
func TestLedSilently(t *testing.T) {
	s := goSite(t, func(c *tls.Config) { c.NextProtos = []string{"http/1.1"} })
	r := startRelay(t, s, nil) // not borrowed: no proof will come
	path := newStage(t, s.addr)
	d := r.dialer(t, func(c *DialerConfig) { c.Proof = true })
	got := make(chan error, 1)
	go func() {
		_, _, err := d.Dial(testContext(t), routeTo(path.addr), testHello())
		got <- err
	}()
	for deadline := time.Now().Add(patience); s.hits() == 0; {
		if time.Now().After(deadline) {
			t.Fatal("no request came")
		}
	}
	path.end(false)
	err := <-got
	if e := dialFailure(t, err); e.Stage != transport.StageHello || e.Failure == "" {
		t.Errorf("Dial: %v", err)
	}
	up, _ := path.passed()
	var tr tracker
	data := 0
	tr.began = func(typ byte, _ int) {
		if typ == recordData {
			data++
		}
	}
	tr.pass(up)
	if data > 3 { // Finished, GET, and perhaps an alert at the end
		t.Errorf("%d records of data", data)
	}
}

// TestWholeRecordsOnly checks on the wire that both directions are whole TLS
// records of a browser's and a server's types and lengths, with data in them.
func TestWholeRecordsOnly(t *testing.T) {
	sites(t, func(t *testing.T, s *site) {
		r := startRelay(t, s, nil)
		path := newStage(t, r.addr)
		front := &relay{Listener: r.Listener, addr: path.addr, key: r.key, site: s}
		d := r.dialer(t, nil)
		c, e := front.pair(t, d)
		for n := range byte(50) {
			send(t, c, e, n)
			send(t, e, c, n)
		}
		c.Close()
		d.Close()
		up, down := path.passed()
		for name, b := range map[string][]byte{"up": up, "down": down} {
			var tr tracker
			tr.began = func(typ byte, size int) {
				if typ < recordChangeCipherSpec || typ > recordData || size == 0 || size > maxRecord {
					t.Errorf("%s: record of type %d, %d bytes", name, typ, size)
				}
			}
			tr.pass(b)
			if !tr.boundary() {
				t.Errorf("%s does not end with a record", name)
			}
			if len(b) < 3000 {
				t.Errorf("%s: %d bytes", name, len(b))
			}
		}
	})
}

// TestVisitSizes checks the first records of a client against Chromium's
// (measured in November 2026): CCS and Finished, one record with the preface,
// SETTINGS and WINDOW_UPDATE, one that may be the first request, a SETTINGS ACK.
func TestVisitSizes(t *testing.T) {
	s := goSite(t, nil)
	r := startRelay(t, s, nil)
	sizes := map[int]bool{}
	for i := 0; i < 8 || len(sizes) < 2 && i < 64; i++ { // sizes are few, and drawn
		path := newStage(t, r.addr)
		front := &relay{Listener: r.Listener, addr: path.addr, key: r.key, site: s}
		d := r.dialer(t, nil)
		front.pair(t, d)
		d.Close()
		up, _ := path.passed()
		var tr tracker
		var types []byte
		var lengths []int
		tr.began = func(typ byte, size int) {
			types, lengths = append(types, typ), append(lengths, size)
		}
		tr.pass(up)
		if len(lengths) < 6 || string(types[:6]) != "\x16\x14\x17\x17\x17\x17" {
			t.Fatalf("record types %x, lengths %d", types, lengths)
		}
		if lengths[1] != 1 || lengths[2] != 53 || lengths[3] != 92-headerLen || lengths[5] != 26 && lengths[4] != 26 {
			t.Errorf("record lengths %d", lengths[1:6])
		}
		hello := max(lengths[4], lengths[5])
		if hello < 400 || hello > 560 { // Chromium's first request to a host of some 20 bytes: 450..490
			t.Errorf("hello of %d bytes", hello)
		}
		sizes[hello] = true
	}
	if len(sizes) < 2 {
		t.Error("the hello has always the same size")
	}
}

// TestPause: between a client's Finished and its HTTP there is the time that a browser
// takes, so that a cover answers the one before it hears the other.
func TestPause(t *testing.T) {
	r := startRelay(t, goSite(t, nil), nil)
	n := new(tap)
	r.pair(t, r.dialer(t, func(c *DialerConfig) { c.Network = n }))
	n.mu.Lock()
	defer n.mu.Unlock()
	for i, typ := range []byte{0x16, 0x14, recordData} { // hello, ChangeCipherSpec and Finished, preface
		if len(n.writes) <= i || n.writes[i][0] != typ {
			t.Fatalf("write %d of %d begins otherwise", i, len(n.writes))
		}
	}
	if pause := n.times[2].Sub(n.times[1]); pause < leastPause {
		t.Errorf("HTTP begins %v after the Finished", pause)
	}
}

// crowded is a relay with room for n connections before a site that says what it
// hears, and ends a visit when its visitor has left.
func crowded(t *testing.T, n int) (r *relay, visits <-chan struct{}) {
	cover, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cover.Close() })
	accepted := make(chan struct{}, 16)
	go func() {
		for {
			c, err := cover.Accept()
			if err != nil {
				return
			}
			accepted <- struct{}{}
			go func() {
				io.Copy(struct{ io.Writer }{c}, c)
				c.Close()
			}()
		}
	}()
	return startRelay(t, &site{addr: cover.Addr().String(), name: coverName}, func(c *ListenerConfig) { c.MaxConns = n }), accepted
}

func (r *relay) visit(t *testing.T) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", r.addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(patience))
	return c
}

// silent waits until so many visitors count as silent.
func (r *relay) silent(t *testing.T, n int) {
	t.Helper()
	for deadline := time.Now().Add(patience); ; {
		r.idle.mu.Lock()
		now := r.idle.visits.Len()
		r.idle.mu.Unlock()
		if now == n {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d visitors count as silent, want %d", now, n)
		}
	}
}

// TestMaxConns checks who makes room: the visitor who has been silent longest, and
// nobody who is in the midst of saying something.
func TestMaxConns(t *testing.T) {
	r, visits := crowded(t, 3)
	busy := r.visit(t)
	<-visits
	io.WriteString(busy, "\x16\x03\x01\x02")
	r.silent(t, 0)
	old := r.visit(t)
	<-visits
	answered := r.visit(t)
	<-visits
	r.silent(t, 2)
	for turn := range 2 {
		io.WriteString(answered, "NONSENSE")
		if _, err := io.ReadFull(answered, make([]byte, 8)); err != nil {
			t.Fatal(err)
		}
		r.silent(t, 1+turn) // behind the first answer a handshake may not be over
	}
	r.visit(t)
	<-visits
	if n, err := old.Read(make([]byte, 1)); err != io.EOF {
		t.Fatalf("who was silent longest reads %d bytes, %v", n, err)
	}
	r.silent(t, 2)
	r.visit(t)
	<-visits
	if n, err := answered.Read(make([]byte, 1)); err != io.EOF {
		t.Fatalf("who was answered reads %d bytes, %v", n, err)
	}
	io.WriteString(busy, "x")
	if _, err := io.ReadFull(busy, make([]byte, 5)); err != nil {
		t.Errorf("who was in the midst of something: %v", err)
	}
}

// TestNoRoom checks that without a silent visitor a new one is turned away as by a
// web server without connections, and has room again later.
func TestNoRoom(t *testing.T) {
	r, visits := crowded(t, 1)
	busy := r.visit(t)
	<-visits
	io.WriteString(busy, "\x16\x03\x01\x02")
	r.silent(t, 0)
	for range 3 {
		if n, err := r.visit(t).Read(make([]byte, 1)); err != io.EOF {
			t.Fatalf("beyond the bound a visitor reads %d bytes, %v", n, err)
		}
	}
	busy.Close()
	for deadline := time.Now().Add(patience); ; {
		c := r.visit(t)
		c.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
		if _, err := c.Read(make([]byte, 1)); errors.Is(err, os.ErrDeadlineExceeded) {
			break // it stays
		}
		if time.Now().After(deadline) {
			t.Fatal("there never is room again")
		}
	}
}

// TestCarriersKeepTheirPlace checks that strangers never take a client's place.
func TestCarriersKeepTheirPlace(t *testing.T) {
	r := startRelay(t, goSite(t, nil), func(c *ListenerConfig) { c.MaxConns = 3 })
	d := r.dialer(t, nil)
	c, e := r.pair(t, d)
	send(t, c, e, 1)
	for range 20 {
		r.visit(t)
	}
	send(t, c, e, 2)
	c2, e2 := r.pair(t, d)
	send(t, c2, e2, 3)
	send(t, c, e, 4)
}

// TestNoReply tells a site without a relay behind it from silence.
func TestNoReply(t *testing.T) {
	s := goSite(t, nil)
	r := startRelay(t, s, nil)
	t.Run("the site speaks", func(t *testing.T) {
		d := r.dialer(t, nil)
		d.patience = 500 * time.Millisecond
		// Nobody accepts the hello at the relay.
		_, _, err := d.Dial(testContext(t), r.route(), testHello())
		if e := dialFailure(t, err); e.Failure != transport.Hijacked || e.Stage != transport.StageHello {
			t.Errorf("Dial: %v", err)
		}
	})
	t.Run("silence", func(t *testing.T) {
		path := newStage(t, r.addr)
		path.mu.Lock()
		path.holdAfter = 1000 // the server's flight and nothing else
		path.mu.Unlock()
		d := r.dialer(t, nil)
		d.patience = 500 * time.Millisecond
		_, _, err := d.Dial(testContext(t), routeTo(path.addr), testHello())
		if e := dialFailure(t, err); e.Failure != transport.Timeout || e.Stage != transport.StageHello {
			t.Errorf("Dial: %v", err)
		}
	})
}

// TestTakeHello checks what the relay makes of Noise messages that open, or not.
func TestTakeHello(t *testing.T) {
	relayKey, e := newKey(t), newKey(t)
	es, err := e.ECDH(relayKey.PublicKey())
	if err != nil {
		t.Fatal(err)
	}
	sec := newSecrets([32]byte{1}, [32]byte{2}, es)
	record := func(payload []byte) []byte {
		hs, err := sec.initiator(e, [32]byte(relayKey.PublicKey().Bytes()))
		if err != nil {
			t.Fatal(err)
		}
		msg, _, _, err := hs.WriteMessage(nil, payload)
		if err != nil {
			t.Fatal(err)
		}
		return append(appendPrefix(nil, sec.mark(dirClient, 0), len(msg)-32), msg[32:]...)
	}
	good := testHello().Append(nil)
	later := append([]byte{wire.Version + 1}, good[1:]...)
	spoilt := record(pack(good, 300))
	spoilt[50] ^= 1
	for name, c := range map[string]struct {
		rec  []byte
		want bool
	}{
		"good":           {record(pack(good, 300)), true},
		"later version":  {record(pack(later, 300)), true},
		"spoilt":         {spoilt, false},
		"short":          {spoilt[:prefixLen+18], false},
		"cut payload":    {record(pack(good[:20], 300)), false},
		"length too big": {record([]byte{1, 0, 1}), false},
	} {
		t.Run(name, func(t *testing.T) {
			near, far := tcpPair(t)
			l, err := NewListener(ListenerConfig{
				Listen: transportListen, Key: relayKey, Cover: Cover{Address: "127.0.0.1:1"},
			})
			if err != nil {
				t.Fatal(err)
			}
			k := newLink(l, near, near)
			k.mode.Store(candidate)
			k.hello.share = [32]byte(e.PublicKey().Bytes())
			k.out.lane.s = sec
			k.secrets.Store(sec)
			if got := k.takeHello(c.rec); got != c.want {
				t.Errorf("takeHello = %v", got)
			}
			if name == "later version" { // it is answered without asking anybody
				far.SetReadDeadline(time.Now().Add(patience))
				head := make([]byte, prefixLen)
				if _, err := io.ReadFull(far, head); err != nil {
					t.Fatal(err)
				}
				if mark := sec.mark(dirRelay, 0); string(head[headerLen:]) != string(mark[:]) {
					t.Error("the answer is no reply")
				}
			}
			k.end(net.ErrClosed)
			k.aux.Wait()
		})
	}
}

func transportListen(ctx context.Context) (net.Listener, error) {
	return transport.System{}.Listen(ctx, "127.0.0.1:0")
}

func tcpPair(t *testing.T) (a, b *net.TCPConn) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	c, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	d, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close(); d.Close() })
	return c.(*net.TCPConn), d.(*net.TCPConn)
}

// TestVisitorStays checks that a visitor who never closes is not kept for ever
// after the cover has closed. A web server's kernel forgets him after a minute.
func TestVisitorStays(t *testing.T) {
	cover, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer cover.Close()
	go func() {
		for {
			c, err := cover.Accept()
			if err != nil {
				return
			}
			io.WriteString(c, "bye")
			c.Close()
		}
	}()
	r := startRelay(t, &site{addr: cover.Addr().String(), name: coverName}, func(c *ListenerConfig) { c.finWait = 50 * time.Millisecond })
	c, err := net.Dial("tcp", r.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if b, err := io.ReadAll(c); err != nil || string(b) != "bye" {
		t.Errorf("the visitor reads %q, %v", b, err)
	}
	for deadline := time.Now().Add(patience); r.Stats().Conns > 0; {
		if time.Now().After(deadline) {
			t.Fatal("the visitor is still kept")
		}
	}
	c.Write([]byte("late"))
	if f := failureAfter(c); f != transport.Reset {
		t.Errorf("a late byte is met by %q, want a reset", f)
	}
}

// failureAfter is how writes to c fail in the end.
func failureAfter(c net.Conn) transport.Failure {
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); {
		if _, err := c.Write([]byte{1}); err != nil {
			return classify(err)
		}
	}
	return ""
}

// TestSlots checks that a full relay says so to clients, and that visitors of
// the site never take a client's place.
func TestSlots(t *testing.T) {
	s := goSite(t, nil)
	r := startRelay(t, s, func(c *ListenerConfig) { c.Slots = make(chan struct{}, 1) })
	d := r.dialer(t, nil)
	for range 3 {
		visitor, err := tls.Dial("tcp", r.addr, &tls.Config{ServerName: s.name, InsecureSkipVerify: true})
		if err != nil {
			t.Fatal(err)
		}
		defer visitor.Close()
	}
	// One that is refused and one that gets no answer hold nothing.
	r.answer(t, &wire.Accept{Status: wire.StatusExpired})
	if _, _, err := d.Dial(testContext(t), r.route(), testHello()); err == nil {
		t.Fatal("not refused")
	}
	go func() {
		if p, err := r.Accept(context.Background()); err == nil {
			p.Close()
		}
	}()
	short := r.dialer(t, nil)
	short.patience = 200 * time.Millisecond
	if _, _, err := short.Dial(testContext(t), r.route(), testHello()); err == nil {
		t.Fatal("answered")
	}
	c, e := r.pair(t, d)
	send(t, c, e, 1)
	_, _, err := d.Dial(testContext(t), r.route(), testHello())
	if se, ok := errors.AsType[*wire.StatusError](err); !ok || se.Status != wire.StatusBusy {
		t.Fatalf("Dial at a full relay: %v", err)
	}
	send(t, c, e, 2)
	c.Close()
	ends(t, e)
	for deadline := time.Now().Add(patience); r.Stats().Conns > 3; {
		if time.Now().After(deadline) {
			t.Fatalf("%d connections", r.Stats().Conns)
		}
	}
	c, e = r.pair(t, d)
	send(t, c, e, 3)
}

// poor is a network without sockets for the first dials.
type poor struct {
	transport.System
	left atomic.Int32
}

func (p *poor) DialContext(ctx context.Context, network, addr string) (net.Conn, error) {
	if p.left.Add(-1) >= 0 {
		return nil, &net.OpError{Op: "dial", Err: os.NewSyscallError("socket", syscall.EMFILE)}
	}
	return p.System.DialContext(ctx, network, addr)
}

// TestOutOfSockets checks that a relay without sockets does not claim that its
// site is down: visitors wait, as for a server without any.
func TestOutOfSockets(t *testing.T) {
	s := goSite(t, nil)
	network := new(poor)
	network.left.Store(2)
	r := startRelay(t, s, func(c *ListenerConfig) { c.Network = network })
	visitor, err := tls.Dial("tcp", r.addr, &tls.Config{ServerName: s.name, InsecureSkipVerify: true})
	if err != nil {
		t.Fatal(err)
	}
	visitor.Close()
	if st := r.Stats(); st.CoverFailed != 0 || network.left.Load() >= 0 {
		t.Errorf("stats %+v", st)
	}
}

// TestSetCoverLimits checks that new carriers have new limits.
func TestSetCoverLimits(t *testing.T) {
	r := startRelay(t, goSite(t, nil), nil)
	d := r.dialer(t, nil)
	c, e := r.pair(t, d)
	r.SetCoverLimits(33*time.Second, 2*time.Hour)
	for _, x := range []transport.Carrier{c, e} {
		if p := x.Properties(); p.CoverIdle != time.Minute || p.CoverLifetime != time.Hour {
			t.Errorf("a carrier's properties changed: %+v", p)
		}
	}
	c, e = r.pair(t, d)
	for _, x := range []transport.Carrier{c, e} {
		if p := x.Properties(); p.CoverIdle != 33*time.Second || p.CoverLifetime != 2*time.Hour {
			t.Errorf("properties %+v", p)
		}
	}
}
