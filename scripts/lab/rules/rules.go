// Package rules holds the rule files of the censor lab, one for each simulator
// or variant of it. Package rule describes their format; the tests here drive
// each with packets that it must act on, and with near misses.
package rules

import "embed"

// Files are the rule files, by their names.
//
//go:embed *.toml
var Files embed.FS
