package quic

import (
	"bytes"
	"encoding/binary"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/ipv4"
	"golang.org/x/sys/unix"

	"busel/internal/wire"
	"busel/transport"
)

// control is one control message.
func control(level, kind int32, data []byte) []byte {
	b := make([]byte, unix.CmsgSpace(len(data)))
	binary.NativeEndian.PutUint64(b, uint64(unix.CmsgLen(len(data))))
	binary.NativeEndian.PutUint32(b[unix.SizeofCmsghdr-8:], uint32(level))
	binary.NativeEndian.PutUint32(b[unix.SizeofCmsghdr-4:], uint32(kind))
	copy(b[unix.CmsgSpace(0):], data)
	return b
}

func TestSplitControl(t *testing.T) {
	info := control(unix.IPPROTO_IP, unix.IP_PKTINFO, make([]byte, 12))
	segment := control(unix.IPPROTO_UDP, unix.UDP_SEGMENT, binary.NativeEndian.AppendUint16(nil, 1200))
	for _, tt := range []struct {
		oob, segmentation, rest []byte
	}{
		{nil, nil, nil},
		{info, nil, info},
		{segment, segment, nil},
		{append(bytes.Clone(info), segment...), segment, info},
		{append(append(bytes.Clone(info), segment...), control(unix.IPPROTO_IP, unix.IP_TOS, []byte{2})...), segment, info},
		{control(unix.IPPROTO_IPV6, unix.IPV6_TCLASS, []byte{2, 0, 0, 0}), nil, nil},
		{control(unix.IPPROTO_UDP, unix.UDP_SEGMENT, []byte{0, 0}), nil, nil},
	} {
		segmentation, rest := splitControl(nil, tt.oob)
		if !bytes.Equal(segmentation, tt.segmentation) || !bytes.Equal(rest, tt.rest) {
			t.Errorf("%x: %x and %x", tt.oob, segmentation, rest)
		}
	}
}

// TestBatches sends several packets in one write, which the kernel cuts, and
// reads them in batches; strangers' datagrams between them are not seen.
func TestBatches(t *testing.T) {
	key := [32]byte{5}
	listen := func() *net.UDPConn {
		c, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c
	}
	a, b := listen(), listen()
	client, relay := newUDPSocket(a, clientScrambler(key)).(*batchSocket), newUDPSocket(b, relayScrambler(key, NewMemory())).(*batchSocket)
	to := b.LocalAddr().(*net.UDPAddr)
	for _, tt := range []struct{ size, count, last int }{{1200, 1, 1200}, {1200, 2, 1200}, {1200, 16, 7}, {1400, 5, 1400}, {300, 4, 20}, {1200, 1, 30}} {
		var want [][]byte
		var all []byte
		for i := range tt.count {
			n := tt.size
			if i == tt.count-1 {
				n = tt.last
			}
			p := append([]byte{0x41, byte(i)}, bytes.Repeat([]byte{byte(n)}, n-2)...)
			want, all = append(want, p), append(all, p...)
		}
		oob := control(unix.IPPROTO_UDP, unix.UDP_SEGMENT, binary.NativeEndian.AppendUint16(nil, uint16(tt.size)))
		a.WriteTo([]byte("a stranger's, that is not seen"), to)
		if n, _, err := client.WriteMsgUDP(all, oob, to); n != len(all) || err != nil {
			t.Fatal(n, err)
		}
		b.SetReadDeadline(time.Now().Add(patience))
		for len(want) > 0 {
			ms := make([]ipv4.Message, batchSize)
			for i := range ms {
				ms[i].Buffers, ms[i].OOB = [][]byte{make([]byte, 1452)}, make([]byte, 128)
			}
			n, err := relay.ReadBatch(ms, 0)
			if err != nil {
				t.Fatalf("%+v: %d are missing: %v", tt, len(want), err)
			}
			for _, m := range ms[:n] {
				if !bytes.Equal(m.Buffers[0][:m.N], want[0]) || m.Addr.String() != a.LocalAddr().String() {
					t.Fatalf("%+v: got %d bytes from %v", tt, m.N, m.Addr)
				}
				want = want[1:]
			}
		}
	}
	if relay.strange.Load() == 0 {
		t.Error("no stranger was counted")
	}
	if n, _, err := client.WriteMsgUDP(make([]byte, 100), control(unix.IPPROTO_UDP, unix.UDP_SEGMENT, []byte{1, 0}), to); err == nil {
		t.Errorf("%d bytes in 100 segments were sent", n)
	}
}

