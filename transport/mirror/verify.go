package mirror

import (
	"crypto/x509"

	utls "github.com/refraction-networking/utls"

	"busel/internal/certs"
)

// verifier judges a cover's certificate (rule 6). It is called on every
// connection, a resumed one included.
type verifier struct{ *certs.Verifier }

func newVerifier(name string, pin *[32]byte, roots *x509.CertPool) (verifier, error) {
	v, err := certs.New(name, pin, roots)
	return verifier{v}, err
}

// connection is for utls.Config.VerifyConnection.
func (v verifier) connection(s utls.ConnectionState) error {
	return v.Chain(s.PeerCertificates)
}

// tlsConfig is the configuration for one look's connection.
func (v verifier) tlsConfig() *utls.Config {
	return &utls.Config{
		ServerName:             v.Name(),
		InsecureSkipVerify:     true, // VerifyConnection does it, without the clock
		VerifyConnection:       v.connection,
		SessionTicketsDisabled: true,
		MinVersion:             utls.VersionTLS12,
	}
}
