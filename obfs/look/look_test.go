package look

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"busel/obfs/vectors"
)

func shipped(t testing.TB, family string) *Look {
	t.Helper()
	all, err := Shipped()
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(all, func(l *Look) bool { return l.Family == family })
	if i < 0 {
		t.Fatalf("no look of %s", family)
	}
	return all[i]
}

// captured are ClientHellos of real browsers, taken on Debian 12 in November 2026: ten
// fresh ones and three resumed ones of each.
func captured(t testing.TB, file string) (msgs [][]byte) {
	t.Helper()
	text, err := os.ReadFile("testdata/" + file)
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range strings.Fields(string(text)) {
		b, err := base64.StdEncoding.DecodeString(line)
		if err != nil {
			t.Fatal(err)
		}
		msgs = append(msgs, b)
	}
	return msgs
}

func parsed(t testing.TB, file string) (hellos []*Hello) {
	t.Helper()
	for _, msg := range captured(t, file) {
		h, err := ParseHello(msg)
		if err != nil {
			t.Fatal(err)
		}
		hellos = append(hellos, h)
	}
	return hellos
}

var browsers = []struct{ family, file, fresh, resumed string }{
	{"chromium", "chromium-156.hellos", "t13d1517h2_8daaf6152771_cb7bf5808d99", "t13d1518h2_8daaf6152771_e2d80978ab2e"},
	{"firefox", "firefox-153.hellos", "t13d1617h2_86a278354501_3cbfd9057e0d", "t13d1617h2_86a278354501_e6dcd7ae0a9e"},
}

// TestShipped compares the built-in looks with hellos of the real browsers, and their
// JA4 with what other tools made of them (FINGERPRINTS, November 2026).
func TestShipped(t *testing.T) {
	for _, b := range browsers {
		l := shipped(t, b.family)
		hellos := parsed(t, b.file)
		for _, h := range hellos {
			want := b.fresh
			if h.Resumed {
				want = b.resumed
			}
			if got := h.JA4(); got != want {
				t.Errorf("%s: JA4 of the browser is %s, not %s", b.family, got, want)
			}
			if got := l.TLS.JA4(l.TLS.IDs(h.Resumed)); got != want {
				t.Errorf("%s: JA4 of the look is %s, not %s", b.family, got, want)
			}
		}
		got, err := Merge(hellos)
		if err != nil {
			t.Fatal(err)
		}
		got.ECH.Payloads = l.TLS.ECH.Payloads // ten draws may miss one
		got.ECH.AEADs = l.TLS.ECH.AEADs
		if !got.same(&l.TLS) {
			t.Errorf("%s: the hellos make %+v,\nthe look is %+v", b.family, got, l.TLS)
		}
	}
}

// TestFormat: files are read as they are written, and the built-in ones are as this
// version writes them.
func TestFormat(t *testing.T) {
	for _, b := range browsers {
		l := shipped(t, b.family)
		file, err := l.Format()
		if err != nil {
			t.Fatal(err)
		}
		onDisk, err := os.ReadFile("looks/" + l.Name + ".json")
		if err != nil || !bytes.Equal(file, onDisk) {
			t.Errorf("%s is not as it would be written: %v", l.Name, err)
		}
	}
}

