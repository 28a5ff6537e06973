package main

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"runtime/debug"
	"sync"
	"sync/atomic"

	"busel/internal/flow"
	"busel/internal/state"
	"busel/internal/tunnel"
)

// vault is the directory of the client that runs, which may be locked by a passphrase.
// Until that is given the client has no relays, and says so to whoever asks.
type vault struct {
	dir   *state.Dir
	log   *slog.Logger
	begin func() error // reads what the directory keeps, once, when it may be read
	end   func()       // ends the client

	opened chan struct{} // closed when begin is done
	wiping atomic.Bool

	mu sync.Mutex // one passphrase at a time: each costs 256 MiB
}

func newVault(dir *state.Dir, log *slog.Logger, begin func() error, end func()) *vault {
	return &vault{dir: dir, log: log, begin: begin, end: end, opened: make(chan struct{})}
}

// Locked reports whether the passphrase has to be given yet.
func (v *vault) Locked() bool {
	select {
	case <-v.opened:
		return false
	default:
		return true
	}
}

// Enter begins if the directory can be read.
func (v *vault) Enter() error {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.enter()
}

// enter begins, unless that was done or the directory is locked. v.mu is held.
func (v *vault) enter() error {
	if !v.Locked() || v.dir.Locked() {
		return nil
	}
	if err := v.begin(); err != nil {
		return err
	}
	close(v.opened)
	return nil
}

// Unlock gives the passphrase; the error wraps [seal.ErrWrong] if it is another one.
func (v *vault) Unlock(passphrase string) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	if !v.Locked() {
		return nil
	}
	defer debug.FreeOSMemory() // of the 256 MiB
	err := v.dir.Unlock(passphrase)
	if errors.Is(err, state.ErrPartly) {
		v.log.Warn("a file cannot be read", "err", err)
	} else if err != nil {
		return err
	}
	return v.enter()
}

// Protect sets, changes or, if next is empty, removes the passphrase, as
// [state.Dir.SetPassphrase] does.
func (v *vault) Protect(old, next string) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	defer debug.FreeOSMemory()
	if err := v.dir.SetPassphrase(old, next); err != nil {
		return err
	}
	return errors.Join(keepLogin(v.dir), v.enter())
}

// Wipe ends the client, which then removes all that it keeps.
func (v *vault) Wipe() {
	v.wiping.Store(true)
	v.end()
}

// gate is the relays behind the vault.
type gate struct {
	*tunnel.Relays
	vault *vault
}

// OpenStream implements [flow.Opener].
func (g gate) OpenStream(ctx context.Context, dst flow.Addr) (flow.Stream, error) {
	if g.vault.Locked() {
		return nil, flow.ErrLocked
	}
	return g.Relays.OpenStream(ctx, dst)
}

// OpenPackets implements [flow.Opener].
func (g gate) OpenPackets(ctx context.Context) (flow.Packets, error) {
	if g.vault.Locked() {
		return nil, flow.ErrLocked
	}
	return g.Relays.OpenPackets(ctx)
}

// Requests of the commands that work on a running client's secrets.
const (
	opUnlock  = "unlock"  // gives a passphrase, a string
	opProtect = "protect" // sets, changes or removes it: a protection
	opKeys    = "keys"    // answers the keys of the unlocked directory, a string; see state.Dir.Keys
	opWipe    = "wipe"    // ends the client, which removes all that it keeps
)

// protection is a change of the passphrase.
type protection struct {
	Old  string `json:"old"`  // empty: there is none yet
	Next string `json:"next"` // empty: none any more
}

var errLocked = errors.New("the running client is locked")

// answer serves those requests; known is false for others.
func (v *vault) answer(op string, args json.RawMessage) (result any, known bool, err error) {
	switch op {
	case opUnlock:
		var passphrase string
		if err = json.Unmarshal(args, &passphrase); err == nil {
			err = v.Unlock(passphrase)
		}
	case opProtect:
		var p protection
		if err = json.Unmarshal(args, &p); err == nil {
			err = v.Protect(p.Old, p.Next)
		}
	case opKeys:
		// Whoever can ask could as well ask for each invite.
		if v.Locked() {
			return nil, true, errLocked
		}
		return v.dir.Keys(), true, nil
	default:
		return nil, false, nil
	}
	return nil, true, err
}
