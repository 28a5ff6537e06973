package quic

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net"
	"testing"
	"time"

	"golang.org/x/net/ipv4"
	"golang.org/x/sys/unix"
)

// as is what takes every datagram as it is.
func as(dst [][]byte, datagram []byte, _ net.Addr) [][]byte { return append(dst, datagram) }

func listenUDP(t *testing.T, network, host string) *net.UDPConn {
	t.Helper()
	c, err := net.ListenUDP(network, &net.UDPAddr{IP: net.ParseIP(host)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// messages are those that quic-go reads into.
func messages(n int) []ipv4.Message {
	ms := make([]ipv4.Message, n)
	for i := range ms {
		ms[i].Buffers, ms[i].OOB = [][]byte{make([]byte, maxPacket)}, make([]byte, controlSize)
	}
	return ms
}

// sendJoined sends datagrams of one size in one write, the last of which may be shorter.
func sendJoined(t *testing.T, c *net.UDPConn, to net.Addr, size int, all []byte) {
	t.Helper()
	oob := control(unix.IPPROTO_UDP, unix.UDP_SEGMENT, binary.NativeEndian.AppendUint16(nil, uint16(size)))
	if _, _, err := c.WriteMsgUDP(all, oob, to.(*net.UDPAddr)); err != nil {
		t.Fatal(err)
	}
}

// TestJoined: what the kernel joined is one system call, and comes out as it was sent.
func TestJoined(t *testing.T) {
	for _, network := range []struct{ name, host string }{{"udp4", "127.0.0.1"}, {"udp6", "::1"}} {
		t.Run(network.name, func(t *testing.T) {
			to, from := listenUDP(t, network.name, network.host), listenUDP(t, network.name, network.host)
			r := newReader(to, maxPacket, as)
			if len(r.in) != joinedBatch {
				t.Skip("this kernel joins no datagrams")
			}
			tellMarks(t, to)
			var all []byte
			for i := range byte(53) { // near to what a datagram of IP can be
				all = append(all, bytes.Repeat([]byte{i}, 1200)...)
			}
			all = all[:len(all)-1193]
			sendJoined(t, from, to.LocalAddr(), 1200, all)
			to.SetReadDeadline(time.Now().Add(patience))
			var got []byte
			for calls := 0; len(got) < len(all); calls++ {
				ms := messages(batchSize)
				n, err := r.ReadBatch(ms, 0)
				if err != nil {
					t.Fatalf("after %d bytes of %d: %v", len(got), len(all), err)
				}
				for _, m := range ms[:n] {
					if want := min(1200, len(all)-len(got)); m.N != want || m.Addr.String() != from.LocalAddr().String() {
						t.Errorf("%d bytes from %v, want %d", m.N, m.Addr, want)
					}
					if want := 2 * unix.CmsgSpace(4); m.NN != want { // the size, and the mark
						t.Errorf("%d bytes of control messages, want %d", m.NN, want)
					}
					got = append(got, m.Buffers[0][:m.N]...)
				}
				to.SetReadDeadline(time.Unix(1, 0)) // the system says no more from now on
			}
			if !bytes.Equal(got, all) {
				t.Error("other bytes came")
			}
		})
	}
}

// tellMarks makes a socket tell of ECN marks, as quic-go does.
func tellMarks(t *testing.T, c *net.UDPConn) {
	t.Helper()
	raw, err := c.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	err = raw.Control(func(fd uintptr) {
		v4 := unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_RECVTOS, 1)
		v6 := unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_RECVTCLASS, 1)
		if v4 != nil && v6 != nil {
			t.Error(v4, v6)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestReader: several senders' datagrams, joined and not, of all lengths, come whole, in each
// sender's order, to who reads few or many at a time; what is not taken does not,
// and what becomes several is several.
func TestReader(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	to := listenUDP(t, "udp4", "127.0.0.1")
	r := newReader(to, maxPacket, func(dst [][]byte, b []byte, _ net.Addr) [][]byte {
		switch {
		case len(b) > 2 && b[2] == 'x':
			return dst
		case len(b) > 2 && b[2] == 'z':
			return append(dst, b, b[:2], b[:1])
		}
		return append(dst, b)
	})
	senders := []*net.UDPConn{listenUDP(t, "udp4", "127.0.0.1"), listenUDP(t, "udp4", "127.0.0.1"), listenUDP(t, "udp4", "127.0.0.1")}
	for range 300 {
		want := map[string][][]byte{}
		sent := 0
		for range 1 + random.IntN(4) {
			from := senders[random.IntN(len(senders))]
			size, count := 3+random.IntN(maxPacket-3), 1+random.IntN(10)
			var all []byte
			for i := range count {
				d := bytes.Repeat([]byte{byte(random.Uint32())}, size)
				if i == count-1 {
					d = d[:1+random.IntN(size)]
				}
				if len(d) > 2 {
					d[2] = "xyz"[random.IntN(3)]
				}
				all = append(all, d...)
				k := from.LocalAddr().String()
				if len(d) < 3 || d[2] != 'x' {
					want[k] = append(want[k], d)
					sent++
				}
				if len(d) > 2 && d[2] == 'z' {
					want[k] = append(want[k], d[:2], d[:1])
					sent += 2
				}
			}
			sendJoined(t, from, to.LocalAddr(), size, all)
		}
		to.SetReadDeadline(time.Now().Add(patience))
		for sent > 0 {
			ms := messages(1 + random.IntN(batchSize))
			n, err := r.ReadBatch(ms, 0)
			if err != nil {
				t.Fatalf("%d are missing: %v", sent, err)
			}
			if n == 0 {
				t.Fatal("nothing was read")
			}
			for _, m := range ms[:n] {
				k := m.Addr.String()
				if len(want[k]) == 0 || !bytes.Equal(m.Buffers[0][:m.N], want[k][0]) {
					t.Fatalf("%d bytes from %v are not the next", m.N, m.Addr)
				}
				want[k] = want[k][1:]
				sent--
			}
		}
	}
	// The next read waits: nothing is handed out twice.
	to.SetReadDeadline(time.Unix(1, 0))
	if n, err := r.ReadBatch(messages(1), 0); err == nil {
		t.Errorf("%d more came", n)
	}
}

// TestReaderCuts: a datagram that is longer than what quic-go reads is cut, as by a socket.
func TestReaderCuts(t *testing.T) {
	to, from := listenUDP(t, "udp4", "127.0.0.1"), listenUDP(t, "udp4", "127.0.0.1")
	r := newReader(to, maxPacket, as)
	for _, n := range []int{maxPacket + 1, 9000, 0, 1} {
		if _, err := from.WriteTo(make([]byte, n), to.LocalAddr()); err != nil {
			t.Fatal(err)
		}
		to.SetReadDeadline(time.Now().Add(patience))
		ms := messages(batchSize)
		if k, err := r.ReadBatch(ms, 0); k != 1 || err != nil || ms[0].N != min(n, maxPacket) {
			t.Errorf("%d bytes came as %d of %d, %v", n, k, ms[0].N, err)
		}
	}
}

func TestJoinedOf(t *testing.T) {
	size := func(n int32) []byte {
		return control(unix.IPPROTO_UDP, unix.UDP_GRO, binary.NativeEndian.AppendUint32(nil, uint32(n)))
	}
	tos := control(unix.IPPROTO_IP, unix.IP_TOS, []byte{2})
	for _, tt := range []struct {
		oob  []byte
		want int
	}{
		{nil, 5000},
		{tos, 5000},
		{size(1200), 1200},
		{append(bytes.Clone(tos), size(1250)...), 1250},
		{size(0), 5000},
		{size(-1), 5000},
		{control(unix.IPPROTO_UDP, unix.UDP_GRO, []byte{1}), 5000},
		{control(unix.IPPROTO_UDP, unix.UDP_SEGMENT, size(7)), 5000},
		{make([]byte, 64)[:3], 5000},
	} {
		if got := joinedOf(tt.oob, 5000); got != tt.want {
			t.Errorf("%x: %d, want %d", tt.oob, got, tt.want)
		}
	}
}

// BenchmarkReader reads 16 datagrams, sent one by one and in one write.
func BenchmarkReader(b *testing.B) {
	for _, joined := range []int{1, 16} {
		b.Run(fmt.Sprintf("joined=%d", joined), func(b *testing.B) {
			to, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
			if err != nil {
				b.Fatal(err)
			}
			defer to.Close()
			from, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
			if err != nil {
				b.Fatal(err)
			}
			defer from.Close()
			r, ms := newReader(to, maxPacket, as), messages(batchSize)
			all := make([]byte, joined*1200)
			oob := control(unix.IPPROTO_UDP, unix.UDP_SEGMENT, binary.NativeEndian.AppendUint16(nil, 1200))
			b.SetBytes(16 * 1200)
			for b.Loop() {
				for range 16 / joined {
					if _, _, err := from.WriteMsgUDP(all, oob, to.LocalAddr().(*net.UDPAddr)); err != nil {
						b.Fatal(err)
					}
				}
				for got := 0; got < 16; {
					n, err := r.ReadBatch(ms, 0)
					if err != nil {
						b.Fatal(err)
					}
					got += n
				}
			}
		})
	}
}
