package capture

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// Options of [Take].
type Options struct {
	Browser string // a program: chromium, firefox-esr, or a path
	Pages   int    // names that are visited, each once fresh and once resumed; at least 1
	// Proxy, if not empty, is the host:port of a SOCKS5 proxy that all goes through;
	// the proxy has to bring the names of the site to Site.
	Proxy string
}

// Take starts the browser, leads it over the site and returns its visits in order.
// It takes a few seconds, and as long as ctx at most.
func Take(ctx context.Context, o Options) ([]Visit, error) {
	path, err := exec.LookPath(o.Browser)
	if err != nil {
		return nil, err
	}
	s, err := newSite(o.Pages)
	if err != nil {
		return nil, err
	}
	profile, err := os.MkdirTemp("", "busel-look-")
	if err != nil {
		_ = s.ln.Close()
		return nil, err
	}
	defer os.RemoveAll(profile)
	ctx, cancel := context.WithCancel(ctx)
	served := make(chan struct{})
	go func() {
		defer close(served)
		s.run(ctx)
	}()
	defer func() {
		cancel()
		<-served
	}()
	args, err := s.arguments(path, profile, o)
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(path, args...)
	cmd.Env = append(os.Environ(), "HOME="+profile)
	group(cmd)
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	defer func() {
		end(cmd)
		if ended != nil {
			<-ended
		}
	}()
	select {
	case <-s.done:
	case err := <-ended:
		ended = nil
		if err == nil {
			err = errors.New("it ended")
		}
		return nil, fmt.Errorf("%s does not run: %w", filepath.Base(path), err)
	case <-ctx.Done():
		visits, err := s.taken()
		return nil, errors.Join(fmt.Errorf("after %d pages: %w", len(visits), context.Cause(ctx)), err)
	}
	visits, err := s.taken()
	if len(visits) > 0 {
		err = nil // one that was broken off by the browser
	}
	return visits, err
}

// Firefox reports whether a program is Firefox by its name. Everything else is taken
// for a Chromium.
func Firefox(path string) bool {
	return strings.Contains(strings.ToLower(filepath.Base(path)), "firefox")
}

func (s *site) arguments(path, profile string, o Options) ([]string, error) {
	if Firefox(path) {
		return s.firefox(profile, o)
	}
	key := s.spki()
	args := []string{"--headless", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
		"--disable-sync", "--disable-component-update", "--user-data-dir=" + profile,
		"--ignore-certificate-errors-spki-list=" + base64.StdEncoding.EncodeToString(key[:]),
	}
	if o.Proxy != "" {
		args = append(args, "--proxy-server=socks5://"+o.Proxy)
	} else {
		args = append(args, "--no-proxy-server", "--host-resolver-rules=MAP *.look.example 127.0.0.1, MAP * ~NOTFOUND")
	}
	if os.Geteuid() == 0 {
		args = append(args, "--no-sandbox") // which Chromium refuses to root
	}
	return append(args, "--remote-debugging-port=0", s.url(0, false)), nil
}

func (s *site) firefox(profile string, o Options) ([]string, error) {
	var local, overrides strings.Builder
	overrides.WriteString("# PSM Certificate Override Settings file\n")
	for n := range s.pages + 1 {
		if n > 0 {
			local.WriteByte(',')
		}
		local.WriteString(host(n))
		var hex []string
		for _, b := range sha256.Sum256(s.cert.Certificate[0]) {
			hex = append(hex, fmt.Sprintf("%02X", b))
		}
		fmt.Fprintf(&overrides, "%s:%s:\tOID.2.16.840.1.101.3.4.2.1\t%s\t\n", host(n), s.port, strings.Join(hex, ":"))
	}
	prefs := fmt.Sprintf(`user_pref("network.dns.localDomains", "%s");
user_pref("network.captive-portal-service.enabled", false);
user_pref("network.connectivity-service.enabled", false);
user_pref("network.http.http3.enable", false);
user_pref("browser.shell.checkDefaultBrowser", false);
user_pref("app.update.enabled", false);
user_pref("browser.aboutwelcome.enabled", false);
user_pref("datareporting.policy.dataSubmissionEnabled", false);
`, local.String())
	if o.Proxy != "" {
		h, p, _ := strings.Cut(o.Proxy, ":")
		prefs += fmt.Sprintf(`user_pref("network.proxy.type", 1);
user_pref("network.proxy.socks", "%s");
user_pref("network.proxy.socks_port", %s);
user_pref("network.proxy.socks_remote_dns", true);
`, h, p)
	} else {
		prefs += "user_pref(\"network.proxy.type\", 0);\n"
	}
	for name, text := range map[string]string{"user.js": prefs, "cert_override.txt": overrides.String()} {
		if err := os.WriteFile(filepath.Join(profile, name), []byte(text), 0o600); err != nil {
			return nil, err
		}
	}
	return []string{"--headless", "--no-remote", "--profile", profile, s.url(0, false)}, nil
}
