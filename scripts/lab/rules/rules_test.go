package rules

import (
	"bytes"
	"io/fs"
	"net/netip"
	"strings"
	"testing"
	"time"

	"busel/scripts/lab/censor/packet"
	"busel/scripts/lab/censor/rule"
)

// drives has a test for each rule file: what it must hit and how, and what it
// must just miss.
var drives = map[string]func(*testing.T, *lab){
	"s1-rst-gfw":                driveGFW,
	"s1-rst-henan":              driveHenan,
	"s1-rst-belarus-business":   func(t *testing.T, l *lab) { driveBelarus(l, 502, 0, "212.98.160.60") },
	"s1-rst-belarus-beltelecom": func(t *testing.T, l *lab) { driveBelarus(l, 32678, 1, "82.209.230.23") },
	"s1-rst-zero":               driveZero,
	"s1-rst-reassemble":         driveReassemble,
	"s1-rst-all-tls":            driveAllTLS,
	"s1-ja4":                    driveJA4,
	"s1-rst-active":             driveActiveReset,
	"s2-drop":                   driveDrop,
	"s2-freeze-down":            driveFreezeDown,
	"s2-freeze-active":          func(t *testing.T, l *lab) { driveActiveFreeze(l, true) },
	"s2-freeze-active-down":     func(t *testing.T, l *lab) { driveActiveFreeze(l, false) },
	"s3-residual-refresh":       driveRefresh,
	"s4-police-140k":            drivePolice,
	"s4-mobile":                 driveMobile,
	"s5-quic-shape":             driveShape,
	"s6-l4-25":                  driveL4,
	"s7-fully-encrypted":        driveEncrypted,
	"s8-quic-sni":               driveQUIC,
	"s9-tls-in-tls":             driveTLSInTLS,
	"s11-siberian":              driveSiberian,
	"s12-ports-only":            drivePortsOnly,
	"s12-protocols":             driveProtocols,
	"s12-prefix":                drivePrefix,
	"s12-allow-sni":             driveAllowSNI,
	"s12-dns-only":              driveDNSOnly,
	"s12-blackout":              driveBlackout,
	"s12-shutdown":              driveShutdown,
	"s12-address":               driveAddress,
	"dns-lie":                   driveLie,
	"http-redirect":             driveRedirect,
	"mitm-forged-certificate":   driveDivert,
	"port443-rst":               drivePort443,
	"kill-after-60s":            driveKill,
	"s1-rst-busiest":            driveBusiestReset,
	"s2-drop-busiest":           func(t *testing.T, l *lab) { driveBusiestDrop(l, true) },
	"s2-drop-busiest-down":      func(t *testing.T, l *lab) { driveBusiestDrop(l, false) },
	"s4-police-busiest":         driveBusiestPolice,
	"s4-police-10m":             drivePoliceEach,
	"s12-address-busiest":       driveBusiestAddress,
	"s12-no-tcp":                driveNoTCP,
	"port443-rst-open":          drivePort443Open,
	"s11-strict":                driveStrict,
}

func TestFiles(t *testing.T) {
	names, err := fs.Glob(Files, "*.toml")
	if err != nil || len(names) != len(drives) {
		t.Errorf("%d files and %d drives, %v", len(names), len(drives), err)
	}
	for _, file := range names {
		name := strings.TrimSuffix(file, ".toml")
		t.Run(name, func(t *testing.T) {
			drive := drives[name]
			if drive == nil {
				t.Fatal("no drive")
			}
			drive(t, newLab(t, name))
		})
	}
}

// usual is the delay of S1.
const usualLeast, usualMost = 2 * time.Millisecond, 20 * time.Millisecond

func driveGFW(t *testing.T, l *lab) {
	gfw := wantReset{up: 3, down: 3, least: usualLeast, most: usualMost}
	c := l.to(site, 443).open()
	c.resets("listed", c.up(hello(t, listed)), gfw)
	other := l.to(site, 443)
	other.resets("SYN in the block", other.send(rule.Up, packet.SYN, nil), gfw)
	l.wait(180*time.Second - 1)
	last := l.to(site, 443)
	last.resets("SYN at its end", last.send(rule.Up, packet.SYN, nil), gfw)
	l.wait(1)
	l.to(site, 443).open()
	l.to(site, 8443).open()

	// TCP segments are put together, in any order; records are not.
	split := l.to(site, 8443).open()
	h := chromium(t, listed)
	split.passes("first segment", split.up(h[:60]))
	split.resets("second segment", split.up(h[60:]), gfw)
	inRecords := l.to(relay, 443).open()
	inRecords.passes("two records", inRecords.up(records(hello(t, listed), len(hello(t, listed))-5-1)))
	for _, name := range []string{unlisted, "notlisted.example", "listed.example.org", ""} {
		c := l.to(relay, 443).open()
		c.passes("name "+name, c.up(hello(t, name)))
	}

	l.missesQUIC()

	web := l.to(site, 80).open()
	web.resets("Host", web.halves(get("LISTED.example:80")), gfw)
	l.wait(90*time.Second - 1)
	again := l.to(site, 80)
	again.resets("Host's block", again.send(rule.Up, packet.SYN, nil), gfw)
	l.wait(1)
	honest := l.to(site, 80).open()
	honest.passes("another Host", honest.up(get(unlisted)))
}

func driveHenan(t *testing.T, l *lab) {
	henan := wantReset{down: 1, id: 1, ttl: 58, payload: "\x01\x02\x03\x04\x05\x06\x07\x08\x09\x00", least: time.Millisecond, most: 4600 * time.Microsecond}
	plain := func(port uint16) *conn {
		c := l.to(site, port)
		c.options = nil
		return c
	}
	c := plain(443) // no handshake is needed
	c.resets("listed", c.up(hello(t, listed)), henan)
	c.passes("no block", c.up([]byte("more")))
	l.missesQUIC()
	web := plain(80)
	web.resets("Host", web.up(get(listed)), henan)
	stamped := l.to(site, 443).open()
	stamped.passes("32-byte header", stamped.up(hello(t, listed)))
	split := plain(443).open()
	h := hello(t, listed)
	at := bytes.Index(h, []byte(listed)) + 5
	split.passes("first segment", split.up(h[:at]))
	split.passes("second segment", split.up(h[at:]))
	// The name lies whole in the first of two segments.
	cut := plain(443).open()
	cut.resets("whole name", cut.up(h[:at+len(listed)]), henan)
}

