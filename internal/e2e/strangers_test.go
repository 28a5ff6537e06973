//go:build linux

package e2e

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"busel/internal/nginxtest"
)

// crowds are what comes to a relay, by what it wants to use up.
var crowds = []struct {
	name  string
	kinds []string
	size  int  // of the short form, at a time
	part  int  // of the long form's number, one in so many
	waits bool // until the server has had enough
	long  bool // not in the short form before the built-in cover
}{
	{"slowloris", []string{"slow hello", "slow request", "slow head"}, 300, 5, true, false},
	{"floods", []string{"connect and close", "connect and reset", "handshake and go", "hello and reset"}, 16, 100, false, false},
	{"records", []string{"records without end", "hello of 16 MB", "oversized record", "records of a byte", "data instead of a hello"}, 25, 100, false, true},
	{"unfinished", []string{"silence", "hello", "half a hello"}, 300, 5, true, true},
	{"idle", []string{"silence", "handshake", "a page", "HTTP/2"}, 400, 1, true, false},
	{"no appetite", []string{"no appetite"}, 50, 20, true, true},
}

// manyStrangers is how large the crowds of the long form are.
func manyStrangers(t *testing.T) (n int) {
	t.Helper()
	if text := os.Getenv("BUSEL_E2E_STRANGERS"); text != "" {
		var err error
		if n, err = strconv.Atoi(text); err != nil {
			t.Fatal(err)
		}
	}
	mayOpen(t, uint64(2000+n+n/5))
	return n
}

// relayWithMetrics is startRelay, and where its metrics are.
func relayWithMetrics(t *testing.T, o relayOptions) (r *relay, metrics string) {
	t.Helper()
	metrics = freePort(t)
	o.edit = func(text string) string {
		return strings.Replace(text, "\nlisten = \"\"\n", fmt.Sprintf("\nlisten = %q\n", metrics), 1)
	}
	return startRelay(t, o), metrics
}

// covered calls f with each kind of cover: what makes a relay before it, and the name
// of its site.
func covered(t *testing.T, site nginxtest.Config, f func(t *testing.T, o relayOptions, name string)) {
	t.Run("nginx", func(t *testing.T) {
		cover := nginxtest.Run(t, site)
		f(t, relayOptions{cover: cover}, cover.Name)
	})
	t.Run("builtin", func(t *testing.T) { f(t, relayOptions{}, "www.example.org") })
}

// TestStrangers has crowds of strangers come to a relay while a client downloads at
// 25 MB/s. What the relay takes is bounded and comes back, and the client keeps four
// fifths of the speed that it has while the same crowd is at a web server that has
// nothing to do with the relay: the machine is as busy then. The long form has crowds
// of up to 10,000 that stay for longer than a minute, so that the ends are seen, which
// are as those of that server, which has as much room as the relay:
//
//	BUSEL_E2E_STRANGERS=10000 go test -timeout 40m -v -run 'TestStrangers$' ./internal/e2e
func TestStrangers(t *testing.T) {
	need(t, "nginx", "chrt")
	many := manyStrangers(t)
	window, patience := 700*time.Millisecond, time.Duration(0)
	if many > 0 {
		window, patience = 5*time.Second, 65*time.Second
	}
	site := nginxtest.Config{Large: 8 << 20}
	covered(t, site, func(t *testing.T, o relayOptions, name string) {
		r, metrics := relayWithMetrics(t, o)
		site.Connections = 4096 + 4
		other := nginxtest.Run(t, site)
		down := download(t, startClient(t, r.invite))
		files := descriptors(t, r.program)
		for _, c := range crowds {
			if c.long && many == 0 && o.cover == nil {
				continue
			}
			t.Run(c.name, func(t *testing.T) {
				size := c.size
				if many > 0 {
					size = max(c.size, many/c.part)
				}
				speed := func() float64 {
					down.take()
					begin := time.Now()
					<-time.After(window)
					return float64(down.take()) / time.Since(begin).Seconds()
				}
				quiet, before, goroutines := speed(), resident(t, r.program), measured(t, metrics, "goroutines")
				var elsewhere, here float64
				var bare, relayed crowdReport
				for range 4 { // what the scheduler did is not seen four times running
					there := startCrowd(t, crowdPlan{other.Address, other.Name, c.kinds, size})
					there.all(t)
					elsewhere = min(speed(), downloadRate) // more is what a pause had left
					if !c.waits {
						bare = there.end(t)
					}
					crowd := startCrowd(t, crowdPlan{r.listen, name, c.kinds, size})
					crowd.all(t)
					here = speed()
					most := resident(t, r.program) - before
					t.Logf("%d strangers: the relay has %+.1f MiB, %+d goroutines, %+d descriptors", size, float64(most)/(1<<20),
						measured(t, metrics, "goroutines")-goroutines, descriptors(t, r.program)-files)
					if bound := int64(64<<20) + int64(size)*96<<10; most > bound {
						t.Errorf("the relay has %d MiB more", most>>20)
					}
					if c.waits {
						if o.cover != nil {
							<-time.After(patience)
						}
						bare = there.end(t)
					}
					relayed = crowd.end(t)
					if here >= 0.8*elsewhere {
						break
					}
				}
				t.Logf("the client's MB/s: %.1f alone, %.1f with the crowd elsewhere, %.1f with it here", quiet/1e6, elsewhere/1e6, here/1e6)
				t.Logf("nginx: %s", &bare)
				t.Logf("relay: %s", &relayed)
				if here < 0.8*elsewhere {
					t.Errorf("the client has %.2f of its speed", here/elsewhere)
				}
				if name == other.Name {
					for _, d := range otherEnds(c.kinds, &bare, &relayed) {
						t.Error(d)
					}
				}
				eventually(t, time.Minute, "descriptors return", func() bool { return descriptors(t, r.program) <= files+8 })
				eventually(t, time.Minute, "goroutines return", func() bool { return measured(t, metrics, "goroutines") <= goroutines+16 })
			})
		}
	})
}

