package world

import (
	"net/netip"
	"testing"

	"golang.org/x/net/dns/dnsmessage"
)

func ask(t *testing.T, n Names, name string, kind dnsmessage.Type) (dnsmessage.RCode, []string) {
	t.Helper()
	query, err := (&dnsmessage.Message{
		Header:    dnsmessage.Header{ID: 7, RecursionDesired: true},
		Questions: []dnsmessage.Question{{Name: dnsmessage.MustNewName(name), Type: kind, Class: dnsmessage.ClassINET}},
	}).Pack()
	if err != nil {
		t.Fatal(err)
	}
	reply, err := n.answer(query)
	if err != nil {
		t.Fatal(err)
	}
	var m dnsmessage.Message
	if err := m.Unpack(reply); err != nil || m.ID != 7 || !m.Response {
		t.Fatalf("%v: %+v", err, m)
	}
	var all []string
	for _, a := range m.Answers {
		switch body := a.Body.(type) {
		case *dnsmessage.AResource:
			all = append(all, netip.AddrFrom4(body.A).String())
		case *dnsmessage.AAAAResource:
			all = append(all, netip.AddrFrom16(body.AAAA).String())
		}
	}
	return m.RCode, all
}

func TestAnswer(t *testing.T) {
	n := Names{"a.test": {netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("192.0.2.2")}}
	for _, tt := range []struct {
		name string
		kind dnsmessage.Type
		code dnsmessage.RCode
		want int
	}{
		{"a.test.", dnsmessage.TypeA, dnsmessage.RCodeSuccess, 2},
		{"A.TEST.", dnsmessage.TypeAAAA, dnsmessage.RCodeSuccess, 1},
		{"a.test.", dnsmessage.TypeMX, dnsmessage.RCodeSuccess, 0},
		{"b.test.", dnsmessage.TypeA, dnsmessage.RCodeNameError, 0},
	} {
		if code, got := ask(t, n, tt.name, tt.kind); code != tt.code || len(got) != tt.want {
			t.Errorf("%s %v: %v %q", tt.name, tt.kind, code, got)
		}
	}
	if _, err := n.answer([]byte("no query")); err == nil {
		t.Error("garbage was answered")
	}
}
