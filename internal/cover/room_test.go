package cover

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"testing"
	"time"

	"golang.org/x/net/http2"
)

// quietConn is a connection that says what is read from it, and keeps nothing.
type quietConn struct {
	net.Conn
	ended bool
}

func (*quietConn) Read(b []byte) (int, error)  { return len(b), nil }
func (*quietConn) Write(b []byte) (int, error) { return len(b), nil }
func (c *quietConn) Close() error              { c.ended = true; return nil }

// frameHead is the head of a frame.
func frameHead(kind http2.FrameType, flags http2.Flags, stream byte, length int) []byte {
	return []byte{byte(length >> 16), byte(length >> 8), byte(length), byte(kind), byte(flags), 0, 0, 0, stream}
}

// TestWeights has visitors say what a server has to remember until it has answered.
func TestWeights(t *testing.T) {
	type step struct {
		out  bool // said by the site
		head []byte
		want int // weight from then on
	}
	in := func(want int, kind http2.FrameType, flags http2.Flags, stream byte, length int) step {
		return step{false, frameHead(kind, flags, stream, length), want}
	}
	out := func(want int, kind http2.FrameType, flags http2.Flags, stream byte, length int) step {
		return step{true, frameHead(kind, flags, stream, length), want}
	}
	const (
		one  = requestWeight + 2*100
		end  = http2.FlagDataEndStream
		head = http2.FlagHeadersEndHeaders
		ack  = http2.FlagPingAck
	)
	for name, steps := range map[string][]step{
		"requests": {
			in(one, http2.FrameHeaders, head|end, 1, 100), in(2*one, http2.FrameHeaders, head|end, 3, 100),
			out(2*one, http2.FrameHeaders, head, 1, 50), out(2*one, http2.FrameData, 0, 1, 50), out(one, http2.FrameData, end, 1, 50),
			out(0, http2.FrameHeaders, head|end, 3, 50),
		},
		"refused":   {in(one, http2.FrameHeaders, head|end, 1, 100), out(0, http2.FrameRSTStream, 0, 1, 4)},
		"given up":  {in(one, http2.FrameHeaders, head|end, 1, 100), in(0, http2.FrameRSTStream, 0, 1, 4)},
		"with body": {in(one, http2.FrameHeaders, head, 1, 100), in(one+5000, http2.FrameData, 0, 1, 5000), in(one+6000, http2.FrameData, 0, 1, 1000), out(0, http2.FrameRSTStream, 0, 1, 4), in(0, http2.FrameData, 0, 1, 1000)},
		"fields": {
			in(one+100*fieldWeight, http2.FrameHeaders, 0, 1, 100), in(one+400+300*fieldWeight, http2.FrameContinuation, 0, 1, 200),
			in(one+600+300*fieldWeight, http2.FrameContinuation, head, 1, 100), // until it is there
			in(one+600, http2.FramePing, ack, 0, 8),
		},
		"a frame":  {in(0, 0xfa, 0, 0, 16<<10), in(100_000, 0xfa, 0, 0, 100_000), in(100_000, 0xfa, 0, 0, 5)},
		"controls": {in(controlWeight, http2.FramePing, 0, 0, 8), in(2*controlWeight, http2.FrameSettings, 0, 0, 0), out(controlWeight, http2.FramePing, ack, 0, 8), out(0, http2.FrameSettings, ack, 0, 0), in(0, http2.FramePing, ack, 0, 8)},
	} {
		for _, piece := range []int{1, 7, 1 << 20} {
			r := new(room)
			v := r.enter(new(quietConn))
			v.framed, v.streams = true, make(map[uint32]int)
			from, to := &frames{rest: 24, begins: v.asks}, &frames{begins: v.answers}
			pass := func(f *frames, b []byte) {
				for len(b) > 0 {
					n := min(piece, len(b))
					f.pass(b[:n])
					b = b[n:]
				}
			}
			pass(from, make([]byte, 24))
			for i, s := range steps {
				f := from
				if s.out {
					f = to
				}
				pass(f, s.head)
				if v.held != s.want || r.held != s.want {
					t.Errorf("%s, in pieces of %d: weight %d (of all: %d) after step %d, want %d", name, piece, v.held, r.held, i, s.want)
				}
				pass(f, make([]byte, f.rest))
			}
		}
	}
}

// TestCrowdedRoom fills the room: who has most leaves, and nobody who has little.
func TestCrowdedRoom(t *testing.T) {
	r := new(room)
	var visits []*visit
	read := func(v *visit, n int) {
		if _, err := v.Read(make([]byte, n)); err != nil {
			t.Fatal(err)
		}
	}
	for range 2000 { // who say as much as browsers do
		v := r.enter(new(quietConn))
		visits = append(visits, v)
		read(v, 2000)
		if _, err := v.Write(nil); err != nil {
			t.Fatal(err)
		}
		read(v, 1000)
	}
	honest := r.held
	if want := 2000 * 2000; honest != want {
		t.Errorf("2000 visitors have %d, want %d", honest, want)
	}
	var greedy []*visit
	for i := range 300 {
		v := r.enter(new(quietConn))
		greedy = append(greedy, v)
		for range i + 1 {
			read(v, 1000)
		}
		if r.held > roomy {
			t.Fatalf("%d is held", r.held)
		}
	}
	for i, v := range visits {
		if v.Conn.(*quietConn).ended {
			t.Fatalf("honest visitor %d was ended", i)
		}
	}
	if greedy[0].Conn.(*quietConn).ended || !greedy[299].Conn.(*quietConn).ended {
		t.Error("not those with most were ended")
	}
	for _, v := range append(visits, greedy...) {
		v.Close()
	}
	if r.held != 0 || len(r.visits) != 0 {
		t.Errorf("%d is held by %d visits in the end", r.held, len(r.visits))
	}
	// Many who have a little more than others are not ended for it.
	for range 4096 {
		read(r.enter(new(quietConn)), fair/2)
	}
	if len(r.visits) != 4096 || r.held != 4096*fair {
		t.Errorf("of 4096 fair visitors %d are left, with %d", len(r.visits), r.held)
	}
}

