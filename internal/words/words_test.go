package words

import (
	"encoding/json"
	"maps"
	"regexp"
	"slices"
	"strings"
	"testing"
)

func all(t *testing.T) []*Catalogue {
	t.Helper()
	c, err := All()
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// The languages that have to be there, and what plural categories they have for whole
// numbers and fractions (Unicode CLDR 45).
var required = map[string][]string{
	"en": {"one", "other"},
	"be": {"few", "many", "one", "other"},
	"ru": {"few", "many", "one", "other"},
}

var placeholder = regexp.MustCompile(`\{\w+\}`)

// places lists what is put into a text, sorted.
func places(text string) []string {
	list := placeholder.FindAllString(text, -1)
	slices.Sort(list)
	return slices.Compact(list)
}

// Every language has every key of English, with the same things put in, and no other.
func TestComplete(t *testing.T) {
	english := all(t)[slices.IndexFunc(all(t), func(c *Catalogue) bool { return c.Tag == Fallback })]
	for tag := range required {
		if !slices.ContainsFunc(all(t), func(c *Catalogue) bool { return c.Tag == tag }) {
			t.Errorf("there is no %s", tag)
		}
	}
	for _, c := range all(t) {
		for key, want := range english.Texts {
			got, ok := c.Texts[key]
			if !ok {
				t.Errorf("%s lacks %s", c.Tag, key)
				continue
			}
			_, one := want[""]
			if _, mine := got[""]; mine != one {
				t.Errorf("%s: %s has forms in one language and none in the other", c.Tag, key)
				continue
			}
			if !one {
				if forms, ok := required[c.Tag]; ok && !slices.Equal(slices.Sorted(maps.Keys(got)), forms) {
					t.Errorf("%s: %s has the forms %v, want %v", c.Tag, key, slices.Sorted(maps.Keys(got)), forms)
				}
				if _, ok := got["other"]; !ok {
					t.Errorf("%s: %s has no form for other numbers", c.Tag, key)
				}
			}
			form := want[""] + want["other"]
			for name, text := range got {
				if !slices.Equal(places(text), places(form)) {
					t.Errorf("%s: %s (%s) puts in %v, want %v", c.Tag, key, name, places(text), places(form))
				}
				if strings.TrimSpace(text) != text || strings.Contains(text, "  ") || strings.Contains(text, "...") || (text == "") != (form == "") {
					t.Errorf("%s: %s is written as %q", c.Tag, key, text)
				}
			}
		}
		for key := range c.Texts {
			if _, ok := english.Texts[key]; !ok {
				t.Errorf("%s has %s, which English has not", c.Tag, key)
			}
		}
		if d := c.Say("direction"); d != "ltr" && d != "rtl" {
			t.Errorf("%s is written %q", c.Tag, d)
		}
	}
}

// Letters that look alike must not be of another alphabet.
func TestAlphabets(t *testing.T) {
	// Russian has no і and ў, Belarusian no и, щ and ъ.
	wrong := map[string]string{"ru": "іўІЎ’ё"[:len("іўІЎ")], "be": "ищъИЩЪ"}
	for _, c := range all(t) {
		for key, text := range c.Texts {
			for _, form := range text {
				if i := strings.IndexAny(form, wrong[c.Tag]); wrong[c.Tag] != "" && i >= 0 {
					t.Errorf("%s: %s has a letter that the language lacks: %q", c.Tag, key, form[i:])
				}
			}
		}
	}
	// A word with letters of both alphabets is a slip of the keyboard.
	mixed := regexp.MustCompile(`\p{Latin}\p{Cyrillic}|\p{Cyrillic}\p{Latin}`)
	for _, c := range all(t) {
		for key, text := range c.Texts {
			for _, form := range text {
				if word := mixed.FindString(form); word != "" {
					t.Errorf("%s: %s mixes alphabets in %q", c.Tag, key, word)
				}
			}
		}
	}
}

func TestPick(t *testing.T) {
	for _, c := range []struct{ chosen, accept, want string }{
		{"", "", "en"},
		{"be", "ru", "be"},
		{"", "be-BY,be;q=0.9,ru;q=0.8", "be"},
		{"", "RU-ru", "ru"},
		{"", "de-DE, de;q=0.9 , ru;q=0.8,en;q=0.7", "ru"},
		{"xx", "fr", "en"},
		{"ru-Latn-RU", "", "ru"},
		{"", strings.Repeat("x,", 10000) + "ru", "en"},
		{"", ";;,,;q=", "en"},
	} {
		if got := Pick(all(t), c.chosen, c.accept); got.Tag != c.want {
			t.Errorf("%q, %.40q: got %s, want %s", c.chosen, c.accept, got.Tag, c.want)
		}
	}
}

func TestText(t *testing.T) {
	for _, in := range []string{`"a"`, `{"few":"b","one":"a"}`} {
		var text Text
		if err := json.Unmarshal([]byte(in), &text); err != nil {
			t.Fatal(err)
		}
		if out, err := json.Marshal(text); err != nil || string(out) != in {
			t.Errorf("%s became %s, %v", in, out, err)
		}
	}
	var text Text
	if json.Unmarshal([]byte(`3`), &text) == nil {
		t.Error("a number is a text")
	}
	c := &Catalogue{Texts: map[string]Text{"k": {"": "{a} and {b}, {a}"}}}
	if got := c.Say("k", "a", "1", "b", "{a}"); got != "1 and {a}, 1" {
		t.Errorf("got %q", got)
	}
}
