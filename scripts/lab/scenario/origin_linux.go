package scenario

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"busel/scripts/lab/netns"
	"busel/scripts/lab/tunnel"
)

// Sentences of the origin's page and of its style sheet, and no one else's.
const (
	genuine = "The herons are back, and every word of this is the origin's."
	styled  = "/* and so is its style */"
)

// Names of the origin.
const (
	ListedName = "news.listed.example" // on every list of the rule files
	OtherName  = "www.open.example"    // on none
)

// Authority is the file below a ground's folder with what programs must trust to
// believe the origin.
func Authority(dir string) string { return filepath.Join(dir, "origin.pem") }

// Origin is the web site that applications want to reach, under a name that is
// listed and one that is not.
//
//	GET  /          a page with the genuine sentence
//	GET  /style.css what belongs to the page
//	GET  /bytes/N   N bytes, the same each time
//	GET  /spring/ID bytes from the spring of that name until it ends
//	GET  /held      nothing, as long as it is wanted
//	POST /upload/ID takes the body into the gauge of that name
type Origin struct {
	plain, secure *httptest.Server

	mu      sync.Mutex
	uploads map[string]*Gauge
	springs map[string]*spring
}

// spring gives contents until it is told to end. It is for one reader.
type spring struct {
	from  io.Reader
	given atomic.Int64
	ended atomic.Bool
}

// contents without an end, practically.
const endless = 1 << 62

func newSpring() *spring { return &spring{from: contents(endless)} }

// Read gives the next bytes, or io.EOF after end.
func (s *spring) Read(p []byte) (int, error) {
	if s.ended.Load() {
		return 0, io.EOF
	}
	n, err := s.from.Read(p)
	s.given.Add(int64(n))
	return n, err
}

func (s *spring) end() { s.ended.Store(true) }

// NewOrigin serves on two listeners, for HTTP and HTTPS. The caller closes it.
func NewOrigin(plain, secure net.Listener) (*Origin, error) {
	// Many names make the certificate as long as the chains of ordinary sites, some
	// 4 kB: heuristics of censors look for that (row T1).
	names := []string{ListedName, OtherName}
	for i := range 110 {
		names = append(names, fmt.Sprintf("edition-%03d.listed.example", i))
	}
	own, err := tunnel.SelfSigned(names...)
	if err != nil {
		return nil, err
	}
	o := &Origin{uploads: map[string]*Gauge{}, springs: map[string]*spring{}}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		fmt.Fprintf(w, "<!doctype html><title>The Heron</title><h1>The Heron</h1>\n<p>%s</p>\n", genuine)
	})
	mux.HandleFunc("GET /style.css", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/css")
		fmt.Fprintf(w, "body { font: 16px serif } %s\n", styled)
	})
	mux.HandleFunc("GET /bytes/{n}", func(w http.ResponseWriter, r *http.Request) {
		n, err := strconv.ParseInt(r.PathValue("n"), 10, 64)
		if err != nil || n < 0 {
			http.Error(w, "want a number of bytes", http.StatusBadRequest)
			return
		}
		w.Header().Set("Content-Length", r.PathValue("n"))
		_, _ = io.Copy(w, contents(n)) // the reader notices
	})
	mux.HandleFunc("GET /spring/{id}", func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(w, o.spring(r.PathValue("id"))) // the reader notices
	})
	mux.HandleFunc("GET /held", func(w http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	mux.HandleFunc("POST /upload/{id}", func(w http.ResponseWriter, r *http.Request) {
		g := o.upload(r.PathValue("id"))
		if _, err := io.Copy(g, r.Body); err != nil {
			http.Error(w, "the body was cut short", http.StatusBadRequest)
			return
		}
		fmt.Fprintln(w, g.Sum())
	})
	o.plain, o.secure = serve(plain, mux, nil), serve(secure, mux, own)
	return o, nil
}

// serve serves on a listener, HTTPS if there is a configuration for it.
func serve(ln net.Listener, h http.Handler, secure *tls.Config) *httptest.Server {
	s := httptest.NewUnstartedServer(h)
	s.Listener.Close()
	s.Listener = ln
	s.Config.ErrorLog = log.New(io.Discard, "", 0) // censors make for broken handshakes
	if secure == nil {
		s.Start()
		return s
	}
	secure.NextProtos = nil // HTTP/1.1 is what this server speaks
	s.TLS = secure
	s.StartTLS()
	return s
}

// upload is the gauge of that name.
func (o *Origin) upload(id string) *Gauge {
	o.mu.Lock()
	defer o.mu.Unlock()
	g := o.uploads[id]
	if g == nil {
		g = NewGauge(time.Now)
		o.uploads[id] = g
	}
	return g
}

// spring is the spring of that name, which has one reader.
func (o *Origin) spring(id string) *spring {
	o.mu.Lock()
	defer o.mu.Unlock()
	s := o.springs[id]
	if s == nil {
		s = newSpring()
		o.springs[id] = s
	}
	return s
}

// WriteAuthority writes what curl must trust to a file.
func (o *Origin) WriteAuthority(file string) error {
	return os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: o.secure.Certificate().Raw}), 0o600)
}

// Close ends the site and its connections.
func (o *Origin) Close() error { return closeAll(o.plain, o.secure) }

func closeAll(servers ...*httptest.Server) error {
	for _, s := range servers {
		s.CloseClientConnections()
		s.Close()
	}
	return nil
}

// contents are the first n bytes of a fixed sequence that never repeats.
func contents(n int64) io.Reader {
	return io.LimitReader(rand.NewChaCha8([32]byte{'h', 'e', 'r', 'o', 'n'}), n)
}

// sumOf is the SHA-256 of contents(n), in hexadecimal digits.
func sumOf(n int64) string {
	h := sha256.New()
	_, _ = io.Copy(h, contents(n)) // neither fails
	return hex.EncodeToString(h.Sum(nil))
}

// Decoy is a site that is not the origin: a censor's look-alike, or a man in the
// middle. It serves plain HTTP, and HTTPS with a certificate of its own making.
type Decoy struct{ plain, secure *httptest.Server }

// NewDecoy serves on ports 80 and 443 of an address inside. The caller closes it.
func NewDecoy(ctx context.Context, world *netns.Namespace, at netip.Addr) (*Decoy, error) {
	page := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintln(w, "<!doctype html><title>The Heron</title><p>All is well. There is nothing to read here.</p>")
	})
	forged, err := tunnel.SelfSigned(ListedName)
	if err != nil {
		return nil, err
	}
	plain, err := world.Listen(ctx, "tcp", netip.AddrPortFrom(at, 80).String())
	if err != nil {
		return nil, err
	}
	secure, err := world.Listen(ctx, "tcp", netip.AddrPortFrom(at, 443).String())
	if err != nil {
		return nil, errors.Join(err, plain.Close())
	}
	return &Decoy{plain: serve(plain, page, nil), secure: serve(secure, page, forged)}, nil
}

// Close ends the site and its connections.
func (d *Decoy) Close() error { return closeAll(d.plain, d.secure) }
