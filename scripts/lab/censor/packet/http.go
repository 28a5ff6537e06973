package packet

import (
	"bytes"
	"errors"
	"slices"
	"strings"
)

var errNotHTTP = errors.New("not an HTTP request")

// A Request is what an observer reads in the head of an HTTP/1 request.
type Request struct {
	Method string
	Path   string
	Host   string // in lower case, without a port; "" if it was not named
}

// maxHead is how much of a request is looked at. nginx takes a line of 8 kB.
const maxHead = 1 << 13

// httpMethods are those that a browser or a proxy's client sends.
var httpMethods = []string{"GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "PATCH"}

// LooksLikeHTTP reports whether a stream begins with an HTTP method.
func LooksLikeHTTP(stream []byte) bool {
	method, _, ok := bytes.Cut(stream[:min(len(stream), 8)], []byte(" "))
	return ok && slices.Contains(httpMethods, string(method))
}

// ParseRequest reads the head of a request. With [ErrMore] comes what is known
// so far; it stops as soon as the Host is known.
func ParseRequest(stream []byte) (Request, error) {
	if !LooksLikeHTTP(stream) {
		if len(stream) < 8 && slices.ContainsFunc(httpMethods, func(m string) bool {
			return strings.HasPrefix(m+" ", string(stream))
		}) {
			return Request{}, ErrMore
		}
		return Request{}, errNotHTTP
	}
	head := stream[:min(len(stream), maxHead)]
	line, rest, ok := bytes.Cut(head, []byte("\n"))
	if !ok {
		return Request{}, more(stream)
	}
	method, target, _ := strings.Cut(strings.TrimRight(string(line), "\r"), " ")
	path, version, ok := strings.Cut(target, " ")
	if !ok || !strings.HasPrefix(version, "HTTP/1.") {
		return Request{}, errNotHTTP
	}
	r := Request{Method: method, Path: path}
	for {
		line, rest, ok = bytes.Cut(rest, []byte("\n"))
		if !ok {
			return r, more(stream)
		}
		text := strings.TrimRight(string(line), "\r")
		if text == "" {
			return r, nil
		}
		if name, value, _ := strings.Cut(text, ":"); strings.EqualFold(name, "host") {
			r.Host = hostname(strings.TrimSpace(value))
			return r, nil
		}
	}
}

// more is the error for a head whose end is not there.
func more(stream []byte) error {
	if len(stream) >= maxHead {
		return errNotHTTP
	}
	return ErrMore
}

// hostname is host without its port, in lower case. Only ASCII has cases here: what
// is no UTF-8 stays as long as it is.
func hostname(host string) string {
	if i := strings.LastIndexByte(host, ':'); i >= 0 && !strings.HasSuffix(host, "]") {
		host = host[:i]
	}
	lower := []byte(host)
	for i, c := range lower {
		if 'A' <= c && c <= 'Z' {
			lower[i] = c + 'a' - 'A'
		}
	}
	return string(lower)
}
