package quic

import (
	"bytes"
	"context"
	"crypto/ecdh"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"net"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/flynn/noise"
	quicgo "github.com/quic-go/quic-go"

	"busel/internal/wire"
	"busel/transport"
)

// A relay that has just started turns away what was recorded before, and takes
// what a client without a right clock sends when it hears nothing.
func TestStamps(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		key := [32]byte{1, 2, 3}
		client := clientScrambler(key)
		initial := append([]byte{0xc3}, make([]byte, 1199)...)
		n := byte(0)
		send := func() []byte {
			n++
			random := make([]byte, randomLen)
			random[0] = n
			return client.seal(nil, initial, random)
		}
		before := relayScrambler(key, NewMemory())
		recorded, slow := send(), send()
		if before.open(bytes.Clone(recorded)) == nil {
			t.Error("a fresh datagram was dropped")
		}
		if before.open(bytes.Clone(recorded)) != nil {
			t.Error("a datagram was opened twice")
		}
		time.Sleep(10 * time.Minute)
		after := relayScrambler(key, NewMemory())
		if after.open(slow) != nil || after.open(recorded) != nil {
			t.Error("a relay took what is older than it")
		}
		// The client's dial is ten minutes old and nothing was heard.
		if after.open(send()) == nil {
			t.Error("a datagram without a clock was dropped")
		}
		client.heard.Store(true)
		if after.open(send()) == nil {
			t.Error("a datagram with the right clock was dropped")
		}
		if after.strange.Load() != 0 || after.replayed.Load() != 2 || before.replayed.Load() != 1 {
			t.Errorf("counted %d, %d, %d", after.strange.Load(), after.replayed.Load(), before.replayed.Load())
		}
	})
}

// tape is a network that keeps what the client's sockets send and receive.
type tape struct {
	transport.System
	mu       sync.Mutex
	up, down [][]byte
}

type tapedConn struct {
	net.PacketConn
	t *tape
}

func (n *tape) ListenPacket(ctx context.Context, network, addr string) (net.PacketConn, error) {
	c, err := n.System.ListenPacket(ctx, network, addr)
	return tapedConn{c, n}, err
}

func (c tapedConn) WriteTo(b []byte, addr net.Addr) (int, error) {
	c.t.mu.Lock()
	c.t.up = append(c.t.up, bytes.Clone(b))
	c.t.mu.Unlock()
	return c.PacketConn.WriteTo(b, addr)
}

func (c tapedConn) ReadFrom(b []byte) (int, net.Addr, error) {
	n, addr, err := c.PacketConn.ReadFrom(b)
	c.t.mu.Lock()
	c.t.down = append(c.t.down, bytes.Clone(b[:n]))
	c.t.mu.Unlock()
	return n, addr, err
}

func (n *tape) tapes() (up, down [][]byte) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.up[:len(n.up):len(n.up)], n.down[:len(n.down):len(n.down)]
}

