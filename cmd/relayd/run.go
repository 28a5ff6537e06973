package main

import (
	"context"
	"crypto/ecdh"
	"crypto/hkdf"
	"crypto/sha256"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"runtime/debug"
	"slices"
	"strconv"
	"sync/atomic"
	"syscall"
	"time"

	"busel/config"
	"busel/internal/cli"
	"busel/internal/control"
	"busel/internal/cover"
	"busel/internal/exit"
	"busel/internal/handover"
	"busel/internal/metrics"
	"busel/internal/quota"
	"busel/internal/relay"
	"busel/internal/state"
	"busel/internal/systemd"
	"busel/internal/wire"
	"busel/transport"
	"busel/transport/mirror"
	"busel/transport/quic"
)

const (
	// assumedIdle is told to clients as the idle limit of a cover that was not
	// measured: below nginx's default of 75 s.
	assumedIdle = 60 * time.Second
	// borrowedCarriers is the most clients at a time in front of somebody else's site
	// (docs/PROTOCOL.md, section 3.4).
	borrowedCarriers = 20
	// mostConns is the most TCP connections at a time, strangers' included: half of the
	// worker_connections that a cover should have (nginxSnippet), since nginx ends what
	// is silent from fifteen sixteenths on, and clients' visits are silent to it.
	mostConns = 4096
	// strangerWeight is what a stranger takes of the relay's memory, in bytes, and
	// visitorWeight one who makes as much of the built-in site as nobody has to leave for
	// (ADR 0026).
	strangerWeight = 20 << 10
	visitorWeight  = 80 << 10
)

func runCommand() cli.Command {
	return cli.Command{
		Name: "run", Summary: "serve",
		Help: `
Serves until it is interrupted: clients with an invite reach the internet through
it, everyone else sees the cover site. Ports below 1024 need root, or
CAP_NET_BIND_SERVICE.`,
		Flags: func(flags *flag.FlagSet) cli.Action {
			path := dirFlag(flags)
			return func(ctx context.Context, std cli.Std, args []string) error {
				if err := cli.NoArgs(args); err != nil {
					return err
				}
				elder, err := handover.Inherit(std.LookupEnv)
				if err != nil {
					return err
				}
				err = serve(ctx, std, *path, elder)
				if elder != nil && err != nil {
					elder.Fail(err)
				}
				return err
			}
		},
	}
}

// serve runs the relay of a directory, in the place of elder if it is not nil.
func serve(ctx context.Context, std cli.Std, path string, elder *handover.Elder) error {
	dir, err := openDir(path)
	if err != nil {
		return err
	}
	defer dir.Close()
	set, err := settings(dir)
	if err != nil {
		return err
	}
	var lock *os.File
	if elder != nil {
		lock = elder.Take(lockName)
	}
	if lock == nil {
		if lock, err = dir.LockFile(); err != nil {
			return cli.Hint(err, "`relayd status` shows what it does")
		}
	}
	defer lock.Close()
	s := &server{
		dir: dir, set: set, lock: lock, elder: elder, ports: newPorts(elder), level: new(slog.LevelVar),
		notify: systemd.New(std.LookupEnv),
	}
	s.level.Set(set.LogLevel)
	s.log = std.Logger(s.level)
	if _, chosen := std.LookupEnv("GOMEMLIMIT"); !chosen {
		limitMemory(memoryMax())
	}
	return listenHint(s.run(ctx))
}

// limitMemory has the program collect more often rather than be ended by the system
// when it takes most bytes, with some room for what is the kernel's on its behalf.
func limitMemory(most int64) {
	if most > 0 {
		debug.SetMemoryLimit(most / 5 * 4)
	}
}

