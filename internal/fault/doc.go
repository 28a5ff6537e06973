// Package fault breaks a relay on purpose, for the test that proves that the
// prober sees it: one rule of DESIGN.md, section 4, at a time.
//
// In every build but one all faults are constants, and false, so that the
// compiler leaves no trace of them. A build with the tag brokenrelay reads from
// the environment variable BUSEL_BREAK which one is on:
//
//	go build -tags brokenrelay ./cmd/relayd
//	BUSEL_BREAK=insert-at-once ./relayd run
//
// Such a build is never shipped. A test of internal/e2e asserts that an ordinary
// one cannot be switched.
package fault
