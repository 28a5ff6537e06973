package scenario

import "time"

// Rotation returns the rows of the second table. Each has the figures that issue 5
// of the project wants, at a round trip of 100 ms.
func Rotation() []Row {
	const s = time.Second
	// Issue 8: within 3 s the page says what happened and what the client does.
	seen := []Bound{{Name: pageSays, Limit: 3}, {Name: historyRight, Least: true, Limit: 100}}
	return []Row{
		{
			Name: "rst-active", Rows: []string{"B1", "C8"}, Short: true,
			What: "the connection in use, over TCP, is reset",
			play: playHit, over: "tcp", rules: []string{resets},
			Want: Limits{Stall: 700 * time.Millisecond, Page: s},
		},
		{
			Name: "page-reset", Rows: []string{"B1", "C8"},
			What: "the connection in use is reset; the resident looks at the page",
			// The relay, which is reset, too, may be the first to say that it is over.
			play: playSight, over: "tcp", rules: []string{resets}, blame: []string{"reset", "frozen"},
			Want: Limits{Figures: seen},
		},
		{
			Name: "page-block", Rows: []string{"R1", "B3"},
			What: "what the connection in use carries is lost; the resident looks at the page",
			play: playSight, rules: []string{drops}, blame: []string{"frozen", "timeout"},
			Want: Limits{Figures: seen},
		},
		{
			Name: "drop-active-tcp", Rows: []string{"R1", "B3"},
			What: "what the connection in use carries is lost; it is over TCP",
			play: playHit, over: "tcp", rules: []string{drops},
			Want: Limits{Stall: 2 * s, Page: 2 * s},
		},
		{
			Name: "drop-active-udp", Rows: []string{"R1", "B3"}, Short: true,
			What: "the same; it is over UDP, since TCP was blocked before",
			play: playHit, first: []string{"s12-no-tcp"}, over: "udp", rules: []string{drops}, Policy: "single", // auto finds TCP
			Want: Limits{Stall: 2 * s, Page: 2 * s},
		},
		{
			Name: "drop-active-down", Rows: []string{"C2"},
			What: "what the relay says on the connection in use is lost",
			play: playHit, rules: []string{dropsDown},
			Want: Limits{Stall: 2 * s, Page: 2 * s},
		},
		{
			Name: "sni-reset-cold", Rows: []string{"B1", "C4"},
			What: "each ClientHello with the cover's name is reset; the client starts",
			play: playCold, rules: []string{"s1-rst-gfw"}, Cover: listedCover,
			Want: Limits{Page: 3 * s, Over: "quic"},
		},
		{
			Name: "quic-drop-then-udp", Rows: []string{"R4", "I4"},
			What: "QUIC v1 is dropped, then all UDP, which is in use",
			play: playHit, first: []string{"s12-no-tcp"}, over: "udp", Policy: "single", then: []string{"s5-quic-shape"}, rules: []string{"s12-ports-only"},
			Want: Limits{Stall: 2 * s, Page: 2 * s, Over: "mirror"},
		},
		{
			Name: "police-active", Rows: []string{"R5"},
			What: "the connection in use is policed to 140 kbit/s",
			play: playSlow, rules: []string{"s4-police-busiest"},
			Want: Limits{Figures: []Bound{{Name: halfAgain, Limit: 10}}},
		},
		{
			Name: "police-sni-cold", Rows: []string{"R5"},
			What: "TLS with the cover's name is policed to 140 kbit/s; the client starts",
			play: playSlowCold, rules: []string{"s4-police-140k"}, Cover: listedCover,
			Want: Limits{Figures: []Bound{{Name: halfAgain, Limit: 10}}},
		},
		{
			Name: "close-443", Rows: []string{"C9", "B10"}, Short: true,
			What: "TCP port 443 is reset to everyone, open connections, too",
			play: playHit, over: "tcp", rules: []string{"port443-rst-open"},
			Want: Limits{Stall: 2 * s, Page: 2 * s},
		},
		{
			Name: "packets-25", Rows: []string{"R1"},
			What: "each flow to the relay freezes after 25 packets, which the censor sees one by one",
			play: playSmall, rules: []string{"s6-l4-25"},
			Want: Limits{Page: lastingPage},
		},
		{
			Name: "relay-address", Rows: []string{"C8", "C10"},
			What: "the address of the relay in use is dropped; there are two",
			play: playHit, rules: []string{"s12-address-busiest"}, Relays: 2,
			Want: Limits{Stall: 3 * s, Page: 3 * s},
		},
		{
			Name: "blackout", Rows: []string{"B4", "B6"},
			What: "nothing passes for 5 to 60 s; times are from its end on",
			play: playBlackout, rules: []string{"s12-shutdown"}, apart: 3,
			Want: Limits{Stall: 3 * s, Page: 3 * s},
		},
		{
			Name: "blackout-10m", Rows: []string{"B4", "B6"},
			What: "nothing passes for 10 minutes; times are from its end on",
			play: playBlackout, rules: []string{"s12-shutdown"}, apart: 3, once: true, Long: true,
			Want: Limits{Stall: 3 * s, Page: 3 * s},
		},
		{
			Name: "address-change", Rows: []string{"invariant 1"},
			What: "the client's address changes",
			play: playAddress,
			Want: Limits{Stall: 2 * s},
		},
		{
			Name: "sigstop", Rows: []string{"invariant 1"},
			What: "the client is stopped for 60 s; times are from its end on",
			play: playStop, apart: 3,
			Want: Limits{Stall: 2 * s},
		},
		{
			Name: "policing-r2", Rows: []string{"R2"},
			What: "more than 3 TLS connections to a name in 60 s freeze for 120 s; connections die while a person browses",
			play: playBrowse, rules: []string{"s11-strict"}, once: true,
			Want: Limits{Figures: []Bound{{Name: "freezes", Limit: 0}, {Name: "pages that came", Least: true, Limit: 95}}},
		},
		{
			Name: "bond", Rows: []string{"R5"},
			What: "each flow is policed to 10 Mbit/s; one download",
			play: playRates, rules: []string{"s4-police-10m"}, Path: Path{Rate: 100e6}, policies: []string{"bond", "single"},
			Want: Limits{Figures: []Bound{{Name: "bond", Least: true, Limit: 17}}},
		},
		{
			Name: "loss5", Rows: []string{"B7"},
			What: "5% of the packets are lost at 100 Mbit/s; one download",
			play: playRates, Path: Path{Loss: 0.05, Rate: 100e6}, policies: []string{"auto", "single"},
			Want: Limits{Figures: []Bound{{Name: "auto", Least: true, Limit: 80}}},
		},
		{
			Name: "deaths-single", Rows: []string{"invariant 1"},
			What: "the connection in use is reset or dropped again and again, ten times for each n; policy single",
			play: playDeaths, Policy: "single", once: true,
			Want: Limits{},
		},
		{
			Name: "deaths-bond", Rows: []string{"invariant 1"},
			What: "the same; policy bond",
			play: playDeaths, Policy: "bond", once: true,
			Want: Limits{},
		},
		{
			Name: "idle", Rows: []string{"invariant 3"},
			What: "nothing is asked for after a page",
			play: playIdle, apart: 3,
			Want: Limits{Figures: []Bound{{Name: "sends", Limit: 2}}},
		},
		{
			Name: "idle-open", Rows: []string{"invariant 3"},
			What: "the same, with an open stream that is silent, as a messenger's",
			play: playHeld, apart: 3,
			Want: Limits{Figures: []Bound{{Name: "sends", Limit: 2}}},
		},
		{
			Name: "blackout-cpu", Rows: []string{"B4"},
			What: "nothing passes, and transfers wait: the 60 s that follow the first 15",
			play: playPatience, rules: []string{"s12-shutdown"}, apart: 3,
			Want: Limits{Figures: []Bound{{Name: "processor", Limit: 1}, {Name: "growth", Limit: 2000}}},
		},
	}
}

