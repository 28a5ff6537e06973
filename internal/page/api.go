package page

import (
	"encoding/json"
	"errors"
	"io"
	"mime"
	"net/http"
	"time"

	"busel/config"
	"busel/internal/front"
	"busel/internal/picture"
)

// Code is why something was not done, for the page, which has a text for each of
// [Codes].
type Code string

// Codes.
const (
	Foreign         Code = "foreign"          // not an invite
	Damaged         Code = "damaged"          // an invite with a fault
	Forged          Code = "forged"           // likewise, on purpose
	Incomplete      Code = "incomplete"       // parts are missing
	PictureFormat   Code = "picture-format"   // neither PNG nor JPEG
	PictureLarge    Code = "picture-large"    // too large
	PictureDamaged  Code = "picture-damaged"  // cannot be decoded
	NoCode          Code = "no-code"          // there is no QR code
	WrongPassphrase Code = "wrong-passphrase" // another is right
	WeakPassphrase  Code = "weak-passphrase"  // a new one that is too easy to guess
	BadValue        Code = "bad-value"        // a setting out of range
	Gone            Code = "gone"             // nothing has that label
	NoNetwork       Code = "no-network"       // this device is on no local network
	Failed          Code = "failed"           // anything else
)

// Codes is every code.
var Codes = []Code{Foreign, Damaged, Forged, Incomplete, PictureFormat, PictureLarge, PictureDamaged, NoCode, WrongPassphrase, WeakPassphrase, BadValue, Gone, NoNetwork, Failed}

// What a [Client] says is wrong.
var (
	ErrWrongPassphrase = errors.New("wrong passphrase")
	ErrWeakPassphrase  = errors.New("weak passphrase")
	ErrBadValue        = errors.New("bad value")
	ErrGone            = errors.New("not held")
	ErrNoNetwork       = errors.New("no local network")
)

func codeOf(err error) Code {
	for _, c := range []struct {
		err  error
		code Code
	}{
		{config.ErrIncomplete, Incomplete}, {config.ErrForged, Forged}, {config.ErrDamaged, Damaged}, {config.ErrForeign, Foreign},
		{picture.ErrFormat, PictureFormat}, {picture.ErrTooLarge, PictureLarge}, {picture.ErrDamaged, PictureDamaged}, {picture.ErrNoCode, NoCode},
		{ErrWrongPassphrase, WrongPassphrase}, {ErrWeakPassphrase, WeakPassphrase}, {ErrBadValue, BadValue}, {ErrGone, Gone}, {ErrNoNetwork, NoNetwork},
	} {
		if errors.Is(err, c.err) {
			return c.code
		}
	}
	return Failed
}

const (
	// maxAsk bounds a request's JSON: an invite with the chatter around it, and some.
	maxAsk = 2 * config.MaxText
	// uploadTime is for a picture of the largest size over loopback.
	uploadTime = time.Minute
)

// state is what the page asks for once a second.
type state struct {
	Phase   Phase        `json:"phase"`
	Failure string       `json:"failure"` // why, where there is a reason
	Way     string       `json:"way"`     // that met it
	Now     time.Time    `json:"now"`
	Status  front.Status `json:"status"`
	Held    []Held       `json:"held"`
	History []Entry      `json:"history"`
	User    string       `json:"user"`
	Guarded bool         `json:"guarded"`
	Set     Settings     `json:"settings"`
	Can     Can          `json:"can"`
	Nearby  *Nearby      `json:"nearby"`
	QR      []string     `json:"nearby_qr,omitempty"` // one for each URL of Nearby
}

func (p *page) state() state {
	f, now := p.Client.Facts(), time.Now()
	s := state{Now: now, Status: f.Status, Held: f.Held, History: p.History.Entries(), User: f.User,
		Guarded: f.Guarded, Set: f.Settings, Can: f.Can, Nearby: f.Nearby}
	s.Phase, s.Failure, s.Way = phaseOf(&f, now)
	if s.Held == nil {
		s.Held = []Held{}
	}
	if s.History == nil {
		s.History = []Entry{}
	}
	if f.Nearby != nil {
		for _, u := range f.Nearby.URLs {
			if svg, err := config.QRSVG(u); err == nil {
				s.QR = append(s.QR, svg)
			}
		}
	}
	return s
}

