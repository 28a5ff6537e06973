// Package nginxtest runs a real nginx, on loopback or in another [Host], as a
// cover site for tests, the lab and benchmarks.
//
// A relay promises that a stranger cannot tell it from the web server behind
// it (DESIGN.md section 1, invariant 2), so what it is measured against must
// be that web server and not an imitation. [Start] writes a private directory
// with a site, a certificate signed by an authority made on the spot and an
// nginx.conf, runs nginx from it, and hands back the addresses and the roots.
// [Server.Close] ends nginx and removes the directory; on Linux nginx also
// ends when the process that started it dies.
//
// nginx takes over sockets that are already listening (its mechanism for
// upgrades without a pause, variable NGINX), so two tests can never pick the
// same port and nobody has to wait for one to open.
package nginxtest

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// Config says what nginx to run. The zero value is an ordinary site: HTTP/2,
// TLS 1.2 and 1.3, nginx's own time-outs.
type Config struct {
	// Name is the host name in the certificate; "" means "cover.test".
	Name string
	// Host is where nginx runs and listens; nil means this process's network.
	Host Host
	// Parent is the folder in which to make the private one; "" means the
	// system's for temporary files.
	Parent string
	// Address is where to serve TLS, host:port; "" means a free port on loopback.
	// A server can so come back on the address of one that was closed.
	Address string
	// Also are more addresses of the same, such as one of IPv6.
	Also []string
	// Plain is where to serve plain HTTP, like Address.
	Plain string
	// Protocols is the value of ssl_protocols; "" means "TLSv1.2 TLSv1.3".
	Protocols string
	// Curves is the value of ssl_ecdh_curve, such as "secp384r1", which forces
	// a HelloRetryRequest on most clients; "" means "auto" as in nginx.
	Curves string
	// NoHTTP2 leaves h2 out of ALPN.
	NoHTTP2 bool
	// KeepaliveTimeout ends a connection that is idle for so long, in whole
	// seconds; 0 means nginx's 75 s.
	KeepaliveTimeout time.Duration
	// KeepaliveTime ends a connection at the next request after so long, in
	// whole seconds; 0 means nginx's 1 h.
	KeepaliveTime time.Duration
	// HeaderTimeout bounds the TLS handshake and the request's header, in whole
	// seconds; 0 means nginx's 60 s.
	HeaderTimeout time.Duration
	// RSA gives the site an RSA key of 2048 bits instead of ECDSA P-256, so that
	// every signature, and with it every flight, has the same length.
	RSA bool
	// Large is the size in bytes of the file /large.bin, random bytes; 0 means
	// that there is none.
	Large int64
	// Workers is the number of worker processes; 0 means 1.
	Workers int
	// Connections is worker_connections, of each worker, listening sockets included;
	// 0 means 8192.
	Connections int
	// Extra is put into the server block as it is, such as "error_page 404 /;".
	Extra string
}

// Host is a network that nginx can run in, such as a network namespace.
// Addresses are literal ones.
type Host interface {
	Listen(ctx context.Context, network, address string) (net.Listener, error) // of a *net.TCPListener
	Dial(ctx context.Context, network, address string) (net.Conn, error)
	Start(cmd *exec.Cmd) error // to end with this process
}

// here is the network of this process.
type here struct{}

// Listen opens a listening socket as nginx would: Go's own listeners offer
// multipath TCP, which shows in the SYN-ACK.
func (here) Listen(ctx context.Context, network, address string) (net.Listener, error) {
	var lc net.ListenConfig
	lc.SetMultipathTCP(false)
	return lc.Listen(ctx, network, address)
}

func (here) Dial(ctx context.Context, network, address string) (net.Conn, error) {
	return (&net.Dialer{}).DialContext(ctx, network, address)
}

func (here) Start(cmd *exec.Cmd) error {
	cmd.SysProcAttr = dieWithParent()
	return cmd.Start()
}

// Server is an nginx that runs.
type Server struct {
	Address string         // host:port of the TLS site
	Plain   string         // host:port of the same site over plain HTTP
	Name    string         // host name in the certificate
	Roots   *x509.CertPool // the authority that signed the certificate
	Leaf    *x509.Certificate
	Dir     string // nginx.conf, the certificate chain cert.pem, its authority ca.pem, html/
	PID     int    // nginx's master process; its children serve

	host  Host
	cmd   *exec.Cmd
	ended chan struct{}
	close func() error
}

// Available returns nil if nginx can be run here, and otherwise an error that
// says what is missing.
func Available() error {
	if _, err := exec.LookPath("nginx"); err != nil {
		return errors.New("nginx is not installed")
	}
	return nil
}

// Run starts nginx for a test and ends it at the test's cleanup. Without nginx
// the test is skipped.
func Run(tb testing.TB, cfg Config) *Server {
	tb.Helper()
	if err := Available(); err != nil {
		tb.Skip(err)
	}
	s, err := Start(context.Background(), cfg)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := s.Close(); err != nil {
			tb.Error(err)
		}
	})
	return s
}

