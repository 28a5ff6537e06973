package config

import (
	"fmt"
	"strings"
)

// Error is one fault of a configuration.
type Error struct {
	File   string // as the caller named it; empty for the command line
	Line   int    // from 1; of the table if a key is missing in it; 0 if unknown
	Key    string // "relay.listen", "-address"; empty when the file is no TOML
	Reason string
	Hint   string // what to write instead, one line
}

// Error is "file:line: key: reason", without the parts that are not known.
func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString(e.File)
	if e.Line > 0 {
		fmt.Fprintf(&b, ":%d", e.Line)
	}
	for _, part := range []string{e.Key, e.Reason} {
		if part == "" {
			continue
		}
		if b.Len() > 0 {
			b.WriteString(": ")
		}
		b.WriteString(part)
	}
	return b.String()
}

// Errors are all faults of one configuration, in the order of their lines.
type Errors []*Error

// Error has one line for each fault and one for its hint.
func (e Errors) Error() string {
	var lines []string
	for _, one := range e {
		lines = append(lines, one.Error())
		if one.Hint != "" {
			lines = append(lines, "  hint: "+one.Hint)
		}
	}
	return strings.Join(lines, "\n")
}

// Unwrap returns the faults.
func (e Errors) Unwrap() []error {
	all := make([]error, len(e))
	for i, one := range e {
		all[i] = one
	}
	return all
}
