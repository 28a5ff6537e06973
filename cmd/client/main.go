// Command client is the resident's part of Busel: a proxy on localhost:1080 for
// browsers and messengers that reaches the open internet through a relay.
//
//	client                                         start the proxy and open its page
//	client run    [-dir DIR] [-listen ADDR] [-open]   start the proxy
//	client page   [-dir DIR] [-no-open]            open the running client's page
//	client add    [-dir DIR] INVITE | PICTURE | -  take an invite, as text or QR code
//	client list   [-dir DIR] [-json]               relays that we hold
//	client status [-dir DIR] [-json]               what the running client sees
//	client share  [-dir DIR] [-png FILE] [NAME]    show an invite as text and QR code
//	client remove [-dir DIR] NAME
//	client look   [-dir DIR] list | capture | add FILE   what browser the client looks like
//	client passphrase [-dir DIR] set | change | remove   keep everything secret under a passphrase
//	client unlock [-dir DIR]                       give the running client the passphrase
//	client wipe   [-dir DIR] [-yes]                remove all that Busel keeps
//
// Invites and settings (client.toml, optional) are in one directory: busel where
// the user's settings are. A running client learns of added and removed invites
// at once.
package main

import (
	"context"
	"errors"
	"flag"
	"io/fs"
	"os"

	"busel/internal/cli"
	"busel/internal/control"
	"busel/internal/state"
)

func main() { os.Exit(cli.Start(program())) }

func program() *cli.Program {
	return &cli.Program{
		Name:    "client",
		Summary: "client opens a proxy on this computer that reaches the open internet through a relay.",
		Alone:   []string{"run", "-open"},
		Commands: []cli.Command{
			runCommand(), pageCommand(), addCommand(), listCommand(), statusCommand(), shareCommand(),
			cli.NotYet("doctor", "what is blocked, how, and what to do"),
			removeCommand(), lookCommand(), passphraseCommand(), unlockCommand(), wipeCommand(),
		},
	}
}

func dirFlag(flags *flag.FlagSet) *string {
	return flags.String("dir", "", "`directory` of invites and settings (default: busel where your settings are)")
}

func openDir(path string) (*state.Dir, error) {
	if path == "" {
		var err error
		if path, err = state.DefaultClient(); err != nil {
			return nil, err
		}
	}
	dir, err := state.Open(path)
	if errors.Is(err, fs.ErrPermission) {
		return nil, cli.Hint(err, "this directory belongs to another user: name one of your own with -dir")
	}
	return dir, err
}

// tell lets a client that runs in dir know that its invites changed, and reports
// whether there is one.
func tell(ctx context.Context, dir *state.Dir) (running bool, err error) {
	err = control.Call(ctx, dir.Socket(), opReload, nil, nil)
	if errors.Is(err, control.ErrNotRunning) {
		return false, nil
	}
	return true, err
}

// Requests on the control socket.
const (
	opStatus = "status" // answers a front.Status
	opReload = "reload" // the invites in the directory changed
	opPage   = "page"   // answers a link to the page, a string
)
