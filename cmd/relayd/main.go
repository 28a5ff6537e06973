// Command relayd is the volunteer's part of Busel: a relay to the open internet
// behind a real web site.
//
//	relayd init   [-dir DIR] -address HOST:PORT -cover HOST:PORT|builtin [-cover-name NAME]
//	relayd run    [-dir DIR]
//	relayd invite [-dir DIR] [-name NAME] [-expires 30d] [-quota 50GB] [-rate 10Mbit] [-devices 3] [-png FILE]
//	relayd invites [-dir DIR] [-json]
//	relayd limit  [-dir DIR] [-quota 50GB] [-rate 10Mbit] [-devices 3] NAME
//	relayd revoke [-dir DIR] NAME
//	relayd check  [-dir DIR] [-cover HOST:PORT] [-long] [-json]
//	relayd status [-dir DIR] [-json]
//	relayd upgrade [-dir DIR] [-within 12h]
//
// init makes the keys, relayd.toml and the first invite; run serves, and upgrade
// replaces the one that runs by the program that is on disk. To anyone
// without an invite the relay is the cover site and nothing else. Keys, settings
// and the list of invites are in one directory: /etc/busel for root, else
// busel-relay where the user's settings are.
package main

import (
	"errors"
	"flag"
	"io/fs"
	"os"
	"path/filepath"

	"busel/config"
	"busel/internal/cli"
	"busel/internal/state"
)

func main() { os.Exit(cli.Start(program())) }

func program() *cli.Program {
	return &cli.Program{
		Name:    "relayd",
		Summary: "relayd is a Busel relay: it gives people behind a filter a way to the open internet.",
		Commands: []cli.Command{
			initCommand(), runCommand(), upgradeCommand(), inviteCommand(),
			invitesCommand(), limitCommand(), revokeCommand(),
			checkCommand(),
			statusCommand(),
		},
	}
}

func dirFlag(flags *flag.FlagSet) *string {
	return flags.String("dir", "", "`directory` of keys, settings and invites (default: /etc/busel for root, else busel-relay where your settings are)")
}

// openDir opens the directory of a relay that init made.
func openDir(path string) (*state.Dir, error) {
	if path == "" {
		own, err := state.DefaultRelay()
		if err != nil {
			return nil, err
		}
		if rootsAlone(own, state.RootsRelay) {
			return nil, cli.Hint(errors.New("you have no relay of your own, and the one of this machine is root's"), "the same again with sudo before it; or name a directory with -dir")
		}
	}
	return makeDir(path)
}

// makeDir is openDir, also for a relay that is yet to be made.
func makeDir(path string) (*state.Dir, error) {
	if path == "" {
		var err error
		if path, err = state.DefaultRelay(); err != nil {
			return nil, err
		}
	}
	dir, err := state.Open(path)
	if errors.Is(err, fs.ErrPermission) {
		return nil, cli.Hint(err, "this directory belongs to another user: name one of your own with -dir, or become root")
	}
	return dir, err
}

// rootsAlone reports whether there is no relay in own, but a link or directory roots.
func rootsAlone(own, roots string) bool {
	if own == roots {
		return false
	}
	if _, err := os.Lstat(filepath.Join(own, state.RelayFile)); !errors.Is(err, fs.ErrNotExist) {
		return false
	}
	_, err := os.Lstat(roots)
	return err == nil
}

// settings reads relayd.toml.
func settings(dir *state.Dir) (config.Relay, error) {
	data, err := dir.Read(state.RelayFile)
	if errors.Is(err, fs.ErrNotExist) {
		return config.Relay{}, cli.Hint(err, "make a relay first: relayd init -address HOST:PORT -cover builtin")
	}
	if err != nil {
		return config.Relay{}, err
	}
	set, err := config.ParseRelay(state.RelayFile, data)
	if err == nil && set.Exit.Relay != nil {
		_, err = dir.ReadSecret(state.RelayFile) // refuses a file that others can read
	}
	return set, err
}
