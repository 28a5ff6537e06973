package mirror

import (
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"slices"
	"time"

	utls "github.com/refraction-networking/utls"

	"busel/obfs/look"
)

// tryTime bounds one handshake in memory.
const tryTime = 5 * time.Second

// TryLook does handshakes with a look, fresh and resumed, against a server in memory,
// with each of the groups that a cover may choose, and compares what goes on the wire
// with the look. nil means that carriers can be made with it. Whatever the look, it
// returns: what makes utls panic is an error here.
func TryLook(l *look.Look) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("look %s: utls: %v", l.Name, p)
		}
	}()
	if err := l.Check(); err != nil {
		return err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), DNSNames: []string{tryName}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return err
	}
	server := &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}, NextProtos: []string{"h2"}, MinVersion: tls.VersionTLS13}
	groups := []tls.CurveID{tls.X25519}
	if slices.Contains(l.TLS.Shares, look.GroupHybrid) {
		groups = append(groups, tls.X25519MLKEM768)
	}
	for _, g := range groups {
		server := server.Clone()
		server.CurvePreferences = []tls.CurveID{g}
		session, err := tryOnce(l, server, nil)
		if err == nil && session == nil {
			err = errors.New("no ticket came")
		}
		if err == nil {
			_, err = tryOnce(l, server, session)
		}
		if err != nil {
			return fmt.Errorf("look %s: %w", l.Name, err)
		}
	}
	return nil
}

// tryName is the server's, in memory.
const tryName = "look.example"

// tryOnce does one handshake and returns the ticket that came.
func tryOnce(l *look.Look, cfg *tls.Config, session *utls.ClientSessionState) (*utls.ClientSessionState, error) {
	up, down := newPipe(), newPipe()
	end := func() {
		up.close(net.ErrClosed)
		down.close(net.ErrClosed)
	}
	defer end()
	late := time.AfterFunc(tryTime, end)
	defer late.Stop()
	type result struct {
		msg     []byte
		resumed bool
		err     error
	}
	served := make(chan result, 1)
	go func() { // ends with the pipes
		heard := &listener{side: side{in: up, out: down}}
		s := tls.Server(heard, cfg)
		err := s.Handshake()
		if err == nil {
			_, err = s.Write([]byte{1}) // behind the ticket
		}
		if err != nil {
			end()
		}
		served <- result{heard.msgs.buf, s.ConnectionState().DidResume, err}
	}()
	var ticket *utls.ClientSessionState
	res := &resumption{session, func(s *utls.ClientSessionState) { ticket = s }}
	client := &utls.Config{ServerName: tryName, InsecureSkipVerify: true, MinVersion: utls.VersionTLS12}
	sign := func([]byte, *ecdh.PrivateKey) ([]byte, error) {
		id := make([]byte, 32)
		_, err := rand.Read(id)
		return id, err
	}
	u, err := newTLS(&side{in: down, out: up}, l, client, res, sign)
	if err != nil {
		return nil, err
	}
	if err := u.Handshake(); err != nil {
		return nil, err
	}
	if _, err := io.ReadFull(u, make([]byte, 1)); err != nil {
		return nil, err
	}
	r := <-served
	switch {
	case r.err != nil:
		return nil, r.err
	case r.resumed != (session != nil):
		return nil, errors.New("the session was not resumed")
	case u.ConnectionState().NegotiatedProtocol != "h2":
		return nil, errors.New("the protocol is not h2")
	}
	h, err := look.ParseHello(r.msg)
	if err != nil {
		return nil, err
	}
	if want := l.TLS.JA4(l.TLS.IDs(session != nil)); h.JA4() != want || h.Resumed != (session != nil) {
		return nil, fmt.Errorf("its JA4 is %s, not %s", h.JA4(), want)
	}
	return ticket, nil
}

// side is one end of a connection in memory, as far as TLS stacks need one.
type side struct {
	net.Conn
	in, out *pipe
}

func (s *side) Read(b []byte) (int, error) { return s.in.read(b) }

func (s *side) Write(b []byte) (int, error) {
	s.out.write(b)
	return len(b), nil
}

func (s *side) Close() error                     { return nil }
func (s *side) SetWriteDeadline(time.Time) error { return nil }

// listener takes the ClientHello out of what a server reads.
type listener struct {
	side
	msgs messages
	done bool
}

func (l *listener) Read(b []byte) (int, error) {
	n, err := l.side.Read(b)
	if !l.done {
		_, o := l.msgs.feed(b[:n], typeClientHello)
		l.done = o != needMore
	}
	return n, err
}