// TestStrangersDrawNoAnswer replays each datagram of a whole carrier's life, at
// three moments: while it lives, right after it was closed, when an end would
// say so again, and later.
func TestStrangersDrawNoAnswer(t *testing.T) {
	r := startRelay(t, nil)
	carriers, _ := r.answer(t, wire.Accept{})
	n := new(tape)
	client, _, err := r.dialer(t, n).Dial(testContext(t), r.route(), testHello())
	if err != nil {
		t.Fatal(err)
	}
	relay := <-carriers
	exchange(t, client, relay)
	exchange(t, relay, client)
	probe, err := net.Dial("udp", r.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer probe.Close()
	draws := func(when string) {
		t.Helper()
		up, down := n.tapes()
		for _, d := range append(up, down...) {
			if _, err := probe.Write(d); err != nil {
				t.Fatal(err)
			}
		}
		// The relay has seen all of them when it has seen the last: a hello of somebody
		// else goes through after them.
		c, _, err := r.dialer(t, nil).Dial(testContext(t), r.route(), testHello())
		if err != nil {
			t.Fatal(err)
		}
		(<-carriers).Close()
		c.Close()
		probe.SetReadDeadline(time.Now().Add(300 * time.Millisecond))
		var b [2048]byte
		if n, err := probe.Read(b[:]); err == nil {
			t.Errorf("%s: an answer of %d bytes", when, n)
		}
	}
	draws("while it lives")
	exchange(t, client, relay)
	relay.Close()
	draws("as it is closed")
	client.Close()
	draws("after it")
	if st := r.Stats(); st.Replayed == 0 || st.Strange == 0 {
		t.Errorf("stats are %+v", st)
	}
}

// What was recorded on the way to one address of a relay draws no answer from
// another one.
func TestReplayToAnotherListener(t *testing.T) {
	m := NewMemory()
	share := func(cfg *ListenerConfig) { cfg.Memory = m }
	first := startRelay(t, share)
	second := startRelay(t, func(cfg *ListenerConfig) { cfg.Memory, cfg.Key = m, first.key })
	carriers, _ := first.answer(t, wire.Accept{})
	n := new(tape)
	client, _, err := first.dialer(t, n).Dial(testContext(t), first.route(), testHello())
	if err != nil {
		t.Fatal(err)
	}
	relay := <-carriers
	defer relay.Close()
	defer client.Close()
	probe, err := net.Dial("udp", second.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer probe.Close()
	up, _ := n.tapes()
	up = up[:2] // the ClientHello, which has arrived for certain
	for _, d := range up {
		if _, err := probe.Write(d); err != nil {
			t.Fatal(err)
		}
	}
	deadline := time.Now().Add(patience)
	for second.Stats().Replayed < uint64(len(up)) && time.Now().Before(deadline) {
		runtime.Gosched()
	}
	probe.SetReadDeadline(time.Now().Add(300 * time.Millisecond))
	var b [2048]byte
	if n, err := probe.Read(b[:]); err == nil {
		t.Errorf("an answer of %d bytes", n)
	}
	if st := second.Stats(); st.Replayed != uint64(len(up)) || st.Conns != 0 {
		t.Errorf("stats are %+v", st)
	}
}

// TestLooks checks what an observer sees of a dial: no two datagrams begin
// alike, and the first ones have no size in common.
func TestLooks(t *testing.T) {
	first := map[int]int{}
	heads := map[string]bool{}
	count := 0
	r := startRelay(t, nil)
	r.answer(t, wire.Accept{})
	for range 40 {
		n := new(tape)
		c, _, err := r.dialer(t, n).Dial(testContext(t), r.route(), testHello())
		if err != nil {
			t.Fatal(err)
		}
		c.Close()
		up, down := n.tapes()
		first[len(up[0])]++
		for _, d := range append(up, down...) {
			if len(d) < 4 {
				continue
			}
			count++
			heads[string(d[:4])] = true
		}
	}
	if len(heads) < count-1 {
		t.Errorf("%d of %d heads differ", len(heads), count)
	}
	if len(first) < 6 {
		t.Errorf("lengths of first datagrams: %v", first)
	}
}

// TestManInTheMiddle has somebody with an invite, who knows S, between client
// and relay: he can read the QUIC handshakes and pass the hello on, and still the
// client finds out, and the relay hears nobody.
func TestManInTheMiddle(t *testing.T) {
	r := startRelay(t, nil)
	_, hellos := r.answer(t, wire.Accept{})
	public := [32]byte(r.key.PublicKey().Bytes())
	socket, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()
	tr := &quicgo.Transport{Conn: newSocket(socket, relayScrambler(public, NewMemory()))}
	defer tr.Close()
	cert, err := anyCertificate()
	if err != nil {
		t.Fatal(err)
	}
	cfg := quicConfig()
	cfg.MaxIncomingStreams = 1
	ln, err := tr.Listen(&tls.Config{Certificates: []tls.Certificate{cert}, NextProtos: []string{alpn}}, cfg)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() {
		done <- func() error {
			in, err := ln.Accept(testContext(t))
			if err != nil {
				return err
			}
			from, err := in.AcceptStream(testContext(t))
			if err != nil {
				return err
			}
			d := r.dialer(t, nil)
			v, err := d.open(testContext(t), r.route(), options{})
			if err != nil {
				return err
			}
			defer v.close()
			to, err := v.conn.OpenStream()
			if err != nil {
				return err
			}
			buf := make([]byte, 4096)
			n, err := from.Read(buf)
			if err != nil {
				return err
			}
			if _, err := to.Write(buf[:n]); err != nil {
				return err
			}
			if _, err := to.Read(buf); err == nil {
				return errors.New("the relay answered him")
			}
			from.CancelWrite(0) // all that is left to him but to end the connection
			<-in.Context().Done()
			return nil
		}()
	}()
	route := r.route()
	route.Address = socket.LocalAddr().String()
	_, _, err = r.dialer(t, nil).Dial(testContext(t), route, testHello())
	if de, ok := errors.AsType[*transport.DialError](err); !ok || de.Failure != transport.Hijacked {
		t.Errorf("the client says %v", err)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
	if len(hellos) != 0 || r.Stats().NoHello != 1 {
		t.Errorf("the relay heard %d hellos; %+v", len(hellos), r.Stats())
	}
}

// TestVectors checks both sides of the hello against docs/vectors/gen.py, which
// shares no code with this package.
func TestVectors(t *testing.T) {
	raw, err := os.ReadFile("../../docs/vectors/quic.txt")
	if err != nil {
		t.Fatal(err)
	}
	count := 0
	for paragraph := range strings.SplitSeq(string(raw), "\n\n") {
		v, text := map[string][]byte{}, map[string]string{}
		for line := range strings.Lines(paragraph) {
			key, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
			v[key], _ = hex.DecodeString(value)
			text[key] = value
		}
		if v["message_1"] == nil {
			continue
		}
		count++
		// The HTTP/3 form has the same messages, a mark before and fillers behind.
		if got, err := mark(v["exporter"], [32]byte(v["relay_public"])); err != nil || got != text["mark"] || markCookie+got != text["cookie"] || len(got) != markLen {
			t.Errorf("the mark is %q, %v; want %q", got, err, text["mark"])
		}
		for name, message := range map[string][]byte{"request": v["message_1"], "response": v["message_2"]} {
			n, err := strconv.Atoi(text[name+"_filler"])
			if got := append(bytes.Clone(message), filler(n)...); err != nil || !bytes.Equal(got, v[name]) {
				t.Errorf("the %s is %x, %v", name, got, err)
			}
		}
		// The ephemeral keys are the vectors', so that the messages are.
		state := func(ephemeral string, change func(*noise.Config)) *noise.HandshakeState {
			cfg := noiseConfig(v["exporter"])
			cfg.Random = bytes.NewReader(v[ephemeral])
			change(&cfg)
			hs, err := noise.NewHandshakeState(cfg)
			if err != nil {
				t.Fatal(err)
			}
			return hs
		}
		client := state("client_ephemeral", func(c *noise.Config) { c.Initiator, c.PeerStatic = true, v["relay_public"] })
		relay := state("relay_ephemeral", func(c *noise.Config) {
			c.StaticKeypair = noise.DHKey{Private: v["relay_private"], Public: v["relay_public"]}
		})
		check := func(name string, from, to *noise.HandshakeState, payload, message []byte) {
			t.Helper()
			var b bytes.Buffer
			if err := writeMessage(&b, from, payload); err != nil || !bytes.Equal(b.Bytes(), message) {
				t.Errorf("%s is %x, %v", name, b.Bytes(), err)
			}
			if got, err := readMessage(bytes.NewReader(message), to); err != nil || !bytes.Equal(got, payload) {
				t.Errorf("%s opens to %x, %v", name, got, err)
			}
		}
		check("message 1", client, relay, v["hello"], v["message_1"])
		check("message 2", relay, client, v["accept"], v["message_2"])
		if h, err := wire.ParseHello(v["hello"]); err != nil || !bytes.Equal(h.Append(nil), v["hello"]) {
			t.Errorf("the hello parses to %v, %v", h, err)
		}
	}
	if count != 2 {
		t.Errorf("%d vectors", count)
	}
}

// FuzzReadMessage: whatever comes instead of a hello, only one made for this
// relay and this connection opens, and nothing beyond its end is read.
func FuzzReadMessage(f *testing.F) {
	key, err := ecdh.X25519().NewPrivateKey(bytes.Repeat([]byte{7}, 32))
	if err != nil {
		f.Fatal(err)
	}
	binding := make([]byte, exporterLen)
	// Its ephemeral key is fixed, as every fuzzing process makes the message anew.
	cfg := noiseConfig(binding)
	cfg.Initiator, cfg.PeerStatic, cfg.Random = true, key.PublicKey().Bytes(), bytes.NewReader(bytes.Repeat([]byte{8}, 32))
	hs, err := noise.NewHandshakeState(cfg)
	if err != nil {
		f.Fatal(err)
	}
	var genuine bytes.Buffer
	if err := writeMessage(&genuine, hs, testHello().Append(nil)); err != nil {
		f.Fatal(err)
	}
	f.Add(genuine.Bytes())
	f.Add([]byte{0, 48})
	f.Add([]byte{0xff, 0xff, 1})
	f.Add(append(genuine.Bytes(), 1, 2, 3))
	f.Fuzz(func(t *testing.T, b []byte) {
		hs, err := responder(binding, key)
		if err != nil {
			t.Fatal(err)
		}
		r := bytes.NewReader(b)
		payload, err := readMessage(r, hs)
		if read := len(b) - r.Len(); read > 2+noiseOverhead+maxPayload {
			t.Fatalf("%d bytes were read", read)
		}
		if err == nil {
			if n := len(b) - r.Len(); !bytes.Equal(b[:n], genuine.Bytes()) || !bytes.Equal(payload, testHello().Append(nil)) {
				t.Fatal("another message was opened")
			}
		}
	})
}

// The scrambling of a datagram is the same on both kinds of sockets.
func TestSocketKinds(t *testing.T) {
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
	client, relay := newPlainSocket(a, clientScrambler(key)), newPlainSocket(b, relayScrambler(key, NewMemory()))
	for _, size := range []int{1, 40, 1200, 1452} {
		want := append([]byte{0x41}, bytes.Repeat([]byte{byte(size)}, size-1)...)
		if n, err := client.WriteTo(want, b.LocalAddr()); n != size || err != nil {
			t.Fatal(n, err)
		}
		a.WriteTo([]byte("a stranger's, that is not seen"), b.LocalAddr())
		buf := make([]byte, 1452)
		b.SetReadDeadline(time.Now().Add(patience))
		n, from, err := relay.ReadFrom(buf)
		if err != nil || !bytes.Equal(buf[:n], want) || from.String() != a.LocalAddr().String() {
			t.Fatalf("got %d bytes from %v, %v", n, from, err)
		}
	}
}
