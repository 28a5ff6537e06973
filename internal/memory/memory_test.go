package memory

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"reflect"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"busel/internal/network"
	"busel/internal/state"
)

var salt = []byte("salt of an installation")

// disk is a directory in memory.
type disk struct {
	mu      sync.Mutex
	data    []byte
	writes  []time.Time
	failing error
}

func (d *disk) ReadSecret(name string) ([]byte, error) {
	if name != File || d.data == nil {
		return nil, fs.ErrNotExist
	}
	return d.data, nil
}

func (d *disk) Write(name string, data []byte) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.writes = append(d.writes, time.Now())
	if d.failing != nil || name != File {
		return d.failing
	}
	d.data = data
	return nil
}

func open(d Dir) *Memory { return Open(Config{Dir: d, Salt: salt}) }

// full sets every field.
func full(now time.Time) Entry {
	return Entry{
		Successes: 7, Failures: 2,
		Failure: "closed-early", Took: 310 * time.Millisecond, RTT: 48 * time.Millisecond, Goodput: 1e6,
		RestUntil: now.Add(time.Hour), Rests: 3, CarrierBytes: 16 << 10, CarrierSeen: now.Add(-time.Hour),
	}
}

func put(m *Memory, on network.ID, route string, e Entry) {
	m.Update(on, route, func(known *Entry) { *known = e })
}

const home, cafe network.ID = "abcdefghijklmnop", "qrstuvwxyz234567"

// TestKeeps writes all fields to a real directory and reads them again.
func TestKeeps(t *testing.T) {
	dir, err := state.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	m := open(dir)
	e := full(time.UnixMilli(time.Now().UnixMilli()))
	for i := range reflect.TypeFor[Entry]().NumField() {
		if reflect.ValueOf(e).Field(i).IsZero() {
			t.Fatalf("field %d is not set", i)
		}
	}
	const route = "r1 mirror 198.51.100.7:443 fragment=both"
	put(m, home, route, e)
	if err := m.Save(); err != nil {
		t.Fatal(err)
	}
	again := open(dir)
	if got := again.Get(home, route); got != e {
		t.Errorf("it came back as %+v, want %+v", got, e)
	}
	for _, other := range []Entry{again.Get(cafe, route), again.Get(home, route+" "), again.Get(network.Offline, route)} {
		if other != (Entry{}) {
			t.Errorf("something is known of another: %+v", other)
		}
	}
	if got := Open(Config{Dir: dir, Salt: []byte("another salt of 16")}).Get(home, route); got != (Entry{}) {
		t.Errorf("without the salt it is %+v", got)
	}
	data, err := dir.ReadSecret(File)
	if err != nil {
		t.Fatal(err)
	}
	for _, secret := range []string{"198.51", "mirror", "fragment", ":443", "r1 "} {
		if bytes.Contains(data, []byte(secret)) {
			t.Errorf("the file has %q", secret)
		}
	}
}

// TestDamage cuts a file at every byte, and changes every byte.
func TestDamage(t *testing.T) {
	d := new(disk)
	m := open(d)
	put(m, home, "a", full(time.Now()))
	put(m, cafe, "b", full(time.Now()))
	if err := m.Save(); err != nil {
		t.Fatal(err)
	}
	good := d.data
	empty := func(what string, data []byte) {
		t.Helper()
		d := &disk{data: data}
		m := open(d)
		if len(m.networks) != 0 {
			t.Errorf("%s: %d networks", what, len(m.networks))
		}
		put(m, home, "a", Entry{Successes: 1})
		if err := m.Save(); err != nil {
			t.Errorf("%s: %v", what, err)
		}
		if open(d).Get(home, "a").Successes != 1 {
			t.Errorf("%s: nothing is remembered after it", what)
		}
	}
	for i := range good {
		empty(fmt.Sprintf("cut at %d", i), good[:i])
		bad := bytes.Clone(good)
		bad[i] ^= 1
		empty(fmt.Sprintf("changed at %d", i), bad)
	}
	empty("longer", append(bytes.Clone(good), '\n'))
	empty("of the future", bytes.Replace(good, []byte("memory 1 "), []byte("memory 2 "), 1))
	empty("no JSON", sealed("not JSON"))
	empty("behind the end", sealed(`{"networks":[]} {}`))
	empty("another form", sealed(`{"networks":{"a":1}}`))
}

