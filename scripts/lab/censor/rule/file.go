package rule

import (
	"cmp"
	"encoding"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/BurntSushi/toml"
)

// A File is a rule file that was read.
type File struct {
	Name      string
	Simulator string // row of THREATS.md section 0: "S1"
	Row       string // what is played: "B1"
	Source    string // of the row
	rules     []*spec
}

// An Error is a fault of a rule file, with what to do about it.
type Error struct {
	File, Key    string
	Reason, Hint string
}

func (e *Error) Error() string {
	return fmt.Sprintf("%s: %s: %s (%s)", e.File, e.Key, e.Reason, e.Hint)
}

// spec is a rule as it is written; what is missing has the zero value.
type spec struct {
	Name        string     `toml:"name"`
	Match       match      `toml:"match"`
	Reassemble  []string   `toml:"reassemble"`
	Probability *float64   `toml:"probability"`
	Delay       []duration `toml:"delay"`
	Hold        hold       `toml:"hold"`
	Act         act        `toml:"act"`
}

type match struct {
	Protocol          []string       `toml:"protocol"`
	Ports             []uint16       `toml:"ports"`
	ExceptPorts       []uint16       `toml:"except_ports"`
	ExceptClientPorts []uint16       `toml:"except_client_ports"`
	ClientPortAbove   bool           `toml:"client_port_above"`
	To                []netip.Prefix `toml:"to"`
	ExceptTo          []netip.Prefix `toml:"except_to"`

	Direction   string       `toml:"direction"`
	SYN         bool         `toml:"syn"`
	TCPHeader   int          `toml:"tcp_header"`
	PayloadMin  int          `toml:"payload_min"`
	QUICVersion uint32       `toml:"quic_version"`
	PacketsOver uint64       `toml:"packets_over"`
	AgeOver     duration     `toml:"age_over"`
	Windows     [][]duration `toml:"windows"`
	Period      duration     `toml:"period"`
	Busiest     bool         `toml:"busiest"`

	App        []string `toml:"app"`
	ExceptApp  []string `toml:"except_app"`
	SNI        []string `toml:"sni"`
	ExceptSNI  []string `toml:"except_sni"`
	Host       []string `toml:"host"`
	ExceptHost []string `toml:"except_host"`
	DNS        []string `toml:"dns"`
	ExceptDNS  []string `toml:"except_dns"`
	JA4        []string `toml:"ja4"`
	Rate       *rate    `toml:"rate"`
}

type rate struct {
	Connections int      `toml:"connections"`
	Apart       duration `toml:"apart"`
	Within      duration `toml:"within"`
	By          []string `toml:"by"`
}

type hold struct {
	By      string   `toml:"by"`
	For     duration `toml:"for"`
	Refresh bool     `toml:"refresh"`
}

type act struct {
	Drop   string           `toml:"drop"`
	Loss   *float64         `toml:"loss"`
	Police *police          `toml:"police"`
	Reset  *reset           `toml:"reset"`
	Answer *answer          `toml:"answer"`
	Page   *page            `toml:"page"`
	Divert []netip.AddrPort `toml:"divert"`
}

type police struct {
	Kbit  float64 `toml:"kbit"`
	Burst int     `toml:"burst"`
	By    string  `toml:"by"`
}

type reset struct {
	Toward  string   `toml:"toward"`
	Count   int      `toml:"count"`
	TTL     uint8    `toml:"ttl"`
	ID      uint16   `toml:"id"`
	Window  uint16   `toml:"window"`
	DF      bool     `toml:"df"`
	Zero    bool     `toml:"zero"`
	Payload hexBytes `toml:"payload"`
}

type answer struct {
	Addresses []netip.Addr `toml:"addresses"`
	TTL       uint32       `toml:"ttl"`
}

type page struct {
	Status   string `toml:"status"`
	Location string `toml:"location"`
	Body     string `toml:"body"`
}

// duration is a time.Duration that is written as "90s".
type duration time.Duration

func (d *duration) UnmarshalText(text []byte) error {
	v, err := time.ParseDuration(string(text))
	if err == nil && v < 0 {
		err = errors.New("negative")
	}
	*d = duration(v)
	return err
}

// hexBytes are bytes that are written as "01 02".
type hexBytes []byte

func (h *hexBytes) UnmarshalText(text []byte) error {
	b, err := hex.DecodeString(strings.ReplaceAll(string(text), " ", ""))
	*h = b
	return err
}

var (
	_ encoding.TextUnmarshaler = (*duration)(nil)
	_ encoding.TextUnmarshaler = (*hexBytes)(nil)
)

