package front

import (
	"bytes"
	"context"
	"encoding/base64"
	"io"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestNewPassword(t *testing.T) {
	long := strings.Repeat("p", 256)
	for _, tt := range []struct {
		user, pass string
		ok         bool
	}{
		{"", "", true}, {"u", "p", true}, {long[1:], long[1:], true}, {"u", "p:p", true},
		{"u", "", false}, {"", "p", false}, {long, "p", false}, {"u", long, false}, {"u:v", "p", false},
	} {
		_, err := New(Config{Listen: "auto", Opener: refuser{}, User: tt.user, Password: tt.pass})
		if (err == nil) != tt.ok {
			t.Errorf("%q, %q: %v", tt.user, tt.pass, err)
		}
		if err != nil && (strings.Contains(err.Error(), long) || strings.Contains(err.Error(), "u:v")) {
			t.Errorf("the error tells the secret: %v", err)
		}
	}
}

// TestTries guesses: what is free is free, and then right and wrong tries wait
// alike.
func TestTries(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, err := newPassword("u", "p")
		if err != nil {
			t.Fatal(err)
		}
		ctx := t.Context()
		took := func(user, pass string, want bool) time.Duration {
			t.Helper()
			start := time.Now()
			if got := p.check(ctx, user, pass); got != want {
				t.Fatalf("%q, %q: %v", user, pass, got)
			}
			return time.Since(start)
		}
		for _, wrong := range [][2]string{{"u", ""}, {"", "p"}, {"u", "pp"}, {"p", "u"}, {"u\x00", "p"}} {
			took(wrong[0], wrong[1], false)
		}
		for range 1000 { // right ones cost nothing
			if d := took("u", "p", true); d != 0 {
				t.Fatalf("a right password waits %v", d)
			}
		}
		for range freeTries - 5 {
			if d := took("u", "x", false); d != 0 {
				t.Fatalf("a free try waits %v", d)
			}
		}
		for range 50 {
			if d := took("u", "x", false); d != triesEvery {
				t.Fatalf("a wrong try waits %v", d)
			}
		}
		if d := took("u", "p", true); d != triesEvery {
			t.Fatalf("a right try after many wrong ones waits %v", d)
		}
		time.Sleep(freeTries * triesEvery)
		if d := took("u", "p", true); d != 0 {
			t.Fatalf("a right password later waits %v", d)
		}
		// A thousand at once get no more through than one after the other.
		start, done := time.Now(), make(chan bool)
		for range 1000 {
			go func() { done <- p.check(ctx, "u", "x") }()
		}
		for range 1000 {
			if <-done {
				t.Error("a wrong password is right")
			}
		}
		if d := time.Since(start); d != maxTryWait {
			t.Errorf("they take %v", d)
		}
		if owed := time.Until(p.next); owed > freeTries*triesEvery {
			t.Errorf("%v are owed", owed)
		}
		ended, cancel := context.WithCancel(ctx)
		cancel()
		if p.check(ended, "u", "p") {
			t.Error("accepted after the end")
		}
	})
}

// TestUntoldAtOnce: while nobody knows the password nobody can guess it, and programs
// that say theirs again and again are told so at once.
func TestUntoldAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, begin := &password{untold: true}, time.Now()
		for range 2 * freeTries {
			if p.check(t.Context(), "anna", "stork") {
				t.Fatal("a password that nobody knows is right")
			}
		}
		if took := time.Since(begin); took != 0 {
			t.Errorf("it takes %v to hear that nobody knows", took)
		}
	})
}

// say sends said and returns all that the proxy answers until it ends the
// connection. A web server gives up a request whose sender sends FIN.
func say(t *testing.T, f *Front, said string) string {
	t.Helper()
	c := connect(t, f)
	defer c.Close()
	if _, err := io.WriteString(c, said); err != nil {
		t.Fatal(err)
	}
	return ended(t, c)
}

// TestUntold: a password that nobody knows yet lets nobody in, not even who asks for
// something only when it is known; and then it is the one that counts.
func TestUntold(t *testing.T) {
	f := run(t, Config{Untold: true}, nil)
	basic := "Proxy-Authorization: Basic " + base64.StdEncoding.EncodeToString([]byte("anna:stork")) + "\r\n"
	web := func(auth string) string {
		return "CONNECT 8.8.8.8:80 HTTP/1.1\r\nHost: 8.8.8.8:80\r\n" + auth + "Connection: close\r\n\r\n"
	}
	const login, request = "\x05\x01\x02\x01\x04anna\x05stork", "\x05\x01\x00\x01\x08\x08\x08\x08\x00\x50"
	check := func(when string, want map[string]string) {
		t.Helper()
		for said, want := range want {
			if got := say(t, f, said); !strings.HasPrefix(got, want) {
				t.Errorf("%s %q is answered %q, want %q", when, said, got, want)
			}
		}
	}
	early := connect(t, f)
	defer early.Close()
	if _, err := io.WriteString(early, login); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(early, make([]byte, 4)); err != nil { // the answer to the login
		t.Fatal(err)
	}
	check("before", map[string]string{
		web(""): "HTTP/1.1 407", web(basic): "HTTP/1.1 503", login + request: "\x05\x02\x01\x01", "\x05\x01\x00" + request: "\x05\xff",
		"\x04\x01\x00\x50\x08\x08\x08\x08anna\x00": "\x00\x5b",
	})
	if err := f.Demand("anna", "stork"); err != nil {
		t.Fatal(err)
	}
	_, _ = io.WriteString(early, request) // it may be closed
	if got := ended(t, early); got != "" {
		t.Errorf("who was there before is answered %q", got)
	}
	check("after", map[string]string{web(""): "HTTP/1.1 407", web(basic): "HTTP/1.1 502", login + request: "\x05\x02\x01\x00\x05\x05"})
}