// listenHint says what to do when the relay's port cannot be had.
func listenHint(err error) error {
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return cli.Hint(err, "another program has that port: stop it, move it (your own web server belongs on loopback, see README.md), or change listen in relayd.toml; if it is a UDP port that HTTP/3 needs, name others in quic-ports, or take quic out of transports there")
	case errors.Is(err, syscall.EACCES):
		return cli.Hint(err, "ports below 1024 need root, or once: setcap cap_net_bind_service=+ep RELAYD")
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return cli.Hint(err, "this machine does not have that address: write listen = [\":443\"] in relayd.toml for all that it has")
	}
	return err
}

// server wires a relay together.
type server struct {
	dir    *state.Dir
	set    config.Relay
	lock   *os.File        // of dir
	elder  *handover.Elder // whose place this relay takes; or nil
	ports  *ports
	level  *slog.LevelVar
	log    *slog.Logger
	notify *systemd.Notifier
}

// status is what `relayd status -json` prints.
type status struct {
	PID       int            `json:"pid"`
	Version   string         `json:"version"`
	Idle      idle           `json:"idle"`     // why nobody uses the relay; empty if somebody does
	Draining  *elderStatus   `json:"draining"` // of an older relayd that ends with its sessions; null if there is none
	Address   string         `json:"address"`
	CoverName string         `json:"cover_name"`
	UptimeS   int64          `json:"uptime_s"`
	Relay     relay.Stats    `json:"relay"`
	Exit      exit.Stats     `json:"exit"`
	Next      string         `json:"next_relay,omitempty"` // state of the relay in exit.relay
	Listeners []mirror.Stats `json:"listeners"`
	QUIC      []quic.Stats   `json:"quic"`
}

// elderStatus is what is left in an older relayd.
type elderStatus struct {
	PID      int   `json:"pid"`
	Sessions int   `json:"sessions"`
	Streams  int64 `json:"streams"`
}

