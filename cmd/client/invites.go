package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"strings"
	"text/tabwriter"
	"time"

	"busel/config"
	"busel/internal/cli"
	"busel/internal/state"
)

func addCommand() cli.Command {
	return cli.Command{
		Name: "add", Args: "INVITE | PICTURE ... | -", Summary: "take an invite",
		Help: `
Takes an invite: a picture of its QR code (PNG or JPEG: a screenshot, a scan or a
photo), or the line that begins with busel:, as it is. Spaces and line breaks in
it do no harm. With - either is read from standard input, which keeps the text out
of the shell's history, and with -clipboard from the clipboard.
An invite that is several QR codes is taken from one picture of all of them, or
from several pictures named together, in any order. An invite that is damaged,
incomplete or not ours is refused with the reason, and nothing changes.`,
		Flags: func(flags *flag.FlagSet) cli.Action {
			path := dirFlag(flags)
			fromClipboard := flags.Bool("clipboard", false, "read the picture or text that was copied (Linux)")
			return func(ctx context.Context, std cli.Std, args []string) error {
				if len(args) == 0 && !*fromClipboard {
					return &cli.UsageError{Reason: "which invite? Name its picture, give the text that begins with busel:, or - to read either from standard input"}
				}
				bundle, err := readInvite(ctx, std, args, *fromClipboard)
				if err != nil {
					return err
				}
				dir, err := openSecrets(ctx, std, *path)
				if err != nil {
					return err
				}
				defer dir.Close()
				held, change, err := dir.Add(bundle)
				if err != nil {
					return err
				}
				running, err := tell(ctx, dir)
				if err != nil {
					return err
				}
				next := "start the proxy with: client run"
				if running {
					next = "the running client uses it from now on."
				}
				switch relays := cli.Count(len(held.Bundle.Relays), "relay"); change {
				case config.Added:
					fmt.Fprintf(std.Out, "Added as %s, with %s; %s\n", held.Label, relays, next)
				case config.Replaced:
					fmt.Fprintf(std.Out, "Took this newer invite for %s, with %s; %s\n", held.Label, relays, next)
				case config.Known:
					fmt.Fprintf(std.Out, "This invite is held already, as %s; nothing changed.\n", held.Label)
				case config.Outdated:
					fmt.Fprintf(std.Out, "A newer invite of the same volunteer is held already, as %s; nothing changed.\n", held.Label)
				}
				return nil
			}
		},
	}
}

func listCommand() cli.Command {
	return cli.Command{
		Name: "list", Summary: "relays that we hold",
		Help: `
Lists the relays of the invites that are held: the name to use with share and
remove, where the relay is, and until when the invite is good.`,
		Flags: func(flags *flag.FlagSet) cli.Action {
			path := dirFlag(flags)
			asJSON := flags.Bool("json", false, "print JSON")
			return func(ctx context.Context, std cli.Std, args []string) error {
				if err := cli.NoArgs(args); err != nil {
					return err
				}
				dir, err := openSecrets(ctx, std, *path)
				if err != nil {
					return err
				}
				defer dir.Close()
				// A file that cannot be read does not hide the others.
				held, fault := dir.Invites()
				list := listed(held)
				if *asJSON {
					out := json.NewEncoder(std.Out)
					out.SetIndent("", "  ")
					return errors.Join(out.Encode(list), fault)
				}
				if len(list) == 0 && fault == nil {
					fmt.Fprintln(std.Out, "No relays yet. Take an invite with: client add INVITE")
				}
				t := tabwriter.NewWriter(std.Out, 0, 0, 3, ' ', 0)
				for _, r := range list {
					until := "for ever"
					if !r.Expires.IsZero() {
						until = "until " + r.Expires.Format(time.DateOnly)
					}
					fmt.Fprintf(t, "%s\t%s\t%s\t%s\n", r.Label, strings.Join(r.Addresses, " "), r.Name, until)
				}
				return errors.Join(t.Flush(), fault)
			}
		},
	}
}

// listedRelay is one entry of `client list -json`.
type listedRelay struct {
	Label      string    `json:"label"`            // what share, remove and status call it
	Name       string    `json:"name"`             // what the volunteer calls it; may be empty
	Addresses  []string  `json:"addresses"`        // host:port
	Transports []string  `json:"transports"`       // "mirror"
	Expires    time.Time `json:"expires,omitzero"` // end of the invite; absent: never
}

func listed(held []state.Invite) []listedRelay {
	list := []listedRelay{} // null is no list
	for _, v := range held {
		for i, r := range v.Bundle.Relays {
			one := listedRelay{Label: v.RelayLabel(i), Name: r.Name, Expires: config.ExpiryTime(r.Token.Expiry())}
			for _, a := range r.Addresses {
				one.Addresses = append(one.Addresses, a.String())
			}
			for _, t := range r.Transports {
				one.Transports = append(one.Transports, t.Name)
			}
			list = append(list, one)
		}
	}
	return list
}

func shareCommand() cli.Command {
	return cli.Command{
		Name: "share", Args: "[NAME]", Summary: "show an invite as text and QR code",
		Help: `
Shows an invite that is held, to hand it on: one line of text, and on a terminal
its QR code below. NAME is as in client list, and may be left out if only one
invite is held. Whoever has the invite can use the relay, and is counted as you.`,
		Flags: func(flags *flag.FlagSet) cli.Action {
			path := dirFlag(flags)
			png := flags.String("png", "", "`file` to write the QR code to as a picture")
			return func(ctx context.Context, std cli.Std, args []string) error {
				if len(args) > 1 {
					return &cli.UsageError{Reason: "want one name"}
				}
				dir, err := openSecrets(ctx, std, *path)
				if err != nil {
					return err
				}
				defer dir.Close()
				v, err := choose(dir, args)
				if err != nil {
					return err
				}
				return cli.PrintInvite(std, v.Bundle, *png)
			}
		},
	}
}

func choose(dir *state.Dir, args []string) (state.Invite, error) {
	held, fault := dir.Invites()
	switch {
	case len(args) == 1:
		v, err := state.Find(held, args[0])
		if err != nil {
			err = errors.Join(err, fault)
		}
		return v, err
	case len(held) == 1 && fault == nil:
		return held[0], nil
	case len(held) == 0:
		return state.Invite{}, errors.Join(errors.New("no invite is held"), fault)
	}
	return state.Invite{}, &cli.UsageError{Reason: "several invites are held; say which, as in client list"}
}

func removeCommand() cli.Command {
	return cli.Command{
		Name: "remove", Args: "NAME", Summary: "forget an invite",
		Help: `
Forgets the invite with that name, as in client list, and all its relays. A
running client drops them at once.`,
		Flags: func(flags *flag.FlagSet) cli.Action {
			path := dirFlag(flags)
			return func(ctx context.Context, std cli.Std, args []string) error {
				if len(args) != 1 {
					return &cli.UsageError{Reason: "want one name, as in client list"}
				}
				dir, err := openSecrets(ctx, std, *path)
				if err != nil {
					return err
				}
				defer dir.Close()
				if err := dir.Remove(args[0]); err != nil {
					return err
				}
				running, err := tell(ctx, dir)
				if err != nil {
					return err
				}
				fmt.Fprintf(std.Out, "Removed %s", args[0])
				if running {
					fmt.Fprint(std.Out, "; the running client has dropped it")
				}
				fmt.Fprintln(std.Out, ".")
				return nil
			}
		},
	}
}
