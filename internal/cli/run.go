package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"
)

// Start runs p as the program: arguments, standard streams and environment are
// the process's, and the result is its exit status. An interrupt or SIGTERM
// ends the context, a second one the process.
func Start(p *Program) int {
	// Every command may have a passphrase, a key or an invite in its memory.
	if err := harden(); err != nil {
		fmt.Fprintf(os.Stderr, "%s: warning: other programs of this user may be able to read its memory: %v\n", p.Name, err)
	}
	// net/http tells what it does not like to the standard logger, with bytes of
	// the site in it, and has no option to stop that.
	log.SetOutput(io.Discard)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop)
	return p.Main(ctx, os.Args[1:], Std{
		In: os.Stdin, Out: os.Stdout, Err: os.Stderr, LookupEnv: os.LookupEnv,
		Terminal: isTerminal(os.Stdout), ErrTerminal: isTerminal(os.Stderr),
	})
}

func isTerminal(f *os.File) bool {
	info, err := f.Stat()
	return err == nil && info.Mode()&(os.ModeDevice|os.ModeCharDevice) == os.ModeDevice|os.ModeCharDevice
}

// Logger is where a running program says what happens: standard error, as text
// with the time of day for a person, and as JSON for anything else. Durations
// are written as "1.5s". A *slog.LevelVar lets the level change.
func (s Std) Logger(level slog.Leveler) *slog.Logger {
	opts := &slog.HandlerOptions{Level: level, ReplaceAttr: func(groups []string, a slog.Attr) slog.Attr {
		switch v := a.Value.Resolve(); {
		case v.Kind() == slog.KindDuration:
			a.Value = slog.StringValue(v.Duration().String())
		case s.ErrTerminal && a.Key == slog.TimeKey && len(groups) == 0 && v.Kind() == slog.KindTime:
			a.Value = slog.StringValue(v.Time().Format(time.TimeOnly))
		}
		return a
	}}
	if s.ErrTerminal {
		return slog.New(slog.NewTextHandler(s.Err, opts))
	}
	return slog.New(slog.NewJSONHandler(s.Err, opts))
}

// RunAll runs the parts until one of them returns or ctx ends, then ends the
// others and waits for all. It returns the first part's error, and nil if ctx
// ended first.
func RunAll(ctx context.Context, parts ...func(context.Context) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var wg sync.WaitGroup
	for _, part := range parts {
		wg.Go(func() {
			err := part(ctx)
			if err == nil {
				err = errPartEnded
			}
			cancel(err)
		})
	}
	wg.Wait()
	if err := context.Cause(ctx); !errors.Is(err, context.Canceled) && !errors.Is(err, errPartEnded) {
		return err
	}
	return nil
}

var errPartEnded = errors.New("ended")

// ReadInput reads at most limit bytes of r, for arguments that come on standard
// input.
func ReadInput(r io.Reader, limit int64) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err == nil && int64(len(data)) > limit {
		err = errors.New("input is too long")
	}
	return data, err
}
