package page

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"busel/config"
	"busel/internal/flow"
	"busel/internal/front"
	"busel/internal/words"
	"busel/transport"
)

// fake is a client that writes down what it was told.
type fake struct {
	facts  Facts
	bundle *config.Bundle
	told   []string
	err    error
}

func (f *fake) tell(format string, args ...any) error {
	f.told = append(f.told, fmt.Sprintf(format, args...))
	return f.err
}

func (f *fake) Facts() Facts { return f.facts }
func (f *fake) Add(_ context.Context, text string) (Outcome, error) {
	_, err := config.ParseText(text)
	if err != nil {
		return Outcome{}, err
	}
	return Outcome{"r1", "added"}, f.tell("add")
}
func (f *fake) Remove(label string) error       { return f.tell("remove %s", label) }
func (f *fake) Rename(label, name string) error { return f.tell("rename %s %s", label, name) }
func (f *fake) Invite(label string) (*config.Bundle, error) {
	if label != "r1" {
		return nil, ErrGone
	}
	return f.bundle, nil
}
func (f *fake) Set(s Settings) (bool, error)             { return true, f.tell("set %+v", s) }
func (f *fake) Unlock(_ context.Context, p string) error { return f.tell("unlock %s", p) }
func (f *fake) Protect(_ context.Context, old, p string) error {
	return f.tell("protect %s %s", old, p)
}
func (f *fake) Wipe() error               { return f.tell("wipe") }
func (f *fake) Quit()                     { _ = f.tell("quit") }
func (f *fake) Nearby(label string) error { return f.tell("nearby %s", label) }
func (f *fake) Part()                     { _ = f.tell("part") }

