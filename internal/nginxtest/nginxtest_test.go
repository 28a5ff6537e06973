package nginxtest_test

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"syscall"
	"testing"

	"busel/internal/nginxtest"
)

func get(t *testing.T, s *nginxtest.Server, cfg *tls.Config, path string) (*http.Response, int64) {
	t.Helper()
	tr := &http.Transport{TLSClientConfig: cfg, ForceAttemptHTTP2: true}
	defer tr.CloseIdleConnections()
	resp, err := (&http.Client{Transport: tr}).Get("https://" + s.Address + path)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	n, err := io.Copy(io.Discard, resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, n
}

func TestServesAndEnds(t *testing.T) {
	if err := nginxtest.Available(); err != nil {
		t.Skip(err)
	}
	for _, workers := range []int{1, 2} {
		s, err := nginxtest.Start(context.Background(), nginxtest.Config{Large: 3<<20 + 17, Workers: workers})
		if err != nil {
			t.Fatal(err)
		}
		resp, _ := get(t, s, s.ClientConfig(), "/")
		if resp.StatusCode != 200 || resp.ProtoMajor != 2 || resp.TLS.Version != tls.VersionTLS13 {
			t.Errorf("status %d, %s, TLS %#x; want 200, HTTP/2, TLS 1.3", resp.StatusCode, resp.Proto, resp.TLS.Version)
		}
		if _, n := get(t, s, s.ClientConfig(), "/large.bin"); n != 3<<20+17 {
			t.Errorf("large file has %d bytes", n)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		if _, err := os.Stat(s.Dir); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("the directory is still there: %v", err)
		}
		if _, err := net.Dial("tcp", s.Address); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("after Close: %v, want a refusal", err)
		}

		again, err := nginxtest.Start(context.Background(), nginxtest.Config{Address: s.Address, NoHTTP2: true})
		if err != nil {
			t.Fatal(err)
		}
		if resp, _ := get(t, again, again.ClientConfig(), "/"); resp.ProtoMajor != 1 || again.Address != s.Address {
			t.Errorf("%s on %s, want HTTP/1.1 on the old address", resp.Proto, again.Address)
		}
		if err := again.Close(); err != nil {
			t.Error(err)
		}
	}
}

func TestOptions(t *testing.T) {
	old := nginxtest.Run(t, nginxtest.Config{Protocols: "TLSv1.2", Name: "old.test"})
	if resp, _ := get(t, old, old.ClientConfig(), "/"); resp.TLS.Version != tls.VersionTLS12 {
		t.Errorf("TLS %#x, want 1.2", resp.TLS.Version)
	}
	retry := nginxtest.Run(t, nginxtest.Config{Curves: "secp384r1"})
	resp, _ := get(t, retry, retry.ClientConfig(), "/")
	if !resp.TLS.HelloRetryRequest || resp.TLS.CurveID != tls.CurveP384 {
		t.Errorf("curve %v, retry %v", resp.TLS.CurveID, resp.TLS.HelloRetryRequest)
	}
}

func TestBadConfig(t *testing.T) {
	if err := nginxtest.Available(); err != nil {
		t.Skip(err)
	}
	if s, err := nginxtest.Start(context.Background(), nginxtest.Config{Extra: "no_such_directive;"}); err == nil {
		_ = s.Close()
		t.Error("nginx started with a broken configuration")
	} else {
		t.Log(err)
	}
}
