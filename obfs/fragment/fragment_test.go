package fragment

import (
	"bytes"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"testing"
	"time"
)

const site = "listed.example"

// hello is the first flight of Go's own client.
func hello(t testing.TB, name string) []byte {
	t.Helper()
	client, server := net.Pipe()
	defer server.Close()
	go func() {
		defer client.Close()
		_ = tls.Client(client, &tls.Config{ServerName: name, InsecureSkipVerify: name == ""}).Handshake()
	}()
	header := make([]byte, headerLen)
	if _, err := io.ReadFull(server, header); err != nil {
		t.Fatal(err)
	}
	body := make([]byte, binary.BigEndian.Uint16(header[3:]))
	if _, err := io.ReadFull(server, body); err != nil {
		t.Fatal(err)
	}
	return append(header, body...)
}

// records takes a stream of records apart.
func records(t testing.TB, stream []byte) (all [][]byte) {
	t.Helper()
	for len(stream) > 0 {
		if len(stream) < headerLen {
			t.Fatalf("%d bytes are left over", len(stream))
		}
		size := headerLen + int(binary.BigEndian.Uint16(stream[3:]))
		if size == headerLen || size > len(stream) {
			t.Fatalf("a record of %d bytes among %d", size, len(stream))
		}
		all = append(all, stream[:size])
		stream = stream[size:]
	}
	return all
}

// check holds whatever is cut, and returns the stream.
func check(t testing.TB, m Mode, flight []byte, segments [][]byte) []byte {
	t.Helper()
	stream := slices.Concat(segments...)
	start, end, isHello := findHello(flight)
	if m == Off || !isHello {
		if len(segments) != 1 || !bytes.Equal(stream, flight) {
			t.Fatal("what is no hello was cut")
		}
		return stream
	}
	if len(segments) > MaxParts || m&Segments == 0 && len(segments) != 1 {
		t.Fatalf("%d segments", len(segments))
	}
	for _, s := range segments {
		if len(s) == 0 {
			t.Fatal("an empty segment")
		}
	}
	if m&Segments != 0 && (len(segments) < 2 || len(segments[0]) > start+maxFirstSegment) {
		t.Fatalf("%d segments, the first of %d bytes", len(segments), len(segments[0]))
	}
	if m&Records == 0 {
		if !bytes.Equal(stream, flight) {
			t.Fatal("segments change bytes")
		}
		return stream
	}
	if !bytes.HasPrefix(stream, flight[:start]) || !bytes.HasSuffix(stream, flight[end:]) {
		t.Fatal("records beside the hello changed")
	}
	pieces := records(t, stream[start:len(stream)-(len(flight)-end)])
	if len(pieces) < 2 || len(pieces) > MaxParts {
		t.Fatalf("%d records", len(pieces))
	}
	if n := len(pieces[0]) - headerLen; end-start > headerLen+maxFirst && (n < minFirst || n > maxFirst) {
		t.Fatalf("the first record has %d bytes", n)
	}
	var msg []byte
	for _, p := range pieces {
		if !bytes.Equal(p[:3], flight[start:start+3]) {
			t.Fatalf("a record begins with %x", p[:3])
		}
		msg = append(msg, p[headerLen:]...)
	}
	if !bytes.Equal(msg, flight[start+headerLen:end]) {
		t.Fatal("the message is another")
	}
	return stream
}

