package session

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"busel/internal/flow"
	"busel/internal/wire"
	"busel/transport"
)

// DefaultSessionLife is how long a session lives without a carrier (DESIGN
// section 6, "Limits").
const DefaultSessionLife = 60 * time.Minute

// maxLost bounds the carriers that a relay remembers to have lost.
const maxLost = 64

// ServerConfig configures a [Server].
type ServerConfig struct {
	// OnStream answers a stream: it calls [Stream.Reply], moves bytes and closes
	// the stream. It runs in a goroutine of its own; ctx ends with the session.
	OnStream func(ctx context.Context, s *Stream, dst flow.Addr)
	// OnPackets answers a flow and closes it. As OnStream; nil drops datagrams.
	OnPackets func(ctx context.Context, p flow.Packets)
	// OnAgain hears of bytes of streams beyond those that [Stream.SetMeter] is asked
	// for: of such as are sent a second time, after the carrier that had them died, and
	// of such as were received and came before or in vain. It must not wait; no more is
	// sent again for as long as it returns. nil ignores them.
	OnAgain     func(received bool, n int) time.Duration
	Logger      *slog.Logger  // nil discards
	SessionLife time.Duration // without a carrier; 0 is [DefaultSessionLife]
}

// Server is the relay's end of one session. Create it with [NewServer] and Run it.
type Server struct {
	c   *core
	cfg ServerConfig
	ctx context.Context
	end context.CancelFunc
	wg  sync.WaitGroup // handlers

	// Guarded by c.mu.
	numbers idSet // of carriers that came, or were given up before they did
	// virgin: created by a hello that tried to resume another session, and
	// nothing was received yet. Any other such hello gets the same answer.
	virgin bool
	// lost are carriers that ended here and that the client may still believe in.
	lost   []uint32
	keys   [2]*resumptionKey
	keyEnd uint64 // offset of stream 0 behind the newest key
	status wire.Status
}

// NewServer returns a new session. It starts nothing, but streams that come
// with [Server.Admit] are answered at once; so Run must follow.
func NewServer(cfg ServerConfig) *Server {
	if cfg.SessionLife <= 0 {
		cfg.SessionLife = DefaultSessionLife
	}
	s := &Server{c: newCore(false, cfg.Logger), cfg: cfg, status: wire.StatusBusy}
	s.ctx, s.end = context.WithCancel(context.Background())
	c := s.c
	c.life = cfg.SessionLife
	c.onStream = func(st *Stream, dst flow.Addr) {
		s.wg.Go(func() { cfg.OnStream(s.ctx, st, dst) })
	}
	if cfg.OnPackets != nil {
		c.onFlow = func(p *packets) {
			s.wg.Go(func() { cfg.OnPackets(s.ctx, p) })
		}
	}
	c.onAgain = cfg.OnAgain
	c.onUsed = func(n uint32) { s.dropped(n) }
	c.onDetach = func(a *attachment) {
		if s.lost = append(s.lost, a.n); len(s.lost) > maxLost {
			s.lost = s.lost[1:]
		}
		if c.open > 0 {
			c.sayDropped(s.lost) // a took along what it had of such words
		}
	}
	c.onGreet = s.greet
	c.onBroken = func(err error) { c.finishSession(err, byeViolation, 0, "protocol violation") }
	return s
}

// Run keeps the session's timers until ctx ends, the session lived its time
// without a carrier, the client broke the protocol, or [Server.End]. It returns
// why, after all handlers have.
func (s *Server) Run(ctx context.Context) error {
	err := s.c.run(ctx)
	s.end()
	s.wg.Wait()
	return err
}

// End ends the session at once: streams are reset with the detail, carriers
// say BYE with the text, at most 256 bytes of it. Hellos that come later are answered "revoked".
func (s *Server) End(reason flow.Detail, text string) {
	s.c.mu.Lock()
	defer s.c.unlock()
	s.status = wire.StatusRevoked
	s.c.finishSession(fmt.Errorf("%w: revoked", ErrEnded), byeRevoked, uint64(reason), text[:min(len(text), 256)])
}

// Admission is a hello that the session accepted: a carrier to come.
type Admission struct {
	s      *Server
	a      *attachment
	proven bool // the hello's frames opened
}

