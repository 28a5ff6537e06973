package config

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"regexp"
	"slices"
	"strings"

	"github.com/BurntSushi/toml"
)

// later marks a key that this version knows only to refuse it.
type later struct{}

const notYet = "not available yet"

// decoder fills the struct that mirrors a file and collects its faults.
//
// The TOML package could fill the struct itself, but it stops at the first
// wrong type and says no line; walking its generic tree reports them all.
type decoder struct {
	file   string
	lines  map[string]int
	known  []string // every key path of the schema, tables too
	errors Errors
}

// decode fills out, a pointer to a struct with toml tags that holds the
// defaults. Fields are strings, booleans, lists of strings, tables, or [later].
func decode(file string, data []byte, out any) *decoder {
	d := &decoder{file: file, lines: keyLines(data)}
	v := reflect.ValueOf(out).Elem()
	d.known = knownKeys("", v.Type())
	var tree map[string]any
	if err := toml.Unmarshal(data, &tree); err != nil {
		fault := &Error{File: file, Reason: err.Error(), Hint: "settings look like: key = \"value\", under a [table]"}
		if parse, ok := errors.AsType[toml.ParseError](err); ok {
			fault.Line, fault.Reason = parse.Position.Line, parse.Message
			if isSecretLine(data, fault.Line) { // the message would quote it
				fault.Reason = "want text in quotes"
			}
		}
		d.errors = append(d.errors, fault)
		return d
	}
	d.table("", tree, v)
	return d
}

// broken reports whether the file could not be read at all.
func (d *decoder) broken() bool { return len(d.errors) > 0 && d.errors[0].Key == "" }

func (d *decoder) fault(key, reason, hint string) {
	line := 0
	// Inside an inline table only the table's line is known.
	for path := key; path != "" && line == 0; {
		line = d.lines[path]
		path = path[:max(strings.LastIndexByte(path, '.'), 0)]
	}
	d.errors = append(d.errors, &Error{File: d.file, Line: line, Key: key, Reason: reason, Hint: hint})
}

// err returns all faults in the order of their lines, or nil.
func (d *decoder) err() error {
	if len(d.errors) == 0 {
		return nil
	}
	slices.SortStableFunc(d.errors, func(a, b *Error) int { return cmp.Compare(a.Line, b.Line) })
	return d.errors
}

// maxFaults is when a file is not looked at any further: it is something else.
const maxFaults = 100

func (d *decoder) table(path string, tree map[string]any, out reflect.Value) {
	for _, name := range slices.Sorted(maps.Keys(tree)) {
		if len(d.errors) >= maxFaults {
			return
		}
		key := join(path, name)
		field, ok := fieldFor(out, name)
		if !ok {
			d.unknown(key)
			continue
		}
		d.value(key, tree[name], field)
	}
}

func (d *decoder) value(key string, in any, out reflect.Value) {
	name := key[strings.LastIndexByte(key, '.')+1:]
	switch out.Interface().(type) {
	case later:
		d.fault(key, notYet, "remove it; this version of Busel has no such setting")
	case string:
		text, ok := in.(string)
		if !ok {
			d.fault(key, "want text in quotes, got "+kind(in), fmt.Sprintf("write %s = \"...\"", name))
			return
		}
		out.SetString(text)
	case bool:
		yes, ok := in.(bool)
		if !ok {
			d.fault(key, "want true or false, got "+kind(in), fmt.Sprintf("write %s = true, or false", name))
			return
		}
		out.SetBool(yes)
	case []string:
		list, ok := in.([]any)
		texts := make([]string, 0, len(list))
		for _, item := range list {
			text, isText := item.(string)
			ok = ok && isText
			texts = append(texts, text)
		}
		if !ok {
			d.fault(key, "want a list of texts, got "+kind(in), fmt.Sprintf("write %s = [\"...\", \"...\"]", name))
			return
		}
		out.Set(reflect.ValueOf(texts))
	default:
		sub, ok := in.(map[string]any)
		if !ok {
			d.fault(key, "want a table, got "+kind(in), fmt.Sprintf("write [%s] on a line of its own and its keys below", key))
			return
		}
		d.table(key, sub, out)
	}
}

