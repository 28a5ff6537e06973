//go:build linux

package prober

import (
	"fmt"
	"io"
	"net"
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
