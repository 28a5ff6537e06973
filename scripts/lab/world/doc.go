// Package world builds the network of an experiment: a client, everything that
// is abroad, and the censor between them.
//
//	client 203.0.113.2 ---- censor ---- abroad: relays 192.0.2.0/24, sites 198.51.100.0/24
//
// Client and abroad are network namespaces; the censor is this process, between
// two TUN interfaces, and what is abroad reaches itself without it. Addresses
// are those for documentation (RFC 5737, RFC 3849); each has a [Twin] of IPv6.
// Names are answered by a resolver abroad, whom both sides ask.
//
// Nothing outlives the process: see package netns, and scratch for the folder.
// Worlds do not meet, so any number may run side by side.
package world
