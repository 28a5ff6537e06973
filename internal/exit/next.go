package exit

import (
	"context"
	"errors"
	"net"
	"sync"

	"busel/internal/flow"
)

// pass opens a stream to dst at the next relay, and waits until it was reached there.
func (e *Exit) pass(parent context.Context, dst flow.Addr, closed func()) (flow.Stream, *flow.OpenError) {
	if !e.policy.Load().permitsPassing(dst) {
		return nil, errDenied()
	}
	// The next relay has DialTimeout itself, and the way there takes some time, too.
	ctx, cancel := context.WithTimeout(parent, 3*e.dialTimeout/2)
	defer cancel()
	s, err := e.next.OpenStream(ctx, plainAddr(dst))
	if err != nil {
		return nil, errNext(err)
	}
	if err := s.Connected(ctx); err != nil {
		_ = s.Close()
		return nil, errNext(err)
	}
	return &passed{Stream: s, closed: sync.OnceFunc(closed)}, nil
}

// plainAddr is dst with an address in its usual form, also if it came as a name.
func plainAddr(dst flow.Addr) flow.Addr {
	if ip := literal(dst); ip.IsValid() {
		return flow.Addr{IP: ip, Port: dst.Port}
	}
	return dst
}

// errNext is what a client of this relay hears of an error at the next one. What the
// destination did is passed on, and what the next relay does not allow. The rest is
// between the two relays: a client must not think that its own invite is meant.
func errNext(err error) *flow.OpenError {
	open, ok := errors.AsType[*flow.OpenError](err)
	if !ok {
		return &flow.OpenError{Code: flow.NetworkUnreachable, Err: err}
	}
	switch open.Detail {
	case flow.DetailPolicy, flow.DetailNameNotFound, flow.DetailNameServerFailed, flow.DetailRefused, flow.DetailTimeout:
		return &flow.OpenError{Code: open.Code, Detail: open.Detail}
	case flow.DetailNone:
		if open.Code != flow.GeneralFailure {
			return &flow.OpenError{Code: open.Code}
		}
	}
	return &flow.OpenError{Code: flow.NetworkUnreachable, Err: open}
}

// passed is a stream at the next relay.
type passed struct {
	flow.Stream
	closed func()
}

// Connected returns nil: the exit hands out connected streams only.
func (*passed) Connected(context.Context) error { return nil }

func (p *passed) Close() error {
	p.closed()
	return p.Stream.Close()
}

// passPackets opens an association at the next relay. The caller has counted it.
func (e *Exit) passPackets(ctx context.Context) (flow.Packets, error) {
	p, err := e.next.OpenPackets(ctx)
	if err != nil {
		e.packetsOpen.Add(-1)
		return nil, errNext(err)
	}
	e.packetsOpened.Add(1)
	return &passedPackets{Packets: p, exit: e, closed: sync.OnceFunc(func() { e.packetsOpen.Add(-1) })}, nil
}

// passedPackets judges each datagram on its way to the next relay.
type passedPackets struct {
	flow.Packets
	exit   *Exit
	closed func()
}

func (p *passedPackets) ReadFrom(buf []byte) (int, flow.Addr, error) {
	n, from, err := p.Packets.ReadFrom(buf)
	if err == nil {
		p.exit.datagramsDown.Add(1)
	}
	return n, from, err
}

func (p *passedPackets) WriteTo(b []byte, to flow.Addr) error {
	if !p.exit.policy.Load().permitsRequest(to, true) || !p.exit.policy.Load().permitsPassing(to) {
		p.exit.denied.Add(1)
		return errDenied()
	}
	err := p.Packets.WriteTo(b, plainAddr(to))
	switch {
	case err == nil:
		p.exit.datagramsUp.Add(1)
	case !errors.Is(err, net.ErrClosed):
		p.exit.datagramsLost.Add(1)
	}
	return err
}

func (p *passedPackets) Close() error {
	p.closed()
	return p.Packets.Close()
}