func TestCut(t *testing.T) {
	seed := rand.Uint64()
	t.Log("seed", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	// A second hello follows a change_cipher_spec; here they are one flight, and
	// something comes behind.
	ccs := []byte{20, 3, 3, 0, 1, 1}
	for _, name := range []string{site, "a.by", strings.Repeat("long-", 11) + "." + strings.Repeat("name-", 11) + ".example"} {
		plain := hello(t, name)
		for _, flight := range [][]byte{plain, slices.Concat(ccs, plain), slices.Concat(plain, ccs)} {
			for _, m := range []Mode{Records, Segments, Both} {
				counts, places := map[int]bool{}, map[int]bool{}
				for range 500 {
					segments := m.Cut(flight, r)
					stream := check(t, m, flight, segments)
					parts := segments
					if m == Records {
						parts = records(t, stream)
					}
					counts[len(parts)] = true
					places[len(parts[1])] = true
					for _, p := range parts {
						if bytes.Contains(p, []byte(name)) {
							t.Fatalf("mode %d leaves %q whole in %d bytes", m, name, len(p))
						}
					}
					if m&Records != 0 && bytes.Contains(stream, []byte(name)) {
						t.Fatalf("%q is whole in the stream", name)
					}
				}
				if len(counts) < 3 || len(places) < 4 {
					t.Errorf("mode %d: always %v parts, the second of %v", m, counts, places)
				}
			}
		}
	}
}

// TestOthers is what is left alone, and what has no name.
func TestOthers(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	plain := hello(t, site)
	for what, flight := range map[string][]byte{
		"nothing": nil, "a part": plain[:len(plain)-1], "a header": plain[:headerLen],
		"application data":   {23, 3, 3, 0, 5, 1, 0, 0, 1, 0},
		"another message":    append([]byte{22, 3, 3, 0, 5}, 16, 0, 0, 1, 0),
		"a hello in pieces":  append(bytes.Clone(plain[:3]), append([]byte{0, 8}, plain[headerLen:headerLen+8]...)...),
		"a hello, switched ": plain,
	} {
		m := Both
		if flight != nil && bytes.Equal(flight, plain) {
			m = Off
		}
		if got := m.Cut(flight, r); len(got) != 1 || !bytes.Equal(got[0], flight) {
			t.Errorf("%s was cut into %d", what, len(got))
		}
	}
	bare := hello(t, "")
	for range 100 {
		check(t, Both, bare, Both.Cut(bare, r))
	}
}

// TestServer lets Go's server judge.
func TestServer(t *testing.T) {
	r := rand.New(rand.NewPCG(rand.Uint64(), 0))
	for _, m := range []Mode{Records, Segments, Both} {
		for range 20 {
			client, server := net.Pipe()
			name := make(chan string, 1)
			go func() {
				defer server.Close()
				_ = tls.Server(server, &tls.Config{GetConfigForClient: func(h *tls.ClientHelloInfo) (*tls.Config, error) {
					name <- h.ServerName
					return nil, errors.New("that is all")
				}}).Handshake()
				close(name)
			}()
			go io.Copy(io.Discard, client)
			for _, s := range m.Cut(hello(t, site), r) {
				if _, err := client.Write(s); err != nil {
					t.Fatal(err)
				}
			}
			if got := <-name; got != site {
				t.Errorf("mode %d: the server read %q", m, got)
			}
			client.Close()
		}
	}
}

func TestParseMode(t *testing.T) {
	for name, want := range map[string]Mode{"records": Records, "segments": Segments, "both": Both} {
		if m, err := ParseMode(name); m != want || err != nil {
			t.Errorf("%s is %d, %v", name, m, err)
		}
	}
	for _, bad := range []string{"", "Records", "tls", "records,segments"} {
		if _, err := ParseMode(bad); !errors.Is(err, ErrMode) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

func TestPause(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	least, most := time.Hour, time.Duration(0)
	for range 10000 {
		d := Pause(r)
		least, most = min(least, d), max(most, d)
	}
	if least < MinPause || least > 2*MinPause || most > MaxPause || most < MaxPause-time.Millisecond {
		t.Errorf("pauses are %v to %v", least, most)
	}
}

// FuzzCut cuts anything: what comes out is the same hello, or the same bytes.
func FuzzCut(f *testing.F) {
	f.Add(hello(f, site), uint64(1), byte(Both))
	f.Add(hello(f, ""), uint64(2), byte(Records))
	f.Add([]byte{22, 3, 1, 0, 5, 1, 0, 0, 1, 0}, uint64(3), byte(Segments))
	f.Fuzz(func(t *testing.T, flight []byte, seed uint64, mode byte) {
		m := Mode(mode) & Both
		check(t, m, flight, m.Cut(bytes.Clone(flight), rand.New(rand.NewPCG(seed, 0))))
	})
}
