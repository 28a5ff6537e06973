package cover

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha1"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"time"
)

// SelfSigned makes a key and a certificate for a host name or an IP literal,
// for trying a relay out before it has a domain. The client pins it by hash.
// It looks like what the usual one-line openssl command leaves behind: ECDSA
// P-256, twenty random bytes as serial number, subject and issuer only the
// common name, marked as an authority, ten years from notBefore.
func SelfSigned(name string, notBefore time.Time) (certPEM, keyPEM []byte, err error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	serial := make([]byte, 20) // RFC 5280 section 4.1.2.2: at most 20 octets, positive
	_, _ = rand.Read(serial)   // never fails
	serial[0] = serial[0]&0x7f | 0x40
	public, err := key.PublicKey.Bytes()
	if err != nil {
		return nil, nil, err
	}
	id := sha1.Sum(public) // RFC 5280 section 4.2.1.2, method 1: a name, not a protection
	notBefore = notBefore.UTC().Truncate(time.Second)
	c := &x509.Certificate{
		SerialNumber:          new(big.Int).SetBytes(serial),
		Subject:               pkix.Name{CommonName: name},
		NotBefore:             notBefore,
		NotAfter:              notBefore.AddDate(0, 0, 3650),
		IsCA:                  true,
		BasicConstraintsValid: true,
		SubjectKeyId:          id[:],
		AuthorityKeyId:        id[:],
	}
	if ip := net.ParseIP(name); ip != nil {
		c.IPAddresses = []net.IP{ip}
	} else {
		c.DNSNames = []string{name}
	}
	der, err := x509.CreateCertificate(rand.Reader, c, c, key.Public(), key)
	if err != nil {
		return nil, nil, err
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}), nil
}
