package front

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"strings"
	"sync"
	"time"

	"busel/internal/flow"
)

// connKey is the context key of a request's *conn.
type connKey struct{}

// newServer returns the web server for the connections that speak HTTP.
func (f *Front) newServer(ctx context.Context, transport http.RoundTripper) *http.Server {
	log := slog.NewLogLogger(f.log.Handler(), slog.LevelDebug)
	forward := f.newForwarder(transport)
	forward.ErrorLog = log
	own := f.newOwnPages()
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	return &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			f.wg.Add(1) // the connection's own count keeps Wait from returning before
			defer f.wg.Done()
			if c, ok := r.Context().Value(connKey{}).(*conn); ok {
				f.asked(c)
			}
			switch {
			case (r.Method == http.MethodConnect || r.URL.IsAbs()) && !f.mayProxy(r):
				f.demandPassword(w, r)
			case r.Method == http.MethodConnect:
				f.serveConnect(ctx, w, r)
			case r.URL.IsAbs():
				f.serveForward(w, r, forward)
			default:
				own.ServeHTTP(w, r)
			}
		}),
		BaseContext:       func(net.Listener) context.Context { return ctx },
		ConnContext:       func(ctx context.Context, c net.Conn) context.Context { return context.WithValue(ctx, connKey{}, c) },
		ReadHeaderTimeout: f.request,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeader,
		ErrorLog:          log,
		Protocols:         protocols,

		DisableGeneralOptionsHandler: true,
	}
}

// serveConnect turns the connection into a tunnel (RFC 9110, section 9.3.6). The
// tunnel gets a goroutine of its own, so that the web server lets go of its
// buffers: an idle tunnel costs no more than a SOCKS one.
func (f *Front) serveConnect(ctx context.Context, w http.ResponseWriter, r *http.Request) {
	dst, err := flow.SplitHostPort(r.RequestURI)
	if err != nil {
		refusal{http.StatusBadRequest, "refusal.connect", ""}.serve(w, f.readerOf(r))
		return
	}
	hijacked, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		f.log.Debug("connection cannot be taken over", "cause", cause(err))
		return
	}
	c, ok := hijacked.(*conn)
	if !ok {
		hijacked.Close()
		return
	}
	// What came along with the request goes first. c.first is empty here: the
	// server has read beyond it.
	if n := buffered.Reader.Buffered(); n > 0 {
		early := make([]byte, n)
		_, _ = io.ReadFull(buffered, early) // from memory
		c.first = early
	}
	to := f.readerOf(r)
	f.wg.Go(func() { // the handler's own count keeps Wait from returning before
		defer c.Close()
		f.tunnel(ctx, c, dst, func(err error) error {
			if err != nil {
				return refusalFor(dst.Host(), err).write(c, to)
			}
			_, err = io.WriteString(c, "HTTP/1.1 200 Connection established\r\n\r\n")
			return err
		})
	})
}

// serveForward forwards a request with an absolute URL (RFC 9112, section 3.2.2).
func (f *Front) serveForward(w http.ResponseWriter, r *http.Request, forward http.Handler) {
	if r.URL.Scheme != "http" {
		refusal{http.StatusBadRequest, "refusal.scheme", ""}.serve(w, f.readerOf(r))
		return
	}
	dst, err := destinationOf(r.URL.Host)
	if err != nil {
		refusal{http.StatusBadRequest, "refusal.host", ""}.serve(w, f.readerOf(r))
		return
	}
	if f.isOwn(dst) {
		refusalFor(dst.Host(), errOwnAddress).serve(w, f.readerOf(r))
		return
	}
	// Bodies stream both ways at once. On HTTP/1 this cannot fail.
	_ = http.NewResponseController(w).EnableFullDuplex()
	// Nothing is added to what the site says: neither a date nor a guess of the type.
	w.Header()["Date"] = nil
	w.Header()["Content-Type"] = nil
	forward.ServeHTTP(w, r)
}

// destinationOf is the destination of an http URL's host.
func destinationOf(host string) (flow.Addr, error) {
	if _, _, err := net.SplitHostPort(host); err != nil {
		host = net.JoinHostPort(strings.Trim(host, "[]"), "80")
	}
	return flow.SplitHostPort(host)
}

