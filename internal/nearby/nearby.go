// Package nearby hands out files and an invite to others on the local network, for times
// and places without internet: a phone or computer opens an address in its browser, says
// a PIN that the resident tells its user, and fetches what it needs.
//
// It lasts for ten minutes, or until ten wrong PINs have come. Whoever does not know the
// PIN sees a form that asks for it and nothing else: not even what program this is. Only
// addresses of local networks are answered, only under the address that was asked for,
// and time, memory and the number of connections are bounded.
//
// Nothing here is encrypted, since a browser has no key to check: who listens in on the
// network learns what is handed out. The client's page says so.
package nearby

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"embed"
	"encoding/base64"
	"errors"
	"fmt"
	"html/template"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"busel/config"
	"busel/internal/words"
)

const (
	// Life is how long it lasts.
	Life = 10 * time.Minute
	// maxWrong is how many wrong PINs end it: one in 100,000 guesses right before that.
	maxWrong = 10
	// tryEvery is how far apart two tries of a PIN are, whoever makes them.
	tryEvery = time.Second
	// maxConns bounds connections, and maxFrom those of one device, which shall not keep
	// all others out: a browser opens six, and few people stand nearby.
	maxConns = 48
	maxFrom  = 12
	// slow is how long a device may take to ask for something, and to take the answer if
	// that is no file.
	slow = 20 * time.Second
	// maxFiles and maxFile bound what a folder may hold.
	maxFiles = 64
	maxFile  = 1 << 30
)

// File is one that can be fetched.
type File struct {
	Name string // as the browser saves it
	Path string
	Size int64 // bytes
}

// Files are the program itself and the regular files in the folders, but not those whose
// name begins with a dot; of several of one name the first. A folder that is not there
// has none.
func Files(program string, folders ...string) []File {
	var files []File
	add := func(path string) {
		info, err := os.Lstat(path)
		name := filepath.Base(path)
		if err != nil || !info.Mode().IsRegular() || info.Size() > maxFile || strings.HasPrefix(name, ".") || len(files) == maxFiles ||
			slices.ContainsFunc(files, func(f File) bool { return f.Name == name }) {
			return
		}
		files = append(files, File{name, path, info.Size()})
	}
	if path, err := filepath.EvalSymlinks(program); err == nil {
		add(path)
	}
	for _, folder := range folders {
		entries, err := os.ReadDir(folder)
		if err != nil {
			continue
		}
		for _, e := range entries {
			add(filepath.Join(folder, e.Name()))
		}
	}
	return files
}

// Config of a [Share].
type Config struct {
	Files     []File
	Invite    *config.Bundle
	Languages []*words.Catalogue // from [words.All]
	Language  string             // the resident's choice; empty is that of who asks
	Logger    *slog.Logger       // nil: silence
}

// Share is one time of handing out. Create it with [New], then Run it once.
type Share struct {
	cfg   Config
	log   *slog.Logger
	pin   string
	pass  string // what a browser that said the PIN shows from then on
	codes []template.URL
	until time.Time

	mu    sync.Mutex
	wrong int       // PINs
	next  time.Time // no PIN is looked at before
	taken int
	end   context.CancelFunc
}

//go:embed nearby.html nearby.css
var files embed.FS

// New returns one with a PIN of its own.
func New(c Config) (*Share, error) {
	n, err := rand.Int(rand.Reader, big.NewInt(1_000_000))
	if err != nil {
		return nil, err
	}
	s := &Share{cfg: c, log: c.Logger, pin: fmt.Sprintf("%06d", n), pass: rand.Text(), until: time.Now().Add(Life)}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	for _, code := range c.Invite.Codes() {
		svg, err := config.QRSVG(code)
		if err != nil {
			return nil, err
		}
		s.codes = append(s.codes, template.URL("data:image/svg+xml;base64,"+base64.StdEncoding.EncodeToString([]byte(svg))))
	}
	return s, nil
}

// PIN has six digits.
func (s *Share) PIN() string { return s.pin }

// Until is when it ends.
func (s *Share) Until() time.Time { return s.until }

// Taken is how many files were fetched to their end.
func (s *Share) Taken() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.taken
}

