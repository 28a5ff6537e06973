package session

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"log/slog"
	"sync"
	"time"

	"busel/internal/flow"
	"busel/internal/wire"
	"busel/transport"
)

// ClientConfig configures a [Client].
type ClientConfig struct {
	Token  wire.Token
	Cipher wire.Cipher
	Logger *slog.Logger // nil discards
	// OnBundle takes an invite update and OnNotice a notice for the user. Both
	// may be nil, and must not block: a carrier waits for them.
	OnBundle func(bundle []byte)
	OnNotice func(code uint64, text string)
}

const (
	// helloFrames is how many bytes of frames ride in a hello of mode resume: a
	// TLS or HTTP request, and still the size of a browser's first request.
	helloFrames = 4 << 10
	// maxGaveUp bounds the numbers of carriers that a client remembers to have
	// given up until a relay has heard of them.
	maxGaveUp = 4096
)

// Client is the client's end of a session: a [flow.Opener] whose streams
// survive their carriers. Create it with [NewClient], Run it, and attach
// carriers as its [View] asks for them.
type Client struct {
	c   *core
	cfg ClientConfig

	// Guarded by c.mu.
	secret      [wire.SecretLen]byte
	established bool // a relay accepted a hello: later ones resume
	nextN       uint32
	gaveUp      []uint32
	key         *resumptionKey
	moves       int
	lost        bool          // an active carrier died while it was wanted
	change      chan struct{} // closed at the next change; nil if nobody waits
	was         glance        // at the last one
	gone        bool          // a carrier ended since
}

var _ flow.Opener = (*Client)(nil)

// resumptionKey seals frames in a hello.
type resumptionKey struct {
	number uint32
	key    [32]byte
}

func (k *resumptionKey) aead() cipher.AEAD {
	b, err := aes.NewCipher(k.key[:])
	if err != nil {
		panic(err) // only for a wrong length
	}
	g, err := cipher.NewGCM(b)
	if err != nil {
		panic(err)
	}
	return g
}

// nonce is 8 zero bytes and the carrier's number: see [wire.Hello].
func (k *resumptionKey) nonce(n uint32) []byte {
	return binary.BigEndian.AppendUint32(make([]byte, 8, 12), n)
}

// NewClient returns a new session with a fresh secret. It starts nothing.
func NewClient(cfg ClientConfig) *Client {
	cl := &Client{c: newCore(true, cfg.Logger), cfg: cfg, nextN: 1}
	rand.Read(cl.secret[:])
	c := cl.c
	c.onUnlock = cl.notify
	c.onControl = cl.control
	c.onGreet = cl.greet
	c.onDetach = cl.detached
	c.onUsed = func(uint32) {}
	c.onBroken = func(err error) {
		rand.Read(cl.secret[:])
		cl.established = false
		cl.restart(nil, err)
	}
	return cl
}

// Fail ends every stream, because the relay serves this session no more: it refuses
// the invite, and a *[wire.StatusError] in cause says why. The session begins anew,
// so that streams opened later are tried afresh.
func (cl *Client) Fail(cause error) {
	detail := flow.DetailInvite
	if refused, ok := errors.AsType[*wire.StatusError](cause); ok && refused.Status.Detail() != flow.DetailNone {
		detail = refused.Status.Detail()
	}
	c := cl.c
	c.mu.Lock()
	defer c.unlock()
	for s := range c.all {
		if s.kind == kindProxy {
			s.kill(&flow.OpenError{Code: flow.NotAllowed, Detail: detail, Err: cause})
		}
	}
	c.onBroken(cause)
}

// Run keeps the session's timers until ctx ends, which ends the session: all
// streams fail with [ErrEnded] and carriers are closed. It returns [ErrEnded].
func (cl *Client) Run(ctx context.Context) error { return cl.c.run(ctx) }

func (cl *Client) control(m wire.Control) {
	switch m.Type {
	case wire.ControlResumptionKey:
		if len(m.Body) == 4+32 {
			cl.key = &resumptionKey{number: binary.BigEndian.Uint32(m.Body), key: [32]byte(m.Body[4:])}
		}
	case wire.ControlBundle:
		if cl.cfg.OnBundle != nil {
			b := append([]byte(nil), m.Body...)
			cl.c.after = append(cl.c.after, func() { cl.cfg.OnBundle(b) })
		}
	case wire.ControlNotice:
		if code, n, err := wire.Varint(m.Body); err == nil && cl.cfg.OnNotice != nil {
			text := string(m.Body[n:])
			cl.c.after = append(cl.c.after, func() { cl.cfg.OnNotice(code, text) })
		}
	}
}

