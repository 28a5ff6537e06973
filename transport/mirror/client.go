package mirror

import (
	"context"
	"crypto/ecdh"
	"errors"
	"fmt"
	"io"
	mrand "math/rand/v2"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/flynn/noise"
	utls "github.com/refraction-networking/utls"

	"busel/internal/certs"
	"busel/internal/wire"
	"busel/obfs/fragment"
	"busel/obfs/look"
	"busel/transport"
)

// Times of the client.
const (
	connectTimeout = 10 * time.Second
	tlsTimeout     = 10 * time.Second
	// replyTimeout is for the relay's reply after the hello, or for its proof: it
	// needs a round trip, 300 ms and what the relay thinks.
	replyTimeout = 10 * time.Second
	// linger is how long a closed connection waits for the cover's end, so that
	// what still comes draws no RST.
	linger = time.Second
	// browseTime is how long a visit to an unfit cover lasts at most.
	browseTime = 3 * time.Second
	// confirmAfter is when the client sends padding if the session sends nothing
	// after the reply: the relay waits for a record (rule 7).
	confirmAfter = 100 * time.Millisecond
	// leastPause and mostPause bound how long the client is silent between its Finished and
	// the beginning of HTTP: Chromium took 1.8 to 11 ms on an idle machine. Without, both
	// come to the cover together, and nginx acknowledges SETTINGS in one record with its own, which it
	// hardly ever does for that browser.
	leastPause, mostPause = 2 * time.Millisecond, 6 * time.Millisecond
	// defaultIdle is taken for a cover whose idle limit is not known; common
	// servers keep a connection for 60 s and more.
	defaultIdle = 60 * time.Second
)

// errFinished ends a visit that did what it was for.
var errFinished = errors.New("visit is over")

// client is one connection to a relay: a genuine visit, and the carrier in it.
type client struct {
	d     *Dialer
	look  *look.Look
	conn  halfCloser
	host  string // authority of the genuine requests
	hello *wire.Hello

	// Set before anything runs.
	tls    *utls.UConn
	random [32]byte
	e      *ecdh.PrivateKey
	es     []byte
	pipe   *pipe

	*ending
	in      inbox
	out     outbox
	down    lane // of the relay's records
	proof   bool // the relay's proof is awaited; pump's own
	secrets atomic.Pointer[secrets]
	offered bool                            // a ticket; set before anything runs
	plain   atomic.Bool                     // nothing is taken out any more
	stage   atomic.Pointer[transport.Stage] // of the dial
	noise   *noise.HandshakeState           // from the hello on
	visit   atomic.Pointer[visit]
	kick    sync.Once
	fault   atomic.Pointer[transport.CarrierError] // why the visit ends, if it is not the visit itself
	started chan transport.Stage                   // a dial's stage has begun; capacity 2
	visited chan struct{}                          // closed when the visit goroutine has ended
	live    chan struct{}                          // closed when the reply has opened; accept is set
	accept  *wire.Accept
	alive   atomic.Bool // something came after the hello
	heard   transport.Heard
	moved   atomic.Uint64 // covert records in both directions
}

// newClient prepares one; cut is how its ClientHello goes on the wire, and res what it
// may resume from, or nil.
func newClient(d *Dialer, l *look.Look, conn halfCloser, host string, cut fragment.Mode, res *resumption, hello *wire.Hello) (*client, error) {
	c := &client{
		d: d, look: l, conn: conn, host: host, hello: hello,
		pipe:    newPipe(),
		ending:  newEnding(),
		proof:   d.cfg.Proof,
		started: make(chan transport.Stage, 2),
		visited: make(chan struct{}),
		live:    make(chan struct{}),
	}
	c.in = newInbox(c.ending)
	c.down.dir = dirRelay
	c.out = outbox{
		ending: c.ending, turn: newTurn(), conn: conn,
		cut:   l.Upload.Cycle().Begin(),
		guise: newGuise(),
		sent:  func(int) { c.moved.Add(1) },
		broke: func(err error) {
			c.leave(&transport.CarrierError{Failure: classify(err), Err: bare(err)})
		},
	}
	c.enter(transport.StageTLS)
	var err error
	s, log, cfg := &shim{pipe: c.pipe, turn: c.out.turn, conn: conn, cut: cut, dead: c.dead}, new(alarm), d.verifier.tlsConfig()
	cfg.KeyLogWriter = log
	cfg.VerifyConnection = func(state utls.ConnectionState) error {
		err := d.verifier.connection(state)
		if err != nil {
			alert, aerr := log.record(state.Version, state.CipherSuite)
			if aerr != nil {
				d.log.Debug("alert is not the browser's", "err", aerr)
			}
			s.alert = alert
		}
		log.secret = nil
		return err
	}
	c.tls, err = newTLS(s, l, cfg, res,
		func(msg []byte, e *ecdh.PrivateKey) ([]byte, error) {
			h, ok := parseClientHello(msg)
			if !ok || h.share != [32]byte(e.PublicKey().Bytes()) {
				return nil, errors.New("look has no x25519 key share of ours")
			}
			es, err := e.ECDH(d.relay)
			if err != nil {
				return nil, err
			}
			c.random, c.e, c.es = h.random, e, es
			return sessionID(h.random, es, h.bound(msg)...), nil
		})
	c.offered = err == nil && len(c.tls.HandshakeState.Hello.PskIdentities) > 0
	return c, err
}

