//go:build linux

package e2e

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"busel/internal/nginxtest"
)

// proxied is an HTTP client that asks the proxy for everything.
func proxied(t *testing.T, proxy string) *http.Client {
	t.Helper()
	u := &url.URL{Scheme: "socks5h", Host: proxy}
	tr := &http.Transport{Proxy: http.ProxyURL(u), MaxIdleConnsPerHost: 1000, DisableKeepAlives: true}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr}
}

// TestKilledAgainAndAgain kills the connection between client and relay while curl
// downloads and uploads: by ss -K at both ends, and by RST on the path. The relay
// has no other way than TLS, of which there are three connections a minute, and one
// every 5 s after them.
func TestKilledAgainAndAgain(t *testing.T) {
	need(t, "curl")
	const size, kills = 120_000_000, 4
	var p *path
	r := startRelay(t, relayOptions{
		cover: nginxtest.Run(t, nginxtest.Config{}),
		via:   func(listen string) string { p = newPath(t, listen, 0); return p.addr() },
	})
	c := startClient(t, r.invite)
	origin := startOrigin(t)
	source := fmt.Sprintf("http://%s/bytes/%d", origin, size)
	want := sha256.Sum256(curl(t, source))
	ssKill := exec.Command("ss", "-K", "dst", "192.0.2.1").Run() == nil // root and a kernel with it

	for _, direction := range []string{"down", "up"} {
		t.Run(direction, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			killed := make(chan int)
			go func() {
				n := 0
				defer func() { killed <- n }()
				for attempt := 0; n < kills; attempt++ {
					select {
					case <-ctx.Done():
						return
					case <-time.After(200*time.Millisecond + rand.N(600*time.Millisecond)):
					}
					if now, _ := p.live(); now == 0 {
						continue
					}
					_, port, _ := net.SplitHostPort([]string{p.addr(), r.listen}[rand.N(2)])
					_, before := p.live()
					if ssKill && attempt%2 == 0 {
						// Its status is of no use: one end's RST takes the other from it.
						exec.Command("ss", "-HKtn", "state", "established", "dport = :"+port+" or sport = :"+port).Run()
					} else {
						p.cut()
					}
					for wait := 0; wait < 50; wait++ { // until the connection is gone or replaced
						if now, total := p.live(); now == 0 || total > before {
							n++
							break
						}
						time.Sleep(10 * time.Millisecond)
					}
				}
			}()
			var got string
			before := c.status(t).Moves
			if direction == "down" {
				got = fmt.Sprintf("%x", sha256.Sum256(curl(t, "--limit-rate", "9M", "--proxy", "socks5h://"+c.proxy, source)))
			} else {
				cmd := exec.CommandContext(t.Context(), "curl", "-sS", "--limit-rate", "4M", "--max-time", "120", "--proxy", "http://"+c.proxy, "--proxytunnel",
					"-H", "Expect:", "-X", "POST", "-T", "-", "http://"+origin+"/upload")
				// The pace of TLS connections (row R2), which the download used, leaves 5 s
				// between kills: 30 s have room for all.
				pr, pw := io.Pipe()
				cmd.Stdin = pr
				go func() {
					resp, err := http.Get(source)
					if err == nil {
						_, err = io.Copy(pw, resp.Body)
						resp.Body.Close()
					}
					pw.CloseWithError(err)
				}()
				out, err := cmd.CombinedOutput()
				if err != nil {
					t.Errorf("curl: %v: %s", err, out)
				}
				got, _, _ = strings.Cut(string(out), " ")
			}
			cancel()
			n := <-killed
			if want := fmt.Sprintf("%x", want); got != want {
				t.Errorf("%s: SHA-256 is %s, want %s", direction, got, want)
			}
			if n < kills {
				t.Errorf("only %d of %d kills happened before the end", n, kills)
			}
			t.Logf("killed %d times, ss -K %t; the client moved %d times", n, ssKill, c.status(t).Moves-before)
		})
	}
}

