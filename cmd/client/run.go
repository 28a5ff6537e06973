package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"net"
	"sync/atomic"

	"busel/config"
	"busel/internal/cli"
	"busel/internal/control"
	"busel/internal/front"
	"busel/internal/looks"
	"busel/internal/page"
	"busel/internal/rotate"
	"busel/internal/state"
	"busel/internal/tunnel"
	"busel/obfs/look"
)

func runCommand() cli.Command {
	return cli.Command{
		Name: "run", Summary: "start the proxy",
		Help: `
Starts the proxy for browsers and messengers, SOCKS5 and HTTP on one port, until
it is interrupted or ended on its page. Programs that use the proxy reach everything
through a relay; nothing ever goes around it. client without a command, as by a double
click, is client run -open.`,
		Flags: func(flags *flag.FlagSet) cli.Action {
			path := dirFlag(flags)
			listen := flags.String("listen", "", "`address` of the proxy, random for a port that is drawn once, or auto for a free one each time (default 127.0.0.1:1080)")
			open := flags.Bool("open", false, "open its page in the browser; if a client runs already, that one's")
			return func(ctx context.Context, std cli.Std, args []string) error {
				if err := cli.NoArgs(args); err != nil {
					return err
				}
				dir, err := openDir(*path)
				if err != nil {
					return err
				}
				defer dir.Close()
				set, err := settings(dir)
				if err != nil {
					return err
				}
				if *listen != "" {
					if set.Listen, set.KeepPort, err = config.ParseListen(*listen); err != nil {
						return cli.Hint(&cli.UsageError{Reason: "-listen: " + err.Error()}, "write -listen 127.0.0.1:1080, or -listen auto for a free port")
					}
				}
				release, err := dir.Lock()
				if *open && errors.Is(err, state.ErrLocked) {
					return showPage(ctx, std, dir, true)
				}
				if err != nil {
					return cli.Hint(err, "`client status` shows what it does; to run a second one, give it a -dir and -listen of its own")
				}
				defer release()
				return run(ctx, std, dir, set, *open)
			}
		},
	}
}

// settings reads client.toml, which need not be there. If it holds a password,
// nobody else may read it.
func settings(dir *state.Dir) (config.Client, error) {
	data, err := dir.Read(state.ClientFile)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return config.Client{}, err
	}
	set, err := config.ParseClient(state.ClientFile, data)
	if err == nil && set.Password != "" {
		_, err = dir.ReadSecret(state.ClientFile) // refuses a file that others can read
	}
	return set, err
}

// unreadable are the labels of the invites that an error of [state.Dir.Invites] is about.
func unreadable(fault error) (labels []string) {
	all, ok := fault.(interface{ Unwrap() []error })
	if !ok {
		return nil
	}
	for _, err := range all.Unwrap() {
		if e, ok := errors.AsType[*state.InviteError](err); ok {
			labels = append(labels, e.Label)
		}
	}
	return labels
}