func (c *client) enter(s transport.Stage) {
	c.stage.Store(&s)
	select {
	case c.started <- s:
	default:
	}
}

// leave makes the connection end as the look closes one: with FIN, at once.
// Whoever calls it has a reason in mind; the first one stays.
func (c *client) leave(err error) {
	c.end(err)
	c.kick.Do(func() {
		c.pipe.close(net.ErrClosed)
		_ = c.conn.SetWriteDeadline(time.Now().Add(writeGrace))
		_ = c.conn.SetReadDeadline(time.Unix(1, 0))
	})
}

// blame notes why the visit is about to end; the TLS stack still answers.
func (c *client) blame(f transport.Failure, err error) {
	c.fault.CompareAndSwap(nil, &transport.CarrierError{Failure: f, Err: err})
}

// --- reading ---

// pump reads the connection for its whole life: genuine bytes go to the TLS
// stack, covert records to the session.
func (c *client) pump() {
	err := c.read()
	switch {
	case c.ended():
	case err == io.EOF || !over(err):
		// The end of the cover's bytes: the TLS stack says whether it was in good
		// order.
		c.plain.Store(true)
		c.pipe.close(err)
		<-c.visited
		c.out.await()
		c.end(c.fault.Load())
	}
	c.end(&transport.CarrierError{Failure: classify(err), Err: bare(err)})
	c.in.finish()
	c.pipe.close(net.ErrClosed)
	if over(err) {
		c.fin()
	}
	_ = c.conn.Close()
	<-c.visited
}

// fin closes as a browser does, and lets come what is under way.
func (c *client) fin() {
	c.out.turn.take()
	c.out.stop = true
	err := c.conn.CloseWrite()
	c.out.turn.give()
	if err != nil {
		return
	}
	_ = c.conn.SetReadDeadline(time.Now().Add(linger))
	_, _ = io.Copy(io.Discard, onlyReader{c.conn})
}

// onlyReader hides WriteTo, which would look for a splice.
type onlyReader struct{ io.Reader }

func (c *client) read() error {
	var (
		buf   = make([]byte, minBuffer)
		r, w  int
		watch helloWatch
		known bool // no ServerHello is awaited any more
		sc    = scanner{want: c.want}
	)
	for {
		n, err := c.conn.Read(buf[w:])
		c.heard.Note(n)
		c.out.guise.hears(n)
		c.d.pages.came(n, 0)
		w += n
		if n > 0 && *c.stage.Load() == transport.StageHello {
			c.alive.Store(true)
		}
		for r < w {
			if !known {
				n, o := watch.feed(buf[r:w])
				if watch.retried {
					c.d.tickets.retried()
				}
				if o == gotMessage {
					c.secrets.Store(newSecrets(c.random, watch.hello.random, c.es))
				}
				known = o != needMore
				sc.pass(buf[r : r+n])
				c.pipe.write(buf[r : r+n])
				r += n
				continue
			}
			pass, covert := sc.next(buf[r:w])
			if pass > 0 {
				c.in.deliver()
				c.pipe.write(buf[r : r+pass])
				r += pass
			}
			switch {
			case covert > 0 && c.take(buf[r:r+covert]):
				r += covert
				c.moved.Add(1)
			case covert > 0 && c.ended():
				return net.ErrClosed
			case covert > 0: // tampered with: the TLS stack will answer
				c.plain.Store(true)
				c.blame(transport.ClosedEarly, errTampered)
				c.in.finish()
			case pass == 0:
				goto read
			}
		}
	read:
		c.in.deliver()
		if err != nil {
			c.pipe.write(buf[r:w])
			return err
		}
		buf, r, w = shift(buf, r, w, maxBuffer)
	}
}

// want is the marker of the relay's next record.
func (c *client) want() (m [markerLen]byte, ok bool) {
	s := c.secrets.Load()
	switch {
	case s == nil || c.plain.Load():
		return m, false
	case c.proof:
		return s.mark(dirProof, 0), true
	}
	c.down.s = s
	return c.down.mark(), true
}

