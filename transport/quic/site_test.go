package quic

import (
	"bytes"
	"context"
	"crypto/ecdh"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/flynn/noise"
	quicgo "github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"

	"busel/internal/wire"
	"busel/transport"
	"busel/transport/transporttest"
)

// siteName is the name of the test's site.
const siteName = "example.com" // that of httptest's certificate

// testSite answers as the built-in site does: not all that is asked, and before
// the body has come.
func testSite(t testing.TB) *Site {
	s := httptest.NewUnstartedServer(nil)
	s.StartTLS()
	t.Cleanup(s.Close)
	return &Site{Certificate: s.TLS.Certificates[0], Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.Method != http.MethodGet && r.Method != http.MethodHead:
			http.Error(w, "Method Not Allowed", http.StatusMethodNotAllowed)
		case r.URL.Path == "/":
			fmt.Fprint(w, strings.Repeat("hello, visitor ", 1000))
		default:
			http.NotFound(w, r)
		}
	})}
}

func startSite(t testing.TB) (*testRelay, *Dialer) {
	t.Helper()
	site := testSite(t)
	r := startRelay(t, func(cfg *ListenerConfig) { cfg.Site = site })
	pin := sha256.Sum256(site.Certificate.Certificate[0])
	return r, r.visitor(t, siteName, &pin)
}

func (r *testRelay) visitor(t testing.TB, name string, pin *[32]byte) *Dialer {
	t.Helper()
	d, err := NewDialer(DialerConfig{PublicKey: [32]byte(r.key.PublicKey().Bytes()), CoverName: name, CertHash: pin})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return d
}

func (r *testRelay) siteRoute() transport.Route {
	v := r.route()
	v.Options = SiteOptions
	return v
}

func TestSiteConformance(t *testing.T) {
	transporttest.TestCarrier(t, func(t *testing.T) (client, relay transport.Carrier) {
		r, d := startSite(t)
		carriers, _ := r.answer(t, wire.Accept{})
		client, _, err := d.Dial(testContext(t), r.siteRoute(), testHello())
		if err != nil {
			t.Fatal(err)
		}
		relay = <-carriers
		t.Cleanup(func() { client.Close(); relay.Close() })
		return client, relay
	})
}

// A hello of every length arrives, and so does its answer.
func TestSiteHello(t *testing.T) {
	r, d := startSite(t)
	carriers, hellos := r.answer(t, wire.Accept{SessionLife: time.Hour})
	hello := testHello()
	hello.Mode = wire.ModeResume
	hello.Seal = func([]byte) []byte { return make([]byte, 16000) }
	c, got, err := d.Dial(testContext(t), r.siteRoute(), hello)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	defer (<-carriers).Close()
	if h := <-hellos; h.Token != hello.Token || len(h.SealedFrames) != 16000 || got.SessionLife != time.Hour {
		t.Errorf("the relay heard %v, the client %v", h, got)
	}
}

// What goes wrong has the right name; in none of the cases does the relay do
// anything but serve its site.
func TestSiteDialFailures(t *testing.T) {
	r, d := startSite(t)
	other, _ := startSite(t) // another key behind the same certificate
	wrong := [32]byte{1}
	go func() {
		for {
			p, err := r.Accept(context.Background())
			if err != nil {
				return
			}
			p.Close() // a token of somebody else
		}
	}()
	for name, c := range map[string]struct {
		d     *Dialer
		route transport.Route
		stage transport.Stage
		want  transport.Failure
	}{
		"another certificate": {r.visitor(t, siteName, &wrong), r.siteRoute(), transport.StageTLS, transport.Hijacked},
		"no authority":        {r.visitor(t, siteName, nil), r.siteRoute(), transport.StageTLS, transport.Hijacked},
		"another relay":       {d, other.siteRoute(), transport.StageHello, transport.Hijacked},
		"a foreign token":     {d, r.siteRoute(), transport.StageHello, transport.Hijacked},
		"no name":             {r.visitor(t, "", nil), r.siteRoute(), transport.StageConnect, ""},
	} {
		t.Run(name, func(t *testing.T) {
			_, _, err := c.d.Dial(testContext(t), c.route, testHello())
			if de, ok := errors.AsType[*transport.DialError](err); !ok || de.Stage != c.stage || de.Failure != c.want {
				t.Errorf("%v", err)
			}
		})
	}
}

