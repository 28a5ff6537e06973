// Package capture takes a browser's look: it shows the browser a site of its own on
// loopback and writes down what the browser says there.
//
// # Concept
//
// [Take] starts a browser that is installed here, without a window and with a fresh
// profile, and leads it over pages of a local TLS server, each under a name of its own,
// and each twice: the first connection to a name is fresh, the second is resumed. The
// server ends each connection after its page, so that every page needs a new one. What
// was said is put together by obfs/look, as when a look is learned.
//
// # Guarantees
//
// Nothing leaves this machine: the site is on loopback, and the browser is told that
// no other name exists. The browser ends with the context. Its profile is removed.
package capture

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"busel/obfs/look"
)

// Bounds.
const (
	connTime   = 20 * time.Second // of one connection
	maxHello   = 16 << 10
	maxFlight  = 1 << 20 // bytes of what follows
	upload     = 400_000 // bytes that the browser sends on one page
	maxH2Frame = 16 << 10
)

// Visit is one connection of the browser.
type Visit struct {
	Raw   []byte // the ClientHello message with its header
	Hello *look.Hello
	Path  string
	HTTP  look.HTTP // of HTTP/2, Navigate; or HTTP1 alone
	// Upload are the lengths of the records with the body of an upload, as in their
	// headers, on the one connection that has one; there KeepAlive is the time until the
	// next TCP keepalive probe in seconds, 0 if none is due or it cannot be told.
	Upload    []int
	KeepAlive float64
}

// site is the server.
type site struct {
	ln     net.Listener
	port   string
	cert   tls.Certificate
	config *tls.Config
	pages  int // names; there is one more, which speaks HTTP/1.1
	done   chan struct{}
	finish func()

	wg     sync.WaitGroup
	mu     sync.Mutex
	visits []Visit
	err    error
}

// host is the name of page n.
func host(n int) string { return fmt.Sprintf("a%04d.look.example", n) }

func newSite(pages int) (*site, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()),
		Subject:      pkix.Name{CommonName: "look.example"},
		NotBefore:    time.Now().Add(-24 * time.Hour),
		NotAfter:     time.Now().Add(30 * 24 * time.Hour),
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		DNSNames:     []string{"*.look.example"},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return nil, err
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	s := &site{
		cert:  tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf},
		pages: pages, done: make(chan struct{}),
	}
	s.finish = sync.OnceFunc(func() { close(s.done) })
	s.config = &tls.Config{Certificates: []tls.Certificate{s.cert}, NextProtos: []string{"h2", "http/1.1"}, MinVersion: tls.VersionTLS13}
	old := s.config.Clone()
	old.NextProtos = []string{"http/1.1"}
	s.config.GetConfigForClient = func(h *tls.ClientHelloInfo) (*tls.Config, error) {
		if h.ServerName == host(pages) {
			return old, nil
		}
		return nil, nil
	}
	if s.ln, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
		return nil, err
	}
	_, s.port, err = net.SplitHostPort(s.ln.Addr().String())
	return s, err
}

// url is the address of page n's first or second visit.
func (s *site) url(n int, again bool) string {
	u := "https://" + host(n) + ":" + s.port + "/"
	if again {
		u += "again"
	}
	return u
}

// spki is how Chromium names the certificate's key.
func (s *site) spki() [32]byte { return sha256.Sum256(s.cert.Leaf.RawSubjectPublicKeyInfo) }

// run serves until ctx ends.
func (s *site) run(ctx context.Context) {
	stop := context.AfterFunc(ctx, func() { s.ln.Close() })
	defer stop()
	defer s.wg.Wait()
	defer s.ln.Close()
	for {
		c, err := s.ln.Accept()
		if err != nil {
			return
		}
		s.wg.Go(func() {
			defer c.Close()
			stop := context.AfterFunc(ctx, func() { c.Close() })
			defer stop()
			_ = c.SetDeadline(time.Now().Add(connTime))
			if err := s.serve(c); err != nil {
				s.mu.Lock()
				s.err = err
				s.mu.Unlock()
			}
		})
	}
}

// taken returns the connections so far on which a page was asked for.
func (s *site) taken() ([]Visit, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.visits, s.err
}

// tap keeps the first bytes that are read.
type tap struct {
	net.Conn
	heard   bytes.Buffer
	seen    int   // bytes of it that are in records
	records []int // their lengths
}

func (t *tap) Read(b []byte) (int, error) {
	n, err := t.Conn.Read(b)
	if room := maxFlight - t.heard.Len(); room > 0 {
		t.heard.Write(b[:min(n, room)])
	}
	for b := t.heard.Bytes(); len(b) >= t.seen+5; {
		n := int(binary.BigEndian.Uint16(b[t.seen+3:]))
		if len(b) < t.seen+5+n {
			break
		}
		t.seen += 5 + n
		t.records = append(t.records, n)
	}
	return n, err
}

