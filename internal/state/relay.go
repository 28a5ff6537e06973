package state

import (
	"crypto/ecdh"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"time"

	"busel/config"
)

// Names of the relay's files.
const (
	RelayFile = "relayd.toml"

	relayKeyFile  = "relay.key"
	tokenKeyFile  = "token.key"
	issuerKeyFile = "issuer.key"
	ledgerFile    = "invites.json"
	coverCertFile = "cover.pem"
	coverKeyFile  = "cover.key"
)

// ClientFile is the name of the client's settings.
const ClientFile = "client.toml"

// PEM types of the key files.
const (
	pemKey      = "PRIVATE KEY"
	pemTokenKey = "BUSEL TOKEN KEY"
)

// ErrNoIssuer means that the issuer's key is not in the directory, as it should
// be on a relay whose owner issues invites elsewhere.
var ErrNoIssuer = errors.New("no issuer key here; issue invites where " + issuerKeyFile + " is, or put it into the directory for as long as that takes")

// CreateRelay makes a new relay: its keys, an empty ledger, and settings as
// relayd.toml. If any of these is there already it makes nothing, and the error
// wraps [ErrExists].
func (d *Dir) CreateRelay(settings []byte) error {
	return d.change(func() error {
		names := []string{relayKeyFile, tokenKeyFile, issuerKeyFile, ledgerFile, RelayFile}
		for _, name := range names {
			if _, err := d.root.Lstat(name); err == nil {
				return fmt.Errorf("%s %w; a relay lives here, so choose another directory with -dir", d.join(name), ErrExists)
			} else if !errors.Is(err, fs.ErrNotExist) {
				return d.named(name, err)
			}
		}
		relayKey, err := ecdh.X25519().GenerateKey(rand.Reader)
		if err != nil {
			return err
		}
		_, issuerKey, err := ed25519.GenerateKey(rand.Reader)
		if err != nil {
			return err
		}
		relayPEM, err := keyPEM(relayKey)
		if err != nil {
			return err
		}
		issuerPEM, err := keyPEM(issuerKey)
		if err != nil {
			return err
		}
		var tokenKey config.TokenKey
		rand.Read(tokenKey[:]) // never fails (crypto/rand)
		ledger, err := marshalLedger(&Ledger{})
		if err != nil {
			return err
		}
		contents := [][]byte{
			relayPEM,
			pem.EncodeToMemory(&pem.Block{Type: pemTokenKey, Bytes: tokenKey[:]}),
			issuerPEM,
			ledger,
			settings,
		}
		for i, name := range names {
			if err := d.create(name, contents[i]); err != nil {
				// Half a relay would look like a whole one to the next init.
				for _, made := range names[:i] {
					_ = d.root.Remove(made)
				}
				return err
			}
		}
		return nil
	})
}

func keyPEM(key any) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: pemKey, Bytes: der}), nil
}

// block reads the one PEM block of that type in a secret file.
func (d *Dir) block(name, blockType string) ([]byte, error) {
	data, err := d.ReadSecret(name)
	if err != nil {
		return nil, err
	}
	b, _ := pem.Decode(data)
	if b == nil || b.Type != blockType {
		return nil, fmt.Errorf("%s holds no %s; put back a copy of it, or make a new relay with relayd init in another directory", d.join(name), blockType)
	}
	return b.Bytes, nil
}

// privateKey reads a PKCS #8 key of type K.
func privateKey[K any](d *Dir, name string) (K, error) {
	var none K
	der, err := d.block(name, pemKey)
	if err != nil {
		return none, err
	}
	key, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		return none, fmt.Errorf("%s: %w", d.join(name), err)
	}
	k, ok := key.(K)
	if !ok {
		return none, fmt.Errorf("%s is a key of another kind", d.join(name))
	}
	return k, nil
}

// RelayKey is the relay's X25519 key, whose public half is S in invites.
func (d *Dir) RelayKey() (*ecdh.PrivateKey, error) {
	key, err := privateKey[*ecdh.PrivateKey](d, relayKeyFile)
	if err == nil && key.Curve() != ecdh.X25519() {
		return nil, fmt.Errorf("%s is a key of another kind", d.join(relayKeyFile))
	}
	return key, err
}

