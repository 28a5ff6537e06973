// Package page is what a resident sees of the client: one page, which tells in one
// sentence how things are, takes invites, shows how to set up programs, and has what
// else there is to be seen or set.
//
// The page is a file of HTML, one of CSS and one of JavaScript, and asks for what it
// shows by JSON, once a second while somebody looks. It refers to nothing outside. Who
// may see it is judged in internal/front, before a request comes here. All that is to be
// read on it is in internal/words.
//
// This package opens nothing and keeps nothing: what it shows and does is the
// [Client]'s, which cmd/client implements.
package page

import (
	"bytes"
	"context"
	"embed"
	"encoding/json"
	"html/template"
	"log/slog"
	"net/http"
	"time"

	"busel/config"
	"busel/internal/front"
	"busel/internal/words"
)

// Client is what the page shows and does.
type Client interface {
	Facts() Facts
	// Add takes the invite in text, and connects. The error is one of config's if it is
	// about the text.
	Add(ctx context.Context, text string) (Outcome, error)
	Remove(label string) error
	// Rename gives what is held under the label the resident's own name; empty takes it
	// away.
	Rename(label, name string) error
	Invite(label string) (*config.Bundle, error)
	// Set writes settings. It reports whether the client has to start again for them to
	// hold.
	Set(s Settings) (restart bool, err error)
	// Unlock opens what a passphrase guards, if Facts.Locked. The error is
	// [ErrWrongPassphrase] if it is another.
	Unlock(ctx context.Context, passphrase string) error
	// Protect sets, changes or, with an empty one, takes away the passphrase.
	Protect(ctx context.Context, old, passphrase string) error
	// Wipe removes everything that the client keeps, and ends it.
	Wipe() error
	// Quit ends the client.
	Quit()
	// Nearby begins to hand out the program and an invite on the local network, Facts.Nearby
	// shows how it goes, and Part ends it.
	Nearby(label string) error
	Part()
}

// Outcome is what became of an invite.
type Outcome struct {
	Label  string `json:"label"`
	Change string `json:"change"` // added, replaced, known or outdated
}

// Facts are what the client knows.
type Facts struct {
	front.Status
	Healthy bool      // a carrier is in use that is not suspect
	Seeking time.Time // since when a carrier is wanted and none is healthy; zero if that is not so
	Outage  time.Time // since when nothing answers, whatever way; zero if something does
	Locked  bool      // a passphrase is wanted first
	Guarded bool      // there is a passphrase
	User    string    // that programs have to say; empty if none
	Held    []Held
	Settings
	Can    Can
	Nearby *Nearby // nil: not going on
}

// Can is what this client offers beyond what every one does.
type Can struct {
	Passphrase bool `json:"passphrase"`
	Wipe       bool `json:"wipe"`
	Nearby     bool `json:"nearby"`
}

// Held is an invite that is held.
type Held struct {
	Label   string    `json:"label"`
	Name    string    `json:"name"`             // the resident's own; may be empty
	Title   string    `json:"title"`            // what the volunteer calls it; may be empty
	Relays  []string  `json:"relays"`           // their labels
	Expires time.Time `json:"expires,omitzero"` // absent: never
}

// Settings are those of client.toml that the page sets.
type Settings struct {
	Port     int    `json:"port"` // 0: a free one at each start
	Policy   string `json:"policy"`
	Learn    bool   `json:"learn"`
	Language string `json:"language"` // a tag, or empty for the browser's
}

// Nearby is how sharing over Wi-Fi goes.
type Nearby struct {
	URLs  []string  `json:"urls"` // one for each address of this device
	PIN   string    `json:"pin"`
	Until time.Time `json:"until"`
	Taken int       `json:"taken"` // files that were fetched whole
}

// Config of [New].
type Config struct {
	Client  Client
	History *History
	Logger  *slog.Logger // nil: silence
}

//go:embed web
var web embed.FS

type page struct {
	Config
	languages []*words.Catalogue
	shell     *template.Template
	reading   chan struct{} // one element for each picture that is looked at
}

// New returns the handler of the page. It fails only if what is built in is damaged.
func New(c Config) (http.Handler, error) {
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	languages, err := words.All()
	if err != nil {
		return nil, err
	}
	shell, err := template.ParseFS(web, "web/page.html")
	if err != nil {
		return nil, err
	}
	p := &page{Config: c, languages: languages, shell: shell, reading: make(chan struct{}, 1)}
	return p.routes(), nil
}

func (p *page) routes() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", p.serveShell)
	mux.HandleFunc("GET /page.css", file("web/page.css", "text/css; charset=utf-8"))
	mux.HandleFunc("GET /page.js", file("web/page.js", "text/javascript; charset=utf-8"))
	p.api(mux)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", policy)
		h.Set("Permissions-Policy", "camera=(self), microphone=(), geolocation=(), display-capture=()")
		h.Set("Cross-Origin-Opener-Policy", "same-origin")
		mux.ServeHTTP(w, r)
	})
}

// policy lets the page use its own files and its own words, and nothing else, and no
// script make markup of text. Pictures of QR codes are data.
const policy = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; " +
	"base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"

func file(name, kind string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		data, err := web.ReadFile(name)
		if err != nil {
			http.Error(w, "", http.StatusInternalServerError)
			return
		}
		w.Header().Set("Content-Type", kind)
		_, _ = w.Write(data) // the browser may have gone
	}
}

// serveShell writes the page with the words of the resident's language in it. It says
// nothing that a stranger may not know.
func (p *page) serveShell(w http.ResponseWriter, r *http.Request) {
	lang := words.Pick(p.languages, p.Client.Facts().Language, r.Header.Get("Accept-Language"))
	type choice struct{ Tag, Name string }
	view := struct {
		Lang      *words.Catalogue
		Direction string
		Words     template.JS
		Languages []choice
	}{Lang: lang, Direction: lang.Say("direction")}
	for _, l := range p.languages {
		view.Languages = append(view.Languages, choice{l.Tag, l.Name()})
	}
	text, err := json.Marshal(lang.Texts) // in which <, > and & are escaped
	if err != nil {
		http.Error(w, "", http.StatusInternalServerError)
		return
	}
	view.Words = template.JS(text)
	var out bytes.Buffer
	if err := p.shell.Execute(&out, view); err != nil {
		p.Logger.Error("the page cannot be made", "err", err)
		http.Error(w, "", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	_, _ = w.Write(out.Bytes()) // the browser may have gone
}
