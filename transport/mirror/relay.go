package mirror

import (
	"context"
	"crypto/ecdh"
	"crypto/subtle"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/flynn/noise"

	"busel/internal/fault"
	"busel/internal/wire"
	"busel/transport"
)

// Times of rule 5 (docs/PROTOCOL.md, section 3.3).
const (
	coverSilence = 4 * time.Millisecond   // after the cover's record that follows the client's
	replyLatest  = 300 * time.Millisecond // after the hello, whatever the cover does
)

// ownTimer is that of a fault: shorter than any time-out of a cover.
const ownTimer = 500 * time.Millisecond

// closeTime bounds how long a carrier that the session closed waits for the
// cover to end the visit.
const closeTime = 2 * time.Second

// writeGrace is how long a write may go on after Close, so that a record is not
// cut needlessly.
const writeGrace = 200 * time.Millisecond

// Sizes of a client's read buffer in bytes; others' are of [copyBuffer].
const (
	// A carrier's must hold a record, and grows when reads fill it.
	minBuffer = 32 << 10
	maxBuffer = 256 << 10
)

// proofSlack is what a cover may take, beyond two round trips, to refuse a false
// Finished before the proof is inserted.
const proofSlack = 50 * time.Millisecond

// proofAfter is how long the cover's record must at least be that the proof
// follows: longer than an alert, so that nobody who could not finish the
// handshake ever sees a proof.
const proofAfter = 40

// mode of a link.
const (
	undecided int32 = iota // the ClientHello has not been read whole
	candidate              // it knew S
	plain                  // forwarding for the rest of its life
)

// link is one connection through the relay: client, relay, cover.
type link struct {
	l             *Listener
	client, cover halfCloser
	done          chan struct{} // closed when both directions have ended
	over          chan struct{} // closed when nothing of the link runs
	finish        sync.Once

	mode    atomic.Int32
	heard   transport.Heard         // from a candidate
	secrets atomic.Pointer[secrets] // set by down before the ServerHello's last byte passes
	// Written by up before mode becomes candidate, read by down after.
	hello clientHello
	es    []byte

	*ending // of the carrier, if there is one
	closing atomic.Bool
	in      inbox
	out     outbox
	up      lane
	keyed   atomic.Bool // up.aead is set
	closer  atomic.Pointer[time.Timer]

	upEOF, downEOF atomic.Bool
	coverReset     atomic.Bool // a write to the cover failed
	gate           gate
	slot           sync.Mutex
	slotted        bool           // an element of Slots is ours; guarded by slot
	idle           place          // guarded by the listener's idle
	aux            sync.WaitGroup // the proof, the offer of a hello
}

// gate keeps what rule 5 asks about the cover.
type gate struct {
	mu    sync.Mutex
	asked time.Time     // when the ClientHello was whole
	first time.Time     // when the cover first answered it
	said  int           // the client's encrypted records
	done  time.Time     // when what may be the client's Finished had passed whole
	last  time.Time     // when the cover last sent something
	size  int           // length of a cover's record after the Finished
	ready bool          // a record followed the Finished, and what the client said next
	long  bool          // one of at least proofAfter bytes did
	news  chan struct{} // capacity 1: ready or long became true
}

// record notes a record of the cover, and reports whether it followed the client's
// Finished.
func (g *gate) record(size int) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.done.IsZero() {
		return false
	}
	g.ready = true
	if size >= proofAfter && !g.long {
		g.long = true
		g.size = size
	}
	select {
	case g.news <- struct{}{}:
	default:
	}
	return true
}

// active notes that the cover sent something.
func (g *gate) active(now time.Time) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.last = now
	if g.first.IsZero() && !g.asked.IsZero() {
		g.first = now
	}
}

// greeted notes a whole ClientHello.
func (g *gate) greeted() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.asked = time.Now()
}

// spoke notes an encrypted record of the client: first the Finished, then with HTTP/2 its
// preface. The cover acknowledges the SETTINGS in that, and does so before it answers.
func (g *gate) spoke() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.said++
	switch g.said {
	case 1:
		g.done = time.Now()
	case 2:
		g.ready = false
	}
}

// believed is when a cover that has not ended the connection has taken the
// client's Finished for good: whoever replays a ClientHello can send nonsense
// while the cover's flight is under way, and part of that then follows it.
func (g *gate) believed() time.Time {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.done.Add(2*g.first.Sub(g.asked) + proofSlack)
}