// hello takes the ClientHello out of what was heard.
func (t *tap) hello() ([]byte, bool) {
	var msg []byte
	for b := t.heard.Bytes(); len(b) >= 5 && b[0] == 22; {
		n := int(binary.BigEndian.Uint16(b[3:]))
		if len(b) < 5+n {
			break
		}
		msg = append(msg, b[5:5+n]...)
		b = b[5+n:]
		if len(msg) >= 4 && len(msg) >= 4+int(msg[1])<<16+int(msg[2])<<8+int(msg[3]) {
			return msg, len(msg) <= maxHello
		}
	}
	return nil, false
}

// serve answers one connection. A browser opens some that it does not use: they end
// without an error.
func (s *site) serve(conn net.Conn) error {
	t := &tap{Conn: conn}
	c := tls.Server(t, s.config)
	if err := c.Handshake(); err != nil {
		if t.heard.Len() == 0 {
			return nil
		}
		return fmt.Errorf("the browser's handshake: %w", err)
	}
	v := Visit{}
	var ok bool
	if v.Raw, ok = t.hello(); !ok {
		return errors.New("no ClientHello was found")
	}
	var err error
	if v.Hello, err = look.ParseHello(v.Raw); err != nil {
		return err
	}
	var n int
	if _, err := fmt.Sscanf(v.Hello.Name, "a%04d.look.example", &n); err != nil || n > s.pages {
		return nil
	}
	var w interface {
		read(v *Visit) error
		answer(next string) error
	}
	switch proto := c.ConnectionState().NegotiatedProtocol; {
	case n == s.pages:
		w = &h1{c: c}
	case proto == "h2":
		w = &h2{c: c, fr: http2.NewFramer(c, c)}
	default:
		return nil // a request of the browser's own, such as a web socket's
	}
	if err := w.read(&v); err != nil {
		return nil // opened beside another one, and not used
	}
	var next string
	again := v.Path == "/again"
	switch {
	case n == s.pages:
	case again:
		next = s.url(n+1, false)
		if h2, ok := w.(*h2); ok && n == s.pages-1 {
			if err := h2.upload(t, &v); err != nil {
				return err
			}
		}
	case v.Path == "/":
		next = s.url(n, true)
	default: // an icon
		return nil
	}
	s.mu.Lock()
	s.visits = append(s.visits, v)
	s.mu.Unlock()
	err = w.answer(next)
	if n == s.pages {
		s.finish()
	}
	if err == nil {
		_, _ = io.Copy(io.Discard, io.LimitReader(c, maxFlight)) // until the browser ends it
	}
	return nil
}

// page has an icon, so that the browser does not ask for one.
const page = `<!doctype html><link rel=icon href="data:,"><title>Busel</title>`

// h2 is the server's end of one HTTP/2 connection.
type h2 struct {
	c  *tls.Conn
	fr *http2.Framer
	id uint32
}

// read reads the preface and everything up to the first request.
func (w *h2) read(v *Visit) error {
	preface := make([]byte, len(http2.ClientPreface))
	if _, err := io.ReadFull(w.c, preface); err != nil || string(preface) != http2.ClientPreface {
		return errors.New("no preface")
	}
	w.fr.SetMaxReadFrameSize(maxH2Frame)
	w.fr.ReadMetaHeaders = hpack.NewDecoder(65536, nil)
	// No window shall end an upload.
	if err := errors.Join(w.fr.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: maxFlight}), w.fr.WriteWindowUpdate(0, maxFlight)); err != nil {
		return err
	}
	for range 64 {
		f, err := w.fr.ReadFrame()
		if err != nil {
			return err
		}
		switch f := f.(type) {
		case *http2.SettingsFrame:
			if f.IsAck() {
				break
			}
			_ = f.ForeachSetting(func(s http2.Setting) error {
				v.HTTP.Settings = append(v.HTTP.Settings, look.Setting{ID: uint16(s.ID), Value: s.Val})
				if s.ID == http2.SettingInitialWindowSize {
					v.HTTP.StreamWindow = s.Val
				}
				return nil
			})
			if err := w.fr.WriteSettingsAck(); err != nil {
				return err
			}
		case *http2.WindowUpdateFrame:
			if f.StreamID == 0 {
				v.HTTP.ConnWindow = f.Increment
			}
		case *http2.MetaHeadersFrame:
			w.id = f.StreamID
			v.HTTP.First = f.StreamID
			v.HTTP.Weight, v.HTTP.Exclusive = f.Priority.Weight, f.Priority.Exclusive
			for _, x := range f.Fields {
				if x.IsPseudo() {
					v.HTTP.Pseudo = append(v.HTTP.Pseudo, x.Name)
					if x.Name == ":path" {
						v.Path = x.Value
					}
					continue
				}
				v.HTTP.Navigate = append(v.HTTP.Navigate, look.Field{Name: x.Name, Value: x.Value})
			}
			return w.behind(v)
		}
	}
	return errors.New("no request")
}