// TestHeaderOverHTTP1 has the weight of a header go up as it comes, and down when it is answered.
func TestHeaderOverHTTP1(t *testing.T) {
	r := new(room)
	v := r.enter(new(quietConn))
	for _, tt := range []struct{ read, write, want int }{
		{60_000, 0, 120_000}, // a hello
		{0, 1, 0},
		{tinyHeader, 0, 2 * tinyHeader},
		{1000, 0, 2*(tinyHeader+1000) + 1000*tinyFieldWeight},
		{0, 1, 0},
	} {
		if tt.read > 0 {
			_, _ = v.Read(make([]byte, tt.read))
		}
		if tt.write > 0 {
			_, _ = v.Write(make([]byte, tt.write))
		}
		if v.held != tt.want {
			t.Errorf("after %+v: %d", tt, v.held)
		}
	}
}

// testSite is a site with its certificate.
func testSite(t *testing.T) (*Site, tls.Certificate) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{"site.test"}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert := tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
	site, err := New(Config{Name: "site.test", Certificate: cert})
	if err != nil {
		t.Fatal(err)
	}
	return site, cert
}

// TestHeeded: of what a visitor says no more is kept while he is answered than what the answer
// depends on.
func TestHeeded(t *testing.T) {
	site, _ := testSite(t)
	for _, tt := range []struct {
		others int // values before the one that asks for compression
		zipped bool
	}{{0, true}, {3, true}, {4, false}, {1000, false}} {
		r := httptest.NewRequest("GET", "/", nil)
		r.Header = http.Header{"Cookie": {"stork"}, "Accept-Encoding": append(slices.Repeat([]string{"br"}, tt.others), "gzip")}
		w := httptest.NewRecorder()
		site.ServeHTTP(w, r)
		room := cap(r.Header["Accept-Encoding"])
		if zipped := w.Header().Get("Content-Encoding") == "gzip"; zipped != tt.zipped || len(r.Header) != 1 || room > 8 {
			t.Errorf("after %d others: compressed %t, %d fields, room for %d values", tt.others, zipped, len(r.Header), room)
		}
	}
}

// TestFramesOfWhoLeaves: a frame that is too much is not begun.
func TestFramesOfWhoLeaves(t *testing.T) {
	near, far := net.Pipe()
	defer near.Close()
	r := new(room)
	v := r.enter(far)
	_, cert := testSite(t)
	f := newFramedVisit(tls.Server(v, &tls.Config{Certificates: []tls.Certificate{cert}}))
	defer f.Close()
	said := make(chan error, 1)
	go func() {
		c := tls.Client(near, &tls.Config{InsecureSkipVerify: true})
		_, err := c.Write(append([]byte(http2.ClientPreface), frameHead(0xfa, 0, 0, mostFrame)...))
		said <- err
		_, _ = io.Copy(io.Discard, near)
	}()
	b := make([]byte, len(http2.ClientPreface)+9)
	v.note(func() { r.held += roomy - mostFrame/2 }) // others have it
	if n, err := f.Read(b); n != 0 || err != net.ErrClosed {
		t.Errorf("who has to leave is read: %d bytes, %v", n, err)
	}
	if err := <-said; err != nil {
		t.Error(err)
	}
}

// TestFirstFrames has the site begin HTTP/2 as Caddy 2.11 does, to the byte: its server
// is this one as it comes (modules/caddyhttp/app.go).
func TestFirstFrames(t *testing.T) {
	site, cert := testSite(t)
	listen := func() net.Listener {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	ours, stock := listen(), listen()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 2)
	go func() { ended <- site.Run(ctx, ours) }()
	bare := &http.Server{TLSConfig: &tls.Config{Certificates: []tls.Certificate{cert}}, Handler: http.NotFoundHandler()}
	//lint:ignore SA1019 as Caddy does
	if err := http2.ConfigureServer(bare, new(http2.Server)); err != nil {
		t.Fatal(err)
	}
	go func() { ended <- bare.ServeTLS(stock, "", "") }()
	t.Cleanup(func() {
		cancel()
		_ = bare.Close()
		<-ended
		<-ended
	})
	first := func(address string) string {
		c, err := tls.Dial("tcp", address, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(20 * time.Second))
		var said []byte
		// SETTINGS and WINDOW_UPDATE come by themselves; what is answered later would come
		// between them or after them.
		for _, ask := range []struct {
			say  string
			hear int
		}{
			{http2.ClientPreface, 9 + 6*6 + 9 + 4},
			{"\x00\x00\x00\x04\x00\x00\x00\x00\x00", 9},
			{"\x00\x00\x08\x06\x00\x00\x00\x00\x00pingpong", 9 + 8},
		} {
			if _, err := io.WriteString(c, ask.say); err != nil {
				t.Fatal(err)
			}
			b := make([]byte, ask.hear)
			if _, err := io.ReadFull(c, b); err != nil {
				t.Fatal(err)
			}
			said = append(said, b...)
		}
		return string(said)
	}
	if a, b := first(stock.Addr().String()), first(ours.Addr().String()); a != b {
		t.Errorf("a server like Caddy says\n%q, the site\n%q", a, b)
	}
}
