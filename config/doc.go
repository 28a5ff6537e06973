// Package config reads what people write and what they pass on: the TOML file
// of each program, and invites. It parses bytes and opens nothing.
//
// # Files
//
// [ParseClient] and [ParseRelay] are strict and report all faults of a file
// together, as [Errors], each with its line, key, reason and a hint. A key or
// value that a later version will know is refused as "not available yet", so
// that nobody believes in a setting that does nothing. A setting on the command
// line wins over the environment ([Env]), that over the file, and that over the
// default.
//
// # Invites
//
// An invite is all that a resident needs: a [Bundle] of one to three relays,
// signed by the volunteer who issued it. It travels as text that survives
// messengers and paper ([ParseText]) and as a QR code ([QRTerminal], [QRPNG]);
// one that is too long for a code that is easy to read is several, in any order
// ([Bundle.Codes]). What is wrong with an invite is one of [ErrForeign],
// [ErrDamaged], [ErrForged] and [ErrIncomplete]. A [wire.Token] inside it proves the invite to its relay; only the
// relay holds the [TokenKey] that makes and verifies tokens.
//
// Bundles, relay entries and keys redact themselves in logs.
package config
