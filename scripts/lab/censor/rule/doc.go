// Package rule turns rule files into decisions on packets: what a censor in the
// path does. It is pure: packets and the time come in, verdicts go out. See
// [Set.Judge].
//
// # Rule files
//
// A rule file is TOML. It names the simulator that it is one of and the row of
// docs/THREATS.md that it plays, and holds rules, which are asked in their
// order; one that drops a packet is the last. Unknown keys are errors.
//
//	simulator = "S1"            # required
//	row = "C4"                  # required
//	source = "sp25 main.tex"    # required: where the parameters are from
//
//	[[rule]]
//	name = "sni"                # for counts; by default its number in the file
//	reassemble = ["tcp"]        # what the box puts together: "tcp" segments, "tls" records, "quic" CRYPTO frames and datagrams
//	probability = 0.263         # of acting; drawn once per flow, or per DNS query
//	delay = ["2ms", "20ms"]     # how long after the trigger packets are injected and a hold begins
//	match.sni = ["*.listed.example"]
//	hold = { by = "3-tuple", for = "90s" }
//	act.reset = { count = 3 }
//
// Addresses are those of the lab: relays in 192.0.2.0/24 and 2001:db8:192::/48;
// sites, resolvers and machines of the censor in 198.51.100.0/24 and
// 2001:db8:198::/48; clients in 203.0.113.0/24 and 2001:db8:203::/48. There are
// no variables: who wants others writes another file. Times are written as
// "400ms", "90s", "10m".
//
// # match: which packets
//
// A rule fires on a packet for which all keys that are given hold. Some are the
// same for all packets of a flow. A flow is what passes between two ports; the
// client's side and the world's are told by where the packet came from, not by
// who began.
//
//	protocol            list of "tcp", "udp", "other"
//	ports               ports on the world's side          except_ports
//	except_client_ports ports on the client's side
//	client_port_above   true: the client's port is greater than the other (C3)
//	to                  prefixes on the world's side       except_to
//
// Some are of the packet:
//
//	direction           "up" (client to world) or "down"
//	syn                 true: TCP with SYN, so SYN+ACK too
//	tcp_header          length of the TCP header in bytes: 20 is one without options (C5)
//	payload_min         bytes of payload, at least
//	quic_version        bytes 1 to 4 of the payload, as a number (R4)
//	packets_over        there have been more packets in the flow, both ways, this one included
//	age_over            the flow began longer ago
//	windows             pairs of times since the rule came, in which it fires: [["0s", "60s"]]; a hold goes on after them. A rule comes with the first packet that is judged after it was added
//	period              the windows come again each period
//	busiest             true: of the flows for which the keys above hold that are the same for all packets, the one that carried most within
//	                    the last second when the rule came; of those that carried nothing, the one that was used last. It stays the one.
//	                    A hold goes on for what it says, which may be other flows
//
// Some are of what the flow carries. They hold once it is known, and it is known
// as soon as the client has sent enough; a rule fires once per flow then.
//
//	app                 list of "tls", "quic", "http", "dns", "ssh", "fully-encrypted" (C1), "tls-in-tls" (T1), "unknown" (none of the first five)   except_app
//	sni                 name in a ClientHello, over TLS or QUIC   except_sni
//	host                name in the first HTTP request of a connection   except_host
//	ja4                 fingerprints of ClientHellos, in full
//	dns                 name in a query to port 53; asked of each query, and fires on each   except_dns
//	rate                more than connections flows within a time that have the same of by and began less than apart before or after another;
//	                    the flow that makes it too many is the one that matches:
//	                    { connections = 3, apart = "400ms", within = "60s", by = ["client", "prefix", "sni", "ja4"] }; a prefix is a /24 or a /48
//
// Names are in lower case, and "*" in them stands for any characters; "*" alone
// is any name, but not none. A rule with exceptions waits until it knows whether
// they apply, unless it has packets_over or age_over: what is unknown by then is
// not excepted. To make "any protocol other than", use except_app.
//
// Without reassemble, each of the first ten packets with data is read for
// itself: a name counts if it lies whole in one of them, and a ClientHello if it
// lies in one record and, in QUIC, in one CRYPTO frame that is alone but for
// padding, in the first datagram of the flow. Fragments of IP are not read.
//
// # hold: for how long
//
// What a rule does it does to the packet on which it fired. With a hold it does
// it to more:
//
//	hold.by       "flow", "4-tuple", "3-tuple" (client's address, world's address and port), "address" (both addresses, all protocols),
//	              "client", or "key" (what match.rate counts by; flows that are running already are held, too)
//	hold.for      how long; a flow may be held for good
//	hold.refresh  true: each packet that is held makes it begin again
//
// A rule that asks what a flow carries holds by flow unless it says otherwise,
// or has packets_over or age_over: then it acts on every later packet anyway.
// With a delay, what drop and police do begins after it; the packet that made
// the rule fire passes. A rule without a hold drops at once.
//
// # act: what happens
//
//	drop    "both", "up" or "down": packets of these directions are lost. A hold by flow with drop is a freeze
//	loss    the share of packets that drop takes, such as 0.4
//	police  { kbit = 140, burst = 15000, by = "flow" }: what exceeds the rate is lost, nothing is queued; each direction has its own bucket,
//	        of burst bytes; by may be "client"
//	reset   { toward = "both", count = 1, ttl = 64, id = 0, window = 0, df = false, zero = false, payload = "" }: RST+ACK toward "client",
//	        "world" or "both", continuing the connection's numbers unless zero is set, with a payload in hexadecimal. In a hold that is
//	        not by flow, each SYN and each packet with data of the client is answered so
//	answer  { addresses = ["198.51.100.80"], ttl = 60 }: a forged answer to the DNS query, over UDP; addresses of the other family are left
//	        out. The query passes unless drop = "up" is there
//	page    { status = "302 Found", location = "http://...", body = "..." }: a forged HTTP answer that ends the connection
//	divert  ["198.51.100.66:8443", "[2001:db8:198::66]:0"]: the flow goes to another address and port, by family, and what comes back
//	        seems to come from the first; port 0 keeps the port. Only with keys that are the same for all packets of a flow, and windows
//
// # What is remembered
//
// TCP flows are forgotten after ten minutes without packets (R5), others after
// 60 s (C3), and a SYN with another number begins a new one. At most 16,384 are
// remembered, and as many holds per rule; a full table loses any of them.
package rule
