package world

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"busel/scripts/lab/censor"
	"busel/scripts/lab/netns"
	"busel/scripts/lab/scratch"
)

// mtu is Ethernet's, in bytes.
const mtu = 1500

// Interface is the name of the one that leads to the other side.
const Interface = "lab0"

// Client is the client's address.
var Client = netip.MustParseAddr("203.0.113.2")

// moved is where the client is after Move, in a network of its own: as a second
// address of the old one it would go with the first.
var moved = netip.MustParseAddr("203.0.113.130")

// Twin is the IPv6 address that belongs to an IPv4 address:
// 2001:db8:198::53 to 198.51.100.53.
func Twin(a netip.Addr) netip.Addr {
	b := a.As4()
	return netip.MustParseAddr(fmt.Sprintf("2001:db8:%d::%d", b[0], b[3]))
}

// Config says what there is.
type Config struct {
	Abroad   []netip.Addr // IPv4 addresses, whose twins exist as well
	Resolver netip.Addr   // one of them, that answers names
	Names    Names
	// Of the censor at the beginning.
	Up, Down censor.Link
	Judge    censor.Judge
	Seed     uint64
	Log      *slog.Logger // nil for none
}

// World is such a network.
type World struct {
	Client, Abroad *netns.Namespace
	Censor         *censor.Censor
	Dir            string // for files, removed at the end

	names   Names
	udp     []net.PacketConn
	tcp     []net.Listener
	closers []func() error
}

// New builds a world. The caller runs it, which closes it, or closes it.
func New(cfg Config) (_ *World, err error) {
	if err := netns.Available(); err != nil {
		return nil, err
	}
	w := &World{names: cfg.Names}
	defer func() {
		if err != nil {
			err = errors.Join(err, w.Close())
		}
	}()
	folder, err := scratch.Make("busel-lab-")
	if err != nil {
		return nil, err
	}
	w.Dir = folder.Path
	w.closers = append(w.closers, folder.Remove)
	for _, side := range []**netns.Namespace{&w.Client, &w.Abroad} {
		if *side, err = netns.New(); err != nil {
			return nil, err
		}
		w.closers = append(w.closers, (*side).Close)
	}
	if err := w.connect(cfg); err != nil {
		return nil, err
	}
	return w, w.openResolver(cfg.Resolver)
}

// connect lays the cable, with the censor in the middle.
func (w *World) connect(cfg Config) error {
	inner, err := w.Client.TUN(Interface, mtu, netip.PrefixFrom(Client, 24), netip.PrefixFrom(Twin(Client), 64))
	if err != nil {
		return err
	}
	w.closers = append(w.closers, inner.Close)
	outer, err := w.Abroad.TUN(Interface, mtu)
	if err != nil {
		return err
	}
	w.closers = append(w.closers, outer.Close)
	var hosts []netip.Prefix
	for _, a := range cfg.Abroad {
		hosts = append(hosts, netip.PrefixFrom(a, 32), netip.PrefixFrom(Twin(a), 128))
	}
	everywhere := []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("::/0")}
	err = errors.Join(
		// On lo, what is abroad reaches itself.
		w.Abroad.AddAddresses("lo", hosts...),
		w.Abroad.AddRoutes(Interface, everywhere...),
		w.Client.AddRoutes(Interface, everywhere...),
	)
	if err != nil {
		return err
	}
	w.Censor, err = censor.New(censor.Config{
		Client: inner, World: outer, MTU: mtu, Judge: cfg.Judge, Up: cfg.Up, Down: cfg.Down, Seed: cfg.Seed, Log: cfg.Log,
	})
	return err
}

// openResolver opens the resolver's sockets and makes programs of both sides
// ask it.
func (w *World) openResolver(at netip.Addr) error {
	for _, a := range []netip.Addr{at, Twin(at)} {
		address := netip.AddrPortFrom(a, 53).String()
		c, err := w.Abroad.ListenPacket(context.Background(), "udp", address)
		if err != nil {
			return err
		}
		w.udp, w.closers = append(w.udp, c), append(w.closers, c.Close)
		l, err := w.Abroad.Listen(context.Background(), "tcp", address)
		if err != nil {
			return err
		}
		w.tcp, w.closers = append(w.tcp, l), append(w.closers, l.Close)
	}
	file := filepath.Join(w.Dir, "resolv.conf")
	if err := os.WriteFile(file, fmt.Appendf(nil, "nameserver %s\n", at), 0o644); err != nil {
		return err
	}
	return errors.Join(w.Client.Replace("/etc/resolv.conf", file), w.Abroad.Replace("/etc/resolv.conf", file))
}

// Run lets packets through and answers names until ctx ends, or something
// fails. Then it closes the world.
func (w *World) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var all sync.WaitGroup
	var mu sync.Mutex
	var failures []error
	part := func(run func() error) {
		all.Go(func() {
			err := run()
			cancel()
			mu.Lock()
			defer mu.Unlock()
			failures = append(failures, err)
		})
	}
	part(func() error { return w.Censor.Run(ctx) })
	for _, c := range w.udp {
		part(func() error { return w.names.serveUDP(c) })
	}
	for _, l := range w.tcp {
		part(func() error { return w.names.serveTCP(l) })
	}
	<-ctx.Done()
	err := w.Close()
	all.Wait()
	return errors.Join(append(failures, err)...)
}

// Close takes the world away, with all programs in it. It may be called more
// than once, and not by several goroutines.
func (w *World) Close() error {
	var all []error
	for _, close := range slices.Backward(w.closers) {
		all = append(all, close())
	}
	w.closers = nil
	return errors.Join(all...)
}

// Move gives the client other addresses in place of those it has, once, as a
// telephone that leaves one network for another.
func (w *World) Move() error {
	return errors.Join(
		w.Client.ReplaceAddress(Interface, netip.PrefixFrom(Client, 24), netip.PrefixFrom(moved, 25)),
		w.Client.ReplaceAddress(Interface, netip.PrefixFrom(Twin(Client), 64), netip.PrefixFrom(Twin(moved), 65)),
	)
}

// Program starts a command on one side; what it writes goes to the file
// NAME.log in w.Dir. The caller waits for it; it ends with the world.
func (w *World) Program(side *netns.Namespace, name string, cmd *exec.Cmd) error {
	log, err := os.OpenFile(filepath.Join(w.Dir, name+".log"), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer log.Close() // the program has its own
	cmd.Stdout, cmd.Stderr = log, log
	if err := side.Start(cmd); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

// Environment is that of this process without proxies, which would lead
// programs out of the experiment, and with more.
func Environment(more ...string) []string {
	own := slices.DeleteFunc(os.Environ(), func(variable string) bool {
		name, _, _ := strings.Cut(variable, "=")
		return strings.HasSuffix(strings.ToLower(name), "_proxy")
	})
	return append(own, more...)
}

// Shell runs an interactive shell where the client is, until the user leaves
// it or ctx ends. more are variables of its environment.
func (w *World) Shell(ctx context.Context, in io.Reader, out, errOut io.Writer, more ...string) error {
	shell := exec.CommandContext(ctx, "bash", "--norc", "-i")
	shell.Stdin, shell.Stdout, shell.Stderr = in, out, errOut
	shell.Env = Environment(append([]string{`PS1=(behind the censor) \w \$ `}, more...)...)
	if err := w.Client.Start(shell); err != nil {
		return fmt.Errorf("shell: %w", err)
	}
	err := shell.Wait()
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) || ctx.Err() != nil {
		return nil // the status is that of the last command
	}
	return err
}
