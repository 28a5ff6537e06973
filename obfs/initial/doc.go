// Package initial makes the Initial packets of a QUIC client look as Chromium's.
//
// Initial packets are sealed with keys that everyone has who sees the first of them
// (RFC 9001, section 5.2): an observer opens them, and so can [Client], which stands between
// a QUIC library and its socket. It opens what goes out, puts the bytes of the ClientHello
// into other frames, and seals it again: in pieces and in disorder, among PINGs and runs of
// PADDING, front and end in the first datagram and the middle in the second, numbers from 1.
// docs/QUIC.md has what was measured.
//
// The ClientHello itself is hashed by both ends, so that it can only be another one if both know: with a
// [Disguise] the client shows one of Chromium's that has its own sealed in it, in packets whose layout
// marks them for who knows the relay's key, and [Relay], which stands
// between the relay's socket and its library, takes that out (docs/PROTOCOL.md, section 14.6).
//
// # Guarantees
//
// Every datagram keeps its length, and what follows the Initial packet in it is not touched.
// A datagram that is not understood passes as it came.
//
// What the library takes for acknowledged was received, whatever is lost: [Client.In] lowers
// what a server acknowledges to the library's count, and as long as only one of the
// ClientHello's datagrams has arrived it leaves both out, since the bytes of either are in
// both. What the library then sends again stays in the packet in which it was; of a ClientHello
// in disguise the two halves are sent again in turn, and both must have arrived.
//
// A relay's library sees a stranger's datagrams as they came and when they came.
//
// A first datagram waits until the ClientHello is whole, or others come in its stead: three wait
// at most. Packets are at most those of the library, so that memory is bounded.
package initial
