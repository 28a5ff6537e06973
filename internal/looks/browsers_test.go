package looks_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"busel/internal/capture"
	"busel/internal/flow"
	"busel/internal/front"
	"busel/internal/looks"
	"busel/internal/wire"
	"busel/obfs/look"
	"busel/transport"
	"busel/transport/mirror"
)

// Of each browser.
const (
	pages       = 50 // names, each visited twice
	dials       = 100
	browserTime = 2 * time.Minute // a busy machine takes a minute to start one
)

// clientHellos dials a port that only listens, as a client does with the look, and
// returns the messages. Each must come as one record.
func clientHellos(t *testing.T, l func() *look.Look, name string, n int) (msgs [][]byte) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	key := [32]byte{9}
	d, err := mirror.NewDialer(mirror.DialerConfig{PublicKey: key, CoverName: name, Look: l})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	got := make(chan []byte, 1)
	for range n {
		go func() {
			c, err := ln.Accept()
			if err != nil {
				got <- nil
				return
			}
			defer c.Close()
			c.SetDeadline(time.Now().Add(browserTime))
			head := make([]byte, 5)
			if _, err := io.ReadFull(c, head); err != nil || head[0] != 22 {
				got <- nil
				return
			}
			msg := make([]byte, binary.BigEndian.Uint16(head[3:]))
			if _, err := io.ReadFull(c, msg); err != nil {
				msg = nil
			}
			c.(*net.TCPConn).SetLinger(0)
			got <- msg
		}()
		hello := &wire.Hello{Mode: wire.ModeNew}
		if _, _, err := d.Dial(t.Context(), transport.Route{Transport: mirror.Kind, Address: ln.Addr().String()}, hello); err == nil {
			t.Fatal("a dial to nobody succeeded")
		}
		msg := <-got
		if msg == nil {
			t.Fatal("no ClientHello")
		}
		msgs = append(msgs, msg)
	}
	return msgs
}

// resumedHellos dials a site that hears each hello out and ends the visit then: the
// first one, which is not returned, is fresh, and each other one resumes what came with
// the last one. That the site has no relay's key changes nothing until then.
func resumedHellos(t *testing.T, l func() *look.Look, name string, n int) (msgs [][]byte) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), DNSNames: []string{name}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	cfg := &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}, NextProtos: []string{"h2", "http/1.1"}, MinVersion: tls.VersionTLS13}
	pin := sha256.Sum256(der)
	d, err := mirror.NewDialer(mirror.DialerConfig{PublicKey: [32]byte{9}, CoverName: name, CertHash: &pin, Look: l})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	got := make(chan []byte, 1)
	serve := func() []byte {
		c, err := ln.Accept()
		if err != nil {
			return nil
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(browserTime))
		h := &heard{Conn: c}
		s := tls.Server(h, cfg)
		preface := make([]byte, 24)
		if err := s.Handshake(); err != nil {
			t.Error(err)
		} else if _, err := io.ReadFull(s, preface); err != nil {
			t.Error(err)
		}
		n := int(binary.BigEndian.Uint16(h.b[3:]))
		return h.b[5 : 5+n]
	}
	for i := range n + 1 {
		go func() { got <- serve() }()
		hello := &wire.Hello{Mode: wire.ModeNew}
		if _, _, err := d.Dial(t.Context(), transport.Route{Transport: mirror.Kind, Address: ln.Addr().String()}, hello); err == nil {
			t.Fatal("a dial to a site without a relay succeeded")
		}
		if msg := <-got; msg == nil {
			t.Fatal("no ClientHello")
		} else if i > 0 {
			msgs = append(msgs, msg)
		}
	}
	return msgs
}

// heard keeps what is read.
type heard struct {
	net.Conn
	b []byte
}

func (h *heard) Read(b []byte) (int, error) {
	n, err := h.Conn.Read(b)
	h.b = append(h.b, b[:n]...)
	return n, err
}

