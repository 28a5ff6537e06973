//go:build linux

package e2e

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	quicgo "github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"

	"busel/config"
	"busel/internal/certs"
	"busel/transport"
)

// siteTLS is the configuration of a visitor who trusts the relay's certificate.
func siteTLS(t *testing.T, e *config.RelayEntry, protocols ...string) *tls.Config {
	t.Helper()
	v, err := certs.New(e.CoverName, &e.CertHash, nil)
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Config{
		ServerName: e.CoverName, NextProtos: protocols, InsecureSkipVerify: true, // by what follows
		VerifyConnection: func(s tls.ConnectionState) error { return v.Chain(s.PeerCertificates) },
	}
}

// TestSiteOverHTTP3 visits the built-in site without an invite: over HTTP/3 it is
// what it is over TCP, which announces it if the relay has QUIC.
func TestSiteOverHTTP3(t *testing.T) {
	for _, withQUIC := range []bool{true, false} {
		t.Run(fmt.Sprintf("quic=%v", withQUIC), func(t *testing.T) {
			r := startRelay(t, relayOptions{quic: withQUIC})
			e := invitation(t, r.invite)
			_, port, _ := net.SplitHostPort(r.listen)
			tcp := &http.Transport{
				TLSClientConfig: siteTLS(t, e), ForceAttemptHTTP2: true,
				DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
					return transport.System{}.DialContext(ctx, "tcp", r.listen)
				},
			}
			defer tcp.CloseIdleConnections()
			udp := &http3.Transport{
				TLSClientConfig: siteTLS(t, e),
				Dial: func(ctx context.Context, _ string, c *tls.Config, q *quicgo.Config) (*quicgo.Conn, error) {
					return quicgo.DialAddrEarly(ctx, r.listen, c, q)
				},
			}
			defer udp.Close()
			visit := func(over http.RoundTripper, method, path string) (string, http.Header, error) {
				ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
				defer cancel()
				req, err := http.NewRequestWithContext(ctx, method, "https://"+e.CoverName+":"+port+path, nil)
				if err != nil {
					t.Fatal(err)
				}
				resp, err := over.RoundTrip(req)
				if err != nil {
					return "", nil, err
				}
				defer resp.Body.Close()
				body, err := io.ReadAll(resp.Body)
				head := resp.Header.Clone()
				head.Del("Date")
				head.Del("Alt-Svc")
				return fmt.Sprintf("%d %v %s", resp.StatusCode, head, body), resp.Header, err
			}
			if !withQUIC {
				_, head, err := visit(tcp, "GET", "/")
				if err != nil || len(head.Values("Alt-Svc")) > 0 {
					t.Errorf("without QUIC the site announces %q, %v", head.Values("Alt-Svc"), err)
				}
				if c, err := net.ListenPacket("udp", r.listen); err != nil {
					t.Errorf("without QUIC the relay has a UDP port: %v", err)
				} else {
					c.Close()
				}
				return
			}
			for _, what := range []string{"GET /", "HEAD /", "GET /index.html", "GET /robots.txt", "GET /favicon.ico", "GET /nowhere", "POST /", "OPTIONS /"} {
				method, path, _ := strings.Cut(what, " ")
				want, head, err := visit(tcp, method, path)
				if err != nil {
					t.Fatal(err)
				}
				if got, want := head.Get("Alt-Svc"), fmt.Sprintf(`h3=":%s"; ma=2592000`, port); got != want {
					t.Errorf("%s: over TCP the site announces %q, want %q", what, got, want)
				}
				got, head, err := visit(udp, method, path)
				if err != nil || got != want {
					t.Errorf("%s: over HTTP/3 the answer is\n%s, %v\nover TCP\n%s", what, got, err, want)
				}
				if head.Get("Alt-Svc") != "" {
					t.Errorf("%s: over HTTP/3 the site announces %q", what, head.Get("Alt-Svc"))
				}
			}
		})
	}
}

// visitors are connections to an HTTP/3 site that want something and wait.
type visitors struct {
	socket    net.PacketConn
	transport *quicgo.Transport
	wg        sync.WaitGroup
	made      atomic.Int64 // connections that came about
	refused   atomic.Int64
	requests  atomic.Int64 // whose heads never end
}