// TokenKey is the key under which the relay's tokens are made.
func (d *Dir) TokenKey() (config.TokenKey, error) {
	raw, err := d.block(tokenKeyFile, pemTokenKey)
	if err != nil {
		return config.TokenKey{}, err
	}
	if len(raw) != len(config.TokenKey{}) {
		return config.TokenKey{}, fmt.Errorf("%s has %d bytes, want %d", d.join(tokenKeyFile), len(raw), len(config.TokenKey{}))
	}
	return config.TokenKey(raw), nil
}

// IssuerKey is the key that signs invites. The error is [ErrNoIssuer] if it is
// kept elsewhere.
func (d *Dir) IssuerKey() (ed25519.PrivateKey, error) {
	key, err := privateKey[ed25519.PrivateKey](d, issuerKeyFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s: %w", d.path, ErrNoIssuer)
	}
	return key, err
}

// Ledger is what the relay knows of the invites that it issued.
type Ledger struct {
	// Sequence is that of the last bundle that was signed.
	Sequence uint32        `json:"sequence"`
	Invites  []LedgerEntry `json:"invites"`
}

// LedgerEntry is one issued invite. It holds no token: a copy of the ledger
// opens nothing.
type LedgerEntry struct {
	Name    string    `json:"name"`
	ID      InviteID  `json:"id"`
	Created time.Time `json:"created"`
	Expiry  uint16    `json:"expiry,omitempty"` // day as in a token; 0 is never
	Revoked time.Time `json:"revoked,omitzero"`
	Limits
}

// Limits bound the use of one invite; 0 is no limit.
type Limits struct {
	Quota   config.Size `json:"quota,omitempty"` // bytes in a calendar month, up and down added
	Rate    config.Rate `json:"rate,omitempty"`  // bit/s in each direction
	Devices int         `json:"devices,omitempty"`
}

// State is what has become of the invite, in a word.
func (e *LedgerEntry) State(now time.Time) string {
	switch {
	case !e.Revoked.IsZero():
		return "revoked"
	case e.Expiry != 0 && !now.Before(config.ExpiryTime(e.Expiry)):
		return "expired"
	}
	return "valid"
}

// InviteID is an invite's id, in hexadecimal in the ledger.
type InviteID [8]byte

// MarshalText is the id in hexadecimal.
func (id InviteID) MarshalText() ([]byte, error) { return fmt.Appendf(nil, "%x", id[:]), nil }

// UnmarshalText reads what MarshalText wrote.
func (id *InviteID) UnmarshalText(text []byte) error {
	var raw []byte
	if _, err := fmt.Sscanf(string(text), "%x", &raw); err != nil || len(raw) != len(id) || len(text) != 2*len(id) {
		return fmt.Errorf("invite id %q is not %d hexadecimal digits", text, 2*len(id))
	}
	copy(id[:], raw)
	return nil
}

// sequenceEpoch is second 0 of sequences, see [Ledger.Issue].
var sequenceEpoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// Issue enters a new invite with a random id. An empty name becomes the next
// free of invite-1, invite-2 ...; a name that is taken is [ErrExists]. The
// sequence becomes the seconds since 2026, or one more than the last if that is
// higher, so that copies of one issuer key in several places agree on which
// bundle is newer.
func (l *Ledger) Issue(name string, expiry uint16, limits Limits, now time.Time) (LedgerEntry, error) {
	for n := len(l.Invites) + 1; name == ""; n++ {
		if next := fmt.Sprintf("invite-%d", n); l.find(next) == nil {
			name = next
		}
	}
	if l.find(name) != nil {
		return LedgerEntry{}, fmt.Errorf("invite %q %w; choose another -name", name, ErrExists)
	}
	e := LedgerEntry{Name: name, Created: now.UTC().Truncate(time.Second), Expiry: expiry, Limits: limits}
	rand.Read(e.ID[:])
	l.Sequence = max(l.Sequence+1, uint32(max(0, now.Sub(sequenceEpoch)/time.Second)))
	l.Invites = append(l.Invites, e)
	return e, nil
}

