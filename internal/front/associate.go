package front

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"

	"busel/internal/flow"
)

// Limits on UDP associations. They are for programs on the same machine: a
// browser or messenger has a few, a program that makes a network interface out
// of the proxy has one for each of its programs' sockets.
const (
	// maxAssociations are open at once. Each costs two buffers of 64 KiB, three
	// goroutines and two descriptors.
	maxAssociations = 256
	// maxQueued is how much a program may have sent that the relay's side has not
	// taken yet, in bytes: half a second at 4 Mbit/s.
	maxQueued = 256 << 10
	// perQueued is what a queued datagram costs beside its bytes.
	perQueued = 128
	// associationIdle is how long an association lives without a datagram in
	// either direction. RFC 1928 ends it with its control connection only;
	// programs that crash close that, programs that forget do not.
	associationIdle = 10 * time.Minute
	// reopenPause keeps datagrams from asking again and again for a flow that
	// cannot be had.
	reopenPause = time.Second
	// maxFailedReads in a row mean that the socket is broken. A few do not: Windows
	// reports there that a program did not want an earlier datagram.
	maxFailedReads = 100
	// maxDatagram is the longest UDP payload in bytes, over IPv6.
	maxDatagram = 65535 - 8
)

var errAssociations = errors.New("too many programs use UDP through the proxy: close some of them")

// association is one UDP ASSOCIATE (RFC 1928, section 7): a socket on which one
// program sends and gets datagrams, each behind a header with the far address.
//
// A program's datagrams pass through a queue to the flow, so that they may wait
// for a relay to be found, and the oldest of them are lost if that takes long.
// When the flow ends (the relay restarted, was removed, or let it rest) the next
// datagram opens another.
type association struct {
	front   *Front
	conn    *net.UDPConn
	program netip.Addr // the only address that the program may send from
	queue   *queue
	wg      sync.WaitGroup // readers of flows

	mu    sync.Mutex
	port  uint16       // the program's; 0 until its first datagram, unless it said it
	known bool         // the program's first datagram came, and it may send
	used  time.Time    // when the last datagram passed, in either direction
	flow  flow.Packets // nil: at rest
	retry time.Time    // no flow is opened before: the last try failed
	ended bool
}

// serveAssociate serves UDP ASSOCIATE until its control connection c ends. hint
// is the address that the program says it will send from, if it knows it.
func (f *Front) serveAssociate(ctx context.Context, c *conn, hint flow.Addr) {
	select {
	case f.associations <- struct{}{}:
		defer func() { <-f.associations }()
	default:
		f.refuseAssociate(c, errAssociations)
		return
	}
	if c.SetDeadline(time.Time{}) != nil {
		return
	}
	// Asked at once, so that a program whose datagrams cannot pass is told.
	opening, cancel := context.WithTimeout(ctx, f.connectTimeout)
	packets, err := f.opener.OpenPackets(opening)
	cancel()
	if err != nil {
		f.refuseAssociate(c, err)
		return
	}
	// The address that the program reached the proxy at is one that it can reach:
	// a loopback address, unless Config.Public.
	here := netip.AddrPortFrom(addrPort(c.LocalAddr()).Addr(), 0)
	udp, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(here))
	if err != nil {
		_ = packets.Close() // nothing was sent
		f.refuseAssociate(c, cause(err))
		return
	}
	a := &association{
		front:   f,
		conn:    udp,
		program: addrPort(c.RemoteAddr()).Addr(),
		queue:   newQueue(),
		used:    time.Now(),
		flow:    packets,
	}
	// A hint with another machine's address is a misunderstanding that some
	// programs have: they say where they want to send to.
	if hint.Name == "" && (hint.IP.IsUnspecified() || hint.IP == a.program) {
		a.port = hint.Port
	}
	a.run(ctx, c)
}

// refuseAssociate says that there is no UDP. SOCKS5 has only a number for that,
// so the sentence goes to the log.
func (f *Front) refuseAssociate(c *conn, err error) {
	f.log.Debug("a program gets no UDP through the proxy", "cause", err)
	f.refuseSOCKS5(c, socksCode(err))
}

func addrPort(a net.Addr) netip.AddrPort {
	ap := a.(interface{ AddrPort() netip.AddrPort }).AddrPort()
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
}

func (a *association) run(ctx context.Context, c *conn) {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	first := a.flow // nobody else has it yet
	wg.Go(func() { a.receive(first) })
	wg.Go(func() {
		a.take()
		c.abort() // it is over already, unless the socket broke
	})
	wg.Go(func() { a.send(ctx) })
	if replyBoundSOCKS5(c, flow.Succeeded, flow.AddrFrom(addrPort(a.conn.LocalAddr()))) == nil {
		a.watch(c)
	}
	cancel()
	a.end()
	wg.Wait()
	a.wg.Wait()
}

// watch returns when the control connection has ended, or the association was
// idle for too long. What the program says on it means nothing.
func (a *association) watch(c *conn) {
	for {
		a.mu.Lock()
		idle := a.used.Add(a.front.idle)
		a.mu.Unlock()
		if !time.Now().Before(idle) || c.SetReadDeadline(idle) != nil {
			return
		}
		if _, err := io.Copy(io.Discard, onlyReader{c}); !errors.Is(err, os.ErrDeadlineExceeded) {
			return
		}
	}
}

// end makes everything that waits return.
func (a *association) end() {
	a.mu.Lock()
	a.ended = true
	packets := a.flow
	a.flow = nil
	a.mu.Unlock()
	a.queue.close()
	a.conn.Close()
	if packets != nil {
		_ = packets.Close() // datagrams are not acknowledged, nothing is lost
	}
}