// Start runs nginx and returns when it has answered a TLS handshake. The
// caller closes the server. ctx bounds the start only.
func Start(ctx context.Context, cfg Config) (_ *Server, err error) {
	if cfg.Name == "" {
		cfg.Name = "cover.test"
	}
	if cfg.Host == nil {
		cfg.Host = here{}
	}
	dir, err := os.MkdirTemp(cfg.Parent, "nginxtest-")
	if err != nil {
		return nil, err
	}
	s := &Server{host: cfg.Host, Name: cfg.Name, Dir: dir, Roots: x509.NewCertPool(), ended: make(chan struct{})}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.RemoveAll(dir))
		}
	}()
	if err := s.writeCertificates(cfg.RSA); err != nil {
		return nil, err
	}
	if err := writeSite(filepath.Join(dir, "html"), cfg.Large); err != nil {
		return nil, err
	}

	sockets, addresses, err := cfg.listen(ctx)
	defer func() { // nginx has its own
		for _, f := range sockets {
			f.Close()
		}
	}()
	if err != nil {
		return nil, err
	}
	s.Plain, s.Address = addresses[0], addresses[1]
	conf := filepath.Join(dir, "nginx.conf")
	if err := os.WriteFile(conf, []byte(cfg.render(s, addresses[1:])), 0o600); err != nil {
		return nil, err
	}
	var output bytes.Buffer
	s.cmd = exec.Command("nginx", "-p", dir, "-c", conf, "-e", "stderr")
	s.cmd.Stdout, s.cmd.Stderr = &output, &output
	s.cmd.ExtraFiles = sockets
	inherited := "NGINX=" // "these listen already"
	for i := range sockets {
		inherited += fmt.Sprintf("%d;", 3+i) // the first of ExtraFiles is descriptor 3
	}
	s.cmd.Env = append(os.Environ(), inherited)
	s.cmd.WaitDelay = 10 * time.Second // for workers that outlive the master
	if err := s.host.Start(s.cmd); err != nil {
		return nil, err
	}
	s.PID = s.cmd.Process.Pid
	go func() {
		_ = s.cmd.Wait() // killed by a signal is how it is meant to end
		close(s.ended)
	}()
	s.close = sync.OnceValue(func() error {
		_ = s.cmd.Process.Signal(terminate)
		select {
		case <-s.ended:
		case <-time.After(5 * time.Second):
			_ = s.cmd.Process.Kill()
			<-s.ended
		}
		return os.RemoveAll(dir)
	})
	if err := s.probe(ctx); err != nil {
		_ = s.close()
		return nil, fmt.Errorf("nginx does not serve: %w: %s", err, output.String())
	}
	return s, nil
}

// Close ends nginx, closes its connections at once and removes its directory.
// It may be called more than once.
func (s *Server) Close() error { return s.close() }

// ClientConfig is a configuration for crypto/tls that trusts the server.
func (s *Server) ClientConfig(alpn ...string) *tls.Config {
	return &tls.Config{ServerName: s.Name, RootCAs: s.Roots, NextProtos: alpn}
}

// probe does one handshake, or says that the process ended.
func (s *Server) probe(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	stop := make(chan struct{})
	defer close(stop)
	go func() {
		select {
		case <-s.ended:
			cancel()
		case <-stop:
		}
	}()
	raw, err := s.host.Dial(ctx, "tcp", s.Address)
	if err != nil {
		return err
	}
	c := tls.Client(raw, &tls.Config{
		// Only that it speaks TLS counts here: an IP literal as a name, or
		// protocols that Go does not offer by default, must not fail the start.
		InsecureSkipVerify: true,
		MinVersion:         tls.VersionTLS10,
	})
	return errors.Join(c.HandshakeContext(ctx), c.Close())
}

// listen opens the sockets for plain HTTP and, after that, for TLS. It returns
// what it opened even if it fails.
func (cfg Config) listen(ctx context.Context) (sockets []*os.File, addresses []string, err error) {
	for _, address := range append([]string{cfg.Plain, cfg.Address}, cfg.Also...) {
		if address == "" {
			address = "127.0.0.1:0"
		}
		l, err := cfg.Host.Listen(ctx, "tcp", address)
		if err != nil {
			return sockets, nil, err
		}
		addresses = append(addresses, l.Addr().String())
		f, err := l.(*net.TCPListener).File()
		_ = l.Close() // f remains
		if err != nil {
			return sockets, nil, err
		}
		sockets = append(sockets, f)
	}
	return sockets, addresses, nil
}