// wait blocks until the gate is open: a record passed, a long one if asked for,
// and the cover was silent since, or latest has come (if not zero). It returns
// false if dead is closed first.
func (g *gate) wait(long bool, latest time.Time, dead <-chan struct{}) bool {
	if fault.InsertAtOnce {
		return true
	}
	for {
		g.mu.Lock()
		open := g.ready && (g.long || !long)
		until := g.last.Add(coverSilence)
		g.mu.Unlock()
		now := time.Now()
		if open && !now.Before(until) || !latest.IsZero() && !now.Before(latest) {
			return true
		}
		var alarm <-chan time.Time
		var timer *time.Timer
		if next := until; open || !latest.IsZero() {
			if !open || !latest.IsZero() && latest.Before(next) {
				next = latest
			}
			timer = time.NewTimer(next.Sub(now))
			alarm = timer.C
		}
		select {
		case <-alarm:
		case <-g.news:
		case <-dead:
		}
		if timer != nil {
			timer.Stop()
		}
		select {
		case <-dead:
			return false
		default:
		}
	}
}

func newLink(l *Listener, client, cover halfCloser) *link {
	k := &link{
		l: l, client: client, cover: cover,
		done:   make(chan struct{}),
		over:   make(chan struct{}),
		ending: newEnding(),
		gate:   gate{news: make(chan struct{}, 1)},
	}
	k.in = newInbox(k.ending)
	k.out = outbox{
		ending: k.ending, turn: newTurn(), conn: client,
		sent:  func(n int) { l.stats.covertOut.Add(uint64(n)) },
		broke: k.broke,
		cut:   l.cycle.Load().Begin(),
	}
	k.up = lane{dir: dirClient}
	k.out.lane = lane{dir: dirRelay}
	return k
}

// run forwards until both directions have ended or ctx does.
func (k *link) run(ctx context.Context) {
	stop := context.AfterFunc(ctx, k.shut)
	defer stop()
	if fault.OwnTimer {
		defer time.AfterFunc(ownTimer, k.shut).Stop()
	}
	k.l.idle.add(k)
	var wg sync.WaitGroup
	wg.Go(k.runDown)
	k.runUp()
	wg.Wait()
	k.end(&transport.CarrierError{Err: errCoverDone})
	k.aux.Wait()
	k.giveSlot()
	k.l.idle.retire(k)
	k.in.finish()
	_ = k.client.Close()
	_ = k.cover.Close()
	close(k.over)
	if t := k.closer.Load(); t != nil {
		t.Stop()
	}
}

// takeSlot reports whether one more client may come.
func (k *link) takeSlot() bool {
	if k.l.cfg.Slots == nil {
		return true
	}
	k.slot.Lock()
	defer k.slot.Unlock()
	select {
	case k.l.cfg.Slots <- struct{}{}:
		k.slotted = true
		return true
	default:
		return false
	}
}

// giveSlot gives back what takeSlot took, if anything.
func (k *link) giveSlot() {
	k.slot.Lock()
	defer k.slot.Unlock()
	if k.slotted {
		k.slotted = false
		<-k.l.cfg.Slots
	}
}

// shut closes both ends as they are.
func (k *link) shut() {
	k.end(net.ErrClosed)
	k.finish.Do(func() { close(k.done) })
	_ = k.client.Close()
	_ = k.cover.Close()
}

// abort passes a reset on: whichever end saw it, the other one gets it.
func (k *link) abort() {
	k.end(&transport.CarrierError{Failure: transport.Reset, Err: errCoverDone})
	k.finish.Do(func() { close(k.done) })
	if fault.ResetAsFIN {
		_ = k.client.CloseWrite()
	} else {
		reset(k.client)
	}
	reset(k.cover)
}

// broke ends a connection on which a covert record was written in part.
func (k *link) broke(error) {
	if k.closing.Load() {
		k.shut()
	} else {
		k.abort()
	}
}

// over reports whether err is our own doing and not the peer's.
func over(err error) bool {
	return errors.Is(err, net.ErrClosed) || errors.Is(err, os.ErrDeadlineExceeded)
}

