package mirror

import (
	"bytes"
	"context"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"busel/internal/nginxtest"
	"busel/internal/wire"
	"busel/obfs/look"
	"busel/transport"
	"busel/transport/transporttest"
)

// patience bounds what must happen soon.
const patience = 60 * time.Second

const coverName = "www.cover.example"

// site is a cover.
type site struct {
	addr  string
	name  string
	roots *x509.CertPool
	leaf  [32]byte
	hits  func() int // requests so far; nil if not counted
}

// certificate makes a self-signed certificate.
func certificate(t testing.TB, name string) (tls.Certificate, *x509.Certificate) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	// Long out of date: a resident's clock may be wrong.
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name},
		NotBefore: time.Unix(1e9, 0), NotAfter: time.Unix(1e9+1e7, 0),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}, leaf
}

// largeFile is the size of a Go site's /large.bin in bytes.
const largeFile = 3_000_000

// goSite is a cover made of Go's own server.
func goSite(t testing.TB, change func(*tls.Config)) *site {
	t.Helper()
	cert, leaf := certificate(t, coverName)
	var mu sync.Mutex
	hits := 0
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		hits++
		mu.Unlock()
		if r.URL.Path == "/large.bin" {
			http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(make([]byte, largeFile)))
			return
		}
		fmt.Fprint(w, "<html>", string(bytes.Repeat([]byte("storks "), 300)), "</html>")
	}))
	s.TLS = &tls.Config{Certificates: []tls.Certificate{cert}}
	if change != nil {
		change(s.TLS)
	}
	s.EnableHTTP2 = len(s.TLS.NextProtos) == 0
	s.Config.ErrorLog = discardLog(t)
	s.StartTLS()
	t.Cleanup(func() {
		s.CloseClientConnections()
		s.Close()
	})
	pool := x509.NewCertPool()
	pool.AddCert(leaf)
	return &site{addr: s.Listener.Addr().String(), name: coverName, roots: pool, leaf: sha256.Sum256(leaf.Raw),
		hits: func() int { mu.Lock(); defer mu.Unlock(); return hits }}
}

// nginxSite is a cover made of nginx.
func nginxSite(t testing.TB, cfg nginxtest.Config) *site {
	t.Helper()
	if err := nginxtest.Available(); err != nil {
		t.Skip(err)
	}
	s := nginxtest.Run(t, cfg)
	return &site{addr: s.Address, name: s.Name, roots: s.Roots, leaf: sha256.Sum256(s.Leaf.Raw)}
}

// relay is a running listener in front of a site.
type relay struct {
	*Listener
	addr string
	key  *ecdh.PrivateKey
	site *site
}

func startRelay(t testing.TB, s *site, change func(*ListenerConfig)) *relay {
	t.Helper()
	return startRelayAt(t, s, "127.0.0.1:0", transport.System{}.Listen, change)
}

// startRelayAt is startRelay on another address or in another network.
func startRelayAt(t testing.TB, s *site, at string, listen func(ctx context.Context, addr string) (net.Listener, error), change func(*ListenerConfig)) *relay {
	t.Helper()
	key, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	r := &relay{key: key, site: s}
	ready := make(chan struct{})
	var once sync.Once
	cfg := ListenerConfig{
		Listen: func(ctx context.Context) (net.Listener, error) {
			addr := r.addr
			if addr == "" {
				addr = at
			}
			ln, err := listen(ctx, addr)
			if err == nil {
				once.Do(func() {
					r.addr = ln.Addr().String()
					close(ready)
				})
			}
			return ln, err
		},
		Key:   key,
		Cover: Cover{Address: s.addr, Name: s.name, Idle: time.Minute, Lifetime: time.Hour},
	}
	if change != nil {
		change(&cfg)
	}
	if r.Listener, err = NewListener(cfg); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	<-ready
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
		if n := r.Stats().Conns; n != 0 {
			t.Errorf("%d connections are left", n)
		}
	})
	return r
}

