// Package acme keeps the certificate of one web site fresh, from an authority that
// speaks ACME (RFC 8555): for a host name, or for a bare IP address (RFC 8738) where
// the authority certifies those.
//
// It proves the name by a TLS visit (tls-alpn-01, RFC 8737), which needs nothing but
// the site itself, or over plain HTTP on port 80 (http-01). Whatever fails, the site
// goes on with the certificate that it has, and it is tried again later.
package acme

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	mathrand "math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	protocol "golang.org/x/crypto/acme"
)

// Proto is what a server has to offer in ALPN to be validated by TLS (RFC 8737,
// section 6.2).
const Proto = protocol.ALPNProto

// Names of the files in the store. The first two are secrets.
const (
	accountFile = "acme-account.key"
	certFile    = "acme.pem" // the chain, the site's certificate first, and its key
	// ErrorFile says why the last try failed, for a person; it is empty after one that
	// did not.
	ErrorFile = "acme-error.txt"
)

const (
	// issueTimeout bounds one try: authorities take seconds, validation from several
	// places up to a minute.
	issueTimeout = 5 * time.Minute
	// shortlived is the profile of certificates for addresses, which live six days
	// (Let's Encrypt's name for it).
	shortlived = "shortlived"
)

const (
	// startDelay is before the first try: the authority's visit comes to listeners
	// that begin at the same time. A relay that fails at once again and again so does
	// not press the authority.
	startDelay = 3 * time.Second
	// Between two tries, each of which fails twice: Let's Encrypt allows five failures
	// an hour for a name.
	retryFirst = 40 * time.Minute
	retryMost  = 6 * time.Hour
	// renewLeast is between two certificates, whatever the clock says.
	renewLeast = time.Hour
)

// Store keeps files that nobody else may read.
type Store interface {
	ReadSecret(name string) ([]byte, error) // the error wraps [fs.ErrNotExist]
	Write(name string, data []byte) error   // whole or not at all
}

// Config says which certificate is kept, and where from.
type Config struct {
	Directory string          // URL of the authority's directory
	Email     string          // where it warns; may be empty
	Name      string          // host name or IP address of the site
	Store     Store           // keeps the account's key, the certificate and its key
	Fallback  tls.Certificate // shown until there is one
	HTTP      *http.Client    // reaches the authority
	Logger    *slog.Logger    // nil means none
}

// Keeper keeps the certificate. Its methods may be called at the same time.
type Keeper struct {
	cfg     Config
	log     *slog.Logger
	client  *protocol.Client
	current atomic.Pointer[tls.Certificate] // nil: none was issued yet
	proof   atomic.Pointer[proof]           // of the try under way
}

// proof answers an authority's visit.
type proof struct {
	certificate *tls.Certificate // tls-alpn-01
	path, body  string           // http-01
}

// New reads what an earlier run left. It starts nothing.
func New(cfg Config) (*Keeper, error) {
	k := &Keeper{cfg: cfg, log: cfg.Logger}
	if k.log == nil {
		k.log = slog.New(slog.DiscardHandler)
	}
	key, err := k.accountKey()
	if err != nil {
		return nil, err
	}
	k.client = &protocol.Client{Key: key, DirectoryURL: cfg.Directory, HTTPClient: cfg.HTTP, UserAgent: "Mozilla/5.0"}
	switch cert, err := readCertificate(cfg.Store, cfg.Name); {
	case err == nil:
		k.current.Store(cert)
	case !errors.Is(err, fs.ErrNotExist):
		// A relay goes on without; a new one replaces it.
		k.log.Warn("the kept certificate is of no use", "err", err)
	}
	return k, nil
}

func (k *Keeper) accountKey() (crypto.Signer, error) {
	data, err := k.cfg.Store.ReadSecret(accountFile)
	if errors.Is(err, fs.ErrNotExist) {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			return nil, err
		}
		text, err := keyPEM(key)
		if err != nil {
			return nil, err
		}
		return key, k.cfg.Store.Write(accountFile, text)
	}
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(data)
	if block == nil {
		return nil, fmt.Errorf("%s holds no key; remove it, and a new account is made", accountFile)
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("%s: %w; remove it, and a new account is made", accountFile, err)
	}
	signer, ok := key.(*ecdsa.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("%s is a key of another kind; remove it, and a new account is made", accountFile)
	}
	return signer, nil
}

