package packet

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"golang.org/x/net/dns/dnsmessage"
)

// fragmented puts a message into records of at most n bytes.
func fragmented(message []byte, n int) []byte {
	var out []byte
	for piece := range slices.Chunk(message, n) {
		out = append(out, recordHandshake, 3, 1)
		out = binary.BigEndian.AppendUint16(out, uint16(len(piece)))
		out = append(out, piece...)
	}
	return out
}

func TestHandshake(t *testing.T) {
	stream := readHex(t, "chromium156-tls.hex")[0]
	message := stream[recordHeader:]
	for _, tt := range []struct {
		what   string
		stream []byte
		join   bool
		want   []byte
		err    error
	}{
		{"one record", stream, false, message, nil},
		{"one record, joined", stream, true, message, nil},
		{"cut", stream[:100], false, stream[recordHeader:100], ErrMore},
		{"header only", stream[:recordHeader], false, nil, ErrMore},
		{"two records", fragmented(message, len(message)-1), false, nil, errNotTLS},
		{"two records, joined", fragmented(message, len(message)-1), true, message, nil},
		{"many records, joined", fragmented(message, 3), true, message, nil},
		{"second record is missing", fragmented(message, len(message)-1)[:len(message)], true, message[:len(message)-5], ErrMore},
		{"data behind it", append(bytes.Clone(stream), "more"...), false, message, nil},
		{"empty record", []byte{22, 3, 1, 0, 0}, true, nil, errNotTLS},
		{"ServerHello", []byte{22, 3, 3, 0, 4, 2, 0, 0, 0}, true, nil, errNotTLS},
		{"alert", []byte{21, 3, 3, 0, 2, 2, 40}, true, nil, errNotTLS},
		{"too long a message", []byte{22, 3, 1, 0, 4, 1, 0, 0x40, 1}, true, nil, errNotTLS},
		{"nothing", nil, true, nil, errNotTLS},
		{"one byte", []byte{22}, true, nil, ErrMore},
	} {
		got, err := Handshake(tt.stream, tt.join)
		if !errors.Is(err, tt.err) || !bytes.Equal(got, tt.want) {
			t.Errorf("%s: %d bytes, %v; want %d bytes, %v", tt.what, len(got), err, len(tt.want), tt.err)
		}
	}
}

// What is cut short says what came before the cut.
func TestHelloCut(t *testing.T) {
	message := readHex(t, "chromium156-tls.hex")[0][recordHeader:]
	at := bytes.Index(message, []byte("www.listed.example")) + len("www.listed.example")
	for _, tt := range []struct {
		n   int
		sni string
	}{{at, "www.listed.example"}, {at - 1, ""}, {0, ""}, {len(message) - 1, "www.listed.example"}} {
		h, err := ParseHello(message[:tt.n])
		if !errors.Is(err, ErrMore) || h.SNI != tt.sni || h.JA4(false) != "" {
			t.Errorf("%d bytes: SNI %q, JA4 %q, %v", tt.n, h.SNI, h.JA4(false), err)
		}
	}
}

// JA4 in the corners of its rule.
func TestJA4(t *testing.T) {
	none := "000000000000"
	for _, tt := range []struct {
		h    Hello
		quic bool
		want string
	}{
		{Hello{Version: 0x0303}, false, "t12i000000_" + none + "_" + none},
		{Hello{Version: 0x0301, Extensions: []uint16{0, 16}, ALPN: []string{"http/1.1"}}, false, "t10d0002h1_" + none + "_" + none},
		{Hello{Version: 0x0303, Extensions: []uint16{43}, Versions: []uint16{0x2a2a, 0x0303, 0x0304}}, true, "q13i000100_" + none + "_" + short("002b")},
		{Hello{Ciphers: []uint16{0x1a1a, 0x1302, 0x1301}}, false, "t00i020000_" + short("1301,1302") + "_" + none},
		{Hello{Extensions: []uint16{13, 5}, Signatures: []uint16{0xdada, 0x0804, 0x0403}}, false, "t00i000200_" + none + "_" + short("0005,000d_0804,0403")},
		{Hello{ALPN: []string{"\xab"}}, false, "t00i0000ab_" + none + "_" + none},
		{Hello{ALPN: []string{"a\xcd"}}, false, "t00i00006d_" + none + "_" + none},
		{Hello{ALPN: []string{"x"}, Ciphers: make([]uint16, 120)}, false, "t00i9900xx_" + short(strings.Repeat("0000,", 119)+"0000") + "_" + none},
	} {
		tt.h.Whole = true
		if got := tt.h.JA4(tt.quic); got != tt.want {
			t.Errorf("%+v: %s, want %s", tt.h, got, tt.want)
		}
	}
}

