// Package mirror makes carriers that hide in a genuine visit to a web site.
//
// # Concept
//
// Seen from outside, a relay is a TCP forwarder in front of one web site, its
// cover. The client does a genuine TLS 1.3 handshake with the cover through the
// relay, with a browser's look, and speaks genuine HTTP with it. Covert records
// are inserted between the genuine ones; they have the same shape, and only the
// two ends can tell them apart. Everybody else, a stranger, gets the cover
// itself: there is no second TLS stack that could answer differently.
//
// # Vocabulary
//
//	E, e        the client's x25519 share of its first ClientHello, and its private half
//	S, s        the relay's X25519 key; S travels only in invites
//	candidate   a connection whose ClientHello knows S; a replay is one, too
//	covert      a record that carries our own bytes
//	genuine     any other record; it is passed on as it came
//	marker      8 bytes in front of a covert record's ciphertext, new for each record
//
// # Wire
//
// HKDF is RFC 5869 with SHA-256, Extract(salt, input key material).
//
//	es         = X25519(e, S) = X25519(s, E)
//	session_id = Expand(Extract(client_random, es), "busel mirror 1 sid" || SHA-256(message), 32)
//	salt       = client_random || server_random
//	k          = Extract(salt, es)
//	record     = 17 03 03 len(26..16401) | marker(8) | ciphertext
//	marker     = first 8 bytes of AES-128 under Expand(k, "busel mirror 1 marker", 16)
//	             of direction(1) || 7 zero bytes || n(8)
//
// The message is the ClientHello with 32 zero bytes for its session id and without
// a PSK's binders: nobody can build another one around a recorded E. Record 0 of
// the client is message 1 of Noise_NK_25519_AESGCM_SHA256 without
// its first 32 bytes, because e was sent as E; record 0 of the relay is message
// 2, its e masked with Expand(k, "busel mirror 1 mask", 32). The prologue is
// "busel mirror 1" || salt. The payload of both is
//
//	length u16 | hello or accept of that length | zero bytes
//
// so that either has the size of what it replaces. Later records are sealed
// under the two split keys with nonce 4 zero bytes || n-1 (8), the AAD being
// header and marker; the plaintext is whole session frames.
//
// # Guarantees
//
// A stranger's bytes are passed on unchanged in both directions for the
// connection's life, FIN as FIN and RST as RST, with no timer of ours but the
// minute after the cover's FIN that a web server's kernel has, too. A covert
// record is sent only to a relay whose cover proved its certificate (and, with a
// borrowed cover, only after the relay's proof). What a stranger can send costs
// bounded memory: at most 16 KiB of ClientHello and one record.
package mirror
