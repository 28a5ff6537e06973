package look

import (
	"slices"

	"busel/obfs/records"
)

// trustAnchors156 are the ids in Chromium 156's component of November 2026,
// 28 of them, sorted: relative object identifiers of root certificates.
var trustAnchors156 = anchors(
	group{"\x82\xdf\x13\x02", []string{"\x01", "\x06", "\x0d", "\x0e", "\x0f", "\x12", "\x13", "\x14"}},
	group{"\x83\x9a\x64\x8c\x9b\x2d\x01", []string{"\x07", "\x08", "\x09", "\x0a", "\x0b", "\x0c", "\x0d", "\x12", "\x13"}},
	group{"\xd6\x79\x09", []string{"\x01", "\x04", "\x05", "\x06", "\x07", "\x08", "\x0a", "\x0b", "\x0c", "\x0d", "\x0f"}},
)

// group is an owner's arc and the last parts of its ids.
type group struct {
	arc  string
	last []string
}

// anchors encodes a TrustAnchorIdentifierList.
func anchors(groups ...group) []byte {
	var b []byte
	for _, g := range groups {
		for _, l := range g.last {
			b = append(b, byte(len(g.arc)+len(l)))
			b = append(b, g.arc...)
			b = append(b, l...)
		}
	}
	return append([]byte{byte(len(b) >> 8), byte(len(b))}, b...)
}

// Chromium156 is Chromium 156 on Linux with a fresh profile, as measured in
// November 2026: JA4
// t13d1517h2_8daaf6152771_cb7bf5808d99. The result is the caller's.
func Chromium156() *Look {
	const (
		accept = "text/html,application/xhtml+xml,application/xml;q=0.9,image/jxl,image/avif,image/webp,image/apng,*/*;q=0.8,application/signed-exchange;v=b3;q=0.7"
		agent  = "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/156.0.0.0 Safari/537.36"
	)
	navigate := []Field{
		{"sec-ch-ua", `"Not:A-Brand";v="8", "Chromium";v="156"`},
		{"sec-ch-ua-mobile", "?0"},
		{"sec-ch-ua-platform", `"Linux"`},
		{"upgrade-insecure-requests", "1"},
		{"user-agent", agent},
		{"accept", accept},
		{"sec-fetch-site", "none"},
		{"sec-fetch-mode", "navigate"},
		{"sec-fetch-user", "?1"},
		{"sec-fetch-dest", "document"},
		{"accept-encoding", "gzip, deflate, br, zstd"},
		{"accept-language", "en-US,en;q=0.9"},
		{"priority", "u=0, i"},
	}
	return &Look{
		Name: "chromium-156",
		TLS: TLS{
			Ciphers: []uint16{GREASE, 0x1301, 0x1302, 0x1303, 0xc02b, 0xc02f, 0xc02c, 0xc030,
				0xcca9, 0xcca8, 0xc013, 0xc014, 0x009c, 0x009d, 0x002f, 0x0035},
			Groups: []uint16{GREASE, 0x11ec, 0x001d, 0x0017, 0x0018},
			Shares: []uint16{GREASE, 0x11ec, 0x001d},
			// ML-DSA is offered though nobody has such a certificate yet.
			Signatures:   []uint16{GREASE, 0x0904, 0x0905, 0x0906, 0x0403, 0x0804, 0x0401, 0x0503, 0x0805, 0x0501, 0x0806, 0x0601},
			Versions:     []uint16{GREASE, 0x0304, 0x0303},
			ALPN:         []string{"h2", "http/1.1"},
			ALPS:         []string{"h2"},
			CertComp:     []uint16{2}, // brotli
			TrustAnchors: slices.Clone(trustAnchors156),
			Extensions: []uint16{GREASE, ExtServerName, ExtExtendedMaster, ExtRenegotiation, ExtSupportedGroups,
				ExtPointFormats, ExtSessionTicket, ExtALPN, ExtStatusRequest, ExtSignatureAlgorithms, ExtSCT,
				ExtKeyShare, ExtPSKModes, ExtSupportedVersions, ExtCompressCertificate, ExtALPS, ExtTrustAnchors,
				ExtECH, GREASE},
			Permute: true,
		},
		HTTP: HTTP{
			Settings:     []Setting{{1, 65536}, {2, 0}, {4, 6291456}, {6, 262144}},
			ConnWindow:   15663105,
			StreamWindow: 6291456,
			Weight:       255,
			Exclusive:    true,
			Pseudo:       []string{":method", ":authority", ":scheme", ":path"},
			Navigate:     navigate,
			Reload:       append([]Field{{"cache-control", "max-age=0"}}, navigate...),
			HTTP1:        []Field{{"Connection", "keep-alive"}},
		},
		// Full records and the rest: 304 of 305 in an upload of 5 MB to nginx.
		Upload: records.Cycle{},
	}
}
