package scenario

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"busel/internal/exit"
	"busel/internal/front"
	"busel/scripts/lab/netns"
	"busel/scripts/lab/tunnel"
	"busel/scripts/lab/world"
)

// Ground is where a subject is put up: the client's namespace, and the world's, in
// which all servers are.
type Ground struct {
	Net           *world.World
	Client, World *netns.Namespace // its sides
	Dir           string           // its folder: private, removed with it
	Programs      string           // folder with client and relayd
	Cover         string           // host:port of the web site behind relays, in the world
	CoverName     string
	Relays        []netip.Addr   // addresses that are free for relays
	Exit          []netip.Prefix // what relays may connect to: sites, and each other
	Names         exit.Resolver
	Logger        *slog.Logger
}

// ProxyAddress is where subjects offer SOCKS5, in the client's namespace.
const ProxyAddress = "127.0.0.1:1080"

// Report is what a subject tells its user.
type Report struct {
	Says  []string // kinds of failures, each once, sorted
	Moves int      // replacements of a connection
	// Active are the ways that are in use, such as "mirror", each once, sorted; with
	// the relay's name if there are several.
	Active []string
}

// Subject is what carries the applications' traffic in an experiment.
type Subject interface {
	// Start puts it up and returns when it takes connections. It ends with ctx;
	// Stop waits for that.
	Start(ctx context.Context, g *Ground) error
	// Proxy is host:port of its SOCKS5 proxy in the client's namespace, or empty:
	// applications connect by themselves.
	Proxy() string
	Report(ctx context.Context) (Report, error)
	Stop()
}

// startTime bounds the start of a subject's programs.
const startTime = 20 * time.Second

// awaitPort returns when somebody listens on the address inside, or ended is closed.
func awaitPort(ctx context.Context, n *netns.Namespace, address string, ended <-chan struct{}) error {
	ctx, cancel := context.WithTimeout(ctx, startTime)
	defer cancel()
	for {
		c, err := n.Dial(ctx, "tcp", address)
		if err == nil {
			return c.Close()
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ended:
			return errors.New("the program ended")
		case <-ctx.Done():
			return fmt.Errorf("nobody listens on %s: %w", address, err)
		}
	}
}

// programs are processes that end together.
type programs struct {
	wg     sync.WaitGroup
	cancel context.CancelFunc
}

// start runs cmd on one side until Stop, or until ctx ends; NAME.log has what it
// writes. ended is closed when it has ended.
func (p *programs) start(ctx context.Context, g *Ground, side *netns.Namespace, name string, cmd *exec.Cmd) (_ <-chan struct{}, err error) {
	if err := g.Net.Program(side, name, cmd); err != nil {
		return nil, err
	}
	ended := make(chan struct{})
	p.wg.Go(func() {
		_ = cmd.Wait() // how a program ends that is told to says nothing
		close(ended)
	})
	p.wg.Go(func() {
		select {
		case <-ctx.Done():
			_ = cmd.Process.Kill() // it has ended, else
		case <-ended:
		}
	})
	return ended, nil
}

// Stop ends the programs and waits for them.
func (p *programs) Stop() {
	if p.cancel != nil {
		p.cancel()
	}
	p.wg.Wait()
}

// Busel is the client and as many relays as there are addresses for, each of which
// stands before the same cover.
type Busel struct {
	Relays int    // 0: one
	Policy string // of rotation, for the client's settings; empty: none
	// Transports of the relays as in their settings: ["mirror"]; empty: all.
	Transports string
	// Builtin: relays show the site that they bring along, and their addresses are its name.
	Builtin   bool
	programs  // the relays
	client    programs
	process   *os.Process // the client's
	clients   int         // so far
	clientDir string
	bin       string
	invites   []string
}

// Proxy returns the client's address.
func (b *Busel) Proxy() string { return ProxyAddress }

// Start makes relays and a client that holds their invites.
func (b *Busel) Start(ctx context.Context, g *Ground) error {
	if err := b.StartRelays(ctx, g); err != nil {
		return err
	}
	return b.StartClient(ctx, g)
}

// sendBuffers are net.ipv4.tcp_wmem as install-relay sets it (scripts/busel-relay.sysctl):
// 4 MiB, the kernel's, hold a connection up that loses 5 % at 100 Mbit/s and 100 ms.
const sendBuffers = "4096 16384 16777216"

// StartRelays makes the relays. All servers of the world have their kernel's settings.
func (b *Busel) StartRelays(ctx context.Context, g *Ground) error {
	if err := g.World.SetSysctl("net/ipv4/tcp_wmem", sendBuffers); err != nil {
		return err
	}
	ctx, b.cancel = context.WithCancel(ctx)
	b.bin = g.Programs
	count := max(1, b.Relays)
	if count > len(g.Relays) {
		return fmt.Errorf("%d relays are wanted and there are addresses for %d", count, len(g.Relays))
	}
	for i, address := range g.Relays[:count] {
		invite, err := b.startRelay(ctx, g, filepath.Join(g.Dir, fmt.Sprintf("relay%d", i)), netip.AddrPortFrom(address, 443))
		if err != nil {
			return fmt.Errorf("relay: %w", err)
		}
		b.invites = append(b.invites, invite)
	}
	return nil
}