// Revoke marks the invite as revoked. The error wraps [ErrNotFound].
func (l *Ledger) Revoke(name string, now time.Time) (LedgerEntry, error) {
	e := l.find(name)
	if e == nil {
		return LedgerEntry{}, fmt.Errorf("invite %q %w", name, ErrNotFound)
	}
	if e.Revoked.IsZero() {
		e.Revoked = now.UTC().Truncate(time.Second)
	}
	return *e, nil
}

// Limit changes the limits of the invite as fn says. The error wraps [ErrNotFound].
func (l *Ledger) Limit(name string, fn func(*Limits)) (LedgerEntry, error) {
	e := l.find(name)
	if e == nil {
		return LedgerEntry{}, fmt.Errorf("invite %q %w", name, ErrNotFound)
	}
	fn(&e.Limits)
	return *e, nil
}

// Entry returns the entry of an id, or nil. It must not be changed.
func (l *Ledger) Entry(id InviteID) *LedgerEntry {
	i := slices.IndexFunc(l.Invites, func(e LedgerEntry) bool { return e.ID == id })
	if i < 0 {
		return nil
	}
	return &l.Invites[i]
}

// Revoked reports whether the invite may not be used any more. An id that the
// ledger does not know was issued elsewhere with the same keys, and may.
func (l *Ledger) Revoked(id InviteID) bool {
	return slices.ContainsFunc(l.Invites, func(e LedgerEntry) bool { return e.ID == id && !e.Revoked.IsZero() })
}

func (l *Ledger) find(name string) *LedgerEntry {
	i := slices.IndexFunc(l.Invites, func(e LedgerEntry) bool { return e.Name == name })
	if i < 0 {
		return nil
	}
	return &l.Invites[i]
}

func marshalLedger(l *Ledger) ([]byte, error) {
	if l.Invites == nil {
		l.Invites = []LedgerEntry{}
	}
	data, err := json.MarshalIndent(l, "", "  ")
	return append(data, '\n'), err
}

// Ledger reads the ledger; one that is not there is empty.
func (d *Dir) Ledger() (*Ledger, error) {
	data, err := d.ReadSecret(ledgerFile)
	if errors.Is(err, fs.ErrNotExist) {
		return new(Ledger), nil
	}
	if err != nil {
		return nil, err
	}
	l := new(Ledger)
	if err := json.Unmarshal(data, l); err != nil {
		return nil, fmt.Errorf("%s: %w", d.join(ledgerFile), err)
	}
	return l, nil
}

// ChangeLedger lets fn change the ledger while nobody else does, and writes it
// if fn returns nil.
func (d *Dir) ChangeLedger(fn func(*Ledger) error) error {
	return d.change(func() error {
		l, err := d.Ledger()
		if err != nil {
			return err
		}
		if err := fn(l); err != nil {
			return err
		}
		data, err := marshalLedger(l)
		if err != nil {
			return err
		}
		return d.put(ledgerFile, data)
	})
}

// CreateCover keeps the built-in cover's certificate and key, PEM both. It
// refuses with [ErrExists].
func (d *Dir) CreateCover(cert, key []byte) error {
	return d.change(func() error {
		if err := d.create(coverKeyFile, key); err != nil {
			return err
		}
		err := d.create(coverCertFile, cert)
		if err != nil {
			_ = d.root.Remove(coverKeyFile)
		}
		return err
	})
}

// Cover reads the built-in cover's certificate and key.
func (d *Dir) Cover() (tls.Certificate, error) {
	key, err := d.ReadSecret(coverKeyFile)
	if err != nil {
		return tls.Certificate{}, err
	}
	cert, err := d.Read(coverCertFile)
	if err != nil {
		return tls.Certificate{}, err
	}
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("%s: %w", d.join(coverCertFile), err)
	}
	return pair, nil
}

// CertHash is what an invite pins of a certificate: SHA-256 of its DER form.
func CertHash(cert tls.Certificate) [32]byte { return sha256.Sum256(cert.Certificate[0]) }
