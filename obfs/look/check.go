package look

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
)

// Bounds of a look. Browsers of 2026 have hellos of some 2,000 bytes, 17 extensions,
// 17 ciphers, and 14 header fields.
const (
	MaxFile    = 32 << 10 // bytes of a look's file
	maxCodes   = 64       // of each list
	maxFixed   = 1024     // bytes of one extension's body
	maxHello   = 3072     // bytes of all that is fixed
	maxFields  = 40
	maxField   = 512 // bytes of a header field's name and value
	maxName    = 40
	maxPayload = 1024 // bytes of an ECH payload
)

// Extensions that a look must not have, because a server that takes them up changes
// the protocol in a way that the TLS stack does not follow: max_fragment_length,
// truncated_hmac, the certificate types, heartbeat, encrypt_then_mac,
// token_binding, early_data, cookie, quic_transport_parameters, NPN, channel ids.
// Padding (21) would need a rule of its own; no current browser needs it.
var refused = Codes{1, 4, 7, 8, 9, 15, 19, 20, 21, 22, 24, 42, 44, 57, 13172, 30031, 30032}

// Parse reads a look's file and checks it. Unknown keys are errors.
func Parse(file []byte) (*Look, error) {
	if len(file) > MaxFile {
		return nil, fmt.Errorf("look: the file has more than %d bytes", MaxFile)
	}
	d := json.NewDecoder(bytes.NewReader(file))
	d.DisallowUnknownFields()
	l := new(Look)
	if err := d.Decode(l); err != nil {
		return nil, fmt.Errorf("look: %w", err)
	}
	if _, err := d.Token(); err != io.EOF {
		return nil, errors.New("look: something follows the look in its file")
	}
	if err := l.Check(); err != nil {
		return nil, err
	}
	return l, nil
}

// Format writes a look as a file that [Parse] reads.
func (l *Look) Format() ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", "\t")
	err := e.Encode(l)
	return b.Bytes(), err
}

// Check returns nil, or why the look is none that can be used.
func (l *Look) Check() error {
	if !word(l.Name) || !word(l.Family) {
		return errors.New("look: name and family are words of 1..40 small letters, digits, dots and hyphens")
	}
	fail := func(format string, args ...any) error {
		return fmt.Errorf("look %s: %w", l.Name, fmt.Errorf(format, args...))
	}
	if len(l.Source) > maxField {
		return fail("its source is longer than %d bytes", maxField)
	}
	if err := l.TLS.check(); err != nil {
		return fail("tls: %w", err)
	}
	if err := l.HTTP.check(); err != nil {
		return fail("http: %w", err)
	}
	if !l.Upload.Cycle().Sane() {
		return fail("upload: no browser cuts like that")
	}
	if t := l.Tickets; t.Keep < 0 || t.Keep > 16 || t.Life < 0 || t.Life > 604800 {
		return fail("tickets: not 0..16 for 0..604800 s")
	}
	if l.KeepAlive < 0 || l.KeepAlive > 7200 {
		return fail("keepalive is not in 0..7200 s")
	}
	return nil
}

func word(s string) bool {
	return len(s) > 0 && len(s) <= maxName && strings.Trim(s, "abcdefghijklmnopqrstuvwxyz0123456789.-") == ""
}

// list checks one list of codes: at least min of them, none twice, and GREASE only at
// the places where browsers have it.
func list(name string, c Codes, min int, grease bool) error {
	switch {
	case len(c) < min || len(c) > maxCodes:
		return fmt.Errorf("%s has %d entries, not %d..%d", name, len(c), min, maxCodes)
	case slices.Contains(c, GREASE) && (!grease || slices.Index(c[1:], GREASE) >= 0):
		return fmt.Errorf("%s has grease where the stack cannot draw it", name)
	}
	s := slices.Clone(c)
	slices.Sort(s)
	if len(slices.Compact(s)) != len(c) {
		return fmt.Errorf("%s has an entry twice", name)
	}
	return nil
}

