package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"

	"busel/internal/cli"
	"busel/internal/control"
	"busel/internal/seal"
	"busel/internal/state"
)

func passphraseCommand() cli.Command {
	return cli.Command{
		Name: "passphrase", Args: "set | change | remove", Summary: "keep everything secret under a passphrase",
		Help: `
Under a passphrase nobody who takes or copies this computer's disk learns from the
client's directory which relays you have, or anything else that it keeps. The client then
asks for it when it starts.

  set      asks for a passphrase and seals everything with it
  change   asks for the old one and a new one
  remove   asks for it and opens everything again

It is typed unseen on a terminal, or read from standard input, one line each: the old one,
then the new one. Take four words or more that have nothing to do with each other or with
you. Nobody can help when it is forgotten; a new invite can.

Settings in client.toml stay readable, but for user and password of the proxy, which are
moved under the passphrase. What was written before is overwritten, but flash memory and backups may keep copies for a while: with a
passphrase from the first day there are none.`,
		Flags: func(flags *flag.FlagSet) cli.Action {
			path := dirFlag(flags)
			return func(ctx context.Context, std cli.Std, args []string) error {
				if len(args) != 1 || args[0] != "set" && args[0] != "change" && args[0] != "remove" {
					return &cli.UsageError{Reason: "say set, change or remove"}
				}
				dir, err := openDir(*path)
				if err != nil {
					return err
				}
				defer dir.Close()
				return protect(ctx, std, dir, args[0])
			}
		},
	}
}

// protect sets, changes or removes the passphrase, by the client that runs if there is one.
func protect(ctx context.Context, std cli.Std, dir *state.Dir, what string) error {
	has, err := dir.HasPassphrase()
	switch {
	case err != nil:
		return err
	case has && what == "set":
		return cli.Hint(errors.New("there is a passphrase already"), "change it with: client passphrase change")
	case !has && what != "set":
		return cli.Hint(errors.New("there is no passphrase"), "set one with: client passphrase set")
	}
	var p protection
	if what != "set" {
		if p.Old, err = std.Secret(ctx, "Passphrase: "); err != nil {
			return noPassphrase(err)
		}
	}
	if what != "remove" {
		if p.Next, err = newPassphrase(ctx, std); err != nil {
			return err
		}
	}
	err = control.Call(ctx, dir.Socket(), opProtect, p, nil)
	if errors.Is(err, control.ErrNotRunning) {
		var release func()
		if release, err = dir.Lock(); err != nil { // so that no client starts meanwhile
			return err
		}
		if err = dir.SetPassphrase(p.Old, p.Next); err == nil {
			err = keepLogin(dir)
		}
		release()
	}
	if err != nil {
		return err
	}
	if p.Next == "" {
		fmt.Fprintln(std.Out, "There is no passphrase any more. What the client keeps can be read by whoever has the disk.")
		return nil
	}
	fmt.Fprintln(std.Out, "What the client keeps is under your passphrase from now on.")
	return nil
}

// newPassphrase asks for a new one, twice where it cannot be seen.
func newPassphrase(ctx context.Context, std cli.Std) (string, error) {
	next, err := std.Secret(ctx, "New passphrase: ")
	if err == nil {
		err = seal.Check(next)
	}
	if err != nil {
		return "", noPassphrase(err)
	}
	if !std.Asks() {
		return next, nil
	}
	again, err := std.Secret(ctx, "The same again: ")
	if err == nil && again != next {
		err = errors.New("they are not the same; nothing was changed")
	}
	return next, err
}

// noPassphrase says what to do when nobody answers.
func noPassphrase(err error) error {
	if errors.Is(err, io.EOF) {
		return cli.Hint(errors.New("no passphrase was given"), "run this in a terminal, or give it on standard input; a client that runs and is unlocked needs none")
	}
	return err
}

func unlockCommand() cli.Command {
	return cli.Command{
		Name: "unlock", Summary: "give the running client the passphrase",
		Help: `
Gives a client that was started without a terminal the passphrase that it waits for. It
is typed unseen, or read from standard input.`,
		Flags: func(flags *flag.FlagSet) cli.Action {
			path := dirFlag(flags)
			return func(ctx context.Context, std cli.Std, args []string) error {
				if err := cli.NoArgs(args); err != nil {
					return err
				}
				dir, err := openDir(*path)
				if err != nil {
					return err
				}
				defer dir.Close()
				has, err := dir.HasPassphrase()
				if err != nil {
					return err
				}
				if !has {
					return cli.Hint(errors.New("there is no passphrase"), "set one with: client passphrase set")
				}
				passphrase, err := std.Secret(ctx, "Passphrase: ")
				if err != nil {
					return noPassphrase(err)
				}
				err = control.Call(ctx, dir.Socket(), opUnlock, passphrase, nil)
				if errors.Is(err, control.ErrNotRunning) {
					return errNotRunning
				}
				if err != nil {
					return err
				}
				fmt.Fprintln(std.Out, "The client is unlocked.")
				return nil
			}
		},
	}
}

// maxAsked is how often a passphrase may be mistyped.
const maxAsked = 3

// askUnlock asks for the passphrase until unlock takes it. Without an answer it stays
// locked, and the error is nil, if that is a choice.
func askUnlock(ctx context.Context, std cli.Std, prompt string, choice bool, unlock func(string) error) error {
	for asked := 1; ; asked++ {
		passphrase, err := std.Secret(ctx, prompt)
		if err != nil {
			return noPassphrase(err)
		}
		if passphrase == "" && choice {
			return nil
		}
		err = unlock(passphrase)
		if !errors.Is(err, seal.ErrWrong) || !std.Asks() || asked == maxAsked {
			return err
		}
		fmt.Fprintln(std.Err, "That is not it.")
	}
}

// askToEnter begins with what is in the vault, and asks for the passphrase where there is
// a terminal; elsewhere the client starts locked, and so if its page is opened: who
// double-clicks may have got a terminal with it (Windows, macOS), and never looks there.
func askToEnter(ctx context.Context, std cli.Std, v *vault, page bool) error {
	if err := v.Enter(); err != nil || !v.Locked() || page || !std.Asks() {
		return err
	}
	return askUnlock(ctx, std, "Passphrase (or Enter, to give it on the page): ", true, v.Unlock)
}

// openSecrets is openDir for commands that work on what is secret. If that is under a
// passphrase, the client that runs gives the keys, or the passphrase is asked for.
func openSecrets(ctx context.Context, std cli.Std, path string) (*state.Dir, error) {
	dir, err := openDir(path)
	if err != nil || !dir.Locked() {
		return dir, err
	}
	var keys string
	if err = control.Call(ctx, dir.Socket(), opKeys, nil, &keys); err == nil {
		err = dir.UseKeys(keys)
	} else {
		err = askUnlock(ctx, std, "Passphrase: ", false, func(passphrase string) error {
			err := dir.Unlock(passphrase)
			if errors.Is(err, state.ErrPartly) {
				fmt.Fprintln(std.Err, err)
				return nil
			}
			return err
		})
	}
	if err != nil {
		dir.Close()
		return nil, err
	}
	return dir, nil
}