func newVisitors(t *testing.T) *visitors {
	socket, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	v := &visitors{socket: socket, transport: &quicgo.Transport{Conn: socket}}
	t.Cleanup(func() {
		v.transport.Close()
		v.socket.Close()
		v.wg.Wait()
	})
	return v
}

// come makes one more visit of so many requests, whose heads are announced and begun.
func (v *visitors) come(ctx context.Context, to net.Addr, c *tls.Config, requests, length int) {
	conn, err := v.transport.Dial(ctx, to, c, &quicgo.Config{MaxIdleTimeout: 5 * time.Minute})
	if err != nil {
		v.refused.Add(1)
		return
	}
	v.made.Add(1)
	head := append([]byte{1, 0x5f, 0x40}, make([]byte, length)...) // HEADERS of 8000 bytes
	for range requests {
		s, err := conn.OpenStream()
		if err != nil {
			return
		}
		if _, err := s.Write(head); err != nil {
			return
		}
		v.requests.Add(1)
	}
}

// TestHTTP3Flood has more visitors than places, each of which begins as many
// requests as it may and ends none of them: the relay's memory stays bounded, a
// client's carrier moves data on, and another client gets in.
func TestHTTP3Flood(t *testing.T) {
	need(t, "curl")
	w := startQUICWorld(t, nil)
	w.tcp.block()
	origin := startOrigin(t)
	w.page(t, origin)
	w.over(t, "quic")
	var down gauge
	stop, read := make(chan struct{}), make(chan error, 1)
	source := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) { io.Copy(rw, newPaced(stop)) }))
	defer source.Close()
	resp, err := proxied(t, w.client.proxy).Get(source.URL)
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		defer resp.Body.Close()
		_, err := io.Copy(&down, resp.Body)
		read <- err
	}()
	defer func() {
		close(stop)
		if err := <-read; err != nil {
			t.Errorf("the download through the flood: %v", err)
		}
	}()
	eventually(t, 20*time.Second, "bytes run", func() bool { return down.bytes() > 1<<20 })
	moves, before := w.client.status(t).Moves, resident(t, w.program)
	e := invitation(t, w.invite)
	to, err := net.ResolveUDPAddr("udp", w.listen)
	if err != nil {
		t.Fatal(err)
	}
	v := newVisitors(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer v.wg.Wait()
	defer cancel()
	c := siteTLS(t, e, http3.NextProtoH3)
	for range 4 {
		v.wg.Go(func() {
			for ctx.Err() == nil {
				v.come(ctx, to, c, 100, 4000)
			}
		})
	}
	begin := time.Now()
	down.restart()
	eventually(t, 120*time.Second, "more visits than places", func() bool { return v.made.Load() > 300 })
	mark := down.bytes()
	second := startClient(t, w.invite)
	if got := string(curl(t, "--proxy", "socks5h://"+second.proxy, "http://"+origin+"/")); !strings.Contains(got, "You can read this") {
		t.Errorf("in the flood another client gets %q", got)
	}
	if s := second.status(t); len(s.Carriers) == 0 || s.Carriers[0].Transport != "quic" {
		t.Errorf("in the flood another client has %+v", s.Carriers)
	}
	eventually(t, 60*time.Second, "bytes run in the flood", func() bool { return down.bytes() > mark+1<<20 })
	if s := w.client.status(t); s.Moves != moves {
		t.Errorf("the flood has moved the client's carrier %d times", s.Moves-moves)
	}
	after := resident(t, w.program)
	t.Logf("%d visits, %d refused, %d requests in %v; %d MB before, %d MB in it; bytes stood still for %v", v.made.Load(), v.refused.Load(),
		v.requests.Load(), time.Since(begin).Round(time.Millisecond), before>>20, after>>20, down.longest().Round(time.Millisecond))
	// 256 visitors with 100 requests each would take 350 MB.
	if after-before > 250<<20 {
		t.Errorf("the relay has %d MB more in the flood", (after-before)>>20)
	}
}
