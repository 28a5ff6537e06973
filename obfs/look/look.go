// Package look holds browsers' ClientHellos and first requests as data.
//
// # Concept
//
// A [Look] is a file: the form of one browser version's ClientHellos, fresh and
// resumed, what of it is drawn anew for each connection, and how that browser
// begins to speak HTTP. Looks of current browsers are built in ([Shipped]); signed
// bundles add and retire others ([ParseBundle]); and a [Learner] makes one from the
// ClientHellos of a browser that it is shown ([ParseHello]). A transport turns a
// look into its TLS stack's terms (transport/mirror). The values are measured from
// real browsers; they go stale on their own.
//
// # Vocabulary
//
//	form      what all ClientHellos of one browser version have in common
//	fresh     a ClientHello of a first visit; resumed: one with a pre-shared key
//	family    browsers of one make, whose versions differ a little: "chromium"
//
// # Guarantees
//
// Whatever passes [Look.Check] is bounded and is of a kind that can be spoken:
// nothing in it changes the protocol in ways that the TLS stack does not know, and it
// offers what the tunnel needs, an x25519 share and a session id. Of a hello that is
// parsed only the form is kept: no name, no key, no session id, no ticket.
package look

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"busel/obfs/records"
)

// GREASE stands for a value that is drawn for each connection (RFC 8701): the
// one in groups and key shares is the same draw, all others are independent.
const GREASE uint16 = 0x0a0a

// isGREASE reports whether v is one of the 16 values of RFC 8701.
func isGREASE(v uint16) bool { return v&0x0f0f == 0x0a0a && v>>8 == v&0xff }

// TLS extension numbers (IANA), as far as a stack must know them to speak a look.
// All others are opaque: their bodies are in [TLS.Fixed].
const (
	ExtServerName          uint16 = 0
	ExtStatusRequest       uint16 = 5
	ExtSupportedGroups     uint16 = 10
	ExtPointFormats        uint16 = 11
	ExtSignatureAlgorithms uint16 = 13
	ExtALPN                uint16 = 16
	ExtSCT                 uint16 = 18
	ExtExtendedMaster      uint16 = 23
	ExtCompressCertificate uint16 = 27
	ExtRecordSizeLimit     uint16 = 28
	ExtSessionTicket       uint16 = 35
	ExtPreSharedKey        uint16 = 41
	ExtSupportedVersions   uint16 = 43
	ExtPSKModes            uint16 = 45
	ExtKeyShare            uint16 = 51
	ExtALPS                uint16 = 17613 // application_settings
	ExtECH                 uint16 = 65037 // as GREASE here
	ExtRenegotiation       uint16 = 65281
)

// Groups of key exchange (IANA) that a look may have a share of.
const (
	GroupP256   uint16 = 0x0017
	GroupP384   uint16 = 0x0018
	GroupP521   uint16 = 0x0019
	GroupX25519 uint16 = 0x001d
	GroupHybrid uint16 = 0x11ec // X25519MLKEM768
)

// Look is one browser. Looks are shared: whoever has one does not change it.
type Look struct {
	Name   string `json:"name"`   // as in configuration: "chromium-156"
	Family string `json:"family"` // "chromium"
	Source string `json:"source"` // what it was measured from
	TLS    TLS    `json:"tls"`
	HTTP   HTTP   `json:"http"`
	// Upload is how a large request's body is cut into records.
	Upload Upload `json:"upload"`
	// Tickets is what the browser does with what it may resume TLS with.
	Tickets Tickets `json:"tickets"`
	// KeepAlive is the time between TCP keepalive probes in seconds; 0: none.
	KeepAlive int `json:"keepalive"`
}

// Tickets are those that a browser keeps of one server. Each is used once. The zero
// value keeps none: every hello is a fresh one.
type Tickets struct {
	Keep int `json:"keep"` // the newest, 0..16
	Life int `json:"life"` // seconds at most, whatever the server says; 0..604800 (RFC 8446, section 4.6.1)
}

// Upload is [records.Cycle] in a file. The zero value is full records and the rest.
type Upload struct {
	Block   int `json:"block,omitempty"`
	Header  int `json:"header,omitempty"`
	End     int `json:"end,omitempty"`
	Frame   int `json:"frame,omitempty"`
	Segment int `json:"segment,omitempty"`
	Round   int `json:"round,omitempty"`
}

