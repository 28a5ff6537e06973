// Package cli runs a program made of commands: flags, environment, help,
// errors with hints, and exit statuses, alike for client and relayd.
//
// A flag may stand before or after the arguments. A flag that is not given
// takes its environment variable: BUSEL_X_Y for -x-y. Exit status 0 is done, 1
// failed, 2 wrong usage, 78 wrong configuration (EX_CONFIG of sysexits.h).
package cli

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"runtime"
	"runtime/debug"
	"strings"
	"text/tabwriter"

	"busel/config"
)

// Exit statuses.
const (
	Done        = 0
	Failed      = 1
	WrongUsage  = 2
	WrongConfig = 78
)

// Std is what a program has from its caller.
type Std struct {
	In        io.Reader
	Out, Err  io.Writer
	LookupEnv func(string) (string, bool) // os.LookupEnv
	// Terminal and ErrTerminal report whether Out and Err are read by a person.
	Terminal, ErrTerminal bool
}

// Action does a command's work with the arguments that are not flags.
type Action func(ctx context.Context, std Std, args []string) error

// Command is one of a program's commands.
type Command struct {
	Name    string
	Args    string // after the flags in the usage line, e.g. "NAME"
	Summary string // one line, lower case
	Help    string // paragraphs for a newcomer
	// Flags registers the command's flags and returns its action.
	Flags func(*flag.FlagSet) Action
}

// Program is a set of commands.
type Program struct {
	Name    string
	Summary string
	// Alone is what the program does without arguments, as by a double click; nil: it
	// shows its help.
	Alone    []string
	Commands []Command
}

// NotYet is a command that a later version will have.
func NotYet(name, summary string) Command {
	return Command{Name: name, Summary: summary + " (not available yet)",
		Help: "This version does not have it yet.",
		Flags: func(*flag.FlagSet) Action {
			return func(context.Context, Std, []string) error {
				return errors.New(name + " is not available yet")
			}
		}}
}

// UsageError is a command line that makes no sense.
type UsageError struct{ Reason string }

func (e *UsageError) Error() string { return e.Reason }

// hinted is an error with a line that says what to do.
type hinted struct {
	error
	hint string
}

func (e *hinted) Unwrap() error { return e.error }

// Hint gives err a line that tells the user what to do about it.
func Hint(err error, hint string) error {
	if err == nil {
		return nil
	}
	return &hinted{err, hint}
}

// Main runs the command that args name and returns the exit status.
func (p *Program) Main(ctx context.Context, args []string, std Std) int {
	if len(args) == 0 && p.Alone != nil {
		status := p.Main(ctx, p.Alone, std)
		if status != Done && std.ErrTerminal && runtime.GOOS == "windows" {
			// The window of a double click closes with the program.
			fmt.Fprintln(std.Err, "Press Enter to close this window.")
			_, _ = bufio.NewReader(std.In).ReadString('\n')
		}
		return status
	}
	if len(args) == 0 {
		p.help(std.Err)
		return WrongUsage
	}
	switch args[0] {
	case "-h", "-help", "--help", "help":
		if len(args) == 1 || args[0] != "help" {
			p.help(std.Out)
			return Done
		}
		args = []string{args[1], "-h"}
	case "-version", "--version", "version":
		fmt.Fprintln(std.Out, p.Name, Version())
		return Done
	}
	for i := range p.Commands {
		if c := &p.Commands[i]; c.Name == args[0] {
			return p.report(c, c.run(ctx, p.Name, args[1:], std), std)
		}
	}
	return p.report(nil, &UsageError{fmt.Sprintf("there is no command %q", args[0])}, std)
}

func (c *Command) run(ctx context.Context, program string, args []string, std Std) error {
	fs := flag.NewFlagSet(c.Name, flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	act := c.Flags(fs)
	var rest []string
	for {
		err := fs.Parse(args)
		if errors.Is(err, flag.ErrHelp) {
			c.help(std.Out, program, fs)
			return nil
		}
		if err != nil {
			return &UsageError{err.Error()}
		}
		if fs.NArg() == 0 {
			break
		}
		rest, args = append(rest, fs.Arg(0)), fs.Args()[1:]
	}
	if err := config.Env(fs, std.LookupEnv); err != nil {
		return &UsageError{err.Error()}
	}
	return act(ctx, std, rest)
}

// report prints err, if it is one, and returns the exit status.
func (p *Program) report(c *Command, err error, std Std) int {
	if err == nil {
		return Done
	}
	for line := range strings.SplitSeq(err.Error(), "\n") {
		if hint, ok := strings.CutPrefix(line, "  hint: "); ok {
			fmt.Fprintf(std.Err, "%s: hint: %s\n", p.Name, hint)
			continue
		}
		fmt.Fprintf(std.Err, "%s: error: %s\n", p.Name, line)
	}
	if h, ok := errors.AsType[*hinted](err); ok {
		fmt.Fprintf(std.Err, "%s: hint: %s\n", p.Name, h.hint)
	}
	if _, ok := errors.AsType[*UsageError](err); ok {
		name := p.Name
		if c != nil {
			name += " " + c.Name
		}
		fmt.Fprintf(std.Err, "%s: hint: see `%s -h`\n", p.Name, name)
		return WrongUsage
	}
	if _, ok := errors.AsType[config.Errors](err); ok {
		return WrongConfig
	}
	return Failed
}

func (p *Program) help(w io.Writer) {
	fmt.Fprintf(w, "%s\n\nUsage: %s COMMAND [FLAGS] [ARGUMENTS]\n\n", p.Summary, p.Name)
	t := tabwriter.NewWriter(w, 0, 0, 3, ' ', 0)
	for _, c := range p.Commands {
		fmt.Fprintf(t, "  %s\t%s\n", c.Name, c.Summary)
	}
	t.Flush()
	fmt.Fprintf(w, "\n`%s COMMAND -h` tells more about one, `%s -version` the version.\n", p.Name, p.Name)
}

func (c *Command) help(w io.Writer, program string, fs *flag.FlagSet) {
	usage, flags := program+" "+c.Name, 0
	fs.VisitAll(func(f *flag.Flag) {
		flags++
		arg, _ := flag.UnquoteUsage(f)
		if arg != "" {
			arg = " " + arg
		}
		usage += " [-" + f.Name + arg + "]"
	})
	fmt.Fprintf(w, "Usage: %s\n\n%s\n", strings.TrimSpace(usage+" "+c.Args), strings.TrimSpace(c.Help))
	if flags == 0 {
		return
	}
	fmt.Fprintln(w, "\nFlags (each may also be set by an environment variable, BUSEL_X_Y for -x-y):")
	fs.SetOutput(w)
	fs.PrintDefaults()
}

// release is the version that the linker was told by scripts/release.
var release string

// Version is the program's version and how it was built.
func Version() string {
	version, revision := "unknown", ""
	if release != "" {
		version = release
	} else if info, ok := debug.ReadBuildInfo(); ok {
		version = info.Main.Version
		for _, s := range info.Settings {
			if s.Key == "vcs.revision" {
				revision = " " + s.Value
			}
		}
	}
	return fmt.Sprintf("%s%s %s/%s %s", version, revision, runtime.GOOS, runtime.GOARCH, runtime.Version())
}