func (r *relay) dialer(t testing.TB, change func(*DialerConfig)) *Dialer {
	t.Helper()
	cfg := DialerConfig{PublicKey: [32]byte(r.key.PublicKey().Bytes()), CoverName: r.site.name, Roots: r.site.roots}
	if change != nil {
		change(&cfg)
	}
	d, err := NewDialer(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return d
}

func (r *relay) route() transport.Route { return routeTo(r.addr) }

func routeTo(addr string) transport.Route {
	return transport.Route{Relay: "r1", Transport: "mirror", Address: addr}
}

func testHello() *wire.Hello {
	h := &wire.Hello{Carrier: 7, Dropped: []uint32{1, 5}}
	h.Secret[3] = 9
	h.Token[2] = 4
	return h
}

func testContext(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return ctx
}

// answer accepts one hello and answers it.
func (r *relay) answer(t testing.TB, a *wire.Accept) (<-chan transport.Carrier, <-chan *wire.Hello) {
	carriers, hellos := make(chan transport.Carrier, 1), make(chan *wire.Hello, 1)
	ctx := testContext(t)
	go func() {
		defer close(carriers)
		p, err := r.Accept(ctx)
		if err != nil {
			return
		}
		hellos <- p.Hello()
		c, err := p.Answer(a)
		if err != nil {
			t.Errorf("Answer: %v", err)
			return
		}
		if c != nil {
			carriers <- c
		}
	}()
	return carriers, hellos
}

func okAccept() *wire.Accept { return &wire.Accept{SessionLife: time.Hour, Frames: pingFrame(1)} }

func pingFrame(n byte) []byte {
	return (&wire.Frame{Type: wire.Ping, Ping: [8]byte{n}}).Append(nil)
}

// pair is a live carrier's two ends.
func (r *relay) pair(t testing.TB, d *Dialer) (client, server transport.Carrier) {
	t.Helper()
	return r.pairOver(t, d, r.route())
}

// pairOver is pair over a route to the relay.
func (r *relay) pairOver(t testing.TB, d *Dialer, route transport.Route) (client, server transport.Carrier) {
	t.Helper()
	carriers, _ := r.answer(t, okAccept())
	client, _, err := d.Dial(testContext(t), route, testHello())
	if err != nil {
		t.Fatalf("Dial: %v", err)
	}
	server = <-carriers
	if server == nil {
		t.Fatal("no carrier at the relay")
	}
	t.Cleanup(func() { client.Close(); server.Close() })
	return client, server
}

// send moves one PING from a to b.
func send(t testing.TB, a, b transport.Carrier, n byte) {
	t.Helper()
	if err := a.WriteFrames([]transport.Frame{{Data: pingFrame(n)}}); err != nil {
		t.Fatalf("WriteFrames: %v", err)
	}
	want(t, b, n)
}

func want(t testing.TB, c transport.Carrier, n byte) {
	t.Helper()
	watchdog := time.AfterFunc(patience, func() { c.Close() })
	defer watchdog.Stop()
	buf := make([]byte, 64<<10)
	for {
		m, err := c.ReadFrames(buf)
		if err != nil {
			t.Fatalf("ReadFrames: %v", err)
		}
		for b := buf[:m]; len(b) > 0; {
			var f wire.Frame
			k, err := wire.Parse(b, &f)
			if err != nil {
				t.Fatal(err)
			}
			if f.Type == wire.Ping && f.Ping[0] == n {
				return
			}
			b = b[k:]
		}
	}
}

// ends reads until the carrier's end.
func ends(t testing.TB, c transport.Carrier) error {
	t.Helper()
	watchdog := time.AfterFunc(patience, func() {
		t.Error("the carrier did not end")
		c.Close()
	})
	defer watchdog.Stop()
	buf := make([]byte, 64<<10)
	for {
		if _, err := c.ReadFrames(buf); err != nil {
			return err
		}
	}
}

func dialFailure(t *testing.T, err error) *transport.DialError {
	t.Helper()
	e, ok := errors.AsType[*transport.DialError](err)
	if !ok {
		t.Fatalf("error is %T (%v)", err, err)
	}
	return e
}

// sites are the covers that everything must work with.
func sites(t *testing.T, f func(t *testing.T, s *site)) {
	t.Run("go", func(t *testing.T) { f(t, goSite(t, nil)) })
	t.Run("nginx", func(t *testing.T) { f(t, nginxSite(t, nginxtest.Config{})) })
}

func TestCarrier(t *testing.T) {
	sites(t, func(t *testing.T, s *site) {
		r := startRelay(t, s, nil)
		d := r.dialer(t, nil)
		transporttest.TestCarrier(t, func(t *testing.T) (transport.Carrier, transport.Carrier) { return r.pair(t, d) })
	})
}

func TestHelloAndAccept(t *testing.T) {
	for name, cipher := range map[string]wire.Cipher{"aes": wire.AES256GCM, "chacha": wire.ChaCha20Poly1305} {
		t.Run(name, func(t *testing.T) {
			r := startRelay(t, goSite(t, nil), nil)
			d := r.dialer(t, nil)
			hello := testHello()
			hello.Cipher = cipher
			carriers, hellos := r.answer(t, okAccept())
			c, a, err := d.Dial(testContext(t), r.route(), hello)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			if got := <-hellos; !bytes.Equal(got.Append(nil), hello.Append(nil)) {
				t.Errorf("hello arrived as %+v", got)
			}
			if a.SessionLife != time.Hour || a.CoverIdle != time.Minute || a.CoverLifetime != time.Hour || !bytes.Equal(a.Frames, pingFrame(1)) {
				t.Errorf("accept arrived as %+v", a)
			}
			s := <-carriers
			send(t, c, s, 1)
			send(t, s, c, 2)
			if p := c.Properties(); p.Kind != "mirror" || !p.Ordered || p.CoverIdle != time.Minute {
				t.Errorf("properties %+v", p)
			}
		})
	}
}

// TestConfirms checks that the relay may speak although the session is silent.
func TestConfirms(t *testing.T) {
	r := startRelay(t, goSite(t, nil), nil)
	c, s := r.pair(t, r.dialer(t, nil))
	go ends(t, s)
	send(t, s, c, 1)
}

// TestCovers makes carriers with each look in front of covers that choose differently.
func TestCovers(t *testing.T) {
	for _, family := range []string{"chromium", "firefox"} {
		l := shippedLook(t, family)
		test := func(name string, site func(t *testing.T) *site) {
			t.Run(family+" "+name, func(t *testing.T) {
				s := site(t)
				r := startRelay(t, s, func(c *ListenerConfig) { c.Cover.Idle = time.Second })
				c, e := r.pair(t, r.dialer(t, func(c *DialerConfig) { c.Look = func() *look.Look { return l } }))
				for n := byte(1); ; n += 2 {
					send(t, c, e, n)
					send(t, e, c, n+1)
					if s.hits == nil || s.hits() > 0 { // a genuine request was answered, too
						return
					}
				}
			})
		}
		goWith := func(change func(*tls.Config)) func(t *testing.T) *site {
			return func(t *testing.T) *site { return goSite(t, change) }
		}
		nginx := func(c nginxtest.Config) func(t *testing.T) *site {
			return func(t *testing.T) *site { return nginxSite(t, c) }
		}
		test("go", goWith(nil))
		test("go http1", goWith(func(c *tls.Config) { c.NextProtos = []string{"http/1.1"} }))
		test("go hybrid only", goWith(func(c *tls.Config) { c.CurvePreferences = []tls.CurveID{tls.X25519MLKEM768} }))
		test("go x25519 only", goWith(func(c *tls.Config) { c.CurvePreferences = []tls.CurveID{tls.X25519} }))
		test("go retry", goWith(func(c *tls.Config) { c.CurvePreferences = []tls.CurveID{tls.CurveP384} }))
		test("nginx", nginx(nginxtest.Config{}))
		test("nginx retry", nginx(nginxtest.Config{Curves: "secp384r1"}))
		test("nginx http1", nginx(nginxtest.Config{NoHTTP2: true}))
	}
}

func TestPinned(t *testing.T) {
	r := startRelay(t, goSite(t, nil), nil)
	pin := r.site.leaf
	c, e := r.pair(t, r.dialer(t, func(c *DialerConfig) { c.Roots, c.CertHash = nil, &pin }))
	send(t, c, e, 1)
	pin[0]++
	d := r.dialer(t, func(c *DialerConfig) { c.Roots, c.CertHash = nil, &pin })
	_, _, err := d.Dial(testContext(t), r.route(), testHello())
	if e := dialFailure(t, err); e.Failure != transport.Hijacked || e.Stage != transport.StageTLS {
		t.Fatalf("another pin: %v", err)
	}
}

func TestBorrowed(t *testing.T) {
	sites(t, func(t *testing.T, s *site) {
		r := startRelay(t, s, func(c *ListenerConfig) { c.Cover.Borrowed = true })
		d := r.dialer(t, func(c *DialerConfig) { c.Proof = true })
		c, e := r.pair(t, d)
		send(t, c, e, 1)
		send(t, e, c, 2)
		if s.hits != nil && s.hits() != 1 {
			t.Errorf("the cover saw %d requests before the proof", s.hits())
		}
	})
}

// TestLedToTheSite checks that a connection that is led to the real site
// carries no covert record if a proof is due, and is called hijacked if not.
func TestLedToTheSite(t *testing.T) {
	sites(t, func(t *testing.T, s *site) {
		key, err := ecdh.X25519().GenerateKey(rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		r := &relay{addr: s.addr, key: key, site: s}
		_, _, err = r.dialer(t, nil).Dial(testContext(t), r.route(), testHello())
		if e := dialFailure(t, err); e.Failure != transport.Hijacked || e.Stage != transport.StageHello {
			t.Errorf("own cover: %v", err)
		}
	})
}

func TestUnfitCover(t *testing.T) {
	test := func(t *testing.T, s *site) {
		r := startRelay(t, s, nil)
		_, _, err := r.dialer(t, nil).Dial(testContext(t), r.route(), testHello())
		if e := dialFailure(t, err); e.Failure != transport.UnfitCover {
			t.Errorf("Dial: %v", err)
		}
		if s.hits != nil && s.hits() != 1 {
			t.Errorf("the client asked for %d pages, want 1", s.hits())
		}
		if st := r.Stats(); st.Candidates != 1 || st.CovertIn+st.CovertOut != 0 {
			t.Errorf("stats %+v", st)
		}
	}
	t.Run("go", func(t *testing.T) { test(t, goSite(t, func(c *tls.Config) { c.MaxVersion = tls.VersionTLS12 })) })
	t.Run("nginx", func(t *testing.T) { test(t, nginxSite(t, nginxtest.Config{Protocols: "TLSv1.2"})) })
}

func TestRefused(t *testing.T) {
	for status, failure := range map[wire.Status]transport.Failure{
		wire.StatusRevoked: transport.Revoked, wire.StatusExpired: transport.Expired, wire.StatusQuota: transport.Quota, wire.StatusDevices: transport.Devices, wire.StatusBusy: "",
	} {
		t.Run(status.String(), func(t *testing.T) {
			r := startRelay(t, goSite(t, nil), nil)
			r.answer(t, &wire.Accept{Status: status})
			_, _, err := r.dialer(t, nil).Dial(testContext(t), r.route(), testHello())
			e := dialFailure(t, err)
			se, ok := errors.AsType[*wire.StatusError](err)
			if e.Failure != failure || !ok || se.Status != status {
				t.Fatalf("Dial: %v", err)
			}
		})
	}
}

func TestDialFailures(t *testing.T) {
	s := goSite(t, nil)
	r := startRelay(t, s, nil)
	d := r.dialer(t, nil)
	t.Run("refused", func(t *testing.T) {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		ln.Close()
		_, _, err = d.Dial(testContext(t), routeTo(ln.Addr().String()), testHello())
		if e := dialFailure(t, err); e.Failure != transport.Refused || e.Stage != transport.StageConnect {
			t.Errorf("%v", err)
		}
	})
	serve := func(t *testing.T, f func(net.Conn)) string {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		done := make(chan struct{})
		go func() {
			defer close(done)
			c, err := ln.Accept()
			if err != nil {
				return
			}
			f(c)
			c.Close()
		}()
		t.Cleanup(func() { ln.Close(); <-done })
		return ln.Addr().String()
	}
	readHello := func(c net.Conn) {
		io.ReadFull(c, make([]byte, 1000))
	}
	t.Run("reset", func(t *testing.T) {
		addr := serve(t, func(c net.Conn) { readHello(c); reset(c) })
		_, _, err := d.Dial(testContext(t), routeTo(addr), testHello())
		if e := dialFailure(t, err); e.Failure != transport.Reset || e.Stage != transport.StageTLS {
			t.Errorf("%v", err)
		}
	})
	t.Run("closed", func(t *testing.T) {
		addr := serve(t, func(c net.Conn) {
			io.ReadFull(c, make([]byte, 1900))
			c.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
			io.Copy(io.Discard, c)
		})
		_, _, err := d.Dial(testContext(t), routeTo(addr), testHello())
		if e := dialFailure(t, err); e.Failure != transport.ClosedEarly || e.Stage != transport.StageTLS {
			t.Errorf("%v", err)
		}
	})
	t.Run("block page", func(t *testing.T) {
		addr := serve(t, func(c net.Conn) {
			readHello(c)
			io.WriteString(c, "HTTP/1.1 302 Found\r\nLocation: http://blocked.example\r\n\r\n")
			io.Copy(io.Discard, c)
		})
		_, _, err := d.Dial(testContext(t), routeTo(addr), testHello())
		if e := dialFailure(t, err); e.Failure != transport.Hijacked || e.Stage != transport.StageTLS {
			t.Errorf("%v", err)
		}
	})
	t.Run("cancelled", func(t *testing.T) {
		addr := serve(t, func(c net.Conn) { io.Copy(io.Discard, c) })
		ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
		defer cancel()
		_, _, err := d.Dial(ctx, routeTo(addr), testHello())
		if e := dialFailure(t, err); e.Failure != "" || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%v", err)
		}
	})
}

// TestStranger checks the page and that the relay counts a stranger.
func TestStranger(t *testing.T) {
	sites(t, func(t *testing.T, s *site) {
		r := startRelay(t, s, nil)
		get := func(addr string) (string, string) {
			tr := &http.Transport{
				ForceAttemptHTTP2: true,
				DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
					return new(net.Dialer).DialContext(ctx, "tcp", addr)
				},
				TLSClientConfig: &tls.Config{RootCAs: s.roots, ServerName: s.name, Time: func() time.Time {
					if s.hits != nil {
						return time.Unix(1e9+1, 0)
					}
					return time.Now()
				}},
			}
			defer tr.CloseIdleConnections()
			resp, err := (&http.Client{Transport: tr, Timeout: patience}).Get("https://" + s.name + "/")
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			b, err := io.ReadAll(resp.Body)
			if err != nil {
				t.Fatal(err)
			}
			return string(b), resp.Proto
		}
		a, pa := get(s.addr)
		b, pb := get(r.addr)
		if a != b || pa != pb || pa != "HTTP/2.0" {
			t.Errorf("pages differ: %s %d bytes, %s %d bytes", pa, len(a), pb, len(b))
		}
		if st := r.Stats(); st.Strangers != 1 || st.Candidates != 0 {
			t.Errorf("stats %+v", st)
		}
	})
}

