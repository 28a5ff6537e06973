package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"time"

	"busel/internal/cli"
	"busel/internal/control"
)

func statusCommand() cli.Command {
	return cli.Command{
		Name: "status", Summary: "how much the running relay is used",
		Help: `
Shows counts of the relay that runs here: who is connected now, how much was
moved since it started. No address and no name is kept, so none is shown.`,
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
				err = control.Call(ctx, dir.Socket(), "status", nil, &raw)
				if errors.Is(err, control.ErrNotRunning) {
					return cli.Hint(errNotRunning, "start it with: relayd run")
				}
				if err != nil {
					return err
				}
				if *asJSON {
					fmt.Fprintf(std.Out, "%s\n", raw)
					return nil
				}
				var s status
				if err := json.Unmarshal(raw, &s); err != nil {
					return err
				}
				s.print(std)
				return nil
			}
		},
	}
}

func (s *status) print(std cli.Std) {
	p := func(format string, args ...any) { fmt.Fprintf(std.Out, format+"\n", args...) }
	var visits, conns uint64
	for _, l := range s.Listeners {
		visits += l.Strangers
		conns += uint64(max(l.Conns, 0))
	}
	p("up %s, %d sessions on %d connections, %d streams open", time.Duration(s.UptimeS)*time.Second, s.Relay.Sessions, s.Relay.Carriers, s.Relay.Streams)
	p("since the start: %d streams (%d could not be reached, %d denied), %s up, %s down",
		s.Relay.StreamsTotal, s.Exit.StreamsFailed, s.Exit.Denied, size(s.Relay.BytesUp), size(s.Relay.BytesDown))
	p("the cover site had %d visits by others; %d connections are open in all", visits, conns)
}

// size is a byte count for a person.
func size(n int64) string {
	units := [...]string{"B", "kB", "MB", "GB", "TB"}
	f, i := float64(n), 0
	for f >= 1000 && i < len(units)-1 {
		f, i = f/1000, i+1
	}
	if i == 0 {
		return fmt.Sprintf("%d B", n)
	}
	return fmt.Sprintf("%.1f %s", f, units[i])
}
