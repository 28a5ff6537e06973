//go:build linux

package e2e

import (
	"bytes"
	"context"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"busel/internal/cover"
	"busel/internal/nginxtest"
	"busel/internal/prober"
	"busel/internal/state"
	"busel/transport"
)

// A relay with one rule switched off (package fault) must be told from its cover
// by the check that the rule is for, and a relay as it is by none.

// Time-outs of the site behind the relays, as short as nginx takes.
var shortSite = nginxtest.Config{RSA: true, HeaderTimeout: time.Second, KeepaliveTimeout: 2 * time.Second, Large: 6 << 20}

// check compares a relay with its cover. relay starts the one under test.
type check func(t *testing.T, site *nginxtest.Server, relay func(relayOptions) *relay) []prober.Difference

// strangers probes the relay, with some probes of the table or, for none, with
// all of it.
func strangers(names ...string) check {
	return func(t *testing.T, site *nginxtest.Server, relay func(relayOptions) *relay) []prober.Difference {
		p := &prober.Prober{Name: site.Name, Path: "/site.css", Patience: 4 * time.Second, Parallel: 12}
		table := p.Probes()
		if len(names) > 0 {
			p.Attempts = 2 // a fault is seen by each of them
			table = slices.DeleteFunc(table, func(p prober.Probe) bool { return !slices.Contains(names, p.Name) })
			if len(table) != len(names) {
				t.Fatalf("not all of these are probes: %q", names)
			}
		}
		r := relay(relayOptions{cover: site})
		found, err := p.Compare(t.Context(), prober.Target{Name: "nginx", Address: site.Address}, prober.Target{Name: "relay", Address: r.listen}, table)
		if err != nil {
			t.Fatal(err)
		}
		return found
	}
}

// tapped stands before the server at an address until the test ends.
func tapped(t *testing.T, to string) *prober.Tap {
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

// live starts a relay, and a client that reaches it through a tap and has
// fetched a page.
func live(t *testing.T, start func(relayOptions) *relay, o relayOptions) (*prober.Tap, *client, string) {
	t.Helper()
	var tap *prober.Tap
	o.via = func(listen string) string {
		tap = tapped(t, listen)
		return tap.Address
	}
	r := start(o)
	c := startClient(t, r.invite)
	origin := startOrigin(t)
	fetch(t, c, origin, 1000)
	return tap, c, origin
}

func fetch(t *testing.T, c *client, origin string, n int) {
	t.Helper()
	got := curl(t, "-x", "socks5h://"+c.proxy, fmt.Sprintf("http://%s/bytes/%d", origin, n))
	if len(got) != n {
		t.Errorf("%d bytes, want %d", len(got), n)
	}
}

// visitor is a genuine visit through a tap, by a browser-like client.
type visitor struct {
	tap  *prober.Tap
	http *http.Client
}

func newVisitor(t *testing.T, site *nginxtest.Server, to string) *visitor {
	tr := &http.Transport{TLSClientConfig: site.ClientConfig("h2"), ForceAttemptHTTP2: true}
	v := &visitor{tapped(t, to), &http.Client{Transport: tr, Timeout: 20 * time.Second}}
	t.Cleanup(tr.CloseIdleConnections)
	return v
}

func (v *visitor) get(path string) error {
	resp, err := v.http.Get("https://" + v.tap.Address + path)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	_, err = io.Copy(io.Discard, resp.Body)
	return err
}

// recording waits for a recording that meets the condition, 10 s at most.
func recording(tap *prober.Tap, ok func(*prober.Recording) bool) prober.Recording {
	for deadline := time.Now().Add(10 * time.Second); ; <-time.After(20 * time.Millisecond) {
		all := tap.Recordings()
		for _, r := range slices.Backward(all) {
			if ok(&r) || time.Now().After(deadline) {
				return r
			}
		}
	}
}

// opening looks at what follows the client's Finished. The cover is 20 ms away,
// so that a reply that does not wait for it is early for certain.
func opening(t *testing.T, site *nginxtest.Server, start func(relayOptions) *relay) []prober.Difference {
	far := newPath(t, site.Address, 20*time.Millisecond)
	v := newVisitor(t, site, far.addr())
	if err := v.get("/site.css"); err != nil {
		t.Fatal(err)
	}
	tap, _, _ := live(t, start, relayOptions{cover: site, coverPath: func(string) string { return far.addr() }})
	return prober.Opening(&v.tap.Recordings()[0], &tap.Recordings()[0])
}

// bulk looks at the lengths of a large response's records.
func bulk(t *testing.T, site *nginxtest.Server, start func(relayOptions) *relay) []prober.Difference {
	v := newVisitor(t, site, site.Address)
	if err := v.get("/large.bin"); err != nil {
		t.Fatal(err)
	}
	tap, c, origin := live(t, start, relayOptions{cover: site})
	fetch(t, c, origin, 6<<20)
	most := func(all []prober.Recording) *prober.Recording {
		r := slices.MaxFunc(all, func(a, b prober.Recording) int { return len(a.Records) - len(b.Records) })
		return &r
	}
	return prober.Bulk(most(v.tap.Recordings()), most(tap.Recordings()))
}

// flipped looks at what answers a record of the client with a flipped bit.
func flipped(t *testing.T, site *nginxtest.Server, start func(relayOptions) *relay) []prober.Difference {
	v := newVisitor(t, site, site.Address)
	if err := v.get("/site.css"); err != nil {
		t.Fatal(err)
	}
	tap, c, origin := live(t, start, relayOptions{cover: site})
	<-time.After(300 * time.Millisecond) // let all directions fall silent
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	var wg sync.WaitGroup
	defer wg.Wait()
	want, got := v.tap.Spoil(true), tap.Spoil(true)
	wg.Go(func() { _ = v.get("/site.css") })    // fails
	wg.Go(func() { fetch(t, c, origin, 1000) }) // moves to another carrier
	genuine, err := want.Wait(ctx)
	if err != nil {
		t.Fatalf("genuine visit: %v", err)
	}
	carrier, err := got.Wait(ctx)
	if err != nil {
		carrier.End = err.Error()
	}
	return prober.Flipped(genuine, carrier, 50*time.Millisecond)
}

// closing looks at how the cover ends a carrier whose client has fallen silent.
func closing(t *testing.T, site *nginxtest.Server, start func(relayOptions) *relay) []prober.Difference {
	v := newVisitor(t, site, site.Address)
	if err := v.get("/site.css"); err != nil {
		t.Fatal(err)
	}
	tap, c, _ := live(t, start, relayOptions{cover: site})
	_ = c.cmd.Process.Signal(syscall.SIGSTOP)
	defer c.cmd.Process.Signal(syscall.SIGCONT)
	ended := func(r *prober.Recording) bool { return r.ServerEnd != "" }
	genuine, carrier := recording(v.tap, ended), recording(tap, ended)
	return prober.Closing(&genuine, &carrier, 50*time.Millisecond)
}

// buildBroken makes a relayd that can be broken.
func buildBroken(t *testing.T) string {
	t.Helper()
	const name = "relayd-broken"
	build := exec.Command("go", "build", "-tags", "brokenrelay", "-o", filepath.Join(bin, name), "../../cmd/relayd")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("building the broken relay: %v\n%s", err, out)
	}
	return name
}