// TestCoverDown checks rule 11: a reset, then a closed port, until it is back.
func TestCoverDown(t *testing.T) {
	up, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := up.Addr().String()
	r := startRelay(t, &site{addr: addr, name: coverName}, nil)
	up.Close()
	c, err := net.Dial("tcp", r.addr)
	if err == nil { // the reset may come before Dial returns
		c.SetReadDeadline(time.Now().Add(patience))
		_, err = c.Read(make([]byte, 1))
		c.Close()
	}
	if classify(err) != transport.Reset {
		t.Errorf("with its cover down the relay answers %v, want a reset", err)
	}
	deadline := time.Now().Add(patience)
	for {
		c, err := net.Dial("tcp", r.addr)
		if classify(err) == transport.Refused {
			break // the port is closed
		}
		if err == nil {
			c.Close()
		}
		if time.Now().After(deadline) {
			t.Fatal("the port stays open while the cover is down")
		}
	}
	if up, err = net.Listen("tcp", addr); err != nil {
		t.Skipf("cover's port was taken: %v", err)
	}
	defer up.Close()
	go func() {
		for {
			c, err := up.Accept()
			if err != nil {
				return
			}
			io.WriteString(c, "hello")
			c.Close()
		}
	}()
	for {
		c, err := net.Dial("tcp", r.addr)
		if err == nil {
			c.SetReadDeadline(time.Now().Add(patience))
			b, _ := io.ReadAll(c)
			c.Close()
			if string(b) == "hello" {
				break
			}
		}
		if time.Now().After(deadline) {
			t.Fatal("the port stays closed though the cover is back")
		}
	}
	if r.Stats().CoverFailed == 0 {
		t.Error("failed dials are not counted")
	}
}

