package mirror

import (
	"bytes"
	"crypto/ecdh"
	"crypto/rand"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"busel/internal/wire"
	"busel/transport"
)

// shareOf is one key share of a made-up ClientHello.
type shareOf struct {
	group uint16
	key   []byte
}

// makeHello builds a ClientHello message.
func makeHello(random [32]byte, sid []byte, shares ...shareOf) []byte {
	return makeHelloWith(random, sid, nil, nil, shares...)
}

// makeHelloWith puts extensions before and behind key_share.
func makeHelloWith(random [32]byte, sid, before, behind []byte, shares ...shareOf) []byte {
	var list []byte
	for _, s := range shares {
		list = binary.BigEndian.AppendUint16(list, s.group)
		list = binary.BigEndian.AppendUint16(list, uint16(len(s.key)))
		list = append(list, s.key...)
	}
	list = append(binary.BigEndian.AppendUint16(nil, uint16(len(list))), list...)
	ext := binary.BigEndian.AppendUint16(nil, extKeyShare)
	ext = binary.BigEndian.AppendUint16(ext, uint16(len(list)))
	ext = slices.Concat(before, ext, list, behind)
	b := append([]byte{3, 3}, random[:]...)
	b = append(b, byte(len(sid)))
	b = append(b, sid...)
	b = append(b, 0, 2, 0x13, 1, 1, 0)
	b = binary.BigEndian.AppendUint16(b, uint16(len(ext)))
	b = append(b, ext...)
	return append([]byte{typeClientHello, 0, byte(len(b) >> 8), byte(len(b))}, b...)
}

// inRecords cuts a message into handshake records of at most n bytes.
func inRecords(msg []byte, n int) []byte {
	var b []byte
	for len(msg) > 0 {
		m := min(n, len(msg))
		b = append(b, recordHandshake, 3, 1, byte(m>>8), byte(m))
		b = append(b, msg[:m]...)
		msg = msg[m:]
	}
	return b
}

