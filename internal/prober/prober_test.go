//go:build linux

package prober

import (
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"busel/internal/nginxtest"
)

// patience of probers here is longer than the time-outs of the site.
const patience = 4 * time.Second

func cover(t *testing.T) *nginxtest.Server {
	return nginxtest.Run(t, nginxtest.Config{RSA: true, HeaderTimeout: time.Second, KeepaliveTimeout: 2 * time.Second, Large: 3 << 20})
}

// TestHarnessSeesDifferences proves that the comparison can fail: a forwarder
// written without care differs in what it makes of a RST, and a slow one in
// the times.
func TestHarnessSeesDifferences(t *testing.T) {
	site := cover(t)
	bare := Target{Name: "nginx", Address: site.Address}
	p := &Prober{Name: site.Name, Patience: patience}
	silent := Once("a request", []byte("GET / HTTP/1.0\r\n\r\n"))
	compare := func(bad Target) string {
		t.Helper()
		found, err := p.Compare(t.Context(), bare, bad, []Probe{silent})
		if err != nil {
			t.Fatal(err)
		}
		return fmt.Sprint(found)
	}
	for _, fault := range []struct {
		name    string
		forward func(down, up *net.TCPConn)
		want    string
	}{
		{"in small pieces", func(down, up *net.TCPConn) {
			_, _ = io.CopyBuffer(struct{ io.Writer }{down}, struct{ io.Reader }{up}, make([]byte, 50))
		}, "segments"},
		{"slowly", func(down, up *net.TCPConn) {
			b, _ := io.ReadAll(up)
			<-time.After(150 * time.Millisecond)
			_, _ = down.Write(b)
		}, "at "},
		{"cut short", func(down, up *net.TCPConn) { _, _ = io.CopyN(down, up, 100) }, "received"},
		{"with a RST for a FIN", func(down, up *net.TCPConn) {
			_, _ = io.Copy(down, up)
			_ = down.SetLinger(0)
		}, "RST"},
	} {
		t.Run(fault.name, func(t *testing.T) {
			found := compare(Target{Name: fault.name, Address: forwarder(t, site.Address, fault.forward)})
			if fault.want == "segments" && !CanCapture() {
				t.Skip("segments are seen by root only")
			}
			if !strings.Contains(found, fault.want) {
				t.Errorf("the difference was not seen, only: %q", found)
			}
		})
	}
	if found := compare(Target{Name: "nginx again", Address: site.Address}); found != "[]" {
		t.Errorf("nginx differs from itself: %v", found)
	}
}

// forwarder accepts connections, copies what clients send to address, and
// leaves the way back to f. It closes both ends when f returns.
func forwarder(t *testing.T, address string, f func(down, up *net.TCPConn)) string {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	t.Cleanup(func() {
		_ = l.Close()
		wg.Wait()
	})
	wg.Go(func() {
		for {
			down, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer down.Close()
				up, err := net.Dial("tcp4", address)
				if err != nil {
					return
				}
				defer up.Close()
				wg.Go(func() { _, _ = io.Copy(up, down) })
				f(down.(*net.TCPConn), up.(*net.TCPConn))
			})
		}
	})
	return l.Addr().String()
}

// serve answers each connection by f until the test ends.
func serve(t *testing.T, f func(*net.TCPConn)) Target {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	t.Cleanup(func() {
		_ = l.Close()
		wg.Wait()
	})
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer c.Close()
				f(c.(*net.TCPConn))
			})
		}
	})
	return Target{Name: "server", Address: l.Addr().String()}
}

