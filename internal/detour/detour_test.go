package detour

import (
	"context"
	"errors"
	"io"
	"net"
	"syscall"
	"testing"

	"busel/internal/flow"
)

// other is a relay to go through: it answers each destination as told.
type other struct {
	err  error // of the opening, at once
	late error // of what the first Read says
	to   flow.Addr
	far  net.Conn // the end at the destination
}

type stream struct {
	net.Conn
	o *other
}

func (s stream) CloseWrite() error               { return s.Conn.Close() }
func (s stream) Connected(context.Context) error { return nil }
func (s stream) Read(p []byte) (int, error) {
	if s.o.late != nil {
		return 0, s.o.late
	}
	return s.Conn.Read(p)
}
func (o *other) OpenStream(_ context.Context, dst flow.Addr) (flow.Stream, error) {
	if o.err != nil {
		return nil, o.err
	}
	o.to = dst
	near, far := net.Pipe()
	o.far = far
	return stream{near, o}, nil
}

func TestDialLeadsThroughTheOther(t *testing.T) {
	o := new(other)
	c, err := Network{o}.DialContext(t.Context(), "tcp", "192.0.2.1:443")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if got := o.to.String(); got != "192.0.2.1:443" {
		t.Errorf("the stream leads to %s", got)
	}
	if c.LocalAddr() == nil || c.RemoteAddr() == nil {
		t.Error("a connection without addresses")
	}
	half, ok := c.(interface{ CloseWrite() error })
	if !ok {
		t.Fatal("it cannot be half-closed")
	}
	go func() {
		_, _ = c.Write([]byte("hello"))
		_ = half.CloseWrite()
	}()
	if b, err := io.ReadAll(o.far); err != nil || string(b) != "hello" {
		t.Errorf("%q, %v arrived", b, err)
	}
}

func TestFailures(t *testing.T) {
	refused := &flow.OpenError{Code: flow.ConnectionRefused}
	denied := &flow.OpenError{Code: flow.NotAllowed, Detail: flow.DetailPolicy}
	for name, c := range map[string]struct {
		o    *other
		want error
	}{
		"refused at once": {&other{err: refused}, syscall.ECONNREFUSED},
		"refused later":   {&other{late: refused}, syscall.ECONNREFUSED},
		"not allowed":     {&other{late: denied}, denied},
	} {
		conn, err := Network{c.o}.DialContext(t.Context(), "tcp", "192.0.2.1:443")
		if c.o.late != nil {
			if err != nil {
				t.Errorf("%s: %v, although nobody has answered yet", name, err)
				continue
			}
			_, err = conn.Read(make([]byte, 1))
		}
		if !errors.Is(err, c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := (Network{new(other)}).DialContext(t.Context(), "udp", "192.0.2.1:443"); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("UDP: %v", err)
	}
	if _, err := (Network{new(other)}).DialContext(t.Context(), "tcp", "nowhere"); err == nil {
		t.Error("an address without a port was dialled")
	}
	if _, err := (Network{}).ListenPacket(t.Context(), "udp4", "0.0.0.0:0"); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("listening: %v", err)
	}
}
