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
)

// refusal is why a web request was not served: a status, and one sentence that
// says what is wrong and what to do.
type refusal struct {
	status int
	text   string
}

// refusalFor puts into words why host was not reached.
func refusalFor(host string, err error) refusal {
	if open, ok := errors.AsType[*flow.OpenError](err); ok {
		return refusalForOpen(host, open)
	}
	switch {
	case errors.Is(err, errOwnAddress):
		return refusal{http.StatusForbidden, "This address is the proxy itself: open it without the proxy, with the link that the program printed at its start."}
	case errors.Is(err, context.DeadlineExceeded):
		return refusal{http.StatusGatewayTimeout, "There was no answer about " + host + " in time: try again in a minute, the connection to the relay may be moving."}
	case errors.Is(err, flow.ErrLocked):
		return refusal{http.StatusServiceUnavailable, "Busel is locked: open its page or run `client unlock`, give your passphrase, then reload."}
	case errors.Is(err, flow.ErrNoInvite):
		return refusal{http.StatusServiceUnavailable, "There is no invite yet: take one with `client add`, then reload."}
	case errors.Is(err, flow.ErrNoRelay):
		return refusal{http.StatusServiceUnavailable, "No relay can be reached right now: check that this device is online; the proxy keeps trying, so reload in a minute."}
	}
	return refusal{http.StatusServiceUnavailable, "The proxy could not ask a relay for " + host + ": try again in a minute."}
}

func refusalForOpen(host string, open *flow.OpenError) refusal {
	switch open.Detail {
	case flow.DetailInvite:
		return refusal{http.StatusServiceUnavailable, "Your invite is no longer valid: ask the person who gave it to you for a new one."}
	case flow.DetailNameNotFound:
		return refusal{http.StatusBadGateway, "There is no site named " + host + ": check the spelling of the address."}
	case flow.DetailNameServerFailed:
		return refusal{http.StatusBadGateway, "The relay could not look up " + host + " because its name server failed: try again in a minute."}
	case flow.DetailQuota:
		return refusal{http.StatusServiceUnavailable, "This month's quota of your invite, or of its relay, is used up: use another relay, ask the person who gave it to you for more, or wait for the next month."}
	case flow.DetailDevices:
		return refusal{http.StatusServiceUnavailable, "As many devices use your invite as may: stop Busel on another one, or ask the person who gave it to you."}
	case flow.DetailRelayRestarted:
		return refusal{http.StatusBadGateway, "The relay was restarted meanwhile: reload the page."}
	}
	switch open.Code {
	case flow.NotAllowed:
		return refusal{http.StatusForbidden, "The relay does not allow connections to " + host + ": use another relay, or ask the volunteer who runs it."}
	case flow.ConnectionRefused:
		return refusal{http.StatusBadGateway, host + " refused the connection: check the address and port, or try again later."}
	case flow.TTLExpired:
		return refusal{http.StatusGatewayTimeout, host + " did not answer in time: try again later."}
	case flow.NetworkUnreachable, flow.HostUnreachable:
		return refusal{http.StatusBadGateway, "The relay found no way to " + host + ": check the address, or try again later."}
	case flow.AddressNotSupported:
		return refusal{http.StatusBadGateway, "The relay cannot use the address " + host + ": check its spelling."}
	}
	return refusal{http.StatusBadGateway, "The relay could not reach " + host + ": try again later, or use another relay."}
}

// The page runs, if a browser shows it, in the name of the site that was not
// reached: it has no script and loads nothing.
var refusalPage = template.Must(template.New("refusal").Parse(`<!DOCTYPE html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<meta name="color-scheme" content="light dark"><title>{{.Title}}</title>
<h1>{{.Title}}</h1><p>{{.Text}}</p></html>
`))

// body returns the answer's body and type: a page for browsers, a line for
// others.
func (r refusal) body(accept string) (body, contentType string) {
	if !strings.Contains(accept, "text/html") {
		return r.text + "\n", "text/plain; charset=utf-8"
	}
	var b strings.Builder
	_ = refusalPage.Execute(&b, struct{ Title, Text string }{http.StatusText(r.status), r.text}) // a Builder never fails
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

// serve answers a request.
func (r refusal) serve(w http.ResponseWriter, req *http.Request) {
	body, contentType := r.body(req.Header.Get("Accept"))
	h := w.Header()
	for k, v := range r.header(body, contentType) {
		h[k] = v
	}
	w.WriteHeader(r.status)
	_, _ = io.WriteString(w, body) // the client may have gone
}

// write answers a CONNECT request on its hijacked connection, and ends it.
func (r refusal) write(w io.Writer, accept string) error {
	body, contentType := r.body(accept)
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
