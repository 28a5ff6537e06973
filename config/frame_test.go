package config

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

func TestPieces(t *testing.T) {
	for _, test := range []struct{ length, count, size int }{
		{1, 1, 1},
		{300, 1, 300},
		{301, 2, 151},
		{600, 2, 300},
		{601, 3, 201},
		{4800, 16, 300},
		{4801, 16, 301},
		{maxBundle, 16, 335},
	} {
		if count, size := pieces(test.length); count != test.count || size != test.size {
			t.Errorf("%d: got %d of %d, want %d of %d", test.length, count, size, test.count, test.size)
		}
	}
	for length := 1; length <= maxBundle; length++ {
		count, size := pieces(length)
		last := frame{number: count, length: length}
		if n := last.size(); n < 1 || n > size || (count-1)*size+n != length || count > MaxFrames {
			t.Fatalf("%d bytes: %d pieces of %d, the last of %d", length, count, size, n)
		}
	}
}

// longBundle is in three frames.
func longBundle(t testing.TB) *Bundle {
	named := usualRelay()
	named.Name = strings.Repeat("n", MaxName)
	return mustSign(t, 1, 9, named, named, named)
}

func TestFrames(t *testing.T) {
	random := rand.New(rand.NewPCG(3, 4))
	for name, want := range map[string]int{"usual": 1, "smallest": 1, "three": 2, "long": 3, "largest": 16} {
		b := testBundles(t)[name]
		if name == "long" {
			b = longBundle(t)
		}
		codes := b.Codes()
		if len(codes) != want {
			t.Errorf("%s: %d codes, want %d", name, len(codes), want)
		}
		if want == 1 {
			if codes[0] != b.Text() {
				t.Errorf("%s: a short invite is not its text", name)
			}
			continue
		}
		// In any order, some twice, with the noise of messengers, and with the
		// whole invite beside them.
		for range 20 {
			shuffled := slices.Concat(codes, codes[:1])
			random.Shuffle(len(shuffled), func(i, j int) { shuffled[i], shuffled[j] = shuffled[j], shuffled[i] })
			text := "Forwarded from Ivan\n> " + strings.ToLower(strings.Join(shuffled, "\n> and the next one:\n> ")) + "\nok"
			if got, err := ParseText(text); err != nil || !got.Equal(b) {
				t.Fatalf("%s: %v", name, err)
			}
		}
		if got, err := ParseText(codes[1] + " " + b.Text() + " " + codes[0]); err != nil || !got.Equal(b) {
			t.Errorf("%s beside its text: %v", name, err)
		}
	}
}

func TestFrameErrors(t *testing.T) {
	b := longBundle(t)
	other := mustSign(t, 2, 1, usualRelay(), usualRelay())
	codes, others := b.Codes(), other.Codes()
	wrongSum := slices.Clone(codes)
	forged := *b
	forged.Signature[0] ^= 1
	raw := b.Append(nil)
	_, size := pieces(len(raw))
	for i := range wrongSum {
		f := frame{i + 1, len(raw), [frameIDLen]byte{1}, raw[i*size : min((i+1)*size, len(raw))]}
		wrongSum[i] = f.text()
	}
	for _, test := range []struct {
		name, text string
		want       error
		says       string
	}{
		{"one of three", codes[1], ErrIncomplete, "parts 1 and 3 of 3 are missing"},
		{"two of three", codes[2] + codes[0], ErrIncomplete, "part 2 of 3 is missing"},
		{"chatter", "Busel: scan this " + codes[2] + codes[0], ErrIncomplete, "part 2 of 3 is missing"},
		{"mixed", codes[0] + others[1], ErrForeign, "several invites in these parts"},
		{"whole and part of another", other.Text() + codes[0], ErrForeign, "several invites in this text"},
		{"short one and a part", mustSign(t, 2, 1, usualRelay()).Text() + codes[0], ErrForeign, "several invites"},
		{"cut", codes[0] + codes[1] + codes[2][:60], ErrDamaged, "ends inside part 3 of 3"},
		{"cut early", "busel/2/3:AAA", ErrDamaged, "ends inside part 2 of 3"},
		{"changed", codes[0] + codes[2] + strings.Replace(codes[1], codes[1][60:62], "ZZ", 1), ErrDamaged, "part 2 of 3: its check digits"},
		{"renumbered", strings.Replace(codes[0], "1/3", "2/3", 1), ErrDamaged, "check digits do not match"},
		{"other count", strings.Replace(codes[0], "1/3", "1/4", 1), ErrDamaged, "check digits do not match"},
		{"no number", "busel/AAAA", ErrDamaged, "the beginning of a part"},
		{"number 0", strings.Replace(codes[0], "1/3", "0/3", 1), ErrDamaged, "the beginning of a part"},
		{"number 01", strings.Replace(codes[0], "1/3", "01/3", 1), ErrDamaged, "the beginning of a part"},
		{"number above count", strings.Replace(codes[0], "1/3", "4/3", 1), ErrDamaged, "the beginning of a part"},
		{"17 parts", strings.Replace(codes[0], "1/3", "1/17", 1), ErrDamaged, "the beginning of a part"},
		{"another id", strings.Join(wrongSum, " "), ErrDamaged, "do not fit together"},
		{"forged", strings.Join(forged.Codes(), " "), ErrForged, "do not use it"},
	} {
		_, err := ParseText(test.text)
		if !errors.Is(err, test.want) || !strings.Contains(err.Error(), test.says) {
			t.Errorf("%s: got %v, want %v with %q", test.name, err, test.want, test.says)
		}
	}
}

// FuzzParseFrame demands that what parses has one text form, which is in the
// input, and that a frame in the place of a genuine one, from which it differs,
// never makes an invite.
func FuzzParseFrame(f *testing.F) {
	for _, b := range []*Bundle{longBundle(f), testBundles(f)["largest"]} {
		for _, code := range b.Codes() {
			f.Add(code[len(FramePrefix):])
		}
	}
	f.Add("1/2:AAAAAAAAAAAAAAAA")
	f.Add("1/16:")
	codes := longBundle(f).Codes()
	f.Fuzz(func(t *testing.T, text string) {
		one, err := parseFrame(text)
		if err != nil {
			if one != nil || !errors.Is(err, ErrDamaged) {
				t.Fatalf("%v beside %v", one, err)
			}
			return
		}
		written := one.text()
		if !strings.HasPrefix(text, written[len(FramePrefix):]) {
			t.Fatalf("%q became %q", text, written)
		}
		again, err := parseFrame(written[len(FramePrefix):])
		if err != nil || again.number != one.number || again.length != one.length || again.id != one.id || !bytes.Equal(again.piece, one.piece) {
			t.Fatalf("%q is read as %+v, %v", written, again, err)
		}
		for i := range codes {
			with := slices.Clone(codes)
			with[i] = written
			if _, err := ParseText(strings.Join(with, " ")); (err == nil) != (written == codes[i]) {
				t.Fatalf("%q for part %d: %v", written, i+1, err)
			}
		}
	})
}
