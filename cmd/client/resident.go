package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"sync"
	"sync/atomic"

	"busel/config"
	"busel/internal/front"
	"busel/internal/page"
	"busel/internal/rotate"
	"busel/internal/seal"
	"busel/internal/state"
	"busel/internal/tunnel"
)

// resident is what the page shows and does: [page.Client] over the parts of the client
// that runs.
type resident struct {
	dir     *state.Dir
	vault   *vault
	relays  *tunnel.Relays
	known   *atomic.Pointer[[]state.Invite] // what load took last; nil before
	history *page.History
	said    *atomic.Pointer[login] // what programs have to say; not nil
	status  func() front.Status
	load    func() // takes the invites in the directory
	quit    func()
	sharing *sharing

	mu  sync.Mutex
	set config.Client // as the file has it
}

var _ page.Client = (*resident)(nil)

// Facts implements [page.Client].
func (r *resident) Facts() page.Facts {
	r.mu.Lock()
	set := r.set
	r.mu.Unlock()
	f := page.Facts{Status: r.status(), Outage: r.relays.Outage(), User: r.said.Load().user, Settings: shown(set),
		Can: page.Can{Passphrase: true, Wipe: true, Nearby: true}, Nearby: r.sharing.shown()}
	f.Locked = f.Status.Locked
	f.Guarded, _ = r.dir.HasPassphrase() // an error shows when the passphrase is wanted
	if f.Locked {
		return f
	}
	for _, l := range r.relays.Links() {
		f.Healthy = f.Healthy || l.Healthy()
		if since := l.Seeking(); !since.IsZero() && (f.Seeking.IsZero() || since.Before(f.Seeking)) {
			f.Seeking = since
		}
	}
	for _, v := range r.held() {
		h := page.Held{Label: v.Label, Name: v.Name, Expires: config.ExpiryTime(v.Bundle.Relays[0].Token.Expiry())}
		for i, e := range v.Bundle.Relays {
			h.Relays = append(h.Relays, v.RelayLabel(i))
			if h.Title == "" {
				h.Title = e.Name
			}
		}
		f.Held = append(f.Held, h)
	}
	return f
}

// held are the invites that are in use: the page asks too often for reading files.
func (r *resident) held() []state.Invite {
	if all := r.known.Load(); all != nil {
		return *all
	}
	return nil
}

// shown are the settings that the page sets.
func shown(set config.Client) page.Settings {
	return page.Settings{Port: int(set.Listen.Port()), Policy: string(set.Policy), Learn: set.Look.Learn, Language: set.Language}
}

// Add implements [page.Client].
func (r *resident) Add(_ context.Context, text string) (page.Outcome, error) {
	bundle, err := config.ParseText(text)
	if err != nil {
		return page.Outcome{}, err
	}
	held, change, err := r.dir.Add(bundle)
	if err != nil {
		return page.Outcome{}, err
	}
	if change == config.Added || change == config.Replaced {
		r.history.Note(page.Entry{Kind: page.Added, Relay: held.Label})
		r.load()
	}
	// Somebody looks on, and wants to see that it works.
	for _, l := range r.relays.Links() {
		l.Warm()
	}
	return page.Outcome{Label: held.Label, Change: changes[change]}, nil
}

// changes are the page's words for what became of an invite.
var changes = map[config.Change]string{
	config.Added: "added", config.Replaced: "replaced", config.Known: "known", config.Outdated: "outdated",
}

// Remove implements [page.Client].
func (r *resident) Remove(label string) error {
	if err := r.dir.Remove(label); err != nil {
		return gone(err)
	}
	r.history.Note(page.Entry{Kind: page.Removed, Relay: label})
	r.load()
	return nil
}

// gone makes an error of the directory one of the page's.
func gone(err error) error {
	switch {
	case errors.Is(err, state.ErrNotFound):
		return fmt.Errorf("%w: %w", page.ErrGone, err)
	case errors.Is(err, state.ErrName):
		return fmt.Errorf("%w: %w", page.ErrBadValue, err)
	}
	return err
}

