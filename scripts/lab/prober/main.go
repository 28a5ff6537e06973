//go:build linux

package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"busel/internal/prober"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

func run(ctx context.Context, args []string, out, complaint io.Writer) int {
	found, err := compare(ctx, args, out, complaint)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return 2
	case err != nil:
		fmt.Fprintln(complaint, "prober: error:", err)
		return 2
	case found > 0:
		return 1
	}
	return 0
}

// report is what -json prints.
type report struct {
	Probes      int                 `json:"probes"`
	Segments    bool                `json:"segments"` // were compared
	Differences []prober.Difference `json:"differences"`
}

// compare returns the number of differences.
func compare(ctx context.Context, args []string, out, complaint io.Writer) (int, error) {
	flags := flag.NewFlagSet("prober", flag.ContinueOnError)
	flags.SetOutput(complaint)
	a := flags.String("a", "", "`address` of the one server, such as the web site")
	b := flags.String("b", "", "`address` of the other one")
	name := flags.String("name", "", "host `name` to ask for")
	path := flags.String("path", "/", "`path` of a small file on the site")
	replay := flags.String("replay", "", "`file` with a client's first flight, as bytes or in a capture")
	delays := flags.String("delays", "300ms,10s", "`times` from the start to the replays")
	patience := flags.Duration("patience", 10*time.Second, "how long to wait for what a server does")
	tolerance := flags.Duration("tolerance", 50*time.Millisecond, "how far apart the same event may be")
	only := flags.String("only", "", "only probes with this `text` in their name")
	asJSON := flags.Bool("json", false, "print JSON")
	if err := flags.Parse(args); err != nil {
		return 0, flag.ErrHelp // it has said why
	}
	if flags.NArg() > 0 {
		return 0, fmt.Errorf("unexpected argument %q", flags.Arg(0))
	}
	for option, address := range map[string]string{"-a": *a, "-b": *b} {
		if _, err := netip.ParseAddrPort(address); err != nil {
			return 0, fmt.Errorf("%s %q: want an IP address and a port, such as 198.51.100.7:443", option, address)
		}
	}
	p := &prober.Prober{Name: *name, Path: *path, Patience: *patience, Tolerance: *tolerance, Parallel: 8}
	probes := p.Probes()
	if *replay != "" {
		more, err := replays(*replay, *delays)
		if err != nil {
			return 0, err
		}
		probes = append(probes, more...)
	}
	probes = slices.DeleteFunc(probes, func(p prober.Probe) bool { return !strings.Contains(p.Name, *only) })
	if len(probes) == 0 {
		return 0, fmt.Errorf("-only %q: no probe has such a name", *only)
	}
	found, err := p.Compare(ctx, prober.Target{Name: "a", Address: *a}, prober.Target{Name: "b", Address: *b}, probes)
	if err != nil {
		return 0, err
	}
	r := report{len(probes), prober.CanCapture(), found}
	if *asJSON {
		return len(found), json.NewEncoder(out).Encode(r)
	}
	for _, d := range found {
		fmt.Fprintf(out, "%s\n  a: %s\n  b: %s\n", d.Probe, d.A, d.B)
	}
	segments := "segments included"
	if !r.Segments {
		segments = "without segments, which root sees"
	}
	_, err = fmt.Fprintf(out, "%d differences in %d probes, %s\n", len(found), r.Probes, segments)
	return len(found), err
}

func replays(file, delays string) ([]prober.Probe, error) {
	recorded, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	flight, err := prober.FirstFlight(recorded)
	if err != nil {
		return nil, fmt.Errorf("-replay %s: %w", file, err)
	}
	var after []time.Duration
	for text := range strings.SplitSeq(delays, ",") {
		d, err := time.ParseDuration(text)
		if err != nil {
			return nil, fmt.Errorf("-delays %q: want durations such as 300ms,10s", delays)
		}
		after = append(after, d)
	}
	return prober.Replays(flight, time.Now(), after...), nil
}
