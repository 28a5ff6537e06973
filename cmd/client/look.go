package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"slices"
	"text/tabwriter"
	"time"

	"busel/config"
	"busel/internal/capture"
	"busel/internal/cli"
	"busel/internal/looks"
	"busel/internal/state"
	"busel/obfs/look"
	"busel/transport/mirror"
)

// Of a capture: enough pages to see every length that is drawn, and time for a browser
// that starts on a busy machine.
const (
	capturePages = 32
	captureTime  = 2 * time.Minute
)

// browsers are the programs that are looked for.
var browsers = []string{"chromium", "google-chrome", "chromium-browser", "firefox-esr", "firefox"}

func lookCommand() cli.Command {
	return cli.Command{
		Name: "look", Args: "list | capture | add FILE", Summary: "what browser the client looks like",
		Help: `
Connections to relays look like a browser's. By itself the client looks like the
browser that uses it, whatever its version, or like Chromium as long as it has seen
none; use and learn in the table [look] of client.toml change that.

  list     shows the looks that there are, with the JA4 of their first and of their
           resumed connections; the one in use has an asterisk
  capture  takes the look of a browser that is installed here, and writes it to
           standard output or, with -o, to a file
  add      takes a bundle of looks, signed with one of the keys in client.toml`,
		Flags: func(flags *flag.FlagSet) cli.Action {
			path := dirFlag(flags)
			browser := flags.String("browser", "", "`program` to capture from (default: the first that is found)")
			out := flags.String("o", "", "`file` that the captured look is written to")
			return func(ctx context.Context, std cli.Std, args []string) error {
				what := ""
				if len(args) > 0 {
					what = args[0]
				}
				switch {
				case what == "capture" && len(args) == 1:
					return captureLook(ctx, std, *browser, *out)
				case what == "list" && len(args) == 1, what == "add" && len(args) == 2:
				default:
					return &cli.UsageError{Reason: "say list, capture, or add and a file"}
				}
				dir, err := openSecrets(ctx, std, *path)
				if err != nil {
					return err
				}
				defer dir.Close()
				set, err := settings(dir)
				if err != nil {
					return err
				}
				have, err := openLooks(dir, set, std.Logger(set.LogLevel))
				if err != nil {
					return err
				}
				if what == "add" {
					return addLooks(std, have, args[1])
				}
				return listLooks(std.Out, have)
			}
		},
	}
}

// openLooks opens the looks of a client with its settings.
func openLooks(dir *state.Dir, set config.Client, log *slog.Logger) (*looks.Looks, error) {
	have, err := looks.Open(looks.Config{
		Dir: dir, Use: set.Look.Use, Deaf: !set.Look.Learn, Keys: set.Look.Keys, Try: mirror.TryLook, Logger: log,
	})
	return have, cli.Hint(err, "write use = \"auto\" in the table [look] of client.toml, or a name or family that `client look list` shows without it")
}

func listLooks(w io.Writer, have *looks.Looks) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "\tNAME\tJA4\tJA4 RESUMED\tFROM")
	for _, l := range have.All() {
		mark := ""
		if l == have.Worn() {
			mark = "*"
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\n", mark, l.Name, l.TLS.JA4(l.TLS.Extensions), l.TLS.JA4(l.TLS.Resumed), l.Source)
	}
	return t.Flush()
}

func addLooks(std cli.Std, have *looks.Looks, path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	file, err := io.ReadAll(io.LimitReader(f, look.MaxBundle+1))
	if err != nil {
		return err
	}
	b, err := have.Take(file)
	if errors.Is(err, look.ErrSigner) {
		return cli.Hint(err, "if you trust whom it is from, write the key into client.toml: [look], keys = [\"KEY\"]")
	}
	if err != nil {
		return cli.Hint(err, "get the file again")
	}
	for _, l := range b.Looks {
		fmt.Fprintf(std.Out, "%s is there\n", l.Name)
	}
	for _, name := range b.Retired {
		fmt.Fprintf(std.Out, "%s is no longer used\n", name)
	}
	fmt.Fprintln(std.Out, "A client that runs takes them when it starts again.")
	return nil
}

func captureLook(ctx context.Context, std cli.Std, browser, out string) error {
	if browser == "" {
		i := slices.IndexFunc(browsers, func(b string) bool { _, err := exec.LookPath(b); return err == nil })
		if i < 0 {
			return cli.Hint(errors.New("no browser was found"), "install chromium or firefox, or name one with -browser")
		}
		browser = browsers[i]
	}
	ctx, cancel := context.WithTimeout(ctx, captureTime)
	defer cancel()
	source, major, err := capture.Version(ctx, browser)
	if err != nil {
		return cli.Hint(err, "name a browser that is installed here with -browser")
	}
	shipped, err := look.Shipped()
	if err != nil {
		return err
	}
	family := look.Default
	if capture.Firefox(browser) {
		family = "firefox"
	}
	base := shipped[slices.IndexFunc(shipped, func(l *look.Look) bool { return l.Family == family })]
	fmt.Fprintf(std.Err, "%s visits %d pages on this computer...\n", source, 2*capturePages+1)
	visits, err := capture.Take(ctx, capture.Options{Browser: browser, Pages: capturePages})
	if err != nil {
		return err
	}
	l, err := capture.Look(visits, family+"-"+major, source, base)
	if err != nil {
		return err
	}
	if err := mirror.TryLook(l); err != nil {
		return cli.Hint(err, "this browser does something that this version of Busel cannot do")
	}
	file, err := l.Format()
	if err != nil {
		return err
	}
	fmt.Fprintf(std.Err, "%s: %s, resumed %s\n", l.Name, l.TLS.JA4(l.TLS.Extensions), l.TLS.JA4(l.TLS.Resumed))
	if out == "" {
		_, err = std.Out.Write(file)
		return err
	}
	return os.WriteFile(out, file, 0o644)
}