// otherEnds compares how a web server and a relay end those who do not go themselves:
// mostly in the same way, and the relay in none that the server does not have.
func otherEnds(kinds []string, bare, relayed *crowdReport) (out []string) {
	for _, kind := range kinds {
		a, b := bare.usual(kind), relayed.usual(kind)
		foreign := slices.ContainsFunc(b, func(how string) bool { return bare.Ends[kind][how] == 0 })
		if len(a) != len(b) && min(len(a), len(b)) == 0 || len(a) > 0 && a[0] != b[0] || foreign {
			out = append(out, fmt.Sprintf("%s: nginx ends with %q, the relay with %q", kind, a, b))
		}
	}
	return out
}

// TestEndsOfStrangers has every kind of stranger at a relay and at the same nginx with
// short time-outs, and compares how they are ended.
func TestEndsOfStrangers(t *testing.T) {
	need(t, "nginx", "chrt")
	site := nginxtest.Run(t, shortSite)
	r := startRelay(t, relayOptions{cover: site})
	kinds := slices.Sorted(maps.Keys(strangerKinds))
	// What the scheduler did to a stranger, such as a handshake that was late for nginx's
	// time-out, is not seen three times running.
	var found []string
	for range 3 {
		there := startCrowd(t, crowdPlan{site.Address, site.Name, kinds, 4 * len(kinds)})
		here := startCrowd(t, crowdPlan{r.listen, site.Name, kinds, 4 * len(kinds)})
		<-time.After(4 * time.Second)
		bare, relayed := there.end(t), here.end(t)
		t.Logf("nginx: %s", &bare)
		t.Logf("relay: %s", &relayed)
		if n := len(bare.Ends); n < 14 {
			t.Errorf("only %d kinds were ended", n)
		}
		if found = otherEnds(kinds, &bare, &relayed); len(found) == 0 {
			break
		}
	}
	for _, d := range found {
		t.Error(d)
	}
}

// TestFullRelay has more strangers come to a relay than it has room for, and to an
// nginx that has run out of worker_connections. Both end those who wait for nothing,
// the oldest first and in the same way, and turn new ones away if there are none.
func TestFullRelay(t *testing.T) {
	need(t, "nginx")
	const room, come = 60, 120
	few := "#!/bin/sh\nulimit -n " + strconv.Itoa(4*room) + "\nexec " + filepath.Join(bin, "relayd") + " \"$@\"\n"
	if err := os.WriteFile(filepath.Join(bin, "relayd-with-few-files"), []byte(few), 0o700); err != nil {
		t.Fatal(err)
	}
	full := nginxtest.Run(t, nginxtest.Config{Connections: room + 4})
	r, metrics := relayWithMetrics(t, relayOptions{cover: nginxtest.Run(t, nginxtest.Config{}), program: "relayd-with-few-files"})
	for _, tt := range []struct {
		kind string
		want string // of the first, and of the last
	}{
		{"silence", "FIN | stays"},
		{"handshake", "close_notify, FIN | stays"},
		{"a page", "close_notify, FIN | stays"},
		{"HTTP/2", "close_notify, FIN | stays"},
		{"hello", "stays | turned away"},
		{"half a hello", "stays | turned away"},
		{"half a request", "stays | turned away"},
	} {
		t.Run(tt.kind, func(t *testing.T) {
			eventually(t, time.Minute, "the last ones have gone", func() bool { return measured(t, metrics, "mirror_connections") == 0 })
			var wg sync.WaitGroup
			defer wg.Wait()
			for _, server := range []struct{ name, address string }{{"nginx", full.Address}, {"relay", r.listen}} {
				wg.Go(func() {
					first, last := fill(t, server.address, full.Name, tt.kind, come)
					if got := first + " | " + last; got != tt.want {
						t.Errorf("%s: %s, want %s", server.name, got, tt.want)
					}
				})
			}
		})
	}
}