func (s *server) run(ctx context.Context) error {
	started := time.Now()
	key, err := s.dir.RelayKey()
	if err != nil {
		return err
	}
	book, closeBook, err := openBook(s)
	if err != nil {
		return err
	}
	defer closeBook()
	gate, err := newGate(s.dir, book)
	if err != nil {
		return err
	}
	site := mirror.Cover{Address: s.set.Cover, Name: s.set.CoverName, Borrowed: s.set.Borrowed(), Idle: assumedIdle}
	var parts []func(context.Context) error
	var visited *quic.Site
	heir := &succession{command: ownCommand(), log: s.log, notify: s.notify, begun: make(chan struct{})}
	if s.set.Cover == config.CoverBuiltin {
		run, err := s.builtin(ctx, key.Bytes(), &site, &visited, heir)
		if err != nil {
			return err
		}
		parts = append(parts, run)
	}
	rules := s.exitConfig(site)
	aside, done := context.WithCancel(ctx)
	next, err := s.leave(aside, &rules)
	if next != nil {
		defer next.Wait()
	}
	defer done()
	if err != nil {
		return err
	}
	out := exit.New(rules)
	returned := make(chan struct{}, 1) // the cover has
	covered, err := s.mirrors(key, site, returned)
	if err != nil {
		return err
	}
	scrambled, err := s.quics(key, visited)
	if err != nil {
		return err
	}
	var accepting []transport.Listener
	for _, l := range covered {
		accepting, parts = append(accepting, l), append(parts, heir.inRoom(l.Run))
	}
	for _, l := range scrambled {
		// Its port can have one reader only, so its carriers end, and clients go on over others.
		accepting, parts = append(accepting, l), append(parts, heir.atDoor(l.Run))
	}
	if len(covered) > 0 {
		parts = append(parts, heir.atDoor(learnCycle(site, covered, returned, s.log)))
	}
	if s.set.Cover != config.CoverBuiltin && len(covered) > 0 { // whose limits are known
		parts = append(parts, heir.atDoor(measureCover(site, covered, s.log)))
	}
	cfg := relay.Config{Listeners: accepting, Gate: gate, Book: book, Exit: out, Logger: s.log}
	if s.elder != nil {
		cfg.Elder = s.elder
		parts = append(parts, s.elder.Run, heir.after(s.elder.Gone()))
	}
	serve := relay.New(cfg)
	report := func() status {
		st := status{
			PID: os.Getpid(), Version: cli.Version(),
			Address: s.set.Address.String(), CoverName: s.set.CoverName,
			UptimeS: int64(time.Since(started) / time.Second),
			Relay:   serve.Stats(), Exit: out.Stats(), Next: nextState(next), Draining: s.elderStatus(),
		}
		for _, l := range covered {
			st.Listeners = append(st.Listeners, l.Stats())
		}
		for _, l := range scrambled {
			st.QUIC = append(st.QUIC, l.Stats())
		}
		st.Idle = st.why(gate.usable(time.Now()))
		return st
	}
	reload := func() { s.reload(gate, serve, out) }
	heir.give = func(h *handover.Successor) error { return errors.Join(s.ports.give(h), h.Give(lockName, s.lock)) }
	heir.drain = serve.Drain
	heir.leave = func() {
		for _, c := range covered {
			_ = c.Close()
		}
	}
	heir.status, heir.reload = func() any { return report() }, reload
	ctl := &control.Server{Log: s.log, Handler: func(ctx context.Context, r control.Request) (any, error) {
		switch r.Op {
		case "status":
			return report(), nil
		case "upgrade":
			return heir.handle(ctx, r.Args)
		case opInvites:
			st := invitesOf(gate.ledger.Load(), &s.set, func(id state.InviteID) uint64 {
				if id == quota.Everybody {
					return book.Total().Used()
				}
				return book.Account(id).Used()
			}, serve.Devices())
			st.Running = true
			return st, nil
		case opReload: // whatever is the matter with the settings
			return nil, s.reloadInvites(gate, serve)
		}
		return nil, fmt.Errorf("unknown request %q", r.Op)
	}}
	moved := func() (n uint64) {
		for _, l := range covered {
			st := l.Stats()
			n += st.CovertIn + st.CovertOut + st.Strangers
		}
		for _, l := range scrambled {
			st := l.Stats()
			n += st.Strange + st.DataBytes
		}
		return n
	}
	if err := s.ports.prepare(ctx, &s.set); err != nil {
		return err
	}
	defer s.ports.close()
	if s.elder != nil {
		if err := s.elder.Ready(ctx); err != nil {
			return err
		}
	}
	if s.set.Metrics != "" {
		opened, err := s.ports.metrics(ctx, s.set.Metrics)
		if err != nil {
			return err
		}
		parts = append(parts, heir.atDoor(func(ctx context.Context) error {
			return metrics.Serve(ctx, opened.socket, func() []metrics.Metric {
				st := report()
				return st.metrics()
			})
		}))
	}
	answering := make(chan struct{})
	parts = append(parts, heir.inRoom(serve.Run), book.Run, heir.run,
		heir.atDoor(func(ctx context.Context) error {
			return ctl.Serve(ctx, s.dir.Socket(), func() { close(answering) })
		}),
		heir.atDoor(func(ctx context.Context) error { return s.watch(ctx, answering) }),
		heir.atDoor(func(ctx context.Context) error { return s.reloads(ctx, reload) }),
		func(ctx context.Context) error { return cli.ReleaseWhenIdle(ctx, moved) },
	)
	s.log.Info("relay starts", "cover", s.coverKind())
	return cli.RunAll(ctx, parts...)
}