// A stranger gets from the relay what a stock HTTP/3 server answers that has the
// site and nothing else.
func TestSiteStrangers(t *testing.T) {
	r, _ := startSite(t)
	stock, pool := startStock(t)
	visit := func(addr, method, path, cookie string, body io.Reader) string {
		h := &http3.Transport{TLSClientConfig: &tls.Config{RootCAs: pool, ServerName: siteName}}
		defer h.Close()
		h.Dial = func(ctx context.Context, _ string, c *tls.Config, q *quicgo.Config) (*quicgo.Conn, error) {
			return quicgo.DialAddrEarly(ctx, addr, c, q)
		}
		req, err := http.NewRequestWithContext(testContext(t), method, "https://"+siteName+path, body)
		if err != nil {
			t.Fatal(err)
		}
		if cookie != "" {
			req.Header.Set("Cookie", cookie)
		}
		resp, err := h.RoundTrip(req)
		if err != nil {
			e, _ := errors.AsType[*http3.Error](err)
			return fmt.Sprintf("error %+v", e)
		}
		defer resp.Body.Close()
		data, err := io.ReadAll(resp.Body)
		resp.Header.Del("Date")
		return fmt.Sprintf("%d %v %x %v", resp.StatusCode, resp.Header, sha256.Sum256(data), err)
	}
	mark := markCookie + strings.Repeat("A", markLen)
	never, _ := io.Pipe() // a body that does not come
	for name, c := range map[string]struct {
		method, path, cookie string
		body                 func() io.Reader
	}{
		"page":               {method: "GET", path: "/"},
		"head":               {method: "HEAD", path: "/"},
		"missing":            {method: "GET", path: "/x"},
		"options":            {method: "OPTIONS", path: "/"},
		"connect":            {method: "CONNECT", path: ""},
		"post":               {method: "POST", path: "/", body: func() io.Reader { return bytes.NewReader(make([]byte, 5000)) }},
		"post without a end": {method: "POST", path: "/", body: func() io.Reader { return io.NopCloser(never) }},
		"a mark that is not": {method: "POST", path: "/", cookie: mark, body: func() io.Reader { return io.NopCloser(never) }},
		"long head":          {method: "GET", path: "/?" + strings.Repeat("x", 20000)},
		"cookies":            {method: "GET", path: "/", cookie: mark},
	} {
		t.Run(name, func(t *testing.T) {
			var answers [2]string
			for i, addr := range []string{r.addr, stock} {
				var body io.Reader
				if c.body != nil {
					body = c.body()
				}
				answers[i] = visit(addr, c.method, c.path, c.cookie, body)
			}
			if answers[0] != answers[1] {
				t.Errorf("the relay answers\n%s\nand the site alone\n%s", answers[0], answers[1])
			}
		})
	}
}

// startStock runs a stock HTTP/3 server with the test's site, and returns where, and
// who vouches for it.
func startStock(t *testing.T) (string, *x509.CertPool) {
	t.Helper()
	plain := testSite(t)
	socket, err := transport.System{}.ListenPacket(t.Context(), "udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	stock := plain.server(plain.Handler)
	stock.TLSConfig, stock.QUICConfig = &tls.Config{Certificates: []tls.Certificate{plain.Certificate}}, quicConfig()
	stock.QUICConfig.MaxIncomingStreams, stock.QUICConfig.MaxIncomingUniStreams, stock.QUICConfig.Versions = 0, 0, nil
	done := make(chan struct{})
	go func() { defer close(done); _ = stock.Serve(socket) }()
	t.Cleanup(func() { stock.Close(); socket.Close(); <-done })
	pool := x509.NewCertPool()
	leaf, _ := x509.ParseCertificate(plain.Certificate.Certificate[0])
	pool.AddCert(leaf)
	return socket.LocalAddr().String(), pool
}

// datagram has addr hear b, and says what comes back within the time in which an answer
// on this machine comes.
func datagram(t *testing.T, addr string, b []byte) string {
	t.Helper()
	c, err := net.Dial("udp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Write(b); err != nil {
		t.Fatal(err)
	}
	_ = c.SetReadDeadline(time.Now().Add(300 * time.Millisecond))
	var heard []string
	buf := make([]byte, 2000)
	for {
		n, err := c.Read(buf)
		if err != nil {
			return strings.Join(heard, ", ")
		}
		what := fmt.Sprintf("%d bytes", n)
		if n > 7 && buf[0]&0x80 != 0 && binary.BigEndian.Uint32(buf[1:]) == 0 { // Version Negotiation
			at := 5
			for range 2 {
				at += 1 + int(buf[at])
			}
			var versions []uint32
			for ; at+4 <= n; at += 4 {
				if v := binary.BigEndian.Uint32(buf[at:]); v&0x0f0f0f0f != 0x0a0a0a0a { // random ones (RFC 9000, section 15)
					versions = append(versions, v)
				}
			}
			slices.Sort(versions)
			what += fmt.Sprintf(" of versions %x", versions)
		}
		heard = append(heard, what)
	}
}

// end is how a server ends a connection on which a visitor said b on a stream of a kind.
func end(t *testing.T, addr string, pool *x509.CertPool, protocols []string, say func(*quicgo.Conn) error) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	c, err := quicgo.DialAddr(ctx, addr, &tls.Config{RootCAs: pool, ServerName: siteName, NextProtos: protocols}, &quicgo.Config{EnableDatagrams: true})
	if err != nil {
		return fmt.Sprintf("handshake: %v", err)
	}
	defer c.CloseWithError(noError, "")
	s := c.ConnectionState()
	said := fmt.Sprintf("%x %x %x %s %v %v, ", s.TLS.Version, s.TLS.CipherSuite, s.TLS.CurveID, s.TLS.NegotiatedProtocol, s.SupportsDatagrams, s.Version)
	if err := say(c); err != nil {
		return said + err.Error()
	}
	select {
	case <-c.Context().Done():
		return said + context.Cause(c.Context()).Error()
	case <-time.After(500 * time.Millisecond):
		return said + "goes on"
	}
}

