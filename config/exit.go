package config

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// Exit says where the relay connects to beyond its built-in denials. Deny goes
// before Allow, and Allow before the built-in denials. Web and Names narrow it
// further.
type Exit struct {
	Allow, Deny []netip.Prefix
	Web         bool     // only ports 80 and 443
	Names       []string // only these and their subdomains, in lower case; nil is any
	// Source is where connections leave from: an address of this machine of each
	// family, or of one, and then the other family is not used. Nil leaves it to the
	// system.
	Source []netip.Addr
	Relay  *Bundle // another relay, through which all leaves; nil is none
}

// Words of exit.only.
const (
	onlyAll = "all"
	onlyWeb = "web"
)

// exitFile is [exit] as the volunteer writes it.
type exitFile struct {
	Allow  []string `toml:"allow"`
	Deny   []string `toml:"deny"`
	Only   string   `toml:"only"`
	Names  []string `toml:"names"`
	Source []string `toml:"source"`
	Relay  string   `toml:"relay"`
}

// limitsFile is [limits] as the volunteer writes it.
type limitsFile struct {
	Monthly string `toml:"monthly"`
	Rate    string `toml:"rate"`
}

// maxNames bounds exit.names: each connection is compared with all of them.
const maxNames = 1000

func (d *decoder) exit(f *exitFile) Exit {
	e := Exit{Allow: d.prefixes("exit.allow", f.Allow), Deny: d.prefixes("exit.deny", f.Deny)}
	switch f.Only {
	case onlyAll:
	case onlyWeb:
		e.Web = true
	default:
		d.fault("exit.only", fmt.Sprintf("%q is no preset", f.Only), `write only = "all", or only = "web" for ports 80 and 443 alone; a list of sites goes into names`)
	}
	const namesHint = `write names = ["example.org", "news.example.net"], in lower case and without ports; each stands for its subdomains, too`
	if len(f.Names) > maxNames {
		d.fault("exit.names", fmt.Sprintf("has %d names, want %d at most", len(f.Names), maxNames), "leave some out")
		f.Names = nil
	}
	for _, name := range f.Names {
		switch name = strings.TrimPrefix(name, "*."); {
		case !validHost(name) || isIP(name):
			d.fault("exit.names", fmt.Sprintf("%q is no host name", name), namesHint)
		case !slices.Contains(e.Names, name):
			e.Names = append(e.Names, name)
		}
	}
	const sourceHint = `write source = ["198.51.100.8"], an address of this machine, or one of each family`
	for _, text := range f.Source {
		ip, err := netip.ParseAddr(text)
		ip = ip.Unmap()
		sameFamily := func(other netip.Addr) bool { return other.Is4() == ip.Is4() }
		switch {
		case err != nil || ip.Zone() != "" || ip.IsUnspecified() || ip.IsMulticast():
			d.fault("exit.source", fmt.Sprintf("%q is no address of a machine", text), sourceHint)
		case slices.ContainsFunc(e.Source, sameFamily):
			d.fault("exit.source", fmt.Sprintf("%q is the second of its family", text), sourceHint)
		default:
			e.Source = append(e.Source, ip)
		}
	}
	if f.Relay != "" {
		b, err := ParseText(f.Relay)
		if err != nil {
			d.fault("exit.relay", err.Error(), `write relay = "busel:...", the whole invite of the other relay, on one line`)
		}
		e.Relay = b
	}
	if e.Relay != nil && len(e.Source) > 0 {
		d.fault("exit.source", "stands beside relay: all leaves from the other relay", "remove one of the two")
	}
	return e
}

func (d *decoder) limits(f *limitsFile) (l Limits) {
	var err error
	if l.Monthly, err = ParseSize(f.Monthly); err != nil {
		d.fault("limits.monthly", err.Error(), `write monthly = "500GB", or "" for no limit`)
	}
	if l.Rate, err = ParseRate(f.Rate); err != nil {
		d.fault("limits.rate", err.Error(), `write rate = "50Mbit", or "" for no limit`)
	}
	return l
}

// only is the value of exit.only.
func (e *Exit) only() string {
	if e.Web {
		return onlyWeb
	}
	return onlyAll
}

// relayText is the value of exit.relay.
func (e *Exit) relayText() string {
	if e.Relay == nil {
		return ""
	}
	return e.Relay.Text()
}