// mirrors makes the listeners in front of the cover, if the settings have them. They
// tell returned, which has room for one, when the cover answers again.
func (s *server) mirrors(key *ecdh.PrivateKey, site mirror.Cover, returned chan<- struct{}) (all []*mirror.Listener, err error) {
	if !slices.Contains(s.set.Transports, mirror.Kind) {
		return nil, nil
	}
	var slots chan struct{}
	if site.Borrowed {
		slots = make(chan struct{}, borrowedCarriers)
	}
	for _, addr := range s.set.Listen {
		l, err := mirror.NewListener(mirror.ListenerConfig{
			Listen: func(ctx context.Context) (net.Listener, error) {
				p, err := s.ports.tcp(ctx, addr)
				return p.socket, err
			},
			Key: key, Cover: site, Slots: slots, Logger: s.log, MaxConns: s.connsEach(openFiles(), memoryMax()),
			Returned: func() {
				select {
				case returned <- struct{}{}:
				default:
				}
			},
		})
		if err != nil {
			return nil, err
		}
		all = append(all, l)
	}
	return all, nil
}

// connsEach is how many connections each TCP port may have at a time if there are so
// many descriptors and bytes of memory for all, 0 being unknown. A stranger takes two
// descriptors, with the built-in cover three, and clients' streams want some, too. Half
// of the memory is for strangers.
func (s *server) connsEach(files uint64, memory int64) int {
	n := mostConns
	if files > 0 {
		n = int(min(mostConns, files/4))
	}
	each := int64(strangerWeight)
	if s.set.Cover == config.CoverBuiltin {
		each = visitorWeight
	}
	if memory > 0 {
		n = int(min(int64(n), memory/2/each))
	}
	return max(1, n/len(s.set.Listen))
}

// quics makes the listeners on UDP ports, if the settings have them: of the same
// numbers, where site answers if it is not nil, and of the range.
func (s *server) quics(key *ecdh.PrivateKey, site *quic.Site) (all []*quic.Listener, err error) {
	if !slices.Contains(s.set.Transports, quic.Kind) {
		return nil, nil
	}
	memory := quic.NewMemory()
	listen := func(site *quic.Site, addrs ...string) error {
		l, err := quic.NewListener(quic.ListenerConfig{
			Listen: func(ctx context.Context) ([]net.PacketConn, error) { return s.ports.udps(ctx, addrs) },
			Key:    key, Site: site, Memory: memory, Logger: s.log,
		})
		all = append(all, l)
		return err
	}
	ranged := portRange(&s.set)
	if site != nil || len(ranged) == 0 {
		for _, addr := range s.set.Listen {
			if err := listen(site, addr); err != nil {
				return nil, err
			}
		}
	}
	if len(ranged) > 0 {
		err = listen(nil, ranged...)
	}
	return all, err
}

// portRange is where QUIC listens beyond the ports of listen: at each port of the
// range on each host.
func portRange(set *config.Relay) (addrs []string) {
	if set.QUICPorts.Low == 0 {
		return nil
	}
	var hosts []string
	for _, addr := range set.Listen {
		if host, _, err := net.SplitHostPort(addr); err == nil && !slices.Contains(hosts, host) {
			hosts = append(hosts, host)
		}
	}
	for _, host := range hosts {
		for port := int(set.QUICPorts.Low); port <= int(set.QUICPorts.High); port++ {
			addrs = append(addrs, net.JoinHostPort(host, strconv.Itoa(port)))
		}
	}
	return addrs
}

func (s *server) coverKind() string {
	switch {
	case s.set.Cover == config.CoverBuiltin:
		return "builtin"
	case s.set.Borrowed():
		return "borrowed"
	}
	return "own"
}

