// Package look holds browsers' ClientHellos and first requests as data.
//
// A [Look] says what goes on the wire, in which order, and what is drawn anew
// for each connection. It is plain data: a transport turns it into its TLS
// stack's terms (transport/mirror), and a test compares the wire with it. The
// values are measured from real browsers; they go stale on their own.
package look

import "busel/obfs/records"

// GREASE stands for a value that is drawn for each connection (RFC 8701): the
// one in groups and key shares is the same draw, all others are independent.
const GREASE uint16 = 0x0a0a

// TLS extension numbers (IANA), as far as looks use them.
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
	ExtSessionTicket       uint16 = 35
	ExtSupportedVersions   uint16 = 43
	ExtPSKModes            uint16 = 45
	ExtKeyShare            uint16 = 51
	ExtALPS                uint16 = 17613 // application_settings
	ExtTrustAnchors        uint16 = 51764 // 0xca34, draft-ietf-tls-trust-anchor-ids
	ExtECH                 uint16 = 65037 // as GREASE here
	ExtRenegotiation       uint16 = 65281
)

// Look is one browser.
type Look struct {
	Name string // as in configuration
	TLS  TLS
	HTTP HTTP
	// Upload is how a large request's body is cut into records.
	Upload records.Cycle
}

// TLS is a ClientHello.
type TLS struct {
	Ciphers    []uint16
	Groups     []uint16
	Shares     []uint16 // groups with a key share
	Signatures []uint16
	Versions   []uint16
	ALPN, ALPS []string
	CertComp   []uint16 // certificate compression algorithms (RFC 8879)
	// TrustAnchors is the body of the trust_anchors extension. It is the same on
	// every connection and changes with the browser's component updates.
	TrustAnchors []byte
	// Extensions are the extension numbers in order; [GREASE] at the start is
	// empty, at the end has one byte.
	Extensions []uint16
	Permute    bool // all but GREASE are shuffled for each connection
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
	Settings     []Setting // in order
	ConnWindow   uint32    // increment of the first WINDOW_UPDATE of stream 0
	StreamWindow uint32    // what Settings give a stream
	Weight       uint8     // priority in HEADERS, as on the wire
	Exclusive    bool
	Pseudo       []string // order of the pseudo-header fields
	Navigate     []Field  // of a page that is opened by hand, in order
	Reload       []Field  // of a page that is loaded again
	// HTTP1 are the fields of HTTP/1.1 between Host and the ones above.
	HTTP1 []Field
}
