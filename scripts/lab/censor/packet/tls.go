package packet

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// errNotTLS says that a stream does not begin with a ClientHello.
var errNotTLS = errors.New("not a TLS ClientHello")

// Of TLS (RFC 8446).
const (
	recordHeader    = 5
	recordHandshake = 22
	clientHello     = 1
	messageHeader   = 4
	// maxRecord is the longest record that any version allows.
	maxRecord = 1<<14 + 2048
	// MaxHello is the longest ClientHello that is looked at. Browsers send
	// about 2 kB.
	MaxHello = 1 << 14
)

// LooksLikeTLS reports whether a stream may begin with a TLS handshake record.
// Of fewer than three bytes it judges what is there.
func LooksLikeTLS(stream []byte) bool {
	return len(stream) > 0 && stream[0] == recordHandshake &&
		(len(stream) < 2 || stream[1] == 3) && (len(stream) < 3 || stream[2] <= 4)
}

// Handshake returns the ClientHello message, its header included, with which
// the records of a stream begin. If join is false, only a message that lies in
// one record counts, even if the record is not all there.
//
// Together with [ErrMore] comes what is known of the message so far.
func Handshake(stream []byte, join bool) ([]byte, error) {
	var message []byte
	for first := true; ; first = false {
		if !first && len(stream) == 0 || first && len(stream) < recordHeader && LooksLikeTLS(stream) {
			return message, ErrMore
		}
		if !LooksLikeTLS(stream) {
			return nil, errNotTLS
		}
		if len(stream) < recordHeader {
			return message, ErrMore
		}
		length := int(binary.BigEndian.Uint16(stream[3:]))
		if length == 0 || length > maxRecord {
			return nil, errNotTLS
		}
		body := stream[recordHeader:min(recordHeader+length, len(stream))]
		if first {
			message = body[:len(body):len(body)]
		} else {
			message = append(message, body...)
		}
		whole, err := messageLen(message)
		switch {
		case err != nil:
			return nil, err
		case whole > 0 && len(message) >= whole:
			return message[:whole], nil
		case !join && (whole > length || whole == 0 && length < messageHeader):
			return nil, errNotTLS
		case len(body) < length:
			return message, ErrMore
		}
		stream = stream[recordHeader+length:]
	}
}

// messageLen is the length of a ClientHello with its header, 0 if that is not
// known yet.
func messageLen(b []byte) (int, error) {
	if len(b) > 0 && b[0] != clientHello {
		return 0, errNotTLS
	}
	if len(b) < messageHeader {
		return 0, nil
	}
	n := messageHeader + int(b[1])<<16 + int(binary.BigEndian.Uint16(b[2:]))
	if n > MaxHello {
		return 0, errNotTLS
	}
	return n, nil
}

// Of the registry of TLS extensions.
const (
	extServerName = 0
	extSignatures = 13
	extALPN       = 16
	extVersions   = 43
)

// A Hello is what an observer reads in a ClientHello, in its order.
type Hello struct {
	Version    uint16 // legacy_version
	SNI        string // in lower case; "" if there is none
	ALPN       []string
	Ciphers    []uint16
	Extensions []uint16
	Versions   []uint16 // supported_versions
	Signatures []uint16
	Whole      bool // nothing of the message is missing
}

// ParseHello reads a ClientHello message. Of one that is cut short it returns
// what comes before the cut, with [ErrMore]; an extension counts if it is all
// there.
func ParseHello(message []byte) (*Hello, error) {
	whole, err := messageLen(message)
	if err != nil {
		return nil, err
	}
	if len(message) < messageHeader {
		return &Hello{}, ErrMore
	}
	h := &Hello{Whole: len(message) >= whole}
	r := reader{b: message[messageHeader:min(whole, len(message))]}
	h.parse(&r)
	if r.bad || h.Whole && (r.short || len(r.b) > 0) {
		return nil, errNotTLS
	}
	if !h.Whole {
		return h, ErrMore
	}
	return h, nil
}

func (h *Hello) parse(r *reader) {
	h.Version = r.uint16()
	r.take(32)        // random
	r.take(r.uint8()) // session id
	h.Ciphers = r.numbers(r.take(int(r.uint16())))
	r.take(r.uint8()) // compression methods
	if len(r.b) == 0 {
		return // extensions may be missing altogether
	}
	length := int(r.uint16())
	if h.Whole && length != len(r.b) || length < len(r.b) {
		r.bad = true
		return
	}
	for len(r.b) > 0 && !r.short && !r.bad {
		id, body := r.uint16(), r.take(int(r.uint16()))
		if !r.short {
			h.Extensions = append(h.Extensions, id)
			h.extension(id, body, r)
		}
	}
}

