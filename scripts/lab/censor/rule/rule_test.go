package rule

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"busel/scripts/lab/censor/packet"
)

// head begins each rule file of a test.
const head = "simulator = \"S2\"\nrow = \"B3\"\nsource = \"test\"\n"

func mustParse(t testing.TB, name, text string) *File {
	t.Helper()
	f, err := Parse(name, []byte(head+text))
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func newSet(files ...*File) *Set { return NewSet(rand.New(rand.NewPCG(1, 2)), files...) }

var (
	client = netip.MustParseAddr("203.0.113.2")
	relay  = netip.MustParseAddr("192.0.2.1")
	start  = time.Date(2020, 8, 9, 12, 0, 0, 0, time.UTC)
)

// up and down are TCP packets between a port of the client and port 443.
func up(port uint16, flags uint8, seq uint32, payload string) []byte {
	s := packet.Segment{
		Header: packet.Header{Src: netip.AddrPortFrom(client, port), Dst: netip.AddrPortFrom(relay, 443)},
		Seq:    seq, Flags: flags, Payload: []byte(payload),
	}
	return s.Build()
}

func down(port uint16) []byte {
	s := packet.Segment{
		Header: packet.Header{Src: netip.AddrPortFrom(relay, 443), Dst: netip.AddrPortFrom(client, port)},
		Flags:  packet.ACK, Payload: []byte("data"),
	}
	return s.Build()
}

func TestParse(t *testing.T) {
	f := mustParse(t, "a.toml", "[[rule]]\nact.drop = \"both\"\n[[rule]]\nname = \"b\"\nact.drop = \"up\"\n")
	if f.Name != "a.toml" || f.Simulator != "S2" || f.Row != "B3" || f.Source != "test" {
		t.Errorf("%+v", f)
	}
	if c := newSet(f).Counts(); len(c) != 2 || c[0].Rule != "1" || c[1].Rule != "b" || c[1].File != "a.toml" {
		t.Errorf("%+v", c)
	}
}

func TestParseRefuses(t *testing.T) {
	const drop = "\nact.drop = \"both\"\n"
	for _, tt := range []struct{ text, key, reason string }{
		{"x = 1\n[[rule]]" + drop, "x", "unknown key"},
		{"[[rule]]\nmatch.snis = [\"a\"]" + drop, "rule.match.snis", "unknown key"},
		{"[[rule]]\nact.reset = { styles = 1 }", "rule.act.reset.styles", "unknown key"},
		{"[[rule]", "line 4", ""},
		{"[[rule]]\nmatch.ports = 443" + drop, "file", "rule.match"},
		{"[[rule]]\nmatch.ports = [70000]" + drop, "line 5", "70000"},
		{"[[rule]]\nmatch.to = [\"192.0.2.0\"]" + drop, "line 5", "192.0.2.0"},
		{"[[rule]]\nmatch.age_over = \"-1s\"" + drop, "line 5", "negative"},
		{"[[rule]]\nact.reset = { payload = \"xy\" }", "line 5", "hex"},
		{"", "rule", "missing"},
		{"[[rule]]", "rule 1: act", "does nothing"},
		{"[[rule]]\nname = \"a\"" + drop + "[[rule]]\nname = \"a\"" + drop, "rule.name", "twice"},
		{"[[rule]]\nmatch.protocol = [\"sctp\"]" + drop, "rule 1: match.protocol", "sctp"},
		{"[[rule]]\nmatch.direction = \"left\"" + drop, "rule 1: match.direction", "left"},
		{"[[rule]]\nmatch.app = [\"vpn\"]" + drop, "rule 1: match.app", "vpn"},
		{"[[rule]]\nreassemble = [\"ip\"]" + drop, "rule 1: reassemble", "ip"},
		{"[[rule]]\nmatch.sni = [\"Listed\"]" + drop, "rule 1: match", "capitals"},
		{"[[rule]]\nmatch.windows = [[\"2s\", \"1s\"]]" + drop, "rule 1: match.windows", "pairs"},
		{"[[rule]]\nmatch.windows = [[\"1s\", \"3s\"]]\nmatch.period = \"2s\"" + drop, "rule 1: match.windows", "period"},
		{"[[rule]]\nmatch.period = \"2s\"" + drop, "rule 1: match.period", "without"},
		{"[[rule]]\nmatch.rate = { connections = 3 }" + drop, "rule 1: match.rate", "incomplete"},
		{"[[rule]]\nmatch.rate = { connections = 3, within = \"1s\", by = [\"port\"] }" + drop, "rule 1: match.rate.by", "port"},
		{"[[rule]]\nhold = { for = \"1s\" }" + drop, "rule 1: hold.by", "missing"},
		{"[[rule]]\nhold = { by = \"3-tuple\" }" + drop, "rule 1: hold.for", "missing"},
		{"[[rule]]\nhold = { by = \"key\", for = \"1s\" }" + drop, "rule 1: hold.by", "no key"},
		{"[[rule]]\nact.drop = \"all\"", "rule 1: act.drop", "all"},
		{"[[rule]]\nact.loss = 0.5", "rule 1: act", "does nothing"},
		{"[[rule]]\nact.loss = 1.5" + drop, "rule 1: act.loss", "at most 1"},
		{"[[rule]]\nact.police = { kbit = 1, burst = 100 }", "rule 1: act.police", "burst"},
		{"[[rule]]\nact.reset = { toward = \"up\" }", "rule 1: act.reset.toward", "up"},
		{"[[rule]]\nact.reset = { count = 17 }", "rule 1: act.reset", "much"},
		{"[[rule]]\nact.page = { body = \"a\" }", "rule 1: act.page", "status"},
		{"[[rule]]\nact.page = { status = \"200\\r\\nX: y\" }", "rule 1: act.page", "status"},
		{"[[rule]]\nprobability = 0.0" + drop, "rule 1: probability", "more than 0"},
		{"[[rule]]\ndelay = [\"2s\", \"1s\"]" + drop, "rule 1: delay", "least"},
		{"[[rule]]\nmatch.sni = [\"a\"]\nact.divert = [\"192.0.2.1:1\"]", "rule 1: act.divert", "first packet"},
		{"[[rule]]\nact.answer = { addresses = [\"192.0.2.1\"] }", "rule 1: act.answer", "question"},
		{"[[rule]]\nmatch.dns = [\"*\"]\nmatch.rate = { connections = 3, within = \"1s\", by = [\"sni\"] }" + drop, "rule 1: match.rate", "dns"},
	} {
		_, err := Parse("x.toml", []byte(head+tt.text))
		e, ok := errors.AsType[*Error](err)
		if !ok || e.File != "x.toml" || e.Key != tt.key || !strings.Contains(e.Reason, tt.reason) || e.Reason == "" || e.Hint == "" {
			t.Errorf("%q: %v", tt.text, err)
		}
	}
	for _, missing := range []string{"simulator", "row", "source"} {
		text := strings.Replace(head, missing+" = ", "# ", 1) + "[[rule]]" + drop
		if e, ok := errors.AsType[*Error](func() error { _, err := Parse("x", []byte(text)); return err }()); !ok || e.Key != missing {
			t.Errorf("without %s: %v", missing, e)
		}
	}
}

func TestGlob(t *testing.T) {
	for _, tt := range []struct {
		pattern, name string
		want          bool
	}{
		{"a.example", "a.example", true}, {"a.example", "b.a.example", false}, {"a.example", "a.example.", false},
		{"*.example", "a.example", true}, {"*.example", ".example", true}, {"*.example", "example", false},
		{"*", "a", true}, {"*", "", false}, {"", "", false}, {"*t.co*", "microsoft.com", true}, {"*t.co*", "t.c", false},
		{"a*b*c", "abc", true}, {"a*b*c", "aXbYc", true}, {"a*b*c", "acb", false}, {"a*a", "a", false}, {"ab*", "ab", true},
	} {
		if got := glob(tt.pattern, tt.name); got != tt.want {
			t.Errorf("%q, %q: %v", tt.pattern, tt.name, got)
		}
	}
}

// balanced are n bytes with four bits set each, none of them printable.
func balanced(n int) []byte { return bytes.Repeat([]byte{0x0f, 0xf0, 0x87, 0xb1}, n)[:n] }

// The exemptions of row C1, at their bounds.
func TestFullyEncrypted(t *testing.T) {
	with := func(at int, text string, n int) []byte {
		b := balanced(n)
		copy(b[at:], text)
		return b
	}
	// bits returns 100 bytes with so many bits set in all, none printable.
	bits := func(n int) []byte {
		b := balanced(100)
		for i := 0; n < 400; i++ {
			b[i], n = 0x81, n+2
		}
		for i := 0; n > 400; i++ {
			b[i], n = 0xf7, n-3
		}
		return b
	}
	for _, tt := range []struct {
		what string
		data []byte
		want bool
	}{
		{"four bits a byte", balanced(100), true},
		{"nothing", nil, false},
		{"Ex1: 3.40", bits(340), false}, {"Ex1: 3.42", bits(342), true},
		{"Ex1: 4.60", bits(460), false}, {"Ex1: 4.57", bits(457), true},
		{"Ex2: 6 printable", with(0, "KKKKKK", 100), false}, {"Ex2: 5 printable", with(0, "KKKKK", 100), true},
		{"Ex3: 51 of 101", with(1, strings.Repeat("KKKKK\xb1", 20)[:61], 101), false},
		{"Ex3: 50 of 101", with(1, strings.Repeat("KKKKK\xb1", 20)[:60], 101), true},
		{"Ex4: 21 in a row", with(50, strings.Repeat("K", 21), 100), false},
		{"Ex4: 20 in a row", with(50, strings.Repeat("K", 20), 100), true},
		{"Ex5: 17 03 09", with(0, "\x17\x03\x09", 100), false}, {"Ex5: 16 03 00", with(0, "\x16\x03\x00", 100), false},
		{"Ex5: 18 03 03", with(0, "\x18\x03\x03", 100), true}, {"Ex5: 16 03 0a", with(0, "\x16\x03\x0a", 100), true},
		{"Ex5: HEAD", with(0, "HEAD \xb1", 100), false}, {"Ex5: PUT", with(0, "PUT \xb1", 100), false},
		{"Ex5: BUT", with(0, "BUT \xb1", 100), true},
	} {
		if got := fullyEncrypted(tt.data); got != tt.want {
			t.Errorf("%s: %v", tt.what, got)
		}
	}
}

// hello is a ClientHello with a name, in one record.
func hello(name string) string {
	ext := binary.BigEndian.AppendUint16(nil, uint16(len(name)))
	ext = append(ext, name...)
	ext = append([]byte{0, 0, 0, byte(len(ext) + 3), 0, byte(len(ext) + 1), 0}, ext...)
	body := slices.Concat([]byte{3, 3}, make([]byte, 32), []byte{0, 0, 2, 0x13, 1, 1, 0, 0, byte(len(ext))}, ext)
	return string(slices.Concat([]byte{22, 3, 1, 0, byte(len(body) + 4), 1, 0, 0, byte(len(body))}, body))
}

func open(s *Set, now time.Time, port uint16, first string) Verdict {
	s.Judge(now, Up, up(port, packet.SYN, 99, ""))
	return s.Judge(now, Up, up(port, packet.ACK, 100, first))
}

const block = "[[rule]]\nname = \"a\"\nmatch.sni = [\"listed\"]\nhold = { by = \"3-tuple\", for = \"180s\" }\nact.drop = \"both\"\n"

// A rule that stays keeps its holds, its counts and its start; one that says
// something else is another.
func TestReplace(t *testing.T) {
	a := mustParse(t, "a", block)
	other := mustParse(t, "b", "[[rule]]\nmatch.windows = [[\"0s\", \"10s\"]]\nmatch.ports = [80]\nact.drop = \"up\"\n")
	s := newSet(a)
	if !open(s, start, 1000, hello("listed")).Drop || !s.Judge(start, Down, down(1001)).Drop {
		t.Fatal("no block")
	}
	s.Replace(other, mustParse(t, "a", block)) // read again
	if !s.Judge(start, Down, down(1002)).Drop {
		t.Error("the block was lost")
	}
	if c := s.Counts(); c[1].Dropped != 3 || c[1].Flows != 3 {
		t.Errorf("%+v", c)
	}
	s.Replace(mustParse(t, "a", strings.Replace(block, "180s", "90s", 1)))
	if s.Judge(start, Down, down(1003)).Drop {
		t.Error("a rule that changed has the block of the old one")
	}
	s.Replace()
	if s.Judge(start, Down, down(1004)).Drop || len(s.Counts()) != 0 {
		t.Error("rules are left")
	}
	// A flow that ran before the rule came is held once it fires by time.
	s.Replace(mustParse(t, "c", "[[rule]]\nmatch.age_over = \"5s\"\nact.drop = \"both\"\n"))
	if s.Judge(start.Add(5*time.Second), Down, down(1004)).Drop || !s.Judge(start.Add(6*time.Second), Down, down(1004)).Drop {
		t.Error("an old flow is not judged by a new rule")
	}
}

// The name of a connection that was read before a rule came is known to it.
func TestReplaceKnowsNames(t *testing.T) {
	pass := "[[rule]]\nname = \"b\"\nmatch.sni = [\"another\"]\nact.drop = \"both\"\n"
	s := newSet(mustParse(t, "b", pass))
	if open(s, start, 1000, hello("listed")).Drop {
		t.Fatal("dropped")
	}
	s.Replace(mustParse(t, "b", pass), mustParse(t, "a", block))
	if !s.Judge(start, Down, down(1000)).Drop {
		t.Error("a connection to a listed name goes on")
	}
	s.Replace()
	if open(s, start, 2000, hello("listed")).Drop {
		t.Fatal("dropped")
	}
	s.Replace(mustParse(t, "a", block))
	if s.Judge(start, Down, down(2000)).Drop {
		t.Error("a name that nobody read is known")
	}
}

// A ClientHello is put together whichever segment comes first.
func TestSegmentsInAnyOrder(t *testing.T) {
	h := hello("listed")
	for _, joined := range []bool{true, false} {
		text := block
		if joined {
			text += "reassemble = [\"tcp\"]\n"
		}
		s := newSet(mustParse(t, "a", text))
		s.Judge(start, Up, up(1, packet.SYN, 99, ""))
		if s.Judge(start, Up, up(1, packet.ACK, 100+30, h[30:])).Drop {
			t.Error("the second half is enough")
		}
		if got := s.Judge(start, Up, up(1, packet.ACK, 100, h[:30])).Drop; got != joined {
			t.Errorf("joined %v: dropped %v", joined, got)
		}
	}
}

// A SYN that is sent again is of the same flow, one with another number begins
// a new one.
func TestSYNAgain(t *testing.T) {
	s := newSet(mustParse(t, "a", "[[rule]]\nmatch.age_over = \"5s\"\nact.drop = \"both\"\n"))
	for _, tt := range []struct {
		after time.Duration
		seq   uint32
		want  bool
	}{{0, 7, false}, {3, 7, false}, {6, 7, true}, {7, 8, false}, {12, 8, false}, {13, 8, true}} {
		if got := s.Judge(start.Add(tt.after*time.Second), Up, up(1, packet.SYN, tt.seq, "")).Drop; got != tt.want {
			t.Errorf("after %d s: dropped %v", tt.after, got)
		}
	}
}

// The first payload that is seen of a connection whose beginning is not was
// not its first.
func TestMidFlow(t *testing.T) {
	s := newSet(mustParse(t, "a", "[[rule]]\nmatch.app = [\"fully-encrypted\"]\nact.drop = \"both\"\n"))
	if s.Judge(start, Up, up(1, packet.ACK, 100, string(balanced(100)))).Drop {
		t.Error("judged in the middle")
	}
	if !open(s, start, 2, string(balanced(100))).Drop {
		t.Error("not judged at the beginning")
	}
}

// A flow is counted once for a rate, and drawn for once, however many packets
// it has.
func TestOncePerFlow(t *testing.T) {
	s := newSet(mustParse(t, "a", "[[rule]]\nmatch.sni = [\"*\"]\nmatch.packets_over = 3\nmatch.rate = { connections = 2, within = \"60s\", by = [\"client\"] }\nact.drop = \"both\"\n"))
	for port := range uint16(3) {
		open(s, start, 1000+port, hello("x"))
		for i := range 5 {
			if got, want := s.Judge(start, Down, down(1000+port)).Drop, port == 2 && i > 0; got != want {
				t.Errorf("flow %d, packet %d: dropped %v", port+1, i+3, got)
			}
		}
	}
	s = newSet(mustParse(t, "b", "[[rule]]\nprobability = 0.5\nmatch.sni = [\"*\"]\nhold = { by = \"flow\" }\nact.drop = \"both\"\n"))
	hits := 0
	for port := range uint16(1000) {
		first := open(s, start, port, hello("x")).Drop
		if first {
			hits++
		}
		for range 5 {
			if s.Judge(start, Up, up(port, packet.ACK, 500, hello("x"))).Drop != first {
				t.Fatal("drawn again")
			}
		}
	}
	if hits < 450 || hits > 550 {
		t.Errorf("%d of 1000", hits)
	}
}

// The busiest flow is the one of the last second, it stays the one, and a hold
// reaches beyond it.
func TestBusiest(t *testing.T) {
	relays := []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}
	fill := func(s *Set, at time.Time, port uint16, bytes int) {
		s.Judge(at, Up, up(port, packet.ACK, 1, string(make([]byte, bytes))))
	}
	one := mustParse(t, "a", "[[rule]]\nmatch.protocol = [\"tcp\"]\nmatch.busiest = true\nact.drop = \"both\"\n")
	s := newSet()
	fill(s, start, 1, 1000) // long ago
	now := start.Add(time.Minute)
	fill(s, now, 2, 300)
	fill(s, now.Add(200*time.Millisecond), 3, 100)
	fill(s, now.Add(400*time.Millisecond), 2, 300)
	now = now.Add(600 * time.Millisecond)
	if f := s.Busiest(now, relays...); f.Protocol != "tcp" || f.Bytes != 2*(40+300) {
		t.Errorf("the busiest is %+v", f)
	}
	if f := s.Busiest(now, netip.MustParsePrefix("198.51.100.0/24")); f != (Flow{}) {
		t.Errorf("of another prefix: %+v", f)
	}
	s.Replace(one)
	for port, want := range map[uint16]bool{3: false, 2: true} {
		if got := s.Judge(now, Up, up(port, packet.ACK, 1, "x")).Drop; got != want {
			t.Errorf("flow %d: dropped %v", port, got)
		}
	}
	fill(s, now, 3, 5000)
	if s.Judge(now, Up, up(3, packet.ACK, 1, "x")).Drop || !s.Judge(now, Down, down(2)).Drop {
		t.Error("it did not stay the one")
	}

	now = now.Add(time.Minute) // nobody carries anything: the last one counts
	fill(s, now.Add(-2*time.Second), 4, 10)
	if f := s.Busiest(now, relays...); f.Bytes != 0 || !f.World.IsValid() {
		t.Errorf("of those that rest: %+v", f)
	}
	s.Replace(mustParse(t, "b", "[[rule]]\nmatch.busiest = true\nhold = { by = \"address\", for = \"60s\" }\nact.drop = \"both\"\n"))
	fill(s, now, 5, 10) // the first that is judged counts, too
	for port := range uint16(3) {
		if !s.Judge(now, Up, up(port, packet.SYN, 1, "")).Drop {
			t.Error("another flow to the address passes")
		}
	}
}

