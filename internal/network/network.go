package network

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base32"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"
)

// ID names a network: 16 characters of base32 in lower case, or [Offline].
type ID string

// Offline is the name of having no network but loopback.
const Offline ID = "offline"

// Kind is what a link is made of, as far as the system says.
type Kind string

// Kinds of a link.
const (
	Unknown Kind = ""
	Wired   Kind = "wired"
	WiFi    Kind = "wifi"
	Mobile  Kind = "mobile"
	Tunnel  Kind = "tunnel"
)

// Link is a network interface that is up and has addresses.
type Link struct {
	Name     string // the system's: "eth0"; empty if it does not say
	Kind     Kind
	Prefixes []netip.Prefix // its addresses, unmasked; no link-local ones
	Gateways []netip.Addr   // of its default routes; none on a point-to-point link
}

// Snapshot is the links that lead to the internet, or if none does all but
// loopback, by name. It is empty without a network.
type Snapshot struct{ Links []Link }

// State is what a [Watcher] knows.
type State struct {
	ID ID
	// Up says that a link other than loopback has an address. It does not say
	// that anything answers.
	Up bool
}

func (s Snapshot) state(salt []byte) State {
	if len(s.Links) == 0 {
		return State{ID: Offline}
	}
	return State{ID: s.id(salt), Up: true}
}

// id is independent of the order in which the system lists things.
func (s Snapshot) id(salt []byte) ID {
	var lines []string
	for _, l := range s.Links {
		lines = append(lines, l.text())
	}
	slices.Sort(lines)
	h := hmac.New(sha256.New, salt)
	_, _ = io.WriteString(h, "busel network 1\n"+strings.Join(lines, "\n"))
	return ID(strings.ToLower(base32.StdEncoding.EncodeToString(h.Sum(nil)[:10])))
}

// text is what identifies a network at this link.
func (l Link) text() string {
	if l.Kind == Mobile {
		return string(Mobile)
	}
	var words []string
	has4 := slices.ContainsFunc(l.Prefixes, is4)
	for _, p := range l.Prefixes {
		if is4(p) || !has4 {
			words = append(words, p.Masked().String())
		}
	}
	for _, g := range l.Gateways {
		// A router's link-local address stays, a global one is its provider's.
		if g.Is4() || g.IsLinkLocalUnicast() || !has4 {
			words = append(words, "via "+g.WithZone("").String())
		}
	}
	slices.Sort(words)
	return fmt.Sprintf("%q %q", l.Kind, slices.Compact(words))
}

func is4(p netip.Prefix) bool { return p.Addr().Is4() }

// moved reports whether carriers may be affected by what is different in now: an
// address went away, a link, a gateway or a network came or went. Another
// address in a network that was there, as a temporary one of IPv6, is nothing.
func (s Snapshot) moved(now Snapshot) bool {
	return !slices.EqualFunc(s.Links, now.Links, func(a, b Link) bool {
		if a.Name != b.Name || !slices.Equal(a.Gateways, b.Gateways) {
			return false
		}
		for _, p := range a.Prefixes {
			if !slices.Contains(b.Prefixes, p) {
				return false
			}
		}
		for _, p := range b.Prefixes {
			if !slices.ContainsFunc(a.Prefixes, func(old netip.Prefix) bool { return old.Masked() == p.Masked() }) {
				return false
			}
		}
		return true
	})
}