func driveBelarus(l *lab, window, id uint16, ip string) {
	c := l.to(site, 443).open()
	c.resets("listed", c.halves(hello(l, listed)), wantReset{up: 1, down: 1, window: window, id: id, least: usualLeast, most: usualMost})
	honest := l.to(site, 443).open()
	honest.passes("unlisted", honest.up(hello(l, unlisted)))
	l.missesQUIC()
	redirects(l, "http://"+ip+"/", window, id)
	other := l.to(site, 8080).open()
	other.passes("Host on another port", other.up(get(listed)))
}

// redirects checks a redirect of HTTP in the path.
func redirects(l *lab, location string, window, id uint16) {
	l.Helper()
	c := l.to(site, 80).open()
	before := c.seq
	request := get(listed)
	before[rule.Up] += 20
	v := c.halves(request)
	if !v.Drop || len(v.Inject) != 2 {
		l.Fatalf("dropped %v, %d injected; want true and 2", v.Drop, len(v.Inject))
	}
	for _, i := range v.Inject {
		p, err := packet.Parse(i.Packet)
		if err != nil {
			l.Fatal(err)
		}
		if i.Toward == rule.Up {
			// The request was lost: the server expects its first byte.
			if !p.Has(packet.RST) || p.Seq != before[rule.Up] || p.Window != window || p.ID != id {
				l.Errorf("to the world: flags %x, seq %d, window %d, id %d", p.Flags, p.Seq, p.Window, p.ID)
			}
			continue
		}
		if !p.Has(packet.FIN|packet.ACK) || p.Seq != before[rule.Down] || p.Ack != c.seq[rule.Up] {
			l.Errorf("to the client: flags %x, seq %d, ack %d", p.Flags, p.Seq, p.Ack)
		}
		if text := string(p.Payload); !strings.HasPrefix(text, "HTTP/1.1 302 Found\r\n") || !strings.Contains(text, "\r\nLocation: "+location+"\r\n") {
			l.Errorf("page %q", text)
		}
	}
	l.dropped("the server's answer", c.down([]byte("HTTP/1.1 200 OK\r\n\r\n")))
	honest := l.to(site, 80).open()
	honest.passes("another Host", honest.up(get(unlisted)))
}

func driveZero(t *testing.T, l *lab) {
	c := l.to(relay, 9001).open()
	v := c.up(hello(t, unlisted))
	if len(v.Inject) != 4 {
		t.Fatalf("%d packets, want 4", len(v.Inject))
	}
	zero, usable := v, v
	zero.Inject, usable.Inject = v.Inject[:2], v.Inject[2:]
	c.resets("first", zero, wantReset{up: 1, down: 1, zero: true})
	c.resets("second", usable, wantReset{up: 1, down: 1, least: 20 * time.Millisecond, most: 40 * time.Millisecond})
	other := l.to(relay, 9002).open()
	other.passes("other port", other.up(hello(t, unlisted)))
}

func driveReassemble(t *testing.T, l *lab) {
	style := wantReset{up: 3, down: 3, least: usualLeast, most: usualMost}
	h := records(hello(t, listed), 40)
	c := l.to(site, 443).open()
	c.passes("first segment", c.up(h[:30]))
	c.passes("second segment", c.up(h[30:60]))
	c.resets("the rest", c.up(h[60:]), style)
	l.missesQUIC()
	honest := l.to(site, 443).open()
	honest.passes("unlisted", honest.up(records(hello(t, unlisted), 40)))
}

func driveAllTLS(t *testing.T, l *lab) {
	for _, name := range []string{unlisted, "notallowed.example", ""} {
		c := l.to(site, 443).open()
		c.resets("name "+name, c.up(hello(t, name)), wantReset{up: 1, down: 1, least: usualLeast, most: usualMost})
	}
	known := l.to(site, 443).open()
	known.passes("allowed", known.up(hello(t, allowed)))
	web := l.to(site, 80).open()
	web.passes("HTTP", web.up(get(unlisted)))
	part := l.to(site, 443).open()
	h := hello(t, allowed)
	part.passes("first segment", part.up(h[:20]))
	part.passes("second segment", part.up(h[20:]))
}

func driveJA4(t *testing.T, l *lab) {
	for _, h := range recorded(t, "testdata/go126-tls.hex", unlisted) {
		c := l.to(site, 443).open()
		l.dropped("Go", c.up(h))
		l.dropped("after it", c.down([]byte("x")))
	}
	split := l.to(site, 443).open()
	l.dropped("Go in records and segments", split.halves(records(recorded(t, "testdata/go126-tls.hex", unlisted)[0], 30)))
	c := l.to(site, 443).open()
	c.passes("Chromium", c.up(chromium(t, listed)))
	quic := l.to(site, 443)
	var got bool
	for _, d := range recorded(t, "testdata/quicgo065.hex", listed) {
		got = quic.datagram(rule.Up, d).Drop
	}
	if !got {
		t.Error("quic-go passes")
	}
	l.dropped("after it", quic.datagram(rule.Down, []byte("x")))
	browser := l.to(site, 443)
	for _, d := range recorded(t, "../censor/packet/testdata/chromium156-quic.hex", listed) {
		l.passes("Chromium over QUIC", browser.datagram(rule.Up, d))
	}
}

func driveDrop(t *testing.T, l *lab) {
	c := l.to(site, 443).open()
	l.dropped("listed", c.halves(hello(t, listed)))
	l.missesQUIC()
	l.dropped("up", c.up([]byte("x")))
	l.dropped("down", c.down([]byte("x")))
	l.to(site, 443).open() // no residual block
	honest := l.to(site, 443).open()
	honest.passes("unlisted", honest.up(hello(t, unlisted)))
	honest.passes("down", honest.down([]byte("x")))
}

func driveFreezeDown(t *testing.T, l *lab) {
	c := l.to(site, 443).open()
	c.passes("listed", c.halves(hello(t, listed)))
	l.missesQUIC()
	l.dropped("down", c.down([]byte("x")))
	c.passes("up", c.up([]byte("x")))
	honest := l.to(site, 443).open()
	honest.passes("unlisted", honest.up(hello(t, unlisted)))
	honest.passes("down", honest.down([]byte("x")))
}