// StartClient makes a client that has never been here before.
func (b *Busel) StartClient(ctx context.Context, g *Ground) error {
	ctx, b.client.cancel = context.WithCancel(ctx)
	b.clients++
	b.clientDir = filepath.Join(g.Dir, fmt.Sprintf("client%d", b.clients))
	for _, invite := range b.invites {
		if _, err := b.command(ctx, g.Client, invite, "client", "add", "-dir", b.clientDir, "-"); err != nil {
			return err
		}
	}
	if b.Policy != "" {
		settings := fmt.Sprintf("[rotation]\npolicy = %q\n", b.Policy)
		if err := os.WriteFile(filepath.Join(b.clientDir, "client.toml"), []byte(settings), 0o600); err != nil {
			return err
		}
	}
	client := b.program("client", "run", "-dir", b.clientDir, "-listen", ProxyAddress)
	ended, err := b.client.start(ctx, g, g.Client, "client", client)
	if err != nil {
		return err
	}
	b.process = client.Process
	if err := awaitPort(ctx, g.Client, ProxyAddress, ended); err != nil {
		return fmt.Errorf("the client: %w", err)
	}
	return nil
}

// StopClient ends the client and waits for that.
func (b *Busel) StopClient() { b.client.Stop() }

// Stop ends all and waits for that.
func (b *Busel) Stop() {
	b.client.Stop()
	b.programs.Stop()
}

func (b *Busel) startRelay(ctx context.Context, g *Ground, dir string, at netip.AddrPort) (invite string, err error) {
	cover := []string{"-cover", g.Cover, "-cover-name", g.CoverName}
	if b.Builtin {
		cover = []string{"-cover", "builtin"}
	}
	invite, err = b.command(ctx, g.World, "", "relayd", append([]string{"init", "-dir", dir, "-address", at.String()}, cover...)...)
	if err != nil {
		return "", err
	}
	// The lab's sites have addresses that are reserved for documentation, which a
	// relay's exit denies by default; and it listens on one address, since the next
	// relay has the same port on another.
	settings := filepath.Join(dir, "relayd.toml")
	text, err := os.ReadFile(settings)
	if err != nil {
		return "", err
	}
	keys := map[string]string{"listen": fmt.Sprintf("[%q]", at), "allow": list(g.Exit)}
	if b.Transports != "" {
		keys["transports"] = b.Transports
	}
	edited, err := replaceKeys(string(text), keys)
	if err != nil {
		return "", err
	}
	if err := os.WriteFile(settings, []byte(edited), 0o600); err != nil {
		return "", err
	}
	ended, err := b.start(ctx, g, g.World, "relayd", b.program("relayd", "run", "-dir", dir))
	if err != nil {
		return "", err
	}
	return invite, awaitPort(ctx, g.World, at.String(), ended)
}

// list writes prefixes as TOML.
func list(prefixes []netip.Prefix) string {
	quoted := make([]string, len(prefixes))
	for i, p := range prefixes {
		quoted[i] = fmt.Sprintf("%q", p)
	}
	return "[" + strings.Join(quoted, ", ") + "]"
}

// replaceKeys sets keys of a TOML text that stand at the beginning of a line, in a
// comment perhaps.
func replaceKeys(text string, values map[string]string) (string, error) {
	lines := strings.Split(text, "\n")
	for key, value := range values {
		i := slices.IndexFunc(lines, func(l string) bool { return strings.HasPrefix(strings.TrimLeft(l, "# "), key+" =") })
		if i < 0 {
			return "", fmt.Errorf("no key %q in the relay's settings", key)
		}
		lines[i] = key + " = " + value
	}
	return strings.Join(lines, "\n"), nil
}

// program is one of ours.
func (b *Busel) program(name string, args ...string) *exec.Cmd {
	return exec.Command(filepath.Join(b.bin, name), args...)
}

// command runs one of ours to its end.
func (b *Busel) command(ctx context.Context, n *netns.Namespace, input, name string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, startTime)
	defer cancel()
	return output(ctx, n, input, filepath.Join(b.bin, name), args...)
}

// output runs a program inside to its end and returns what it wrote.
func output(ctx context.Context, n *netns.Namespace, input, name string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	var out, errOut strings.Builder
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(input), &out, &errOut
	err := n.Start(cmd)
	if err == nil {
		err = cmd.Wait()
	}
	if err != nil {
		return "", fmt.Errorf("%s %s: %w: %s", filepath.Base(name), args[0], err, strings.TrimSpace(errOut.String()))
	}
	return strings.TrimSpace(out.String()), nil
}