// What is known of a stream stays true when more comes.
func FuzzHandshake(f *testing.F) {
	stream := readHex(f, "chromium156-tls.hex")[0]
	f.Add(stream, 700, true)
	f.Add(fragmented(stream[recordHeader:], 500), 700, true)
	f.Add([]byte{22, 3, 1, 0, 5, 1, 0, 0, 1, 0}, 7, false)
	f.Fuzz(func(t *testing.T, stream []byte, cut int, join bool) {
		cut = min(max(cut, 0), len(stream))
		whole, wholeErr := Handshake(stream, join)
		part, err := Handshake(stream[:cut], join)
		switch {
		case len(whole) > MaxHello+maxRecord:
			t.Fatalf("%d bytes", len(whole))
		case err == nil && (wholeErr != nil || !bytes.Equal(part, whole)):
			t.Fatalf("complete after %d bytes, then %v", cut, wholeErr)
		case errors.Is(err, errNotTLS) && cut > 0 && !errors.Is(wholeErr, errNotTLS):
			t.Fatalf("not TLS after %d bytes, then %v", cut, wholeErr)
		case errors.Is(err, ErrMore) && !errors.Is(wholeErr, errNotTLS) && !bytes.HasPrefix(whole, part):
			t.Fatal("the part is not of the whole")
		}
		if wholeErr != nil {
			return
		}
		// Other records around the same message make no difference if joined.
		if again, err := Handshake(fragmented(whole, max(1, cut)), true); err != nil || !bytes.Equal(again, whole) {
			t.Fatalf("in records of %d: %v", cut, err)
		}
	})
}

// A hello that is cut says nothing that the whole one does not.
func FuzzParseHello(f *testing.F) {
	f.Add(readHex(f, "chromium156-tls.hex")[0][recordHeader:], 300)
	f.Add(slices.Concat([]byte{1, 0, 0, 41, 3, 3}, make([]byte, 32), []byte{0, 0, 2, 0x13, 1, 1, 0}), 20)
	f.Fuzz(func(t *testing.T, message []byte, cut int) {
		h, err := ParseHello(message)
		if err != nil {
			return
		}
		if !h.Whole || !strings.Contains(strings.ToLower(string(message)), h.SNI) && h.SNI != "" && isASCII(h.SNI) {
			t.Fatalf("%+v", h)
		}
		if n := 4 * (len(h.Ciphers) + len(h.Extensions) + len(h.Versions) + len(h.Signatures) + len(h.ALPN)); n > 4*len(message) {
			t.Fatalf("%d numbers of %d bytes", n/4, len(message))
		}
		whole, err := messageLen(message)
		if err != nil {
			t.Fatal(err)
		}
		cut = min(max(cut, 0), whole-1)
		part, err := ParseHello(message[:cut])
		if !errors.Is(err, ErrMore) {
			t.Fatalf("cut at %d of %d: %v", cut, whole, err)
		}
		if len(part.Extensions) > len(h.Extensions) || !slices.Equal(part.Extensions, h.Extensions[:len(part.Extensions)]) || part.JA4(false) != "" {
			t.Fatalf("cut at %d: %+v, whole %+v", cut, part, h)
		}
	})
}

func isASCII(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return r > 0x7f })
}

// cryptoFrame is one of less than 16 kB.
func cryptoFrame(offset int, data []byte) []byte {
	b := binary.BigEndian.AppendUint16([]byte{frameCrypto}, 0x4000|uint16(offset))
	return append(binary.BigEndian.AppendUint16(b, 0x4000|uint16(len(data))), data...)
}

