package config

import (
	"bytes"
	"crypto/ed25519"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"unicode"
	"unicode/utf8"

	"busel/internal/flow"
	"busel/internal/wire"
)

// What can be wrong with an invite. The error that wraps one of them names what
// exactly, and says what to do.
var (
	ErrForeign = errors.New("foreign invite") // not of Busel, or of a later version of it
	ErrDamaged = errors.New("damaged invite") // not as it was issued, by accident
	ErrForged  = errors.New("forged invite")  // not as it was issued, and made to look whole
)

// Bounds of a bundle (docs/PROTOCOL.md, "Invites"). They keep what a stranger
// can make us read small; the usual invite is far below them.
const (
	BundleVersion = 1
	MaxRelays     = 3  // in one bundle, so that one invite cannot list a fleet
	MaxAddresses  = 4  // of one relay
	MaxTransports = 4  // of one relay
	MaxName       = 48 // bytes of a relay's name
	MaxOptions    = 64 // bytes of a transport's options

	maxHost      = 253 // bytes of a host name (RFC 1035, section 3.1, as text)
	maxTransport = 16  // bytes of a transport's name
	bundleHead   = 1 + ed25519.PublicKeySize + 4 + 1
	// maxBundle is the longest encoding in bytes.
	maxBundle = bundleHead + MaxRelays*(1+1+MaxName+1+MaxAddresses*(2+maxHost+2)+32+wire.TokenLen+1+maxHost+32+
		1+MaxTransports*(1+maxTransport+1+MaxOptions)) + ed25519.SignatureSize
)

// bundleLabel precedes the signed bytes, so that no other signature of the same
// key can be taken for one of a bundle.
const bundleLabel = "busel bundle 1"

// Flags of a relay entry.
const (
	flagProof  = 1 << 0 // see RelayEntry.Proof
	flagPinned = 1 << 1 // a certificate hash follows the cover name
)

// Bundle is an invite: what a resident needs to reach one to three relays. Its
// binary form, in which every length is in bytes and integers are big-endian:
//
//	bundle    = version u8 (1) | issuer(32) | sequence u32 | count u8 (1..3) |
//	            count * relay | signature(64)
//	relay     = flags u8 | name | count u8 (1..4) | count * address |
//	            key(32) | token(26) | cover | [hash(32)] |
//	            count u8 (1..4) | count * transport
//	name      = length u8 (0..48) | UTF-8, printable
//	address   = SOCKS5 form: type u8 (1, 3, 4) | address | port u16
//	cover     = length u8 (1..253) | host name in lower case, or IP address
//	transport = length u8 (1..16) | [a-z0-9-]+ | length u8 (0..64) | printable ASCII
//
// Flag bit 0 says that the relay's proof is due (a borrowed cover), bit 1 that
// the hash is there; the others are 0, and left for later versions. A port is
// never 0, a hash never all zeros, and an address or transport never there
// twice. The signature is Ed25519 (RFC 8032) by the issuer over "busel bundle 1"
// and all that goes before the signature. There is one encoding for each
// bundle: what parses encodes to the same bytes.
type Bundle struct {
	Issuer ed25519.PublicKey
	// Sequence orders the bundles of one issuer: the highest holds.
	Sequence  uint32
	Relays    []RelayEntry // 1..[MaxRelays]
	Signature [ed25519.SignatureSize]byte
}

// RelayEntry is one relay in a bundle.
type RelayEntry struct {
	// Proof means that the cover is borrowed: the client waits for the relay's
	// proof before its first covert byte.
	Proof     bool
	Name      string      // for people; may be empty
	Addresses []flow.Addr // where clients connect, the preferred one first
	Key       [32]byte    // S, the relay's X25519 public key
	Token     wire.Token
	CoverName string // the name, or IP address, that the client asks the cover for
	// CertHash is SHA-256 of the cover's certificate (DER) if it is self-signed
	// and pinned; zero if the certificate has to verify.
	CertHash   [32]byte
	Transports []Transport // the preferred one first
}

// Transport is a way to reach a relay.
type Transport struct {
	Name    string // "mirror"
	Options string // the transport's own; usually empty
}

// LogValue shows who issued the bundle and how much is in it, no secrets and no
// addresses.
func (b Bundle) LogValue() slog.Value {
	return slog.GroupValue(slog.Uint64("sequence", uint64(b.Sequence)), slog.Int("relays", len(b.Relays)))
}

// LogValue redacts: an entry is all that is needed to find and use a relay.
func (RelayEntry) LogValue() slog.Value { return slog.StringValue("relay(redacted)") }

// Sign makes the bundle of these relays, whose entries the caller does not
// change afterwards. The error says which field is out of bounds.
func Sign(issuer ed25519.PrivateKey, sequence uint32, relays ...RelayEntry) (*Bundle, error) {
	b := &Bundle{Issuer: issuer.Public().(ed25519.PublicKey), Sequence: sequence, Relays: relays}
	if err := b.check(); err != nil {
		return nil, fmt.Errorf("bundle: %w", err)
	}
	copy(b.Signature[:], ed25519.Sign(issuer, append([]byte(bundleLabel), b.appendSigned(nil)...)))
	return b, nil
}

