package wire_test

import (
	"bytes"
	"testing"

	"busel/internal/wire"
)

// addVectors seeds a fuzz target with the golden vectors of the kinds, good
// and bad.
func addVectors(f *testing.F, file string, want func(kind string) bool) {
	f.Helper()
	for _, v := range readVectors(f, file) {
		if want(v.fields["kind"]) {
			f.Add(v.bytes("hex"))
		}
	}
}

func is(kind string) func(string) bool { return func(k string) bool { return k == kind } }

// Whatever parses encodes to the same bytes, but for those of PADDING.
func FuzzParse(f *testing.F) {
	addVectors(f, "frames.txt", func(string) bool { return true })
	f.Fuzz(func(t *testing.T, b []byte) {
		var frame wire.Frame
		n, err := wire.Parse(b, &frame)
		if err != nil {
			if n != 0 {
				t.Fatalf("length %d with error %v", n, err)
			}
			return
		}
		if n <= 0 || n > len(b) || n > wire.MaxFrame {
			t.Fatalf("length %d of %d", n, len(b))
		}
		got := frame.Append(nil)
		want := bytes.Clone(b[:n])
		if frame.Type == wire.Padding {
			clear(want[n-len(frame.Data):])
		}
		if !bytes.Equal(got, want) {
			t.Fatalf("%x encodes to %x", want, got)
		}
	})
}

// Whatever parses encodes to the same bytes.
func FuzzParseHello(f *testing.F) {
	addVectors(f, "hello.txt", is("HELLO"))
	f.Fuzz(func(t *testing.T, b []byte) {
		h, err := wire.ParseHello(b)
		if err != nil {
			return
		}
		if got := h.Append(nil); !bytes.Equal(got, b) {
			t.Fatalf("%x encodes to %x", b, got)
		}
	})
}

// Whatever parses encodes to the same bytes.
func FuzzParseAccept(f *testing.F) {
	addVectors(f, "hello.txt", is("ACCEPT"))
	f.Fuzz(func(t *testing.T, b []byte) {
		a, err := wire.ParseAccept(b)
		if err != nil {
			return
		}
		if got := a.Append(nil); !bytes.Equal(got, b) {
			t.Fatalf("%x encodes to %x", b, got)
		}
	})
}

// Whatever parses encodes to the same bytes.
func FuzzParseControl(f *testing.F) {
	addVectors(f, "control.txt", is("CONTROL"))
	f.Fuzz(func(t *testing.T, b []byte) {
		c, n, err := wire.ParseControl(b)
		if err != nil {
			if n != 0 {
				t.Fatalf("length %d with error %v", n, err)
			}
			return
		}
		if len(c.Body) > wire.MaxControl {
			t.Fatalf("body of %d bytes", len(c.Body))
		}
		if got := c.Append(nil); !bytes.Equal(got, b[:n]) {
			t.Fatalf("%x encodes to %x", b[:n], got)
		}
		if got := wire.ControlLen(b[:min(len(b), wire.MaxControlHeader)]); got != n {
			t.Fatalf("length %d of %d, told by its head", got, n)
		}
	})
}

// Whatever parses encodes to the same bytes, less the settings that are
// unknown or 0; and what it encodes to parses to the same settings.
func FuzzParseSettings(f *testing.F) {
	addVectors(f, "control.txt", is("SETTINGS"))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := wire.ParseSettings(b)
		if err != nil {
			return
		}
		var known []byte
		for rest := b; len(rest) > 0; {
			id, n, _ := wire.Varint(rest)
			value, m, _ := wire.Varint(rest[n:])
			if id <= uint64(wire.SettingMaxStreams) && value != 0 {
				known = append(known, rest[:n+m]...)
			}
			rest = rest[n+m:]
		}
		got := s.Append(nil)
		if !bytes.Equal(got, known) {
			t.Fatalf("%x encodes to %x", b, got)
		}
		if again, err := wire.ParseSettings(got); again != s || err != nil {
			t.Fatalf("%+v parses to %+v, %v", s, again, err)
		}
	})
}
