package front_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"busel/internal/flow"
	"busel/internal/front"
)

// stream is a flow.Stream whose verdict the test gives.
type stream struct {
	*net.TCPConn
	verdict chan error // of one value or closed
}

func (s *stream) Connected(ctx context.Context) error {
	select {
	case err := <-s.verdict:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// opening is one call of OpenStream: the far end of the stream that it got, and
// the way to give the verdict.
type opening struct {
	dst     flow.Addr
	far     *net.TCPConn
	verdict chan error
}

// opener opens streams into the test.
type opener struct {
	t        testing.TB
	ln       net.Listener
	openings chan *opening
	err      error // of OpenStream
}

func newOpener(t testing.TB) *opener {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	return &opener{t: t, ln: ln, openings: make(chan *opening, 1)}
}

func (o *opener) OpenStream(ctx context.Context, dst flow.Addr) (flow.Stream, error) {
	if o.err != nil {
		return nil, o.err
	}
	near, err := net.Dial("tcp", o.ln.Addr().String())
	if err != nil {
		return nil, err
	}
	far, err := o.ln.Accept()
	if err != nil {
		return nil, err
	}
	far.SetDeadline(time.Now().Add(patience))
	op := &opening{dst, far.(*net.TCPConn), make(chan error, 1)}
	select {
	case o.openings <- op:
		return &stream{near.(*net.TCPConn), op.verdict}, nil
	case <-ctx.Done():
		near.Close()
		far.Close()
		return nil, ctx.Err()
	}
}

func (o *opener) OpenPackets(context.Context) (flow.Packets, error) {
	return nil, errors.ErrUnsupported
}

func (o *opener) next() *opening {
	o.t.Helper()
	select {
	case op := <-o.openings:
		o.t.Cleanup(func() { op.far.Close() })
		return op
	case <-time.After(patience):
		o.t.Fatal("nothing was opened")
		return nil
	}
}

// speaker is one way to ask the proxy for a tunnel.
type speaker struct {
	name    string
	request func(flow.Addr) []byte
	hello   []byte // answered at once
	success []byte
}

var speakers = []speaker{
	{"socks5", connectRequest, []byte{5, 0}, reply(flow.Succeeded)},
	{
		"http", func(a flow.Addr) []byte { return fmt.Appendf(nil, "CONNECT %s HTTP/1.1\r\nHost: x\r\n\r\n", a) },
		nil, []byte("HTTP/1.1 200 Connection established\r\n\r\n"),
	},
}

// silentFor checks that nothing can be read: the answer must not come early.
func silentFor(t *testing.T, c net.Conn, d time.Duration) {
	t.Helper()
	c.SetReadDeadline(time.Now().Add(d))
	n, err := c.Read(make([]byte, 1))
	if timeout, ok := errors.AsType[net.Error](err); n != 0 || !ok || !timeout.Timeout() {
		t.Fatalf("want silence, got %d bytes, %v", n, err)
	}
	c.SetReadDeadline(time.Now().Add(patience))
}

func TestAnswerIsTrueAndDataEarly(t *testing.T) {
	for _, sp := range speakers {
		t.Run(sp.name, func(t *testing.T) {
			o := newOpener(t)
			f := start(t, front.Config{Opener: o})
			dst := mustAddr(t, "site.example", 443)
			c := dial(t, f)
			send(t, c, append(sp.request(dst), "early"...)...)
			expect(t, c, sp.hello...)
			op := o.next()
			if op.dst != dst {
				t.Fatalf("opened %v", op.dst)
			}
			expect(t, op.far, []byte("early")...) // before the verdict
			send(t, c, []byte(" and later")...)
			expect(t, op.far, []byte(" and later")...)
			send(t, op.far, []byte("reply")...)
			silentFor(t, c, 50*time.Millisecond)
			op.verdict <- nil
			expect(t, c, append(append([]byte{}, sp.success...), "reply"...)...)

			// The second time the answer comes before the verdict, and early
			// data still flows.
			c = dial(t, f)
			send(t, c, append(sp.request(dst), "again"...)...)
			expect(t, c, sp.hello...)
			expect(t, c, sp.success...)
			op = o.next()
			expect(t, op.far, []byte("again")...)
			send(t, op.far, []byte("reply")...)
			silentFor(t, c, 50*time.Millisecond) // no byte from an unconfirmed stream
			op.verdict <- nil
			expect(t, c, []byte("reply")...)

			// Another port is another destination.
			c = dial(t, f)
			send(t, c, sp.request(mustAddr(t, "site.example", 80))...)
			expect(t, c, sp.hello...)
			silentFor(t, c, 50*time.Millisecond)
			o.next().verdict <- &flow.OpenError{Code: flow.ConnectionRefused, Detail: flow.DetailRefused}

			// A failure is a reset, and forgets.
			c = dial(t, f)
			send(t, c, sp.request(dst)...)
			expect(t, c, sp.hello...)
			expect(t, c, sp.success...)
			o.next().verdict <- &flow.OpenError{Code: flow.ConnectionRefused, Detail: flow.DetailRefused}
			if n, err := c.Read(make([]byte, 1)); n != 0 || err == nil || err == io.EOF {
				t.Fatalf("want a reset, got %d bytes, %v", n, err)
			}
			c = dial(t, f)
			send(t, c, sp.request(dst)...)
			expect(t, c, sp.hello...)
			op = o.next()
			silentFor(t, c, 50*time.Millisecond)
			op.verdict <- nil
			expect(t, c, sp.success...)
		})
	}
}

// TestTrueReasonOutrunsReset breaks the stream before the reason is known, while
// the application is sending: it must hear the reason all the same.
func TestTrueReasonOutrunsReset(t *testing.T) {
	o := newOpener(t)
	f := start(t, front.Config{Opener: o})
	for range 20 {
		c := dial(t, f)
		send(t, c, connectRequest(mustAddr(t, "site.example", 443))...)
		expect(t, c, 5, 0)
		op := o.next()
		op.far.SetLinger(0)
		op.far.Close() // RST
		send(t, c, make([]byte, 100_000)...)
		op.verdict <- &flow.OpenError{Code: flow.TTLExpired, Detail: flow.DetailTimeout}
		expect(t, c, reply(flow.TTLExpired)...)
		if n, err := c.Read(make([]byte, 1)); n != 0 || err != io.EOF {
			t.Fatalf("want the end, got %d bytes, %v", n, err)
		}
	}
}

func TestOpenerErrors(t *testing.T) {
	tests := []struct {
		err    error
		code   flow.Code
		status int
		say    string
	}{
		{flow.ErrNoRelay, flow.GeneralFailure, 503, "No relay can be reached"},
		{fmt.Errorf("session: %w", flow.ErrNoRelay), flow.GeneralFailure, 503, "No relay can be reached"},
		{net.ErrClosed, flow.GeneralFailure, 503, "could not ask a relay"},
		{context.DeadlineExceeded, flow.TTLExpired, 504, "no answer about"},
		{&flow.OpenError{Code: flow.TTLExpired, Detail: flow.DetailTimeout}, flow.TTLExpired, 504, "did not answer in time"},
		{&flow.OpenError{Code: flow.NotAllowed, Detail: flow.DetailQuota}, flow.NotAllowed, 503, "quota"},
		{&flow.OpenError{Code: flow.GeneralFailure, Detail: flow.DetailRelayRestarted}, flow.GeneralFailure, 502, "restarted"},
		{&flow.OpenError{Code: flow.NetworkUnreachable}, flow.NetworkUnreachable, 502, "no way to"},
		{&flow.OpenError{Code: flow.HostUnreachable}, flow.HostUnreachable, 502, "no way to"},
		{&flow.OpenError{Code: flow.AddressNotSupported}, flow.AddressNotSupported, 502, "cannot use the address"},
		{&flow.OpenError{Code: flow.Succeeded}, flow.GeneralFailure, 502, "could not reach"},
		{&flow.OpenError{Code: 99, Detail: 99}, flow.GeneralFailure, 502, "could not reach"},
	}
	for _, tt := range tests {
		t.Run(fmt.Sprint(tt.err), func(t *testing.T) {
			o := newOpener(t)
			o.err = tt.err
			f := start(t, front.Config{Opener: o})
			c := dial(t, f)
			send(t, c, connectRequest(mustAddr(t, "site.example", 443))...)
			expect(t, c, 5, 0)
			expect(t, c, reply(tt.code)...)
			for _, request := range []string{
				"CONNECT site.example:443 HTTP/1.1\r\nHost: x\r\n\r\n",
				"GET http://site.example/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
			} {
				c := dial(t, f)
				send(t, c, []byte(request)...)
				res, err := http.ReadResponse(bufio.NewReader(c), nil)
				if err != nil {
					t.Fatal(err)
				}
				body, err := io.ReadAll(res.Body)
				if err != nil || res.StatusCode != tt.status || !strings.Contains(string(body), tt.say) {
					t.Errorf("%s %q, %v; want %d and %q", res.Status, body, err, tt.status, tt.say)
				}
			}
		})
	}
}

// TestForwardSendsEarly demands that a forwarded request travels along with the
// opening, and that a failing verdict still becomes the right page.
func TestForwardSendsEarly(t *testing.T) {
	o := newOpener(t)
	f := start(t, front.Config{Opener: o})
	for _, body := range []string{"", "some body"} {
		c := dial(t, f)
		fmt.Fprintf(c, "POST http://site.example/x HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
		op := o.next()
		expect(t, op.far, []byte("POST /x HTTP/1.1\r\nHost: site.example\r\n")...)
		op.far.SetLinger(0)
		op.far.Close()
		op.verdict <- &flow.OpenError{Code: flow.NotAllowed, Detail: flow.DetailPolicy}
		res, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil {
			t.Fatal(err)
		}
		if res.StatusCode != 403 {
			t.Errorf("%s", res.Status)
		}
	}
}

func TestConnectTimeout(t *testing.T) {
	o := newOpener(t)
	f := start(t, front.Config{Opener: o, ConnectTimeout: 50 * time.Millisecond})
	c := dial(t, f)
	send(t, c, connectRequest(mustAddr(t, "site.example", 443))...)
	expect(t, c, 5, 0)
	o.next()
	expect(t, c, reply(flow.TTLExpired)...)
}

// What an application asked for that has left is given up, and what one asked for that
// only has nothing more to say is not; nor is what has been answered.
func TestNobodyWaits(t *testing.T) {
	for _, c := range []struct{ gone, answered, ends bool }{{true, false, true}, {false, false, false}, {true, true, false}} {
		o := newOpener(t)
		f := start(t, front.Config{Opener: o, Gone: func(*net.TCPConn) bool { return c.gone }})
		app := dial(t, f)
		send(t, app, connectRequest(mustAddr(t, "site.example", 443))...)
		expect(t, app, 5, 0)
		op := o.next()
		if c.answered {
			op.verdict <- nil
			expect(t, app, reply(flow.Succeeded)...)
		}
		send(t, app, []byte("question")...)
		app.CloseWrite()
		if got, _ := io.ReadAll(op.far); string(got) != "question" && !c.ends {
			t.Errorf("%+v: %q came", c, got)
		}
		op.far.SetDeadline(time.Now().Add(300 * time.Millisecond))
		var err error
		for err == nil && !c.answered { // until the kernel takes no more, or says that nobody reads
			_, err = op.far.Write(make([]byte, 1<<20))
		}
		if ends := err != nil && !errors.Is(err, os.ErrDeadlineExceeded); ends != c.ends {
			t.Errorf("%+v: the stream ends %t, %v", c, ends, err)
		}
	}
}

// A program that was told that it is connected may say a line and close: that arrives, as
// it would without a proxy, and nothing is broken off.
func TestSaysAndLeaves(t *testing.T) {
	o := newOpener(t)
	f := start(t, front.Config{Opener: o, Gone: func(*net.TCPConn) bool { return true }})
	ask := func() (app *net.TCPConn, op *opening) {
		app = dial(t, f)
		send(t, app, connectRequest(mustAddr(t, "site.example", 443))...)
		expect(t, app, 5, 0)
		return app, o.next()
	}
	app, op := ask()
	op.verdict <- nil
	expect(t, app, reply(flow.Succeeded)...)
	app, op = ask() // the site could be reached lately
	expect(t, app, reply(flow.Succeeded)...)
	send(t, app, []byte("a line")...)
	app.CloseWrite()
	if got, err := io.ReadAll(op.far); string(got) != "a line" || err != nil {
		t.Errorf("%q came, %v", got, err)
	}
	op.verdict <- nil
	send(t, op.far, []byte("thanks")...)
	op.far.CloseWrite()
	if got, err := io.ReadAll(app); string(got) != "thanks" || err != nil {
		t.Errorf("the stream was broken off: %q, %v", got, err)
	}
}

func TestHalfClose(t *testing.T) {
	for _, sp := range speakers {
		t.Run(sp.name, func(t *testing.T) {
			o := newOpener(t)
			f := start(t, front.Config{Opener: o})
			connect := func() (*net.TCPConn, *opening) {
				c := dial(t, f)
				send(t, c, sp.request(mustAddr(t, "site.example", 443))...)
				expect(t, c, sp.hello...)
				op := o.next()
				op.verdict <- nil
				expect(t, c, sp.success...)
				return c, op
			}
			t.Run("up first", func(t *testing.T) {
				c, op := connect()
				send(t, c, []byte("question")...)
				c.CloseWrite()
				if got, err := io.ReadAll(op.far); err != nil || string(got) != "question" {
					t.Fatalf("%q, %v", got, err)
				}
				send(t, op.far, []byte("answer")...)
				op.far.Close()
				if got, err := io.ReadAll(c); err != nil || string(got) != "answer" {
					t.Fatalf("%q, %v", got, err)
				}
			})
			t.Run("down first", func(t *testing.T) {
				c, op := connect()
				send(t, op.far, []byte("banner")...)
				op.far.CloseWrite()
				if got, err := io.ReadAll(c); err != nil || string(got) != "banner" {
					t.Fatalf("%q, %v", got, err)
				}
				send(t, c, []byte("still here")...)
				c.Close()
				if got, err := io.ReadAll(op.far); err != nil || string(got) != "still here" {
					t.Fatalf("%q, %v", got, err)
				}
			})
			t.Run("reset by the site", func(t *testing.T) {
				c, op := connect()
				op.far.SetLinger(0)
				op.far.Close()
				if _, err := c.Read(make([]byte, 1)); err == nil || err == io.EOF {
					t.Fatalf("want a reset, got %v", err)
				}
			})
			t.Run("reset by the application", func(t *testing.T) {
				c, op := connect()
				c.SetLinger(0)
				c.Close()
				// This stream closes without RST; what matters is that it ends.
				if _, err := io.ReadAll(op.far); errors.Is(err, context.DeadlineExceeded) {
					t.Fatal(err)
				}
			})
		})
	}
}

// TestShutdown ends Run with connections in every state. start checks that
// nothing is left.
func TestShutdown(t *testing.T) {
	o := newOpener(t)
	f := start(t, front.Config{Opener: o})
	dial(t, f) // silent
	send(t, dial(t, f), 5, 1)
	send(t, dial(t, f), []byte("GET ")...)
	idle := dial(t, f)
	send(t, idle, []byte("GET / HTTP/1.1\r\nHost: x\r\n\r\n")...)
	if _, err := http.ReadResponse(bufio.NewReader(idle), nil); err != nil {
		t.Fatal(err)
	}
	for _, verdict := range []bool{false, true} {
		for _, sp := range speakers {
			c := dial(t, f)
			send(t, c, sp.request(mustAddr(t, "site.example", 443))...)
			op := o.next()
			if verdict {
				op.verdict <- nil
			}
		}
	}
	c := dial(t, f)
	send(t, c, []byte("GET http://site.example/ HTTP/1.1\r\nHost: x\r\n\r\n")...)
	o.next()
}
