package mirror

import (
	"bytes"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"time"

	utls "github.com/refraction-networking/utls"
)

// recordedHello is the ClientHello that a genuine client sent to r, and the
// server's flight that answered it.
func (r *relay) recordedHello(t *testing.T, change func(*DialerConfig)) (hello, flight []byte) {
	t.Helper()
	path := newStage(t, r.addr)
	front := &relay{Listener: r.Listener, addr: path.addr, key: r.key, site: r.site}
	d := r.dialer(t, change)
	front.pair(t, d)
	d.Close()
	up, down := path.passed()
	return up[:headerLen+int(binary.BigEndian.Uint16(up[3:]))], down
}

// TestRebuiltHello plays a prober who saw a client's ClientHello and puts its
// random, session id and share into one of his own, beside a share whose private
// half he has. He can finish that handshake with a cover that prefers his share,
// so he must be a stranger: a proof would be a record that does not open.
func TestRebuiltHello(t *testing.T) {
	s := goSite(t, func(c *tls.Config) { c.CurvePreferences = []tls.CurveID{tls.CurveP256} })
	r := startRelay(t, s, func(c *ListenerConfig) { c.Cover.Borrowed = true })
	hello, _ := r.recordedHello(t, func(c *DialerConfig) { c.Proof = true })
	before := r.Stats()
	seen, ok := parseClientHello(hello[headerLen:])
	if !ok {
		t.Fatal("no ClientHello was recorded")
	}

	conn, err := net.Dial("tcp", r.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	u := utls.UClient(conn, &utls.Config{ServerName: s.name, InsecureSkipVerify: true}, utls.HelloCustom)
	err = u.ApplyPreset(&utls.ClientHelloSpec{
		CipherSuites:       []uint16{tls.TLS_AES_128_GCM_SHA256},
		CompressionMethods: []byte{0},
		Extensions: []utls.TLSExtension{
			&utls.SNIExtension{},
			&utls.SupportedCurvesExtension{Curves: []utls.CurveID{utls.CurveP256, utls.X25519}},
			&utls.SignatureAlgorithmsExtension{SupportedSignatureAlgorithms: []utls.SignatureScheme{utls.ECDSAWithP256AndSHA256}},
			&utls.SupportedVersionsExtension{Versions: []uint16{utls.VersionTLS13}},
			&utls.KeyShareExtension{KeyShares: []utls.KeyShare{
				{Group: utls.CurveP256}, {Group: utls.X25519, Data: seen.share[:]},
			}},
		},
	})
	if err == nil {
		err = u.BuildHandshakeState()
	}
	if err != nil {
		t.Fatal(err)
	}
	u.HandshakeState.Hello.Random, u.HandshakeState.Hello.SessionId = seen.random[:], seen.sessionID[:]
	if err := errors.Join(u.MarshalClientHello(), u.Handshake()); err != nil {
		t.Fatalf("the prober cannot finish his handshake: %v", err)
	}
	if _, err := io.WriteString(u, "GET / HTTP/1.1\r\nHost: "+s.name+"\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	_ = u.SetReadDeadline(time.Now().Add(time.Second))
	answer, err := io.ReadAll(u)
	if !errors.Is(err, os.ErrDeadlineExceeded) || !bytes.Contains(answer, []byte("storks")) {
		t.Errorf("the prober reads %d bytes, then: %v", len(answer), err)
	}
	if st := r.Stats(); st.Candidates != before.Candidates || st.CovertOut != before.CovertOut {
		t.Errorf("the prober is taken for a client: %+v, before %+v", st, before)
	}
}

// TestReplayGetsNoProof plays a prober who replays a whole ClientHello to the
// relay of a borrowed cover, and a record of nonsense before the cover's flight is
// through. What the cover says then only seems to follow a Finished; the
// prober, who counts records, must not see one more than the cover sent.
func TestReplayGetsNoProof(t *testing.T) {
	s := goSite(t, nil)
	genuine := startRelay(t, s, func(c *ListenerConfig) { c.Cover.Borrowed = true })
	hello, flight := genuine.recordedHello(t, func(c *DialerConfig) { c.Proof = true })
	first := headerLen + int(binary.BigEndian.Uint16(flight[3:])) // ServerHello
	rest := append([]byte{recordData, 3, 3, 0, 100}, make([]byte, 100)...)
	alert := append([]byte{recordData, 3, 3, 0, 19}, make([]byte, 19)...)
	nonsense := append([]byte{recordData, 3, 3, 0, 53}, make([]byte, 53)...)
	for name, c := range map[string]struct {
		said    []byte
		refuses bool // the cover, as it does when a record was whole
	}{
		"half a record":  {nonsense[:20], false},
		"a whole record": {nonsense, true},
	} {
		t.Run(name, func(t *testing.T) {
			ln, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer ln.Close()
			done := make(chan struct{})
			want := append(bytes.Clone(flight[:first]), rest...)
			if c.refuses {
				want = append(want, alert...)
			}
			go func() { // the cover, far away
				defer close(done)
				cover, err := ln.Accept()
				if err != nil {
					return
				}
				defer cover.Close()
				if _, err := io.ReadFull(cover, make([]byte, len(hello))); err != nil {
					return
				}
				time.Sleep(60 * time.Millisecond) // the network's, not a wait
				_, _ = cover.Write(flight[:first])
				_, _ = io.ReadFull(cover, make([]byte, len(c.said)))
				_, _ = cover.Write(rest) // it was under way
				if c.refuses {
					time.Sleep(60 * time.Millisecond)
					_, _ = cover.Write(alert)
					return
				}
				_, _ = io.Copy(io.Discard, cover)
			}()
			far := *s
			far.addr = ln.Addr().String()
			r := startRelay(t, &far, func(c *ListenerConfig) { c.Cover.Borrowed, c.Key = true, genuine.key })
			conn, err := net.Dial("tcp", r.addr)
			if err != nil {
				t.Fatal(err)
			}
			_, _ = conn.Write(hello)
			_ = conn.SetReadDeadline(time.Now().Add(patience))
			got := make([]byte, first)
			if _, err := io.ReadFull(conn, got); err != nil {
				t.Fatal(err)
			}
			_, _ = conn.Write(c.said)
			_ = conn.SetReadDeadline(time.Now().Add(time.Second))
			more, _ := io.ReadAll(conn)
			if got = append(got, more...); !bytes.Equal(got, want) {
				t.Errorf("the cover sent %d bytes, the prober got %d", len(want), len(got))
			}
			if st := r.Stats(); st.Candidates != 1 || st.CovertOut != 0 {
				t.Errorf("stats %+v", st)
			}
			conn.Close()
			<-done
		})
	}
}

// TestSlowCover checks rule 5 from end to end: the reply follows a word of the
// cover and its silence, and comes in the end without them.
func TestSlowCover(t *testing.T) {
	s := goSite(t, nil)
	for name, c := range map[string]struct {
		hold        int
		least, most time.Duration
	}{
		"ordinary": {0, coverSilence, replyLatest - 50*time.Millisecond},
		"silent":   {1000, replyLatest, 10 * replyLatest}, // after its flight
	} {
		t.Run(name, func(t *testing.T) {
			slow := newStage(t, s.addr)
			slow.mu.Lock()
			slow.holdAfter = c.hold
			slow.mu.Unlock()
			far := *s
			far.addr = slow.addr
			r := startRelay(t, &far, nil)
			d := r.dialer(t, nil)
			begin := time.Now()
			r.pair(t, d)
			if took := time.Since(begin); took < c.least || took > c.most {
				t.Errorf("the dial took %v, want %v to %v", took, c.least, c.most)
			}
		})
	}
}