func TestWindowsBeginWithTheFirstPacket(t *testing.T) {
	s := newSet(mustParse(t, "a", "[[rule]]\nmatch.windows = [[\"1s\", \"2s\"]]\nact.drop = \"both\"\n"))
	for after, want := range []bool{false, true, false} {
		if got := s.Judge(start.Add(time.Duration(after)*time.Second), Up, up(1, packet.ACK, 1, "x")).Drop; got != want {
			t.Errorf("after %d s: dropped %v", after, got)
		}
	}
}

// "unknown" is any protocol other than those we know; except_app says the same
// of a rule's own list.
func TestApps(t *testing.T) {
	except := newSet(mustParse(t, "a", "[[rule]]\nreassemble = [\"tcp\"]\nmatch.except_app = [\"tls\", \"http\"]\nact.drop = \"both\"\n"))
	unknown := newSet(mustParse(t, "a", "[[rule]]\nreassemble = [\"tcp\"]\nmatch.app = [\"unknown\"]\nact.drop = \"both\"\n"))
	for i, tt := range []struct {
		first           string
		except, unknown bool
	}{
		{hello("x"), false, false}, {"GET / HTTP/1.1\r\n", false, false}, {"SSH-2.0-x\r\n", true, false},
		{"\x00\x01", true, true}, {"GETTING", true, true}, {"G", false, false}, {"\x16", false, false},
	} {
		port := uint16(1000 + i)
		if got := open(except, start, port, tt.first).Drop; got != tt.except {
			t.Errorf("except_app, %q: dropped %v", tt.first, got)
		}
		if got := open(unknown, start, port, tt.first).Drop; got != tt.unknown {
			t.Errorf("unknown, %q: dropped %v", tt.first, got)
		}
	}
}

