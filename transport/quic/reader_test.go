package quic

import (
	"errors"
	"net"
	"testing"
	"testing/synctest"
	"time"
)

// said is a socket to which datagrams come in turn.
type said struct {
	net.PacketConn
	datagrams []string
}

func (s *said) ReadFrom(b []byte) (int, net.Addr, error) {
	if len(s.datagrams) == 0 {
		return 0, nil, net.ErrClosed
	}
	n := copy(b, s.datagrams[0])
	s.datagrams = s.datagrams[1:]
	return n, &net.UDPAddr{Port: n}, nil
}

// TestSingle: one datagram is none, one or several, and what is too long is cut.
func TestSingle(t *testing.T) {
	s := &single{PacketConn: &said{datagrams: []string{"x", "one", "xx", "two:a", "longer"}}, take: func(dst [][]byte, d []byte, _ net.Addr) [][]byte {
		switch d[0] {
		case 'x':
			return dst
		case 't':
			return append(dst, d[:3], d[4:])
		}
		return append(dst, d)
	}}
	b := make([]byte, 5)
	for _, want := range []struct {
		text string
		port int
	}{{"one", 3}, {"two", 5}, {"a", 5}, {"longe", 6}} {
		n, from, err := s.ReadFrom(b)
		if err != nil || string(b[:n]) != want.text || from.(*net.UDPAddr).Port != want.port {
			t.Errorf("%q from %v, %v; want %+v", b[:n], from, err, want)
		}
	}
	if _, _, err := s.ReadFrom(b); !errors.Is(err, net.ErrClosed) {
		t.Error(err)
	}
}

// TestMisread: a dial that came to nothing met another server if that answered again and again,
// and not if it fell silent, or hardly anything came.
func TestMisread(t *testing.T) {
	for _, tt := range []struct {
		answers int
		every   time.Duration
		first   byte
		want    bool
	}{
		{0, 0, 0, false},
		{leastAnswers, 0, 0xe0, false}, // one flight
		{leastAnswers - 1, leastAnswered, 0xe0, false},
		{leastAnswers, leastAnswered / (leastAnswers - 1), 0xe0, true},
		{leastAnswers, leastAnswered/(leastAnswers-1) - time.Millisecond, 0xe0, false},
		{2 * leastAnswers, leastAnswered, 0x40, false}, // not of the handshake
	} {
		synctest.Test(t, func(t *testing.T) {
			i, err := newInitials(nil)
			if err != nil {
				t.Fatal(err)
			}
			for n := range tt.answers {
				if n > 0 {
					time.Sleep(tt.every)
				}
				i.take(nil, []byte{tt.first, 0, 0, 0, 1}, nil)
			}
			if i.misread() != tt.want {
				t.Errorf("%d answers, one in %v: %t", tt.answers, tt.every, !tt.want)
			}
		})
	}
}
