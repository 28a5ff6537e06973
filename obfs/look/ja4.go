package look

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
)

// JA4 is FoxIO's fingerprint of a ClientHello over TCP, with a server's name, that
// has the extensions ids of the form. GREASE is left out of signature algorithms, too.
func (t *TLS) JA4(ids Codes) string {
	words := func(c Codes) (out []string) {
		for _, v := range c {
			if v != GREASE {
				out = append(out, fmt.Sprintf("%04x", v))
			}
		}
		return out
	}
	hash := func(s string) string {
		h := sha256.Sum256([]byte(s))
		return hex.EncodeToString(h[:])[:12]
	}
	version := "00"
	for v, name := range map[uint16]string{0x0304: "13", 0x0303: "12"} {
		if slices.Contains(t.Versions, v) && name > version {
			version = name
		}
	}
	alpn := "00"
	if len(t.ALPN) > 0 {
		p := t.ALPN[0]
		alpn = p[:1] + p[len(p)-1:]
	}
	ciphers, all := words(t.Ciphers), words(ids)
	rest := slices.DeleteFunc(slices.Clone(all), func(w string) bool { return w == "0000" || w == "0010" })
	slices.Sort(ciphers)
	slices.Sort(rest)
	return fmt.Sprintf("t%sd%02d%02d%s_%s_%s", version, len(ciphers), len(all), alpn,
		hash(strings.Join(ciphers, ",")), hash(strings.Join(rest, ",")+"_"+strings.Join(words(t.Signatures), ",")))
}

// JA4 is the fingerprint of the hello itself.
func (h *Hello) JA4() string {
	ids := h.TLS.Extensions
	if h.Resumed {
		ids = append(slices.Clone(ids), ExtPreSharedKey)
	}
	return h.TLS.JA4(ids)
}
