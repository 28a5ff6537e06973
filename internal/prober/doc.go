// Package prober looks at a server as a censor's active prober does (THREATS.md,
// row S10) and says by what it can be told from another one. It is how the tests
// and the lab ask whether a relay differs from the web server behind it
// (DESIGN.md section 1, invariant 2), and it knows nothing of Busel.
//
// A [Probe] is a list of steps on one TCP connection: send this, wait for that,
// close so. A [Prober] runs it against two [Target]s at the same time and
// compares all that one could note: bytes or TLS records, the kind of the close,
// what later writes meet, the segments on the wire and their TCP options, and
// when all that happened. [Prober.Probes] is the table of probes; [Replays] makes
// more of what a client was seen to send.
//
// What no stranger sees may still show to somebody who watches a client:
// [Tap] stands in the path, records, and flips a bit if told to.
package prober
