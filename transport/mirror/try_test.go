package mirror

import (
	"slices"
	"testing"

	"busel/obfs/look"
)

// TestTryLook: the built-in looks can be spoken, fresh and resumed.
func TestTryLook(t *testing.T) {
	for _, family := range []string{"chromium", "firefox"} {
		for range 10 {
			if err := TryLook(shippedLook(t, family)); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// TestTryLookRefuses: looks that pass the check of what is written, but cannot be
// spoken, are refused.
func TestTryLookRefuses(t *testing.T) {
	for name, change := range map[string]func(*look.TLS){
		"its only signature is one that nobody has": func(t *look.TLS) { t.Signatures = look.Codes{0x0904} },
		"three GREASE extensions":                   func(t *look.TLS) { t.Extensions = append(look.Codes{look.GREASE}, t.Extensions...) },
		"no group":                                  func(t *look.TLS) { t.Groups = nil },
		"a share that cannot be made": func(t *look.TLS) {
			t.Shares = append(slices.Clone(t.Shares), 0x0201)
			t.Groups = append(slices.Clone(t.Groups), 0x0201)
		},
	} {
		l := *shippedLook(t, "chromium")
		change(&l.TLS)
		if TryLook(&l) == nil {
			t.Errorf("%s: it can be spoken", name)
		}
	}
}

func BenchmarkTryLook(b *testing.B) {
	l := shippedLook(b, "chromium")
	for b.Loop() {
		if err := TryLook(l); err != nil {
			b.Fatal(err)
		}
	}
}