// TestBrowsers captures this machine's browsers and compares the client with them. It
// fails when a browser has moved on from what is built in: take its look with
// client look capture -o obfs/look/looks/NAME.json.
func TestBrowsers(t *testing.T) {
	shipped, err := look.Shipped()
	if err != nil {
		t.Fatal(err)
	}
	for _, browser := range []string{"chromium", "firefox-esr"} {
		t.Run(browser, func(t *testing.T) {
			if _, err := exec.LookPath(browser); err != nil {
				t.Skipf("%s is not installed", browser)
			}
			family := look.Default
			if capture.Firefox(browser) {
				family = "firefox"
			}
			l := shipped[slices.IndexFunc(shipped, func(l *look.Look) bool { return l.Family == family })]
			ctx, cancel := context.WithTimeout(t.Context(), browserTime)
			defer cancel()
			visits, err := capture.Take(ctx, capture.Options{Browser: browser, Pages: pages})
			if err != nil {
				t.Fatal(err)
			}
			source, major, err := capture.Version(ctx, browser)
			if err != nil {
				t.Fatal(err)
			}
			now, err := capture.Look(visits, family+"-"+major, source, l)
			if err != nil {
				t.Fatal(err)
			}
			if !now.Same(l) {
				t.Errorf("%s has moved on from %s", source, l.Name)
			}
			if err := mirror.TryLook(now); err != nil {
				t.Error(err)
			}
			fresh, resumed := tally{}, tally{}
			name := ""
			for _, v := range visits {
				if !slices.Equal(v.Hello.TLS.ALPN, l.TLS.ALPN) {
					continue
				}
				name = v.Hello.Name
				if v.Hello.Resumed {
					resumed.add(t, v.Raw)
				} else {
					fresh.add(t, v.Raw)
				}
			}
			t.Logf("%s: fresh %v, resumed %v", source, fresh, resumed)
			if want := l.TLS.JA4(l.TLS.Resumed); len(resumed.ja4) != 1 || resumed.ja4[want] < pages/4 {
				t.Errorf("JA4 of the browser's resumed hellos are %v, the look's is %s", resumed.ja4, want)
			}
			// Uploads are cut and probes are sent as the look says.
			i := slices.IndexFunc(visits, func(v capture.Visit) bool { return len(v.Upload) > 0 })
			if i < 0 {
				t.Fatal("the browser uploaded nothing")
			}
			// What lies between the longest records depends on how busy the machine is; the
			// order on one that is not is in the tests of obfs/records.
			cut, longest, n := l.Upload.Cycle().Begin(), 0, 0
			for range 100 {
				size := cut.Next(1 << 20)
				longest = max(longest, size)
				cut.Sent(size)
			}
			for _, size := range visits[i].Upload {
				if size == longest {
					n++
				}
			}
			if slices.Max(visits[i].Upload) != longest || n < len(visits[i].Upload)/5 {
				t.Errorf("an upload's records are %v long; the look's longest are %d", visits[i].Upload, longest)
			}
			if in := visits[i].KeepAlive; in > float64(l.KeepAlive) || in == 0 != (l.KeepAlive == 0) {
				t.Errorf("the next keepalive probe is due in %.1f s; the look has one in %d s", in, l.KeepAlive)
			}
			client := tally{}
			for _, msg := range clientHellos(t, func() *look.Look { return l }, name, dials) {
				client.add(t, msg)
			}
			t.Logf("the client: fresh %v", client)
			client.matches(t, fresh)
			again := tally{}
			for _, msg := range resumedHellos(t, func() *look.Look { return l }, name, dials) {
				again.add(t, msg)
			}
			t.Logf("the client: resumed %v", again)
			again.matches(t, resumed)
		})
	}
}

// tally counts hellos by JA4 and by length, and the orders of their extensions.
type tally struct {
	ja4    map[string]int
	length map[int]int
	orders map[string]bool
	n      int
}

func (y *tally) add(t *testing.T, msg []byte) {
	t.Helper()
	h, err := look.ParseHello(msg)
	if err != nil {
		t.Fatal(err)
	}
	if y.n == 0 {
		*y = tally{map[string]int{}, map[int]int{}, map[string]bool{}, 0}
	}
	y.n++
	y.ja4[h.JA4()]++
	y.length[len(msg)]++
	y.orders[fmt.Sprint(h.TLS.Extensions)] = true
}

func (y tally) String() string {
	return fmt.Sprintf("%d: %v, lengths %v, %d orders", y.n, y.ja4, y.length, len(y.orders))
}

// matches wants the same JA4 of all, the same set of lengths in about the same shares,
// and orders that are permuted or not.
func (y tally) matches(t *testing.T, browser tally) {
	t.Helper()
	if len(y.ja4) != 1 || len(browser.ja4) != 1 {
		t.Errorf("JA4: the client has %v, the browser %v", y.ja4, browser.ja4)
	}
	for ja4, n := range y.ja4 {
		if n != dials || browser.ja4[ja4] != browser.n {
			t.Errorf("JA4: the client has %v, the browser %v", y.ja4, browser.ja4)
		}
	}
	// Two samples of the same shares: chi-squared with one degree of freedom less than
	// there are lengths. A correct client is above 30 once in 100,000 runs.
	chi := 0.0
	for n := range both(y.length, browser.length) {
		a, b := float64(y.length[n]), float64(browser.length[n])
		share := (a + b) / float64(y.n+browser.n)
		ea, eb := share*float64(y.n), share*float64(browser.n)
		chi += (a-ea)*(a-ea)/ea + (b-eb)*(b-eb)/eb
	}
	if chi > 30 {
		t.Errorf("lengths: the client has %v, the browser %v (chi-squared %.1f)", y.length, browser.length, chi)
	}
	if len(y.orders) == 1 != (len(browser.orders) == 1) {
		t.Errorf("extensions: the client has %d orders, the browser %d", len(y.orders), len(browser.orders))
	}
}

func both(a, b map[int]int) map[int]bool {
	all := map[int]bool{}
	for n := range a {
		all[n] = true
	}
	for n := range b {
		all[n] = true
	}
	return all
}