// TestPasswordDialogues speaks every protocol with a right, a wrong and no
// password. The refuser refuses whatever gets as far as it.
func TestPasswordDialogues(t *testing.T) {
	var logged bytes.Buffer
	f := run(t, Config{User: "anna", Password: "s3cret:stork", Logger: slog.New(slog.NewTextHandler(&logged, &slog.HandlerOptions{Level: slog.LevelDebug}))}, nil)
	const request = "\x05\x01\x00\x01\x08\x08\x08\x08\x00\x50"
	const refused = "\x05\x05\x00\x01\x00\x00\x00\x00\x00\x00"
	basic := func(s string) string { return "Basic " + base64.StdEncoding.EncodeToString([]byte(s)) }
	connect := func(auth string) string {
		if auth != "" {
			auth = "Proxy-Authorization: " + auth + "\r\n"
		}
		return "CONNECT 8.8.8.8:80 HTTP/1.1\r\nHost: 8.8.8.8:80\r\n" + auth + "Connection: close\r\n\r\n"
	}
	forward := func(auth string) string {
		return strings.Replace(connect(auth), "CONNECT 8.8.8.8:80", "GET http://8.8.8.8/", 1)
	}
	for _, tt := range []struct{ name, said, want string }{
		{"right", "\x05\x01\x02\x01\x04anna\x0cs3cret:stork" + request, "\x05\x02\x01\x00" + refused},
		{"of many methods", "\x05\x03\x00\x01\x02\x01\x04anna\x0cs3cret:stork" + request, "\x05\x02\x01\x00" + refused},
		{"wrong password", "\x05\x01\x02\x01\x04anna\x0cs3cret:storc" + request, "\x05\x02\x01\x01"},
		{"wrong user", "\x05\x01\x02\x01\x04Anna\x0cs3cret:stork" + request, "\x05\x02\x01\x01"},
		{"empty", "\x05\x01\x02\x01\x00\x00" + request, "\x05\x02\x01\x01"},
		{"no method", "\x05\x01\x00" + request, "\x05\xff"},
		{"wrong version", "\x05\x01\x02\x05\x04anna\x0cs3cret:stork" + request, "\x05\x02"},
		{"associate without", "\x05\x01\x00\x05\x03\x00\x01\x00\x00\x00\x00\x00\x00", "\x05\xff"},
		{"SOCKS4", "\x04\x01\x00\x50\x08\x08\x08\x08anna\x00", "\x00\x5b\x00\x00\x00\x00\x00\x00"},
		{"SOCKS4a", "\x04\x01\x00\x50\x00\x00\x00\x01s3cret:stork\x00a\x00", "\x00\x5b\x00\x00\x00\x00\x00\x00"},
		{"CONNECT right", connect(basic("anna:s3cret:stork")), "HTTP/1.1 502"},
		{"CONNECT in lower case", connect("b" + basic("anna:s3cret:stork")[1:]), "HTTP/1.1 502"},
		{"CONNECT without", connect(""), "HTTP/1.1 407"},
		{"CONNECT wrong", connect(basic("anna:x")), "HTTP/1.1 407"},
		{"CONNECT no colon", connect(basic("anna")), "HTTP/1.1 407"},
		{"CONNECT no base64", connect("Basic !!!"), "HTTP/1.1 407"},
		{"CONNECT other scheme", connect("Bearer " + basic("anna:s3cret:stork")[6:]), "HTTP/1.1 407"},
		{"forward right", forward(basic("anna:s3cret:stork")), "HTTP/1.1 502"},
		{"forward without", forward(""), "HTTP/1.1 407"},
		{"forward wrong", forward(basic("anna:s3cret")), "HTTP/1.1 407"},
		{"https forward without", "GET https://8.8.8.8/ HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", "HTTP/1.1 407"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := say(t, f, tt.said)
			if web := strings.HasPrefix(tt.want, "HTTP"); !strings.HasPrefix(got, tt.want) || !web && got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
			if strings.HasPrefix(tt.want, "HTTP/1.1 407") != strings.Contains(got, "Proxy-Authenticate: Basic realm=\"proxy\"") {
				t.Errorf("got %q", got)
			}
		})
	}
	for _, secret := range []string{"s3cret", "anna"} {
		if strings.Contains(logged.String(), secret) {
			t.Errorf("the log has %q:\n%s", secret, &logged)
		}
	}
	// The dialogue stays on one connection, as browsers and curl have it.
	said := strings.Replace(connect(""), "Connection: close\r\n", "", 1) + connect(basic("anna:s3cret:stork"))
	if got := say(t, f, said); strings.Count(got, "HTTP/1.1 ") != 2 || !strings.Contains(got, "HTTP/1.1 502") {
		t.Errorf("two requests on one connection: %q", got)
	}
}
