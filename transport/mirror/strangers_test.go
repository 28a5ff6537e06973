//go:build linux

package mirror_test

import (
	"bytes"
	"context"
	"crypto/ecdh"
	"crypto/rand"
	"io"
	"net"
	"net/http"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"busel/internal/nginxtest"
	"busel/internal/prober"
	"busel/internal/wire"
	"busel/transport"
	"busel/transport/mirror"
)

// A stranger must not be able to tell a relay from the web server behind it
// (DESIGN.md section 1, invariant 2; rows P2, P3, S10). [prober] looks at bare
// nginx and at a relay before the same nginx at the same time, and compares all
// that one could note.

// tolerance is how far apart the same event may be on the two targets.
const tolerance = 50 * time.Millisecond

// The time-outs of the nginx behind both targets, as short as nginx takes.
const (
	headerTimeout    = time.Second
	keepaliveTimeout = 2 * time.Second
	patience         = 4 * time.Second // of a prober: longer than both
)

// stranger probes s.
func stranger(t *testing.T, s *nginxtest.Server) *prober.Prober {
	return &prober.Prober{
		Name: s.Name, Path: "/site.css", Patience: patience, Tolerance: tolerance, Parallel: 8, // most of the time is waiting
		Merged: func(probe, segments string) { t.Logf("%s: left together: segments %s", probe, segments) },
	}
}

// compare runs the probes against the relay and against its site.
func compare(t *testing.T, p *prober.Prober, relay *relayed, probes []prober.Probe) {
	t.Helper()
	bare := prober.Target{Name: "nginx", Address: relay.site.Address}
	found, err := p.Compare(t.Context(), bare, relay.Target, probes)
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range found {
		t.Errorf("nginx | relay: %s", d)
	}
}

func site(t *testing.T) *nginxtest.Server {
	return nginxtest.Run(t, nginxtest.Config{
		RSA: true, HeaderTimeout: headerTimeout, KeepaliveTimeout: keepaliveTimeout, Large: 3 << 20,
	})
}

// relayed is a relay before a site, and what a client needs to use it.
type relayed struct {
	prober.Target
	public   [32]byte
	site     *nginxtest.Server
	listener *mirror.Listener
	carriers chan transport.Carrier
}

func relay(t *testing.T, site *nginxtest.Server) *relayed {
	t.Helper()
	key, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	listening, err := transport.System{}.Listen(t.Context(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r := &relayed{Target: prober.Target{Name: "relay", Address: listening.Addr().String()}, public: [32]byte(key.PublicKey().Bytes()), site: site, carriers: make(chan transport.Carrier, 16)}
	r.listener, err = mirror.NewListener(mirror.ListenerConfig{
		Listen: func(context.Context) (net.Listener, error) { return listening, nil },
		Key:    key,
		Cover:  mirror.Cover{Address: site.Address, Name: site.Name, Idle: keepaliveTimeout},
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := r.listener.Run(ctx); err != nil {
			t.Errorf("listener: %v", err)
		}
	})
	wg.Go(func() {
		for {
			p, err := r.listener.Accept(ctx)
			if err != nil {
				return
			}
			wg.Go(func() {
				if c, err := p.Answer(&wire.Accept{Status: wire.StatusOK, SessionLife: time.Minute}); err == nil {
					r.carriers <- c
				}
			})
		}
	})
	t.Cleanup(func() {
		cancel()
		wg.Wait()
	})
	return r
}

func TestStrangersSeeTheCover(t *testing.T) {
	site := site(t)
	p := stranger(t, site)
	compare(t, p, relay(t, site), p.Probes())
}

// TestPagesAreByteForByte fetches through both with curl and compares header
// and body; the date is the only line that the second may change.
func TestPagesAreByteForByte(t *testing.T) {
	if _, err := exec.LookPath("curl"); err != nil {
		t.Skip("curl is not installed")
	}
	site := site(t)
	relay := relay(t, site)
	for _, args := range [][]string{
		{"--http1.1"}, {"--http2"}, {"--http1.1", "--tls-max", "1.2"}, {"--http2", "--tls-max", "1.2"},
		{"--http2", "--head"}, {"--http2", "-H", "Range: bytes=5-50"},
	} {
		for _, path := range []string{"/", "/site.css", "/missing", "/large.bin"} {
			var page [2][]byte
			for i, address := range []string{site.Address, relay.Address} {
				out, err := exec.Command("curl", append(args, "-sSki", "https://"+address+path)...).Output()
				if err != nil {
					t.Fatalf("curl %v %s%s: %v", args, address, path, err)
				}
				head, body, _ := bytes.Cut(out, []byte("\r\n\r\n"))
				lines := strings.Split(string(head), "\r\n")
				lines = slices.DeleteFunc(lines, func(l string) bool { return strings.HasPrefix(strings.ToLower(l), "date:") })
				page[i] = append([]byte(strings.Join(lines, "\r\n")), body...)
			}
			if !bytes.Equal(page[0], page[1]) {
				t.Errorf("curl %v %s: %d bytes from nginx, %d through the relay, or other ones", args, path, len(page[0]), len(page[1]))
			}
		}
	}
}

// newTap stands before the server at an address until the test ends.
func newTap(t *testing.T, to string) *prober.Tap {
	t.Helper()
	tap, err := prober.NewTap(to)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	ctx, cancel := context.WithCancel(context.Background())
	wg.Go(func() { tap.Run(ctx) })
	t.Cleanup(func() {
		cancel()
		wg.Wait()
	})
	return tap
}

// dial makes a carrier through the address, which may be a tap's.
func (r *relayed) dial(t *testing.T, address string) (client, server transport.Carrier) {
	t.Helper()
	d, err := mirror.NewDialer(mirror.DialerConfig{PublicKey: r.public, CoverName: r.site.Name, Roots: r.site.Roots})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.Close() })
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	client, _, err = d.Dial(ctx, transport.Route{Relay: "r1", Transport: "mirror", Address: address}, &wire.Hello{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close() })
	select {
	case server = <-r.carriers:
	case <-ctx.Done():
		t.Fatal("the relay saw no carrier")
	}
	t.Cleanup(func() { _ = server.Close() })
	return client, server
}

