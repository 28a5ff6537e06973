package main

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"busel/internal/nginxtest"
	"busel/scripts/lab/censor"
	"busel/scripts/lab/censor/rule"
	"busel/scripts/lab/netns"
	"busel/scripts/lab/rules"
	"busel/scripts/lab/scenario"
	"busel/scripts/lab/world"
)

// Addresses of the lab, all from ranges for documentation (RFC 5737). The rule files
// name them.
var (
	relayAddresses  = []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")}
	originAddress   = netip.MustParseAddr("198.51.100.10")
	resolverAddress = netip.MustParseAddr("198.51.100.53")
	middleAddress   = netip.MustParseAddr("198.51.100.66") // the man in the middle
	mirrorAddress   = netip.MustParseAddr("198.51.100.80") // the look-alike
	relayRange      = netip.MustParsePrefix("192.0.2.0/24")
	siteRange       = netip.MustParsePrefix("198.51.100.0/24")
)

// bed is a world with all that an experiment needs in it: relays' cover, origin, and
// the censor's own sites. It and what runs in it end with this process.
type bed struct {
	world   *world.World
	ground  *scenario.Ground
	origin  *scenario.Origin
	cover   *x509.Certificate // of the web site behind the relays
	closers []func() error

	mu  sync.Mutex
	set *rule.Set // nil before the censor acts
}

// bedOptions vary a bed.
type bedOptions struct {
	programs     string // folder with client and relayd
	cover        string // name of the web site behind the relays
	noTimestamps bool
	pcap         string // file, empty for none
	log          *slog.Logger
}

// newBed makes a bed. The caller closes it.
func newBed(ctx context.Context, o bedOptions) (_ *bed, err error) {
	b := new(bed)
	defer func() {
		if err != nil {
			err = errors.Join(err, b.close())
		}
	}()
	known := world.Names{scenario.ListedName: {originAddress}, scenario.OtherName: {originAddress}}
	w, err := world.New(world.Config{
		Abroad:   append([]netip.Addr{originAddress, resolverAddress, middleAddress, mirrorAddress}, relayAddresses...),
		Resolver: resolverAddress, Names: known, Seed: 1, Log: o.log,
	})
	if err != nil {
		return nil, err
	}
	b.world = w
	b.run()
	if o.noTimestamps {
		if err := w.Client.SetSysctl("net/ipv4/tcp_timestamps", "0"); err != nil {
			return nil, err
		}
	}
	if err := b.record(o.pcap); err != nil {
		return nil, err
	}
	cover, err := nginxtest.Start(ctx, nginxtest.Config{Name: o.cover, Host: w.Abroad, Parent: w.Dir})
	if err != nil {
		return nil, err
	}
	b.closers = append(b.closers, cover.Close)
	b.cover = cover.Leaf
	if err := b.sites(ctx, w.Abroad); err != nil {
		return nil, err
	}
	b.ground = &scenario.Ground{
		Net: w, Client: w.Client, World: w.Abroad, Dir: w.Dir, Programs: o.programs,
		Cover: cover.Address, CoverName: o.cover, Relays: relayAddresses, Exit: []netip.Prefix{siteRange, relayRange}, Names: resolver(known), Logger: o.log,
	}
	return b, b.origin.WriteAuthority(scenario.Authority(w.Dir))
}

// run runs the world until the bed is closed.
func (b *bed) run() {
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- b.world.Run(ctx) }()
	b.closers = append(b.closers, func() error {
		cancel()
		return <-ended
	})
}

// record captures into a file, if it has a name.
func (b *bed) record(file string) error {
	if file == "" {
		return nil
	}
	capture, err := censor.StartCapture(file, 0)
	if err != nil {
		return err
	}
	b.world.Censor.SetCapture(capture)
	b.closers = append(b.closers, func() error {
		b.world.Censor.SetCapture(nil)
		_, err := capture.Close()
		return err
	})
	return nil
}