// TestKeepalive checks rule 4: genuine requests in time while data flows, and
// none when nothing does.
func TestKeepalive(t *testing.T) {
	for name, change := range map[string]func(*tls.Config){
		"h2":    nil,
		"http1": func(c *tls.Config) { c.NextProtos = []string{"http/1.1"} },
	} {
		t.Run(name, func(t *testing.T) {
			s := goSite(t, change)
			r := startRelay(t, s, func(c *ListenerConfig) { c.Cover.Idle = time.Second })
			c, e := r.pair(t, r.dialer(t, nil))
			begin := time.Now()
			for n := byte(1); s.hits() < 3; n++ {
				send(t, c, e, n)
				send(t, e, c, n)
				if time.Since(begin) > patience {
					t.Fatalf("%d genuine requests", s.hits())
				}
			}
			if took := time.Since(begin); took < 3*400*time.Millisecond {
				t.Errorf("3 requests took %v, want 0.4..0.9 s each", took)
			}
		})
	}
}

// TestIdleCover checks that an idle carrier lets the cover close, and that both
// ends see it as an ordinary end.
func TestIdleCover(t *testing.T) {
	s := nginxSite(t, nginxtest.Config{KeepaliveTimeout: 2 * time.Second})
	r := startRelay(t, s, func(c *ListenerConfig) { c.Cover.Idle = 2 * time.Second })
	c, e := r.pair(t, r.dialer(t, nil))
	send(t, c, e, 1)
	var wg sync.WaitGroup
	wg.Go(func() {
		ce, ok := errors.AsType[*transport.CarrierError](ends(t, c))
		if !ok || ce.Failure != "" {
			t.Errorf("client's end: %v", ce)
		}
	})
	wg.Go(func() { ends(t, e) })
	wg.Wait()
}