func (t *TLS) check() error {
	if err := errors.Join(
		list("ciphers", t.Ciphers, 3, true), list("groups", t.Groups, 1, true), list("shares", t.Shares, 1, true),
		list("signatures", t.Signatures, 1, true), list("versions", t.Versions, 1, true),
		list("certificate-compression", t.CertComp, 0, false),
	); err != nil {
		return err
	}
	for _, c := range t.Ciphers {
		if c>>8 == 0x13 && (c < 0x1301 || c > 0x1303) {
			return fmt.Errorf("cipher %04x cannot be spoken", c)
		}
	}
	for _, c := range []uint16{0x1301, 0x1302, 0x1303} {
		if !slices.Contains(t.Ciphers, c) {
			return fmt.Errorf("cipher %04x is missing", c)
		}
	}
	for _, v := range t.Versions {
		if v != GREASE && v != 0x0304 && v != 0x0303 {
			return fmt.Errorf("version %04x cannot be spoken", v)
		}
	}
	if !slices.Contains(t.Versions, 0x0304) {
		return errors.New("TLS 1.3 is missing")
	}
	for _, s := range t.Shares {
		if !slices.Contains(t.Groups, s) {
			return fmt.Errorf("the share's group %04x is not among the groups", s)
		}
		if !slices.Contains(Codes{GREASE, GroupHybrid, GroupX25519, GroupP256, GroupP384, GroupP521}, s) {
			return fmt.Errorf("a share of group %04x cannot be made", s)
		}
	}
	// The stack keeps the first of the plain shares' keys; it must be x25519.
	plain := slices.DeleteFunc(slices.Clone(t.Shares), func(s uint16) bool { return s == GREASE || s == GroupHybrid })
	if len(plain) == 0 || plain[0] != GroupX25519 {
		return errors.New("x25519 is not the first plain share")
	}
	if t.Reuse && !slices.Contains(t.Shares, GroupHybrid) {
		return errors.New("there is no hybrid share to use the x25519 key again")
	}
	for _, c := range t.CertComp {
		if c < 1 || c > 3 {
			return fmt.Errorf("certificate compression %04x cannot be undone", c)
		}
	}
	if len(t.ALPN) == 0 || len(t.ALPN) > 8 {
		return errors.New("alpn has no entry, or more than 8")
	}
	for _, p := range t.ALPN {
		if p != "h2" && p != "http/1.1" {
			return fmt.Errorf("protocol %q cannot be spoken", p)
		}
	}
	if e := t.ECH; e != nil {
		if e.KDF != 1 || len(e.AEADs) == 0 || slices.ContainsFunc(e.AEADs, func(a uint16) bool { return a < 1 || a > 3 }) {
			return errors.New("ech: its algorithms are not those of RFC 9180")
		}
		if len(e.Payloads) == 0 || len(e.Payloads) > maxCodes || slices.ContainsFunc(e.Payloads, func(n int) bool { return n < 17 || n > maxPayload }) {
			return fmt.Errorf("ech: payloads are not 1..%d lengths in 17..%d", maxCodes, maxPayload)
		}
		if e.Step < 0 || e.Step > 256 {
			return errors.New("ech: step is not in 0..256")
		}
	}
	if err := t.checkExtensions(t.Extensions, false); err != nil {
		return fmt.Errorf("extensions: %w", err)
	}
	if err := t.checkExtensions(t.Resumed, true); err != nil {
		return fmt.Errorf("resumed: %w", err)
	}
	size := 0
	for id, body := range t.Fixed {
		if !slices.Contains(t.Extensions, id) && !slices.Contains(t.Resumed, id) {
			return fmt.Errorf("fixed: extension %04x is in no hello", id)
		}
		size += len(body)
		if len(body) > maxFixed || size > maxHello {
			return errors.New("fixed: the bodies are too long")
		}
		// A body that the stack writes itself must be the one that it writes.
		if want, ok := known[id]; ok && !bytes.Equal(body, want) {
			return fmt.Errorf("fixed: extension %04x is not %x", id, want)
		}
	}
	if alps, ok := t.Fixed[ExtALPS]; ok {
		if list, ok := names(alps); !ok || len(list) != 1 || list[0] != "h2" {
			return errors.New("fixed: application settings are of something else than h2")
		}
	}
	return nil
}

// known are the only bodies that make sense, or that the stack can speak.
var known = Bodies{
	ExtStatusRequest:   {1, 0, 0, 0, 0},
	ExtPointFormats:    {1, 0},
	ExtSCT:             {},
	ExtExtendedMaster:  {},
	ExtRecordSizeLimit: {0x40, 1}, // what TLS 1.3 has anyway; less would have to be obeyed
	ExtSessionTicket:   {},
	ExtPSKModes:        {1, 1}, // psk_dhe_ke alone: the tunnel's key is a fresh one
	ExtRenegotiation:   {0},
}

