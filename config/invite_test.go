package config

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"busel/internal/flow"
	"busel/internal/wire"
)

var update = flag.Bool("update", false, "write the golden vectors anew")

func testIssuer(n byte) ed25519.PrivateKey {
	seed := sha256.Sum256([]byte{'i', n})
	return ed25519.NewKeyFromSeed(seed[:])
}

// usualRelay is what a volunteer's relay usually has: a builtin or own cover
// with a pinned certificate and both address families.
func usualRelay() RelayEntry {
	return RelayEntry{
		Name: "Minsk stork",
		Addresses: []flow.Addr{
			{IP: netip.MustParseAddr("198.51.100.7"), Port: 443},
			{IP: netip.MustParseAddr("2001:db8::7"), Port: 443},
		},
		Key:        sha256.Sum256([]byte("relay key")),
		Token:      MakeToken(sha256.Sum256([]byte("token key")), [8]byte{1, 2, 3, 4, 5, 6, 7, 8}, 365),
		CoverName:  "news.example.org",
		CertHash:   sha256.Sum256([]byte("certificate")),
		Transports: []Transport{{Name: "mirror"}},
	}
}

func mustSign(t testing.TB, issuer byte, sequence uint32, relays ...RelayEntry) *Bundle {
	t.Helper()
	b, err := Sign(testIssuer(issuer), sequence, relays...)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// testBundles are bundles of every form.
func testBundles(t testing.TB) map[string]*Bundle {
	small := RelayEntry{
		Addresses:  []flow.Addr{{IP: netip.MustParseAddr("192.0.2.1"), Port: 1}},
		Key:        [32]byte{1},
		CoverName:  "a",
		Transports: []Transport{{Name: "mirror"}},
	}
	borrowed := usualRelay()
	borrowed.Proof, borrowed.CertHash, borrowed.Name = true, [32]byte{}, "Бусел"
	borrowed.Addresses = []flow.Addr{{Name: "relay.example.net", Port: 8443}}
	label := strings.Repeat("a", 63)
	large := RelayEntry{
		Proof: true, Name: strings.Repeat("n", MaxName), CoverName: strings.Join([]string{label, label, label, label[:61]}, "."),
		Key: [32]byte{2}, CertHash: [32]byte{3},
	}
	for i := range MaxAddresses {
		large.Addresses = append(large.Addresses, flow.Addr{Name: large.CoverName, Port: uint16(65535 - i)})
	}
	for i := range MaxTransports {
		large.Transports = append(large.Transports, Transport{strings.Repeat(string(rune('a'+i)), maxTransport), strings.Repeat("~", MaxOptions)})
	}
	return map[string]*Bundle{
		"usual":    mustSign(t, 1, 1, usualRelay()),
		"smallest": mustSign(t, 2, 0, small),
		"borrowed": mustSign(t, 3, 1<<32-1, borrowed),
		"three":    mustSign(t, 1, 7, usualRelay(), small, borrowed),
		"largest":  mustSign(t, 1, 7, large, large, large),
	}
}

func TestBundleRoundTrip(t *testing.T) {
	for name, b := range testBundles(t) {
		raw := b.Append(nil)
		back, err := ParseBundle(raw)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if !back.Equal(b) || !bytes.Equal(back.Append(nil), raw) {
			t.Errorf("%s: %+v became %+v", name, b, back)
		}
		fromText, err := ParseText(b.Text())
		if err != nil || !fromText.Equal(b) {
			t.Errorf("%s: text: %v", name, err)
		}
		if name == "largest" && len(raw) != maxBundle {
			t.Errorf("the largest bundle has %d bytes, maxBundle says %d", len(raw), maxBundle)
		}
	}
}

func TestUsualBundleIsSmall(t *testing.T) {
	// DESIGN.md section 9: a phone reads 300 bytes even at an angle.
	if n := len(mustSign(t, 1, 1, usualRelay()).Append(nil)) + checkLen; n > 300 {
		t.Errorf("%d bytes", n)
	}
}

// vector is one golden vector: everything in it is hexadecimal or text.
type vector struct {
	Name, Seed, Bundle, Text string
}

func TestGoldenBundles(t *testing.T) {
	bundles := testBundles(t)
	var want []vector
	for _, v := range []struct {
		name   string
		issuer byte
	}{{"usual", 1}, {"smallest", 2}, {"borrowed", 3}, {"three", 1}} {
		b := bundles[v.name]
		want = append(want, vector{v.name, hex.EncodeToString(testIssuer(v.issuer).Seed()), hex.EncodeToString(b.Append(nil)), b.Text()})
	}
	const file = "testdata/bundles.json"
	if *update {
		data, err := json.MarshalIndent(want, "", "  ")
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, append(data, '\n'), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var got []vector
	if err := json.Unmarshal(data, &got); err != nil {
		t.Fatal(err)
	}
	if len(got) != len(want) {
		t.Fatalf("%d vectors, want %d", len(got), len(want))
	}
	for i := range want {
		if got[i] != want[i] {
			t.Errorf("vector %s changed: a new form needs a new version\n got %+v\nwant %+v", want[i].Name, want[i], got[i])
		}
	}
}

func TestSignRefuses(t *testing.T) {
	for name, change := range map[string]func(*RelayEntry){
		"no address":        func(e *RelayEntry) { e.Addresses = nil },
		"five addresses":    func(e *RelayEntry) { e.Addresses = make([]flow.Addr, 5) },
		"port 0":            func(e *RelayEntry) { e.Addresses[0].Port = 0 },
		"twice":             func(e *RelayEntry) { e.Addresses[1] = e.Addresses[0] },
		"invalid address":   func(e *RelayEntry) { e.Addresses[0].IP = netip.Addr{} },
		"IP as a name":      func(e *RelayEntry) { e.Addresses[0] = flow.Addr{Name: "192.0.2.1", Port: 1} },
		"name in capitals":  func(e *RelayEntry) { e.Addresses[0] = flow.Addr{Name: "A.example", Port: 1} },
		"long name":         func(e *RelayEntry) { e.Name = strings.Repeat("n", MaxName+1) },
		"control in name":   func(e *RelayEntry) { e.Name = "a\x1b[31m" },
		"bidi in name":      func(e *RelayEntry) { e.Name = "a\u202eb" },
		"no UTF-8":          func(e *RelayEntry) { e.Name = "\xff" },
		"no cover":          func(e *RelayEntry) { e.CoverName = "" },
		"cover with port":   func(e *RelayEntry) { e.CoverName = "a.example:443" },
		"no transport":      func(e *RelayEntry) { e.Transports = nil },
		"transport twice":   func(e *RelayEntry) { e.Transports = append(e.Transports, e.Transports[0]) },
		"transport's name":  func(e *RelayEntry) { e.Transports[0].Name = "Mirror" },
		"transport options": func(e *RelayEntry) { e.Transports[0].Options = "a\n" },
	} {
		e := usualRelay()
		change(&e)
		if _, err := Sign(testIssuer(1), 1, e); err == nil {
			t.Errorf("%s was signed", name)
		}
	}
	if _, err := Sign(testIssuer(1), 1); err == nil {
		t.Error("a bundle without relays was signed")
	}
	e := usualRelay()
	if _, err := Sign(testIssuer(1), 1, e, e, e, e); err == nil {
		t.Error("a bundle of four relays was signed")
	}
}

// withCheck makes the text form of any bytes.
func withCheck(raw []byte) string {
	sum := sha256.Sum256(raw)
	return TextPrefix + encoding.EncodeToString(append(bytes.Clone(raw), sum[:checkLen]...))
}

func TestEveryFlippedBit(t *testing.T) {
	b := mustSign(t, 1, 1, usualRelay())
	raw := b.Append(nil)
	for i := range len(raw) * 8 {
		bad := bytes.Clone(raw)
		bad[i/8] ^= 1 << (i % 8)
		// A forger computes the check digits; only the signature stops him.
		if _, err := ParseText(withCheck(bad)); !errors.Is(err, ErrForged) && !errors.Is(err, ErrDamaged) && !errors.Is(err, ErrForeign) {
			t.Fatalf("bit %d: %v", i, err)
		}
	}
	text := b.Text()
	for i := len(TextPrefix); i < len(text); i++ {
		for _, c := range []byte("A7Q") {
			if text[i] == c {
				continue
			}
			bad := text[:i] + string(c) + text[i+1:]
			if _, err := ParseText(bad); !errors.Is(err, ErrDamaged) {
				t.Fatalf("character %d of %d: got %v, want damaged", i, len(text), err)
			}
		}
	}
	for i := len(TextPrefix); i < len(text); i++ {
		if _, err := ParseText(text[:i]); !errors.Is(err, ErrDamaged) || !errors.Is(err, errShort) {
			t.Fatalf("cut at %d of %d: got %v, want damaged, cut short", i, len(text), err)
		}
		if _, err := ParseText(text[:i] + text[i+1:]); !errors.Is(err, ErrDamaged) {
			t.Fatalf("without character %d of %d: got %v, want damaged", i, len(text), err)
		}
	}
}

func TestInviteErrors(t *testing.T) {
	b := mustSign(t, 1, 1, usualRelay())
	raw := b.Append(nil)
	forged := bytes.Clone(raw)
	forged[len(forged)-1] ^= 1
	newer := bytes.Clone(raw)
	newer[0] = 2
	flags := bytes.Clone(raw)
	flags[bundleHead] |= 4
	foreignSigner := mustSign(t, 2, 1, usualRelay())
	copy(foreignSigner.Signature[:], b.Signature[:])
	unlabelled := mustSign(t, 1, 1, usualRelay())
	copy(unlabelled.Signature[:], ed25519.Sign(testIssuer(1), unlabelled.appendSigned(nil)))
	other := mustSign(t, 2, 1, usualRelay())
	for _, test := range []struct {
		name, text string
		want       error
		says       string
	}{
		{"empty", "", ErrForeign, "paste the whole invite"},
		{"other tool", "vless://abc@198.51.100.7:443", ErrForeign, "paste the whole invite"},
		{"no prefix", b.Text()[len(TextPrefix):], ErrForeign, "begins with"},
		{"only prefix", "busel:", ErrDamaged, "ends inside its version"},
		{"a sentence", "busel: the stork", ErrDamaged, "it is no invite"},
		{"later version", withCheck(newer), ErrForeign, "get a newer Busel"},
		{"too much", strings.Repeat(" ", MaxText+1), ErrForeign, "paste only the invite"},
		{"cut", b.Text()[:140], ErrDamaged, "ends inside relay 1's key"},
		{"cut in the check digits", b.Text()[:len(b.Text())-2], ErrDamaged, "check digits"},
		{"changed", strings.Replace(b.Text(), b.Text()[60:62], "ZZ", 1), ErrDamaged, "check digits do not match"},
		{"unknown flag", withCheck(flags), ErrForeign, "relay 1's flags say what this version does not know"},
		{"wrong signature", withCheck(forged), ErrForged, "ask for a new one in person"},
		{"signed by another", foreignSigner.Text(), ErrForged, "do not use it"},
		{"signed without label", unlabelled.Text(), ErrForged, "do not use it"},
		{"two", b.Text() + "\n" + other.Text(), ErrForeign, "several invites"},
	} {
		_, err := ParseText(test.text)
		if !errors.Is(err, test.want) || !strings.Contains(err.Error(), test.says) {
			t.Errorf("%s: got %v, want %v with %q", test.name, err, test.want, test.says)
		}
		for _, kind := range []error{ErrForeign, ErrDamaged, ErrForged} {
			if kind != test.want && errors.Is(err, kind) {
				t.Errorf("%s: is %v too", test.name, kind)
			}
		}
	}
	if _, err := ParseBundle(append(raw, 0)); !errors.Is(err, ErrDamaged) {
		t.Errorf("a byte behind: %v", err)
	}
}

func TestTextNoise(t *testing.T) {
	b := mustSign(t, 1, 1, usualRelay())
	text := b.Text()
	every := func(n int, with string) string {
		var s strings.Builder
		for i, c := range text {
			if i > 0 && i%n == 0 {
				s.WriteString(with)
			}
			s.WriteRune(c)
		}
		return s.String()
	}
	for name, noisy := range map[string]string{
		"lower":          strings.ToLower(text),
		"upper":          strings.ToUpper(text),
		"lines":          every(40, "\r\n"),
		"spaces":         every(4, " "),
		"in the prefix":  every(3, "\n"),
		"tabs":           every(10, "\t"),
		"zero width":     every(5, "\u200b\u200d\ufeff\u00ad"),
		"nbsp":           every(8, "\u00a0\u202f\u2003"),
		"mail quotes":    "> " + every(60, "\n> "),
		"quotes":         "«" + text + "»",
		"code":           "```\n" + text + "\n```",
		"bold":           "**" + text + "**",
		"forwarded":      "Forwarded from Ivan\n" + text + "\nSent from my phone",
		"letters behind": text + "ABCDEFG234",
		"chatter before": "Busel: scan or paste this invite\nBUSEL:\n" + text,
		"twice":          text + "\n\n" + strings.ToLower(text),
		"direction":      "\u2066" + text + "\u2069",
		"Belarusian":     "Прывітанне! Вось запрашэнне: " + text + ". Трымайся!",
		"url":            "https://example.org/#" + text,
	} {
		got, err := ParseText(noisy)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if !got.Equal(b) {
			t.Errorf("%s: got another bundle", name)
		}
	}
}

func TestMerge(t *testing.T) {
	one, oneNewer, oneRival := mustSign(t, 1, 5, usualRelay()), mustSign(t, 1, 6, usualRelay()), mustSign(t, 1, 5, usualRelay(), usualRelay())
	two := mustSign(t, 2, 1, usualRelay())
	for _, test := range []struct {
		held   []*Bundle
		fresh  *Bundle
		at     int
		change Change
	}{
		{nil, one, 0, Added},
		{[]*Bundle{one}, two, 1, Added},
		{[]*Bundle{two, one}, oneNewer, 1, Replaced},
		{[]*Bundle{two, oneNewer}, one, 1, Outdated},
		{[]*Bundle{two, one}, one, 1, Known},
		{[]*Bundle{one}, oneRival, 0, Outdated},
	} {
		if at, change := Merge(test.held, test.fresh); at != test.at || change != test.change {
			t.Errorf("%+v: got %d, %v", test, at, change)
		}
	}
}

func TestTokens(t *testing.T) {
	key := TokenKey(sha256.Sum256([]byte("token key")))
	token := MakeToken(key, [8]byte{1, 2, 3, 4, 5, 6, 7, 8}, 365)
	// The MAC was computed with openssl dgst -sha256 -mac HMAC.
	const golden = "0102030405060708016d" + "6fb5386b15c0b84fa88746e39d4bf50a"
	if got := hex.EncodeToString(token[:]); got != golden {
		t.Errorf("got %s, want %s", got, golden)
	}
	if !VerifyToken(key, token) {
		t.Error("a token does not verify")
	}
	for i := range len(token) * 8 {
		bad := token
		bad[i/8] ^= 1 << (i % 8)
		if VerifyToken(key, bad) {
			t.Errorf("verifies with bit %d flipped", i)
		}
	}
	if VerifyToken(TokenKey{}, token) {
		t.Error("verifies under another key")
	}
	last := time.Date(2027, 1, 1, 23, 59, 59, 0, time.UTC) // day 365
	if Expired(token, last) || !Expired(token, last.Add(time.Second)) {
		t.Error("expires on another day")
	}
	if Expired(MakeToken(key, [8]byte{}, 0), last.AddDate(200, 0, 0)) {
		t.Error("a token for ever expires")
	}
}

func TestParseExpiry(t *testing.T) {
	now := time.Date(2026, 11, 21, 22, 0, 0, 0, time.FixedZone("", 3*3600))
	for _, test := range []struct {
		text string
		want uint16
		ok   bool
	}{
		{"never", 0, true},
		{"1d", 325, true},
		{"30d", 354, true},
		{"2w", 338, true},
		{"2026-11-21", 324, true},
		{"2026-11-20", 0, false},
		{"2205-06-07", 65535, true},
		{"2205-06-08", 0, false},
		{"0d", 0, false},
		{"-1d", 0, false},
		{"30", 0, false},
		{"d", 0, false},
		{"99999d", 0, false},
		{"65535w", 0, false},
		{"", 0, false},
		{"tomorrow", 0, false},
	} {
		got, err := ParseExpiry(test.text, now)
		if got != test.want || (err == nil) != test.ok {
			t.Errorf("%q: got %d, %v", test.text, got, err)
		}
	}
	// A relay whose clock stands still in 1970 must not make tokens for ever.
	if day, err := ParseExpiry("30d", time.Unix(0, 0)); err == nil {
		t.Errorf("1970: got day %d", day)
	}
}

func TestSecretsAreRedacted(t *testing.T) {
	b := mustSign(t, 1, 1, usualRelay())
	key := TokenKey{0xab, 0xcd}
	var out bytes.Buffer
	for _, h := range []slog.Handler{slog.NewTextHandler(&out, nil), slog.NewJSONHandler(&out, nil)} {
		log := slog.New(h)
		log.Info("x", "bundle", b, "copy", *b, "relay", b.Relays[0], "key", key, "token", b.Relays[0].Token)
	}
	for _, secret := range []string{"198.51", "db8", "news", "stork", "abcd", "171", "1,2,3,4", "01020304", hex.EncodeToString(b.Relays[0].Key[:4])} {
		if strings.Contains(strings.ToLower(out.String()), secret) {
			t.Errorf("%q in %s", secret, out.String())
		}
	}
}

// FuzzParseBundle demands that what parses encodes to the same bytes, and that
// no change of a signed bundle verifies.
func FuzzParseBundle(f *testing.F) {
	var originals [][]byte
	for _, b := range testBundles(f) {
		originals = append(originals, b.Append(nil))
		f.Add(b.Append(nil))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		// Unsigned bytes exercise the codec beyond what a signature lets through.
		if b, n, err := readBundle(data); err == nil && !bytes.Equal(b.Append(nil), data[:n]) {
			t.Fatalf("%x became %x", data[:n], b.Append(nil))
		}
		b, err := ParseBundle(data)
		if err != nil {
			if b != nil {
				t.Fatal("a bundle beside an error")
			}
			if !errors.Is(err, ErrForeign) && !errors.Is(err, ErrDamaged) && !errors.Is(err, ErrForged) {
				t.Fatalf("untyped error %v", err)
			}
			return
		}
		for _, original := range originals {
			if bytes.Equal(original, data) {
				return
			}
		}
		// The fuzzer can use an issuer key of its own, but not ours.
		for _, original := range originals {
			if bytes.HasPrefix(data, original[:1+ed25519.PublicKeySize]) {
				t.Fatal("a changed bundle verified")
			}
		}
	})
}

// FuzzParseText demands that what is read has one text form, which is read to
// the same; that noise inside an invite never makes another invite of it; and
// that noise behind it does no harm.
func FuzzParseText(f *testing.F) {
	for _, b := range testBundles(f) {
		f.Add(b.Text(), uint16(0))
		f.Add("> "+strings.ToLower(b.Text())+"\n> ok", uint16(7))
	}
	f.Add("busel:busel: AAAA\u200b", uint16(1000))
	codes := longBundle(f).Codes()
	f.Add(strings.Join(codes, "\n"), uint16(0))
	f.Add(codes[0]+" ok "+strings.ToLower(codes[0]), uint16(0))
	f.Add("busel/1/16:AAAA busel/02/3: busel/3/2:", uint16(3))
	usual := mustSign(f, 1, 1, usualRelay())
	f.Fuzz(func(t *testing.T, text string, at uint16) {
		if len(text) > MaxText/2 {
			return
		}
		b, err := ParseText(text)
		if err != nil {
			if !errors.Is(err, ErrForeign) && !errors.Is(err, ErrDamaged) && !errors.Is(err, ErrForged) && !errors.Is(err, ErrIncomplete) {
				t.Fatalf("untyped error %v", err)
			}
			if b, err = ParseText(usual.Text() + text); (err != nil || !b.Equal(usual)) && !errors.Is(err, errSeveral) {
				t.Fatalf("%q behind it: %v", text, err)
			}
			i := int(at) % len(usual.Text())
			if b, err = ParseText(usual.Text()[:i] + text + usual.Text()[i:]); err == nil && !b.Equal(usual) {
				t.Fatalf("%q at %d made another invite", text, i)
			}
			return
		}
		again, err := ParseText(b.Text())
		if err != nil || again.Text() != b.Text() {
			t.Fatalf("%q: %v", b.Text(), err)
		}
		clean := strings.Map(dropNoise, text)
		if strings.Contains(clean, strings.ToUpper(b.Text())) {
			return
		}
		for _, code := range b.Codes() {
			if !strings.Contains(clean, strings.ToUpper(code)) {
				t.Fatalf("%q is not in the input", code)
			}
		}
	})
}

// TestMutationsNeverVerify changes a bundle at random in ways that keep its form
// more often than flipped bits do.
func TestMutationsNeverVerify(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	b := mustSign(t, 1, 1, usualRelay(), usualRelay())
	for i := range 400 {
		changed := &Bundle{Issuer: b.Issuer, Sequence: b.Sequence, Signature: b.Signature, Relays: []RelayEntry{usualRelay(), usualRelay()}}
		e := &changed.Relays[random.IntN(2)]
		switch random.IntN(8) {
		case 0:
			changed.Sequence += 1 + random.Uint32N(100)
		case 1:
			e.Key[random.IntN(32)] ^= byte(1 + random.IntN(255))
		case 2:
			e.Addresses[0].Port ^= uint16(1 + random.IntN(1<<15))
		case 3:
			e.Proof = true
		case 4:
			e.CertHash = [32]byte{}
		case 5:
			e.Token[random.IntN(wire.TokenLen)] ^= byte(1 + random.IntN(255))
		case 6:
			changed.Relays = changed.Relays[:1]
		case 7:
			e.CoverName = "evil.example.org"
		}
		if _, err := ParseBundle(changed.Append(nil)); !errors.Is(err, ErrForged) && !errors.Is(err, ErrDamaged) {
			t.Fatalf("mutation %d: %v", i, err)
		}
	}
}