func TestBrokenRelays(t *testing.T) {
	need(t, "curl", "nginx")
	name := buildBroken(t)
	site := nginxtest.Run(t, shortSite)
	// broken is a relay with that fault. The variable is no process's but its own, since
	// several run at a time.
	broken := func(t *testing.T, fault string) func(relayOptions) *relay {
		program, err := os.CreateTemp(bin, name+"-")
		if err != nil {
			t.Fatal(err)
		}
		_, err = fmt.Fprintf(program, "#!/bin/sh\nBUSEL_BREAK=%s exec %s \"$@\"\n", fault, filepath.Join(bin, name))
		if err := errors.Join(err, program.Chmod(0o700), program.Close()); err != nil {
			t.Fatal(err)
		}
		return func(o relayOptions) *relay {
			o.program = filepath.Base(program.Name())
			return startRelay(t, o)
		}
	}
	for _, tt := range []struct {
		fault, name string
		check       check
		want        string // in what it says
	}{
		{"swallow-tampered", "a flipped bit", flipped, "a flipped bit"},
		{"answer-tampered", "a flipped bit", flipped, " | , then "}, // no alert
		{"hold-fin", "strangers", strangers("plain HTTP, bad request"), "server's end: FIN | still open"},
		{"hold-fin", "the end", closing, "the server's end"},
		{"own-timer", "strangers", strangers("frolov: nothing"), "server's end: FIN: at"},
		{"swallow-after-fin", "strangers", strangers("alert: a handshake record in the clear"), "met by: nothing"},
		{"insert-at-once", "the opening", opening, "2 of 266 bytes | 1 of "},
		{"fixed-records", "bulk", bulk, " | 16401-16401-16401 100%"},
		{"close-unread", "strangers", strangers("a body behind the answer"), "connection reset by peer"},
		{"reset-as-fin", "strangers", strangers("frolov: nothing"), "met by: nothing"},
		{"keepalive", "strangers", strangers("GET, then idle"), "0 keepalive"},
		{"multipath", "strangers", strangers("Multipath TCP offered"), "Multipath TCP: false, <nil> | Multipath TCP: true"},
	} {
		t.Run(tt.fault+", "+tt.name, func(t *testing.T) {
			if on, _ := os.ReadFile("/proc/sys/net/mptcp/enabled"); tt.fault == "multipath" && string(on) != "1\n" {
				t.Skip("the kernel has no Multipath TCP")
			}
			if tt.fault == "keepalive" && !prober.CanCapture() {
				t.Skip("keepalive is seen by root only")
			}
			t.Parallel() // most of the time is waiting
			found := tt.check(t, site, broken(t, tt.fault))
			if len(found) == 0 || !strings.Contains(fmt.Sprint(found), tt.want) {
				t.Errorf("the fault was not seen: %s, want %q in it", found, tt.want)
			}
			for _, d := range found {
				t.Log("nginx | relay:", d)
			}
		})
	}
}

