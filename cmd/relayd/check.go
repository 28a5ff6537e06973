package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"busel/config"
	"busel/internal/acme"
	"busel/internal/checkup"
	"busel/internal/cli"
	"busel/internal/control"
	"busel/internal/flow"
	"busel/internal/state"
	"busel/transport"
	"busel/transport/quic"
)

const (
	// longCheck is how long `relayd check -long` watches connections.
	longCheck = 10 * time.Minute
	// lookupTimeout bounds a question to the system's resolver.
	lookupTimeout = 5 * time.Second
)

// errUnfit is what the exit status says; the findings are printed.
var errUnfit = errors.New("not fit for use as it is")

func checkCommand() cli.Command {
	return cli.Command{
		Name: "check", Summary: "is everything fit for use",
		Help: `
Looks at the relay as its clients, its strangers and a censor meet it, and says in
words what is good, what is to be known and what is bad, each with what to do:
ports, addresses, the cover site, its name, the clock, limits. The status is 1 if
something is bad. It visits the cover site, through the relay, too, if that runs;
a site of your own by a hundred connections at a time.

  relayd check -cover 127.0.0.1:8443 -cover-name news.example.org

looks at a cover site before you take it; no relay is needed for that.`,
		Flags: func(flags *flag.FlagSet) cli.Action {
			path := dirFlag(flags)
			cover := flags.String("cover", "", "`host:port` of another cover site to look at (default: the relay's)")
			name := flags.String("cover-name", "", "`name` of that site (default: its host name)")
			long := flags.Bool("long", false, "watch for ten minutes how long the site keeps connections")
			asJSON := flags.Bool("json", false, "print JSON")
			return func(ctx context.Context, std cli.Std, args []string) error {
				if err := cli.NoArgs(args); err != nil {
					return err
				}
				c := checker{network: transport.System{}, now: time.Now()}
				if *long {
					c.patience = longCheck
				}
				var findings []checkup.Finding
				var err error
				if *cover != "" {
					findings, err = c.coverAlone(ctx, *cover, *name)
				} else {
					findings, err = c.relay(ctx, *path)
				}
				if err != nil {
					return err
				}
				if *asJSON {
					if err := json.NewEncoder(std.Out).Encode(findings); err != nil {
						return err
					}
				} else {
					printFindings(std, findings)
				}
				if checkup.Worst(findings) == checkup.Bad {
					return errUnfit
				}
				return nil
			}
		},
	}
}

func printFindings(std cli.Std, findings []checkup.Finding) {
	for _, f := range findings {
		fmt.Fprintf(std.Out, "%-4s  %s\n", f.Verdict, f.Text)
		if f.Hint != "" {
			fmt.Fprintf(std.Out, "      hint: %s\n", f.Hint)
		}
	}
}

// checker gathers the facts.
type checker struct {
	network  transport.Network
	now      time.Time
	patience time.Duration
}

// relay judges the relay of a directory.
func (c *checker) relay(ctx context.Context, path string) ([]checkup.Finding, error) {
	if path == "" {
		var err error
		if path, err = state.DefaultRelay(); err != nil {
			return nil, err
		}
	}
	dir, err := openDir(path)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	set, err := settings(dir)
	if err != nil {
		return nil, err
	}
	if _, err := dir.RelayKey(); err != nil {
		return nil, err
	}
	if _, err := dir.TokenKey(); err != nil {
		return nil, err
	}
	f := &checkup.Facts{
		Kind: kindOf(&set), Name: set.CoverName, Now: c.now,
		Authority: set.ACME.Directory != "", Host: set.Address.Host(), UDP: slices.Contains(set.Transports, quic.Kind),
	}
	if why, err := dir.Read(acme.ErrorFile); f.Authority && err == nil {
		f.Refusal = strings.TrimSuffix(strings.Join(strings.Fields(string(why)), " "), ".")
	}
	err = control.Call(ctx, dir.Socket(), "status", nil, new(json.RawMessage))
	f.Running = err == nil
	if !f.Running {
		f.Ports = c.ports(ctx, &set)
	}
	c.addresses(ctx, f, set.Address)
	c.name(ctx, f, set.Cover)
	c.machine(f)
	if ownServer(&set) {
		_, port := loopback(&set)
		f.NginxRoom = nginxRoom(ctx, nginxFolder, port)
	}

	door := frontDoor(set.Listen[0])
	v := checkup.Visitor{Network: c.network, Name: set.CoverName, Patience: c.patience, Crowd: f.Kind != checkup.Borrowed}
	if f.Running {
		v.HTTP3 = func(ctx context.Context, port uint16) error {
			return c.askHTTP3(ctx, netip.AddrPortFrom(door.Addr(), port), set.CoverName)
		}
	}
	if f.Kind != checkup.Builtin {
		direct := v
		direct.Address = set.Cover
		f.Cover = direct.Visit(ctx)
		v.Crowd, v.Patience = false, 0
	}
	if f.Running {
		v.Address = door.String()
		f.Front = v.Visit(ctx)
	}
	return checkup.Judge(f), context.Cause(ctx)
}

