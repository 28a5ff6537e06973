package state

import (
	"errors"
	"testing"

	"busel/internal/seal"
)

// Keys that were given before the passphrase was changed are not used after that: what
// was sealed with them could not be read any more.
func TestKeysOfFormerLock(t *testing.T) {
	d, _ := furnished(t)
	if err := d.SetPassphrase("", first); err != nil {
		t.Fatal(err)
	}
	keys := d.Keys()
	e := again(t, d)
	if err := e.UseKeys(keys); err != nil {
		t.Fatal(err)
	}
	if err := d.SetPassphrase(first, second); err != nil {
		t.Fatal(err)
	}
	f := again(t, d)
	if err := f.UseKeys(keys); !errors.Is(err, ErrChanged) {
		t.Errorf("keys of a former lock: %v, want %v", err, ErrChanged)
		if err := f.Write("memory", []byte("new")); err != nil {
			t.Error(err)
		}
		_, err := d.Read("memory")
		t.Errorf("what was written with them: %v", err)
	}
	for _, text := range []string{"", "x", keys[:65], keys[65:70], keys + "x"} {
		if err := again(t, d).UseKeys(text); !errors.Is(err, seal.ErrDamaged) {
			t.Errorf("%q: %v, want %v", text, err, seal.ErrDamaged)
		}
	}
}
