package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"net"
	"path/filepath"
	"time"

	"busel/config"
	"busel/internal/cli"
	"busel/internal/cover"
	"busel/internal/flow"
	"busel/internal/state"
	"busel/transport"
	"busel/transport/mirror"
)

// coverTimeout bounds a visit to the cover by init, invite and run.
const coverTimeout = 15 * time.Second

func initCommand() cli.Command {
	return cli.Command{
		Name: "init", Summary: "make keys, settings and the first invite",
		Help: `
Sets up a relay and prints its first invite. Needs the address where clients
will reach this machine, and the web site that everyone else will see there:

  relayd init -address 198.51.100.7:443 -cover builtin

uses a small site that relayd serves itself; good for trying out. With a domain
that points to this machine it is as good as any site:

  relayd init -address 198.51.100.7:443 -cover builtin -cover-name news.example.org -acme letsencrypt

Better is your own site, served by nginx or Caddy on loopback:

  relayd init -address 198.51.100.7:443 -cover 127.0.0.1:8443 -cover-name news.example.org

Fitting settings for either are then left in the directory, as cover-nginx.conf and
cover-caddy.conf.
A directory that already holds a relay is left as it is.`,
		Flags: func(flags *flag.FlagSet) cli.Action {
			dir := dirFlag(flags)
			address := flags.String("address", "", "`host:port` where clients reach this relay")
			cover := flags.String("cover", "", "`host:port` of the cover site, or builtin")
			coverName := flags.String("cover-name", "", "`name` of the cover site, as in its certificate (default: the cover's host name, else the first name in its certificate)")
			var built builtinFlags
			flags.StringVar(&built.authority, "acme", "", "with -cover builtin and a -cover-name that leads here: get its certificate from letsencrypt, or from the authority whose directory has this `URL`; you agree to its terms")
			flags.StringVar(&built.email, "email", "", "`address` where that authority may write to")
			flags.StringVar(&built.site, "site", "", "with -cover builtin: `folder` with the web site to show (default: a small one that is made up)")
			return func(ctx context.Context, std cli.Std, args []string) error {
				switch {
				case len(args) > 0:
					return &cli.UsageError{Reason: fmt.Sprintf("unexpected argument %q", args[0])}
				case *address == "" || *cover == "":
					return &cli.UsageError{Reason: "-address and -cover are needed"}
				}
				return initRelay(ctx, std, *dir, *address, *cover, *coverName, built)
			}
		},
	}
}

// builtinFlags are those of the built-in cover.
type builtinFlags struct{ authority, email, site string }

func initRelay(ctx context.Context, std cli.Std, path, address, coverAddr, coverName string, built builtinFlags) error {
	if built.authority != "" && coverName == "" {
		return &cli.UsageError{Reason: "-acme needs -cover-name: the domain, or the address, that the certificate is for"}
	}
	if coverName == "" {
		var err error
		if coverName, err = nameOfCover(ctx, coverAddr); err != nil {
			return err
		}
	}
	set, err := config.NewRelay(address, coverAddr, coverName)
	if err != nil {
		return err
	}
	if built.site != "" {
		if built.site, err = filepath.Abs(built.site); err != nil {
			return err
		}
	}
	set.Site, set.ACME.Directory, set.ACME.Email = built.site, built.authority, built.email
	if set, err = config.ParseRelay("-acme, -email, -site", set.TOML()); err != nil {
		return err
	}
	dir, err := makeDir(path)
	if err != nil {
		return err
	}
	defer dir.Close()
	if err := dir.CreateRelay(set.TOML()); err != nil {
		return err
	}
	if set.Cover == config.CoverBuiltin {
		// A clock that is a little slow elsewhere must not matter.
		cert, key, err := cover.SelfSigned(set.CoverName, time.Now().AddDate(0, 0, -1))
		if err != nil {
			return err
		}
		if err := dir.CreateCover(cert, key); err != nil && !errors.Is(err, state.ErrExists) {
			return err
		}
	}
	fmt.Fprintf(std.Err, "relayd: made a relay in %s; its settings are in %s\n", dir.Path(), state.RelayFile)
	if set.Borrowed() {
		fmt.Fprintln(std.Err, "relayd: warning: the cover is somebody else's site: at most 20 connections at a time, and a censor can compare its addresses with this one; your own domain on this machine is better")
	}
	if ownServer(&set) {
		if err := errors.Join(dir.Write(nginxFile, []byte(nginxSnippet(&set))), dir.Write(caddyFile, []byte(caddySnippet(&set)))); err != nil {
			return err
		}
		fmt.Fprintf(std.Err, "relayd: settings for nginx as its cover site are in %s there, for Caddy in %s\n", nginxFile, caddyFile)
	}
	in, err := newInvite(ctx, dir, &set, "", 0, state.Limits{})
	if err != nil {
		return cli.Hint(err, "the relay itself is set up; when the web server answers, make the invite with: relayd invite")
	}
	if err := cli.PrintInvite(std, in, ""); err != nil {
		return err
	}
	if set.ACME.Directory != "" {
		fmt.Fprintf(std.Err, "relayd: the invite works once %s has its certificate, which relayd fetches when it runs\n", set.CoverName)
	}
	fmt.Fprintln(std.Err, "relayd: give this invite to one person; start the relay with: relayd run")
	return nil
}