// fill has n strangers of a kind come one after another to a server with room for
// half of them, and reports what became of the first and of the last quarter. It
// returns when all have left.
func fill(t *testing.T, address, name, kind string, n int) (first, last string) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var wg sync.WaitGroup
	var mu sync.Mutex
	ends := make([]string, n)
	for i := range n {
		c, err := net.Dial("tcp", address)
		if err != nil {
			t.Error(err)
			break
		}
		s := &oneStranger{ctx: ctx, name: name, conn: c.(*net.TCPConn)}
		wg.Go(func() {
			defer c.Close()
			defer context.AfterFunc(ctx, func() { c.Close() })()
			strangerKinds[kind](s)
			secure := s.secure != nil || len(s.said) > 0
			how := s.end()
			mu.Lock()
			defer mu.Unlock()
			switch {
			case ctx.Err() != nil:
				how = "stays"
			case i >= n/2 && !secure: // FIN or RST, as his first words were early or late
				how = "turned away"
			}
			ends[i] = how
		})
		<-time.After(4 * time.Millisecond)
	}
	<-time.After(300 * time.Millisecond)
	cancel()
	wg.Wait()
	all := func(part []string) string {
		return strings.Join(slices.Compact(slices.Sorted(slices.Values(part))), " or ")
	}
	return all(ends[:n/4]), all(ends[n-n/4:])
}

// TestWeightOfStrangers weighs those who stay, with nobody else at the relay.
func TestWeightOfStrangers(t *testing.T) {
	need(t, "nginx", "chrt")
	size, kinds := 500, []string{"slow request", "handshake"}
	if many := manyStrangers(t); many > 0 {
		size, kinds = min(many, 3000), []string{"silence", "hello", "slow request", "handshake", "HTTP/2"}
	}
	covered(t, nginxtest.Config{}, func(t *testing.T, o relayOptions, name string) {
		most := 24.0 // KiB
		if o.cover == nil {
			most = 96
		}
		for _, kind := range kinds {
			t.Run(kind, func(t *testing.T) {
				r, metrics := relayWithMetrics(t, o)
				before, files := resident(t, r.program), descriptors(t, r.program)
				crowd := startCrowd(t, crowdPlan{r.listen, name, []string{kind}, size})
				crowd.all(t)
				eventually(t, time.Minute, "all are in", func() bool { return measured(t, metrics, "mirror_connections") >= size })
				<-time.After(time.Second) // until all have said what they have to
				weight := func() float64 { return float64(resident(t, r.program)-before) / float64(size) / 1024 }
				each := weight()
				// What is not collected yet weighs, too: 18 to 26 KiB before nginx. An idle
				// relay gives it back after some seconds, and every minute.
				eventually(t, 70*time.Second, fmt.Sprintf("they weigh %.0f KiB each, not %.1f", most, each), func() bool {
					each = min(each, weight())
					return each <= most
				})
				t.Logf("%d strangers: %.1f KiB and %d descriptors for each", size, each, (descriptors(t, r.program)-files)/size)
				crowd.end(t)
				eventually(t, time.Minute, "all have gone", func() bool { return measured(t, metrics, "mirror_connections") == 0 })
			})
		}
	})
}

// greedyKinds want a server to remember much.
var greedyKinds = []string{
	"many fields", "many requests", "a huge frame", "a long header", "tiny fields", "a body", "many pings", "half a hello of 60 kB",
}