// A hello comes out of Initial packets whatever its pieces, and no changed
// packet is taken for a genuine one.
func FuzzInitials(f *testing.F) {
	f.Add([]byte("12345678"), []byte("hello"), []byte{3, 1}, uint16(40))
	f.Add([]byte{}, bytes.Repeat([]byte("x"), 900), []byte{200, 100, 7}, uint16(1))
	f.Fuzz(func(t *testing.T, dcid, body, cuts []byte, flip uint16) {
		dcid, body = dcid[:min(len(dcid), maxCID)], body[:min(len(body), 1000)]
		message := slices.Concat([]byte{clientHello, 0, byte(len(body) >> 8), byte(len(body))}, body)
		// Pieces go alternately to the front of two datagrams, PINGs between.
		var frames [2][]byte
		from := 0
		for i := 0; from < len(message); i++ {
			n := len(message)
			if i < len(cuts) && i < 12 {
				n = 1 + int(cuts[i])
			}
			to := min(from+n, len(message))
			frames[i%2] = slices.Concat(cryptoFrame(from, message[from:to]), []byte{framePing}, frames[i%2])
			from = to
		}
		var q Initials
		var got []byte
		var err error
		for i := range frames {
			datagram, sealErr := SealInitial(dcid, frames[i], 1200)
			if sealErr != nil {
				t.Fatal(sealErr)
			}
			if len(datagram) < 1200 {
				t.Fatalf("datagram of %d bytes", len(datagram))
			}
			bad := bytes.Clone(datagram)
			bad[int(flip)%len(bad)] ^= 1 << (flip % 8)
			var other Initials
			if b, err := other.Add(bad); err == nil || len(b) > 0 {
				t.Fatalf("a changed datagram gave %q, %v", b, err)
			}
			got, err = q.Add(datagram)
		}
		if err != nil || !bytes.Equal(got, message) {
			t.Fatalf("%d bytes, %v, want %d", len(got), err, len(message))
		}
		if plain, err := q.Plain(); err == nil {
			t.Fatalf("a hello with PINGs is plain: %q", plain)
		}
	})
}

// Whatever a client sends, what is kept is bounded and a message is of it.
func FuzzInitialDatagrams(f *testing.F) {
	f.Add(readHex(f, "rfc9001-client-initial.hex")[0], []byte{1})
	f.Add([]byte{0xc0, 0, 0, 0, 1, 0, 0, 0, 0x41, 0}, []byte{6, 0, 1, 1})
	f.Fuzz(func(t *testing.T, datagram, frames []byte) {
		var q Initials
		for range maxInitials + 2 {
			message, err := q.Add(datagram)
			if len(message) > MaxHello || err == nil && message[0] != clientHello {
				t.Fatalf("%d bytes, %v", len(message), err)
			}
		}
		if _, err := q.Add(datagram); err == nil {
			t.Fatal("datagrams are not bounded")
		}
		sealed, err := SealInitial([]byte("12345678"), frames[:min(len(frames), 1200)], 1200)
		if err != nil {
			t.Fatal(err)
		}
		var r Initials
		message, err := r.Add(sealed)
		if len(message) > MaxHello || err == nil && !bytes.Contains(frames, message[:1]) {
			t.Fatalf("%d bytes, %v", len(message), err)
		}
		if plain, err := r.Plain(); err == nil && !bytes.Equal(plain, message) {
			t.Fatalf("plain %q, message %q", plain, message)
		}
	})
}

func TestParseRequest(t *testing.T) {
	for _, tt := range []struct {
		stream string
		want   Request
		err    error
	}{
		{"GET /a HTTP/1.1\r\nHost: X.example:80\r\n\r\n", Request{"GET", "/a", "x.example"}, nil},
		{"POST / HTTP/1.0\nA: b\nhOST:[2001:db8::1]\n", Request{"POST", "/", "[2001:db8::1]"}, nil},
		{"CONNECT x.example:443 HTTP/1.1\r\nHost:x.example:443\r\n", Request{"CONNECT", "x.example:443", "x.example"}, nil},
		{"GET / HTTP/1.1\r\n\r\n", Request{"GET", "/", ""}, nil},
		{"GET / HTTP/1.1\r\nHo", Request{"GET", "/", ""}, ErrMore},
		{"GET / HT", Request{}, ErrMore},
		{"GE", Request{}, ErrMore},
		{"", Request{}, ErrMore},
		{"GOT / HTTP/1.1\r\n\r\n", Request{}, errNotHTTP},
		{"GET / HTTP/2\r\n\r\n", Request{}, errNotHTTP},
		{"GET /\r\n", Request{}, errNotHTTP},
		{"GET /" + strings.Repeat("a", maxHead), Request{}, errNotHTTP},
		{"SSH-2.0-x\r\n", Request{}, errNotHTTP},
	} {
		got, err := ParseRequest([]byte(tt.stream))
		if got != tt.want || !errors.Is(err, tt.err) {
			t.Errorf("%.40q: %+v, %v", tt.stream, got, err)
		}
	}
}

