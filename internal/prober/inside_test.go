//go:build linux

package prober

import (
	"net"
	"os"
	"os/exec"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

// isolated runs functions in a network namespace of its own until the test ends.
// It takes root.
func isolated(t *testing.T) func(f func() error) error {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("a network namespace takes root")
	}
	work, done := make(chan func() error), make(chan error)
	t.Cleanup(func() { close(work) })
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		done <- unix.Unshare(unix.CLONE_NEWNET)
		for f := range work {
			done <- f()
		}
	}()
	inside := func(f func() error) error {
		work <- f
		return <-done
	}
	if err := <-done; err != nil {
		t.Skipf("no network namespace: %v", err)
	}
	if err := inside(func() error { return exec.Command("ip", "link", "set", "lo", "up").Run() }); err != nil {
		t.Skipf("ip: %v", err)
	}
	return inside
}

// TestInside probes a server that only exists in another network namespace, and
// sees its segments there.
func TestInside(t *testing.T) {
	inside := isolated(t)
	var l net.Listener
	if err := inside(func() (err error) {
		l, err = net.Listen("tcp4", "127.0.0.1:0")
		return err
	}); err != nil {
		t.Fatal(err)
	}
	served := make(chan struct{})
	t.Cleanup(func() {
		_ = l.Close()
		<-served
	})
	go func() {
		defer close(served)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = c.Write([]byte("hello"))
			_ = c.Close()
		}
	}()
	p := &Prober{Patience: patience}
	o, err := p.observe(t.Context(), Target{Name: "inside", Address: l.Addr().String(), Inside: inside}, Probe{Steps: []Step{Drain()}})
	if err != nil {
		t.Fatal(err)
	}
	if len(o.segments) < 3 || o.segments[1].String() != "5" {
		t.Errorf("segments %v, want a SYN-ACK, 5 bytes and a FIN", o.segments)
	}
	if _, err := p.observe(t.Context(), Target{Name: "outside", Address: l.Addr().String()}, Probe{}); err == nil {
		t.Error("the server answers outside of its namespace")
	}
}