func (d *decoder) unknown(key string) {
	best := slices.MinFunc(d.known, func(a, b string) int {
		return cmp.Compare(keyDistance(key, a), keyDistance(key, b))
	})
	d.fault(key, "unknown key", fmt.Sprintf("the nearest known key is %s", best))
}

// keyDistance is the edit distance of the last names and, at less weight, of
// the whole paths: a key is mistyped more often than put into a wrong table.
func keyDistance(a, b string) int {
	lastA, lastB := a[strings.LastIndexByte(a, '.')+1:], b[strings.LastIndexByte(b, '.')+1:]
	return 3*editDistance(lastA, lastB) + editDistance(a, b)
}

// maxKeyCompared bounds the time that a hostile key costs.
const maxKeyCompared = 64

// editDistance is the Levenshtein distance of the first bytes of a and b.
func editDistance(a, b string) int {
	a, b = a[:min(len(a), maxKeyCompared)], b[:min(len(b), maxKeyCompared)]
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			change := diagonal
			if a[i] != b[j] {
				change++
			}
			diagonal = row[j+1]
			row[j+1] = min(change, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}

func join(path, name string) string {
	if path == "" {
		return name
	}
	return path + "." + name
}

func fieldFor(v reflect.Value, name string) (reflect.Value, bool) {
	for i := range v.NumField() {
		if v.Type().Field(i).Tag.Get("toml") == name {
			return v.Field(i), true
		}
	}
	return reflect.Value{}, false
}

// knownKeys lists the keys that may be written today.
func knownKeys(path string, t reflect.Type) []string {
	var keys []string
	for i := range t.NumField() {
		field := t.Field(i)
		if field.Type == reflect.TypeFor[later]() {
			continue
		}
		key := join(path, field.Tag.Get("toml"))
		if field.Type.Kind() != reflect.Struct {
			keys = append(keys, key)
		} else if inside := knownKeys(key, field.Type); len(inside) > 0 {
			keys = append(append(keys, key), inside...)
		}
	}
	return keys
}

func kind(v any) string {
	switch v := v.(type) {
	case string:
		return "a text"
	case bool:
		return "true or false"
	case int64, float64:
		return "a number"
	case map[string]any:
		return "a table"
	case []map[string]any:
		return "a list of tables"
	case []any:
		for _, item := range v {
			if _, ok := item.(string); !ok {
				return "a list with " + kind(item)
			}
		}
		return "a list"
	}
	return "a date"
}

var (
	headerLine = regexp.MustCompile(`^\s*\[\[?\s*([\w."'-]+(?:\s*\.\s*[\w."'-]+)*)\s*\]`)
	keyLine    = regexp.MustCompile(`^\s*([\w."'-]+(?:\s*\.\s*[\w."'-]+)*)\s*=`)
	keyNoise   = strings.NewReplacer(`"`, "", `'`, "", " ", "", "\t", "")
)

// keyLines finds the line of each key. The TOML package knows the place of
// syntax errors only; this reads the usual one-line forms, and a key that it
// misses is reported without a line.
func keyLines(data []byte) map[string]int {
	lines := make(map[string]int)
	table := ""
	number := 0
	note := func(path string) {
		if lines[path] == 0 {
			lines[path] = number
		}
	}
	for line := range bytes.Lines(data) {
		number++
		if m := headerLine.FindSubmatch(line); m != nil {
			table = keyNoise.Replace(string(m[1]))
			note(table)
		} else if m := keyLine.FindSubmatch(line); m != nil {
			path := join(table, keyNoise.Replace(string(m[1])))
			note(path)
		}
	}
	return lines
}
