package main

import (
	"context"
	"flag"
	"fmt"
	"time"

	"busel/config"
	"busel/internal/cli"
	"busel/internal/flow"
	"busel/internal/state"
	"busel/transport/quic"
)

func inviteCommand() cli.Command {
	return cli.Command{
		Name: "invite", Summary: "make a further invite",
		Help: `
Makes an invite for one person and prints it: one line of text, and on a terminal
its QR code below. Who has it can use this relay, so hand it over in private. A
name helps you to tell invites apart; the person never sees it.`,
		Flags: func(flags *flag.FlagSet) cli.Action {
			dir := dirFlag(flags)
			name := flags.String("name", "", "`name` of the invite, for you (default invite-1, invite-2 ...)")
			expires := flags.String("expires", "never", "when it ends: `30d`, 6w, a day such as 2027-01-31, or never")
			png := flags.String("png", "", "`file` to write the QR code to as a picture")
			limits := addLimitFlags(flags)
			return func(ctx context.Context, std cli.Std, args []string) error {
				if len(args) > 0 {
					return &cli.UsageError{Reason: fmt.Sprintf("unexpected argument %q; a name is given with -name", args[0])}
				}
				var most state.Limits
				if err := limits.apply(&most); err != nil {
					return err
				}
				expiry, err := config.ParseExpiry(*expires, time.Now())
				if err != nil {
					return &cli.UsageError{Reason: err.Error()}
				}
				d, err := openDir(*dir)
				if err != nil {
					return err
				}
				defer d.Close()
				set, err := settings(d)
				if err != nil {
					return err
				}
				in, err := newInvite(ctx, d, &set, *name, expiry, most)
				if err != nil {
					return err
				}
				if _, err := tell(ctx, d); err != nil {
					return err
				}
				return cli.PrintInvite(std, in, *png)
			}
		},
	}
}

// newInvite issues an invite and enters it in the ledger.
func newInvite(ctx context.Context, dir *state.Dir, set *config.Relay, name string, expiry uint16, most state.Limits) (*config.Bundle, error) {
	issuer, err := dir.IssuerKey()
	if err != nil {
		return nil, err
	}
	key, err := dir.RelayKey()
	if err != nil {
		return nil, err
	}
	tokenKey, err := dir.TokenKey()
	if err != nil {
		return nil, err
	}
	entry := config.RelayEntry{
		Proof:     set.Borrowed(),
		Addresses: []flow.Addr{set.Address},
		Key:       [32]byte(key.PublicKey().Bytes()),
		CoverName: set.CoverName,
	}
	for _, t := range set.Transports {
		entry.Transports = append(entry.Transports, ways(t, set)...)
	}
	if set.ACME.Directory != "" {
		// The authority's certificate changes with the months, and is verified as any.
	} else if set.Cover == config.CoverBuiltin {
		cert, err := dir.Cover()
		if err != nil {
			return nil, err
		}
		entry.CertHash = state.CertHash(cert)
	} else if hash, err := coverHash(ctx, set); err != nil {
		return nil, err
	} else if hash != nil {
		entry.CertHash = *hash
	}
	var bundle *config.Bundle
	err = dir.ChangeLedger(func(l *state.Ledger) error {
		issued, err := l.Issue(name, expiry, most, time.Now())
		if err != nil {
			return err
		}
		entry.Token = config.MakeToken(tokenKey, issued.ID, expiry)
		bundle, err = config.Sign(issuer, l.Sequence, entry)
		return err
	})
	return bundle, err
}

// ways are what an invite says of a transport: QUIC to the built-in site is a
// visit to it, and beside that QUIC may look like nothing on a range of ports.
func ways(name string, set *config.Relay) (all []config.Transport) {
	if name != quic.Kind {
		return []config.Transport{{Name: name}}
	}
	if set.Cover == config.CoverBuiltin {
		all = append(all, config.Transport{Name: name, Options: quic.SiteOptions})
	}
	if p := set.QUICPorts; p.Low > 0 {
		all = append(all, config.Transport{Name: name, Options: quic.PortsOptions(p.Low, p.High)})
	}
	if len(all) == 0 {
		all = append(all, config.Transport{Name: name})
	}
	return all
}
