package mirror

import (
	"context"
	"errors"
	"net"
	"os"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"busel/transport"
)

// resetInWrite is a network whose connection, once armed, is reset while something is
// written: the writer is told, and the reader sees the end first.
type resetInWrite struct {
	transport.Network
	armed atomic.Bool
	ended chan struct{} // closed when the carrier has ended
}

func (n *resetInWrite) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	var d net.Dialer
	c, err := d.DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	return &toldInWrite{c.(*net.TCPConn), n}, nil
}

type toldInWrite struct {
	*net.TCPConn
	n *resetInWrite
}

func (c *toldInWrite) Write(b []byte) (int, error) {
	if !c.n.armed.Load() {
		return c.TCPConn.Write(b)
	}
	_ = c.CloseRead()
	select {
	case <-c.n.ended:
	case <-time.After(writeGrace / 2):
	}
	return 0, &net.OpError{Op: "write", Err: os.NewSyscallError("write", syscall.ECONNRESET)}
}

// TestResetInWrite: a reset is one, whoever hears of it.
func TestResetInWrite(t *testing.T) {
	r := startRelay(t, goSite(t, nil), nil)
	n := &resetInWrite{ended: make(chan struct{})}
	c, e := r.pair(t, r.dialer(t, func(c *DialerConfig) { c.Network = n }))
	send(t, c, e, 1)
	var err error
	go func() {
		defer close(n.ended)
		for buf := make([]byte, 64<<10); err == nil; {
			_, err = c.ReadFrames(buf)
		}
	}()
	n.armed.Store(true)
	_ = c.WriteFrames([]transport.Frame{{Data: pingFrame(2)}})
	<-n.ended
	var ce *transport.CarrierError
	if !errors.As(err, &ce) || ce.Failure != transport.Reset {
		t.Errorf("the carrier ends with %v, want %s", err, transport.Reset)
	}
}
