//go:build linux

package e2e

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	mathrand "math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"busel/config"
	"busel/internal/front"
	"busel/internal/nginxtest"
	"busel/internal/wire"
	"busel/transport"
	"busel/transport/quic"
)

// quicWorld is a relay with both transports behind a path each, on one port as
// seen by the client.
type quicWorld struct {
	*relay
	client *client
	tcp    *path
	udp    *udpPath
}

// startQUICWorld has the HTTP/3 form if site is nil, and the relay's own site;
// else the scrambled one.
func startQUICWorld(t *testing.T, site *nginxtest.Server) *quicWorld {
	t.Helper()
	w := new(quicWorld)
	w.relay = startRelay(t, relayOptions{quic: true, cover: site, via: func(listen string) string {
		w.tcp = newPath(t, listen, 0)
		w.udp = newUDPPath(t, w.tcp.addr(), listen)
		return w.tcp.addr()
	}})
	w.client = startClient(t, w.invite)
	return w
}

// over waits until the client has a carrier of the transport.
func (w *quicWorld) over(t *testing.T, transport string) front.Status {
	t.Helper()
	var s front.Status
	eventually(t, 10*time.Second, "a carrier over "+transport, func() bool {
		s = w.client.status(t)
		return len(s.Carriers) > 0 && s.Carriers[len(s.Carriers)-1].Transport == transport
	})
	return s
}

func (w *quicWorld) page(t *testing.T, origin string) {
	t.Helper()
	if got := string(curl(t, "--proxy", "socks5h://"+w.client.proxy, "http://"+origin+"/")); !strings.Contains(got, "You can read this") {
		t.Errorf("the page is %q", got)
	}
}

// TestQUICWhenTCPIsRefused has nothing listening on the relay's TCP port: a page
// comes over QUIC from a cold start, and the status says so.
func TestQUICWhenTCPIsRefused(t *testing.T) {
	need(t, "curl")
	w := startQUICWorld(t, nil)
	w.tcp.block()
	origin := startOrigin(t)
	begin := time.Now()
	w.page(t, origin)
	if took := time.Since(begin); took > 5*time.Second { // a fraction of a second on an idle machine
		t.Errorf("the first page took %v from a cold start", took)
	}
	s := w.over(t, "quic")
	if len(s.Paths) != 2 || s.Paths[0].Transport != "mirror" || s.Paths[0].Failure != "refused" || s.Paths[1].Transport != "quic" || s.Paths[1].State != "active" {
		t.Errorf("the client says %+v", s.Paths)
	}
	// Streams of every size, many at once, both ways.
	source := "http://" + origin + "/bytes/3000000"
	want := sha256.Sum256(curl(t, source))
	done := make(chan error, 8)
	for range cap(done) {
		go func() {
			out, err := tryCurl(t.Context(), "--proxy", "socks5h://"+w.client.proxy, source)
			if err == nil && sha256.Sum256(out) != want {
				err = fmt.Errorf("a download of %d bytes differs", len(out))
			}
			done <- err
		}()
	}
	for range cap(done) {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	if text := command(t, "", "client", "status", "-dir", w.client.dir); !strings.Contains(text, "quic") {
		t.Errorf("client status says\n%s", text)
	}
}

// TestQUICWhenTCPIsReset has every ClientHello reset.
func TestQUICWhenTCPIsReset(t *testing.T) {
	need(t, "curl")
	w := startQUICWorld(t, nil)
	w.tcp.lead("127.0.0.1:1") // the path then answers each connection with RST
	w.page(t, startOrigin(t))
	if s := w.over(t, "quic"); s.Paths[0].Failure != "reset" {
		t.Errorf("the client says %+v", s.Paths)
	}
}

// TestDownloadMovesToQUIC resets the active TCP carrier and all later ones in
// the middle of a download, then the path of QUIC goes silent while TCP is open
// again, then the client's port changes: the download does not notice.
func TestDownloadMovesToQUIC(t *testing.T) {
	w := startQUICWorld(t, nil)
	var down gauge
	stop := make(chan struct{})
	sums := make(chan string, 1)
	origin := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) {
		h := sha256.New()
		if _, err := io.Copy(io.MultiWriter(rw, h), newPaced(stop)); err != nil {
			t.Errorf("the download at the origin: %v", err)
		}
		sums <- hex.EncodeToString(h.Sum(nil))
	}))
	defer origin.Close()
	got := make(chan string, 1)
	go func() {
		resp, err := proxied(t, w.client.proxy).Get(origin.URL)
		if err != nil {
			got <- err.Error()
			return
		}
		defer resp.Body.Close()
		h := sha256.New()
		if _, err := io.Copy(io.MultiWriter(h, &down), resp.Body); err != nil {
			got <- err.Error()
			return
		}
		got <- hex.EncodeToString(h.Sum(nil))
	}()
	// A dial over a silent path takes 3 s before the other route has its turn.
	const most = 8 * time.Second
	moves := func(what string) {
		t.Helper()
		mark := down.bytes()
		eventually(t, 3*most, what, func() bool { return down.bytes() > mark+2<<20 })
		if gap := down.longest(); gap > most {
			t.Errorf("%s: bytes stood still for %v", what, gap)
		} else {
			t.Logf("%s: bytes stood still for %v", what, gap.Round(time.Millisecond))
		}
		down.restart()
	}
	moves("bytes run over mirror")
	w.over(t, "mirror")
	w.tcp.block()
	moves("bytes run after the reset")
	w.over(t, "quic")

	w.udp.rebind()
	before := w.client.status(t)
	moves("bytes run after the client's port changed")
	if s := w.client.status(t); s.Moves != before.Moves {
		t.Errorf("a changed port took %d moves, want migration", s.Moves-before.Moves)
	}
	if n := w.udp.count(); n < 2 {
		t.Errorf("the path has had %d mappings", n)
	}

	w.tcp.unblock(t)
	w.udp.silent.Store(true)
	moves("bytes run after QUIC went silent")
	w.over(t, "mirror")
	close(stop)
	if g, want := <-got, <-sums; g != want {
		t.Errorf("the download is %s, want %s", g, want)
	}
}

