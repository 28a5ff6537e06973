//go:build linux

package e2e

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"busel/internal/cover"
)

// authority is Pebble, the ACME server by which Let's Encrypt tests clients.
type authority struct {
	directory string
	roots     *x509.CertPool
	rootsFile string
	end       func()
}

// startAuthority runs Pebble, which looks for proofs on these ports, with a
// certificate of its own.
func startAuthority(t *testing.T, program string, cert, key []byte, tlsPort, httpPort string) *authority {
	t.Helper()
	dir := t.TempDir()
	write := func(name string, data []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	a := &authority{roots: x509.NewCertPool()}
	number := func(s string) int { n, _ := strconv.Atoi(s); return n }
	listen, manage := freePort(t), freePort(t)
	settings, err := json.Marshal(map[string]any{"pebble": map[string]any{
		"listenAddress": listen, "managementListenAddress": manage, "certificate": write("cert.pem", cert), "privateKey": write("key.pem", key),
		"tlsPort": number(tlsPort), "httpPort": number(httpPort), "retryAfter": map[string]int{"authz": 1, "order": 1},
		"profiles": map[string]any{
			"default":    map[string]any{"description": "default", "validityPeriod": 90 * 24 * 3600},
			"shortlived": map[string]any{"description": "short", "validityPeriod": 6 * 24 * 3600},
		},
	}})
	if err != nil {
		t.Fatal(err)
	}
	var said output
	cmd := exec.CommandContext(t.Context(), program, "-config", write("pebble.json", settings), "-dnsserver", startNames(t))
	cmd.Env = append(os.Environ(), "PEBBLE_VA_NOSLEEP=1")
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() { defer close(ended); _ = cmd.Wait() }()
	a.end = func() { _ = cmd.Process.Kill(); <-ended }
	t.Cleanup(func() {
		a.end()
		if t.Failed() {
			t.Logf("Pebble:\n%s", &said)
		}
	})
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
	eventually(t, 15*time.Second, "Pebble answers", func() bool {
		answer, err := client.Get("https://" + manage + "/roots/0")
		if err != nil {
			return false
		}
		defer answer.Body.Close()
		text, err := io.ReadAll(answer.Body)
		a.rootsFile = write("roots.pem", text)
		return err == nil && a.roots.AppendCertsFromPEM(text)
	})
	a.directory = "https://" + listen + "/dir"
	return a
}

// startNames is a name server, over TCP as Pebble asks, by which every name leads to
// 127.0.0.1.
func startNames(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	t.Cleanup(func() { l.Close(); wg.Wait() })
	wg.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer conn.Close()
				_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
				for answerName(conn) == nil {
				}
			})
		}
	})
	return l.Addr().String()
}

// answerName answers one query (RFC 1035, section 4.2.2).
func answerName(conn net.Conn) error {
	var size [2]byte
	if _, err := io.ReadFull(conn, size[:]); err != nil {
		return err
	}
	query := make([]byte, binary.BigEndian.Uint16(size[:]))
	if _, err := io.ReadFull(conn, query); err != nil {
		return err
	}
	var m dnsmessage.Message
	if err := m.Unpack(query); err != nil {
		return err
	}
	m.Response, m.Authoritative, m.Additionals = true, true, nil
	for _, q := range m.Questions {
		if q.Type == dnsmessage.TypeA {
			m.Answers = append(m.Answers, dnsmessage.Resource{
				Header: dnsmessage.ResourceHeader{Name: q.Name, Type: q.Type, Class: q.Class, TTL: 60},
				Body:   &dnsmessage.AResource{A: [4]byte{127, 0, 0, 1}},
			})
		}
	}
	answer, err := m.Pack()
	if err != nil {
		return err
	}
	_, err = conn.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(answer))), answer...))
	return err
}

// shown is the certificate of what answers there.
func shown(ctx context.Context, address, name string, roots *x509.CertPool) (*x509.Certificate, error) {
	d := &tls.Dialer{Config: &tls.Config{ServerName: name, RootCAs: roots, InsecureSkipVerify: roots == nil}}
	conn, err := d.DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	return conn.(*tls.Conn).ConnectionState().PeerCertificates[0], nil
}

