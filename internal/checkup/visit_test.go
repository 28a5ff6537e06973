package checkup

import (
	"crypto/tls"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"golang.org/x/net/netutil"

	"busel/internal/nginxtest"
	"busel/transport"
)

// nginx and Go as covers: what is seen of each.
func TestVisit(t *testing.T) {
	for name, tt := range map[string]struct {
		cfg  nginxtest.Config
		want func(*Site) bool
	}{
		"as nginx is": {nginxtest.Config{}, func(s *Site) bool {
			return s.TLS13 && s.ALPN == "h2" && s.HTTP1 == 200 && s.Status == 200 && s.Tickets == 2 && s.EarlyData == 0 &&
				s.AltSvc == "" && s.Parallel == parallelVisits && s.SelfSigned && !s.Date.IsZero() && s.RoundTrip > 0 && s.Idle == 0
		}},
		"early data": {nginxtest.Config{Extra: "ssl_early_data on;"}, func(s *Site) bool { return s.Tickets > 0 && s.EarlyData == 16384 }},
		"promises":   {nginxtest.Config{Extra: `add_header Alt-Svc 'h3=":443"; ma=60';`}, func(s *Site) bool { return s.AltSvc == `h3=":443"; ma=60` }},
		"TLS 1.2":    {nginxtest.Config{Protocols: "TLSv1.2"}, func(s *Site) bool { return !s.TLS13 && s.Tickets == -1 && s.HTTP1 == 200 }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n := nginxtest.Run(t, tt.cfg)
			v := Visitor{Network: transport.System{}, Address: n.Address, Name: n.Name, Crowd: true}
			if s := v.Visit(t.Context()); s.Err != nil || !tt.want(s) {
				t.Errorf("%+v", s)
			}
		})
	}
	t.Run("nobody", func(t *testing.T) {
		v := Visitor{Network: transport.System{}, Address: "127.0.0.1:1", Name: "a.test", Crowd: true}
		if s := v.Visit(t.Context()); s.Err == nil {
			t.Errorf("%+v", s)
		}
	})
}

func TestIdleLimit(t *testing.T) {
	n := nginxtest.Run(t, nginxtest.Config{KeepaliveTimeout: time.Second})
	v := Visitor{Network: transport.System{}, Address: n.Address, Name: n.Name, Patience: 4 * time.Second}
	s := v.Visit(t.Context())
	// nginx counts from the clock that it read when its loop last woke, so it is early
	// by as long as it was busy since.
	if s.Idle < 900*time.Millisecond || s.Idle > 3*time.Second || s.Life != 0 || s.LifeFor == 0 {
		t.Errorf("idle %v, life %v of %v", s.Idle, s.Life, s.LifeFor)
	}
}

// Go's server gives one ticket; at a limit of connections the rest is missed.
func TestCrowd(t *testing.T) {
	const most = 7
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, "x") }))
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	server.Listener = netutil.LimitListener(server.Listener, most)
	server.TLS = &tls.Config{NextProtos: []string{"h2", "http/1.1"}}
	server.StartTLS()
	defer server.Close()
	v := Visitor{Network: transport.System{}, Address: server.Listener.Addr().String(), Name: "example.com"}
	if n := v.crowd(t.Context()); n != most {
		t.Errorf("%d were served, want %d", n, most)
	}
	if s := v.Visit(t.Context()); s.Err != nil || s.Tickets != 1 || s.Group != groupX25519MLKEM768 {
		t.Errorf("%+v", s)
	}
}

// FuzzOpenTickets has a site that knows the keys and sends what it likes.
func FuzzOpenTickets(f *testing.F) {
	f.Add([]byte{0, 0, 0, 9, 1, 2, 3, 4, 1, 5, 0, 1, 6, 0, 8, 0, 42, 0, 4, 0, 0, 64, 0})
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, body []byte) {
		x, ok := parseTicket(body)
		if !ok && x.earlyData != 0 && len(body) < 17 {
			t.Errorf("early data of %d from %x", x.earlyData, body)
		}
		secret := make([]byte, 32)
		aead, iv, err := recordKeys(tls.TLS_AES_128_GCM_SHA256, secret)
		if err != nil {
			t.Fatal(err)
		}
		if len(body) > 16000 {
			return
		}
		inner := append([]byte{4, 0, byte(len(body) >> 8), byte(len(body))}, body...)
		inner = append(inner, 22)
		head := []byte{23, 3, 3, byte((len(inner) + 16) >> 8), byte(len(inner) + 16)}
		record := aead.Seal(head, iv, inner, head)
		all, err := openTickets(record, tls.TLS_AES_128_GCM_SHA256, secret)
		if (err == nil) != ok || ok && (len(all) != 1 || all[0] != x) {
			t.Errorf("%x: alone %v %v, in a record %v %v", body, x, ok, all, err)
		}
	})
}