func (cl *Client) greet(a *attachment) {
	c := cl.c
	for _, b := range c.atts {
		if b != a && b.live {
			c.announce = append(c.announce, b.ruling())
		}
	}
	c.sayDropped(cl.gaveUp)
	if cl.lost && a.state == wire.CarrierActive {
		cl.lost = false
		cl.moves++
	}
}

func (cl *Client) detached(a *attachment) {
	if len(cl.gaveUp) >= maxGaveUp {
		cl.gaveUp = cl.gaveUp[1:]
	}
	cl.gaveUp = append(cl.gaveUp, a.n)
	cl.gone = cl.gone || a.live
	if cl.c.open > 0 {
		cl.c.sayDropped(cl.gaveUp) // a took along what it had of such words
	}
	switch {
	case !a.proven || a.state != wire.CarrierActive || a.spent || !cl.wanted():
	case cl.c.open > 0: // its replacement is there already
		cl.moves++
	default:
		cl.lost = true
	}
}

// restart begins the session anew. Streams of which nothing was sent, or only
// in the hello of a that the relay ignored, are opened in the new session; the
// others die with "relay restarted". c.mu is held.
func (cl *Client) restart(a *attachment, cause error) {
	c := cl.c
	old, flows := c.all, c.flows
	var keep []*Stream
	for s := range old {
		fresh := !s.named || s.first == a && a != nil && !s.elsewhere
		if s.kind == kindProxy && s.local && fresh && !s.shut && s.reset == idle {
			keep = append(keep, s)
			continue
		}
		s.kill(&flow.OpenError{Code: flow.GeneralFailure, Detail: flow.DetailRelayRestarted, Err: cause})
	}
	for _, b := range append([]*attachment(nil), c.atts...) {
		if b != a && b.live {
			c.detach(b, cause)
		}
	}
	stored := 0
	c.epoch++
	c.begin()
	c.flows, c.unheard = flows, a != nil
	cl.key = nil
	if a != nil {
		a.epoch = c.epoch
		a.inflight, a.carrying = 0, 0
	}
	for _, s := range keep {
		s.renew()
		c.all[s] = struct{}{}
		c.localOpen++
		stored += s.unsent
		c.ready(s)
	}
	c.unsent, c.stored = stored, stored
	c.slots.Broadcast()
}

// renew makes a stream of which the relay has seen nothing new again.
func (s *Stream) renew() {
	s.epoch, s.named, s.id = s.c.epoch, false, 0
	s.first, s.elsewhere, s.resend = nil, false, nil
	s.queued, s.chore, s.lazy, s.blocked, s.ackDue, s.query = false, false, false, false, false, false
	s.limit, s.sent, s.unsent = s.c.peerStream, 0, 0
	s.next = s.head
	for ch := s.head; ch != nil; ch = ch.next {
		ch.taken, ch.on = false, nil
		s.unsent += ch.len()
	}
	s.wcond.Broadcast()
}

// OpenStream opens a stream to dst. It never waits for the relay: see
// [Stream.Connected]. While 4,096 streams are open it blocks, until ctx ends.
func (cl *Client) OpenStream(ctx context.Context, dst flow.Addr) (flow.Stream, error) {
	if !dst.IsValid() {
		return nil, &flow.OpenError{Code: flow.AddressNotSupported, Err: flow.ErrBadAddr}
	}
	c := cl.c
	stop := context.AfterFunc(ctx, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.slots.Broadcast()
	})
	defer stop()
	c.mu.Lock()
	defer c.unlock()
	for {
		switch {
		case c.ended != nil:
			return nil, &flow.OpenError{Code: flow.GeneralFailure, Err: c.ended}
		case ctx.Err() != nil:
			return nil, &flow.OpenError{Code: flow.GeneralFailure, Detail: flow.DetailTimeout, Err: context.Cause(ctx)}
		case c.localOpen < int(min(c.peerStreams, maxStreams)) && c.nextID < maxID-4*maxStreams:
			s := c.newStream(kindProxy, true)
			s.dst = dst
			c.all[s] = struct{}{}
			c.localOpen++
			b := dst.Append(nil)
			s.push(b, len(b))
			return s, nil
		}
		c.slots.Wait()
	}
}

// OpenPackets opens a flow. It takes no round trip.
func (cl *Client) OpenPackets(ctx context.Context) (flow.Packets, error) {
	c := cl.c
	c.mu.Lock()
	defer c.unlock()
	if c.ended != nil {
		return nil, &flow.OpenError{Code: flow.GeneralFailure, Err: c.ended}
	}
	if len(c.flows) >= maxFlows {
		return nil, &flow.OpenError{Code: flow.GeneralFailure, Err: errFlows}
	}
	return c.newPackets(), nil
}

func (cl *Client) wanted() bool {
	c := cl.c
	return c.ended == nil && (len(c.all) > 1 || len(c.flows) > 0 || c.control.head != nil || len(c.outgoing) > 0)
}