func keyPEM(key any) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

// readCertificate reads a kept certificate and sees that it is for the name. One that
// has ended is read, too: clients that pin or ignore dates are served by it, and
// nobody is served better by the fallback.
func readCertificate(s Store, name string) (*tls.Certificate, error) {
	data, err := s.ReadSecret(certFile)
	if err != nil {
		return nil, err
	}
	cert, err := tls.X509KeyPair(data, data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", certFile, err)
	}
	if err := cert.Leaf.VerifyHostname(name); err != nil {
		return nil, fmt.Errorf("%s: %w", certFile, err)
	}
	return &cert, nil
}

// Issued returns the certificate of the authority, or nil if there is none yet.
func (k *Keeper) Issued() *tls.Certificate { return k.current.Load() }

// GetCertificate is for [tls.Config]: the site's certificate, and the proof for the
// authority's visit.
func (k *Keeper) GetCertificate(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	if slices.Equal(hello.SupportedProtos, []string{Proto}) {
		if p := k.proof.Load(); p != nil && p.certificate != nil {
			return p.certificate, nil
		}
	}
	if cert := k.current.Load(); cert != nil {
		return cert, nil
	}
	return &k.cfg.Fallback, nil
}

// ServeHTTP answers on port 80: the authority's visit, and everyone else with a
// redirection to https, as Caddy does.
func (k *Keeper) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if p := k.proof.Load(); p != nil && p.path != "" && r.URL.Path == p.path && r.Method == http.MethodGet {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		_, _ = w.Write([]byte(p.body)) // the visitor may have left
		return
	}
	host := r.Host
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
		if strings.Contains(h, ":") {
			host = "[" + h + "]"
		}
	}
	if host == "" {
		host = k.cfg.Name
	}
	w.Header().Set("Location", "https://"+host+r.URL.RequestURI())
	w.Header().Set("Connection", "close")
	w.WriteHeader(http.StatusPermanentRedirect)
}

// Run fetches certificates as they become due, until ctx ends. No failure ends it.
func (k *Keeper) Run(ctx context.Context) error {
	again, least := retryFirst, startDelay
	for {
		timer := time.NewTimer(max(least, k.due(time.Now())))
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return context.Cause(ctx)
		}
		err := k.renew(ctx)
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case err == nil:
			again, least = retryFirst, renewLeast
			if err := k.cfg.Store.Write(ErrorFile, nil); err != nil {
				k.log.Warn("the last failure cannot be forgotten", "err", err)
			}
		default:
			least, again = again/2+mathrand.N(again), min(2*again, retryMost)
			k.log.Debug("no new certificate", "err", err)
			k.log.Warn("no new certificate; the site goes on with the one that it has, and `relayd check` says more", "problem", problem(err), "retry", least.Round(time.Second))
			if err := k.cfg.Store.Write(ErrorFile, []byte(err.Error()+"\n")); err != nil {
				k.log.Warn("the reason cannot be kept", "err", err)
			}
		}
	}
}

// problem is what kind of failure it is, without the names and addresses in it: the
// last part of an ACME problem type (RFC 8555, section 6.7), such as "dns".
func problem(err error) string {
	if p, ok := errors.AsType[*protocol.Error](err); ok && p.ProblemType != "" {
		return p.ProblemType[strings.LastIndexByte(p.ProblemType, ':')+1:]
	}
	if a, ok := errors.AsType[*protocol.AuthorizationError](err); ok && len(a.Errors) > 0 {
		return problem(a.Errors[0])
	}
	return "no answer"
}

// due is how long the certificate may stay: two thirds of its life, and up to a
// tenth more or less, so that not all relays come at the same hour.
func (k *Keeper) due(now time.Time) time.Duration {
	cert := k.current.Load()
	if cert == nil {
		return 0
	}
	life := cert.Leaf.NotAfter.Sub(cert.Leaf.NotBefore)
	at := cert.Leaf.NotBefore.Add(life*2/3 - life/20 + mathrand.N(life/10+1))
	return max(0, at.Sub(now))
}

