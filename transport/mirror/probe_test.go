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
