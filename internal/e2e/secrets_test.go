//go:build linux

package e2e

import (
	"encoding/base32"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"

	"busel/config"
)

// secrets are words that no log of any test may hold, and what they are. Logs
// are on level info, as residents and volunteers have them.
var secrets sync.Map

// patterns of what a log must not tell, whoever it is about.
var patterns = map[string]*regexp.Regexp{
	"an IPv4 address":   regexp.MustCompile(`\b\d{1,3}(\.\d{1,3}){3}\b`),
	"an IPv6 address":   regexp.MustCompile(`::[0-9a-f]|[0-9a-f]::|(\b[0-9a-f]{1,4}:){4}`),
	"a host name":       regexp.MustCompile(`(?i)\b(localhost|[a-z0-9-]+\.(test|invalid|example|org|com|net))\b`),
	"an invite":         regexp.MustCompile(`(?i)busel:[a-z2-7]`),
	"a long hex number": regexp.MustCompile(`(?i)\b[0-9a-f]{24,}\b`),
	"a long base 64":    regexp.MustCompile(`[0-9A-Za-z+/_-]{32,}`),
}

// tells says what a log gives away, "" if nothing.
func tells(log string) (what string) {
	for name, p := range patterns {
		if word := p.FindString(log); word != "" {
			return name + ": " + word
		}
	}
	lower := strings.ToLower(log)
	secrets.Range(func(word, name any) bool {
		if strings.Contains(lower, word.(string)) {
			what = name.(string)
		}
		return what == ""
	})
	return what
}

// TestTells checks the check.
func TestTells(t *testing.T) {
	secret := []byte("0123456789abcdef0123456789abcdef")
	hide("a token", secret)
	for _, line := range []string{
		`dial tcp 192.0.2.1:443: refused`, `read [::1]:443`, `dial 2001:db8:1:2:3:4:5:6`, `lookup www.example.org`,
		`took BUSEL:AEBA`, hex.EncodeToString(secret), base32.StdEncoding.EncodeToString(secret[:10]),
		base64.StdEncoding.EncodeToString(secret),
	} {
		if tells(line) == "" {
			t.Errorf("%q tells nothing", line)
		}
	}
	for _, line := range []string{
		`{"time":"2026-11-21T23:46:07.123456789Z","level":"INFO","msg":"connected to the relay","relay":"r1","transport":"mirror","took":12000000}`,
		`{"time":"2026-11-21T23:46:07.123456789+01:00","level":"WARN","msg":"could not reach the relay","failure":"closed-early","stage":"hello"}`,
	} {
		if what := tells(line); what != "" {
			t.Errorf("%q tells %s", line, what)
		}
	}
}

// hide makes a secret one that no log may hold, in the usual encodings; a
// prefix of 10 bytes is enough of it.
func hide(name string, secret []byte) {
	secret = secret[:min(len(secret), 10)]
	for _, word := range []string{
		hex.EncodeToString(secret),
		base32.StdEncoding.EncodeToString(secret),
		base64.StdEncoding.EncodeToString(secret)[:13],
	} {
		secrets.Store(strings.ToLower(word), name)
	}
}

// keepSecret hides all keys of a relay's directory.
func keepSecret(t *testing.T, dir string) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*.key"))
	if err != nil || len(files) < 3 {
		t.Fatalf("keys in %s: %v, %v", dir, files, err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		block, _ := pem.Decode(text)
		if block == nil || len(block.Bytes) < 32 {
			t.Fatalf("%s is not a key", file)
		}
		hide(filepath.Base(file), block.Bytes[len(block.Bytes)-32:])
	}
}

// invitation parses an invite and hides what is in it.
func invitation(t *testing.T, text string) *config.RelayEntry {
	t.Helper()
	b, err := config.ParseText(text)
	if err != nil {
		t.Fatal(err)
	}
	e := &b.Relays[0]
	hide("an invite's token", e.Token[:])
	hide("an invite's key", e.Key[:])
	return e
}