// coverAlone judges a site that no relay has yet.
func (c *checker) coverAlone(ctx context.Context, addr, name string) ([]checkup.Finding, error) {
	a, err := flow.SplitHostPort(addr)
	if err != nil {
		return nil, &cli.UsageError{Reason: fmt.Sprintf("-cover: %q is no host:port", addr)}
	}
	if name == "" {
		if name, err = nameOfCover(ctx, addr); err != nil {
			return nil, err
		}
	}
	f := &checkup.Facts{Kind: checkup.Borrowed, Name: name, Now: c.now}
	if a.Name == "localhost" || a.IP.IsLoopback() || a.IP.IsPrivate() {
		f.Kind = checkup.Own
	}
	if a.Name == "localhost" || a.IP.IsLoopback() {
		f.NginxRoom = nginxRoom(ctx, nginxFolder, strconv.Itoa(int(a.Port)))
	}
	v := checkup.Visitor{Network: c.network, Address: addr, Name: name, Patience: c.patience, Crowd: f.Kind == checkup.Own}
	f.Cover = v.Visit(ctx)
	return checkup.JudgeCover(f), context.Cause(ctx)
}

func kindOf(set *config.Relay) checkup.Kind {
	switch {
	case set.Cover == config.CoverBuiltin:
		return checkup.Builtin
	case set.Borrowed():
		return checkup.Borrowed
	}
	return checkup.Own
}

// frontDoor is where the relay can be reached on this machine.
func frontDoor(listen string) netip.AddrPort {
	if a, err := netip.ParseAddrPort(listen); err == nil && !a.Addr().IsUnspecified() {
		return a
	}
	_, port, _ := net.SplitHostPort(listen) // was checked
	a, _ := netip.ParseAddrPort("127.0.0.1:" + port)
	return a
}

// ports tries to listen where the relay would.
func (c *checker) ports(ctx context.Context, set *config.Relay) (all []checkup.Port) {
	for _, addr := range set.Listen {
		l, err := transport.System{}.Listen(ctx, addr)
		if err == nil {
			_ = l.Close()
		}
		all = append(all, checkup.Port{Name: "TCP " + addr, Err: reason(err)})
	}
	if !slices.Contains(set.Transports, quic.Kind) {
		return all
	}
	udp := portRange(set)
	if set.Cover == config.CoverBuiltin || len(udp) == 0 {
		udp = append(udp, set.Listen...)
	}
	for _, addr := range udp {
		p, err := transport.System{}.ListenPacket(ctx, "udp", addr)
		if err == nil {
			_ = p.Close()
		}
		all = append(all, checkup.Port{Name: "UDP " + addr, Err: reason(err)})
	}
	return all
}

// reason is what the system said, without the address, which stands before it.
func reason(err error) error {
	if op, ok := errors.AsType[*net.OpError](err); ok {
		return op.Err
	}
	return err
}

// addresses finds out where clients come to and from where their connections leave.
func (c *checker) addresses(ctx context.Context, f *checkup.Facts, address flow.Addr) {
	if address.IP.IsValid() {
		f.Address = netip.AddrPortFrom(address.IP, address.Port)
	} else if all, err := lookUp(ctx, address.Name); err == nil && len(all) > 0 {
		f.HostAddrs, f.Address = all, netip.AddrPortFrom(all[0], address.Port)
	}
	if all, err := net.InterfaceAddrs(); err == nil {
		for _, a := range all {
			if p, err := netip.ParsePrefix(a.String()); err == nil {
				f.Local = append(f.Local, p.Addr().Unmap())
			}
		}
	}
	// A connected UDP socket sends nothing; its own address tells the way that packets
	// to everywhere take (addresses for documentation, RFC 5737 and 3849).
	for _, to := range []string{"192.0.2.1:9", "[2001:db8::1]:9"} {
		conn, err := c.network.DialContext(ctx, "udp", to)
		if err != nil {
			continue
		}
		if local, ok := conn.LocalAddr().(*net.UDPAddr); ok {
			f.Leaving = append(f.Leaving, local.AddrPort().Addr().Unmap().WithZone(""))
		}
		_ = conn.Close()
	}
}

// name finds out where the cover's name leads.
func (c *checker) name(ctx context.Context, f *checkup.Facts, cover string) {
	if _, err := netip.ParseAddr(f.Name); err != nil && f.Kind != checkup.Borrowed {
		f.NameAddrs, f.NameErr = lookUp(ctx, f.Name)
	}
	if f.Kind == checkup.Borrowed {
		if a, err := flow.SplitHostPort(cover); err != nil {
			return
		} else if a.IP.IsValid() {
			f.CoverAddrs = []netip.Addr{a.IP}
		} else {
			f.CoverAddrs, _ = lookUp(ctx, a.Name) // none is said
		}
	}
}

func lookUp(ctx context.Context, name string) ([]netip.Addr, error) {
	ctx, cancel := context.WithTimeout(ctx, lookupTimeout)
	defer cancel()
	all, err := net.DefaultResolver.LookupNetIP(ctx, "ip", strings.TrimSuffix(name, ".")+".")
	for i := range all {
		all[i] = all[i].Unmap()
	}
	return all, err
}

func (c *checker) askHTTP3(ctx context.Context, to netip.AddrPort, name string) error {
	ctx, cancel := context.WithTimeout(ctx, lookupTimeout)
	defer cancel()
	conn, err := c.network.ListenPacket(ctx, "udp", ":0")
	if err != nil {
		return err
	}
	defer conn.Close()
	return quic.Ask(ctx, conn, to, name)
}
