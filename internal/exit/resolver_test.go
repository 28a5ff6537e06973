package exit

import (
	"context"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"busel/internal/flow"
)

// nameServer answers on loopback as its zone says, and remembers the questions.
type nameServer struct {
	zone map[string]dnsmessage.RCode // NOERROR: 127.0.0.1, and no IPv6 address

	mu    sync.Mutex
	asked map[string]bool
}

func (s *nameServer) serve(pc net.PacketConn) {
	buf := make([]byte, 1500)
	for {
		n, from, err := pc.ReadFrom(buf)
		if err != nil {
			return
		}
		var m dnsmessage.Message
		if m.Unpack(buf[:n]) != nil || len(m.Questions) != 1 {
			continue
		}
		q := m.Questions[0]
		s.mu.Lock()
		s.asked[q.Name.String()] = true
		s.mu.Unlock()
		rcode, ok := s.zone[q.Name.String()]
		if !ok {
			rcode = dnsmessage.RCodeNameError
		}
		res := dnsmessage.Message{
			Header:    dnsmessage.Header{ID: m.ID, Response: true, RecursionAvailable: true, RCode: rcode},
			Questions: m.Questions,
		}
		if rcode == dnsmessage.RCodeSuccess && q.Type == dnsmessage.TypeA {
			res.Answers = []dnsmessage.Resource{{
				Header: dnsmessage.ResourceHeader{Name: q.Name, Type: q.Type, Class: q.Class, TTL: 60},
				Body:   &dnsmessage.AResource{A: [4]byte{127, 0, 0, 1}},
			}}
		}
		if b, err := res.Pack(); err == nil {
			pc.WriteTo(b, from)
		}
	}
}

// TestSystemResolver runs Go's resolver, the default, against a name server:
// what it says must be told apart as the cache expects.
func TestSystemResolver(t *testing.T) {
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := &nameServer{
		zone: map[string]dnsmessage.RCode{
			"site.example.":   dnsmessage.RCodeSuccess,
			"broken.example.": dnsmessage.RCodeServerFailure,
			"under_score.":    dnsmessage.RCodeSuccess,
		},
		asked: map[string]bool{},
	}
	done := make(chan struct{})
	go func() { defer close(done); server.serve(pc) }()
	defer func() { pc.Close(); <-done }()

	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	port := ln.Addr().(*net.TCPAddr).AddrPort().Port()
	e := New(Config{
		Allow: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")},
		Resolver: &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "udp", pc.LocalAddr().String())
		}},
		DialTimeout: 30 * time.Second,
	})
	for _, tt := range []struct {
		name   string
		detail flow.Detail
		ok     bool
	}{
		{name: "site.example", ok: true},
		{name: "SITE.example.", ok: true},
		{name: "under_score", ok: true}, // a single label: search domains would be tried first
		{name: "none.example", detail: flow.DetailNameNotFound},
		{name: "none", detail: flow.DetailNameNotFound},
		{name: "broken.example", detail: flow.DetailNameServerFailed},
		{name: "not..a.name", detail: flow.DetailNameNotFound},
		{name: "0x7f.1", detail: flow.DetailNameNotFound}, // never an address in disguise
	} {
		s, err := e.connect(t.Context(), flow.Addr{Name: tt.name, Port: port})
		if tt.ok {
			if err != nil {
				t.Errorf("%s: %v", tt.name, err)
				continue
			}
			s.Close()
		} else if err == nil || err.Detail != tt.detail {
			t.Errorf("%s: %v, want detail %d", tt.name, err, tt.detail)
		}
	}
	server.mu.Lock()
	defer server.mu.Unlock()
	for name := range server.asked {
		switch name {
		case "site.example.", "under_score.", "none.example.", "none.", "broken.example.", "0x7f.1.":
		default:
			t.Errorf("the name server was asked for %q", name)
		}
	}
}