// behind reads what the browser sent together with the request: all that comes before
// its answer to a PING.
func (w *h2) behind(v *Visit) error {
	if err := w.fr.WritePing(false, [8]byte{}); err != nil {
		return err
	}
	for range 64 {
		f, err := w.fr.ReadFrame()
		if err != nil {
			return err
		}
		switch f := f.(type) {
		case *http2.PingFrame:
			if f.IsAck() {
				return nil
			}
			if err := w.fr.WritePing(true, f.Data); err != nil {
				return err
			}
		case *http2.SettingsFrame:
			if !f.IsAck() {
				return errors.New("settings twice")
			}
		case *http2.WindowUpdateFrame:
			if f.StreamID == w.id {
				v.HTTP.RequestWindow = f.Increment
			}
		}
	}
	return errors.New("no answer to a PING")
}

// uploading is a page that sends something large.
var uploading = fmt.Sprintf(`<!doctype html><link rel=icon href="data:,"><script>fetch("/up",{method:"POST",body:new Uint8Array(%d)}).then(()=>location="/again")</script>`, upload)

// upload answers the request with a page that sends something, notes the records, and
// goes on to the next request for the page.
func (w *h2) upload(t *tap, v *Visit) error {
	if err := w.page(uploading, "", false); err != nil {
		return err
	}
	begin := 0
	for range 4096 {
		f, err := w.fr.ReadFrame()
		if err != nil {
			return err
		}
		switch f := f.(type) {
		case *http2.PingFrame:
			if !f.IsAck() {
				err = w.fr.WritePing(true, f.Data)
			}
		case *http2.MetaHeadersFrame:
			w.id = f.StreamID
			if f.StreamEnded() { // the page again
				return nil
			}
			begin = len(t.records)
		case *http2.DataFrame:
			if begin > 0 && f.StreamEnded() {
				v.Upload = slices.Clone(t.records[begin:])
				v.KeepAlive = probeIn(t.RemoteAddr())
				err = w.page("ok", "", false)
			}
		}
		if err != nil {
			return err
		}
	}
	return errors.New("the upload does not end")
}

// answer sends a page that leads to next, and ends the connection.
func (w *h2) answer(next string) error { return w.page(page, next, true) }

// page sends one, and ends the connection if it is the last.
func (w *h2) page(text, next string, last bool) error {
	var b bytes.Buffer
	enc := hpack.NewEncoder(&b)
	fields := []hpack.HeaderField{{Name: ":status", Value: "200"}, {Name: "content-type", Value: "text/html"},
		{Name: "cache-control", Value: "no-store"}, {Name: "content-length", Value: strconv.Itoa(len(text))}}
	if next != "" {
		fields = append(fields, hpack.HeaderField{Name: "refresh", Value: "0; url=" + next})
	}
	for _, f := range fields {
		if err := enc.WriteField(f); err != nil {
			return err
		}
	}
	err := errors.Join(
		w.fr.WriteHeaders(http2.HeadersFrameParam{StreamID: w.id, BlockFragment: b.Bytes(), EndHeaders: true}),
		w.fr.WriteData(w.id, true, []byte(text)),
	)
	if err != nil || !last {
		return err
	}
	return errors.Join(
		w.fr.WriteGoAway(w.id, http2.ErrCodeNo, nil),
		w.c.CloseWrite(),
	)
}

// h1 is the same for HTTP/1.1.
type h1 struct{ c *tls.Conn }

// read reads the request's head, line by line: its order is what matters.
func (w *h1) read(v *Visit) error {
	r := bufio.NewReader(io.LimitReader(w.c, maxFlight))
	for i := 0; ; i++ {
		line, err := r.ReadString('\n')
		if err != nil {
			return err
		}
		line = strings.TrimRight(line, "\r\n")
		if line == "" {
			return nil
		}
		if i == 0 {
			if words := strings.Fields(line); len(words) == 3 {
				v.Path = words[1]
			}
			continue
		}
		if name, value, ok := strings.Cut(line, ": "); ok && name != "Host" {
			v.HTTP.HTTP1 = append(v.HTTP.HTTP1, look.Field{Name: name, Value: value})
		}
	}
}

func (w *h1) answer(string) error {
	_, err := fmt.Fprintf(w.c, "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s", len(page), page)
	return errors.Join(err, w.c.CloseWrite())
}
