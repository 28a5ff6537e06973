package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"busel/scripts/lab/netns"
	"busel/scripts/lab/scenario"
	"busel/scripts/lab/tunnel"
)

// storyWithin is how soon after a way has opened the subject of a story must have a
// page.
const storyWithin = 5 * time.Second

// biteLimit is long enough to see that a page does not come.
const biteLimit = 10 * time.Second

func (o *options) run(ctx context.Context) error {
	if err := netns.Available(); err != nil {
		return err
	}
	for _, folder := range []string{o.pcap, o.logs} {
		if folder == "" {
			continue
		}
		if err := os.MkdirAll(folder, 0o700); err != nil {
			return err
		}
	}
	switch {
	case o.shell:
		return o.runShell(ctx)
	case o.story != "":
		return o.runStory(ctx)
	case o.compare:
		return o.runCompare(ctx)
	case o.rotation:
		return o.runRotation(ctx)
	case o.short:
		return o.runShort(ctx)
	}
	picked, err := o.chosen()
	if err != nil {
		return err
	}
	return o.runAll(ctx, picked)
}

// job is one run of one scenario.
type job struct {
	scenario.Scenario
	label string // names its files
}

// runAll runs the scenarios, some at a time, and prints the table.
func (o *options) runAll(ctx context.Context, picked []scenario.Scenario) error {
	var jobs []job
	for _, s := range picked {
		for i := range o.times {
			label := s.Name
			if o.times > 1 {
				label = fmt.Sprintf("%s-%d", s.Name, i+1)
			}
			jobs = append(jobs, job{s, label})
		}
	}
	results := make([]scenario.Result, len(jobs))
	failures := make([]error, len(jobs))
	next := make(chan int)
	var wg sync.WaitGroup
	for range min(o.parallel, len(jobs)) {
		wg.Go(func() {
			for i := range next {
				results[i], failures[i] = o.runOne(ctx, jobs[i])
				fmt.Fprintf(os.Stderr, "%-26s %s\n", jobs[i].label, told(results[i], failures[i]))
			}
		})
	}
	for i := range jobs {
		select {
		case next <- i:
		case <-ctx.Done():
		}
	}
	close(next)
	wg.Wait()
	if ctx.Err() != nil {
		return errors.New("interrupted")
	}
	// What could not be run has no verdict.
	results = slices.DeleteFunc(results, func(r scenario.Result) bool { return r.Verdict == "" })
	err := errors.Join(append(failures, scenario.WriteTable(os.Stdout, results))...)
	if o.json != "" {
		err = errors.Join(err, writeFile(o.json, results, scenario.WriteJSON))
	}
	return errors.Join(err, verdict(results))
}

func told(r scenario.Result, err error) string {
	if err != nil {
		return "the lab failed: " + err.Error()
	}
	return string(r.Verdict)
}

func verdict(results []scenario.Result) error {
	bad := 0
	for _, r := range results {
		if r.Verdict.Bad() {
			bad++
		}
	}
	if bad > 0 {
		return fmt.Errorf("%d of %d scenarios were not as expected", bad, len(results))
	}
	return nil
}

// writeFile lets write write it to a file.
func writeFile[T any](name string, it T, write func(io.Writer, T) error) error {
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	return errors.Join(write(f, it), f.Close())
}

// runOne lets Busel and who is to be bitten meet the same censor, each in a bed of
// its own and at the same time.
func (o *options) runOne(ctx context.Context, j job) (r scenario.Result, err error) {
	r.Scenario = j.Scenario
	var wg sync.WaitGroup
	var bitten error
	if j.Bites.Subject != "" {
		wg.Go(func() {
			bite := j
			bite.Limit = cmp.Or(j.Limit, biteLimit)
			r.Bitten, bitten = o.experiment(ctx, bite, j.Bites.Subject)
		})
	}
	r.Subject, err = o.experiment(ctx, j, "")
	wg.Wait()
	if err = errors.Join(err, bitten); err != nil {
		return r, fmt.Errorf("%s: %w", j.label, err)
	}
	r.Verdict, r.Why = scenario.Judge(j.Scenario, r.Subject, r.Bitten)
	return r, nil
}

// subject makes the subject of that name; "" is Busel, or what stands in its place.
func (o *options) subject(name string, s scenario.Scenario) (scenario.Subject, error) {
	switch name {
	case "":
		if o.socks != "" {
			return &scenario.Other{Client: o.client, Relay: o.relay, Socks: o.socks}, nil
		}
		return &scenario.Busel{Relays: s.Relays, Builtin: s.Builtin}, nil
	case scenario.Direct, scenario.DirectQUIC:
		return scenario.Bare{}, nil
	case scenario.TLSTunnel:
		return &scenario.Plain{Kind: tunnel.TLS, Port: s.TunnelPort}, nil
	case scenario.BrowserTunnel:
		return &scenario.Plain{Kind: tunnel.Browser, Port: s.TunnelPort}, nil
	case scenario.RandomTunnel:
		return &scenario.Plain{Kind: tunnel.Random, Port: s.TunnelPort}, nil
	}
	return nil, fmt.Errorf("no subject is called %q", name)
}

