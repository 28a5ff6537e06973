package scenario

import "time"

// The subjects that scenarios name in Bites.
const (
	Direct        = "direct"         // no proxy
	DirectQUIC    = "direct QUIC"    // no proxy, QUIC v1
	TLSTunnel     = "TLS tunnel"     // a TLS connection of Go's for each stream
	BrowserTunnel = "browser tunnel" // the same with the ClientHello of a browser
	RandomTunnel  = "random tunnel"  // random from the first byte
)

// Names of the cover, by what the rule files say of them.
const (
	neutralCover = "www.cover.example"   // nothing
	listedCover  = "shop.listed.example" // it is blocked
	allowedCover = "www.allowed.example" // it is let through where others are not
)

// What is missing until a known row can be met. The words are shown in the table.
const (
	untilBudget = "many short carriers carry as much as 20 MB in 20 s"
	untilDNS    = "there is a transport over DNS"
	untilEntry  = "there are entries inside the allowed networks"
)

// Times. The path's round trip is 100 ms, a page over an open carrier takes three or
// four of them, a first page three more, and both take longer on a path that is full.
// The rest is for busy machines: a subject that a censor hits takes 10 s or never
// gets there.
const (
	onePage  = 5 * time.Second
	coldPage = 6 * time.Second
	// moved is the longest silence of a transfer whose carrier is replaced.
	moved = 5 * time.Second
)

// unharmed is what a row wants in which Busel may be hit: nothing of it is noticed.
var unharmed = Want{Page: onePage, Running: Survived, Stall: moved}

// unseen is what a row wants that does not concern Busel at all: it is not hit either. What is
// hit is replaced in time, and would look unharmed.
var unseen = Want{Page: onePage, Running: Survived, Stall: moved, Unseen: true}

// noPage is a page that the subject never gets, with what curl says of it.
func noPage(said string) Want { return Want{Page: Never, PageError: said} }

