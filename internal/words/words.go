// Package words has all that residents read on the client's pages, one file for each
// language.
//
// A file is named by the language's tag, NAME.json, and maps each key to a text, or,
// where a number decides, to one text for each plural category that the language has
// (Unicode CLDR: one, two, few, many, other). {name} stands for what is put in. Three
// keys are about the language: "language" is what it calls itself, "direction" is ltr or
// rtl, and "formats" is whose numbers and dates are understood where a browser does not
// know its own. English is complete by definition; a test fails where
// another file lacks a key or has one too many.
package words

import (
	"embed"
	"encoding/json"
	"fmt"
	"io/fs"
	"slices"
	"strings"
)

//go:embed *.json
var files embed.FS

// Fallback is the language of whoever speaks none that there is.
const Fallback = "en"

// Text is what stands for a key: a text under "", or one for each plural category.
type Text map[string]string

// UnmarshalJSON reads a text or an object of texts.
func (t *Text) UnmarshalJSON(data []byte) error {
	var one string
	if err := json.Unmarshal(data, &one); err == nil {
		*t = Text{"": one}
		return nil
	}
	var forms map[string]string
	if err := json.Unmarshal(data, &forms); err != nil {
		return err
	}
	*t = forms
	return nil
}

// MarshalJSON writes what UnmarshalJSON reads.
func (t Text) MarshalJSON() ([]byte, error) {
	if one, ok := t[""]; ok {
		return json.Marshal(one)
	}
	return json.Marshal(map[string]string(t))
}

// Catalogue is one language.
type Catalogue struct {
	Tag   string // BCP 47
	Texts map[string]Text
}

// Name is what the language calls itself.
func (c *Catalogue) Name() string { return c.Say("language") }

// Say is the text of a key that no number decides about, with what the pairs of name
// and value put in. A key that is not there is its own text.
func (c *Catalogue) Say(key string, pairs ...string) string {
	text, ok := c.Texts[key][""]
	if !ok {
		return key
	}
	for i := 0; i+1 < len(pairs); i += 2 {
		text = strings.ReplaceAll(text, "{"+pairs[i]+"}", pairs[i+1])
	}
	return text
}

// All is every language, in the order of their tags. It fails only if a file that is
// built in is not JSON.
func All() ([]*Catalogue, error) {
	entries, err := fs.ReadDir(files, ".")
	if err != nil {
		return nil, err
	}
	var all []*Catalogue
	for _, e := range entries {
		data, err := files.ReadFile(e.Name())
		if err != nil {
			return nil, err
		}
		c := &Catalogue{Tag: strings.TrimSuffix(e.Name(), ".json")}
		if err := json.Unmarshal(data, &c.Texts); err != nil {
			return nil, fmt.Errorf("%s: %w", e.Name(), err)
		}
		all = append(all, c)
	}
	return all, nil
}

// maxAccept bounds what is read of an Accept-Language header in bytes; browsers send
// below 200.
const maxAccept = 500

// Pick is the language for a user: the one that was chosen, if it is there, else the
// first of the browser's Accept-Language header that is (RFC 9110, section 12.5.4;
// browsers list the preferred one first), else [Fallback]. all must have that.
func Pick(all []*Catalogue, chosen, accept string) *Catalogue {
	wanted := []string{chosen}
	for part := range strings.SplitSeq(accept[:min(len(accept), maxAccept)], ",") {
		tag, _, _ := strings.Cut(part, ";")
		wanted = append(wanted, strings.TrimSpace(tag))
	}
	for _, tag := range append(wanted, Fallback) {
		base, _, _ := strings.Cut(strings.ToLower(tag), "-")
		for _, want := range []string{strings.ToLower(tag), base} {
			if i := slices.IndexFunc(all, func(c *Catalogue) bool { return strings.ToLower(c.Tag) == want }); i >= 0 {
				return all[i]
			}
		}
	}
	return all[0]
}
