package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"text/tabwriter"

	"busel/internal/cli"
	"busel/internal/control"
	"busel/internal/front"
)

func statusCommand() cli.Command {
	return cli.Command{
		Name: "status", Summary: "what the running client sees",
		Help: `
Shows how the running client does: connected or not, through which relays, what
failed and how, and how often it moved to another connection.`,
		Flags: func(flags *flag.FlagSet) cli.Action {
			path := dirFlag(flags)
			asJSON := flags.Bool("json", false, "print JSON")
			return func(ctx context.Context, std cli.Std, args []string) error {
				if len(args) > 0 {
					return &cli.UsageError{Reason: fmt.Sprintf("unexpected argument %q", args[0])}
				}
				dir, err := openDir(*path)
				if err != nil {
					return err
				}
				defer dir.Close()
				var raw json.RawMessage
				err = control.Call(ctx, dir.Socket(), opStatus, nil, &raw)
				if errors.Is(err, control.ErrNotRunning) {
					return cli.Hint(errors.New("the client is not running"), "start it with: client run")
				}
				if err != nil {
					return err
				}
				if *asJSON {
					fmt.Fprintf(std.Out, "%s\n", raw)
					return nil
				}
				var s front.Status
				if err := json.Unmarshal(raw, &s); err != nil {
					return err
				}
				return printStatus(std, s)
			}
		},
	}
}

func printStatus(std cli.Std, s front.Status) error {
	state := "not connected; the next program that asks makes it connect"
	if s.Online {
		state = "connected"
	}
	fmt.Fprintf(std.Out, "Proxy on %s: %s\n%d streams open, moved %d times, %d bytes up, %d bytes down\n",
		s.Listen, state, s.Streams, s.Moves, s.BytesUp, s.BytesDown)
	t := tabwriter.NewWriter(std.Out, 0, 0, 3, ' ', 0)
	for _, c := range s.Carriers {
		fmt.Fprintf(t, "  connection\t%s\t%s\t%s\t%d ms\t%d s old\n", c.Relay, c.Transport, c.State, c.RTT, c.Age)
	}
	for _, p := range s.Paths {
		why := ""
		if p.Failure != "" {
			why = "last failure: " + p.Failure
		}
		fmt.Fprintf(t, "  way\t%s\t%s\t%s\t%d good, %d failed\t%s\n", p.Relay, p.Transport, p.State, p.Successes, p.Failures, why)
	}
	return t.Flush()
}
