// Package certs judges the certificate of a cover site, for every transport in
// which a client visits one. It asks neither the system's store, in which a
// censor's authority may be, nor the clock, which may be wrong.
package certs

import (
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"time"

	"golang.org/x/crypto/x509roots/fallback/bundle"
)

// ErrRefused is what every refusal of a certificate wraps.
var ErrRefused = errors.New("the certificate is not the cover's")

// maxTimes bounds the moments at which a chain is tried: a peer may send many
// certificates.
const maxTimes = 16

// mozillaRoots are the roots built into the program.
func mozillaRoots() (*x509.CertPool, error) {
	pool := x509.NewCertPool()
	for root := range bundle.Roots() {
		cert, err := x509.ParseCertificate(root.Certificate)
		if err != nil {
			return nil, fmt.Errorf("built-in root certificates: %w", err)
		}
		if root.Constraint != nil {
			pool.AddCertWithConstraint(cert, root.Constraint)
		} else {
			pool.AddCert(cert)
		}
	}
	return pool, nil
}

// Verifier judges a cover's certificate (docs/PROTOCOL.md, rule 6). It is safe
// for concurrent use.
type Verifier struct {
	name  string
	pin   *[32]byte // of the leaf
	roots *x509.CertPool
}

// New returns the verifier for a host name or IP literal. pin is SHA-256 of the
// certificate (DER) if it is pinned, and then decides alone; roots nil means
// those built into the program.
func New(name string, pin *[32]byte, roots *x509.CertPool) (*Verifier, error) {
	v := &Verifier{name: name, pin: pin, roots: roots}
	if pin == nil && roots == nil {
		var err error
		if v.roots, err = mozillaRoots(); err != nil {
			return nil, err
		}
	}
	return v, nil
}

// Name returns the name that certificates are judged for.
func (v *Verifier) Name() string { return v.name }

// Chain judges what a server showed, the leaf first. The error wraps
// [ErrRefused].
func (v *Verifier) Chain(certs []*x509.Certificate) error {
	if len(certs) == 0 {
		return fmt.Errorf("%w: there is none", ErrRefused)
	}
	leaf := certs[0]
	if v.pin != nil {
		if sha256.Sum256(leaf.Raw) != *v.pin {
			return fmt.Errorf("%w: another hash than in the invite", ErrRefused)
		}
		return nil
	}
	if err := leaf.VerifyHostname(v.name); err != nil {
		return fmt.Errorf("%w: it is for another name", ErrRefused)
	}
	opts := x509.VerifyOptions{Roots: v.roots, Intermediates: x509.NewCertPool()}
	for _, c := range certs[1:] {
		opts.Intermediates.AddCert(c)
	}
	// The clock may be wrong, so any moment will do at which all are valid: one
	// of them is where a certificate's time begins or ends.
	var times []time.Time
	for _, c := range certs {
		times = append(times, c.NotBefore, c.NotAfter)
	}
	var err error
	for _, t := range times[:min(len(times), maxTimes)] {
		opts.CurrentTime = t
		if _, err = leaf.Verify(opts); err == nil {
			return nil
		}
	}
	return fmt.Errorf("%w: %w", ErrRefused, err)
}
