package config

import (
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"net/url"
	"path"
	"slices"
	"strconv"
	"strings"

	"busel/internal/flow"
)

// CoverBuiltin is the cover that relayd serves itself.
const CoverBuiltin = "builtin"

// UnixPrefix is before the path of a Unix socket where settings take one.
const UnixPrefix = "unix:"

// Relay is what the relay takes from relayd.toml.
type Relay struct {
	Address    flow.Addr // what invites say
	Listen     []string  // host:port for net.Listen; the host is empty or an IP address
	Cover      string    // host:port to dial, or [CoverBuiltin]
	CoverName  string    // the name, or IP address, that clients ask the cover for
	Transports []string  // in order of preference
	QUICPorts  Ports     // UDP ports of QUIC that looks like nothing; zero for those of Listen
	Site       string    // folder that the built-in cover shows; "" is a site that it makes up
	ACME       ACME
	Exit       Exit
	Limits     Limits
	LogLevel   slog.Level
	Metrics    string // host:port of loopback, or [UnixPrefix] and a path; empty is none
}

// MaxPorts is how many ports a range may have (docs/PROTOCOL.md, section 14): the
// relay has a socket for each.
const MaxPorts = 64

// Ports are the ports Low..High; the zero value is none.
type Ports struct{ Low, High uint16 }

// String is how a file names the ports; empty for none.
func (p Ports) String() string {
	switch {
	case p == Ports{}:
		return ""
	case p.Low == p.High:
		return strconv.Itoa(int(p.Low))
	}
	return fmt.Sprintf("%d-%d", p.Low, p.High)
}

// parsePorts reads A-B, or one port, in decimal; an empty text is none.
func parsePorts(text string) (Ports, error) {
	if text == "" {
		return Ports{}, nil
	}
	first, last, isRange := strings.Cut(text, "-")
	if !isRange {
		last = first
	}
	low, errLow := strconv.ParseUint(first, 10, 16)
	high, errHigh := strconv.ParseUint(last, 10, 16)
	switch {
	case errLow != nil || errHigh != nil || low == 0 || high < low:
		return Ports{}, fmt.Errorf("%q is no range of ports", text)
	case high-low >= MaxPorts:
		return Ports{}, fmt.Errorf("%q has %d ports, want %d at most", text, high-low+1, MaxPorts)
	}
	return Ports{uint16(low), uint16(high)}, nil
}

// ACME says where the built-in cover has its certificate from.
type ACME struct {
	Directory string // URL; "" means that it is self-made
	Email     string // may be empty
	HTTP      string // host:port of plain HTTP, for http-01 and redirections; "" means none
}

// LetsEncrypt is what "letsencrypt" stands for as a directory.
const LetsEncrypt = "https://acme-v02.api.letsencrypt.org/directory"

// Borrowed reports whether the cover is somebody else's host. A client then
// waits for the relay's proof before its first covert byte (docs/PROTOCOL.md).
// Own is the built-in cover, one on this machine or its private network, and
// one on the relay's own address.
func (r *Relay) Borrowed() bool {
	if r.Cover == CoverBuiltin {
		return false
	}
	a, err := flow.SplitHostPort(r.Cover)
	if err != nil {
		return true
	}
	own := a.Name == "localhost" || a.IP.IsLoopback() || a.IP.IsPrivate() || a.Host() == r.Address.Host()
	return !own
}

// relayFile is relayd.toml as the volunteer writes it.
type relayFile struct {
	Relay struct {
		Address    string   `toml:"address"`
		Listen     []string `toml:"listen"`
		Cover      string   `toml:"cover"`
		CoverName  string   `toml:"cover-name"`
		Transports []string `toml:"transports"`
		Site       string   `toml:"site"` // folder of the built-in cover
		QUICPorts  string   `toml:"quic-ports"`
	} `toml:"relay"`
	Exit   exitFile   `toml:"exit"`
	Limits limitsFile `toml:"limits"`
	Log    struct {
		Level string `toml:"level"`
	} `toml:"log"`
	Metrics struct {
		Listen string `toml:"listen"`
	} `toml:"metrics"`
	ACME struct {
		Directory string `toml:"directory"`
		Email     string `toml:"email"`
		HTTP      string `toml:"http"`
	} `toml:"acme"`
}