// What a prober sends that is no request, the relay answers as the stock server does:
// datagrams that are no QUIC, or another one, and violations of HTTP/3.
func TestSiteProbes(t *testing.T) {
	r, _ := startSite(t)
	stock, pool := startStock(t)
	long := func(version uint32, n int) []byte {
		b := binary.BigEndian.AppendUint32([]byte{0xc3}, version)
		b = append(b, 8, 1, 2, 3, 4, 5, 6, 7, 8, 0, 0, 0x44, 0x96) // connection ids, no token, a length
		return append(b, bytes.Repeat([]byte{0x5a}, n-len(b))...)
	}
	uni := func(b ...byte) func(*quicgo.Conn) error {
		return func(c *quicgo.Conn) error {
			s, err := c.OpenUniStream()
			if err == nil {
				_, err = s.Write(b)
			}
			return err
		}
	}
	request := func(fin bool, b ...byte) func(*quicgo.Conn) error {
		return func(c *quicgo.Conn) error {
			s, err := c.OpenStream()
			if err != nil {
				return err
			}
			if _, err = s.Write(b); fin {
				err = errors.Join(err, s.Close())
			}
			return err
		}
	}
	both := func(all ...func(*quicgo.Conn) error) func(*quicgo.Conn) error {
		return func(c *quicgo.Conn) (err error) {
			for _, f := range all {
				err = errors.Join(err, f(c))
			}
			return err
		}
	}
	settings := uni(0, 4, 0)
	h3 := []string{http3.NextProtoH3}
	violation := func(say func(*quicgo.Conn) error) func(string) string {
		return func(addr string) string { return end(t, addr, pool, h3, say) }
	}
	for name, probe := range map[string]func(addr string) string{
		"a byte":                   func(addr string) string { return datagram(t, addr, []byte{0}) },
		"text":                     func(addr string) string { return datagram(t, addr, []byte("GET / HTTP/1.1\r\n\r\n")) },
		"short header":             func(addr string) string { return datagram(t, addr, bytes.Repeat([]byte{0x41}, 60)) },
		"long short header":        func(addr string) string { return datagram(t, addr, bytes.Repeat([]byte{0x41}, 1200)) },
		"unknown version":          func(addr string) string { return datagram(t, addr, long(0x1a2a3a4a, 1200)) },
		"unknown version, short":   func(addr string) string { return datagram(t, addr, long(0x1a2a3a4a, 600)) },
		"draft 29":                 func(addr string) string { return datagram(t, addr, long(0xff00001d, 1250)) },
		"version 0":                func(addr string) string { return datagram(t, addr, long(0, 1200)) },
		"version 1, random":        func(addr string) string { return datagram(t, addr, long(1, 1200)) },
		"version 1, random, short": func(addr string) string { return datagram(t, addr, long(1, 300)) },
		"version 2, random":        func(addr string) string { return datagram(t, addr, long(0x6b3343cf, 1200)) },
		"DNS": func(addr string) string {
			return datagram(t, addr, []byte("\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x01a\x00\x00\x01\x00\x01"))
		},
		"h3":                         func(addr string) string { return end(t, addr, pool, h3, settings) },
		"another protocol":           func(addr string) string { return end(t, addr, pool, []string{"hq-interop"}, settings) },
		"no protocol":                func(addr string) string { return end(t, addr, pool, nil, settings) },
		"silence":                    violation(func(*quicgo.Conn) error { return nil }),
		"data first":                 violation(both(settings, request(false, 0, 3, 'a', 'b', 'c'))),
		"SETTINGS in a request":      violation(both(settings, request(false, 4, 0))),
		"headers that are none":      violation(both(settings, request(true, 1, 4, 0xff, 0xff, 0xff, 0xff))),
		"an empty request":           violation(both(settings, request(true))),
		"half a frame":               violation(both(settings, request(true, 1, 50, 0, 0))),
		"an unknown frame, no more":  violation(both(settings, request(true, 0x21, 3, 1, 2, 3))),
		"a frame of HTTP/2":          violation(both(settings, request(false, 6, 0))),
		"two control streams":        violation(both(settings, settings)),
		"control without SETTINGS":   violation(uni(0, 7, 1, 0)),
		"SETTINGS of HTTP/2":         violation(uni(0, 4, 2, 3, 1)),
		"SETTINGS twice":             violation(uni(0, 4, 0, 4, 0)),
		"data on the control stream": violation(uni(0, 4, 0, 0, 1, 1)),
		"GOAWAY":                     violation(uni(0, 4, 0, 7, 1, 0)),
		"a push":                     violation(both(settings, uni(1, 0))),
		"an unknown stream":          violation(both(settings, uni(0x40, 0x54, 1, 2, 3))),
		"encoder instructions":       violation(both(settings, uni(2, 0xc0, 1, 'x'))),
		"a datagram of no request":   violation(both(settings, func(c *quicgo.Conn) error { return c.SendDatagram([]byte{0, 1, 2}) })),
		"an empty datagram":          violation(both(settings, func(c *quicgo.Conn) error { return c.SendDatagram(nil) })),
		"a closed control stream": violation(func(c *quicgo.Conn) error {
			s, err := c.OpenUniStream()
			if err == nil {
				_, err = s.Write([]byte{0, 4, 0})
				err = errors.Join(err, s.Close())
			}
			return err
		}),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for try := range 4 { // what the scheduler did is not seen four times running
				a, b := probe(stock), probe(r.addr)
				if a == b {
					break
				}
				if try == 3 {
					t.Errorf("the relay: %s\nthe site alone: %s", b, a)
				}
			}
		})
	}
}

