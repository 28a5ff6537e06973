package mirror

import (
	"context"
	"crypto/x509"
	"log/slog"

	"busel/internal/wire"
	"busel/transport"
)

// DialerConfig is one relay as an invite describes it.
type DialerConfig struct {
	PublicKey [32]byte // S, the relay's X25519 key
	CoverName string   // SNI, and the name in the cover's certificate
	// CertHash is the SHA-256 of the DER of a self-signed cover's leaf
	// certificate; nil verifies the chain and CoverName against Roots.
	CertHash *[32]byte
	// Roots are what the cover's chain must lead to; nil means the Mozilla roots
	// built into the program, never the system's: a censor's may be in it.
	// Validity dates are ignored: a resident's clock may be wrong.
	Roots *x509.CertPool
	// Proof says that the cover is borrowed: a genuine request goes first, and
	// nothing covert is sent before the relay has shown itself.
	Proof   bool
	Network transport.Network // nil means transport.System with a browser's keepalive
	Logger  *slog.Logger      // nil discards
}

// Dialer makes carriers to one relay. It is safe for concurrent use.
type Dialer struct{ cfg DialerConfig }

var _ transport.Dialer = (*Dialer)(nil)

// NewDialer checks cfg and starts nothing.
func NewDialer(cfg DialerConfig) (*Dialer, error) { return &Dialer{cfg: cfg}, nil }

// Dial implements [transport.Dialer].
func (d *Dialer) Dial(ctx context.Context, r transport.Route, hello *wire.Hello) (transport.Carrier, *wire.Accept, error) {
	return nil, nil, &transport.DialError{Route: r, Err: context.Cause(ctx)}
}

// Close ends all carriers and waits until nothing of the dialer runs.
func (d *Dialer) Close() error { return nil }