// The kernel cuts what a carrier sends (GSO), as without scrambling.
func TestSegmentationIsUsed(t *testing.T) {
	client, _ := pair(t, transport.System{})
	if !client.(*carrier).conn.ConnectionState().GSO {
		t.Error("GSO is off")
	}
}

// TestUnmark: marks of ECN go, everything else stays.
func TestUnmark(t *testing.T) {
	info := control(unix.IPPROTO_IP, unix.IP_PKTINFO, []byte{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12})
	segment := control(unix.IPPROTO_UDP, unix.UDP_SEGMENT, binary.NativeEndian.AppendUint16(nil, 1250))
	marks := func(v byte) []byte {
		return append(control(unix.IPPROTO_IP, unix.IP_TOS, []byte{v}), control(unix.IPPROTO_IPV6, unix.IPV6_TCLASS, []byte{v, 0, 0, 0})...)
	}
	with := func(v byte) []byte { return bytes.Join([][]byte{info, marks(v), segment}, nil) }
	oob := with(2)
	if unmark(oob); !bytes.Equal(oob, with(0)) {
		t.Errorf("%x, want %x", oob, with(0))
	}
	unmark(nil)
	unmark([]byte{1, 2, 3})
}

// TestUpload: whatever a client of the HTTP/3 form sends in an upload over a path that marks
// and passes all there is, it has a browser's length and no mark, and GSO is kept.
func TestUpload(t *testing.T) {
	r, d := startSite(t)
	carriers, _ := r.answer(t, wire.Accept{})
	path, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	raw, err := path.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	if err := raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_RECVTOS, 1) }); err != nil {
		t.Fatal(err)
	}
	relay, err := net.Dial("udp4", r.route().Address)
	if err != nil {
		t.Fatal(err)
	}
	var ends sync.WaitGroup
	defer ends.Wait()
	defer relay.Close()
	defer path.Close()
	var client atomic.Pointer[net.UDPAddr]
	var datagrams, long, marked atomic.Int64
	ends.Go(func() {
		b, oob := make([]byte, 2000), make([]byte, 128)
		for {
			n, k, _, from, err := path.ReadMsgUDP(b, oob)
			if err != nil {
				return
			}
			client.Store(from)
			datagrams.Add(1)
			if n > sitePacketSize {
				long.Add(1)
			}
			for rest := oob[:k]; len(rest) > 0; {
				var data []byte
				if _, data, rest, err = unix.ParseOneSocketControlMessage(rest); err != nil || data[0]&3 != 0 {
					marked.Add(1)
					break
				}
			}
			relay.Write(b[:n])
		}
	})
	ends.Go(func() {
		b := make([]byte, 2000)
		for {
			n, err := relay.Read(b)
			if err != nil {
				return
			}
			path.WriteToUDP(b[:n], client.Load())
		}
	})
	route := r.siteRoute()
	route.Address = path.LocalAddr().String()
	from, _, err := d.Dial(testContext(t), route, testHello())
	if err != nil {
		t.Fatal(err)
	}
	to := <-carriers
	if !from.(*carrier).conn.ConnectionState().GSO {
		t.Error("GSO is off")
	}
	ends.Go(func() {
		f := transport.Frame{Lane: 2, Data: make([]byte, wire.MaxFrame)}
		for from.WriteFrames([]transport.Frame{f, f, f, f}) == nil {
		}
	})
	ctx := testContext(t)
	for buf := make([]byte, 64<<10); datagrams.Load() < 1000 && ctx.Err() == nil; {
		if _, err := to.ReadFrames(buf); err != nil {
			t.Fatal(err)
		}
	}
	from.Close()
	to.Close()
	if long.Load() > 0 || marked.Load() > 0 || ctx.Err() != nil {
		t.Errorf("of %d datagrams %d are longer than %d bytes, and %d marked; %v", datagrams.Load(), long.Load(), sitePacketSize, marked.Load(), ctx.Err())
	}
}
