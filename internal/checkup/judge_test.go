package checkup

import (
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"
)

var (
	now   = time.Date(2026, 11, 26, 12, 0, 0, 0, time.UTC)
	here  = netip.MustParseAddr("198.51.100.7")
	other = netip.MustParseAddr("198.51.100.8")
	inner = netip.MustParseAddr("10.0.0.5")
)

// good is a relay that nothing can be said against, in front of the volunteer's own
// web server.
func good() *Facts {
	synced := true
	return &Facts{
		Kind: Own, Name: "news.example.org", Now: now, Running: true,
		Address: netip.AddrPortFrom(here, 443), Host: here.String(),
		Local: []netip.Addr{here, other}, Leaving: []netip.Addr{other},
		NameAddrs: []netip.Addr{here}, Cover: site(), Front: site(),
		Synced: &synced, OpenFiles: 65536, UDPBuffer: 8 << 20, UDP: true, TCPBuffer: 16 << 20, NginxRoom: 8192,
	}
}

func site() *Site {
	return &Site{
		TLS13: true, ALPN: "h2", Group: groupX25519MLKEM768, Status: 200, HTTP1: 200, Leaf: [32]byte{1},
		NotAfter: now.AddDate(0, 2, 0), Server: "nginx/1.22.1", Tickets: 2, RoundTrip: time.Millisecond, Date: now,
		Idle: 75 * time.Second, IdleFor: time.Minute, LifeFor: time.Minute, Parallel: 100, ParallelOf: 100,
	}
}

func TestNothingAgainst(t *testing.T) {
	for _, f := range Judge(good()) {
		if f.Verdict != Good {
			t.Errorf("%+v", f)
		}
	}
	if w := Worst(Judge(good())); w != Good {
		t.Errorf("worst is %s", w)
	}
}