// TestReplayedClientSeesTheCover plays a real client's bytes to both: the
// ClientHello is one that the relay recognises, its sender is not the client.
func TestReplayedClientSeesTheCover(t *testing.T) {
	site := site(t)
	relay := relay(t, site)
	tap := newTap(t, relay.Address)
	client, server := relay.dial(t, tap.Address)
	go discard(server)
	if err := client.WriteFrames([]transport.Frame{ping(1), ping(2)}); err != nil {
		t.Fatal(err)
	}
	_ = client.Close()
	recorded := tap.Recordings()[0].Up
	length := len(tap.Recordings()[0].Flight())
	if length >= len(recorded) {
		t.Fatalf("only %d bytes recorded, the ClientHello has %d", len(recorded), length)
	}
	flip := func(at int) []byte {
		b := slices.Clone(recorded)
		b[at] ^= 1
		return b
	}
	hello, rest := prober.Send(recorded[:length]), recorded[length:]
	compare(t, stranger(t, site), relay, []prober.Probe{
		prober.Once("the ClientHello", recorded[:length]),
		prober.ThenFIN("the ClientHello, then FIN", recorded[:length]),
		prober.Once("everything at once", recorded),
		{Name: "everything, in its time", Steps: []prober.Step{hello, prober.Flight(), prober.Send(rest), prober.Drain()}},
		{Name: "the ClientHello in pieces, then garbage", Steps: []prober.Step{
			prober.Send(recorded[:100]), prober.Pause(30 * time.Millisecond), prober.Send(recorded[100:length]), prober.Flight(),
			prober.Send(append([]byte{0x17, 3, 3, 0, 80}, bytes.Repeat([]byte{5}, 80)...)), prober.Drain(),
		}},
		{Name: "the ClientHello, then an oversized record", Steps: []prober.Step{
			hello, prober.Flight(), prober.Send([]byte{0x17, 3, 3, 0xff, 0xff}), prober.Drain(),
		}},
		{Name: "the ClientHello, then half a record and FIN", Steps: []prober.Step{
			hello, prober.Flight(), prober.Send([]byte{0x17, 3, 3, 0, 80, 1, 2, 3}), prober.FIN(), prober.Drain(),
		}},
		{Name: "the ClientHello, then RST", Steps: []prober.Step{hello, prober.Flight(), prober.RST()}},
		{Name: "the ClientHello, then 12 bytes of a record and silence", Steps: []prober.Step{
			hello, prober.Flight(), prober.Send([]byte{0x17, 3, 3, 0, 80, 1, 2, 3, 4, 5, 6, 7}), prober.Drain(),
		}},
		prober.Once("a bit of the random flipped", flip(5+4+2+10)),
		prober.Once("a bit of the session id flipped", flip(5+4+2+32+1+10)),
		prober.Once("a bit of the last extension flipped", flip(length-1)),
		prober.Once("the ClientHello across records", prober.InRecords(recorded[:length], 300)),
	})
}

func ping(n byte) transport.Frame {
	f := wire.Frame{Type: wire.Ping, Ping: [8]byte{n}}
	return transport.Frame{Lane: transport.LaneControl, Data: f.Append(nil)}
}

// discard reads a carrier to its end.
func discard(c transport.Carrier) {
	buf := make([]byte, wire.MaxFrame)
	for {
		if _, err := c.ReadFrames(buf); err != nil {
			return
		}
	}
}

