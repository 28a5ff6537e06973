package certs

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

// name is the cover's.
const name = "www.cover.example"

// issuer issues certificates.
type issuer struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func (a *issuer) issue(t *testing.T, common string, ca bool, from, to time.Time) *issuer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: common}, NotBefore: from, NotAfter: to,
		IsCA: ca, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature,
	}
	if ca {
		tmpl.KeyUsage |= x509.KeyUsageCertSign
	} else {
		tmpl.DNSNames = []string{common}
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
	leaf := middle.issue(t, name, false, year(2002), year(2004)) // outlives its issuer
	future := root.issue(t, name, false, year(2038), year(2039))
	never := middle.issue(t, name, false, year(2005), year(2006)) // never valid with its issuer
	foreign := (*issuer)(nil).issue(t, "root", true, year(2000), year(2040)).issue(t, name, false, year(2002), year(2004))
	pool := x509.NewCertPool()
	pool.AddCert(root.cert)
	pin := sha256.Sum256(foreign.cert.Raw)
	for what, c := range map[string]struct {
		v     *Verifier
		certs []*x509.Certificate
		want  bool
	}{
		"long expired":    {&Verifier{name: name, roots: pool}, []*x509.Certificate{leaf.cert, middle.cert}, true},
		"not yet valid":   {&Verifier{name: name, roots: pool}, []*x509.Certificate{future.cert}, true},
		"no common time":  {&Verifier{name: name, roots: pool}, []*x509.Certificate{never.cert, middle.cert}, false},
		"no intermediate": {&Verifier{name: name, roots: pool}, []*x509.Certificate{leaf.cert}, false},
		"other name":      {&Verifier{name: "www.example", roots: pool}, []*x509.Certificate{leaf.cert, middle.cert}, false},
		"other authority": {&Verifier{name: name, roots: pool}, []*x509.Certificate{foreign.cert}, false},
		"pinned":          {&Verifier{name: "any", pin: &pin}, []*x509.Certificate{foreign.cert}, true},
		"other pin":       {&Verifier{name: name, pin: &pin, roots: pool}, []*x509.Certificate{leaf.cert, middle.cert}, false},
		"none":            {&Verifier{name: name, roots: pool}, nil, false},
	} {
		t.Run(what, func(t *testing.T) {
			err := c.v.Chain(c.certs)
			if (err == nil) != c.want || err != nil && !errors.Is(err, ErrRefused) {
				t.Errorf("chain: %v", err)
			}
		})
	}
}

// TestBuiltInRoots checks that the program brings its own authorities, and that
// they do not include one made here.
func TestBuiltInRoots(t *testing.T) {
	v, err := New(name, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	if v.roots.Equal(x509.NewCertPool()) {
		t.Error("no roots")
	}
	leaf := (*issuer)(nil).issue(t, name, false, time.Unix(0, 0), time.Unix(1<<32, 0))
	if err := v.Chain([]*x509.Certificate{leaf.cert}); !errors.Is(err, ErrRefused) {
		t.Errorf("a self-signed certificate: %v", err)
	}
}