// TestThresholds finds the numbers of row P2 in servers that behave so: FIN when
// all was read, RST when something was not.
func TestThresholds(t *testing.T) {
	reads := func(n int64, afterwards func(*net.TCPConn)) Target {
		return serve(t, func(c *net.TCPConn) {
			if _, err := io.CopyN(io.Discard, c, n); err == nil {
				afterwards(c)
			}
		})
	}
	for _, tt := range []struct {
		server Target
		want   string
	}{
		{reads(50, func(*net.TCPConn) {}), "[50 bytes: 0 bytes and FIN 51 bytes: 0 bytes and connection reset by peer 1498 bytes: 0 bytes and connection reset by peer]"},
		{reads(8192, func(c *net.TCPConn) { _, _ = io.WriteString(c, "no") }), "8192 bytes: 2 bytes and"},
		{reads(1<<20, func(*net.TCPConn) {}), "[open after 65536 bytes]"},
	} {
		t.Run(tt.want, func(t *testing.T) {
			t.Parallel() // most of the time is waiting
			h := threshold{func(n int) []byte { return make([]byte, n) }, 64 << 10}
			events, err := h.find(t.Context(), &Prober{}, tt.server)
			if err != nil {
				t.Fatal(err)
			}
			var all []string
			for _, e := range events {
				all = append(all, e.what)
			}
			if got := fmt.Sprint(all); !strings.Contains(got, tt.want) {
				t.Errorf("got %s, want %s", got, tt.want)
			}
		})
	}
}

// TestTickets proves that a server without tickets is told from one that sends
// two of the same length (row P4), and one with other alerts from OpenSSL's.
func TestTickets(t *testing.T) {
	site := cover(t)
	certificate, err := tls.LoadX509KeyPair(site.Dir+"/cert.pem", site.Dir+"/key.pem")
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		probe, want string
		config      *tls.Config
	}{
		{"tickets, HTTP/1.1", "ticket of 224 bytes", &tls.Config{SessionTicketsDisabled: true}},
		{"tickets, HTTP/1.1", "after the Finished", &tls.Config{}}, // one, of another length
		{"alert: a record of type 99", "TLS ends with", &tls.Config{}},
	} {
		tt.config.Certificates, tt.config.NextProtos = []tls.Certificate{certificate}, []string{"http/1.1"}
		other := serve(t, func(c *net.TCPConn) { _, _ = io.Copy(io.Discard, tls.Server(c, tt.config)) })
		p := &Prober{Name: site.Name, Patience: patience, Attempts: 1}
		probes := slices.DeleteFunc(p.Probes(), func(p Probe) bool { return p.Name != tt.probe })
		found, err := p.Compare(t.Context(), Target{Name: "nginx", Address: site.Address}, other, probes)
		if err != nil {
			t.Fatal(err)
		}
		if got := fmt.Sprint(found); !strings.Contains(got, tt.want) {
			t.Errorf("%s: %s\nwant %q in it", tt.probe, got, tt.want)
		}
	}
}

// TestReplays waits for the delays and changes the bytes that row C2 names.
func TestReplays(t *testing.T) {
	const length = 64
	var mu sync.Mutex
	got := map[string]int{} // how often which bytes were changed
	server := serve(t, func(c *net.TCPConn) {
		b := make([]byte, length)
		if _, err := io.ReadFull(c, b); err != nil {
			return
		}
		var changed []int
		for i, x := range b {
			if x != 0 {
				changed = append(changed, i)
			}
		}
		mu.Lock()
		got[fmt.Sprint(changed)]++
		mu.Unlock()
	})
	seen := time.Now()
	p := &Prober{Patience: time.Second, Attempts: 1}
	_, err := p.Compare(t.Context(), server, server, Replays(make([]byte, length), seen, 0, 300*time.Millisecond))
	if err != nil {
		t.Fatal(err)
	}
	if d := time.Since(seen); d < 300*time.Millisecond {
		t.Errorf("all replays came within %v", d)
	}
	// Twice each, after two delays and at two targets.
	want := map[string]int{"[]": 4, "[0]": 4, "[0 1 2 3 4 5 6 7 62 63]": 4, "[16]": 4, "[6 16]": 4}
	if mu.Lock(); fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("got %v, want %v", got, want)
	}
	mu.Unlock()
}