// TestCorruptedRecords flips a bit in a record of a live carrier and in the
// same place of a browser-like visit to bare nginx; whoever did it sees the
// same answer from the same end. What the scheduler does to one of the two is not
// seen four times running.
func TestCorruptedRecords(t *testing.T) {
	site := site(t)
	relay := relay(t, site)
	// What Chromium does, seen by spoiling records of its visits to this nginx:
	// one alert, no close_notify behind it, FIN.
	browser := func(t *testing.T, _ *nginxtest.Server) prober.Answer {
		return prober.Answer{Records: "23:0303:19", End: "EOF"}
	}
	for _, tt := range []struct {
		name string
		up   bool
		want func(*testing.T, *nginxtest.Server) prober.Answer
	}{
		{"client to relay", true, genuineCorrupted},
		{"relay to client", false, browser},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var found []prober.Difference
			for range 4 {
				answer := corrupted(t, relay, tt.up)
				if found = prober.Flipped(tt.want(t, site), answer, tolerance); len(found) == 0 {
					return
				}
			}
			t.Errorf("genuine | carrier: %s", found)
		})
	}
}

// corrupted flips a bit in a record of a live carrier.
func corrupted(t *testing.T, relay *relayed, up bool) prober.Answer {
	t.Helper()
	tap := newTap(t, relay.Address)
	client, server := relay.dial(t, tap.Address)
	go discard(client)
	go discard(server)
	// One exchange first, so that the tickets and settings are through.
	for _, c := range []transport.Carrier{client, server} {
		if err := c.WriteFrames([]transport.Frame{ping(1)}); err != nil {
			t.Fatal(err)
		}
	}
	<-time.After(300 * time.Millisecond) // let both directions fall silent
	got := tap.Spoil(up)
	sender := server
	if up {
		sender = client
	}
	_ = sender.WriteFrames([]transport.Frame{ping(2)})
	return wait(t, got)
}

func wait(t *testing.T, s *prober.Spoiled) prober.Answer {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	answer, err := s.Wait(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return answer
}

// genuineCorrupted makes a visit to bare nginx and spoils its second request.
func genuineCorrupted(t *testing.T, site *nginxtest.Server) prober.Answer {
	t.Helper()
	tap := newTap(t, site.Address)
	tr := &http.Transport{TLSClientConfig: site.ClientConfig("h2"), ForceAttemptHTTP2: true}
	visitor := &http.Client{Transport: tr, Timeout: 10 * time.Second}
	var wg sync.WaitGroup
	t.Cleanup(func() {
		tr.CloseIdleConnections()
		wg.Wait()
	})
	fetch := func() error {
		resp, err := visitor.Get("https://" + tap.Address + "/site.css")
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		_, err = io.Copy(io.Discard, resp.Body)
		return err
	}
	if err := fetch(); err != nil {
		t.Fatal(err)
	}
	<-time.After(300 * time.Millisecond) // as above
	s := tap.Spoil(true)
	wg.Go(func() { _ = fetch() }) // it fails, by now or by its time-out
	return wait(t, s)
}

// TestRecordAfterTheCoversEnd lets the cover end an idle carrier while somebody
// in the path keeps its goodbye from the client. The client's next covert record
// then meets what any byte meets that comes to nginx too late: a RST.
func TestRecordAfterTheCoversEnd(t *testing.T) {
	relay := relay(t, site(t))
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ended, met := make(chan struct{}), make(chan string, 1)
	var held atomic.Bool // what the relay sends: else a close_notify tells the client
	var wg sync.WaitGroup
	t.Cleanup(func() {
		_ = l.Close()
		wg.Wait()
	})
	wg.Go(func() {
		client, err := l.Accept()
		if err != nil {
			return
		}
		defer client.Close()
		server, err := net.Dial("tcp4", relay.Address)
		if err != nil {
			return
		}
		defer server.Close()
		wg.Go(func() { _, _ = io.Copy(server, struct{ io.Reader }{client}) })
		buf := make([]byte, 16<<10)
		for {
			n, err := server.Read(buf)
			if err != nil {
				break // and the client's side stays open
			}
			if !held.Load() {
				_, _ = client.Write(buf[:n])
			}
		}
		close(ended)
		met <- prober.Failure(server.(*net.TCPConn), 5*time.Second)
	})
	client, server := relay.dial(t, l.Addr().String())
	held.Store(true)
	go discard(client)
	go discard(server)
	select {
	case <-ended:
	case <-time.After(2 * patience):
		t.Fatal("the cover does not end an idle connection")
	}
	if err := client.WriteFrames([]transport.Frame{ping(1)}); err != nil {
		t.Fatalf("the client knows of the end: %v", err)
	}
	if got := <-met; got != syscall.EPIPE.Error() && got != syscall.ECONNRESET.Error() {
		t.Errorf("the record was met by: %s; want a RST", got)
	}
}