// TestCheck changes a good look in one place each.
func TestCheck(t *testing.T) {
	for name, change := range map[string]func(*Look){
		"no name":         func(l *Look) { l.Name = "" },
		"name of a path":  func(l *Look) { l.Name = "../x" },
		"no x25519 share": func(l *Look) { l.TLS.Shares = Codes{GREASE, GroupHybrid} },
		"P-256 first":     func(l *Look) { l.TLS.Shares = Codes{GREASE, GroupHybrid, GroupP256, GroupX25519} },
		"unknown share": func(l *Look) {
			l.TLS.Groups = append(l.TLS.Groups, 0x0201)
			l.TLS.Shares = append(l.TLS.Shares, 0x0201)
		},
		"share of no group": func(l *Look) { l.TLS.Groups = Codes{GREASE, GroupX25519} },
		"TLS 1.2 only":      func(l *Look) { l.TLS.Versions = Codes{0x0303} },
		"TLS 1.1":           func(l *Look) { l.TLS.Versions = Codes{0x0304, 0x0302} },
		"CCM":               func(l *Look) { l.TLS.Ciphers = append(l.TLS.Ciphers, 0x1304) },
		"a cipher twice":    func(l *Look) { l.TLS.Ciphers = append(l.TLS.Ciphers, 0x1301) },
		"no AES-256":        func(l *Look) { l.TLS.Ciphers = Codes{0x1301, 0x1303, 0x002f} },
		"GREASE last":       func(l *Look) { l.TLS.Ciphers = append(l.TLS.Ciphers[1:], GREASE) },
		"HTTP/3":            func(l *Look) { l.TLS.ALPN = []string{"h3"} },
		"compression":       func(l *Look) { l.TLS.CertComp = Codes{4} },
		"early data":        func(l *Look) { l.TLS.Extensions = append(l.TLS.Extensions[:5:5], 42); l.TLS.Fixed[42] = nil },
		"cookie":            func(l *Look) { l.TLS.Extensions[5] = 44; l.TLS.Fixed[44] = []byte{0, 0} },
		"no name extension": func(l *Look) { l.TLS.Extensions = without(l.TLS.Extensions, Codes{ExtServerName}) },
		"an extension twice": func(l *Look) {
			l.TLS.Extensions = append(Codes{GREASE, ExtServerName}, l.TLS.Extensions[1:]...)
		},
		"no body":             func(l *Look) { delete(l.TLS.Fixed, 0xca34) },
		"body of nothing":     func(l *Look) { l.TLS.Fixed[0x1234] = []byte{1} },
		"a body that is long": func(l *Look) { l.TLS.Fixed[0xca34] = make([]byte, maxFixed+1) },
		"psk_ke":              func(l *Look) { l.TLS.Fixed[ExtPSKModes] = []byte{2, 1, 0} },
		"settings of h3":      func(l *Look) { l.TLS.Fixed[ExtALPS] = []byte{0, 3, 2, 'h', '3'} },
		"record size limit":   func(l *Look) { l.TLS.Extensions[5] = 28; l.TLS.Resumed[5] = 28; l.TLS.Fixed[28] = []byte{1, 0} },
		"no PSK":              func(l *Look) { l.TLS.Resumed = l.TLS.Extensions },
		"PSK in front":        func(l *Look) { l.TLS.Resumed = append(Codes{ExtPreSharedKey}, l.TLS.Extensions...) },
		"fresh PSK":           func(l *Look) { l.TLS.Extensions = append(l.TLS.Extensions, ExtPreSharedKey) },
		"GREASE in between":   func(l *Look) { l.TLS.Extensions[3] = GREASE },
		"ECH without payload": func(l *Look) { l.TLS.ECH = &ECH{KDF: 1, AEADs: Codes{1}} },
		"long ECH":            func(l *Look) { l.TLS.ECH = &ECH{KDF: 1, AEADs: Codes{1}, Payloads: []int{5000}} },
		"no ECH":              func(l *Look) { l.TLS.ECH = nil },
		"smuggled field":      func(l *Look) { l.HTTP.Navigate[0].Value = "a\r\nb: c" },
		"no fields":           func(l *Look) { l.HTTP.Navigate = nil },
		"no path":             func(l *Look) { l.HTTP.Pseudo = l.HTTP.Pseudo[:3] },
		"stream 2":            func(l *Look) { l.HTTP.First = 2 },
		"no window":           func(l *Look) { l.HTTP.ConnWindow = 0 },
		"upload":              func(l *Look) { l.Upload.Block = 5 },
		"keepalive":           func(l *Look) { l.KeepAlive = -1 },
	} {
		l := shipped(t, "chromium")
		change(l)
		if l.Check() == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

// TestParseRefuses: what is no look's file is refused with a reason.
func TestParseRefuses(t *testing.T) {
	good, err := shipped(t, "firefox").Format()
	if err != nil {
		t.Fatal(err)
	}
	for name, file := range map[string][]byte{
		"empty":          nil,
		"another key":    bytes.Replace(good, []byte(`"name"`), []byte(`"gnome"`), 1),
		"two looks":      append(slices.Clone(good), good...),
		"no code":        bytes.Replace(good, []byte("1301 "), []byte("13 "), 1),
		"hidden grease":  bytes.Replace(good, []byte("1301 "), []byte("0a0a "), 1),
		"no setting":     bytes.Replace(good, []byte(`"2:0"`), []byte(`"2"`), 1),
		"no header":      bytes.Replace(good, []byte(`"te: trailers"`), []byte(`"te"`), 1),
		"odd body":       bytes.Replace(good, []byte(`"4001"`), []byte(`"400"`), 1),
		"an odd number":  bytes.Replace(good, []byte(`"001c"`), []byte(`"1c"`), 1),
		"larger than is": append(slices.Clone(good), make([]byte, MaxFile)...),
	} {
		if l, err := Parse(file); err == nil {
			t.Errorf("%s: accepted as %s", name, l.Name)
		}
	}
}

// rebuild writes a hello anew with its extensions changed.
func rebuild(t testing.TB, msg []byte, change func(ids []uint16, bodies map[uint16][]byte) []uint16) []byte {
	t.Helper()
	c := vectors.Of(msg[4:])
	c.Take(2 + 32)
	c.Vector(1)
	c.Vector(2)
	c.Vector(1)
	head := len(msg) - len(c.B)
	exts := c.Vector(2)
	var ids []uint16
	bodies := map[uint16][]byte{}
	for exts.OK && len(exts.B) > 0 {
		id := uint16(exts.Uint(2))
		ids = append(ids, id)
		bodies[id] = slices.Clone(exts.Vector(2).B)
	}
	if !exts.OK {
		t.Fatal("no hello")
	}
	var b []byte
	for _, id := range change(ids, bodies) {
		b = binary.BigEndian.AppendUint16(b, id)
		b = binary.BigEndian.AppendUint16(b, uint16(len(bodies[id])))
		b = append(b, bodies[id]...)
	}
	out := binary.BigEndian.AppendUint16(slices.Clone(msg[:head]), uint16(len(b)))
	out = append(out, b...)
	out[1], out[2], out[3] = 0, byte((len(out)-4)>>8), byte(len(out)-4)
	return out
}

// newer is a hello of a version that was never shipped: two ciphers changed places, an
// extension is new and the list of trust anchors has grown.
func newer(t testing.TB, msg []byte) []byte {
	msg = rebuild(t, msg, func(ids []uint16, bodies map[uint16][]byte) []uint16 {
		bodies[0xca35] = []byte{7, 7, 7}
		bodies[0xca34] = append([]byte{0, 3, 2, 9, 9}, bodies[0xca34][2:]...)
		binary.BigEndian.PutUint16(bodies[0xca34], uint16(len(bodies[0xca34])-2))
		return slices.Insert(ids, 3, 0xca35)
	})
	i := bytes.Index(msg, []byte{0x13, 1, 0x13, 2})
	copy(msg[i:], []byte{0x13, 2, 0x13, 1})
	return msg
}

func learn(t testing.TB, l *Learner, msgs [][]byte) (out []*Look) {
	t.Helper()
	for _, msg := range msgs {
		h, err := ParseHello(msg)
		if err != nil {
			t.Fatal(err)
		}
		if x := l.Add(h); x != nil {
			out = append(out, x)
		}
	}
	return out
}

func bases(t testing.TB) []*Look {
	t.Helper()
	all, err := Shipped()
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// TestLearnKnown: a browser whose look is built in gives just that.
func TestLearnKnown(t *testing.T) {
	for _, b := range browsers {
		all := bases(t)
		got := learn(t, NewLearner(all), captured(t, b.file))
		if len(got) != 1 || got[0].Family != b.family || !slices.Contains(all, got[0]) {
			t.Errorf("%s: learned %d looks", b.family, len(got))
		}
	}
}

// TestLearnNewer: a version that was never shipped is learned in all that differs,
// and nothing of the visit is in what is kept.
func TestLearnNewer(t *testing.T) {
	var msgs [][]byte
	for _, msg := range captured(t, "chromium-156.hellos") {
		msgs = append(msgs, newer(t, msg))
	}
	got := learn(t, NewLearner(bases(t)), msgs)
	if len(got) != 1 {
		t.Fatalf("learned %d looks", len(got))
	}
	l := got[0]
	if err := l.Check(); err != nil {
		t.Fatal(err)
	}
	for _, msg := range msgs {
		h, err := ParseHello(msg)
		if err != nil {
			t.Fatal(err)
		}
		if want := l.TLS.JA4(l.TLS.IDs(h.Resumed)); h.JA4() != want {
			t.Errorf("JA4 of the browser is %s, of the look %s", h.JA4(), want)
		}
	}
	if l.Name != "chromium-learned" || !bytes.Equal(l.TLS.Fixed[0xca35], []byte{7, 7, 7}) || l.TLS.Ciphers[1] != 0x1302 || !l.TLS.Permute ||
		!slices.Equal(l.TLS.ECH.Payloads, []int{144, 176, 208, 240}) || l.TLS.Resumed[len(l.TLS.Resumed)-1] != ExtPreSharedKey {
		t.Errorf("learned %+v", l.TLS)
	}
	file, err := l.Format()
	if err != nil {
		t.Fatal(err)
	}
	for _, msg := range msgs {
		for _, secret := range [][]byte{msg[6:38], msg[39:71]} { // random and session id
			if bytes.Contains(file, fmt.Appendf(nil, "%x", secret)) {
				t.Error("a random or a session id is kept")
			}
		}
	}
	if bytes.Contains(file, []byte("look.example")) || bytes.Contains(file, fmt.Appendf(nil, "%x", "look.example")) {
		t.Error("the server's name is kept")
	}
	again, err := Parse(file)
	if err != nil || !again.TLS.same(&l.TLS) {
		t.Errorf("what was learned is not read again: %v", err)
	}
}

// TestLearnRefuses: what is odd is never learned, however often it comes.
func TestLearnRefuses(t *testing.T) {
	plain := func(change func(n int, msg []byte) []byte) [][]byte {
		var msgs [][]byte
		for range 4 {
			for _, msg := range captured(t, "chromium-156.hellos") {
				msgs = append(msgs, change(len(msgs), slices.Clone(msg)))
			}
		}
		return msgs
	}
	with := func(change func(n int, ids []uint16, bodies map[uint16][]byte) []uint16) func(int, []byte) []byte {
		return func(n int, msg []byte) []byte {
			return rebuild(t, msg, func(ids []uint16, bodies map[uint16][]byte) []uint16 { return change(n, ids, bodies) })
		}
	}
	for name, msgs := range map[string][][]byte{
		"a body that differs each time": plain(with(func(n int, ids []uint16, bodies map[uint16][]byte) []uint16 {
			bodies[0xca35] = []byte{byte(n)}
			return slices.Insert(ids, 3, 0xca35)
		})),
		"early data": plain(with(func(_ int, ids []uint16, bodies map[uint16][]byte) []uint16 {
			bodies[42] = nil
			return slices.Insert(ids, 3, 42)
		})),
		"psk_ke": plain(with(func(_ int, ids []uint16, bodies map[uint16][]byte) []uint16 {
			bodies[ExtPSKModes] = []byte{1, 0}
			return ids
		})),
		"a web socket": plain(with(func(_ int, ids []uint16, bodies map[uint16][]byte) []uint16 {
			bodies[ExtALPN] = []byte("\x00\x09\x08http/1.1")
			return ids
		})),
		"always the same order": plain(with(func(_ int, ids []uint16, _ map[uint16][]byte) []uint16 {
			end := len(ids) - 1
			if ids[end] == ExtPreSharedKey {
				end--
			}
			slices.Sort(ids[1:end])
			return ids
		})),
		"one name": plain(with(func(_ int, ids []uint16, bodies map[uint16][]byte) []uint16 {
			bodies[ExtServerName] = []byte("\x00\x0c\x00\x00\x09a.example")
			return ids
		})),
		"half of the extensions": plain(with(func(_ int, ids []uint16, _ map[uint16][]byte) []uint16 {
			return slices.DeleteFunc(ids, func(id uint16) bool {
				return id == 0x0005 || id == 0x0012 || id == 0x0017 || id == 0x0023 || id == 0xff01 || id == 0x001b
			})
		})),
		"few": captured(t, "chromium-156.hellos")[:Enough-2],
	} {
		if got := learn(t, NewLearner(bases(t)), msgs); len(got) > 0 {
			t.Errorf("%s: learned %+v", name, got[0].TLS)
		}
	}
}

// TestLearnerBounded: forms that never become looks take bounded memory.
func TestLearnerBounded(t *testing.T) {
	l := NewLearner(bases(t))
	msg := captured(t, "chromium-156.hellos")[0]
	for n := range 200 {
		learn(t, l, [][]byte{rebuild(t, msg, func(ids []uint16, bodies map[uint16][]byte) []uint16 {
			bodies[0xca35] = []byte{byte(n)}
			return slices.Insert(ids, 3, 0xca35)
		})})
	}
	if len(l.forms) > maxForms {
		t.Errorf("%d forms are kept", len(l.forms))
	}
}

// FuzzParseHello: whatever parses is bounded, and what is learned from it, shown as
// often as one likes, passes the check and is read again as it was written.
func FuzzParseHello(f *testing.F) {
	for _, b := range browsers {
		for _, msg := range captured(f, b.file) {
			f.Add(msg)
		}
	}
	f.Add(newer(f, captured(f, "chromium-156.hellos")[0]))
	all := bases(f)
	f.Fuzz(func(t *testing.T, msg []byte) {
		h, err := ParseHello(msg)
		if err != nil {
			return
		}
		if len(h.TLS.Extensions) > maxCodes || len(h.TLS.Ciphers) > maxCodes || len(h.Name) > 255 || len(h.TLS.Fixed) > maxCodes {
			t.Fatal("it is not bounded")
		}
		h.JA4()
		l := NewLearner(all)
		for n := range 2 * Enough {
			next := *h
			next.Name = fmt.Sprint(n)
			x := l.Add(&next)
			if x == nil {
				continue
			}
			if err := x.Check(); err != nil {
				t.Fatal(err)
			}
			file, err := x.Format()
			if err != nil {
				t.Fatal(err)
			}
			again, err := Parse(file)
			if err != nil || !again.TLS.same(&x.TLS) {
				t.Fatalf("it is not read as it was written: %v", err)
			}
		}
	})
}

// FuzzParse: what is accepted renders to a file of the same meaning.
func FuzzParse(f *testing.F) {
	for _, b := range browsers {
		file, err := shipped(f, b.family).Format()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(file)
	}
	f.Fuzz(func(t *testing.T, file []byte) {
		l, err := Parse(file)
		if err != nil {
			return
		}
		one, err := l.Format()
		if err != nil {
			t.Fatal(err)
		}
		again, err := Parse(one)
		if err != nil {
			t.Fatal(err)
		}
		two, err := again.Format()
		if err != nil || !bytes.Equal(one, two) {
			t.Fatalf("%s\nbecomes %s: %v", one, two, err)
		}
	})
}