// Admit judges a hello whose token and session fit. known is false if the
// session was created for it. Carriers that the hello names as dropped end, and
// its frames, if they open, are taken at once. The Admission must end in one
// call of Attach or Withdraw; it is nil if the accept refuses.
func (s *Server) Admit(h *wire.Hello, known bool) (*wire.Accept, *Admission) {
	c := s.c
	c.mu.Lock()
	defer c.unlock()
	if c.ended != nil {
		return &wire.Accept{Status: s.status}, nil
	}
	if !s.numbers.add(uint64(h.Carrier)) {
		return &wire.Accept{Status: wire.StatusBusy}, nil
	}
	if !known && h.Mode == wire.ModeResume {
		s.virgin = true
	}
	for _, n := range h.Dropped {
		for _, b := range c.atts {
			if b.n == n {
				c.detach(b, ErrDropped)
				break
			}
		}
		s.dropped(n)
	}
	if len(h.Dropped) > 0 {
		c.queryAll() // it may have answered over one after we had lost it
	}
	ad := &Admission{s: s, a: c.newAttachment(h.Carrier)}
	accept := &wire.Accept{Status: wire.StatusOK, SessionLife: s.cfg.SessionLife}
	if s.virgin && h.Mode == wire.ModeResume {
		accept.Status = wire.StatusUnknownSession
		return accept, ad
	}
	if frames, ok := s.open(h); ok {
		ad.proven = true
		ad.a.down += uint64(len(frames))
		if err := c.handle(ad.a, frames, nil); err != nil {
			c.onBroken(err)
			return &wire.Accept{Status: s.status}, nil
		}
		f := ad.a.ruling() // so the client knows
		accept.Frames = f.Append(nil)
	}
	return accept, ad
}

// dropped notes that the client gave up a carrier, which may not have come yet.
func (s *Server) dropped(n uint32) {
	s.numbers.add(uint64(n))
	s.lost = slices.DeleteFunc(s.lost, func(m uint32) bool { return m == n })
}

// open opens the frames of a hello.
func (s *Server) open(h *wire.Hello) ([]byte, bool) {
	if h.Mode != wire.ModeResume || len(h.SealedFrames) < 4 {
		return nil, false
	}
	number := binary.BigEndian.Uint32(h.SealedFrames)
	for _, k := range s.keys {
		if k != nil && k.number == number {
			b, err := k.aead().Open(nil, k.nonce(h.Carrier), h.SealedFrames[4:], h.AppendHeader(nil))
			return b, err == nil
		}
	}
	return nil, false
}

// greet gives the client a resumption key, unless the last one is still on its
// way: so the client's is always one of the last two. c.mu is held.
func (s *Server) greet(*attachment) {
	s.virgin = false
	s.c.sayDropped(s.lost)
	ctl := s.c.control
	if s.keys[1] != nil && (ctl.head != nil && ctl.head.off < s.keyEnd) {
		return
	}
	k := new(resumptionKey)
	if s.keys[1] != nil {
		k.number = s.keys[1].number + 1
	}
	rand.Read(k.key[:])
	s.keys[0], s.keys[1] = s.keys[1], k
	s.c.sendControl(wire.ControlResumptionKey, append(binary.BigEndian.AppendUint32(nil, k.number), k.key[:]...))
	s.keyEnd = ctl.written
}

// Withdraw ends an admission whose answer did not reach the client.
func (ad *Admission) Withdraw() {
	c := ad.s.c
	c.mu.Lock()
	defer c.unlock()
	c.detach(ad.a, errWithdrawn)
}

// Attach makes the carrier part of the session and blocks until it is done; it
// closes it and says why. Nothing is sent before the client has spoken on it,
// unless the hello's frames opened (docs/PROTOCOL.md, rule 7).
func (ad *Admission) Attach(ctx context.Context, carrier transport.Carrier) error {
	c, a := ad.s.c, ad.a
	return c.attach(ctx, a, carrier, func() error {
		if ad.proven {
			a.proven = true
			c.setOpen(a)
			c.greetPeer(a)
		}
		return nil
	})
}

// SendBundle queues an invite update for the client, at most
// [wire.MaxControl] bytes.
func (s *Server) SendBundle(bundle []byte) error { return s.send(wire.ControlBundle, bundle) }

// Notify queues a notice for the user.
func (s *Server) Notify(code uint64, text string) error {
	return s.send(wire.ControlNotice, append(wire.AppendVarint(nil, min(code, wire.MaxVarint)), text...))
}

func (s *Server) send(t wire.ControlType, body []byte) error {
	if len(body) > wire.MaxControl {
		return fmt.Errorf("control message of %d bytes: longer than %d", len(body), wire.MaxControl)
	}
	s.c.mu.Lock()
	defer s.c.unlock()
	if s.c.ended != nil {
		return s.c.ended
	}
	if s.c.control.unsent > initialWindow {
		return errControlFull
	}
	s.c.sendControl(t, body)
	return nil
}

// Stats returns the counters now.
func (s *Server) Stats() Stats {
	s.c.mu.Lock()
	defer s.c.mu.Unlock()
	return s.c.stats()
}

var (
	errWithdrawn   = errors.New("offer was withdrawn")
	errFlows       = errors.New("too many open flows")
	errControlFull = errors.New("control stream is full")
)
