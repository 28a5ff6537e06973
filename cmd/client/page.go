package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os/exec"
	"runtime"
	"time"

	"busel/internal/cli"
	"busel/internal/control"
	"busel/internal/state"
)

func pageCommand() cli.Command {
	return cli.Command{
		Name: "page", Summary: "open the running client's page",
		Help: `
Opens the page of the running client in the browser, where invites are added, programs
set up, and everything is seen. The page is for the user who runs the client: the link
to it works once, and what others open with the address alone is refused.`,
		Flags: func(flags *flag.FlagSet) cli.Action {
			path := dirFlag(flags)
			noOpen := flags.Bool("no-open", false, "print the link, and open nothing")
			return func(ctx context.Context, std cli.Std, args []string) error {
				if err := cli.NoArgs(args); err != nil {
					return err
				}
				dir, err := openDir(*path)
				if err != nil {
					return err
				}
				defer dir.Close()
				return showPage(ctx, std, dir, !*noOpen)
			}
		},
	}
}

// showPage opens the page of the client that runs in dir, or prints the link to it.
func showPage(ctx context.Context, std cli.Std, dir *state.Dir, open bool) error {
	var link string
	err := control.Call(ctx, dir.Socket(), opPage, nil, &link)
	if errors.Is(err, control.ErrNotRunning) {
		return errNotRunning
	}
	if err != nil {
		return err
	}
	if open && browse(ctx, std.LookupEnv, link) == nil {
		fmt.Fprintln(std.Out, "The page is open in your browser.")
		return nil
	}
	fmt.Fprintln(std.Out, link)
	return nil
}

// sayPage opens the page of the client that has just started, or says how to.
func sayPage(ctx context.Context, std cli.Std, link func() string, open bool) {
	switch {
	case open && browse(ctx, std.LookupEnv, link()) == nil:
		fmt.Fprintln(std.Out, "Its page is open in your browser. Open it again with: client page")
	case std.ErrTerminal: // a log would keep the link
		fmt.Fprintf(std.Err, "Its page, for one look: %s\n", link())
	default:
		fmt.Fprintln(std.Out, "Open its page with: client page")
	}
}

var errNoDesktop = errors.New("there is no desktop to open a page on")

// browseTime bounds what a desktop takes to start the browser. xdg-open may be the
// browser itself, and then runs on.
const browseTime = 3 * time.Second

// browse opens a link in the user's browser. The link is on a command line, which other
// programs may read; but it works once (internal/front), so that it is of no use to them
// when the browser has opened it.
func browse(ctx context.Context, env func(string) (string, bool), link string) error {
	args, err := opener(runtime.GOOS, env)
	if err != nil {
		return err
	}
	// It outlives the client, on purpose: it may be the browser.
	cmd := exec.Command(args[0], append(args[1:], link)...)
	if err := cmd.Start(); err != nil {
		return err
	}
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	t := time.NewTimer(browseTime)
	defer t.Stop()
	select {
	case err := <-done:
		return err
	case <-t.C:
	case <-ctx.Done():
	}
	return nil
}

// opener is the command that opens a link, which is its last argument.
func opener(system string, env func(string) (string, bool)) ([]string, error) {
	switch system {
	case "windows":
		return []string{"rundll32", "url.dll,FileProtocolHandler"}, nil
	case "darwin":
		return []string{"open"}, nil
	}
	for _, name := range []string{"DISPLAY", "WAYLAND_DISPLAY"} {
		if v, ok := env(name); ok && v != "" {
			return []string{"xdg-open"}, nil
		}
	}
	return nil, errNoDesktop
}