// Words that a key may have.
var (
	protocols   = []string{"tcp", "udp", "other"}
	directions  = []string{"", "up", "down"}
	dropped     = []string{"", "both", "up", "down"}
	towards     = []string{"", "client", "world", "both"}
	reassembled = []string{"tcp", "tls", "quic"}
	rateParts   = []string{"client", "prefix", "sni", "ja4"}
	policeBy    = []string{"", "flow", "client"}
)

// Parse reads a rule file. The error is an [*Error] that says what is wrong
// and what to write; the package comment describes the format.
func Parse(name string, text []byte) (*File, error) {
	var in struct {
		Simulator string  `toml:"simulator"`
		Row       string  `toml:"row"`
		Source    string  `toml:"source"`
		Rule      []*spec `toml:"rule"`
	}
	meta, err := toml.Decode(string(text), &in)
	if err != nil {
		e := &Error{name, "file", err.Error(), "see the package comment for the keys and their types"}
		if parse, ok := errors.AsType[toml.ParseError](err); ok {
			e.Key, e.Reason = fmt.Sprintf("line %d", parse.Position.Line), parse.Message
		}
		return nil, e
	}
	if unknown := meta.Undecoded(); len(unknown) > 0 {
		return nil, &Error{name, unknown[0].String(), "unknown key", "see the package comment for the keys there are"}
	}
	f := &File{Name: name, Simulator: in.Simulator, Row: in.Row, Source: in.Source, rules: in.Rule}
	fault := func(key, reason, hint string) error { return &Error{name, key, reason, hint} }
	switch {
	case f.Simulator == "":
		return nil, fault("simulator", "missing", `write simulator = "S1", a row of THREATS.md section 0`)
	case f.Row == "":
		return nil, fault("row", "missing", `write row = "B1", the row of THREATS.md that this plays`)
	case f.Source == "":
		return nil, fault("source", "missing", `write source = "...", where the parameters are from`)
	case len(f.rules) == 0:
		return nil, fault("rule", "missing", "write at least one [[rule]]")
	}
	names := map[string]bool{}
	for i, r := range f.rules {
		r.Name = cmp.Or(r.Name, fmt.Sprint(i+1))
		if names[r.Name] {
			return nil, fault("rule.name", fmt.Sprintf("%q is used twice", r.Name), "give each rule of a file a name of its own")
		}
		names[r.Name] = true
		if c := r.check(); c != nil {
			c.File, c.Key = name, "rule "+r.Name+": "+c.Key
			return nil, c
		}
	}
	return f, nil
}

// check finds the first fault of a rule beyond types.
func (r *spec) check() *Error {
	for _, w := range []struct {
		key   string
		words []string
		of    []string
	}{
		{"match.protocol", r.Match.Protocol, protocols},
		{"match.direction", []string{r.Match.Direction}, directions},
		{"match.app", r.Match.App, appNames},
		{"match.except_app", r.Match.ExceptApp, appNames},
		{"reassemble", r.Reassemble, reassembled},
		{"hold.by", []string{r.Hold.By}, holdNames},
		{"act.drop", []string{r.Act.Drop}, dropped},
	} {
		if e := oneOf(w.key, w.words, w.of); e != nil {
			return e
		}
	}
	if e := r.Match.check(); e != nil {
		return e
	}
	if e := r.Act.check(); e != nil {
		return e
	}
	return r.checkTogether()
}

func oneOf(key string, words, of []string) *Error {
	for _, w := range words {
		if !slices.Contains(of, w) {
			return &Error{Key: key, Reason: fmt.Sprintf("%q is not known", w), Hint: "write one of " + quoted(of)}
		}
	}
	return nil
}

func quoted(words []string) string {
	var all []string
	for _, w := range words {
		if w != "" {
			all = append(all, fmt.Sprintf("%q", w))
		}
	}
	return strings.Join(all, ", ")
}

