package config

import (
	"bytes"
	"errors"
	"strconv"
	"strings"
)

// Settings are the keys of client.toml that a program may set.
type Settings struct {
	Listen   string // as in the file
	Policy   Policy
	Learn    bool
	Language string
}

// EditClient returns client.toml with these settings. Everything else in it stays as it
// is, comments too; a setting that has its default and is not in the file is not added.
// The error, which is [Errors] if it is about the file, means that the result would not
// be what was asked for, and then the file has to be edited by hand.
func EditClient(file string, data []byte, s Settings) ([]byte, error) {
	def := defaultClientFile()
	for _, e := range []struct{ table, key, value, usual string }{
		{"", "language", strconv.Quote(s.Language), strconv.Quote(def.Language)},
		{"local", "listen", strconv.Quote(s.Listen), strconv.Quote(def.Local.Listen)},
		{"rotation", "policy", strconv.Quote(string(s.Policy)), strconv.Quote(def.Rotation.Policy)},
		{"look", "learn", strconv.FormatBool(s.Learn), strconv.FormatBool(def.Look.Learn)},
	} {
		if e.value != e.usual || keyLines(data)[join(e.table, e.key)] > 0 {
			data = setKey(data, e.table, e.key, e.value)
		}
	}
	f := defaultClientFile()
	if d := decode(file, data, f); d.err() != nil {
		return nil, d.err()
	}
	if _, err := ParseClient(file, data); err != nil {
		return nil, err
	}
	if f.Language != s.Language || f.Local.Listen != s.Listen || f.Rotation.Policy != string(s.Policy) || f.Look.Learn != s.Learn {
		return nil, errors.New(file + " is written in a way that only you can edit")
	}
	return data, nil
}

// EditLogin returns client.toml with this user and password, or, if they are empty, with
// none. Everything else in it stays as it is. The error is as of [EditClient].
func EditLogin(file string, data []byte, user, password string) ([]byte, error) {
	for _, e := range []struct{ key, value string }{{"password", password}, {"user", user}} {
		if e.value != "" {
			data = setKey(data, "local", e.key, strconv.Quote(e.value))
		} else {
			data = dropKey(data, "local", e.key)
		}
	}
	c, err := ParseClient(file, data)
	if err != nil {
		return nil, err
	}
	if c.User != user || string(c.Password) != password {
		return nil, errors.New(file + " is written in a way that only you can edit")
	}
	return data, nil
}

// dropKey removes a key of a table, as setKey sets it.
func dropKey(data []byte, table, key string) (out []byte) {
	at, number := keyLines(data)[join(table, key)], 0
	for line := range bytes.Lines(data) {
		if number++; number != at {
			out = append(out, line...)
		}
	}
	return out
}

// setKey sets a key of a table, "" for the one without a name. It knows the usual way to
// write TOML; who calls it looks at what comes of it.
func setKey(data []byte, table, key, value string) []byte {
	assignment := []byte(key + " = " + value + "\n")
	lines := keyLines(data)
	var out []byte
	number, done := 0, false
	for line := range bytes.Lines(data) {
		number++
		switch {
		case number == lines[join(table, key)]:
			line, done = assignment, true
		case number == lines[table] && table != "" && lines[join(table, key)] == 0:
			if !bytes.HasSuffix(line, []byte("\n")) {
				line = append(bytes.Clone(line), '\n')
			}
			line, done = append(bytes.Clone(line), assignment...), true
		}
		out = append(out, line...)
	}
	if done {
		return out
	}
	if table == "" { // before all tables
		return append(assignment, data...)
	}
	text := strings.TrimRight(string(data), "\n")
	if text != "" {
		text += "\n\n"
	}
	return []byte(text + "[" + table + "]\n" + string(assignment))
}