// fin passes the end of from on to to and waits for the other direction's, or
// for a reset that follows the end.
func (k *link) fin(from, to halfCloser, mine, other *atomic.Bool) {
	mine.Store(true)
	if fault.CloseUnread && from == k.cover {
		k.closeUnread()
		return
	}
	if k.coverReset.Load() || to.CloseWrite() != nil && !k.closing.Load() {
		k.abort() // the far end is gone already, and its reset passed on
		return
	}
	if other.Load() {
		k.finish.Do(func() { close(k.done) })
		past := time.Unix(1, 0) // wakes the other direction's awaitReset
		_ = from.SetReadDeadline(past)
		_ = to.SetReadDeadline(past)
		return
	}
	if awaitReset(from, k.done) {
		k.abort()
	}
}

// closeUnread is a fault: nothing is read any more, and what comes within a
// moment turns the FIN into a RST.
func (k *link) closeUnread() {
	_ = k.client.SetReadDeadline(time.Unix(1, 0))
	<-time.After(30 * time.Millisecond)
	k.shut()
}

// setPlain makes everything pass as it comes from now on.
func (k *link) setPlain() { k.mode.Store(plain) }

// tampered is rule 3: whatever comes passes, nothing is inserted or taken out.
func (k *link) tampered() {
	k.setPlain()
	k.end(&transport.CarrierError{Failure: transport.ClosedEarly, Err: errTampered})
	k.in.finish()
}

// --- client to cover ---

func (k *link) runUp() {
	src := newSupply(k.client, &k.l.buffers)
	defer src.release()
	var msgs messages
	sc := scanner{want: k.wantUp}
	sc.ended = func(typ byte) {
		if typ == recordData && k.secrets.Load() != nil {
			k.gate.spoke()
		}
	}
	for k.mode.Load() == undecided {
		b, err := src.read()
		if len(b) > 0 {
			k.l.idle.spoke(k)
			sc.pass(b)
			switch _, o := msgs.feed(b, typeClientHello); o {
			case gotMessage:
				k.decide(k.recognise(msgs.buf))
			case notTLS:
				k.decide(false)
			}
			if !k.toCover(b) {
				return
			}
		}
		if err != nil {
			k.decide(false)
			k.upEnds(err)
			return
		}
	}
	msgs = messages{}
	if k.mode.Load() == candidate {
		src.release()
		if !k.scanUp(&sc, src) {
			return
		}
	}
	for {
		b, err := src.read()
		if len(b) > 0 {
			k.l.idle.spoke(k)
			if !k.toCover(b) {
				return
			}
		}
		if err != nil {
			k.upEnds(err)
			return
		}
	}
}

// decide is called once, before the last byte of the ClientHello passes.
func (k *link) decide(known bool) {
	if known {
		k.gate.greeted()
		k.l.stats.candidates.Add(1)
		k.mode.Store(candidate)
	} else {
		k.l.stats.strangers.Add(1)
		k.mode.Store(plain)
	}
}

// recognise reports whether the sender of the ClientHello knew S.
func (k *link) recognise(msg []byte) bool {
	h, ok := parseClientHello(msg)
	if !ok {
		return false
	}
	share, err := ecdh.X25519().NewPublicKey(h.share[:])
	if err != nil {
		return false
	}
	es, err := k.l.cfg.Key.ECDH(share) // fails for a degenerate share
	if err != nil || subtle.ConstantTimeCompare(sessionID(h.random, es, h.bound(msg)...), h.sessionID[:]) != 1 {
		return false
	}
	k.hello, k.es = h, es
	return true
}

// toCover writes to the cover, and reports whether up goes on.
func (k *link) toCover(b []byte) bool {
	if k.closing.Load() {
		return true // dropped: the visit is over, only the cover's end is awaited
	}
	if fault.SwallowAfterFIN && k.downEOF.Load() {
		return true
	}
	if _, err := k.cover.Write(b); err != nil {
		if k.closing.Load() {
			return true
		}
		if !over(err) {
			k.coverGone()
		}
		return false
	}
	return true
}

// coverGone is a failed write to the cover. What it sent before may still wait
// to be read, so down passes that on and then the reset.
func (k *link) coverGone() {
	k.coverReset.Store(true)
	if k.downEOF.Load() {
		k.abort()
	}
}

// upEnds is the end of the client's bytes.
func (k *link) upEnds(err error) {
	switch {
	case err == io.EOF:
		k.end(&transport.CarrierError{Err: io.EOF})
		k.fin(k.client, k.cover, &k.upEOF, &k.downEOF)
	case !over(err):
		k.abort()
	}
}