// A relay with the built-in site gets its certificate from a real ACME server, for a
// name and for an address, in both ways of proof; without the server it serves on.
func TestACME(t *testing.T) {
	pebble := filepath.Join(t.TempDir(), "pebble")
	build := exec.Command("go", "build", "-modfile=../../scripts/tools/go.mod", "-o", pebble, "github.com/letsencrypt/pebble/v2/cmd/pebble")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("building Pebble: %v\n%s", err, out)
	}
	// relayd has to know the authority's own certificate, as it knows a public one's.
	cert, key, err := cover.SelfSigned("127.0.0.1", time.Now().Add(-time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	ca := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, cert, 0o600); err != nil {
		t.Fatal(err)
	}
	const rootsVariable = "SSL_CERT_FILE" // crypto/x509; t.Setenv allows no parallel tests
	if err := os.Setenv(rootsVariable, ca); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.Unsetenv(rootsVariable) })
	port := func(hostPort string) string { _, p, _ := net.SplitHostPort(hostPort); return p }
	// relay sets one up; it is not started.
	relay := func(t *testing.T, name, listen, plain, directory string) (dir string) {
		dir = t.TempDir()
		invite := command(t, "", "relayd", "init", "-dir", dir, "-address", listen, "-cover", "builtin", "-cover-name", name, "-acme", directory)
		if !strings.HasPrefix(invite, "busel:") {
			t.Errorf("no invite: %s", invite)
		}
		file := filepath.Join(dir, "relayd.toml")
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		edited := replaceLine(t, string(text), "listen", fmt.Sprintf("listen = [%q]", listen))
		edited = replaceLine(t, edited, "http", fmt.Sprintf("http = %q", plain))
		if err := os.WriteFile(file, []byte(edited), 0o600); err != nil {
			t.Fatal(err)
		}
		return dir
	}
	const domain, nobody = "news.example.org", "9"
	for _, tt := range []struct {
		title, name string
		tls, http   bool // the authority finds the proof there
		days        int  // of the certificate; 0 means any, as Pebble draws a profile
	}{
		{"name, by TLS", domain, true, false, 0},
		{"name, by HTTP", domain, false, true, 0},
		{"address", "127.0.0.1", true, false, 6},
	} {
		t.Run(tt.title, func(t *testing.T) {
			t.Parallel()
			listen, plain := freePort(t), freePort(t)
			tlsPort, httpPort := nobody, nobody
			if tt.tls {
				tlsPort = port(listen)
			}
			if tt.http {
				httpPort = port(plain)
			}
			a := startAuthority(t, pebble, cert, key, tlsPort, httpPort)
			dir := relay(t, tt.name, listen, plain, a.directory)
			p := start(t, dir, "relayd", "run", "-dir", dir)
			t.Cleanup(func() {
				if why, err := os.ReadFile(filepath.Join(dir, "acme-error.txt")); t.Failed() && err == nil {
					t.Logf("it failed: %s", why)
				}
			})
			var leaf *x509.Certificate
			eventually(t, 20*time.Second, "a certificate of the authority", func() (ok bool) {
				var err error
				leaf, err = shown(t.Context(), listen, tt.name, a.roots)
				return err == nil
			})
			if days := int(leaf.NotAfter.Sub(leaf.NotBefore).Hours()+1) / 24; tt.days > 0 && days != tt.days {
				t.Errorf("it lives %d days, want %d", days, tt.days)
			}
			if !strings.Contains(p.err.String(), "new certificate") {
				t.Error("it is not logged")
			}
			// A browser's settings, and the visitor of port 80.
			page := curl(t, "--cacert", a.rootsFile, "--resolve", domain+":"+port(listen)+":127.0.0.1", "https://"+net.JoinHostPort(tt.name, port(listen))+"/")
			if !strings.Contains(string(page), "<html") {
				t.Errorf("the site shows %.100q", page)
			}
			moved, err := exec.Command("curl", "-sS", "-o", "/dev/null", "-w", "%{http_code} %{redirect_url}", "-H", "Host: "+tt.name, "http://"+plain+"/a?b").Output()
			if want := "308 https://" + tt.name + "/a?b"; err != nil || string(moved) != want {
				t.Errorf("port 80 says %q, %v, want %q", moved, err, want)
			}
			if tt.http {
				return
			}
			// Started again without the authority: the same one, at once.
			p.end()
			a.end()
			start(t, dir, "relayd", "run", "-dir", dir)
			eventually(t, 15*time.Second, "the kept certificate", func() bool {
				again, err := shown(t.Context(), listen, tt.name, a.roots)
				return err == nil && again.Equal(leaf)
			})
		})
	}
	t.Run("no authority", func(t *testing.T) {
		t.Parallel()
		listen := freePort(t)
		taken, err := net.Listen("tcp", "127.0.0.1:0") // and so is port 80
		if err != nil {
			t.Fatal(err)
		}
		defer taken.Close()
		dir := relay(t, domain, listen, taken.Addr().String(), "https://127.0.0.1:9/dir")
		p := start(t, dir, "relayd", "run", "-dir", dir)
		eventually(t, 30*time.Second, "a word on the failure", func() bool {
			return strings.Contains(p.err.String(), "no new certificate") && strings.Contains(p.err.String(), "no plain HTTP")
		})
		p.end() // check reads what is on disk
		var report bytes.Buffer
		check := exec.Command(filepath.Join(bin, "relayd"), "check", "-dir", dir)
		check.Stdout = &report
		_ = check.Run()
		if !strings.Contains(report.String(), "connection refused") {
			t.Errorf("check does not say what the authority did: %s", &report)
		}
		start(t, dir, "relayd", "run", "-dir", dir)
		eventually(t, 15*time.Second, "the relay", func() bool { return answers(listen) })
		if leaf, err := shown(t.Context(), listen, domain, nil); err != nil || leaf.Issuer.CommonName != domain {
			t.Errorf("the relay shows %v, %v, want the self-made certificate", leaf, err)
		}
	})
}
