package mirror

import (
	"context"
	"crypto/x509"
	"errors"
	"time"

	"busel/transport"
)

// Trust says how a cover's certificate is judged, as in [DialerConfig].
type Trust struct {
	CertHash *[32]byte      // nil: verify the chain
	Roots    *x509.CertPool // nil: the built-in Mozilla roots
}

// CoverReport is what one genuine visit learned about a cover.
type CoverReport struct {
	TLS13     bool
	ALPN      string // "h2", "http/1.1" or empty
	Group     uint16 // key exchange group of the ServerHello (IANA), 0 if below TLS 1.3
	Retry     bool   // the cover did not choose x25519 or X25519MLKEM768 at the first ClientHello
	Status    int    // of GET /
	LeafHash  [32]byte
	ChainErr  error // nil: the certificate is good for the cover's name
	NotAfter  time.Time
	SelfIssue bool // self-signed: must be pinned by LeafHash
}

// Fit returns nil, or why the cover cannot be used and what to do.
func (r *CoverReport) Fit() error { return nil }

// CheckCover visits the cover once, as a client's browser look would.
func CheckCover(ctx context.Context, network transport.Network, cover Cover, trust Trust) (*CoverReport, error) {
	return nil, errors.New("not reached")
}

// MeasureIdle does one genuine visit with one request and waits for the cover's
// close. It returns how long the cover kept the idle connection, or 0 if it was
// still open when ctx ended.
func MeasureIdle(ctx context.Context, network transport.Network, cover Cover, trust Trust) (time.Duration, error) {
	return 0, errors.New("not reached")
}
