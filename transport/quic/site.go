package quic

import (
	"context"
	"crypto/subtle"
	"crypto/tls"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/flynn/noise"
	quicgo "github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"

	"busel/internal/wire"
)

const (
	// noError is H3_NO_ERROR (RFC 9114, section 8.1).
	noError = quicgo.ApplicationErrorCode(http3.ErrCodeNoError)
	// siteIdle ends an HTTP/3 connection that asks for nothing, though it may send
	// PINGs: as long as the built-in site keeps one of HTTP/2.
	siteIdle = 5 * time.Minute
	// siteHeader bounds the head of a request, in bytes, and headTimeout the time
	// for it, which is the built-in site's for those that come by TCP.
	siteHeader  = 8 << 10
	headTimeout = time.Minute
	// leastReply and mostReply are the lengths of a reply's filler, in bytes: a page
	// has about as much.
	leastReply, mostReply = 1000, 5000
	// requestFiller is the least length that the filler of a request does not have,
	// in bytes: with it requests have the lengths of a browser's.
	requestFiller = 320
	// markCookie is the name of the cookie that holds a mark.
	markCookie = "id="
)

// Site is a web site that answers everyone on the relay's UDP port.
type Site struct {
	Handler     http.Handler
	Certificate tls.Certificate
	TLS         *tls.Config // where certificates come from; nil means Certificate
}

// siteTLS is what everyone meets on the port.
func (s *Site) siteTLS() *tls.Config {
	if s.TLS != nil {
		return http3.ConfigureTLSConfig(s.TLS)
	}
	return http3.ConfigureTLSConfig(&tls.Config{Certificates: []tls.Certificate{s.Certificate}})
}

// server is an HTTP/3 server of the site's settings, which starts nothing.
func (s *Site) server(h http.Handler) *http3.Server {
	return &http3.Server{
		Handler: h, EnableDatagrams: true, MaxHeaderBytes: siteHeader, IdleTimeout: siteIdle,
		Logger: slog.New(slog.DiscardHandler), // else it logs addresses to the default one
	}
}

// visitor is a connection to the site. Its handler is between the HTTP/3 server
// and the site, and does nothing but for a client's first request.
type visitor struct {
	l       *Listener
	conn    *quicgo.Conn
	binding func() ([]byte, error) // conn's exporter
	said    atomic.Bool            // a hello was read, or one began
	streams atomic.Int64           // open ones
	drop    context.CancelFunc     // closes conn

	stop    context.CancelFunc // ends the waiting for requests
	stopped chan struct{}
}

// visit stays with a connection for its life.
func (l *Listener) visit(ctx context.Context, conn *quicgo.Conn) {
	ctx, drop := context.WithCancel(ctx)
	defer drop()
	stop := context.AfterFunc(ctx, func() { _ = conn.CloseWithError(noError, "") })
	defer stop()
	v := &visitor{l: l, conn: conn, binding: sync.OnceValues(func() ([]byte, error) { return exporter(conn) }), drop: drop, stopped: make(chan struct{})}
	defer l.enter(v)()
	requests, stopRequests := context.WithCancel(conn.Context())
	defer stopRequests()
	v.stop = stopRequests
	server, err := l.cfg.Site.server(v).NewRawServerConn(conn)
	if err != nil { // it is over
		close(v.stopped)
		return
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			s, err := conn.AcceptUniStream(conn.Context())
			if err != nil {
				return
			}
			l.opened(v)
			wg.Go(func() {
				defer v.streams.Add(-1)
				server.HandleUnidirectionalStream(s)
			})
		}
	})
	for {
		s, err := conn.AcceptStream(requests)
		if err != nil {
			break
		}
		_ = s.SetReadDeadline(time.Now().Add(headTimeout))
		l.opened(v)
		wg.Go(func() {
			defer v.streams.Add(-1)
			server.HandleRequestStream(s)
		})
	}
	close(v.stopped)
	<-conn.Context().Done()
	wg.Wait()
	_ = server.CloseWithError(noError, "") // stops its timer
	if !v.said.Load() {
		l.noHello.Add(1)
	}
	st := conn.ConnectionStats()
	l.dataBytes.Add(st.BytesReceived + st.BytesSent)
}

// ServeHTTP answers a client's hello, and lets the site answer all else.
func (v *visitor) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	control := http.NewResponseController(w)
	_ = control.SetReadDeadline(time.Time{}) // the head has come
	if !v.marked(r) {
		v.l.cfg.Site.Handler.ServeHTTP(w, r)
		return
	}
	_ = control.SetReadDeadline(time.Now().Add(helloTimeout))
	p, err := v.hear(r.Body)
	_ = control.SetReadDeadline(time.Time{})
	if err != nil {
		v.l.log.Debug("marked request without a hello", "err", bare(err))
		v.l.cfg.Site.Handler.ServeHTTP(w, r)
		return
	}
	p.reply = func(payload []byte) (controlStream, error) { return v.reply(w, p, payload) }
	p.ways = v.ways
	switch c, answered := v.l.present(p); {
	case c != nil:
		c.run()
	case !answered: // as anyone
		v.l.cfg.Site.Handler.ServeHTTP(w, r)
	default:
		p.leave(noError)
	}
}

