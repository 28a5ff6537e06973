package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"strconv"
	"text/tabwriter"
	"time"

	"busel/config"
	"busel/internal/cli"
	"busel/internal/control"
	"busel/internal/quota"
	"busel/internal/state"
)

// Operations of the control socket that concern invites.
const (
	opReload  = "reload"  // read the invites again; sessions of those that are void end
	opInvites = "invites" // answers invitesStatus
)

// invitesStatus is what `relayd invites -json` prints.
type invitesStatus struct {
	Running bool           `json:"running"`
	Used    uint64         `json:"used_bytes"` // this month by all together
	Quota   uint64         `json:"quota_bytes,omitempty"`
	Invites []inviteStatus `json:"invites"`
}

// inviteStatus is one invite: its limits, and what is used of them.
type inviteStatus struct {
	Name       string    `json:"name"`
	State      string    `json:"state"` // valid, revoked, expired, used-up
	Created    time.Time `json:"created"`
	LastDay    string    `json:"last_day,omitempty"` // UTC; none if it never expires
	Used       uint64    `json:"used_bytes"`         // this month
	Quota      uint64    `json:"quota_bytes,omitempty"`
	Rate       uint64    `json:"rate_bits,omitempty"` // a second
	Devices    int       `json:"devices"`             // now
	MaxDevices int       `json:"max_devices,omitempty"`
}

// invitesOf describes the ledger with what used and devices tell of each invite.
func invitesOf(l *state.Ledger, set *config.Relay, used func(state.InviteID) uint64, devices map[[8]byte]int) invitesStatus {
	st := invitesStatus{Used: used(quota.Everybody), Quota: uint64(set.Limits.Monthly), Invites: []inviteStatus{}}
	now := time.Now()
	for _, e := range l.Invites {
		in := inviteStatus{
			Name: e.Name, State: e.State(now), Created: e.Created, Used: used(e.ID), Quota: uint64(e.Quota),
			Rate: uint64(e.Rate), Devices: devices[e.ID], MaxDevices: e.Devices,
		}
		if e.Expiry != 0 {
			in.LastDay = config.ExpiryTime(e.Expiry).AddDate(0, 0, -1).Format(time.DateOnly)
		}
		if in.State == "valid" && (in.Quota > 0 && in.Used >= in.Quota || st.Quota > 0 && st.Used >= st.Quota) {
			in.State = "used-up"
		}
		st.Invites = append(st.Invites, in)
	}
	return st
}

// limitsOf are the limits of each invite in the ledger.
func limitsOf(l *state.Ledger) func(state.InviteID) state.Limits {
	all := make(map[state.InviteID]state.Limits, len(l.Invites))
	for _, e := range l.Invites {
		all[e.ID] = e.Limits
	}
	return func(id state.InviteID) state.Limits { return all[id] }
}

// openBook opens the file of what was used. close writes all that is counted.
func openBook(s *server) (b *quota.Book, close func(), err error) {
	usage, err := s.dir.OpenUsage()
	if err != nil {
		return nil, nil, err
	}
	if n := usage.Damaged(); n > 0 {
		s.log.Warn("a part of the file of what invites used is damaged: they count from 0", "invites", n)
	}
	if b, err = quota.New(quota.Config{Store: usage, Total: s.set.Limits, Logger: s.log}); err != nil {
		usage.Close()
		return nil, nil, err
	}
	return b, func() {
		b.Write()
		usage.Close()
	}, nil
}

// tell makes the relay that runs here, if one does, read the invites again.
func tell(ctx context.Context, dir *state.Dir) (running bool, err error) {
	err = control.Call(ctx, dir.Socket(), opReload, nil, nil)
	switch {
	case errors.Is(err, control.ErrNotRunning):
		return false, nil
	case err != nil:
		return false, cli.Hint(fmt.Errorf("the change is written, but the running relay was not told: %w", err), "restart relayd")
	}
	return true, nil
}

// limitFlags are the flags of an invite's limits.
type limitFlags struct{ quota, rate, devices *string }

func addLimitFlags(flags *flag.FlagSet) limitFlags {
	return limitFlags{
		flags.String("quota", "", "how much `data` it may move in a calendar month, up and down added: 50GB, or none"),
		flags.String("rate", "", "how fast, in each direction: `10Mbit` a second, or none"),
		flags.String("devices", "", "how many `devices` may use it at a time: 3, or none for the relay's 16"),
	}
}

// given reports whether any flag was.
func (f limitFlags) given() bool { return *f.quota != "" || *f.rate != "" || *f.devices != "" }

// apply changes what the flags say.
func (f limitFlags) apply(l *state.Limits) error {
	for _, one := range []struct {
		name, text string
		set        func(text string) error
	}{
		{"quota", *f.quota, func(text string) (err error) { l.Quota, err = config.ParseSize(text); return err }},
		{"rate", *f.rate, func(text string) (err error) { l.Rate, err = config.ParseRate(text); return err }},
		{"devices", *f.devices, func(text string) error {
			n, err := strconv.ParseUint("0"+text, 10, 32)
			if err != nil || text != "" && (n == 0 || n > config.MaxDevices) {
				return fmt.Errorf("%q is no number of devices: want 1..%d", text, config.MaxDevices)
			}
			l.Devices = int(n)
			return nil
		}},
	} {
		text := one.text
		switch text {
		case "":
			continue
		case "none":
			text = ""
		}
		if err := one.set(text); err != nil {
			return &cli.UsageError{Reason: "-" + one.name + ": " + err.Error()}
		}
	}
	return nil
}