// drawn are the extensions whose bodies are made from the other fields, or for each
// connection.
var drawn = Codes{ExtServerName, ExtSupportedGroups, ExtSignatureAlgorithms, ExtALPN, ExtCompressCertificate,
	ExtPreSharedKey, ExtSupportedVersions, ExtKeyShare, ExtECH}

func (t *TLS) checkExtensions(ids Codes, resumed bool) error {
	if len(ids) == 0 || len(ids) > maxCodes {
		return fmt.Errorf("%d entries are not 1..%d", len(ids), maxCodes)
	}
	inner := ids
	if resumed {
		if inner = ids[:len(ids)-1]; ids[len(ids)-1] != ExtPreSharedKey {
			return errors.New("the pre-shared key is not the last")
		}
	}
	seen := map[uint16]bool{}
	for i, id := range inner {
		_, fixed := t.Fixed[id]
		switch {
		case id == GREASE:
			if i != 0 && i != len(inner)-1 {
				return errors.New("grease is neither first nor last")
			}
			continue
		case seen[id]:
			return fmt.Errorf("extension %04x is there twice", id)
		case id == ExtPreSharedKey || slices.Contains(refused, id):
			return fmt.Errorf("extension %04x cannot be spoken", id)
		case fixed == slices.Contains(drawn, id):
			return fmt.Errorf("extension %04x must be either fixed or drawn", id)
		case id == ExtCompressCertificate && len(t.CertComp) == 0, id == ExtECH && t.ECH == nil:
			return fmt.Errorf("extension %04x has no content", id)
		}
		seen[id] = true
	}
	for _, id := range []uint16{ExtServerName, ExtSupportedGroups, ExtSignatureAlgorithms, ExtALPN, ExtSupportedVersions, ExtPSKModes, ExtKeyShare} {
		if !seen[id] {
			return fmt.Errorf("extension %04x is missing", id)
		}
	}
	return nil
}

func (h *HTTP) check() error {
	if len(h.Settings) == 0 || len(h.Settings) > maxCodes {
		return errors.New("settings are missing or too many")
	}
	if h.ConnWindow < 1<<16 || h.ConnWindow >= 1<<31-1<<16 || h.StreamWindow < 1<<14 || h.StreamWindow >= 1<<31 {
		return errors.New("a window is not in 64 KiB..2 GiB, or 16 KiB..2 GiB for a stream")
	}
	if h.First%2 == 0 || h.First > 63 {
		return errors.New("the first stream's number is not odd and below 64")
	}
	p := slices.Clone(h.Pseudo)
	slices.Sort(p)
	if !slices.Equal(p, []string{":authority", ":method", ":path", ":scheme"}) {
		return errors.New("pseudo does not have :method, :authority, :scheme and :path")
	}
	for _, seconds := range []int{h.SmallUpdate, h.PingRequest, h.PingIdle} {
		if seconds < 0 || seconds > 3600 {
			return errors.New("a time is not in 0..3600 s")
		}
	}
	if h.RequestWindow >= 1<<31-h.StreamWindow {
		return errors.New("a stream's window passes 2 GiB")
	}
	lists := [][]Field{h.Navigate, h.Reload, h.HTTP1}
	for kind, list := range h.Fetch {
		if !slices.Contains([]string{"style", "script", "image", "follow"}, kind) || len(list) == 0 {
			return fmt.Errorf("fetch: no request is %q", kind)
		}
		lists = append(lists, list)
	}
	for _, list := range lists {
		if len(list) > maxFields {
			return fmt.Errorf("more than %d header fields", maxFields)
		}
		for _, f := range list {
			bad := func(r rune) bool { return r < ' ' || r > '~' }
			if f.Name == "" || len(f.Name)+len(f.Value) > maxField || strings.ContainsAny(f.Name, " :") ||
				strings.ContainsFunc(f.Name, bad) || strings.ContainsFunc(f.Value, bad) {
				return errors.New("a header field is none")
			}
		}
	}
	if len(h.Navigate) == 0 || len(h.Reload) == 0 || len(h.HTTP1) == 0 {
		return errors.New("navigate, reload or http1 is empty")
	}
	return nil
}