// Append appends the binary form.
func (b *Bundle) Append(to []byte) []byte {
	return append(b.appendSigned(to), b.Signature[:]...)
}

// Equal reports whether both are the same invite, signature included.
func (b *Bundle) Equal(other *Bundle) bool {
	return bytes.Equal(b.Append(nil), other.Append(nil))
}

// ParseBundle parses the binary form and verifies the signature. The error
// wraps [ErrForeign], [ErrDamaged] or [ErrForged].
func ParseBundle(data []byte) (*Bundle, error) {
	b, n, err := readBundle(data)
	if err != nil {
		return nil, err
	}
	if n != len(data) {
		return nil, damaged("%d bytes follow its end", len(data)-n)
	}
	if err := b.verify(); err != nil {
		return nil, err
	}
	return b, nil
}

// verify checks the signature of a bundle that was read.
func (b *Bundle) verify() error {
	if !ed25519.Verify(b.Issuer, append([]byte(bundleLabel), b.appendSigned(nil)...), b.Signature[:]) {
		return fmt.Errorf("%w: its signature is wrong; somebody changed it on purpose, so do not use it, and ask for a new one in person", ErrForged)
	}
	return nil
}

func damaged(what string, args ...any) error {
	return fmt.Errorf("%w: %s; copy it again in full, or ask for it once more", ErrDamaged, fmt.Sprintf(what, args...))
}

// errShort means that a bundle goes on beyond the bytes at hand.
var errShort = errors.New("cut short")

// readBundle reads a bundle from the start of data and returns its length. It
// does not verify the signature.
func readBundle(data []byte) (*Bundle, int, error) {
	r := &reader{rest: data}
	if v := r.u8("version"); r.err == nil && v != BundleVersion {
		return nil, 0, fmt.Errorf("%w: it is of version %d; get a newer Busel, or ask for an invite of version %d", ErrForeign, v, BundleVersion)
	}
	b := &Bundle{Issuer: slices.Clone(r.take(ed25519.PublicKeySize, "issuer"))}
	b.Sequence = r.u32("sequence")
	for i := range r.count(MaxRelays, "number of relays") {
		r.relay = i + 1
		b.Relays = append(b.Relays, r.entry())
	}
	r.relay = 0
	copy(b.Signature[:], r.take(len(b.Signature), "signature"))
	if r.err == nil {
		r.err = b.check()
	}
	if r.err != nil {
		return nil, 0, r.err
	}
	return b, len(data) - len(r.rest), nil
}

// check finds what the binary form does not allow.
func (b *Bundle) check() error {
	if len(b.Relays) == 0 || len(b.Relays) > MaxRelays {
		return damaged("%d relays, want 1 to %d", len(b.Relays), MaxRelays)
	}
	for i := range b.Relays {
		if what := b.Relays[i].check(); what != "" {
			return damaged("relay %d: %s", i+1, what)
		}
	}
	return nil
}

func (e *RelayEntry) check() string {
	if len(e.Name) > MaxName || !printable(e.Name) {
		return "name is not printable or too long"
	}
	if len(e.Addresses) == 0 || len(e.Addresses) > MaxAddresses {
		return "number of addresses"
	}
	for i, a := range e.Addresses {
		if !a.IsValid() || a.Port == 0 || a.Name != "" && (!validHost(a.Name) || isIP(a.Name)) || slices.Contains(e.Addresses[:i], a) {
			return "address"
		}
	}
	if !validHost(e.CoverName) {
		return "cover name"
	}
	if len(e.Transports) == 0 || len(e.Transports) > MaxTransports {
		return "number of transports"
	}
	for i, t := range e.Transports {
		if !validTransport(t) || slices.Contains(e.Transports[:i], t) {
			return "transport"
		}
	}
	return ""
}

func isIP(s string) bool {
	a, err := flow.MakeAddr(s, 1)
	return err == nil && a.Name == ""
}

// printable reports whether s can be shown on a terminal as it is: no control
// characters, and none that turn the direction of writing.
func printable(s string) bool {
	if !utf8.ValidString(s) {
		return false
	}
	for _, c := range s {
		if !unicode.IsPrint(c) {
			return false
		}
	}
	return true
}

func validTransport(t Transport) bool {
	if len(t.Name) == 0 || len(t.Name) > maxTransport || len(t.Options) > MaxOptions {
		return false
	}
	for _, c := range []byte(t.Name) {
		if !(c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '-') {
			return false
		}
	}
	for _, c := range []byte(t.Options) {
		if c < ' ' || c > '~' {
			return false
		}
	}
	return true
}

func (b *Bundle) appendSigned(to []byte) []byte {
	to = append(to, BundleVersion)
	to = append(to, b.Issuer...)
	to = binary.BigEndian.AppendUint32(to, b.Sequence)
	to = append(to, byte(len(b.Relays)))
	for i := range b.Relays {
		to = b.Relays[i].append(to)
	}
	return to
}

