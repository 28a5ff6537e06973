package config

import (
	"crypto/ed25519"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"reflect"
	"strings"
	"testing"

	"busel/internal/flow"
)

func readFixture(t *testing.T, name string) []byte {
	t.Helper()
	data, err := os.ReadFile("testdata/" + name)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// zeroOrDefault lists the fields of got that the fixture left as in def.
func zeroOrDefault(path string, got, def reflect.Value) []string {
	var same []string
	for i := range got.NumField() {
		field := got.Type().Field(i)
		key := join(path, field.Tag.Get("toml"))
		switch {
		case field.Tag.Get("toml") == "":
			same = append(same, key+field.Name+" (no tag)")
		case field.Type == reflect.TypeFor[later]():
		case field.Type.Kind() == reflect.Struct:
			same = append(same, zeroOrDefault(key, got.Field(i), def.Field(i))...)
		case reflect.DeepEqual(got.Field(i).Interface(), def.Field(i).Interface()) && key != "exit.source":
			// It cannot stand beside exit.relay: TestExit has it.
			same = append(same, key)
		}
	}
	return same
}

func TestFixturesSetEveryField(t *testing.T) {
	for _, test := range []struct {
		file     string
		got, def any
	}{
		{"client.toml", defaultClientFile(), defaultClientFile()},
		{"relayd.toml", defaultRelayFile(), defaultRelayFile()},
	} {
		d := decode(test.file, readFixture(t, test.file), test.got)
		if err := d.err(); err != nil {
			t.Fatal(err)
		}
		if same := zeroOrDefault("", reflect.ValueOf(test.got).Elem(), reflect.ValueOf(test.def).Elem()); len(same) > 0 {
			t.Errorf("%s does not set %v", test.file, same)
		}
		for _, key := range knownKeys("", reflect.TypeOf(test.got).Elem()) {
			if d.lines[key] == 0 && key != "exit.source" {
				t.Errorf("%s: no line known for %s", test.file, key)
			}
		}
	}

	// And what packages take: no field is left at its zero value.
	c, err := ParseClient("client.toml", readFixture(t, "client.toml"))
	if err != nil {
		t.Fatal(err)
	}
	if want := (Client{netip.MustParseAddrPort("[::1]:2080"), false, AllowUser, []string{"firefox", "/opt/telegram/Telegram"}, "anna", "over every border: 42", PolicySingle,
		Look{"firefox", false, []ed25519.PublicKey{[]byte("0123456789abcdef0123456789ABCDEF")}}, "be", slog.LevelDebug}); !reflect.DeepEqual(c, want) {
		t.Errorf("got %+v, want %+v", c, want)
	}
	r, err := ParseRelay("relayd.toml", readFixture(t, "relayd.toml"))
	if err != nil {
		t.Fatal(err)
	}
	want := Relay{
		Address:    flow.Addr{Name: "relay.example.net", Port: 8443},
		Listen:     []string{"198.51.100.7:8443", "[2001:db8::7]:8443"},
		Cover:      CoverBuiltin,
		CoverName:  "news.example.org",
		Transports: []string{"quic", "mirror"},
		QUICPorts:  Ports{40000, 40015},
		Site:       "/srv/www",
		ACME:       ACME{"https://ca.example.org/directory", "post@example.org", "198.51.100.7:8080"},
		Exit: Exit{
			Allow: []netip.Prefix{netip.MustParsePrefix("10.1.0.0/16"), netip.MustParsePrefix("2001:db8::7/128")},
			Deny:  []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")},
			Web:   true,
			Names: []string{"example.org", "news.example.net"},
			Relay: r.Exit.Relay,
		},
		Limits:   Limits{1_500_000_000_000, 50_000_000},
		LogLevel: slog.LevelWarn,
		Metrics:  "127.0.0.1:9464",
	}
	if r.Exit.Relay == nil || len(r.Exit.Relay.Relays) == 0 {
		t.Error("exit.relay was not read")
	}
	if !reflect.DeepEqual(r, want) {
		t.Errorf("got %+v, want %+v", r, want)
	}
	for i := range reflect.TypeOf(want).NumField() {
		if reflect.ValueOf(want).Field(i).IsZero() {
			t.Errorf("the test lets Relay.%s be zero", reflect.TypeOf(want).Field(i).Name)
		}
	}
}

func TestDefaults(t *testing.T) {
	c, err := ParseClient("client.toml", nil)
	if err != nil {
		t.Fatal(err)
	}
	if want := (Client{netip.MustParseAddrPort("127.0.0.1:1080"), false, AllowDefault, nil, "", "", PolicyAuto, Look{Use: "auto", Learn: true}, "", slog.LevelInfo}); !reflect.DeepEqual(c, want) {
		t.Errorf("client: got %+v, want %+v", c, want)
	}
	r, err := ParseRelay("relayd.toml", []byte("[relay]\naddress = \"198.51.100.7:443\"\ncover = \"www.example.org:443\"\n"))
	if err != nil {
		t.Fatal(err)
	}
	want := Relay{
		Address: flow.Addr{IP: netip.MustParseAddr("198.51.100.7"), Port: 443}, Listen: []string{":443"},
		Cover: "www.example.org:443", CoverName: "www.example.org", Transports: []string{"mirror", "quic"},
		ACME: ACME{HTTP: ":80"},
	}
	if !reflect.DeepEqual(r, want) {
		t.Errorf("relay: got %+v, want %+v", r, want)
	}
}

// The built-in cover's settings are refused where they would do nothing.
func TestBuiltinFaults(t *testing.T) {
	for _, tt := range []struct{ cover, more, want, hint string }{
		{"builtin", "site = \"www\"", "relay.site: \"www\" is no absolute path", "/var/www"},
		{"127.0.0.1:8443", "site = \"/srv/www\"", "relay.site: only the built-in cover", "builtin"},
		{"127.0.0.1:8443", "[acme]\ndirectory = \"letsencrypt\"", "acme.directory: only the built-in cover", "remove [acme]"},
		{"builtin", "[acme]\ndirectory = \"http://ca.example.org/\"", "acme.directory: \"http://ca.example.org/\" is no https", "letsencrypt"},
		{"builtin", "[acme]\ndirectory = \"letsencrypt\"\nemail = \"anna\"", "acme.email: \"anna\" is no mail", "leave it empty"},
		{"builtin", "[acme]\ndirectory = \"letsencrypt\"\nhttp = \"80\"", "acme.http: \"80\" is no address and port", ":80"},
	} {
		text := "[relay]\naddress = \"198.51.100.7:443\"\ncover = \"" + tt.cover + "\"\ncover-name = \"a.example\"\n" + tt.more
		_, err := ParseRelay("r", []byte(text))
		faults, _ := errors.AsType[Errors](err)
		if len(faults) != 1 || !strings.Contains(faults[0].Error(), tt.want) || !strings.Contains(faults[0].Hint, tt.hint) {
			t.Errorf("%s: got %v", tt.more, err)
		}
	}
	r, err := ParseRelay("r", []byte("[relay]\naddress = \"198.51.100.7:443\"\ncover = \"builtin\"\ncover-name = \"a.example\"\n[acme]\ndirectory = \"letsencrypt\""))
	if err != nil || r.ACME.Directory != LetsEncrypt {
		t.Errorf("%+v, %v", r, err)
	}
}

// TestAllFaultsAtOnce has a fault of each kind in one file.
func TestAllFaultsAtOnce(t *testing.T) {
	const file = `
[relay]
adress = "198.51.100.7:443"
listen = ":443"
cover = "127.0.0.1"
cover-name = "News.example.org"
transports = ["mirror", "websocket", "mirror", "telepathy"]
exit = 3

[exit]
allow = ["10.0.0.1/8", "nonsense", "::ffff:10.0.0.0/104"]
source = "198.51.100.8"
only = "names"

[limits]
monthly = "500"
rate = "50MB"

[log]
level = 3

[metrics]
listen = ":9464"
`
	_, err := ParseRelay("/etc/busel/relayd.toml", []byte(file))
	faults, ok := errors.AsType[Errors](err)
	if !ok {
		t.Fatalf("got %T, want Errors", err)
	}
	want := []string{
		`/etc/busel/relayd.toml:2: relay.address: missing`,
		`/etc/busel/relayd.toml:3: relay.adress: unknown key`,
		`/etc/busel/relayd.toml:4: relay.listen: want a list of texts, got a text`,
		`/etc/busel/relayd.toml:5: relay.cover: "127.0.0.1" is no host:port`,
		`/etc/busel/relayd.toml:6: relay.cover-name: "News.example.org" is no host name`,
		`/etc/busel/relayd.toml:7: relay.transports: "websocket" is not available yet`,
		`/etc/busel/relayd.toml:7: relay.transports: "mirror" is there twice`,
		`/etc/busel/relayd.toml:7: relay.transports: "telepathy" is no transport`,
		`/etc/busel/relayd.toml:8: relay.exit: unknown key`,
		`/etc/busel/relayd.toml:11: exit.allow: "10.0.0.1/8" has bits beyond its length; did you mean 10.0.0.0/8`,
		`/etc/busel/relayd.toml:11: exit.allow: "nonsense" is no prefix`,
		`/etc/busel/relayd.toml:11: exit.allow: "::ffff:10.0.0.0/104" hides IPv4 in IPv6; write the IPv4 prefix`,
		`/etc/busel/relayd.toml:12: exit.source: want a list of texts, got a text`,
		`/etc/busel/relayd.toml:13: exit.only: "names" is no preset`,
		`/etc/busel/relayd.toml:16: limits.monthly: "500" is no amount of data: want 500GB, 1.5TB or 800MB`,
		`/etc/busel/relayd.toml:17: limits.rate: "50MB" is no speed: want 50Mbit, 1.5Gbit or 800kbit, a second each`,
		`/etc/busel/relayd.toml:20: log.level: want text in quotes, got a number`,
		`/etc/busel/relayd.toml:23: metrics.listen: ":9464" is not an address of loopback`,
	}
	for i, fault := range faults {
		if i >= len(want) || fault.Error() != want[i] {
			t.Errorf("fault %d: %s", i, fault)
		}
		if fault.Hint == "" {
			t.Errorf("no hint with: %s", fault)
		}
	}
	if len(faults) != len(want) {
		t.Errorf("%d faults, want %d:\n%s", len(faults), len(want), err)
	}
	if hint := faults[1].Hint; hint != "the nearest known key is relay.address" {
		t.Errorf("hint %q", hint)
	}
}

func TestFaults(t *testing.T) {
	for _, test := range []struct{ file, want, hint string }{
		{"[local]\nlisten = \"127.0.0.1:1080\n", ":2: strings cannot contain newlines", "key = "},
		{"[local]\nlisten = 1080", ":2: local.listen: want text in quotes, got a number", "listen ="},
		{"local = 3", ":1: local: want a table, got a number", "[local]"},
		{"[[local]]", ":1: local: want a table, got a list of tables", "[local]"},
		{"local = {listen = true}", ":1: local.listen: want text in quotes, got true or false", ""},
		{"local.listen = 2026-01-01", ":1: local.listen: want text in quotes, got a date", ""},
		{"[local]\n\"listen\" = [1]", ":2: local.listen: want text in quotes, got a list with a number", ""},
		{"listen = \"127.0.0.1:1\"", ":1: listen: unknown key", "local.listen"},
		{"[locale]\n", ":1: locale: unknown key", "local"},
		{"[rotation]\npolice = \"auto\"", ":2: rotation.police: unknown key", "rotation.policy"},
		{"[rotation]\npolicy = \"bound\"", `"bound" is no policy`, "budget"},
		{"[rotation]\npolicy = \"Auto\"", `"Auto" is no policy`, "single"},
		{"[local]\npassword = \"x\"", ":2: local.password: stands without a user", "user ="},
		{"[local]\nuser = \"x\"", ":2: local.user: stands without a password", "password ="},
		{"[local]\nuser = \"a:b\"\npassword = \"x\"", ":2: local.user: has a colon", "without"},
		{"[local]\nuser = \"" + strings.Repeat("u", 256) + "\"\npassword = \"x\"", ":2: local.user: is longer than 255 bytes", "shorter"},
		{"[local]\nuser = \"u\"\npassword = \"" + strings.Repeat("x", 256) + "\"", ":3: local.password: is longer than 255 bytes", "shorter"},
		{"[local]\nuser = \"u\"\npassword = \"a\\nb\"", ":3: local.password: has a control character", "without"},
		{"[local]\nuser = \"u\"\npassword = 1234", ":3: local.password: want text in quotes, got a number", "password ="},
		{"[local]\nrandom-port = true", "local.random-port: unknown key", "nearest"},
		{"[local]\nallow = \"root\"", `:2: local.allow: "root" is nobody`, `"user"`},
		{"[local]\nallow = true", ":2: local.allow: want text in quotes", "allow ="},
		{"[local]\nprograms = \"firefox\"", ":2: local.programs: want a list of texts", "programs ="},
		{"[local]\nprograms = [\"\"]", `:2: local.programs: "" is no program`, "firefox"},
		{"[local]\nprograms = [\"/usr/bin/\"]", `:2: local.programs: "/usr/bin/" is no program`, "firefox"},
		{"[local]\nprograms = [\"a\\nb\"]", `:2: local.programs: "a\nb" is no program`, "firefox"},
		{"[local]\nprograms = [" + strings.Repeat("\"a\",", 65) + "]", ":2: local.programs: there are more than 64", "remove"},
		{"[local]\nallow = \"anyone\"\nprograms = [\"firefox\"]", ":3: local.programs: other users' programs do not show", "remove"},
		{"[look]\nlearn = \"yes\"", ":2: look.learn: want true or false, got a text", "learn = true"},
		{"[look]\nuse = \"\"", ":2: look.use: \"\" is no look", "firefox"},
		{"[look]\nkeys = [\"00\"]", ":2: look.keys: \"00\" is no key", "64 hexadecimal"},
		{"[look]\nkeys = [" + strings.Repeat("\"00\",", 17) + "]", ":2: look.keys: there are more than 16", "remove"},
		{"[log]\nlevel = \"verbose\"", `"verbose" is no level`, "debug"},
		{"[local]\nlisten = \"0.0.0.0:1080\"", "other computers could use the proxy", "127.0.0.1"},
		{"[local]\nlisten = \":1080\"", `"" is no IP address`, "127.0.0.1"},
		{"[local]\nlisten = \"127.0.0.1:65536\"", `port "65536" is not in 0..65535`, "127.0.0.1"},
		{"[local]\nlisten = \"1080\"", `"1080" is no address and port`, "127.0.0.1"},
		{"\xff\xfe[\x00", ":1: ", "key ="},
	} {
		_, err := ParseClient("c", []byte(test.file))
		faults, _ := errors.AsType[Errors](err)
		if len(faults) != 1 {
			t.Errorf("%q: got %d faults, want 1: %v", test.file, len(faults), err)
			continue
		}
		if got := faults[0].Error(); !strings.Contains(got, test.want) || !strings.HasPrefix(got, "c") {
			t.Errorf("%q: got %q, want %q", test.file, got, test.want)
		}
		if !strings.Contains(faults[0].Hint, test.hint) {
			t.Errorf("%q: hint %q, want %q in it", test.file, faults[0].Hint, test.hint)
		}
	}
}

// TestQUICPorts reads ranges of ports, beside a cover and transports.
func TestQUICPorts(t *testing.T) {
	const own, builtin = `cover = "127.0.0.1:8443"`, `cover = "builtin"`
	const noQUIC = own + "\n" + `transports = ["mirror"]`
	for _, test := range []struct {
		cover, text string
		want        Ports
		fault, hint string
	}{
		{own, "", Ports{}, "", ""},
		{noQUIC, "", Ports{}, "", ""},
		{own, "1", Ports{1, 1}, "", ""},
		{own, "65535-65535", Ports{65535, 65535}, "", ""},
		{own, "65472-65535", Ports{65472, 65535}, "", ""},
		{own, "400-463", Ports{400, 463}, "", ""},
		{own, "443", Ports{443, 443}, "", ""},
		{builtin, "444-500", Ports{444, 500}, "", ""},
		{builtin, "380-442", Ports{380, 442}, "", ""},
		{own, "400-464", Ports{}, `"400-464" has 65 ports, want 64 at most`, "40000-40015"},
		{own, "1-65535", Ports{}, "has 65535 ports", "64"},
		{own, "0-3", Ports{}, `"0-3" is no range of ports`, "40000-40015"},
		{own, "9-8", Ports{}, "is no range", ""},
		{own, "8-", Ports{}, "is no range", ""},
		{own, "-8", Ports{}, "is no range", ""},
		{own, "+8", Ports{}, "is no range", ""},
		{own, "8-9-10", Ports{}, "is no range", ""},
		{own, "8, 9", Ports{}, "is no range", ""},
		{own, "65535-65536", Ports{}, "is no range", ""},
		{noQUIC, "400-463", Ports{}, "stands without quic", "transports ="},
		{builtin, "443", Ports{}, "has port 443, where the site answers over HTTP/3", "other ports"},
		{builtin, "400-443", Ports{}, "has port 443", ""},
		{builtin, "443-500", Ports{}, "has port 443", ""},
	} {
		file := fmt.Sprintf("[relay]\naddress = \"198.51.100.7:443\"\ncover-name = \"a.example\"\n%s\nquic-ports = %q\n", test.cover, test.text)
		r, err := ParseRelay("r", []byte(file))
		if test.fault == "" {
			if err != nil || r.QUICPorts != test.want || r.QUICPorts.String() != test.text && r.QUICPorts.Low != r.QUICPorts.High {
				t.Errorf("%s, %q: got %v, %v", test.cover, test.text, r.QUICPorts, err)
			}
			continue
		}
		faults, _ := errors.AsType[Errors](err)
		if len(faults) != 1 || !strings.Contains(faults[0].Error(), "relay.quic-ports: ") ||
			!strings.Contains(faults[0].Error(), test.fault) || !strings.Contains(faults[0].Hint, test.hint) {
			t.Errorf("%s, %q: got %v, want %q", test.cover, test.text, err, test.fault)
		}
	}
}

func TestFaultsAreBounded(t *testing.T) {
	var file strings.Builder
	for i := range 5_000 {
		fmt.Fprintf(&file, "%s%d = 1\n", strings.Repeat("k", 100), i)
	}
	_, err := ParseClient("c", []byte(file.String()))
	if faults, _ := errors.AsType[Errors](err); len(faults) != maxFaults {
		t.Errorf("%d faults, want %d", len(faults), maxFaults)
	}
}

// TestLaterKeys goes through every key that is only refused.
func TestLaterKeys(t *testing.T) {
	refused := 0
	var walk func(path string, typ reflect.Type, parse func([]byte) error)
	walk = func(path string, typ reflect.Type, parse func([]byte) error) {
		for i := range typ.NumField() {
			key := join(path, typ.Field(i).Tag.Get("toml"))
			switch {
			case typ.Field(i).Type == reflect.TypeFor[later]():
				refused++
				if err := parse([]byte(key + " = 1\n")); err == nil || !strings.Contains(err.Error(), key+": not available yet") {
					t.Errorf("%s: got %v", key, err)
				}
			case typ.Field(i).Type.Kind() == reflect.Struct:
				walk(key, typ.Field(i).Type, parse)
			}
		}
	}
	walk("", reflect.TypeFor[clientFile](), func(b []byte) error { _, err := ParseClient("c", b); return err })
	walk("", reflect.TypeFor[relayFile](), func(b []byte) error { _, err := ParseRelay("r", b); return err })
	if refused == 0 {
		t.Error("no keys were tried")
	}
}

func TestErrorsText(t *testing.T) {
	err := Errors{{"a.toml", 3, "log.level", "wrong", "write it right"}, {"a.toml", 0, "relay.cover", "missing", ""}, {"", 0, "-cover", "missing", ""}}
	const want = "a.toml:3: log.level: wrong\n  hint: write it right\na.toml: relay.cover: missing\n-cover: missing"
	if err.Error() != want {
		t.Errorf("got %q, want %q", err.Error(), want)
	}
	if one, ok := errors.AsType[*Error](error(err)); !ok || one != err[0] {
		t.Error("the faults are not unwrapped")
	}
}

func TestNewRelayRoundTrip(t *testing.T) {
	for _, test := range []struct {
		address, cover, name, wantName, wantListen string
		borrowed                                   bool
	}{
		{"198.51.100.7:443", "127.0.0.1:8443", "news.example.org", "news.example.org", ":443", false},
		{"198.51.100.7:8443", "builtin", "198.51.100.7", "198.51.100.7", ":8443", false},
		{"[2001:db8::7]:443", "www.example.org:443", "", "www.example.org", ":443", true},
		{"news.example.org:443", "news.example.org:8443", "", "news.example.org", ":443", false},
		{"198.51.100.7:443", "203.0.113.9:443", "www.example.org", "www.example.org", ":443", true},
		{"198.51.100.7:443", "10.0.0.2:443", "www.example.org", "www.example.org", ":443", false},
	} {
		r, err := NewRelay(test.address, test.cover, test.name)
		if err != nil {
			t.Errorf("%+v: %v", test, err)
			continue
		}
		if r.CoverName != test.wantName || r.Listen[0] != test.wantListen || r.Borrowed() != test.borrowed {
			t.Errorf("%+v: got name %q, listen %q, borrowed %t", test, r.CoverName, r.Listen, r.Borrowed())
		}
		r.Exit.Deny = []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}
		r.Exit.Names, r.Exit.Web = []string{"example.org"}, true
		r.Exit.Source = []netip.Addr{netip.MustParseAddr("198.51.100.8"), netip.MustParseAddr("2001:db8::8")}
		r.Limits = Limits{Monthly: 1_234_567, Rate: 50_000_001}
		r.LogLevel = slog.LevelError
		r.QUICPorts = Ports{40000, uint16(40000 + len(test.cover))}
		text := r.TOML()
		back, err := ParseRelay("relayd.toml", text)
		if err != nil {
			t.Errorf("%v in:\n%s", err, text)
		}
		if !reflect.DeepEqual(back, r) {
			t.Errorf("got %+v, want %+v", back, r)
		}
	}
}

