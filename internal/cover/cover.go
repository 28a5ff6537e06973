// Package cover is the cover site that a relay brings along: a small real web
// site for volunteers who have none yet (DESIGN.md section 4, "Covers").
//
// It is an ordinary Go web server, net/http over crypto/tls, and nothing in it
// knows of the relay. A stranger who comes to the relay's port talks to this
// server with all its own habits: its tickets, alerts, time-outs and its answer
// to plain HTTP on a TLS port.
//
// What it shows is assembled from tables by a seed that every install draws
// for itself: the kind of site, names, texts, colours, pictures, the names of
// files and classes. Two installs do not serve the same bytes, and one install
// serves the same bytes for ever, with the same validators. Whoever has read
// the tables can still recognise a sentence; a site of one's own is better, and
// the volunteer's guide says so.
//
// The site keeps no log of its visitors.
package cover

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/base64"
	"fmt"
	"io"
	"io/fs"
	"log"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// The time-outs of Caddy 2, the most common web server written in Go: idle
// connections for five minutes, a minute for a handshake or a header.
const (
	idleTimeout   = 5 * time.Minute
	headerTimeout = time.Minute
)

// sendBuffer is what the system keeps of what a visitor does not take, in bytes. By
// itself it keeps megabytes of a large file, for each, until TCP has no memory for
// anybody. The relay on the same machine needs little.
const sendBuffer = 256 << 10

// gzipLeast is the size below which servers do not compress, in bytes (Caddy's
// default minimum length).
const gzipLeast = 512

// Config is what a site needs.
type Config struct {
	Name        string          // host name, or IP literal, under which the site is visited
	Certificate tls.Certificate // for that name, unless TLS says otherwise
	TLS         *tls.Config     // where certificates come from; nil means Certificate
	Files       fs.FS           // what is shown; nil means a site made from the seed
	Seed        [32]byte        // drawn at random once per install and kept
	HTTP3       uint16          // UDP port where the same site answers over HTTP/3; 0 means nowhere
	Logger      *slog.Logger    // nil means none; visitors are never logged
}

// Site is a web site in memory. Its methods may be called at the same time.
type Site struct {
	tls     *tls.Config
	other   string // Alt-Svc, of answers over TCP
	files   fs.FS
	logger  *slog.Logger
	pages   map[string]*page
	missing *page
	room    room // of visitors over TCP
}

// visitKey is where a request's context has its *visit.
type visitKey struct{}

// page is a file as it is served.
type page struct {
	kind, cache string
	plain, zip  []byte // zip is nil where compression is of no use
	tag         string // inside the quotes of the ETag
	modified    time.Time
}

// New builds the site, which takes about half a second of processor time for
// its pictures. It starts nothing.
func New(cfg Config) (*Site, error) {
	s := &Site{tls: cfg.TLS, files: cfg.Files, logger: cfg.Logger, pages: map[string]*page{}}
	if s.tls == nil {
		s.tls = &tls.Config{Certificates: []tls.Certificate{cfg.Certificate}}
	}
	if cfg.HTTP3 > 0 {
		s.other = fmt.Sprintf(`h3=":%d"; ma=2592000`, cfg.HTTP3) // Caddy's
	}
	if s.logger == nil {
		s.logger = slog.New(slog.DiscardHandler)
	}
	if s.files != nil {
		return s, nil
	}
	plan := newSite(cfg.Name, cfg.Seed)
	files, missing, err := plan.files(cfg.Name)
	if err != nil {
		return nil, fmt.Errorf("cover site: %w", err)
	}
	days := 1 + plan.rng.IntN(30)
	for _, f := range files {
		p := newPage(f)
		switch {
		case strings.HasPrefix(f.kind, "image/"), strings.HasPrefix(f.kind, "text/css"):
			p.cache = fmt.Sprintf("public, max-age=%d", days*24*3600)
		case strings.HasPrefix(f.kind, "text/html"):
			p.cache = "no-cache"
		}
		s.pages[f.path] = p
	}
	s.missing = newPage(file{kind: "text/html; charset=utf-8", data: missing})
	return s, nil
}

func newPage(f file) *page {
	p := &page{kind: f.kind, plain: f.data, modified: f.modified}
	sum := sha256.Sum256(f.data)
	p.tag = base64.RawURLEncoding.EncodeToString(sum[:9])
	if strings.HasPrefix(f.kind, "text/") && len(f.data) >= gzipLeast {
		var b bytes.Buffer
		z := gzip.NewWriter(&b)
		_, _ = z.Write(f.data) // a bytes.Buffer takes everything
		_ = z.Close()
		p.zip = b.Bytes()
	}
	return p
}

// Limits says how long the site keeps a connection that asks for nothing, and
// how long it keeps one at all; 0 means for ever. The relay tells its clients.
func (*Site) Limits() (idle, lifetime time.Duration) { return idleTimeout, 0 }

