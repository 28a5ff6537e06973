package capture

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"busel/obfs/look"
)

// maxDump bounds what a browser says of its version, in bytes.
const maxDump = 200

var number = regexp.MustCompile(`[0-9]+(?:\.[0-9]+)+[a-z]*`)

// Version asks a browser what it is: "Chromium 156.0.8078.108", and the first part of
// its version.
func Version(ctx context.Context, browser string) (text, major string, err error) {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, browser, "--version").Output()
	if err != nil {
		return "", "", fmt.Errorf("%s does not tell its version: %w", filepath.Base(browser), err)
	}
	text = strings.TrimSpace(string(out[:min(len(out), maxDump)]))
	at := number.FindStringIndex(text)
	if at == nil {
		return "", "", fmt.Errorf("%s does not tell its version", filepath.Base(browser))
	}
	major, _, _ = strings.Cut(text[at[0]:at[1]], ".")
	return text[:at[1]], major, nil
}

// Look puts a browser's visits together. What they cannot show, how a page is loaded
// again, what it asks for later, how uploads are cut, tickets and keepalives, is taken from base, of the same family.
func Look(visits []Visit, name, source string, base *look.Look) (*look.Look, error) {
	var hellos []*look.Hello
	for _, v := range visits {
		if slices.Equal(v.Hello.TLS.ALPN, visits[0].Hello.TLS.ALPN) {
			hellos = append(hellos, v.Hello)
		}
	}
	t, err := look.Merge(hellos)
	if err != nil {
		return nil, err
	}
	l := &look.Look{
		Name: name, Family: base.Family, Source: source, TLS: t,
		HTTP: visits[0].HTTP, Upload: base.Upload, Tickets: base.Tickets, KeepAlive: base.KeepAlive,
	}
	h := &l.HTTP
	if len(h.Navigate) == 0 {
		return nil, errors.New("the browser did not speak HTTP/2 first")
	}
	// The requests with HTTP/1.1 and the last one with HTTP/2 came from another page, the
	// first one did not: what differs between those two differs from HTTP/1.1, too.
	at := func(list []look.Field, name string) int {
		return slices.IndexFunc(list, func(f look.Field) bool { return strings.EqualFold(f.Name, name) })
	}
	var last []look.Field
	for _, v := range visits {
		if len(v.HTTP.Navigate) > 0 {
			last = v.HTTP.Navigate
		} else {
			h.HTTP1 = v.HTTP.HTTP1
		}
	}
	h.HTTP1 = slices.DeleteFunc(slices.Clone(h.HTTP1), func(f look.Field) bool { return at(last, f.Name) >= 0 && at(h.Navigate, f.Name) < 0 })
	before := -1
	for _, f := range h.Navigate {
		i := at(h.HTTP1, f.Name)
		if i >= 0 {
			h.HTTP1[i].Value = f.Value
		} else if at(last, f.Name) < 0 {
			i = before + 1
			h.HTTP1 = slices.Insert(h.HTTP1, i, look.Field{Name: http.CanonicalHeaderKey(f.Name), Value: f.Value})
		}
		before = max(before, i)
	}
	// A browser says here that it has no window. It says so nowhere else.
	for _, list := range [][]look.Field{h.Navigate, h.HTTP1} {
		for i := range list {
			list[i].Value = strings.ReplaceAll(list[i].Value, "HeadlessChrome", "Chrome")
		}
	}
	// What it asks for later it asks for in the same words.
	h.PathLiteral = base.HTTP.PathLiteral
	h.SmallUpdate, h.PingRequest, h.PingIdle = base.HTTP.SmallUpdate, base.HTTP.PingRequest, base.HTTP.PingIdle
	h.Fetch = map[string][]look.Field{}
	for kind, list := range base.HTTP.Fetch {
		list = slices.Clone(list)
		for i, f := range list {
			if was, now := at(base.HTTP.Navigate, f.Name), at(h.Navigate, f.Name); was >= 0 && now >= 0 && base.HTTP.Navigate[was] == f {
				list[i] = h.Navigate[now]
			}
		}
		h.Fetch[kind] = list
	}
	h.Reload = nil
	for _, f := range base.HTTP.Reload {
		if at(base.HTTP.Navigate, f.Name) < 0 { // comes in addition
			h.Reload = append(h.Reload, f)
		}
	}
	for _, f := range h.Navigate {
		if at(base.HTTP.Navigate, f.Name) < 0 || at(base.HTTP.Reload, f.Name) >= 0 {
			h.Reload = append(h.Reload, f)
		}
	}
	return l, l.Check()
}