// TestSilentDeath loses connections without a word to one end or both, while
// bytes run both ways: they go on over a new connection within seconds.
func TestSilentDeath(t *testing.T) {
	var p *path
	r := startRelay(t, relayOptions{
		cover: nginxtest.Run(t, nginxtest.Config{}),
		via:   func(listen string) string { p = newPath(t, listen, 20*time.Millisecond); return p.addr() },
	})
	c := startClient(t, r.invite)

	// Both directions carry 8 MB/s until the end is called.
	var down, up gauge
	stop := make(chan struct{})
	end := sync.OnceFunc(func() { close(stop) })
	defer end()
	sums := make(chan string, 2)
	origin := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if req.Method == "POST" {
			h := sha256.New()
			if _, err := io.Copy(io.MultiWriter(h, &up), req.Body); err != nil {
				t.Errorf("the upload at the origin: %v", err)
			}
			fmt.Fprintf(w, "%x", h.Sum(nil))
			return
		}
		h := sha256.New()
		if _, err := io.Copy(io.MultiWriter(w, h), newPaced(stop)); err != nil {
			t.Errorf("the download at the origin: %v", err)
		}
		sums <- fmt.Sprintf("%x", h.Sum(nil))
	}))
	defer origin.Close()
	web := proxied(t, c.proxy)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer end()
	wg.Go(func() {
		resp, err := web.Get(origin.URL)
		if err != nil {
			t.Error(err)
			return
		}
		defer resp.Body.Close()
		h := sha256.New()
		if _, err := io.Copy(io.MultiWriter(h, &down), resp.Body); err != nil {
			t.Errorf("the download: %v", err)
			return
		}
		if got, want := fmt.Sprintf("%x", h.Sum(nil)), <-sums; got != want {
			t.Error("the download differs")
		}
	})
	wg.Go(func() {
		h := sha256.New()
		resp, err := web.Post(origin.URL, "application/octet-stream", io.TeeReader(newPaced(stop), h))
		if err != nil {
			t.Errorf("the upload: %v", err)
			return
		}
		defer resp.Body.Close()
		if got, err := io.ReadAll(resp.Body); err != nil || string(got) != fmt.Sprintf("%x", h.Sum(nil)) {
			t.Errorf("the upload differs: %s, %v", got, err)
		}
	})
	moving := func() bool { return down.take() > 0 && up.take() > 0 }
	eventually(t, 10*time.Second, "bytes run both ways", func() bool { return down.bytes() > 1<<20 && up.bytes() > 1<<20 })

	const most = 5 * time.Second
	for name, kill := range map[string]func() int{
		"nobody notices":          p.freeze,
		"only the client notices": func() int { return p.cutOneEnd(true) },
		"only the relay notices":  func() int { return p.cutOneEnd(false) },
	} {
		// A carrier that died young is replaced more slowly, on purpose.
		eventually(t, 2*most, "bytes run for a second", func() bool {
			down.take()
			up.take()
			<-time.After(time.Second)
			return moving()
		})
		_, before := p.live()
		down.restart()
		up.restart()
		if n := kill(); n == 0 {
			t.Fatalf("%s: there was no connection", name)
		}
		eventually(t, 3*most, "a new connection", func() bool { _, total := p.live(); return total > before })
		mark := time.Now()
		eventually(t, 3*most, "bytes run again", func() bool { return down.last().After(mark) && up.last().After(mark) })
		d, u := down.longest(), up.longest()
		t.Logf("%s: down stood still for %v, up for %v", name, d.Round(time.Millisecond), u.Round(time.Millisecond))
		if d > most || u > most {
			t.Errorf("%s: down stood still for %v, up for %v", name, d, u)
		}
	}
	end()
	wg.Wait()
}

// gauge measures bytes that arrive, and the longest time without.
type gauge struct {
	mu           sync.Mutex
	total, taken int64
	at           time.Time
	gap          time.Duration
}

func (g *gauge) Write(b []byte) (int, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	now := time.Now()
	if !g.at.IsZero() {
		g.gap = max(g.gap, now.Sub(g.at))
	}
	g.at = now
	g.total += int64(len(b))
	return len(b), nil
}

func (g *gauge) bytes() int64 {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.total
}