// newForwarder forwards requests without a trace of the proxy: hop-by-hop
// headers go (RFC 9110, section 7.6.1), none is added, redirects are the
// browser's business.
func (f *Front) newForwarder(transport http.RoundTripper) *httputil.ReverseProxy {
	return &httputil.ReverseProxy{
		Transport:     transport,
		FlushInterval: -1, // at once: news tickers and long polls
		Rewrite: func(r *httputil.ProxyRequest) {
			// The URL as the application wrote it, byte for byte: net/url would
			// escape characters that browsers send as they are.
			r.Out.URL.RawQuery = r.In.URL.RawQuery
			if path := rawPath(r.In.RequestURI); strings.HasPrefix(path, "/") && !strings.HasPrefix(path, "//") {
				r.Out.URL.Opaque = path
			}
			for _, name := range []string{"Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto"} {
				if v, ok := r.In.Header[name]; ok {
					r.Out.Header[name] = v // the application's own words
				}
			}
		},
		ErrorHandler: func(w http.ResponseWriter, r *http.Request, err error) {
			if r.Context().Err() != nil {
				panic(http.ErrAbortHandler) // nobody is there to read an answer
			}
			f.log.Debug("request not forwarded", "host", r.URL.Host, "cause", err)
			host := r.URL.Hostname()
			why := refusalFor(host, err)
			if _, opening := errors.AsType[*openingError](err); !opening {
				why = refusal{http.StatusBadGateway, "refusal.broke", host}
			}
			why.serve(w, f.readerOf(r))
		},
	}
}

// rawPath cuts scheme, host and query off an absolute http URL.
func rawPath(uri string) string {
	_, rest, ok := strings.Cut(uri, "://")
	slash := strings.IndexAny(rest, "/?#")
	if !ok || slash < 0 {
		return ""
	}
	path, _, _ := strings.Cut(rest[slash:], "?")
	return path
}

// newTransport returns a transport that reaches sites through the opener, and
// forgets its connections with ctx.
func (f *Front) newTransport(ctx context.Context) *http.Transport {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	return &http.Transport{
		DialContext: func(dialing context.Context, _, addr string) (net.Conn, error) {
			return f.dialOrigin(ctx, dialing, addr)
		},
		DisableCompression:     true, // the body passes as it is
		MaxIdleConns:           64,
		MaxIdleConnsPerHost:    8, // browsers keep six a host
		IdleConnTimeout:        60 * time.Second,
		ExpectContinueTimeout:  time.Second, // as long as curl waits
		MaxResponseHeaderBytes: 256 << 10,   // Chromium's own limit
		Protocols:              protocols,
	}
}

// dialOrigin opens a stream to a site for the transport. It does not wait until
// the site is reached, so that the request travels along with the opening.
func (f *Front) dialOrigin(run, dialing context.Context, addr string) (net.Conn, error) {
	dst, err := flow.SplitHostPort(addr)
	if err != nil {
		return nil, &openingError{&flow.OpenError{Code: flow.AddressNotSupported, Err: flow.ErrBadAddr}}
	}
	opening, cancel := context.WithTimeout(dialing, f.connectTimeout)
	stop := context.AfterFunc(run, cancel)
	stream, err := f.opener.OpenStream(opening, dst)
	stop()
	cancel()
	if err != nil {
		f.failed(run, dst, err)
		return nil, &openingError{err}
	}
	verdict, cancel := context.WithTimeout(run, f.connectTimeout)
	o := &origin{Stream: stream, cancel: cancel, hurry: func() { time.AfterFunc(verdictGrace, cancel) }}
	o.verdict = sync.OnceValue(func() error {
		if err := stream.Connected(verdict); err != nil {
			f.failed(run, dst, err)
			return &openingError{err}
		}
		return nil
	})
	o.stop = context.AfterFunc(run, func() { stream.Close() })
	return o, nil
}

// openingError tells a failed opening from a connection that broke later.
type openingError struct{ err error }

func (e *openingError) Error() string { return e.err.Error() }
func (e *openingError) Unwrap() error { return e.err }

// origin is a connection to a site. Its first read waits for the verdict.
type origin struct {
	flow.Stream
	verdict func() error
	hurry   func() // bounds the wait for the verdict
	cancel  context.CancelFunc
	stop    func() bool
}

func (o *origin) Read(b []byte) (int, error) {
	if err := o.verdict(); err != nil {
		return 0, err
	}
	return o.Stream.Read(b)
}

func (o *origin) Write(b []byte) (int, error) {
	n, err := o.Stream.Write(b)
	if err != nil {
		o.hurry()
		if reason := o.verdict(); reason != nil {
			err = reason
		}
	}
	return n, err
}

func (o *origin) Close() error {
	o.stop()
	o.cancel()
	return o.Stream.Close()
}
