package cover_test

import (
	"net/http"
	"net/http/httptest"
	"strings"
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