// take returns the bytes since it was last called.
func (g *gauge) take() int64 {
	g.mu.Lock()
	defer g.mu.Unlock()
	n := g.total - g.taken
	g.taken = g.total
	return n
}

func (g *gauge) restart() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.at, g.gap = time.Now(), 0
}

func (g *gauge) last() time.Time {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.at
}

func (g *gauge) longest() time.Duration {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.gap
}

// paced is 8 MB/s of random bytes until stop is closed.
type paced struct {
	stop <-chan struct{}
	src  *rand.ChaCha8
	next time.Time
}

func newPaced(stop <-chan struct{}) io.Reader {
	return &paced{stop: stop, src: rand.NewChaCha8([32]byte{}), next: time.Now()}
}

func (p *paced) Read(b []byte) (int, error) {
	b = b[:min(len(b), 32<<10)]
	select {
	case <-p.stop:
		return 0, io.EOF
	case <-time.After(time.Until(p.next)):
	}
	p.next = p.next.Add(time.Duration(len(b)) * time.Second / 8_000_000)
	if now := time.Now(); p.next.Before(now) {
		p.next = now
	}
	return p.src.Read(b)
}

// TestCoverClosesEarly has a cover that ends idle connections after 2 s and any
// connection after 4 s: a download outlives both, and an idle client lets its
// connection end and comes back.
func TestCoverClosesEarly(t *testing.T) {
	need(t, "curl")
	var p *path
	r := startRelay(t, relayOptions{
		cover: nginxtest.Run(t, nginxtest.Config{HeaderTimeout: 2 * time.Second, KeepaliveTimeout: 2 * time.Second, KeepaliveTime: 4 * time.Second}),
		via:   func(listen string) string { p = newPath(t, listen, 0); return p.addr() },
	})
	c := startClient(t, r.invite)
	origin := startOrigin(t)
	const size = 30_000_000
	source := fmt.Sprintf("http://%s/bytes/%d", origin, size)
	want := sha256.Sum256(curl(t, source))
	if got := sha256.Sum256(curl(t, "--limit-rate", "2M", "--proxy", "socks5h://"+c.proxy, source)); got != want {
		t.Error("the download differs")
	}
	if _, total := p.live(); total < 3 {
		t.Errorf("a download of 15 s took %d connections, so the cover never closed one", total)
	}
	eventually(t, 20*time.Second, "the idle client's connection has ended, and it does not come back by itself", func() bool {
		now, before := p.live()
		<-time.After(3 * time.Second)
		_, after := p.live()
		return now == 0 && after == before
	})
	if got := curl(t, "--proxy", "socks5h://"+c.proxy, "http://"+origin+"/"); !strings.Contains(string(got), "You can read this") {
		t.Errorf("after the idle time: %q", got)
	}
}

// TestHijacked puts a man in the middle with a forged certificate between
// client and relay: he gets a browser's alert and nothing covert.
func TestHijacked(t *testing.T) {
	need(t, "curl")
	forger := nginxtest.Run(t, nginxtest.Config{Name: "www.example.org"})
	var p *path
	r := startRelay(t, relayOptions{via: func(string) string { p = newPath(t, forger.Address, 0); p.record = true; return p.addr() }})
	c := startClient(t, r.invite)
	if _, err := tryCurl(t.Context(), "--max-time", "5", "--proxy", "socks5h://"+c.proxy, "http://127.0.0.1:9/"); err == nil {
		t.Error("a request succeeded through a man in the middle")
	}
	s := c.status(t)
	if len(s.Paths) != 1 || s.Paths[0].Failure != "hijacked" {
		t.Errorf("the client says %+v, want hijacked", s.Paths)
	}
	if !strings.Contains(c.err.String(), "hijacked") {
		t.Error("the client's log does not say hijacked")
	}
	// What he saw: ClientHello, CCS and one encrypted alert in each connection.
	var sent []byte
	for _, l := range p.taped() {
		up, _ := l.tape()
		sent = append(sent, up...)
	}
	_, conns := p.live()
	var kinds []string
	for len(sent) >= 5 {
		n := 5 + int(sent[3])<<8 + int(sent[4])
		if n > len(sent) {
			t.Fatalf("half a record of type %d", sent[0])
		}
		kinds = append(kinds, fmt.Sprintf("%d:%d", sent[0], n))
		sent = sent[n:]
	}
	t.Logf("%d connections: records %v", conns, kinds)
	alerts := 0
	for _, k := range kinds {
		switch {
		case strings.HasPrefix(k, "22:"), strings.HasPrefix(k, "20:"):
		case k == "23:24" || k == "21:7": // an alert is 2 bytes: encrypted 5+2+1+16
			alerts++
		default:
			t.Errorf("a record %s went to the man in the middle", k)
		}
	}
	if alerts == 0 || alerts > conns {
		t.Errorf("%d alerts on %d connections", alerts, conns)
	}
}

