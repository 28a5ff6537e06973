package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"syscall"

	"busel/config"
	"busel/internal/cli"
	"busel/internal/exit"
	"busel/internal/state"
	"busel/internal/tunnel"
	"busel/transport"
)

// leave adds to c how and where connections leave, as the settings say. next is the
// other relay through which they do, or nil; the caller waits for its end after ctx.
func (s *server) leave(ctx context.Context, c *exit.Config) (next *tunnel.Relays, err error) {
	set := &s.set.Exit
	c.Web, c.Names = set.Web, set.Names
	network := transport.System{Source: set.Source}
	for _, ip := range set.Source {
		conn, err := transport.System{Source: []netip.Addr{ip}}.ListenPacket(ctx, "udp", ":0")
		if errors.Is(err, syscall.EADDRNOTAVAIL) {
			return nil, cli.Hint(fmt.Errorf("this machine does not have %v, from which it is to connect: %w", ip, err), "write an address that it has into source in [exit] of relayd.toml, or source = []")
		}
		if err != nil {
			return nil, err
		}
		conn.Close()
	}
	c.Network = network
	if set.Relay == nil {
		return nil, nil
	}
	key, err := s.dir.RelayKey()
	if err != nil {
		return nil, err
	}
	own := [32]byte(key.PublicKey().Bytes())
	if slices.ContainsFunc(set.Relay.Relays, func(e config.RelayEntry) bool { return e.Key == own }) {
		return nil, cli.Hint(errors.New("relay in [exit] of relayd.toml is an invite of this relay itself"), "write an invite of another one there")
	}
	next = tunnel.New(ctx, tunnel.Config{Logger: s.log})
	next.Sync([]state.Invite{{Label: "exit", Bundle: set.Relay}})
	if len(next.Links()) == 0 {
		return nil, cli.Hint(errors.New("the relay in [exit] of relayd.toml cannot be used"), "get a newer Busel, or an invite of another relay")
	}
	c.Next = next
	return next, nil
}

// nextState is how the relay that connections leave through is, in words; empty if
// there is none.
func nextState(next *tunnel.Relays) string {
	if next == nil {
		return ""
	}
	for _, l := range next.Links() {
		if len(l.Stats().Carriers) > 0 {
			return "connected"
		}
	}
	for _, l := range next.Links() {
		for _, p := range l.Paths() {
			if p.Failure != "" {
				return "not connected; last failure: " + string(p.Failure)
			}
		}
	}
	return "at rest"
}