// sealed is a file of that body.
func sealed(body string) []byte {
	return fmt.Appendf(nil, "%s%x\n%s", header, sha256.Sum256([]byte(body)), body)
}

// TestAbsurd has a file whose check is right and whose contents are not, and a
// clock that was set.
func TestAbsurd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		now := time.Now()
		key := open(new(disk)).key(home, "a")
		route := func(fields string) Entry {
			t.Helper()
			return open(&disk{data: sealed(fmt.Sprintf(`{"networks":[{"id":%q,"routes":[{"route":%q,"ok":5,%s}]}]}`, home, key, fields))}).Get(home, "a")
		}
		for _, tt := range []struct {
			fields string
			want   Entry
		}{
			{`"bad":-1`, Entry{}},
			{`"bad":9007199254740993`, Entry{Failures: maxCount}},
			{`"budgetAt":9223372036854775807,"rest":-9223372036854775808`, Entry{}},
			{fmt.Sprintf(`"rest":%d`, now.Add(time.Hour).UnixMilli()), Entry{RestUntil: now.Add(time.Hour)}},
			{fmt.Sprintf(`"rest":%d`, now.Add(24*365*time.Hour).UnixMilli()), Entry{}},
			{fmt.Sprintf(`"rest":%d`, now.Add(-24*365*time.Hour).UnixMilli()), Entry{RestUntil: now.Add(-24 * 365 * time.Hour)}},
			{`"took":9223372036854775807,"rtt":-1`, Entry{Took: maxDuration}},
			{`"rate":-1`, Entry{}},
			{`"rate":1e300`, Entry{}},
			{`"rests":1000,"budget":18446744073709551615`, Entry{Rests: maxRests, CarrierBytes: maxBytes}},
			{fmt.Sprintf(`"budget":9,"budgetAt":%d`, now.Add(24*365*time.Hour).UnixMilli()), Entry{CarrierBytes: 9, CarrierSeen: now}},
			{`"budget":9,"budgetAt":-1`, Entry{CarrierBytes: 9}},
			{`"why":"reset\u001b[31m"`, Entry{}},
			{`"why":"` + strings.Repeat("a", maxName+1) + `"`, Entry{}},
		} {
			tt.want.Successes = 5
			if got := route(tt.fields); !same(got, tt.want) {
				t.Errorf("%s: got %+v, want %+v", tt.fields, got, tt.want)
			}
		}
		// A caller's numbers are mended, too: the file could not hold them.
		m := open(new(disk))
		put(m, home, "a", Entry{Goodput: math.NaN(), RTT: -1, RestUntil: now.Add(100 * time.Hour)})
		if got := m.Get(home, "a"); got != (Entry{}) {
			t.Errorf("an update left %+v", got)
		}
		for _, bad := range []string{`""`, `"a b"`, `"` + strings.Repeat("a", 99) + `"`} {
			m := open(&disk{data: sealed(fmt.Sprintf(`{"networks":[{"id":%s,"routes":[{"route":%q}]}]}`, bad, key))})
			if len(m.networks) != 0 {
				t.Errorf("network %s was taken", bad)
			}
			m = open(&disk{data: sealed(fmt.Sprintf(`{"networks":[{"id":%q,"routes":[{"route":%s}]}]}`, home, bad))})
			if len(m.networks) != 0 {
				t.Errorf("route %s was taken", bad)
			}
		}
	})
}

// same compares entries whose times may lack the monotonic clock.
func same(a, b Entry) bool {
	ok := a.RestUntil.Equal(b.RestUntil) && a.CarrierSeen.Equal(b.CarrierSeen)
	for _, e := range []*Entry{&a, &b} {
		e.RestUntil, e.CarrierSeen = time.Time{}, time.Time{}
	}
	return ok && a == b
}