// Cycle is how uploads are cut.
func (u Upload) Cycle() records.Cycle {
	return records.Cycle{Block: u.Block, Header: u.Header, End: u.End, Frame: u.Frame, Segment: u.Segment, Round: u.Round}
}

// TLS is the form of a ClientHello.
type TLS struct {
	Ciphers    Codes    `json:"ciphers"`
	Groups     Codes    `json:"groups"`
	Shares     Codes    `json:"shares"` // groups with a key share
	Signatures Codes    `json:"signatures"`
	Versions   Codes    `json:"versions"`
	ALPN       []string `json:"alpn"`
	// CertComp are the certificate compression algorithms (RFC 8879).
	CertComp Codes `json:"certificate-compression,omitempty"`
	ECH      *ECH  `json:"ech,omitempty"`
	// Fixed are the bodies of the extensions that are the same on every connection.
	Fixed Bodies `json:"fixed"`
	// Extensions are the extension numbers of a fresh hello in order; [GREASE] at
	// the start is empty, at the end has one byte.
	Extensions Codes `json:"extensions"`
	// Resumed are those of a hello with a pre-shared key, which comes last.
	Resumed Codes `json:"resumed"`
	// Permute: all but GREASE and the pre-shared key are shuffled for each connection.
	Permute bool `json:"permute,omitempty"`
	// Reuse: the hybrid share has the same x25519 key as the plain one.
	Reuse bool `json:"reuse-x25519,omitempty"`
}

// ECH is encrypted_client_hello as GREASE (RFC 9849, section 6.2): one of the
// AEADs and one of the payload lengths are drawn for each connection.
type ECH struct {
	KDF      uint16 `json:"kdf"`
	AEADs    Codes  `json:"aeads"`
	Payloads []int  `json:"payloads"` // bytes, with the AEAD's tag
	// Step, if not 0: the payload of a resumed hello is longer by the body of the
	// pre-shared key, rounded up to a multiple of Step bytes.
	Step int `json:"step,omitempty"`
}

// PayloadFor is how long a payload of n bytes is in a hello whose pre-shared key
// extension has a body of psk bytes; 0: a fresh one.
func (e *ECH) PayloadFor(n, psk int) int {
	if e.Step > 0 {
		n += (psk + e.Step - 1) / e.Step * e.Step
	}
	return n
}

// Setting is one HTTP/2 setting (RFC 9113, section 6.5.2).
type Setting struct {
	ID    uint16
	Value uint32
}

// Field is a header field.
type Field struct{ Name, Value string }

// HTTP is how the browser asks for a page.
type HTTP struct {
	Settings     []Setting `json:"settings"`      // in order
	ConnWindow   uint32    `json:"conn-window"`   // increment of the first WINDOW_UPDATE of stream 0
	StreamWindow uint32    `json:"stream-window"` // what Settings give a stream
	First        uint32    `json:"first-stream"`  // id of the first request's stream
	Weight       uint8     `json:"weight"`        // priority in HEADERS, as on the wire
	Exclusive    bool      `json:"exclusive,omitempty"`
	// PathLiteral: the path "/" is written out, too, although HPACK's static table has it.
	PathLiteral bool `json:"path-literal,omitempty"`
	// RequestWindow, if not 0, is the increment of a WINDOW_UPDATE that follows a
	// request's HEADERS in the same record.
	RequestWindow uint32 `json:"request-window,omitempty"`
	// SmallUpdate, if not 0: a WINDOW_UPDATE gives back whatever was used if the last one
	// was so many seconds ago; else half of the window is waited for.
	SmallUpdate int `json:"small-update,omitempty"`
	// PingRequest, if not 0: a request is followed by a PING if nothing came for so many
	// seconds before it.
	PingRequest int `json:"ping-request,omitempty"`
	// PingIdle, if not 0: a PING is sent whenever nothing came for so many seconds.
	PingIdle int      `json:"ping-idle,omitempty"`
	Pseudo   []string `json:"pseudo"`   // order of the pseudo-header fields
	Navigate []Field  `json:"navigate"` // of a page that is opened by hand, in order
	Reload   []Field  `json:"reload"`   // of a page that is loaded again
	// Fetch are the requests that a page leads to: "style", "script" and "image" of what
	// it needs, "follow" of the page behind a link. [PageURL] in a value stands for the
	// page's address.
	Fetch map[string][]Field `json:"fetch"`
	// HTTP1 are those of Navigate with HTTP/1.1, behind Host.
	HTTP1 []Field `json:"http1"`
}

