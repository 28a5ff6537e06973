package main

import (
	"crypto/ed25519"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"busel/config"
	"busel/internal/cli"
	"busel/internal/flow"
	"busel/obfs/look"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"client": func() { os.Exit(cli.Start(program())) }})
}

// TestScripts runs testdata/*.txt. Each finds an invite in the file invite, and
// the same one with line breaks, with one digit changed, and cut short; and a
// newer one of 3 relays in the file long, its frames, and a picture of them.
func TestScripts(t *testing.T) {
	text, long := testInvite(t, 1, 7).Text(), testInvite(t, 3, 8)
	middle := len(text) / 2
	other := byte('A')
	if text[middle] == other {
		other = 'B'
	}
	files := map[string]string{
		"invite":    text + "\n",
		"spaced":    "Forwarded from a friend:\n\"" + strings.ToLower(text[:40]) + "\n " + text[40:middle] + "\r\n" + text[middle:] + "\"\n",
		"damaged":   text[:middle] + string(other) + text[middle+1:],
		"truncated": text[:len(text)-20],
		"long":      long.Text() + "\n",
	}
	for i, code := range long.Codes() {
		files["part"+strconv.Itoa(i+1)] = code
	}
	picture, err := config.QRPNG(long)
	if err != nil {
		t.Fatal(err)
	}
	signer := ed25519.NewKeyFromSeed(make([]byte, 32))
	bundle, err := testLooks(t).Sign(signer)
	if err != nil {
		t.Fatal(err)
	}
	files["bundle"] = string(bundle)
	files["changed"] = strings.Replace(string(bundle), "chromium-160", "chromium-161", 1)
	files["trusting.toml"] = fmt.Sprintf("[look]\nkeys = [\"%x\"]\n", signer.Public())
	files["long.png"] = string(picture)
	files["cut.png"] = string(picture[:len(picture)/2])
	testscript.Run(t, testscript.Params{Dir: "testdata", Setup: func(env *testscript.Env) error {
		for name, content := range files {
			if err := os.WriteFile(filepath.Join(env.WorkDir, name), []byte(content), 0o600); err != nil {
				return err
			}
		}
		return nil
	}})
}

// testLooks is a bundle with a new look of Chromium in the place of the built-in one.
func testLooks(t *testing.T) *look.Bundle {
	t.Helper()
	shipped, err := look.Shipped()
	if err != nil {
		t.Fatal(err)
	}
	l := *shipped[0]
	l.Name = "chromium-160"
	return &look.Bundle{Sequence: 3, Looks: []*look.Look{&l}, Retired: []string{shipped[0].Name}}
}

// testInvite is an invite of that many relays.
func testInvite(t *testing.T, relays int, sequence uint32) *config.Bundle {
	t.Helper()
	address, err := flow.SplitHostPort("127.0.0.1:8443")
	if err != nil {
		t.Fatal(err)
	}
	entries := slices.Repeat([]config.RelayEntry{{
		Addresses:  []flow.Addr{address},
		Key:        [32]byte{9},
		CoverName:  "news.example.org",
		CertHash:   [32]byte{1, 2, 3},
		Transports: []config.Transport{{Name: "mirror"}},
	}}, relays)
	b, err := config.Sign(ed25519.NewKeyFromSeed(make([]byte, 32)), sequence, entries...)
	if err != nil {
		t.Fatal(err)
	}
	return b
}