// A flood of flows and of blocked addresses costs a bounded memory.
func TestBounds(t *testing.T) {
	s := newSet(mustParse(t, "a", "[[rule]]\nhold = { by = \"4-tuple\", for = \"1h\" }\nact.drop = \"up\"\n"+
		"[[rule]]\nmatch.direction = \"down\"\nmatch.rate = { connections = 1, within = \"1h\", by = [\"client\"] }\nact.drop = \"down\"\n"+
		"[[rule]]\nmatch.direction = \"down\"\nact.police = { kbit = 1, burst = 1500, by = \"client\" }\n"))
	for i := range maxFlows + 5000 {
		src := netip.AddrFrom4([4]byte{203, 0, byte(i >> 8), byte(i)})
		d := packet.Datagram{Header: packet.Header{Src: netip.AddrPortFrom(src, 1000), Dst: netip.AddrPortFrom(relay, 443)}, Payload: []byte("x")}
		s.Judge(start, Up, d.Build())
		d.Src, d.Dst = d.Dst, d.Src
		s.Judge(start, Down, d.Build())
	}
	if len(s.flows) != maxFlows || len(s.rules[0].holds) != maxHolds || len(s.rules[1].rates) > maxKeys || len(s.rules[2].buckets) > maxKeys {
		t.Errorf("%d flows, %d holds, %d rates, %d buckets", len(s.flows), len(s.rules[0].holds), len(s.rules[1].rates), len(s.rules[2].buckets))
	}
	s.Judge(start.Add(2*time.Hour), Up, up(1, packet.SYN, 1, ""))
	if len(s.flows) != 1 || len(s.rules[0].holds) != 1 {
		t.Errorf("%d flows, %d holds are left", len(s.flows), len(s.rules[0].holds))
	}
}

