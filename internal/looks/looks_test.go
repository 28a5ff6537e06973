package looks_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"io/fs"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"busel/internal/looks"
	"busel/obfs/look"
	"busel/transport/mirror"
)

// memory is a directory.
type memory struct {
	mu    sync.Mutex
	files map[string][]byte
}

func newMemory() *memory { return &memory{files: map[string][]byte{}} }

func (m *memory) Read(name string) ([]byte, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if b, ok := m.files[name]; ok {
		return b, nil
	}
	return nil, fs.ErrNotExist
}

func (m *memory) Write(name string, data []byte) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.files[name] = bytes.Clone(data)
	return nil
}

// captured are ClientHellos of a real browser: obfs/look's.
func captured(t testing.TB, file string) (msgs [][]byte) {
	t.Helper()
	text, err := os.ReadFile("../../obfs/look/testdata/" + file)
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

// newer makes a hello one of a version that was never shipped: an extension's body has
// another value, and two ciphers changed places.
func newer(t testing.TB, msg []byte) []byte {
	t.Helper()
	msg = bytes.Clone(msg)
	i := bytes.Index(msg, []byte{0xca, 0x34, 0, 0xba})
	j := bytes.Index(msg, []byte{0x13, 1, 0x13, 2})
	k := bytes.Index(msg, []byte{9, 4, 9, 5, 9, 6}) // and of signatures
	if i < 0 || j < 0 || k < 0 {
		t.Fatal("the hello is not Chromium's")
	}
	msg[i+1] = 0x35 // an extension of the same length, but another number
	copy(msg[j:], []byte{0x13, 2, 0x13, 1})
	copy(msg[k:], []byte{9, 5, 9, 4})
	return msg
}

// records cuts a message into records of n bytes.
func records(msg []byte, n int) (out []byte) {
	for part := range slices.Chunk(msg, n) {
		out = append(out, 22, 3, 1)
		out = binary.BigEndian.AppendUint16(out, uint16(len(part)))
		out = append(out, part...)
	}
	return out
}

func open(t testing.TB, dir looks.Dir, change func(*looks.Config)) *looks.Looks {
	t.Helper()
	cfg := looks.Config{Dir: dir, Use: looks.Auto, Try: mirror.TryLook}
	if change != nil {
		change(&cfg)
	}
	k, err := looks.Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// show lets an ear hear each message, in pieces of n bytes.
func show(k *looks.Looks, n int, msgs ...[]byte) {
	for _, msg := range msgs {
		e := k.Ear()
		if e == nil {
			return
		}
		for part := range slices.Chunk(msg, n) {
			if _, err := e.Write(part); err != nil {
				break
			}
		}
		e.Close()
		synctest.Wait()
	}
}

// bubble runs k's Run and f beside it.
func bubble(t *testing.T, f func(t *testing.T, start func(k *looks.Looks))) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		f(t, func(k *looks.Looks) { wg.Go(func() { k.Run(ctx) }) })
		cancel()
		wg.Wait()
	})
}

// TestFollows: the client follows the user's browser, whatever the pieces of its hellos:
// to another family, to a version that was never shipped, and back; and after a new
// start it looks as before.
func TestFollows(t *testing.T) {
	for _, n := range []int{1, 7, 1000, 1 << 20} {
		bubble(t, func(t *testing.T, start func(*looks.Looks)) {
			dir := newMemory()
			k := open(t, dir, nil)
			start(k)
			see := func(file string, change func(testing.TB, []byte) []byte) {
				for _, msg := range captured(t, file) {
					show(k, n, records(change(t, msg), max(n/2, 100)))
				}
				time.Sleep(2 * time.Minute) // of the bubble
			}
			same := func(_ testing.TB, msg []byte) []byte { return msg }
			if got := k.Worn().Name; got != "chromium-156" {
				t.Fatalf("begins as %s", got)
			}
			see("firefox-153.hellos", same)
			if got := k.Worn().Name; got != "firefox-153" {
				t.Fatalf("after Firefox: %s", got)
			}
			if got := open(t, dir, nil).Worn().Name; got != "firefox-153" {
				t.Errorf("after a new start: %s", got)
			}
			see("chromium-156.hellos", newer)
			h, err := look.ParseHello(newer(t, captured(t, "chromium-156.hellos")[0]))
			if err != nil {
				t.Fatal(err)
			}
			worn := k.Worn()
			if got := worn.TLS.JA4(worn.TLS.Extensions); worn.Name != "chromium-learned" || got != h.JA4() {
				t.Fatalf("after a new Chromium: %s, %s, want %s", worn.Name, got, h.JA4())
			}
			if got := open(t, dir, nil).Worn(); !got.Same(worn) || got.Name != worn.Name {
				t.Errorf("after a new start: %s", got.Name)
			}
			// A file of a former version lacks what looks have learned to say since.
			old := *worn
			old.Tickets, old.HTTP.Fetch = look.Tickets{}, nil
			file, err := old.Format()
			if err != nil {
				t.Fatal(err)
			}
			dir.Write(looks.File, file)
			if got := open(t, dir, nil).Worn(); !got.Same(worn) {
				t.Error("what is not learned comes from the file")
			}
			see("chromium-156.hellos", same)
			if got := k.Worn().Name; got != "chromium-156" {
				t.Errorf("after the old Chromium: %s", got)
			}
		})
	}
}

