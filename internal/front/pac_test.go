package front_test

import (
	"fmt"
	"net/url"
	"strings"
	"testing"

	"busel/internal/front"
)

// TestPAC: whoever asks at the right address gets it, with and without a
// password; it names this proxy and nothing else; it opens nothing but itself.
func TestPAC(t *testing.T) {
	for _, c := range []front.Config{{}, {User: "u", Password: "p"}, {Listen: "[::1]:0"}} {
		c.Pages = residents()
		f := start(t, c)
		if want := "http://" + f.Addr().String() + "/proxy.pac"; f.PACURL() != want {
			t.Errorf("URL %q, want %q", f.PACURL(), want)
		}
		port := f.Addr().Port()
		for _, host := range []string{f.Addr().String(), fmt.Sprintf("localhost:%d", port), fmt.Sprintf("[::1]:%d", port)} {
			res, body := ask(t, f, "GET", "/proxy.pac", "Host: "+host)
			want := "function FindProxyForURL(url, host) {\n  return \"PROXY " + f.Addr().String() + "\";\n}\n"
			if res.StatusCode != 200 || res.Header.Get("Content-Type") != "application/x-ns-proxy-autoconfig" || body != want {
				t.Errorf("%s: %s %v\n%s", host, res.Status, res.Header, body)
			}
			if res.Header.Get("Cross-Origin-Resource-Policy") != "same-origin" || res.Header.Get("X-Content-Type-Options") != "nosniff" ||
				res.Header.Get("Cache-Control") != "no-store" {
				t.Errorf("headers %v", res.Header)
			}
			if len(res.Cookies()) != 0 || strings.Contains(body, "DIRECT") {
				t.Errorf("%v\n%s", res.Header, body)
			}
		}
		own := "Host: " + f.Addr().String()
		if res, body := ask(t, f, "HEAD", "/proxy.pac", own); res.StatusCode != 200 || body != "" {
			t.Errorf("HEAD: %s %q", res.Status, body)
		}
		if res, _ := ask(t, f, "GET", "/proxy.pac?t=1", own); res.StatusCode != 200 {
			t.Errorf("with a query: %s", res.Status)
		}
		for _, tt := range [][2]string{
			{"GET", "/proxy.pac/"}, {"GET", "/"}, {"GET", "/status.json"}, {"POST", "/proxy.pac"}, {"GET", "//proxy.pac"}, {"GET", "/proxy.pac/../status.json"},
		} {
			if res, body := ask(t, f, tt[0], tt[1], own); res.StatusCode != 403 || strings.Contains(body, "PROXY") {
				t.Errorf("%s %s: %s", tt[0], tt[1], res.Status)
			}
		}
		for _, host := range []string{"rebound.example", fmt.Sprintf("rebound.example:%d", port), "127.0.0.1:1", "127.0.0.1", fmt.Sprintf("192.0.2.1:%d", port)} {
			if res, body := ask(t, f, "GET", "/proxy.pac", "Host: "+host); res.StatusCode != 403 || strings.Contains(body, "PROXY") {
				t.Errorf("%s: %s %s", host, res.Status, body)
			}
		}
		if u, err := url.Parse(f.PACURL()); err != nil || u.Host != f.Addr().String() {
			t.Errorf("%v, %v", u, err)
		}
	}
}
