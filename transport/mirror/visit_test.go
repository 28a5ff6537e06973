package mirror

import (
	"bytes"
	"compress/gzip"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"crypto/x509"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"busel/obfs/look"
)

// writes keeps what is written, each write apart.
type writes struct {
	io.Reader
	each [][]byte
}

func (w *writes) Write(b []byte) (int, error) {
	w.each = append(w.each, bytes.Clone(b))
	return len(b), nil
}

// frames are those of one write, as "HEADERS 440".
func frames(t *testing.T, b []byte) (out []string) {
	t.Helper()
	b = bytes.TrimPrefix(b, []byte(http2.ClientPreface))
	fr := http2.NewFramer(nil, bytes.NewReader(b))
	for {
		f, err := fr.ReadFrame()
		if err == io.EOF {
			return out
		}
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, fmt.Sprintf("%v %d", f.Header().Type, f.Header().Length))
	}
}

// TestRequests compares the lengths of the first requests of a visit, frame by frame and
// record by record, with what the browsers sent to a server of our own (November 2026).
// Firefox's middle three are a byte longer: it names a field by its last entry in the
// dynamic table, where HPACK's static table would do.
func TestRequests(t *testing.T) {
	for _, tt := range []struct {
		family, host string
		requests     []request
		want         []string // one a record; each is 17 bytes longer there
	}{
		{"chromium", "t.look.example:9463", []request{
			{path: "/"}, {path: "/s.css", kind: "style", from: "/"}, {path: "/a.png", kind: "image", from: "/"}, {path: "/j.js", kind: "script", from: "/"},
			{path: "/late1", kind: "script", from: "/"}, {path: "/late1", kind: "script", from: "/"},
		}, []string{"SETTINGS 24, WINDOW_UPDATE 4", "HEADERS 440", "HEADERS 91", "HEADERS 98", "HEADERS 41", "HEADERS 26", "HEADERS 26"}},
		{"firefox", "t.look.example:9464", []request{
			{path: "/"}, {path: "/s.css", kind: "style", from: "/"}, {path: "/j.js", kind: "script", from: "/"}, {path: "/a.png", kind: "image", from: "/"}, {path: "/s.css", kind: "style", from: "/"},
		}, []string{"SETTINGS 24, WINDOW_UPDATE 4", "HEADERS 280, WINDOW_UPDATE 4", "HEADERS 89, WINDOW_UPDATE 4", "HEADERS 33, WINDOW_UPDATE 4", "HEADERS 92, WINDOW_UPDATE 4", "HEADERS 24, WINDOW_UPDATE 4"}},
	} {
		h := shippedLook(t, tt.family).HTTP
		// As they were measured: without a window.
		headless := func(list []look.Field) []look.Field {
			list = slices.Clone(list)
			for i := range list {
				list[i].Value = strings.ReplaceAll(list[i].Value, " Chrome/", " HeadlessChrome/")
			}
			return list
		}
		h.Navigate = headless(h.Navigate)
		fetch := map[string][]look.Field{}
		for kind, list := range h.Fetch {
			fetch[kind] = headless(list)
		}
		h.Fetch = fetch
		w := new(writes)
		v := newVisit(w, &h, tt.host, "h2", nil)
		if err := v.begin(); err != nil {
			t.Fatal(err)
		}
		for _, r := range tt.requests {
			if err := v.ask(r); err != nil {
				t.Fatal(err)
			}
		}
		var got []string
		for _, b := range w.each {
			got = append(got, strings.Join(frames(t, b), ", "))
		}
		if !slices.Equal(got, tt.want) {
			t.Errorf("%s sends %q, the browser %q", tt.family, got, tt.want)
		}
		if n, err := helloSize(&h, tt.host); err != nil || n != len(w.each[1])+17 {
			t.Errorf("%s: a hello is %d bytes long, the request that it stands for %d; %v", tt.family, n, len(w.each[1])+17, err)
		}
	}
}

// cover2 is the server's end of a visit in memory.
type cover2 struct {
	*http2.Framer
	got chan string // frames as they come
}