func driveRefresh(t *testing.T, l *lab) {
	c := l.to(site, 4433).open() // all ports
	v := c.halves(hello(t, listed))
	l.missesQUIC()
	l.to(site, 4433).open() // another 4-tuple
	l.wait(-time.Second)
	if !v.Drop || len(v.Inject) != 1 || v.Inject[0].Toward != rule.Down {
		t.Errorf("dropped %v, %d injected", v.Drop, len(v.Inject))
	}
	l.wait(179 * time.Second)
	l.dropped("in the block", c.down([]byte("x"))) // begins it again
	l.wait(179 * time.Second)
	if v := c.send(rule.Up, packet.SYN, nil); !v.Drop {
		t.Error("the block was not renewed")
	}
	l.wait(180 * time.Second)
	c.passes("after the block", c.send(rule.Up, packet.SYN, nil))
	oneByte := l.to(site, 443).open()
	h := hello(t, listed)
	oneByte.passes("one byte in a second record", oneByte.up(records(h, len(h)-5-1)))

	web := l.to(site, 80).open()
	if v := web.halves(get(listed)); !v.Drop || len(v.Inject) != 1 || !bytes.Contains(v.Inject[0].Packet, []byte("403 Forbidden")) {
		t.Error("no page")
	}
	l.to(site, 80).open()
	for range 2 {
		l.wait(179 * time.Second)
		l.dropped("in the block of Host", web.down([]byte("x")))
	}
	l.wait(180 * time.Second)
	web.passes("after it", web.down([]byte("x")))
	l.lies("10.10.34.34", false)
}

// lies asks for names over DNS and expects a forged answer to listed ones.
func (l *lab) lies(address string, drop bool) {
	l.Helper()
	c := l.to(site, 53)
	for _, name := range []string{"Listed.Example", unlisted, listed} {
		v := c.datagram(rule.Up, query(name, packet.TypeA))
		if name == unlisted {
			l.passes("unlisted", v)
			continue
		}
		if v.Drop != drop || len(v.Inject) != 1 || v.Inject[0].Toward != rule.Down {
			l.Fatalf("%s: dropped %v, %d injected", name, v.Drop, len(v.Inject))
		}
		p, err := packet.Parse(v.Inject[0].Packet)
		if err != nil {
			l.Fatal(err)
		}
		a := netip.MustParseAddr(address).As4()
		end := append([]byte{0, 0, 0, 60, 0, 4}, a[:]...) // with TTL and length
		if p.Src != c.world || p.Dst != c.client || !bytes.HasSuffix(p.Payload, end) || string(p.Payload[:2]) != "\x12\x34" {
			l.Errorf("answer %x from %v to %v", p.Payload, p.Src, p.Dst)
		}
	}
	tcp := l.to(site, 53).open()
	q := query(listed, packet.TypeA)
	tcp.passes("over TCP", tcp.up(append([]byte{0, byte(len(q))}, q...)))
	l.passes("the true answer", c.datagram(rule.Down, query(listed, packet.TypeA)))
}

// pour sends data down at a rate and returns how many bytes pass.
func (c *conn) pour(kbit float64, long time.Duration) float64 {
	const size = 1400
	passed, step := 0, time.Duration(size*8/kbit*float64(time.Millisecond))
	for end := c.now.Add(long); c.now.Before(end); c.wait(step) {
		if !c.down(make([]byte, size)).Drop {
			passed += size
		}
	}
	return float64(passed)
}

func drivePolice(t *testing.T, l *lab) {
	c := l.to(site, 443).open()
	c.passes("listed", c.halves(hello(t, listed)))
	quic := l.to(site, 443)
	quic.datagram(rule.Up, initial(t, listed, 1800))
	for range 20 {
		l.passes("QUIC", quic.datagram(rule.Down, make([]byte, 1400)))
	}
	const long = 20 * time.Second
	if got := c.pour(1000, long) * 8 / 1000 / long.Seconds(); got < 130 || got > 150 {
		t.Errorf("%.0f kbit/s pass, want 130 to 150", got)
	}
	l.wait(time.Minute)
	if got := c.pour(120, long); got < 120*125*long.Seconds() {
		t.Errorf("of 120 kbit/s %.0f bytes pass", got)
	}
	honest := l.to(site, 443).open()
	honest.passes("unlisted", honest.up(hello(t, unlisted)))
	if got := honest.pour(1000, long); got < 1000*125*long.Seconds() {
		t.Errorf("%.0f bytes of an unlisted flow pass", got)
	}
}

func driveMobile(t *testing.T, l *lab) {
	a, b := l.to(site, 443), l.to(relay, 443)
	const long = 100 * time.Second
	got := a.pour(500, long/2) + b.pour(500, long/2)
	if rate := got * 8 / 1000 / long.Seconds(); rate < 55 || rate > 66 {
		t.Errorf("%.0f kbit/s pass, want 64 for all flows", rate)
	}
	l.wait(time.Minute)
	up := 0
	for range 1000 {
		l.wait(20 * time.Millisecond)
		if !a.send(rule.Up, packet.ACK, nil).Drop {
			up++
		}
	}
	if up < 550 || up > 650 {
		t.Errorf("%d of 1000 packets up pass, want 0.6 of them", up)
	}
	if share := a.pour(40, long) / (40 * 125 * long.Seconds()); share < 0.5 || share > 0.7 {
		t.Errorf("%.2f of a slow flow pass, want 0.6", share)
	}
}

func driveShape(t *testing.T, l *lab) {
	shape := func(n int, version byte) []byte { return append([]byte{0xc0, 0, 0, 0, version}, make([]byte, n-5)...) }
	for _, tt := range []struct {
		what    string
		port    uint16
		from    uint16
		payload []byte
		hit     bool
	}{
		{"1001 bytes", 443, 50000, shape(1001, 1), true},
		{"1000 bytes", 443, 50001, shape(1000, 1), false},
		{"version 2", 443, 50002, shape(1200, 2), false},
		{"another port", 8443, 50003, shape(1200, 1), false},
		{"from port 443", 443, 443, shape(1200, 1), false},
		{"from a low port", 443, 300, shape(1200, 1), true},
	} {
		c := l.to(site, tt.port)
		c.client = netip.AddrPortFrom(client, tt.from)
		if v := c.datagram(rule.Up, tt.payload); v.Drop != tt.hit {
			t.Errorf("%s: dropped %v", tt.what, v.Drop)
		}
		l.wait(420*time.Second - 1)
		for d := range rule.Direction(2) {
			if v := c.datagram(d, []byte("small")); v.Drop != tt.hit {
				t.Errorf("%s, later: dropped %v", tt.what, v.Drop)
			}
		}
		l.wait(1)
		l.passes(tt.what+", at the end", c.datagram(rule.Up, []byte("small")))
	}
	tcp := l.to(site, 443).open()
	tcp.passes("TCP", tcp.up(shape(1200, 1)))
	down := l.to(site, 443)
	l.passes("down", down.datagram(rule.Down, shape(1200, 1)))
}