func newKey(t testing.TB) *ecdh.PrivateKey {
	t.Helper()
	k, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func flipped(b []byte, at int, bits byte) []byte {
	b = bytes.Clone(b)
	b[at] ^= bits
	return b
}

func TestRecognise(t *testing.T) {
	s, e := newKey(t), newKey(t)
	es, err := e.ECDH(s.PublicKey())
	if err != nil {
		t.Fatal(err)
	}
	random := [32]byte{1, 2, 3}
	// signed has the session id of a client that knows S.
	signed := func(msg []byte) []byte {
		msg = bytes.Clone(msg)
		h, _ := parseClientHello(msg)
		copy(msg[sidStart:], sessionID(random, es, h.bound(msg)...))
		return msg
	}
	changed := func(msg []byte, at int) []byte { return flipped(msg, (len(msg)+at)%len(msg), 1) }
	sid := make([]byte, 32)
	// One identity of 4 bytes and its age, a binder of 32 bytes.
	psk := append([]byte{0, extPreSharedKey, 0, 12 + 35, 0, 10, 0, 4, 1, 2, 3, 4, 0, 0, 0, 0, 0, 33, 32}, make([]byte, 32)...)
	pub := e.PublicKey().Bytes()
	other := newKey(t).PublicKey().Bytes()
	hybrid := append(make([]byte, hybridShareLen-32), pub...)
	foreign := append(make([]byte, hybridShareLen-32), other...)
	plain := signed(makeHello(random, sid, shareOf{groupX25519, pub}))
	resumed := signed(makeHelloWith(random, sid, nil, psk, shareOf{groupX25519, pub}))
	misplaced := makeHelloWith(random, sid, psk, nil, shareOf{groupX25519, pub})
	copy(misplaced[sidStart:], sessionID(random, es, (&clientHello{end: len(misplaced)}).bound(misplaced)...))
	k := &link{l: &Listener{cfg: ListenerConfig{Key: s}}}
	for name, c := range map[string]struct {
		msg  []byte
		want bool
	}{
		"x25519":               {plain, true},
		"hybrid first":         {signed(makeHello(random, sid, shareOf{groupX25519MLKEM768, foreign}, shareOf{groupX25519, pub})), true},
		"hybrid last":          {signed(makeHello(random, sid, shareOf{groupX25519, pub}, shareOf{groupX25519MLKEM768, foreign})), true},
		"hybrid only":          {signed(makeHello(random, sid, shareOf{groupX25519MLKEM768, hybrid})), true},
		"hybrid is not x25519": {signed(makeHello(random, sid, shareOf{groupX25519, other}, shareOf{groupX25519MLKEM768, hybrid})), false},
		"other session id":     {changed(plain, sidEnd-1), false},
		"other random":         {changed(plain, 4+2), false},
		"other cipher":         {changed(plain, sidEnd+3), false},
		"other share":          {changed(plain, -1), false},
		"share's top bit":      {flipped(plain, len(plain)-1, 0x80), false}, // X25519 ignores it
		"resumed":              {resumed, true},
		"other binder":         {changed(resumed, -1), true}, // it binds the rest itself
		"other identity":       {changed(resumed, -40), false},
		"PSK is not last":      {misplaced, false},
		"degenerate":           {signed(makeHello(random, sid, shareOf{groupX25519, make([]byte, 32)})), false},
		"short session id":     {makeHello(random, sid[:31], shareOf{groupX25519, pub}), false},
		"no session id":        {makeHello(random, nil, shareOf{groupX25519, pub}), false},
		"no share":             {makeHello(random, sid), false},
		"short share":          {makeHello(random, sid, shareOf{groupX25519, pub[:31]}), false},
	} {
		t.Run(name, func(t *testing.T) {
			if got := k.recognise(c.msg); got != c.want {
				t.Errorf("recognise = %v", got)
			}
			var m messages
			raw := inRecords(c.msg, 7)
			if n, o := m.feed(raw, typeClientHello); o != gotMessage || n != len(raw) || !bytes.Equal(m.buf, c.msg) {
				t.Errorf("feed = %d of %d, %v", n, len(raw), o)
			}
		})
	}
}

// chromeHello is a stranger's ClientHello.
func chromeHello(t testing.TB) []byte {
	t.Helper()
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	v, err := newVerifier(coverName, nil, x509.NewCertPool())
	if err != nil {
		t.Fatal(err)
	}
	u, err := newTLS(a, shippedLook(t, "chromium"), v.tlsConfig(), nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	return inRecords(u.HandshakeState.Hello.Raw, maxHello)
}

// FuzzClientHello: a hello is never a candidate by chance, nothing is consumed
// twice or kept beyond the bound, and pieces do not matter.
func FuzzClientHello(f *testing.F) {
	hello := chromeHello(f)
	f.Add(hello, uint8(0))
	f.Add(hello, uint8(3))
	f.Add(inRecords(hello[headerLen:], 100), uint8(50))
	f.Add([]byte("GET / HTTP/1.1\r\n\r\n"), uint8(2))
	f.Add([]byte{22, 3, 1, 0, 4, 1, 0xff, 0xff, 0xff}, uint8(1))
	k := &link{l: &Listener{cfg: ListenerConfig{Key: newKey(f)}}}
	f.Fuzz(func(t *testing.T, b []byte, step uint8) {
		run := func(step int) (used int, o outcome, msg []byte) {
			var m messages
			for used < len(b) {
				end := len(b)
				if step > 0 {
					end = min(end, used+step)
				}
				n, got := m.feed(b[used:end], typeClientHello)
				if n < 0 || n > end-used || got == needMore && n != end-used {
					t.Fatalf("feed consumed %d of %d with %v", n, end-used, got)
				}
				if len(m.buf) > maxHello+4 {
					t.Fatalf("%d bytes are kept", len(m.buf))
				}
				used += n
				if o = got; o != needMore {
					break
				}
			}
			return used, o, m.buf
		}
		n1, o1, m1 := run(0)
		n2, o2, m2 := run(int(step))
		if o1 != o2 || o1 != notTLS && (n1 != n2 || !bytes.Equal(m1, m2)) {
			t.Fatalf("whole: %d %v, in pieces: %d %v", n1, o1, n2, o2)
		}
		if o1 == gotMessage && k.recognise(m1) {
			t.Fatal("a stranger is a candidate")
		}
	})
}

// FuzzServerHello: pieces do not matter and nothing is kept beyond the bound.
func FuzzServerHello(f *testing.F) {
	sh := append([]byte{typeServerHello, 0, 0, 46, 3, 3}, make([]byte, 32)...)
	sh = append(sh, 0, 0x13, 1, 0, 0, 6, 0, extSupportedVersions, 0, 2, 3, 4)
	f.Add(inRecords(sh, 1000), uint8(0))
	f.Add(inRecords(sh, 5), uint8(3))
	retry := bytes.Clone(sh)
	copy(retry[6:], retryRandom[:])
	f.Add(append(inRecords(retry, 1000), append([]byte{20, 3, 3, 0, 1, 1}, inRecords(sh, 1000)...)...), uint8(9))
	f.Fuzz(func(t *testing.T, b []byte, step uint8) {
		run := func(step int) (used int, o outcome, h serverHello) {
			var w helloWatch
			for used < len(b) {
				end := len(b)
				if step > 0 {
					end = min(end, used+step)
				}
				n, got := w.feed(b[used:end])
				if got == needMore && n != end-used || len(w.msgs.buf) > maxHello+4 {
					t.Fatalf("feed = %d of %d, %v; %d kept", n, end-used, got, len(w.msgs.buf))
				}
				used += n
				if o = got; o != needMore {
					break
				}
			}
			return used, o, w.hello
		}
		n1, o1, h1 := run(0)
		n2, o2, h2 := run(int(step))
		if o1 != o2 || o1 != notTLS && n1 != n2 || o1 == gotMessage && (h1 != h2 || !h1.tls13 || h1.retry) {
			t.Fatalf("whole: %d %v %+v, in pieces: %d %v %+v", n1, o1, h1, n2, o2, h2)
		}
	})
}

// reference finds the covert records of b all at once.
func reference(b []byte, mark [markerLen]byte) (genuine []byte, covert [][]byte, held int) {
	for len(b) > 0 {
		if len(b) < headerLen {
			break
		}
		size := int(binary.BigEndian.Uint16(b[3:]))
		match := b[0] == recordData && b[1] == 3 && b[2] == 3 && size >= minRecord && size <= maxRecord &&
			len(b) >= prefixLen && bytes.Equal(b[headerLen:prefixLen], mark[:])
		if match {
			if len(b) < headerLen+size {
				return genuine, covert, len(b)
			}
			covert = append(covert, b[:headerLen+size])
			b = b[headerLen+size:]
			continue
		}
		n := min(headerLen+size, len(b))
		if n == len(b) && len(b) < prefixLen {
			break // it depends on how much of the marker is there
		}
		genuine = append(genuine, b[:n]...)
		b = b[n:]
	}
	return genuine, covert, len(b)
}

// FuzzScanner: whatever comes in pieces of any size, genuine bytes pass in
// order and at once, covert records come out whole, and what is held could be
// covert.
func FuzzScanner(f *testing.F) {
	mark := [markerLen]byte{1, 2, 3, 4, 5, 6, 7, 8}
	rec := func(n int) []byte { return append(appendPrefix(nil, mark, n), make([]byte, n)...) }
	f.Add(bytes.Join([][]byte{{23, 3, 3, 0, 2, 9, 9}, rec(18), rec(100), {21, 3, 3, 0, 1, 0}}, nil), uint8(1))
	f.Add(append([]byte{22, 3, 1, 0, 0}, rec(500)...), uint8(0))
	f.Add(rec(500)[:200], uint8(7))
	f.Add([]byte{23, 3, 3, 0x40, 0x12, 1, 2, 3}, uint8(1))
	f.Add([]byte{23, 3, 3, 0, 25, 1, 2, 3, 4, 5, 6, 7, 8, 9}, uint8(2))
	f.Fuzz(func(t *testing.T, b []byte, step uint8) {
		s := scanner{want: func() ([markerLen]byte, bool) { return mark, true }}
		var all, genuine []byte
		var covert [][]byte
		var buf []byte
		for rest := b; len(rest) > 0; {
			n := len(rest)
			if step > 0 {
				n = min(n, int(step))
			}
			buf = append(buf, rest[:n]...)
			rest = rest[n:]
			for {
				pass, c := s.next(buf)
				if pass == 0 && c == 0 {
					break
				}
				genuine = append(genuine, buf[:pass]...)
				all = append(all, buf[:pass+c]...)
				if c > 0 {
					covert = append(covert, bytes.Clone(buf[pass:pass+c]))
				}
				buf = buf[pass+c:]
			}
			// What is held begins a record and agrees with a covert one.
			if len(buf) >= prefixLen && !bytes.Equal(buf[headerLen:prefixLen], mark[:]) || len(buf) > headerLen+maxRecord {
				t.Fatalf("%d bytes are held: %x", len(buf), buf[:min(len(buf), 20)])
			}
			for i, x := range append([]byte{23, 3, 3}, mark[:]...) {
				if i >= 3 {
					i += 2
				}
				if i < len(buf) && buf[i] != x {
					t.Fatalf("held though not covert: %x", buf)
				}
			}
		}
		if !bytes.Equal(append(all, buf...), b) {
			t.Fatal("bytes were lost or changed places")
		}
		wantGenuine, wantCovert, held := reference(b, mark)
		if len(covert) != len(wantCovert) {
			t.Fatalf("%d covert records, want %d", len(covert), len(wantCovert))
		}
		for i := range covert {
			if !bytes.Equal(covert[i], wantCovert[i]) {
				t.Fatalf("covert record %d differs", i)
			}
		}
		if held >= prefixLen && !bytes.Equal(genuine, wantGenuine) || !bytes.HasPrefix(genuine, wantGenuine) {
			t.Fatal("genuine bytes differ")
		}
	})
}

// TestScannerWithoutSecrets: before the ServerHello nothing is ever held.
func TestScannerWithoutSecrets(t *testing.T) {
	var s scanner
	for _, b := range [][]byte{{23}, {3, 3}, {0}, {26, 1}, make([]byte, 25), {23, 3}} {
		if pass, covert := s.next(b); pass != len(b) || covert != 0 {
			t.Fatalf("next(%x) = %d, %d", b, pass, covert)
		}
	}
	if s.boundary() {
		t.Error("half a header is no boundary")
	}
}

// FuzzStranger: a stranger's bytes reach the cover, and the cover's answer him,
// as they were.
func FuzzStranger(f *testing.F) {
	cover, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		f.Fatal(err)
	}
	got := make(chan []byte)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := cover.Accept()
			if err != nil {
				return
			}
			b, _ := io.ReadAll(c) // echo after the end
			c.Write(b)
			c.Close()
			got <- b
		}
	}()
	f.Cleanup(func() { cover.Close(); <-done })
	r := startRelay(f, &site{addr: cover.Addr().String(), name: coverName}, nil)
	f.Add([]byte("GET / HTTP/1.0\r\n\r\n"), uint16(3))
	f.Add(chromeHello(f), uint16(1000))
	f.Add(append(chromeHello(f), 23, 3, 3, 0, 30, 1, 2, 3), uint16(0))
	f.Add([]byte{22, 3, 1}, uint16(1))
	f.Fuzz(func(t *testing.T, b []byte, cut uint16) {
		c, err := net.Dial("tcp", r.addr)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(patience))
		first := min(int(cut), len(b))
		for _, part := range [][]byte{b[:first], b[first:]} {
			if _, err := c.Write(part); err != nil {
				t.Fatal(err)
			}
		}
		c.(*net.TCPConn).CloseWrite()
		back, err := io.ReadAll(c)
		if err != nil {
			t.Fatal(err)
		}
		if there := <-got; !bytes.Equal(there, b) || !bytes.Equal(back, b) {
			t.Fatalf("sent %d bytes, the cover got %d, %d came back", len(b), len(there), len(back))
		}
		if st := r.Stats(); st.Candidates != 0 {
			t.Fatal("a stranger is a candidate")
		}
	})
}

