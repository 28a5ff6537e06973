// Package scratch makes folders for temporary files that do not pile up: each is
// locked while its process lives, and whoever makes the next one removes those
// that nobody holds any more, as after kill -9.
package scratch