// renew gets a certificate. What one way of proof did not do the other one may.
func (k *Keeper) renew(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, issueTimeout)
	defer cancel()
	defer k.proof.Store(nil)
	directory, err := k.client.Discover(ctx)
	if err != nil {
		return fmt.Errorf("the authority does not answer: %w", err)
	}
	account := &protocol.Account{}
	if k.cfg.Email != "" {
		account.Contact = []string{"mailto:" + k.cfg.Email}
	}
	// The volunteer agreed by naming the authority.
	if _, err := k.client.Register(ctx, account, protocol.AcceptTOS); err != nil && !errors.Is(err, protocol.ErrAccountAlreadyExists) {
		return fmt.Errorf("the authority gives no account: %w", err)
	}
	var errs []error
	for _, kind := range []string{"tls-alpn-01", "http-01"} {
		cert, err := k.issue(ctx, &directory, kind)
		if err == nil {
			k.current.Store(cert)
			k.log.Info("the site has a new certificate", "until", cert.Leaf.NotAfter.UTC().Format(time.DateOnly))
			return nil
		}
		errs = append(errs, fmt.Errorf("by %s: %w", kind, err))
		if ctx.Err() != nil {
			break
		}
	}
	return errors.Join(errs...)
}

// issue makes one order and proves the name in one way.
func (k *Keeper) issue(ctx context.Context, directory *protocol.Directory, kind string) (*tls.Certificate, error) {
	ids := protocol.DomainIDs(k.cfg.Name)
	request := &x509.CertificateRequest{DNSNames: []string{k.cfg.Name}}
	var options []protocol.OrderOption
	if ip, err := netip.ParseAddr(k.cfg.Name); err == nil {
		ids = protocol.IPIDs(ip.String())
		request = &x509.CertificateRequest{IPAddresses: []net.IP{ip.AsSlice()}}
		if _, ok := directory.Profiles[shortlived]; ok {
			options = append(options, protocol.WithOrderIssuanceProfile(shortlived))
		}
	}
	order, err := k.client.AuthorizeOrder(ctx, ids, options...)
	if err != nil {
		return nil, err
	}
	for _, url := range order.AuthzURLs {
		if err := k.prove(ctx, url, kind); err != nil {
			return nil, err
		}
	}
	ready, err := k.client.WaitOrder(ctx, order.URI)
	if err != nil {
		return nil, err
	}
	ready.URI = order.URI
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	csr, err := x509.CreateCertificateRequest(rand.Reader, request, key)
	if err != nil {
		return nil, err
	}
	chain, _, err := k.client.CreateCertFromOrder(ctx, ready, csr, true)
	if err != nil {
		return nil, err
	}
	text, err := keyPEM(key)
	if err != nil {
		return nil, err
	}
	var file []byte
	for _, der := range chain {
		file = append(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...)
	}
	file = append(file, text...)
	cert, err := tls.X509KeyPair(file, file)
	if err != nil {
		return nil, err
	}
	if err := cert.Leaf.VerifyHostname(k.cfg.Name); err != nil {
		return nil, err
	}
	return &cert, k.cfg.Store.Write(certFile, file)
}

// prove shows the authority that the name is ours.
func (k *Keeper) prove(ctx context.Context, url, kind string) error {
	authz, err := k.client.GetAuthorization(ctx, url)
	if err != nil {
		return err
	}
	if authz.Status == protocol.StatusValid {
		return nil
	}
	i := slices.IndexFunc(authz.Challenges, func(c *protocol.Challenge) bool { return c.Type == kind })
	if i < 0 {
		return errors.New("the authority does not offer it")
	}
	challenge := authz.Challenges[i]
	p := new(proof)
	if kind == "http-01" {
		p.path = k.client.HTTP01ChallengePath(challenge.Token)
		p.body, err = k.client.HTTP01ChallengeResponse(challenge.Token)
	} else {
		var cert tls.Certificate
		cert, err = k.client.TLSALPN01ChallengeCert(challenge.Token, k.cfg.Name)
		p.certificate = &cert
	}
	if err != nil {
		return err
	}
	k.proof.Store(p)
	if _, err := k.client.Accept(ctx, challenge); err != nil {
		return err
	}
	_, err = k.client.WaitAuthorization(ctx, authz.URI)
	return err
}
