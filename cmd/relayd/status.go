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
Shows counts of the relay that runs here: how many are connected now, how much was
moved since it started, and if nobody uses it, why. No address and no name is kept,
so none is shown.`,
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

// idle is why nobody uses the relay. The texts are part of what `relayd status -json`
// prints.
type idle string

const (
	busy          idle = ""
	idleCoverDown idle = "cover-down" // the cover does not answer, so the port is closed
	idleQuiet     idle = "quiet"      // clients are connected and ask for nothing
	idleLeft      idle = "left"       // clients came, none is connected
	idleNoInvites idle = "no-invites" // all are revoked or expired
	idleRefused   idle = "refused"    // clients came and none had an invite that is good
	idleUnused    idle = "unused"     // strangers came, no client
	idleUnreached idle = "unreached"  // nobody came at all
)

// why says why the relay is idle. invites says whether any can be used.
func (s *status) why(invites bool) idle {
	var came uint64
	open := len(s.Listeners) == 0
	for _, l := range s.Listeners {
		came += l.Strangers + l.Candidates + uint64(max(l.Conns, 0))
		open = open || l.Open
	}
	for _, l := range s.QUIC {
		came += l.Strange + l.NoHello + l.Carriers + uint64(max(l.Conns, 0))
	}
	switch {
	case s.Relay.Streams+s.Relay.Flows > 0:
		return busy
	case !open:
		return idleCoverDown
	case s.Relay.Carriers > 0:
		return idleQuiet
	case !invites:
		return idleNoInvites
	case s.Relay.LastHello >= 0:
		return idleLeft
	case s.Relay.Hellos > 0:
		return idleRefused
	case came > 0:
		return idleUnused
	}
	return idleUnreached
}

// idleText is what a person reads.
func (s *status) idleText() string {
	switch s.Idle {
	case idleCoverDown:
		return "the cover site does not answer, so the port is closed as its would be: start the web server"
	case idleQuiet:
		return "clients are connected and ask for nothing"
	case idleLeft:
		return fmt.Sprintf("no client is connected, the last one came %v ago", (time.Duration(s.Relay.LastHello) * time.Second).Round(time.Second))
	case idleNoInvites:
		return "every invite is revoked or expired: make one with relayd invite"
	case idleRefused:
		return "clients came, and none with an invite that is good now: make fresh ones with relayd invite"
	case idleUnused:
		return "strangers visited the cover site, so the port is reached, but nobody came with an invite since the start"
	case idleUnreached:
		return "nobody connected since the start: if it stays so, see whether " + s.Address + " leads here and the firewall lets it in"
	}
	return ""
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
	if d := s.Draining; d != nil {
		p("an older relayd, process %d, ends with its %s (%s open)", d.PID, cli.Count(d.Sessions, "session"), cli.Count(d.Streams, "stream"))
	}
	if text := s.idleText(); text != "" {
		p("idle: %s", text)
	}
}
