package quic

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

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
	plain := testSite(t)
	socket, err := transport.System{}.ListenPacket(t.Context(), "udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	stock := plain.server(plain.Handler)
	stock.TLSConfig, stock.QUICConfig = &tls.Config{Certificates: []tls.Certificate{plain.Certificate}}, quicConfig()
	stock.QUICConfig.MaxIncomingStreams, stock.QUICConfig.MaxIncomingUniStreams = 0, 0
	done := make(chan struct{})
	go func() { defer close(done); _ = stock.Serve(socket) }()
	t.Cleanup(func() { stock.Close(); socket.Close(); <-done })
	pool := x509.NewCertPool()
	leaf, _ := x509.ParseCertificate(plain.Certificate.Certificate[0])
	pool.AddCert(leaf)
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
			for i, addr := range []string{r.addr, socket.LocalAddr().String()} {
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