// take opens one record with the right marker; false means that it is not the
// relay's.
func (c *client) take(rec []byte) bool {
	switch {
	case c.proof:
		if _, err := c.secrets.Load().proofAEAD().Open(nil, make([]byte, 12), rec[prefixLen:], rec[:prefixLen]); err != nil {
			return false
		}
		c.proof = false
		if err := c.sayHello(); err != nil {
			c.leave(&transport.CarrierError{Failure: classify(err), Err: bare(err)})
		}
		return true
	case c.down.n == 0:
		return c.takeReply(rec)
	}
	return c.in.take(&c.down, rec)
}

// takeReply opens the relay's Noise message.
func (c *client) takeReply(rec []byte) bool {
	s := c.secrets.Load()
	// Between the hello and the reply nobody writes a covert record.
	c.out.turn.take()
	defer c.out.turn.give()
	if c.noise == nil || len(rec) < prefixLen+32+tagLen {
		return false
	}
	msg := append([]byte(nil), rec[prefixLen:]...)
	s.maskE(msg)
	body, toRelay, toClient, err := c.noise.ReadMessage(nil, msg)
	if err != nil {
		return false
	}
	body, err = unpack(body)
	if err == nil {
		c.accept, err = wire.ParseAccept(body)
	}
	if err == nil {
		c.out.lane.aead, err = newAEAD(c.hello.Cipher, toRelay.UnsafeKey())
	}
	if err == nil {
		c.down.aead, err = newAEAD(c.hello.Cipher, toClient.UnsafeKey())
	}
	if err != nil {
		return false
	}
	c.out.lane.n, c.down.n = 1, 1
	c.noise = nil
	if c.accept.Status.Refused() {
		c.plain.Store(true)
	}
	c.enter(transport.StageLive)
	close(c.live)
	return true
}

// sayHello sends the client's Noise message. The cover has proved its
// certificate by now.
func (c *client) sayHello() error {
	s := c.secrets.Load()
	hs, err := s.initiator(c.e, c.d.cfg.PublicKey)
	if err != nil {
		return err
	}
	size, err := helloSize(&c.look.HTTP, c.host)
	if err != nil {
		return err
	}
	payload := c.hello.Append(nil) // not before now: early data that came meanwhile is in it
	if len(payload) > maxHelloPayload {
		return errors.New("hello is longer than 16375 bytes")
	}
	msg, _, _, err := hs.WriteMessage(nil, pack(payload, size-markerLen-tagLen))
	if err != nil {
		return err
	}
	msg = msg[32:] // e is in the ClientHello
	rec := append(appendPrefix(nil, s.mark(dirClient, 0), len(msg)), msg...)
	c.out.turn.take()
	defer c.out.turn.give()
	c.noise = hs
	c.out.lane = lane{s: s, dir: dirClient}
	c.enter(transport.StageHello)
	_, err = c.conn.Write(rec)
	return err
}

// --- the visit ---

// browse is the visit: it runs the TLS stack until the connection ends.
func (c *client) browse() {
	e := c.judge(c.visitCover())
	c.fault.CompareAndSwap(nil, e)
	close(c.visited)
	if !c.ended() {
		c.out.await()
	}
	c.leave(c.fault.Load())
}

func (c *client) visitCover() error {
	if err := c.tls.Handshake(); err != nil {
		return err
	}
	state := c.tls.ConnectionState()
	v := newVisit(c.tls, &c.look.HTTP, c.host, state.NegotiatedProtocol, nil)
	c.wait(leastPause + mrand.N(mostPause-leastPause)) // what has ended says so itself
	if err := v.begin(); err != nil {
		return err
	}
	s := c.secrets.Load()
	if s == nil || state.Version < utls.VersionTLS13 {
		return c.browseOnly(v)
	}
	v.site, v.quiet = &c.d.pages, c.heard.Last
	v.site.wear(c.look)
	c.visit.Store(v)
	c.enter(transport.StageHello)
	if c.d.cfg.Proof {
		if err := v.get(); err != nil {
			return err
		}
	} else if err := c.sayHello(); err != nil {
		return err
	}
	return v.serve()
}

// browseOnly is a visit to a cover that cannot carry anything.
func (c *client) browseOnly(v *visit) error {
	c.blame(transport.UnfitCover, errors.New("the cover does not speak TLS 1.3"))
	if err := v.get(); err != nil {
		return err
	}
	stop := time.AfterFunc(browseTime, func() { c.pipe.close(errFinished) })
	defer stop.Stop()
	v.answered = func(int) { c.pipe.close(errFinished) }
	return v.serve()
}