func driveL4(t *testing.T, l *lab) {
	run := func(c *conn, first []byte) int {
		passed := 3
		for i := range 60 {
			d := rule.Direction(i % 2)
			payload := []byte("data")
			if i == 0 {
				payload = first
			}
			if !c.send(d, packet.PSH|packet.ACK, payload).Drop {
				passed++
			}
		}
		return passed
	}
	for _, tt := range []struct {
		what  string
		to    netip.Addr
		first []byte
		want  int
	}{
		{"unlisted name", relay, hello(t, unlisted), 25},
		{"no name", relay, noise(300), 25},
		{"exempt name", relay, hello(t, exempt), 63},
		{"SSH", relay, []byte("SSH-2.0-x\r\n"), 63},
		{"another prefix", site, hello(t, unlisted), 63},
	} {
		if got := run(l.to(tt.to, 443).open(), tt.first); got != tt.want {
			t.Errorf("%s: %d packets pass, want %d", tt.what, got, tt.want)
		}
	}
	split := l.to(relay, 443).open()
	split.halves(hello(t, exempt))
	quic := l.to(relay, 443)
	l.passes("exempt name in QUIC", quic.datagram(rule.Up, initial(t, exempt, 1800)))
	for range 60 {
		split.passes("exempt name in two segments", split.down([]byte("x")))
		l.passes("after an exempt name", quic.datagram(rule.Down, []byte("x")))
	}
	u := l.to(relay, 443)
	for i := range 30 {
		if v := u.datagram(rule.Direction(i%2), []byte{0x40, 1, 2, 3}); v.Drop != (i >= 25) {
			t.Errorf("datagram %d: dropped %v", i+1, v.Drop)
		}
	}
	// The server speaks first, and the client never.
	silent := l.to(relay, 443).open()
	for i := range 30 {
		if v := silent.down([]byte("x")); v.Drop != (i >= 22) {
			t.Errorf("packet %d down: dropped %v", i+4, v.Drop)
		}
	}
}

func driveEncrypted(t *testing.T, l *lab) {
	const tries = 2000
	hits := 0
	for range tries {
		l.wait(181 * time.Second)
		c := l.to(relay, 8388).open()
		if c.up(noise(400)).Drop {
			hits++
			l.dropped("down", c.down([]byte("x")))
			other := l.to(relay, 8388)
			l.dropped("SYN in the block", other.send(rule.Up, packet.SYN, nil))
			l.to(relay, 8389).open()
			l.wait(180*time.Second - 1)
			l.dropped("at its end", other.send(rule.Up, packet.SYN, nil))
			l.wait(1)
			l.to(relay, 8388).open()
		}
	}
	// Three standard deviations of a share of 2000 draws are 0.03.
	if share := float64(hits) / tries; share < 0.233 || share > 0.293 {
		t.Errorf("%.3f of flows blocked, want 0.263", share)
	}
	for what, first := range map[string][]byte{
		"TLS": hello(t, unlisted), "HTTP": get(unlisted), "printable start": append([]byte("abcdef"), noise(400)...),
		"few bits": append(noise(400), make([]byte, 400)...),
	} {
		for range 40 {
			c := l.to(relay, 8388).open()
			l.passes(what, c.up(first))
			l.passes("second payload", c.up(noise(400)))
		}
	}
	for range 40 {
		elsewhere := l.to(site, 8388).open()
		l.passes("another prefix", elsewhere.up(noise(400)))
	}
}

func driveQUIC(t *testing.T, l *lab) {
	c := l.to(site, 443)
	l.passes("the Initial itself", c.datagram(rule.Up, initial(t, listed, 1800)))
	l.wait(30*time.Millisecond - 1)
	l.passes("before the block", c.datagram(rule.Down, []byte("x")))
	l.wait(160 * time.Millisecond)
	l.dropped("in the block", c.datagram(rule.Up, []byte("x")))
	l.dropped("in the block, down", c.datagram(rule.Down, []byte("x")))
	other := l.to(site, 443)
	l.dropped("another flow", other.datagram(rule.Up, []byte("x")))
	tcp := l.to(site, 443).open()
	tcp.passes("TCP", tcp.up(hello(t, listed)))
	// The block began 30 to 190 ms after the Initial, 189 ms ago.
	l.wait(180*time.Second - 160*time.Millisecond)
	l.dropped("at the earliest end", l.to(site, 443).datagram(rule.Up, []byte("x")))
	l.wait(161 * time.Millisecond)
	l.passes("at the latest end", l.to(site, 443).datagram(rule.Up, []byte("x")))

	misses := func(what string, c *conn, sent ...[]byte) {
		t.Helper()
		for _, b := range sent {
			l.passes(what, c.datagram(rule.Up, b))
		}
		l.wait(time.Second)
		l.passes(what+", later", c.datagram(rule.Up, []byte("x")))
	}
	misses("unlisted", l.to(site, 443), initial(t, unlisted, 1800))
	misses("not first", l.to(site, 443), []byte("junk"), initial(t, listed, 1800))
	high := l.to(site, 61000)
	misses("server's port is greater", high, initial(t, listed, 1800))
	same := l.to(site, 50000)
	same.client = netip.AddrPortFrom(client, 50000)
	misses("ports are equal", same, initial(t, listed, 1800))
	misses("split over frames and datagrams", l.to(site, 443), recorded(t, "../censor/packet/testdata/chromium156-quic.hex", listed)...)
	damaged := initial(t, listed, 1800)
	damaged[len(damaged)-1]++
	misses("not authentic", l.to(site, 443), damaged)

	// The flow is forgotten after 60 s.
	idle := l.to(site, 443)
	l.passes("junk", idle.datagram(rule.Up, []byte("junk")))
	l.wait(60*time.Second + 1)
	l.passes("Initial", idle.datagram(rule.Up, initial(t, listed, 1800)))
	l.wait(time.Second)
	l.dropped("after it", idle.datagram(rule.Up, []byte("x")))
}

