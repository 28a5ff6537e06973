package mirror

import (
	"context"
	"crypto/ecdh"
	"log/slog"
	"net"
	"time"

	"busel/transport"
)

// Cover is the one web site that a relay forwards to.
type Cover struct {
	Address        string        // host:port to dial
	Name           string        // SNI that clients use
	Borrowed       bool          // another host's site: the relay proves itself first
	Idle, Lifetime time.Duration // how long it keeps a connection without a request, and at all; 0 unknown or for ever
}

// ListenerConfig configures a relay's listener.
type ListenerConfig struct {
	// Listen opens the port. It is called again after the cover was down, when
	// the port was closed as the cover's would be (rule 11).
	Listen   func(context.Context) (net.Listener, error)
	Key      *ecdh.PrivateKey // s, on X25519
	Cover    Cover
	Network  transport.Network // dials the cover; nil means transport.System
	Logger   *slog.Logger      // nil discards
	MaxConns int               // connections at a time, strangers' included; beyond it nothing is accepted; 0 means 4096
}

// Stats are counts since the start, but for the two gauges.
type Stats struct {
	Strangers    uint64 // connections that were plain visits
	Candidates   uint64 // connections whose ClientHello knew the relay's key
	Carriers     uint64 // hellos that were answered with a carrier
	Conns        int64  // gauge: connections open now
	CarriersOpen int64  // gauge: carriers open now
	CovertIn     uint64 // bytes of covert records read
	CovertOut    uint64 // bytes of covert records written
	CoverFailed  uint64 // failed dials to the cover
}

// Listener is the relay's side. Its life is [Listener.Run].
type Listener struct{ cfg ListenerConfig }

var _ transport.Listener = (*Listener)(nil)

// NewListener checks cfg and starts nothing.
func NewListener(cfg ListenerConfig) (*Listener, error) { return &Listener{cfg: cfg}, nil }

// Run accepts and forwards until ctx ends, then closes every connection, waits
// for them, and returns nil; any other end is an error. It is called once.
func (l *Listener) Run(ctx context.Context) error { <-ctx.Done(); return nil }

// Accept implements [transport.Listener].
func (l *Listener) Accept(ctx context.Context) (transport.Pending, error) {
	<-ctx.Done()
	return nil, context.Cause(ctx)
}

// Close implements [transport.Listener].
func (l *Listener) Close() error { return nil }

// Stats returns the counts so far.
func (l *Listener) Stats() Stats { return Stats{} }
