package packet

import (
	"bytes"
	"encoding/hex"
	"errors"
	"os"
	"path/filepath"
	"testing"
)

// readHex reads the lines of a file in testdata. The hellos of Chromium 156
// were recorded in November 2026 on Debian 12, from a fresh profile that
// visited https://www.listed.example/.
func readHex(t testing.TB, name string) [][]byte {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	var all [][]byte
	for line := range bytes.Lines(text) {
		b, err := hex.DecodeString(string(bytes.TrimSpace(line)))
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, b)
	}
	return all
}

// Golden hellos: RFC 9001 appendix A.2, and what FINGERPRINTS measured of
// Chromium 156 with other means.
func TestHellos(t *testing.T) {
	fromTLS := func(in [][]byte) ([]byte, error) { return Handshake(in[0], false) }
	fromQUIC := func(in [][]byte) (message []byte, err error) {
		var q Initials
		for _, d := range in {
			message, err = q.Add(d)
		}
		return message, err
	}
	for _, tt := range []struct {
		file, sni, ja4 string
		alpn           string
		quic           bool
	}{
		{"chromium156-tls.hex", "www.listed.example", "t13d1517h2_8daaf6152771_cb7bf5808d99", "h2", false},
		{"chromium156-quic.hex", "www.listed.example", "q13d0312h3_55b375c5d22e_178839b6cec1", "h3", true},
		{"rfc9001-client-initial.hex", "example.com", "q13d0211an_62ed6f6ca7ad_4d634acda6c0", "alpn", true},
	} {
		read := fromTLS
		if tt.quic {
			read = fromQUIC
		}
		message, err := read(readHex(t, tt.file))
		if err != nil {
			t.Errorf("%s: %v", tt.file, err)
			continue
		}
		h, err := ParseHello(message)
		if err != nil {
			t.Errorf("%s: %v", tt.file, err)
			continue
		}
		if h.SNI != tt.sni || h.ALPN[0] != tt.alpn || h.JA4(tt.quic) != tt.ja4 {
			t.Errorf("%s: SNI %q, ALPN %q, JA4 %s", tt.file, h.SNI, h.ALPN, h.JA4(tt.quic))
		}
	}
}

// An observer who puts nothing together sees the hello of the RFC and not that
// of Chromium, who splits it over frames and datagrams (row C3).
func TestPlainInitial(t *testing.T) {
	for file, want := range map[string]error{"rfc9001-client-initial.hex": nil, "chromium156-quic.hex": ErrMore} {
		var q Initials
		if _, err := q.Add(readHex(t, file)[0]); err != want {
			t.Errorf("%s: first datagram: %v", file, err)
		}
		if _, err := q.Plain(); !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", file, err, want)
		}
	}
}

// The initial keys of RFC 9369 differ from those of version 1 in salt and
// labels; its appendix A.1 has the iv.
func TestKeysOfVersion2(t *testing.T) {
	dcid, err := hex.DecodeString("8394c8f03e515708")
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		version *quicVersion
		iv      string
	}{
		{&quic1, "fa044b2f42a3fd3b46fb255c"},
		{&quic2, "91f73e2351d8fa91660e909f"},
	} {
		k, err := newInitialKeys(tt.version, dcid)
		if err != nil {
			t.Fatal(err)
		}
		if got := hex.EncodeToString(k.iv); got != tt.iv {
			t.Errorf("iv %s, want %s", got, tt.iv)
		}
	}
}