// defaultRelayFile holds the defaults of relayd.toml (DESIGN.md section 11).
// An empty listen is the port of the address, and an empty cover-name the
// cover's host name.
func defaultRelayFile() *relayFile {
	f := new(relayFile)
	f.Relay.Transports = []string{"mirror", "quic"}
	f.Exit.Only = onlyAll
	f.ACME.HTTP = ":80"
	f.Log.Level = "info"
	return f
}

// ParseRelay reads relayd.toml; file names it in errors, which are [Errors].
func ParseRelay(file string, data []byte) (Relay, error) {
	f := defaultRelayFile()
	d := decode(file, data, f)
	if d.broken() {
		return Relay{}, d.err()
	}
	r := d.relay(f)
	if err := d.err(); err != nil {
		return Relay{}, err
	}
	return r, nil
}

// NewRelay makes the settings that `relayd init` writes from its flags of the
// same names. coverName may be empty if the cover is a host name. Errors are
// [Errors] that name the flags.
func NewRelay(address, cover, coverName string) (Relay, error) {
	f := defaultRelayFile()
	f.Relay.Address, f.Relay.Cover, f.Relay.CoverName = address, cover, coverName
	d := new(decoder)
	r := d.relay(f)
	if err := d.err(); err != nil {
		for _, e := range d.errors {
			e.Key = strings.Replace(e.Key, "relay.", "-", 1)
			e.Hint = strings.Replace(strings.Replace(e.Hint, " = ", " ", 1), "write ", "write -", 1)
		}
		return Relay{}, err
	}
	return r, nil
}

func (d *decoder) relay(f *relayFile) Relay {
	var r Relay
	var err error
	const addressHint = `write address = "198.51.100.7:443", where clients reach the relay`
	if f.Relay.Address == "" {
		d.fault("relay.address", "missing", addressHint)
	} else if r.Address, err = parseAddress(f.Relay.Address); err != nil {
		d.fault("relay.address", err.Error(), addressHint)
	}

	if len(f.Relay.Listen) == 0 && r.Address.IsValid() {
		r.Listen = []string{":" + strconv.Itoa(int(r.Address.Port))}
	}
	for _, text := range f.Relay.Listen {
		if err := checkListen(text); err != nil {
			d.fault("relay.listen", err.Error(), `write listen = [":443"] for all addresses, or ["198.51.100.7:443"]`)
			continue
		}
		r.Listen = append(r.Listen, text)
	}

	const coverHint = `write cover = "127.0.0.1:8443", where your web server listens, or "builtin"`
	var cover flow.Addr
	switch {
	case f.Relay.Cover == "":
		d.fault("relay.cover", "missing", coverHint)
	case f.Relay.Cover != CoverBuiltin:
		if cover, err = parseAddress(f.Relay.Cover); err != nil {
			d.fault("relay.cover", err.Error(), coverHint)
			break
		}
		r.Cover = cover.String()
	default:
		r.Cover = CoverBuiltin
	}

	r.CoverName = f.Relay.CoverName
	switch {
	case r.CoverName == "" && cover.Name != "" && cover.Name != "localhost":
		r.CoverName = cover.Name
	case r.CoverName == "":
		d.fault("relay.cover-name", "missing", `write cover-name = "news.example.org", the name in the cover's certificate`)
	case !validHost(r.CoverName):
		d.fault("relay.cover-name", fmt.Sprintf("%q is no host name", r.CoverName), `write cover-name = "news.example.org" in lower case, without port`)
	}

	const transportsHint = `write transports = ["mirror", "quic"]`
	if len(f.Relay.Transports) == 0 {
		d.fault("relay.transports", "empty", transportsHint)
	}
	for _, name := range f.Relay.Transports {
		switch {
		case slices.Contains(r.Transports, name):
			d.fault("relay.transports", fmt.Sprintf("%q is there twice", name), "write each transport once")
		case name == "mirror" || name == "quic":
			r.Transports = append(r.Transports, name)
		case name == "websocket" || name == "dns":
			d.fault("relay.transports", fmt.Sprintf("%q is %s", name, notYet), transportsHint)
		default:
			d.fault("relay.transports", fmt.Sprintf("%q is no transport", name), transportsHint)
		}
	}

	r.QUICPorts = d.quicPorts(f.Relay.QUICPorts, &r)
	if r.Site = f.Relay.Site; r.Site != "" && !path.IsAbs(r.Site) {
		d.fault("relay.site", fmt.Sprintf("%q is no absolute path", r.Site), `write site = "/var/www/html"`)
	} else if r.Site != "" && r.Cover != CoverBuiltin {
		d.fault("relay.site", "only the built-in cover shows a folder", `write cover = "builtin", or remove site`)
	}
	r.ACME = d.acme(f, &r)
	r.Exit = d.exit(&f.Exit)
	r.Limits = d.limits(&f.Limits)
	r.LogLevel = d.level(f.Log.Level)
	if r.Metrics = f.Metrics.Listen; r.Metrics != "" {
		if err := checkMetrics(r.Metrics); err != nil {
			d.fault("metrics.listen", err.Error(), `write listen = "127.0.0.1:9464", listen = "unix:/run/busel/metrics.sock", or "" for none`)
		}
	}
	return r
}

