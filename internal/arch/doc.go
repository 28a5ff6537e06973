// Package arch holds one thing: the test that says who may import whom.
//
// The tables in the test are the architecture of docs/ARCHITECTURE.md in a form
// that a machine checks. Every package of the module has a row there, and every
// row a reason; a new package or module fails the test until somebody decided
// where it belongs. The files of all systems are read, whatever their build
// tags.
package arch