// wantUp is the marker of the client's next covert record.
func (k *link) wantUp() (m [markerLen]byte, ok bool) {
	s := k.secrets.Load()
	if s == nil || k.mode.Load() != candidate {
		return m, false
	}
	k.up.s = s
	return k.up.mark(), true
}

// scanUp takes covert records out of a candidate's bytes until the link becomes
// plain. It reports whether up goes on.
func (k *link) scanUp(sc *scanner, src *supply) bool {
	var buf []byte
	r, w := 0, 0
	for {
		if r == w && !k.keyed.Load() { // perhaps for ever: hellos can be replayed
			buf, r, w = nil, 0, 0
			src.wait()
		}
		if buf == nil {
			buf = make([]byte, minBuffer)
		}
		n, err := k.client.Read(buf[w:])
		k.heard.Note(n)
		if n > 0 && !k.keyed.Load() {
			k.l.idle.spoke(k)
		}
		w += n
		for r < w {
			pass, covert := sc.next(buf[r:w])
			if pass > 0 {
				k.in.deliver()
				if !k.toCover(buf[r : r+pass]) {
					return false
				}
				r += pass
			}
			switch {
			case covert > 0 && k.closing.Load():
				r += covert
			case covert > 0 && k.covert(buf[r:r+covert]):
				r += covert
				k.l.stats.covertIn.Add(uint64(covert))
			case covert > 0 && fault.SwallowTampered:
				k.closing.Store(true) // drops all that follows, too
				r += covert
			case covert > 0:
				k.tampered()
				if fault.AnswerTampered {
					k.shut()
				}
			}
			if pass == 0 && covert == 0 {
				break
			}
		}
		k.in.deliver()
		if k.mode.Load() == plain || err != nil {
			if r < w && !k.toCover(buf[r:w]) {
				return false
			}
			if err != nil {
				k.upEnds(err)
				return false
			}
			if !k.closing.Load() {
				return true
			}
			r = w
		}
		largest := minBuffer
		if k.keyed.Load() { // a client, and not a replay of one
			largest = maxBuffer
		}
		buf, r, w = shift(buf, r, w, largest)
	}
}

// shift makes room for the next read: what is left moves to the front, and a
// buffer that was full is doubled up to the largest size.
func shift(buf []byte, r, w, largest int) ([]byte, int, int) {
	full := w == len(buf)
	if full && len(buf) < largest {
		bigger := make([]byte, 2*len(buf))
		return bigger, 0, copy(bigger, buf[r:w])
	}
	if r == w {
		return buf, 0, 0
	}
	if full || r > len(buf)/2 {
		return buf, 0, copy(buf, buf[r:w])
	}
	return buf, r, w
}

// covert takes one record with the right marker. It returns false if the record
// must pass to the cover as it came.
func (k *link) covert(rec []byte) bool {
	if k.up.n == 0 {
		return k.takeHello(rec)
	}
	if !k.keyed.Load() {
		return false
	}
	return k.in.take(&k.up, rec)
}

// takeHello opens the client's Noise message.
func (k *link) takeHello(rec []byte) bool {
	s := k.secrets.Load()
	hs, err := s.responder(k.l.cfg.Key)
	if err != nil {
		return false
	}
	msg := append(k.hello.share[:len(k.hello.share):len(k.hello.share)], rec[prefixLen:]...)
	body, _, _, err := hs.ReadMessage(nil, msg)
	if err != nil {
		return false
	}
	body, err = unpack(body)
	if err != nil {
		return false
	}
	p := &pending{k: k, noise: hs, at: time.Now()}
	p.hello, err = wire.ParseHello(body)
	switch {
	case errors.Is(err, wire.ErrVersion):
		k.up.n++
		k.aux.Go(func() {
			if _, err := p.Answer(&wire.Accept{Status: wire.StatusVersion}); err != nil {
				k.l.log.Debug("hello of another version was not answered", "err", bare(err))
			}
		})
		return true
	case err != nil:
		k.l.log.Debug("hello is malformed", "err", err)
		return false
	}
	k.up.n++
	k.aux.Go(func() { k.l.offer(p) })
	return true
}

// --- cover to client ---

