// Package looks says what browser the client's carriers look like: a built-in look, one
// of a signed bundle, or the one of the browser whose connections pass through the
// proxy.
//
// # Concept
//
// The proxy lets an ear hear what applications say first ([Looks.Ear]). A ClientHello
// goes to [Looks.Run], which keeps its form, never what belongs to the visit. When a
// form has come often enough (obfs/look, Learner), carriers can be made with it (Try:
// handshakes in memory), and it is of a known family, it is worn from then on, and
// written down.
//
// # Guarantees
//
//   - Only browsers are heard where the system tells which program connects: the caller
//     sees to that, with [Browsers].
//   - Nothing that an application says can make carriers fail or the client stop: forms
//     are those of a known family and were tried, and given up when a cover refuses them
//     ([Looks.Refused]); memory and work are bounded.
//   - The file has no name, key, session id or ticket in it.
//   - No file stops the client: one that cannot be read is forgotten.
package looks

import (
	"context"
	"crypto/ed25519"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"slices"
	"sync/atomic"
	"time"

	"busel/obfs/look"
)

// Names of the files in the client's directory.
const (
	File       = "look"  // what is worn, if it is not the default
	BundleFile = "looks" // the bundle that was taken
)

// Auto is the choice that follows the user's browser.
const Auto = "auto"

// Bounds.
const (
	maxEars  = 256      // that listen at a time
	maxHello = 16 << 10 // bytes of a ClientHello with its records
	waiting  = 8        // hellos that wait for Run; more are not heard
	// rest is how long after a change no other one is made: each costs handshakes, and
	// nobody changes the browser so often.
	rest = time.Minute
)

// Dir is where the files are.
type Dir interface {
	Read(name string) ([]byte, error)
	Write(name string, data []byte) error
}

// Config of [Looks].
type Config struct {
	Dir Dir
	// Use is [Auto], a family, or the name of a look, which is then always worn.
	Use string
	// Deaf: the user's browser is not listened to.
	Deaf bool
	Keys []ed25519.PublicKey // whose bundles are taken
	// Try does handshakes with a look in memory and says why it cannot be used.
	Try    func(*look.Look) error
	Logger *slog.Logger // nil discards
}

// Looks are those that the client has. It is safe for concurrent use.
type Looks struct {
	cfg    Config
	log    *slog.Logger
	all    []*look.Look
	worn   atomic.Pointer[look.Look]
	unfit  atomic.Pointer[look.Look] // was worn, and a cover refused it
	hellos chan []byte
	ears   atomic.Int32
}

// Open reads what was built in, taken and learned. It starts nothing. It fails if Use
// names nothing that there is.
func Open(cfg Config) (*Looks, error) {
	k := &Looks{cfg: cfg, log: cfg.Logger, hellos: make(chan []byte, waiting)}
	if k.log == nil {
		k.log = slog.New(slog.DiscardHandler)
	}
	built, err := look.Shipped()
	if err != nil {
		return nil, err
	}
	k.all = k.bundle().Apply(built)
	k.worn.Store(k.all[0])
	if cfg.Use == Auto || cfg.Use == "" {
		k.cfg.Use = Auto
		k.recall("")
		return k, nil
	}
	i := slices.IndexFunc(k.all, func(l *look.Look) bool { return l.Name == cfg.Use })
	if i < 0 {
		if i = slices.IndexFunc(k.all, func(l *look.Look) bool { return l.Family == cfg.Use }); i < 0 {
			return nil, fmt.Errorf("there is no look %q", cfg.Use)
		}
		k.worn.Store(k.all[i])
		k.recall(cfg.Use)
		return k, nil
	}
	k.worn.Store(k.all[i])
	k.cfg.Deaf = true // it is what the user wants
	return k, nil
}

