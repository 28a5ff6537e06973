// Package session moves streams and flows over carriers that may die.
//
// A session is the association of one client ([Client]) with one relay
// ([Server]). A carrier ([transport.Carrier]) moves frames (internal/wire) in
// order, or stops for ever; a session has any number of them, at once or one
// after another, or none for a while. What must survive a carrier is numbered:
// streams by offset, so that no application ever sees a carrier die.
//
// # Guarantees
//
//   - The bytes of a stream arrive in order, none lost, none twice, whatever
//     happens to carriers, as long as both ends keep their session. FIN and RESET
//     are as reliable as bytes.
//   - Nothing is sent again while the carrier that has it lives and is not silent
//     where something is due. When it dies, is suspect at the client while there is
//     another, or either end declares it dropped, what was not acknowledged goes to
//     the front of the queue.
//   - A relay that does not know the session (it restarted) makes old streams fail
//     with [flow.DetailRelayRestarted]. They are never replayed; streams of which
//     the relay can have seen nothing are opened in the new session.
//   - Memory is bounded by the windows of both ends, whatever the peer sends. A
//     peer that breaks the protocol ends the session.
//
// # Streams
//
// A stream begins with the destination in SOCKS5 form (RFC 1928, section 5) and
// data may follow at once. The relay's direction begins with a reply: SOCKS5 code
// u8, detail u8 ([flow.Code], [flow.Detail]). The codes of RESET and STOP are
// details too.
//
// A client's streams have even ids from 2 on, a relay's odd ones; they are
// drawn in the order in which streams send first. Opening id N opens all lower
// ids of its kind, so that an id below the highest that is not open is finished:
// a late frame never opens it again, and STREAM and RESET of it are answered with
// an ACK of their end. FIN and RESET count as one offset in ACKs but not in
// windows. An opener counts a stream as open until it knows it to be finished,
// and the other end may learn that later: it tolerates twice the limit.
//
// # Flows
//
// A flow opens with its first DATAGRAM and rests after 120 s without one. A
// datagram that does not fit a DATAGRAM frame travels on a stream of its own,
// opened by the end that sends it (hence the odd ids):
//
//	0 u8 | flow id varint | address in SOCKS5 form | payload, up to FIN
//
// The first byte tells it from a request, as 0 is no address type. The other
// direction of that stream is empty: FIN at offset 0. A malformed one is dropped.
//
// # Carriers
//
// A client dials with what [Client.Offer] returns and attaches the carrier; the
// relay judges the hello with [Server.Admit] and attaches its end. In mode
// resume the hello's frames are sealed under the newest resumption key that came
// on stream 0. A relay that could open them says CARRIER(n, active) in its accept
// and may send at once; if it does not say so, the client sends them again. The
// relay gives a new key after an attach, but only once the last one was
// acknowledged: so the client's key is always one of its last two.
//
// After an attach each end sends WINDOW, an ACK of every open stream, and a PING;
// the client also CARRIER for each of its carriers, and the relay
// CARRIER(n, dropped) for those that it lost. When a carrier dies ACKs may have
// died with it: each end acknowledges all open streams anew, and sends an empty
// STREAM frame at the end of each stream that other carriers have unacknowledged
// data of, which asks for such an ACK.
//
// A session created by a hello of mode resume answers every further one with
// "unknown session" until it has received a frame, as two dials of one client may
// overtake each other.
package session