func (k *link) runDown() {
	src := newSupply(k.cover, &k.l.buffers)
	defer src.release()
	var (
		watch   helloWatch
		known   bool // the ServerHello has passed
		early   bool // the cover spoke before the ClientHello was whole
		holding bool // the turn, because a genuine record has not passed whole
		tr      tracker
	)
	tr.began = func(_ byte, size int) {
		if k.gate.record(size + headerLen) {
			k.out.cut.Passed()
		}
	}
	defer func() {
		if holding {
			k.out.turn.give()
		}
	}()
	for k.mode.Load() != plain || holding {
		b, err := src.read()
		mode := k.mode.Load()
		if len(b) > 0 && mode == candidate && !known {
			if early {
				k.setPlain()
			} else if _, o := watch.feed(b); o == gotMessage {
				known = true
				s := newSecrets(k.hello.random, watch.hello.random, k.es)
				k.out.lane.s = s
				k.secrets.Store(s)
				watch = helloWatch{}
				if k.l.cfg.Cover.Borrowed {
					k.aux.Go(k.prove)
				}
			} else if o == notTLS {
				k.setPlain()
			}
		}
		if len(b) > 0 {
			early = early || mode == undecided
			if !holding {
				k.out.turn.take()
				holding = true
			}
			tr.pass(b)
			k.gate.active(time.Now())
			if !k.toClient(b) {
				return
			}
			if tr.boundary() || k.mode.Load() == plain {
				k.out.turn.give()
				holding = false
			}
		}
		if err != nil {
			k.downEnds(err, &holding)
			return
		}
	}
	for {
		b, err := src.read()
		if len(b) > 0 && !k.toClient(b) {
			return
		}
		if err != nil {
			k.downEnds(err, &holding)
			return
		}
	}
}

// toClient writes what the cover said, and reports whether down goes on.
func (k *link) toClient(b []byte) bool {
	k.l.idle.answering(k)
	if _, err := k.client.Write(b); err != nil {
		if !over(err) {
			k.abort()
		}
		return false
	}
	k.l.idle.answered(k)
	return true
}

// downEnds is the end of the cover's bytes (rule 4).
func (k *link) downEnds(err error, holding *bool) {
	if err != io.EOF {
		if !over(err) {
			k.abort()
		}
		return
	}
	k.end(&transport.CarrierError{Err: errCoverDone})
	k.setPlain()
	if !*holding {
		k.out.turn.take()
	}
	k.out.stop = true
	k.out.turn.give()
	*holding = false
	if fault.HoldFIN {
		k.downEOF.Store(true)
		<-k.done
		return
	}
	if k.closing.Load() {
		_ = k.client.CloseWrite()
		_ = k.client.Close()
		return
	}
	t := time.AfterFunc(k.l.cfg.finWait, func() {
		forget(k.client)
		k.shut()
	})
	defer t.Stop()
	k.l.idle.add(k)
	k.fin(k.cover, k.client, &k.downEOF, &k.upEOF)
}

// prove inserts the relay's proof (a borrowed cover only).
func (k *link) prove() {
	if !k.gate.wait(true, time.Time{}, k.dead) {
		return
	}
	t := time.NewTimer(time.Until(k.gate.believed()))
	defer t.Stop()
	select {
	case <-t.C:
	case <-k.dead:
		return
	}
	if !k.gate.wait(true, time.Time{}, k.dead) { // for the cover's silence
		return
	}
	s := k.secrets.Load()
	k.gate.mu.Lock()
	size := k.gate.size - headerLen
	k.gate.mu.Unlock()
	size = min(max(size, minRecord), maxRecord) - markerLen - tagLen
	rec := appendPrefix(nil, s.mark(dirProof, 0), size+tagLen)
	rec = s.proofAEAD().Seal(rec, make([]byte, 12), make([]byte, size), rec[:prefixLen])
	select {
	case <-k.out.turn:
	case <-k.dead:
		return
	}
	defer k.out.turn.give()
	if k.mode.Load() != candidate || k.ended() {
		return
	}
	k.out.cut.Passed()
	if err := k.out.flush(rec); err != nil {
		k.l.log.Debug("proof was not sent", "err", err)
	}
}

// --- pending and carrier ---

// pending implements [transport.Pending].
type pending struct {
	k     *link
	noise *noise.HandshakeState
	hello *wire.Hello
	at    time.Time
	once  sync.Once
}

func (p *pending) Hello() *wire.Hello { return p.hello }

