// Package wire is the codec of the session protocol, and the only parser of
// session bytes: frames, the hello and accept payloads, and the messages of the
// control stream. It is pure: no socket, no clock, no state.
//
// # Integers
//
// Integers in frames and control messages are QUIC varints (RFC 9000, section
// 16) in their shortest form; a longer form is an error, so that whatever parses
// encodes to the same bytes again. Fixed-width integers, in the hello and accept
// payloads only, are big-endian.
//
// # Frames
//
// A frame is a varint type and its fields; a frame never spans two covert
// records, and a record's plaintext is a whole number of frames:
//
//	 0 PADDING   data                       skipped
//	 1 STREAM    id, offset, fin, data      bytes of a stream
//	 2 ACK       id, received-up-to, limit  cumulative; moves the stream's window
//	 3 WINDOW    limit                      session-wide window
//	 4 RESET     id, code, final offset     abandon a stream
//	 5 DATAGRAM  flow id, address, data     unreliable
//	 6 CARRIER   n, state [, limit]         0 active, 1 spare, 2 dropped, 3 active with a budget
//	 7 PING      8 bytes
//	 8 PONG      8 bytes
//	 9 BYE       code, data (UTF-8 text)    this carrier ends on purpose
//	10 STOP      id, code                   send no more of this stream
//	11 SEEN      id, from, to               bytes that came beyond a gap
//
// data is a varint length and that many bytes; address is in SOCKS5 form (RFC
// 1928, section 5). An unknown type ends the session.
package wire
