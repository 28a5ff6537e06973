package state

import (
	"bytes"
	"os"
	"path/filepath"
	"sync"
	"testing"
)

func TestSalt(t *testing.T) {
	d, err := Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	get := func() []byte {
		salt, err := d.Salt()
		if err != nil || len(salt) != saltLen {
			t.Errorf("salt of %d bytes, %v", len(salt), err)
		}
		return salt
	}
	// Two programs that start together agree.
	all := make([][]byte, 4)
	var wg sync.WaitGroup
	for i := range all {
		wg.Go(func() { all[i] = get() })
	}
	wg.Wait()
	for _, other := range append(all, get()) {
		if !bytes.Equal(other, all[0]) {
			t.Error("there are two salts")
		}
	}
	name := filepath.Join(d.Path(), saltFile)
	for what, spoil := range map[string]func() error{
		"cut short": func() error { return os.WriteFile(name, all[0][:7], 0o600) },
		"empty":     func() error { return os.WriteFile(name, nil, 0o600) },
		"deleted":   func() error { return os.Remove(name) },
		"open to others": func() error {
			if !unixModes {
				return os.Remove(name)
			}
			return os.Chmod(name, 0o644)
		},
	} {
		before := get()
		if err := spoil(); err != nil {
			t.Fatal(err)
		}
		if after := get(); bytes.Equal(before, after) || !bytes.Equal(after, get()) {
			t.Errorf("%s: the salt is not a new one that stays", what)
		}
	}
}