func (cfg Config) render(s *Server, secure []string) string {
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	seconds := func(d time.Duration, otherwise int) int {
		if d == 0 {
			return otherwise
		}
		return max(1, int(d/time.Second))
	}
	line("daemon off;")
	// Never "master_process off": nginx 1.22 then crashes on inherited sockets.
	line("worker_processes %d;", max(1, cfg.Workers))
	if os.Geteuid() == 0 {
		line("user root;") // the private directory is closed to others
	}
	line("pid %s/nginx.pid;", s.Dir)
	line("error_log stderr crit;")
	connections := cfg.Connections
	if connections == 0 {
		connections = 8192
	}
	line("worker_rlimit_nofile %d;", max(16384, 2*connections))
	line("events { worker_connections %d; }", connections)
	line("http {")
	for _, kind := range []string{"client_body", "proxy", "fastcgi", "uwsgi", "scgi"} {
		line("  %s_temp_path %s/tmp-%s;", kind, s.Dir, kind)
	}
	line("  types { text/html html; text/css css; image/png png; application/octet-stream bin; }")
	line("  access_log off;")
	line("  server_tokens off;")
	line("  sendfile on;")
	line("  keepalive_timeout %ds;", seconds(cfg.KeepaliveTimeout, 75))
	line("  keepalive_time %ds;", seconds(cfg.KeepaliveTime, 3600))
	line("  keepalive_requests 1000000;")
	line("  client_header_timeout %ds;", seconds(cfg.HeaderTimeout, 60))
	line("  server {")
	h2 := " http2"
	if cfg.NoHTTP2 {
		h2 = ""
	}
	for _, address := range secure {
		line("    listen %s ssl%s;", address, h2)
	}
	line("    listen %s;", s.Plain)
	line("    server_name %s;", cfg.Name)
	line("    root %s/html;", s.Dir)
	line("    ssl_certificate %s/cert.pem;", s.Dir)
	line("    ssl_certificate_key %s/key.pem;", s.Dir)
	if cfg.Protocols == "" {
		cfg.Protocols = "TLSv1.2 TLSv1.3"
	}
	line("    ssl_protocols %s;", cfg.Protocols)
	if cfg.Curves != "" {
		line("    ssl_ecdh_curve %s;", cfg.Curves)
	}
	if cfg.Extra != "" {
		line("    %s", cfg.Extra)
	}
	line("  }")
	line("}")
	return b.String()
}

// writeSite makes a page, a style sheet and perhaps a large file.
func writeSite(dir string, large int64) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	files := map[string]string{
		"index.html": "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>The Millpond News</title>" +
			"<link rel=\"stylesheet\" href=\"/site.css\"></head>\n<body><h1>The Millpond News</h1>\n" +
			strings.Repeat("<p>The heron is back at the weir, and so are the children who count its fish.</p>\n", 40) +
			"</body></html>\n",
		"site.css": "body { font: 16px/1.5 serif; max-width: 40em; margin: 2em auto; }\n",
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			return err
		}
	}
	if large == 0 {
		return nil
	}
	f, err := os.OpenFile(filepath.Join(dir, "large.bin"), os.O_WRONLY|os.O_CREATE, 0o644)
	if err != nil {
		return err
	}
	block := make([]byte, 1<<20)
	for left := large; left > 0; left -= int64(len(block)) {
		block = block[:min(left, int64(len(block)))]
		_, _ = rand.Read(block) // never fails
		if _, err := f.Write(block); err != nil {
			_ = f.Close()
			return err
		}
	}
	return f.Close()
}

// writeCertificates makes an authority and a certificate for s.Name and for
// the loopback addresses, and keeps what clients need in s.
func (s *Server) writeCertificates(useRSA bool) error {
	start := time.Now().Add(-24 * time.Hour)
	rootKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	root := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "Busel test authority"},
		NotBefore: start, NotAfter: start.AddDate(1, 0, 0),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	rootDER, err := x509.CreateCertificate(rand.Reader, root, root, rootKey.Public(), rootKey)
	if err != nil {
		return err
	}
	if root, err = x509.ParseCertificate(rootDER); err != nil {
		return err
	}
	s.Roots.AddCert(root)

	var key crypto.Signer
	if useRSA {
		key, err = rsa.GenerateKey(rand.Reader, 2048)
	} else {
		key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	}
	if err != nil {
		return err
	}
	leaf := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: s.Name},
		NotBefore: start, NotAfter: start.AddDate(0, 0, 90),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback},
	}
	if ip := net.ParseIP(s.Name); ip != nil {
		leaf.IPAddresses = append(leaf.IPAddresses, ip)
	} else {
		leaf.DNSNames = []string{s.Name}
	}
	der, err := x509.CreateCertificate(rand.Reader, leaf, root, key.Public(), rootKey)
	if err != nil {
		return err
	}
	if s.Leaf, err = x509.ParseCertificate(der); err != nil {
		return err
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	for name, block := range map[string]*pem.Block{
		"cert.pem": {Type: "CERTIFICATE", Bytes: der},
		"ca.pem":   {Type: "CERTIFICATE", Bytes: rootDER},
		"key.pem":  {Type: "PRIVATE KEY", Bytes: private},
	} {
		if err := os.WriteFile(filepath.Join(s.Dir, name), pem.EncodeToMemory(block), 0o600); err != nil {
			return err
		}
	}
	return nil
}
