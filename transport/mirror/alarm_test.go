package mirror

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"busel/transport"
)

// TestAlert checks that who forged a certificate reads Chromium's alert, with
// every cipher suite and with TLS 1.2.
func TestAlert(t *testing.T) {
	openssl, err := exec.LookPath("openssl")
	if err != nil {
		t.Skip("openssl is not installed")
	}
	cert, _ := certificate(t, coverName)
	key, err := x509.MarshalPKCS8PrivateKey(cert.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "forger.pem")
	text := append(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Certificate[0]}),
		pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key})...)
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	s := goSite(t, func(c *tls.Config) {}) // whom the client expects
	for name, args := range map[string][]string{
		"aes 128": {"-ciphersuites", "TLS_AES_128_GCM_SHA256"},
		"aes 256": {"-ciphersuites", "TLS_AES_256_GCM_SHA384"},
		"chacha":  {"-ciphersuites", "TLS_CHACHA20_POLY1305_SHA256"},
		"retry":   {"-groups", "P-384"},
		"tls 1.2": {"-tls1_2"},
	} {
		t.Run(name, func(t *testing.T) {
			cmd := exec.CommandContext(t.Context(), openssl, append([]string{
				"s_server", "-accept", "127.0.0.1:0", "-naccept", "1", "-cert", file, "-key", file, "-msg"}, args...)...)
			var said bytes.Buffer
			if _, err := cmd.StdinPipe(); err != nil { // its end would end openssl
				t.Fatal(err)
			}
			out, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			lines := bufio.NewScanner(out)
			addr := ""
			for lines.Scan() {
				said.WriteString(lines.Text() + "\n")
				if _, at, ok := strings.Cut(lines.Text(), "ACCEPT "); ok {
					addr = at
					break
				}
			}
			if _, _, err := net.SplitHostPort(addr); err != nil {
				t.Skipf("openssl does not tell its port: %s", &said)
			}
			r := &relay{addr: addr, key: newKey(t), site: s}
			d := r.dialer(t, nil)
			_, _, err = d.Dial(testContext(t), r.route(), testHello())
			if e := dialFailure(t, err); e.Failure != transport.Hijacked || e.Stage != transport.StageTLS {
				t.Errorf("Dial: %v", err)
			}
			for lines.Scan() {
				said.WriteString(lines.Text() + "\n")
			}
			_ = cmd.Wait() // the handshake failed
			if got := said.String(); !strings.Contains(got, "fatal certificate_unknown") || strings.Contains(got, "bad_certificate") {
				t.Errorf("openssl says:\n%s", got)
			}
		})
	}
}