// quicPorts reads the range, which has to fit the rest of r.
func (d *decoder) quicPorts(text string, r *Relay) Ports {
	const key = "relay.quic-ports"
	p, err := parsePorts(text)
	switch {
	case err != nil:
		d.fault(key, err.Error(), fmt.Sprintf(`write quic-ports = "40000-40015", at most %d ports, or "" for the ports of listen`, MaxPorts))
	case p != Ports{} && !slices.Contains(r.Transports, "quic"):
		d.fault(key, "stands without quic", `write transports = ["mirror", "quic"], or quic-ports = ""`)
	case p != Ports{} && r.Cover == CoverBuiltin:
		for _, addr := range r.Listen {
			_, port, _ := net.SplitHostPort(addr)
			if n, err := strconv.ParseUint(port, 10, 16); err == nil && p.Low <= uint16(n) && uint16(n) <= p.High {
				d.fault(key, fmt.Sprintf("has port %d, where the site answers over HTTP/3", n), "take other ports: QUIC looks like nothing on these, and nothing answers a stranger there")
			}
		}
	}
	return p
}

// checkMetrics takes only what nobody reaches from outside.
func checkMetrics(text string) error {
	if path, ok := strings.CutPrefix(text, UnixPrefix); ok {
		if !strings.HasPrefix(path, "/") {
			return fmt.Errorf("%q is no absolute path", path)
		}
		return nil
	}
	if err := checkListen(text); err != nil {
		return err
	}
	if ap, err := netip.ParseAddrPort(text); err != nil || !ap.Addr().IsLoopback() {
		return fmt.Errorf("%q is not an address of loopback", text)
	}
	return nil
}

func (d *decoder) acme(f *relayFile, r *Relay) ACME {
	a := ACME{Directory: f.ACME.Directory, Email: f.ACME.Email, HTTP: f.ACME.HTTP}
	if a.Directory == "letsencrypt" {
		a.Directory = LetsEncrypt
	}
	if a.Directory == "" {
		return a
	}
	const hint = `write directory = "letsencrypt", or the https address of another authority's directory`
	if u, err := url.Parse(a.Directory); err != nil || u.Scheme != "https" || u.Host == "" {
		d.fault("acme.directory", fmt.Sprintf("%q is no https address", a.Directory), hint)
	}
	if r.Cover != CoverBuiltin && r.Cover != "" {
		d.fault("acme.directory", "only the built-in cover fetches certificates", `write cover = "builtin", or remove [acme]: your web server has its own`)
	}
	if strings.ContainsAny(a.Email, " ,\n") || a.Email != "" && !strings.Contains(a.Email, "@") {
		d.fault("acme.email", fmt.Sprintf("%q is no mail address", a.Email), `write email = "you@example.org", or leave it empty`)
	}
	if a.HTTP != "" {
		if err := checkListen(a.HTTP); err != nil {
			d.fault("acme.http", err.Error(), `write http = ":80", or "" for none`)
		}
	}
	return a
}

