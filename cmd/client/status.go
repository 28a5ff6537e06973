package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"text/tabwriter"
	"time"

	"busel/internal/cli"
	"busel/internal/control"
	"busel/internal/front"
	"busel/internal/session"
	"busel/internal/tunnel"
	"busel/internal/wire"
	"busel/transport"
)

// errNotRunning is for commands that only a running client can answer.
var errNotRunning = cli.Hint(errors.New("the client is not running"), "start it with: client run")

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
				if err := cli.NoArgs(args); err != nil {
					return err
				}
				dir, err := openDir(*path)
				if err != nil {
					return err
				}
				defer dir.Close()
				var raw json.RawMessage
				err = control.Call(ctx, dir.Socket(), opStatus, nil, &raw)
				if errors.Is(err, control.ErrNotRunning) {
					return errNotRunning
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
	fmt.Fprintf(std.Out, "Proxy on %s: %s\n%s open, %s up, %s down, moved to another connection %s\n", s.Listen, summary(s),
		cli.Count(s.Streams, "stream"), cli.Size(s.BytesUp), cli.Size(s.BytesDown), cli.Count(s.Moves, "time"))
	t := tabwriter.NewWriter(std.Out, 0, 0, 3, ' ', 0)
	for _, c := range s.Carriers {
		fmt.Fprintf(t, "  connection\t%s\t%s\t%s\tround trip %d ms\t%s old\n", c.Relay, wayText(c.Transport, c.Detour), c.State, c.RTT, time.Duration(c.Age)*time.Second)
	}
	for _, p := range s.Paths {
		state := string(p.State)
		if p.Retry > 0 {
			state += fmt.Sprintf(" for %s", time.Duration(p.Retry)*time.Second)
		}
		fmt.Fprintf(t, "  way\t%s\t%s\t%s\t%d worked, %d failed\t%s\n", p.Relay, wayText(p.Transport, p.Detour), state, p.Successes, p.Failures, failureText(p.Failure))
	}
	return t.Flush()
}

// wayText names a way to travel.
func wayText(transport string, detour bool) string {
	if detour {
		return transport + " through another relay"
	}
	return transport
}

// summary is the state in a few words.
func summary(s front.Status) string {
	switch {
	case s.Locked:
		return "locked; give your passphrase on its page or with: client unlock"
	case s.Online:
		return "connected"
	case len(s.Paths) == 0:
		return "there is no relay yet; take an invite with: client add INVITE"
	case s.Refused() != "":
		return s.Refused()
	case s.AtRest():
		return "at rest; it connects as soon as a program asks"
	}
	return "no relay can be reached right now; the client keeps trying"
}

// failureText says what the last failure of a way means.
func failureText(failure string) string {
	switch transport.Failure(failure) {
	case "":
		return ""
	case transport.Refused:
		return "last failure: refused (nothing listens there)"
	case transport.Reset:
		return "last failure: reset (something cut the connection)"
	case transport.Timeout:
		return "last failure: timeout (no answer)"
	case transport.Hijacked:
		return "last failure: hijacked (another server answered than the invite says)"
	case transport.Frozen:
		return "last failure: frozen (the connection went silent)"
	case transport.Throttled:
		return "last failure: throttled (another way was many times as fast)"
	case transport.ClosedEarly:
		return "last failure: closed-early (the connection ended before the relay answered)"
	case transport.UnfitCover:
		return "last failure: unfit-cover (the relay's web site lacks what is needed)"
	}
	if text := front.RefusalText(failure); text != "" {
		return "last failure: " + failure + " (" + text + ")"
	}
	return "last failure: " + failure
}

// linksStatus gathers what the sessions and keepers know.
func linksStatus(r *tunnel.Relays) front.Status {
	var s front.Status
	for _, l := range r.Links() {
		st := l.Stats()
		s.Streams += st.Streams
		s.Flows += st.Flows
		s.Moves += st.Moves
		s.BytesUp += st.Up
		s.BytesDown += st.Down
		for _, c := range st.Carriers {
			s.Online = true
			route, _ := l.Route(c.N)
			s.Carriers = append(s.Carriers, front.Carrier{
				Relay: l.Label(), Transport: c.Kind, Detour: route.Detour, State: carrierState(c), RTT: c.RTT.Milliseconds(),
				BytesUp: c.Up, BytesDown: c.Down, Age: int64(c.Age / time.Second),
			})
		}
		for _, p := range l.Paths() {
			s.Paths = append(s.Paths, front.Path{
				Relay: l.Label(), Transport: p.Route.Transport, Detour: p.Route.Detour, State: front.State(p.State), Failure: string(p.Failure),
				Since: p.Since, Successes: p.Successes, Failures: p.Failures,
				Retry: int64(max(0, time.Until(p.Retry)) / time.Second),
			})
		}
	}
	return s
}

// carrierState is a carrier's state in `client status -json`.
func carrierState(c session.CarrierStats) front.State {
	switch {
	case c.Suspect:
		return front.Suspect
	case c.State == wire.CarrierSpare:
		return front.Spare
	}
	return front.Active
}