// Each change of good draws one judgment, with what to do.
func TestJudge(t *testing.T) {
	off := false
	cover := func(change func(*Site)) func(*Facts) { return func(f *Facts) { change(f.Cover) } }
	borrowed := func(change func(*Facts)) func(*Facts) {
		return func(f *Facts) {
			f.Kind, f.NameAddrs, f.CoverAddrs = Borrowed, nil, []netip.Addr{netip.MustParseAddr("198.51.9.9")}
			f.Cover.Parallel, f.Cover.ParallelOf = 0, 0
			change(f)
		}
	}
	for _, tt := range []struct {
		name   string
		change func(*Facts)
		want   Verdict
		topic  string
		text   string
	}{
		{"stopped", func(f *Facts) { f.Running, f.Front = false, nil }, Note, "running", "ports are free"},
		{"port taken", func(f *Facts) {
			f.Running, f.Front, f.Ports = false, nil, []Port{{"TCP :443", errors.New("address already in use")}, {"UDP :443", nil}}
		}, Bad, "ports", "TCP :443 cannot be had"},
		{"address elsewhere", func(f *Facts) { f.Address = netip.AddrPortFrom(netip.MustParseAddr("203.0.113.1"), 443) }, Bad, "address", "203.0.113.1 is not an address"},
		{"address behind translation", func(f *Facts) {
			f.Local, f.Leaving = []netip.Addr{inner}, []netip.Addr{inner}
		}, Note, "address", "cannot be seen from here"},
		{"private address", func(f *Facts) { f.Address = netip.AddrPortFrom(netip.MustParseAddr("192.168.1.2"), 443) }, Bad, "address", "cannot be reached"},
		{"address is a name that leads nowhere", func(f *Facts) { f.Address, f.Host = netip.AddrPort{}, "relay.example.org" }, Bad, "address", "relay.example.org leads nowhere"},
		{"other port", func(f *Facts) { f.Address = netip.AddrPortFrom(here, 8443) }, Note, "port", "8443"},
		{"leaves as it listens", func(f *Facts) { f.Leaving = []netip.Addr{here} }, Note, "exit", "the address that they come to"},
		{"leaves translated", func(f *Facts) { f.Leaving = []netip.Addr{inner} }, Note, "exit", "translated"},
		{"no way out", func(f *Facts) { f.Leaving = nil }, Bad, "exit", "no way"},
		{"cover down", func(f *Facts) { f.Cover = &Site{Err: errors.New("connection refused")} }, Bad, "cover", "connection refused"},
		{"TLS 1.2", cover(func(s *Site) { s.TLS13, s.Group, s.Tickets = false, 0, -1 }), Bad, "tls", "does not speak TLS 1.3"},
		{"retry", cover(func(s *Site) { s.Retry = true }), Bad, "group", "another key exchange"},
		{"x25519", cover(func(s *Site) { s.Group = groupX25519 }), Note, "group", "x25519"},
		{"P-384", cover(func(s *Site) { s.Group = 0x18 }), Bad, "group", "0x18"},
		{"early data", cover(func(s *Site) { s.EarlyData = 16384 }), Bad, "early-data", "early data"},
		{"no tickets", cover(func(s *Site) { s.Tickets = 0 }), Note, "tickets", "no tickets"},
		{"wrong certificate", cover(func(s *Site) { s.CertErr = errors.New("it is for another name") }), Bad, "certificate", "another name"},
		{"self-made", cover(func(s *Site) { s.SelfSigned = true }), Note, "certificate", "self-made"},
		{"not issued", func(f *Facts) { f.Authority, f.Cover.SelfSigned = true, true }, Bad, "certificate", "no certificate that clients know"},
		{"refused", func(f *Facts) { f.Authority, f.Refusal = true, "no such name" }, Bad, "authority", "no such name"},
		{"ended", cover(func(s *Site) { s.NotAfter = now.AddDate(0, 0, -1) }), Bad, "certificate", "ended on 2026-11-25"},
		{"ends in hours", cover(func(s *Site) { s.NotAfter = now.Add(5 * time.Hour) }), Note, "certificate", "2026-11-26 17:00"},
		{"ends soon", cover(func(s *Site) { s.NotAfter = now.AddDate(0, 0, 5) }), Note, "certificate", "2026-12-01"},
		{"no answer", cover(func(s *Site) { s.Status = 0 }), Bad, "http", "does not answer GET"},
		{"404", cover(func(s *Site) { s.Status = 404 }), Note, "http", "404"},
		{"no h2", cover(func(s *Site) { s.ALPN = "http/1.1" }), Note, "h2", "does not speak HTTP/2"},
		{"no HTTP/1.1", cover(func(s *Site) { s.HTTP1 = 0 }), Note, "h2", "does not answer over HTTP/1.1"},
		{"h3 promised and not kept", cover(func(s *Site) { s.AltSvc, s.HTTP3Err = `h3=":443"; ma=2592000`, errors.New("timeout") }), Bad, "h3", "UDP port 443, and nothing does"},
		{"h3 not tried", cover(func(s *Site) { s.AltSvc = `h3=":8443"; ma=60` }), Note, "h3", "UDP port 8443, which was not tried"},
		{"builtin without h3", func(f *Facts) { f.Kind, f.Cover = Builtin, nil }, Bad, "h3", "does not say"},
		{"short idle", cover(func(s *Site) { s.Idle = 5 * time.Second }), Bad, "idle", "after 5s"},
		{"short life", cover(func(s *Site) { s.Life = time.Minute }), Bad, "lifetime", "after 1m0s although"},
		{"limit of connections", cover(func(s *Site) { s.Parallel = 10 }), Bad, "connections", "served 10"},
		{"other certificate in front", func(f *Facts) { f.Front.Leaf[0] = 9 }, Bad, "front", "another certificate"},
		{"nothing in front", func(f *Facts) { f.Front = &Site{Err: errors.New("timeout")} }, Bad, "front", "timeout"},
		{"borrowed", borrowed(func(*Facts) {}), Note, "borrowed", "somebody else's"},
		{"borrowed far", borrowed(func(f *Facts) { f.Cover.RoundTrip = 40 * time.Millisecond }), Note, "distance", "40ms away"},
		{"borrowed elsewhere", borrowed(func(f *Facts) { f.CoverAddrs = []netip.Addr{netip.MustParseAddr("203.0.113.9")} }), Note, "network", "another network"},
		{"borrowed near", borrowed(func(*Facts) {}), Good, "network", "same network"},
		{"clock off", borrowed(func(f *Facts) { f.Cover.Date = now.Add(-time.Hour) }), Bad, "clock", "1h0m0s off"},
		{"name unknown", func(f *Facts) { f.NameAddrs, f.NameErr = nil, errors.New("no such host") }, Note, "name", "not in the DNS"},
		{"name elsewhere", func(f *Facts) { f.NameAddrs = []netip.Addr{netip.MustParseAddr("203.0.113.9")} }, Bad, "name", "leads to 203.0.113.9"},
		{"name is an address", func(f *Facts) { f.Name, f.NameAddrs = other.String(), nil }, Bad, "name", "has another"},
		{"clock alone", func(f *Facts) { f.Synced = &off }, Note, "clock", "follows no other"},
		{"few files", func(f *Facts) { f.OpenFiles = 1024 }, Note, "files", "1024"},
		{"small nginx", func(f *Facts) { f.NginxRoom = 768 }, Note, "connections", "takes 768 connections"},
		{"small nginx that is not the cover", func(f *Facts) { f.NginxRoom, f.Cover.Server = 768, "Caddy" }, Good, "connections", "100 connections"},
		{"nginx that nobody knows", func(f *Facts) { f.NginxRoom = 0 }, Good, "connections", "100 connections"},
		{"small TCP buffers", func(f *Facts) { f.TCPBuffer = 4 << 20 }, Note, "tcp-buffer", "4096 kB"},
		{"no BBR", func(f *Facts) { f.NoBBR = true }, Note, "bbr", "BBR"},
		{"small buffers", func(f *Facts) { f.UDPBuffer = 212992 }, Note, "udp-buffer", "208 kB"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := good()
			tt.change(f)
			all := Judge(f)
			i := slices.IndexFunc(all, func(x Finding) bool {
				return x.Topic == tt.topic && x.Verdict == tt.want && strings.Contains(x.Text, tt.text)
			})
			if i < 0 {
				t.Fatalf("no %s of %s with %q in %+v", tt.want, tt.topic, tt.text, all)
			}
			if all[i].Verdict != Good && all[i].Hint == "" && tt.topic != "connections" {
				t.Errorf("no word on what to do: %+v", all[i])
			}
			if tt.want == Bad && Worst(all) != Bad {
				t.Errorf("the worst is %s", Worst(all))
			}
			for _, x := range all {
				if !strings.HasSuffix(x.Text, ".") || strings.HasSuffix(x.Hint, ".") {
					t.Errorf("form of %+v", x)
				}
			}
		})
	}
}

func TestH3Port(t *testing.T) {
	for text, want := range map[string]uint16{
		`h3=":443"; ma=2592000`:                  443,
		`h3-29=":1"; ma=1, h3=":8443"; ma=86400`: 8443,
		"":                                       0,
		"clear":                                  0,
		`h3="other.example:443"`:                 0,
		`h3=":99999"`:                            0,
		`h2=":443"`:                              0,
		`h3=":0"`:                                0,
	} {
		got, ok := h3Port(text)
		if got*map[bool]uint16{true: 1}[ok] != want {
			t.Errorf("%q: %d, %v, want %d", text, got, ok, want)
		}
	}
}