func (e *RelayEntry) append(to []byte) []byte {
	var flags byte
	if e.Proof {
		flags |= flagProof
	}
	if e.CertHash != [32]byte{} {
		flags |= flagPinned
	}
	to = append(to, flags)
	to = appendText(to, e.Name)
	to = append(to, byte(len(e.Addresses)))
	for _, a := range e.Addresses {
		to = a.Append(to)
	}
	to = append(to, e.Key[:]...)
	to = append(to, e.Token[:]...)
	to = appendText(to, e.CoverName)
	if flags&flagPinned != 0 {
		to = append(to, e.CertHash[:]...)
	}
	to = append(to, byte(len(e.Transports)))
	for _, t := range e.Transports {
		to = appendText(to, t.Name)
		to = appendText(to, t.Options)
	}
	return to
}

func appendText(to []byte, s string) []byte {
	return append(append(to, byte(len(s))), s...)
}

// reader reads fields until the first error, which names the field.
type reader struct {
	rest  []byte
	relay int // number of the entry being read, from 1
	err   error
}

func (r *reader) fail(field string, cause error) {
	if r.err != nil {
		return
	}
	where := "its " + field
	if r.relay > 0 {
		where = fmt.Sprintf("relay %d's %s", r.relay, field)
	}
	switch cause {
	case errShort:
		r.err = fmt.Errorf("%w: %w: it ends inside %s; copy it again in full, or ask for it once more", ErrDamaged, errShort, where)
	case ErrForeign:
		r.err = fmt.Errorf("%w: %s say what this version does not know; get a newer Busel", ErrForeign, where)
	default:
		r.err = damaged("%s cannot be read", where)
	}
}

func (r *reader) take(n int, field string) []byte {
	if r.err == nil && len(r.rest) < n {
		r.fail(field, errShort)
	}
	if r.err != nil {
		return nil
	}
	b := r.rest[:n]
	r.rest = r.rest[n:]
	return b
}

func (r *reader) u8(field string) byte {
	if b := r.take(1, field); b != nil {
		return b[0]
	}
	return 0
}

func (r *reader) u32(field string) uint32 {
	if b := r.take(4, field); b != nil {
		return binary.BigEndian.Uint32(b)
	}
	return 0
}

// count reads a number of 1..most; 0 means that there was an error.
func (r *reader) count(most byte, field string) int {
	n := r.u8(field)
	if r.err == nil && (n == 0 || n > most) {
		r.fail(field, ErrDamaged)
	}
	if r.err != nil {
		return 0
	}
	return int(n)
}

func (r *reader) text(most byte, field string) string {
	n := r.u8(field)
	if r.err == nil && n > most {
		r.fail(field, ErrDamaged)
	}
	return string(r.take(int(n), field))
}

func (r *reader) entry() RelayEntry {
	var e RelayEntry
	flags := r.u8("flags")
	if r.err == nil && flags&^(flagProof|flagPinned) != 0 {
		r.fail("flags", ErrForeign)
	}
	e.Proof = flags&flagProof != 0
	e.Name = r.text(MaxName, "name")
	for range r.count(MaxAddresses, "number of addresses") {
		a, n, err := flow.ParseAddr(r.rest)
		if errors.Is(err, flow.ErrShortAddr) {
			err = errShort
		}
		if err != nil {
			r.fail("address", err)
			break
		}
		r.rest = r.rest[n:]
		e.Addresses = append(e.Addresses, a)
	}
	copy(e.Key[:], r.take(len(e.Key), "key"))
	copy(e.Token[:], r.take(len(e.Token), "token"))
	e.CoverName = r.text(maxHost, "cover name")
	if flags&flagPinned != 0 {
		copy(e.CertHash[:], r.take(len(e.CertHash), "certificate hash"))
		if r.err == nil && e.CertHash == [32]byte{} {
			r.fail("certificate hash", ErrDamaged)
		}
	}
	for range r.count(MaxTransports, "number of transports") {
		e.Transports = append(e.Transports, Transport{
			Name:    r.text(maxTransport, "transport"),
			Options: r.text(MaxOptions, "transport's options"),
		})
	}
	return e
}

// Change is what a new bundle does to those that are held.
type Change int

// Changes.
const (
	Added    Change = iota // of an issuer not held before
	Replaced               // newer than the held one of its issuer
	Known                  // held already
	Outdated               // the held one of its issuer is newer, or as new and different
)

// Merge decides what becomes of held when fresh arrives: the highest sequence of
// each issuer holds. It returns the place of fresh's issuer in held, len(held) if
// it is Added.
func Merge(held []*Bundle, fresh *Bundle) (at int, change Change) {
	at = slices.IndexFunc(held, func(b *Bundle) bool { return b.Issuer.Equal(fresh.Issuer) })
	switch {
	case at < 0:
		return len(held), Added
	case held[at].Equal(fresh):
		return at, Known
	case fresh.Sequence > held[at].Sequence:
		return at, Replaced
	}
	return at, Outdated
}
