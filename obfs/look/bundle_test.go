package look

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"slices"
	"testing"
)

func testKey(n byte) ed25519.PrivateKey {
	return ed25519.NewKeyFromSeed(bytes.Repeat([]byte{n}, ed25519.SeedSize))
}

func testBundle(t testing.TB, key ed25519.PrivateKey) []byte {
	t.Helper()
	l := *shipped(t, "chromium")
	l.Name = "chromium-160"
	file, err := (&Bundle{Sequence: 7, Looks: []*Look{&l}, Retired: []string{"chromium-156"}}).Sign(key)
	if err != nil {
		t.Fatal(err)
	}
	return file
}

func trusting(keys ...ed25519.PrivateKey) (out []ed25519.PublicKey) {
	for _, k := range keys {
		out = append(out, k.Public().(ed25519.PublicKey))
	}
	return out
}

func TestBundle(t *testing.T) {
	file := testBundle(t, testKey(1))
	b, err := ParseBundle(file, trusting(testKey(2), testKey(1)))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, l := range b.Apply(bases(t)) {
		names = append(names, l.Name)
	}
	if b.Sequence != 7 || !slices.Equal(names, []string{"chromium-160", "firefox-153"}) {
		t.Errorf("sequence %d, looks %q", b.Sequence, names)
	}
	for name, tt := range map[string]struct {
		file []byte
		keys []ed25519.PublicKey
		want error
	}{
		"nobody is trusted": {file, nil, ErrSigner},
		"another signer":    {file, trusting(testKey(2)), ErrSigner},
		"changed":           {bytes.Replace(file, []byte("chromium-160"), []byte("chromium-161"), 1), trusting(testKey(1)), ErrForged},
		"longer":            {append(slices.Clone(file), '\n'), trusting(testKey(1)), ErrForged},
		"of too many bytes": {append(slices.Clone(file), make([]byte, MaxBundle)...), trusting(testKey(1)), ErrNoBundle},
		"empty":             {nil, trusting(testKey(1)), ErrNoBundle},
	} {
		if _, err := ParseBundle(tt.file, tt.keys); !errors.Is(err, tt.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	// A bundle that takes everything away leaves what was built in.
	all := bases(t)
	if got := (&Bundle{Retired: []string{"chromium-156", "firefox-153"}}).Apply(all); len(got) != 2 {
		t.Errorf("%d looks are left", len(got))
	}
	bad := *all[0]
	bad.TLS.Versions = Codes{0x0303}
	if _, err := (&Bundle{Looks: []*Look{&bad}}).Sign(testKey(1)); err == nil {
		t.Error("a look that cannot be used was signed")
	}
}

// FuzzParseBundle: no change of a signed bundle verifies.
func FuzzParseBundle(f *testing.F) {
	file := testBundle(f, testKey(1))
	f.Add(file)
	f.Add([]byte(bundleHeader + " \n{}"))
	keys := trusting(testKey(1))
	f.Fuzz(func(t *testing.T, other []byte) {
		if _, err := ParseBundle(other, keys); err == nil && !bytes.EqualFold(other, file) {
			t.Fatalf("%q verifies", other)
		}
	})
}
