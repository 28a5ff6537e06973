package wire_test

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"busel/internal/flow"
	"busel/internal/wire"
)

// vector is one paragraph of a file that testdata/gen.py wrote.
type vector struct {
	t      testing.TB
	line   int
	fields map[string]string
}

func readVectors(t testing.TB, name string) []vector {
	t.Helper()
	raw, err := os.ReadFile("testdata/" + name)
	if err != nil {
		t.Fatal(err)
	}
	var all []vector
	current := vector{t: t}
	flush := func() {
		if current.fields != nil {
			all = append(all, current)
		}
		current = vector{t: t}
	}
	for i, line := range strings.Split(string(raw), "\n") {
		switch {
		case line == "":
			flush()
		case line[0] == '#':
		default:
			if current.fields == nil {
				current.line, current.fields = i+1, map[string]string{}
			}
			key, value, _ := strings.Cut(line, " ")
			current.fields[key] = value
		}
	}
	flush()
	if len(all) == 0 {
		t.Fatalf("no vector in %s", name)
	}
	return all
}

func (v vector) uint(key string) uint64 {
	v.t.Helper()
	n, err := strconv.ParseUint(v.fields[key], 10, 64)
	if err != nil {
		v.t.Fatalf("line %d: %s: %v", v.line, key, err)
	}
	return n
}

// bytes reads tokens of hexadecimal digits, or HH*N.
func (v vector) bytes(key string) []byte {
	v.t.Helper()
	text, ok := v.fields[key]
	if !ok {
		v.t.Fatalf("line %d: no %s", v.line, key)
	}
	all := []byte{}
	for _, token := range strings.Fields(text) {
		digits, times, repeated := strings.Cut(token, "*")
		b, err := hex.DecodeString(digits)
		n := 1
		if repeated && err == nil {
			n, err = strconv.Atoi(times)
		}
		if err != nil {
			v.t.Fatalf("line %d: %s: %v", v.line, key, err)
		}
		all = append(all, bytes.Repeat(b, n)...)
	}
	return all
}

// wantError checks err and reports whether the vector is one of bad input.
func (v vector) wantError(err error) bool {
	v.t.Helper()
	name, bad := v.fields["error"]
	if !bad {
		if err != nil {
			v.t.Errorf("line %d: %v", v.line, err)
			return true
		}
		return false
	}
	want := map[string]error{
		"truncated": wire.ErrTruncated, "not-minimal": wire.ErrNotMinimal,
		"malformed": wire.ErrMalformed, "version": wire.ErrVersion,
	}[name]
	if want == nil {
		v.t.Fatalf("line %d: unknown error %q", v.line, name)
	}
	if !errors.Is(err, want) {
		v.t.Errorf("line %d: error is %v, want %v", v.line, err, want)
	}
	return true
}

func (v vector) same(got, want []byte) {
	v.t.Helper()
	if !bytes.Equal(got, want) {
		v.t.Errorf("line %d: encodes to %.40x (%d bytes), want %.40x (%d bytes)", v.line, got, len(got), want, len(want))
	}
}

// frame is what the vector's fields say.
func (v vector) frame() wire.Frame {
	v.t.Helper()
	f := wire.Frame{Type: frameTypes[v.fields["kind"]]}
	switch f.Type {
	case wire.Padding:
		f.Data = v.bytes("data")
	case wire.Stream:
		f.ID, f.Offset, f.Fin, f.Data = v.uint("id"), v.uint("offset"), v.uint("fin") == 1, v.bytes("data")
	case wire.Ack:
		f.ID, f.Offset, f.Limit = v.uint("id"), v.uint("offset"), v.uint("limit")
	case wire.Window:
		f.Limit = v.uint("limit")
	case wire.Reset:
		f.ID, f.Code, f.Offset = v.uint("id"), v.uint("code"), v.uint("offset")
	case wire.Datagram:
		addr, err := flow.MakeAddr(v.fields["host"], uint16(v.uint("port")))
		if err != nil {
			v.t.Fatalf("line %d: %v", v.line, err)
		}
		f.ID, f.Addr, f.Data = v.uint("id"), addr, v.bytes("data")
	case wire.Carrier:
		f.ID, f.State = v.uint("id"), wire.CarrierState(v.uint("state"))
		if f.State == wire.CarrierBudget {
			f.Limit = v.uint("limit")
		}
	case wire.Ping, wire.Pong:
		f.Ping = [8]byte(v.bytes("ping"))
	case wire.Bye:
		f.Code, f.Data = v.uint("code"), v.bytes("data")
	case wire.Seen:
		f.ID, f.Offset, f.Limit = v.uint("id"), v.uint("offset"), v.uint("limit")
	case wire.Stop:
		f.ID, f.Code = v.uint("id"), v.uint("code")
	}
	return f
}

var frameTypes = map[string]wire.Type{
	"PADDING": 0, "STREAM": 1, "ACK": 2, "WINDOW": 3, "RESET": 4, "DATAGRAM": 5, "CARRIER": 6, "PING": 7, "PONG": 8, "BYE": 9, "STOP": 10, "SEEN": 11,
}

