package look

import (
	"hash/maphash"
	"slices"
)

// Bounds of a [Learner].
const (
	// Enough fresh hellos of one form, to different names, make a look: a page of a
	// newspaper brings so many.
	Enough      = 8
	enoughNames = 3
	maxSamples  = 32 // hellos kept of a form
	maxForms    = 16
)

// Learner makes looks from hellos that it is shown. Of a hello it keeps the form, and
// until it has made a look, a hash of the name, under a key of its own, to know that
// names differ. It is pure, bounded, and not safe for concurrent use.
type Learner struct {
	bases []*Look
	seed  maphash.Seed
	forms []*sample // the most recently seen last
}

type sample struct {
	key    string
	base   *Look
	hellos []*Hello
	names  map[uint64]bool
}

// NewLearner returns a learner of looks in the families of bases, which it does not
// change. Of a family the first one counts.
func NewLearner(bases []*Look) *Learner {
	return &Learner{bases: bases, seed: maphash.MakeSeed()}
}

// Add takes a hello. Once enough hellos of one form have come it returns that form's
// look: one of the bases, if there is nothing new in it, else one that is made from
// the family's. It keeps nothing of h but its form.
func (l *Learner) Add(h *Hello) *Look {
	base := l.family(h)
	if base == nil {
		return nil
	}
	s := l.sample(base, canonical(h, apart(base)))
	kept := *h
	kept.Name = ""
	if s.hellos = append(s.hellos, &kept); len(s.hellos) > maxSamples {
		s.hellos = slices.Delete(s.hellos, 0, 1)
	}
	if !h.Resumed && len(s.names) < Enough {
		s.names[maphash.String(l.seed, h.Name)] = true
	}
	fresh := 0
	for _, h := range s.hellos {
		if !h.Resumed {
			fresh++
		}
	}
	if fresh < Enough || len(s.names) < enoughNames {
		return nil
	}
	l.forms = slices.DeleteFunc(l.forms, func(o *sample) bool { return o == s }) // begin anew
	return s.look()
}

// sample finds or makes the one for a form.
func (l *Learner) sample(base *Look, key string) *sample {
	i := slices.IndexFunc(l.forms, func(s *sample) bool { return s.key == key && s.base == base })
	s := &sample{key: key, base: base, names: map[uint64]bool{}}
	if i >= 0 {
		s = l.forms[i]
		l.forms = slices.Delete(l.forms, i, i+1)
	} else if len(l.forms) == maxForms {
		l.forms = slices.Delete(l.forms, 0, 1)
	}
	l.forms = append(l.forms, s)
	return s
}

// apart are the extensions that only one kind of the browser's hellos has.
func apart(base *Look) Codes {
	t := &base.TLS
	return append(without(t.Extensions, t.Resumed), without(t.Resumed, t.Extensions)...)
}

// family is the base that the hello could be another version of; nil if there is none.
func (l *Learner) family(h *Hello) *Look {
	for _, b := range l.bases {
		t, o := &h.TLS, &b.TLS
		first := func(c Codes) bool { return c[0] == GREASE }
		last := func(c Codes) bool { return c[len(c)-1] == GREASE }
		if len(t.Groups) == 0 || len(t.Signatures) == 0 || len(t.Versions) == 0 { // parsing does not demand them
			return nil
		}
		if first(t.Ciphers) == first(o.Ciphers) && first(t.Groups) == first(o.Groups) && first(t.Shares) == first(o.Shares) &&
			first(t.Extensions) == first(o.Extensions) && last(t.Extensions) == last(o.Extensions) &&
			slices.Equal(t.Versions, o.Versions) && slices.Equal(t.ALPN, o.ALPN) &&
			alike(t.Ciphers, o.Ciphers, 75) && alike(t.Extensions, o.Extensions, 70) &&
			alike(t.Signatures, o.Signatures, 60) && alike(t.Groups, o.Groups, 60) {
			return b
		}
	}
	return nil
}

// alike reports whether two lists share at least so many percent of their entries.
func alike(a, b Codes, percent int) bool {
	both := len(without(a, without(a, b)))
	return 100*both >= percent*(len(a)+len(b)-both)
}

// look puts the hellos together, or returns nil if they make none.
func (s *sample) look() *Look {
	t, err := Merge(s.hellos)
	if err != nil {
		return nil
	}
	o := &s.base.TLS
	orders := map[string]bool{}
	for _, h := range s.hellos {
		if b, err := h.TLS.Extensions.MarshalText(); err == nil && !h.Resumed {
			orders[string(b)] = true
		}
	}
	// A family that permutes always does, and another one never.
	if t.Permute != o.Permute || t.Permute && len(orders) < Enough/2 {
		return nil
	}
	if !slices.ContainsFunc(s.hellos, func(h *Hello) bool { return h.Resumed }) {
		t.Resumed = append(without(t.Extensions, without(o.Extensions, o.Resumed)), ExtPreSharedKey)
		if t.ECH != nil && o.ECH != nil {
			t.ECH.Step = o.ECH.Step
		}
	}
	s.draws(&t)
	for _, order := range []struct{ mine, theirs *Codes }{{&t.Extensions, &o.Extensions}, {&t.Resumed, &o.Resumed}} {
		if t.Permute && slices.Equal(sorted(*order.mine), sorted(*order.theirs)) {
			*order.mine = *order.theirs
		}
	}
	if t.same(o) {
		return s.base
	}
	made := *s.base
	made.Name, made.Source, made.TLS = s.base.Family+"-learned", "a browser that was seen on this machine", t
	if made.Check() != nil {
		return nil
	}
	return &made
}

// draws corrects what a few hellos cannot show of what is drawn: if the base explains
// all of it, the base is right; else what was seen once only may have been another
// thing than a draw, such as the real ECH of one site.
func (s *sample) draws(t *TLS) {
	e, o := t.ECH, s.base.TLS.ECH
	if e == nil || o == nil {
		return
	}
	if len(without(e.AEADs, o.AEADs)) == 0 {
		e.AEADs = o.AEADs
	}
	inBase := func(n int) bool { return slices.Contains(o.Payloads, n) }
	if !slices.ContainsFunc(e.Payloads, func(n int) bool { return !inBase(n) }) {
		e.Payloads = o.Payloads
		return
	}
	seen := map[int]int{}
	for _, h := range s.hellos {
		if h.TLS.ECH != nil && (!h.Resumed || e.Step == 0) {
			seen[h.TLS.ECH.Payloads[0]]++
		}
	}
	often := slices.DeleteFunc(slices.Clone(e.Payloads), func(n int) bool { return seen[n] < 2 })
	if len(often) > 0 && !slices.ContainsFunc(often, func(n int) bool { return !inBase(n) }) {
		often = o.Payloads
	}
	if len(often) > 0 {
		e.Payloads = often
	}
}
