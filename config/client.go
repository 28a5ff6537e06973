package config

import (
	"crypto/ed25519"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"regexp"
	"strconv"
	"strings"
	"unicode"
)

// Client is what the client takes from client.toml.
type Client struct {
	// Listen is where the local proxy and dashboard listen, a loopback address;
	// port 0 takes a free one.
	Listen netip.AddrPort
	// KeepPort: the free port is drawn once, and is the same in every run.
	KeepPort bool
	// Allow is whose programs may use the proxy.
	Allow Allow
	// Programs are those of the user's programs that may use the proxy, as paths or names
	// of their files; none: all.
	Programs []string
	// User and Password are demanded of programs that use the proxy; both have
	// 1..255 bytes, or both are empty and nothing is demanded.
	User     string
	Password Secret
	Policy   Policy
	Look     Look
	// Language is the tag of the language of the resident's page; empty is the browser's.
	Language string
	LogLevel slog.Level
}

// Allow is whose programs may use the local proxy.
type Allow string

// Who may use the proxy.
const (
	AllowDefault Allow = ""       // AllowUser where the system tells, else AllowAnyone
	AllowUser    Allow = "user"   // programs of the user who runs the client
	AllowAnyone  Allow = "anyone" // those of every user of this computer
)

// maxPrograms and maxProgram bound the list of programs, and a name in bytes.
const (
	maxPrograms = 64
	maxProgram  = 4096 // PATH_MAX
)

// Look is what browser the client looks like.
type Look struct {
	// Use is "auto", which follows the user's browser; a family such as "firefox"; or one
	// look's name.
	Use string
	// Learn: looks are learned from the user's browser as it uses the proxy.
	Learn bool
	// Keys are those whose bundles of looks are taken.
	Keys []ed25519.PublicKey
}

// maxLookKeys bounds how many signers of looks are trusted.
const maxLookKeys = 16

// Policy is how the session uses its carriers (docs/ARCHITECTURE.md, "Session").
type Policy string

// Policies.
const (
	PolicyAuto   Policy = "auto"   // whatever this network does best with
	PolicySingle Policy = "single" // one carrier, and a warm spare
	PolicyBond   Policy = "bond"   // several carriers that share the work
	PolicyBudget Policy = "budget" // several short ones, for networks that freeze each flow
)

// clientFile is client.toml as the user writes it.
type clientFile struct {
	Local struct {
		Listen   string   `toml:"listen"`
		User     string   `toml:"user"`
		Password string   `toml:"password"`
		Allow    string   `toml:"allow"`
		Programs []string `toml:"programs"`
	} `toml:"local"`
	Rotation struct {
		Policy string `toml:"policy"`
		Budget later  `toml:"budget"`
	} `toml:"rotation"`
	Log struct {
		Level string `toml:"level"`
	} `toml:"log"`
	Look struct {
		Use   string   `toml:"use"`
		Learn bool     `toml:"learn"`
		Keys  []string `toml:"keys"`
	} `toml:"look"`
	Language string `toml:"language"` // of the resident's page
}

// defaultClientFile holds the defaults of client.toml (DESIGN.md section 11).
func defaultClientFile() *clientFile {
	f := new(clientFile)
	f.Local.Listen = "127.0.0.1:1080"
	f.Rotation.Policy = string(PolicyAuto)
	f.Look.Use, f.Look.Learn = "auto", true
	f.Log.Level = "info"
	return f
}

// ParseClient reads client.toml; file names it in errors, which are [Errors].
// No data at all gives the defaults.
func ParseClient(file string, data []byte) (Client, error) {
	f := defaultClientFile()
	d := decode(file, data, f)
	if d.broken() {
		return Client{}, d.err()
	}
	var c Client
	var err error
	if c.Listen, c.KeepPort, err = ParseListen(f.Local.Listen); err != nil {
		d.fault("local.listen", err.Error(), `write listen = "127.0.0.1:1080", "random" for a port that is drawn once, or "auto" for a free one each time`)
	}
	d.password(f.Local.User, f.Local.Password)
	c.User, c.Password = f.Local.User, Secret(f.Local.Password)
	d.callers(&c, f)
	switch p := Policy(f.Rotation.Policy); p {
	case PolicyAuto, PolicySingle, PolicyBond, PolicyBudget:
		c.Policy = p
	default:
		d.fault("rotation.policy", fmt.Sprintf("%q is no policy", p), `write policy = "auto", "single", "bond" or "budget"`)
	}
	d.look(&c.Look, f)
	if c.Language = f.Language; !languageTag.MatchString(c.Language) {
		d.fault("language", fmt.Sprintf("%.40q is no language", c.Language), `write language = "be", or leave it out for the browser's`)
	}
	c.LogLevel = d.level(f.Log.Level)
	if err := d.err(); err != nil {
		return Client{}, err
	}
	return c, nil
}