// TestGate checks the times of rule 5.
func TestGate(t *testing.T) {
	type say struct {
		at   time.Duration
		size int // 0: nothing whole after the Finished; -1: the client's preface
	}
	for name, c := range map[string]struct {
		says []say
		long bool
		want time.Duration
	}{
		"silent cover":      {nil, false, replyLatest},
		"one record":        {[]say{{20 * time.Millisecond, 26}}, false, 20*time.Millisecond + coverSilence},
		"two records":       {[]say{{20 * time.Millisecond, 26}, {23 * time.Millisecond, 60}}, false, 23*time.Millisecond + coverSilence},
		"before Finished":   {[]say{{20 * time.Millisecond, 0}}, false, replyLatest},
		"no SETTINGS ACK":   {[]say{{20 * time.Millisecond, 57}, {23 * time.Millisecond, -1}}, false, replyLatest},
		"SETTINGS ACK":      {[]say{{20 * time.Millisecond, 57}, {23 * time.Millisecond, -1}, {50 * time.Millisecond, 26}}, false, 50*time.Millisecond + coverSilence},
		"chatter":           {chatter[say](func(d time.Duration) say { return say{d, 100} }), false, replyLatest},
		"proof after alert": {[]say{{20 * time.Millisecond, 24}, {50 * time.Millisecond, 40}}, true, 50*time.Millisecond + coverSilence},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				g := gate{news: make(chan struct{}, 1)}
				g.spoke()
				begin := time.Now()
				go func() {
					for _, s := range c.says {
						time.Sleep(time.Until(begin.Add(s.at)))
						if s.size < 0 {
							g.spoke()
							continue
						}
						if s.size > 0 {
							g.record(s.size)
						}
						g.active(time.Now())
					}
				}()
				latest := begin.Add(replyLatest)
				if c.long {
					latest = time.Time{}
				}
				if !g.wait(c.long, latest, make(chan struct{})) {
					t.Fatal("the gate stays shut")
				}
				if took := time.Since(begin); took != c.want {
					t.Errorf("open after %v, want %v", took, c.want)
				}
				time.Sleep(time.Second)
			})
		})
	}
	synctest.Test(t, func(t *testing.T) {
		g := gate{news: make(chan struct{}, 1)}
		g.spoke()
		dead := make(chan struct{})
		go func() { time.Sleep(time.Minute); close(dead) }()
		if g.wait(true, time.Time{}, dead) {
			t.Error("open at the end")
		}
	})
}