// TestPortRange has QUIC that looks like nothing on a range of ports, TCP that is
// refused, and silence on the UDP port of the site if it has one. All clients get
// through, each port is served, and a stranger meets nobody.
func TestPortRange(t *testing.T) {
	need(t, "curl")
	const count = 5
	free := freeUDPPorts(t, 2*count)
	for i, name := range []string{"builtin", "nginx"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var tcp *path
			var h3 *udpPath
			var site *nginxtest.Server
			if name == "nginx" {
				site = nginxtest.Run(t, nginxtest.Config{})
			}
			first := free + i*count
			r := startRelay(t, relayOptions{quic: true, cover: site, ports: fmt.Sprintf("%d-%d", first, first+count-1), via: func(listen string) string {
				tcp = newPath(t, listen, 0)
				h3 = newUDPPath(t, tcp.addr(), listen)
				return tcp.addr()
			}})
			h3.silent.Store(true)
			tcp.block()
			e := invitation(t, r.invite)
			ways := []config.Transport{{Name: "mirror"}, {Name: "quic", Options: fmt.Sprintf("ports=%d-%d", first, first+count-1)}}
			if site == nil {
				ways = slices.Insert(ways, 1, config.Transport{Name: "quic", Options: quic.SiteOptions})
			}
			if !slices.Equal(e.Transports, ways) {
				t.Errorf("the invite says %v", e.Transports)
			}
			// The port of the address is the site's, or is left to the web server.
			c, err := net.ListenPacket("udp", r.listen)
			if (err == nil) != (site != nil) {
				t.Errorf("listening on UDP port %s: %v", r.listen, err)
			}
			if err == nil {
				c.Close()
			}
			w := &quicWorld{relay: r, client: startClient(t, r.invite), tcp: tcp, udp: h3}
			w.page(t, startOrigin(t))
			w.over(t, "quic")
			if n := r.status(t).QUIC; len(n) != len(ways)-1 || n[len(n)-1].Carriers == 0 {
				t.Errorf("the relay says %+v", n)
			}
			// Each of the ports leads to the relay, for who has the invite.
			t.Run("each", func(t *testing.T) {
				for i := range count {
					t.Run(strconv.Itoa(i), func(t *testing.T) {
						t.Parallel()
						if n := answersTo(t, fmt.Sprintf("127.0.0.1:%d", first+i), [][]byte{make([]byte, 1250), {1}}); len(n) > 0 {
							t.Errorf("port %d answers strangers", first+i)
						}
						ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
						defer cancel()
						d, err := quic.NewDialer(quic.DialerConfig{PublicKey: e.Key})
						if err != nil {
							t.Fatal(err)
						}
						defer d.Close()
						if _, _, err := d.Dial(ctx, transport.Route{Address: e.Addresses[0].String(), Options: fmt.Sprintf("port=%d", first+i)},
							&wire.Hello{Token: e.Token, Secret: [32]byte{1, byte(i)}, Carrier: 1}); err != nil {
							t.Errorf("port %d: %v", first+i, err)
						}
					})
				}
			})
			// A port that another program has is told with what to do.
			r.end()
			taken, err := net.ListenPacket("udp", fmt.Sprintf("127.0.0.1:%d", first+count-1))
			if err != nil {
				t.Fatal(err)
			}
			defer taken.Close()
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			out, err := exec.CommandContext(ctx, filepath.Join(bin, "relayd"), "run", "-dir", r.dir).CombinedOutput()
			if err == nil || !strings.Contains(string(out), "name others in quic-ports") {
				t.Errorf("with a port that is taken: %v\n%s", err, out)
			}
		})
	}
}

