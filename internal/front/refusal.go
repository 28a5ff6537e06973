package front

import (
	"context"
	"errors"
	"html/template"
	"io"
	"net/http"
	"strconv"
	"strings"

	"busel/internal/flow"
	"busel/internal/words"
)

// refusal is why a web request was not served: a status, and the key of one sentence in
// internal/words that says what is wrong and what to do.
type refusal struct {
	status int
	key    string
	host   string // that the sentence is about; may be empty
}

// refusalFor says why host was not reached.
func refusalFor(host string, err error) refusal {
	if open, ok := errors.AsType[*flow.OpenError](err); ok {
		return refusalForOpen(host, open)
	}
	switch {
	case errors.Is(err, errOwnAddress):
		return refusal{http.StatusForbidden, "refusal.own", ""}
	case errors.Is(err, context.DeadlineExceeded):
		return refusal{http.StatusGatewayTimeout, "refusal.late", host}
	case errors.Is(err, flow.ErrLocked):
		return refusal{http.StatusServiceUnavailable, "refusal.locked", ""}
	case errors.Is(err, flow.ErrNoInvite):
		return refusal{http.StatusServiceUnavailable, "refusal.no-invite", ""}
	case errors.Is(err, flow.ErrNoRelay):
		return refusal{http.StatusServiceUnavailable, "refusal.no-relay", ""}
	}
	return refusal{http.StatusServiceUnavailable, "refusal.unasked", host}
}

func refusalForOpen(host string, open *flow.OpenError) refusal {
	switch open.Detail {
	case flow.DetailInvite:
		return refusal{http.StatusServiceUnavailable, "refusal.invite", ""}
	case flow.DetailNameNotFound:
		return refusal{http.StatusBadGateway, "refusal.name", host}
	case flow.DetailNameServerFailed:
		return refusal{http.StatusBadGateway, "refusal.name-server", host}
	case flow.DetailQuota:
		return refusal{http.StatusServiceUnavailable, "refusal.quota", ""}
	case flow.DetailDevices:
		return refusal{http.StatusServiceUnavailable, "refusal.devices", ""}
	case flow.DetailRelayRestarted:
		return refusal{http.StatusBadGateway, "refusal.restarted", ""}
	}
	switch open.Code {
	case flow.NotAllowed:
		return refusal{http.StatusForbidden, "refusal.not-allowed", host}
	case flow.ConnectionRefused:
		return refusal{http.StatusBadGateway, "refusal.refused", host}
	case flow.TTLExpired:
		return refusal{http.StatusGatewayTimeout, "refusal.slow", host}
	case flow.NetworkUnreachable, flow.HostUnreachable:
		return refusal{http.StatusBadGateway, "refusal.no-way", host}
	case flow.AddressNotSupported:
		return refusal{http.StatusBadGateway, "refusal.address", host}
	}
	return refusal{http.StatusBadGateway, "refusal.unreached", host}
}

// The page runs, if a browser shows it, in the name of the site that was not
// reached: it has no script and loads nothing.
var refusalPage = template.Must(template.New("refusal").Parse(`<!DOCTYPE html>
<html lang="{{.Lang}}" dir="{{.Dir}}"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<meta name="color-scheme" content="light dark"><title>{{.Title}}</title>
<h1>{{.Title}}</h1><p>{{.Text}}</p></html>
`))

// reader is who reads a refusal: what it takes, and in which language.
type reader struct {
	accept string
	lang   *words.Catalogue
}

// readerOf finds out from a request.
func (f *Front) readerOf(r *http.Request) reader {
	return reader{r.Header.Get("Accept"), words.Pick(f.languages, "", r.Header.Get("Accept-Language"))}
}

// body returns the answer's body and type: a page for browsers, a line for
// others.
func (r refusal) body(to reader) (body, contentType string) {
	text := to.lang.Say(r.key, "host", r.host)
	if !strings.Contains(to.accept, "text/html") {
		return text + "\n", "text/plain; charset=utf-8"
	}
	var b strings.Builder
	_ = refusalPage.Execute(&b, struct{ Lang, Dir, Title, Text string }{
		to.lang.Tag, to.lang.Say("direction"), to.lang.Say("refusal.title"), text,
	}) // a Builder never fails
	return b.String(), "text/html; charset=utf-8"
}

func (r refusal) header(body, contentType string) http.Header {
	return http.Header{
		"Content-Type":            {contentType},
		"Content-Length":          {strconv.Itoa(len(body))},
		"Cache-Control":           {"no-store"},
		"Content-Security-Policy": {"default-src 'none'"},
		"X-Content-Type-Options":  {"nosniff"},
	}
}

// serve answers a request of the reader.
func (r refusal) serve(w http.ResponseWriter, to reader) {
	body, contentType := r.body(to)
	h := w.Header()
	for k, v := range r.header(body, contentType) {
		h[k] = v
	}
	w.WriteHeader(r.status)
	_, _ = io.WriteString(w, body) // the client may have gone
}

// write answers a CONNECT request on its hijacked connection, and ends it.
func (r refusal) write(w io.Writer, to reader) error {
	body, contentType := r.body(to)
	res := &http.Response{
		StatusCode:    r.status,
		ProtoMajor:    1,
		ProtoMinor:    1,
		Header:        r.header(body, contentType),
		Body:          io.NopCloser(strings.NewReader(body)),
		ContentLength: int64(len(body)),
		Close:         true,
	}
	return res.Write(w)
}