func TestNewRelayFaults(t *testing.T) {
	_, err := NewRelay("198.51.100.7", "localhost:8443", "")
	const want = `-address: "198.51.100.7" is no host:port
  hint: write -address "198.51.100.7:443", where clients reach the relay
-cover-name: missing
  hint: write -cover-name "news.example.org", the name in the cover's certificate`
	if err == nil || err.Error() != want {
		t.Errorf("got\n%v\nwant\n%s", err, want)
	}
	for _, address := range []string{"", "0.0.0.0:443", "198.51.100.7:0", "[ff02::1]:443", "a..b:443", "198.51.100.7:99999"} {
		if _, err := NewRelay(address, "builtin", "a.example"); err == nil {
			t.Errorf("address %q was taken", address)
		}
	}
}

func TestValidHost(t *testing.T) {
	long := strings.Repeat("a", 63)
	for host, want := range map[string]bool{
		"": false, "a": true, "a.b": true, "a..b": false, ".a": false, "a.": false, "-a": false, "a-": false, "a_b": true,
		"A": false, "xn--e1afmkfd": true, "é": false, long: true, long + "a": false, "1.2.3.4": true, "1.2.3.04": true, // a name, if an odd one
		"2001:db8::1": true, "2001:DB8::1": false, "::ffff:1.2.3.4": false, "fe80::1%eth0": false,
		strings.Repeat(long+".", 3) + strings.Repeat("a", 61): true, strings.Repeat(long+".", 3) + strings.Repeat("a", 62): false,
	} {
		if got := validHost(host); got != want {
			t.Errorf("%q: got %t", host, got)
		}
	}
}