// visitInMemory starts a visit and a server that hears it. It must be called in a bubble.
func visitInMemory(t *testing.T, family string, site *pages) (*visit, *cover2, func()) {
	client, server := net.Pipe()
	h := shippedLook(t, family).HTTP
	v := newVisit(client, &h, "www.cover.example", "h2", nil)
	v.site = site
	heard := time.Now()
	v.quiet = func() time.Time { return heard }
	c := &cover2{http2.NewFramer(server, server), make(chan string, 64)}
	c.ReadMetaHeaders = hpack.NewDecoder(65536, nil)
	go func() {
		_, _ = io.ReadFull(server, make([]byte, len(http2.ClientPreface)))
		for {
			f, err := c.ReadFrame()
			if err != nil {
				return
			}
			text := fmt.Sprintf("%v %d", f.Header().Type, f.Header().StreamID)
			switch f := f.(type) {
			case *http2.WindowUpdateFrame:
				text += fmt.Sprintf(" +%d", f.Increment)
			case *http2.MetaHeadersFrame:
				text += " " + f.PseudoValue("path")
			case *http2.SettingsFrame:
				if f.IsAck() {
					text += " ack"
				}
			case *http2.PingFrame:
				if f.IsAck() {
					text += " ack"
				}
			}
			c.got <- text
		}
	}()
	if err := v.begin(); err != nil {
		t.Fatal(err)
	}
	go func() { _ = v.serve() }()
	return v, c, func() { client.Close(); server.Close() }
}

// heard takes what has come.
func (c *cover2) heard() (all []string) {
	synctest.Wait()
	for {
		select {
		case text := <-c.got:
			all = append(all, text)
		default:
			return all
		}
	}
}

func (c *cover2) answer(t *testing.T, id uint32, end bool, body []byte, fields ...string) {
	t.Helper()
	var b bytes.Buffer
	enc := hpack.NewEncoder(&b)
	_ = enc.WriteField(hpack.HeaderField{Name: ":status", Value: "200"})
	for i := 0; i+1 < len(fields); i += 2 {
		_ = enc.WriteField(hpack.HeaderField{Name: fields[i], Value: fields[i+1]})
	}
	if err := c.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: b.Bytes(), EndHeaders: true}); err != nil {
		t.Fatal(err)
	}
	for len(body) > 16000 {
		if err := c.WriteData(id, false, body[:16000]); err != nil {
			t.Fatal(err)
		}
		body = body[16000:]
	}
	if err := c.WriteData(id, end, body); err != nil {
		t.Fatal(err)
	}
}

// TestControlFrames sees PING, SETTINGS ACK and WINDOW_UPDATE sent as the browsers were
// seen to send them.
func TestControlFrames(t *testing.T) {
	for _, tt := range []struct {
		family string
		want   [][]string // at 0 s, after an answer at 1 s, a request at 12 s, and its answer
	}{
		{"chromium", [][]string{
			{"SETTINGS 0", "WINDOW_UPDATE 0 +15663105", "HEADERS 1 /", "SETTINGS 0 ack", "PING 0 ack"},
			nil,
			{"HEADERS 3 /", "PING 0"},
			{"WINDOW_UPDATE 0 +200"}, // with what was left of the first
		}},
		{"firefox", [][]string{
			{"SETTINGS 0", "WINDOW_UPDATE 0 +12517377", "HEADERS 3 /", "WINDOW_UPDATE 3 +12451840", "SETTINGS 0 ack", "PING 0 ack"},
			nil,
			{"HEADERS 5 /", "WINDOW_UPDATE 5 +12451840"},
			nil,
		}},
	} {
		t.Run(tt.family, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				v, c, end := visitInMemory(t, tt.family, nil)
				defer end()
				check := func(i int) {
					t.Helper()
					if got := c.heard(); !slices.Equal(got, tt.want[i]) {
						t.Errorf("%d: %q, want %q", i, got, tt.want[i])
					}
				}
				first := v.next
				if err := v.get(); err != nil {
					t.Fatal(err)
				}
				if err := c.WriteSettings(); err != nil {
					t.Fatal(err)
				}
				if err := c.WritePing(false, [8]byte{1}); err != nil {
					t.Fatal(err)
				}
				check(0)
				time.Sleep(time.Second)
				c.answer(t, first, true, make([]byte, 100))
				check(1)
				time.Sleep(11 * time.Second)
				if err := v.get(); err != nil {
					t.Fatal(err)
				}
				check(2)
				c.answer(t, first+2, true, make([]byte, 100))
				check(3)
			})
		})
	}
}

