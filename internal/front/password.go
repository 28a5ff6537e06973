package front

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/armon/go-socks5"

	"busel/internal/flow"
)

// How often a password may be tried. Programs on this machine can try from
// thousands of connections at once, so the bound is for all of them together.
const (
	freeTries   = 20                     // wrong tries in a row that cost nothing: a browser with a saved password
	triesEvery  = 100 * time.Millisecond // after those, one check a tenth of a second
	maxTryWait  = 5 * time.Second        // then the try has failed
	maxUserPass = 255                    // bytes: RFC 1929, section 2
)

// password is the user and password that programs must say. It keeps only their
// hashes, which are compared in constant time: neither content nor length of the
// secret shows in how long a comparison takes.
type password struct {
	user, pass [sha256.Size]byte
	untold     bool // nobody knows it yet: whatever is said is wrong

	mu   sync.Mutex
	next time.Time // when wrong tries will be paid off; each costs triesEvery
}

// Demand has user and password demanded from now on, which are as in [Config].
func (f *Front) Demand(user, pass string) error {
	p, err := newPassword(user, pass)
	if err == nil {
		f.password.Store(p)
	}
	return err
}

// newPassword returns nil if neither is set.
func newPassword(user, pass string) (*password, error) {
	switch {
	case user == "" && pass == "":
		return nil, nil
	case user == "" || pass == "":
		return nil, errors.New("a user needs a password and a password needs a user")
	case len(user) > maxUserPass || len(pass) > maxUserPass:
		return nil, errors.New("user and password have at most 255 bytes each")
	case strings.ContainsRune(user, ':'):
		return nil, errors.New("a user name cannot have a colon: HTTP ends the name there") // RFC 7617, section 2
	}
	return &password{user: sha256.Sum256([]byte(user)), pass: sha256.Sum256([]byte(pass))}, nil
}

// check reports whether user and pass are right. After many wrong tries it waits
// before it looks, so that right and wrong ones are slow alike; when that takes
// too long, or ctx ends, the answer is no.
func (p *password) check(ctx context.Context, user, pass string) bool {
	if p.untold {
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, maxTryWait)
	defer cancel()
	for {
		right, wait := p.try(user, pass)
		if wait <= 0 {
			return right
		}
		t := time.NewTimer(wait)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return false
		}
	}
}

// try compares, or says how long to wait before that.
func (p *password) try(user, pass string) (right bool, wait time.Duration) {
	u, w := sha256.Sum256([]byte(user)), sha256.Sum256([]byte(pass))
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	if from := p.next.Add(-(freeTries - 1) * triesEvery); now.Before(from) {
		return false, from.Sub(now)
	}
	// Both are compared whatever the first says.
	if subtle.ConstantTimeCompare(u[:], p.user[:])&subtle.ConstantTimeCompare(w[:], p.pass[:]) == 1 {
		return true, 0
	}
	if p.next.Before(now) {
		p.next = now
	}
	p.next = p.next.Add(triesEvery)
	return false, 0
}

// login is a [socks5.CredentialStore] for one connection.
type login struct {
	ctx context.Context
	*password
}

var _ socks5.CredentialStore = login{}

// Valid reports whether user and pass are right.
func (l login) Valid(user, pass string) bool { return l.check(l.ctx, user, pass) }

// mayProxy reports whether a web request may use the proxy: there is no
// password, or the request says it.
func (f *Front) mayProxy(r *http.Request) bool {
	password := f.password.Load()
	if password == nil {
		return true
	}
	user, pass, ok := basicAuth(r.Header.Get("Proxy-Authorization"))
	return ok && password.check(r.Context(), user, pass)
}

// basicAuth parses the value of a Proxy-Authorization field (RFC 7617, section 2).
func basicAuth(value string) (user, pass string, ok bool) {
	scheme, code, ok := strings.Cut(value, " ")
	if !ok || !strings.EqualFold(scheme, "Basic") {
		return "", "", false
	}
	text, err := base64.StdEncoding.DecodeString(strings.TrimLeft(code, " "))
	if err != nil {
		return "", "", false
	}
	return strings.Cut(string(text), ":")
}

// demandPassword answers 407 (RFC 9110, section 15.5.8), or tells who said a password that
// nobody can judge it yet.
func (f *Front) demandPassword(w http.ResponseWriter, r *http.Request) {
	if p := f.password.Load(); p != nil && p.untold {
		if _, _, said := basicAuth(r.Header.Get("Proxy-Authorization")); said {
			refusalFor("", flow.ErrLocked).serve(w, f.readerOf(r))
			return
		}
	}
	w.Header().Set("Proxy-Authenticate", `Basic realm="proxy", charset="UTF-8"`)
	refusal{http.StatusProxyAuthRequired, "refusal.password", ""}.serve(w, f.readerOf(r))
}