func chatter[T any](f func(time.Duration) T) (out []T) {
	for d := coverSilence / 2; d < 400*time.Millisecond; d += coverSilence / 2 {
		out = append(out, f(d))
	}
	return out
}

func TestLane(t *testing.T) {
	sec := newSecrets([32]byte{1}, [32]byte{2}, []byte("es"))
	out := lane{s: sec, dir: dirClient, n: 1, aead: newGCM(make([]byte, 32))}
	in := lane{s: sec, dir: dirClient, n: 1, aead: newGCM(make([]byte, 32))}
	rec, err := out.seal(nil, []byte("hello"))
	if err != nil {
		t.Fatal(err)
	}
	bad := bytes.Clone(rec)
	bad[len(bad)-1] ^= 1
	keep := bytes.Clone(bad)
	dst := make([]byte, 100)
	if _, err := in.open(dst, bad); err == nil || !bytes.Equal(bad, keep) {
		t.Errorf("a bad record: %v, intact %v", err, bytes.Equal(bad, keep))
	}
	bad = bytes.Clone(rec)
	bad[4]++ // the header is authenticated
	if _, err := in.open(dst, append(bad, 0)); err == nil {
		t.Error("a changed length opens")
	}
	if n, err := in.open(dst, rec); err != nil || string(dst[:n]) != "hello" {
		t.Errorf("open: %q, %v", dst[:n], err)
	}
	if _, err := in.open(dst, rec); err == nil {
		t.Error("a record opens twice")
	}
	out.n, in.n = maxRecords, maxRecords
	if _, err := out.seal(nil, []byte("x")); !errors.Is(err, errTooMany) {
		t.Errorf("record 2^24: %v", err)
	}
	if _, err := in.open(dst, rec); !errors.Is(err, errTooMany) {
		t.Errorf("record 2^24: %v", err)
	}
}