// freeUDPPorts finds n consecutive UDP ports that nobody has.
func freeUDPPorts(t *testing.T, n int) (first int) {
	t.Helper()
search:
	for range 100 {
		first = 10000 + mathrand.IntN(4900) // where freePort takes none
		for i := range n {
			c, err := net.ListenPacket("udp", fmt.Sprintf("127.0.0.1:%d", first+i))
			if err != nil {
				continue search
			}
			c.Close()
		}
		return first
	}
	t.Fatalf("no %d free UDP ports in a row", n)
	return 0
}

// TestStrangersDatagrams sends what a prober would to the relay's UDP port.
func TestStrangersDatagrams(t *testing.T) {
	need(t, "curl")
	w := startQUICWorld(t, nginxtest.Run(t, nginxtest.Config{}))
	w.tcp.block()
	w.page(t, startOrigin(t))
	up, down := w.udp.taped()
	if len(up) < 5 || len(down) < 5 {
		t.Fatalf("%d datagrams up, %d down", len(up), len(down))
	}
	random := func(sizes ...int) (all [][]byte) {
		for _, n := range sizes {
			b := make([]byte, n)
			rand.Read(b)
			all = append(all, b)
		}
		return all
	}
	// A QUIC v1 Initial, an unknown version, DTLS, WireGuard, DNS: their heads,
	// and enough behind them.
	var known [][]byte
	for _, head := range []string{
		"c300000001088394c8f03e5157080000449e7b9aec34d1b1c98dd7689fb8ec11", // RFC 9001, appendix A.2
		"c30a1a2a3a088394c8f03e5157080000449e",
		"16fefd0000000000000000", "0100000001020304", "1234010000010000000000000377777706676f6f676c65",
	} {
		b, err := hex.DecodeString(head)
		if err != nil {
			t.Fatal(err)
		}
		known = append(known, append(b, make([]byte, 1250-len(b))...), b)
	}
	var changed [][]byte
	for i, d := range up[:min(len(up), 20)] {
		d = bytes.Clone(d)
		d[i*7%len(d)] ^= 1
		changed = append(changed, d, up[i][:len(up[i])-1], append(bytes.Clone(up[i]), 0))
	}
	for name, datagrams := range map[string][][]byte{
		"random": random(1, 20, 25, 26, 40, 100, 500, 1200, 1250, 1300, 1472), "known protocols": known,
		"recorded": up, "one recorded": up[:1], "the relay's own": down, "changed": changed,
	} {
		if got := answersTo(t, w.listen, datagrams); len(got) > 0 {
			t.Errorf("%s: %d datagrams draw %d answers", name, len(datagrams), len(got))
		}
	}
	w.page(t, startOrigin(t)) // the carrier has borne it
	// Lengths are spread, and nothing passes as QUIC.
	lengths := map[int]int{}
	for _, d := range up[:4] {
		lengths[len(d)]++
	}
	t.Logf("the client's first datagrams have %v bytes", lengths)
}

// TestPortIsBlocked has the UDP port in use go silent, again and again, with TCP
// refused: a download goes on over another port of the range.
func TestPortIsBlocked(t *testing.T) {
	const count = 16 // few of which are blocked in the end
	first := freeUDPPorts(t, count)
	site := nginxtest.Run(t, nginxtest.Config{})
	r := startRelay(t, relayOptions{quic: true, cover: site, ports: fmt.Sprintf("%d-%d", first, first+count-1), via: func(listen string) string {
		_, port, _ := net.SplitHostPort(listen)
		return net.JoinHostPort("127.0.0.2", port) // where nobody has that TCP port
	}})
	var ports []*udpPath
	for i := range count {
		ports = append(ports, newUDPPath(t, fmt.Sprintf("127.0.0.2:%d", first+i), fmt.Sprintf("127.0.0.1:%d", first+i)))
	}
	c := startClient(t, r.invite)
	stop, read := make(chan struct{}), make(chan error, 1)
	origin := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) { io.Copy(rw, newPaced(stop)) }))
	defer origin.Close()
	resp, err := proxied(t, c.proxy).Get(origin.URL)
	if err != nil {
		t.Fatal(err)
	}
	var down gauge
	go func() {
		defer resp.Body.Close()
		_, err := io.Copy(&down, resp.Body)
		read <- err
	}()
	defer func() {
		close(stop)
		if err := <-read; err != nil {
			t.Errorf("the download: %v", err)
		}
	}()
	for range 2 {
		mark := down.bytes()
		eventually(t, 30*time.Second, "bytes run", func() bool { return down.bytes() > mark+4<<20 })
		blocked := 0
		for _, p := range ports {
			if p.count() > 0 && !p.silent.Load() {
				p.silent.Store(true)
				blocked++
			}
		}
		if blocked == 0 {
			t.Fatal("bytes run through no port")
		}
		down.restart()
	}
	mark := down.bytes()
	eventually(t, 30*time.Second, "bytes run after the block", func() bool { return down.bytes() > mark+4<<20 })
	if gap := down.longest(); gap > 8*time.Second { // 1.3 s on an idle machine
		t.Errorf("bytes stood still for %v", gap)
	}
}