func (d *decoder) prefixes(key string, texts []string) []netip.Prefix {
	var all []netip.Prefix
	for _, text := range texts {
		p, err := parsePrefix(text)
		if err != nil {
			d.fault(key, err.Error(), `write prefixes or addresses, such as ["10.1.0.0/16", "2001:db8::7"]`)
			continue
		}
		all = append(all, p)
	}
	return all
}

func parsePrefix(text string) (netip.Prefix, error) {
	if ip, err := netip.ParseAddr(text); err == nil && ip.Zone() == "" {
		ip = ip.Unmap()
		return netip.PrefixFrom(ip, ip.BitLen()), nil
	}
	p, err := netip.ParsePrefix(text)
	if err != nil {
		return netip.Prefix{}, fmt.Errorf("%q is no prefix", text)
	}
	if p.Addr().Is4In6() {
		return netip.Prefix{}, fmt.Errorf("%q hides IPv4 in IPv6; write the IPv4 prefix", text)
	}
	if p != p.Masked() {
		return netip.Prefix{}, fmt.Errorf("%q has bits beyond its length; did you mean %s", text, p.Masked())
	}
	return p, nil
}

// parseAddress reads host:port with a port that can be dialled.
func parseAddress(text string) (flow.Addr, error) {
	a, err := flow.SplitHostPort(text)
	switch {
	case err != nil:
		return flow.Addr{}, fmt.Errorf("%q is no host:port", text)
	case a.Port == 0:
		return flow.Addr{}, fmt.Errorf("%q has port 0", text)
	case a.Name != "" && !validHost(a.Name):
		return flow.Addr{}, fmt.Errorf("%q is no host name", a.Name)
	case a.IP.IsValid() && (a.IP.IsUnspecified() || a.IP.IsMulticast()):
		return flow.Addr{}, fmt.Errorf("nobody can connect to %q", a.Host())
	}
	return a, nil
}

func checkListen(text string) error {
	host, port, err := net.SplitHostPort(text)
	if err != nil {
		return fmt.Errorf("%q is no address and port", text)
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return fmt.Errorf("port %q is not in 1..65535", port)
	}
	if host != "" {
		if ip, err := netip.ParseAddr(host); err != nil || ip.Zone() != "" && !validHost(ip.Zone()) {
			return fmt.Errorf("%q is no IP address", host)
		}
	}
	return nil
}

// validHost reports whether s is an IP address in its usual form or a host name
// in lower case, as it travels in SNI: at most 253 bytes in labels of 1..63
// letters, digits, hyphens and underscores (RFC 1123, section 2.1).
func validHost(s string) bool {
	if ip, err := netip.ParseAddr(s); err == nil {
		return ip.Zone() == "" && !ip.Is4In6() && ip.String() == s
	}
	if len(s) > maxHost {
		return false
	}
	for label := range strings.SplitSeq(s, ".") {
		if len(label) == 0 || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' {
			return false
		}
		for i := range len(label) {
			c := label[i]
			if !(c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '-' || c == '_') {
				return false
			}
		}
	}
	return true
}