func TestFrameVectors(t *testing.T) {
	seen := map[string]int{}
	for _, v := range readVectors(t, "frames.txt") {
		encoded := v.bytes("hex")
		seen[v.fields["kind"]]++
		var got wire.Frame
		n, err := wire.Parse(encoded, &got)
		if v.wantError(err) {
			if n != 0 {
				t.Errorf("line %d: error with length %d", v.line, n)
			}
			continue
		}
		want := v.frame()
		v.same(want.Append(nil), encoded)
		if n != len(encoded) {
			t.Errorf("line %d: %d bytes parsed, want %d", v.line, n, len(encoded))
		}
		compareFrames(t, v.line, got, want)
		// What follows a frame changes nothing, and is not read.
		if n, err := wire.Parse(append(encoded, 0xff), &got); n != len(encoded) || err != nil {
			t.Errorf("line %d: with a byte behind: %d, %v", v.line, n, err)
		}
		// Append appends.
		v.same(want.Append([]byte("x"))[1:], encoded)
	}
	for name, typ := range frameTypes {
		if seen[name] == 0 {
			t.Errorf("no vector of %s", name)
		}
		if typ.String() != name {
			t.Errorf("type %d is %q, want %q", uint64(typ), typ.String(), name)
		}
	}
}

func compareFrames(t *testing.T, line int, got, want wire.Frame) {
	t.Helper()
	if !bytes.Equal(got.Data, want.Data) {
		t.Errorf("line %d: data of %d bytes, want %d", line, len(got.Data), len(want.Data))
	}
	got.Data, want.Data = nil, nil
	if fmt.Sprintf("%+v", got) != fmt.Sprintf("%+v", want) {
		t.Errorf("line %d: parsed\n%+v, want\n%+v", line, got, want)
	}
}

func TestHelloVectors(t *testing.T) {
	for _, v := range readVectors(t, "hello.txt") {
		encoded := v.bytes("hex")
		if v.fields["kind"] == "ACCEPT" {
			checkAccept(t, v, encoded)
			continue
		}
		got, err := wire.ParseHello(encoded)
		if v.wantError(err) {
			continue
		}
		want := wire.Hello{
			Cipher: wire.Cipher(v.uint("cipher")), Mode: wire.Mode(v.uint("mode")), Carrier: uint32(v.uint("carrier")),
			Token: wire.Token(v.bytes("token")), Secret: [wire.SecretLen]byte(v.bytes("secret")), SealedFrames: v.bytes("rest"),
		}
		for text := range strings.SplitSeq(v.fields["dropped"], ",") {
			if text != "" {
				n, err := strconv.ParseUint(text, 10, 32)
				if err != nil {
					t.Fatalf("line %d: %v", v.line, err)
				}
				want.Dropped = append(want.Dropped, uint32(n))
			}
		}
		v.same(want.Append(nil), encoded)
		if head := want.AppendHeader(nil); !bytes.Equal(append(head, want.SealedFrames...), encoded) {
			t.Errorf("line %d: header is not the hello before its rest", v.line)
		}
		if got.Cipher != want.Cipher || got.Mode != want.Mode || got.Carrier != want.Carrier || got.Token != want.Token ||
			got.Secret != want.Secret || !bytes.Equal(got.SealedFrames, want.SealedFrames) ||
			fmt.Sprint(got.Dropped) != fmt.Sprint(want.Dropped) {
			t.Errorf("line %d: parsed\n%+v, want\n%+v", v.line, got, want)
		}
		if got.Token.Expiry() != 325 || got.Token.InviteID() != [8]byte{0, 1, 2, 3, 4, 5, 6, 7} {
			t.Errorf("line %d: token's expiry %d, id %x", v.line, got.Token.Expiry(), got.Token.InviteID())
		}
	}
}

func checkAccept(t *testing.T, v vector, encoded []byte) {
	t.Helper()
	got, err := wire.ParseAccept(encoded)
	if v.wantError(err) {
		return
	}
	want := wire.Accept{
		Status: wire.Status(v.uint("status")), SessionLife: time.Duration(v.uint("life")) * time.Second,
		CoverIdle:     time.Duration(v.uint("idle")) * time.Second,
		CoverLifetime: time.Duration(v.uint("lifetime")) * time.Second, Frames: v.bytes("rest"),
	}
	v.same(want.Append(nil), encoded)
	if fmt.Sprintf("%+v", *got) != fmt.Sprintf("%+v", want) {
		t.Errorf("line %d: parsed\n%+v, want\n%+v", v.line, *got, want)
	}
	if got.Status.Refused() != (v.uint("status") >= 2) {
		t.Errorf("line %d: Refused is %v", v.line, got.Status.Refused())
	}
}

func TestControlVectors(t *testing.T) {
	for _, v := range readVectors(t, "control.txt") {
		encoded := v.bytes("hex")
		if v.fields["kind"] == "SETTINGS" {
			got, err := wire.ParseSettings(encoded)
			if v.wantError(err) {
				continue
			}
			want := wire.Settings{StreamWindow: v.uint("stream"), SessionWindow: v.uint("session"), MaxStreams: v.uint("streams")}
			v.same(want.Append(nil), encoded)
			if got != want {
				t.Errorf("line %d: parsed %+v, want %+v", v.line, got, want)
			}
			continue
		}
		got, n, err := wire.ParseControl(encoded)
		if v.wantError(err) {
			continue
		}
		want := wire.Control{Type: wire.ControlType(v.uint("type")), Body: v.bytes("body")}
		v.same(want.Append(nil), encoded)
		if n != len(encoded) || got.Type != want.Type || !bytes.Equal(got.Body, want.Body) {
			t.Errorf("line %d: parsed %d bytes, type %d, body of %d", v.line, n, got.Type, len(got.Body))
		}
		if _, n, err := wire.ParseControl(append(encoded, 0xff)); n != len(encoded) || err != nil {
			t.Errorf("line %d: with a byte behind: %d, %v", v.line, n, err)
		}
	}
}

// The second implementation still writes the vectors that are committed.
func TestVectorsAreGenerated(t *testing.T) {
	python, err := exec.LookPath("python3")
	if err != nil {
		t.Skip("python3 is not installed: the vectors are not generated again")
	}
	if out, err := exec.Command(python, "testdata/gen.py", "--check").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}
