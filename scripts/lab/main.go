// Command lab plays censors and shows what Busel makes of them: every row of the
// list of threats that can be simulated, as an experiment with real programs in
// network namespaces. docs/LAB.md tells how to read and extend it.
//
//	scripts/lab/run                    all scenarios, as a Markdown table
//	scripts/lab/run -short             the selection that every test run includes
//	scripts/lab/run -row R1,C3         some rows, or names of scenarios
//	scripts/lab/run -list              what there is
//	scripts/lab/run -rotation -n 20    what rotation is to reach, each row 20 times
//	scripts/lab/run -compare -n 50     what observers say of Busel and of a real Chromium
//	scripts/lab/run -story minsk-2020  a course of events, minute by minute
//	scripts/lab/run -rule FILE         what rule files do to Busel, and to no proxy
//	scripts/lab/run -shell             a shell behind the censor, with Busel running
//
//	scripts/lab/run -control SOCKET status | rules [NAME...] | link JSON | capture [FILE]
//	                                   asks or changes the censor of a shell
//
//	-json FILE    results for programs
//	-pcap DIR     a capture of each experiment, and the programs' logs
//	-logs DIR     only the logs
//	-parallel N   scenarios at a time
//	-n N          each scenario N times
//	-long         the long form of rotation
//	-client CMD -relay CMD -socks ADDR   another tool in Busel's place
//
// It exits with 1 if anything was not as expected. It needs Linux and root, leaves
// nothing behind, and several may run side by side.
package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"slices"
	"strings"
	"syscall"

	"busel/scripts/lab/scenario"
)

func main() {
	// The censor's threads sleep in the kernel with their packets; with no more
	// threads than cores they would wait for each other.
	runtime.GOMAXPROCS(runtime.NumCPU() + 4)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // a second signal kills
	err := run(ctx, os.Args[1:])
	switch {
	case err == nil:
	case errors.Is(err, flag.ErrHelp):
		os.Exit(2)
	default:
		fmt.Fprintln(os.Stderr, "lab: error:", err)
		os.Exit(1)
	}
}

// options are the flags.
type options struct {
	short, list, shell bool
	rotation, long     bool
	compare            bool
	rows, rules        string
	story, control     string
	json, pcap, logs   string
	parallel, times    int
	// Another tool in Busel's place: its commands and its SOCKS5 address.
	client, relay, socks string
	programs             string // folder with client and relayd
}

func run(ctx context.Context, args []string) error {
	var o options
	flags := flag.NewFlagSet("lab", flag.ContinueOnError)
	flags.BoolVar(&o.short, "short", false, "the selection that every test run includes")
	flags.BoolVar(&o.list, "list", false, "print what there is, and run nothing")
	flags.BoolVar(&o.shell, "shell", false, "a shell behind the censor, with Busel running")
	flags.BoolVar(&o.rotation, "rotation", false, "the second table: what rotation is to reach")
	flags.BoolVar(&o.compare, "compare", false, "compare Busel's flows with a real Chromium's to the same cover")
	flags.BoolVar(&o.long, "long", false, "rotation in its long form")
	flags.StringVar(&o.rows, "row", "", "only these `rows or scenarios`, with commas between")
	flags.StringVar(&o.rules, "rule", "", "`files` of rules, with commas between: what they do to Busel and to no proxy")
	flags.StringVar(&o.story, "story", "", "run the story of this `name`")
	flags.StringVar(&o.control, "control", "", "ask the censor behind this `socket`")
	flags.StringVar(&o.json, "json", "", "write the results to this `file`")
	flags.StringVar(&o.pcap, "pcap", "", "write captures and logs into this `folder`")
	flags.StringVar(&o.logs, "logs", "", "write the programs' logs into this `folder`")
	flags.IntVar(&o.parallel, "parallel", 3, "scenarios at a time")
	flags.IntVar(&o.times, "n", 1, "run each scenario so many `times`")
	flags.StringVar(&o.client, "client", "", "`command` of another tool's client")
	flags.StringVar(&o.relay, "relay", "", "`command` of its server")
	flags.StringVar(&o.socks, "socks", "", "`host:port` of its SOCKS5 proxy")
	if err := flags.Parse(args); err != nil {
		return err
	}
	switch {
	case o.control != "":
		return ask(ctx, o.control, flags.Args())
	case flags.NArg() > 0:
		return fmt.Errorf("unknown argument %q: see -h", flags.Arg(0))
	case (o.client == "") != (o.socks == ""):
		return errors.New("-client and -socks belong together")
	case o.parallel < 1 || o.times < 1:
		return errors.New("-parallel and -n must be at least 1")
	case o.list:
		return list()
	}
	o.logs = cmp.Or(o.logs, o.pcap)
	o.programs = os.Getenv("BUSEL_LAB_PROGRAMS")
	if o.programs == "" {
		return errors.New("BUSEL_LAB_PROGRAMS does not name the folder of client and relayd: use scripts/lab/run")
	}
	return o.run(ctx)
}

// list prints the scenarios and stories.
func list() error {
	for _, s := range scenario.Table() {
		until := ""
		if s.Until != "" {
			until = "; misses until " + s.Until
		}
		fmt.Printf("%-24s %-10s the censor %s%s\n", s.Name, strings.Join(s.Rows, " "), s.What, until)
	}
	for _, r := range scenario.Rotation() {
		fmt.Printf("%-24s %-10s %s\n", r.Name, "rotation", r.What)
	}
	for _, s := range scenario.Stories() {
		fmt.Printf("%-24s %-10s %s, %s\n", s.Name, "story", s.Title, s.Length())
	}
	return nil
}

// chosen are the scenarios that the flags select, in the table's order.
func (o *options) chosen() ([]scenario.Scenario, error) {
	all := scenario.Table()
	if o.rules != "" {
		files := splitList(o.rules)
		return []scenario.Scenario{{Name: "rules", Rows: []string{"-"}, What: "does what " + o.rules + " says", Rules: files, Bites: scenario.Bite{Subject: scenario.Direct}}}, nil
	}
	var picked []scenario.Scenario
	wanted := splitList(o.rows)
	for _, s := range all {
		named := func(w string) bool { return w == s.Name || slices.Contains(s.Rows, w) }
		if (len(wanted) == 0 || slices.ContainsFunc(wanted, named)) && (!o.short || s.Short) {
			picked = append(picked, s)
		}
	}
	if len(picked) == 0 {
		return nil, fmt.Errorf("no scenario is for %q: see -list", o.rows)
	}
	return picked, nil
}

// chosenRows are the rows of rotation that the flags select, in the table's order; in
// the short selection they are loose.
func (o *options) chosenRows() ([]scenario.Row, error) {
	var picked []scenario.Row
	wanted := splitList(o.rows)
	for _, w := range wanted {
		if !slices.ContainsFunc(scenario.Rotation(), func(r scenario.Row) bool { return r.Name == w }) {
			return nil, fmt.Errorf("no row of rotation is called %q: see -list", w)
		}
	}
	for _, r := range scenario.Rotation() {
		switch {
		case o.short && !r.Short, len(wanted) > 0 && !slices.Contains(wanted, r.Name), len(wanted) == 0 && r.Long && !o.long:
		case o.short:
			picked = append(picked, r.Loose())
		default:
			picked = append(picked, r)
		}
	}
	return picked, nil
}

func splitList(text string) []string {
	return strings.FieldsFunc(text, func(r rune) bool { return r == ',' || r == ' ' })
}