// oneName is the only argument of a command.
func oneName(args []string) (string, error) {
	if len(args) != 1 {
		return "", &cli.UsageError{Reason: "want the name of one invite; relayd invites lists them"}
	}
	return args[0], nil
}

// unknownInvite says what to do about a name that is not in the ledger.
func unknownInvite(err error) error {
	if errors.Is(err, state.ErrNotFound) {
		return cli.Hint(err, "`relayd invites` lists them")
	}
	return err
}

func revokeCommand() cli.Command {
	return cli.Command{
		Name: "revoke", Summary: "void an invite and end its sessions", Args: "NAME",
		Help: `
Voids an invite for good. A relay that runs ends its sessions at once, and those who
hold it are told that it is no longer valid.`,
		Flags: func(flags *flag.FlagSet) cli.Action {
			path := dirFlag(flags)
			return func(ctx context.Context, std cli.Std, args []string) error {
				name, err := oneName(args)
				if err != nil {
					return err
				}
				dir, err := openDir(*path)
				if err != nil {
					return err
				}
				defer dir.Close()
				err = dir.ChangeLedger(func(l *state.Ledger) error {
					_, err := l.Revoke(name, time.Now())
					return err
				})
				if err != nil {
					return unknownInvite(err)
				}
				running, err := tell(ctx, dir)
				if err != nil {
					return err
				}
				what := "the relay is not running"
				if running {
					what = "its sessions have ended"
				}
				fmt.Fprintf(std.Err, "relayd: %q is revoked; %s\n", name, what)
				return nil
			}
		},
	}
}

func limitCommand() cli.Command {
	return cli.Command{
		Name: "limit", Summary: "change how much and how fast an invite may move", Args: "NAME",
		Help: `
Changes the limits of an invite, also while the relay runs. What is not named stays as
it is; none lifts a limit.`,
		Flags: func(flags *flag.FlagSet) cli.Action {
			path := dirFlag(flags)
			limits := addLimitFlags(flags)
			return func(ctx context.Context, std cli.Std, args []string) error {
				name, err := oneName(args)
				if err != nil {
					return err
				}
				if !limits.given() {
					return &cli.UsageError{Reason: "name a limit: -quota, -rate or -devices"}
				}
				dir, err := openDir(*path)
				if err != nil {
					return err
				}
				defer dir.Close()
				err = dir.ChangeLedger(func(l *state.Ledger) error {
					var fault error
					_, err := l.Limit(name, func(all *state.Limits) { fault = limits.apply(all) })
					return errors.Join(err, fault)
				})
				if err != nil {
					return unknownInvite(err)
				}
				_, err = tell(ctx, dir)
				return err
			}
		},
	}
}

func invitesCommand() cli.Command {
	return cli.Command{
		Name: "invites", Summary: "which invites there are, and how much each is used",
		Help: `
Lists the invites that were made here: their limits, what each has moved in this
calendar month (UTC), and how many devices use it now.`,
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
				var st invitesStatus
				err = control.Call(ctx, dir.Socket(), opInvites, nil, &st)
				if errors.Is(err, control.ErrNotRunning) {
					st, err = invitesAtRest(dir)
				}
				if err != nil {
					return err
				}
				if *asJSON {
					enc := json.NewEncoder(std.Out)
					return enc.Encode(st)
				}
				return st.print(std)
			}
		},
	}
}

// invitesAtRest is for a relay that is not running.
func invitesAtRest(dir *state.Dir) (invitesStatus, error) {
	set, err := settings(dir)
	if err != nil {
		return invitesStatus{}, err
	}
	ledger, err := dir.Ledger()
	if err != nil {
		return invitesStatus{}, err
	}
	usage, err := dir.OpenUsage()
	if err != nil {
		return invitesStatus{}, err
	}
	defer usage.Close()
	month := state.MonthOf(time.Now())
	var faults []error
	st := invitesOf(ledger, &set, func(id state.InviteID) uint64 {
		n, err := usage.Add(id, month, 0)
		faults = append(faults, err)
		return n
	}, nil)
	return st, errors.Join(faults...)
}

func (st *invitesStatus) print(std cli.Std) error {
	of := func(used, most string) string {
		if most != "" {
			return used + " of " + most
		}
		return used
	}
	t := tabwriter.NewWriter(std.Out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "NAME\tSTATE\tMOVED THIS MONTH\tSPEED\tDEVICES NOW\tLAST DAY")
	for _, in := range st.Invites {
		rate, most, last := config.Rate(in.Rate).String(), "", in.LastDay
		if rate == "" {
			rate = "any"
		}
		if in.MaxDevices > 0 {
			most = strconv.Itoa(in.MaxDevices)
		}
		if last == "" {
			last = "never"
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\n", in.Name, in.State,
			of(cli.Size(in.Used), config.Size(in.Quota).String()), rate, of(strconv.Itoa(in.Devices), most), last)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	fmt.Fprintf(std.Out, "All together moved %s this month (UTC).\n", of(cli.Size(st.Used), config.Size(st.Quota).String()))
	if !st.Running {
		fmt.Fprintln(std.Out, "The relay is not running.")
	}
	return nil
}