// TestWholeRelay is the same with nothing broken, once or as often as
// BUSEL_E2E_ROUNDS says.
func TestWholeRelay(t *testing.T) {
	need(t, "curl", "nginx")
	site := nginxtest.Run(t, shortSite)
	for round := range rounds(t) {
		for _, tt := range []struct {
			name  string
			check check
		}{
			{"strangers", strangers()},
			{"the opening", opening},
			{"a flipped bit", flipped},
			{"the end", closing},
			{"bulk", bulk},
		} {
			t.Run(fmt.Sprintf("%s %d", tt.name, round+1), func(t *testing.T) {
				whole := func(o relayOptions) *relay { return startRelay(t, o) }
				// What the scheduler did is not seen four times running.
				var found []prober.Difference
				for range 4 {
					if found = tt.check(t, site, whole); len(found) == 0 {
						break
					}
				}
				for _, d := range found {
					t.Errorf("nginx | relay: %s", d)
				}
			})
		}
	}
}

// bareSite runs the built-in site of a relay with nothing before it, and returns where.
func bareSite(t *testing.T, r *relay) string {
	t.Helper()
	dir, err := state.Open(r.dir)
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	cert, err := dir.Cover()
	key, keyErr := dir.RelayKey()
	if err := errors.Join(err, keyErr); err != nil {
		t.Fatal(err)
	}
	seed, err := hkdf.Key(sha256.New, key.Bytes(), nil, "busel builtin cover 1", 32)
	if err != nil {
		t.Fatal(err)
	}
	site, err := cover.New(cover.Config{Name: "www.example.org", Certificate: cert, Seed: [32]byte(seed)})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ln, err := transport.System{}.Listen(ctx, "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- site.Run(ctx, ln) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return ln.Addr().String()
}

// TestWholeBuiltinRelay compares the built-in site with and without a relay before it,
// once or as often as BUSEL_E2E_ROUNDS says. It ends those who wait after a minute or
// five, which is not waited for here.
func TestWholeBuiltinRelay(t *testing.T) {
	need(t, "curl", "openssl")
	r := startRelay(t, relayOptions{})
	r.end()
	// ECDSA signatures have three lengths, RSA's one.
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	cert := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{"www.example.org"}, NotAfter: time.Now().AddDate(1, 0, 0)}
	der, err := x509.CreateCertificate(rand.Reader, cert, cert, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	for name, block := range map[string]*pem.Block{
		"cover.pem": {Type: "CERTIFICATE", Bytes: der}, "cover.key": {Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)},
	} {
		if err := os.WriteFile(filepath.Join(r.dir, name), pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	r.run(t, r.dir)
	bare := bareSite(t, r)
	p := &prober.Prober{Name: "www.example.org", Path: "/robots.txt", Patience: 2 * time.Second, Parallel: 12}
	if rounds(t) > 1 {
		p.Patience = 5 * time.Second
	}
	for round := range rounds(t) {
		var found []prober.Difference
		for range 4 { // what the scheduler did is not seen four times running
			var err error
			found, err = p.Compare(t.Context(), prober.Target{Name: "bare", Address: bare}, prober.Target{Name: "relay", Address: r.listen}, p.Probes())
			if err != nil {
				t.Fatal(err)
			}
			if len(found) == 0 {
				break
			}
		}
		for _, d := range found {
			t.Errorf("bare | relay: %s", d)
		}
		t.Logf("round %d: %d differences in %d probes", round+1, len(found), len(p.Probes()))
	}
	for name, look := range scanners(t, "www.example.org", nil) {
		if a, b := clean(look(bare)), clean(look(r.listen)); a != b || len(a) < 100 {
			t.Errorf("%s\nof the site:\n%s\nof the relay:\n%s", name, a, b)
		}
	}
	nmapAgrees(t, bare, r.listen, "ssl")
}

// rounds is how often BUSEL_E2E_ROUNDS wants relays compared.
func rounds(t *testing.T) int {
	t.Helper()
	text := os.Getenv("BUSEL_E2E_ROUNDS")
	if text == "" {
		return 1
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// TestOrdinaryRelayCannotBeBroken looks for the switch in both builds.
func TestOrdinaryRelayCannotBeBroken(t *testing.T) {
	for name, want := range map[string]bool{"relayd": false, "client": false, buildBroken(t): true} {
		program, err := os.ReadFile(filepath.Join(bin, name))
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Contains(program, []byte("BUSEL_BREAK")) != want {
			t.Errorf("%s can be broken: want %v", name, want)
		}
	}
}