// resolver are the lab's names for what runs in this process.
type resolver world.Names

// LookupNetIP answers as the name server would.
func (r resolver) LookupNetIP(_ context.Context, network, host string) ([]netip.Addr, error) {
	if addresses := r[strings.TrimSuffix(host, ".")]; len(addresses) > 0 && network != "ip6" {
		return addresses, nil
	}
	return nil, &net.DNSError{Err: "no such host", Name: host, IsNotFound: true}
}

// sites are the origin and the censor's own.
func (b *bed) sites(ctx context.Context, abroad *netns.Namespace) error {
	plain, err := abroad.Listen(ctx, "tcp", netip.AddrPortFrom(originAddress, 80).String())
	if err != nil {
		return err
	}
	secure, err := abroad.Listen(ctx, "tcp", netip.AddrPortFrom(originAddress, 443).String())
	if err != nil {
		return errors.Join(err, plain.Close())
	}
	if b.origin, err = scenario.NewOrigin(plain, secure); err != nil {
		return err
	}
	b.closers = append(b.closers, b.origin.Close)
	quic, err := scenario.NewQUICSite(ctx, abroad, netip.AddrPortFrom(originAddress, 443).String())
	if err != nil {
		return err
	}
	b.closers = append(b.closers, quic.Close)
	for _, a := range []netip.Addr{middleAddress, mirrorAddress} {
		d, err := scenario.NewDecoy(ctx, abroad, a)
		if err != nil {
			return err
		}
		b.closers = append(b.closers, d.Close)
	}
	return nil
}

// close takes the bed away, what was made last first.
func (b *bed) close() error {
	var all []error
	for _, close := range slices.Backward(b.closers) {
		all = append(all, close())
	}
	b.closers = nil
	return errors.Join(all...)
}

// Shape sets the properties of the path.
func (b *bed) Shape(p scenario.Path) {
	p = p.Standard()
	link := censor.Link{Delay: p.Delay, Jitter: p.Jitter, Loss: p.Loss, Rate: int64(p.Rate)}
	if err := b.world.Censor.SetLinks(link, link); err != nil {
		panic(err) // the table has such a path
	}
}

// Act lets the rules of these files take effect; none end all.
func (b *bed) Act(files []string) error {
	parsed, err := readAll(files)
	if err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.set == nil {
		b.set = newSet(parsed)
		b.world.Censor.SetJudge(b.set)
		return nil
	}
	b.set.Replace(parsed...)
	return nil
}

// Hits is how many packets the rules acted on.
func (b *bed) Hits() (hits uint64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.set == nil {
		return 0
	}
	for _, c := range b.set.Counts() {
		hits += c.Packets + c.Injected
	}
	return hits
}

// Acted is how many flows the rules of that name acted on.
func (b *bed) Acted(name string) (flows uint64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.set == nil {
		return 0
	}
	for _, c := range b.set.Counts() {
		if c.File == name {
			flows += c.Flows
		}
	}
	return flows
}

// Busiest is the protocol of the flow to a relay that carries most.
func (b *bed) Busiest() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.set == nil {
		return ""
	}
	return b.set.Busiest(time.Now(), relayRange).Protocol
}

// Sent is how many bytes of IP the client has sent.
func (b *bed) Sent() uint64 {
	up, _ := b.world.Censor.Counters()
	return up.Bytes
}

// readRules reads a file of the lab, by its name, or of the user's, by its path.
func readRules(name string) (*rule.File, error) {
	file, _, _ := strings.Cut(name, "#")
	text, err := rules.Files.ReadFile(file + ".toml")
	if errors.Is(err, fs.ErrNotExist) {
		text, err = os.ReadFile(name)
	}
	if err != nil {
		return nil, fmt.Errorf("no rules %q: want a name of scripts/lab/rules or a file: %w", name, err)
	}
	return rule.Parse(filepath.Base(name), text)
}
