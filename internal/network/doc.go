// Package network is what the client knows of the network that it is on: an
// opaque name by which it remembers what works there, whether there is any, and
// notice of changes.
//
// A [Watcher] looks at what its [Source] reads and tells subscribers, as an
// [Event], that
//
//   - addresses or gateway changed: a carrier may have lost its own address;
//   - the link came up, or went down;
//   - the machine or the process woke from sleep: what was alive before most
//     likely is not.
//
// Only links that lead to the internet count, if any does: the kernel is asked
// which address it would send from, which sends nothing and holds for any table,
// rule, container or TUN device. A container's bridge that comes and goes
// changes nothing then.
//
// # The name of a network
//
// [ID] is a hash, keyed with a salt of the installation, of the kind of these
// links, their gateways and IPv4 networks. Without IPv4 the IPv6 networks stand
// in. So it is the same after a reconnection and for each temporary IPv6
// address, and a file with it does not say where its user was, unless the salt
// is there too and the network is guessed. A mobile network has no name but that
// it is one: its addresses are new each time. Two homes whose routers have the
// same private address, over the same kind of link and without IPv6, share a
// name; what is remembered of one is then a first guess for the other.
package network
