package quic

import (
	"net"

	"golang.org/x/net/ipv4"
)

const (
	// batchSize is how many datagrams one system call reads, as in quic-go.
	batchSize = 8
	// joinedSize is the most that the kernel joins, in bytes: an IP packet's length
	// has 16 bits. With joinedBatch of them, 64 ports hold 16 MiB.
	joinedSize  = 1<<16 - 1
	joinedBatch = 4
	// controlSize is enough for marks of ECN, a local address, and the size of what is joined.
	controlSize = 128
)

// reader reads a socket's datagrams, many in one system call. The kernel may join those of
// one sender and one size (UDP_GRO, since Linux 5.0): it then does most of its work once for all
// of them. quic-go does not ask for that.
type reader struct {
	conn *ipv4.PacketConn // of IPv6 too
	take taker

	in      []ipv4.Message // scratch of the one goroutine that reads
	came    []ipv4.Message // of in, what is still to be handed out
	rest    []byte         // of came[0]
	size    int            // of the datagrams in rest
	out     [][]byte       // what is to be handed out next
	from    ipv4.Message   // as which
	scratch [4][]byte
}

// taker appends what is to be seen of a datagram, which it may change where it lies: nothing, one,
// or several. What it appends is read before it is called again.
type taker func(dst [][]byte, datagram []byte, from net.Addr) [][]byte

// newReader returns a reader that hands out what take makes of each datagram. size is the
// longest datagram, in bytes, where none are joined.
func newReader(c *net.UDPConn, size int, take taker) *reader {
	n := batchSize
	if joins(c) {
		n, size = joinedBatch, joinedSize
	}
	r := &reader{conn: ipv4.NewPacketConn(c), take: take, in: make([]ipv4.Message, n)}
	for i := range r.in {
		r.in[i].Buffers = [][]byte{make([]byte, size)}
		r.in[i].OOB = make([]byte, controlSize)
	}
	return r
}

// ReadBatch is what quic-go reads by. It fills ms with at least one datagram.
func (r *reader) ReadBatch(ms []ipv4.Message, flags int) (n int, err error) {
	for {
		for ; n < len(ms) && len(r.out) > 0; n++ {
			m := &ms[n] // which cuts what is too long, as the system does
			m.N, m.NN = copy(m.Buffers[0], r.out[0]), copy(m.OOB, r.from.OOB[:r.from.NN])
			m.Flags, m.Addr = r.from.Flags, r.from.Addr
			r.out = r.out[1:]
		}
		switch {
		case n == len(ms) || n > 0 && len(r.came) == 0:
			return n, nil
		case len(r.came) == 0:
			k, err := r.conn.ReadBatch(r.in, flags)
			if err != nil {
				return 0, err
			}
			if r.came = r.in[:k]; k > 0 {
				r.begin()
			}
		default:
			r.from = r.came[0]
			r.out = r.take(r.scratch[:0], r.next(), r.from.Addr)
		}
	}
}

// begin turns to the first of what came.
func (r *reader) begin() {
	m := &r.came[0]
	r.rest = m.Buffers[0][:m.N]
	r.size = joinedOf(m.OOB[:m.NN], m.N)
}

// next takes off the first datagram.
func (r *reader) next() []byte {
	n := min(r.size, len(r.rest))
	datagram := r.rest[:n:n]
	if r.rest = r.rest[n:]; len(r.rest) == 0 {
		if r.came = r.came[1:]; len(r.came) > 0 {
			r.begin()
		}
	}
	return datagram
}

// single reads datagrams one by one, from any socket, and hands out what take makes of each.
type single struct {
	net.PacketConn
	take taker

	in      []byte // scratch of the one goroutine that reads
	out     [][]byte
	from    net.Addr
	scratch [4][]byte
}

func (s *single) ReadFrom(b []byte) (int, net.Addr, error) {
	if s.in == nil {
		s.in = make([]byte, maxDatagram)
	}
	for len(s.out) == 0 {
		n, from, err := s.PacketConn.ReadFrom(s.in)
		if err != nil {
			return 0, from, err
		}
		s.out, s.from = s.take(s.scratch[:0], s.in[:n], from), from
	}
	n := copy(b, s.out[0])
	s.out = s.out[1:]
	return n, s.from, nil
}
