package mirror

import (
	"bytes"
	"compress/gzip"
	"io"
	"math/rand/v2"
	"path"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/andybalholm/brotli"
	"github.com/klauspost/compress/zstd"

	"busel/obfs/look"
)

// Bounds of a visit: of what a cover says, and of what is asked of it.
const (
	maxPage  = 128 << 10 // bytes of a page that are read, packed and unpacked each
	maxPath  = 128       // bytes of a path
	maxNeeds = 8         // files that a page needs
	maxLinks = 16        // pages that are known
	maxFiles = 64        // files in the cache
	// A visit takes so many bytes, and one of so many that came over its connections:
	// the genuine part shall not be felt beside what it hides.
	visitBytes = 64 << 10
	visitShare = 32
	// maxBody is where the visitor leaves a file that is larger, as one who goes on to
	// the next page: by RST_STREAM (CANCEL).
	maxBody  = 256 << 10
	maxStamp = 128 // bytes of an ETag or date
)

// request is one that the visit makes.
type request struct {
	path  string
	kind  string // of [look.HTTP.Fetch]; empty for a page that is opened by hand
	again bool   // the page is loaded again
	from  string // path of the page that led here
}

// pages is what a client knows of one cover's site, as a browser's cache and its
// user's eyes would: where links lead, and what need not be asked for again. It is
// bounded, and safe for concurrent use. The zero value knows nothing.
type pages struct {
	mu    sync.Mutex
	look  *look.Look      // another browser has another cache
	files map[string]bool // asked for already
	links []string
	stamp []look.Field // of the first page: what it is asked for again with

	spent   atomic.Int64 // bytes of the visit
	covered atomic.Int64 // bytes that came over its connections, in all
}

// wear begins anew if the browser is another one.
func (p *pages) wear(l *look.Look) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.look != l {
		p.look, p.files, p.links, p.stamp = l, nil, nil, nil
	}
}

// known is what the browser's cache knows of the first page.
func (p *pages) known() []look.Field {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.stamp
}

// remember is for known.
func (p *pages) remember(stamp []look.Field) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.stamp = stamp
}

// came counts bytes over the connection, genuine those of the visit.
func (p *pages) came(all, genuine int) {
	p.covered.Add(int64(all))
	p.spent.Add(int64(genuine))
}

// rich reports whether the visit may take more.
func (p *pages) rich() bool { return p.spent.Load() < visitBytes+p.covered.Load()/visitShare }

// next is what the visitor does next: he follows a link, or loads the first page
// again.
func (p *pages) next(again bool) request {
	p.mu.Lock()
	defer p.mu.Unlock()
	if again && p.rich() && len(p.links) > 0 && rand.IntN(2) == 0 {
		return request{path: p.links[rand.IntN(len(p.links))], kind: "follow", from: "/"}
	}
	return request{path: "/", again: again}
}

// read takes a page and returns what the browser asks for next.
func (p *pages) read(from string, body []byte) (needs []request) {
	files, links := references(body)
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, l := range links {
		if len(p.links) < maxLinks && !slices.Contains(p.links, l) && l != "/" {
			p.links = append(p.links, l)
		}
	}
	if !p.rich() {
		return nil
	}
	if p.files == nil {
		p.files = map[string]bool{}
	}
	for _, f := range files {
		if len(needs) < maxNeeds && len(p.files) < maxFiles && !p.files[f.path] {
			p.files[f.path] = true
			f.from = from
			needs = append(needs, f)
		}
	}
	return needs
}

// naming is an attribute that names a path of the same site.
var naming = regexp.MustCompile(`(?i)\s(src|href)\s*=\s*["']?(/[^"'\s<>?#]*)["'\s>]`)

// kinds are those of files by the ends of their names.
var kinds = map[string]string{
	".css": "style", ".js": "script", ".png": "image", ".jpg": "image", ".jpeg": "image", ".gif": "image",
	".webp": "image", ".avif": "image", ".svg": "image", ".ico": "image",
}

// references finds the files that a page needs and the pages that it leads to, of the
// same site, each once.
func references(body []byte) (files []request, links []string) {
	seen := map[string]bool{}
	for _, m := range naming.FindAllSubmatch(body, 4*(maxNeeds+maxLinks)) {
		target, src := string(m[2]), m[1][0]|0x20 == 's'
		kind, ext := kinds[strings.ToLower(path.Ext(target))], path.Ext(target)
		switch {
		case seen[target] || len(target) > maxPath || strings.HasPrefix(target, "//") || strings.Contains(target, "/.") || strings.ContainsFunc(target, unclean):
		case kind != "":
			files = append(files, request{path: target, kind: kind})
		case !src && (ext == "" || ext == ".html"):
			links = append(links, target)
		}
		seen[target] = true
	}
	return files, links
}

// unclean are characters that a browser would write otherwise, as it does with what begins
// with a dot between slashes.
func unclean(r rune) bool { return r <= ' ' || r > '~' || strings.ContainsRune("\"'<>\\^`{|}&;", r) }

// decode undoes a content encoding of a page, or of its beginning; nil if it cannot.
func decode(body []byte, encoding string) []byte {
	var r io.Reader
	switch encoding {
	case "":
		return body
	case "gzip":
		z, err := gzip.NewReader(bytes.NewReader(body))
		if err != nil {
			return nil
		}
		r = z
	case "br":
		r = brotli.NewReader(bytes.NewReader(body))
	case "zstd":
		z, err := zstd.NewReader(bytes.NewReader(body), zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(8<<20), zstd.WithDecoderLowmem(true))
		if err != nil {
			return nil
		}
		defer z.Close()
		r = z
	default:
		return nil
	}
	out, _ := io.ReadAll(io.LimitReader(r, maxPage)) // a page that was cut off is one, too
	return out
}