// TestNotLearned: what is odd is never worn.
func TestNotLearned(t *testing.T) {
	good := captured(t, "firefox-153.hellos")
	for name, tt := range map[string]struct {
		change func(*looks.Config)
		raw    func(msg []byte) []byte
	}{
		"the switch is off":      {func(c *looks.Config) { c.Deaf = true }, nil},
		"one look is wanted":     {func(c *looks.Config) { c.Use = "chromium-156" }, nil},
		"one family is wanted":   {func(c *looks.Config) { c.Use = "chromium" }, nil},
		"it cannot be spoken":    {func(c *looks.Config) { c.Try = func(*look.Look) error { return errors.New("no") } }, nil},
		"cut short":              {nil, func(msg []byte) []byte { return records(msg[:len(msg)-1], 4000) }},
		"behind another message": {nil, func(msg []byte) []byte { return records(append([]byte{2, 0, 0, 0}, msg...), 4000) }},
		"with more behind it":    {nil, func(msg []byte) []byte { return records(append(bytes.Clone(msg), 0), 4000) }},
		"no TLS":                 {nil, func(msg []byte) []byte { return msg }},
		"empty records":          {nil, func(msg []byte) []byte { return append([]byte{22, 3, 1, 0, 0}, records(msg, 4000)...) }},
		"larger than it is":      {nil, func(msg []byte) []byte { msg = bytes.Clone(msg); msg[1] = 1; return records(msg, 4000) }},
		"an alert in between":    {nil, func(msg []byte) []byte { return append([]byte{21, 3, 3, 0, 2, 1, 0}, records(msg, 4000)...) }},
	} {
		bubble(t, func(t *testing.T, start func(*looks.Looks)) {
			dir := newMemory()
			k := open(t, dir, tt.change)
			start(k)
			for range 3 {
				for _, msg := range good {
					raw := records(msg, 4000)
					if tt.raw != nil {
						raw = tt.raw(msg)
					}
					show(k, 1500, raw)
				}
			}
			if got := k.Worn().Name; got != "chromium-156" || len(dir.files) > 0 {
				t.Errorf("%s: worn is %s, files %q", name, got, slices.Collect(maps.Keys(dir.files)))
			}
		})
	}
}

// TestRefused: a learned look that a cover refuses gives way to its family's, if the cover
// takes that one, also after a new start, and is not learned again; others have to do.
func TestRefused(t *testing.T) {
	bubble(t, func(t *testing.T, start func(*looks.Looks)) {
		dir := newMemory()
		k := open(t, dir, nil)
		start(k)
		if other, _ := k.Refused(k.Worn()); other != nil {
			t.Errorf("instead of a look that was built in there is %s", other.Name)
		}
		see := func() {
			for _, msg := range captured(t, "chromium-156.hellos") {
				show(k, 1000, records(newer(t, msg), 4000))
			}
			time.Sleep(2 * time.Minute)
		}
		see()
		learned := k.Worn()
		if learned.Name != "chromium-learned" {
			t.Fatalf("worn is %s", learned.Name)
		}
		other, accepted := k.Refused(learned)
		if other == nil || other.Name != "chromium-156" {
			t.Fatalf("instead there is %v", other)
		}
		if k.Worn() != learned {
			t.Error("it was given up before another one was accepted")
		}
		accepted()
		see()
		if got := k.Worn().Name; got != "chromium-156" {
			t.Errorf("worn is %s", got)
		}
		if got := open(t, dir, nil).Worn().Name; got != "chromium-156" {
			t.Errorf("after a new start: %s", got)
		}
		accepted() // a second dial had met the same
		for _, msg := range captured(t, "firefox-153.hellos") {
			show(k, 1000, records(msg, 4000))
		}
		time.Sleep(2 * time.Minute)
		accepted()
		if got := k.Worn().Name; got != "firefox-153" {
			t.Errorf("after Firefox: %s", got)
		}
	})
}