// All places are taken by visitors who ask for nothing: a client gets in all the
// same, and the one who came first has to go, in good order.
func TestVisitorsMakeRoom(t *testing.T) {
	r, d := startSite(t)
	carriers, _ := r.answer(t, wire.Accept{})
	first, _, err := d.Dial(testContext(t), r.siteRoute(), testHello())
	if err != nil {
		t.Fatal(err)
	}
	firstRelay := <-carriers
	socket, err := transport.System{}.ListenPacket(t.Context(), "udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	visits := &quicgo.Transport{Conn: socket}
	defer socket.Close()
	defer visits.Close()
	to, err := net.ResolveUDPAddr("udp", r.addr)
	if err != nil {
		t.Fatal(err)
	}
	visit := func() *quicgo.Conn {
		t.Helper()
		c, err := visits.Dial(testContext(t), to, &tls.Config{InsecureSkipVerify: true, ServerName: siteName, NextProtos: []string{http3.NextProtoH3}}, nil)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	var all []*quicgo.Conn
	for len(all) < maxVisitors {
		all = append(all, visit())
	}
	c, _, err := d.Dial(testContext(t), r.siteRoute(), testHello())
	if err != nil {
		t.Fatalf("with %d visitors a client: %v", len(all), err)
	}
	relay := <-carriers
	for range 2 {
		all = append(all, visit())
	}
	for _, c := range all[:2] {
		select {
		case <-c.Context().Done():
		case <-time.After(patience):
			t.Fatal("nobody had to go")
		}
		if e, ok := errors.AsType[*quicgo.ApplicationError](context.Cause(c.Context())); !ok || e.ErrorCode != noError || !e.Remote {
			t.Errorf("who came first was sent away with %v", context.Cause(c.Context()))
		}
	}
	left := 0
	for _, c := range all {
		if c.Context().Err() == nil {
			left++
		}
	}
	// The client had a place, too, until it was known.
	if left < maxVisitors-1 || left > maxVisitors {
		t.Errorf("%d visitors are left, want %d", left, maxVisitors)
	}
	for _, pair := range [][2]transport.Carrier{{first, firstRelay}, {c, relay}} {
		exchange(t, pair[0], pair[1])
		exchange(t, pair[1], pair[0])
		pair[0].Close()
		pair[1].Close()
	}
}

// Who has to go when there are too many streams: who has the most of them, if that
// is more than everyone's share.
func TestDropOne(t *testing.T) {
	for _, c := range []struct {
		streams []int64
		want    int
	}{
		{nil, -1},
		{[]int64{0}, 0},
		{[]int64{0, 5, fairStreams}, 0},
		{[]int64{0, fairStreams + 1, 5}, 1},
		{[]int64{fairStreams + 1, 100, 99, 100}, 1},
	} {
		l, gone := new(Listener), -1
		for i, n := range c.streams {
			v := &visitor{l: l, drop: func() { gone = i }}
			v.streams.Store(n)
			l.visitors = append(l.visitors, v)
		}
		if ok := l.makeRoom(); ok != (c.want >= 0) || gone != c.want || ok && len(l.visitors) != len(c.streams)-1 {
			t.Errorf("%v: %d has to go, %v, want %d", c.streams, gone, ok, c.want)
		}
	}
	// One opens streams as nobody else does.
	l := new(Listener)
	gone := 0
	for range maxVisitors {
		l.visitors = append(l.visitors, &visitor{l: l, drop: func() { t.Error("somebody else had to go") }})
		l.visitors[len(l.visitors)-1].streams.Store(fairStreams - 1)
	}
	greedy := &visitor{l: l, drop: func() { gone++ }}
	l.visitors[7] = greedy
	for range maxVisitors + fairStreams - 1 {
		if l.opened(greedy); gone > 0 {
			t.Fatalf("gone with %d streams", greedy.streams.Load())
		}
	}
	if l.opened(greedy); gone != 1 {
		t.Errorf("still there with %d streams", greedy.streams.Load())
	}
}

// FuzzRequest: whatever a stranger says in the head and body of a request, the site
// answers, and nothing of the body is read unless the head has this connection's
// mark; with it, only the hello made for this relay and connection opens, no more is
// read than a hello and a filler have, and nothing behind them.
func FuzzRequest(f *testing.F) {
	key, err := ecdh.X25519().NewPrivateKey(bytes.Repeat([]byte{7}, 32))
	if err != nil {
		f.Fatal(err)
	}
	const page = "the site"
	l, err := NewListener(ListenerConfig{
		Key: key, Listen: func(context.Context) ([]net.PacketConn, error) { return nil, nil },
		Site: &Site{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, page) })},
	})
	if err != nil {
		f.Fatal(err)
	}
	relay, binding := [32]byte(key.PublicKey().Bytes()), make([]byte, exporterLen)
	right, err := mark(binding, relay)
	if err != nil {
		f.Fatal(err)
	}
	// Its ephemeral key is fixed, as every fuzzing process makes the message anew.
	cfg := noiseConfig(binding)
	cfg.Initiator, cfg.PeerStatic, cfg.Random = true, relay[:], bytes.NewReader(bytes.Repeat([]byte{8}, 32))
	hs, err := noise.NewHandshakeState(cfg)
	if err != nil {
		f.Fatal(err)
	}
	var hello bytes.Buffer
	if err := writeMessage(&hello, hs, testHello().Append(nil)); err != nil {
		f.Fatal(err)
	}
	body := func(n int, rest ...byte) []byte { return slices.Concat(hello.Bytes(), filler(n), rest) }
	cookie := markCookie + right
	for _, seed := range []struct {
		method, cookie string
		body           []byte
	}{
		{"GET", cookie, body(0)}, {"GET", cookie, body(319, 1, 2, 3)}, {"GET", cookie, body(maxFiller)}, {"GET", cookie, body(maxFiller + 1)},
		{"GET", cookie, append(slices.Clone(hello.Bytes()), 0x40, 1)}, {"GET", cookie, append(slices.Clone(hello.Bytes()), 0xff, 0xff, 0)},
		{"GET", cookie, append(slices.Clone(hello.Bytes()), 0, 9, 1)}, {"GET", cookie, hello.Bytes()}, {"GET", cookie, nil},
		{"GET", cookie, []byte{0xff, 0xff, 0}}, {"GET", cookie, []byte{0, 47}}, {"GET", cookie, append([]byte{0, 48}, make([]byte, 48)...)},
		{"POST", cookie, body(0)}, {"get", cookie, body(0)}, {"HEAD", cookie, body(0)},
		{"GET", "", body(0)}, {"GET", right, body(0)}, {"GET", cookie[:len(cookie)-1], body(0)}, {"GET", cookie + "=", body(0)},
		{"GET", "ID=" + right, body(0)}, {"GET", cookie[:len(cookie)-1] + "!", body(0)}, {"GET", cookie + "; a=b", body(0)},
	} {
		f.Add(seed.method, seed.cookie, seed.body)
	}
	f.Fuzz(func(t *testing.T, method, cookies string, b []byte) {
		request := func() (*http.Request, *bytes.Reader) {
			unread := bytes.NewReader(b)
			return &http.Request{Method: method, Header: http.Header{"Cookie": {cookies}}, Body: io.NopCloser(unread)}, unread
		}
		visit := func() *visitor { return &visitor{l: l, binding: func() ([]byte, error) { return binding, nil }} }
		genuine := bytes.HasPrefix(b, hello.Bytes()) // and a whole filler behind it
		if genuine {
			rest := b[hello.Len():]
			n := len(rest)
			if n >= 2 {
				n = 2 + int(binary.BigEndian.Uint16(rest))
			}
			genuine = n >= 2 && n <= len(rest) && n <= 2+maxFiller
		}
		v := visit()
		r, unread := request()
		known := method == "GET" && cookies == cookie
		if got := v.marked(r); got != known {
			t.Fatalf("marked is %v for %q, %q", got, method, cookies)
		}
		if v.marked(r) {
			t.Fatal("a second request on the connection is marked, too")
		}
		if known {
			p, err := v.hear(r.Body)
			read := len(b) - unread.Len()
			switch {
			case (err == nil) != genuine:
				t.Fatalf("%x opens: %v", b, err)
			case read > 2+noiseOverhead+maxPayload+2+maxFiller:
				t.Fatalf("%d bytes were read", read)
			case err == nil && !bytes.Equal(p.hello.Append(nil), testHello().Append(nil)):
				t.Fatal("another hello was opened")
			case err == nil && read != hello.Len()+2+int(binary.BigEndian.Uint16(b[hello.Len():])):
				t.Fatalf("%d bytes of %d were read", read, len(b))
			}
		}
		if known && genuine {
			return
		}
		r, unread = request()
		w := httptest.NewRecorder()
		visit().ServeHTTP(w, r)
		if w.Body.String() != page || w.Code != http.StatusOK {
			t.Fatalf("the answer is %d %q", w.Code, w.Body)
		}
		if !known && unread.Len() != len(b) {
			t.Fatal("the relay reads the body of a request without a mark")
		}
	})
}

// A dial that was given up leaves no socket.
func TestCancelledDials(t *testing.T) {
	d, err := NewDialer(DialerConfig{PublicKey: [32]byte{9}})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	silent, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	counted := &countedNetwork{}
	d.cfg.Network = counted
	for range 10 {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		if _, _, err := d.Dial(ctx, transport.Route{Address: silent.LocalAddr().String()}, testHello()); err == nil {
			t.Error("nobody answered, and a carrier came")
		}
		cancel()
	}
	if n := counted.open; n != 0 {
		t.Errorf("%d sockets are open", n)
	}
}

// countedNetwork counts its sockets.
type countedNetwork struct {
	transport.System
	open int
}

type countedSocket struct {
	net.PacketConn
	n *countedNetwork
}

func (n *countedNetwork) ListenPacket(ctx context.Context, network, addr string) (net.PacketConn, error) {
	c, err := n.System.ListenPacket(ctx, network, addr)
	if err == nil {
		n.open++
	}
	return countedSocket{c, n}, err
}

func (c countedSocket) Close() error {
	c.n.open--
	return c.PacketConn.Close()
}