// bundle is the one that was taken; nil if there is none that is trusted.
func (k *Looks) bundle() *look.Bundle {
	file, err := k.cfg.Dir.Read(BundleFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	var b *look.Bundle
	if err == nil {
		b, err = look.ParseBundle(file, k.cfg.Keys)
	}
	if err != nil {
		k.log.Warn("the bundle of looks is not used", "cause", err)
		return nil
	}
	b.Looks = slices.DeleteFunc(b.Looks, func(l *look.Look) bool {
		err := k.cfg.Try(l)
		if err != nil {
			k.log.Warn("a look of the bundle cannot be used", "cause", err)
		}
		return err != nil
	})
	return b
}

// recall wears what is written down, if that is of the family, or of any.
func (k *Looks) recall(family string) {
	file, err := k.cfg.Dir.Read(File)
	if errors.Is(err, fs.ErrNotExist) {
		return
	}
	var l *look.Look
	if err == nil {
		l, err = look.Parse(file)
	}
	if err == nil && family != "" && l.Family != family {
		return
	}
	if err == nil && l.Name != l.Family+learned {
		// One of those that there are, or a former version of it.
		i := slices.IndexFunc(k.all, func(o *look.Look) bool { return o.Family == l.Family })
		if i >= 0 {
			k.worn.Store(k.all[i])
		}
		return
	}
	if err == nil {
		// What was learned is the hello. The rest is the family's, of today.
		if i := slices.IndexFunc(k.all, func(o *look.Look) bool { return o.Family == l.Family }); i >= 0 {
			now := *k.all[i]
			now.Name, now.Source, now.TLS = l.Name, l.Source, l.TLS
			l = &now
		}
	}
	if err == nil && !k.cfg.Deaf {
		err = k.cfg.Try(l)
	}
	if err != nil {
		k.log.Warn("what was learned of the browser's look is forgotten", "cause", err)
		return
	}
	if !k.cfg.Deaf {
		k.worn.Store(l)
	}
}

// Browsers are the names of the executables of browsers whose look may be worn, as they are
// installed on Linux and Windows, without ".exe".
func Browsers() []string {
	return []string{
		"chromium", "chromium-browser", "chrome", "google-chrome",
		"brave", "brave-browser", "msedge", "opera", "vivaldi", "vivaldi-bin", "yandex_browser", "browser",
		"firefox", "firefox-bin", "firefox-esr", "librewolf", "waterfox",
	}
}

// learned ends the names of learned looks.
const learned = "-learned"

// Worn is the look of the next carrier.
func (k *Looks) Worn() *look.Look { return k.worn.Load() }

// All are the looks that there are, what is worn among them.
func (k *Looks) All() []*look.Look {
	all := slices.Clone(k.all)
	if worn := k.Worn(); !slices.Contains(all, worn) {
		all = append(all, worn)
	}
	return all
}

// Take checks a bundle and keeps it for the next start. It fails if the bundle is not
// newer than the one that is held.
func (k *Looks) Take(file []byte) (*look.Bundle, error) {
	b, err := look.ParseBundle(file, k.cfg.Keys)
	if err != nil {
		return nil, err
	}
	for _, l := range b.Looks {
		if err := k.cfg.Try(l); err != nil {
			return nil, err
		}
	}
	if held := k.bundle(); held != nil && held.Signer.Equal(b.Signer) && held.Sequence >= b.Sequence {
		return nil, fmt.Errorf("the bundle has number %d, and number %d is held already", b.Sequence, held.Sequence)
	}
	return b, k.cfg.Dir.Write(BundleFile, file)
}

// Run learns until ctx ends, and returns nil.
func (k *Looks) Run(ctx context.Context) error {
	bases := slices.Clone(k.all)
	if k.cfg.Use != Auto {
		bases = slices.DeleteFunc(bases, func(l *look.Look) bool { return l.Family != k.cfg.Use })
	}
	l := look.NewLearner(bases)
	var changed time.Time
	for {
		select {
		case <-ctx.Done():
			return nil
		case msg := <-k.hellos:
			h, err := look.ParseHello(msg)
			if err != nil {
				continue
			}
			made := l.Add(h)
			if made == nil || !changed.IsZero() && time.Since(changed) < rest {
				continue
			}
			if k.wear(made) {
				changed = time.Now()
			}
		}
	}
}

// wear makes l what is worn, and reports whether it was another one.
func (k *Looks) wear(l *look.Look) bool {
	if unfit := k.unfit.Load(); l.Same(k.Worn()) || unfit != nil && l.Same(unfit) {
		return false
	}
	if err := k.cfg.Try(l); err != nil {
		k.log.Debug("a browser's look cannot be worn", "cause", err)
		return false
	}
	k.worn.Store(l)
	k.log.Info("connections to relays look like the browser on this computer from now on", "look", l.Name)
	k.keep(l)
	return true
}

// keep writes down what is worn.
func (k *Looks) keep(l *look.Look) {
	file, err := l.Format()
	if err == nil {
		err = k.cfg.Dir.Write(File, file)
	}
	if err != nil {
		k.log.Warn("the browser's look was not written down", "cause", err)
	}
}

// Refused says what to try instead of a look whose hello a cover refused: of a learned
// one its family's, of others nothing. Once that is accepted by the same cover, which the
// caller tells, the learned one is not worn again until the next start: a cover need not
// speak what the browser's other sites do.
func (k *Looks) Refused(l *look.Look) (other *look.Look, accepted func()) {
	i := slices.IndexFunc(k.all, func(o *look.Look) bool { return o.Family == l.Family })
	if i < 0 || slices.Contains(k.all, l) {
		return nil, nil
	}
	other = k.all[i]
	return other, func() {
		k.unfit.Store(l)
		if k.worn.CompareAndSwap(l, other) {
			k.log.Warn("a relay's web site refuses the look of the browser on this computer; it is not worn any more", "look", other.Name)
			k.keep(other)
		}
	}
}

// Ear listens to the beginning of one connection for a ClientHello; nil if nobody
// wants to know, or enough are listening. The caller closes it.
func (k *Looks) Ear() io.WriteCloser {
	if k.cfg.Deaf {
		return nil
	}
	if k.ears.Add(1) > maxEars {
		k.ears.Add(-1)
		return nil
	}
	return &ear{looks: k}
}

// ear collects a ClientHello out of TLS records. It is used by one goroutine.
type ear struct {
	looks *Looks
	raw   []byte // of the current record
	msg   []byte
	deaf  bool
}

var errDeaf = errors.New("nothing more is heard")

// Write takes a copy of b. It fails once the hello is whole, or is none.
func (e *ear) Write(b []byte) (int, error) {
	if e.deaf || len(e.raw)+len(b) > maxHello {
		e.stop()
		return 0, errDeaf
	}
	e.raw = append(e.raw, b...)
	for {
		if len(e.raw) > 0 && e.raw[0] != 22 || len(e.raw) > 1 && e.raw[1] != 3 {
			e.stop()
			return 0, errDeaf
		}
		if len(e.raw) < 5 {
			return len(b), nil
		}
		n := int(binary.BigEndian.Uint16(e.raw[3:]))
		if n == 0 || len(e.msg)+n > maxHello {
			e.stop()
			return 0, errDeaf
		}
		if len(e.raw) < 5+n {
			return len(b), nil
		}
		e.msg = append(e.msg, e.raw[5:5+n]...)
		e.raw = e.raw[5+n:]
		if e.msg[0] != 1 {
			e.stop()
			return 0, errDeaf
		}
		if len(e.msg) < 4 {
			continue
		}
		switch size := 4 + int(e.msg[1])<<16 + int(e.msg[2])<<8 + int(e.msg[3]); {
		case size > maxHello || len(e.msg) > size:
			e.stop()
			return 0, errDeaf
		case len(e.msg) == size:
			select {
			case e.looks.hellos <- e.msg:
			default: // another one will come
			}
			e.stop()
			return 0, errDeaf
		}
	}
}

func (e *ear) stop() {
	e.deaf, e.raw, e.msg = true, nil, nil
}

// Close lets another one listen.
func (e *ear) Close() error {
	if e.looks != nil {
		e.looks.ears.Add(-1)
		e.looks = nil
	}
	return nil
}
