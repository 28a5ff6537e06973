package main

import (
	"context"
	"crypto/tls"
	"io"
	"log"
	"log/slog"
	"net/http"
	"time"

	_ "golang.org/x/crypto/x509roots/fallback" // for systems without roots of their own, such as containers
	"golang.org/x/net/netutil"

	"busel/internal/acme"
	"busel/internal/cli"
	"busel/transport"
)

const (
	// authorityTimeout bounds one request to the authority.
	authorityTimeout = 30 * time.Second
	// plainConns, plainTimeout and plainHeader bound what visitors of port 80 cost:
	// connections at a time, their time and the bytes of a request.
	plainConns   = 256
	plainTimeout = 10 * time.Second
	plainHeader  = 8 << 10
	// plainAgain is between two tries to have that port, which another program may keep
	// for a while.
	plainAgain = time.Minute
)

// certified makes the TLS settings of a built-in cover whose certificate an authority
// issues, and what keeps that fresh. Until there is one the fallback is shown.
func (s *server) certified(fallback tls.Certificate) (*tls.Config, func(context.Context) error, error) {
	network := transport.System{}
	keeper, err := acme.New(acme.Config{
		Directory: s.set.ACME.Directory, Email: s.set.ACME.Email, Name: s.set.CoverName,
		Store: s.dir, Fallback: fallback, Logger: s.log,
		HTTP: &http.Client{Timeout: authorityTimeout, Transport: &http.Transport{DialContext: network.DialContext, ForceAttemptHTTP2: true}},
	})
	if err != nil {
		return nil, nil, err
	}
	settings := &tls.Config{
		GetCertificate: keeper.GetCertificate,
		NextProtos:     []string{"h2", "http/1.1", acme.Proto},
	}
	run := func(ctx context.Context) error {
		parts := []func(context.Context) error{keeper.Run}
		if at := s.set.ACME.HTTP; at != "" {
			parts = append(parts, func(ctx context.Context) error { return servePlain(ctx, network, at, keeper, s.log) })
		}
		return cli.RunAll(ctx, parts...)
	}
	return settings, run, nil
}

// servePlain serves plain HTTP until ctx ends. That the port cannot be had, or is
// lost, ends nothing: the relay does without, and tries again.
func servePlain(ctx context.Context, network transport.System, at string, h http.Handler, logger *slog.Logger) error {
	server := &http.Server{
		Handler: h, ReadTimeout: plainTimeout, WriteTimeout: plainTimeout, IdleTimeout: plainTimeout, MaxHeaderBytes: plainHeader,
		ErrorLog: log.New(io.Discard, "", 0), // it would write visitors' addresses
	}
	stop := context.AfterFunc(ctx, func() { _ = server.Close() })
	defer stop()
	tick := time.NewTicker(plainAgain)
	defer tick.Stop()
	for said := false; ; {
		l, err := network.Listen(ctx, at)
		if err == nil {
			said = false
			err = server.Serve(netutil.LimitListener(l, plainConns))
		}
		if ctx.Err() == nil && !said {
			said = true
			logger.Warn("no plain HTTP: visitors are not sent to https, and the authority can use TLS only", "err", reason(err))
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}
