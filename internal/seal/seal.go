// Package seal keeps files secret under a passphrase: bytes in, bytes out.
//
// # Concept
//
// All is in the format of age (https://age-encryption.org/v1), so that a resident whose
// program is gone can read his files with the age command. A passphrase opens one small
// file, the lock: it holds the keys, encrypted by scrypt. All other files are encrypted to
// the first of these keys, which costs next to nothing, so that they can be written often.
// While a passphrase is changed the lock holds the new key and the old one, and whatever of
// the files is still sealed by the old one can be read.
//
//	age -d -i keys.age invites/r1
//
// # Guarantees
//
//   - Nothing of a file but its length shows, not even which key it is for; without the
//     lock's passphrase that costs [Work] for each guess.
//   - A file that was changed does not open. That a file was put in the place of another,
//     or of a later version of itself, does not show.
//   - Whatever a file says, opening it is bounded in memory and time.
package seal

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"unicode/utf8"

	"filippo.io/age"
)

// Work is the binary logarithm of scrypt's work: a second on a computer, some seconds on
// an old phone, and 256 MiB of memory, for each guess. It is age's own default. A lock
// that wants more is not opened.
const Work = 18

// Bounds.
const (
	// MinPassphrase is the least length in characters. It keeps out what would be guessed
	// within minutes; four words or more are advised.
	MinPassphrase = 8
	// MaxPassphrase is the greatest length in bytes.
	MaxPassphrase = 1024
	// MaxLock is the greatest length of a lock in bytes.
	MaxLock = 8 << 10
	maxKeys = 8
	// Overhead is by how many bytes at most a sealed file of up to 4 MiB is longer.
	Overhead = 2 << 10
)

var (
	// ErrWrong means that the passphrase is not the lock's.
	ErrWrong = errors.New("the passphrase is wrong")
	// ErrForeign means that a file was sealed by a key that is not in the lock.
	ErrForeign = errors.New("the file was sealed with another key")
	// ErrDamaged means that a file or lock is no such thing, or was changed.
	ErrDamaged = errors.New("the sealed file is damaged")
	// ErrKeys means that a lock has no room for another key: the former ones are still
	// wanted.
	ErrKeys = errors.New("too many former keys are still in use")
)

// magic begins every file of age.
const magic = "age-encryption.org/v1\n"

// Is reports whether a file is sealed.
func Is(file []byte) bool { return bytes.HasPrefix(file, []byte(magic)) }

// Check says why a passphrase cannot be chosen.
func Check(passphrase string) error {
	switch {
	case utf8.RuneCountInString(passphrase) < MinPassphrase:
		return fmt.Errorf("a passphrase has at least %d characters; take four words or more that nobody can guess", MinPassphrase)
	case len(passphrase) > MaxPassphrase:
		return fmt.Errorf("a passphrase has at most %d bytes", MaxPassphrase)
	case !utf8.ValidString(passphrase) || strings.ContainsAny(passphrase, "\x00\r\n"):
		return errors.New("a passphrase is one line of text")
	}
	return nil
}

// Keys seal and open files. They redact themselves.
type Keys struct{ all []*age.X25519Identity } // the first seals

// New draws a key.
func New() (*Keys, error) { return new(Keys).Renewed() }

// Renewed are a new key, which seals from then on, and all those of k, which still open.
// The error is [ErrKeys] if those are too many: none is ever dropped, but by First.
func (k *Keys) Renewed() (*Keys, error) {
	if len(k.all) == maxKeys {
		return nil, ErrKeys
	}
	id, err := age.GenerateX25519Identity()
	if err != nil {
		return nil, err
	}
	return &Keys{append([]*age.X25519Identity{id}, k.all...)}, nil
}

// First is the key that seals, alone.
func (k *Keys) First() *Keys { return &Keys{k.all[:1]} }

// Several reports whether there are former keys, as while a passphrase is changed.
func (k *Keys) Several() bool { return len(k.all) > 1 }

// String says nothing.
func (*Keys) String() string { return "[keys]" }

// GoString says nothing.
func (*Keys) GoString() string { return "[keys]" }

// LogValue says nothing.
func (*Keys) LogValue() slog.Value { return slog.StringValue("[keys]") }

// Seal encrypts a file.
func (k *Keys) Seal(data []byte) ([]byte, error) { return encrypt(data, k.all[0].Recipient()) }

// Open decrypts a file, and reports whether the key did it that seals. The error is
// [ErrForeign] or [ErrDamaged].
func (k *Keys) Open(file []byte) (data []byte, current bool, err error) {
	for i, id := range k.all {
		data, err = decrypt(file, id)
		if err == nil {
			return data, i == 0, nil
		}
		if _, foreign := errors.AsType[*age.NoIdentityMatchError](err); !foreign {
			return nil, false, ErrDamaged
		}
	}
	return nil, false, ErrForeign
}

// Lock encrypts the keys under a passphrase; work is 1..[Work].
func (k *Keys) Lock(passphrase string, work int) ([]byte, error) {
	r, err := age.NewScryptRecipient(passphrase)
	if err != nil {
		return nil, err
	}
	r.SetWorkFactor(work)
	return encrypt([]byte(k.Text()), r)
}

// Unlock decrypts the keys. The error is [ErrWrong] or [ErrDamaged].
func Unlock(lock []byte, passphrase string) (*Keys, error) {
	if len(lock) > MaxLock {
		return nil, ErrDamaged
	}
	id, err := age.NewScryptIdentity(passphrase)
	if err != nil {
		return nil, ErrWrong // it is empty
	}
	id.SetMaxWorkFactor(Work)
	text, err := decrypt(lock, id)
	if _, wrong := errors.AsType[*age.NoIdentityMatchError](err); wrong && bytes.Contains(lock, []byte("\n-> scrypt ")) {
		return nil, ErrWrong
	}
	if err != nil {
		return nil, ErrDamaged
	}
	return Parse(string(text))
}

// Text is the keys in the form of age's file of identities. It is a secret.
func (k *Keys) Text() string {
	var b strings.Builder
	for _, id := range k.all {
		b.WriteString(id.String() + "\n")
	}
	return b.String()
}

// Parse reads what Text wrote; else the error is [ErrDamaged].
func Parse(text string) (*Keys, error) {
	k := new(Keys)
	for line := range strings.Lines(text) {
		id, err := age.ParseX25519Identity(strings.TrimSuffix(line, "\n"))
		if err != nil || len(k.all) == maxKeys {
			return nil, ErrDamaged
		}
		k.all = append(k.all, id)
	}
	if len(k.all) == 0 {
		return nil, ErrDamaged
	}
	return k, nil
}

func encrypt(data []byte, to age.Recipient) ([]byte, error) {
	var b bytes.Buffer
	w, err := age.Encrypt(&b, to)
	if err != nil {
		return nil, err
	}
	_, err = w.Write(data)
	if err := errors.Join(err, w.Close()); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

func decrypt(file []byte, id age.Identity) ([]byte, error) {
	r, err := age.Decrypt(bytes.NewReader(file), id)
	if err != nil {
		return nil, err
	}
	return io.ReadAll(r) // no longer than the file
}