func (cl *Client) healthy() bool {
	for _, a := range cl.c.atts {
		if a.open && !a.suspect {
			return true
		}
	}
	return false
}

// Wanted reports whether a carrier is of use: streams or flows exist, or
// something is queued or not acknowledged.
func (cl *Client) Wanted() bool {
	cl.c.mu.Lock()
	defer cl.c.mu.Unlock()
	return cl.wanted()
}

// Healthy reports whether an active carrier is attached that is not suspect.
func (cl *Client) Healthy() bool {
	cl.c.mu.Lock()
	defer cl.c.mu.Unlock()
	return cl.healthy()
}

// WaitNeeded blocks until a carrier is wanted and no healthy one is attached.
// It returns an error when ctx or the session ended.
func (cl *Client) WaitNeeded(ctx context.Context) error {
	for {
		cl.c.mu.Lock()
		needed, change, ended := cl.wanted() && !cl.healthy(), cl.watch(), cl.c.ended
		cl.c.mu.Unlock()
		switch {
		case ended != nil:
			return ended
		case needed:
			return nil
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-change:
		case <-cl.c.done:
		}
	}
}

// Set changes what may be sent on carrier n, at both ends: [wire.CarrierActive]
// or [wire.CarrierSpare]. A spare that becomes active takes what waits at once.
// Before Attach it says what the carrier will be.
func (cl *Client) Set(n uint32, state wire.CarrierState) {
	c := cl.c
	c.mu.Lock()
	defer c.unlock()
	if a := c.carrier(n); a != nil && state <= wire.CarrierSpare {
		if state == wire.CarrierActive {
			a.untried = cl.shunSilent(a)
		}
		a.greet = true
		c.rule(a, state)
		for _, b := range c.atts { // its answer decides what becomes of them
			a.pingDue = a.pingDue || b.suspect && b != a
		}
		a.wake()
	}
}

// shunSilent leaves the suspect carriers to themselves, for the sake of a, and those
// that took over from such and have not answered either. It reports whether there are
// any.
func (cl *Client) shunSilent(a *attachment) (any bool) {
	for _, b := range cl.c.atts {
		if b != a && (b.suspect || b.untried) {
			cl.c.shun(b)
			any = true
		}
	}
	return any
}

// Drop gives up carrier n: what it carried moves to another. err is what
// [Offer.Attach] returns; nil is [ErrDropped].
func (cl *Client) Drop(n uint32, err error) {
	c := cl.c
	c.mu.Lock()
	defer c.unlock()
	if err == nil {
		err = ErrDropped
	}
	if a := c.carrier(n); a != nil {
		c.detach(a, err)
	}
}

// Doubt asks every live carrier for a sign of life, as when the machine slept
// or its link changed: one from which nothing comes within four round trips, at
// least 400 ms, is suspect.
func (cl *Client) Doubt() {
	c := cl.c
	c.mu.Lock()
	defer c.unlock()
	c.doubt(time.Now())
}

// CarrierOptions say what a carrier will be for.
type CarrierOptions struct {
	// State is active or spare: a spare is kept for later, and carries nothing
	// before [Client.Set] makes it active.
	State wire.CarrierState
	// Budget is how many bytes of frames, both directions summed, the path lets
	// through before it freezes (row R1); 0 is no such limit. Streams use the
	// carrier up to that and leave it.
	Budget uint64
}

// Offer is a hello under way: one dial.
type Offer struct {
	cl    *Client
	a     *attachment
	hello wire.Hello
	epoch int

	attached chan struct{} // closed when Attach has made the carrier part of the session, or ended

	sealed bool // guarded by c.mu, as rest
	rest   []byte
}

// Offer reserves a number for a carrier and prepares its hello. It must end in
// one call of Attach or Withdraw.
func (cl *Client) Offer(opt CarrierOptions) *Offer {
	c := cl.c
	c.mu.Lock()
	defer c.unlock()
	o := &Offer{cl: cl, a: c.newAttachment(cl.nextN), epoch: c.epoch, attached: make(chan struct{})}
	o.a.state, o.a.budget = opt.State, min(opt.Budget, wire.MaxVarint)
	o.hello = wire.Hello{
		Cipher: cl.cfg.Cipher, Token: cl.cfg.Token, Secret: cl.secret, Carrier: cl.nextN,
	}
	if c.unheard {
		// The relay may answer "unknown session" once more, and what the live
		// carriers bring it after that would be taken for the next session's.
		for _, a := range c.atts {
			if a.live && len(o.hello.Dropped) < wire.MaxDropped {
				o.hello.Dropped = append(o.hello.Dropped, a.n)
			}
		}
	}
	// The newest matter most: the relay may still believe in them.
	most := wire.MaxDropped - len(o.hello.Dropped)
	o.hello.Dropped = append(o.hello.Dropped, cl.gaveUp[max(0, len(cl.gaveUp)-most):]...)
	cl.nextN++
	if cl.established {
		o.hello.Mode = wire.ModeResume
		o.hello.Seal = o.seal
	}
	return o
}