// api has all that the page asks for. Internal/front lets no request for /api/ come here
// that does not say the page's key.
func (p *page) api(mux *http.ServeMux) {
	mux.HandleFunc("GET /api/state", func(w http.ResponseWriter, _ *http.Request) { answer(w, p.state(), nil) })
	mux.HandleFunc("GET /api/share", p.share)
	mux.HandleFunc("GET /api/picture", p.picture)
	mux.HandleFunc("POST /api/read", p.read)
	post(mux, "/api/add", func(r *http.Request, in struct{ Text string }) (any, error) {
		return p.Client.Add(r.Context(), in.Text)
	})
	post(mux, "/api/remove", func(_ *http.Request, in struct{ Label string }) (any, error) { return nil, p.Client.Remove(in.Label) })
	post(mux, "/api/rename", func(_ *http.Request, in struct{ Label, Name string }) (any, error) {
		return nil, p.Client.Rename(in.Label, in.Name)
	})
	post(mux, "/api/settings", func(_ *http.Request, in Settings) (any, error) {
		restart, err := p.Client.Set(in)
		return map[string]bool{"restart": restart}, err
	})
	post(mux, "/api/unlock", func(r *http.Request, in struct{ Passphrase string }) (any, error) {
		return nil, p.Client.Unlock(r.Context(), in.Passphrase)
	})
	post(mux, "/api/protect", func(r *http.Request, in struct{ Old, Passphrase string }) (any, error) {
		return nil, p.Client.Protect(r.Context(), in.Old, in.Passphrase)
	})
	post(mux, "/api/nearby", func(_ *http.Request, in struct{ Label string }) (any, error) { return nil, p.Client.Nearby(in.Label) })
	post(mux, "/api/part", func(*http.Request, struct{}) (any, error) { p.Client.Part(); return nil, nil })
	post(mux, "/api/clear", func(*http.Request, struct{}) (any, error) { p.History.Clear(); return nil, nil })
	post(mux, "/api/wipe", func(*http.Request, struct{}) (any, error) { return nil, p.Client.Wipe() })
	post(mux, "/api/quit", func(*http.Request, struct{}) (any, error) { p.Client.Quit(); return nil, nil })
}

// post serves a request whose body is JSON, and answers with what do returns.
func post[T any](mux *http.ServeMux, path string, do func(*http.Request, T) (any, error)) {
	mux.HandleFunc("POST "+path, func(w http.ResponseWriter, r *http.Request) {
		// A form of another site cannot have this type.
		if kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || kind != "application/json" {
			http.Error(w, "", http.StatusUnsupportedMediaType)
			return
		}
		bound(w, r, maxAsk)
		dec := json.NewDecoder(r.Body)
		dec.DisallowUnknownFields()
		var in T
		if err := dec.Decode(&in); err != nil {
			answer(w, nil, ErrBadValue)
			return
		}
		out, err := do(r, in)
		answer(w, out, err)
	})
}

// bound bounds a body in bytes and in time.
func bound(w http.ResponseWriter, r *http.Request, limit int64) {
	r.Body = http.MaxBytesReader(w, r.Body, limit)
	// A connection that has no deadlines is a test's.
	_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(uploadTime))
}

// answer writes JSON: what was asked for, or {"error": code}.
func answer(w http.ResponseWriter, out any, err error) {
	w.Header().Set("Content-Type", "application/json")
	if err != nil {
		w.WriteHeader(http.StatusUnprocessableEntity)
		out = map[string]Code{"error": codeOf(err)}
	} else if out == nil {
		out = struct{}{}
	}
	_ = json.NewEncoder(w).Encode(out) // the browser may have gone
}

// read finds the texts of invites in a picture. One picture is looked at at a time: it
// takes memory, and a camera sends them faster than they can be read.
func (p *page) read(w http.ResponseWriter, r *http.Request) {
	select {
	case p.reading <- struct{}{}:
		defer func() { <-p.reading }()
	case <-r.Context().Done():
		return
	}
	bound(w, r, picture.MaxFile)
	data, err := io.ReadAll(r.Body)
	if err != nil {
		err = picture.ErrTooLarge
		if r.Context().Err() != nil {
			return
		}
		answer(w, nil, err)
		return
	}
	texts, err := picture.Read(r.Context(), data)
	answer(w, map[string][]string{"texts": texts}, err)
}

// share is an invite as text and as QR codes.
func (p *page) share(w http.ResponseWriter, r *http.Request) {
	b, err := p.Client.Invite(r.FormValue("label"))
	if err != nil {
		answer(w, nil, err)
		return
	}
	var out struct {
		Text  string   `json:"text"`
		Codes []string `json:"codes"` // SVG
	}
	out.Text = b.Text()
	for _, code := range b.Codes() {
		svg, err := config.QRSVG(code)
		if err != nil {
			answer(w, nil, err)
			return
		}
		out.Codes = append(out.Codes, svg)
	}
	answer(w, out, nil)
}

// picture is an invite as a PNG.
func (p *page) picture(w http.ResponseWriter, r *http.Request) {
	b, err := p.Client.Invite(r.FormValue("label"))
	var png []byte
	if err == nil {
		png, err = config.QRPNG(b)
	}
	if err != nil {
		answer(w, nil, err)
		return
	}
	w.Header().Set("Content-Type", "image/png")
	_, _ = w.Write(png) // the browser may have gone
}
