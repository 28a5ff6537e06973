package front

import (
	"crypto/sha256"
	"crypto/subtle"
	_ "embed" // for the page
	"encoding/base64"
	"encoding/json"
	"fmt"
	"html/template"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"time"
)

//go:embed page.html
var pageText string

//go:embed page.css
var pageStyle string

var page = template.Must(template.New("page").Funcs(template.FuncMap{
	"bytes":   bytesText,
	"seconds": secondsText,
	"when":    func(t time.Time) string { return t.Local().Format("2 Jan 15:04") },
}).Parse(pageText))

// pageRefresh is how often the browser loads the page again. There is no script
// that could do it.
const pageRefresh = 5 * time.Second

// pageView is what page.html shows.
type pageView struct {
	Status
	Style   template.CSS
	Say     string
	PAC     string
	Refresh int
}

// newOwnPages serves the status page and its JSON to whoever proves to be the
// resident. A stranger learns that something listens here, and nothing of
// relays.
func (f *Front) newOwnPages() http.Handler {
	hash := sha256.Sum256([]byte(pageStyle))
	policy := "default-src 'none'; style-src 'sha256-" + base64.StdEncoding.EncodeToString(hash[:]) +
		"'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, r *http.Request) {
		s := f.status()
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		view := pageView{s, template.CSS(pageStyle), sentence(s), f.PACURL(), int(pageRefresh / time.Second)}
		if err := page.Execute(w, view); err != nil {
			f.log.Debug("status page not delivered", "cause", cause(err))
		}
	})
	mux.HandleFunc("GET /status.json", func(w http.ResponseWriter, r *http.Request) {
		body, err := json.Marshal(f.status())
		if err != nil {
			http.Error(w, "the status cannot be written", http.StatusInternalServerError)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write(append(body, '\n')) // the client may have gone
	})
	guarded := http.NewCrossOriginProtection().Handler(mux)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", policy)
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
		key, given := r.URL.Query()["key"]
		if given && r.URL.Path == "/" && r.Method == http.MethodGet {
			if !f.isSecret(key[0]) {
				forbid(w)
				return
			}
			http.SetCookie(w, &http.Cookie{
				Name:     f.cookieName(),
				Value:    f.secret,
				Path:     "/",
				HttpOnly: true,
				SameSite: http.SameSiteStrictMode,
			})
			// The secret must not stay in the address bar and the history.
			http.Redirect(w, r, "/", http.StatusSeeOther)
			return
		}
		if cookie, err := r.Cookie(f.cookieName()); err != nil || !f.isSecret(cookie.Value) {
			forbid(w)
			return
		}
		guarded.ServeHTTP(w, r)
	})
}

func forbid(w http.ResponseWriter) {
	http.Error(w, "Forbidden: open the link that the program printed at its start.", http.StatusForbidden)
}

func (f *Front) isSecret(s string) bool {
	return subtle.ConstantTimeCompare([]byte(s), []byte(f.secret)) == 1
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

// sentence is the state in one sentence.
func sentence(s Status) string {
	for _, want := range []State{Active, Suspect, Spare} {
		for _, c := range s.Carriers {
			if c.State != want {
				continue
			}
			if want == Suspect {
				return fmt.Sprintf("Connected through %s by %s, but the connection is faltering; another one is being looked for.", c.Relay, c.Transport)
			}
			return fmt.Sprintf("Connected through %s by %s.", c.Relay, c.Transport)
		}
	}
	switch {
	case s.Online:
		return "Connected."
	case len(s.Paths) == 0:
		return "There is no relay yet: add an invite with “client add”."
	}
	if text := s.Refused(); text != "" {
		return strings.ToUpper(text[:1]) + text[1:] + "."
	}
	if s.AtRest() {
		return "At rest: the client connects as soon as a program asks for something."
	}
	return "No relay can be reached right now. The client keeps trying by itself; check that this device is online."
}

// bytesText writes a number of bytes for people: "12.3 MB".
func bytesText(n uint64) string {
	if n < 1000 {
		return fmt.Sprintf("%d B", n)
	}
	value, unit := float64(n), 0
	for value >= 999.95 && unit < 6 {
		value /= 1000
		unit++
	}
	return fmt.Sprintf("%.1f %cB", value, " kMGTPE"[unit])
}

// secondsText writes a time span for people: "2 h 5 min".
func secondsText(n int64) string {
	switch {
	case n < 60:
		return fmt.Sprintf("%d s", n)
	case n < 3600:
		return fmt.Sprintf("%d min", n/60)
	case n < 24*3600:
		return fmt.Sprintf("%d h %d min", n/3600, n%3600/60)
	}
	return fmt.Sprintf("%d d %d h", n/(24*3600), n%(24*3600)/3600)
}