func TestParallel(t *testing.T) {
	sites(t, func(t *testing.T, s *site) {
		const carriers = 60
		r := startRelay(t, s, nil)
		d := r.dialer(t, nil)
		ctx := testContext(t)
		var wg sync.WaitGroup
		// The relay echoes.
		for range carriers {
			wg.Go(func() {
				p, err := r.Accept(ctx)
				if err != nil {
					t.Error(err)
					return
				}
				c, err := p.Answer(okAccept())
				if err != nil {
					t.Error(err)
					return
				}
				defer c.Close()
				buf := make([]byte, 64<<10)
				for {
					n, err := c.ReadFrames(buf)
					if err != nil {
						return
					}
					for b := buf[:n]; len(b) > 0; {
						var f wire.Frame
						k, err := wire.Parse(b, &f)
						if err != nil {
							t.Error(err)
							return
						}
						if f.Type != wire.Padding {
							if err := c.WriteFrames([]transport.Frame{{Data: b[:k]}}); err != nil {
								return
							}
						}
						b = b[k:]
					}
				}
			})
			wg.Go(func() {
				c, _, err := d.Dial(ctx, r.route(), testHello())
				if err != nil {
					t.Error(err)
					return
				}
				defer c.Close()
				for n := range byte(20) {
					if err := c.WriteFrames([]transport.Frame{{Data: pingFrame(n)}}); err != nil {
						t.Error(err)
						return
					}
					want(t, c, n)
				}
			})
		}
		wg.Wait()
	})
}

