// Package e2e holds the end-to-end tests: the real client and relayd, real
// curl, browsers and nginx, on loopback, with a path in between that delays,
// cuts and records. There is no code here but tests; run them with
//
//	go test ./internal/e2e
//
// Tests skip, and say so, when a program or a privilege that they need is not
// there; scripts/test installs all of it. They run on Linux only.
package e2e
