// Package quic makes carriers of QUIC connections, in two forms: one whose
// datagrams look like nothing, and one inside a visit to an HTTP/3 site
// (docs/PROTOCOL.md, section 14.5; site.go). What follows is of the first; both
// have one carrier.
//
// # Concept
//
// Client and relay speak plain QUIC version 1 (RFC 9000) on a UDP port of the
// relay, and every datagram passes obfs/scramble under a key of the relay's
// public key S. A stranger's datagram, and one that came before, draws no
// answer: it never reaches QUIC. Inside, the relay shows a certificate that it
// made at its start and that nobody checks, because a Noise NK message against S
// follows whose prologue is the exporter of this very TLS connection: a man in
// the middle, who may hold an invite, has another exporter and not the private
// half of S, so nothing answers the client's hello, and the dial is hijacked.
//
// # Wire
//
//	exporter  = TLS exporter, label "EXPORTER-busel quic 1", no context, 32 bytes
//	hello     = length u16 | message 1 of Noise_NK_25519_AESGCM_SHA256, prologue
//	            "busel quic 1" || exporter, payload internal/wire's hello
//	reply     = length u16 | message 2, payload internal/wire's accept
//	chunk     = length u16 (2..16377) | whole session frames
//
// The client opens the first bidirectional stream and says hello on it; the
// relay replies there, and the stream goes on with chunks: it is the control
// lane. Every other lane has one of 32 unidirectional streams of each end, which
// is stream id / 2 mod 32; frames of one lane so keep their order, and a lost
// packet delays those of its own stream only. Frames of the datagram lane are
// QUIC DATAGRAM frames (RFC 9221), or go on the first unidirectional stream if
// they do not fit one. FIN on the control lane ends the carrier.
//
// The two split keys of Noise are not used: QUIC's are bound to the handshake
// that it has authenticated.
//
// # Ports
//
// The scrambled form may have a range of up to [MaxPorts] ports, one socket each,
// all of one [Listener] with its bounds and its memory of replays. A client takes
// another one for each dial. The HTTP/3 form has one port: no site is met on many.
//
// # Guarantees
//
// Nobody without S draws a datagram from a relay. Who has S, but no invite,
// costs at most one of a bounded number of places, for some seconds and at most
// half a MiB; one address holds a quarter of those places at most. A carrier goes on when
// the client's address changes: its socket is bound to no address, so that the
// kernel gives each datagram the one of the day, and the relay follows (RFC 9000,
// section 9).
//
// A relay with several addresses answers from the one that was asked on Linux;
// in the scrambled form on other systems the kernel chooses, so name one address
// in listen there.
package quic