// Rename implements [page.Client].
func (r *resident) Rename(label, name string) error {
	if err := r.dir.Rename(label, name); err != nil {
		return gone(err)
	}
	r.load()
	return nil
}

// Invite implements [page.Client].
func (r *resident) Invite(label string) (*config.Bundle, error) {
	v, err := state.Find(r.held(), label)
	if err != nil {
		return nil, gone(err)
	}
	return v.Bundle, nil
}

// Set implements [page.Client].
func (r *resident) Set(s page.Settings) (restart bool, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	before := shown(r.set)
	if s == before {
		return false, nil
	}
	if s.Port < 0 || s.Port > 65535 {
		return false, page.ErrBadValue
	}
	listen := "random" // drawn once, so that programs need not be set up anew
	if s.Port != 0 {
		listen = netip.AddrPortFrom(r.set.Listen.Addr(), uint16(s.Port)).String()
	}
	text, err := r.dir.Read(state.ClientFile)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, err
	}
	text, err = config.EditClient(state.ClientFile, text, config.Settings{Listen: listen, Policy: config.Policy(s.Policy), Learn: s.Learn, Language: s.Language})
	if err != nil {
		return false, fmt.Errorf("%w: %w", page.ErrBadValue, err)
	}
	if err := r.dir.Write(state.ClientFile, text); err != nil {
		return false, err
	}
	if r.set, err = config.ParseClient(state.ClientFile, text); err != nil {
		return false, err
	}
	before.Language = s.Language // which holds at once
	return s != before, nil
}

// Unlock implements [page.Client].
func (r *resident) Unlock(_ context.Context, passphrase string) error {
	return wrongPassphrase(r.vault.Unlock(passphrase))
}

// Protect implements [page.Client].
func (r *resident) Protect(_ context.Context, old, passphrase string) error {
	if passphrase != "" {
		if err := seal.Check(passphrase); err != nil {
			return fmt.Errorf("%w: %w", page.ErrWeakPassphrase, err)
		}
	}
	return wrongPassphrase(r.vault.Protect(old, passphrase))
}

// wrongPassphrase makes an error of the vault one of the page's.
func wrongPassphrase(err error) error {
	if errors.Is(err, seal.ErrWrong) {
		return fmt.Errorf("%w: %w", page.ErrWrongPassphrase, err)
	}
	return err
}

// Wipe implements [page.Client].
func (r *resident) Wipe() error {
	r.vault.Wipe()
	return nil
}

// Quit implements [page.Client].
func (r *resident) Quit() { r.quit() }

// Nearby implements [page.Client].
func (r *resident) Nearby(label string) error {
	b, err := r.Invite(label)
	if err != nil {
		return err
	}
	r.mu.Lock()
	language := r.set.Language
	r.mu.Unlock()
	if err := r.sharing.begin(b, language); err != nil {
		return err
	}
	r.history.Note(page.Entry{Kind: page.NearbyBegan})
	return nil
}

// Part implements [page.Client].
func (r *resident) Part() { r.sharing.end() }

// note writes what happened to a session into the history.
func note(h *page.History, e rotate.Event) {
	failure, way := string(e.Failure), e.Route.Transport
	switch e.Kind {
	case rotate.Seeking:
		h.Seek(e.Relay)
	case rotate.Ceased:
		h.Cease(e.Relay)
	case rotate.Moved:
		h.Move(e.Relay, way, e.Route.Detour, e.Took)
	case rotate.Connected:
		h.Note(page.Entry{Kind: page.Connected, Relay: e.Relay, To: way, Detour: e.Route.Detour, Took: e.Took.Milliseconds()})
	case rotate.Cut:
		h.Lose(e.Relay, way, failure)
	case rotate.Blocked:
		h.Block(e.Relay, way, e.Route.Detour, failure)
	case rotate.Refusing:
		h.Note(page.Entry{Kind: page.Refused, Relay: e.Relay, Failure: failure})
	case rotate.Outage:
		h.Out()
	case rotate.Back:
		h.Back()
	case rotate.Freezing:
		h.Note(page.Entry{Kind: page.Freezing, Relay: e.Relay})
	}
}
