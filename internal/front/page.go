package front

import (
	"crypto/rand"
	"crypto/subtle"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"
)

// KeyHeader is the header in which the page says its key with every request for a path
// below /api/.
const KeyHeader = "X-Page-Key"

const (
	// maxTickets bounds those that nobody has used; a new one takes the place of the
	// oldest.
	maxTickets = 16
	// ticketLife is how long a link works that nobody has opened: a resident who starts
	// the client may look for a browser first.
	ticketLife = time.Hour
)

// door lets the resident's own browser in, and nobody else.
//
// A link has a ticket, which is good once: the command line of a browser and a
// terminal may be read by others later. For it the browser gets a cookie, and the key
// in the fragment of the address that it is led to. The cookie alone is not enough,
// since a browser shows it to whatever listens on another port of this host; the key
// is kept by the page's origin, to which the port belongs, and says besides that a
// request is the page's own.
type door struct {
	cookie, key string

	mu      sync.Mutex
	tickets []ticket // the oldest first
}

type ticket struct {
	text string
	made time.Time
}

func newDoor() *door { return &door{cookie: rand.Text(), key: rand.Text()} }

// ticket makes one.
func (d *door) ticket() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	t := ticket{rand.Text(), time.Now()}
	d.tickets = append(d.tickets, t)
	if extra := len(d.tickets) - maxTickets; extra > 0 {
		d.tickets = d.tickets[extra:]
	}
	return t.text
}

// take reports whether text is a ticket that nobody has used, and uses it.
func (d *door) take(text string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	found := -1
	for i, t := range d.tickets { // all of them, whichever it is
		if same(text, t.text) && time.Since(t.made) < ticketLife {
			found = i
		}
	}
	if found < 0 {
		return false
	}
	d.tickets = append(d.tickets[:found:found], d.tickets[found+1:]...)
	return true
}

func same(a, b string) bool { return subtle.ConstantTimeCompare([]byte(a), []byte(b)) == 1 }

// newOwnPages serves the resident's pages to whoever proves to be the resident. A
// stranger learns that something listens here, and nothing of relays.
func (f *Front) newOwnPages() http.Handler {
	guarded := http.NewCrossOriginProtection().Handler(f.pages)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'")
		h.Set("Cache-Control", "no-store")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Cross-Origin-Resource-Policy", "same-origin")
		if r.URL.Path == pacPath && f.isOwnHost(r.Host) && (r.Method == http.MethodGet || r.Method == http.MethodHead) {
			f.servePAC(w)
			return
		}
		if !f.isOwnHost(r.Host) || foreign(r) {
			forbid(w)
			return
		}
		cookie, err := r.Cookie(f.cookieName())
		known := err == nil && same(cookie.Value, f.door.cookie)
		if key, given := r.URL.Query()["key"]; given && r.URL.Path == "/" && r.Method == http.MethodGet {
			if !f.door.take(key[0]) {
				if known { // opened again, from the browser's history perhaps
					http.Redirect(w, r, "/", http.StatusSeeOther)
					return
				}
				forbid(w)
				return
			}
			http.SetCookie(w, &http.Cookie{
				Name:     f.cookieName(),
				Value:    f.door.cookie,
				Path:     "/",
				HttpOnly: true,
				SameSite: http.SameSiteStrictMode,
			})
			// The ticket must not stay in the address bar, and a fragment is sent to nobody.
			http.Redirect(w, r, "/#"+f.door.key, http.StatusSeeOther)
			return
		}
		if !known || strings.HasPrefix(r.URL.Path, "/api/") && !same(r.Header.Get(KeyHeader), f.door.key) {
			forbid(w)
			return
		}
		guarded.ServeHTTP(w, r)
	})
}

func forbid(w http.ResponseWriter) {
	http.Error(w, "Forbidden: open the link that the program printed at its start.", http.StatusForbidden)
}

// cookieName carries the port, because a browser gives all ports of a host the
// same cookies, and two clients must not overwrite each other's.
func (f *Front) cookieName() string {
	return "key-" + strconv.Itoa(int(f.addr.Port()))
}

// isOwnHost reports whether a Host header names the proxy's own address. Any
// other name may be a web site that points its name here (DNS rebinding).
func (f *Front) isOwnHost(host string) bool {
	name, port, err := net.SplitHostPort(host)
	if err != nil || port != strconv.Itoa(int(f.addr.Port())) {
		return false
	}
	if strings.EqualFold(name, "localhost") {
		return true
	}
	ip, err := netip.ParseAddr(name)
	return err == nil && (ip.IsLoopback() || ip == f.addr.Addr())
}

// isLocalhost reports whether name means this machine (RFC 6761, section 6.3).
func isLocalhost(name string) bool {
	name = strings.ToLower(strings.TrimSuffix(name, "."))
	return name == "localhost" || strings.HasSuffix(name, ".localhost")
}

// foreign reports whether a request was caused by another site's page. Requests
// that the resident makes by hand have "none" or, from old browsers and
// programs, nothing.
func foreign(r *http.Request) bool {
	switch r.Header.Get("Sec-Fetch-Site") {
	case "", "none", "same-origin":
	default:
		return true
	}
	origin := r.Header.Get("Origin")
	if origin == "" {
		return false
	}
	u, err := url.Parse(origin)
	return err != nil || u.Scheme != "http" || u.Host != r.Host
}
