package session

import (
	"fmt"
	"net"
	"sync"
	"time"

	"busel/internal/flow"
	"busel/internal/wire"
	"busel/transport"
)

const (
	// flowRest is how long a flow lives without a datagram (DESIGN section 6).
	flowRest = 120 * time.Second
	// restGrace is how much longer a relay keeps it: a datagram that the client
	// sends just before the rest has to travel.
	restGrace = 30 * time.Second
	// maxFlows bounds the flows of a session.
	maxFlows = 1024
	// Datagrams are dropped rather than queued: outgoing ones of a session,
	// received ones of a flow, and received ones of a session, in bytes.
	maxOutgoing = 256 << 10
	maxFlowIn   = 256 << 10
	maxInBytes  = 8 << 20
	perDatagram = 64 // what a queued datagram costs beside its bytes
	// maxPayload is the largest UDP payload.
	maxPayload = 65535
	// maxLarge is the longest stream that carries one datagram.
	maxLarge = 1 + 8 + flow.MaxAddrLen + maxPayload
	// maxLargeOpen bounds such streams under way.
	maxLargeOpen = 16
	// staleAfter is how long an outgoing datagram waits for a carrier: a dial on
	// a slow path.
	staleAfter = 3 * time.Second
)

// datagram is one in a queue: encoded if it goes out, else payload and source.
type datagram struct {
	b    []byte
	from flow.Addr
	at   time.Time
}

// packets is one flow.
type packets struct {
	c    *core
	id   uint64 // 0: none drawn, or at rest; ids begin at 1
	used time.Time
	in   []datagram
	size int
	err  error
	cond sync.Cond
}

var _ flow.Packets = (*packets)(nil)

func (c *core) newPackets() *packets {
	p := &packets{c: c, used: time.Now()}
	p.cond.L = &c.mu
	return p
}

// restAt is when the flow rests if nothing moves.
func (p *packets) restAt() time.Time {
	if p.c.client {
		return p.used.Add(flowRest)
	}
	return p.used.Add(flowRest + restGrace)
}

// rest ends the flow's id. A client's flow draws a new one with its next
// datagram; a relay's is over.
func (p *packets) rest() {
	p.id = 0
	if !p.c.client {
		p.end(fmt.Errorf("flow rests: %w", net.ErrClosed))
	}
}

func (p *packets) end(err error) {
	if p.err == nil {
		p.err = err
	}
	for i := range p.in {
		p.c.inBytes -= len(p.in[i].b) + perDatagram
	}
	p.in, p.size = nil, 0
	p.cond.Broadcast()
}

// ReadFrom blocks for the next datagram. See [flow.Packets].
func (p *packets) ReadFrom(buf []byte) (n int, from flow.Addr, err error) {
	c := p.c
	c.mu.Lock()
	defer c.unlock()
	for len(p.in) == 0 {
		if p.err != nil {
			return 0, flow.Addr{}, p.err
		}
		p.cond.Wait()
	}
	d := p.in[0]
	p.in[0] = datagram{}
	p.in = p.in[1:]
	p.size -= len(d.b) + perDatagram
	c.inBytes -= len(d.b) + perDatagram
	return copy(buf, d.b), d.from, nil
}

// WriteTo sends one datagram. It never blocks: what finds no room is dropped,
// as UDP would.
func (p *packets) WriteTo(b []byte, to flow.Addr) error {
	if len(b) > maxPayload {
		return fmt.Errorf("datagram of %d bytes: longer than 65535", len(b))
	}
	if !to.IsValid() {
		return flow.ErrBadAddr
	}
	c := p.c
	c.mu.Lock()
	defer c.unlock()
	if p.err != nil {
		return p.err
	}
	p.used = time.Now()
	if p.id == 0 { // only a client's
		c.nextFlow++
		p.id = c.nextFlow
		c.flows[p.id] = p
		c.tickBy(p.restAt())
	}
	f := wire.Frame{Type: wire.Datagram, ID: p.id, Addr: to, Data: b}
	if 1+8+flow.MaxAddrLen+4+len(b) > wire.MaxFrame {
		c.sendLarge(p.id, to, b)
		return nil
	}
	enc := f.Append(make([]byte, 0, 1+8+2+len(to.Name)+18+4+len(b)))
	for c.outBytes+len(enc)+perDatagram > maxOutgoing {
		c.dropOldest()
	}
	c.outgoing = append(c.outgoing, datagram{b: enc, at: p.used})
	c.outBytes += len(enc) + perDatagram
	c.wake()
	return nil
}

