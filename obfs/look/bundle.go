package look

import (
	"bytes"
	"crypto/ed25519"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
)

// Bounds of a bundle.
const (
	MaxBundle  = 256 << 10 // bytes of the file
	maxLooks   = 16
	maxRetired = 64
)

// Bundle adds and retires looks. Its file is a line "busel looks 1", the signer's key
// and the signature, both in hexadecimal digits; and JSON, which is what is signed,
// behind "busel looks 1" and a line feed.
type Bundle struct {
	// Sequence grows with every bundle of a signer: an old one is not taken again.
	Sequence uint64            `json:"sequence"`
	Looks    []*Look           `json:"looks"`
	Retired  []string          `json:"retired,omitempty"` // names
	Signer   ed25519.PublicKey `json:"-"`
}

const bundleHeader = "busel looks 1"

// Errors of [ParseBundle].
var (
	ErrNoBundle = errors.New("this is no bundle of looks, or it was damaged on the way")
	ErrSigner   = errors.New("the bundle was signed by a key that is not trusted here")
	ErrForged   = errors.New("the bundle's signature is wrong: it was changed after it was signed")
)

// ParseBundle reads a bundle that one of the keys has signed. Nothing of it is read
// before the signature was checked.
func ParseBundle(file []byte, keys []ed25519.PublicKey) (*Bundle, error) {
	line, body, ok := bytes.Cut(file, []byte("\n"))
	rest, isBundle := strings.CutPrefix(string(line), bundleHeader+" ")
	key, sig, two := strings.Cut(rest, " ")
	if len(file) > MaxBundle || !ok || !isBundle || !two {
		return nil, ErrNoBundle
	}
	signer, errKey := hex.DecodeString(key)
	signature, errSig := hex.DecodeString(sig)
	if errKey != nil || errSig != nil || len(signer) != ed25519.PublicKeySize || len(signature) != ed25519.SignatureSize {
		return nil, ErrNoBundle
	}
	if !slices.ContainsFunc(keys, func(k ed25519.PublicKey) bool { return k.Equal(ed25519.PublicKey(signer)) }) {
		return nil, ErrSigner
	}
	if !ed25519.Verify(signer, signed(body), signature) {
		return nil, ErrForged
	}
	d := json.NewDecoder(bytes.NewReader(body))
	d.DisallowUnknownFields()
	b := &Bundle{Signer: signer}
	if err := d.Decode(b); err != nil {
		return nil, fmt.Errorf("bundle: %w; get a newer Busel", err)
	}
	if _, err := d.Token(); err != io.EOF {
		return nil, errors.New("bundle: something follows it in its file")
	}
	return b, b.check()
}

func signed(body []byte) []byte { return append([]byte(bundleHeader+"\n"), body...) }

func (b *Bundle) check() error {
	if len(b.Looks) > maxLooks || len(b.Retired) > maxRetired {
		return fmt.Errorf("bundle: more than %d looks or %d retired ones", maxLooks, maxRetired)
	}
	for _, l := range b.Looks {
		if l == nil {
			return errors.New("bundle: a look is missing")
		}
		if err := l.Check(); err != nil {
			return fmt.Errorf("bundle: %w", err)
		}
	}
	for _, name := range b.Retired {
		if !word(name) {
			return errors.New("bundle: a retired look has no name of one")
		}
	}
	return nil
}

// Sign writes the bundle's file.
func (b *Bundle) Sign(key ed25519.PrivateKey) ([]byte, error) {
	if err := b.check(); err != nil {
		return nil, err
	}
	body, err := json.MarshalIndent(b, "", "\t")
	if err != nil {
		return nil, err
	}
	body = append(body, '\n')
	file := fmt.Appendf(nil, "%s %x %x\n", bundleHeader, key.Public(), ed25519.Sign(key, signed(body)))
	if file = append(file, body...); len(file) > MaxBundle {
		return nil, fmt.Errorf("bundle: the file has more than %d bytes", MaxBundle)
	}
	return file, nil
}

// Apply returns the looks that there are with the bundle: its own in front of those of
// the same family, and without retired ones. A family that would vanish keeps what it
// had. b may be nil.
func (b *Bundle) Apply(looks []*Look) []*Look {
	if b == nil {
		return looks
	}
	all := slices.Concat(b.Looks, looks)
	var out []*Look
	for _, l := range all {
		if slices.Contains(b.Retired, l.Name) || slices.ContainsFunc(out, func(o *Look) bool { return o.Name == l.Name }) {
			continue
		}
		out = append(out, l)
	}
	for _, l := range looks {
		if !slices.ContainsFunc(out, func(o *Look) bool { return o.Family == l.Family }) {
			out = append(out, l)
		}
	}
	slices.SortStableFunc(out, func(a, b *Look) int { // the default family stays first
		return rank(a) - rank(b)
	})
	return out
}

func rank(l *Look) int {
	if l.Family == Default {
		return 0
	}
	return 1
}