// Rules change and are counted while packets are judged.
func TestConcurrent(t *testing.T) {
	a, b := mustParse(t, "a", block), mustParse(t, "b", block)
	s := newSet(a)
	var wg sync.WaitGroup
	for g := range 4 {
		wg.Go(func() {
			for i := range 500 {
				port := uint16(1000*g + i)
				open(s, start, port, hello("x"))
				s.Judge(start, Down, down(port))
			}
		})
	}
	wg.Go(func() {
		for range 100 {
			s.Replace(b)
			s.Counts()
			s.Replace(a)
		}
	})
	wg.Wait()
	if !open(s, start, 9999, hello("listed")).Drop {
		t.Error("the rule is gone")
	}
}

// What a censor cannot read passes, and is not touched.
func TestUnreadable(t *testing.T) {
	s := newSet(mustParse(t, "a", "[[rule]]\nact.drop = \"both\"\n"))
	for _, b := range [][]byte{nil, {0x45}, []byte("no packet at all, and long enough for one")} {
		if v := s.Judge(start, Up, b); v.Drop || v.Inject != nil {
			t.Errorf("%q: %+v", b, v)
		}
	}
	part := up(1, packet.ACK, 1, "x")
	part[6] = 0x20
	if !s.Judge(start, Up, part).Drop {
		t.Error("a fragment passes a rule for all packets")
	}
}