// Close implements [transport.Pending].
func (p *pending) Close() error {
	p.once.Do(func() {
		p.k.setPlain()
		p.k.end(net.ErrClosed)
		p.k.giveSlot()
	})
	return nil
}

var errAnswered = errors.New("hello was answered already")

// Answer implements [transport.Pending]. The accept payload must be at most
// 16343 bytes long.
func (p *pending) Answer(a *wire.Accept) (c transport.Carrier, err error) {
	err = errAnswered
	p.once.Do(func() { c, err = p.answer(a) })
	return c, err
}

func (p *pending) answer(a *wire.Accept) (transport.Carrier, error) {
	k := p.k
	full := *a
	limit := *k.l.limits.Load()
	full.CoverIdle, full.CoverLifetime = limit.idle, limit.lifetime
	payload := full.Append(nil)
	if len(payload) > maxPlain-32-2 {
		return nil, fmt.Errorf("accept payload of %d bytes does not fit a record", len(payload))
	}
	s := k.secrets.Load()
	msg, toRelay, toClient, err := p.noise.WriteMessage(nil, pack(payload, k.l.first.Load().Size(time.Now())-markerLen-32-tagLen))
	if err != nil {
		return nil, err
	}
	s.maskE(msg)
	rec := append(appendPrefix(nil, s.mark(dirRelay, 0), len(msg)), msg...)
	cipher := wire.AES256GCM
	if p.hello != nil {
		cipher = p.hello.Cipher
	}
	in, err := newAEAD(cipher, toRelay.UnsafeKey())
	if err != nil {
		return nil, err
	}
	out, err := newAEAD(cipher, toClient.UnsafeKey())
	if err != nil {
		return nil, err
	}
	if !k.gate.wait(false, p.at.Add(replyLatest), k.dead) {
		return nil, k.err
	}
	select {
	case <-k.out.turn:
	case <-k.dead:
		return nil, k.err
	}
	defer k.out.turn.give()
	if k.ended() {
		return nil, k.err
	}
	refused := full.Status.Refused()
	if !refused {
		k.up.aead = in
		k.keyed.Store(true)
		k.l.idle.retire(k)
	}
	k.out.lane.aead, k.out.lane.n = out, 1
	k.out.cut.Passed()
	if err := k.out.flush(rec); err != nil {
		return nil, err
	}
	if refused {
		k.out.stop = true
		k.setPlain()
		k.giveSlot()
		return nil, nil
	}
	k.l.stats.carriers.Add(1)
	return &relayCarrier{k, limit}, nil
}

// relayCarrier implements [transport.Carrier] at the relay.
type relayCarrier struct {
	k     *link
	limit limits
}

// WriteFrames implements [transport.Carrier]. That nothing is sent before the
// client has proved to be there (rule 7) is the session's care: it knows other
// proofs than a record after the reply.
func (c *relayCarrier) WriteFrames(batch []transport.Frame) error {
	return c.k.out.writeFrames(batch)
}

// ReadFrames implements [transport.Carrier].
func (c *relayCarrier) ReadFrames(buf []byte) (int, error) { return c.k.in.readFrames(buf) }

// Heard is when bytes came from the client last.
func (c *relayCarrier) Heard() time.Time { return c.k.heard.Last() }

// Properties implements [transport.Carrier].
func (c *relayCarrier) Properties() transport.Properties {
	return properties(c.limit.idle, c.limit.lifetime)
}

func properties(idle, life time.Duration) transport.Properties {
	return transport.Properties{Kind: Kind, Ordered: true, CoverIdle: idle, CoverLifetime: life}
}

// Close implements [transport.Carrier]: the relay tells the cover that its
// visitor has left, and the cover ends the visit in its own way.
func (c *relayCarrier) Close() error {
	c.k.leave()
	return nil
}

// leave ends a visit as if the visitor had left.
func (k *link) leave() {
	if k.closing.Swap(true) {
		return
	}
	k.end(net.ErrClosed)
	k.out.hurry()
	if k.downEOF.Load() && !fault.HoldFIN { // the cover has, and said so; only its kernel would wait
		k.shut()
		return
	}
	_ = k.cover.CloseWrite()
	t := time.AfterFunc(closeTime, k.shut)
	k.closer.Store(t)
	select {
	case <-k.over: // run may not have seen the timer
		t.Stop()
	default:
	}
}