// TestLargeBody leaves a body that is too large, and only that.
func TestLargeBody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v, c, end := visitInMemory(t, "chromium", new(pages))
		defer end()
		c.heard()
		for _, r := range []request{{path: "/"}, {path: "/large.png", kind: "image", from: "/"}} {
			if err := v.ask(r); err != nil {
				t.Fatal(err)
			}
		}
		c.heard()
		c.answer(t, 3, false, make([]byte, maxBody+1))
		if got := c.heard(); !slices.Equal(got, []string{"RST_STREAM 3"}) {
			t.Errorf("%q", got)
		}
		if n := v.asked.Load(); n != 1 {
			t.Errorf("%d requests wait for an answer", n)
		}
	})
}

// endless is a head without an end.
type endless struct{ n int }

func (e *endless) Read(b []byte) (int, error) {
	n := 0
	if e.n == 0 {
		n = copy(b, "HTTP/1.1 200 OK\r\n")
	}
	for ; n+7 <= len(b); n += copy(b[n:], "A: bc\r\n") {
	}
	if e.n += n; e.n > 1<<22 {
		return n, io.EOF
	}
	return n, nil
}

// TestEndlessHead: the head of an answer is given up that is longer than a browser takes.
func TestEndlessHead(t *testing.T) {
	cover := new(endless)
	h := shippedLook(t, "chromium").HTTP
	v := newVisit(&writes{Reader: cover}, &h, "www.cover.example", "http/1.1", nil)
	if err := v.serve(); err == nil || cover.n > maxHeader+8<<10 {
		t.Errorf("%d bytes were read, %v", cover.n, err)
	}
}

// TestSilentCover: a cover that answers nothing is not asked on and on.
func TestSilentCover(t *testing.T) {
	h := shippedLook(t, "chromium").HTTP
	for protocol, most := range map[string]int{"h2": maxAsked, "http/1.1": 1} {
		v := newVisit(new(writes), &h, "www.cover.example", protocol, nil)
		n := 0
		for ; n < 1000 && !v.patient(); n++ {
			if err := v.browse(); err != nil {
				t.Fatal(err)
			}
		}
		if n != most {
			t.Errorf("%s: %d requests without an answer, want %d", protocol, n, most)
		}
	}
}

// TestManyStamps: what a page is asked for again with does not grow with what the cover
// says of it.
func TestManyStamps(t *testing.T) {
	f := &http2.MetaHeadersFrame{Fields: []hpack.HeaderField{{Name: ":status", Value: "200"}}}
	for i := range 1000 {
		f.Fields = append(f.Fields, hpack.HeaderField{Name: "etag", Value: fmt.Sprint(i)}, hpack.HeaderField{Name: "last-modified", Value: fmt.Sprint(i)})
	}
	var x exchange
	x.header(f)
	if want := []look.Field{{Name: "if-none-match", Value: "0"}, {Name: "if-modified-since", Value: "0"}}; !slices.Equal(x.stamp, want) {
		t.Errorf("%d: %.3q", len(x.stamp), x.stamp)
	}
}

// TestOddLinks takes what a browser would write as it stands, and nothing else.
func TestOddLinks(t *testing.T) {
	files, links := references([]byte(`<a href="/a/../b"><a href="/./c"><a href="/.git/config"><a href="//other.example/">
<a href="/a;b"><a href="/%zz"><img src="/../d.png"><a href="http://169.254.169.254/latest"><a href="/` + strings.Repeat("x", maxPath) + `"><a href="/good/page"><img src="/good.v2.png">`))
	if len(files) != 1 || files[0].path != "/good.v2.png" || !slices.Equal(links, []string{"/%zz", "/good/page"}) {
		t.Errorf("files %+v, links %q", files, links)
	}
}