func TestBursts(t *testing.T) {
	m := models[2]
	for _, tt := range []struct {
		sizes [4]int
		want  bool
	}{
		{[4]int{1850, 4903, 785, 1051}, true},
		{[4]int{1850 + 3*386 - 1, 4903, 785, 1051}, true},
		{[4]int{1850 + 3*386, 4903, 785, 1051}, false}, // less than the bound, not at it
		{[4]int{1850, 4903 + 3*1331, 785, 1051}, false},
	} {
		if got := m.distance(tt.sizes) < m.bound; got != tt.want {
			t.Errorf("%v: distance %.4f", tt.sizes, m.distance(tt.sizes))
		}
	}
	send := func(b *Bursts, d Direction, n int) {
		payload := make([]byte, n)
		payload[0] = 0x17
		b.Add(d, &packet.Packet{Payload: payload})
	}
	started := func() *Bursts {
		b := new(Bursts)
		b.Add(Up, &packet.Packet{Payload: []byte{recordChangeCipher, 3, 3}})
		return b
	}
	// A handshake that begins with the third burst is found, too.
	b := started()
	for i, n := range []int{700, 300, 213, 0, 0, 0} {
		if n > 0 {
			send(b, Direction(i%2), n+recordOverhead)
		}
	}
	for i, n := range []int{4515, 108, 308, 50} {
		send(b, Direction((i+1)%2), n+recordOverhead)
	}
	if !b.found {
		t.Errorf("%+v", b)
	}
	// A packet shorter than a record ends the search, and so do many.
	for _, n := range []int{recordOverhead - 1, recordOverhead} {
		b = started()
		send(b, Up, n)
		if b.done != (n < recordOverhead) {
			t.Errorf("%d bytes: %+v", n, b)
		}
	}
	b = started()
	for i := range maxBurstPackets + 1 {
		if b.done {
			t.Fatalf("ended after %d packets", i)
		}
		send(b, Up, 100)
	}
	if !b.done || b.found {
		t.Errorf("%+v", b)
	}
}