// driveTLSInTLS sends bursts as packets of at most 1400 bytes, each with the
// overhead of a record.
func driveTLSInTLS(t *testing.T, l *lab) {
	run := func(sizes [4]int, packets int) bool {
		c := l.to(relay, 443).open()
		c.up(hello(t, unlisted))
		c.down([]byte("\x16\x03\x03 server's flight"))
		c.up([]byte("\x14\x03\x03\x00\x01\x01 and Finished"))
		c.down(make([]byte, 282)) // a ticket
		for i, size := range sizes {
			n := packets
			if i > 0 {
				n = (size + 1399) / 1400
			}
			for k := range n {
				part := size/n + 24
				if k == 0 {
					part += size % n
				}
				if c.send(rule.Direction(i%2), packet.PSH|packet.ACK, make([]byte, part)).Drop {
					t.Fatalf("dropped in burst %d", i)
				}
			}
		}
		end := c.up(make([]byte, 30)) // the client speaks again: the window is complete
		if back := c.down([]byte("x")); back.Drop != end.Drop {
			t.Errorf("dropped up %v, down %v", end.Drop, back.Drop)
		}
		return end.Drop
	}
	for _, tt := range []struct {
		what    string
		sizes   [4]int
		packets int
		want    bool
	}{
		{"TLS 1.2", [4]int{213, 4515, 108, 308}, 1, true},
		{"TLS 1.3", [4]int{641, 4649, 448, 1094}, 1, true},
		{"Chrome", [4]int{1850, 4903, 785, 1051}, 2, true},
		{"Chrome in three packets", [4]int{1850, 4903, 785, 1051}, 3, true},
		{"Chrome in four packets", [4]int{1850, 4903, 785, 1051}, 4, false},
		{"at the bound of TLS 1.2", [4]int{213 + 3*58, 4515, 108, 308}, 1, true},
		{"beyond the bound of TLS 1.2", [4]int{213 + 4*58, 4515, 108, 308}, 1, false},
		{"first burst of 517", [4]int{517, 4649, 448, 1094}, 1, true},
		{"first burst of 516", [4]int{516, 4649, 448, 1094}, 1, false},
		{"a download", [4]int{600, 60000, 100, 500}, 1, false},
	} {
		if got := run(tt.sizes, tt.packets); got != tt.want {
			t.Errorf("%s: found %v", tt.what, got)
		}
	}
	// What began before the rules did is not looked into: any packet of it may begin as a
	// ChangeCipherSpec does.
	c := l.to(relay, 443)
	c.up([]byte("\x14\x99\x99 of a record"))
	for i, size := range []int{213, 4515, 108, 308, 30} {
		for ; size > 0; size -= 1400 {
			if c.send(rule.Direction(i%2), packet.PSH|packet.ACK, make([]byte, min(size, 1400)+24)).Drop {
				t.Fatalf("dropped in burst %d of what was not seen from its beginning", i)
			}
		}
	}
}

func driveSiberian(t *testing.T, l *lab) {
	// burst opens n connections so far apart and returns how many hellos pass.
	burst := func(n int, apart time.Duration, to netip.Addr, h func(i int) []byte) (conns []*conn, passed int) {
		for i := range n {
			if i > 0 {
				l.wait(apart)
			}
			c := l.to(to, 443).open()
			if !c.up(h(i)).Drop {
				passed++
			}
			conns = append(conns, c)
		}
		return conns, passed
	}
	same := func(int) []byte { return chromium(t, unlisted) }
	for _, tt := range []struct {
		what  string
		n     int
		apart time.Duration
		to    netip.Addr
		hello func(int) []byte
		want  int
	}{
		{"3 connections", 3, 399 * time.Millisecond, relay, same, 3},
		{"400 ms apart", 8, 400 * time.Millisecond, relay, same, 8},
		{"another prefix", 8, time.Millisecond, site, same, 8},
		{"another print", 8, time.Millisecond, relay, func(int) []byte { return hello(t, unlisted) }, 8},
		{"other names", 6, time.Millisecond, relay, func(i int) []byte { return chromium(t, "www.honest.exampl"+string(rune('a'+i))) }, 6},
		{"4 connections with one name in records", 4, 0, relay, func(int) []byte { return records(same(0), 40) }, 3},
		{"4 connections", 4, 399 * time.Millisecond, relay, same, 3},
	} {
		l.wait(2 * time.Minute)
		if _, passed := burst(tt.n, tt.apart, tt.to, tt.hello); passed != tt.want {
			t.Errorf("%s: %d of %d pass, want %d", tt.what, passed, tt.n, tt.want)
		}
	}
	// Pairs count together if they are within 60 s.
	for _, tt := range []struct {
		apart time.Duration
		want  int
	}{{60*time.Second + 1, 2}, {60*time.Second - 1, 1}} {
		l.wait(3 * time.Minute)
		burst(2, 0, relay, same)
		l.wait(tt.apart)
		if _, passed := burst(2, 0, relay, same); passed != tt.want {
			t.Errorf("pairs %v apart: %d of the second pass, want %d", tt.apart, passed, tt.want)
		}
	}
	l.wait(3 * time.Minute)
	conns, _ := burst(4, 0, relay, same)
	l.dropped("a connection of the key", conns[0].down([]byte("x")))
	l.wait(120*time.Second - 1)
	l.dropped("at the end", conns[3].down([]byte("x")))
	l.wait(1)
	conns[0].passes("released", conns[0].down([]byte("x")))
}