// TestGreedyStrangers has visitors of the built-in site who want it to remember as much
// as a request can hold: all of them together take no more of it than others do, and
// another visitor sees the site. In the long form so many come to a relay that believes
// to be on a server of 512 MB, before nginx and before the built-in site, and it must stay
// within what the service may have there:
//
//	BUSEL_E2E_STRANGERS=4096 go test -timeout 40m -v -run 'TestGreedyStrangers' ./internal/e2e
func TestGreedyStrangers(t *testing.T) {
	need(t, "chrt", "curl")
	many := manyStrangers(t)
	if many == 0 {
		greedy(t, relayOptions{}, "www.example.org", 120, 2*time.Second, 0)
		return
	}
	need(t, "nginx", "unshare")
	const small = 354 << 20 // three quarters of what Linux has of 512 MB
	meminfo := filepath.Join(t.TempDir(), "meminfo")
	if err := os.WriteFile(meminfo, fmt.Appendf(nil, "MemTotal: %d kB\n", small>>10), 0o600); err != nil {
		t.Fatal(err)
	}
	script := fmt.Sprintf("#!/bin/sh\nexec unshare -m sh -c 'mount --bind %s /proc/meminfo && exec \"$@\"' sh %s \"$@\"\n", meminfo, filepath.Join(bin, "relayd"))
	if err := os.WriteFile(filepath.Join(bin, "relayd-on-a-small-server"), []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	covered(t, nginxtest.Config{}, func(t *testing.T, o relayOptions, name string) {
		o.program = "relayd-on-a-small-server"
		greedy(t, o, name, many, 30*time.Second, small)
	})
}

// greedy has size strangers of each greedy kind come to a relay of its own for a while. It
// must stay below most bytes in all, or if that is 0 grow by little.
func greedy(t *testing.T, o relayOptions, name string, size int, while time.Duration, most int64) {
	for _, kind := range greedyKinds {
		t.Run(kind, func(t *testing.T) {
			r, metrics := relayWithMetrics(t, o)
			before, goroutines := resident(t, r.program), measured(t, metrics, "goroutines")
			crowd := startCrowd(t, crowdPlan{r.listen, name, []string{kind}, size})
			crowd.all(t)
			top, working, conns := int64(0), 0, 0
			for end := time.Now().Add(while); time.Now().Before(end); <-time.After(100 * time.Millisecond) {
				top, working = max(top, resident(t, r.program)), max(working, measured(t, metrics, "goroutines"))
				conns = max(conns, measured(t, metrics, "mirror_connections"))
			}
			patience := "20"
			if most > 0 {
				patience = "60"
			}
			if page, err := tryCurl(t.Context(), "-k", "--max-time", patience, "--fail", "https://"+r.listen+"/"); o.cover == nil && (err != nil || !bytes.Contains(page, []byte("<html"))) {
				t.Errorf("another visitor sees %.100q, %v", page, err)
			}
			report := crowd.end(t)
			t.Logf("the relay had %.1f MiB, %+.1f MiB, and up to %+d goroutines and %d connections at a time with %s",
				float64(top)/(1<<20), float64(top-before)/(1<<20), working-goroutines, conns, &report)
			bound := most
			if most == 0 { // without a bound they took up to 345 MiB more
				bound = before + 16<<20 + int64(size)*200<<10
				if kind == "many requests" || kind == "many pings" { // a goroutine for each request
					bound = before + 80<<20
				}
			}
			if top > bound {
				t.Errorf("with %d visitors the relay takes %d MiB", size, top>>20)
			}
			eventually(t, time.Minute, "all have gone", func() bool { return measured(t, metrics, "goroutines") <= goroutines+16 })
		})
	}
}

// downloadRate is that of download, in bytes a second.
const downloadRate = 25e6

// download loads endlessly through the client until the test ends.
func download(t *testing.T, c *client) *gauge {
	t.Helper()
	zeros := make([]byte, 50_000)
	source := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		tick := time.NewTicker(2 * time.Millisecond)
		defer tick.Stop()
		for begin, sent := time.Now(), 0; ; {
			for due := int(time.Since(begin).Seconds() * downloadRate); sent < due; sent += len(zeros) {
				if _, err := w.Write(zeros); err != nil {
					return
				}
			}
			select {
			case <-tick.C:
			case <-r.Context().Done():
				return
			}
		}
	}))
	t.Cleanup(source.Close)
	resp, err := proxied(t, c.proxy).Get(source.URL)
	if err != nil {
		t.Fatal(err)
	}
	down, read := new(gauge), make(chan error, 1)
	go func() {
		_, err := io.CopyBuffer(struct{ io.Writer }{down}, resp.Body, make([]byte, 64<<10))
		read <- err
	}()
	t.Cleanup(func() {
		select {
		case err := <-read:
			t.Errorf("the download ended: %v", err)
		default:
		}
		resp.Body.Close()
	})
	eventually(t, time.Minute, "bytes run at full speed", func() bool {
		down.take()
		<-time.After(400 * time.Millisecond)
		return down.take() > 0.3*downloadRate
	})
	return down
}

// measured is one of the relay's metrics.
func measured(t *testing.T, address, name string) int {
	t.Helper()
	resp, err := http.Get("http://" + address + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	m := regexp.MustCompile(`\nbusel_relay_` + name + ` (\d+)\n`).FindSubmatch(text)
	if m == nil {
		t.Fatalf("no %s in %s", name, text)
	}
	n, err := strconv.Atoi(string(m[1]))
	if err != nil {
		t.Fatal(err)
	}
	return n
}
