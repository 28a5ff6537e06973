package mirror

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"math/big"
	"testing"
	"time"
)

// issuer issues certificates.
type issuer struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func (a *issuer) issue(t *testing.T, name string, ca bool, from, to time.Time) *issuer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: name}, NotBefore: from, NotAfter: to,
		IsCA: ca, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature,
	}
	if ca {
		tmpl.KeyUsage |= x509.KeyUsageCertSign
	} else {
		tmpl.DNSNames = []string{name}
	}
	parent, signer := tmpl, key
	if a != nil {
		parent, signer = a.cert, a.key
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, parent, &key.PublicKey, signer)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &issuer{cert, key}
}

func TestVerify(t *testing.T) {
	year := func(y int) time.Time { return time.Date(y, 1, 1, 0, 0, 0, 0, time.UTC) }
	root := (*issuer)(nil).issue(t, "root", true, year(2000), year(2040))
	middle := root.issue(t, "middle", true, year(2001), year(2003))
	leaf := middle.issue(t, coverName, false, year(2002), year(2004)) // outlives its issuer
	future := root.issue(t, coverName, false, year(2038), year(2039))
	never := middle.issue(t, coverName, false, year(2005), year(2006)) // never valid with its issuer
	foreign := (*issuer)(nil).issue(t, "root", true, year(2000), year(2040)).issue(t, coverName, false, year(2002), year(2004))
	pool := x509.NewCertPool()
	pool.AddCert(root.cert)
	pin := sha256.Sum256(foreign.cert.Raw)
	for name, c := range map[string]struct {
		v     verifier
		certs []*x509.Certificate
		want  bool
	}{
		"long expired":    {verifier{name: coverName, roots: pool}, []*x509.Certificate{leaf.cert, middle.cert}, true},
		"not yet valid":   {verifier{name: coverName, roots: pool}, []*x509.Certificate{future.cert}, true},
		"no common time":  {verifier{name: coverName, roots: pool}, []*x509.Certificate{never.cert, middle.cert}, false},
		"no intermediate": {verifier{name: coverName, roots: pool}, []*x509.Certificate{leaf.cert}, false},
		"other name":      {verifier{name: "www.example", roots: pool}, []*x509.Certificate{leaf.cert, middle.cert}, false},
		"other authority": {verifier{name: coverName, roots: pool}, []*x509.Certificate{foreign.cert}, false},
		"pinned":          {verifier{name: "any", pin: &pin}, []*x509.Certificate{foreign.cert}, true},
		"other pin":       {verifier{name: coverName, pin: &pin, roots: pool}, []*x509.Certificate{leaf.cert, middle.cert}, false},
		"none":            {verifier{name: coverName, roots: pool}, nil, false},
	} {
		t.Run(name, func(t *testing.T) {
			err := c.v.chain(c.certs)
			if (err == nil) != c.want || err != nil && !errors.Is(err, errCertificate) {
				t.Errorf("chain: %v", err)
			}
		})
	}
}

// TestBuiltInRoots checks that the program brings its own authorities, and that
// they do not include one made here.
func TestBuiltInRoots(t *testing.T) {
	v, err := newVerifier(coverName, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	if v.roots.Equal(x509.NewCertPool()) {
		t.Error("no roots")
	}
	_, leaf := certificate(t, coverName)
	if err := v.chain([]*x509.Certificate{leaf}); !errors.Is(err, errCertificate) {
		t.Errorf("a self-signed certificate: %v", err)
	}
}