// Run serves on the listeners, which it closes, until the time is over, too many wrong
// PINs have come, or ctx ends. The result is nil then.
func (s *Share) Run(ctx context.Context, listeners ...net.Listener) error {
	ctx, cancel := context.WithDeadline(ctx, s.until)
	defer cancel()
	s.mu.Lock()
	s.end = cancel
	s.mu.Unlock()
	handler, err := s.handler()
	if err != nil {
		for _, ln := range listeners {
			ln.Close()
		}
		return err
	}
	var conns sync.WaitGroup
	server := &http.Server{
		Handler: handler, ReadHeaderTimeout: slow / 2, ReadTimeout: slow,
		WriteTimeout: slow, IdleTimeout: slow, MaxHeaderBytes: 16 << 10,
		ErrorLog: slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
		// What it hears of is before Serve returns, and after a connection's last request.
		ConnState: func(_ net.Conn, state http.ConnState) {
			switch state {
			case http.StateNew:
				conns.Add(1)
			case http.StateClosed:
				conns.Done()
			}
		},
	}
	crowd := &crowd{from: map[netip.Addr]int{}}
	var wg sync.WaitGroup
	var faults []error
	for _, ln := range listeners {
		wg.Go(func() {
			if err := server.Serve(&bounded{ln, crowd}); err != nil && !errors.Is(err, http.ErrServerClosed) {
				s.mu.Lock()
				defer s.mu.Unlock()
				faults = append(faults, err)
				cancel()
			}
		})
	}
	<-ctx.Done()
	server.Close()
	wg.Wait()
	conns.Wait()
	return errors.Join(faults...)
}

// crowd counts connections by the device that they come from.
type crowd struct {
	mu   sync.Mutex
	all  int
	from map[netip.Addr]int
}

// enter takes a place for a connection; nil if there is none.
func (c *crowd) enter(from netip.Addr) (leave func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.all == maxConns || c.from[from] == maxFrom {
		return nil
	}
	c.all++
	c.from[from]++
	return sync.OnceFunc(func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.all--
		if c.from[from]--; c.from[from] == 0 {
			delete(c.from, from)
		}
	})
}

// bounded takes as many connections as there is room for, and those of local networks
// only.
type bounded struct {
	net.Listener
	crowd *crowd
}

func (b *bounded) Accept() (net.Conn, error) {
	for {
		c, err := b.Listener.Accept()
		if err != nil {
			return nil, err
		}
		from, err := netip.ParseAddrPort(c.RemoteAddr().String())
		ip := from.Addr().Unmap()
		if err == nil && (ip.IsPrivate() || ip.IsLoopback() || ip.IsLinkLocalUnicast()) {
			if leave := b.crowd.enter(ip); leave != nil {
				return &conn{c, leave}, nil
			}
		}
		c.Close()
	}
}

type conn struct {
	net.Conn
	release func()
}

func (c *conn) Close() error {
	defer c.release()
	return c.Conn.Close()
}

// cookie is the name of what a browser shows after the PIN.
const cookie = "pass"

func (s *Share) handler() (http.Handler, error) {
	page, err := template.ParseFS(files, "nearby.html")
	if err != nil {
		return nil, err
	}
	style, err := files.ReadFile("nearby.css")
	if err != nil {
		return nil, err
	}
	hash := sha256.Sum256(style)
	policy := "default-src 'none'; img-src data:; style-src 'sha256-" + base64.StdEncoding.EncodeToString(hash[:]) +
		"'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
	show := func(w http.ResponseWriter, r *http.Request, status int, problem string) {
		lang := words.Pick(s.cfg.Languages, s.cfg.Language, r.Header.Get("Accept-Language"))
		view := struct {
			Lang    *words.Catalogue
			Style   template.CSS
			Problem string
			Open    bool
			Files   []File
			Text    string
			Codes   []template.URL
		}{Lang: lang, Style: template.CSS(style), Problem: problem, Open: s.known(r)}
		if view.Open {
			view.Files, view.Text, view.Codes = s.cfg.Files, s.cfg.Invite.Text(), s.codes
		}
		var out bytes.Buffer
		if err := page.Execute(&out, view); err != nil {
			s.log.Error("a page cannot be made", "err", err)
			http.Error(w, "", http.StatusInternalServerError)
			return
		}
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		w.WriteHeader(status)
		_, _ = w.Write(out.Bytes()) // the browser may have gone
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, r *http.Request) { show(w, r, http.StatusOK, "") })
	mux.HandleFunc("POST /{$}", func(w http.ResponseWriter, r *http.Request) {
		r.Body = http.MaxBytesReader(w, r.Body, 1<<10)
		switch status := s.try(strings.Map(digits, r.PostFormValue("pin"))); status {
		case http.StatusOK:
			http.SetCookie(w, &http.Cookie{Name: cookie, Value: s.pass, Path: "/", HttpOnly: true, SameSite: http.SameSiteStrictMode})
			http.Redirect(w, r, "/", http.StatusSeeOther)
		case http.StatusTooManyRequests:
			show(w, r, status, "near.slow")
		default:
			show(w, r, status, "near.wrong")
		}
	})
	mux.HandleFunc("GET /files/{name}", s.serveFile)
	protected := http.NewCrossOriginProtection().Handler(mux)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", policy)
		h.Set("Cache-Control", "no-store")
		h.Set("Referrer-Policy", "same-origin") // without one the form's Origin would be null
		h.Set("X-Content-Type-Options", "nosniff")
		at, ok := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
		if !ok || r.Host != at.String() { // another name may be a web site that points its name here
			http.Error(w, "", http.StatusForbidden)
			return
		}
		protected.ServeHTTP(w, r)
	}), nil
}

