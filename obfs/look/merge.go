package look

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
)

// canonical is what all hellos of one form have in common, without the order of
// extensions, what is drawn, and the extensions apart.
func canonical(h *Hello, apart Codes) string {
	t := h.TLS
	t.Extensions = without(t.Extensions, apart)
	slices.Sort(t.Extensions)
	fixed := Bodies{}
	for id, body := range t.Fixed {
		if !slices.Contains(apart, id) {
			fixed[id] = body
		}
	}
	t.Fixed = fixed
	if t.ECH != nil {
		t.ECH = &ECH{KDF: t.ECH.KDF}
	}
	b, err := json.Marshal(&t)
	if err != nil {
		return "" // nothing in it can fail
	}
	return string(b)
}

func without(list, apart Codes) Codes {
	return slices.DeleteFunc(slices.Clone(list), func(c uint16) bool { return slices.Contains(apart, c) })
}

// sorted puts permuted extensions into the order of files.
func sorted(ids Codes) Codes {
	ids = slices.Clone(ids)
	begin, end := 0, len(ids)
	if len(ids) > 0 && ids[0] == GREASE {
		begin = 1
	}
	if end > begin && ids[end-1] == GREASE {
		end--
	}
	slices.Sort(ids[begin:end])
	return ids
}

// step is to what a browser with [ECH.Step] rounds (NSS; RFC 9849, section 6.1.3).
const step = 32

// Merge puts the hellos of one browser together, at least one of which must be fresh.
// If none is resumed, the pre-shared key is taken to come in addition. Extensions are
// permuted if their order differs among the fresh ones. It fails if the hellos are not
// of one form.
func Merge(hellos []*Hello) (TLS, error) {
	split := func(resumed bool) []*Hello {
		return slices.DeleteFunc(slices.Clone(hellos), func(h *Hello) bool { return h.Resumed != resumed })
	}
	fresh, resumed := split(false), split(true)
	if len(fresh) == 0 {
		return TLS{}, errors.New("look: no hello is fresh")
	}
	t := fresh[0].TLS
	t.Fixed = Bodies{}
	for _, list := range [][]*Hello{fresh, resumed} {
		for _, h := range list {
			if canonical(h, nil) != canonical(list[0], nil) {
				return TLS{}, fmt.Errorf("look: the hellos are not of one browser, or say something about the visit")
			}
			if !slices.Equal(h.TLS.Extensions, list[0].TLS.Extensions) {
				t.Permute = true
			}
		}
	}
	order := func(ids Codes) Codes {
		if t.Permute {
			return sorted(ids)
		}
		return slices.Clone(ids)
	}
	add := func(from Bodies) bool {
		for id, body := range from {
			if old, ok := t.Fixed[id]; ok && !slices.Equal(old, body) {
				return false
			}
			t.Fixed[id] = body
		}
		return true
	}
	add(fresh[0].TLS.Fixed)
	t.Extensions = order(t.Extensions)
	t.Resumed = append(slices.Clone(t.Extensions), ExtPreSharedKey)
	if len(resumed) > 0 {
		a, b := *fresh[0], *resumed[0]
		apart := append(without(a.TLS.Extensions, b.TLS.Extensions), without(b.TLS.Extensions, a.TLS.Extensions)...)
		if !add(b.TLS.Fixed) || canonical(&a, apart) != canonical(&b, apart) {
			return TLS{}, errors.New("look: the fresh and the resumed hellos are not of one browser")
		}
		t.Resumed = append(order(b.TLS.Extensions), ExtPreSharedKey)
	}
	return t, t.mergeECH(fresh, resumed)
}

// mergeECH collects what is drawn for ECH.
func (t *TLS) mergeECH(fresh, resumed []*Hello) error {
	if t.ECH == nil {
		return nil
	}
	e := &ECH{KDF: t.ECH.KDF}
	for _, h := range fresh {
		e.Payloads = append(e.Payloads, h.TLS.ECH.Payloads...)
	}
	slices.Sort(e.Payloads)
	e.Payloads = slices.Compact(e.Payloads)
	for _, h := range slices.Concat(fresh, resumed) {
		if h.TLS.ECH == nil {
			return errors.New("look: only some of the hellos have ECH")
		}
		e.AEADs = append(e.AEADs, h.TLS.ECH.AEADs...)
	}
	slices.Sort(e.AEADs)
	e.AEADs = slices.Compact(e.AEADs)
	fits := func(step int) bool {
		with := ECH{Step: step}
		return !slices.ContainsFunc(resumed, func(h *Hello) bool {
			return !slices.ContainsFunc(e.Payloads, func(n int) bool { return with.PayloadFor(n, h.PSK) == h.TLS.ECH.Payloads[0] })
		})
	}
	switch {
	case fits(0):
	case fits(step):
		e.Step = step
	default:
		// Lengths that few fresh hellos happened not to show.
		for _, h := range resumed {
			e.Payloads = append(e.Payloads, h.TLS.ECH.Payloads...)
		}
		slices.Sort(e.Payloads)
		e.Payloads = slices.Compact(e.Payloads)
	}
	t.ECH = e
	return nil
}