// TestBounds fills it beyond its bounds, with the largest entries.
func TestBounds(t *testing.T) {
	d := new(disk)
	m := open(d)
	now := time.Now()
	large := Entry{
		Successes: maxCount, Failures: maxCount, Failure: strings.Repeat("a", maxName),
		Took: maxDuration, RTT: maxDuration, Goodput: maxGoodput, RestUntil: now, Rests: maxRests, CarrierBytes: maxBytes, CarrierSeen: now,
	}
	id := func(i int) network.ID { return network.ID(fmt.Sprintf("network-%08d", i)) }
	for i := range maxNetworks + 1 {
		for j := range maxRoutes {
			put(m, id(i), fmt.Sprint(j), large)
		}
		m.Update(id(0), "0", func(*Entry) {}) // used all the time
	}
	put(m, id(maxNetworks), "one more", large)
	check := func(m *Memory) {
		t.Helper()
		if len(m.networks) != maxNetworks {
			t.Errorf("%d networks, want %d", len(m.networks), maxNetworks)
		}
		for name, known := range map[string]bool{
			fmt.Sprint(id(0), " 0"): true, fmt.Sprint(id(1), " 0"): false, fmt.Sprint(id(2), " 0"): true,
			fmt.Sprint(id(maxNetworks), " one more"): true, fmt.Sprint(id(maxNetworks), " 0"): false, fmt.Sprint(id(maxNetworks), " 1"): true,
		} {
			on, route, _ := strings.Cut(name, " ")
			if got := m.Get(network.ID(on), route); (got != Entry{}) != known {
				t.Errorf("%s: known is %v, want %v", name, !known, known)
			}
		}
	}
	check(m)
	if err := m.Save(); err != nil {
		t.Fatal(err)
	}
	if len(d.data) > state.MaxFile {
		t.Errorf("the file has %d bytes, more than %d", len(d.data), state.MaxFile)
	}
	check(open(d))
	m.Update("", "a", func(*Entry) { t.Error("a network without a name was used") })
}

// TestRun counts writings under a fake clock.
func TestRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := new(disk)
		m := open(d)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- m.Run(ctx) }()
		touch := func() { m.Update(home, "a", func(e *Entry) { e.Successes++ }) }
		wrote := func(want int) {
			t.Helper()
			synctest.Wait()
			d.mu.Lock()
			defer d.mu.Unlock()
			if len(d.writes) != want {
				t.Errorf("written %d times, want %d", len(d.writes), want)
			}
		}
		time.Sleep(time.Hour)
		wrote(0)
		touch()
		wrote(1)
		for range 100 {
			time.Sleep(time.Second)
			touch()
		}
		wrote(1 + 3)
		d.mu.Lock()
		for i, at := range d.writes[1:] {
			if at.Sub(d.writes[i]) < savePeriod {
				t.Errorf("two writings within %v", at.Sub(d.writes[i]))
			}
		}
		d.mu.Unlock()
		time.Sleep(savePeriod)
		wrote(5)
		time.Sleep(time.Hour)
		wrote(5)
		d.failing = errors.New("no space")
		touch()
		wrote(6)
		time.Sleep(time.Second)
		d.failing = nil
		touch()
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
		wrote(7)
		if n := open(d).Get(home, "a").Successes; n != 103 {
			t.Errorf("%d updates came through, want 103", n)
		}
	})
}

// FuzzDecode reads any body, with a good check and without: what is taken is
// bounded, and is read again as it was written.
func FuzzDecode(f *testing.F) {
	d := new(disk)
	m := open(d)
	put(m, home, "a", full(time.Now()))
	f.Add(string(m.encode()), false)
	_, body, _ := strings.Cut(string(m.encode()), "\n")
	f.Add(body, true)
	f.Add(`{"networks":[{"id":"offline","routes":[{"route":"aaaaaaaaaaaaaaaa","rate":1e30,"ok":-1}]}]}`, true)
	f.Fuzz(func(t *testing.T, data string, seal bool) {
		d := &disk{data: []byte(data)}
		if seal {
			d.data = sealed(data)
		}
		m := open(d)
		if len(m.networks) > maxNetworks {
			t.Fatalf("%d networks", len(m.networks))
		}
		for id, n := range m.networks {
			if !validID(id) || len(n.routes) > maxRoutes {
				t.Fatalf("network %q has %d routes", id, len(n.routes))
			}
		}
		first := m.encode()
		if err := m.Save(); err != nil {
			t.Fatal(err)
		}
		if again := open(d).encode(); !bytes.Equal(first, again) {
			t.Fatalf("%q was read again as %q", first, again)
		}
	})
}
