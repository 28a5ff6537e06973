package acme

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"busel/internal/cover"
)

// files is a store in memory.
type files map[string][]byte

func (f files) ReadSecret(name string) ([]byte, error) {
	data, ok := f[name]
	if !ok {
		return nil, fs.ErrNotExist
	}
	return data, nil
}

func (f files) Write(name string, data []byte) error {
	f[name] = slices.Clone(data)
	return nil
}

// pair is a certificate and its key in one file, as the store has them.
func pair(t *testing.T, name string) []byte {
	t.Helper()
	cert, key, err := cover.SelfSigned(name, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return append(cert, key...)
}

func keeper(t *testing.T, f files, client *http.Client) *Keeper {
	t.Helper()
	text := pair(t, "own.example")
	own, err := tls.X509KeyPair(text, text)
	if err != nil {
		t.Fatal(err)
	}
	k, err := New(Config{Directory: "https://ca.example/dir", Name: "a.example", Store: f, Fallback: own, HTTP: client})
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func nameOf(t *testing.T, k *Keeper, protos ...string) string {
	t.Helper()
	cert, err := k.GetCertificate(&tls.ClientHelloInfo{SupportedProtos: protos})
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(cert.Certificate[0])
	if err != nil {
		t.Fatal(err)
	}
	return leaf.DNSNames[0]
}

// Which certificate is shown: the fallback, the kept one, the proof to the authority
// alone.
func TestGetCertificate(t *testing.T) {
	f := files{}
	if k := keeper(t, f, nil); nameOf(t, k) != "own.example" || k.Issued() != nil {
		t.Error("without any, the fallback is not shown")
	}
	f[certFile] = pair(t, "a.example")
	k := keeper(t, f, nil)
	if got := nameOf(t, k, "h2", "http/1.1"); got != "a.example" {
		t.Errorf("shows %s, want the kept one", got)
	}
	text := pair(t, "proof.example")
	cert, err := tls.X509KeyPair(text, text)
	if err != nil {
		t.Fatal(err)
	}
	k.proof.Store(&proof{certificate: &cert})
	if got := nameOf(t, k, Proto); got != "proof.example" {
		t.Errorf("shows the authority %s", got)
	}
	for _, protos := range [][]string{nil, {"h2"}, {"h2", Proto}} {
		if got := nameOf(t, k, protos...); got != "a.example" {
			t.Errorf("%q is shown %s", protos, got)
		}
	}
	k.proof.Store(&proof{path: "/x"})
	if got := nameOf(t, k, Proto); got != "a.example" {
		t.Errorf("a prober is shown %s", got)
	}
}

// Damaged files: a certificate is replaced, an account's key is asked about.
func TestKeptFiles(t *testing.T) {
	f := files{}
	keeper(t, f, nil)
	key := string(f[accountFile])
	keeper(t, f, nil)
	if string(f[accountFile]) != key {
		t.Error("a new account at each start")
	}
	for _, bad := range [][]byte{[]byte("x"), pair(t, "other.example"), nil} {
		f[certFile] = bad
		if k := keeper(t, f, nil); k.Issued() != nil {
			t.Errorf("%.20q is shown", bad)
		}
	}
	for _, bad := range []string{"", "x", string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: []byte{1}}))} {
		f[accountFile] = []byte(bad)
		if _, err := New(Config{Name: "a.example", Store: f}); err == nil || !strings.Contains(err.Error(), "a new account is made") {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

func TestPlainHTTP(t *testing.T) {
	k := keeper(t, files{}, nil)
	k.proof.Store(&proof{path: "/.well-known/acme-challenge/token", body: "token.print"})
	for _, tt := range []struct {
		host, target string
		status       int
		want         string
	}{
		{"a.example", "/.well-known/acme-challenge/token", 200, "token.print"},
		{"a.example", "/.well-known/acme-challenge/other", 308, "https://a.example/.well-known/acme-challenge/other"},
		{"a.example:80", "/b?c=d", 308, "https://a.example/b?c=d"},
		{"[2001:db8::1]:80", "/", 308, "https://[2001:db8::1]/"},
		{"", "/", 308, "https://a.example/"},
	} {
		r := httptest.NewRequest(http.MethodGet, "http://x"+tt.target, nil)
		r.Host = tt.host
		w := httptest.NewRecorder()
		k.ServeHTTP(w, r)
		got := w.Header().Get("Location")
		if tt.status == 200 {
			got = w.Body.String()
		}
		if w.Code != tt.status || got != tt.want {
			t.Errorf("%s%s: %d %q, want %d %q", tt.host, tt.target, w.Code, got, tt.status, tt.want)
		}
	}
}

type refuse struct{ at []time.Time }

func (r *refuse) RoundTrip(*http.Request) (*http.Response, error) {
	r.at = append(r.at, time.Now())
	return nil, errors.New("no network")
}

// An authority that does not answer is asked at the start and then ever more rarely;
// the site goes on, and why is kept for a person.
func TestRetries(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, net := files{}, &refuse{}
		k := keeper(t, f, &http.Client{Transport: net})
		ctx, cancel := context.WithCancel(t.Context())
		begin := time.Now()
		done := make(chan error, 1)
		go func() { done <- k.Run(ctx) }()
		time.Sleep(7 * 24 * time.Hour)
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("it ended with %v", err)
		}
		if len(net.at) == 0 || net.at[0].Sub(begin) != startDelay {
			t.Fatalf("first asked at %v", net.at)
		}
		hour := 0
		for _, at := range net.at {
			if at.Sub(begin) < time.Hour {
				hour++
			}
		}
		// The library asks a few times before it gives a try up.
		if hour > 20 || len(net.at) > 400 || len(net.at) < 20 {
			t.Errorf("asked %d times in the first hour, %d in a week", hour, len(net.at))
		}
		if !strings.Contains(string(f[ErrorFile]), "no network") {
			t.Errorf("what is kept: %q", f[ErrorFile])
		}
		if nameOf(t, k) != "own.example" {
			t.Error("the fallback is gone")
		}
	})
}

// Due after two thirds of the certificate's life, whichever that is.
func TestDue(t *testing.T) {
	k := keeper(t, files{}, nil)
	now := time.Now()
	if k.due(now) != 0 {
		t.Error("without one it is not due")
	}
	for _, days := range []int{6, 90} {
		life := time.Duration(days) * 24 * time.Hour
		k.current.Store(&tls.Certificate{Leaf: &x509.Certificate{NotBefore: now, NotAfter: now.Add(life)}})
		for range 100 {
			if d := k.due(now); d < life*60/100 || d > life*73/100 {
				t.Errorf("of %v due after %v", life, d)
			}
		}
		if d := k.due(now.Add(life)); d != 0 {
			t.Errorf("an ended one is due in %v", d)
		}
	}
}