// TestEars: so many listen and no more, and each is free again when it is closed.
func TestEars(t *testing.T) {
	k := open(t, newMemory(), nil)
	var n int
	for e := k.Ear(); e != nil && n < 10_000; e = k.Ear() {
		n++
		defer e.Close()
	}
	if n > 1000 || n < 64 {
		t.Fatalf("%d ears", n)
	}
	k = open(t, newMemory(), nil)
	for range 2 * n {
		e := k.Ear()
		if e == nil {
			t.Fatal("no ear is free")
		}
		e.Write([]byte{22, 3})
		e.Close()
		e.Close()
	}
}

// TestFiles: no file stops the client, and a bad one is not worn.
func TestFiles(t *testing.T) {
	for name, file := range map[string]string{
		"empty": "", "garbage": "\x00\x01", "JSON of something": `{"name": "x"}`,
	} {
		dir := newMemory()
		dir.Write(looks.File, []byte(file))
		dir.Write(looks.BundleFile, []byte(file))
		if got := open(t, dir, nil).Worn().Name; got != "chromium-156" {
			t.Errorf("%s: %s", name, got)
		}
	}
	if _, err := looks.Open(looks.Config{Dir: newMemory(), Use: "netscape", Try: mirror.TryLook}); err == nil {
		t.Error("a look that there is not is worn")
	}
	if got := open(t, newMemory(), func(c *looks.Config) { c.Use = "firefox" }).Worn().Name; got != "firefox-153" {
		t.Errorf("firefox is wanted, %s is worn", got)
	}
}

// TestBundle: a bundle adds and retires looks, from the next start on; an older one, and
// one of a stranger, is not taken.
func TestBundle(t *testing.T) {
	key := ed25519.NewKeyFromSeed(make([]byte, 32))
	trust := func(c *looks.Config) { c.Keys = []ed25519.PublicKey{key.Public().(ed25519.PublicKey)} }
	dir := newMemory()
	k := open(t, dir, trust)
	bundle := func(n uint64) []byte {
		l := *k.All()[0]
		l.Name = "chromium-160"
		file, err := (&look.Bundle{Sequence: n, Looks: []*look.Look{&l}, Retired: []string{"chromium-156"}}).Sign(key)
		if err != nil {
			t.Fatal(err)
		}
		return file
	}
	if _, err := open(t, dir, nil).Take(bundle(1)); !errors.Is(err, look.ErrSigner) {
		t.Errorf("a stranger's bundle: %v", err)
	}
	if _, err := k.Take(bundle(2)); err != nil {
		t.Fatal(err)
	}
	for _, n := range []uint64{1, 2} {
		if _, err := k.Take(bundle(n)); err == nil {
			t.Errorf("bundle %d was taken after 2", n)
		}
	}
	k = open(t, dir, trust)
	if got := k.Worn().Name; got != "chromium-160" || len(k.All()) != 2 {
		t.Errorf("worn is %s of %d", got, len(k.All()))
	}
	if got := open(t, dir, nil).Worn().Name; got != "chromium-156" {
		t.Errorf("without trust %s is worn", got)
	}
}

// FuzzHellos: whatever applications say, what is worn can be spoken.
func FuzzHellos(f *testing.F) {
	for _, file := range []string{"chromium-156.hellos", "firefox-153.hellos"} {
		for _, msg := range captured(f, file)[:4] {
			f.Add(records(msg, 4000))
		}
	}
	f.Add(records(newer(f, captured(f, "chromium-156.hellos")[0]), 700))
	f.Fuzz(func(t *testing.T, raw []byte) {
		bubble(t, func(t *testing.T, start func(*looks.Looks)) {
			k := open(t, newMemory(), func(c *looks.Config) { c.Use = "firefox" })
			start(k)
			for n := range 2 * look.Enough {
				// Other names, as long as the first: they count, too.
				other := bytes.ReplaceAll(raw, []byte("look.example"), []byte{'l', 'o', 'o', 'k', '.', 'e', 'x', 'a', 'm', 'p', 'l', 'a' + byte(n)})
				show(k, 1+len(raw)/3, other)
			}
			if err := mirror.TryLook(k.Worn()); err != nil {
				t.Fatal(err)
			}
		})
	})
}
