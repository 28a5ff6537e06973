package main

import (
	"reflect"
	"regexp"
	"strings"
	"testing"

	"busel/config"
	m "busel/internal/metrics"
	"busel/internal/relay"
	"busel/transport/mirror"
	"busel/transport/quic"
)

func TestWhyIdle(t *testing.T) {
	open := []mirror.Stats{{Open: true}}
	never := relay.Stats{LastHello: -1}
	for _, c := range []struct {
		s    status
		void bool // no invite can be used
		want idle
	}{
		{s: status{Relay: relay.Stats{Streams: 1, Carriers: 1}, Listeners: open}, want: busy},
		{s: status{Relay: relay.Stats{Flows: 1}}, want: busy},
		{s: status{Relay: relay.Stats{Carriers: 1}, Listeners: []mirror.Stats{{}}}, want: idleCoverDown},
		{s: status{Relay: relay.Stats{Carriers: 1}, Listeners: []mirror.Stats{{}, {Open: true}}}, want: idleQuiet},
		{s: status{Relay: never, Listeners: open}, void: true, want: idleNoInvites},
		{s: status{Relay: relay.Stats{LastHello: 90, Hellos: 3}, Listeners: open}, want: idleLeft},
		{s: status{Relay: relay.Stats{LastHello: -1, Hellos: 2, Refused: 2}, Listeners: open}, want: idleRefused},
		{s: status{Relay: never, Listeners: []mirror.Stats{{Open: true, Strangers: 1}}}, want: idleUnused},
		{s: status{Relay: never, Listeners: open, QUIC: []quic.Stats{{Strange: 1}}}, want: idleUnused},
		{s: status{Relay: never, QUIC: []quic.Stats{{}}}, want: idleUnreached},
		{s: status{Relay: never, Listeners: open}, want: idleUnreached},
	} {
		got := c.s.why(!c.void)
		if got != c.want {
			t.Errorf("%+v: %q, want %q", c.s, got, c.want)
		}
		c.s.Idle = got
		if text := c.s.idleText(); (text == "") != (got == busy) {
			t.Errorf("%q is told as %q", got, text)
		}
	}
}

// Every field of the settings either changes with a reload or is said to wait.
func TestWaits(t *testing.T) {
	fields := reflect.TypeFor[config.Relay]()
	for i := range fields.NumField() {
		var a, b config.Relay
		f := reflect.ValueOf(&b).Elem().Field(i)
		change(t, f)
		name := fields.Field(i).Name
		got := waits(&a, &b)
		if live(name) != (len(got) == 0) {
			t.Errorf("%s waits: %v", name, got)
		}
		if again := waits(&b, &b); again != nil {
			t.Errorf("%v without a change", again)
		}
	}
}

// change gives a value another one.
func change(t *testing.T, v reflect.Value) {
	t.Helper()
	switch v.Kind() {
	case reflect.String:
		v.SetString("x")
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Int, reflect.Int64:
		v.SetInt(7)
	case reflect.Uint16, reflect.Uint32, reflect.Uint64:
		v.SetUint(7)
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 1, 1))
	case reflect.Struct:
		for i := range v.NumField() {
			if v.Field(i).CanSet() {
				change(t, v.Field(i))
				return
			}
		}
	default:
		t.Fatalf("a setting of kind %v", v.Kind())
	}
}

// The metrics follow the conventions of Prometheus, and all of them are numbers of
// the relay: nothing of a client is a label.
func TestMetrics(t *testing.T) {
	s := status{
		Address: "198.51.100.7:443", CoverName: "news.example.org",
		Listeners: []mirror.Stats{{Open: true, CovertIn: 5}, {CovertIn: 6}}, QUIC: []quic.Stats{{Strange: 2}},
		Relay: relay.Stats{Sessions: 3, BytesDown: 1 << 40}, Draining: &elderStatus{Sessions: 2},
	}
	text := string(m.Append(nil, s.metrics()))
	name := `busel_relay_[a-z][a-z0-9_]*`
	line := regexp.MustCompile(`^(` + name + `)(\{(version|direction)="[^"\\]*"\})? (-?[0-9]+(?:\.[0-9]+)?)$`)
	about := regexp.MustCompile(`^# (HELP|TYPE) (` + name + `) (.+)$`)
	kinds, seen := map[string]string{}, map[string]bool{}
	var last string
	for l := range strings.SplitSeq(strings.TrimSuffix(text, "\n"), "\n") {
		if a := about.FindStringSubmatch(l); a != nil {
			if a[1] == "TYPE" {
				kinds[a[2]] = a[3]
			} else if !strings.HasSuffix(a[3], ".") {
				t.Errorf("%q is no sentence", l)
			}
			last = a[2]
			continue
		}
		v := line.FindStringSubmatch(l)
		if v == nil {
			t.Errorf("%q is no metric", l)
			continue
		}
		if v[1] != last || seen[v[1]+v[2]] {
			t.Errorf("%q is not behind its type, or twice there", l)
		}
		seen[v[1]+v[2]] = true
		if want := map[bool]string{true: "counter", false: "gauge"}[strings.HasSuffix(v[1], "_total")]; kinds[v[1]] != want {
			t.Errorf("%s is a %s", v[1], kinds[v[1]])
		}
	}
	for _, want := range []string{
		"\nbusel_relay_sessions 3\n", "\nbusel_relay_elder_sessions 2\n", "\nbusel_relay_mirror_bytes_total{direction=\"up\"} 11\n",
		"\nbusel_relay_stream_bytes_total{direction=\"down\"} 1099511627776\n", "\nbusel_relay_mirror_ports_open 1\n",
		"\nbusel_relay_quic_strange_datagrams_total 2\n",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
	if strings.Contains(text, "198.51") || strings.Contains(text, "example") {
		t.Errorf("addresses or names in\n%s", text)
	}
}