// Whatever passes, verdicts are well-formed and memory is bounded.
func FuzzJudge(f *testing.F) {
	f.Add(up(1000, packet.SYN, 99, ""), []byte(hello("listed")), uint8(0), uint16(40))
	f.Add(up(1000, packet.ACK, 99, "GET / HTTP/1.1\r\nHost: listed\r\n\r\n"), []byte("x"), uint8(1), uint16(0))
	rules := mustParse(f, "a", `
[[rule]]
reassemble = ["tcp", "tls", "quic"]
match.except_sni = ["x"]
match.except_app = ["ssh"]
match.rate = { connections = 1, within = "9s", by = ["sni", "ja4", "client", "prefix"] }
act.reset = { count = 2 }
[[rule]]
match.host = ["*"]
act.page = { status = "302 Found", location = "http://x/" }
[[rule]]
match.dns = ["*"]
act.answer = { addresses = ["192.0.2.1", "2001:db8::1"] }
[[rule]]
match.app = ["fully-encrypted", "tls-in-tls"]
act.police = { kbit = 9, burst = 1500 }
[[rule]]
match.ports = [443]
act.divert = ["192.0.2.99:0", "[2001:db8::99]:1"]
`)
	f.Fuzz(func(t *testing.T, raw, payload []byte, way uint8, cut uint16) {
		s := newSet(rules)
		from, to := netip.AddrPortFrom(client, 5000), netip.AddrPortFrom(relay, []uint16{53, 80, 443}[way%3])
		payload = payload[:min(len(payload), 1400)]
		at := min(int(cut), len(payload))
		segment := packet.Segment{Header: packet.Header{Src: from, Dst: to}, Flags: packet.SYN}
		datagram := packet.Datagram{Header: packet.Header{Src: from, Dst: to}, Payload: payload}
		first, second := segment, segment
		first.Flags, first.Seq, first.Payload = packet.ACK, 1, payload[:at]
		second.Flags, second.Seq, second.Payload = packet.ACK, 1+uint32(at), payload[at:]
		for i, b := range [][]byte{raw, segment.Build(), second.Build(), first.Build(), datagram.Build(), raw} {
			size := len(b)
			before, _ := packet.Parse(b)
			v := s.Judge(start.Add(time.Duration(i)*time.Second), Direction(way>>7), b)
			after, err := packet.Parse(b)
			if len(b) != size || err != nil && before.Bytes != nil || after.Protocol != before.Protocol || !bytes.Equal(after.Payload, before.Payload) {
				t.Fatalf("%+v became %+v, %v", before, after, err)
			}
			for _, inject := range v.Inject {
				p, err := packet.Parse(inject.Packet)
				if err != nil || !p.ChecksumsValid() || inject.Toward > Down || inject.After != 0 {
					t.Fatalf("injected %+v, %v", p, err)
				}
			}
		}
		if len(s.flows) > 4 || len(s.diverted) > len(s.flows) {
			t.Fatalf("%d flows, %d diverted", len(s.flows), len(s.diverted))
		}
	})
}

// What is accepted can be at work; what is not names file, key, reason, hint.
func FuzzParse(f *testing.F) {
	f.Add(head + block)
	f.Add(head + "[[rule]]\nmatch.windows = [[\"0s\", \"1s\"]]\nmatch.period = \"2s\"\nact.drop = \"both\"\nact.loss = 0.5\n")
	f.Fuzz(func(t *testing.T, text string) {
		file, err := Parse("x.toml", []byte(text))
		if err != nil {
			if e, ok := errors.AsType[*Error](err); !ok || e.File != "x.toml" || e.Key == "" || e.Reason == "" || e.Hint == "" {
				t.Fatalf("%#v", err)
			}
			return
		}
		s := newSet(file)
		for i := range 3 {
			open(s, start.Add(time.Duration(i)*time.Second), 1000, hello("listed"))
			s.Judge(start, Down, down(1000))
		}
		for _, c := range s.Counts() {
			if c.File != "x.toml" || c.Rule == "" || c.Dropped > c.Packets || c.Flows > c.Packets {
				t.Fatalf("%+v", c)
			}
		}
	})
}