// FuzzTOML demands that a file that is accepted renders to one with the same
// meaning, and that faults name the file and a reason.
func FuzzTOML(f *testing.F) {
	for _, name := range []string{"client.toml", "relayd.toml"} {
		data, err := os.ReadFile("testdata/" + name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Add([]byte("\"\" = 1\n[a.b]\n'c d' = [{}]\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		check := func(err error) {
			faults, ok := errors.AsType[Errors](err)
			if err != nil && !ok {
				t.Fatalf("got %T", err)
			}
			for _, fault := range faults {
				if fault.File != "f" || fault.Reason == "" || fault.Hint == "" {
					t.Fatalf("incomplete fault %+v", fault)
				}
			}
		}
		c, err := ParseClient("f", data)
		check(err)
		if err == nil && !c.Listen.Addr().IsLoopback() {
			t.Fatalf("listens on %s", c.Listen)
		}
		r, err := ParseRelay("f", data)
		check(err)
		if err != nil {
			return
		}
		back, err := ParseRelay("f", r.TOML())
		if err != nil {
			t.Fatalf("%v in:\n%s", err, r.TOML())
		}
		if string(back.TOML()) != string(r.TOML()) {
			t.Fatalf("%q became %q", r.TOML(), back.TOML())
		}
	})
}

func TestMetricsStayHere(t *testing.T) {
	for text, want := range map[string]bool{
		"": true, "127.0.0.1:9464": true, "[::1]:9464": true, "127.3.2.1:1": true, "unix:/run/m.sock": true,
		":9464": false, "0.0.0.0:9464": false, "198.51.100.7:9464": false, "[::]:9464": false, "localhost:9464": false,
		"127.0.0.1": false, "127.0.0.1:0": false, "unix:m.sock": false, "unix:": false, "/run/m.sock": false,
	} {
		file := fmt.Sprintf("[relay]\naddress = \"198.51.100.7:443\"\ncover = \"www.example.org:443\"\n[metrics]\nlisten = %q\n", text)
		r, err := ParseRelay("relayd.toml", []byte(file))
		if (err == nil) != want || want && r.Metrics != text {
			t.Errorf("%q: %q, %v", text, r.Metrics, err)
		}
	}
}
