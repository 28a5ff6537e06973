package quic

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"net"
	"sync/atomic"
	"time"

	quicgo "github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/qlogwriter"

	"busel/obfs/initial"
)

// firstID is how long the id is that Chromium makes up for a server, in bytes.
const firstID = 8

// errFirstID says that quic-go drew an id of another length for the server, 8 to 20 bytes,
// which it lets nobody else do.
var errFirstID = errors.New("the server's first id is not as long as a browser's")

// noID is how a browser names itself to a server: not at all. There is one connection on
// a socket.
type noID struct{}

var _ quicgo.ConnectionIDGenerator = noID{}

func (noID) GenerateConnectionID() (quicgo.ConnectionID, error) { return quicgo.ConnectionID{}, nil }
func (noID) ConnectionIDLen() int                               { return 0 }

// initials makes the Initial packets of one connection look as a browser's.
type initials struct {
	*initial.Client
	misfit  atomic.Bool // the attempt's id has the wrong length
	refused atomic.Bool // an attempt was ended for that

	answers     atomic.Int64 // datagrams of the handshake that came
	first, last atomic.Int64 // when they did, in nanoseconds of the Unix time
}

// A server that answers the ClientHello that is shown, and not the one inside, is none of ours. Its
// answers do not open, and it sends them again: so many, for so long. One that answers the right one
// has been understood by then, unless nearly all is lost.
const (
	leastAnswers  = 6
	leastAnswered = 2 * time.Second
)

// errShown says that.
var errShown = errors.New("somebody speaks QUIC, and does not see what the relay would")

// misread reports whether that is what happened to a dial that came to nothing.
func (i *initials) misread() bool {
	return i.answers.Load() >= leastAnswers && time.Duration(i.last.Load()-i.first.Load()) >= leastAnswered
}

// newInitials returns one for a connection; d is the disguise of its ClientHello, or nil.
func newInitials(d *initial.Disguise) (*initials, error) {
	var seed [32]byte
	if _, err := rand.Read(seed[:]); err != nil {
		return nil, err
	}
	return &initials{Client: initial.NewClient(seed, d)}, nil
}

// choose ends attempts whose id does not fit before they have made a key or sent a byte: a
// dial begins with a look at the id, and goes on with the ClientHello's random. It takes 13
// attempts on average.
func (i *initials) choose(c *tls.Config, q *quicgo.Config) {
	q.Tracer = func(_ context.Context, _ bool, id quicgo.ConnectionID) qlogwriter.Trace {
		i.misfit.Store(id.Len() != firstID)
		return nil
	}
	c.Rand = i
}

// Read is what draws the random of a ClientHello.
func (i *initials) Read(b []byte) (int, error) {
	if i.misfit.Load() {
		i.refused.Store(true)
		return 0, errFirstID
	}
	return rand.Read(b)
}

// take is a taker: it puts what a server acknowledges into the client's count.
func (i *initials) take(dst [][]byte, datagram []byte, _ net.Addr) [][]byte {
	if len(datagram) > 0 && datagram[0]&0x80 != 0 { // a long header: of the handshake
		now := time.Now().UnixNano()
		if i.answers.Add(1) == 1 {
			i.first.Store(now)
		}
		i.last.Store(now)
	}
	i.In(datagram)
	return append(dst, datagram)
}

// send sends what takes the place of a datagram.
func (i *initials) send(datagram []byte, write func([]byte) error) error {
	for _, d := range i.Out(datagram) {
		if err := write(d); err != nil {
			return err
		}
	}
	return nil
}

// browserSocket is a patientSocket whose datagrams look as a browser's: their Initial
// packets, and that none is marked for ECN.
type browserSocket struct {
	patientSocket
	*initials
}

// plainBrowserSocket is the like on a socket that is not the system's.
type plainBrowserSocket struct {
	*single
	*initials
}

func newBrowserSocket(c net.PacketConn, i *initials, heard *atomic.Bool) net.PacketConn {
	if udp, ok := c.(*net.UDPConn); ok {
		return browserSocket{newPatientSocket(udp, heard, i.take), i}
	}
	return plainBrowserSocket{&single{PacketConn: c, take: i.take}, i}
}

func (b browserSocket) WriteMsgUDP(p, oob []byte, addr *net.UDPAddr) (n, oobn int, err error) {
	unmark(oob)
	if !initial.Is(p) {
		return b.patientSocket.WriteMsgUDP(p, oob, addr)
	}
	err = b.send(p, func(d []byte) error {
		_, _, err := b.patientSocket.WriteMsgUDP(d, oob, addr)
		return err
	})
	return len(p), len(oob), err
}

func (b browserSocket) WriteTo(p []byte, addr net.Addr) (int, error) {
	return writeTo(b.patientSocket, b.initials, p, addr)
}

func (b plainBrowserSocket) WriteTo(p []byte, addr net.Addr) (int, error) {
	return writeTo(b.PacketConn, b.initials, p, addr)
}

func writeTo(c net.PacketConn, i *initials, p []byte, addr net.Addr) (int, error) {
	return len(p), i.send(p, func(d []byte) error {
		_, err := c.WriteTo(d, addr)
		return err
	})
}

// newSiteSocket is a relay's socket in the HTTP/3 form: clients' ClientHellos are taken out of
// their disguise, and everybody else's datagrams are as they came.
func newSiteSocket(c net.PacketConn, d *initial.Disguise) net.PacketConn {
	r := initial.NewRelay(d)
	take := func(dst [][]byte, datagram []byte, from net.Addr) [][]byte {
		udp, ok := from.(*net.UDPAddr)
		if !ok {
			return append(dst, datagram)
		}
		return r.Take(dst, datagram, udp.AddrPort())
	}
	if udp, ok := c.(*net.UDPConn); ok {
		return newPatientSocket(udp, nil, take)
	}
	return &single{PacketConn: c, take: take}
}