// marked reports whether a request is the first with the mark of this
// connection.
func (v *visitor) marked(r *http.Request) bool {
	got := r.Header.Get("Cookie")
	if r.Method != http.MethodGet || len(got) != len(markCookie)+markLen {
		return false
	}
	binding, err := v.binding()
	if err != nil {
		return false
	}
	want, err := mark(binding, [32]byte(v.l.cfg.Key.PublicKey().Bytes()))
	return err == nil && subtle.ConstantTimeCompare([]byte(got), []byte(markCookie+want)) == 1 && v.said.CompareAndSwap(false, true)
}

// hear opens the hello at the start of a request's body.
func (v *visitor) hear(body io.Reader) (*pending, error) {
	binding, err := v.binding()
	if err != nil {
		return nil, err
	}
	p, err := v.l.hear(v.conn, binding, body)
	if err != nil {
		return nil, err
	}
	return p, readFiller(body)
}

// reply answers the hello, and takes the request's stream over.
func (v *visitor) reply(w http.ResponseWriter, p *pending, payload []byte) (controlStream, error) {
	v.stop()
	<-v.stopped // what the client opens from now on are lanes
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.WriteHeader(http.StatusOK)
	s, err := w.(http3.HTTPStreamer).HTTPStream()
	if err != nil {
		return nil, err
	}
	out := framed{s}
	return out, writeFilled(out, p.noise, payload, leastReply+rand.N(mostReply-leastReply))
}

// ways are those of a connection to the site: the relay opens unidirectional
// streams as in the other form. The client, whose unidirectional streams go to
// the HTTP/3 server, opens bidirectional ones.
func (v *visitor) ways(control controlStream) ways {
	return ways{
		conn: v.conn, control: control, bye: noError,
		open:   func() (sendStream, error) { return v.conn.OpenUniStream() },
		accept: func(ctx context.Context) (io.Reader, error) { return v.conn.AcceptStream(ctx) },
	}
}

// httpStream is what is common to both ends of a request's stream.
type httpStream interface {
	controlStream
	TryWriteAll([]byte) error
}

// framed writes each DATA frame as a whole where that is possible: its head
// alone would fill a packet.
type framed struct{ httpStream }

func (f framed) Write(b []byte) (int, error) {
	err := f.TryWriteAll(b)
	switch err {
	case nil:
		return len(b), nil
	case quicgo.ErrWouldBlock:
		return f.httpStream.Write(b)
	}
	return 0, err
}

// sayHelloAsVisitor says hello in a request to the site.
func (v *visit) sayHelloAsVisitor(ctx context.Context, relay [32]byte, name string, hello *wire.Hello) (ways, *wire.Accept, error) {
	stop := context.AfterFunc(ctx, func() { _ = v.conn.CloseWithError(noError, "") })
	defer stop()
	fail := func(err error) (ways, *wire.Accept, error) { return ways{}, nil, err }
	binding, err := exporter(v.conn)
	if err != nil {
		return fail(err)
	}
	hs, err := initiator(binding, relay)
	if err != nil {
		return fail(err)
	}
	cookie, err := mark(binding, relay)
	if err != nil {
		return fail(err)
	}
	site := (&http3.Transport{DisableCompression: true, MaxResponseHeaderBytes: siteHeader}).NewRawClientConn(v.conn)
	s, err := site.OpenRequestStream(ctx)
	if err != nil {
		return fail(err)
	}
	// A GET has no length of its body: the stream goes on as the control lane.
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+hostOf(name)+"/", nil)
	if err != nil {
		return fail(err)
	}
	r.Header.Set("Cookie", markCookie+cookie)
	if err := s.SendRequestHeader(r); err != nil {
		return fail(err)
	}
	control, w := framed{s}, v.wait()
	defer w.stop()
	// Encoded not before now: early data that came meanwhile is in it.
	if err := writeFilled(control, hs, hello.Append(nil), rand.N(requestFiller)); err != nil {
		return fail(w.reason(err)) // who answers as a site does may want no more of it
	}
	_ = s.SetReadDeadline(time.Now().Add(replyTimeout))
	accept, err := w.readReply(s, hs)
	if err != nil {
		return fail(w.reason(err))
	}
	_ = s.SetReadDeadline(time.Time{})
	return ways{
		conn: v.conn, control: control, bye: noError,
		open: func() (sendStream, error) { return v.conn.OpenStream() },
		accept: func(ctx context.Context) (io.Reader, error) {
			for {
				s, err := v.conn.AcceptUniStream(ctx)
				if err != nil {
					return nil, err
				}
				if s.StreamID() != siteControl {
					return s, nil
				}
				v.wg.Go(func() { site.HandleUnidirectionalStream(s) })
			}
		},
	}, accept, nil
}

// readReply reads the answer to the request that said hello.
func (w *waiting) readReply(s *http3.RequestStream, hs *noise.HandshakeState) (*wire.Accept, error) {
	answer, err := s.ReadResponse()
	if err != nil {
		return nil, err
	}
	if answer.StatusCode != http.StatusOK {
		return nil, errNoise // it is the site's
	}
	payload, err := readMessage(s, hs)
	if err != nil {
		return nil, err
	}
	w.proven = true
	if err := readFiller(s); err != nil {
		return nil, err
	}
	return wire.ParseAccept(payload)
}

// hostOf is a name as it stands in an address.
func hostOf(name string) string {
	if strings.Contains(name, ":") {
		return "[" + name + "]"
	}
	return name
}

// siteControl is the control stream of an HTTP/3 server, the first that it opens.
const siteControl = quicgo.StreamID(3)