// judge says what the end of the visit means.
func (c *client) judge(err error) *transport.CarrierError {
	stage := *c.stage.Load()
	remote := false // the cover sent an alert
	if op, ok := errors.AsType[*net.OpError](err); ok && op.Op == "remote error" {
		remote = true
	}
	e := &transport.CarrierError{Err: bare(err)}
	switch {
	case errors.Is(err, certs.ErrRefused):
		e.Failure = transport.Hijacked
	case remote && stage == transport.StageTLS:
		e.Failure = transport.UnfitCover
	case stage == transport.StageHello && (remote || err == io.EOF || errors.Is(err, errGoodbye)):
		e.Failure = transport.Hijacked
		e.Err = fmt.Errorf("the site answered, the relay did not: %w", e.Err)
	case errors.Is(err, errGoodbye):
		e.Err = errCoverDone
	case remote:
		e.Failure = transport.ClosedEarly
	default:
		e.Failure = classify(err)
		if e.Failure == "" && stage == transport.StageTLS && !over(err) {
			e.Failure = transport.Hijacked // what answered does not speak TLS as a site does
		}
	}
	return e
}

// wait reports false if the connection ends before the time is over.
func (c *client) wait(d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-c.dead:
		return false
	}
}

// knock sends the PINGs of a browser that asks whether a silent connection lives.
func (c *client) knock() {
	every := time.Duration(c.look.HTTP.PingIdle) * time.Second
	v := c.visit.Load()
	if every == 0 || !v.h2 {
		return
	}
	for {
		if silent := time.Since(c.heard.Last()); silent < every {
			if !c.wait(every - silent) {
				return
			}
			continue
		}
		if v.ping() != nil || !c.wait(every) {
			return
		}
	}
}

// keep sends genuine requests in time while covert data flows (rule 4), and the
// record that confirms the carrier if the session sends none.
func (c *client) keep() {
	idle := c.accept.CoverIdle
	if idle <= 0 {
		idle = defaultIdle
	}
	begin := time.Now()
	if !c.wait(min(confirmAfter, idle/4)) {
		return
	}
	if c.confirm() != nil {
		return
	}
	// Before the first request some servers wait less (nginx: 60 s of
	// client_header_timeout instead of 75 s of keepalive_timeout).
	limit := min(idle, defaultIdle)
	moved := uint64(1) // the reply
	for {
		due := begin.Add(time.Duration((0.4 + 0.5*mrand.Float64()) * float64(limit)))
		if !c.wait(time.Until(due)) {
			return
		}
		// Without covert data the cover may end the visit, unless some comes yet.
		for c.moved.Load() == moved {
			if !c.wait(idle / 20) {
				return
			}
		}
		v := c.visit.Load()
		if v.patient() {
			begin = time.Now()
			continue
		}
		if err := v.browse(); err != nil {
			return // the visit ends by itself
		}
		begin, limit, moved = time.Now(), idle, c.moved.Load()
	}
}

func (c *client) confirm() error {
	c.out.turn.take()
	sent := c.out.lane.n > 1
	c.out.turn.give()
	if sent {
		return nil
	}
	return c.out.confirm()
}

// clientCarrier implements [transport.Carrier] at the client.
type clientCarrier struct{ c *client }

// WriteFrames implements [transport.Carrier].
func (k *clientCarrier) WriteFrames(batch []transport.Frame) error {
	if k.c.plain.Load() {
		<-k.c.dead // the TLS stack answers first
		return k.c.err
	}
	return k.c.out.writeFrames(batch)
}

// ReadFrames implements [transport.Carrier].
func (k *clientCarrier) ReadFrames(buf []byte) (int, error) { return k.c.in.readFrames(buf) }

// Heard is when bytes came from the relay last, genuine ones too.
func (k *clientCarrier) Heard() time.Time { return k.c.heard.Last() }

// Properties implements [transport.Carrier].
func (k *clientCarrier) Properties() transport.Properties {
	return properties(k.c.accept.CoverIdle, k.c.accept.CoverLifetime)
}

// Close implements [transport.Carrier].
func (k *clientCarrier) Close() error {
	k.c.leave(net.ErrClosed)
	return nil
}

// await blocks until the reply has opened or the dial has failed.
func (c *client) await(ctx context.Context) error {
	timer := time.NewTimer(tlsTimeout)
	defer timer.Stop()
	for {
		select {
		case <-c.live:
			return nil
		case <-c.dead:
			select {
			case <-c.live: // it lived for a moment
				return nil
			default:
				return c.err
			}
		case <-ctx.Done():
			c.leave(&transport.CarrierError{Err: context.Cause(ctx)})
		case s := <-c.started:
			if s == transport.StageHello {
				timer.Reset(c.d.patience)
			}
		case <-timer.C:
			e := &transport.CarrierError{Failure: transport.Timeout, Err: os.ErrDeadlineExceeded}
			// SETTINGS may have come before the hello was sent.
			if v := c.visit.Load(); c.alive.Load() || v != nil && v.heard.Load() {
				e = &transport.CarrierError{Failure: transport.Hijacked, Err: errors.New("the site answered, the relay did not")}
			}
			c.leave(e)
		}
	}
}