const (
	// halfAgain is the figure of how soon a download has half of its rate again.
	halfAgain = "half of it after"
	// lastingPage is long: it only has to come.
	lastingPage = 45 * time.Second
)

// Files are the names of all rule files that the row uses.
func (r Row) Files() []string {
	all := append([]string{}, r.first...)
	all = append(append(all, r.then...), r.rules...)
	if r.play == playBrowse || r.play == playDeaths {
		all = append(all, resets, drops, dropsDown, "s12-no-tcp")
	}
	return all
}

// CoverName is the name of the web site before which relays stand.
func (r Row) CoverName() string { return Scenario{Cover: r.Cover}.CoverName() }

// Trials is how many trials there are if so many are asked for.
func (r Row) Trials(n int) int {
	if r.once {
		return 1
	}
	return n
}

// Cost is what a trial takes of a machine, of [FullCost], the cost of one that
// mostly works.
func (r Row) Cost() int { return FullCost / max(1, r.apart) }

// FullCost is divisible by what trials that mostly wait cost less.
const FullCost = 3

// Loose is the row with limits that hold on a busy machine, too: whether it is fast
// enough is not asked, but whether it works.
func (r Row) Loose() Row {
	const times = 4
	r.Want.Stall, r.Want.Page = times*r.Want.Stall, times*r.Want.Page
	return r
}