// Pieces do not matter to what is known of a request.
func FuzzParseRequest(f *testing.F) {
	f.Add("GET / HTTP/1.1\r\nA: b\r\nHost: listed.example\r\n\r\n", 9)
	f.Add("POST /x HTTP/1.0\nHost: a", 20)
	f.Fuzz(func(t *testing.T, stream string, cut int) {
		cut = min(max(cut, 0), len(stream))
		whole, wholeErr := ParseRequest([]byte(stream))
		part, err := ParseRequest([]byte(stream[:cut]))
		switch {
		case err == nil && (wholeErr != nil || part != whole):
			t.Fatalf("%+v after %d bytes, then %+v, %v", part, cut, whole, wholeErr)
		case errors.Is(err, errNotHTTP) && !errors.Is(wholeErr, errNotHTTP):
			t.Fatalf("not HTTP after %d bytes, then %v", cut, wholeErr)
		case part.Method != "" && wholeErr == nil && (part.Method != whole.Method || part.Path != whole.Path):
			t.Fatalf("%+v, then %+v", part, whole)
		case len(whole.Host) > maxHead || isASCII(stream) && !strings.Contains(strings.ToLower(stream), whole.Host):
			t.Fatalf("host %q", whole.Host)
		}
	})
}

// query builds one with a second implementation.
func query(t testing.TB, name string, kind dnsmessage.Type) []byte {
	t.Helper()
	n, err := dnsmessage.NewName(name)
	if err != nil {
		t.Fatal(err)
	}
	m := dnsmessage.Message{
		Header:    dnsmessage.Header{ID: 0x1234, RecursionDesired: true},
		Questions: []dnsmessage.Question{{Name: n, Type: kind, Class: dnsmessage.ClassINET}},
	}
	b, err := m.Pack()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestAnswer(t *testing.T) {
	v4, v6 := netip.MustParseAddr("10.10.34.34"), netip.MustParseAddr("2001:db8::1")
	for kind, want := range map[dnsmessage.Type]string{dnsmessage.TypeA: v4.String(), dnsmessage.TypeAAAA: v6.String(), dnsmessage.TypeTXT: ""} {
		q := query(t, "Listed.Example.", kind)
		if got, err := ParseQuestion(q); err != nil || got != (Question{"listed.example", uint16(kind)}) {
			t.Errorf("%v: %+v, %v", kind, got, err)
		}
		b, err := Answer(q, []netip.Addr{v4, v6}, 60)
		if err != nil {
			t.Fatal(err)
		}
		var m dnsmessage.Message
		if err := m.Unpack(b); err != nil {
			t.Fatal(err)
		}
		got := ""
		for _, a := range m.Answers {
			switch body := a.Body.(type) {
			case *dnsmessage.AResource:
				got += netip.AddrFrom4(body.A).String()
			case *dnsmessage.AAAAResource:
				got += netip.AddrFrom16(body.AAAA).String()
			}
		}
		if got != want || m.ID != 0x1234 || !m.Response || m.Questions[0].Name.String() != "Listed.Example." {
			t.Errorf("%v: %+v", kind, m)
		}
		if _, err := ParseQuestion(b); err == nil {
			t.Error("an answer is taken for a query")
		}
	}
}

// The answer to whatever is taken for a query is one, and is no query.
func FuzzParseQuestion(f *testing.F) {
	f.Add(query(f, "listed.example.", dnsmessage.TypeA))
	f.Add(query(f, "a.b.", dnsmessage.TypeAAAA)[:20])
	f.Fuzz(func(t *testing.T, b []byte) {
		q, err := ParseQuestion(b)
		if err != nil {
			if _, err := Answer(b, nil, 0); err == nil {
				t.Fatal("what is no query was answered")
			}
			return
		}
		if len(q.Name) > 255 || strings.ToLower(q.Name) != q.Name {
			t.Fatalf("name %q", q.Name)
		}
		a, err := Answer(b, []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")}, 1)
		if err != nil {
			t.Fatal(err)
		}
		var p dnsmessage.Parser
		h, err := p.Start(a)
		if err != nil || !h.Response || h.ID != binary.BigEndian.Uint16(b) {
			t.Fatalf("%+v, %v", h, err)
		}
		questions, err := p.AllQuestions()
		if err != nil || len(questions) != 1 || uint16(questions[0].Type) != q.Type {
			t.Fatalf("%v, %v", questions, err)
		}
	})
}
