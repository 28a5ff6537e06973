//go:build linux

package e2e

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"

	"busel/internal/nginxtest"
)

// saying is what a program says.
func saying(t *testing.T, name string, args ...string) string {
	cmd := exec.CommandContext(t.Context(), name, args...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Errorf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// scanners look at a site at an address. Without roots they take every certificate.
func scanners(t *testing.T, site string, roots *x509.CertPool) map[string]func(address string) string {
	curl := func(version string) func(string) string {
		return func(address string) string {
			_, port, _ := net.SplitHostPort(address)
			return saying(t, "curl", "-sSik", version, "-A", "x", "--resolve", site+":"+port+":127.0.0.1", "https://"+site+":"+port+"/", "-w", "%{http_version} %{ssl_verify_result} %{num_redirects}")
		}
	}
	openssl := func(args ...string) func(string) string {
		return func(address string) string {
			return saying(t, "openssl", append([]string{"s_client", "-connect", address, "-servername", site, "-brief"}, args...)...)
		}
	}
	return map[string]func(address string) string{
		"curl HTTP/1.1":   curl("--http1.1"),
		"curl HTTP/2":     curl("--http2"),
		"openssl":         openssl(),
		"openssl TLS 1.2": openssl("-tls1_2"),
		"go": func(address string) string {
			transport := &http.Transport{TLSClientConfig: &tls.Config{ServerName: site, RootCAs: roots, InsecureSkipVerify: roots == nil}, ForceAttemptHTTP2: true}
			defer transport.CloseIdleConnections()
			answer, err := (&http.Client{Transport: transport}).Get("https://" + address + "/")
			if err != nil {
				t.Error(err)
				return ""
			}
			defer answer.Body.Close()
			body, err := io.ReadAll(answer.Body)
			answer.Header.Del("Date")
			s := answer.TLS
			return fmt.Sprint(answer.Status, answer.Header, err, string(body), s.Version, s.CipherSuite, s.CurveID, s.NegotiatedProtocol, len(s.PeerCertificates), s.OCSPResponse)
		},
	}
}

// What curl, openssl, a Go client and, when asked, nmap say of a relay is what they
// say of its cover. How probers of a censor see both is internal/prober's work.
func TestScannersAgree(t *testing.T) {
	need(t, "curl", "openssl")
	cover := nginxtest.Run(t, nginxtest.Config{})
	r := startRelay(t, relayOptions{cover: cover, quic: true})
	for name, look := range scanners(t, cover.Name, cover.Roots) {
		bare, relay := clean(look(cover.Address)), clean(look(r.listen))
		if bare != relay {
			t.Errorf("%s\nof the cover:\n%s\nof the relay:\n%s", name, bare, relay)
		}
		if len(bare) < 100 {
			t.Errorf("%s says nothing: %q", name, bare)
		}
	}
	nmapAgrees(t, cover.Address, r.listen, "nginx")
}

// nmapAgrees asks nmap, if it is wanted, what two servers are.
func nmapAgrees(t *testing.T, bare, relay, want string) {
	t.Helper()
	if os.Getenv("BUSEL_E2E_NMAP") == "" {
		t.Log("without nmap, which takes a minute: BUSEL_E2E_NMAP is not set")
		return
	}
	_, a, _ := net.SplitHostPort(bare)
	_, b, _ := net.SplitHostPort(relay)
	said := map[string]string{}
	for _, line := range regexp.MustCompile(`(?m)^(\d+)/tcp +(.*)$`).FindAllStringSubmatch(saying(t, "nmap", "-Pn", "-sV", "-p", a+","+b, "127.0.0.1"), -1) {
		said[line[1]] = line[2]
	}
	if said[a] == "" || said[a] != said[b] || !strings.Contains(said[b], want) {
		t.Errorf("nmap says %q", said)
	}
	t.Logf("nmap says of both: %s", said[b])
}

// changing is what differs between any two visits.
var changing = regexp.MustCompile(`(?mi)^date: .*$|^CONNECTION ESTABLISHED$|:\d{4,5}\b`)

func clean(s string) string { return changing.ReplaceAllString(s, "") }