func TestPack(t *testing.T) {
	for _, size := range []int{0, 7, 500} {
		b := pack([]byte("hello"), size)
		if len(b) != max(size, 7) {
			t.Errorf("pack to %d gives %d bytes", size, len(b))
		}
		if got, err := unpack(b); err != nil || string(got) != "hello" {
			t.Errorf("unpack: %q, %v", got, err)
		}
	}
	for _, b := range [][]byte{nil, {0}, {0, 1}, {255, 255, 0}} {
		if _, err := unpack(b); !errors.Is(err, wire.ErrMalformed) {
			t.Errorf("unpack(%x): %v", b, err)
		}
	}
}

// TestGraceIsForAll checks that the deadline which ends a carrier holds for the
// genuine write that waits behind a covert one, when the path takes nothing.
func TestGraceIsForAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := net.Pipe()
		defer far.Close()
		e := newKey(t)
		sec := newSecrets([32]byte{1}, [32]byte{2}, e.Bytes())
		o := outbox{
			ending: newEnding(), turn: newTurn(), conn: near,
			lane: lane{s: sec, dir: dirClient, n: 1, aead: newGCM(make([]byte, keyLen))},
			sent: func(int) {}, broke: func(error) {},
		}
		covert, genuine := make(chan error, 1), make(chan error, 1)
		go func() { covert <- o.writeFrames([]transport.Frame{{Data: pingFrame(1)}}) }()
		synctest.Wait()
		go func() {
			_, err := (&shim{turn: o.turn, conn: near}).Write(make([]byte, 50))
			genuine <- err
		}()
		synctest.Wait()
		begin := time.Now()
		o.end(net.ErrClosed) // as client.leave does
		_ = near.SetWriteDeadline(begin.Add(writeGrace))
		if err := <-covert; !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("the covert write: %v", err)
		}
		if err := <-genuine; !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(begin) > writeGrace {
			t.Errorf("the genuine write: %v after %v", err, time.Since(begin))
		}
	})
}

// TestProofFollowsNoAlert: a proof waits for a record of the cover that is
// longer than an alert (24 bytes, encrypted), at least 40 (docs/PROTOCOL.md,
// section 3.4).
func TestProofFollowsNoAlert(t *testing.T) {
	for _, tt := range []struct {
		size int
		long bool
	}{{24, false}, {39, false}, {40, true}, {287, true}} {
		g := gate{news: make(chan struct{}, 1)}
		g.spoke()
		g.record(tt.size)
		if g.long != tt.long || !g.ready {
			t.Errorf("a record of %d bytes: ready %t, long %t, want %t", tt.size, g.ready, g.long, tt.long)
		}
	}
}