// digits drops what people write between digits.
func digits(r rune) rune {
	if r >= '0' && r <= '9' {
		return r
	}
	return -1
}

func (s *Share) known(r *http.Request) bool {
	c, err := r.Cookie(cookie)
	return err == nil && subtle.ConstantTimeCompare([]byte(c.Value), []byte(s.pass)) == 1
}

// try judges a PIN, and ends everything after too many wrong ones.
func (s *Share) try(pin string) (status int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	if now.Before(s.next) || s.wrong >= maxWrong {
		return http.StatusTooManyRequests
	}
	if subtle.ConstantTimeCompare([]byte(pin), []byte(s.pin)) == 1 {
		return http.StatusOK
	}
	s.next = now.Add(tryEvery)
	if s.wrong++; s.wrong == maxWrong {
		s.log.Warn("sharing over Wi-Fi ends: too many wrong PINs came")
		s.end()
	}
	return http.StatusForbidden
}

// serveFile sends a file, and counts it if it went out whole.
func (s *Share) serveFile(w http.ResponseWriter, r *http.Request) {
	at := slices.IndexFunc(s.cfg.Files, func(f File) bool { return f.Name == r.PathValue("name") })
	if !s.known(r) || at < 0 {
		http.Error(w, "", http.StatusNotFound)
		return
	}
	f, err := os.Open(s.cfg.Files[at].Path)
	if err != nil {
		http.Error(w, "", http.StatusNotFound)
		return
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil || !info.Mode().IsRegular() {
		http.Error(w, "", http.StatusNotFound)
		return
	}
	// A phone far from the router takes its time. On HTTP/1 this cannot fail.
	_ = http.NewResponseController(w).SetWriteDeadline(s.until)
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("Content-Disposition", "attachment") // under the name in the path
	w.Header().Set("Content-Length", fmt.Sprint(info.Size()))
	if r.Method == http.MethodHead {
		return
	}
	if n, err := io.CopyN(w, f, info.Size()); err == nil && n == info.Size() {
		s.mu.Lock()
		s.taken++
		s.mu.Unlock()
	}
}

// maxAddresses is on how many addresses of this device it is offered.
const maxAddresses = 3

// Addresses are those of this device on local networks, IPv4 only: they have to be typed.
func Addresses() ([]netip.Addr, error) {
	interfaces, err := net.Interfaces()
	if err != nil {
		return nil, err
	}
	var found []netip.Addr
	for _, i := range interfaces {
		// A tunnel is no local network, and behind a bridge that does not run there is
		// nobody: a container program's, that would take the place of the Wi-Fi's.
		if i.Flags&net.FlagUp == 0 || i.Flags&net.FlagRunning == 0 || i.Flags&(net.FlagLoopback|net.FlagPointToPoint) != 0 {
			continue
		}
		addrs, err := i.Addrs()
		if err != nil {
			return nil, err
		}
		for _, a := range addrs {
			p, err := netip.ParsePrefix(a.String())
			if err == nil && p.Addr().Is4() && p.Addr().IsPrivate() && len(found) < maxAddresses {
				found = append(found, p.Addr())
			}
		}
	}
	return found, nil
}