// take reads the program's datagrams into the queue.
func (a *association) take() {
	buf := make([]byte, maxDatagram)
	for failed := 0; failed < maxFailedReads; {
		n, from, err := a.conn.ReadFromUDPAddrPort(buf)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			failed++
			continue
		}
		failed = 0
		to, head, err := parseUDPHeader(buf[:n])
		if err != nil || !a.isProgram(from) {
			continue
		}
		a.queue.push(buf[head:n], to)
	}
}

// isProgram reports whether a well-formed datagram came from the program, and
// notes the port of the first that did.
func (a *association) isProgram(from netip.AddrPort) bool {
	a.mu.Lock()
	fits := from.Addr().Unmap() == a.program && (a.port == 0 || a.port == from.Port())
	known := a.known
	a.mu.Unlock()
	// Only the goroutine that reads datagrams changes what is known.
	if !fits || !known && !a.front.admitsUDP(addrPort(a.conn.LocalAddr()), from) {
		return false
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.known, a.port = true, from.Port()
	a.used = time.Now()
	return true
}

// send passes queued datagrams on. What the flow refuses, such as a destination
// that the relay denies, is dropped, as a firewall would.
func (a *association) send(ctx context.Context) {
	for {
		d, ok := a.queue.pop()
		if !ok {
			return
		}
		if err := a.pass(ctx, d); err != nil {
			a.front.log.Debug("datagram not sent", "destination", d.to, "cause", err)
		}
	}
}

// pass sends one datagram. A flow may have ended a moment ago without receive
// having noticed: the datagram then has a second try with another flow.
func (a *association) pass(ctx context.Context, d queued) error {
	for again := true; ; again = false {
		packets, err := a.open(ctx)
		if err != nil {
			return err
		}
		err = packets.WriteTo(d.b, d.to)
		if !errors.Is(err, net.ErrClosed) || !again {
			return err
		}
		a.forget(packets)
	}
}

// forget closes a flow that has ended. It is not the association's any more
// before that, so that no datagram is written to it.
func (a *association) forget(packets flow.Packets) {
	a.mu.Lock()
	if a.flow == packets {
		a.flow = nil
	}
	a.mu.Unlock()
	_ = packets.Close() // datagrams are not acknowledged, nothing is lost
}

var errPause = errors.New("the last try to open a flow failed a moment ago")

// open returns the flow, a new one if there is none.
func (a *association) open(ctx context.Context) (flow.Packets, error) {
	a.mu.Lock()
	packets, retry, ended := a.flow, a.retry, a.ended
	a.mu.Unlock()
	switch {
	case ended:
		return nil, net.ErrClosed
	case packets != nil:
		return packets, nil
	case time.Now().Before(retry):
		return nil, errPause
	}
	opening, cancel := context.WithTimeout(ctx, a.front.connectTimeout)
	defer cancel()
	packets, err := a.front.opener.OpenPackets(opening)
	a.mu.Lock()
	if err != nil {
		a.retry = time.Now().Add(reopenPause)
	}
	if err == nil && a.ended {
		err = net.ErrClosed
		defer packets.Close()
	}
	if err == nil {
		a.flow = packets
		a.wg.Go(func() { a.receive(packets) }) // send is waited for before a.wg
	}
	a.mu.Unlock()
	return packets, err
}

// receive passes the flow's datagrams to the program until the flow ends. What
// came before the program's port is known has nobody to go to.
func (a *association) receive(packets flow.Packets) {
	buf := make([]byte, maxUDPHeader+maxDatagram)
	for {
		n, from, err := packets.ReadFrom(buf[maxUDPHeader:])
		if err != nil {
			break
		}
		a.mu.Lock()
		program := netip.AddrPortFrom(a.program, a.port)
		a.used = time.Now()
		a.mu.Unlock()
		if program.Port() == 0 {
			continue
		}
		// The header ends where the payload begins.
		head := appendUDPHeader(make([]byte, 0, maxUDPHeader), from)
		start := maxUDPHeader - len(head)
		copy(buf[start:], head)
		// A datagram that is too long with its header is lost, as is one that the
		// program has no room for.
		_, _ = a.conn.WriteToUDPAddrPort(buf[start:maxUDPHeader+n], program)
	}
	a.forget(packets)
}

// queued is a datagram on its way to the flow.
type queued struct {
	b  []byte
	to flow.Addr
}

// queue is bounded: what finds no room pushes the oldest out, because in a call
// or a game the latest counts.
type queue struct {
	mu     sync.Mutex
	some   sync.Cond
	list   []queued
	size   int // bytes, perQueued for each datagram included
	closed bool
}

func newQueue() *queue {
	q := new(queue)
	q.some.L = &q.mu
	return q
}

// push adds a copy of b.
func (q *queue) push(b []byte, to flow.Addr) {
	b = append([]byte(nil), b...)
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return
	}
	for q.size+len(b)+perQueued > maxQueued {
		q.shift()
	}
	q.list = append(q.list, queued{b, to})
	q.size += len(b) + perQueued
	q.some.Signal()
}

// pop waits for a datagram; it is false when the queue was closed.
func (q *queue) pop() (d queued, ok bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for len(q.list) == 0 && !q.closed {
		q.some.Wait()
	}
	if q.closed {
		return queued{}, false
	}
	return q.shift(), true
}

func (q *queue) shift() queued {
	d := q.list[0]
	q.list[0] = queued{}
	q.list = q.list[1:]
	q.size -= len(d.b) + perQueued
	return d
}

func (q *queue) close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
	q.list, q.size = nil, 0
	q.some.Broadcast()
}