// local brings every name to loopback, on the port that was asked for.
type local struct{ flow.Opener }

type stream struct{ *net.TCPConn }

func (stream) Connected(context.Context) error { return nil }

func (local) OpenStream(ctx context.Context, dst flow.Addr) (flow.Stream, error) {
	if !strings.HasSuffix(dst.Name, ".look.example") { // a browser has places of its own to go to
		return nil, &flow.OpenError{Code: flow.NotAllowed}
	}
	var d net.Dialer
	c, err := d.DialContext(ctx, "tcp", fmt.Sprintf("127.0.0.1:%d", dst.Port))
	if err != nil {
		return nil, &flow.OpenError{Code: flow.ConnectionRefused, Err: err}
	}
	return stream{c.(*net.TCPConn)}, nil
}

// TestBrowserLeads drives each browser once through the proxy, and the client follows;
// and then something that speaks like a version never shipped.
func TestBrowserLeads(t *testing.T) {
	dir := newMemory()
	k, err := looks.Open(looks.Config{Dir: dir, Use: looks.Auto, Try: mirror.TryLook, Logger: slog.New(slog.NewTextHandler(t.Output(), nil))})
	if err != nil {
		t.Fatal(err)
	}
	f, err := front.New(front.Config{Listen: "auto", Opener: local{}, Overhear: func(*net.TCPConn) io.WriteCloser { return k.Ear() }})
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Listen(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- f.Run(ctx) }()
	defer func() {
		cancel()
		<-done
	}()
	// Run rests for a minute after a change, so that each step has one of its own.
	step := func(drive func() *look.Hello) {
		t.Helper()
		ctx, cancel := context.WithCancel(ctx)
		ended := make(chan error, 1)
		go func() { ended <- k.Run(ctx) }()
		defer func() {
			cancel()
			<-ended
		}()
		h := drive()
		deadline := time.Now().Add(20 * time.Second)
		for k.Worn().TLS.JA4(k.Worn().TLS.Extensions) != h.JA4() {
			if time.Now().After(deadline) {
				t.Fatalf("the client still looks like %s, the browser's JA4 is %s", k.Worn().Name, h.JA4())
			}
			select { // what was heard is judged beside this
			case <-time.After(10 * time.Millisecond):
			case <-ctx.Done():
			}
		}
		for _, msg := range clientHellos(t, k.Worn, "a0000.look.example", 10) {
			c, err := look.ParseHello(msg)
			if err != nil {
				t.Fatal(err)
			}
			if c.JA4() != h.JA4() {
				t.Errorf("the client's JA4 is %s, the browser's %s", c.JA4(), h.JA4())
			}
		}
		t.Logf("the client looks like %s, %s", k.Worn().Name, h.JA4())
	}
	var chromium [][]byte
	for _, browser := range []string{"firefox-esr", "chromium"} {
		if _, err := exec.LookPath(browser); err != nil {
			t.Logf("%s is not installed", browser)
			continue
		}
		step(func() *look.Hello {
			ctx, cancel := context.WithTimeout(ctx, browserTime)
			defer cancel()
			visits, err := capture.Take(ctx, capture.Options{Browser: browser, Pages: 12, Proxy: f.Addr().String()})
			if err != nil {
				t.Fatal(err)
			}
			if browser == "chromium" {
				for _, v := range visits {
					chromium = append(chromium, v.Raw)
				}
			}
			// Even the first page may be asked for on a second connection, which resumes.
			i := slices.IndexFunc(visits, func(v capture.Visit) bool { return !v.Hello.Resumed })
			if i < 0 {
				t.Fatal("no hello is fresh")
			}
			return visits[i].Hello
		})
	}
	if chromium == nil {
		chromium = captured(t, "chromium-156.hellos")
	}
	step(func() *look.Hello {
		sink, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer sink.Close()
		go func() {
			for {
				c, err := sink.Accept()
				if err != nil {
					return
				}
				go func() {
					io.Copy(io.Discard, c)
					c.Close()
				}()
			}
		}()
		var first *look.Hello
		for _, msg := range chromium {
			msg = newer(t, msg)
			h, err := look.ParseHello(msg)
			if err != nil {
				t.Fatal(err)
			}
			if first == nil && !h.Resumed {
				first = h
			}
			c, err := net.Dial("tcp", f.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			port := sink.Addr().(*net.TCPAddr).Port
			request := append([]byte{5, 1, 0, 5, 1, 0, 3, byte(len(h.Name))}, h.Name...)
			request = binary.BigEndian.AppendUint16(request, uint16(port))
			if _, err := c.Write(append(request, records(msg, 4000)...)); err != nil {
				t.Fatal(err)
			}
			c.(*net.TCPConn).CloseWrite()
			io.Copy(io.Discard, c)
			c.Close()
		}
		return first
	})
	if got := k.Worn().Name; got != "chromium-learned" {
		t.Errorf("at the end %s is worn", got)
	}
}