// extension reads the body of one extension; faults are noted in r.
func (h *Hello) extension(id uint16, body []byte, r *reader) {
	e := reader{b: body}
	switch id {
	case extServerName:
		e.uint16() // of the list; there is only one type of name
		if e.uint8() == 0 {
			h.SNI = strings.ToLower(string(e.take(int(e.uint16()))))
		}
	case extALPN:
		e.uint16()
		for len(e.b) > 0 && !e.short {
			if name := e.take(e.uint8()); !e.short {
				h.ALPN = append(h.ALPN, string(name))
			}
		}
	case extVersions:
		h.Versions = r.numbers(e.take(e.uint8()))
	case extSignatures:
		h.Signatures = r.numbers(e.take(int(e.uint16())))
	}
	if e.short {
		r.bad = true
	}
}

// isGREASE tells the values that mean nothing (RFC 8701).
func isGREASE(v uint16) bool { return v&0x0f0f == 0x0a0a && v>>8 == v&0xff }

// JA4 is FoxIO's fingerprint of the hello over TCP or over QUIC, "" if a part
// of the hello is missing. GREASE counts nowhere, not even among the signature
// algorithms.
func (h *Hello) JA4(overQUIC bool) string {
	if !h.Whole {
		return ""
	}
	over, name := "t", "i"
	if overQUIC {
		over = "q"
	}
	if slices.Contains(h.Extensions, extServerName) {
		name = "d"
	}
	ciphers, extensions := hexes(h.Ciphers), hexes(h.Extensions)
	a := fmt.Sprintf("%s%s%s%02d%02d%s", over, h.ja4Version(), name, min(len(ciphers), 99), min(len(extensions), 99), h.ja4ALPN())
	slices.Sort(ciphers)
	extensions = slices.DeleteFunc(extensions, func(e string) bool { return e == "0000" || e == "0010" })
	slices.Sort(extensions)
	c := strings.Join(extensions, ",")
	if signatures := hexes(h.Signatures); len(signatures) > 0 {
		c += "_" + strings.Join(signatures, ",")
	}
	return a + "_" + short(strings.Join(ciphers, ",")) + "_" + short(c)
}

// ja4Version is the highest version offered.
func (h *Hello) ja4Version() string {
	version := h.Version
	if slices.Contains(h.Extensions, extVersions) {
		version = 0
		for _, v := range h.Versions {
			if !isGREASE(v) {
				version = max(version, v)
			}
		}
	}
	switch version {
	case 0x0304:
		return "13"
	case 0x0303:
		return "12"
	case 0x0302:
		return "11"
	case 0x0301:
		return "10"
	}
	return "00"
}

// ja4ALPN is the first and the last character of the first protocol, or of its
// hexadecimal form if one of them is not a letter or digit.
func (h *Hello) ja4ALPN() string {
	if len(h.ALPN) == 0 || h.ALPN[0] == "" {
		return "00"
	}
	name := h.ALPN[0]
	if !isAlphanumeric(name[0]) || !isAlphanumeric(name[len(name)-1]) {
		name = hex.EncodeToString([]byte(name))
	}
	return name[:1] + name[len(name)-1:]
}

func isAlphanumeric(c byte) bool {
	return '0' <= c && c <= '9' || 'A' <= c && c <= 'Z' || 'a' <= c && c <= 'z'
}

func hexes(in []uint16) []string {
	var out []string
	for _, v := range in {
		if !isGREASE(v) {
			out = append(out, fmt.Sprintf("%04x", v))
		}
	}
	return out
}

// short is the hash that JA4 uses.
func short(s string) string {
	if s == "" {
		return "000000000000"
	}
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:6])
}

// A reader takes numbers and pieces off the front of its bytes. Once they do
// not suffice it is short, and all that it returns is empty.
type reader struct {
	b     []byte
	short bool
	bad   bool // what is there contradicts itself
}

func (r *reader) take(n int) []byte {
	if r.short || n > len(r.b) {
		r.short, r.b = true, nil
		return nil
	}
	b := r.b[:n:n]
	r.b = r.b[n:]
	return b
}

func (r *reader) uint8() int {
	if b := r.take(1); b != nil {
		return int(b[0])
	}
	return 0
}

func (r *reader) uint16() uint16 {
	if b := r.take(2); b != nil {
		return binary.BigEndian.Uint16(b)
	}
	return 0
}

// numbers reads a list of 16-bit numbers; half a number is a fault.
func (r *reader) numbers(b []byte) []uint16 {
	if len(b)%2 != 0 {
		r.bad = true
	}
	var out []uint16
	for ; len(b) >= 2; b = b[2:] {
		out = append(out, binary.BigEndian.Uint16(b))
	}
	return out
}
