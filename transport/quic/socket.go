package quic

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"busel/obfs/scramble"
)

const (
	// maxPacket is the longest packet that quic-go reads, in bytes.
	maxPacket = 1452
	// maxDatagram is the longest datagram that is read.
	maxDatagram = maxPacket + scramble.Overhead + scramble.MaxFiller
)

// trustClock is how long a client that hears nothing goes on stamping its
// datagrams: a relay that has just started takes none from a clock that is slow.
// QUIC sends again 0.2, 0.6 and 1.4 s after the first, and gives up after
// handshakeTimeout: the last one must be without.
const trustClock = time.Second

// scrambler is what one end does to every datagram.
type scrambler struct {
	out, in *scramble.Codec
	memory  *Memory // nil at the client: nobody replays to it what would draw an answer
	born    time.Time
	stamps  bool        // the client's clock is told
	heard   atomic.Bool // something was opened

	strange, replayed atomic.Uint64 // datagrams
}

func clientScrambler(relay [32]byte) *scrambler {
	up, down := scramble.Codecs(relay)
	return &scrambler{out: up, in: down, born: time.Now(), stamps: true}
}

func relayScrambler(relay [32]byte, m *Memory) *scrambler {
	up, down := scramble.Codecs(relay)
	return &scrambler{out: down, in: up, memory: m}
}

// Memory tells what came before from what is fresh, for all listeners of one key:
// what was recorded on the way to one of them draws no answer from another.
type Memory struct {
	mu     sync.Mutex
	window *scramble.Window
}

// NewMemory returns a memory that starts now.
func NewMemory() *Memory { return &Memory{window: scramble.NewWindow(time.Now())} }

func (m *Memory) fresh(id scramble.Identity) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.window.Fresh(id)
}

// open decrypts a datagram where it lies; nil means that it is to be dropped.
// It is called by one goroutine at a time.
func (s *scrambler) open(datagram []byte) []byte {
	packet, id, ok := s.in.Open(datagram)
	switch {
	case !ok:
		s.strange.Add(1)
		return nil
	case s.memory != nil && !s.memory.fresh(id):
		s.replayed.Add(1)
		return nil
	}
	if !s.heard.Load() {
		s.heard.Store(true)
	}
	return packet
}

// randomLen is what seal needs of random bytes: a nonce, and a number for the
// filler.
const randomLen = scramble.NonceLen + 4

// take is a taker.
func (s *scrambler) take(dst [][]byte, datagram []byte, _ net.Addr) [][]byte {
	if packet := s.open(datagram); packet != nil {
		dst = append(dst, packet)
	}
	return dst
}

// seal appends the datagram of a packet.
func (s *scrambler) seal(dst, packet, random []byte) []byte {
	stamp := scramble.NoClock
	if scramble.Opens(packet) && s.stamps && (s.heard.Load() || time.Since(s.born) < trustClock) {
		stamp = scramble.StampOf(time.Now())
	}
	filler := scramble.Filler(packet, binary.BigEndian.Uint32(random[scramble.NonceLen:]))
	return s.out.Seal(dst, packet, random[:scramble.NonceLen], filler, stamp)
}

// unsent is what becomes of an error in sending. quic-go ends a connection at any
// but those that it asks for: size and segmentation. While a device changes its
// network there is no route for a moment, and a firewall whose table is full says
// EPERM: such a datagram counts as lost, once the other end has been heard. Before
// that, nothing is gained by waiting.
func (s *scrambler) unsent(err error) error {
	if s.heard.Load() && passing(err) {
		return nil
	}
	return err
}

func passing(err error) bool {
	faults := []error{syscall.ENETUNREACH, syscall.EHOSTUNREACH, syscall.ENETDOWN, syscall.EADDRNOTAVAIL, syscall.ENOBUFS, syscall.EPERM}
	return slices.ContainsFunc(faults, func(e error) bool { return errors.Is(err, e) })
}

// plainSocket scrambles on any socket, one datagram at a time.
type plainSocket struct {
	*single
	*scrambler
}

func newPlainSocket(c net.PacketConn, s *scrambler) *plainSocket {
	return &plainSocket{&single{PacketConn: c, take: s.take}, s}
}

// WriteTo sends one packet.
func (p *plainSocket) WriteTo(b []byte, addr net.Addr) (int, error) {
	var random [randomLen]byte
	if _, err := rand.Read(random[:]); err != nil {
		return 0, err
	}
	out := make([]byte, 0, len(b)+scramble.Overhead+scramble.MaxFiller)
	if _, err := p.PacketConn.WriteTo(p.seal(out, b, random[:]), addr); err != nil {
		if err = p.unsent(err); err != nil {
			return 0, err
		}
	}
	return len(b), nil
}

// newSocket scrambles what passes c, in batches where the system has them.
func newSocket(c net.PacketConn, s *scrambler) net.PacketConn {
	udp, ok := c.(*net.UDPConn)
	if !ok {
		return newPlainSocket(c, s)
	}
	return newUDPSocket(udp, s)
}

// patientSocket outlives a moment without a route, as scrambler.unsent says, and reads by
// a reader, where the system has batches.
type patientSocket struct {
	*net.UDPConn
	*reader
	plain *single
	heard *atomic.Bool // nil means true
}

// newPatientSocket reads what take makes of each datagram.
func newPatientSocket(c *net.UDPConn, heard *atomic.Bool, take taker) patientSocket {
	return patientSocket{c, newReader(c, maxPacket, take), &single{PacketConn: c, take: take}, heard}
}

func (p patientSocket) ReadFrom(b []byte) (int, net.Addr, error) { return p.plain.ReadFrom(b) }

func (p patientSocket) WriteMsgUDP(b, oob []byte, addr *net.UDPAddr) (n, oobn int, err error) {
	if n, oobn, err = p.UDPConn.WriteMsgUDP(b, oob, addr); err != nil && p.passing(err) {
		return len(b), len(oob), nil
	}
	return n, oobn, err
}

func (p patientSocket) WriteTo(b []byte, addr net.Addr) (n int, err error) {
	if n, err = p.UDPConn.WriteTo(b, addr); err != nil && p.passing(err) {
		return len(b), nil
	}
	return n, err
}

func (p patientSocket) passing(err error) bool {
	return (p.heard == nil || p.heard.Load()) && passing(err)
}