// Report asks the client for its status.
func (b *Busel) Report(ctx context.Context) (Report, error) {
	ctx, cancel := context.WithTimeout(ctx, startTime)
	defer cancel()
	text, err := exec.CommandContext(ctx, filepath.Join(b.bin, "client"), "status", "-dir", b.clientDir, "-json").Output()
	if err != nil {
		return Report{}, fmt.Errorf("client status: %w", err)
	}
	var s front.Status
	if err := json.Unmarshal(text, &s); err != nil {
		return Report{}, fmt.Errorf("client status: %w", err)
	}
	r := Report{Moves: s.Moves}
	for _, p := range s.Paths {
		if p.Failure != "" && !slices.Contains(r.Says, p.Failure) {
			r.Says = append(r.Says, p.Failure)
		}
	}
	slices.Sort(r.Says)
	for _, c := range s.Carriers {
		if c.State != front.Active {
			continue
		}
		way := c.Transport
		if b.Relays > 1 {
			way += " " + c.Relay
		}
		r.Active = append(r.Active, way)
	}
	slices.Sort(r.Active)
	r.Active = slices.Compact(r.Active)
	return r, nil
}

// Bare is no proxy at all: applications connect directly.
type Bare struct{}

// Start does nothing.
func (Bare) Start(context.Context, *Ground) error { return nil }

// Proxy returns nothing.
func (Bare) Proxy() string { return "" }

// Report is empty.
func (Bare) Report(context.Context) (Report, error) { return Report{}, nil }

// Stop does nothing.
func (Bare) Stop() {}

// Plain is one of the tunnels that censors recognise, behind the same local proxy
// and before the same exit as Busel.
type Plain struct {
	Kind   tunnel.Kind
	Port   uint16 // of the server; 0 is 443
	wg     sync.WaitGroup
	cancel context.CancelFunc
}

// Proxy returns the local proxy's address.
func (p *Plain) Proxy() string { return ProxyAddress }

// Start runs the server on the first of the relays' addresses.
func (p *Plain) Start(ctx context.Context, g *Ground) error {
	ctx, p.cancel = context.WithCancel(ctx)
	at := netip.AddrPortFrom(g.Relays[0], cmp.Or(p.Port, 443))
	ln, err := g.World.Listen(ctx, "tcp", at.String())
	if err != nil {
		return err
	}
	out := exit.New(exit.Config{Allow: g.Exit, Network: inside{g.World}, Resolver: g.Names, Logger: g.Logger})
	p.wg.Go(func() { p.ended(g, "server", tunnel.Serve(ctx, ln, p.Kind, g.CoverName, out)) })

	local, err := front.New(front.Config{
		Listen: ProxyAddress, Logger: g.Logger,
		Opener: &tunnel.Client{Kind: p.Kind, Server: at.String(), Name: g.CoverName, Dial: g.Client.Dial},
	})
	if err != nil {
		return err
	}
	if err := g.Client.Do(func() error { return local.Listen(ctx) }); err != nil {
		return err
	}
	p.wg.Go(func() { p.ended(g, "client", local.Run(ctx)) })
	return nil
}

func (p *Plain) ended(g *Ground, part string, err error) {
	if err != nil && !errors.Is(err, context.Canceled) && g.Logger != nil {
		g.Logger.Warn("the plain tunnel failed", "part", part, "cause", err)
	}
}

// Report is empty: such a tunnel says nothing.
func (p *Plain) Report(context.Context) (Report, error) { return Report{}, nil }

// Stop ends both ends.
func (p *Plain) Stop() {
	if p.cancel != nil {
		p.cancel()
	}
	p.wg.Wait()
}

// Other is somebody else's tool: two shell commands and where its SOCKS5 proxy is.
// The commands find LAB_RELAY (the address for the relay), LAB_COVER (host:port of
// a web site in the world), LAB_COVER_NAME and LAB_DIR (a private folder) in their
// environment.
type Other struct {
	Client, Relay string // for sh -c; Relay may be empty
	Socks         string // host:port in the client's namespace
	programs
}

// Proxy returns where the tool listens.
func (o *Other) Proxy() string { return o.Socks }

// Start runs both commands.
func (o *Other) Start(ctx context.Context, g *Ground) error {
	ctx, o.cancel = context.WithCancel(ctx)
	for _, side := range []struct {
		at      *netns.Namespace
		name    string
		command string
	}{{g.World, "relay", o.Relay}, {g.Client, "client", o.Client}} {
		if side.command == "" {
			continue
		}
		cmd := exec.Command("sh", "-c", side.command)
		cmd.Env = world.Environment("LAB_RELAY="+g.Relays[0].String(), "LAB_COVER="+g.Cover, "LAB_COVER_NAME="+g.CoverName, "LAB_DIR="+g.Dir)
		if _, err := o.start(ctx, g, side.at, side.name, cmd); err != nil {
			return err
		}
	}
	return awaitPort(ctx, g.Client, o.Socks, nil)
}

// Report is empty.
func (o *Other) Report(context.Context) (Report, error) { return Report{}, nil }