// TOML renders the settings as a commented relayd.toml, which parses to the
// same settings.
func (r *Relay) TOML() []byte {
	var b strings.Builder
	list := func(texts []string) string {
		quoted := make([]string, len(texts))
		for i, text := range texts {
			quoted[i] = strconv.Quote(text)
		}
		return "[" + strings.Join(quoted, ", ") + "]"
	}
	prefixes := func(all []netip.Prefix) string {
		texts := make([]string, len(all))
		for i, p := range all {
			texts[i] = p.String()
		}
		return list(texts)
	}
	sources := make([]string, len(r.Exit.Source))
	for i, ip := range r.Exit.Source {
		sources[i] = ip.String()
	}
	fmt.Fprintf(&b, `# Settings of a Busel relay. After a change: relayd upgrade. It breaks no stream.
# Keys and invites are files beside this one, never in it.

[relay]
# Where clients reach this relay; invites say it, so fresh invites are needed
# when it changes.
address = %q

# Where relayd listens: ":443" is port 443 on every address of this machine.
listen = %s

# The web site that strangers see: host:port of your own web server, best on
# this machine, or "builtin" for a small site that relayd serves itself.
cover = %q

# The name that clients ask that site for; it stands in its certificate.
cover-name = %q

# Ways to travel, the preferred one first: mirror is TLS to the cover site (TCP),
# quic is QUIC (UDP, on the same port numbers, so the firewall must let UDP in
# too): a visit to the built-in site over HTTP/3, or with another cover QUIC that
# looks like nothing. Fresh invites are needed when this changes.
transports = %s

# A range of at most 64 further UDP ports, such as "40000-40015", for QUIC that
# looks like nothing; clients take another one of them for each connection, so that
# a censor has to block all. Let the same numbers in through the firewall. Then
# the UDP ports of listen are left to HTTP/3: of the built-in site, or of your own
# web server. "" is no range. Fresh invites are needed when this changes.
quic-ports = %q

# A folder with a web site, which the built-in cover then shows: index.html and what
# belongs to it. Empty: a small site that is made up, another one for each relay.
site = %q

[acme]
# Where the built-in cover has its certificate from: "letsencrypt", or the address of
# another authority's directory, whose terms you agree to. cover-name must be a name
# that leads here (or this machine's address, where the authority takes those). Empty:
# a self-made certificate, which invites pin, so fresh invites are needed when this
# changes.
directory = %q
# Where the authority may write to; it need not.
email = %q
# Plain HTTP, for proofs to the authority and for visitors, who are sent to https.
http = %q

[exit]
# Addresses that clients may reach through this relay although they are denied
# by default (private networks, this machine, port 25 stays closed), and
# addresses that they may not: prefixes such as "192.0.2.0/24", or single
# addresses. deny wins over allow.
allow = %s
deny = %s

# "all" is everything that is not denied, "web" ports 80 and 443 alone.
only = %q

# If there are any here, clients reach only these sites and their subdomains, and
# only by name: ["example.org"] is news.example.org, too.
names = %s

# Where connections leave from: an address of this machine, or one of each family,
# other than the one that clients connect to. A site then does not learn that one.
source = %s

# The invite of another relay, "busel:...": everything leaves from there, and what
# is said above of addresses holds here for addresses and there for names, which are
# looked up there. An invite is a secret: nobody else may read this file then.
relay = %q

[limits]
# How much all clients together may move in a calendar month (UTC), up and down
# added, such as "500GB", and how fast in each direction, such as "50Mbit" (a
# second). "" is no limit. Each byte crosses your server's line once in each
# direction, and what makes it a visit to a web site adds a few percent: where only
# what leaves is paid for, nine tenths of that are a good limit, where both are, four
# tenths. What is sent again after a connection broke counts again. Limits of single
# invites: relayd limit.
monthly = %q
rate = %q

[log]
# debug, info, warn or error. No level but debug names an address.
level = %q

[metrics]
# Where Prometheus may fetch counts, which name nobody: "127.0.0.1:9464", or
# "unix:/run/busel/metrics.sock". Empty is nowhere. Nobody else should reach it.
listen = %q
`, r.Address.String(), list(r.Listen), r.Cover, r.CoverName, list(r.Transports), r.QUICPorts.String(),
		r.Site, r.ACME.Directory, r.ACME.Email, r.ACME.HTTP,
		prefixes(r.Exit.Allow), prefixes(r.Exit.Deny), r.Exit.only(), list(r.Exit.Names), list(sources), r.Exit.relayText(),
		r.Limits.Monthly.String(), r.Limits.Rate.String(), strings.ToLower(r.LogLevel.String()), r.Metrics)
	return []byte(b.String())
}