// PageURL stands for the address of a page in the header fields of what it leads to.
const PageURL = "{page}"

// Codes are code points; in a file words of four hexadecimal digits, and "grease".
type Codes []uint16

// MarshalText implements [encoding.TextMarshaler].
func (c Codes) MarshalText() ([]byte, error) {
	words := make([]string, len(c))
	for i, v := range c {
		if words[i] = fmt.Sprintf("%04x", v); v == GREASE {
			words[i] = "grease"
		}
	}
	return []byte(strings.Join(words, " ")), nil
}

// UnmarshalText implements [encoding.TextUnmarshaler].
func (c *Codes) UnmarshalText(text []byte) error {
	*c = nil
	for _, w := range strings.Fields(string(text)) {
		v := GREASE
		if w != "grease" {
			n, err := strconv.ParseUint(w, 16, 16)
			if err != nil || len(w) != 4 || isGREASE(uint16(n)) {
				return fmt.Errorf("%q is no code of four hexadecimal digits, nor grease", w)
			}
			v = uint16(n)
		}
		*c = append(*c, v)
	}
	return nil
}

// Bodies are extensions' bodies by number; in a file both in hexadecimal digits.
type Bodies map[uint16][]byte

// MarshalJSON implements [json.Marshaler].
func (b Bodies) MarshalJSON() ([]byte, error) {
	m := make(map[string]string, len(b))
	for id, body := range b {
		m[fmt.Sprintf("%04x", id)] = hex.EncodeToString(body)
	}
	return json.Marshal(m)
}

// UnmarshalJSON implements [json.Unmarshaler].
func (b *Bodies) UnmarshalJSON(text []byte) error {
	var m map[string]string
	if err := json.Unmarshal(text, &m); err != nil {
		return err
	}
	*b = make(Bodies, len(m))
	for key, value := range m {
		var id Codes
		if err := id.UnmarshalText([]byte(key)); err != nil || len(id) != 1 || key == "grease" {
			return fmt.Errorf("%q is no extension number of four hexadecimal digits", key)
		}
		body, err := hex.DecodeString(value)
		if err != nil {
			return fmt.Errorf("extension %s: its body is not in hexadecimal digits", key)
		}
		(*b)[id[0]] = body
	}
	return nil
}

// MarshalText implements [encoding.TextMarshaler]: "4:6291456".
func (s Setting) MarshalText() ([]byte, error) { return fmt.Appendf(nil, "%d:%d", s.ID, s.Value), nil }

// UnmarshalText implements [encoding.TextUnmarshaler].
func (s *Setting) UnmarshalText(text []byte) error {
	id, value, ok := strings.Cut(string(text), ":")
	n, errN := strconv.ParseUint(id, 10, 16)
	v, errV := strconv.ParseUint(value, 10, 32)
	if !ok || errN != nil || errV != nil {
		return errors.New("a setting is identifier:value")
	}
	s.ID, s.Value = uint16(n), uint32(v)
	return nil
}

// MarshalText implements [encoding.TextMarshaler]: "accept-language: en".
func (f Field) MarshalText() ([]byte, error) { return []byte(f.Name + ": " + f.Value), nil }

// UnmarshalText implements [encoding.TextUnmarshaler].
func (f *Field) UnmarshalText(text []byte) error {
	var ok bool
	if f.Name, f.Value, ok = strings.Cut(string(text), ": "); !ok {
		return errors.New("a header field is name: value")
	}
	return nil
}

// IDs are the extension numbers of a hello of that kind.
func (t *TLS) IDs(resumed bool) Codes {
	if resumed {
		return t.Resumed
	}
	return t.Extensions
}

// same reports whether two forms are the same.
func (t *TLS) same(o *TLS) bool {
	a, errA := json.Marshal(t)
	b, errB := json.Marshal(o)
	return errA == nil && errB == nil && slices.Equal(a, b)
}

// Same reports whether two looks cannot be told apart from outside.
func (l *Look) Same(o *Look) bool {
	a, b := *l, *o
	a.Name, a.Source, b.Name, b.Source = "", "", "", ""
	x, errX := a.Format()
	y, errY := b.Format()
	return errX == nil && errY == nil && slices.Equal(x, y)
}