// TestCheckCover checks the report on fit and unfit covers.
func TestCheckCover(t *testing.T) {
	ctx := testContext(t)
	check := func(t *testing.T, s *site) *CoverReport {
		t.Helper()
		r, err := CheckCover(ctx, nil, Cover{Address: s.addr, Name: s.name}, Trust{Roots: s.roots})
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	t.Run("nginx", func(t *testing.T) {
		s := nginxSite(t, nginxtest.Config{})
		r := check(t, s)
		if !r.TLS13 || r.ALPN != "h2" || r.Group != groupX25519 || r.Retry || r.Status != 200 || r.LeafHash != s.leaf || r.SelfSigned || r.Fit() != nil {
			t.Errorf("%+v: %v", r, r.Fit())
		}
	})
	t.Run("retry", func(t *testing.T) {
		if r := check(t, nginxSite(t, nginxtest.Config{Curves: "secp384r1"})); !r.Retry || r.Fit() == nil {
			t.Errorf("%+v", r)
		}
	})
	t.Run("old", func(t *testing.T) {
		if r := check(t, nginxSite(t, nginxtest.Config{Protocols: "TLSv1.2"})); r.TLS13 || r.Status != 200 || r.Fit() == nil {
			t.Errorf("%+v", r)
		}
	})
	t.Run("out of date", func(t *testing.T) {
		if r := check(t, goSite(t, nil)); !r.SelfSigned || r.CertErr == nil || r.Group != groupX25519MLKEM768 {
			t.Errorf("%+v", r)
		}
	})
	t.Run("pinned", func(t *testing.T) {
		s := goSite(t, nil)
		r, err := CheckCover(ctx, nil, Cover{Address: s.addr, Name: s.name}, Trust{CertHash: &s.leaf})
		if err != nil || r.Fit() != nil {
			t.Errorf("%+v: %v", r, err)
		}
	})
}

func TestMeasureIdle(t *testing.T) {
	s := nginxSite(t, nginxtest.Config{KeepaliveTimeout: time.Second})
	idle, err := MeasureIdle(testContext(t), nil, Cover{Address: s.addr, Name: s.name}, Trust{Roots: s.roots})
	if err != nil || idle < 900*time.Millisecond || idle > 3*time.Second {
		t.Errorf("MeasureIdle = %v, %v; want 1 s", idle, err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 300*time.Millisecond)
	defer cancel()
	if idle, err := MeasureIdle(ctx, nil, Cover{Address: s.addr, Name: s.name}, Trust{Roots: s.roots}); err != nil || idle != 0 {
		t.Errorf("MeasureIdle with little time = %v, %v", idle, err)
	}
}
