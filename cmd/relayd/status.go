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
				if err := cli.NoArgs(args); err != nil {
					return err
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
	if s.Next != "" {
		p("everything leaves through another relay: %s", s.Next)
	}
	var visits, conns uint64
	for _, l := range s.Listeners {
		visits += l.Strangers
		conns += uint64(max(l.Conns, 0))
	}
	p("up %s: %s on %s, %s open", time.Duration(s.UptimeS)*time.Second,
		cli.Count(s.Relay.Sessions, "session"), cli.Count(s.Relay.Carriers, "connection"), cli.Count(s.Relay.Streams, "stream"))
	p("since the start: %s (%d could not be reached, %d denied), %s up, %s down", cli.Count(s.Relay.StreamsTotal, "stream"),
		s.Exit.StreamsFailed, s.Exit.Denied, cli.Size(uint64(s.Relay.BytesUp)), cli.Size(uint64(s.Relay.BytesDown)))
	if len(s.QUIC) > 0 {
		var strange, quic uint64
		for _, l := range s.QUIC {
			strange += l.Strange + l.Replayed
			quic += uint64(max(l.Conns, 0))
		}
		p("over QUIC: %s open; %s by others drew no answer", cli.Count(quic, "connection"), cli.Count(strange, "datagram"))
	}
	p("the cover site had %s by others; %s open in all", cli.Count(visits, "visit"), cli.Count(conns, "connection"))
}