func drivePortsOnly(t *testing.T, l *lab) {
	for port, want := range map[uint16]bool{22: true, 80: false, 443: false, 8443: true, 53: true} {
		c := l.to(site, port)
		for d := range rule.Direction(2) {
			if got := c.send(d, packet.ACK, nil).Drop; got != want {
				t.Errorf("TCP port %d: dropped %v", port, got)
			}
			if got := c.datagram(d, noise(100)).Drop; got != (port != 53) {
				t.Errorf("UDP port %d: dropped %v", port, got)
			}
		}
	}
	ping := []byte{0x45, 0, 0, 28, 0, 0, 0, 0, 64, 1, 0, 0, 203, 0, 113, 2, 192, 0, 2, 1, 8, 0, 0, 0, 0, 0, 0, 0}
	pong := bytes.Clone(ping)
	copy(pong[12:], ping[16:20])
	copy(pong[16:], ping[12:16])
	if !l.set.Judge(l.now, rule.Up, ping).Drop || !l.set.Judge(l.now, rule.Down, pong).Drop {
		t.Error("ICMP passes")
	}
}

func driveProtocols(t *testing.T, l *lab) {
	for what, first := range map[string][]byte{"TLS": hello(t, listed), "HTTP": get(listed)} {
		c := l.to(site, 443).open()
		c.passes(what, c.up(first))
	}
	dns := l.to(site, 53).open()
	q := query(listed, packet.TypeA)
	dns.passes("DNS", dns.up(append([]byte{0, byte(len(q))}, q...)))
	l.passes("UDP", l.to(site, 443).datagram(rule.Up, noise(50)))
	for _, port := range []uint16{53, 80} {
		c := l.to(site, port).open()
		l.dropped("noise", c.up(noise(50)))
	}
	for what, first := range map[string][]byte{"noise": noise(50), "SSH": []byte("SSH-2.0-x\r\n")} {
		c := l.to(site, 443).open()
		l.dropped(what, c.up(first))
		l.to(site, 443).open() // another 4-tuple
		l.wait(60*time.Second - 1)
		l.dropped("in the block", c.down([]byte("x")))
		l.wait(1)
		c.passes("after the block", c.down([]byte("x")))
		other := l.to(site, 8443).open()
		other.passes(what+" on another port", other.up(first))
	}
}

func drivePrefix(t *testing.T, l *lab) {
	l.to(site, 443).open()
	for _, to := range []string{"192.0.2.1", "198.51.101.1"} {
		c := l.to(netip.MustParseAddr(to), 443)
		l.dropped(to, c.send(rule.Up, packet.SYN, nil))
		l.dropped(to+", back", c.send(rule.Down, packet.SYN|packet.ACK, nil))
		l.dropped(to+", UDP", c.datagram(rule.Up, []byte("x")))
	}
}

func driveAllowSNI(t *testing.T, l *lab) {
	for _, tt := range []struct {
		what  string
		first []byte
		drop  bool
	}{
		{"allowed", hello(t, allowed), false},
		{"allowed by Host", get(allowed), false},
		{"not allowed", hello(t, unlisted), true},
		{"no name", hello(t, ""), true},
		{"not allowed by Host", get("notallowed.example"), true},
		{"noise", noise(100), true},
		{"SSH", []byte("SSH-2.0-x\r\n"), true},
	} {
		c := l.to(relay, 443).open()
		if got := c.up(tt.first).Drop; got != tt.drop {
			t.Errorf("%s: dropped %v", tt.what, got)
		}
		if got := c.down([]byte("x")).Drop; got != tt.drop {
			t.Errorf("%s, answer: dropped %v", tt.what, got)
		}
	}
	split := l.to(relay, 443).open()
	h := records(hello(t, allowed), 30)
	split.passes("first part", split.up(h[:20]))
	split.passes("second part", split.up(h[20:]))
	u := l.to(relay, 443)
	l.dropped("QUIC", u.datagram(rule.Up, initial(t, allowed, 1800)))
	l.passes("DNS", l.to(relay, 53).datagram(rule.Up, query(listed, packet.TypeA)))
}

func driveDNSOnly(t *testing.T, l *lab) {
	resolver := netip.MustParseAddr("198.51.100.53")
	l.passes("DNS", l.to(resolver, 53).datagram(rule.Up, query(listed, packet.TypeA)))
	l.to(resolver, 53).open()
	l.dropped("from another resolver", l.to(site, 53).datagram(rule.Down, []byte("x")))
	l.dropped("from another port", l.to(resolver, 443).datagram(rule.Down, []byte("x")))
	l.dropped("another resolver", l.to(site, 53).datagram(rule.Up, query(listed, packet.TypeA)))
	l.dropped("another port", l.to(resolver, 443).datagram(rule.Up, query(listed, packet.TypeA)))
	c := l.to(resolver, 53)
	const long = 20 * time.Second
	if rate := c.pour(2000, long) * 8 / 1000 / long.Seconds(); rate < 480 || rate > 520 {
		t.Errorf("%.0f kbit/s pass, want 512", rate)
	}
}

func driveBlackout(t *testing.T, l *lab) {
	c := l.to(site, 443)
	l.dropped("at once", c.send(rule.Up, packet.SYN, nil))
	start := l.now
	for _, tt := range []struct {
		at   time.Duration
		drop bool
	}{{60*time.Second - 1, true}, {60 * time.Second, false}, {75*time.Second - 1, false}, {75 * time.Second, true}, {2 * time.Minute, false}, {150*time.Second - 1, false}, {150 * time.Second, true}, {210 * time.Second, false}} {
		l.now = start.Add(tt.at)
		for d := range rule.Direction(2) {
			if got := c.send(d, packet.ACK, nil).Drop; got != tt.drop {
				t.Errorf("after %v: dropped %v", tt.at, got)
			}
		}
	}
}

func driveAddress(t *testing.T, l *lab) {
	for _, port := range []uint16{443, 22} {
		l.dropped("listed", l.to(relay, port).send(rule.Up, packet.SYN, nil))
		l.dropped("listed, down", l.to(relay, port).send(rule.Down, packet.SYN|packet.ACK, nil))
	}
	l.to(netip.MustParseAddr("192.0.2.2"), 443).open()
}

func driveLie(t *testing.T, l *lab) {
	l.lies("198.51.100.80", true)
	if v := l.to(site, 5353).datagram(rule.Up, query(listed, packet.TypeA)); v.Drop {
		t.Error("another port")
	}
}

func driveRedirect(t *testing.T, l *lab) { redirects(l, "http://198.51.100.80/", 0, 0) }