// TestVisit looks at what a cover is asked for by two carriers, one after another.
func TestVisit(t *testing.T) {
	const page = `<html><link rel="stylesheet" href="/style.css"><script src='/code.js'></script><img src=/a.png >
<a href="/about">us</a> <a href="https://elsewhere.example/x">them</a><img src="//elsewhere.example/b.png"><a href="/style.css">twice</a></html>`
	var packed bytes.Buffer
	z := gzip.NewWriter(&packed)
	_, _ = io.WriteString(z, page)
	_ = z.Close()
	var mu sync.Mutex
	var asked []string
	cert, leaf := certificate(t, coverName)
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		line := r.URL.Path
		if r.Header.Get("If-None-Match") != "" {
			line += " again"
		}
		if from := r.Header.Get("Referer"); from != "" && !strings.HasSuffix(from, coverName+"/") && !strings.Contains(from, coverName+":") {
			line += " from " + from
		}
		asked = append(asked, line+" "+r.Header.Get("Sec-Fetch-Dest"))
		mu.Unlock()
		if r.URL.Path == "/" {
			w.Header().Set("ETag", `"one"`)
			w.Header().Set("Content-Encoding", "gzip")
			_, _ = w.Write(packed.Bytes())
			return
		}
		fmt.Fprint(w, "something")
	}))
	s.TLS = &tls.Config{Certificates: []tls.Certificate{cert}}
	s.EnableHTTP2 = true
	s.StartTLS()
	t.Cleanup(s.Close)
	pool := x509.NewCertPool()
	pool.AddCert(leaf)
	r := startRelay(t, &site{addr: s.Listener.Addr().String(), name: coverName, roots: pool}, func(c *ListenerConfig) { c.Cover.Idle = time.Second })
	d := r.dialer(t, nil)
	count := func(line string) (n int) {
		mu.Lock()
		defer mu.Unlock()
		for _, x := range asked {
			if x == line {
				n++
			}
		}
		return n
	}
	for i := range 2 {
		c, e := r.pair(t, d)
		n := byte(0)
		until(t, "a second page", func() bool {
			n++
			send(t, c, e, n)
			return count("/ again document")+count("/about document") > i
		})
		c.Close()
	}
	mu.Lock()
	defer mu.Unlock()
	t.Logf("%q", asked)
	first := slices.Clone(asked[1:min(4, len(asked))])
	slices.Sort(first)
	if asked[0] != "/ document" || !slices.Equal(first, []string{"/a.png image", "/code.js script", "/style.css style"}) {
		t.Errorf("the first page led to %q", asked)
	}
	for _, line := range asked[min(4, len(asked)):] {
		if line != "/ document" && line != "/ again document" && line != "/about document" {
			t.Errorf("%s was asked for", line)
		}
	}
}

// TestBudget: a visit that has taken too much asks for pages only.
func TestBudget(t *testing.T) {
	var p pages
	if n := len(p.read("/", []byte(`<img src="/a.png">`))); n != 1 {
		t.Errorf("%d files", n)
	}
	p.came(0, visitBytes)
	if n := len(p.read("/", []byte(`<img src="/b.png"><a href="/x">`))); n != 0 {
		t.Errorf("%d files beyond the budget", n)
	}
	for range 50 {
		if r := p.next(true); r != (request{path: "/", again: true}) {
			t.Fatalf("%+v beyond the budget", r)
		}
	}
	p.came(visitShare*100, 0)
	if n := len(p.read("/", []byte(`<img src="/b.png">`))); n != 1 {
		t.Errorf("%d files, when much has come since", n)
	}
}

func FuzzPage(f *testing.F) {
	f.Add([]byte(`<link href="/a.css"><script src=/b.js></script><a href='/c'>`), "")
	f.Add([]byte{0x1f, 0x8b, 8, 0}, "gzip")
	f.Add([]byte{0x28, 0xb5, 0x2f, 0xfd, 4}, "zstd")
	f.Add([]byte{0x0b, 2, 0x80, 'h', 'i', 3}, "br")
	f.Fuzz(func(t *testing.T, body []byte, encoding string) {
		text := decode(body[:min(len(body), maxPage)], encoding)
		if len(text) > maxPage {
			t.Fatalf("%d bytes", len(text))
		}
		files, links := references(text)
		seen := map[string]bool{}
		for _, r := range files {
			links = append(links, r.path)
		}
		for _, l := range links {
			if l[0] != '/' || strings.HasPrefix(l, "//") || len(l) > maxPath || strings.ContainsFunc(l, unclean) || seen[l] {
				t.Fatalf("path %q", l)
			}
			seen[l] = true
		}
		var p pages
		if needs := p.read("/", text); len(needs) > maxNeeds || len(p.links) > maxLinks {
			t.Fatalf("%d files, %d links", len(needs), len(p.links))
		}
	})
}