// nameOfCover is the name that clients will ask the cover for when the
// volunteer named none: its host name, else the first name in its certificate,
// and an invented one for the built-in site.
func nameOfCover(ctx context.Context, addr string) (string, error) {
	if addr == config.CoverBuiltin {
		return inventedName(), nil
	}
	a, err := flow.SplitHostPort(addr)
	if err != nil {
		return "", nil // NewRelay says what is wrong
	}
	if a.Name != "" && a.Name != "localhost" {
		return a.Name, nil
	}
	ctx, cancel := context.WithTimeout(ctx, coverTimeout)
	defer cancel()
	raw, err := transport.System{}.DialContext(ctx, "tcp", a.String())
	if err != nil {
		return "", cli.Hint(fmt.Errorf("the cover does not answer: %w", err), "start the web server first, or name the site with -cover-name")
	}
	defer raw.Close()
	// Only the name is taken from here; clients verify the certificate.
	conn := tls.Client(raw, &tls.Config{InsecureSkipVerify: true})
	if err := conn.HandshakeContext(ctx); err != nil {
		return "", cli.Hint(fmt.Errorf("the cover does not speak TLS: %w", err), "-cover is where the web server answers https")
	}
	if names := conn.ConnectionState().PeerCertificates[0].DNSNames; len(names) > 0 {
		return names[0], nil
	}
	return "", cli.Hint(errors.New("the cover's certificate has no name"), "name the site with -cover-name")
}

// inventedName looks like a small site's name. It cannot stand up to a look at
// the DNS, which is why an own domain is better.
func inventedName() string {
	first := [...]string{"amber", "birch", "cedar", "clover", "harbor", "linden", "maple", "meadow", "north", "oak", "quiet", "river", "rowan", "stone", "willow", "winter"}
	second := [...]string{"barn", "bridge", "brook", "cottage", "crafts", "field", "garden", "hill", "house", "kitchen", "lane", "mill", "orchard", "studio", "workshop", "yard"}
	return fmt.Sprintf("www.%s%s%d.net", first[rand.N(len(first))], second[rand.N(len(second))], 10+rand.N(90))
}

// coverHash judges the cover with one visit and returns the hash to pin if its
// certificate is self-signed, else nil. A cover that is not fit for use is an
// error that says why.
func coverHash(ctx context.Context, set *config.Relay) (*[32]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, coverTimeout)
	defer cancel()
	site := mirror.Cover{Address: set.Cover, Name: set.CoverName, Borrowed: set.Borrowed()}
	report, err := mirror.CheckCover(ctx, transport.System{}, site, mirror.Trust{})
	if _, ok := errors.AsType[*net.OpError](err); ok {
		return nil, cli.Hint(fmt.Errorf("the cover does not answer: %w", err), "start the web server first")
	}
	if err != nil {
		return nil, fmt.Errorf("the cover: %w", err)
	}
	// A self-signed certificate, or one of a private authority, verifies nowhere:
	// it is pinned. One that is expired or for another name is the cover's fault.
	var pin *[32]byte
	if _, unknown := errors.AsType[x509.UnknownAuthorityError](report.CertErr); report.SelfSigned || unknown {
		pin, report.CertErr = &report.LeafHash, nil
	}
	if err := report.Fit(); err != nil {
		return nil, err
	}
	return pin, nil
}
