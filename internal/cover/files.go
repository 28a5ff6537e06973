package cover

import (
	"io"
	"io/fs"
	"net/http"
	"path"
	"strings"
)

// serveFile answers from the volunteer's folder: files as they are, index.html for a
// folder that has one, 404.html for what is not there. Names that begin with a dot
// are nobody's business, and folders are not listed.
func (s *Site) serveFile(w http.ResponseWriter, r *http.Request) {
	name := strings.TrimPrefix(path.Clean("/"+r.URL.Path), "/")
	if name == "" {
		name = "."
	}
	for part := range strings.SplitSeq(name, "/") {
		if part != "." && strings.HasPrefix(part, ".") {
			s.noFile(w, r)
			return
		}
	}
	info, err := fs.Stat(s.files, name)
	switch {
	case err != nil:
		s.noFile(w, r)
	case info.IsDir() && !strings.HasSuffix(r.URL.Path, "/"):
		redirect(w, r, "./"+path.Base(name)+"/")
	case info.IsDir():
		s.sendFile(w, r, path.Join(name, "index.html"))
	case strings.HasSuffix(r.URL.Path, "/"):
		s.noFile(w, r)
	case path.Base(name) == "index.html":
		redirect(w, r, "./")
	default:
		s.sendFile(w, r, name)
	}
}

// redirect leads to a place beside the request's. A relative one cannot lead to
// another host, whatever the path looks like.
func redirect(w http.ResponseWriter, r *http.Request, to string) {
	if r.URL.RawQuery != "" {
		to += "?" + r.URL.RawQuery
	}
	w.Header().Set("Location", to)
	w.WriteHeader(http.StatusMovedPermanently)
}

func (s *Site) sendFile(w http.ResponseWriter, r *http.Request, name string) {
	f, err := s.files.Open(name)
	if err != nil {
		s.noFile(w, r)
		return
	}
	defer f.Close()
	info, err := f.Stat()
	content, seeks := f.(io.ReadSeeker)
	if err != nil || !info.Mode().IsRegular() || !seeks {
		s.noFile(w, r)
		return
	}
	http.ServeContent(w, r, name, info.ModTime(), content)
}

// maxNotFound bounds the volunteer's page for what is not there, in bytes.
const maxNotFound = 1 << 20

func (s *Site) noFile(w http.ResponseWriter, r *http.Request) {
	var page []byte
	if f, err := s.files.Open("404.html"); err == nil {
		page, _ = io.ReadAll(io.LimitReader(f, maxNotFound)) // what could be read is shown
		_ = f.Close()
	}
	if len(page) > 0 {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
	}
	w.WriteHeader(http.StatusNotFound)
	if r.Method != http.MethodHead {
		_, _ = w.Write(page) // the visitor may have left
	}
}