func driveDivert(t *testing.T, l *lab) {
	middle := netip.MustParseAddrPort("198.51.100.66:443")
	c := l.to(site, 443)
	through := func(d rule.Direction, b []byte) packet.Packet {
		t.Helper()
		l.passes("diverted", l.judge(d, b))
		p, err := packet.Parse(b)
		if err != nil || !p.ChecksumsValid() {
			t.Fatalf("%v, or checksums are wrong", err)
		}
		return p
	}
	for _, flags := range []uint8{packet.SYN, packet.ACK, packet.ACK | packet.PSH} {
		if p := through(rule.Up, c.segment(rule.Up, flags, nil)); p.Dst != middle || p.Src != c.client {
			t.Errorf("up: from %v to %v", p.Src, p.Dst)
		}
		answer := *c
		answer.world = middle
		if p := through(rule.Down, answer.segment(rule.Down, packet.ACK, []byte("abc"))); p.Src != c.world || p.Dst != c.client {
			t.Errorf("down: from %v to %v", p.Src, p.Dst)
		}
	}
	other := l.to(site, 80)
	if p := through(rule.Up, other.segment(rule.Up, packet.SYN, nil)); p.Dst != other.world {
		t.Errorf("another port goes to %v", p.Dst)
	}
	quic := l.to(site, 443)
	g := packet.Datagram{Header: packet.Header{Src: quic.client, Dst: quic.world}, Payload: []byte("x")}
	if p := through(rule.Up, g.Build()); p.Dst != quic.world {
		t.Errorf("UDP goes to %v", p.Dst)
	}
	direct := l.to(middle.Addr(), 443)
	if p := through(rule.Up, direct.segment(rule.Up, packet.SYN, nil)); p.Dst != middle {
		t.Errorf("a direct connection goes to %v", p.Dst)
	}
	if p := through(rule.Down, direct.segment(rule.Down, packet.SYN|packet.ACK, nil)); p.Src != middle {
		t.Errorf("its answer comes from %v", p.Src)
	}
}

func drivePort443(t *testing.T, l *lab) {
	c := l.to(site, 443)
	c.resets("SYN", c.send(rule.Up, packet.SYN, nil), wantReset{up: 3, down: 3})
	c.resets("SYN+ACK", c.send(rule.Down, packet.SYN|packet.ACK, nil), wantReset{up: 3, down: 3})
	c.passes("ACK", c.send(rule.Up, packet.ACK, nil))
	for _, port := range []uint16{22, 80, 8443} {
		l.to(site, port).open()
	}
}

func driveKill(t *testing.T, l *lab) {
	c := l.to(site, 443).open()
	l.wait(60 * time.Second)
	c.passes("at 60 s", c.up([]byte("x")))
	l.wait(1)
	l.dropped("after 60 s, up", c.up([]byte("x")))
	l.dropped("after 60 s, down", c.down([]byte("x")))
	again := *c
	again.seq[rule.Up] += 100000 // a new connection between the same ports
	again.open()
	u := l.to(site, 443)
	l.passes("UDP", u.datagram(rule.Up, []byte("x")))
	for range 3 {
		l.wait(30 * time.Second)
		l.passes("UDP later", u.datagram(rule.Up, []byte("x")))
	}
}

// The prefixes and addresses of IPv6 are those of the lab, too.
func TestIPv6(t *testing.T) {
	me := netip.MustParseAddr("2001:db8:203::2")
	relay6, site6, resolver6 := netip.MustParseAddr("2001:db8:192::1"), netip.MustParseAddr("2001:db8:198::10"), netip.MustParseAddr("2001:db8:198::53")
	to := func(l *lab, a netip.Addr, port uint16) *conn {
		c := l.to(a, port)
		c.client = netip.AddrPortFrom(me, c.client.Port())
		return c
	}
	for name, in := range map[string]struct{ drop, pass netip.Addr }{
		"s12-address":  {relay6, site6},
		"s12-prefix":   {relay6, site6},
		"s12-dns-only": {site6, resolver6},
	} {
		l := newLab(t, name)
		l.dropped(name, to(l, in.drop, 53).datagram(rule.Up, []byte("x")))
		l.passes(name, to(l, in.pass, 53).datagram(rule.Up, []byte("x")))
	}
	for name, h := range map[string][]byte{"s6-l4-25": noise(50), "s11-siberian": chromium(t, unlisted)} {
		for _, a := range []netip.Addr{relay6, site6} {
			l := newLab(t, name)
			drops := 0
			for range 4 {
				c := to(l, a, 443).open()
				c.up(h)
				for range 30 {
					if c.down([]byte("x")).Drop {
						drops++
					}
				}
			}
			if (drops > 0) != (a == relay6) {
				t.Errorf("%s, %v: %d packets dropped", name, a, drops)
			}
		}
	}
	l := newLab(t, "s7-fully-encrypted")
	drops := 0
	for range 60 {
		l.wait(181 * time.Second)
		if to(l, relay6, 443).open().up(noise(300)).Drop {
			drops++
		}
	}
	if drops == 0 {
		t.Error("nothing dropped by s7-fully-encrypted")
	}
	l = newLab(t, "mitm-forged-certificate")
	syn := to(l, site6, 443).segment(rule.Up, packet.SYN, nil)
	l.passes("diverted", l.judge(rule.Up, syn))
	if p, err := packet.Parse(syn); err != nil || !p.ChecksumsValid() || p.Dst.String() != "[2001:db8:198::66]:443" {
		t.Errorf("goes to %v, %v", p.Dst, err)
	}
	l = newLab(t, "dns-lie")
	v := l.to(site, 53).datagram(rule.Up, query(listed, packet.TypeAAAA))
	mirror := netip.MustParseAddr("2001:db8:198::80").As16()
	if len(v.Inject) != 1 || !bytes.HasSuffix(v.Inject[0].Packet, mirror[:]) {
		t.Errorf("%d injected", len(v.Inject))
	}
}

// driveActiveReset: who sends in the first 100 ms is reset once, whoever comes
// later is not.
func driveActiveReset(t *testing.T, l *lab) {
	active, quiet := l.to(relay, 443), l.to(relay, 443)
	once := wantReset{up: 1, down: 1}
	active.resets("at work", active.send(rule.Up, packet.ACK, []byte("x")), once)
	elsewhere := l.to(site, 443)
	elsewhere.passes("a site", elsewhere.send(rule.Up, packet.ACK, []byte("x")))
	l.wait(100 * time.Millisecond)
	quiet.passes("after 100 ms", quiet.send(rule.Up, packet.ACK, []byte("x")))
	l.to(relay, 443).open()
}

