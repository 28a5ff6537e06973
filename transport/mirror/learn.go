package mirror

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"regexp"
	"strings"
	"time"

	"golang.org/x/net/http2"

	"busel/obfs/records"
	"busel/transport"
)

// Bounds of the visit that learns: a page's pictures and scripts, and no more
// bytes than a few of them have.
const (
	learnTime    = 15 * time.Second
	learnPage    = 1 << 20 // bytes of the first page that are searched
	learnFiles   = 8
	learnBytes   = 4 << 20 // of each file
	learnRecords = 2048
)

// link to a file of the same site, in a page's source.
var linked = regexp.MustCompile(`(?i)(?:src|href)\s*=\s*["']?(/[^/"'\s>][^"'\s>]*\.(?:jpe?g|png|webp|gif|avif|js|css|woff2?|mp4|pdf|svg|ico))`)

// LearnCycle visits the cover and learns how it cuts large responses: from the
// largest files that its first page names, else from what its server says it is.
// The certificate is not judged: nothing is told to the cover but requests.
func LearnCycle(ctx context.Context, network transport.Network, cover Cover) (records.Cycle, error) {
	ctx, cancel := context.WithTimeout(ctx, learnTime)
	defer cancel()
	g, err := dialGuest(ctx, network, cover, Trust{})
	if err != nil {
		return records.Cycle{}, err
	}
	defer g.conn.Close()
	g.ear.listen(learnRecords)
	stop := context.AfterFunc(ctx, func() { _ = g.conn.Close() })
	defer stop()
	host := authority(cover.Name, cover.Address)
	ask, err := g.asker(ctx, host)
	if err != nil {
		return records.Cycle{}, bare(err)
	}
	server, page, err := ask("/", learnPage)
	if err != nil {
		return records.Cycle{}, bare(err)
	}
	seen := map[string]bool{}
	for _, m := range linked.FindAllSubmatch(page, -1) {
		path := string(m[1])
		if seen[path] || len(seen) == learnFiles {
			continue
		}
		seen[path] = true
		if _, _, err := ask(path, learnBytes); err != nil {
			break // what came already may do
		}
	}
	if c, ok := records.Learn(g.ear.heard()); ok {
		return c, nil
	}
	return g.guess(server), nil
}

// guess is the cycle of a cover that showed nothing large.
func (g *guest) guess(server string) records.Cycle {
	first, _, _ := strings.Cut(strings.ToLower(server), "/")
	switch {
	case g.report.ALPN != "h2":
		return records.Cycle{}
	case first == "" || first == "caddy": // net/http says nothing of itself
		return records.GoHTTP2()
	}
	return records.NginxHTTP2()
}

// asker returns what does a GET over the guest's connection, and gives the Server
// field and the beginning of the body. Unlike a visit it reads what it gets, plain.
func (g *guest) asker(ctx context.Context, host string) (func(path string, most int64) (string, []byte, error), error) {
	var rt http.RoundTripper
	if g.report.ALPN == "h2" {
		//lint:ignore SA1019 net/http's own takes HTTP/2 over crypto/tls only
		h2 := &http2.Transport{DisableCompression: true}
		//lint:ignore SA1019 as above
		c, err := h2.NewClientConn(g.tls)
		if err != nil {
			return nil, err
		}
		rt = c
	} else {
		once := make(chan net.Conn, 1)
		once <- g.tls
		rt = &http.Transport{DisableCompression: true, DialTLSContext: func(context.Context, string, string) (net.Conn, error) {
			select {
			case c := <-once:
				return c, nil
			default:
				return nil, errors.New("the cover ends each connection after one request")
			}
		}}
	}
	return func(path string, most int64) (string, []byte, error) {
		r, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+host+path, nil)
		if err != nil {
			return "", nil, err
		}
		for _, f := range g.visit.http.Navigate {
			if f.Name != "accept-encoding" { // links are read as they are
				r.Header.Set(f.Name, f.Value)
			}
		}
		resp, err := rt.RoundTrip(r)
		if err != nil {
			return "", nil, err
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(io.LimitReader(resp.Body, most))
		return resp.Header.Get("Server"), body, err
	}, nil
}