// Carrier is the number n of the carrier, for [Client.Set] and [CarrierStats].
func (o *Offer) Carrier() uint32 { return o.hello.Carrier }

// Hello is what to dial with. Its frames are taken from the queue when the
// transport encodes it, so that early data which came meanwhile rides along.
func (o *Offer) Hello() *wire.Hello { return &o.hello }

// seal returns the rest of the hello: its frames under the resumption key. It
// seals once for each carrier, however often it is called.
func (o *Offer) seal(header []byte) []byte {
	c := o.cl.c
	c.mu.Lock()
	defer c.unlock()
	if o.sealed {
		return o.rest
	}
	o.sealed = true
	key, a := o.cl.key, o.a
	if key == nil || a.dead || o.epoch != c.epoch || c.ended != nil {
		return nil
	}
	if a.state == wire.CarrierActive {
		o.cl.shunSilent(a)
	}
	a.scratch = make([]byte, 0, scratch)
	a.start()
	a.add(transport.LaneControl, a.ruling())
	for _, b := range c.atts {
		if b.shunned && a.space() {
			a.add(transport.LaneControl, b.ruling())
		}
	}
	if c.open == 0 && a.state == wire.CarrierActive { // else the queue is in good hands
		c.fillStreams(a, helloFrames)
	}
	if c.open == 0 || a.budget > 0 { // else ACKs are, too; a budget may be gone before the next
		size := 0
		for _, f := range a.batch {
			size += len(f.Data)
		}
		for s := range c.streams {
			if size += 32; size > helloFrames || !a.space() {
				break
			}
			a.addAck(c.streams[s])
		}
	}
	var plain []byte
	for _, f := range a.batch {
		plain = append(plain, f.Data...)
	}
	a.release()
	a.start()
	o.rest = binary.BigEndian.AppendUint32(nil, key.number)
	o.rest = key.aead().Seal(o.rest, key.nonce(a.n), plain, header)
	return o.rest
}

// Withdraw ends an offer whose dial led to no carrier. What its hello took
// along goes back to the front of the queue.
func (o *Offer) Withdraw() {
	c := o.cl.c
	c.mu.Lock()
	defer c.unlock()
	c.detach(o.a, errWithdrawn)
}

// Attached is closed as soon as a call of Attach has made the carrier part of
// the session, so that [Client.WaitNeeded] counts it, or has returned.
func (o *Offer) Attached() <-chan struct{} { return o.attached }

// Attach makes the dialled carrier part of the session and blocks until it is
// done; it closes it and says why. It is called at most once. accept is the relay's answer. Several
// carriers may be attached.
func (o *Offer) Attach(ctx context.Context, carrier transport.Carrier, accept *wire.Accept) error {
	cl, c, a := o.cl, o.cl.c, o.a
	attached := sync.OnceFunc(func() { close(o.attached) })
	defer attached()
	if accept.Status.Refused() {
		o.Withdraw()
		carrier.Close()
		return &wire.StatusError{Status: accept.Status}
	}
	return c.attach(ctx, a, carrier, func() error {
		switch {
		case accept.Status == wire.StatusUnknownSession && o.hello.Mode == wire.ModeResume && o.epoch == c.epoch:
			c.log.Info("relay does not know the session, it begins anew")
			cl.restart(a, errRestarted)
		case o.hello.Secret != cl.secret:
			return errRestarted
		default:
			a.epoch = c.epoch
			if err := c.handle(a, accept.Frames, nil); err != nil {
				return err
			}
			if !a.confirmed {
				c.requeue(a) // the relay could not open the hello's frames
			}
		}
		cl.established = true
		cl.forget(o.hello.Dropped)
		a.proven = true
		c.setOpen(a)
		for i := 0; i < len(c.atts); i++ {
			if b := c.atts[i]; a.open && !b.live && b != a {
				c.requeue(b) // a hello still under way need not be waited for
			}
		}
		c.supersede(a) // the new one has replied, the old ones are still silent
		c.greetPeer(a)
		attached()
		return nil
	})
}

// forget takes numbers off the list of what the relay must hear.
func (cl *Client) forget(told []uint32) {
	set := make(map[uint32]bool, len(told))
	for _, n := range told {
		set[n] = true
	}
	left := cl.gaveUp[:0]
	for _, n := range cl.gaveUp {
		if !set[n] {
			left = append(left, n)
		}
	}
	cl.gaveUp = left
}
