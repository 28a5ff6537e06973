package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"time"

	"busel/internal/cli"
	"busel/internal/control"
	"busel/internal/state"
)

// What a client that runs may take, to hear of it and to end, before its files are removed
// under it: whoever wipes may have no more time.
const (
	wipeCall = 3 * time.Second
	wipeWait = 10 * time.Second
)

func wipeCommand() cli.Command {
	return cli.Command{
		Name: "wipe", Summary: "remove all that Busel keeps",
		Help: `
Ends the running client, then overwrites and removes everything that Busel keeps in its
directory: invites, keys, what it remembers and has learned, and settings. There is no way
back but a new invite. It says what it cannot remove.

Overwriting helps on magnetic disks. Flash memory keeps old copies in places of its own
until it needs them; what was under a passphrase (client passphrase) cannot be read from
those.`,
		Flags: func(flags *flag.FlagSet) cli.Action {
			path := dirFlag(flags)
			yes := flags.Bool("yes", false, "do not ask")
			return func(ctx context.Context, std cli.Std, args []string) error {
				if err := cli.NoArgs(args); err != nil {
					return err
				}
				dir, err := openDir(*path)
				if err != nil {
					return err
				}
				defer dir.Close()
				if !*yes {
					if !std.Asks() {
						return &cli.UsageError{Reason: "nobody is there to ask; to wipe without a question write -yes"}
					}
					answer, err := std.Line("Remove everything in " + dir.Path() + "? Type yes: ")
					if err != nil || answer != "yes" {
						return errors.Join(errors.New("nothing was removed"), err)
					}
				}
				return wipe(ctx, std, dir)
			}
		},
	}
}

// wipe has a running client wipe itself, and removes what is there after that.
func wipe(ctx context.Context, std cli.Std, dir *state.Dir) error {
	calling, cancel := context.WithTimeout(ctx, wipeCall)
	err := control.Call(calling, dir.Socket(), opWipe, nil, nil)
	hangs := calling.Err() != nil
	cancel()
	if errors.Is(err, control.ErrNotRunning) {
		err = nil
	}
	waiting, cancel := context.WithTimeout(ctx, wipeWait)
	defer cancel()
	if hangs {
		cancel()
	}
	switch release, busy := dir.LockWithin(waiting); {
	case busy == nil:
		defer release()
	case !errors.Is(busy, fs.ErrNotExist): // else the client has removed the directory
		err = errors.Join(err, cli.Hint(errors.New("a client still runs, and may write files again"), "end it, and wipe once more"))
	}
	return errors.Join(wiped(std, dir), err)
}

// wiped removes all that the client keeps, and says what stays.
func wiped(std cli.Std, dir *state.Dir) error {
	left, err := dir.Wipe()
	if err == nil {
		fmt.Fprintf(std.Out, "Removed all that Busel kept in %s.\n", dir.Path())
	}
	if len(left) > 0 {
		fmt.Fprintln(std.Out, "This is not Busel's, or could not be removed:")
		for _, name := range left {
			fmt.Fprintf(std.Out, "  %s\n", name)
		}
	}
	program := ""
	if path, err := os.Executable(); err == nil {
		program = ", " + path
	}
	fmt.Fprintf(std.Out, `What you have to remove yourself:
  this program%s
  the proxy in the settings of browsers, messengers and the system
  pictures and messages with invites, on this device and where they came from
  the history of this terminal
  backups and copies of the directory; flash memory may hold old pieces of it
`, program)
	return err
}
