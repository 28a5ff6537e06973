// Package state is the one directory in which a program keeps everything: its
// keys, invites and ledger, and the TOML file beside them.
//
// It guarantees that:
//   - a file is replaced whole or not at all (temporary file, fsync, rename), so
//     that a crash or a bad invite leaves the directory as it was;
//   - secrets have mode 0600 in a directory of mode 0700, and a secret that
//     others can read is refused with the command that mends it. On Windows the
//     user's profile guards them, and modes are not looked at;
//   - one program at a time runs in a directory ([Dir.Lock]), while others may
//     add to it: every change is made under a lock of its own;
//   - no path leads out of the directory ([os.Root]);
//   - a client's secrets can be put under a passphrase ([Dir.SetPassphrase]): then none of
//     them is read or written without it, and whatever ends the program while it is set,
//     changed or removed, the next one completes that. What was there in the open is
//     overwritten, as far as the disk lets a program do that.
//
// The client's directory:
//
//	client.toml     settings, optional
//	port            the port that was drawn, if client.toml asks for that
//	keys.age        the keys of what is below, under the passphrase; if there is one
//	invites/r1      one invite in text form; the file's name is its label. A second
//	                line "# NAME" is the resident's name for it
//	salt            32 random bytes, under which networks and routes are hashed
//	memory          what worked on which network, see internal/memory; it may be
//	                deleted at any time
//	password        what programs have to say to the proxy, under a passphrase; without
//	                one client.toml has it
//	look, looks     what the client looks like, and the bundle of looks that it took; see
//	                internal/looks
//
// The relay's directory:
//
//	relayd.toml     settings
//	relay.key       X25519 private key, PKCS #8 in PEM
//	token.key       the key of tokens, in PEM
//	issuer.key      Ed25519 private key that signs invites, PKCS #8 in PEM; best
//	                kept off the relay, which runs without it
//	invites.json    the ledger of invites: names, expiry and limits, no tokens
//	usage           how much each invite has moved this month, see [Usage]
//	cover.pem       certificate of the built-in cover and, in
//	cover.key       its private key
//
// In both, "lock" and "change.lock" are empty files that hold locks, and
// control.sock is the socket of internal/control.
package state