// driveActiveFreeze: who sends in the first 100 ms is heard no more, in one or both
// directions, and whoever comes later is.
func driveActiveFreeze(l *lab, both bool) {
	c, quiet := l.to(relay, 443), l.to(relay, 443)
	l.dropped("at work", c.send(rule.Down, packet.ACK, []byte("x")))
	up := l.passes
	if both {
		up = l.dropped
	}
	up("up", c.up([]byte("x")))
	l.wait(time.Minute)
	up("up, later", c.up([]byte("x")))
	l.dropped("down, later", c.down([]byte("x")))
	quiet.passes("another", quiet.send(rule.Down, packet.ACK, []byte("x")))
	l.to(relay, 443).open()
	elsewhere := l.to(site, 443)
	elsewhere.passes("a site", elsewhere.send(rule.Down, packet.ACK, []byte("x")))
}

// busy is a connection to a relay that carries more than another one, which is
// opened first and used last; nothing is judged before.
func (l *lab) busy() (busiest, idle *conn) {
	l.set.Replace()
	busiest, idle = l.to(relay, 443), l.to(relay, 443)
	idle.open()
	busiest.open()
	elsewhere := l.to(site, 443).open()
	for range 10 {
		busiest.passes("before", busiest.send(rule.Down, packet.ACK, make([]byte, 1000)))
		elsewhere.passes("before", elsewhere.send(rule.Down, packet.ACK, make([]byte, 1400)))
	}
	idle.passes("before", idle.up([]byte("x")))
	l.set.Replace(l.files...)
	return busiest, idle
}

func driveBusiestReset(t *testing.T, l *lab) {
	busiest, idle := l.busy()
	idle.passes("beside", idle.up([]byte("x")))
	for range 2 {
		busiest.resets("at work", busiest.up([]byte("x")), wantReset{up: 1, down: 1})
		l.wait(time.Second)
	}
	l.to(relay, 443).open()
}

// driveBusiestDrop: of what is used only the busiest is heard no more, in one or both
// directions.
func driveBusiestDrop(l *lab, both bool) {
	busiest, idle := l.busy()
	idle.passes("beside", idle.up([]byte("x")))
	up := l.passes
	if both {
		up = l.dropped
	}
	for range 2 {
		l.dropped("down", busiest.down([]byte("x")))
		up("up", busiest.up([]byte("x")))
		l.wait(time.Minute)
	}
	l.to(relay, 443).open()
	elsewhere := l.to(site, 443)
	elsewhere.passes("a site", elsewhere.send(rule.Down, packet.ACK, []byte("x")))
}

func driveBusiestPolice(t *testing.T, l *lab) {
	busiest, idle := l.busy()
	const long = 20 * time.Second
	if got := busiest.pour(1000, long) * 8 / 1000 / long.Seconds(); got < 130 || got > 150 {
		t.Errorf("%.0f kbit/s pass, want 130 to 150", got)
	}
	if got := idle.pour(1000, long); got < 1000*125*long.Seconds() {
		t.Errorf("of another flow %.0f bytes pass", got)
	}
}

func drivePoliceEach(t *testing.T, l *lab) {
	const long = 10 * time.Second
	for _, to := range []netip.Addr{relay, relay, site} {
		if got := l.to(to, 443).pour(20_000, long) * 8 / 1e6 / long.Seconds(); got < 9.5 || got > 10 {
			t.Errorf("%.1f Mbit/s of payload pass, want 9.5 to 10", got)
		}
	}
}

func driveBusiestAddress(t *testing.T, l *lab) {
	busiest, idle := l.busy()
	l.dropped("the busiest", busiest.down([]byte("x")))
	l.dropped("another port", l.to(relay, 22).send(rule.Up, packet.SYN, nil))
	l.dropped("another connection", idle.up([]byte("x")))
	l.dropped("UDP", l.to(relay, 443).datagram(rule.Up, []byte("x")))
	l.to(netip.MustParseAddr("192.0.2.2"), 443).open()
}

func driveNoTCP(t *testing.T, l *lab) {
	for _, port := range []uint16{443, 22} {
		l.dropped("TCP", l.to(relay, port).send(rule.Up, packet.SYN, nil))
		l.dropped("TCP, down", l.to(relay, port).send(rule.Down, packet.ACK, []byte("x")))
		l.passes("UDP", l.to(relay, port).datagram(rule.Up, []byte("x")))
	}
	l.to(site, 443).open()
}

func drivePort443Open(t *testing.T, l *lab) {
	c := l.to(site, 443)
	c.resets("SYN", c.send(rule.Up, packet.SYN, nil), wantReset{up: 3, down: 3})
	c.resets("data", c.up([]byte("x")), wantReset{up: 3, down: 3})
	for _, port := range []uint16{22, 80, 8443} {
		l.to(site, port).open()
	}
	l.passes("UDP", l.to(site, 443).datagram(rule.Up, []byte("x")))
}

func driveStrict(t *testing.T, l *lab) {
	connect := func(name string) (*conn, bool) {
		c := l.to(relay, 443).open()
		return c, !c.up(hello(t, name)).Drop
	}
	for i := range 8 { // at 20 s three are within a minute
		if _, ok := connect(listed); !ok {
			t.Errorf("number %d, 20 s after another, is frozen", i+1)
		}
		l.wait(20*time.Second + time.Millisecond)
	}
	l.wait(time.Minute)
	first, _ := connect(unlisted)
	for range 2 {
		l.wait(time.Second)
		connect(unlisted)
	}
	l.wait(50 * time.Second)
	if _, ok := connect(unlisted); ok {
		t.Error("the fourth within a minute passes")
	}
	l.dropped("the first", first.down([]byte("x")))
	if _, ok := connect(listed); !ok {
		t.Error("another name is frozen")
	}
	l.wait(120 * time.Second)
	if _, ok := connect(unlisted); !ok {
		t.Error("frozen after 120 s")
	}
}

func driveShutdown(t *testing.T, l *lab) {
	c := l.to(site, 443)
	l.dropped("TCP", c.send(rule.Up, packet.SYN, nil))
	l.dropped("UDP", c.datagram(rule.Down, []byte("x")))
	l.wait(time.Hour)
	l.dropped("later", c.send(rule.Up, packet.SYN, nil))
}