// Table returns all scenarios, in the order of THREATS.md.
func Table() []Scenario {
	return []Scenario{
		// Belarus.
		{
			Name: "b1-listed-site", Rows: []string{"B1", "C4"}, Short: true,
			What:  "resets TLS to listed sites while they say hello, three times both ways",
			Rules: []string{"s1-rst-gfw"},
			Want:  unseen,
			Bites: Bite{Direct, noPage("reset")},
		},
		{
			Name: "b1-listed-cover", Rows: []string{"B1", "C4"}, Short: true,
			What:  "has the relay's own cover on that list",
			Rules: []string{"s1-rst-gfw"}, Cover: listedCover, Cold: true,
			Want:  Want{Page: coldPage, Says: "reset"},
			Bites: Bite{TLSTunnel, noPage("")},
		},
		{
			Name: "b2-business-network", Rows: []string{"B2"},
			What:  "resets listed sites with window 502 and IP ID 0",
			Rules: []string{"s1-rst-belarus-business"},
			Want:  unseen,
			Bites: Bite{Direct, noPage("reset")},
		},
		{
			Name: "b2-beltelecom", Rows: []string{"B2"},
			What:  "answers HTTP for listed sites with a redirect, window 32678 and IP ID 1",
			Rules: []string{"s1-rst-belarus-beltelecom"}, HTTP: true,
			Want:  unseen,
			Bites: Bite{Direct, noPage(notGenuine)},
		},
		{
			Name: "b2-forged-certificate", Rows: []string{"B2"}, Short: true,
			What:  "leads all HTTPS through a proxy with a forged certificate",
			Rules: []string{"mitm-forged-certificate"}, Cold: true,
			Want:  Want{Page: coldPage, Says: "hijacked"},
			Bites: Bite{Direct, noPage("certificate")},
		},
		{
			Name: "b2-lying-names", Rows: []string{"B2", "B10"}, Short: true,
			What:  "lies about the addresses of listed sites",
			Rules: []string{"dns-lie"},
			Want:  unseen,
			Bites: Bite{Direct, noPage("certificate")},
		},
		{
			Name: "b3-drop", Rows: []string{"B3"},
			What:  "loses TLS to listed sites from the hello on",
			Rules: []string{"s2-drop"},
			Want:  unseen,
			Bites: Bite{Direct, noPage("")},
		},
		{
			Name: "b4-blackout", Rows: []string{"B4", "B6"},
			What:  "cuts everything off for 60 s",
			Rules: []string{"s12-blackout"}, Limit: 75 * time.Second,
			Want:  Want{Page: 65 * time.Second, Running: Survived, Stall: 64 * time.Second},
			Bites: Bite{Direct, Want{NoPageBefore: 55 * time.Second}},
		},
		{
			Name: "b5-tls-filter", Rows: []string{"B5"},
			What:  "resets all TLS but to known names, of which the cover is none",
			Rules: []string{"s1-rst-all-tls"}, Cold: true,
			Want:  Want{Page: coldPage, Says: "reset"},
			Bites: Bite{TLSTunnel, noPage("")},
		},
		{
			Name: "b5-known-cover", Rows: []string{"B5", "R12"}, Short: true,
			What:  "resets all TLS but to known names, of which the cover is one",
			Rules: []string{"s1-rst-all-tls"}, Cover: allowedCover, Cold: true,
			Want:  Want{Page: coldPage, Unseen: true},
			Bites: Bite{Direct, noPage("reset")},
		},
		{
			Name: "b7-mobile", Rows: []string{"B7"},
			What:  "polices each client to 64 kbit/s and loses 40% of its packets",
			Rules: []string{"s4-mobile"}, Cold: true, Limit: time.Minute,
			Want:  Want{Page: 50 * time.Second},
			Bites: Bite{Direct, Want{NoPageBefore: time.Second}},
		},
		{
			Name: "b8-capped", Rows: []string{"B8"},
			What:  "leaves a quarter of the rate",
			After: Path{Rate: StandardRate / 4}, Limit: 50 * time.Second,
			Want: Want{Page: onePage, Running: Survived},
		},
		{
			Name: "b9-onion-port", Rows: []string{"B9"},
			What:  "resets TLS to the port of Tor relays, with a RST of zeros first",
			Rules: []string{"s1-rst-zero"}, TunnelPort: 9001,
			Want:  unseen,
			Bites: Bite{TLSTunnel, noPage("")},
		},
		{
			Name: "b10-look-alike", Rows: []string{"B10", "B2"},
			What:  "leads plain HTTP for listed sites to a look-alike",
			Rules: []string{"http-redirect"}, HTTP: true,
			Want:  unseen,
			Bites: Bite{Direct, noPage(notGenuine)},
		},

		// China.
		{
			Name: "c1-fully-encrypted", Rows: []string{"C1"}, Short: true,
			What:  "blocks what looks random, one connection in four, for 180 s",
			Rules: []string{"s7-fully-encrypted"}, Pages: 15, Limit: time.Minute,
			Want:  unseen,
			Bites: Bite{RandomTunnel, noPage("")},
		},
		{
			Name: "c2-server-to-client", Rows: []string{"C2"},
			What:  "loses what a found relay says to its clients",
			Rules: []string{"s2-freeze-down"}, Cover: listedCover, Cold: true,
			Want:  Want{Page: coldPage},
			Bites: Bite{TLSTunnel, noPage("")},
		},
		{
			Name: "c3-quic-name", Rows: []string{"C3"}, Short: true,
			What:  "reads names in QUIC Initials and drops their flows for 180 s",
			Rules: []string{"s8-quic-sni"},
			Want:  unseen,
			Bites: Bite{DirectQUIC, noPage("")},
		},
		{
			Name: "c5-henan", Rows: []string{"C5"},
			What:  "sends one RST with a payload to clients without TCP timestamps",
			Rules: []string{"s1-rst-henan"}, NoTimestamps: true,
			Want:  unseen,
			Bites: Bite{Direct, noPage("reset")},
		},
		{
			Name: "c8-address", Rows: []string{"C8", "C10", "B9"},
			What:  "drops everything to the first relay; the invites name two",
			Rules: []string{"s12-address"}, Relays: 2,
			Want:  Want{Page: 12 * time.Second, Running: Survived, Stall: 10 * time.Second},
			Bites: Bite{TLSTunnel, Want{Page: Never, Running: Dead}},
		},
		{
			Name: "c9-port-443", Rows: []string{"C9"},
			What:  "resets every new connection to port 443; a carrier is open",
			Rules: []string{"port443-rst"},
			Want:  unharmed,
			Bites: Bite{Direct, noPage("connect")},
		},
		{
			Name: "c9-port-443-cold", Rows: []string{"C9"},
			What:  "resets every new connection to port 443; no carrier is open",
			Rules: []string{"port443-rst"}, Cold: true,
			Want:  Want{Page: coldPage, Says: "refused"},
			Bites: Bite{TLSTunnel, noPage("")},
		},

		// Russia.
		{
			Name: "r1-16-kB", Rows: []string{"R1"},
			What:  "freezes each flow to foreign hosters after 25 packets",
			Rules: []string{"s6-l4-25"},
			Want:  Want{Page: onePage, Running: Survived},
			Bites: Bite{TLSTunnel, Want{Running: Dead}},
			Until: untilBudget, Now: Want{Running: Dead},
		},
		{
			Name: "r2-siberian", Rows: []string{"R2"}, Short: true,
			What:  "freezes four quick connections of a browser to one name for 120 s",
			Rules: []string{"s11-siberian"}, Pages: 6, Together: true,
			Want:  unseen,
			Bites: Bite{BrowserTunnel, noPage("")},
		},
		{
			Name: "r3-reassembly", Rows: []string{"R3"},
			What:  "resets listed sites, putting segments and records together first",
			Rules: []string{"s1-rst-reassemble"},
			Want:  unseen,
			Bites: Bite{Direct, noPage("reset")},
		},
		{
			Name: "r4-quic-shape", Rows: []string{"R4"},
			What:  "drops QUIC v1 by its shape",
			Rules: []string{"s5-quic-shape"},
			Want:  unseen,
			Bites: Bite{DirectQUIC, noPage("")},
		},
		{
			Name: "r5-throttled", Rows: []string{"R5"},
			What:  "polices flows with the cover's name to 140 kbit/s",
			Rules: []string{"s4-police-140k"}, Cover: listedCover, Cold: true, Transfers: true,
			Want:  Want{Page: 8 * time.Second, Running: Survived},
			Bites: Bite{TLSTunnel, Want{Running: Slow}},
		},
		{
			Name: "r12-listed-names", Rows: []string{"R12"},
			What:  "lets only listed names through; the cover is one",
			Rules: []string{"s12-allow-sni"}, Cover: allowedCover, Cold: true,
			Want:  Want{Page: coldPage},
			Bites: Bite{Direct, noPage("")},
		},
		{
			Name: "r12-listed-addresses", Rows: []string{"R12"},
			What:  "lets only listed addresses through; the relay's is none",
			Rules: []string{"s12-prefix"}, Cold: true,
			Want:  Want{Page: coldPage},
			Bites: Bite{TLSTunnel, noPage("")},
			Until: untilEntry, Now: Want{Page: Never, Says: "timeout"},
		},

		// Iran and others.
		{
			Name: "i1-60-seconds", Rows: []string{"I1"},
			What:  "loses TCP flows that are older than 60 s",
			Rules: []string{"kill-after-60s"}, Path: Path{Rate: 1.6e6}, Limit: 130 * time.Second, // 100 s for a transfer
			Want:  Want{Page: 10 * time.Second, Running: Survived, Stall: 10 * time.Second},
			Bites: Bite{TLSTunnel, Want{Running: Dead}},
		},
		{
			Name: "i2-protocols", Rows: []string{"I2"},
			What:  "lets only what begins like TLS or HTTP through on ports 80 and 443",
			Rules: []string{"s12-protocols"}, Cold: true, // it judges how a flow begins
			Want:  Want{Page: coldPage, Unseen: true},
			Bites: Bite{RandomTunnel, noPage("")},
		},
		{
			Name: "i3-residual", Rows: []string{"I3", "K6"},
			What:  "resets listed sites, and each try makes the block last longer",
			Rules: []string{"s3-residual-refresh"},
			Want:  unseen,
			Bites: Bite{Direct, noPage("")},
		},
		{
			Name: "i4-ports", Rows: []string{"I4"},
			What:  "forwards UDP to port 53 and TCP to ports 80 and 443 only",
			Rules: []string{"s12-ports-only"},
			Want:  unharmed,
			Bites: Bite{DirectQUIC, noPage("")},
		},
		{
			Name: "i5-names-only", Rows: []string{"I5"},
			What:  "lets only DNS through",
			Rules: []string{"s12-dns-only"}, Cold: true,
			Want:  Want{Page: 20 * time.Second},
			Bites: Bite{TLSTunnel, noPage("")},
			Until: untilDNS, Now: Want{Page: Never, Says: "timeout"},
		},
		{
			Name: "i8-prints", Rows: []string{"I8", "P1"}, Short: true,
			What:  "drops hellos of known programs",
			Rules: []string{"s1-ja4"},
			Want:  unseen,
			Bites: Bite{TLSTunnel, noPage("")},
		},
		{
			Name: "i8-prints-quic", Rows: []string{"I8", "P1"}, Short: true,
			What:  "does so, of QUIC's too, where all TCP to relays is blocked",
			Rules: []string{"s12-no-tcp", "s1-ja4"}, Builtin: true, Cold: true,
			Want:  Want{Page: coldPage},
			Bites: Bite{DirectQUIC, noPage("")},
		},

		// Traffic analysis.
		{ // the connection that is open is judged by nobody: its beginning was not seen
			Name: "t1-tls-in-tls", Rows: []string{"T1"}, Short: true,
			What:  "drops connections in which the bursts of a TLS handshake show",
			Rules: []string{"s9-tls-in-tls"}, Pages: 3,
			Want:  unseen,
			Bites: Bite{TLSTunnel, noPage("")},
		},
		{ // nothing else is said on the connection that could hide a handshake
			Name: "t1-tls-in-tls-alone", Rows: []string{"T1"}, Short: true,
			What:  "does so from the start, while one page at a time is asked for",
			Rules: []string{"s9-tls-in-tls"}, Pages: 5, Cold: true,
			Want:  Want{Page: coldPage, Unseen: true},
			Bites: Bite{TLSTunnel, noPage("")},
		},

		// What rotation is for: the connection in use is hit, and nothing else.
		{
			Name: "active-reset", Rows: []string{"B1", "C8"},
			What:  "resets the connections that are open, once",
			Rules: []string{"s1-rst-active"},
			Want:  unharmed,
			Bites: Bite{TLSTunnel, Want{Running: Broken}},
		},
		{
			Name: "active-frozen", Rows: []string{"R1", "B3"},
			What:  "loses the packets of the connections that are open",
			Rules: []string{"s2-freeze-active"},
			Want:  unharmed,
			Bites: Bite{TLSTunnel, Want{Running: Silent}},
		},
		{
			Name: "active-frozen-down", Rows: []string{"C2"},
			What:  "loses what the server says on the connections that are open",
			Rules: []string{"s2-freeze-active-down"},
			Want:  unharmed,
			Bites: Bite{TLSTunnel, Want{Running: Silent}},
		},
	}
}
