package cover_test

import (
	"context"
	"crypto/tls"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"testing/fstest"
	"time"

	"busel/internal/cover"
)

// The volunteer's folder is shown as it is, and nothing of it that is not meant to be.
func TestFiles(t *testing.T) {
	at := time.Date(2026, 5, 1, 0, 0, 0, 0, time.UTC)
	file := func(text string) *fstest.MapFile {
		return &fstest.MapFile{Data: []byte(text), ModTime: at, Mode: 0o644}
	}
	site, err := cover.New(cover.Config{Name: "site.test", Certificate: certificate(t, "site.test"), HTTP3: 443, Files: fstest.MapFS{
		"index.html": file("<h1>home</h1>"), "a.css": file("x{}"), "blog/index.html": file("<h1>blog</h1>"),
		"empty/x.txt": file("x"), ".git/config": file("secret"), "blog/.htpasswd": file("secret"), "404.html": file("<h1>lost</h1>"),
	}})
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		path   string
		status int
		want   string // in the body, or the Location
	}{
		{"/", 200, "<h1>home</h1>"},
		{"/a.css", 200, "x{}"},
		{"/blog/", 200, "<h1>blog</h1>"},
		{"/blog", 301, "./blog/"},
		{"/blog?x=1", 301, "./blog/?x=1"},
		{"//blog", 301, "./blog/"},
		{"/index.html", 301, "./"},
		{"/empty/x.txt", 200, "x"},
		{"/empty/", 404, "lost"},
		{"/a.css/", 404, "lost"},
		{"/.git/config", 404, "lost"},
		{"/.git", 404, "lost"},
		{"/blog/.htpasswd", 404, "lost"},
		{"/blog/../.git/config", 404, "lost"},
		{"/none", 404, "lost"},
		{"/%00", 404, "lost"},
		{"/..%2f..%2fetc/passwd", 404, "lost"},
	} {
		for _, method := range []string{http.MethodGet, http.MethodHead} {
			r := httptest.NewRequest(method, "https://site.test"+tt.path, nil)
			w := httptest.NewRecorder()
			site.ServeHTTP(w, r)
			got := w.Body.String()
			if tt.status == 301 {
				got = w.Header().Get("Location")
			} else if method == http.MethodHead {
				if got != "" {
					t.Errorf("HEAD %s has a body", tt.path)
				}
				got = tt.want
			}
			if w.Code != tt.status || !strings.Contains(got, tt.want) || strings.Contains(got, "secret") {
				t.Errorf("%s %s: %d %q, want %d %q", method, tt.path, w.Code, got, tt.status, tt.want)
			}
			if w.Header().Get("Alt-Svc") == "" {
				t.Errorf("%s: no Alt-Svc", tt.path)
			}
		}
	}
	r := httptest.NewRequest(http.MethodGet, "https://site.test/a.css", nil)
	r.Header.Set("If-Modified-Since", at.Format(http.TimeFormat))
	w := httptest.NewRecorder()
	site.ServeHTTP(w, r)
	if w.Code != http.StatusNotModified || w.Header().Get("Content-Type") == "text/plain" {
		t.Errorf("unchanged: %d %v", w.Code, w.Header())
	}
}

// endless is a folder with one large file, and notes how much of it was read.
type endless struct{ read atomic.Int64 }

func (e *endless) Open(name string) (fs.File, error) {
	if name != "large.bin" {
		return nil, fs.ErrNotExist
	}
	return &endlessFile{SectionReader: io.NewSectionReader(e, 0, endlessSize)}, nil
}

func (e *endless) ReadAt(b []byte, _ int64) (int, error) {
	e.read.Add(int64(len(b)))
	return len(b), nil
}

const endlessSize = 64 << 20

type endlessFile struct{ *io.SectionReader }

func (*endlessFile) Stat() (fs.FileInfo, error) {
	return fs.Stat(fstest.MapFS{"large.bin": {}}, "large.bin")
}
func (*endlessFile) Close() error { return nil }

// Who asks for a large file and reads nothing of it has the system keep little.
func TestNoAppetite(t *testing.T) {
	cert := certificate(t, "site.test")
	folder := new(endless)
	site, err := cover.New(cover.Config{Name: "site.test", Certificate: cert, Files: folder})
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- site.Run(ctx, l) }()
	defer func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}()
	conn, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	_ = conn.(*net.TCPConn).SetReadBuffer(4 << 10)
	defer conn.Close()
	secure := tls.Client(conn, &tls.Config{ServerName: "site.test", InsecureSkipVerify: true})
	if _, err := io.WriteString(secure, "GET /large.bin HTTP/1.1\r\nHost: site.test\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	last := int64(-1)
	for n := folder.read.Load(); n == 0 || n != last; n = folder.read.Load() {
		last = n
		<-time.After(200 * time.Millisecond)
	}
	t.Logf("%d bytes were read", last)
	if last > 1<<20 {
		t.Errorf("%d bytes wait for a visitor who takes none", last)
	}
}