func run(ctx context.Context, std cli.Std, dir *state.Dir, set config.Client, open bool) error {
	log := std.Logger(set.LogLevel)
	who, err := newCallers(set, log)
	if err != nil {
		return err
	}
	defer who.close()
	ctx, cancel := context.WithCancel(ctx)
	var history page.History
	history.Note(page.Entry{Kind: page.Started})
	// What is kept in the directory, once that is unlocked.
	var around *surroundings
	var worn *looks.Looks
	rel := tunnel.New(ctx, tunnel.Config{
		Policy: rotate.Policy(set.Policy), Logger: log,
		Memory:  func(relay [32]byte) rotate.Memory { return around.of(relay) },
		Look:    func() *look.Look { return worn.Worn() },
		Refused: func(l *look.Look) (*look.Look, func()) { return worn.Refused(l) },
		Place:   func() string { return around.place() },
		Events:  func(e rotate.Event) { note(&history, e) },
	})
	share := &sharing{ctx: ctx, dir: dir.Path(), log: log}
	defer share.wg.Wait()
	defer rel.Wait()
	defer cancel()
	var known atomic.Pointer[[]state.Invite]
	load := func() {
		held, fault := dir.Invites()
		if fault != nil {
			log.Warn("an invite cannot be read", "err", fault)
		}
		history.Unreadable(unreadable(fault))
		known.Store(&held)
		rel.Sync(held)
	}
	var local *front.Front
	var said atomic.Pointer[login]
	vault := newVault(dir, log, func() (err error) {
		// It was in the open since the passphrase was set, or was written anew.
		if err := keepLogin(dir); err != nil {
			log.Warn("the proxy's password is not where it belongs", "err", err)
		}
		l, _ := demanded(dir, set, log)
		said.Store(&l)
		if local != nil {
			if err := local.Demand(l.user, l.password); err != nil {
				return err
			}
		}
		if around, err = newSurroundings(dir, log); err != nil {
			return err
		}
		if worn, err = openLooks(dir, set, log); err != nil {
			return err
		}
		load()
		return nil
	}, cancel)
	if err := askToEnter(ctx, std, vault, open); err != nil {
		return err
	}
	status := func() front.Status {
		s := linksStatus(rel)
		s.Listen, s.Locked = local.Addr().String(), vault.Locked()
		if !s.Locked {
			s.Network = string(around.watcher.Now().ID)
		}
		return s
	}
	overhear := func(c *net.TCPConn) io.WriteCloser {
		if vault.Locked() {
			return nil
		}
		return who.ear(c, worn)
	}
	kept := func() error { return nil }
	if set.KeepPort {
		if set.Listen, kept, err = keptPort(ctx, dir, set.Listen); err != nil {
			return err
		}
	}
	pages, err := page.New(page.Config{Client: &resident{
		dir: dir, vault: vault, relays: rel, known: &known, history: &history, said: &said, status: status, load: load, quit: cancel, sharing: share, set: set,
	}, History: &history, Logger: log})
	if err != nil {
		return err
	}
	untold := false
	if vault.Locked() { // else it is known
		var l login
		l, untold = demanded(dir, set, log)
		said.Store(&l)
	}
	local, err = front.New(front.Config{
		Listen: set.Listen.String(), User: said.Load().user, Password: said.Load().password, Untold: untold,
		Opener: gate{rel, vault}, Admit: who.admit(), AdmitUDP: who.admitUDP(), Gone: who.gone(), Overhear: overhear, Pages: pages, Logger: log,
	})
	if err != nil {
		return err
	}
	if err := local.Listen(ctx); err != nil {
		if set.KeepPort {
			err = cli.Hint(err, "stop that program; or remove the file "+state.PortFile+" in "+dir.Path()+", and another port is drawn")
		}
		return err
	}
	if err := kept(); err != nil {
		return err
	}
	// Programs that only connect take memory, too.
	moved := func() uint64 { return rel.Moved() + local.Moves() }
	ctl := &control.Server{Log: log, Handler: func(_ context.Context, r control.Request) (any, error) {
		switch r.Op {
		case opStatus:
			return status(), nil
		case opReload:
			if !vault.Locked() {
				load()
			}
			return nil, nil
		case opPage:
			return local.URL(), nil
		case opWipe:
			return control.Then{Do: vault.Wipe}, nil
		}
		if result, known, err := vault.answer(r.Op, r.Args); known {
			return result, err
		}
		return nil, fmt.Errorf("unknown request %q", r.Op)
	}}
	fmt.Fprintf(std.Out, "The proxy for SOCKS5 and HTTP is on %s\nAutomatic configuration for browsers: %s\n", local.Addr(), local.PACURL())
	switch {
	case vault.Locked():
		fmt.Fprintln(std.Out, "It is locked. Give your passphrase on its page or with: client unlock")
	case len(rel.Links()) == 0:
		fmt.Fprintln(std.Out, "There is no relay yet. Add an invite on the page, or with: client add INVITE")
	}
	greet := func(ctx context.Context) error {
		sayPage(ctx, std, local.URL, open)
		<-ctx.Done()
		return context.Cause(ctx)
	}
	unlocked := func(ctx context.Context) error {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-vault.opened:
		}
		return cli.RunAll(ctx, around.watcher.Run, around.memory.Run, worn.Run,
			func(ctx context.Context) error {
				return around.watch(ctx, func() {
					history.Note(page.Entry{Kind: page.NewNetwork})
					share.end() // it was meant for the network that was
					rel.Roam()
				})
			},
		)
	}
	err = cli.RunAll(ctx, local.Run, greet, unlocked,
		func(ctx context.Context) error { return ctl.Serve(ctx, dir.Socket(), nil) },
		func(ctx context.Context) error { return cli.ReleaseWhenIdle(ctx, moved) },
	)
	if vault.wiping.Load() {
		cancel()
		rel.Wait()
		return wiped(std, dir)
	}
	return err
}