// experiment puts up a bed and runs one subject in it.
func (o *options) experiment(ctx context.Context, j job, name string) (outcome scenario.Outcome, err error) {
	subject, err := o.subject(name, j.Scenario)
	if err != nil {
		return outcome, err
	}
	file := j.label
	if name != "" {
		file += " " + name
	}
	b, err := o.bed(ctx, file, j.Scenario)
	if err != nil {
		return outcome, err
	}
	defer func() { err = errors.Join(err, o.keepLogs(b, file), b.close()) }()
	e := experimentIn(b, j.Scenario, subject)
	if name == scenario.DirectQUIC {
		e.Fetch = func(ctx context.Context) error {
			return scenario.FetchQUIC(ctx, b.ground.Client, netip.AddrPortFrom(originAddress, 443).String(), scenario.ListedName)
		}
	}
	outcome, err = e.Run(ctx)
	outcome.Subject = name
	if err != nil && name != "" {
		err = fmt.Errorf("%s: %w", name, err)
	}
	return outcome, err
}

func experimentIn(b *bed, s scenario.Scenario, subject scenario.Subject) *scenario.Experiment {
	return &scenario.Experiment{Scenario: s, Subject: subject, Ground: b.ground, Censor: b, Origin: b.origin, OriginAt: originAddress}
}

func (o *options) bed(ctx context.Context, file string, s scenario.Scenario) (*bed, error) {
	options := bedOptions{programs: o.programs, cover: s.CoverName(), noTimestamps: s.NoTimestamps, log: slog.New(slog.DiscardHandler)}
	if o.pcap != "" {
		options.pcap = filepath.Join(o.pcap, file+".pcapng")
	}
	return newBed(ctx, options)
}

// keepLogs copies the programs' logs.
func (o *options) keepLogs(b *bed, file string) error {
	if o.logs == "" {
		return nil
	}
	logs, err := filepath.Glob(filepath.Join(b.world.Dir, "*.log"))
	for _, log := range logs {
		text, readErr := os.ReadFile(log)
		err = errors.Join(err, readErr, os.WriteFile(filepath.Join(o.logs, file+" "+filepath.Base(log)), text, 0o600))
	}
	return err
}

// runStory tells a story.
func (o *options) runStory(ctx context.Context) error {
	for _, s := range scenario.Stories() {
		if s.Name == o.story {
			return o.tell(ctx, s)
		}
	}
	return fmt.Errorf("no story is called %q: see -list", o.story)
}

func (o *options) tell(ctx context.Context, s scenario.Story) (err error) {
	subject, err := o.subject("", scenario.Scenario{})
	if err != nil {
		return err
	}
	var experiments [2]*scenario.Experiment
	for i, who := range []scenario.Subject{subject, scenario.Bare{}} {
		file := s.Name + " " + []string{"subject", "direct"}[i]
		b, err := o.bed(ctx, file, scenario.Scenario{})
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, o.keepLogs(b, file), b.close()) }()
		experiments[i] = experimentIn(b, scenario.Scenario{}, who)
	}
	begin := time.Now()
	told, err := s.Run(ctx, experiments[0], experiments[1], func(stage scenario.Stage) {
		fmt.Fprintf(os.Stderr, "%6s  %s\n", time.Since(begin).Round(time.Second), stage.Title)
	})
	if err != nil {
		return err
	}
	name := "Busel"
	if o.socks != "" {
		name = "the tool"
	}
	minutes := s.Minutes(told, storyWithin)
	if err := errors.Join(scenario.WriteStory(os.Stdout, s, name, told.Chapters), scenario.WriteMinutes(os.Stdout, name, minutes)); err != nil {
		return err
	}
	var all []error
	for _, f := range append(scenario.Failures(told.Chapters, storyWithin), scenario.Barren(minutes)...) {
		all = append(all, errors.New(f))
	}
	return errors.Join(all...)
}

// runShell leaves the user in the client's network, with the subject running.
func (o *options) runShell(ctx context.Context) (err error) {
	subject, err := o.subject("", scenario.Scenario{Relays: len(relayAddresses)})
	if err != nil {
		return err
	}
	b, err := o.bed(ctx, "shell", scenario.Scenario{})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, o.keepLogs(b, "shell"), b.close()) }()
	b.Shape(scenario.Path{})
	if o.rules != "" {
		if err := b.Act(splitList(o.rules)); err != nil {
			return err
		}
	}
	if err := subject.Start(ctx, b.ground); err != nil {
		return err
	}
	defer subject.Stop()
	control, err := b.serveControl(ctx)
	if err != nil {
		return err
	}
	fmt.Fprintf(os.Stderr, `You are behind the censor. Try:
  curl https://%[1]s/ --cacert $LAB_AUTHORITY
  curl https://%[1]s/ --cacert $LAB_AUTHORITY --proxy socks5h://%[2]s
Rules may change meanwhile, from another terminal; names are those of scripts/lab/rules:
  scripts/lab/run -control %[3]s status
  scripts/lab/run -control %[3]s rules s1-rst-gfw
Leave with "exit".
`, scenario.ListedName, subject.Proxy(), control)
	return b.world.Shell(ctx, os.Stdin, os.Stdout, os.Stderr, "LAB_AUTHORITY="+scenario.Authority(b.world.Dir))
}