// languageTag is the form of a language tag (RFC 5646, section 2.1), or nothing.
var languageTag = regexp.MustCompile(`^([A-Za-z]{2,8}(-[A-Za-z0-9]{1,8}){0,3})?$`)

// callers reads who may use the proxy.
func (d *decoder) callers(c *Client, f *clientFile) {
	c.Programs = f.Local.Programs
	switch c.Allow = Allow(f.Local.Allow); c.Allow {
	case AllowDefault, AllowUser:
	case AllowAnyone:
		if len(c.Programs) > 0 {
			d.fault("local.programs", "other users' programs do not show what they are", `remove it, or allow = "anyone"`)
		}
	default:
		d.fault("local.allow", fmt.Sprintf("%.64q is nobody", f.Local.Allow), `write allow = "user" for your own programs only, or "anyone" for those of all users of this computer`)
	}
	if len(c.Programs) > maxPrograms {
		d.fault("local.programs", fmt.Sprintf("there are more than %d", maxPrograms), "remove those that you do not need")
	}
	for _, p := range c.Programs {
		if p == "" || len(p) > maxProgram || strings.HasSuffix(p, "/") || strings.ContainsFunc(p, unicode.IsControl) {
			d.fault("local.programs", fmt.Sprintf("%.64q is no program", p), `write programs = ["firefox", "/opt/telegram/Telegram"]`)
			return
		}
	}
}

func (d *decoder) look(l *Look, f *clientFile) {
	l.Use, l.Learn = f.Look.Use, f.Look.Learn
	if l.Use == "" || len(l.Use) > 64 {
		d.fault("look.use", fmt.Sprintf("%.64q is no look", l.Use), `write use = "auto", a family such as "firefox", or a name that client look list shows`)
	}
	if len(f.Look.Keys) > maxLookKeys {
		d.fault("look.keys", fmt.Sprintf("there are more than %d", maxLookKeys), "remove those that you do not need")
		return
	}
	for _, text := range f.Look.Keys {
		key, err := hex.DecodeString(text)
		if err != nil || len(key) != ed25519.PublicKeySize {
			d.fault("look.keys", fmt.Sprintf("%.80q is no key", text), "a key has 64 hexadecimal digits")
			continue
		}
		l.Keys = append(l.Keys, key)
	}
}

func (d *decoder) level(text string) slog.Level {
	switch text {
	case "debug":
		return slog.LevelDebug
	case "info":
		return slog.LevelInfo
	case "warn":
		return slog.LevelWarn
	case "error":
		return slog.LevelError
	}
	d.fault("log.level", fmt.Sprintf("%q is no level", text), `write level = "debug", "info", "warn" or "error"`)
	return 0
}

// ParseListen reads where the local proxy listens: "auto" for a free port on
// 127.0.0.1, "random" for one that is then kept, or a loopback address and port,
// where "localhost" is 127.0.0.1 and port 0 is a free one. Any other address is
// refused: whoever reaches the proxy could use it, and learn the relay's address
// from it (docs/THREATS.md, row X5).
func ParseListen(text string) (addr netip.AddrPort, keepPort bool, err error) {
	localhost := netip.AddrFrom4([4]byte{127, 0, 0, 1})
	if text == "auto" || text == "random" {
		return netip.AddrPortFrom(localhost, 0), text == "random", nil
	}
	host, portText, err := net.SplitHostPort(text)
	if err != nil {
		return addr, false, fmt.Errorf("%q is no address and port", text)
	}
	port, err := strconv.ParseUint(portText, 10, 16)
	if err != nil {
		return addr, false, fmt.Errorf("port %q is not in 0..65535", portText)
	}
	ip := localhost
	if host != "localhost" {
		if ip, err = netip.ParseAddr(host); err != nil {
			return addr, false, fmt.Errorf("%q is no IP address", host)
		}
	}
	if !ip.IsLoopback() {
		return addr, false, errors.New("other computers could use the proxy; it listens on this computer only")
	}
	return netip.AddrPortFrom(ip.Unmap(), uint16(port)), false, nil
}
