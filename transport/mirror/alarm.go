package mirror

import (
	"bytes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"errors"
	"hash"

	utls "github.com/refraction-networking/utls"
	"golang.org/x/crypto/chacha20poly1305"
)

// alertUnknown is certificate_unknown (RFC 8446, section 6), which Chromium 156
// sends for a certificate that it does not trust, as measured with OpenSSL.
const alertUnknown = 46

// alarm makes the browser's alert for a refused certificate. The TLS stack has
// another one of the same length, bad_certificate, and whoever forged the
// certificate could read the difference.
type alarm struct {
	secret []byte // the client's handshake traffic secret
}

// Write takes the TLS stack's key log, and keeps one secret of it.
func (a *alarm) Write(line []byte) (int, error) {
	if f := bytes.Fields(line); len(f) == 3 && string(f[0]) == "CLIENT_HANDSHAKE_TRAFFIC_SECRET" {
		secret, err := hex.DecodeString(string(f[2]))
		if err != nil {
			return 0, err
		}
		a.secret = secret
	}
	return len(line), nil
}

// record is the alert as the first record under the handshake keys, or in the
// clear below TLS 1.3.
func (a *alarm) record(version, suite uint16) ([]byte, error) {
	if version < utls.VersionTLS13 {
		return []byte{recordAlert, 3, 3, 0, 2, 2, alertUnknown}, nil
	}
	var h func() hash.Hash = sha256.New
	size := 16
	switch suite {
	case utls.TLS_AES_128_GCM_SHA256:
	case utls.TLS_AES_256_GCM_SHA384:
		h, size = sha512.New384, 32
	case utls.TLS_CHACHA20_POLY1305_SHA256:
		size = chacha20poly1305.KeySize
	default:
		return nil, errors.New("cipher suite has no alert of ours")
	}
	// HKDF-Expand-Label of RFC 8446, section 7.1.
	derive := func(label string, n int) ([]byte, error) {
		info := "\x00" + string(rune(n)) + string(rune(len("tls13 "+label))) + "tls13 " + label + "\x00"
		return hkdf.Expand(h, a.secret, info, n)
	}
	key, err := derive("key", size)
	if err != nil {
		return nil, err
	}
	iv, err := derive("iv", 12) // and nonce of record 0
	if err != nil {
		return nil, err
	}
	var aead cipher.AEAD
	if suite == utls.TLS_CHACHA20_POLY1305_SHA256 {
		aead, err = chacha20poly1305.New(key)
		if err != nil {
			return nil, err
		}
	} else {
		aead = newGCM(key)
	}
	header := []byte{recordData, 3, 3, 0, 3 + tagLen}
	return aead.Seal(header, iv, []byte{2, alertUnknown, recordAlert}, header), nil
}