// builtin makes the built-in cover on a free port of loopback, tells site where
// it is and visited what answers over HTTP/3, and returns what serves it.
func (s *server) builtin(ctx context.Context, secret []byte, site *mirror.Cover, visited **quic.Site, heir *succession) (run func(context.Context) error, err error) {
	cert, err := s.dir.Cover()
	if err != nil {
		return nil, err
	}
	// From a secret: nobody may compute from the outside what a relay's site
	// would look like.
	seed, err := hkdf.Key(sha256.New, secret, nil, "busel builtin cover 1", 32)
	if err != nil {
		return nil, err
	}
	cfg := cover.Config{Name: s.set.CoverName, Certificate: cert, Seed: [32]byte(seed), Logger: s.log}
	var certified func(context.Context) error
	if s.set.ACME.Directory != "" {
		if cfg.TLS, certified, err = s.certified(cert); err != nil {
			return nil, err
		}
	}
	if s.set.Site != "" {
		folder, err := os.OpenRoot(s.set.Site)
		if err != nil {
			return nil, cli.Hint(fmt.Errorf("the folder of the site: %w", err), "site in relayd.toml names it; the user that relayd runs as must be able to read it")
		}
		cfg.Files = folder.FS()
	}
	if slices.Contains(s.set.Transports, quic.Kind) {
		cfg.HTTP3 = s.set.Address.Port
	}
	built, err := cover.New(cfg)
	if err != nil {
		return nil, err
	}
	*visited = &quic.Site{Handler: built, Certificate: cert, TLS: cfg.TLS}
	ln, err := transport.System{}.Listen(ctx, "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	site.Address = ln.Addr().String()
	site.Idle, site.Lifetime = built.Limits()
	parts := []func(context.Context) error{func(ctx context.Context) error { return built.Run(ctx, ln) }}
	if certified != nil { // the certificate and port 80 are the new relay's then
		parts = append(parts, heir.atDoor(certified))
	}
	return func(ctx context.Context) error { return cli.RunAll(ctx, parts...) }, nil
}

// exitConfig denies the relay's own doors to its clients.
func (s *server) exitConfig(site mirror.Cover) exit.Config {
	c := exit.Config{Allow: s.set.Exit.Allow, Deny: s.set.Exit.Deny, Logger: s.log}
	if s.set.Address.IP.IsValid() {
		c.Own = append(c.Own, s.set.Address.IP)
	}
	for _, text := range slices.Concat([]string{site.Address}, s.set.Listen, portRange(&s.set)) {
		host, port, err := net.SplitHostPort(text)
		if err != nil {
			continue
		}
		if host == "" {
			host = "::"
		}
		if ap, err := netip.ParseAddrPort(net.JoinHostPort(host, port)); err == nil {
			c.Cover = append(c.Cover, ap)
		}
	}
	return c
}

// gate judges tokens by the token key, the ledger and what was used.
type gate struct {
	key    config.TokenKey
	book   *quota.Book
	ledger atomic.Pointer[state.Ledger]
}

func newGate(dir *state.Dir, book *quota.Book) (*gate, error) {
	key, err := dir.TokenKey()
	if err != nil {
		return nil, err
	}
	g := &gate{key: key, book: book}
	return g, g.reload(dir)
}

// reload reads the ledger again.
func (g *gate) reload(dir *state.Dir) error {
	ledger, err := dir.Ledger()
	if err == nil {
		g.ledger.Store(ledger)
		g.book.SetLimits(limitsOf(ledger))
	}
	return err
}

// usable reports whether any invite may be used, as far as the ledger knows: those
// that were issued elsewhere are not in it.
func (g *gate) usable(now time.Time) bool {
	all := g.ledger.Load().Invites
	return len(all) == 0 || slices.ContainsFunc(all, func(e state.LedgerEntry) bool {
		return e.Revoked.IsZero() && (e.Expiry == 0 || now.Before(config.ExpiryTime(e.Expiry)))
	})
}

// Judge implements [relay.Gate].
func (g *gate) Judge(t wire.Token) (genuine bool, s wire.Status) {
	switch {
	case !config.VerifyToken(g.key, t):
		return false, 0
	case g.ledger.Load().Revoked(t.InviteID()):
		return true, wire.StatusRevoked
	case config.Expired(t, time.Now()):
		return true, wire.StatusExpired
	case g.book.Account(t.InviteID()).UsedUp():
		return true, wire.StatusQuota
	}
	return true, wire.StatusOK
}

var errNotRunning = errors.New("the relay is not running here")