func (m *match) check() *Error {
	for _, w := range m.Windows {
		if len(w) != 2 || w[0] >= w[1] {
			return &Error{Key: "match.windows", Reason: "want pairs of times, the earlier first", Hint: `write windows = [["0s", "60s"], ["90s", "2m"]]`}
		}
		if m.Period > 0 && w[1] > m.Period {
			return &Error{Key: "match.windows", Reason: "ends after the period", Hint: "a window lies within one period"}
		}
	}
	if m.Period > 0 && len(m.Windows) == 0 {
		return &Error{Key: "match.period", Reason: "without windows", Hint: "say with match.windows when in each period the rule is on"}
	}
	for _, list := range [][]string{m.SNI, m.ExceptSNI, m.Host, m.ExceptHost, m.DNS, m.ExceptDNS} {
		for _, pattern := range list {
			if pattern != strings.ToLower(pattern) || pattern == "" {
				return &Error{Key: "match", Reason: fmt.Sprintf("name %q is empty or has capitals", pattern), Hint: `write names in lower case; "*" stands for any characters`}
			}
		}
	}
	if m.Rate == nil {
		return nil
	}
	if e := oneOf("match.rate.by", m.Rate.By, rateParts); e != nil {
		return e
	}
	if m.Rate.Connections < 1 || m.Rate.Connections > maxRate || m.Rate.Within <= 0 || len(m.Rate.By) == 0 {
		return &Error{Key: "match.rate", Reason: "incomplete", Hint: fmt.Sprintf(`write connections (1 to %d), within and by, such as by = ["client", "sni"]`, maxRate)}
	}
	return nil
}

func (a *act) check() *Error {
	if a.Drop == "" && a.Police == nil && a.Reset == nil && a.Answer == nil && a.Page == nil && len(a.Divert) == 0 {
		return &Error{Key: "act", Reason: "does nothing", Hint: "write drop, police, reset, answer, page or divert"}
	}
	if a.Loss != nil && (a.Drop == "" || *a.Loss <= 0 || *a.Loss > 1) {
		return &Error{Key: "act.loss", Reason: "want more than 0 and at most 1, beside drop", Hint: `write drop = "both" and loss = 0.4`}
	}
	if a.Police != nil {
		if e := oneOf("act.police.by", []string{a.Police.By}, policeBy); e != nil {
			return e
		}
		if a.Police.Kbit <= 0 || a.Police.Burst < 1500 {
			return &Error{Key: "act.police", Reason: "want kbit above 0 and a burst of 1500 bytes or more", Hint: "a bucket smaller than a packet passes nothing"}
		}
	}
	if a.Reset != nil {
		if e := oneOf("act.reset.toward", []string{a.Reset.Toward}, towards); e != nil {
			return e
		}
		if a.Reset.Count < 0 || a.Reset.Count > maxResets || len(a.Reset.Payload) > 1000 {
			return &Error{Key: "act.reset", Reason: "too much", Hint: fmt.Sprintf("at most %d packets of at most 1000 bytes", maxResets)}
		}
	}
	if a.Page != nil && (a.Page.Status == "" || strings.ContainsAny(a.Page.Status+a.Page.Location, "\r\n") || len(a.Page.Body) > 1000) {
		return &Error{Key: "act.page", Reason: "want a status and a body of at most 1000 bytes", Hint: `write status = "302 Found"`}
	}
	return nil
}

// checkTogether finds keys that cannot go together.
func (r *spec) checkTogether() *Error {
	if r.Probability != nil && (*r.Probability <= 0 || *r.Probability > 1) {
		return &Error{Key: "probability", Reason: "want more than 0 and at most 1", Hint: "write probability = 0.263"}
	}
	if len(r.Delay) != 0 && (len(r.Delay) != 2 || r.Delay[0] > r.Delay[1]) {
		return &Error{Key: "delay", Reason: "want the least and the most", Hint: `write delay = ["2ms", "20ms"]`}
	}
	hasDNS := len(r.Match.DNS)+len(r.Match.ExceptDNS) > 0
	switch {
	case r.Hold.By == "" && (r.Hold.For > 0 || r.Hold.Refresh):
		return &Error{Key: "hold.by", Reason: "missing", Hint: "write one of " + quoted(holdNames)}
	case r.Hold.By != "" && r.Hold.By != "flow" && r.Hold.For == 0:
		return &Error{Key: "hold.for", Reason: "missing", Hint: `write for = "180s"; only a flow may be held for its life`}
	case r.Hold.By == "key" && r.Match.Rate == nil:
		return &Error{Key: "hold.by", Reason: "there is no key", Hint: "write match.rate, whose by makes the key"}
	case len(r.Act.Divert) > 0 && (r.Match.content() || r.Match.perPacket() || r.Match.Busiest || r.Match.Rate != nil || r.Probability != nil || r.Hold.By != ""):
		return &Error{Key: "act.divert", Reason: "beside keys that are known only after the first packet", Hint: "a connection is diverted from its first packet on: match by protocol, ports and prefixes"}
	case r.Act.Answer != nil && !hasDNS:
		return &Error{Key: "act.answer", Reason: "without a question", Hint: `write match.dns = ["*"]`}
	case hasDNS && r.Match.Rate != nil:
		return &Error{Key: "match.rate", Reason: "beside dns", Hint: "connections are counted, queries are not"}
	}
	return nil
}
