// Package vectors_test checks the hellos, tokens and bundles of this directory, which
// a second implementation wrote, in both directions. The vectors of the mirror
// transport are checked beside its code.
package vectors_test

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/ed25519"
	"encoding/binary"
	"encoding/hex"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"testing"

	"busel/config"
	"busel/internal/wire"
)

func read(t *testing.T, name string) []map[string]string {
	t.Helper()
	raw, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	var all []map[string]string
	for paragraph := range strings.SplitSeq(string(raw), "\n\n") {
		v := map[string]string{}
		for line := range strings.Lines(paragraph) {
			if !strings.HasPrefix(line, "#") {
				key, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
				v[key] = value
			}
		}
		if v["kind"] != "" {
			all = append(all, v)
		}
	}
	if len(all) == 0 {
		t.Fatalf("no vector in %s", name)
	}
	return all
}

func unhex(t *testing.T, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil || len(b) == 0 {
		t.Fatalf("%q: %v", s, err)
	}
	return b
}

func number(t *testing.T, s string) uint64 {
	t.Helper()
	n, err := strconv.ParseUint(s, 10, 32)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestToken(t *testing.T) {
	for _, v := range read(t, "token.txt") {
		key, want := config.TokenKey(unhex(t, v["key"])), unhex(t, v["token"])
		got := config.MakeToken(key, [8]byte(unhex(t, v["id"])), uint16(number(t, v["expiry"])))
		if !bytes.Equal(got[:], want) {
			t.Errorf("expiry %s: %x, want %x", v["expiry"], got[:], want)
		}
		if !config.VerifyToken(key, got) {
			t.Errorf("expiry %s: does not verify", v["expiry"])
		}
	}
}

// A hello with sealed frames: nonce and additional data are those of
// docs/PROTOCOL.md, section 10.1, and the frames within are whole.
func TestResume(t *testing.T) {
	for _, v := range read(t, "resume.txt") {
		raw := unhex(t, v["hello"])
		h, err := wire.ParseHello(raw)
		if err != nil {
			t.Fatal(err)
		}
		header := h.AppendHeader(nil)
		if h.Mode != wire.ModeResume || uint64(h.Carrier) != number(t, v["carrier"]) || !bytes.Equal(header, unhex(t, v["header"])) {
			t.Errorf("the hello is read as %v", h)
		}
		if !bytes.Equal(h.Append(nil), raw) {
			t.Error("the hello encodes to other bytes")
		}
		if got := binary.BigEndian.Uint32(h.SealedFrames); uint64(got) != number(t, v["number"]) {
			t.Errorf("key number %d", got)
		}
		block, err := aes.NewCipher(unhex(t, v["key"]))
		if err != nil {
			t.Fatal(err)
		}
		aead, err := cipher.NewGCM(block)
		if err != nil {
			t.Fatal(err)
		}
		nonce := binary.BigEndian.AppendUint32(make([]byte, 8), h.Carrier)
		frames, err := aead.Open(nil, nonce, h.SealedFrames[4:], header)
		if err != nil || !bytes.Equal(frames, unhex(t, v["frames"])) {
			t.Fatalf("opened to %x, %v", frames, err)
		}
		for i := 0; len(frames) > 0; i++ {
			var f wire.Frame
			n, err := wire.Parse(frames, &f)
			if err != nil {
				t.Fatal(err)
			}
			if i == 0 && (f.Type != wire.Carrier || f.ID != uint64(h.Carrier) || f.State != wire.CarrierActive) {
				t.Errorf("the first frame is %+v", f)
			}
			frames = frames[n:]
		}
	}
}

func TestBundle(t *testing.T) {
	for _, v := range read(t, "bundle.txt") {
		raw := unhex(t, v["bundle"])
		b, err := config.ParseBundle(raw)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(b.Append(nil), raw) {
			t.Error("bundle encodes to other bytes")
		}
		if uint64(b.Sequence) != number(t, v["sequence"]) || uint64(len(b.Relays)) != number(t, v["relays"]) {
			t.Errorf("sequence %d, %d relays", b.Sequence, len(b.Relays))
		}
		if b.Text() != v["text"] {
			t.Errorf("text %s, want %s", b.Text(), v["text"])
		}
		if parsed, err := config.ParseText(v["text"]); err != nil || !parsed.Equal(b) {
			t.Errorf("text: %v", err)
		}
		var frames []string
		for i := 1; v["frame_"+strconv.Itoa(i)] != ""; i++ {
			frames = append(frames, v["frame_"+strconv.Itoa(i)])
		}
		if len(raw) <= 300 {
			if len(frames) != 0 || !slices.Equal(b.Codes(), []string{v["text"]}) {
				t.Error("a short bundle has frames")
			}
		} else {
			if !slices.Equal(b.Codes(), frames) {
				t.Errorf("frames %q, want %q", b.Codes(), frames)
			}
			if parsed, err := config.ParseText(strings.Join(frames, "\n")); err != nil || !parsed.Equal(b) {
				t.Errorf("frames: %v", err)
			}
		}
		// Ed25519 is deterministic: signing again gives the same bundle.
		again, err := config.Sign(ed25519.NewKeyFromSeed(unhex(t, v["issuer_seed"])), b.Sequence, b.Relays...)
		if err != nil || !again.Equal(b) {
			t.Errorf("signed again: %v", err)
		}
	}
}

// The second implementation still writes the vectors that are committed, and
// passes the vectors of the specifications that it is written from.
func TestVectorsAreGenerated(t *testing.T) {
	python, err := exec.LookPath("python3")
	if err != nil {
		t.Skip("python3 is not installed: the vectors are not generated again")
	}
	if out, err := exec.Command(python, "gen.py", "--check").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}