func (c *core) dropOldest() {
	c.outBytes -= len(c.outgoing[0].b) + perDatagram
	c.outgoing[0] = datagram{}
	c.outgoing = c.outgoing[1:]
}

// Close ends the flow at this end. The other end's rests by itself.
func (p *packets) Close() error {
	c := p.c
	c.mu.Lock()
	defer c.unlock()
	if c.flows[p.id] == p {
		delete(c.flows, p.id)
	}
	p.end(net.ErrClosed)
	return nil
}

// fillDatagrams adds datagrams to a batch and returns their size.
func (c *core) fillDatagrams(a *attachment, most int) (size int) {
	var now time.Time
	for len(c.outgoing) > 0 && len(a.batch) < maxFrames {
		d := c.outgoing[0]
		if now.IsZero() {
			now = time.Now()
		}
		if now.Sub(d.at) > staleAfter {
			c.dropOldest()
			continue
		}
		if size+len(d.b) > most {
			break
		}
		c.dropOldest()
		a.batch = append(a.batch, transport.Frame{Lane: transport.LaneDatagram, Data: d.b})
		size += len(d.b)
		a.up += uint64(len(d.b))
		c.up += uint64(len(d.b))
	}
	if len(c.outgoing) == 0 {
		c.outgoing = nil
	}
	return size
}

// gotDatagram takes a datagram; on a relay it may open a flow, also one that has
// rested. The client's rests first, unless its datagrams were lost on the way for
// minutes, or its machine slept and its clock with it: then it goes on with an id
// that is at rest here.
func (c *core) gotDatagram(id uint64, from flow.Addr, data []byte) {
	c.down += uint64(len(data))
	p := c.flows[id]
	if p == nil {
		if c.onFlow == nil || len(c.flows) >= maxFlows {
			return
		}
		p = c.newPackets()
		p.id = id
		c.flows[id] = p
		c.onFlow(p)
	}
	p.used = time.Now()
	c.tickBy(p.restAt())
	cost := len(data) + perDatagram
	if p.size+cost > maxFlowIn || c.inBytes+cost > maxInBytes {
		return
	}
	p.size += cost
	c.inBytes += cost
	p.in = append(p.in, datagram{b: append([]byte(nil), data...), from: from})
	p.cond.Signal()
}

// sendLarge sends a datagram that does not fit a frame over a stream of its own.
func (c *core) sendLarge(id uint64, to flow.Addr, b []byte) {
	if c.large >= maxLargeOpen || c.localOpen >= maxStreams || c.open == 0 {
		return
	}
	s := c.newStream(kindDatagram, true)
	c.all[s] = struct{}{}
	c.localOpen++
	c.large++
	head := wire.AppendVarint([]byte{0}, id)
	head = to.Append(head)
	s.push(head, len(head))
	s.push(b, len(b))
	s.finish()
}

// gotLarge takes such a stream's bytes; what is not well-formed is dropped.
func (c *core) gotLarge(b []byte) {
	id, n, err := wire.Varint(b[1:])
	if err != nil {
		return
	}
	b = b[1+n:]
	from, n, err := flow.ParseAddr(b)
	if err != nil || len(b)-n > maxPayload {
		return
	}
	c.gotDatagram(id, from, b[n:])
}