// Run serves the site to l's connections over TLS until ctx ends, and then
// closes l and all connections and returns nil. Any other end is an error.
func (s *Site) Run(ctx context.Context, l net.Listener) error {
	var open sync.WaitGroup // connections, each with net/http's goroutine
	server := &http.Server{
		Handler:           s,
		TLSConfig:         s.tls.Clone(),
		IdleTimeout:       idleTimeout,
		ReadHeaderTimeout: headerTimeout,
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			return context.WithValue(ctx, visitKey{}, c.(*tls.Conn).NetConn().(*visit))
		},
		// net/http would write the addresses of visitors whose handshake fails.
		ErrorLog: log.New(io.Discard, "", 0),
		ConnState: func(_ net.Conn, state http.ConnState) {
			switch state {
			case http.StateNew:
				open.Add(1)
			case http.StateClosed:
				open.Done()
			}
		},
	}
	if err := countFrames(server); err != nil {
		return fmt.Errorf("cover site: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { _ = server.Close() })
	s.logger.Debug("cover site serves", "pages", len(s.pages))
	err := server.ServeTLS(entrance{l, &s.room}, "", "")
	ended := !stop() // by ctx
	_ = server.Close()
	open.Wait()
	if ended && ctx.Err() != nil {
		return nil
	}
	return fmt.Errorf("cover site: %w", err)
}

// heeded are the fields of a request that it is answered by, here, in [http.ServeContent]
// and in [http.Server].
var heeded = []string{
	"Accept-Encoding", "Connection", "Expect", "If-Match", "If-Modified-Since", "If-None-Match", "If-Range",
	"If-Unmodified-Since", "Range",
}

// maxValues is how often a field is looked at that comes more than once.
const maxValues = 4

// said is how long what is kept of a request is, in bytes.
func said(r *http.Request) int {
	n := len(r.RequestURI) + len(r.Host)
	for _, values := range r.Header {
		for _, value := range values {
			n += len(value)
		}
	}
	return n
}

// ServeHTTP answers one request.
func (s *Site) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	// An answer may take as long as its visitor likes; the rest of what he said need not
	// wait for that.
	maps.DeleteFunc(r.Header, func(name string, _ []string) bool { return !slices.Contains(heeded, name) })
	for name, values := range r.Header {
		if len(values) > maxValues {
			r.Header[name] = slices.Clone(values[:maxValues])
		}
	}
	if v, ok := r.Context().Value(visitKey{}).(*visit); ok && r.ProtoMajor == 1 { // frames tell of others
		weight := requestWeight + 2*said(r)
		v.note(func() { v.requests += weight })
		context.AfterFunc(r.Context(), func() { v.note(func() { v.requests -= weight }) })
	}
	if s.other != "" && r.ProtoMajor < 3 {
		w.Header().Set("Alt-Svc", s.other)
	}
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		http.Error(w, "Method Not Allowed", http.StatusMethodNotAllowed)
		return
	}
	if s.files != nil {
		s.serveFile(w, r)
		return
	}
	p, ok := s.pages[r.URL.Path]
	if !ok {
		if _, ok := s.pages[r.URL.Path+"/"]; ok {
			http.Redirect(w, r, r.URL.Path+"/", http.StatusMovedPermanently)
			return
		}
		if r.URL.Path == "/index.html" {
			http.Redirect(w, r, "/", http.StatusMovedPermanently)
			return
		}
		s.notFound(w, r)
		return
	}
	h := w.Header()
	h.Set("Content-Type", p.kind)
	if p.cache != "" {
		h.Set("Cache-Control", p.cache)
	}
	data, tag := p.plain, p.tag
	if p.zip != nil {
		h.Set("Vary", "Accept-Encoding")
		// A part of a compressed page is of no use to anyone.
		if r.Header.Get("Range") == "" && takesGzip(r) {
			data, tag = p.zip, p.tag+"-gzip"
			h.Set("Content-Encoding", "gzip")
			h.Set("Content-Length", strconv.Itoa(len(data)))
		}
	}
	h.Set("Etag", `"`+tag+`"`)
	http.ServeContent(w, r, "", p.modified, bytes.NewReader(data))
}

func (s *Site) notFound(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Content-Type", s.missing.kind)
	h.Set("Vary", "Accept-Encoding")
	data := s.missing.plain
	if takesGzip(r) {
		data = s.missing.zip
		h.Set("Content-Encoding", "gzip")
	}
	h.Set("Content-Length", strconv.Itoa(len(data)))
	w.WriteHeader(http.StatusNotFound)
	if r.Method != http.MethodHead {
		_, _ = w.Write(data) // the visitor may have left
	}
}

// takesGzip reads Accept-Encoding (RFC 9110 section 12.5.3) as far as browsers
// use it: gzip is named and not with weight 0.
func takesGzip(r *http.Request) bool {
	for _, field := range r.Header.Values("Accept-Encoding") {
		for part := range strings.SplitSeq(field, ",") {
			coding, weight, _ := strings.Cut(part, ";")
			if strings.EqualFold(strings.TrimSpace(coding), "gzip") {
				q, err := strconv.ParseFloat(strings.TrimPrefix(strings.TrimSpace(weight), "q="), 64)
				return err != nil || q > 0
			}
		}
	}
	return false
}