// TestRoundTrips counts round trips between client and relay: one for a request
// over an open session, three over a session whose connection had ended.
func TestRoundTrips(t *testing.T) {
	need(t, "curl")
	const oneWay = 100 * time.Millisecond
	const trip = 2 * oneWay
	var p *path
	r := startRelay(t, relayOptions{
		cover: nginxtest.Run(t, nginxtest.Config{HeaderTimeout: 2 * time.Second, KeepaliveTimeout: 2 * time.Second}),
		via:   func(listen string) string { p = newPath(t, listen, oneWay); return p.addr() },
	})
	c := startClient(t, r.invite)
	page := "http://" + startOrigin(t) + "/"
	firstByte := func() time.Duration {
		out := curl(t, "-o", "/dev/null", "-w", "%{time_starttransfer}", "--proxy", "socks5h://"+c.proxy, page)
		d, err := time.ParseDuration(string(out) + "s")
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	cold := firstByte()
	// What a busy machine adds is not of the protocol: the least of some counts.
	warm, resumed := time.Hour, time.Hour
	for range 5 {
		if warm = min(warm, firstByte()); warm <= trip*3/2 {
			break
		}
	}
	for range 3 {
		eventually(t, 20*time.Second, "the idle connection has ended", func() bool { now, _ := p.live(); return now == 0 })
		if resumed = min(resumed, firstByte()); resumed <= trip*7/2 {
			break
		}
	}
	t.Logf("first byte in round trips: cold %.2f, warm %.2f, resumed %.2f", ratio(cold, trip), ratio(warm, trip), ratio(resumed, trip))
	// Half a round trip (100 ms) is for the programs.
	if warm < trip || warm > trip*3/2 {
		t.Errorf("over an open session: %v, want one round trip of %v", warm, trip)
	}
	if resumed > trip*7/2 {
		t.Errorf("over a resumed session: %v, want three round trips of %v", resumed, trip)
	}
}

func ratio(a, b time.Duration) float64 { return float64(a) / float64(b) }

// TestStrangerSeesTheCover compares what a visitor without an invite gets from
// the relay with what the cover gives.
func TestStrangerSeesTheCover(t *testing.T) {
	need(t, "curl")
	site := nginxtest.Run(t, nginxtest.Config{})
	r := startRelay(t, relayOptions{cover: site})
	_, coverPort, _ := net.SplitHostPort(site.Address)
	_, relayPort, _ := net.SplitHostPort(r.listen)
	for _, version := range []string{"--http1.1", "--http2"} {
		fetch := func(port string) string {
			args := []string{"-k", "-i", version, "--resolve", site.Name + ":" + port + ":127.0.0.1", "https://" + site.Name + ":" + port + "/"}
			return dropDate(string(curl(t, args...)))
		}
		if bare, relayed := fetch(coverPort), fetch(relayPort); bare != relayed {
			t.Errorf("%s: the cover answers\n%s\nthe relay\n%s", version, bare, relayed)
		}
	}
	// Its certificate too is the cover's.
	conn, err := tls.Dial("tcp", r.listen, &tls.Config{RootCAs: site.Roots, ServerName: site.Name})
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
}

func dropDate(answer string) string {
	var kept []string
	for line := range strings.SplitSeq(answer, "\n") {
		if !strings.HasPrefix(strings.ToLower(line), "date:") {
			kept = append(kept, line)
		}
	}
	return strings.Join(kept, "\n")
}