func invite(t testing.TB, relays int) *config.Bundle {
	t.Helper()
	entries := make([]config.RelayEntry, relays)
	for i := range entries {
		entries[i] = config.RelayEntry{
			Addresses: []flow.Addr{{Name: "relay.example.net", Port: 443}}, Key: [32]byte{9}, CoverName: "news.example.org",
			CertHash: [32]byte{1}, Transports: []config.Transport{{Name: "mirror"}},
		}
	}
	b, err := config.Sign(ed25519.NewKeyFromSeed(make([]byte, 32)), 1, entries...)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func newPage(t testing.TB, f *fake) http.Handler {
	t.Helper()
	h, err := New(Config{Client: f, History: new(History)})
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func ask(h http.Handler, method, path, kind, body string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, path, strings.NewReader(body))
	if kind != "" {
		r.Header.Set("Content-Type", kind)
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

const asJSON = "application/json"

// What a browser fetches before it shows the page, and how much that is.
func TestBudget(t *testing.T) {
	const most, requests = 150_000, 4 // bytes with every catalogue; the state is the fourth
	h := newPage(t, &fake{})
	shell := ask(h, "GET", "/", "", "").Body.String()
	links := regexp.MustCompile(`(?:src|href)="(/[^"]*)"`).FindAllStringSubmatch(shell, -1)
	if len(links)+2 > requests {
		t.Errorf("the page makes %d requests before it shows anything, want %d", len(links)+2, requests)
	}
	files, all := 0, 0
	for _, l := range links {
		n := ask(h, "GET", l[1], "", "").Body.Len()
		if n == 0 {
			t.Errorf("%s is empty", l[1])
		}
		files += n
	}
	languages, err := words.All()
	if err != nil {
		t.Fatal(err)
	}
	all = files + len(shell)
	for _, l := range languages {
		text, err := json.Marshal(l.Texts)
		if err != nil {
			t.Fatal(err)
		}
		all += len(text)
	}
	t.Logf("one language %d bytes, all %d", files+len(shell), all)
	if all > most {
		t.Errorf("%d bytes, want at most %d", all, most)
	}
}

// Nothing on the page refers to anything outside, and no script makes markup.
func TestSelfContained(t *testing.T) {
	names, err := fs.Glob(web, "web/*")
	if err != nil || len(names) != 3 {
		t.Fatalf("files %v, %v", names, err)
	}
	outside := regexp.MustCompile(`(?i)(https?:)?//[a-z0-9-]+\.[a-z]|@import|\b(?-i:url)\(`)
	markup := regexp.MustCompile(`innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|new Function|setTimeout\('`)
	inline := regexp.MustCompile(`(?i)\son[a-z]+=|<style|style="|<script(?: type="application/json")?>`)
	for _, name := range names {
		text, err := web.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		text = bytes.ReplaceAll(text, []byte("http://www.w3.org/2000/svg"), nil) // a name
		if found := outside.Find(text); found != nil {
			t.Errorf("%s refers to %q", name, found)
		}
		if found := markup.Find(text); found != nil {
			t.Errorf("%s has %q", name, found)
		}
		if found := inline.Find(text); strings.HasSuffix(name, ".html") && found != nil {
			t.Errorf("%s has %q, which the policy forbids", name, found)
		}
	}
	w := ask(newPage(t, &fake{}), "GET", "/", "", "")
	csp := w.Header().Get("Content-Security-Policy")
	for _, want := range []string{"default-src 'none'", "script-src 'self'", "frame-ancestors 'none'", "base-uri 'none'", "form-action 'none'", "require-trusted-types-for 'script'"} {
		if !strings.Contains(csp, want) {
			t.Errorf("the policy lacks %s: %s", want, csp)
		}
	}
	if strings.Contains(csp, "unsafe") || strings.Contains(csp, "http") || strings.Contains(csp, "*") {
		t.Errorf("the policy is lax: %s", csp)
	}
}

// used lists the keys that the page uses, by itself and by what it makes of the values of
// Go, and fails for a key that is made in a way the test does not know.
func used(t *testing.T) map[string]bool {
	t.Helper()
	keys := map[string]bool{}
	for _, name := range []string{"web/page.html", "web/page.js"} {
		data, err := web.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		text := string(data)
		for _, m := range regexp.MustCompile(`data-(?:t|label)="([^"]+)"`).FindAllStringSubmatch(text, -1) {
			keys[m[1]] = true
		}
		if name == "web/page.html" {
			continue
		}
		for _, m := range regexp.MustCompile(`\b(?:t|tn|rich)\(([^,)]*(?:\([^)]*\))?[^,)]*)`).FindAllStringSubmatch(text, -1) {
			arg := m[1]
			literals := regexp.MustCompile(`'([^']+)'`).FindAllStringSubmatch(arg, -1)
			for _, l := range literals {
				if l[1] == "." || l[1] == ".say" || l[1] == "NotFoundError" {
					continue // an end, or no key
				}
				if strings.HasSuffix(l[1], ".") {
					if !slices.Contains(families, l[1]) {
						t.Errorf("page.js makes keys of %q, which the test does not know", arg)
					}
				} else {
					keys[l[1]] = true
				}
			}
		}
	}
	return keys
}

// families are the beginnings of keys whose ends are values.
var families = []string{"state.", "refused.", "failure.", "way.", "path.", "story.", "error.", "add.", "programs.", "unit.", "kind."}

// Every key that the page uses is in the catalogue, and every one there is used.
func TestKeys(t *testing.T) {
	languages, err := words.All()
	if err != nil {
		t.Fatal(err)
	}
	english := words.Pick(languages, words.Fallback, "")
	want := used(t)
	for _, key := range []string{"language", "direction", "formats", "state.starting", "settings.restart", "settings.saved", "protect.set", "protect.gone", "failure.unknown", "way.detour", "state.connected.by", "state.blocked.why", "path.again"} {
		want[key] = true
	}
	for _, p := range append(Phases, "starting", "lost", "closed", "ended", "wiped") {
		want["state."+string(p)], want["state."+string(p)+".say"] = true, true
	}
	for _, f := range []transport.Failure{transport.Refused, transport.Reset, transport.Timeout, transport.Hijacked, transport.Frozen, transport.Throttled,
		transport.ClosedEarly, transport.UnfitCover, transport.Revoked, transport.Expired, transport.Quota, transport.Devices, transport.DNSLie} {
		want["failure."+string(f)] = true
		if front.RefusalText(string(f)) != "" {
			want["refused."+string(f)] = true
		}
	}
	for _, u := range []string{"kilobyte", "megabyte", "gigabyte", "terabyte", "second", "minute", "hour"} {
		want["unit."+u] = true
	}
	for _, w := range []string{"mirror", "quic"} {
		want["way."+w], want["kind."+w] = true, true
	}
	for _, s := range []front.State{front.Active, front.Spare, front.Suspect, front.Resting, front.Known, front.Untried} {
		want["path."+string(s)] = true
	}
	for _, k := range Kinds {
		want["story."+string(k)] = true
	}
	for _, k := range []string{"cut", "silent", "seeking", "ceased", "back", "times"} {
		want["story."+k] = true
	}
	for _, c := range append(Codes, "closed") {
		want["error."+string(c)] = true
	}
	for _, c := range []string{"added", "replaced", "known", "outdated"} {
		want["add."+c] = true
	}
	script, err := web.ReadFile("web/page.js")
	if err != nil {
		t.Fatal(err)
	}
	list := regexp.MustCompile(`const programs = \[([^\]]*)\]`).FindSubmatch(script)
	if list == nil {
		t.Fatal("page.js lists no programs")
	}
	for _, m := range regexp.MustCompile(`'(\w+)'`).FindAllSubmatch(list[1], -1) {
		p := "programs." + string(m[1])
		want[p], want[p+".1"] = true, true
		for n := 2; english.Texts[fmt.Sprint(p, ".", n)] != nil; n++ {
			want[fmt.Sprint(p, ".", n)] = true
		}
	}
	for key := range english.Texts {
		if strings.HasPrefix(key, "near.") || strings.HasPrefix(key, "refusal.") {
			want[key] = true // internal/nearby's and internal/front's, whose tests look at them
		}
	}
	for key := range want {
		if english.Texts[key] == nil {
			t.Errorf("the page uses %s, which is in no catalogue", key)
		}
	}
	for key := range english.Texts {
		if !want[key] {
			t.Errorf("nothing uses %s", key)
		}
	}
}

func TestShell(t *testing.T) {
	for _, c := range []struct{ chosen, accept, lang, word string }{
		{"", "be,en", "be", "Дадайце запрашэнне"},
		{"ru", "be", "ru", "Добавьте приглашение"},
		{"", "", "en", "Add an invite"},
	} {
		f := &fake{facts: Facts{Settings: Settings{Language: c.chosen}, Held: []Held{{Label: "r1", Name: "Nobody's Business"}}}}
		r := httptest.NewRequest("GET", "/", nil)
		r.Header.Set("Accept-Language", c.accept)
		w := httptest.NewRecorder()
		newPage(t, f).ServeHTTP(w, r)
		body := w.Body.String()
		if w.Code != 200 || !strings.Contains(body, `<html lang="`+c.lang+`" dir="ltr">`) || !strings.Contains(body, c.word) {
			t.Errorf("%+v: %d, %.300s", c, w.Code, body)
		}
		if strings.Contains(body, "Business") {
			t.Error("the shell tells what the client holds")
		}
		_, words, _ := strings.Cut(body, `<script type="application/json" id="words">`)
		words, _, _ = strings.Cut(words, "</script>")
		var all map[string]any
		if err := json.Unmarshal([]byte(words), &all); err != nil || len(all) < 100 {
			t.Errorf("%s: words of %d keys, %v", c.lang, len(all), err)
		}
	}
}

func TestRequests(t *testing.T) {
	b := invite(t, 1)
	text, _ := json.Marshal(b.Text())
	for _, c := range []struct {
		method, path, kind, body string
		status                   int
		told                     string // by the client
		says                     string // in the answer
	}{
		{"POST", "/api/add", asJSON, `{"text":` + string(text) + `}`, 200, "add", `{"label":"r1","change":"added"}`},
		{"POST", "/api/add", asJSON, `{"text":"hello"}`, 422, "", `{"error":"foreign"}`},
		{"POST", "/api/add", asJSON, `{"text":"busel:aaaa"}`, 422, "", `{"error":"damaged"}`},
		{"POST", "/api/add", asJSON, `{"text":"` + strings.Repeat("x", maxAsk) + `"}`, 422, "", `{"error":"bad-value"}`},
		{"POST", "/api/add", asJSON, `{"words":1}`, 422, "", `{"error":"bad-value"}`},
		{"POST", "/api/add", asJSON, ``, 422, "", `{"error":"bad-value"}`},
		{"POST", "/api/add", "application/x-www-form-urlencoded", `text=x`, 415, "", ""},
		{"POST", "/api/add", "text/plain", `{"text":` + string(text) + `}`, 415, "", ""}, // what a foreign form can send
		{"POST", "/api/add", "", `{}`, 415, "", ""},
		{"GET", "/api/add", "", ``, 405, "", ""},
		{"GET", "/api/wipe", "", ``, 405, "", ""},
		{"PUT", "/api/wipe", asJSON, `{}`, 405, "", ""},
		{"POST", "/api/state", asJSON, `{}`, 405, "", ""},
		{"POST", "/", asJSON, `{}`, 405, "", ""},
		{"GET", "/page.html", "", ``, 404, "", ""},
		{"GET", "/web/page.js", "", ``, 404, "", ""},
		{"POST", "/api/remove", asJSON, `{"label":"r1"}`, 200, "remove r1", "{}"},
		{"POST", "/api/rename", asJSON, `{"label":"r1","name":"Anna"}`, 200, "rename r1 Anna", "{}"},
		{"POST", "/api/settings", "application/json; charset=utf-8", `{"port":2080,"policy":"bond","learn":true,"language":"be"}`, 200,
			"set {Port:2080 Policy:bond Learn:true Language:be}", `{"restart":true}`},
		{"POST", "/api/unlock", asJSON, `{"passphrase":"stork"}`, 200, "unlock stork", "{}"},
		{"POST", "/api/protect", asJSON, `{"old":"a","passphrase":"b"}`, 200, "protect a b", "{}"},
		{"POST", "/api/nearby", asJSON, `{"label":"r1"}`, 200, "nearby r1", "{}"},
		{"POST", "/api/part", asJSON, `{}`, 200, "part", "{}"},
		{"POST", "/api/wipe", asJSON, `{}`, 200, "wipe", "{}"},
		{"POST", "/api/quit", asJSON, `{}`, 200, "quit", "{}"},
		{"POST", "/api/read", "image/png", "GIF89a", 422, "", `{"error":"picture-format"}`},
		{"POST", "/api/read", "image/png", "\x89PNG\r\n\x1a\nshort", 422, "", `{"error":"picture-damaged"}`},
		{"GET", "/api/share?label=r9", "", "", 422, "", `{"error":"gone"}`},
		{"GET", "/api/picture?label=r9", "", "", 422, "", `{"error":"gone"}`},
	} {
		f := &fake{bundle: b}
		w := ask(newPage(t, f), c.method, c.path, c.kind, c.body)
		if body := strings.TrimSpace(w.Body.String()); w.Code != c.status || c.says != "" && body != c.says || strings.Join(f.told, ";") != c.told {
			t.Errorf("%s %s %.60s: %d %.80s, told %q; want %d %s, %q", c.method, c.path, c.body, w.Code, body, f.told, c.status, c.says, c.told)
		}
	}
	f := &fake{err: errors.New("dial tcp 192.0.2.1: refused")}
	if w := ask(newPage(t, f), "POST", "/api/remove", asJSON, `{"label":"r1"}`); w.Body.String() != "{\"error\":\"failed\"}\n" {
		t.Errorf("an error of the client is answered %s", w.Body)
	}
}

// What is shared is what was taken, as text, as codes and as a picture.
func TestShare(t *testing.T) {
	for _, relays := range []int{1, 3} {
		b := invite(t, relays)
		h := newPage(t, &fake{bundle: b})
		var out struct {
			Text  string
			Codes []string
		}
		if err := json.Unmarshal(ask(h, "GET", "/api/share?label=r1", "", "").Body.Bytes(), &out); err != nil || out.Text != b.Text() || len(out.Codes) != len(b.Codes()) {
			t.Errorf("%d relays: %d codes, %v", relays, len(out.Codes), err)
		}
		for _, code := range out.Codes {
			if !strings.HasPrefix(code, "<svg ") || !strings.HasSuffix(code, "</svg>") {
				t.Errorf("no picture: %.50s", code)
			}
		}
		w := ask(h, "GET", "/api/picture?label=r1", "", "")
		read := ask(h, "POST", "/api/read", "image/png", w.Body.String())
		var texts struct{ Texts []string }
		if err := json.Unmarshal(read.Body.Bytes(), &texts); err != nil {
			t.Fatalf("%v in %s", err, read.Body)
		}
		got, err := config.ParseText(strings.Join(texts.Texts, "\n"))
		if err != nil || !got.Equal(b) {
			t.Errorf("the picture of %d relays does not read: %v", relays, err)
		}
	}
}

func TestPhases(t *testing.T) {
	now := time.Now()
	held := []Held{{Label: "r1"}}
	path := func(s front.State, failure string) front.Path {
		return front.Path{Relay: "r1", Transport: "mirror", State: s, Failure: failure, Since: now}
	}
	online := front.Status{Online: true, Carriers: []front.Carrier{{Relay: "r1", Transport: "mirror", State: front.Active}}}
	suspect := front.Status{Online: true, Carriers: []front.Carrier{{Relay: "r1", Transport: "quic", State: front.Suspect}}}
	for _, c := range []struct {
		name  string
		facts Facts
		want  string
	}{
		{"first", Facts{}, "empty  "},
		{"locked", Facts{Locked: true}, "locked  "},
		{"at rest", Facts{Held: held, Status: front.Status{Paths: []front.Path{path(front.Untried, "")}}}, "ready  "},
		{"just asked", Facts{Held: held, Seeking: now}, "connecting  "},
		{"asked long ago", Facts{Held: held, Seeking: now.Add(-3 * time.Second)}, "blocked  "},
		{"one way failed", Facts{Held: held, Seeking: now, Status: front.Status{Paths: []front.Path{path(front.Resting, "reset"), path(front.Untried, "")}}}, "blocked reset mirror"},
		{"all failed, nobody asks", Facts{Held: held, Status: front.Status{Paths: []front.Path{path(front.Resting, "timeout")}}}, "blocked timeout mirror"},
		{"silent", Facts{Held: held, Seeking: now, Status: suspect}, "blocked frozen quic"},
		{"well", Facts{Held: held, Healthy: true, Status: online}, "connected  "},
		{"idle", Facts{Held: held, Status: online}, "connected  "},
		{"well, with an old failure", Facts{Held: held, Healthy: true, Status: front.Status{Online: true, Paths: []front.Path{path(front.Resting, "reset")}}}, "connected  "},
		{"outage", Facts{Held: held, Outage: now, Seeking: now, Status: front.Status{Paths: []front.Path{path(front.Known, "timeout")}}}, "outage  "},
		{"revoked", Facts{Held: held, Status: front.Status{Paths: []front.Path{path(front.Resting, "revoked")}}}, "refused revoked mirror"},
		{"one of two revoked", Facts{Held: held, Status: front.Status{Paths: []front.Path{path(front.Resting, "revoked"), {Relay: "r2", State: front.Known}}}}, "ready  "},
	} {
		phase, failure, way := phaseOf(&c.facts, now)
		if got := fmt.Sprintf("%s %s %s", phase, failure, way); got != c.want {
			t.Errorf("%s: got %q, want %q", c.name, got, c.want)
		}
	}
}

// tale is the history in short, the oldest first.
func tale(h *History) (lines []string) {
	for _, e := range h.Entries() {
		line := fmt.Sprint(e.Kind, " ", e.Way, " ", e.Failure, " ", e.To)
		if e.Open {
			line += " open"
		}
		if e.GaveUp {
			line += " gave up"
		}
		if e.Times > 0 {
			line += fmt.Sprint(" x", e.Times)
		}
		lines = append(lines, line)
	}
	slices.Reverse(lines)
	return lines
}

func TestHistory(t *testing.T) {
	for _, c := range []struct {
		name string
		does func(h *History)
		want []string
	}{
		{"a cut is told with the move", func(h *History) {
			h.Seek("r1")
			h.Lose("r1", "mirror", "reset")
			h.Move("r1", "quic", false, time.Second)
		}, []string{"moved mirror reset quic"}},
		{"or before it", func(h *History) {
			h.Lose("r1", "mirror", "reset")
			time.Sleep(50 * time.Millisecond)
			h.Seek("r1")
			h.Move("r1", "quic", false, time.Second)
		}, []string{"moved mirror reset quic"}},
		{"before it, and not for the first time", func(h *History) {
			h.Lose("r1", "mirror", "reset")
			time.Sleep(5 * time.Second)
			h.Lose("r1", "mirror", "reset")
			h.Seek("r1")
			h.Move("r1", "quic", false, time.Second)
		}, []string{"lost mirror reset  x2", "moved mirror reset quic"}},
		{"an end long before is another story", func(h *History) {
			h.Lose("r1", "mirror", "reset")
			time.Sleep(5 * time.Second)
			h.Seek("r1")
			h.Move("r1", "quic", false, time.Second)
		}, []string{"lost mirror reset ", "moved   quic"}},
		{"invites that cannot be read", func(h *History) {
			h.Unreadable([]string{"r2"})
			h.Unreadable([]string{"r2", "r3"})
			h.Unreadable(nil)
		}, []string{"unreadable   ", "unreadable   "}},
		{"and while it lasts", func(h *History) {
			h.Seek("r1")
			h.Lose("r1", "mirror", "reset")
		}, []string{"moved mirror reset  open"}},
		{"silence is known after the move", func(h *History) {
			h.Seek("r1")
			h.Move("r1", "quic", false, time.Second)
			time.Sleep(10 * time.Second)
			h.Lose("r1", "mirror", "frozen")
		}, []string{"moved mirror frozen quic"}},
		{"an end much later is another story", func(h *History) {
			h.Seek("r1")
			h.Move("r1", "quic", false, time.Second)
			time.Sleep(time.Minute)
			h.Lose("r1", "mirror", "frozen")
		}, []string{"moved   quic", "lost mirror frozen "}},
		{"relays do not mix", func(h *History) {
			h.Seek("r1")
			h.Lose("r2", "mirror", "reset")
			h.Move("r2", "quic", false, 0)
			h.Cease("r1")
		}, []string{"moved    gave up", "lost mirror reset ", "moved   quic"}},
		{"blocks in between", func(h *History) {
			h.Seek("r1")
			h.Lose("r1", "quic", "frozen")
			h.Block("r1", "quic", false, "timeout")
			h.Block("r1", "quic", false, "timeout")
			h.Block("r1", "mirror", false, "reset")
			h.Move("r1", "mirror", true, 0)
		}, []string{"moved quic frozen mirror", "blocked quic timeout  x2", "blocked mirror reset "}},
		{"an outage", func(h *History) {
			h.Out()
			h.Out()
			time.Sleep(time.Minute)
			h.Back()
			h.Back()
		}, []string{"outage   "}},
		{"cleared", func(h *History) {
			h.Out()
			h.Clear()
			h.Back()
		}, nil},
	} {
		synctest.Test(t, func(t *testing.T) {
			var h History
			c.does(&h)
			if got := tale(&h); !slices.Equal(got, c.want) {
				t.Errorf("%s: got %q, want %q", c.name, got, c.want)
			}
		})
	}
	var h History
	for range 10 * maxEntries {
		h.Note(Entry{Kind: Started})
		h.Seek("r1")
		h.Move("r1", "quic", false, 0)
	}
	if got := h.Entries(); len(got) != maxEntries || got[0].ID != 20*maxEntries || cap(h.entries) > 4*maxEntries {
		t.Errorf("%d entries, the last %d, room for %d", len(got), got[0].ID, cap(h.entries))
	}
}

// FuzzRequests lets a page that was taken over ask for anything.
func FuzzRequests(f *testing.F) {
	f.Add("POST", "/api/add", []byte(`{"text":"busel:"}`))
	f.Add("GET", "/api/share?label=r1", []byte(nil))
	f.Add("POST", "/api/read", []byte("\x89PNG\r\n\x1a\n"))
	f.Add("POST", "/api/settings", []byte(`{"port":-1}`))
	b := invite(f, 1)
	h := newPage(f, &fake{bundle: b})
	f.Fuzz(func(t *testing.T, method, path string, body []byte) {
		r, err := http.NewRequest(method, "http://127.0.0.1:1080", bytes.NewReader(body))
		if err != nil || !strings.HasPrefix(path, "/") {
			return
		}
		u, err := r.URL.Parse(path)
		if err != nil || u.Host != r.URL.Host {
			return
		}
		r.URL = u
		r.Header.Set("Content-Type", asJSON)
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		if strings.HasPrefix(u.Path, "/api/") && w.Code == 200 && w.Header().Get("Content-Type") == asJSON && !json.Valid(w.Body.Bytes()) {
			t.Errorf("%s %s: %q is no JSON", method, path, w.Body)
		}
	})
}
