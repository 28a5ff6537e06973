package mirror

import (
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"time"

	utls "github.com/refraction-networking/utls"
	"golang.org/x/crypto/x509roots/fallback/bundle"
)

// errCertificate is what every refusal of a cover's certificate wraps.
var errCertificate = errors.New("the certificate is not the cover's")

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

// verifier judges a cover's certificate (rule 6). It is called on every
// connection, a resumed one included.
type verifier struct {
	name  string
	pin   *[32]byte // of the leaf
	roots *x509.CertPool
}

func newVerifier(name string, pin *[32]byte, roots *x509.CertPool) (*verifier, error) {
	v := &verifier{name: name, pin: pin, roots: roots}
	if pin == nil && roots == nil {
		var err error
		if v.roots, err = mozillaRoots(); err != nil {
			return nil, err
		}
	}
	return v, nil
}

// connection is for utls.Config.VerifyConnection.
func (v *verifier) connection(s utls.ConnectionState) error {
	return v.chain(s.PeerCertificates)
}

func (v *verifier) chain(certs []*x509.Certificate) error {
	if len(certs) == 0 {
		return fmt.Errorf("%w: there is none", errCertificate)
	}
	leaf := certs[0]
	if v.pin != nil {
		if sha256.Sum256(leaf.Raw) != *v.pin {
			return fmt.Errorf("%w: another hash than in the invite", errCertificate)
		}
		return nil
	}
	if err := leaf.VerifyHostname(v.name); err != nil {
		return fmt.Errorf("%w: it is for another name", errCertificate)
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
	return fmt.Errorf("%w: %w", errCertificate, err)
}

// tlsConfig is the configuration for one look's connection.
func (v *verifier) tlsConfig() *utls.Config {
	return &utls.Config{
		ServerName:             v.name,
		InsecureSkipVerify:     true, // VerifyConnection does it, without the clock
		VerifyConnection:       v.connection,
		SessionTicketsDisabled: true,
		MinVersion:             utls.VersionTLS12,
	}
}
